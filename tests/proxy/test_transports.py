"""Ways to an upstream: TLS with its checks, unix sockets, IPv6, and that bodies pass them whole."""

from __future__ import annotations

import queue
import signal
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import pytest
import trustme

from tests.support.dns import NameServer
from tests.support.gateway import gateway, route
from tests.support.inprocess import Chain, InProcess, in_process
from tests.support.net import Peer, ScriptedOrigin, connect, echo, origin, status_of
from tests.support.tls import Authority
from tests.support.ws import TEXT, Frame, echo_frames, frame, handshake, read_frame, switching

MB = 1 << 20
NAME = "shop.test"
Script = Callable[[Peer], None]


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("ca"))


class Secure:
    """An origin that speaks TLS; the names clients asked for (SNI) are in `names`."""

    def __init__(self, context: ssl.SSLContext, script: Script, **options: Any) -> None:
        self.names: queue.Queue[str | None] = queue.Queue()
        self.certificates: queue.Queue[Any] = queue.Queue()
        self._context = context
        self._script = script
        context.sni_callback = lambda _, name, __: self.names.put(name)
        self.origin = ScriptedOrigin(self._run, **options)

    def _run(self, peer: Peer) -> None:
        peer.sock = self._context.wrap_socket(peer.sock, server_side=True)
        self.certificates.put(peer.sock.getpeercert())
        self._script(peer)

    def url(self, host: str, scheme: str = "https") -> str:
        return f"{scheme}://{host}:{self.origin.port}"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.origin.close()


@pytest.fixture(scope="module")
def names() -> Iterator[NameServer]:
    with NameServer({NAME: ["127.0.0.1"], "alias.test": ["127.0.0.1"]}) as server:
        yield server


def serving(names: NameServer, url: str, **members: Any) -> Any:
    return in_process(Chain("/a", route("/a", url, **members)), nameservers=[names.address])


def refused(served: InProcess, *, upstream: str) -> None:
    """The answer is a 502 that says nothing of the upstream; the log says all."""
    head, body = served.get("/a")
    assert status_of(head) == 502
    assert b'"code":"tls_failed"' in body
    for secret in (NAME.encode(), b"127.0.0.1", b"certificate", b"CERT"):
        assert secret not in head + body
    line = served.wait_access(path="/a")
    assert (line["flag"], line["detail"], line["upstream"]) == ("UF", "tls_failed", upstream)


# -- who the upstream is ----------------------------------------------------------------------------------------------


def test_an_upstream_of_an_own_authority_is_asked_by_its_name(authority: Authority, names: NameServer) -> None:
    with (
        Secure(authority.server(NAME), echo) as o,
        serving(names, o.url(NAME), tls={"ca_file": authority.ca_file}) as served,
    ):
        head, body = served.get("/a")
        assert status_of(head) == 200
        assert f"Host: {NAME}:{o.origin.port}".encode() in body
        assert o.names.get(timeout=5) == NAME
        served.get("/a")
        assert o.origin.connections == 1, "the connection is kept"


def test_an_upstream_of_an_unknown_authority_is_refused_by_default(authority: Authority, names: NameServer) -> None:
    with Secure(authority.server(NAME), echo) as o, serving(names, o.url(NAME)) as served:
        refused(served, upstream=o.url(NAME))


def test_an_upstream_with_another_name_is_refused(authority: Authority, names: NameServer) -> None:
    tls = {"ca_file": authority.ca_file}
    with Secure(authority.server("other.test"), echo) as o, serving(names, o.url(NAME), tls=tls) as served:
        refused(served, upstream=o.url(NAME))


def test_a_server_name_of_its_own_is_sent_and_verified(authority: Authority, names: NameServer) -> None:
    tls = {"ca_file": authority.ca_file, "server_name": "other.test"}
    with Secure(authority.server("other.test"), echo) as o, serving(names, o.url(NAME), tls=tls) as served:
        _, body = served.get("/a")
        assert o.names.get(timeout=5) == "other.test"
        assert f"Host: {NAME}:{o.origin.port}".encode() in body, "the request's host stays the backend's"


def test_an_address_is_verified_as_an_address(authority: Authority, names: NameServer) -> None:
    tls = {"ca_file": authority.ca_file}
    with Secure(authority.server("127.0.0.1"), echo) as o, serving(names, o.url("127.0.0.1"), tls=tls) as served:
        assert status_of(served.get("/a")[0]) == 200
        assert o.names.get(timeout=5) is None, "an address is no server name (RFC 6066 section 3)"


