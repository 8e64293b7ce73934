"""From the shared page into a real database and out again: rates, percentiles, gaps, restarts; on both databases."""

from __future__ import annotations

import asyncio
import os
import resource
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from kairos._speedups import cells
from kairos.control.history.query import QueryError
from kairos.control.history.rollup import DAY, LEVELS
from kairos.storage.database import UnavailableError
from tests.history.recording import (
    APP,
    ORDERS,
    SPARE,
    START,
    USERS,
    Gateway,
    Recording,
    Time,
    in_loop,
    open_database,
    recorded,
    sqlite_url,
)
from tests.support.postgres import PostgresServer, postgres_server


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return sqlite_url(tmp_path)
    server: PostgresServer = request.getfixturevalue("postgres")
    return server.database()


def test_rates_are_per_second_and_group_by_any_label(url: str) -> None:
    async def trace(recording: Recording) -> None:
        gateway, time = recording.gateway, recording.time
        gateway.request(times=1000)  # before anybody looked
        await recording.begin()
        await recording.tick(10, lambda: gateway.request(times=50))
        await recording.tick(10, lambda: gateway.request(times=20, slot=1, code=cells.CLASS_5XX))
        await recording.tick(10)
        await recording.tick(10, lambda: gateway.request(ORDERS, SPARE, times=10, method=cells.METHOD_POST))
        name = "kairos_http_requests_total"
        span: dict[str, Any] = {"start": START, "end": time.wall, "step": 10}
        assert await recording.line(name, **span) == [5.0, 2.0, 0.0, 1.0]
        assert await recording.line(name, **span, aggregations=["increase"]) == [50, 20, 0, 10]
        by_code = await recording.ask(name, **span, group_by=["code"])
        assert {line.labels["code"]: line.values for line in by_code} == {
            "2xx": [5.0, 0, 0, 1.0],
            "5xx": [0, 2.0, 0, 0],
        }
        by_both = await recording.ask(name, **span, group_by=["route", "upstream", "method"])
        assert [tuple(line.labels.values()) for line in by_both] == [(ORDERS, SPARE, "POST"), (USERS, APP, "GET")]
        assert [line.total for line in by_both] == [10 / 40, 70 / 40]
        only = await recording.ask(name, **span, where={"code": ["5*"], "route": ["/users/*"]})
        assert [line.values for line in only] == [[0, 2.0, 0, 0]]
        assert await recording.line("kairos_http_server_error_ratio", **span) == [0, 1.0, None, 0]
        assert await recording.line("kairos_http_server_error_ratio", **{**span, "step": 20}) == [20 / 70, 0.0]

    recorded(url, trace)


def test_percentiles_are_of_all_that_was_seen_and_not_of_percentiles(url: str) -> None:
    async def trace(recording: Recording) -> None:
        gateway, time = recording.gateway, recording.time
        await recording.begin()
        await recording.tick(10, lambda: gateway.request(us=800, times=98))
        await recording.tick(10, lambda: gateway.request(ORDERS, us=4_000_000, times=2))
        name = "kairos_http_request_duration_seconds"
        lines = await recording.ask(
            name, start=START, end=time.wall, step=60, aggregations=["p50", "p99", "avg", "increase"]
        )
        p50, p99, avg, count = (line.values[0] for line in lines)
        assert p50 == pytest.approx(0.0005 + 0.0005 * 50 / 98)
        assert p99 == pytest.approx(2.5 + 2.5 * 1 / 2)  # the 99th of 100 is the first of the two slow ones
        assert avg == pytest.approx((98 * 0.0008 + 2 * 4) / 100)
        assert count == 100
        by_route = await recording.ask(name, start=START, end=time.wall, step=60, group_by=["route"], top=1)
        assert [line.labels for line in by_route] == [{"route": ORDERS}]

    recorded(url, trace)


def test_gauges_are_averaged_over_time_and_zero_when_they_are_not_there(url: str) -> None:
    async def trace(recording: Recording) -> None:
        gateway, time = recording.gateway, recording.time
        await recording.begin()
        for connections in (10, 4, 0, 0, 0, 0):
            gateway.worker(cells.W_CONNECTIONS_OPEN, connections)
            gateway.worker(cells.W_CONNECTIONS_OPEN, connections, slot=1)
            await recording.tick()
        lines = await recording.ask(
            "kairos_connections", start=START, end=time.wall, step=60, aggregations=["avg", "min", "max", "last"]
        )
        assert [line.values for line in lines] == [[28 / 6], [0], [20], [0]]

    recorded(url, trace)


