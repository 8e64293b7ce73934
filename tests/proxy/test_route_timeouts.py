"""Timeouts of routes where attempts are several or none has a connection yet; single phases are in test_timeouts.py."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest

from tests.support.gateway import route
from tests.support.held import deaf, held_origins
from tests.support.inprocess import METHODS, Chain, in_process
from tests.support.net import read_request, status_of

GET = b"GET /x HTTP/1.1\r\nHost: test\r\n\r\n"


def to(*urls: str, **members: Any) -> Chain:
    return Chain("/x", route("/x", ",".join(urls), "/x", methods=METHODS, **members))


@pytest.mark.parametrize("method", ["GET", "POST"])
def test_no_connection_in_time(method: str) -> None:
    with (
        deaf(read_request) as silent,
        in_process(to(silent.url, timeouts={"connect": 0.2}), timeouts={"connect": 30}) as p,
    ):
        head, body = p.request(f"{method} /x HTTP/1.1\r\nHost: test\r\n\r\n".encode())
        assert (status_of(head), b'"connect_timeout"' in body) == (504, True)
        assert p.wait_access(status=504)["detail"] == "connect_timeout"
        p.wait(p.at_rest, "rest")


def test_who_cannot_be_connected_in_time_is_replaced_even_for_a_post() -> None:
    with contextlib.ExitStack() as stack:
        silent = stack.enter_context(deaf(read_request))
        [other] = stack.enter_context(held_origins(1))
        p = stack.enter_context(in_process(to(silent.url, other.url, timeouts={"connect": 0.2})))
        client = stack.enter_context(p.connect())
        client.send(b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi")
        asked = other.received()
        assert asked.body == b"hi"
        asked.answer(b"taken")
        assert client.receive_response()[1] == b"taken"


def test_the_total_covers_a_dial() -> None:
    with deaf(read_request) as silent, in_process(to(silent.url, timeouts={"connect": 30, "total": 0.3})) as p:
        head, body = p.request(GET)
        assert (status_of(head), b"total_timeout" in body) == (504, True)
        p.wait(p.at_rest, "end of the dial")


def test_the_total_covers_all_attempts_together() -> None:
    retry = {"retry": {"max_retries": 10, "initial_backoff_ms": 0}}
    with held_origins(1) as [slow], in_process(to(slow.url, timeouts={"first_byte": 0.3, "total": 3.0}, **retry)) as p:
        head, body = p.request(GET)
        assert (status_of(head), b"timeout" in body) == (504, True)
        assert 2 <= slow.count <= 10  # deadlines are looked at about once a second
        p.wait(p.at_rest, "rest")


def test_each_attempt_has_its_own_time_to_the_first_byte() -> None:
    with held_origins(2) as [slow, other]:
        members: dict[str, Any] = {"retry": {"initial_backoff_ms": 0}, "timeouts": {"first_byte": 0.5}}
        with in_process(to(slow.url, other.url, **members)) as p, p.connect() as client:
            client.send(GET)
            first = slow.received()
            second = other.received()
            assert first.dropped()
            second.answer(b"second")
            assert client.receive_response()[1] == b"second"
