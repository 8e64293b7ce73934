"""Metrics of this moment and of the past.

`list` and `history` are kairos-rs's; what cannot be asked there or here is a 400. Times are RFC 3339, Unix seconds, or
so long ago: `-90s`, `-15m`, `-6h`, `-7d`.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

from litestar import Request, Response, get
from litestar.di import NamedDependency
from litestar.exceptions import ValidationException
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import QueryParameter
from msgspec import Struct

from kairos.control.api import problems
from kairos.control.api.guards import needs
from kairos.control.history.catalog import METRICS, names
from kairos.control.history.evaluate import BOUNDS_S, Line, Point
from kairos.control.history.history import History, Query, QueryError, Window
from kairos.control.history.live import Snapshot

TAGS = ["Metrics"]
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_AGO = re.compile(r"-(\d{1,9})([smhdw])")
_MOST = datetime(9999, 12, 31, tzinfo=UTC).timestamp()
_LEAST = datetime(1, 1, 1, tzinfo=UTC).timestamp()


class MetricInfo(Struct, frozen=True):
    """A metric that can be asked for."""

    name: str
    type: Literal["counter", "gauge", "histogram", "ratio"]
    help: str
    labels: list[str]
    """It can be grouped and filtered by these, and by `node`."""
    aggregations: list[str]
    """The first is taken where none is named."""


class HistoryValue(Struct, frozen=True):
    """A value and what it is."""

    type: Literal["Counter", "Gauge"]
    value: float


class HistoryPoint(Struct, frozen=True):
    """A sample."""

    timestamp: datetime
    value: HistoryValue


class HistoryWindow(Struct, frozen=True):
    """Statistics of the samples in a window."""

    start_time: datetime
    end_time: datetime
    count: float
    sum: float
    min: float
    max: float
    avg: float


class QuerySeries(Struct, frozen=True):
    """One series of an answer."""

    name: str
    aggregation: str
    labels: dict[str, str]
    total: float | list[int] | None
    """The value over the whole range: the top ones are chosen by it."""
    values: list[float | list[int] | None]
    """One for each timestamp; null where nobody watched, or where there is nothing to divide by."""


class QueryAnswer(Struct, frozen=True):
    """What was asked for, in windows."""

    start: int
    """Unix seconds: where the first window begins."""
    end: int
    step: int
    """Seconds: what was asked for, or the next that can be answered."""
    resolution: int
    """Of the samples or roll-ups it was made from, in seconds."""
    timestamps: list[int]
    """Where each window begins."""
    series: list[QuerySeries]
    series_found: int
    """How many there are; more than are shown with `top`."""
    buckets: list[float] | None = None
    """Upper bounds in seconds of what `buckets` counts; the last count has none."""


def bad_request(_request: Request[Any, Any, Any], error: ValidationException) -> Response[Any]:
    """What kairos-rs answers to a query it cannot read."""
    extra = error.extra if isinstance(error.extra, list) else []
    reasons = [f"{one.get('key', '')}: {one.get('message', '')}" for one in extra if isinstance(one, dict)]
    return problems.problem(400, "; ".join(reasons) or error.detail, problems=reasons)


def _refused(_request: Request[Any, Any, Any], error: QueryError) -> Response[Any]:
    return problems.problem(400, str(error))


_ERRORS: Any = {ValidationException: bad_request, QueryError: _refused}
_RESPONSES = {
    400: ResponseSpec(
        problems.Problem, generate_examples=False, description="It cannot be asked; `detail` says why.",
        media_type=problems.MEDIA_TYPE,
    )
}  # fmt: skip


def moment(text: str, now: float) -> float:
    """Unix seconds of a time as it is written. Raises QueryError."""
    try:
        number = float(text) if (ago := _AGO.fullmatch(text)) is None else now - int(ago[1]) * _UNITS[ago[2]]
    except ValueError:
        number = _rfc3339(text)
    if not _LEAST <= number <= _MOST:
        raise QueryError(f"{text!r} is no time: 2030-01-31T12:00:00Z, Unix seconds, or so long ago (-6h) are")
    return number


def _rfc3339(text: str) -> float:
    """A `+` that was not percent-encoded comes as a space."""
    try:
        read = datetime.fromisoformat(re.sub(r" (?=\d\d:?\d\d$)", "+", text))
        return (read if read.tzinfo else read.replace(tzinfo=UTC)).timestamp()
    except (ValueError, OverflowError):
        return float("nan")


def rfc3339(seconds: float) -> datetime:
    """To the millisecond."""
    return datetime.fromtimestamp(round(seconds, 3), UTC)


@get("/api/metrics/list", tags=TAGS, sync_to_thread=False, **needs("metrics:read"))
def list_metrics() -> list[str]:
    """Names of what can be asked for, kairos-rs's four first."""
    return names()


@get("/api/metrics/catalog", tags=TAGS, sync_to_thread=False, **needs("metrics:read"))
def show_catalog() -> list[MetricInfo]:
    """The same with types, labels and aggregations."""
    found = [METRICS[name] for name in names()]
    return [
        MetricInfo(metric.name, metric.type, metric.help, list(metric.labels), list(metric.aggregations))
        for metric in found
    ]


