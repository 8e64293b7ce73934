"""The metrics that can be asked for: names, labels, and what each is computed from. Pure.

Names are those of the scrape, counters with their `_total`; ratios and means are computed from sums over the window
asked for, never from other ratios. kairos-rs's four names stand beside them.
"""

from __future__ import annotations

import itertools
from typing import Literal

from msgspec import Struct

from kairos._speedups import cells
from kairos.control.history.fields import BY_NAME, FIELDS, LABELS, MATRIX_LABELS, Field, Kind, Scope
from kairos.telemetry.prometheus import CODES, ERRORS, METHODS

MetricType = Literal["counter", "gauge", "histogram", "ratio"]
QUANTILE = "p"  # p50, p99, p99.9
_APPLY: dict[MetricType, tuple[str, ...]] = {
    "counter": ("rate", "increase"),
    "gauge": ("avg", "min", "max", "last"),
    "histogram": ("p95", "p50", "p90", "p99", "p99.9", "avg", "rate", "increase", "buckets"),
    "ratio": ("avg",),
}
"""The first is taken where none is named; of a histogram any other p goes as well."""
_TYPES: dict[Kind, MetricType] = {
    "counter": "counter", "matrix": "counter", "gauge": "gauge", "state": "gauge", "histogram": "histogram",
}  # fmt: skip
LEGACY = ("requests_total", "requests_error", "active_connections", "response_time_avg")
LEGACY_COUNTERS = LEGACY[:2]


class Term(Struct, frozen=True):
    """One summand: a field, or some cells of a matrix."""

    field: Field
    cells: frozenset[int] | None = None


class Metric(Struct, frozen=True):
    """What can be asked for."""

    name: str
    type: MetricType
    help: str
    labels: tuple[str, ...]
    terms: tuple[Term, ...]
    over: tuple[Term, ...] = ()
    """The denominator, of ratios."""

    @property
    def aggregations(self) -> tuple[str, ...]:
        """Those that apply."""
        return _APPLY[self.type]

    @property
    def scope(self) -> Scope:
        """Of all its terms."""
        return self.terms[0].field.scope

    def allows(self, aggregation: str) -> bool:
        """Whether it applies."""
        return aggregation in self.aggregations or (self.type == "histogram" and quantile(aggregation) is not None)


def quantile(aggregation: str) -> float | None:
    """0.99 of `p99`."""
    try:
        percent = float(aggregation.removeprefix(QUANTILE)) if aggregation.startswith(QUANTILE) else -1.0
    except ValueError:
        return None
    return percent / 100 if 0 < percent < 100 else None


def matrix_labels(cell: int) -> tuple[str, str]:
    """Method and class of a cell of P_REQUESTS."""
    return METHODS[cell // cells.CLASSES], CODES[cell % cells.CLASSES]


def _classes(classes: frozenset[int]) -> frozenset[int]:
    return frozenset(method * cells.CLASSES + code for method in range(cells.METHODS) for code in classes)


def _plain(field: Field) -> Metric:
    labels = LABELS[field.scope]
    kind = _TYPES[field.kind]
    name = f"{field.name}_total" if kind == "counter" else field.name
    return Metric(name, kind, field.help, (*labels, *_more(field)), (Term(field),))


def _more(field: Field) -> tuple[str, ...]:
    return MATRIX_LABELS if field.kind == "matrix" else ()


def _ratio(name: str, help_: str, terms: tuple[Term, ...], over: tuple[Term, ...]) -> Metric:
    labels = [*LABELS[terms[0].field.scope]]
    if all(term.field.kind == "matrix" for term in terms):
        labels.append(MATRIX_LABELS[0])
    return Metric(name, "ratio", help_, tuple(labels), terms, over)


def _terms(*names: str) -> tuple[Term, ...]:
    return tuple(Term(BY_NAME[name]) for name in names)


_REQUESTS = BY_NAME["kairos_http_requests"]
_CACHE_HITS = ("kairos_cache_hits", "kairos_cache_stale", "kairos_cache_validated")
_RATIOS = (
    _ratio(
        "kairos_http_error_ratio",
        "Share of requests answered with 4xx or 5xx, or left by the client",
        (Term(_REQUESTS, _classes(frozenset(ERRORS))),),
        (Term(_REQUESTS),),
    ),
    _ratio(
        "kairos_http_server_error_ratio",
        "Share of requests answered with 5xx",
        (Term(_REQUESTS, _classes(frozenset([cells.CLASS_5XX]))),),
        (Term(_REQUESTS),),
    ),
    _ratio(
        "kairos_cache_hit_ratio",
        "Share of cacheable requests answered from the cache",
        _terms(*_CACHE_HITS),
        _terms(*_CACHE_HITS, "kairos_cache_misses"),
    ),
    _ratio(
        "kairos_upstream_failure_ratio",
        "Share of attempts that failed",
        _terms("kairos_upstream_failures"),
        _terms("kairos_upstream_attempts"),
    ),
    _ratio(
        "kairos_upstream_first_byte_seconds",
        "Mean time from the request sent to the response head",
        _terms("kairos_upstream_answer_time_seconds"),
        _terms("kairos_upstream_answers"),
    ),
    _ratio(
        "kairos_queue_wait_seconds",
        "Mean time spent waiting for a backend's room",
        _terms("kairos_queue_wait_time_seconds"),
        _terms("kairos_queue_waits"),
    ),
)
METRICS: dict[str, Metric] = {metric.name: metric for metric in itertools.chain(map(_plain, FIELDS), _RATIOS)}


def names() -> list[str]:
    """Everything that can be asked for, kairos-rs's four first."""
    return [*LEGACY, *sorted(METRICS.keys() - set(LEGACY))]
