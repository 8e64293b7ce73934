"""The PROXY protocol: headers as the specification has them, broken ones, and what a connection becomes by one."""

from __future__ import annotations

import socket
import ssl
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos._speedups import cells
from kairos.proxy.client import ClientConnection
from kairos.proxy.exchange import Exchange, Handler, Response
from kairos.proxy.proxy_protocol import MAX_V1, MAX_V2, SIGNATURE, UNNAMED, Header, ProxyError, parse, write
from kairos.proxy.sockets import Listener
from tests.support.gateway import route
from tests.support.inprocess import Chain, InProcess, in_process
from tests.support.net import Peer, connect, echo, origin, status_of
from tests.support.tls import Authority, client_context

V4 = (b"192.0.2.7", 4711), (b"198.51.100.9", 443)
V6 = (b"2001:db8::7", 4711), (b"2001:db8::9", 443)
GET = b"GET /e HTTP/1.1\r\nHost: test\r\n\r\n"


def v2(kind: int, block: bytes, command: int = 0x21) -> bytes:
    return SIGNATURE + struct.pack("!BBH", command, kind, len(block)) + block


def packed(ends: tuple[tuple[bytes, int], tuple[bytes, int]], family: int = socket.AF_INET) -> bytes:
    (source, source_port), (destination, port) = ends
    addresses = b"".join(socket.inet_pton(family, text.decode()) for text in (source, destination))
    return addresses + struct.pack("!HH", source_port, port)


# ---- the parser

GOOD = {
    "v1 tcp4": (b"PROXY TCP4 192.0.2.7 198.51.100.9 4711 443\r\n", *V4),
    "v1 tcp6": (b"PROXY TCP6 2001:db8::7 2001:db8::9 4711 443\r\n", *V6),
    "v1 tcp6 in other words": (b"PROXY TCP6 2001:0DB8:0::7 2001:db8::9 4711 443\r\n", *V6),
    "v1 mapped": (b"PROXY TCP6 ::ffff:192.0.2.7 ::ffff:198.51.100.9 4711 443\r\n", *V4),
    "v1 unknown": (b"PROXY UNKNOWN\r\n", None, None),
    "v1 unknown with more": (b"PROXY UNKNOWN ffff:f...f 1 2 3\r\n", None, None),
    "v2 tcp4": (v2(0x11, packed(V4)), *V4),
    "v2 tcp6": (v2(0x21, packed(V6, socket.AF_INET6)), *V6),
    "v2 unix": (v2(0x31, bytes(216)), UNNAMED, UNNAMED),
    "v2 local": (v2(0x00, b"", 0x20), None, None),
    "v2 local with addresses": (v2(0x11, packed(V4), 0x20), None, None),
    "v2 unspecified": (v2(0x00, b"anything"), None, None),
    "v2 tlvs": (v2(0x11, packed(V4) + b"\x01\x00\x02h2\x04\x00\x00\x20\x00\x05\x01\0\0\0\0"), *V4),
}


@pytest.mark.parametrize(("data", "source", "destination"), GOOD.values(), ids=GOOD)
def test_headers(data: bytes, source: object, destination: object) -> None:
    expected = Header(len(data), source, destination)  # type: ignore[arg-type]
    assert parse(data) == expected
    assert parse(data + GET) == expected
    assert [parse(data[:size]) for size in range(len(data))] == [None] * len(data)


