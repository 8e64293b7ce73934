"""Misses that are not stored: the compiled way (kairos/proxy/filters/cachehit.pyx) decides what the other one would,
nobody waits for them, and the log says what became of each request."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kairos._speedups.cells import R_CACHE_COLLAPSED, W_REQUESTS_ACTIVE
from tests.support.inprocess import InProcess, serving
from tests.support.net import Peer, origin, read_request, status_of

NEVER = (
    "no-store",
    "private",
    "private, max-age=9",
    "no-store, max-age=9",
    "private=x, no-store",
    "max-age=0, private",
)
MAYBE = (
    "", "max-age=0", "max-age=9", "no-cache", "no-cache, max-age=0", "public", "s-maxage=0", "s-maxage=9", "foo",
    "must-revalidate", "must-revalidate, max-age=9", 'private="x"', 'private="x", max-age=9', "must-understand",
    "no-store, must-understand, max-age=9", "max-age=0, stale-while-revalidate=9", "max-age=0, stale-if-error=9",
    "public, max-age=0", "no-transform", "max-age=x", "s-maxage=0, stale-if-error=9",
)  # fmt: skip
BESIDE: tuple[tuple[str, ...], ...] = (
    (), ("Set-Cookie: a=b",), ("Vary: *",), ("Vary: X-A",), ('ETag: "a"',), ("Last-Modified: {}",), ("Expires: 0",),
    ("Expires: Thu, 01 Jan 2099 00:00:00 GMT",), ("CDN-Cache-Control: no-store",), ("CDN-Cache-Control: max-age=9",),
    ("Surrogate-Key: a",), ("Transfer-Encoding: chunked",), ("Cache-Control: max-age=7",),
    ("Connection: close", "no length"), ("Set-Cookie: a=b", "Vary: *"), ('ETag: "a"', "Set-Cookie: a=b"),
)  # fmt: skip
POLICIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "guessing": {"default_ttl": 9},
    "statuses": {"ttl": {"404": 9}},
    "stale": {"stale_if_error": 9},
    "override": {"override_ttl": 9},
    "cookies": {"set_cookie": "store"},
    "small": {"max_entry": 3},
    "guarded": {"guard_types": True},
}
SLOW = {"key": {"headers": ["X-Nobody"]}}
"""A key of its own leaves each request to the other way."""


class Source:
    """Answers what the path is told to get."""

    def __init__(self) -> None:
        self.answers: dict[str, bytes] = {}
        self.asked: list[str] = []
        self.gate = threading.Event()
        self.gate.set()
        self.arrived = threading.Semaphore(0)

    def __call__(self, peer: Peer) -> None:
        while True:
            path = read_request(peer)[0].split(b" ")[1].decode()
            self.asked.append(path)
            self.arrived.release()
            assert self.gate.wait(25)
            peer.send(self.answers[path])
            if b"Connection: close" in self.answers[path]:
                return


def answer(control: str, beside: tuple[str, ...], status: int = 200) -> bytes:
    lines = [f"Cache-Control: {control}"] if control else []
    lines += [line.format("Thu, 01 Jan 2015 00:00:00 GMT") for line in beside if line != "no length"]
    body = "4\r\nbody\r\n0\r\n\r\n" if "Transfer-Encoding: chunked" in beside else "body"
    if "no length" not in beside and body == "body":
        lines.append("Content-Length: 4")
    return "\r\n".join([f"HTTP/1.1 {status} X", *lines, "", body]).encode()


@pytest.fixture(scope="module")
def both() -> Iterator[tuple[InProcess, Source]]:
    source = Source()
    with origin(source) as backend:
        routers = [
            {
                "external_path": f"/{way}/{name}/{{rest:path}}",
                "internal_path": "/{rest}",
                "methods": ["GET"],
                "backends": [{"host": backend.url}],
                "circuit_breaker": {"enabled": False},
                "cache": policy | more,
            }
            for name, policy in POLICIES.items()
            for way, more in (("quick", {}), ("slow", SLOW))
        ]
        with serving({"routers": routers, "cache_storage": {"memory_bytes": 32 << 20}}) as served:
            yield served, source
            assert not served.reports


def status_line(head: bytes) -> bytes:
    """What Cache-Status says."""
    (status,) = [line for line in head.split(b"\r\n") if line.lower().startswith(b"cache-status")]
    return status.partition(b";")[2].partition(b"; ttl")[0]


def told(served: InProcess, path: str, *lines: str) -> bytes:
    """Cache-Status of an answer."""
    return status_line(served.get(path, *lines)[0])


_numbers = itertools.count()


def cases(policy: str) -> Iterator[tuple[str, tuple[str, ...], int]]:
    """All of them for what most routes have, some for the others."""
    if policy == "plain":
        yield from itertools.product(NEVER + MAYBE, BESIDE, (200,))
    yield from itertools.product(("", "private", "max-age=0", "max-age=9", "public"), BESIDE[:7], (200, 404))


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize(
    "lines", [(), ("Authorization: Basic x",), ("Cookie: a=b",)], ids=["anybody", "known", "cookie"]
)
def test_both_ways_decide_alike(both: tuple[InProcess, Source], policy: str, lines: tuple[str, ...]) -> None:
    served, source = both
    with served.connect() as peer:

        def asked(way: str, path: str) -> bytes:
            request = [f"GET /{way}/{policy}{path} HTTP/1.1", "Host: test", *lines, "", ""]
            peer.send("\r\n".join(request).encode())
            return status_line(peer.receive_response()[0])

        for control, beside, status in cases(policy):
            path = f"/{next(_numbers)}.css"
            source.answers[path] = answer(control, beside, status)
            assert asked("quick", path) == asked("slow", path), (control, beside, status)
            assert asked("quick", path) == asked("slow", path), (control, beside, status, "once more")


def test_what_was_not_stored_may_be_one_day(both: tuple[InProcess, Source]) -> None:
    served, source = both
    path = f"/{next(_numbers)}"
    source.answers[path] = answer("no-store", ())
    assert b"detail=no-store" in told(served, f"/quick/plain{path}")
    assert b"detail=no-store" in told(served, f"/quick/plain{path}")
    source.answers[path] = answer("max-age=100", ("Vary: X-A",))
    assert b"; stored" in told(served, f"/quick/plain{path}", "X-A: 1")
    assert b" hit" in told(served, f"/quick/plain{path}", "X-A: 1")
    assert b"vary-miss" in told(served, f"/quick/plain{path}", "X-A: 2")


def test_who_is_known_waits_for_nobody_where_that_is_of_no_use(both: tuple[InProcess, Source]) -> None:
    served, source = both
    path = f"/{next(_numbers)}"
    source.answers[path] = answer("max-age=100", ())
    assert b"detail=authorization" in told(served, f"/quick/plain{path}", "Authorization: Basic x")
    while source.arrived.acquire(blocking=False):
        pass
    source.gate.clear()
    threads = [
        threading.Thread(target=served.get, args=(f"/quick/plain{path}", f"Authorization: Basic {n}")) for n in range(3)
    ]
    for thread in threads:
        thread.start()
    for _ in threads:
        assert source.arrived.acquire(timeout=25), "all ask at once"
    source.gate.set()
    for thread in threads:
        thread.join(25)
    assert b"; stored" in told(served, f"/quick/plain{path}"), "others are still answered from it"


def test_of_many_at_once_one_asks_and_brings_it_to_all(both: tuple[InProcess, Source]) -> None:
    served, source = both
    path = f"/{next(_numbers)}"
    source.answers[path] = answer("max-age=100", ())
    while source.arrived.acquire(blocking=False):
        pass
    before, collapsed = len(source.asked), served.route_cell(R_CACHE_COLLAPSED)
    source.gate.clear()
    threads = [threading.Thread(target=served.get, args=(f"/quick/plain{path}",)) for _ in range(4)]
    for thread in threads:
        thread.start()
    assert source.arrived.acquire(timeout=25)
    active = served.board.worker_block(0) + W_REQUESTS_ACTIVE
    served.wait(lambda: served.board.page.get(active) == 4, "4 requests under way")
    source.gate.set()
    for thread in threads:
        thread.join(25)
    assert len(source.asked) == before + 1
    assert served.route_cell(R_CACHE_COLLAPSED) == collapsed + 3


def test_the_log_says_what_became_of_it() -> None:
    source = Source()
    with origin(source) as backend:
        route = {
            "external_path": "/{rest:path}",
            "internal_path": "/{rest}",
            "methods": ["GET", "POST"],
            "backends": [{"host": backend.url}],
        }
        routers = [{**route, "cache": {}}, {**route, "external_path": "/not", "internal_path": "/not"}]
        with serving({"routers": routers, "cache_storage": {"memory_bytes": 8 << 20}}) as served:
            source.answers["/a"] = answer("max-age=100, stale-while-revalidate=100", ('ETag: "a"',))
            source.answers["/b"] = answer("max-age=10", ("Age: 20", 'ETag: "a"'))
            source.answers["/c"] = answer("max-age=10, stale-while-revalidate=100", ("Age: 20", 'ETag: "a"'))
            source.answers["/d"] = answer("no-store", ())
            source.answers["/not"] = answer("", ())

            def said(path: str) -> list[str | None]:
                return [line.get("cache") for line in served.access_lines() if line["path"] == path]

            def word(path: str, *lines: str) -> str | None:
                before = len(said(path))
                assert status_of(served.get(path, *lines)[0]) == 200
                served.wait(lambda: len(said(path)) > before, "a line in the log")
                return said(path)[-1]

            assert [word("/d"), word("/d"), word("/not")] == ["miss", "miss", None]
            assert [word("/a"), word("/a"), word("/a", "Cache-Control: no-cache")] == ["miss", "hit", "refresh"]
            assert word("/a", "Cache-Control: no-store") == "bypass"
            assert [word("/c"), word("/c")] == ["miss", "stale"]
            assert [word("/b"), word("/b")] == ["miss", "expired"]
            source.answers["/b"] = b'HTTP/1.1 304 X\r\nETag: "a"\r\n\r\n'
            assert word("/b") == "revalidated"
