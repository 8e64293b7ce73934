"""The cache in Redis: shared by gateways, purged for all of them, missed while it is away. A real redis-server."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Coroutine, Iterator
from typing import Any

import msgspec
import pytest

from kairos.config.redis import Redis
from kairos.rediscache import RedisCache
from tests.proxy.test_cache import FRESH, Scripted
from tests.support.inprocess import InProcess, serving
from tests.support.net import Peer, origin, status_of
from tests.support.redis import RedisServer, redis_server


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with redis_server() as made:
        yield made


@pytest.fixture
def redis(server: RedisServer) -> RedisServer:
    client = server.client()
    client.flushall()
    client.close()
    return server


@contextlib.contextmanager
def gateway(redis: RedisServer, backend: str, **policy: Any) -> Iterator[InProcess]:
    route = {
        "external_path": "/{rest:path}", "internal_path": "/{rest}", "methods": ["GET", "HEAD", "POST"],
        "backends": [{"host": backend}], "cache": {"store": "redis", **policy},
    }  # fmt: skip
    file = {"routers": [route], "redis": {"url": redis.url, "timeout": 2}}
    with serving(file) as served:
        yield served
        served.run(lambda: _rest(served))
        assert served.reports == []


async def _rest(served: InProcess) -> None:
    """Let what is under way end, and the connections."""
    for filter_ in served.plan.request_filters:
        keeper = getattr(filter_, "_keeper", None)
        if keeper is not None:
            while keeper.tasks:
                await asyncio.sleep(0.005)
            filter_._redis.retire()  # type: ignore[attr-defined]
            closing = filter_._redis._closing  # type: ignore[attr-defined]
            if closing is not None:
                await closing


def stored(served: InProcess, path: str, *lines: str) -> None:
    """Ask until it is a hit: it is written behind the answer."""
    served.wait(lambda: b"kairos; hit" in served.get(path, *lines)[0], "hit")


def purge(redis: RedisServer, work: Callable[[RedisCache], Coroutine[Any, Any, int]]) -> int:
    async def run() -> int:
        cache = RedisCache(msgspec.convert({"url": redis.url, "timeout": 2}, Redis))
        try:
            return await work(cache)
        finally:
            cache.retire()
            if cache._closing is not None:
                await cache._closing

    return asyncio.run(run())


def test_what_one_gateway_stored_the_other_one_gives(redis: RedisServer) -> None:
    script = Scripted(FRESH + b"Vary: Foo\r\nAge: 30\r\n")
    with origin(script) as backend, gateway(redis, backend.url) as one, gateway(redis, backend.url) as other:
        stored(one, "/a", "Foo: 1")
        before = len(script.requests)
        head, body = other.get("/a", "Foo: 1")
        assert body == b"hello"
        assert b"\r\nAge: 3" in head
        assert len(script.requests) == before
        other.get("/a", "Foo: 2")
        assert len(script.requests) == before + 1


def test_purges_hold_for_all_gateways(redis: RedisServer) -> None:
    script = Scripted(FRESH + b"Surrogate-Key: red\r\n")
    with origin(script) as backend, gateway(redis, backend.url) as one, gateway(redis, backend.url) as other:
        works: list[Callable[[RedisCache], Coroutine[Any, Any, int]]] = [
            lambda cache: cache.purge_url(b"http://test/a"),
            lambda cache: cache.purge_tags([b"red"]),
            lambda cache: cache.purge_prefix(b"http://test/"),
            lambda cache: cache.purge_tags([b"red"], True),
        ]
        for work in works:
            stored(one, "/a")
            before = len(script.requests)
            assert purge(redis, work) == 1
            other.get("/a")
            assert len(script.requests) == before + 1
        assert purge(redis, lambda cache: cache.purge_url(b"http://test/*")) == 0, "what looks like a pattern is none"


def test_an_unsafe_method_ends_it_for_all(redis: RedisServer) -> None:
    script = Scripted()
    with origin(script) as backend, gateway(redis, backend.url) as one, gateway(redis, backend.url) as other:
        stored(one, "/a")
        other.request(b"POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n")
        before = len(script.requests)
        one.wait(lambda: one.get("/a") is not None and len(script.requests) > before, "request")


def test_a_304_is_written_back(redis: RedisServer) -> None:
    script = Scripted(b'Cache-Control: max-age=5\r\nAge: 10\r\nETag: "1"\r\n')
    with origin(script) as backend, gateway(redis, backend.url) as served:
        served.get("/a")
        client = redis.client()
        served.wait(lambda: bool(client.exists("{kairos:cache}:e:http://test/a")), "entry")
        client.close()
        script.fields = FRESH
        served.get("/a")
        assert b'If-None-Match: "1"' in script.requests[1]


def test_what_is_fetched_during_a_purge_is_not_stored(redis: RedisServer) -> None:
    script = Scripted()
    script.gate.clear()
    with origin(script) as backend, gateway(redis, backend.url) as served, served.connect() as peer:
        peer.send(b"GET /a HTTP/1.1\r\nHost: test\r\n\r\n")
        assert script.arrived.acquire(timeout=25)
        purge(redis, lambda cache: cache.purge_url(b"http://test/a"))
        script.gate.set()
        peer.receive_response()
        served.run(lambda: _written(served))
        served.get("/a")
        assert len(script.requests) == 2


async def _written(served: InProcess) -> None:
    for filter_ in served.plan.request_filters:
        while getattr(filter_, "_keeper", None) is not None and filter_._keeper.tasks:  # type: ignore[attr-defined]
            await asyncio.sleep(0.005)


def test_without_redis_requests_do_without_a_cache(redis: RedisServer) -> None:
    script = Scripted()
    with origin(script) as backend, redis_server() as mortal, gateway(mortal, backend.url) as served:
        stored(served, "/a")
        mortal.kill()
        for number in range(3):
            assert status_of(served.get(f"/{number}")[0]) == 200
        mortal.start()
        served.wait(lambda: b"kairos; hit" in served.get("/a")[0], "hit once it is back")


def test_parts_are_found_by_their_range(redis: RedisServer) -> None:
    class Parts(Scripted):
        def answer(self, peer: Peer) -> None:
            head = b"HTTP/1.1 206 P\r\n" + FRESH + b"Content-Range: bytes 2-4/10\r\nContent-Length: 3\r\n\r\n"
            peer.send(head + b"234")

    script = Parts()
    with origin(script) as backend, gateway(redis, backend.url) as served:
        stored(served, "/a", "Range: bytes=2-4")
        head, body = served.get("/a", "Range: bytes=2-4")
        assert (status_of(head), body) == (206, b"234")
        assert b"Content-Range: bytes 2-4/10" in head
        asked = len(script.requests)
        served.get("/a")
        served.get("/a", "Range: bytes=2-5")
        assert len(script.requests) == asked + 2