BROKEN = {
    "http": GET,
    "tls": b"\x16\x03\x01\x00\x05",
    "another P": b"POST / HTTP/1.1\r\n",
    "lower case": b"proxy TCP4 1.2.3.4 1.2.3.4 1 2\r\n",
    "no address": b"PROXY TCP4\r\n",
    "family": b"PROXY UDP4 1.2.3.4 1.2.3.4 1 2\r\n",
    "address of the other family": b"PROXY TCP4 ::1 ::1 1 2\r\n",
    "address with zeros": b"PROXY TCP4 01.2.3.4 1.2.3.4 1 2\r\n",
    "name": b"PROXY TCP4 localhost localhost 1 2\r\n",
    "zone": b"PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n",
    "port": b"PROXY TCP4 1.2.3.4 1.2.3.4 65536 2\r\n",
    "port with a zero": b"PROXY TCP4 1.2.3.4 1.2.3.4 01 2\r\n",
    "signed port": b"PROXY TCP4 1.2.3.4 1.2.3.4 +1 2\r\n",
    "two blanks": b"PROXY TCP4  1.2.3.4 1.2.3.4 1 2\r\n",
    "one more": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2 3\r\n",
    "bare LF": b"PROXY TCP4 1.2.3.4 1.2.3.4 1 2\n",
    "without an end": b"PROXY TCP4 " + b"1" * MAX_V1,
    "v2 version": v2(0x11, packed(V4), 0x11),
    "v2 command": v2(0x11, packed(V4), 0x22),
    "v2 family": v2(0x41, packed(V4)),
    "v2 datagram": v2(0x12, packed(V4)),
    "v2 protocol": v2(0x13, packed(V4)),
    "v2 cut": v2(0x11, packed(V4)[:-1]),
    "v2 cut six": v2(0x21, packed(V4)),
    "v2 cut unix": v2(0x31, bytes(215)),
    "v2 tlv without length": v2(0x11, packed(V4) + b"\x01\x00"),
    "v2 tlv too long": v2(0x11, packed(V4) + b"\x01\x00\x03h2"),
    "v2 large": SIGNATURE + struct.pack("!BBH", 0x21, 0x11, MAX_V2 + 1),
}


@pytest.mark.parametrize("data", BROKEN.values(), ids=BROKEN)
def test_what_is_no_header(data: bytes) -> None:
    with pytest.raises(ProxyError):
        parse(data)


@given(st.binary(max_size=300) | st.binary(max_size=300).map(lambda data: SIGNATURE + data))
def test_whatever_comes_is_a_header_or_none_or_an_error(data: bytes) -> None:
    try:
        found = parse(data)
    except ProxyError:
        return
    assert found is None or 0 < found.size <= len(data)


@given(st.data())
def test_a_header_in_pieces_means_the_same(data: st.DataObject) -> None:
    """Whatever a prefix leads to, more bytes do not take back."""
    whole = data.draw(st.sampled_from([*(one[0] for one in GOOD.values()), *BROKEN.values()]))
    cut = data.draw(st.integers(0, len(whole)))

    def judged(part: bytes) -> object:
        try:
            return parse(part)
        except ProxyError:
            return "broken"

    first = judged(whole[:cut])
    assert first is None or first == judged(whole)


@given(st.ip_addresses(), st.ip_addresses(), st.integers(0, 65_535), st.integers(0, 65_535), st.sampled_from([1, 2]))
def test_what_is_written_is_read(source: object, destination: object, first: int, second: int, version: int) -> None:
    def canonical(address: object) -> bytes:
        mapped = getattr(address, "ipv4_mapped", None)
        return str(mapped or address).encode()

    ends = (canonical(source), first), (canonical(destination), second)
    data = write(version, *ends)
    found = parse(data + b"more")
    assert found is not None
    assert found.size == len(data)
    assert (found.source, found.destination) == ends


def test_ends_without_an_address_are_not_made_up() -> None:
    assert write(1, UNNAMED, UNNAMED) == b"PROXY UNKNOWN\r\n"
    assert parse(write(2, UNNAMED, UNNAMED)) == Header(16, None, None)


# ---- connections


class Client(Handler):
    """Answers with the client's address."""

    def handle(self, x: Exchange) -> Response:
        return Response(200, x.client.encode())


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    made = Authority(tmp_path_factory.mktemp("tls"))
    made.file("shop.test")
    return made


@pytest.fixture(scope="module")
def behind(authority: Authority) -> Iterator[InProcess]:
    """A gateway that believes 127.0.0.2."""
    server = {
        "proxy_protocol": {"networks": ["127.0.0.2"], "timeout": 0.5},
        "tls": {"certificates": [{"cert_file": str(authority.folder / "shop.test.pem")}]},
    }
    with origin(echo) as o, in_process(Chain("/e", Client()), Chain("/o", route("/o", o.url)), server=server) as served:
        yield served


