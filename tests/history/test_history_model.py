"""Sampling, roll-ups and answers against a slow model that remembers every request and every look.

The contract: whatever is counted, however late samples are taken, whoever restarts, at every level each question has
the answer that the list of all requests gives.
"""

from __future__ import annotations

import math
from collections import defaultdict
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from kairos._speedups import cells
from kairos.control.history.evaluate import BOUNDS_S, Evaluation, percentile
from kairos.control.history.frame import series_id, unpack
from kairos.control.history.query import Query, plan
from kairos.control.history.rollup import LEVELS, Stamp, Windows, window
from kairos.control.history.sampler import Sampler
from tests.history.recording import APP, ORDERS, SPARE, START, USERS, Gateway


class Request(NamedTuple):
    route: str
    upstream: str
    code: int
    us: int
    times: int


class Look(NamedTuple):
    """What a sample is about, as the model knows it."""

    middle: float
    span: float
    requests: list[Request]
    connections: int


requests = st.builds(
    Request,
    route=st.sampled_from([USERS, ORDERS]),
    upstream=st.sampled_from([APP, SPARE, "none"]),
    code=st.integers(0, cells.CLASSES - 1),
    us=st.sampled_from([0, 50, 51, 900, 30_000, 2_000_000, 90_000_000]),
    times=st.integers(1, 5),
)
steps = st.tuples(
    st.floats(0.5, 90).map(lambda s: round(s, 3)),  # until the next sample
    st.lists(requests, max_size=4),
    st.integers(0, 7),  # connections
    st.sampled_from(["", "", "", "", "restart", "step back"]),
)