@get("/api/metrics/snapshot", tags=TAGS, **needs("metrics:read"))
async def show_snapshot(history: NamedDependency[History]) -> Snapshot:
    """The gateway at this moment."""
    return await history.live.snapshot()


@get("/api/metrics/history", tags=TAGS, exception_handlers=_ERRORS, responses=_RESPONSES, **needs("metrics:read"))
async def show_history(
    history: NamedDependency[History],
    name: Annotated[str, QueryParameter(description="One of `/api/metrics/list`. Of an unknown one there is nothing.")],
    start: Annotated[str, QueryParameter(description="RFC 3339, Unix seconds, or so long ago: `-6h`.")],
    end: Annotated[str | None, QueryParameter(description="The same; now where it is left out.")] = None,
    interval: Annotated[
        str | None,
        QueryParameter(description="one_minute, five_minutes, one_hour or one_day: statistics over windows."),
    ] = None,
) -> list[HistoryPoint] | list[HistoryWindow]:
    """Samples of one metric of this gateway, as kairos-rs has them; with an interval statistics over windows from
    `start` on, those without a sample and a last one that is not over left out."""
    now = time.time()
    first, last = moment(start, now), now if end is None else moment(end, now)
    if interval is not None:
        return [_window(window) for window in await history.windows(name, first, last, interval)]
    found = await history.points(name, first, last)
    kind: Literal["Counter", "Gauge"] = "Counter" if found.counts else "Gauge"
    return [HistoryPoint(rfc3339(at), HistoryValue(kind, value)) for at, value in found.points]


def _window(window: Window) -> HistoryWindow:
    times = rfc3339(window.start), rfc3339(window.end)
    return HistoryWindow(*times, window.count, window.sum, window.min, window.max, window.avg)


@get("/api/metrics/query", tags=TAGS, exception_handlers=_ERRORS, responses=_RESPONSES, **needs("metrics:read"))
async def query_metrics(
    history: NamedDependency[History],
    name: Annotated[list[str], QueryParameter(description="One or more of `/api/metrics/list`.")],
    start: Annotated[
        str | None, QueryParameter(description="RFC 3339, Unix seconds, or so long ago; `-1h` by default.")
    ] = None,
    end: Annotated[str | None, QueryParameter(description="The same; now by default.")] = None,
    step: Annotated[float | None, QueryParameter(description="Seconds; by default a few hundred points.")] = None,
    aggregation: Annotated[
        list[str] | None,
        QueryParameter(
            description="rate or increase of counters; avg, min, max or last of gauges; p50, p99.9, avg, rate, "
            "increase or buckets of histograms; avg of ratios."
        ),
    ] = None,
    group_by: Annotated[
        list[str] | None, QueryParameter(description="A series for each value of these labels, or of `node`.")
    ] = None,
    top: Annotated[
        int | None, QueryParameter(description="Only so many series, the largest over the whole range.")
    ] = None,
    node: Annotated[list[str] | None, QueryParameter(description="Only of these; `*` stands for anything.")] = None,
    route: Annotated[list[str] | None, QueryParameter(description="Only of these.")] = None,
    upstream: Annotated[list[str] | None, QueryParameter(description="Only of these.")] = None,
    method: Annotated[list[str] | None, QueryParameter(description="Only of these: GET, other, ...")] = None,
    code: Annotated[list[str] | None, QueryParameter(description="Only of these classes: 5xx, ...")] = None,
    limit: Annotated[list[str] | None, QueryParameter(description="Only of these rate limits.")] = None,
    process: Annotated[list[str] | None, QueryParameter(description="worker, control or supervisor.")] = None,
) -> QueryAnswer:
    """Metrics over time, by any of their labels, of all gateways that share the database."""
    now = time.time()
    given = {
        "node": node, "route": route, "upstream": upstream, "method": method, "code": code, "limit": limit,
        "process": process,
    }  # fmt: skip
    asked = Query(
        names=name,
        start=None if start is None else moment(start, now),
        end=None if end is None else moment(end, now),
        step=step,
        aggregations=aggregation or (),
        group_by=group_by or (),
        where={label: values for label, values in given.items() if values},
        top=top,
    )
    planned, answer = await history.query(asked)
    return QueryAnswer(
        start=planned.start,
        end=planned.end,
        step=planned.step,
        resolution=planned.level.step,
        timestamps=list(range(planned.start, planned.end, planned.step)),
        series=[_series(line) for line in answer.lines],
        series_found=answer.found,
        buckets=BOUNDS_S if "buckets" in asked.aggregations else None,
    )


def _series(line: Line) -> QuerySeries:
    return QuerySeries(line.name, line.aggregation, line.labels, _short(line.total), [_short(v) for v in line.values])


def _short(value: Point) -> Point:
    """Nine digits say more than anybody measured."""
    return float(f"{value:.9g}") if isinstance(value, float) else value


HANDLERS = [list_metrics, show_catalog, show_snapshot, show_history, query_metrics]
