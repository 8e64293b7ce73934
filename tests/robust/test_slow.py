"""Peers that take their time. Short timeouts, generous waits: a test says that it ends and how, never when."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Iterator

import pytest

from bench.procfs import tree_memory
from tests.robust.conftest import Recorder, Site, ask, assert_error, config_for, memory_is_real
from tests.support.gateway import gateway, route
from tests.support.net import Peer, origin, read_request, status_of

TIMEOUTS = {"head": 1, "idle": 2, "body_idle": 1, "write_idle": 1, "total": 20}
PATIENCE_S = 30.0


@pytest.fixture(scope="module")
def slow_site() -> Iterator[Site]:
    recorder = Recorder()
    with origin(recorder) as server, gateway(config_for(server.url, timeouts=TIMEOUTS)) as gate:
        yield Site(gate, server, recorder)


@pytest.fixture
def site(slow_site: Site) -> Site:
    slow_site.recorder.seen.clear()
    return slow_site


def drip(peer: Peer, data: bytes, pause: float) -> bytes:
    """Send a byte at a time, for ever in circles, until the gateway answers or hangs up; what it said."""
    peer.sock.settimeout(PATIENCE_S)
    try:
        for at in range(int(PATIENCE_S / pause)):
            if select.select([peer.sock], [], [], pause)[0]:
                return peer.receive_all()
            peer.send(data[at % len(data) :][:1])
    except (BrokenPipeError, ConnectionResetError):
        return peer.receive_all()
    raise AssertionError("the gateway never had enough")


def wait_for_end(peer: Peer) -> bytes:
    peer.sock.settimeout(PATIENCE_S)
    return peer.receive_all()


@pytest.mark.parametrize("start", [b"G", b"GET /echo HTTP/1.1\r\nHost: a.te"], ids=["method", "field"])
def test_a_head_that_stops_is_a_408(site: Site, start: bytes) -> None:
    with site.connect() as peer:
        peer.send(start)
        assert_error(wait_for_end(peer), 408, "request_timeout")
    assert site.recorder.seen == []


def test_a_head_that_drips_is_a_408(site: Site) -> None:
    """Slowloris: each byte comes in time, the head does not."""
    with site.connect() as peer:
        peer.send(b"GET /echo HTTP/1.1\r\nHost: a.test\r\n")
        assert_error(drip(peer, b"X-a: b\r\n", 0.1), 408, "request_timeout")


def test_a_second_head_on_the_connection_has_no_more_time(site: Site) -> None:
    with site.connect() as peer:
        ask(peer)
        assert_error(drip(peer, b"GET /echo HTTP/1.1\r\nX: " + b"y" * 1000, 0.1), 408, "request_timeout")


@pytest.mark.parametrize("start", [b"", b"\r", b"\r\n"], ids=["nothing", "half a line", "empty line"])
def test_a_connection_that_asks_nothing_is_closed(site: Site, start: bytes) -> None:
    with site.connect() as peer:
        peer.send(start)
        assert wait_for_end(peer) == b""


def test_empty_lines_keep_no_connection_open(site: Site) -> None:
    with site.connect() as peer:
        assert drip(peer, b"\r\n", 0.1) == b""


def test_an_idle_connection_is_closed(site: Site) -> None:
    with site.connect() as peer:
        assert status_of(ask(peer)) == 200
        assert wait_for_end(peer) == b""


@pytest.mark.parametrize(
    ("framing", "start"),
    [
        (b"Content-Length: 100\r\n", b""),
        (b"Content-Length: 100\r\n", b"abc"),
        (b"Transfer-Encoding: chunked\r\n", b""),
        (b"Transfer-Encoding: chunked\r\n", b"5\r\nabc"),
        (b"Transfer-Encoding: chunked\r\n", b"5;ext"),
        (b"Transfer-Encoding: chunked\r\n", b"0\r\nX-Trailer: a"),
    ],
    ids=["no body", "part of a body", "no chunk", "part of a chunk", "part of an extension", "part of a trailer"],
)
def test_a_body_that_stops_is_a_408(site: Site, framing: bytes, start: bytes) -> None:
    with site.connect() as peer:
        peer.send(b"POST /echo HTTP/1.1\r\nHost: a.test\r\n" + framing + b"\r\n" + start)
        assert_error(wait_for_end(peer), 408, "request_timeout")
    assert site.recorder.seen == [], "the origin never has the whole request"


@pytest.mark.parametrize(
    ("framing", "body"),
    [
        (b"Content-Length: 100000\r\n", b"x"),
        (b"Transfer-Encoding: chunked\r\n", b"1\r\nx\r\n"),
        (b"Transfer-Encoding: chunked\r\n", b"1;" + b"a" * 100 + b"\r\nx\r\n"),
    ],
    ids=["length", "chunks", "extensions"],
)
def test_a_body_below_the_least_rate_is_a_408(site: Site, framing: bytes, body: bytes) -> None:
    with site.connect() as peer:
        peer.send(b"POST /echo HTTP/1.1\r\nHost: a.test\r\n" + framing + b"\r\n")
        assert_error(drip(peer, body, 0.05), 408, "request_timeout")
    assert site.recorder.seen == []


def test_an_expected_body_that_never_comes_is_a_408(site: Site) -> None:
    with site.connect() as peer:
        peer.send(b"POST /echo HTTP/1.1\r\nHost: a.test\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n")
        assert peer.receive_head() == b"HTTP/1.1 100 Continue\r\n\r\n"
        assert_error(wait_for_end(peer), 408, "request_timeout")


def test_slow_clients_do_not_hold_up_others(site: Site) -> None:
    crowd = [site.connect() for _ in range(50)]
    for i, peer in enumerate(crowd):
        peer.send(b"POST /echo HTTP/1.1\r\nHost: a.test\r\nContent-Length: 9\r\n\r\n"[: 10 + i])
    with site.connect() as bystander:
        for _ in range(10):
            assert status_of(ask(bystander)) == 200
    for peer in crowd:
        peer.close()


class Endless:
    """An origin that sends until it cannot."""

    def __init__(self, head: bytes) -> None:
        self.head = head
        self.sent = 0
        self.over = threading.Event()

    def __call__(self, peer: Peer) -> None:
        try:
            read_request(peer)
            peer.send(self.head)
            while self.sent < 1 << 30:
                peer.send(bytes(65536))
                self.sent += 65536
        finally:
            self.over.set()


@memory_is_real
def test_a_client_that_does_not_read_is_cut_and_holds_little_memory() -> None:
    """Slow read: the origin is held back, and both connections end when nothing moves."""
    endless = Endless(b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n")
    with origin(endless) as server:
        config = {"routers": [route("/a", server.url)], "timeouts": TIMEOUTS}
        with gateway(config) as gate, gate.connect() as peer:
            before = tree_memory(gate.process.pid).pss
            peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            peer.send(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
            assert endless.over.wait(PATIENCE_S), "the origin's connection was not ended"
            grown = tree_memory(gate.process.pid).pss - before
            assert endless.sent < 64 << 20, "the origin was not held back"
            assert grown < 16 << 10, f"{grown} KiB"
            assert gate.wait_access(1, path="/a")


@memory_is_real
def test_a_client_that_pipelines_and_does_not_read_is_held_back() -> None:
    """Answers of our own pile up as little as relayed ones."""
    with (
        gateway({"routers": [route("/a", "http://127.0.0.1:9")], "timeouts": TIMEOUTS}) as gate,
        gate.connect() as peer,
    ):
        before = tree_memory(gate.process.pid).pss
        peer.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        peer.sock.settimeout(PATIENCE_S)
        wave = b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n" * 1000
        sent = 0
        cut = False
        while not cut and sent < 64 << 20:
            try:
                sent += peer.sock.send(wave)
            except ConnectionError:
                cut = True
        assert cut, "the gateway went on reading"
        assert tree_memory(gate.process.pid).pss - before < 16 << 10
