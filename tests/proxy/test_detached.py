"""Requests the worker makes itself: over a plan's pool, without a client, filters or a line in the log."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from kairos.proxy.detached import Fetched, fetch
from kairos.proxy.exchange import Response
from tests.proxy.test_interfaces import ALIVE, Hook
from tests.support.gateway import route
from tests.support.inprocess import Chain, InProcess, in_process
from tests.support.net import Peer, dead_port, echo, origin
from tests.support.ws import header


def ask(served: InProcess, *arguments: Any, **options: Any) -> Fetched:
    async def work() -> Fetched:
        return await fetch(served.runtime, served.plan, *arguments, **options)

    answer: Fetched = served.run(work)
    return answer


def test_a_request_and_its_answer() -> None:
    got: list[bytes] = []

    def script(peer: Peer) -> None:
        for _ in range(2):
            head = peer.receive_head()
            got.append(head + peer.receive_exactly(int(header(head, b"content-length") or 0)))
            peer.send(b"HTTP/1.1 201 Created\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n")

    refuses = Hook(request=lambda x: Response(401))
    with origin(script) as o, in_process(Chain("/a", route("/a", o.url), refuses), ALIVE) as served:
        first = ask(served, "POST", b"/x?y", [(b"X-B", b"2"), (b"Content-Length", b"99")], b"body", client=b"10.1.2.3")
        second = ask(served, "GET", b"/z")
        assert (first.status, first.body, first.header(b"x-a"), first.failure) == (201, b"abc", b"1", None)
        assert second.status == 201
        assert served.at_rest()
        assert served.access_lines() == []
    assert got[0].startswith(b"POST /x?y HTTP/1.1\r\n")
    assert got[0].endswith(b"\r\n\r\nbody")
    assert (header(got[0], b"content-length"), header(got[0], b"x-b")) == (b"4", b"2")
    assert header(got[0], b"x-forwarded-for") == b"10.1.2.3"
    assert got[1].startswith(b"GET /z HTTP/1.1\r\n")  # on the same connection


def test_what_fails_is_told_by_its_row() -> None:
    with in_process(Chain("/a", route("/a", f"http://127.0.0.1:{dead_port()}"))) as served:
        answer = ask(served, "GET", b"/")
        assert answer.failure == "connect_failed"


@pytest.mark.parametrize("how", ["length", "chunked"])
def test_an_answer_that_is_too_large_is_none(how: str) -> None:
    framing = b"Content-Length: 300000" if how == "length" else b"Transfer-Encoding: chunked"
    chunk = b"x" * 300000 if how == "length" else b"493e0\r\n" + b"x" * 300000 + b"\r\n"

    def script(peer: Peer) -> None:
        peer.receive_head()
        peer.send(b"HTTP/1.1 200 OK\r\n" + framing + b"\r\n\r\n" + chunk)
        peer.receive_all()

    with origin(script) as o, in_process(Chain("/a", route("/a", o.url))) as served:
        assert ask(served, "GET", b"/", limit=100_000).failure == "upstream_too_large"
        served.wait(served.at_rest, "rest")


def test_an_answer_that_breaks_off_is_none() -> None:
    def script(peer: Peer) -> None:
        peer.receive_head()
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nab")
        peer.close()

    with origin(script) as o, in_process(Chain("/a", route("/a", o.url))) as served:
        assert ask(served, "GET", b"/").failure == "upstream_reset"


def test_who_waits_may_leave() -> None:
    def script(peer: Peer) -> None:
        peer.receive_head()
        assert peer.receive_all() == b""

    with origin(script) as o, in_process(Chain("/a", route("/a", o.url))) as served:

        async def work() -> None:
            asking = fetch(served.runtime, served.plan, "GET", b"/")
            await asyncio.sleep(0.05)
            asking.cancel()

        served.run(work)
        served.wait(served.at_rest, "rest")


@pytest.mark.parametrize("target", [b"x", b"/a b", b"/\r\nX: y"])
def test_a_target_that_is_none_is_refused(target: bytes) -> None:
    with origin(echo) as o, in_process(Chain("/a", route("/a", o.url))) as served, pytest.raises(ValueError):
        ask(served, "GET", target)
