"""WebSocket routes: the handshake goes to the upstream, and only its 101 opens a tunnel of opaque bytes."""

from __future__ import annotations

import json
import queue
import re
import signal
import socket
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from subprocess import PIPE, Popen

import pytest
from websockets.exceptions import ConnectionClosedError, InvalidStatus
from websockets.sync.client import connect as ws_connect

from tests.support.gateway import Gateway, gateway, route
from tests.support.net import Peer, ScriptedOrigin, connect, origin, status_of
from tests.support.ws import (
    BINARY,
    CLOSE,
    CONTINUATION,
    KEY,
    PING,
    PONG,
    TEXT,
    Frame,
    echo_frames,
    frame,
    handshake,
    header,
    open_websocket,
    read_frame,
    switching,
)  # fmt: skip

EXAMPLES = Path(__file__).parents[2] / "examples"
MB = 1 << 20
STALLED_S = 1.0
"""A sender that gets no byte further for so long is held back."""


class Desk:
    """One origin and one gateway for this file: each test says what the origin does with connections from now on."""

    def __init__(self, scripted: ScriptedOrigin, gate: Gateway) -> None:
        self.origin = scripted
        self.gateway = gate

    def plays(self, script: object) -> None:
        self.origin.script = script  # type: ignore[assignment]

    def open(self, path: str, *lines: str) -> Peer:
        return open_websocket(self.gateway.port, path, *lines)[0]

    def tunnels(self) -> int:
        found = re.search(r'^kairos_connections\{state="tunnel"\} (\d+)', self.gateway.metrics(), re.M)
        assert found is not None
        return int(found[1])

    def wait_tunnels(self, count: int) -> None:
        self.gateway.wait(lambda: self.tunnels() == count, f"{count} open tunnels")


def websocket(external: str, url: str, internal: str | None = None, **members: object) -> dict[str, object]:
    return route(external, url, internal, methods=["GET"], protocol="websocket", **members)


@pytest.fixture(scope="module")
def the_desk() -> Iterator[Desk]:
    with origin(echo_websocket) as scripted:
        url = scripted.url
        routes = [
            websocket("/ws/{room}", url, "/rooms/{room}?v=2"),
            websocket("/short", url, timeouts={"tunnel_idle": 0.2}),
            route("/mixed", url, upgrade=True),
            route("/plain", url),
        ]
        # without pooled connections, every request meets the script of its own test
        with gateway({"routers": routes, "keepalive": {"connections": 0}}) as gate:
            yield Desk(scripted, gate)


@pytest.fixture
def desk(the_desk: Desk) -> Iterator[Desk]:
    the_desk.plays(echo_websocket)
    yield the_desk
    assert not the_desk.origin.errors, the_desk.origin.errors
    the_desk.wait_tunnels(0)


def echo_websocket(peer: Peer) -> None:
    peer.send(switching(peer.receive_head()))
    echo_frames(peer)


# -- the handshake ----------------------------------------------------------------------------------------------------


def test_a_message_goes_there_and_back_and_is_accounted_for_at_the_end(desk: Desk) -> None:
    with desk.open("/ws/tea?once=upon") as client:
        client.send(frame(b"hello"))
        assert read_frame(client) == Frame(True, TEXT, b"hello")
        assert desk.tunnels() == 1
        sent = frame(b"\x03\xe8", CLOSE)
        client.send(sent)
        assert read_frame(client) == Frame(True, CLOSE, b"\x03\xe8")
        assert client.closed()
    (line,) = desk.gateway.wait_access(status=101, path="/ws/tea", query="once=upon")
    assert line["route"] == "/ws/{room}"
    assert line["upstream"] == desk.origin.url
    assert line["attempts"] == 1
    assert line["bytes_in"] == len(handshake("/ws/tea?once=upon") + frame(b"hello") + sent)


