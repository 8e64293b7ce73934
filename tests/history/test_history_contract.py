"""kairos-rs's view of the past: its four metrics and ours, points and windows, whatever start is asked for."""

from __future__ import annotations

from pathlib import Path

import pytest

from kairos._speedups import cells
from kairos.control.history.catalog import LEGACY, METRICS, names
from kairos.control.history.contract import Window, past
from kairos.control.history.query import QueryError
from kairos.control.history.rollup import DAY, LEVELS
from tests.history.recording import START, Recording, recorded, sqlite_url

AGES_AGO = -62135596800.0  # 0001-01-01
FAR_AWAY = 253370764800.0  # 9999-01-01


async def two_minutes(recording: Recording) -> None:
    """Two minutes: in the first a request a second, one in ten fails; then nothing."""
    gateway = recording.gateway

    def work() -> None:
        gateway.request(times=9, us=2000)
        gateway.request(code=cells.CLASS_5XX, us=12_000)
        gateway.worker(cells.W_REQUESTS_ACTIVE, 3)

    await recording.begin()
    for _ in range(6):
        await recording.tick(10, work)
    gateway.worker(cells.W_REQUESTS_ACTIVE, 0)
    for _ in range(6):
        await recording.tick(10)


def test_the_four_of_kairos_rs(tmp_path: Path) -> None:
    async def trace(recording: Recording) -> None:
        await two_minutes(recording)
        history, now = recording.history, recording.time.wall
        totals = await history.points("requests_total", START, now)
        assert totals.counts
        assert totals.points == [(START + 10 * n, 10 * min(n, 6)) for n in range(1, 13)]
        errors = await history.points("requests_error", START + 50, START + 70)
        assert errors.points == [(START + 50, 5), (START + 60, 6), (START + 70, 6)]  # both ends count
        active = await history.points("active_connections", START, now)
        assert (active.counts, [value for _, value in active.points]) == (False, [3] * 6 + [0] * 6)
        mean = await history.points("response_time_avg", START, now)
        assert mean.points == [(START + 10 * n, pytest.approx(3.0)) for n in range(1, 7)]  # none without requests

    recorded(sqlite_url(tmp_path), trace)


@pytest.mark.parametrize("start", [START, AGES_AGO])
def test_the_window_of_this_moment_is_there_while_the_clock_goes_on(tmp_path: Path, start: float) -> None:
    async def trace(recording: Recording) -> None:
        await two_minutes(recording)
        asked = [(await recording.history.points("requests_total", start, FAR_AWAY)).points[-1][1]]
        recording.time.ticks = 0.001  # with every look
        asked.append((await recording.history.points("requests_total", start, FAR_AWAY)).points[-1][1])
        assert asked == [60, 60]

    recorded(sqlite_url(tmp_path), trace)


def test_windows_begin_at_start_and_only_whole_ones_are_shown(tmp_path: Path) -> None:
    async def trace(recording: Recording) -> None:
        await two_minutes(recording)
        history, now = recording.history, recording.time.wall
        first, second = await history.windows("active_connections", START, now, "one_minute")
        assert first == Window(START, START + 60, 6, 18, 3, 3, 3)
        assert second == Window(START + 60, START + 120, 6, 0, 0, 0, 0)
        (only,) = await history.windows("active_connections", START + 30, now, "one_minute")
        assert only == Window(START + 30, START + 90, 6, 9, 0, 3, 1.5)
        (times,) = await history.windows("response_time_avg", START, now, "one_minute")
        assert (times.count, times.sum, times.avg) == (60, pytest.approx(180), pytest.approx(3))
        (totals,) = await history.windows("requests_total", START, START + 60, "one_minute")
        assert totals == Window(START, START + 60, 6, 210, 10, 60, 35)
        assert await history.windows("requests_total", START, now, "five_minutes") == []
        assert await history.windows("nonsense", START, now, "one_minute") == []
        assert (await history.points("nonsense", START, now)).points == []

    recorded(sqlite_url(tmp_path), trace)


def test_ours_by_the_same_way(tmp_path: Path) -> None:
    async def trace(recording: Recording) -> None:
        await two_minutes(recording)
        history, now = recording.history, recording.time.wall
        requests = await history.points("kairos_http_requests_total", START + 30, now)
        assert requests.counts
        assert [value for _, value in requests.points] == [10, 20, 30, 40] + [40] * 6
        (first, _) = await history.windows("kairos_http_requests_total", START, now, "one_minute")
        assert first == Window(START, START + 60, 60, 60, 1, 1, 1)  # 60 requests in 60 s: one a second
        (errors,) = await history.windows("kairos_http_error_ratio", START, now, "one_minute")
        assert (errors.count, errors.sum, errors.avg) == (60, 6, 0.1)
        (times,) = await history.windows("kairos_http_request_duration_seconds", START, now, "one_minute")
        assert (times.count, times.min, times.max) == (60, 0.001, 0.025)
        assert times.avg == pytest.approx(0.003)

    recorded(sqlite_url(tmp_path), trace)


def test_everything_that_is_listed_can_be_asked_for(tmp_path: Path) -> None:
    async def trace(recording: Recording) -> None:
        await two_minutes(recording)
        history, now = recording.history, recording.time.wall
        for name in names():
            assert all(when <= now for when, _ in (await history.points(name, START, now)).points), name
            assert all(window.avg >= 0 for window in await history.windows(name, START, now, "one_minute")), name
            aggregations = METRICS[name].aggregations
            lines = await recording.ask(name, start=START, end=now, step=60, aggregations=aggregations)
            assert {len(line.values) for line in lines} <= {2}, name

    recorded(sqlite_url(tmp_path), trace)


def test_the_four_come_first_and_no_name_twice() -> None:
    assert tuple(names()[:4]) == LEGACY
    assert len(set(names())) == len(names())


@pytest.mark.parametrize(
    ("interval", "step", "reach"),
    [("one_minute", 60, 7), ("five_minutes", 300, 30), ("one_hour", 3600, 366), ("one_day", 86400, 366)],
)
def test_an_early_start_costs_no_more_than_what_is_kept(interval: str, step: int, reach: int) -> None:
    """A start 2,000 years ago, and a window a minute: kairos-rs loops over a thousand million of them."""
    what = past("requests_total", AGES_AGO, START, interval, START)
    assert what is not None
    assert START - what.start <= reach * DAY + step
    assert (START - what.start) / what.level.step <= 10_081
    assert (what.start - AGES_AGO) % step == 0  # windows still begin where the first one would have made them begin


def test_points_are_as_fine_as_what_is_kept_of_that_time() -> None:
    chosen = [past("requests_total", START - days * DAY, START, None, START) for days in (0.5, 3, 20, 100, 10_000)]
    assert [what.level.step for what in chosen if what] == [level.step for level in LEVELS[:4]] + [86400]


def test_what_cannot_be_meant_is_an_error() -> None:
    with pytest.raises(QueryError, match="interval is none of one_minute, five_minutes, one_hour, one_day"):
        past("requests_total", START, START, "one_week", START)
    with pytest.raises(QueryError, match="start is after end"):
        past("requests_total", START + 1, START, None, START)
