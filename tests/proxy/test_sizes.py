"""Sizes that are refused while bodies stream: nothing is held for it."""

from __future__ import annotations

import contextlib
import resource
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import msgspec
import pytest

from kairos.config.policies.sizes import SizeLimits, widest
from kairos.proxy.filters.sizes import Sizes, SizesBothWays, build
from tests.support.gateway import route
from tests.support.inprocess import Chain, InProcess, in_process
from tests.support.net import Peer, origin, read_request, status_of


class Site:
    """What build() looks at."""

    def __init__(self, settings: dict[str, Any], own: int | None) -> None:
        self.policies = self.route = self
        self.size_limits = msgspec.convert(settings, SizeLimits)
        self.body_bytes = own


def made(own: int | None = None, **settings: Any) -> Sizes:
    found = build(Site(settings, own))  # type: ignore[arg-type]
    assert isinstance(found, Sizes)
    return found


def accepts(peer: Peer) -> None:
    while read_request(peer):
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@contextmanager
def stage(script: Any = accepts, own: int | None = None, **settings: Any) -> Iterator[InProcess]:
    with (
        origin(script) as o,
        in_process(
            Chain("/a", route("/a", o.url, methods=["GET", "POST"]), made(own, **settings)), limits={"body_bytes": 0}
        ) as gate,
    ):
        yield gate
        assert gate.reports == []


def post(gate: InProcess, size: int, kind: str = "", *, chunked: bool = False) -> int:
    lines = [f"Content-Type: {kind}"] if kind else []
    framing = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
    head = "\r\n".join(["POST /a HTTP/1.1", "Host: t", *lines, framing, "", ""]).encode()
    with gate.connect() as peer:
        peer.send(head + (b"%x\r\n%s\r\n0\r\n\r\n" % (size, b"x" * size) if chunked else b"x" * size))
        return status_of(peer.receive_head())


# --- requests ---


@pytest.mark.parametrize("chunked", [False, True])
def test_a_request_body_may_be_so_large(chunked: bool) -> None:
    with stage(request_body=1000) as gate:
        assert post(gate, 1000, chunked=chunked) == 200
        assert post(gate, 1001, chunked=chunked) == 413


@pytest.mark.parametrize("chunked", [False, True])
def test_by_its_type(chunked: bool) -> None:
    with stage(request_body=100, types={"image/*": 1000, "image/gif": 10, "Text/Plain": 500}) as gate:
        for kind, limit in (
            ("image/png", 1000),
            ("image/gif", 10),
            ("text/plain; charset=x", 500),
            ("x/y", 100),
            ("", 100),
        ):
            assert post(gate, limit, kind, chunked=chunked) == 200
            assert post(gate, limit + 1, kind, chunked=chunked) == 413


def test_a_routes_own_limit_goes_before_it_but_for_types() -> None:
    with stage(own=500, request_body=100, types={"image/*": 200}) as gate:
        assert post(gate, 500) == 200
        assert post(gate, 300, "image/png") == 413


@pytest.mark.parametrize(
    ("settings", "expected"),
    [({}, None), ({"types": {"a/b": 1}}, None), ({"request_body": 5}, 5), ({"request_body": 0}, 0),
     ({"request_body": 5, "types": {"a/b": 9}}, 9), ({"request_body": 5, "types": {"a/b": 0}}, 0)],
)  # fmt: skip
def test_the_widest_limit_is_that_of_the_plan(settings: dict[str, Any], expected: int | None) -> None:
    assert widest(msgspec.convert(settings, SizeLimits)) == expected


def test_an_upload_is_cut_where_it_becomes_too_large_and_the_backend_sees_it_end() -> None:
    """The backend got all that was allowed, before the client had sent it all."""
    seen: list[int] = []
    enough = threading.Event()
    over = threading.Event()

    def script(peer: Peer) -> None:
        peer.receive_head()
        size = len(peer.pending)
        with contextlib.suppress(OSError):
            while data := peer.sock.recv(65536):
                size += len(data)
                if size > 100_000:
                    enough.set()
        seen.append(size)
        over.set()

    with stage(script, request_body=200_000) as gate, gate.connect() as peer:
        peer.send(b"POST /a HTTP/1.1\r\nHost: t\r\nTransfer-Encoding: chunked\r\n\r\n")
        piece = b"2710\r\n%s\r\n" % (b"x" * 10_000)
        peer.send(piece * 15)
        assert enough.wait(25)
        peer.send(piece * 10)
        assert status_of(peer.receive_head()) == 413
        assert over.wait(25)
    assert 100_000 < seen[0] < 220_000


@pytest.mark.parametrize(
    ("settings", "request_", "expected"),
    [
        ({"target": 10}, "GET /a?1234567 HTTP/1.1\r\nHost: t\r\n\r\n", 200),
        ({"target": 10}, "GET /a?12345678 HTTP/1.1\r\nHost: t\r\n\r\n", 414),
        ({"query_parameters": 2}, "GET /a?a&b HTTP/1.1\r\nHost: t\r\n\r\n", 200),
        ({"query_parameters": 2}, "GET /a?a&b& HTTP/1.1\r\nHost: t\r\n\r\n", 414),
        ({"header_bytes": 9}, "GET /a HTTP/1.1\r\nHost: t\r\nX: 123\r\n\r\n", 200),
        ({"header_bytes": 8}, "GET /a HTTP/1.1\r\nHost: t\r\nX: 123\r\n\r\n", 431),
        ({"header_count": 2}, "GET /a HTTP/1.1\r\nHost: t\r\nX: 1\r\n\r\n", 200),
        ({"header_count": 2}, "GET /a HTTP/1.1\r\nHost: t\r\nX: 1\r\nX: 1\r\n\r\n", 431),
    ],
)
def test_targets_and_fields(settings: dict[str, Any], request_: str, expected: int) -> None:
    with stage(**settings) as gate:
        assert status_of(gate.request(request_.encode())[0]) == expected