def test_parameters_query_subprotocols_and_headers_reach_the_origin(desk: Desk) -> None:
    heads: queue.Queue[bytes] = queue.Queue()

    def chat(peer: Peer) -> None:
        heads.put(peer.receive_head())
        lines = (b"Sec-WebSocket-Protocol: chat.v2", b"Set-Cookie: a=1", b"Set-Cookie: b=2", b"X-Hop: secret")
        granted = switching(heads.queue[0], *lines)
        peer.send(granted.replace(b"Connection: Upgrade", b"Connection: Upgrade, X-Hop"))
        echo_frames(peer)

    desk.plays(chat)
    offered = "Sec-WebSocket-Protocol: chat.v2, chat.v1"
    client, granted = open_websocket(
        desk.gateway.port, "/ws/tea%20room?user=ann", offered, "Origin: https://example.com", "Cookie: s=1",
        "Authorization: Bearer x", "Sec-WebSocket-Extensions: permessage-deflate",
    )  # fmt: skip
    client.close()
    head = heads.get(timeout=5)
    assert head.startswith(b"GET /rooms/tea%20room?v=2&user=ann HTTP/1.1\r\n")
    assert header(head, b"upgrade") == b"websocket"
    assert header(head, b"connection") == b"Upgrade"
    assert header(head, b"sec-websocket-key") == KEY
    assert header(head, b"sec-websocket-version") == b"13"
    assert header(head, b"sec-websocket-protocol") == b"chat.v2, chat.v1"
    assert header(head, b"sec-websocket-extensions") == b"permessage-deflate"
    assert header(head, b"origin") == b"https://example.com"
    assert header(head, b"cookie") == b"s=1"
    assert header(head, b"authorization") == b"Bearer x"
    assert header(head, b"host") == desk.origin.url.removeprefix("http://").encode()
    assert header(head, b"x-forwarded-for") == b"127.0.0.1"
    assert header(granted, b"sec-websocket-protocol") == b"chat.v2"
    assert granted.count(b"Set-Cookie: ") == 2
    assert header(granted, b"upgrade") == b"websocket"
    assert header(granted, b"connection") == b"Upgrade"
    assert header(granted, b"x-request-id") is not None
    assert header(granted, b"x-hop") is None


@pytest.mark.parametrize("ahead", [1, 60_000, 300_000])
def test_frames_sent_before_the_101_wait_for_it(desk: Desk, ahead: int) -> None:
    asked, granted = threading.Event(), threading.Event()

    def slow(peer: Peer) -> None:
        head = peer.receive_head()
        asked.set()
        assert peer._buffer == b""
        assert granted.wait(25)
        peer.send(switching(head))
        echo_frames(peer)

    desk.plays(slow)
    with connect(desk.gateway.port) as client:
        early = frame(b"e" * ahead, BINARY)
        sender = threading.Thread(target=client.send, args=(handshake("/ws/early") + early,))
        sender.start()
        assert asked.wait(25)
        granted.set()
        assert status_of(client.receive_head()) == 101
        assert read_frame(client) == Frame(True, BINARY, b"e" * ahead)
        sender.join()


def test_a_101_that_comes_in_pieces_behind_an_early_hint_opens_the_tunnel(desk: Desk) -> None:
    def piecemeal(peer: Peer) -> None:
        head = peer.receive_head()
        hint = b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>\r\n\r\n"
        peer.send_slowly(hint + switching(head) + frame(b"welcome", mask=None), piece=5)
        echo_frames(peer)

    desk.plays(piecemeal)
    with connect(desk.gateway.port) as client:
        client.send(handshake("/ws/pieces"))
        assert status_of(client.receive_head()) == 103
        assert status_of(client.receive_head()) == 101
        assert read_frame(client) == Frame(True, TEXT, b"welcome")
        client.send(frame(b"there"))
        assert read_frame(client) == Frame(True, TEXT, b"there")


def test_frames_that_come_in_one_read_with_the_101_reach_the_client(desk: Desk) -> None:
    def eager(peer: Peer) -> None:
        peer.send(switching(peer.receive_head()) + frame(b"welcome", mask=None))
        echo_frames(peer)

    desk.plays(eager)
    with desk.open("/ws/eager") as client:
        assert read_frame(client) == Frame(True, TEXT, b"welcome")


