"""Which windows a question gets, and what it may not ask."""

from __future__ import annotations

import re
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.control.history.query import MAX_POINTS, Glob, Plan, Query, QueryError, plan
from kairos.control.history.rollup import DAY
from tests.history.recording import START

NOW = START + DAY / 2 + 7
NAME = "kairos_http_requests_total"


def planned(**options: Any) -> Plan:
    return plan(Query(options.pop("names", [NAME]), **options), NOW)


@pytest.mark.parametrize(
    ("ago", "step", "chosen", "level"),
    [
        (3600, None, 30, 10),
        (6 * 3600, None, 120, 60),
        (DAY, None, 300, 300),
        (7 * DAY, None, 3600, 3600),
        (30 * DAY, None, 10800, 3600),
        (365 * DAY, None, 7 * DAY, DAY),
        (3600, 10, 10, 10),
        (3600, 7, 10, 10),  # nothing finer is kept
        (3600, 15, 20, 10),
        (3600, 60, 60, 60),
        (3600, 90, 120, 60),
        (3600, 299, 300, 300),  # as few windows as there can be
        (3600, 3000, 3000, 300),
        (2 * DAY, 10, None, None),  # no longer kept as fine: a minute
        (40 * DAY, 300, 3600, 3600),
    ],
)
def test_the_step_and_what_it_is_made_of(ago: float, step: float | None, chosen: int | None, level: int | None) -> None:
    if chosen is None:
        with pytest.raises(QueryError, match=f"more than {MAX_POINTS}: ask for a step of 87 s or more"):
            planned(start=NOW - ago, step=step)
        return
    found = planned(start=NOW - ago, step=step)
    assert (found.step, found.level.step) == (chosen, level)
    assert found.points <= MAX_POINTS
    assert found.start <= NOW - ago < found.start + found.step
    assert found.start % found.step == 0
    assert found.end - found.step < NOW <= found.end


@pytest.mark.parametrize("start", [-62135596800.0, 0.0, NOW - 400 * DAY])
@pytest.mark.parametrize("end", [None, NOW + 1e9, 253402300799.0])
def test_no_range_is_longer_than_what_is_kept(start: float, end: float | None) -> None:
    found = planned(start=start, end=end)
    assert (found.end - found.start) <= 367 * DAY + 2 * found.step


def test_a_range_long_ago_has_one_empty_window() -> None:
    assert planned(start=0.0, end=1.0).points == 1


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"names": []}, "no metric is named"),
        ({"names": ["nonsense"]}, "there is no metric 'nonsense': see /api/metrics/list"),
        ({"aggregations": ["p99"]}, "'p99' does not apply to kairos_http_requests_total: rate, increase do"),
        ({"names": ["kairos_http_request_duration_seconds"], "aggregations": ["p100"]}, "'p100' does not apply"),
        ({"names": ["kairos_http_request_duration_seconds"], "aggregations": ["pnan"]}, "'pnan' does not apply"),
        ({"start": NOW, "end": NOW}, "start is not before end"),
        ({"start": NOW, "end": NOW - 1}, "start is not before end"),
        ({"step": 0}, "step is not between 1 and"),
        ({"step": -5}, "step is not between 1 and"),
        ({"step": float("inf")}, "step is not between 1 and"),
        ({"step": float("nan")}, "step is not between 1 and"),
        ({"start": float("nan")}, "no time"),
        ({"group_by": ["nonsense"]}, "none of the metrics has a label 'nonsense': code, method, node, route, upstream"),
        ({"where": {"limit": ["a"]}}, "none of the metrics has a label 'limit'"),
        ({"top": 0}, "top is not between 1 and 50"),
        ({"top": 51}, "top is not between 1 and 50"),
    ],
)
def test_what_cannot_be_asked(options: dict[str, Any], complaint: str) -> None:
    with pytest.raises(QueryError, match=complaint.replace("(", r"\(")):
        planned(**options)


def test_many_metrics_at_once_share_the_room() -> None:
    names = [NAME, "kairos_http_error_ratio", "kairos_http_request_duration_seconds"]
    assert len(planned(names=names, group_by=["route"], top=16).lanes) == 3
    with pytest.raises(QueryError, match="top is not between 1 and 16"):
        planned(names=names, top=17)


@given(st.lists(st.text("ab*", max_size=6), min_size=1, max_size=3), st.text("ab*\n", max_size=8))
def test_a_star_stands_for_any_characters(values: list[str], text: str) -> None:
    expression = "|".join(".*".join(map(re.escape, value.split("*"))) for value in values)
    assert Glob(values).matches(text) == (re.fullmatch(expression, text, re.DOTALL) is not None)


def test_many_stars_take_no_longer_than_few() -> None:
    """A backtracking matcher would take years."""
    assert not Glob(["*a" * 50 + "b"]).matches("a" * 5000)


def test_any_percentile_may_be_asked_for() -> None:
    found = planned(names=["kairos_http_request_duration_seconds"], aggregations=["p12.5", "p99.99", "p50"])
    assert [lane.aggregation for lane in found.lanes] == ["p12.5", "p99.99", "p50"]
