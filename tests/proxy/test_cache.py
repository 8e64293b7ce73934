"""The cache as a filter: many at once, answers that break off, purges, reloads, what is not its business."""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kairos._speedups.cells import R_CACHE_COLLAPSED, R_CACHE_HITS, R_CACHE_MISSES, R_CACHE_STORED, W_REQUESTS_ACTIVE
from kairos.config.load import judged, loads
from kairos.config.problems import ConfigError
from kairos.control.caches import Caches, PurgeRequest
from tests.support.inprocess import InProcess, serving
from tests.support.net import Peer, ScriptedOrigin, origin, read_request, status_of

FRESH = b"Cache-Control: max-age=100\r\n"


class Scripted:
    """An origin that waits for the test before it answers."""

    def __init__(self, fields: bytes = FRESH, body: bytes = b"hello") -> None:
        self.fields = fields
        self.body = body
        self.requests: list[bytes] = []
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Semaphore(0)

    def __call__(self, peer: Peer) -> None:
        while True:
            head, _ = read_request(peer)
            self.requests.append(head)
            self.arrived.release()
            assert self.gate.wait(25)
            self.answer(peer)

    def answer(self, peer: Peer) -> None:
        peer.send(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n%s" % (self.fields, len(self.body), self.body))


@contextlib.contextmanager
def cached(script: Any, **policy: Any) -> Iterator[tuple[InProcess, ScriptedOrigin]]:
    with origin(script) as backend:
        route = {
            "external_path": "/{rest:path}",
            "internal_path": "/{rest}",
            "methods": ["GET", "HEAD", "POST"],
            "backends": [{"host": backend.url}],
            "cache": policy,
        }
        with serving({"routers": [route], "cache_storage": {"memory_bytes": 8 << 20}}) as served:
            yield served, backend
            assert served.reports == []


def many(served: InProcess, count: int, path: str = "/a") -> tuple[list[threading.Thread], list[tuple[bytes, bytes]]]:
    """So many clients that ask at once, and what they got."""
    got: list[tuple[bytes, bytes]] = []
    threads = [threading.Thread(target=lambda: got.append(served.get(path))) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, got


def test_of_many_at_once_one_asks() -> None:
    script = Scripted()
    script.gate.clear()
    with cached(script) as (served, _):
        threads, got = many(served, 8)
        assert script.arrived.acquire(timeout=25)
        active = served.board.worker_block(0) + W_REQUESTS_ACTIVE
        served.wait(lambda: served.board.page.get(active) == 8, "8 requests under way")
        script.gate.set()
        for thread in threads:
            thread.join(25)
        assert [body for _, body in got] == [b"hello"] * 8
        assert len(script.requests) == 1
        assert served.route_cell(R_CACHE_COLLAPSED) == served.route_cell(R_CACHE_HITS) == 7
        assert served.route_cell(R_CACHE_STORED) == 1


def test_nobody_waits_for_what_cannot_be_stored() -> None:
    script = Scripted(b"Cache-Control: no-store\r\n")
    with cached(script, collapse=30) as (served, _):
        served.get("/a")
        script.gate.clear()
        threads, got = many(served, 4)
        for _ in range(5):
            assert script.arrived.acquire(timeout=25), "all ask at once, none waits for another"
        script.gate.set()
        for thread in threads:
            thread.join(25)
        assert len(got) == 4


def test_waiters_go_on_when_the_first_one_finds_that_it_cannot_be_stored() -> None:
    script = Scripted(b"Cache-Control: private\r\n")
    script.gate.clear()
    with cached(script, collapse=30) as (served, _):
        threads, got = many(served, 4)
        assert script.arrived.acquire(timeout=25)
        script.gate.set()
        for thread in threads:
            thread.join(25)
        assert [status_of(head) for head, _ in got] == [200] * 4


def test_who_waits_too_long_asks_itself() -> None:
    script = Scripted()
    script.gate.clear()
    with cached(script, collapse=0.05) as (served, _):
        threads, got = many(served, 2)
        assert script.arrived.acquire(timeout=25)
        assert script.arrived.acquire(timeout=25)
        script.gate.set()
        for thread in threads:
            thread.join(25)
        assert len(got) == 2


def test_interim_answers_are_passed_on_and_not_stored() -> None:
    class Hinting(Scripted):
        def answer(self, peer: Peer) -> None:
            peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </a.css>; rel=preload\r\nX-Early: a\r\n\r\n")
            super().answer(peer)

    with cached(Hinting()) as (served, _), served.connect() as peer:
        peer.send(b"GET /a HTTP/1.1\r\nHost: test\r\n\r\n")
        hints = peer.receive_head()
        assert status_of(hints) == 103
        assert b"Link: </a.css>; rel=preload" in hints
        assert b"X-Early" not in peer.receive_response()[0]
        peer.send(b"GET /a HTTP/1.1\r\nHost: test\r\n\r\n")
        head, body = peer.receive_response()
        assert (status_of(head), body) == (200, b"hello")
        assert b"; hit;" in head
        assert b"X-Early" not in head
        assert b"Link" not in head


def test_while_a_backend_is_gone_what_it_said_last_is_used() -> None:
    script = Scripted(b"Cache-Control: max-age=10\r\nAge: 20\r\n")
    with cached(script) as (served, backend):
        assert status_of(served.get("/a")[0]) == 200
        backend.close()
        for _ in range(8):  # refused first, then the circuit is open
            head, body = served.get("/a")
            assert (status_of(head), body) == (200, b"hello")
            assert b"\r\nCache-Status: kairos; fwd=stale" in head
        assert status_of(served.get("/b")[0]) in (502, 503)
        served.wait_access(path="/a", cache="stale", detail="cache_stale")


def test_a_client_that_leaves_lets_the_next_one_ask() -> None:
    script = Scripted()
    script.gate.clear()
    with cached(script, collapse=30) as (served, _):
        with served.connect() as first:
            first.send(b"GET /a HTTP/1.1\r\nHost: test\r\n\r\n")
            assert script.arrived.acquire(timeout=25)
            threads, got = many(served, 1)
        assert script.arrived.acquire(timeout=25)
        script.gate.set()
        threads[0].join(25)
        assert [body for _, body in got] == [b"hello"]


@pytest.mark.parametrize(
    "response",
    [
        b"HTTP/1.1 200 OK\r\n" + FRESH + b"Content-Length: 10\r\n\r\nhalf",
        b"HTTP/1.1 200 OK\r\n" + FRESH + b"Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        b"HTTP/1.1 200 OK\r\n" + FRESH + b"\r\nwho knows whether this is all",
    ],
)
def test_what_may_be_a_part_is_not_stored(response: bytes) -> None:
    requests = []

    def script(peer: Peer) -> None:
        requests.append(read_request(peer))
        peer.send(response)

    with cached(script) as (served, _):
        for number in (1, 2):
            with served.connect() as peer:
                peer.send(b"GET /a HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n")
                peer.receive_all()
            assert len(requests) == number


def test_chunks_and_trailers_are_stored_as_one_body() -> None:
    def script(peer: Peer) -> None:
        read_request(peer)
        peer.send(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\nHTTP/1.1 200 OK\r\nTrailer: X-T\r\n" + FRESH)
        peer.send(b"Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\nX-T: 1\r\n\r\n")

    with cached(script) as (served, _):
        with served.connect() as peer:
            peer.send(b"GET /a HTTP/1.1\r\nHost: test\r\n\r\n")
            assert status_of(peer.receive_head()) == 103
            assert peer.receive_response()[1] == b"abcde"
        head, body = served.get("/a")
        assert body == b"abcde"
        assert b"\r\nContent-Length: 5\r\n" in head
        assert b"Link" not in head
        assert b"Trailer" not in head


def test_stale_while_revalidate_answers_at_once_and_asks_in_the_background() -> None:
    script = Scripted(b'Cache-Control: max-age=5, stale-while-revalidate=60\r\nAge: 10\r\nETag: "1"\r\n')
    with cached(script) as (served, _):
        served.get("/a")
        script.gate.clear()
        script.fields = FRESH
        script.body = b"newer"
        head, body = served.get("/a")
        assert body == b"hello", "the stale one, while the origin does not answer yet"
        assert b"Cache-Status: kairos; hit; ttl=-" in head
        assert served.get("/a")[1] == b"hello"
        assert script.arrived.acquire(timeout=25)
        script.gate.set()
        served.wait(lambda: served.get("/a")[1] == b"newer", "newer response")
        assert len(script.requests) == 2, "one asks, for all"
        assert b'\r\nIf-None-Match: "1"\r\n' in script.requests[1]


def test_a_304_leaves_the_connection_for_the_next_request() -> None:
    class Validated(Scripted):
        def answer(self, peer: Peer) -> None:
            if b"If-None-Match" in self.requests[-1]:
                peer.send(b'HTTP/1.1 304 Not Modified\r\nETag: "1"\r\nCache-Control: max-age=0\r\n\r\n')
            else:
                super().answer(peer)

    with cached(Validated(b'Cache-Control: max-age=0\r\nETag: "1"\r\n')) as (served, backend):
        for _ in range(4):
            assert served.get("/a")[1] == b"hello"
        assert backend.connections == 1


def test_a_get_with_a_body_goes_past_it() -> None:
    script = Scripted()
    with cached(script) as (served, _):
        for _ in range(2):
            served.request(b"GET /a HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi")
        assert len(script.requests) == 2
        served.get("/a")
        assert len(script.requests) == 3


def test_purges_by_url_tag_and_prefix() -> None:
    script = Scripted(FRESH + b"Vary: Foo\r\nSurrogate-Key: red blue\r\n")
    with cached(script) as (served, _):
        caches = Caches(served.board)

        def purge(**given: Any) -> int:
            served.get("/a", "Foo: 1")
            served.get("/a", "Foo: 2")
            served.get("/b")
            before = len(script.requests)
            served.get("/a", "Foo: 1")
            assert len(script.requests) == before
            purged = asyncio.run(caches.purge(PurgeRequest(**given))).purged
            served.get("/a", "Foo: 1")
            assert len(script.requests) == before + 1, given
            return purged

        assert purge(url="http://TEST:80/x/../a") == 3  # two variants, and by what they differ
        assert purge(tags=["blue"]) == 3
        assert purge(prefix="http://test/a") == 3
        assert purge(all=True) == 5
        assert purge(tags=["none", "red"], soft=True) == 3
        status = caches.status()
        assert status.entries == 5
        assert status.purges > 4
        for wrong in (
            {},
            {"url": "http://a/", "all": True},
            {"url": "nothing"},
            {"url": "ftp://a/"},
            {"prefix": "http://a"},
        ):
            with pytest.raises(ValueError, match=r"URL|give one"):
                asyncio.run(caches.purge(PurgeRequest(**wrong)))


def test_what_is_fetched_during_a_purge_is_not_stored() -> None:
    script = Scripted()
    script.gate.clear()
    with cached(script) as (served, _):
        threads, _ = many(served, 1)
        assert script.arrived.acquire(timeout=25)
        asyncio.run(Caches(served.board).purge(PurgeRequest(url="http://test/a")))
        script.gate.set()
        threads[0].join(25)
        served.get("/a")
        assert len(script.requests) == 2


def test_an_unsafe_method_ends_what_its_locations_name() -> None:
    class Moving(Scripted):
        def answer(self, peer: Peer) -> None:
            if self.requests[-1].startswith(b"POST"):
                peer.send(b"HTTP/1.1 201 Created\r\nLocation: /b\r\nContent-Location: http://test/c\r\n")
                peer.send(b"Link: /d\r\nContent-Length: 0\r\n\r\n")
            else:
                super().answer(peer)

    script = Moving()
    with cached(script) as (served, _):
        for path in ("/b", "/c", "/d"):
            served.get(path)
        served.request(b"POST /a HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n")
        for path, asks in (("/b", 1), ("/c", 1), ("/d", 0)):
            before = len(script.requests)
            served.get(path)
            assert len(script.requests) - before == asks, path


def test_a_reload_keeps_what_is_stored_and_may_turn_it_off() -> None:
    script = Scripted()
    with cached(script) as (served, backend):
        route = {
            "external_path": "/{rest:path}", "internal_path": "/{rest}", "methods": ["GET"],
            "backends": [{"host": backend.url}],
        }  # fmt: skip
        served.get("/a")
        served.configure({"routers": [route], "cache": {"collapse": 1}})
        assert b"hit" in served.get("/a")[0]
        served.configure({"routers": [route | {"cache": {"enabled": False}}], "cache": {}})
        assert b"Cache-Status" not in served.get("/a")[0]
        assert len(script.requests) == 2


def test_types_are_guarded() -> None:
    script = Scripted(FRESH + b"Content-Type: text/html\r\n")
    with cached(script, guard_types=True) as (served, _):
        for path in ("/account/x.css", "/account/x.png?y"):
            served.get(path)
            assert b"detail=type" in served.get(path)[0]
        served.get("/account/page")
        assert b"hit" in served.get("/account/page")[0]
        script.fields = FRESH + b"Content-Type: text/css\r\n"
        served.get("/style.css")
        assert b"hit" in served.get("/style.css")[0]


def test_ignored_parameters_do_not_reach_the_origin() -> None:
    script = Scripted()
    with cached(script, query={"ignore": ["utm_*"]}) as (served, _):
        served.get("/a?x=1&utm_source=%3Cscript%3E")
        assert script.requests[0].startswith(b"GET /a?x=1 HTTP/1.1\r\n")
        served.get("/b?utm_source=1")
        assert script.requests[1].startswith(b"GET /b HTTP/1.1\r\n")


def test_many_sizes_come_back_as_they_went() -> None:
    sizes = [0, 1, 100, 65_536, 300_000, 900_000]

    class Sized(Scripted):
        def answer(self, peer: Peer) -> None:
            size = int(self.requests[-1].split(b"/")[1].split(b" ")[0])
            body = bytes(i % 251 for i in range(256)) * (size // 256 + 1)
            peer.send(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n" % (FRESH, size) + body[:size])

    script = Sized()
    with cached(script) as (served, _):
        for size in sizes:
            first = served.get(f"/{size}")[1]
            assert served.get(f"/{size}")[1] == first
            assert len(first) == size
        assert served.route_cell(R_CACHE_MISSES) == len(sizes)


def test_the_access_log_tells_hits() -> None:
    with cached(Scripted()) as (served, _):
        served.get("/a")
        served.get("/a")
        served.wait_access(path="/a", detail="cache_hit", flag="RFCF", status=200)


def problems(**cache: Any) -> list[str]:
    file = {"routers": [{"external_path": "/", "methods": ["GET"], "backends": [{"host": "http://b"}], "cache": cache}]}
    try:
        found = judged(loads(json.dumps(file).encode(), "json", "f.json")).problems
    except ConfigError as error:
        found = error.problems
    return [f"{p.severity} {p.path}" for p in found if "cache" in p.path]


def test_checks() -> None:
    assert problems(ttl={"404": 1, "5xx": 2}, default_ttl=0) == []
    assert problems(ttl={"x": 1}) == ["error routers[0].cache.ttl.x"]
    assert problems(ttl={"206": 1}) == ["error routers[0].cache.ttl.206"]
    assert problems(query={"only": ["a"], "ignore": ["b"]}) == ["error routers[0].cache.query"]
    assert problems(strip=["a b"]) == ["error routers[0].cache"]
    assert problems(set_cookie="store") == ["warning routers[0].cache.set_cookie"]
    assert problems(override_ttl=1, cookies="ignore") == ["warning routers[0].cache.override_ttl"]
    assert problems(store="redis") == ["error routers[0].cache.store"]
    assert problems(key={"headers": ["Authorization"]}) == ["warning routers[0].cache.key.headers"]
