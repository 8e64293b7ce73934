"""Hedging as traces: two origins whose requests wait for the test, one gateway that asks the second one too."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Iterator
from typing import Any

import pytest

from kairos._speedups.cells import (
    P_HEDGE_WINS,
    P_HEDGES,
    R_BUDGET_SPENT,
    R_EXTRA_ACTIVE,
    U_ATTEMPTS,
    U_FAILURES,
    U_IN_FLIGHT,
)
from tests.support import ws
from tests.support.gateway import route
from tests.support.held import Deaf, HeldOrigin, answer, deaf, held_origins
from tests.support.inprocess import METHODS, Chain, InProcess, in_process
from tests.support.net import Peer, dead_port, origin, read_request, status_of

NEVER = 60_000
"""ms: a delay that no test lives to see the end of."""
GET = b"GET /x HTTP/1.1\r\nHost: test\r\n\r\n"
POST = b"POST /x HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n"
"""Not hedged, however late the answer is."""


def hedged(*urls: str, delay_ms: int = 20, **members: Any) -> dict[str, Any]:
    """A route to these origins in turn, the first one first."""
    members = {"methods": METHODS, "hedge": {"min_delay_ms": delay_ms}, **members}
    return route("/x", ",".join(urls), "/x", **members)


@contextlib.contextmanager
def serving(spec: dict[str, Any], **config: Any) -> Iterator[InProcess]:
    """A gateway for this route; in the end nothing may be left of any attempt."""
    with in_process(Chain("/x", spec), **config) as p:
        yield p
        p.wait(p.at_rest, "end of all attempts")
        assert p.reports == []


@contextlib.contextmanager
def pair(count: int = 2, **members: Any) -> Iterator[tuple[InProcess, list[HeldOrigin]]]:
    with held_origins(count) as origins, serving(hedged(*(o.url for o in origins), **members)) as p:
        yield p, origins


def hedges(p: InProcess, origin: HeldOrigin) -> tuple[int, int]:
    """How many were made to it, and how many of them won."""
    return p.pair_cell(origin.url, P_HEDGES), p.pair_cell(origin.url, P_HEDGE_WINS)


def failures(p: InProcess, origin: HeldOrigin) -> int:
    return p.upstream_cell(origin.url, U_FAILURES)


# ---- which of the two wins ------------------------------------------------------------------------------


def test_the_second_answers_first() -> None:
    with pair() as (p, [slow, fast]), p.connect() as client:
        client.send(GET)
        first = slow.received()
        second = fast.received()
        assert p.route_cell(R_EXTRA_ACTIVE) == 1
        assert second.head.replace(fast.url[7:].encode(), b"") == first.head.replace(slow.url[7:].encode(), b"")
        second.answer(b"second")
        assert client.receive_response()[1] == b"second"
        assert first.dropped()
        assert (hedges(p, slow), hedges(p, fast)) == ((0, 0), (1, 1))
        assert (failures(p, slow), failures(p, fast)) == (0, 0)
        client.send(GET)  # nothing came twice: the connection is in step
        slow.received().answer(b"next")
        assert client.receive_response()[1] == b"next"
        line = p.wait_access(attempts=2)
        assert (line["status"], line["upstream"]) == (200, fast.url)


def test_the_first_answers_after_all() -> None:
    with pair() as (p, [slow, fast]), p.connect() as client:
        client.send(GET)
        first, second = slow.received(), fast.received()
        first.answer(b"first")
        assert client.receive_response()[1] == b"first"
        assert second.dropped()
        assert hedges(p, fast) == (1, 0)
        assert p.wait_access(attempts=2)["upstream"] == slow.url


def test_none_is_made_while_the_first_is_in_time() -> None:
    with pair(delay_ms=NEVER) as (p, [one, other]), p.connect() as client:
        for turn in (one, other, one, other):
            client.send(GET)
            turn.received().answer(b"in time")
            assert client.receive_response()[1] == b"in time"
        assert (hedges(p, one), hedges(p, other)) == ((0, 0), (0, 0))


def test_a_finished_exchange_is_not_kept_until_its_hedge_would_have_been_due() -> None:
    with pair(delay_ms=NEVER) as (p, [one, other]):
        for turn in (one, other):
            with p.connect() as client:
                client.send(GET)
                turn.received().answer()
                client.receive_response()
        p.wait(p.at_rest, "rest")
        p.wait(lambda: _exchanges() == 0, "end of the exchanges")


def _exchanges() -> int:
    gc.collect()
    return sum(type(thing).__name__ == "Exchange" for thing in gc.get_objects())


@pytest.mark.parametrize("failing", [0, 1], ids=["the first", "the hedge"])
@pytest.mark.parametrize("status", [500, 503])
def test_an_error_does_not_win_while_the_other_is_under_way(failing: int, status: int) -> None:
    with pair() as (p, origins), p.connect() as client:
        client.send(GET)
        asked = [origin.received() for origin in origins]
        asked[failing].answer(b"oops", status)
        assert asked[failing].dropped()
        asked[1 - failing].answer(b"good")
        head, body = client.receive_response()
        assert (status_of(head), body) == (200, b"good")
        assert [failures(p, origin) for origin in origins] == [1 - failing, failing]


def test_of_two_errors_the_last_is_passed_on() -> None:
    with pair() as (p, [slow, fast]), p.connect() as client:
        client.send(GET)
        first, second = slow.received(), fast.received()
        first.answer(b"first", 500)
        assert first.dropped()
        second.answer(b"second", 503)
        head, body = client.receive_response()
        assert (status_of(head), body) == (503, b"second")
        assert (failures(p, slow), failures(p, fast)) == (1, 1)


@pytest.mark.parametrize("status", [404, 304, 301])
def test_what_is_no_failure_wins(status: int) -> None:
    with pair() as (p, [slow, fast]), p.connect() as client:
        client.send(GET.replace(b"GET", b"HEAD"))
        first, second = slow.received(), fast.received()
        second.peer.send(b"HTTP/1.1 %d Said\r\nContent-Length: 7\r\n\r\n" % status)
        second.over.set()
        assert status_of(client.receive_head()) == status
        assert first.dropped()
        client.send(GET)
        slow.received().answer(b"in step")
        assert client.receive_response()[1] == b"in step"
        assert hedges(p, fast) == (1, 1)


def test_a_long_answer_of_the_hedge_comes_whole() -> None:
    with pair() as (p, [slow, fast]), p.connect() as client:
        client.send(GET)
        first, second = slow.received(), fast.received()
        second.peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nhal")
        client.receive_head()
        assert first.dropped()
        second.peer.send(b"ves")
        second.over.set()
        assert client.receive_exactly(6) == b"halves"


# ---- one of the two fails -------------------------------------------------------------------------------


@pytest.mark.parametrize("failing", [0, 1], ids=["the first", "the hedge"])
@pytest.mark.parametrize("how", ["closed", "malformed", "half a head"])
def test_one_breaks_while_the_other_is_under_way(failing: int, how: str) -> None:
    with pair() as (p, origins), p.connect() as client:
        client.send(GET)
        asked = [origin.received() for origin in origins]
        if how != "closed":
            asked[failing].peer.send(b"nonsense\r\n\r\n" if how == "malformed" else b"HTTP/1.1 200 OK\r\nX-Half")
        asked[failing].hang_up()
        p.wait(lambda: failures(p, origins[failing]) == 1, "failure")
        asked[1 - failing].answer(b"good")
        assert client.receive_response()[1] == b"good"
        assert failures(p, origins[1 - failing]) == 0


def test_both_break() -> None:
    with pair(retry={"max_retries": 0}) as (p, origins), p.connect() as client:
        client.send(GET)
        for asked in [origin.received() for origin in origins]:
            asked.hang_up()
        assert status_of(client.receive_response()[0]) == 502


def test_both_are_too_slow() -> None:
    with pair(timeouts={"first_byte": 1}, retry={"max_retries": 0}) as (p, [slow, fast]), p.connect() as client:
        client.send(GET)
        first, second = slow.received(), fast.received()
        head, body = client.receive_response()
        assert (status_of(head), b"upstream_timeout" in body) == (504, True)
        assert first.dropped()
        assert second.dropped()
        assert (failures(p, slow), failures(p, fast)) == (1, 1)


def test_time_is_up_for_both() -> None:
    with pair(timeouts={"total": 1}) as (p, [slow, fast]), p.connect() as client:
        client.send(GET)
        first, second = slow.received(), fast.received()
        head, body = client.receive_response()
        assert (status_of(head), b"total_timeout" in body) == (504, True)
        assert first.dropped()
        assert second.dropped()


def test_the_hedge_is_refused_while_the_first_goes_on() -> None:
    with held_origins(1) as [slow]:
        dead = f"http://127.0.0.1:{dead_port()}"
        with serving(hedged(slow.url, dead)) as p, p.connect() as client:
            client.send(GET)
            first = slow.received()
            p.wait(lambda: p.upstream_cell(dead, U_FAILURES) == 1, "refusal")
            first.answer(b"first")
            assert client.receive_response()[1] == b"first"
            assert p.wait_access(status=200)["upstream"] == slow.url


def test_a_stale_pooled_connection_of_the_hedge_is_no_failure_of_its_backend() -> None:
    with pair() as (p, [slow, fast]), p.connect() as client:
        client.send(POST)
        slow.received().answer()
        client.receive_response()
        client.send(POST)
        fast.received().answer()  # the next one to it goes over this connection, which dies just then
        client.receive_response()
        client.send(GET)
        first, second = slow.received(), fast.received()
        second.hang_up()
        p.wait(lambda: p.upstream_cell(fast.url, U_IN_FLIGHT) == 0, "end of the hedge")
        first.answer(b"first")
        assert client.receive_response()[1] == b"first"
        assert failures(p, fast) == 0


# ---- while the hedge is still being connected -----------------------------------------------------------


@contextlib.contextmanager
def dialling(**members: Any) -> Iterator[tuple[InProcess, HeldOrigin, Deaf]]:
    """The second backend lets those who connect wait, then answers `hedge`."""
    with held_origins(1) as [slow], deaf(_says_hedge) as other, serving(hedged(slow.url, other.url, **members)) as p:
        yield p, slow, other


def _says_hedge(peer: Peer) -> None:
    read_request(peer)
    peer.send(answer(b"hedge", 200, b"Connection: close"))


def under_way(p: InProcess, url: str) -> None:
    p.wait(lambda: p.upstream_cell(url, U_IN_FLIGHT) == 1, "hedge")


@pytest.mark.parametrize("how", ["closed", "malformed", "500", "503", "retried 503"])
def test_the_first_fails_while_the_hedge_is_dialled(how: str) -> None:
    retry = {"retry": {"max_retries": 3, "initial_backoff_ms": 1}} if how.startswith("retried") else {}
    with dialling(**retry) as (p, slow, other), p.connect() as client:
        client.send(GET)
        first = slow.received()
        under_way(p, other.url)
        if how[-3:].isdigit():
            first.answer(b"oops", int(how[-3:]))
        else:
            first.peer.send(b"nonsense\r\n\r\n" if how == "malformed" else b"")
            first.hang_up()
        p.wait(lambda: p.upstream_cell(slow.url, U_FAILURES) == 1, "failure of the first")
        assert slow.count == 1
        other.hear()
        head, body = client.receive_response()
        assert (status_of(head), body) == (200, b"hedge")
        assert slow.count == 1
        assert p.wait_access(status=200)["attempts"] == 2


def test_the_first_answers_while_the_hedge_is_dialled() -> None:
    with dialling() as (p, slow, other), p.connect() as client:
        client.send(GET)
        first = slow.received()
        under_way(p, other.url)
        first.answer(b"first")
        assert client.receive_response()[1] == b"first"
        p.wait(p.at_rest, "end of the dial")
        assert p.upstream_cell(other.url, U_ATTEMPTS) == 0


@pytest.mark.parametrize("alone", [False, True], ids=["first under way", "first failed"])
def test_the_client_leaves_while_the_hedge_is_dialled(alone: bool) -> None:
    with dialling() as (p, slow, other):
        with p.connect() as client:
            client.send(GET)
            first = slow.received()
            under_way(p, other.url)
            if alone:
                first.hang_up()
                p.wait(lambda: p.upstream_cell(slow.url, U_FAILURES) == 1, "failure of the first")
        assert p.wait_access(status=499)["attempts"] == 1
        p.wait(p.at_rest, "end of the dial")


def test_time_is_up_while_only_a_dial_is_left() -> None:
    with dialling(timeouts={"total": 1, "connect": 30}) as (p, slow, other), p.connect() as client:
        client.send(GET)
        first = slow.received()
        under_way(p, other.url)
        first.hang_up()
        head, body = client.receive_response()
        assert (status_of(head), b"total_timeout" in body) == (504, True)


def test_the_client_leaves_while_both_are_under_way() -> None:
    with pair() as (p, [slow, fast]):
        with p.connect() as client:
            client.send(GET)
            first, second = slow.received(), fast.received()
        assert first.dropped()
        assert second.dropped()
        assert p.wait_access(status=499)["attempts"] == 2
        assert (failures(p, slow), failures(p, fast)) == (0, 0)


# ---- bodies and methods ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [b"POST", b"PATCH"])
def test_what_must_not_be_done_twice_is_not_hedged(method: bytes) -> None:
    with pair() as (p, [one, other]), p.connect() as client:
        client.send(method + b" /x HTTP/1.1\r\nHost: test\r\nContent-Length: 2\r\n\r\nhi")
        first = one.received()
        with p.connect() as neighbour:  # one that is hedged, and so tells when its due was over
            neighbour.send(GET)
            asked = other.received()
            one.received().answer()
            neighbour.receive_response()
            assert asked.dropped()
        first.answer(b"once")
        assert client.receive_response()[1] == b"once"
        assert (one.count, other.count) == (2, 1)
        assert p.wait_access(method=method.decode())["attempts"] == 1


PIECES: dict[str, list[bytes]] = {
    "length, with the head": [b"Content-Length: 10\r\n\r\nhelloworld"],
    "length, later": [b"Content-Length: 10\r\n\r\n", b"hello", b"world"],
    "length, partly later": [b"Content-Length: 10\r\n\r\nhel", b"loworld"],
    "chunked, with the head": [b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n5\r\nworld\r\n0\r\n\r\n"],
    "chunked, later": [b"Transfer-Encoding: chunked\r\n\r\n", b"5\r\nhello\r\n", b"5\r\nworld\r\n0\r\n\r\n"],
}


@pytest.mark.parametrize("pieces", PIECES.values(), ids=PIECES)
def test_a_hedge_sends_the_whole_body(pieces: list[bytes]) -> None:
    with held_origins(2) as [one, other], deaf(one) as front:
        spec = hedged(front.url, other.url, retry={"retry_non_idempotent": True})
        with serving(spec) as p, p.connect() as client:
            client.send(b"POST /x HTTP/1.1\r\nHost: test\r\n" + pieces[0])
            for piece in pieces[1:]:
                time.sleep(0.02)  # a segment of its own, while the first backend is not connected yet
                client.send(piece)
            front.hear()
            first, second = one.received(), other.received()
            assert (first.body, second.body) == (b"helloworld", b"helloworld")
            second.answer(b"taken")
            assert client.receive_response()[1] == b"taken"
            assert first.dropped()


def test_a_body_too_large_to_be_kept_is_not_hedged() -> None:
    with pair(retry={"buffer_bytes": 10}) as (p, [one, other]), p.connect() as client:
        client.send(b"PUT /x HTTP/1.1\r\nHost: test\r\nContent-Length: 40\r\n\r\n")
        client.send(b"x" * 20)
        p.wait(lambda: one.listening.connections == 1, "first attempt")
        client.send(b"y" * 20)
        first = one.received()
        with p.connect() as neighbour:
            neighbour.send(GET)
            asked = other.received()
            one.received().answer()
            neighbour.receive_response()
            assert asked.dropped()
        first.answer(b"once")
        assert client.receive_response()[1] == b"once"
        assert other.count == 1


# ---- when none is made ----------------------------------------------------------------------------------


def test_a_single_backend_is_never_hedged() -> None:
    with pair(1, delay_ms=1) as (p, [only]), p.connect() as client:
        client.send(GET)
        first = only.received()
        with p.connect() as later:  # its due comes after the first one's
            later.send(GET)
            asked = only.received()
            time.sleep(0.05)
            asked.answer()
            later.receive_response()
        first.answer()
        client.receive_response()
        assert (only.count, hedges(p, only)) == (2, (0, 0))


def test_none_without_budget() -> None:
    with pair(retry={"budget_min": 0, "budget_percent": 0}) as (p, [one, other]), p.connect() as client:
        client.send(GET)
        first = one.received()
        p.wait(lambda: p.route_cell(R_BUDGET_SPENT) == 1, "refusal of the budget")
        first.answer(b"alone")
        assert client.receive_response()[1] == b"alone"
        assert other.count == 0


def test_a_hedge_that_finds_no_room_takes_nothing_from_the_budget() -> None:
    with held_origins(2) as [one, other]:
        spec = hedged(one.url, other.url)
        spec["backends"][1]["max_requests"] = 1
        with serving(spec) as p, p.connect() as client, p.connect() as neighbour:
            client.send(GET)
            first = one.received()
            second = other.received()  # the hedge has the only slot
            assert p.route_cell(R_EXTRA_ACTIVE) == 1
            neighbour.send(GET)
            third = one.received()
            time.sleep(0.1)  # due by now
            assert (other.count, p.route_cell(R_EXTRA_ACTIVE)) == (1, 1)
            third.answer(b"third")
            assert neighbour.receive_response()[1] == b"third"
            first.answer(b"first")
            assert client.receive_response()[1] == b"first"
            assert second.dropped()


def test_handshakes_are_not_hedged() -> None:
    with pair(upgrade=True) as (p, [one, other]), p.connect() as client:
        client.send(ws.handshake("/x"))
        first = one.received()
        with p.connect() as neighbour:
            neighbour.send(GET)
            asked = other.received()
            one.received().answer()
            neighbour.receive_response()
            assert asked.dropped()
        accepted = ws.accept(ws.KEY)
        first.peer.send(
            b"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: %s\r\n\r\n"
            % accepted
        )
        assert status_of(client.receive_head()) == 101
        assert other.count == 1
        client.close()
        first.over.set()


# ---- interim answers, retries, reloads ------------------------------------------------------------------

HINT = b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n"


def test_an_interim_answer_that_went_out_ties_the_client_to_the_first() -> None:
    with pair(delay_ms=1000) as (p, [one, other]), p.connect() as client:
        client.send(GET)
        first = one.received()
        first.peer.send(HINT)
        assert status_of(client.receive_head()) == 103
        with p.connect() as neighbour:  # hedged, in the order of the dues
            neighbour.send(GET)
            asked = other.received()
            one.received().answer()
            neighbour.receive_response()
            assert asked.dropped()
        first.answer(b"final")
        assert client.receive_response()[1] == b"final"
        assert other.count == 1


@pytest.mark.parametrize("hinting", [0, 1])
def test_an_interim_answer_beside_a_hedge_breaks_nothing(hinting: int) -> None:
    with pair() as (p, origins), p.connect() as client:
        client.send(GET)
        asked = [origin.received() for origin in origins]
        asked[hinting].peer.send(HINT)
        asked[hinting].hang_up()
        p.wait(lambda: failures(p, origins[hinting]) == 1, "failure")
        asked[1 - hinting].answer(b"final")
        head, body = client.receive_response()
        assert (status_of(head), body) == (200, b"final")


def test_an_interim_answer_while_the_hedge_is_dialled_breaks_nothing() -> None:
    with dialling() as (p, slow, other), p.connect() as client:
        client.send(GET)
        first = slow.received()
        under_way(p, other.url)
        first.peer.send(HINT)
        first.hang_up()
        other.hear()
        head, body = client.receive_response()
        assert (status_of(head), body) == (200, b"hedge")


@pytest.mark.parametrize("how", ["decline", "break"])
def test_both_fail_and_a_retry_follows(how: str) -> None:
    with pair(3, retry={"initial_backoff_ms": 0}) as (p, [first, *others]), p.connect() as client:
        client.send(GET)
        asked = first.received()
        p.wait(lambda: any(o.count for o in others), "hedge")
        hedge, last = sorted(others, key=lambda o: -o.count)
        for count, one in enumerate((hedge.received(), asked), 1):
            if how == "break":
                one.hang_up()
            else:
                one.answer(b"no", 503)
            p.wait(lambda: failures(p, first) + failures(p, hedge) >= count, "failure")  # noqa: B023 - called at once
        last.received().answer(b"third")
        assert client.receive_response()[1] == b"third"
        assert p.wait_access(status=200)["attempts"] == 3
        assert [failures(p, o) for o in (first, hedge, last)] == [1, 1, 0]


def test_a_reload_while_both_are_under_way() -> None:
    with pair() as (p, [slow, fast]), p.connect() as client:
        client.send(GET)
        first, second = slow.received(), fast.received()
        p.reload_the_same()
        second.answer(b"second")
        assert client.receive_response()[1] == b"second"
        assert first.dropped()
        client.send(GET)
        one_of = slow.received()
        one_of.answer(b"next")
        assert client.receive_response()[1] == b"next"


# ---- how long it waits ----------------------------------------------------------------------------------


def test_the_delay_is_the_routes_percentile_and_survives_a_reload() -> None:
    def slowly(peer: Peer) -> None:
        while True:
            read_request(peer)
            time.sleep(0.05)
            peer.send(answer(b"ok"))

    budget = {"budget_min": 0, "budget_percent": 0}
    with origin(slowly) as o:
        spec = hedged(o.url, o.url, hedge={"percentile": 60, "min_delay_ms": 1}, retry=budget)
        with serving(spec) as p:
            assert _delay(p) == 0.001
            p.wait(lambda: _learns(p), "percentile of what was seen")
            learned = _delay(p)
            p.reload_the_same()
            p.get("/x")
            assert 0.05 <= _delay(p) <= learned * 1.5


def _delay(p: InProcess) -> float:
    assert p.plan.hedger is not None
    return p.plan.hedger.delay


def _learns(p: InProcess) -> bool:
    p.get("/x")
    return 0.05 <= _delay(p) <= 0.1


def test_the_delay_is_never_less_than_the_least() -> None:
    def quickly(peer: Peer) -> None:
        while True:
            read_request(peer)
            peer.send(answer(b"ok"))

    with origin(quickly) as o, serving(hedged(o.url, o.url, delay_ms=500)) as p:
        ends = time.monotonic() + 1.2
        while time.monotonic() < ends:
            p.get("/x")
        assert _delay(p) == 0.5