class Pipeline:
    """A control process and a database that is a dict."""

    def __init__(self) -> None:
        self.gateway = Gateway()
        self.stored: dict[Stamp, bytes] = {}
        self.series: dict[int, tuple[str, ...]] = {}
        self.now = START + 40_000.0  # for people
        self.later = 0.0  # for machines
        self.looks: list[Look] = []
        self.restart()

    def restart(self) -> None:
        self.sampler = Sampler(self.gateway.board, supervisor=0, control=0)
        self.sampler.assign(self.gateway.series)
        self.windows = Windows()
        assert self.sampler.look(self.later) is None

    def sample(self, seconds: float, done: list[Request], connections: int) -> None:
        self.now += seconds
        self.later += seconds
        for one in done:
            self.gateway.request(one.route, one.upstream, code=one.code, us=one.us, times=one.times)
        self.gateway.worker(cells.W_CONNECTIONS_OPEN, connections)
        frame = self.sampler.look(self.later)
        assert frame is not None
        self.stored.update(self.windows.add(self.now - frame.span / 2, frame))
        self.series.update({series_id(key): key for key in frame.series})
        self.looks.append(Look(self.now - frame.span / 2, frame.span, done, connections))

    def ask(self, name: str, step: int, aggregation: str, **options: Any) -> dict[tuple[str, ...], list[Any]]:
        planned = plan(Query([name], START + 37_000, START + 43_000, step, [aggregation], **options), START + 43_000)
        assert planned.step == step
        evaluation = Evaluation(planned, self.series)
        for stamp, data in sorted(self.stored.items()):
            if stamp.resolution == planned.level.step and planned.start <= stamp.at < planned.end:
                packed = unpack(data)
                assert packed is not None
                evaluation.add(stamp.at, "a", packed)
        self.planned = planned
        return {tuple(line.labels.values()): [line.total, *line.values] for line in evaluation.answer().lines}

    def slots(self, step: int) -> dict[int, list[Look]]:
        """The model's windows: looks by number, as an answer has them behind its total."""
        found: dict[int, list[Look]] = defaultdict(list)
        for look in self.looks:
            found[(window(look.middle, step) - self.planned.start) // step + 1].append(look)
            found[0].append(look)
        return found


def model_percentile(observed: list[int], q: float) -> float | None:
    buckets = sorted(next((i for i, b in enumerate(BOUNDS_S) if us <= b * 1e6), len(BOUNDS_S)) for us in observed)
    if not buckets:
        return None
    mine = buckets[max(0, math.ceil(round(q * len(buckets), 9)) - 1)]
    if mine == len(BOUNDS_S):
        return BOUNDS_S[-1]
    below, inside = sum(b < mine for b in buckets), buckets.count(mine)
    low = BOUNDS_S[mine - 1] if mine else 0.0
    return low + (BOUNDS_S[mine] - low) * (q * len(buckets) - below) / inside


def check(answer: dict[tuple[str, ...], list[Any]], pipeline: Pipeline, step: int, model: Any) -> None:
    """Every group, every window, and the total."""
    slots = pipeline.slots(step)
    for group, values in answer.items():
        for i, value in enumerate(values):
            expected = model(group, slots[i]) if i in slots else None
            assert (value is None) == (expected is None), (group, i, value, expected)
            assert value is None or math.isclose(value, expected, abs_tol=1e-9), (group, i, value, expected)


@given(st.lists(steps, min_size=1, max_size=25), st.sampled_from([10, 30, 60, 300, 3600, 86400]))
@settings(max_examples=60)
def test_every_answer_is_what_the_list_of_all_requests_gives(trace: list[Any], step: int) -> None:
    pipeline = Pipeline()
    for seconds, done, connections, event in trace:
        if event == "restart":
            pipeline.restart()
        if event == "step back":
            pipeline.now -= 100
        pipeline.sample(seconds, done, connections)

    def count(looks: list[Look], wanted: Any = lambda _: True) -> int:
        return sum(one.times for look in looks for one in look.requests if wanted(one))

    def observed(looks: list[Look], route: str) -> list[int]:
        found = [[one.us] * one.times for look in looks for one in look.requests if one.route == route]
        return [us for some in found for us in some]

    def span(looks: list[Look]) -> float:
        return sum(look.span for look in looks)

    name = "kairos_http_requests_total"
    check(
        pipeline.ask(name, step, "increase", group_by=["route", "upstream"]), pipeline, step,
        lambda group, looks: count(looks, lambda one: (one.route, one.upstream) == group),
    )  # fmt: skip
    check(pipeline.ask(name, step, "rate"), pipeline, step, lambda _, looks: count(looks) / span(looks))
    check(
        pipeline.ask("kairos_http_server_error_ratio", step, "avg"), pipeline, step,
        lambda _, looks: count(looks, lambda one: one.code == cells.CLASS_5XX) / count(looks) if count(looks) else None,
    )  # fmt: skip
    for q in (0.5, 0.99):
        check(
            pipeline.ask("kairos_http_request_duration_seconds", step, f"p{q * 100:g}", group_by=["route"]),
            pipeline, step,
            lambda group, looks, q=q: model_percentile(observed(looks, group[0]), q),
        )  # fmt: skip
    for aggregation, of in (("avg", lambda v: sum(v) / len(v)), ("min", min), ("max", max)):
        check(
            pipeline.ask("kairos_connections", step, aggregation), pipeline, step,
            lambda _, looks, of=of: of([look.connections for look in looks]),
        )  # fmt: skip


@given(st.lists(steps, min_size=1, max_size=25))
@settings(max_examples=50)
def test_all_levels_tell_the_same_after_every_sample(trace: list[Any]) -> None:
    pipeline = Pipeline()
    for seconds, done, connections, event in trace:
        if event == "restart":
            pipeline.restart()
        pipeline.sample(seconds, done, connections)
    totals = []
    for level in LEVELS:
        frames = [unpack(data) for stamp, data in pipeline.stored.items() if stamp.resolution == level.step]
        totals.append((sum(f.samples for f in frames if f), sum(f.span_ms for f in frames if f)))
    samples = {n for n, _ in totals}
    assert samples == {len(trace)}
    assert max(ms for _, ms in totals) - min(ms for _, ms in totals) <= len(trace)  # rounding


@given(st.lists(st.integers(0, 50), min_size=19, max_size=19), st.floats(0.001, 0.999), st.floats(0.001, 0.999))
def test_percentiles_never_fall_as_q_grows(buckets: list[int], one: float, other: float) -> None:
    low, high = (percentile([*buckets, 0], q) for q in sorted((one, other)))
    assert (low is None) == (sum(buckets) == 0)
    assert low is None or high is None or 0 <= low <= high <= BOUNDS_S[-1]
