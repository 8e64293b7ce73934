"""Questions about the past, and how they are answered: which level, which windows. Pure.

Whatever is asked, an answer has at most MAX_POINTS points of MAX_SERIES series and is made from the windows of one
level, which is bounded by what is kept of it. What would be more is a QueryError that says what to ask instead.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from msgspec import Struct, field

from kairos.control.history.catalog import METRICS, Metric
from kairos.control.history.rollup import LEVELS, LONGEST, Level, window

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_POINTS = 2000
MAX_SERIES = 50
MAX_LANES = 20  # pairs of metric and aggregation
DEFAULT_RANGE = 3600
_TARGET_POINTS = 300
_NICE = (10, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 7 * 86400)


class QueryError(ValueError):
    """Cannot be answered; the text says why and what can."""


class Query(Struct, frozen=True):
    """As asked; times in Unix seconds."""

    names: Sequence[str]
    start: float | None = None
    end: float | None = None
    step: float | None = None
    aggregations: Sequence[str] = ()
    group_by: Sequence[str] = ()
    where: dict[str, Sequence[str]] = field(default_factory=dict)
    """Values by label, one of which has to match; `*` stands for any characters."""
    top: int | None = None


class Lane(Struct, frozen=True):
    """One metric by one aggregation."""

    metric: Metric
    aggregation: str
    group_by: tuple[str, ...]
    """Labels the metric has, or `node`."""


class Glob:
    """Texts in which `*` stands for any characters; one of them has to match. In linear time, whoever writes them."""

    def __init__(self, values: Sequence[str]) -> None:
        self._exact = frozenset(value for value in values if "*" not in value)
        self._parts = [value.split("*") for value in values if "*" in value]

    def matches(self, text: str) -> bool:
        """All of it."""
        return text in self._exact or any(_in_order(parts, text) for parts in self._parts)


def _in_order(parts: Sequence[str], text: str) -> bool:
    first, *middle, last = parts
    if not text.startswith(first):
        return False
    at = len(first)
    for part in middle:
        found = text.find(part, at)
        if found < 0:
            return False
        at = found + len(part)
    return len(text) - len(last) >= at and text.endswith(last)


class Plan(Struct, frozen=True):
    """How: windows of `step` seconds from `start`, made of those of `level`."""

    lanes: tuple[Lane, ...]
    level: Level
    step: int
    start: int
    end: int
    where: dict[str, Glob]
    top: int | None
    """So many of each lane, the largest."""

    @property
    def points(self) -> int:
        """How many windows."""
        return (self.end - self.start) // self.step


def plan(query: Query, now: float) -> Plan:
    """Raises QueryError."""
    start, end = _range(query.start, query.end, now)
    step, level = _step(query.step, start, end, now)
    begin, finish = window(start, step), window(end - 1e-6, step) + step
    if (points := (finish - begin) // step) > MAX_POINTS:
        fitting = -(-(finish - begin) // MAX_POINTS)
        raise QueryError(f"{points} points are more than {MAX_POINTS}: ask for a step of {fitting} s or more")
    lanes = _lanes(query)
    if query.top is not None and not 1 <= query.top <= MAX_SERIES // len(lanes):
        raise QueryError(f"top is not between 1 and {MAX_SERIES // len(lanes)}")
    where = {label: Glob(values) for label, values in query.where.items() if values}
    _check_labels(lanes, [*query.group_by, *where])
    return Plan(lanes, level, step, begin, finish, where, query.top)


def _range(start: float | None, end: float | None, now: float) -> tuple[float, float]:
    """What can hold something, of what was asked for."""
    if not all(math.isfinite(time) for time in (start, end) if time is not None):
        raise QueryError("start or end is no time")
    last = now if end is None else min(end, now)
    first = last - DEFAULT_RANGE if start is None else start
    if start is not None and end is not None and start >= end:
        raise QueryError("start is not before end")
    first = max(first, now - LONGEST)
    return (first, last) if first < last else (last - 1, last)


def _step(asked: float | None, start: float, end: float, now: float) -> tuple[int, Level]:
    """A step of at least what was asked for, and the coarsest level it can be made of."""
    if asked is not None and not 1 <= asked <= LONGEST:
        raise QueryError(f"step is not between 1 and {LONGEST} seconds")
    wanted = asked if asked is not None else nice_step(end - start)
    usable = [level for level in LEVELS if start >= now - level.keep - level.step] or [LEVELS[-1]]
    level = [level for level in usable if level.step <= max(wanted, usable[0].step)][-1]
    step = math.ceil(wanted / level.step) * level.step
    return step, [level for level in usable if step % level.step == 0][-1]


def nice_step(seconds: float) -> int:
    """One that people use, with up to some hundred points."""
    return next((step for step in _NICE if seconds / step <= _TARGET_POINTS), _NICE[-1])


def metric(name: str) -> Metric:
    """By its name; raises QueryError."""
    if name not in METRICS:
        raise QueryError(f"there is no metric {name!r}: see /api/metrics/list")
    return METRICS[name]


def _lanes(query: Query) -> tuple[Lane, ...]:
    if not query.names:
        raise QueryError("no metric is named")
    lanes = []
    for wanted in map(metric, dict.fromkeys(query.names)):
        for aggregation in dict.fromkeys(query.aggregations) or wanted.aggregations[:1]:
            if not wanted.allows(aggregation):
                choices = ", ".join(wanted.aggregations)
                raise QueryError(f"{aggregation!r} does not apply to {wanted.name}: {choices} do")
            own = tuple(label for label in dict.fromkeys(query.group_by) if label in (*wanted.labels, "node"))
            lanes.append(Lane(wanted, aggregation, own))
    if len(lanes) > MAX_LANES:
        raise QueryError(f"more than {MAX_LANES} metrics and aggregations at once")
    return tuple(lanes)


def _check_labels(lanes: tuple[Lane, ...], labels: Sequence[str]) -> None:
    """Each label has to be one that some metric asked for has."""
    known = {"node", *(label for lane in lanes for label in lane.metric.labels)}
    for label in labels:
        if label not in known:
            raise QueryError(f"none of the metrics has a label {label!r}: {', '.join(sorted(known))}")
