"""Upstream connections: reused where that is safe, replaced where they prove stale."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any

import pytest

from kairos.proxy.exchange import Exchange, Filter
from kairos.proxy.upstream import connection
from kairos.proxy.upstream.dial import dial
from tests.proxy.conftest import OK, Stage, staged
from tests.support.gateway import gateway, route
from tests.support.inprocess import Chain, in_process
from tests.support.net import Peer, origin, read_request, status_of


class Connections:
    """An origin's connections in the order they came, each with what it answers; requests seen on each."""

    def __init__(self, *answers: list[bytes]) -> None:
        self.answers = list(answers)
        self.requests: list[list[bytes]] = []
        self._lock = threading.Lock()

    def __call__(self, peer: Peer) -> None:
        with self._lock:
            mine = self.answers[len(self.requests)] if len(self.requests) < len(self.answers) else [OK] * 100
            seen: list[bytes] = []
            self.requests.append(seen)
        for answer in mine:
            seen.append(b"".join(read_request(peer)))
            peer.send(answer)

    @property
    def counts(self) -> list[int]:
        return [len(seen) for seen in self.requests]


def get(path: str = "/") -> bytes:
    return f"GET {path} HTTP/1.1\r\nHost: test\r\n\r\n".encode()


def through_gateway(script: Connections, *requests: bytes, **config: object) -> list[int]:
    """Statuses of requests sent one after the other on one client connection."""
    with origin(script) as o, gateway({"routers": [route("/", o.url)], **config}) as g, g.connect() as client:
        statuses = []
        for request in requests:
            client.send(request)
            statuses.append(status_of(client.receive_response()[0]))
        return statuses


def test_a_connection_is_reused_across_clients(stage: Stage) -> None:
    scene = stage.play()
    stage.exchange(scene.head())
    before = stage.origin.connections
    for _ in range(5):
        assert stage.exchange(scene.head())[1] == b"ok"
    assert stage.origin.connections == before


NOT_REUSED = {
    "close": b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
    "http10": b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    "surplus": b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok+surplus",
    "after-chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\nHTTP/1.1 200 OK\r\n",
    "after-204": b"HTTP/1.1 204 No Content\r\n\r\nsurplus",
}


def test_connections_that_may_not_be_reused() -> None:
    scripts = {name: Connections([answer, OK], [answer, OK]) for name, answer in NOT_REUSED.items()}
    with contextlib.ExitStack() as stack:
        routers = [route(f"/{name}", stack.enter_context(origin(script)).url) for name, script in scripts.items()]
        g = stack.enter_context(gateway({"routers": routers}))
        for name, answer in NOT_REUSED.items():
            assert [status_of(g.get(f"/{name}")[0]) for _ in range(2)] == [status_of(answer)] * 2, name
            assert scripts[name].counts == [1, 1], name


