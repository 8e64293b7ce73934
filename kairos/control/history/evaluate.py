"""Answers a plan from frames: sums, gauges and histograms by group and window. Pure; frames come in order of time.

Rates divide what was counted by the time that was watched, node by node; percentiles interpolate within the bucket of
histograms that were added up; ratios divide sums. A window nobody watched has no value. Next to its windows each group
has one for the whole range: by it the largest are chosen.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from kairos._speedups import cells
from kairos.control.history.catalog import matrix_labels, quantile
from kairos.control.history.fields import LABELS, MATRIX_LABELS
from kairos.control.history.frame import Seen, unpack_record
from kairos.control.history.query import MAX_SERIES, QueryError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kairos.control.history.catalog import Metric, Term
    from kairos.control.history.frame import Packed, Record, SeriesKey, Value
    from kairos.control.history.query import Lane, Plan

WHOLE = -1
"""The window of all windows."""
MAX_VALUES = 1_000_000  # held at once
BOUNDS_S = [us / 1e6 for us in cells.BOUNDS_US]

Group = tuple[str, ...]
Place = tuple[int, str]
"""Window and node."""
Point = float | list[int] | None


class Line(Struct, frozen=True):
    """One series of an answer."""

    name: str
    aggregation: str
    labels: dict[str, str]
    total: Point
    """Over the whole range."""
    values: list[Point]


class Answer(Struct, frozen=True):
    """Lines, and how many there would be without a limit."""

    lines: list[Line]
    found: int


class Coverage:
    """How long each node was watched in each window, and when last."""

    def __init__(self) -> None:
        self.span: defaultdict[Place, float] = defaultdict(float)
        self.samples: defaultdict[Place, int] = defaultdict(int)
        self.last: dict[Place, int] = {}
        self.nodes: defaultdict[int, list[str]] = defaultdict(list)

    def add(self, place: Place, at: int, packed: Packed) -> None:
        if place not in self.last:
            self.nodes[place[0]].append(place[1])
        self.span[place] += packed.span
        self.samples[place] += packed.samples
        self.last[place] = at


class Evaluation:
    """`add` every frame of the plan's level and range, then `answer`."""

    def __init__(self, plan: Plan, series: Mapping[int, SeriesKey]) -> None:
        self._plan = plan
        self._coverage = Coverage()
        self._sums = [_sums(lane, plan) for lane in plan.lanes]
        self._wanted: defaultdict[int, list[tuple[_Sums, Group]]] = defaultdict(list)
        numbers: set[int] = set()
        for sums in self._sums:
            numbers.update(sums.numbers)
            for number, key in series.items():
                if sums.takes(key):
                    self._wanted[number].append((sums, sums.group(key)))
        self._numbers = sorted(numbers)

    def add(self, at: int, node: str, packed: Packed) -> None:
        """One frame."""
        plan = self._plan
        if "node" in plan.where and not plan.where["node"].matches(node):
            return
        places = [((at - plan.start) // plan.step, node), (WHOLE, node)]
        for place in places:
            self._coverage.add(place, at, packed)
        for number in self._wanted.keys() & packed.series.keys():
            record = unpack_record(packed.series[number], self._numbers)
            for sums, group in self._wanted[number]:
                sums.add(places, number, group, record, at)
        if sum(sums.held for sums in self._sums) > MAX_VALUES:
            raise QueryError("the answer would take too much memory: ask for larger steps, or filter")

    def answer(self) -> Answer:
        """Raises QueryError where there are too many series."""
        lanes = [list(self._lines(sums)) for sums in self._sums]
        found = sum(map(len, lanes))
        if self._plan.top is not None:
            lanes = [sorted(lines, key=_size, reverse=True)[: self._plan.top] for lines in lanes]
        elif found > MAX_SERIES:
            raise QueryError(f"{found} series are more than {MAX_SERIES}: ask for the top ones, filter, or group less")
        return Answer([line for lines in lanes for line in lines], found)

    def _lines(self, sums: _Sums) -> Iterable[Line]:
        windows = range(self._plan.points)
        for group in sorted(sums.groups()):
            labels = dict(zip(sums.lane.group_by, group, strict=True))
            values = sums.values(group, windows, self._coverage)
            total = sums.values(group, [WHOLE], self._coverage)[0]
            yield Line(sums.lane.metric.name, sums.lane.aggregation, labels, total, values)


def _size(line: Line) -> float:
    if line.total is None:
        return float("-inf")
    return float(sum(line.total)) if isinstance(line.total, list) else line.total


# --- what is added up ---------------------------------------------------------------------------------------------


class _Sums:
    """What one lane adds up."""

    def __init__(self, lane: Lane, plan: Plan) -> None:
        self.lane = lane
        self.metric: Metric = lane.metric
        self._plan = plan
        self.numbers = [term.field.number for term in (*self.metric.terms, *self.metric.over)]
        self._labels = LABELS[self.metric.scope]
        self.held = 0

    def takes(self, key: SeriesKey) -> bool:
        """Whether a series is asked for; what only its cells tell is looked at later."""
        if key[0] != self.metric.scope:
            return False
        own = dict(zip(self._labels, key[1:], strict=True))
        return all(
            label in MATRIX_LABELS or label == "node" or (label in own and glob.matches(own[label]))
            for label, glob in self._plan.where.items()
        )

    def group(self, key: SeriesKey) -> Group:
        """Values of the labels asked for; empty where node or cell will tell."""
        own = dict(zip(self._labels, key[1:], strict=True))
        return tuple(own.get(label, "") for label in self.lane.group_by)

    def _with_node(self, group: Group, node: str) -> Group:
        if "node" not in self.lane.group_by:
            return group
        return tuple(node if label == "node" else value for label, value in zip(self.lane.group_by, group, strict=True))

    def add(self, places: Sequence[Place], series: int, group: Group, record: Record, at: int) -> None:
        raise NotImplementedError

    def groups(self) -> Iterable[Group]:
        raise NotImplementedError

    def values(self, group: Group, windows: Iterable[int], coverage: Coverage) -> list[Point]:
        return [self._value(group, window, coverage.nodes.get(window, []), coverage) for window in windows]

    def _value(self, group: Group, window: int, nodes: Sequence[str], coverage: Coverage) -> Point:
        raise NotImplementedError


class _Counters(_Sums):
    """Rates, increases and ratios."""

    def __init__(self, lane: Lane, plan: Plan) -> None:
        super().__init__(lane, plan)
        self._above: defaultdict[Group, dict[Place, float]] = defaultdict(dict)
        self._below: defaultdict[Group, dict[Place, float]] = defaultdict(dict)
        self._cells = [(term, self._allowed(term)) for term in self.metric.terms]
        self._over = [(term, self._allowed(term)) for term in self.metric.over]
        self._by_cell = any(label in MATRIX_LABELS for label in lane.group_by)

    def _allowed(self, term: Term) -> frozenset[int] | None:
        """The cells of a matrix that the filters leave; None where it is none."""
        if term.field.kind != "matrix":
            return None
        globs = [self._plan.where.get(label) for label in MATRIX_LABELS]
        return frozenset(
            cell
            for cell in (range(cells.METHODS * cells.CLASSES) if term.cells is None else term.cells)
            if all(glob is None or glob.matches(text) for glob, text in zip(globs, matrix_labels(cell), strict=True))
        )

    def add(self, places: Sequence[Place], series: int, group: Group, record: Record, at: int) -> None:
        for table, terms in ((self._above, self._cells), (self._below, self._over)):
            for term, allowed in terms:
                value = record.get(term.field.number)
                if value is not None:
                    for own, n in self._split(group, value, allowed):
                        self._count(table[self._with_node(own, places[0][1])], places, n * term.field.unit)

    def _split(self, group: Group, value: Value, allowed: frozenset[int] | None) -> Iterable[tuple[Group, int]]:
        """By method and class, where they are kept."""
        if isinstance(value, int):
            yield group, value
        elif isinstance(value, dict):
            kept = [(cell, n) for cell, n in value.items() if allowed is None or cell in allowed]
            if self._by_cell:
                yield from ((self._with_cell(group, cell), n) for cell, n in kept)
            elif kept:
                yield group, sum(n for _, n in kept)

    def _with_cell(self, group: Group, cell: int) -> Group:
        own = dict(zip(MATRIX_LABELS, matrix_labels(cell), strict=True))
        return tuple(own.get(label, value) for label, value in zip(self.lane.group_by, group, strict=True))

    def _count(self, table: dict[Place, float], places: Sequence[Place], n: float) -> None:
        for place in places:
            if place not in table:
                self.held += 1
                table[place] = 0.0
            table[place] += n

    def groups(self) -> Iterable[Group]:
        return self._above.keys() | self._below.keys()

    def _value(self, group: Group, window: int, nodes: Sequence[str], coverage: Coverage) -> Point:
        above, below = self._above.get(group, {}), self._below.get(group, {})
        if self.metric.over:
            whole = sum(below.get((window, node), 0.0) for node in nodes)
            return sum(above.get((window, node), 0.0) for node in nodes) / whole if whole else None
        if not nodes:
            return None
        grown = [(above.get((window, node), 0.0), coverage.span[window, node]) for node in nodes]
        if self.lane.aggregation == "increase":
            return sum(n for n, _ in grown)
        return sum(n / span for n, span in grown if span > 0)


class _Histograms(_Sums):
    """Percentiles, means, rates, and the buckets themselves."""

    def __init__(self, lane: Lane, plan: Plan) -> None:
        super().__init__(lane, plan)
        self._table: defaultdict[Group, dict[Place, list[int]]] = defaultdict(dict)
        self._quantile = quantile(lane.aggregation)

    def add(self, places: Sequence[Place], series: int, group: Group, record: Record, at: int) -> None:
        value = record.get(self.numbers[0])
        if not isinstance(value, dict):
            return
        table = self._table[self._with_node(group, places[0][1])]
        for place in places:
            if place not in table:
                self.held += cells.HIST_CELLS
                table[place] = [0] * cells.HIST_CELLS
            held = table[place]
            for bucket, n in value.items():
                held[bucket] += n

    def groups(self) -> Iterable[Group]:
        return self._table.keys()

    def _value(self, group: Group, window: int, nodes: Sequence[str], coverage: Coverage) -> Point:
        if not nodes:
            return None
        table, empty = self._table[group], [0] * cells.HIST_CELLS
        if self.lane.aggregation == "rate":
            counts = [(_count_of(table.get((window, node), empty)), coverage.span[window, node]) for node in nodes]
            return sum(n / span for n, span in counts if span > 0)
        merged = [sum(column) for column in zip(empty, *(table.get((window, n), empty) for n in nodes), strict=True)]
        if self.lane.aggregation == "buckets":
            return merged[: cells.HIST_BUCKETS]
        if self.lane.aggregation == "increase":
            return _count_of(merged)
        if self._quantile is not None:
            return percentile(merged, self._quantile)
        count = _count_of(merged)
        return merged[cells.HIST_SUM] / 1e6 / count if count else None


def _count_of(histogram: Sequence[int]) -> int:
    return sum(histogram[: cells.HIST_BUCKETS])


def percentile(histogram: Sequence[int], q: float) -> float | None:
    """Seconds; what lies above the last bound counts as that bound. None without observations."""
    total = _count_of(histogram)
    if total == 0:
        return None
    rank, below = q * total, 0
    for bucket in range(len(BOUNDS_S)):
        inside = histogram[bucket]
        if inside and below + inside >= rank:
            low = BOUNDS_S[bucket - 1] if bucket else 0.0
            return low + (BOUNDS_S[bucket] - low) * max(0.0, rank - below) / inside
        below += inside
    return BOUNDS_S[-1]


class _Gauges(_Sums):
    """Averages over time of each series, then together."""

    def __init__(self, lane: Lane, plan: Plan) -> None:
        super().__init__(lane, plan)
        self._table: defaultdict[Group, dict[Place, dict[int, tuple[Seen, int]]]] = defaultdict(dict)
        self._field = self.metric.terms[0].field

    def add(self, places: Sequence[Place], series: int, group: Group, record: Record, at: int) -> None:
        value = record.get(self._field.number)
        if not isinstance(value, Seen):
            return
        table = self._table[self._with_node(group, places[0][1])]
        for place in places:
            held = table.setdefault(place, {})
            if series in held:
                held[series][0].add(value)
                held[series] = (held[series][0], at)
            else:
                self.held += 1
                held[series] = (value.copy(), at)

    def groups(self) -> Iterable[Group]:
        return self._table.keys()

    def _value(self, group: Group, window: int, nodes: Sequence[str], coverage: Coverage) -> Point:
        table = self._table[group]
        shown = [
            self._one(seen, coverage.samples[window, node], gone=at < coverage.last[window, node])
            for node in nodes
            for seen, at in table.get((window, node), {}).values()
        ]
        if not shown:
            return 0.0 if nodes and self._field.kind == "gauge" else None
        return _across(self._field.across, shown) * self._field.unit

    def _one(self, seen: Seen, samples: int, *, gone: bool) -> float:
        """Of one series in one window: a gauge was zero whenever it was not seen."""
        hidden = self._field.kind == "gauge" and seen.n < samples
        match self.lane.aggregation:
            case "min":
                return 0.0 if hidden else seen.least
            case "max":
                return seen.most
            case "last":
                return 0.0 if gone and self._field.kind == "gauge" else seen.last
        return seen.sum / (samples if hidden else seen.n)


def _across(how: str, values: Sequence[float]) -> float:
    if how == "max":
        return max(values)
    return sum(values) / (len(values) if how == "mean" else 1)


def _sums(lane: Lane, plan: Plan) -> _Sums:
    kinds: dict[str, Any] = {"histogram": _Histograms, "gauge": _Gauges}
    return kinds.get(lane.metric.type, _Counters)(lane, plan)  # type: ignore[no-any-return]
