"""A client that leaves: the upstream is cancelled, the request is logged as 499 and nothing stays counted."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from collections.abc import Iterator

import pytest

from tests.proxy.conftest import OK, Stage
from tests.support.gateway import gateway, route
from tests.support.net import Peer, origin, status_of


def in_flight(stage: Stage, url: str) -> float:
    line = f'kairos_upstream_requests_in_flight{{upstream="{url}"}} '
    return next((float(text[len(line) :]) for text in stage.gateway.metrics().splitlines() if text.startswith(line)), 0)


@pytest.mark.parametrize("how", ["close", "reset", "half-close"])
@pytest.mark.parametrize("when", ["before the head", "mid-body", "mid-request"])
def test_the_upstream_is_cancelled(stage: Stage, how: str, when: str) -> None:
    def wait_for_the_end(peer: Peer) -> None:
        if when == "mid-body":
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhello")
        arrived.set()
        if when == "mid-request":
            assert peer.receive_exactly(3) == b"abc"
        ends.put(peer.closed())
        raise EOFError

    arrived = threading.Event()
    ends: queue.Queue[bool] = queue.Queue()
    scene = stage.play(wait_for_the_end, whole=False)
    with stage.connect() as client:
        client.send(scene.head("POST", "Content-Length: 10") + b"abc" if when == "mid-request" else scene.head())
        assert arrived.wait(25)
        if when == "mid-body":
            client.receive_until(b"hello")
        if how == "reset":
            client.reset()
        elif how == "close":
            client.close()
        else:
            client.sock.shutdown(socket.SHUT_WR)
        assert ends.get(timeout=25)
    [line] = stage.gateway.wait_access(path=scene.path)
    assert (line["status"], line["flag"], line["detail"]) == (499, "DC", "client_gone")
    assert line["upstream_ms"] > 0
    assert in_flight(stage, stage.origin.url) == 0


def test_what_was_sent_ahead_is_dropped_with_the_client(stage: Stage) -> None:
    arrived, leave = threading.Event(), threading.Event()
    scene = stage.play(lambda peer: (arrived.set(), leave.wait(25), peer.send(OK)))
    with stage.connect() as client:
        client.send(scene.head() * 5)
        assert arrived.wait(25)
    stage.gateway.wait_access(path=scene.path)
    leave.set()
    assert scene.received()
    assert scene.requests.empty()


@pytest.fixture(scope="module")
def unanswered() -> Iterator[tuple[Stage, str]]:
    """A backend whose listen queue is full: connecting to it takes for ever."""
    made = Stage()
    with contextlib.ExitStack() as opened:
        full = opened.enter_context(socket.socket())
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        for _ in range(4):
            sock = opened.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", port))
        url = f"http://127.0.0.1:{port}"
        with origin(made.run) as made.origin:
            routers = [
                route("/slow", url),
                route("/quick", url, timeouts={"connect": 0.3}),
                route("/total", url, timeouts={"total": 0.3}),
            ]
            with gateway({"routers": routers}) as made.gateway:
                yield made, url


def test_leaving_while_a_connection_is_made(unanswered: tuple[Stage, str]) -> None:
    stage, url = unanswered
    with stage.connect() as client:
        client.send(b"GET /slow HTTP/1.1\r\nHost: test\r\n\r\n")
        stage.gateway.wait(lambda: in_flight(stage, url) == 1, "a request in flight")
    [line] = stage.gateway.wait_access(path="/slow")
    assert line["status"] == 499
    assert in_flight(stage, url) == 0


def test_leaving_at_once(unanswered: tuple[Stage, str]) -> None:
    stage, url = unanswered
    for _ in range(20):
        with stage.connect() as client:
            client.send(b"GET /slow?now HTTP/1.1\r\nHost: test\r\n\r\n")
            client.reset()
    stage.gateway.wait(lambda: in_flight(stage, url) == 0, "nothing in flight")


@pytest.mark.parametrize(("path", "kind"), [("/quick", "connect_timeout"), ("/total", "total_timeout")])
def test_a_backend_that_never_accepts(unanswered: tuple[Stage, str], path: str, kind: str) -> None:
    stage, url = unanswered
    head, body = stage.gateway.get(path)
    assert (status_of(head), kind.encode() in body) == (504, True)
    [line] = stage.gateway.wait_access(path=path)
    assert (line["status"], line["detail"]) == (504, kind)
    assert line["gateway_ms"] < line["duration_ms"] / 2  # the wait is not the gateway's doing
    assert in_flight(stage, url) == 0