def test_http10_upstreams_may_keep_the_connection() -> None:
    script = Connections([b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok"] * 2)
    assert through_gateway(script, get(), get()) == [200, 200]
    assert script.counts == [2]


def test_so_many_requests_per_connection() -> None:
    script = Connections()
    assert through_gateway(script, *[get()] * 5, keepalive={"requests": 2}) == [200] * 5
    assert script.counts == [2, 2, 1]


@pytest.mark.parametrize(("age", "counts"), [(0.000001, [1, 1, 1]), (3600, [3])])
def test_an_old_connection_serves_no_further_request(age: float, counts: list[int]) -> None:
    """A name may have moved meanwhile, and traffic that never pauses would hold it where it was."""
    script = Connections()
    assert through_gateway(script, *[get()] * 3, keepalive={"age": age}) == [200] * 3
    assert script.counts == counts


def test_reuse_can_be_turned_off() -> None:
    script = Connections()
    assert through_gateway(script, *[get()] * 3, keepalive={"connections": 0}) == [200] * 3
    assert script.counts == [1, 1, 1]


PUT = b"PUT / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello"
POST = b"POST / HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED_PUT = b"PUT / HTTP/1.1\r\nHost: test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"


class Stale:
    """Its first connection answers once, takes the second request, and hangs up; others answer."""

    def __init__(self) -> None:
        self.connections: list[list[bytes]] = []

    def __call__(self, peer: Peer) -> None:
        seen: list[bytes] = []
        self.connections.append(seen)
        first = len(self.connections) == 1
        for _ in range(2 if first else 100):
            seen.append(b"".join(read_request(peer)))
            if first and len(seen) == 2:
                return
            peer.send(OK)


@pytest.mark.parametrize(
    ("request_", "status", "seen"),
    [(get(), 200, [2, 1]), (PUT, 200, [2, 1]), (POST, 502, [2]), (CHUNKED_PUT, 502, [2])],
    ids=["GET", "PUT with its body in hand", "POST", "PUT whose body is gone"],
)
def test_a_stale_connection_is_retried_once_where_that_is_safe(request_: bytes, status: int, seen: list[int]) -> None:
    stale = Stale()
    with origin(stale) as o, gateway({"routers": [route("/", o.url)]}) as g, g.connect() as client:
        client.send(get())
        assert client.receive_response()[1] == b"ok"
        client.send(request_)
        assert status_of(client.receive_response()[0]) == status
        metrics = g.metrics()
        retries = f'kairos_upstream_retries_total{{reason="stale",upstream="{o.url}"}} 1.0' in metrics
    assert 'reason="policy"' not in metrics
    assert [len(requests) for requests in stale.connections] == seen
    assert retries == (status == 200)
    if status == 200:
        assert stale.connections[1][0].partition(b"\r\n\r\n")[2] == request_.partition(b"\r\n\r\n")[2]


def test_a_fresh_connection_that_closes_is_not_tried_again() -> None:
    class Closing(Connections):
        def __call__(self, peer: Peer) -> None:
            self.requests.append([peer.receive_head()])

    script = Closing()
    assert through_gateway(script, get()) == [502]
    assert script.counts == [1]


def test_a_connection_that_answered_partly_is_not_tried_again() -> None:
    script = Connections([OK, b"HTTP/1.1 200 OK\r\nX-Half: "])
    assert through_gateway(script, get(), get()) == [200, 502]
    assert script.counts == [2]


def test_an_idle_connection_closed_by_the_origin_is_forgotten(stage: Stage) -> None:
    def answer_and_close(peer: Peer) -> None:
        peer.send(OK)
        peer.sock.shutdown(socket.SHUT_RDWR)
        raise EOFError

    scene = stage.play(answer_and_close)
    stage.drop_pooled()
    for _ in range(10):
        assert stage.exchange(scene.head("POST", "Content-Length: 0"))[1] == b"ok"
        stage.gateway.wait(stage.pool_is_empty, "an empty pool")


def test_an_idle_connection_is_closed_after_its_time() -> None:
    with staged({"keepalive": {"idle": 0.3}}) as stage:
        scene = stage.play()
        assert stage.exchange(scene.head())[1] == b"ok"
        stage.gateway.wait(stage.pool_is_empty, "an empty pool")


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_a_connection_lost_before_its_request_was_sent_is_one_that_never_came(
    method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the connection's coming and the request's going out, the loop turns: here for long enough."""

    async def lingering(*arguments: Any) -> Any:
        made = await dial(*arguments)
        await asyncio.sleep(0.1)
        return made

    monkeypatch.setattr(connection, "dial", lingering)
    with (
        origin(lambda peer: peer.reset()) as dying,
        origin(lambda peer: peer.send(OK) if read_request(peer) else None) as living,
        in_process(Chain("/a", route("/a", f"{dying.url},{living.url}"))) as served,
    ):
        for _ in range(4):
            assert status_of(served.request(f"{method} /a HTTP/1.1\r\nHost: x\r\n\r\n".encode())[0]) == 200


class _AfterTheEnd(Filter):
    """Keeps the loop from anything else until the origin has closed its connection, when a POST comes."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def on_request(self, x: Exchange) -> None:
        if x.method == "POST":
            assert self.closed.wait(25)


def test_what_must_not_be_sent_twice_takes_no_connection_that_the_loop_only_thinks_is_open() -> None:
    def answer_once(peer: Peer) -> None:
        read_request(peer)
        peer.send(OK)
        if not waits.closed.is_set():
            posted.wait(25)
            peer.close()
            waits.closed.set()

    waits, posted = _AfterTheEnd(), threading.Event()
    with origin(answer_once) as o, in_process(Chain("/a", route("/a", o.url), waits)) as served:
        assert status_of(served.get("/a")[0]) == 200
        with served.connect() as client:
            client.send(b"POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi")
            posted.set()
            assert status_of(client.receive_response()[0]) == 200
