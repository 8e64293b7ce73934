"""Passive ejection: who stands out, who may be spared, for how long; then the detector over cells of real size."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable

import pytest
from structlog.testing import capture_logs

from kairos._speedups import cells
from kairos.config.model import Config, OutlierDetection, Route
from kairos.control.outlier import OutlierDetector, Sentence, Window, may_eject, sentence, worst
from kairos.control.upstreams import monotonic_us
from tests.control.page import Board, in_loop, route, until
from tests.support.gateway import gateway
from tests.support.gateway import route as gateway_route
from tests.support.net import Peer, origin, status_of

A, B, C = "http://a:80", "http://b:80", "http://c:80"
SPEC = OutlierDetection()


def errors(failures: int, attempts: int = 100) -> Window:
    return Window(attempts=attempts, failures=failures)


def slow(ms: float, answers: int = 100) -> Window:
    return Window(attempts=answers, answers=answers, answer_us=int(answers * ms * 1000))


# --- who stands out -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("windows", "found"),
    [
        ({"a": errors(100), "b": errors(0)}, "a"),
        ({"a": errors(50), "b": errors(0)}, "a"),
        ({"a": errors(49), "b": errors(0)}, None),
        ({"a": errors(60), "b": errors(30)}, None),
        ({"a": errors(60), "b": errors(29)}, "a"),
        ({"a": errors(19, attempts=19), "b": errors(0)}, None),
        ({"a": errors(20, attempts=20), "b": errors(0)}, "a"),
        ({"a": errors(100), "b": errors(0, attempts=0)}, None),
        ({"a": errors(100), "b": errors(100), "c": errors(0)}, None),
        ({"a": errors(60), "b": errors(90), "c": errors(0, attempts=900)}, "b"),
        ({"a": errors(100)}, None),
        ({}, None),
    ],
)
def test_failures_are_compared_with_those_of_the_others_together(windows, found):
    finding = worst(SPEC, windows)
    assert (finding.key if finding else None) == found


@pytest.mark.parametrize(
    ("windows", "found"),
    [
        ({"a": slow(50), "b": slow(10)}, "a"),
        ({"a": slow(49), "b": slow(10)}, None),
        ({"a": slow(50, answers=19), "b": slow(10)}, None),
        ({"a": slow(50), "b": slow(10, answers=19)}, None),
        ({"a": slow(50), "b": slow(10), "c": slow(40)}, None),  # median of the others: 25 ms
        ({"a": slow(50), "b": slow(1), "c": slow(10), "d": slow(500)}, "d"),
        ({"a": slow(4), "b": slow(0.1)}, None),  # quick, for all that it is forty times slower
        ({"a": slow(5), "b": slow(0.1)}, "a"),
    ],
)
def test_time_to_the_head_is_compared_with_the_median_of_the_others(windows, found):
    finding = worst(SPEC, windows)
    assert (finding.key if finding else None) == found


def test_a_latency_factor_of_zero_compares_only_failures():
    assert worst(OutlierDetection(latency_factor=0), {"a": slow(900), "b": slow(1)}) is None


def test_failures_come_before_slowness():
    assert worst(SPEC, {"a": slow(900), "b": errors(90), "c": slow(1)}).measure == "error_percent"


# --- who may be spared, for how long --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("percent", "backends", "ejected", "available", "allowed"),
    [
        (50, 2, 0, 2, True),
        (50, 2, 0, 1, False),  # the other one is down: never the last
        (50, 2, 1, 1, False),
        (50, 4, 1, 3, True),
        (50, 4, 2, 2, False),
        (50, 3, 1, 2, False),  # half of three is one
        (0, 9, 0, 9, True),  # at least one
        (0, 9, 1, 8, False),
        (100, 3, 1, 2, True),
        (100, 3, 2, 1, False),
    ],
)
def test_no_ejection_beyond_what_a_route_can_spare(percent, backends, ejected, available, allowed):
    spec = OutlierDetection(max_ejection_percent=percent)
    assert may_eject(spec, backends=backends, ejected=ejected, available=available) is allowed


def test_each_ejection_in_a_row_is_longer_up_to_the_longest():
    spec, last, now, seconds = OutlierDetection(ejection_time=30, max_ejection_time=100), None, 0, []
    for _ in range(5):
        last = sentence(spec, last, now)
        seconds.append((last.until_us - last.from_us) / 1e6)
        now = last.until_us + 10_000_000
    assert seconds == [30, 60, 90, 100, 100]


def test_who_behaved_for_as_long_as_it_was_out_begins_anew():
    spec = OutlierDetection(interval=10, ejection_time=30)
    last = Sentence(2, 0, 60_000_000)
    assert sentence(spec, last, 120_000_000).in_a_row == 3
    assert sentence(spec, last, 120_000_001).in_a_row == 1


def test_a_short_ejection_is_remembered_for_two_looks():
    spec = OutlierDetection(interval=10, ejection_time=1)
    last = Sentence(1, 0, 1_000_000)
    assert sentence(spec, last, 21_000_000).in_a_row == 2
    assert sentence(spec, last, 21_000_001).in_a_row == 1


# --- at work --------------------------------------------------------------------------------------------------------

QUICK = OutlierDetection(interval=0.05, ejection_time=0.3, max_ejection_time=60)
LONG = OutlierDetection(interval=0.05, ejection_time=60)


def config(*routes: Route, spec: OutlierDetection = QUICK) -> Config:
    return Config(routers=list(routes), outlier_detection=spec)


def ejected(board: Board, key: str) -> bool:
    return board.word(key, cells.SU_SKIP_UNTIL_US) > monotonic_us()


def ejections(board: Board, key: str) -> int:
    return board.word(key, cells.SU_EJECTED)


async def look() -> None:
    """Wait for the end of a window that holds all that was counted so far."""
    await asyncio.sleep(3 * QUICK.interval)


def test_a_failing_backend_is_left_out_for_its_time_and_comes_back_slowly():
    async def trace() -> None:
        board = Board()
        detector = OutlierDetector(board.scoreboard)
        detector.apply(*board.assign(config(route("/a", "http://a", "http://b"))))
        await asyncio.sleep(0)  # the first window begins
        began = monotonic_us()
        board.work(A, slot=0, attempts=50, failures=30)
        board.work(A, slot=1, attempts=50, failures=50)
        board.work(B, attempts=100)
        await until(lambda: ejections(board, A))
        assert not ejections(board, B)
        await until(lambda: board.word(A, cells.SU_SKIP_UNTIL_US) == 0, "the end")
        back = board.word(A, cells.SU_BACK_AT_US)
        assert began + 290_000 < back <= monotonic_us()
        assert ejections(board, A) == 1
        await detector.close()

    with capture_logs() as logs:
        in_loop(trace)
    assert [entry["event"] for entry in logs] == ["backend ejected", "ejection over"]
    assert logs[0] | {
        "upstream": A, "route": "/a", "error_percent": 80.0, "error_percent_of_others": 0.0, "seconds": 0.3,
        "in_a_row": 1, "log_level": "warning",
    } == logs[0]  # fmt: skip


def test_counts_of_earlier_windows_are_nobodys_fault():
    async def trace() -> None:
        board = Board()
        given = board.assign(config(route("/a", "http://a", "http://b")))
        board.work(A, attempts=1000, failures=1000)
        board.work(B, attempts=1000)
        detector = OutlierDetector(board.scoreboard)
        detector.apply(*given)
        await look()
        assert ejections(board, A) == 0
        await detector.close()

    in_loop(trace)


def test_the_last_available_backend_stays():
    """B is down, drained, ejected or has an open breaker: A fails, and is asked all the same."""

    async def trace() -> None:
        for word, value in [
            (cells.SU_OUT, cells.OUT_DOWN),
            (cells.SU_OUT, cells.OUT_DRAIN),
            (cells.SU_FORCED, cells.FORCED_OPEN),
            (cells.SU_SKIP_UNTIL_US, monotonic_us() + 60_000_000),
        ]:
            board = Board()
            given = board.assign(config(route("/a", "http://a", "http://b", "http://c"), spec=LONG))
            board.upstream(B).set(word, value)
            board.upstream(C).set(word, value)
            detector = OutlierDetector(board.scoreboard)
            detector.apply(*given)
            await asyncio.sleep(0)
            board.work(A, attempts=100, failures=100)
            board.work(B, attempts=100)
            await look()
            assert not ejected(board, A)
            await detector.close()

    in_loop(trace)


def test_one_route_ejects_for_all_but_takes_no_other_routes_last_backend():
    async def trace() -> None:
        board = Board()
        routes = route("/a", "http://a", "http://b"), route("/b", "http://a", "http://c")
        given = board.assign(config(*routes, spec=LONG))
        board.upstream(C).put_out(cells.OUT_MAINTENANCE)
        detector = OutlierDetector(board.scoreboard)
        detector.apply(*given)
        await asyncio.sleep(0)
        board.work(A, attempts=100, failures=100)
        board.work(B, attempts=100)
        await look()
        assert not ejected(board, A), "/b has only A"
        board.upstream(C).put_back(cells.OUT_MAINTENANCE)
        board.work(A, attempts=100, failures=100)
        board.work(B, attempts=100)
        await until(lambda: ejected(board, A))
        await detector.close()

    in_loop(trace)


def test_a_reload_that_compares_it_no_more_ends_its_ejection():
    async def trace() -> None:
        for after in [
            config(route("/a", "http://a", "http://b"), spec=OutlierDetection(enabled=False)),
            config(route("/a", "http://a")),
            config(route("/a", "http://b", "http://c")),
        ]:
            board = Board()
            detector = OutlierDetector(board.scoreboard)
            detector.apply(*board.assign(config(route("/a", "http://a", "http://b"), spec=LONG)))
            await asyncio.sleep(0)
            board.work(A, attempts=100, failures=100)
            board.work(B, attempts=100)
            await until(lambda board=board: ejected(board, A))
            before = monotonic_us()
            detector.apply(*board.assign(after))
            assert board.word(A, cells.SU_SKIP_UNTIL_US) == 0
            assert board.word(A, cells.SU_BACK_AT_US) >= before
            await detector.close()

    in_loop(trace)


def test_a_reload_that_changes_nothing_keeps_window_and_ejection():
    async def trace() -> None:
        board = Board()
        detector = OutlierDetector(board.scoreboard)
        given = board.assign(config(route("/a", "http://a", "http://b"), spec=LONG))
        detector.apply(*given)
        await asyncio.sleep(0)
        board.work(A, attempts=100, failures=100)
        board.work(B, attempts=100)
        detector.apply(*given)
        await until(lambda: ejected(board, A))
        until_us = board.word(A, cells.SU_SKIP_UNTIL_US)
        detector.apply(*given)
        assert board.word(A, cells.SU_SKIP_UNTIL_US) == until_us
        await detector.close()
        assert board.word(A, cells.SU_SKIP_UNTIL_US) == until_us

    in_loop(trace)


@pytest.mark.parametrize("left_us", [200_000, -200_000], ids=["still out", "over while nobody looked"])
def test_the_next_control_process_takes_up_an_ejection(left_us):
    async def trace() -> None:
        board = Board()
        given = board.assign(config(route("/a", "http://a", "http://b")))
        end = monotonic_us() + left_us
        board.upstream(A).set(cells.SU_SKIP_UNTIL_US, end)
        detector = OutlierDetector(board.scoreboard)
        detector.apply(*given)
        assert board.word(A, cells.SU_SKIP_UNTIL_US) == end
        await until(lambda: board.word(A, cells.SU_SKIP_UNTIL_US) == 0, "the end")
        assert board.word(A, cells.SU_BACK_AT_US) >= end - 2000
        await detector.close()

    in_loop(trace)


# --- a whole gateway ------------------------------------------------------------------------------------------------


def answering(status: bytes) -> Callable[[Peer], None]:
    def script(peer: Peer) -> None:
        while True:
            peer.receive_head()
            peer.send(b"HTTP/1.1 %s\r\nContent-Length: 0\r\n\r\n" % status)

    return script


def test_a_gateway_leaves_out_a_backend_that_answers_with_errors():
    with origin(answering(b"500 Oops")) as broken, origin(answering(b"200 OK")) as fine:
        served = gateway_route("/a", f"{broken.url},{fine.url}", circuit_breaker={"enabled": False}, slow_start=0)
        detection = {"interval": 0.5, "ejection_time": 600, "max_ejection_time": 600}
        config = {"version": 1, "routers": [served], "outlier_detection": detection}
        with gateway(config, workers=2) as running:

            def statuses() -> set[int]:
                return {status_of(running.get("/a")[0]) for _ in range(20)}

            assert statuses() == {200, 500}
            running.wait(lambda: statuses() and "backend ejected" in running.log, "ejection")
            assert statuses() == {200}
            facts = next(json.loads(line) for line in running.log.splitlines() if "backend ejected" in line)
            assert (facts["upstream"], facts["error_percent"]) == (broken.url, 100.0)
            os.kill(facts["pid"], signal.SIGKILL)
            running.wait_log("control killed by SIGKILL")
            assert statuses() == {200}
            running.write(config | {"outlier_detection": {"enabled": False}})
            running.signal(signal.SIGHUP)
            running.wait_log("ejection over")
            assert statuses() == {200, 500}