def test_availability_is_the_share_of_time_in_which_checks_succeeded(url: str) -> None:
    async def trace(recording: Recording) -> None:
        gateway, time = recording.gateway, recording.time
        await recording.begin()
        for checks, out in ((1, 0), (2, cells.OUT_DOWN), (3, cells.OUT_DOWN | cells.OUT_DRAIN), (4, 0)):
            gateway.shared(APP, cells.SU_CHECKS, checks)
            gateway.shared(APP, cells.SU_OUT, out)
            await recording.tick()
        (line,) = await recording.ask(
            "kairos_upstream_healthy", start=START, end=time.wall, step=60, group_by=["upstream"]
        )
        assert (line.labels, line.values) == ({"upstream": APP}, [0.5])

    recorded(url, trace)


def test_a_gap_is_a_gap_and_nothing_is_counted_twice_over_restarts_and_kills(url: str) -> None:
    async def trace() -> None:
        async with open_database(url) as database:
            gateway, time = Gateway(), Time()
            first = Recording(gateway, database, time)
            await first.begin()
            await first.tick(10, lambda: gateway.request(times=10))
            await first.tick(4, lambda: gateway.request(times=4))  # and then it is killed
            time.pass_(36)
            gateway.request(times=999)  # nobody looks
            second = Recording(gateway, database, time)
            await second.begin()
            await second.tick(10, lambda: gateway.request(times=30))
            name, span = "kairos_http_requests_total", {"start": START, "end": time.wall}
            assert await second.line(name, **span, step=10) == [1.0, 1.0, None, None, None, 3.0]
            assert await second.line(name, **span, step=60, aggregations=["increase"]) == [44]
            assert await second.line(name, **span, step=60) == [44 / 24]  # per second that was watched
            for level in LEVELS:
                (line,) = await second.ask(name, **span, step=level.step, aggregations=["increase"])
                assert line.total == 44

    in_loop(trace)


def test_a_restart_within_one_window_adds_up(url: str) -> None:
    async def trace() -> None:
        async with open_database(url) as database:
            gateway, time = Gateway(), Time()
            for _ in range(3):
                recording = Recording(gateway, database, time)
                await recording.begin()
                await recording.tick(3, lambda: gateway.request(times=6))
            (line,) = await recording.ask("kairos_http_requests_total", start=START, end=time.wall, step=10)
            assert line.values == [2.0]

    in_loop(trace)


def test_a_clock_set_back_goes_over_the_same_time_again(url: str) -> None:
    async def trace(recording: Recording) -> None:
        gateway, time = recording.gateway, recording.time
        await recording.begin()
        for _ in range(12):
            await recording.tick(10, lambda: gateway.request(times=10))
        time.wall -= 60
        for _ in range(3):
            await recording.tick(10, lambda: gateway.request(times=30))
        time.wall = START + 120
        for step in (10, 60, 3600):
            (line,) = await recording.ask(
                "kairos_http_requests_total", start=START, end=time.wall, step=step, aggregations=["increase"]
            )
            assert line.total == 12 * 10 + 3 * 30
        assert await recording.line("kairos_http_requests_total", start=START, end=time.wall, step=60) == [
            1.0,
            (60 + 90) / 90,
        ]

    recorded(url, trace)


def test_nodes_that_share_a_database_add_up_and_can_be_told_apart(url: str) -> None:
    async def trace() -> None:
        async with open_database(url) as database:
            time = Time()
            gateways = {node: Gateway() for node in ("a", "b")}
            nodes = {node: Recording(gateway, database, time, node) for node, gateway in gateways.items()}
            for node in nodes.values():
                await node.begin()
            time.pass_(10)
            for name, times in (("a", 10), ("b", 50)):
                gateways[name].request(times=times)
                await nodes[name].history.recorder.sample()
            await asyncio.gather(*(node.history.recorder.flush() for node in nodes.values()))
            asked = nodes["a"]
            span: dict[str, Any] = {"start": START, "end": time.wall, "step": 10}
            assert await asked.line("kairos_http_requests_total", **span) == [6.0]
            by_node = await asked.ask("kairos_http_requests_total", **span, group_by=["node"])
            assert [(line.labels, line.values) for line in by_node] == [({"node": "a"}, [1.0]), ({"node": "b"}, [5.0])]
            only = await asked.ask("kairos_http_requests_total", **span, where={"node": ["b"]})
            assert [line.values for line in only] == [[5.0]]
            assert await asked.history.store.nodes() == ["a", "b"]
            points = await asked.history.points("requests_total", START, time.wall)
            assert points.points == [(START + 10, 10)]  # of the node that is asked

    in_loop(trace)


