"""The cache where clients come by way of others, and where it asks on its own: what backends are told of scheme and
host is what the answer is kept for."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from tests.support.gateway import route
from tests.support.inprocess import InProcess, serving
from tests.support.net import Peer, origin, read_request

FRESH = "max-age=100"
STALE = "max-age=0, stale-while-revalidate=100"


class Telling:
    """An origin whose answers say how they were asked for."""

    def __init__(self, control: str) -> None:
        self.control = control
        self.heads: list[bytes] = []
        self.asked = threading.Semaphore(0)

    def __call__(self, peer: Peer) -> None:
        while True:
            head, _ = read_request(peer)
            self.heads.append(head)
            names = (b"host", b"x-forwarded-proto", b"x-forwarded-host")
            body = b"|".join(value(head, name) for name in names)
            fields = b'Cache-Control: %s\r\nETag: "%d"\r\n' % (self.control.encode(), len(self.heads))
            peer.send(b"HTTP/1.1 200 OK\r\n%sContent-Length: %d\r\n\r\n" % (fields, len(body)) + body)
            self.asked.release()


def value(head: bytes, name: bytes) -> bytes:
    """Of a field; empty: there is none."""
    lines = [line.partition(b": ") for line in head.split(b"\r\n")]
    return next((text for key, _, text in lines if key.lower() == name), b"")


@contextlib.contextmanager
def cached(control: str = FRESH, trusted: Sequence[str] = ("127.0.0.1",), **members: Any) -> Iterator[Any]:
    telling = Telling(control)
    with origin(telling) as backend:
        routes = [route("/{rest:path}", backend.url, "/{rest}", cache=members.pop("cache", {}), **members)]
        document = {"routers": routes, "trusted_proxies": list(trusted), "cache_storage": {"memory_bytes": 4 << 20}}
        with serving(document) as gate:
            yield gate, telling
            assert gate.reports == []


def bodies(gate: InProcess, *requests: Sequence[str]) -> list[bytes]:
    return [gate.get("/a", *lines)[1] for lines in requests]


def test_http_and_https_behind_a_proxy_that_ends_tls_are_two() -> None:
    """One that is redirected to https would be redirected for ever by what was kept for http."""
    https = ["X-Forwarded-Proto: https"]
    with cached() as (gate, telling):
        got = bodies(gate, [], https, [], https)
        assert got == [b"127.0.0.1:%d|http|test" % port_of(telling), b"127.0.0.1:%d|https|test" % port_of(telling)] * 2
        assert len(telling.heads) == 2


def port_of(telling: Telling) -> int:
    return int(value(telling.heads[0], b"host").partition(b":")[2])


@pytest.mark.parametrize(
    "lines",
    [
        ["X-Forwarded-Host: evil.test"],
        ["X-Forwarded-Port: 8443"],
        ['Forwarded: for=192.0.2.1;host="evil.test"'],
        ["Forwarded: host=evil.test;proto=https"],
    ],
)
def test_what_a_trusted_proxy_passes_on_of_host_and_port_is_kept_apart(lines: list[str]) -> None:
    """Many pass on what they were sent."""
    with cached() as (gate, telling):
        bodies(gate, lines, lines)
        assert len(telling.heads) == 1
        first = gate.get("/a")
        assert len(telling.heads) == 2
        assert b"evil" not in first[1]
        assert gate.get("/a")[1] == first[1]
        assert len(telling.heads) == 2
        gate.get("/a", "X-Forwarded-Host: another.test")
        assert len(telling.heads) == 3


def test_a_proxy_that_says_what_host_says_shares() -> None:
    lines = ["X-Forwarded-Host: test", "X-Forwarded-Port: 80", "X-Forwarded-For: 192.0.2.1"]
    with cached() as (gate, telling):
        bodies(gate, lines, [])
        assert len(telling.heads) == 1


def test_others_are_not_believed_and_share() -> None:
    with cached(trusted=()) as (gate, telling):
        got = bodies(gate, ["X-Forwarded-Proto: https", "X-Forwarded-Host: evil.test"], [])
        assert got[0] == got[1]
        assert b"evil" not in got[0]
        assert len(telling.heads) == 1


@pytest.mark.parametrize("preserve", [True, False])
def test_one_that_is_validated_meanwhile_is_asked_for_as_clients_did(preserve: bool) -> None:
    https = ["X-Forwarded-Proto: https", "Host: shop.test"]
    with cached(STALE, preserve_host=preserve) as (gate, telling):
        first = get(gate, *https)
        assert telling.asked.acquire(timeout=10)
        assert get(gate, *https) == first  # stale, and asked for anew behind its back
        assert telling.asked.acquire(timeout=10)
        again = telling.heads[1]
        assert value(again, b"if-none-match") == b'"1"'
        for name in (b"host", b"x-forwarded-proto", b"x-forwarded-host"):
            assert value(again, name) == value(telling.heads[0], name)


def get(gate: InProcess, *lines: str) -> bytes:
    return gate.request("\r\n".join(["GET /a HTTP/1.1", *lines, "", ""]).encode())[1]


def test_what_was_announced_is_validated_before_it_is_used() -> None:
    announced = ["X-Forwarded-Host: shop.test"]
    with cached(STALE) as (gate, telling):
        bodies(gate, announced, announced)
        assert [value(head, b"x-forwarded-host") for head in telling.heads] == [b"shop.test"] * 2