def test_verification_can_be_switched_off(authority: Authority, names: NameServer) -> None:
    with (
        Secure(authority.server("other.test"), echo) as o,
        serving(names, o.url(NAME), tls={"verify": False}) as served,
    ):
        assert status_of(served.get("/a")[0]) == 200


def test_a_backend_that_speaks_no_tls_is_refused(names: NameServer) -> None:
    def plain(peer: Peer) -> None:
        peer.sock.recv(1000)
        peer.send(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")

    with origin(plain) as o, serving(names, f"https://{NAME}:{o.port}") as served:
        refused(served, upstream=f"https://{NAME}:{o.port}")


def test_an_old_protocol_is_refused(authority: Authority, names: NameServer) -> None:
    context = authority.server(NAME)
    with pytest.warns(DeprecationWarning, match="TLSv1_1"):
        context.minimum_version = context.maximum_version = ssl.TLSVersion.TLSv1_1
    context.set_ciphers("ALL:@SECLEVEL=0")
    with Secure(context, echo) as o, serving(names, o.url(NAME), tls={"ca_file": authority.ca_file}) as served:
        refused(served, upstream=o.url(NAME))


def test_an_upstream_that_stays_silent_in_the_handshake_times_out(names: NameServer) -> None:
    def silent(peer: Peer) -> None:
        peer.receive_all()

    with origin(silent) as o, serving(names, f"https://{NAME}:{o.port}", timeouts={"connect": 0.2}) as served:
        head, body = served.get("/a")
        assert status_of(head) == 504
        assert b'"code":"connect_timeout"' in body


# -- who we are -------------------------------------------------------------------------------------------------------


def demanding(authority: Authority) -> ssl.SSLContext:
    context = authority.server(NAME)
    authority.ca.configure_trust(context)
    context.verify_mode = ssl.CERT_REQUIRED
    return context


def test_a_client_certificate_is_shown_to_who_demands_it(authority: Authority, names: NameServer) -> None:
    tls = {"ca_file": authority.ca_file, "cert_file": authority.client_file}
    with Secure(demanding(authority), echo) as o, serving(names, o.url(NAME), tls=tls) as served:
        assert status_of(served.get("/a")[0]) == 200
        certificate = o.certificates.get(timeout=5)
        assert ("email", "client@test") in certificate["subjectAltName"]


def test_without_one_the_upstream_closes(authority: Authority, names: NameServer) -> None:
    tls = {"ca_file": authority.ca_file}
    with Secure(demanding(authority), echo) as o, serving(names, o.url(NAME), tls=tls) as served:
        head, body = served.get("/a")
        assert status_of(head) == 502
        assert b"certificate" not in body.lower()
        # TLS 1.3: a client's handshake is over before the server judges its certificate (RFC 8446 section 4.4.2.4)
        assert served.wait_access(path="/a")["detail"] in ("tls_failed", "upstream_reset", "connect_failed")


def test_routes_with_different_tls_share_no_connection(authority: Authority, names: NameServer) -> None:
    with Secure(authority.server(NAME), echo) as o:
        trusting = Chain("/a", route("/a", o.url(NAME), tls={"ca_file": authority.ca_file}))
        doubting = Chain("/b", route("/b", o.url(NAME)))
        with in_process(trusting, doubting, nameservers=[names.address]) as served:
            assert status_of(served.get("/a")[0]) == 200
            assert status_of(served.get("/b")[0]) == 502


# -- what passes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framing", ["length", "chunked"])
def test_a_megabyte_passes_both_ways_over_tls(authority: Authority, names: NameServer, framing: str) -> None:
    body = bytes(range(256)) * (MB // 256)
    head = b"POST /a HTTP/1.1\r\nHost: a\r\n"
    if framing == "length":
        data = head + b"Content-Length: %d\r\n\r\n" % MB + body
    else:
        chunks = [body[at : at + 10_000] for at in range(0, MB, 10_000)]
        data = head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(
            b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks
        ) + b"0\r\n\r\n"  # fmt: skip
    tls = {"ca_file": authority.ca_file}
    with Secure(authority.server(NAME), echo) as o, serving(names, o.url(NAME), tls=tls) as served:
        for _ in range(2):
            with served.connect() as client:
                sender = threading.Thread(target=client.send, args=(data,))
                sender.start()
                assert client.receive_response()[1].endswith(b"\r\n\r\n" + body)
                sender.join()
        assert o.origin.connections == 1


def push_until_held(sock: socket.socket, most: int) -> int:
    sock.settimeout(1.0)
    sent = 0
    try:
        while sent < most:
            sent += sock.send(bytes(65536))
    except TimeoutError:
        pass
    sock.settimeout(25)
    return sent


def test_a_tls_upstream_is_held_back_by_a_slow_client(authority: Authority, names: NameServer) -> None:
    sent: queue.Queue[int] = queue.Queue()
    size = 64 * MB

    def flood(peer: Peer) -> None:
        peer.receive_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
        done = push_until_held(peer.sock, size)
        sent.put(done)
        peer.send(bytes(size - done))
        peer.receive_all()

    tls = {"ca_file": authority.ca_file}
    with (
        Secure(authority.server(NAME), flood) as o,
        serving(names, o.url(NAME), tls=tls) as served,
        served.connect() as client,
    ):
        client.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        assert sent.get(timeout=30) < size
        client.receive_head()
        left = size
        while left:
            left -= len(client.receive_exactly(min(left, MB)))


def test_a_client_is_held_back_by_a_slow_tls_upstream(authority: Authority, names: NameServer) -> None:
    read_now = threading.Event()
    size = 64 * MB

    def deaf(peer: Peer) -> None:
        peer.receive_head()
        assert read_now.wait(30)
        left = size
        while left:
            left -= len(peer.receive_exactly(min(left, MB)))
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")

    tls = {"ca_file": authority.ca_file}
    with (
        Secure(authority.server(NAME), deaf) as o,
        serving(names, o.url(NAME), tls=tls, body_bytes=0) as served,
        served.connect() as client,
    ):
        client.send(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % size)
        sent = push_until_held(client.sock, size)
        assert sent < size
        read_now.set()
        client.send(bytes(size - sent))
        assert client.receive_response()[1] == b"ok"


@pytest.mark.parametrize("proper", [True, False])
def test_a_body_that_ends_with_a_tls_connection_must_end_properly(
    authority: Authority, names: NameServer, proper: bool
) -> None:
    """Without close_notify anybody on the way may have cut it short (RFC 8446 section 6.1)."""

    def until_close(peer: Peer) -> None:
        peer.receive_head()
        peer.send(b"HTTP/1.1 200 OK\r\n\r\nall of it")
        assert isinstance(peer.sock, ssl.SSLSocket)
        if proper:
            peer.sock = peer.sock.unwrap()  # type: ignore[assignment]
        else:
            peer.sock.shutdown(socket.SHUT_RDWR)

    tls = {"ca_file": authority.ca_file}
    with (
        Secure(authority.server(NAME), until_close) as o,
        serving(names, o.url(NAME), tls=tls) as served,
        served.connect() as client,
    ):
        client.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
        assert status_of(client.receive_head()) == 200
        body = client.receive_all() if not proper else client.receive_until(b"0\r\n\r\n")
        assert body.startswith(b"9\r\nall of it\r\n")
        assert body.endswith(b"0\r\n\r\n") == proper


def test_a_websocket_over_tls(authority: Authority, names: NameServer) -> None:
    def socket_script(peer: Peer) -> None:
        peer.send(switching(peer.receive_head()) + frame(b"welcome", mask=None))
        echo_frames(peer)

    members = {"protocol": "websocket", "tls": {"ca_file": authority.ca_file}}
    payload = bytes(range(256)) * (MB // 256)
    with (
        Secure(authority.server(NAME), socket_script) as o,
        serving(names, o.url(NAME, "wss"), **members) as served,
        served.connect() as client,
    ):
        client.send(handshake("/a"))
        assert status_of(client.receive_head()) == 101
        assert read_frame(client) == Frame(True, TEXT, b"welcome")
        sender = threading.Thread(target=client.send, args=(frame(payload),))
        sender.start()
        assert read_frame(client).payload == payload
        sender.join()
        assert o.names.get(timeout=5) == NAME


def test_a_file_that_is_no_certificate_stops_the_snapshot(tmp_path: Path) -> None:
    """A reload with it is refused while the old revision serves on: the same code compiles it."""
    from kairos.config.model import UpstreamTls
    from kairos.config.tls import client_context

    bad = tmp_path / "bad.pem"
    bad.write_text("nothing")
    with pytest.raises(ssl.SSLError):
        client_context(UpstreamTls(ca_file=str(bad)))
    with pytest.raises(OSError):
        client_context(UpstreamTls(ca_file=str(tmp_path / "missing.pem")))
    with pytest.raises(ssl.SSLError):
        client_context(UpstreamTls(cert_file=str(bad)))


# -- other families ---------------------------------------------------------------------------------------------------


def test_a_unix_socket(tmp_path: Path) -> None:
    path = str(tmp_path / "app.sock")
    body = b"b" * MB
    unix = route("/a", "http://x:1") | {"backends": [{"host": f"unix:{path}"}]}
    with (
        origin(echo, family=socket.AF_UNIX, address=path),
        in_process(Chain("/a", unix)) as served,
        served.connect() as client,
    ):
        sender = threading.Thread(
            target=client.send, args=(b"POST /a HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % MB + body,)
        )
        sender.start()
        _, got = client.receive_response()
        sender.join()
        assert got.endswith(b"\r\n\r\n" + body)
        assert b"\r\nHost: localhost\r\n" in got
        assert served.wait_access(path="/a")["upstream"] == f"unix:{path}"


def test_a_unix_socket_that_is_not_there(tmp_path: Path) -> None:
    path = str(tmp_path / "missing.sock")
    unix = route("/a", "http://x:1") | {"backends": [{"host": f"unix:{path}"}]}
    with in_process(Chain("/a", unix)) as served:
        head, body = served.get("/a")
        assert status_of(head) == 502
        assert b'"code":"connect_failed"' in body
        assert path.encode() not in body


@pytest.mark.parametrize("tls", [False, True])
def test_an_ipv6_literal(authority: Authority, names: NameServer, tls: bool) -> None:
    with ExitStack() as stack:
        if tls:
            o = stack.enter_context(Secure(authority.server("::1"), echo, family=socket.AF_INET6, address=("::1", 0)))
            url, members = o.url("[::1]"), {"tls": {"ca_file": authority.ca_file}}
        else:
            plain = stack.enter_context(origin(echo, family=socket.AF_INET6, address=("::1", 0)))
            url, members = f"http://[::1]:{plain.port}", {}
        served = stack.enter_context(serving(names, url, **members))
        head, body = served.get("/a")
        assert status_of(head) == 200
        assert f"Host: [::1]:{url.rpartition(':')[2]}\r\n".encode() in body


def test_the_gateways_log_says_why_an_upstream_was_refused(authority: Authority) -> None:
    with (
        Secure(authority.server("localhost"), echo) as o,
        gateway({"routers": [route("/a", o.url("localhost"))]}) as gate,
    ):
        for _ in range(3):
            assert status_of(gate.get("/a")[0]) in (502, 503)
        gate.wait_log("certificate verify failed")
        assert gate.log.count("upstream cannot be reached") == 1, "once for an outage"


def test_the_whole_gateway_over_tls_by_a_name_of_the_system(authority: Authority) -> None:
    """localhost comes from the system's resolver; both its addresses are tried where one does not listen."""
    with Secure(authority.server("localhost"), echo) as o:
        config = {"routers": [route("/a", o.url("localhost"))], "tls": {"ca_file": authority.ca_file}}
        with gateway(config) as gate:
            for _ in range(3):
                with connect(gate.port) as client:
                    client.send(b"GET /a HTTP/1.1\r\nHost: a\r\n\r\n")
                    assert status_of(client.receive_response()[0]) == 200
        assert o.names.get(timeout=5) == "localhost"


def test_a_reload_takes_up_a_renewed_file_of_the_same_name(authority: Authority, tmp_path: Path) -> None:
    trusted = tmp_path / "trusted.pem"
    trustme.CA().cert_pem.write_to_path(str(trusted))
    config = {"routers": [], "tls": {"ca_file": str(trusted)}}
    with Secure(authority.server("localhost"), echo) as o:
        config["routers"] = [route("/a", o.url("localhost"))]
        with gateway(config) as gate:
            assert status_of(gate.get("/a")[0]) == 502
            authority.ca.cert_pem.write_to_path(str(trusted))
            gate.signal(signal.SIGHUP)
            gate.wait(lambda: status_of(gate.get("/a")[0]) == 200, "answer of the upstream that is trusted now")