@pytest.mark.parametrize("status", [200, 302, 401, 404, 426, 503])
def test_a_refusal_is_relayed_as_an_ordinary_response_and_ends_the_connection(desk: Desk, status: int) -> None:
    got: queue.Queue[bytes] = queue.Queue()

    def refuse(peer: Peer) -> None:
        peer.receive_head()
        peer.send(b"HTTP/1.1 %d No\r\nX-Why: because\r\nConnection: close\r\nContent-Length: 4\r\n\r\nnope" % status)
        got.put(peer.receive_all())

    desk.plays(refuse)
    with connect(desk.gateway.port) as client:
        client.send(handshake(f"/ws/refused-{status}") + b"GET /plain HTTP/1.1\r\nHost: smuggled\r\n\r\n")
        head, body = client.receive_response()
        assert (status_of(head), body) == (status, b"nope")
        assert header(head, b"x-why") == b"because"
        assert header(head, b"connection") == b"close"
        assert client.closed(), "what was sent ahead may be frames: it is no request"
    desk.gateway.wait_access(status=status, path=f"/ws/refused-{status}")
    assert got.get(timeout=5) == b"", "the origin must not see what was sent ahead"
    assert not [line for line in desk.gateway.access_lines() if line["host"] == "smuggled"]


def test_what_follows_a_refusal_on_the_same_connection_is_no_request(desk: Desk) -> None:
    """Frames that arrive after the answer: the client may have sent them before it saw it."""

    def refuse(peer: Peer) -> None:
        while True:
            peer.receive_head()
            peer.send(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n")

    desk.plays(refuse)
    with connect(desk.gateway.port) as client:
        client.send(handshake("/ws/late"))
        assert status_of(client.receive_response()[0]) == 401
        client.send(b"GET /plain HTTP/1.1\r\nHost: late\r\n\r\n")
        assert client.receive_all() == b""
    assert not [line for line in desk.gateway.access_lines() if line["host"] == "late"]


@pytest.mark.parametrize(
    ("request_bytes", "status"),
    [
        pytest.param(handshake("/ws/a", key=b"short"), 400, id="short key"),
        pytest.param(handshake("/ws/a", key=b"dGhlIHNhbXBsZSBub25jZ!=="), 400, id="key not base64"),
        pytest.param(handshake("/ws/a").replace(b"Sec-WebSocket-Key", b"X-Key"), 400, id="no key"),
        pytest.param(handshake("/ws/a", "Content-Length: 5") + b"hello", 400, id="body"),
        pytest.param(handshake("/ws/a", "Transfer-Encoding: chunked") + b"0\r\n\r\n", 400, id="chunked body"),
        pytest.param(handshake("/ws/a", version="8"), 426, id="old version"),
        pytest.param(handshake("/ws/a").replace(b"Sec-WebSocket-Version", b"X-Version"), 426, id="no version"),
        pytest.param(b"GET /ws/a HTTP/1.1\r\nHost: a\r\n\r\n", 426, id="no upgrade"),
        pytest.param(handshake("/ws/a").replace(b"Upgrade: websocket", b"Upgrade: h2c"), 426, id="other protocol"),
        pytest.param(handshake("/ws/a").replace(b"Connection: Upgrade\r\n", b""), 426, id="no connection option"),
        pytest.param(handshake("/ws/a").replace(b"HTTP/1.1", b"HTTP/1.0"), 426, id="HTTP/1.0"),
        pytest.param(handshake("/ws/a", method="POST"), 405, id="method"),
        pytest.param(handshake("/mixed", method="POST"), 400, id="method of an upgrade on a http route"),
    ],
)
def test_a_handshake_that_is_none_does_not_reach_the_origin(desk: Desk, request_bytes: bytes, status: int) -> None:
    before = desk.origin.connections
    head, _ = desk.gateway.request(request_bytes)
    assert status_of(head) == status
    if status == 426:
        assert header(head, b"upgrade") == b"websocket"
        assert header(head, b"connection") in (b"Upgrade", b"Upgrade, close")
    assert (header(head, b"sec-websocket-version") == b"13") == (
        b"Version: 8" in request_bytes or b"X-V" in request_bytes
    )
    assert desk.origin.connections == before


def test_an_http_route_with_upgrade_takes_both(desk: Desk) -> None:
    with desk.open("/mixed") as client:
        client.send(frame(b"over http"))
        assert read_frame(client).payload == b"over http"

    def plain(peer: Peer) -> None:
        assert header(peer.receive_head(), b"upgrade") is None
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain")

    desk.plays(plain)
    assert desk.gateway.get("/mixed")[1] == b"plain"


def test_an_http_route_without_upgrade_asks_for_an_ordinary_response(desk: Desk) -> None:
    def plain(peer: Peer) -> None:
        head = peer.receive_head()
        assert header(head, b"upgrade") is None
        assert header(head, b"connection") is None
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nplain")

    desk.plays(plain)
    with connect(desk.gateway.port) as client:
        client.send(handshake("/plain") + frame(b"GET /plain HTTP/1.1\r\nHost: smuggled\r\n\r\n", mask=None))
        assert client.receive_response()[1] == b"plain"
        assert client.closed(), "frames may follow: none of them is a request"


@pytest.mark.parametrize(
    ("path", "answer"),
    [
        pytest.param("/plain", b"Upgrade: websocket\r\nConnection: Upgrade\r\n", id="nobody asked"),
        pytest.param("/ws/a", b"Upgrade: h2c\r\nConnection: Upgrade\r\n", id="another protocol"),
        pytest.param("/ws/a", b"Upgrade: websocket\r\n", id="no connection option"),
        pytest.param("/ws/a", b"Connection: Upgrade\r\n", id="no protocol"),
    ],
)
def test_a_101_that_does_not_fit_is_a_bad_gateway(desk: Desk, path: str, answer: bytes) -> None:
    def fake(peer: Peer) -> None:
        peer.receive_head()
        peer.send(b"HTTP/1.1 101 Switching Protocols\r\n" + answer + b"\r\nHTTP/1.1 200 OK\r\n\r\n")
        assert peer.receive_all() == b""

    desk.plays(fake)
    ask = handshake(path) if path != "/plain" else b"GET /plain HTTP/1.1\r\nHost: a\r\n\r\n"
    head, body = desk.gateway.request(ask)
    assert status_of(head) == 502
    assert b'"code":"upstream_protocol"' in body


def test_a_handshake_is_not_sent_on_a_connection_that_may_be_stale() -> None:
    """No handshake can be sent twice, so it does not start on a pooled connection that the origin just gave up."""

    def once(peer: Peer) -> None:
        head = peer.receive_head()
        if b"Upgrade: websocket" in head:
            peer.send(switching(head))
            echo_frames(peer)
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
        peer.receive_head()  # the next request on it is never answered

    with origin(once) as scripted, gateway({"routers": [route("/a", scripted.url, upgrade=True)]}) as gate:
        assert gate.get("/a")[1] == b"ok"
        client, _ = open_websocket(gate.port, "/a")
        client.send(frame(b"x"))
        assert read_frame(client).payload == b"x"
        client.close()


# -- the tunnel -------------------------------------------------------------------------------------------------------


def test_fragments_and_control_frames_between_them_pass_as_they_are(desk: Desk) -> None:
    frames = [
        frame(b"one ", TEXT, final=False),
        frame(b"beat", PING),
        frame(b"two ", CONTINUATION, final=False),
        frame(b"", CONTINUATION, final=False),
        frame(b"three", CONTINUATION),
        frame(b"", PONG),
    ]
    with desk.open("/ws/fragments") as client:
        client.send_slowly(b"".join(frames), piece=3)
        got = [read_frame(client) for _ in frames]
    assert got == [
        Frame(False, TEXT, b"one "),
        Frame(True, PING, b"beat"),
        Frame(False, CONTINUATION, b"two "),
        Frame(False, CONTINUATION, b""),
        Frame(True, CONTINUATION, b"three"),
        Frame(True, PONG, b""),
    ]


@pytest.mark.parametrize("size", [125, 126, 65_535, 65_536, MB, 5 * MB])
def test_frames_of_any_size_pass_both_ways_intact(desk: Desk, size: int) -> None:
    payload = bytes(range(256)) * (size // 256) + b"#" * (size % 256)
    with desk.open("/ws/big") as client:
        sender = threading.Thread(target=client.send, args=(frame(payload, BINARY),))
        sender.start()
        assert read_frame(client) == Frame(True, BINARY, payload)
        sender.join()


def test_many_tunnels_at_once_do_not_mix(desk: Desk) -> None:
    clients = [desk.open("/ws/many") for _ in range(150)]
    assert desk.tunnels() == 150
    for number, client in enumerate(clients):
        client.send(frame(b"%d" % number))
    for number, client in enumerate(clients):
        assert read_frame(client).payload == b"%d" % number
        client.close()


def push_until_held(sock: socket.socket, most: int) -> int:
    """Send zeroes until nothing moves any more; how many went out (less than `most`: somebody held us back)."""
    sock.settimeout(STALLED_S)
    sent = 0
    try:
        while sent < most:
            sent += sock.send(bytes(MB))
    except TimeoutError:
        pass
    return sent


def pull(peer: Peer, total: int) -> None:
    while total:
        total -= len(peer.receive_exactly(min(total, MB)))


def test_an_origin_is_held_back_by_a_client_that_does_not_read(desk: Desk) -> None:
    sent: queue.Queue[int] = queue.Queue()

    def flood(peer: Peer) -> None:
        peer.send(switching(peer.receive_head()))
        sent.put(push_until_held(peer.sock, 128 * MB))
        assert peer.receive_all() == b""

    desk.plays(flood)
    with desk.open("/ws/flood") as client:
        total = sent.get(timeout=30)
        assert total < 128 * MB
        assert desk.tunnels() == 1
        pull(client, total)


def test_a_client_is_held_back_by_an_origin_that_does_not_read(desk: Desk) -> None:
    read_now, received = threading.Event(), threading.Event()
    totals: queue.Queue[int] = queue.Queue()

    def deaf(peer: Peer) -> None:
        peer.send(switching(peer.receive_head()))
        assert read_now.wait(30)
        pull(peer, totals.get())
        received.set()

    desk.plays(deaf)
    with desk.open("/ws/deaf") as client:
        total = push_until_held(client.sock, 128 * MB)
        assert total < 128 * MB
        totals.put(total)
        read_now.set()
        assert received.wait(25)


# -- the end ----------------------------------------------------------------------------------------------------------


def until_the_end(seen: queue.Queue[bytes]) -> object:
    def script(peer: Peer) -> None:
        peer.send(switching(peer.receive_head()))
        peer.send(frame(b"up", mask=None))
        seen.put(peer.receive_all())

    return script


@pytest.mark.parametrize("how", ["fin", "half-close", "reset"])
def test_a_client_that_leaves_ends_the_origins_side(desk: Desk, how: str) -> None:
    seen: queue.Queue[bytes] = queue.Queue()
    desk.plays(until_the_end(seen))
    client = desk.open(f"/ws/leave-{how}")
    assert read_frame(client).payload == b"up"
    last = frame(b"x" * 3 * MB, BINARY)
    if how == "reset":
        client.reset()
        assert seen.get(timeout=25) == b""
    else:
        client.send(last)
        client.sock.shutdown(socket.SHUT_WR) if how == "half-close" else client.close()
        assert seen.get(timeout=25) == last, "what was sent before the end arrives"
    desk.gateway.wait_access(status=101, path=f"/ws/leave-{how}")
    client.close()


@pytest.mark.parametrize("how", ["fin", "half-close", "reset"])
def test_an_origin_that_leaves_ends_the_clients_side(desk: Desk, how: str) -> None:
    last = frame(b"x" * 3 * MB, BINARY, mask=None)
    released = threading.Event()

    def leave(peer: Peer) -> None:
        peer.send(switching(peer.receive_head()))
        if how == "reset":
            read_frame(peer)
            peer.reset()
            return
        peer.send(last)
        if how == "half-close":
            peer.sock.shutdown(socket.SHUT_WR)
            assert released.wait(25)

    desk.plays(leave)
    with desk.open(f"/ws/left-{how}") as client:
        if how == "reset":
            client.send(frame(b"go"))
        assert client.receive_all() == (b"" if how == "reset" else last)
        released.set()
    desk.gateway.wait_access(status=101, path=f"/ws/left-{how}")


def test_a_tunnel_in_which_nothing_moves_ends(desk: Desk) -> None:
    seen: queue.Queue[bytes] = queue.Queue()
    desk.plays(until_the_end(seen))
    with desk.open("/short") as client:
        assert read_frame(client).payload == b"up"
        assert client.closed()
    assert seen.get(timeout=5) == b""
    desk.gateway.wait_access(status=101, path="/short")


def test_open_tunnels_survive_a_reload() -> None:
    with origin(echo_websocket) as scripted, gateway({"routers": [websocket("/ws/a", scripted.url)]}) as gate:
        client, _ = open_websocket(gate.port, "/ws/a")
        gate.write({"routers": [route("/other", scripted.url)]})
        gate.signal(signal.SIGHUP)
        gate.wait(lambda: status_of(gate.get("/ws/a")[0]) == 404, "new revision")
        client.send(frame(b"still here"))
        assert read_frame(client).payload == b"still here"
        client.close()
        gate.wait_access(status=101, route="/ws/a")


def test_a_stopping_gateway_waits_for_its_tunnels() -> None:
    with origin(echo_websocket) as scripted:
        config = {"routers": [websocket("/ws/a", scripted.url)]}
        with gateway(config) as gate:
            client, _ = open_websocket(gate.port, "/ws/a")
            gate.signal(signal.SIGTERM)
            gate.wait(lambda: not listens(gate.port), "closed listener")
            client.send(frame(b"still here"))
            assert read_frame(client).payload == b"still here"
            client.close()
            assert gate.process.wait(25) == 0, "nothing is left to wait for"
            assert [line["status"] for line in gate.access_lines()] == [101]


def listens(port: int) -> bool:
    try:
        connect(port).close()
    except ConnectionError:
        return False
    return True


# -- real clients and origins -----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chat() -> Iterator[str]:
    """The gateway with the example configuration in front of the example's origin; the URL of /ws/chat."""
    config = (EXAMPLES / "config.json").read_text()
    with Popen(
        [sys.executable, EXAMPLES / "origins" / "ws_origin.py", "--port", "0"], stdout=PIPE, text=True
    ) as process:
        assert process.stdout is not None
        port = re.search(r":(\d+)/ws", process.stdout.readline())
        assert port is not None
        routes = json.loads(config.replace("5913", port[1]))["routers"]
        try:
            with gateway({"routers": routes}) as gate:
                yield f"ws://127.0.0.1:{gate.port}/ws/chat"
        finally:
            process.terminate()


def test_the_chat_of_the_examples_works_with_a_real_client(chat: str) -> None:
    with ws_connect(chat, proxy=None) as client:
        client.send("hello")
        assert client.recv() == "hello"
        client.send([b"in ", b"three ", b"parts"])
        assert client.recv() == b"in three parts"
        client.send(b"m" * (MB - 1))
        assert client.recv() == b"m" * (MB - 1)
        assert client.ping().wait(25)


def test_a_chat_room_passes_messages_between_clients(chat: str) -> None:
    with ws_connect(chat + "?room=tea", proxy=None) as ann, ws_connect(chat + "?room=tea", proxy=None) as bob:
        bob.send("anybody here?")
        assert bob.recv() == "anybody here?"
        assert ann.recv() == "anybody here?"


def test_the_close_code_of_the_origin_reaches_the_client(chat: str) -> None:
    with ws_connect(chat, proxy=None) as client:
        client.send(b"\xff is not UTF-8", text=True)
        with pytest.raises(ConnectionClosedError, match="1007"):
            client.recv()


def test_a_real_client_is_told_of_a_refusal(chat: str) -> None:
    with pytest.raises(InvalidStatus, match=r"405|404"):
        ws_connect(chat + "/nowhere", proxy=None)