def test_a_body_may_have_to_come_faster_or_slower_than_elsewhere() -> None:
    """Judged once it takes longer than timeouts.body_idle."""
    fast, slow = made(upload_rate=1_000_000_000), made(upload_rate=0)
    with (
        origin(accepts) as o,
        in_process(
            Chain("/fast", route("/fast", o.url, methods=["POST"]), fast),
            Chain("/slow", route("/slow", o.url, methods=["POST"]), slow),
            timeouts={"body_idle": 0.5},
        ) as gate,
    ):
        for path, expected in (("/fast", 408), ("/slow", 200)):
            with gate.connect() as peer:
                peer.send(f"POST {path} HTTP/1.1\r\nHost: t\r\nContent-Length: 10\r\n\r\n".encode())
                for _ in range(10):
                    threading.Event().wait(0.08)
                    try:
                        peer.send(b"x")
                    except OSError:
                        break
                assert status_of(peer.receive_head()) == expected


# --- responses ---


def responds(head: bytes, *pieces: bytes) -> Any:
    def script(peer: Peer) -> None:
        peer.receive_head()
        peer.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n")
        for piece in pieces:
            peer.send(piece)
        peer.close()

    return script


def test_a_response_that_announces_too_much_is_502() -> None:
    with stage(responds(b"Content-Length: 1001\r\n", b"x" * 1001), response_body=1000) as gate:
        head, body = gate.get("/a")
        assert status_of(head) == 502
        assert b'"code":"upstream_too_large"' in body
    with stage(responds(b"Content-Length: 1000\r\n", b"x" * 1000), response_body=1000) as gate:
        assert gate.get("/a")[1] == b"x" * 1000


def test_head_announces_what_it_likes() -> None:
    with stage(responds(b"Content-Length: 5000\r\n"), response_body=1000) as gate, gate.connect() as peer:
        peer.send(b"HEAD /a HTTP/1.1\r\nHost: t\r\n\r\n")
        assert status_of(peer.receive_head()) == 200


@pytest.mark.parametrize("chunked", [True, False])
def test_a_response_that_grows_too_large_is_cut(chunked: bool) -> None:
    piece = b"x" * 600
    wire = b"258\r\n" + piece + b"\r\n" if chunked else piece
    head = b"Transfer-Encoding: chunked\r\n" if chunked else b"Connection: close\r\n"
    go_on = threading.Event()

    def script(peer: Peer) -> None:
        peer.receive_head()
        peer.send(b"HTTP/1.1 200 OK\r\n" + head + b"\r\n" + wire)
        go_on.wait(25)
        peer.send(wire + (b"0\r\n\r\n" if chunked else b""))
        peer.close()

    with stage(script, response_body=1000) as gate, gate.connect() as peer:
        peer.send(b"GET /a HTTP/1.1\r\nHost: t\r\n\r\n")
        assert status_of(peer.receive_head()) == 200
        peer.receive_until(piece)
        go_on.set()
        rest = peer.receive_all()
        assert b"x" not in rest
        assert not rest.endswith(b"0\r\n\r\n")
        gate.wait_access(detail="upstream_too_large")


def test_one_that_is_too_large_in_its_first_piece_is_502() -> None:
    def at_once(peer: Peer) -> None:
        peer.receive_head()
        peer.send(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7d0\r\n" + b"x" * 2000 + b"\r\n0\r\n\r\n")

    with stage(at_once, response_body=1000) as gate:
        head, body = gate.get("/a")
        assert (status_of(head), b"upstream_too_large" in body) == (502, True)


def test_nothing_is_held_for_it() -> None:
    """200 MB each way through limits of more than that; what stays in memory is a few reads."""
    size = 200 << 20
    piece = b"x" * (1 << 20)

    def script(peer: Peer) -> None:
        head = peer.receive_head()
        if head.startswith(b"POST"):
            for _ in range(200):
                peer.receive_exactly(1 << 20)
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")
            return
        peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n")
        for _ in range(200):
            peer.send(piece)
        peer.close()

    with stage(script, request_body=size, response_body=size) as gate:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        with gate.connect() as peer:
            peer.send(b"POST /a HTTP/1.1\r\nHost: t\r\nContent-Length: %d\r\n\r\n" % size)
            for _ in range(200):
                peer.send(piece)
            assert status_of(peer.receive_head()) == 200
        with gate.connect() as peer:
            peer.send(b"GET /a HTTP/1.0\r\nHost: t\r\n\r\n")
            peer.receive_head()
            got = 0
            while data := peer.sock.recv(1 << 20):
                got += len(data)
            assert got > size - (1 << 20)
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 60_000  # KB; most are the test's own


def test_only_what_has_a_limit_on_responses_looks_at_them() -> None:
    assert type(made()) is Sizes
    assert type(made(response_body=1)) is SizesBothWays
