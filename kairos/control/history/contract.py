"""kairos-rs's view of the past: points of one metric of this node, or statistics of it over windows. Pure.

Windows begin at `start`, whatever the clock says; those without a sample are left out, as is the last one unless it is
whole. Work is bounded by what is kept: an early start is moved to where there may be something. The four names that
kairos-rs keeps mean what they mean there (a counter's value is its total since the gateway's start). Of ours:

    counter      value: what it grew by since `start`. count: seconds, sum: growth; min, max, avg: of the rate
    histogram    value: observations since `start`. count, sum, avg: of observations; min, max: bounds of their buckets
    ratio        value: itself. count and sum: what is divided
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING

from msgspec import Struct

from kairos._speedups import cells
from kairos.control.history.catalog import LEGACY_COUNTERS, METRICS, Metric, Term
from kairos.control.history.evaluate import BOUNDS_S
from kairos.control.history.frame import Record, Seen, unpack_record
from kairos.control.history.query import QueryError
from kairos.control.history.rollup import LEVELS, LONGEST, Level

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from kairos.control.history.frame import Packed, SeriesKey, Value

INTERVALS = {"one_minute": 60, "five_minutes": 300, "one_hour": 3600, "one_day": 86400}


class Window(Struct, frozen=True):
    """Statistics of one."""

    start: float
    end: float
    count: float
    sum: float
    min: float
    max: float
    avg: float


class Past(Struct, frozen=True):
    """What is to be read: windows of a level that begin in [start, end]."""

    metric: Metric
    level: Level
    start: float
    end: float
    interval: int | None
    now: float
    """When it was asked for: one moment, whatever the clock says while it is read."""


def past(name: str, start: float, end: float, interval: str | None, now: float) -> Past | None:
    """None for a metric that is not there. Raises QueryError."""
    if interval is not None and interval not in INTERVALS:
        raise QueryError(f"interval is none of {', '.join(INTERVALS)}")
    if start > end:
        raise QueryError("start is after end")
    if name not in METRICS:
        return None
    seconds = INTERVALS[interval] if interval else None
    level = _level(start, seconds or LONGEST, now)
    return Past(METRICS[name], level, _late_enough(start, now - level.keep, seconds), min(end, now), seconds, now)


def _level(start: float, most: int, now: float) -> Level:
    """The finest that reaches back to `start`, or the one of those that may be used that reaches back most."""
    usable = [level for level in LEVELS if level.step <= most]
    return next((level for level in usable if start >= now - level.keep - level.step), usable[-1])


def _late_enough(start: float, earliest: float, interval: int | None) -> float:
    """Of the windows from `start` on, the first that may hold something."""
    if start >= earliest:
        return start
    return earliest if interval is None else start + (earliest - start) // interval * interval


class Moments:
    """`add` every frame of the node; then `points` or `windows`."""

    def __init__(self, what: Past, series: Mapping[int, SeriesKey]) -> None:
        self._past = what
        self._wanted = [number for number, key in series.items() if key[0] == what.metric.scope]
        self._numbers = [term.field.number for term in (*what.metric.terms, *what.metric.over)]
        self._found: dict[int, Seen] = {}  # by the window of the level

    def add(self, at: int, packed: Packed) -> None:
        """One frame."""
        records = [
            unpack_record(packed.series[number], self._numbers) for number in self._wanted if number in packed.series
        ]
        seen = _seen(self._past.metric, records, packed)
        if seen is None:
            return
        if at in self._found:
            self._found[at].add(seen)
        else:
            self._found[at] = seen

    @property
    def counts(self) -> bool:
        """Whether the values only grow."""
        metric = self._past.metric
        return metric.name in LEGACY_COUNTERS or metric.type in ("counter", "histogram")

    def points(self) -> list[tuple[float, float]]:
        """Time and value: each when its window ended."""
        metric, step = self._past.metric, self._past.level.step
        total = 0.0
        points = []
        for at, seen in sorted(self._found.items()):
            when = min(at + step, self._past.now)
            if self._past.start <= when <= self._past.end:
                total += seen.n if metric.type == "histogram" else seen.sum
                points.append((when, total if metric.type in ("counter", "histogram") else seen.last))
        return points

    def windows(self) -> list[Window]:
        """Those that are whole."""
        what = self._past
        assert what.interval is not None
        merged: dict[int, Seen] = {}
        for at, seen in sorted(self._found.items()):
            number = int((at - what.start) // what.interval)
            if at < what.start or what.start + (number + 1) * what.interval > what.end:
                continue
            if number in merged:
                merged[number].add(seen)
            else:
                merged[number] = seen.copy()
        return [_window(what.start + number * what.interval, what.interval, seen) for number, seen in merged.items()]


def _window(start: float, interval: int, seen: Seen) -> Window:
    avg = seen.sum / seen.n if seen.n else 0.0
    return Window(start, start + interval, seen.n, seen.sum, seen.least, seen.most, avg)


def _seen(metric: Metric, records: list[Record], packed: Packed) -> Seen | None:
    """What one frame says of a metric, all its series together; None where that is nothing."""
    if metric.type == "gauge":
        return _gauge(metric, records, packed.samples)
    above = sum(_grown(term, record) for term in metric.terms for record in records)
    match metric.type:
        case "histogram":
            return _histogram(metric, records)
        case "ratio":
            below = sum(_grown(term, record) for term in metric.over for record in records)
            return Seen(below, above, above / below, above / below, above / below) if below else None
    rate = above / packed.span if packed.span > 0 else 0.0
    return Seen(packed.span, above, rate, rate, rate)


def _grown(term: Term, record: Record) -> float:
    value: Value = record.get(term.field.number, 0)
    if isinstance(value, dict):
        value = sum(n for cell, n in value.items() if term.cells is None or cell in term.cells)
    return value * term.field.unit if isinstance(value, int) else 0.0


def _gauge(metric: Metric, records: Iterable[Record], samples: int) -> Seen | None:
    field = metric.terms[0].field
    shown = [value for record in records if isinstance(value := record.get(field.number), Seen)]
    if field.kind == "gauge":  # zero where it was not seen
        shown = [value if value.n >= samples else _diluted(value, samples) for value in shown] or [
            Seen(samples, 0, 0, 0, 0)
        ]
    if not shown:
        return None
    unit, both = field.unit, functools.reduce(_beside if field.across == "sum" else _with, shown)
    return Seen(both.n, both.sum * unit, both.least * unit, both.most * unit, both.last * unit)


def _diluted(seen: Seen, samples: int) -> Seen:
    return Seen(samples, seen.sum, min(0.0, seen.least), seen.most, seen.last)


def _beside(one: Seen, other: Seen) -> Seen:
    return Seen(
        max(one.n, other.n), one.sum + other.sum, one.least + other.least, one.most + other.most, one.last + other.last
    )


def _with(one: Seen, other: Seen) -> Seen:
    both = one.copy()
    both.add(other)
    return both


def _histogram(metric: Metric, records: Iterable[Record]) -> Seen | None:
    merged = [0] * cells.HIST_CELLS
    for record in records:
        value = record.get(metric.terms[0].field.number, {})
        if isinstance(value, dict):
            for bucket, n in value.items():
                merged[bucket] += n
    filled = [bucket for bucket in range(cells.HIST_BUCKETS) if merged[bucket]]
    if not filled:
        return None
    least = BOUNDS_S[filled[0] - 1] if filled[0] else 0.0
    most = BOUNDS_S[min(filled[-1], len(BOUNDS_S) - 1)]
    return Seen(sum(merged[: cells.HIST_BUCKETS]), merged[cells.HIST_SUM] / 1e6, least, most, most)