def test_what_is_too_old_goes_in_small_batches(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def trace(recording: Recording) -> None:
        gateway, time = recording.gateway, recording.time
        store = recording.history.store
        await recording.begin()
        for _ in range(10):
            await recording.tick(60, lambda: gateway.request(times=1))
        monkeypatch.setattr("kairos.control.history.store.BATCH", 4)
        assert await store.expire(time.wall) == 0
        gone = [await store.expire(time.wall + DAY) for _ in range(4)]
        assert gone == [4, 4, 2, 0]
        (line,) = await recording.ask(
            "kairos_http_requests_total", start=START, end=time.wall, step=60, aggregations=["increase"]
        )
        assert line.total == 10  # the roll-ups are still there
        year_later = time.wall + 370 * DAY
        while await store.expire(year_later):
            pass
        assert await store.nodes() == []
        assert await store.series() == {}

    recorded(url, trace)


# --- a database that does not work --------------------------------------------------------------------------------


@pytest.fixture
def postgres_of_ones_own() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


def test_samples_wait_while_sqlite_is_locked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kairos.storage.database.BUSY_S", 0.01)

    async def trace(recording: Recording) -> None:
        gateway, time = recording.gateway, recording.time
        await recording.begin()
        locker = sqlite3.connect(tmp_path / "kairos.db", isolation_level=None)
        locker.execute("BEGIN IMMEDIATE")
        for _ in range(3):
            await recording.tick(10, lambda: gateway.request(times=10))
        assert (recording.history.recorder.waiting, recording.history.recorder.written) == (3, 0)
        locker.execute("ROLLBACK")
        locker.close()
        await recording.tick(10, lambda: gateway.request(times=10))
        assert (recording.history.recorder.waiting, recording.history.recorder.written) == (0, 4)
        assert await recording.line("kairos_http_requests_total", start=START, end=time.wall, step=10) == [1.0] * 4

    with capture_logs() as said:
        recorded(sqlite_url(tmp_path), trace)
    assert [line["event"] for line in said if line["component"] == "history"] == [
        "metrics cannot be written; they wait and are tried again",
        "metrics are written again",
    ]


def test_samples_wait_while_the_disk_is_full(tmp_path: Path) -> None:
    async def trace(recording: Recording) -> None:
        gateway, time = recording.gateway, recording.time
        await recording.begin()
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (max(map(os.path.getsize, tmp_path.iterdir())), before[1]))
        try:
            for _ in range(2):
                await recording.tick(10, lambda: gateway.request(times=10))
            assert recording.history.recorder.waiting == 2
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        await recording.tick(10, lambda: gateway.request(times=10))
        assert recording.history.recorder.waiting == 0
        values = await recording.line("kairos_http_requests_total", start=START, end=time.wall, step=10)
        assert values == [1.0, 1.0, 1.0]

    recorded(sqlite_url(tmp_path), trace)


def test_samples_wait_while_postgresql_is_away(postgres_of_ones_own: PostgresServer) -> None:
    server = postgres_of_ones_own

    async def trace(recording: Recording) -> None:
        gateway, time = recording.gateway, recording.time
        await recording.begin()
        await recording.tick(10, lambda: gateway.request(times=10))
        server.kill()
        for _ in range(3):
            await recording.tick(10, lambda: gateway.request(times=20))
        assert recording.history.recorder.waiting == 3
        with pytest.raises(UnavailableError):
            await recording.ask("kairos_http_requests_total")
        server.start()
        await recording.tick(10, lambda: gateway.request(times=10))
        await recording.history.recorder.flush()
        values = await recording.line("kairos_http_requests_total", start=START, end=time.wall, step=10)
        assert values == [1.0, 2.0, 2.0, 2.0, 1.0]

    recorded(server.database(), trace)


def test_what_waits_is_bounded_and_the_oldest_goes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kairos.control.history.recorder.MAX_WAITING", 8)

    async def trace(recording: Recording) -> None:
        gateway, time = recording.gateway, recording.time
        await recording.begin()
        for _ in range(6):
            await recording.tick(10, lambda: gateway.request(times=10), write=False)
        recorder = recording.history.recorder
        assert (recorder.waiting, recorder.dropped) == (4, 2)  # and four roll-ups
        await recorder.flush()
        name, span = "kairos_http_requests_total", {"start": START, "end": time.wall}
        assert await recording.line(name, **span, step=10) == [None, None, 1.0, 1.0, 1.0, 1.0]
        assert await recording.line(name, **span, step=60, aggregations=["increase"]) == [60]

    recorded(sqlite_url(tmp_path), trace)


def test_too_many_series_are_an_error_that_says_what_to_do(tmp_path: Path) -> None:
    paths = [f"/r{n}" for n in range(60)]

    async def trace(recording: Recording) -> None:
        gateway, time = recording.gateway, recording.time
        await recording.begin()

        def work() -> None:
            for n, path in enumerate(paths):
                gateway.request(path, times=n + 1)

        await recording.tick(10, work)
        name, span = "kairos_http_requests_total", {"start": START, "end": time.wall, "step": 10}
        with pytest.raises(QueryError, match="60 series are more than 50: ask for the top ones"):
            await recording.ask(name, **span, group_by=["route"])
        top = await recording.ask(name, **span, group_by=["route"], top=2)
        assert [(line.labels["route"], line.total) for line in top] == [("/r59", 6.0), ("/r58", 5.9)]

    recorded(sqlite_url(tmp_path), trace, *paths)