def through(port: int, source: str = "127.0.0.2") -> Peer:
    """A connection from the address of a load balancer."""
    return Peer(socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0)))


@pytest.mark.parametrize("version", [1, 2])
@pytest.mark.parametrize("ends", [V4, V6], ids=["IPv4", "IPv6"])
def test_the_client_is_whom_the_header_names(behind: InProcess, version: int, ends: object) -> None:
    with through(behind.port) as peer:
        peer.send(write(version, *ends) + GET)  # type: ignore[misc]
        assert peer.receive_response()[1] == ends[0][0]  # type: ignore[index]
        peer.send(GET)
        assert peer.receive_response()[1] == ends[0][0]  # type: ignore[index]


def test_the_backend_is_told_of_it(behind: InProcess) -> None:
    with through(behind.port) as peer:
        peer.send(write(2, *V6) + b"GET /o HTTP/1.1\r\nHost: test\r\n\r\n")
        sent = peer.receive_response()[1]
    assert b"\r\nX-Forwarded-For: 2001:db8::7\r\n" in sent
    assert b"\r\nX-Forwarded-Port: 443\r\n" in sent
    assert b'for="[2001:db8::7]"' in sent
    assert behind.wait_access(path="/o")["client"] == "2001:db8::7"


def test_a_header_that_drips_in(behind: InProcess) -> None:
    with through(behind.port) as peer:
        peer.send_slowly(write(1, *V4) + GET)
        assert peer.receive_response()[1] == V4[0][0]


@pytest.mark.parametrize("header", [b"PROXY UNKNOWN\r\n", v2(0, b"", 0x20)], ids=["unknown", "local"])
def test_connections_of_the_load_balancers_own(behind: InProcess, header: bytes) -> None:
    with through(behind.port) as peer:
        peer.send(header + GET)
        assert peer.receive_response()[1] == b"127.0.0.2"


def test_who_must_send_a_header_and_does_not_is_cut_off(behind: InProcess) -> None:
    before = behind.worker_cell(cells.W_PROXY_REFUSED)
    for data in (GET, b"\x16\x03\x01\x00\x05hello", b"PROXY TCP4 1.2.3.4\r\n"):
        with through(behind.port) as peer:
            peer.send(data)
            assert peer.closed()
    assert behind.worker_cell(cells.W_PROXY_REFUSED) == before + 3


def test_nobody_waits_for_ever_for_a_header(behind: InProcess) -> None:
    before = behind.worker_cell(cells.W_PROXY_REFUSED)
    with through(behind.port) as peer:
        peer.send(b"PROXY TCP4")
        assert peer.closed()
    assert behind.worker_cell(cells.W_PROXY_REFUSED) == before + 1


def test_others_are_not_believed(behind: InProcess) -> None:
    with connect(behind.port) as peer:
        peer.send(GET)
        assert peer.receive_response()[1] == b"127.0.0.1"
    with connect(behind.port) as peer:
        peer.send(write(1, *V4) + GET)
        assert status_of(peer.receive_response()[0]) == 400


def test_the_header_stands_before_tls(behind: InProcess, authority: Authority) -> None:
    with through(behind.tls_port) as peer:
        peer.send(write(2, *V4))
        peer.sock = client_context(authority).wrap_socket(peer.sock, server_hostname="shop.test")
        peer.send(GET)
        assert peer.receive_response()[1] == V4[0][0]


def test_the_header_and_the_client_hello_in_one_piece(behind: InProcess, authority: Authority) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    client = client_context(authority).wrap_bio(incoming, outgoing, server_hostname="shop.test")
    with through(behind.tls_port) as peer:
        with pytest.raises(ssl.SSLWantReadError):
            client.do_handshake()
        peer.send(write(2, *V4) + outgoing.read())
        while True:
            incoming.write(peer.sock.recv(65_536))
            try:
                client.do_handshake()
                break
            except ssl.SSLWantReadError:
                peer.send(outgoing.read())
        client.write(GET)
        peer.send(outgoing.read())
        answer = b""
        while V4[0][0] not in answer:
            incoming.write(peer.sock.recv(65_536))
            try:
                answer += client.read(65_536)
            except ssl.SSLWantReadError:
                continue
    assert answer.startswith(b"HTTP/1.1 200")


def test_limits_count_the_clients_and_not_the_load_balancer() -> None:
    server = {"proxy_protocol": {"networks": ["127.0.0.2"]}}
    with in_process(Chain("/e", Client()), server=server, limits={"connections_per_ip": 1}) as served:
        with through(served.port) as first, through(served.port) as second, through(served.port) as third:
            for peer, ends in ((first, V4), (second, V6), (third, V4)):
                peer.send(write(2, *ends) + GET)
            answers = [status_of(peer.receive_response()[0]) for peer in (first, second, third)]
        assert answers == [200, 200, 503]
        served.wait(lambda: served.worker_cell(cells.W_CONNECTIONS_OPEN) == 0, "end")
        with through(served.port) as again:
            again.send(write(2, *V4) + GET)
            assert status_of(again.receive_response()[0]) == 200


def test_unix_sockets_may_have_headers_too(tmp_path: Path) -> None:
    path = str(tmp_path / "s")
    spec = {"proxy_protocol": {"networks": ["unix"]}}
    with in_process(Chain("/e", Client()), server=spec) as served:

        async def listen() -> Listener:
            return served.sockets.listen(listening, 8, partial(ClientConnection, served.runtime))

        async def stop() -> None:
            listener.close()
            listening.close()

        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listener = served.run(listen)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)
            peer = Peer(sock)
            peer.send(write(1, *V4) + GET)
            assert peer.receive_response()[1] == V4[0][0]
        assert served.get("/e")[1] == b"127.0.0.1"
        served.run(stop)


# ---- towards backends


@pytest.mark.parametrize("version", [1, 2])
def test_backends_are_told_whose_connection_it_is(version: int) -> None:
    seen: list[Header] = []

    def script(peer: Peer) -> None:
        data = b""
        while (header := parse(data)) is None:
            data += peer.sock.recv(1)
        seen.append(header)
        echo(peer)

    with origin(script) as o:
        chain = Chain("/o", route("/o", o.url, proxy_protocol=f"v{version}"))
        with in_process(chain) as served, connect(served.port) as peer:
            for _ in range(2):
                peer.send(b"GET /o HTTP/1.1\r\nHost: test\r\n\r\n")
                assert status_of(peer.receive_response()[0]) == 200
            ends = peer.sock.getsockname(), peer.sock.getpeername()
        assert o.connections == 2
    told = [(header.source, header.destination) for header in seen]
    assert told == [tuple((name[0].encode(), name[1]) for name in ends)] * 2


def test_a_header_from_a_load_balancer_is_passed_on() -> None:
    seen: list[Header] = []

    def script(peer: Peer) -> None:
        data = b""
        while (header := parse(data)) is None:
            data += peer.sock.recv(1)
        seen.append(header)
        echo(peer)

    server = {"proxy_protocol": {"networks": ["127.0.0.2"]}}
    with (
        origin(script) as o,
        in_process(Chain("/o", route("/o", o.url, proxy_protocol="v2")), server=server) as served,
        through(served.port) as peer,
    ):
        peer.send(write(1, *V6) + b"GET /o HTTP/1.1\r\nHost: test\r\n\r\n")
        assert status_of(peer.receive_response()[0]) == 200
    assert [(header.source, header.destination) for header in seen] == [V6]


def test_the_header_to_a_backend_stands_before_tls(authority: Authority) -> None:
    seen: list[Header] = []

    def script(peer: Peer) -> None:
        data = b""
        while (header := parse(data)) is None:
            data += peer.sock.recv(1)
        seen.append(header)
        peer.sock = authority.server("127.0.0.1").wrap_socket(peer.sock, server_side=True)
        echo(peer)

    with origin(script) as o:
        url = o.url.replace("http://", "https://")
        spec = route("/o", url, proxy_protocol="v2", tls={"ca_file": authority.ca_file})
        with in_process(Chain("/o", spec)) as served:
            for _ in range(2):
                assert status_of(served.get("/o")[0]) == 200
    assert [header.source[0] for header in seen if header.source] == [b"127.0.0.1"] * 2
