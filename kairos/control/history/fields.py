"""What is kept of each series: every cell of the shared page that has a past worth asking for, with its number.

A series is a scope and its labels; its record in a frame has values under these numbers. Numbers stand in databases, so
one is never given to anything else, not even when its field is gone, and a field never changes its kind or its unit.
Names and help are those of the scrape (kairos/telemetry/prometheus.py); what is counted there is kept here as soon as
its name has a number.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from kairos._speedups import cells
from kairos.telemetry.prometheus import (
    BACKEND_COUNTERS,
    HISTOGRAMS,
    LIMIT_COUNTERS,
    PAIR_COUNTERS,
    ROUTE_COUNTERS,
    ROUTE_GAUGES,
    UPSTREAM_COUNTERS,
    WORKER_COUNTERS,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

Scope = Literal["gateway", "route", "pair", "upstream", "limit", "process"]
Kind = Literal["counter", "gauge", "state", "histogram", "matrix"]
"""A gauge that is not there was zero, a state that is not there is unknown. A matrix: requests by method and class."""

LABELS: dict[Scope, tuple[str, ...]] = {
    "gateway": (),
    "route": ("route",),
    "pair": ("route", "upstream"),
    "upstream": ("upstream",),
    "limit": ("limit",),
    "process": ("process",),
}
MATRIX_LABELS = ("method", "code")
NOWHERE = -1
"""The cell of what is not read from the page as it stands."""
SHARED = cells.U_CELLS
"""Where an upstream's SU_* cells begin, behind those its workers count."""


class Field(Struct, frozen=True):
    """One value of a record."""

    number: int
    name: str
    """As in the scrape, without `_total`."""
    scope: Scope
    kind: Kind
    cell: int = NOWHERE
    help: str = ""
    unit: float = 1
    """What one stands for in the name's unit."""
    across: Literal["sum", "max", "mean"] = "sum"
    """What several series come to at the same time; of gauges and states."""


_NUMBERS = {
    # requests, by route and upstream
    "kairos_http_requests": 1,
    "kairos_upstream_timeouts": 2,
    "kairos_upstream_connect_errors": 3,
    "kairos_upstream_policy_retries": 4,
    "kairos_upstream_hedges": 5,
    "kairos_upstream_hedge_wins": 6,
    # routes
    "kairos_http_request_duration_seconds": 20,
    "kairos_gateway_overhead_seconds": 21,
    "kairos_upstream_request_duration_seconds": 22,
    "kairos_http_request_bytes": 23,
    "kairos_http_response_bytes": 24,
    "kairos_http_requests_shed": 25,
    "kairos_compression_in_bytes": 26,
    "kairos_compression_out_bytes": 27,
    "kairos_validation_failures": 28,
    "kairos_http_requests_without_backend": 29,
    "kairos_retry_budget_spent": 30,
    "kairos_cache_hits": 31,
    "kairos_cache_stale": 32,
    "kairos_cache_validated": 33,
    "kairos_cache_misses": 34,
    "kairos_cache_bypassed": 35,
    "kairos_cache_collapsed": 36,
    "kairos_cache_stored": 37,
    "kairos_cache_stored_bytes": 38,
    "kairos_queue_full": 39,
    "kairos_mirrored_requests": 40,
    "kairos_mirrored_requests_dropped": 41,
    "kairos_queue_timeouts": 42,
    "kairos_extra_attempts_in_flight": 43,
    "kairos_queue_depth": 44,
    "kairos_queue_waits": 45,
    "kairos_queue_wait_time_seconds": 46,
    # upstreams
    "kairos_upstream_connects": 70,
    "kairos_upstream_connect_failures": 71,
    "kairos_upstream_reuses": 72,
    "kairos_upstream_attempts": 73,
    "kairos_upstream_failures": 74,
    "kairos_upstream_stale_retries": 75,
    "kairos_upstream_answers": 76,
    "kairos_upstream_answer_time_seconds": 77,
    "kairos_upstream_requests_in_flight": 78,
    "kairos_upstream_connections": 79,
    "kairos_upstream_connections_idle": 80,
    "kairos_upstream_breaker_openings": 81,
    "kairos_upstream_ejections": 82,
    "kairos_upstream_health_checks": 83,
    "kairos_upstream_health_check_failures": 84,
    "kairos_upstream_healthy": 85,
    # rate limits
    "kairos_rate_limit_allowed": 110,
    "kairos_rate_limit_limited": 111,
    "kairos_rate_limit_unshared": 112,
    # the gateway
    "kairos_connections_accepted": 130,
    "kairos_http_bad_requests": 131,
    "kairos_rate_limit_redis_trips": 132,
    "kairos_rate_limit_redis_failures": 133,
    "kairos_rate_limit_leased": 134,
    "kairos_rate_limit_returned": 135,
    "kairos_http_requests_unrouted": 136,
    "kairos_access_denied": 137,
    "kairos_bans": 138,
    "kairos_banned_requests": 139,
    "kairos_proxy_protocol_refused": 140,
    "kairos_connections": 141,
    "kairos_tunnels": 142,
    "kairos_requests_in_flight": 143,
    "kairos_workers": 144,
    "kairos_worker_lag_seconds": 145,
    "kairos_uptime_seconds": 146,
    "kairos_cache_bytes": 147,
    "kairos_cache_entries": 148,
    "kairos_config_revision": 149,
    "kairos_access_log_dropped": 150,
    "kairos_worker_restarts": 151,
    "kairos_oidc_logins": 152,
    # what kairos-rs keeps
    "requests_total": 170,
    "requests_error": 171,
    "active_connections": 172,
    "response_time_avg": 173,
    # processes
    "kairos_process_cpu_seconds": 190,
    "kairos_process_resident_memory_bytes": 191,
}


def _read(scope: Scope, kind: Kind, table: Iterable[tuple[int, str, str]], unit: float = 1) -> list[Field]:
    return [
        Field(_NUMBERS[name], name, scope, kind, cell, help_, unit) for cell, name, help_ in table if name in _NUMBERS
    ]


def _own(scope: Scope, kind: Kind, name: str, help_: str, cell: int = NOWHERE, **options: object) -> Field:
    return Field(_NUMBERS[name], name, scope, kind, cell, help_, **options)  # type: ignore[arg-type]


FIELDS: tuple[Field, ...] = (
    _own("pair", "matrix", "kairos_http_requests", "Requests answered, by final status class", cells.P_REQUESTS),
    _own("pair", "counter", "kairos_upstream_connect_errors", "Requests for which no connection could be made",
         cells.P_CONNECT_ERRORS),
    _own("pair", "counter", "kairos_upstream_policy_retries", "Requests sent once more by the route's retry policy",
         cells.P_RETRIES),
    *_read("pair", "counter", PAIR_COUNTERS),
    *_read("route", "histogram", HISTOGRAMS, 1e-6),
    *_read("route", "counter", ROUTE_COUNTERS),
    *_read("route", "gauge", ROUTE_GAUGES),
    _own("route", "counter", "kairos_queue_waits", "Requests that had to wait for a backend's room",
         cells.R_QUEUED_TOTAL),
    _own("route", "counter", "kairos_queue_wait_time_seconds", "Time they spent waiting", cells.R_QUEUE_US, unit=1e-6),
    *_read("upstream", "counter", UPSTREAM_COUNTERS),
    _own("upstream", "counter", "kairos_upstream_stale_retries", "Requests sent again, as a kept connection was dead",
         cells.U_STALE_RETRIES),
    _own("upstream", "counter", "kairos_upstream_answers", "Attempts that had a response head", cells.U_ANSWERS),
    _own("upstream", "counter", "kairos_upstream_answer_time_seconds", "Time until it, added up", cells.U_ANSWER_US,
         unit=1e-6),
    _own("upstream", "gauge", "kairos_upstream_requests_in_flight", "Requests at an upstream", cells.U_IN_FLIGHT),
    _own("upstream", "gauge", "kairos_upstream_connections", "Connections to an upstream", cells.U_CONNECTIONS_OPEN),
    _own("upstream", "gauge", "kairos_upstream_connections_idle", "Of them, those that wait in the pool",
         cells.U_CONNECTIONS_IDLE),
    *_read("upstream", "counter", ((SHARED + cell, name, help_) for cell, name, help_ in BACKEND_COUNTERS)),
    _own("upstream", "counter", "kairos_upstream_health_checks", "Active health checks made",
         SHARED + cells.SU_CHECKS),
    _own("upstream", "counter", "kairos_upstream_health_check_failures", "Of them, those that failed",
         SHARED + cells.SU_CHECKS_FAILED),
    _own("upstream", "state", "kairos_upstream_healthy", "Share of the time in which its health checks succeeded",
         across="mean"),
    *_read("limit", "counter", LIMIT_COUNTERS),
    *_read("gateway", "counter", WORKER_COUNTERS),
    _own("gateway", "counter", "kairos_access_log_dropped", "Access-log lines lost to a full ring",
         cells.W_LOG_DROPPED),
    _own("gateway", "counter", "kairos_worker_restarts", "Workers respawned after an unexpected death"),
    _own("gateway", "gauge", "kairos_connections", "Client connections, tunnels included", cells.W_CONNECTIONS_OPEN),
    _own("gateway", "gauge", "kairos_tunnels", "Client connections that became a tunnel", cells.W_TUNNELS_OPEN),
    _own("gateway", "gauge", "kairos_requests_in_flight", "Requests being served", cells.W_REQUESTS_ACTIVE),
    _own("gateway", "gauge", "kairos_workers", "Worker processes alive"),
    _own("gateway", "gauge", "kairos_worker_lag_seconds", "How late the latest worker's event loop was", unit=1e-6,
         across="max"),
    _own("gateway", "gauge", "kairos_uptime_seconds", "Time since the start", across="max"),
    _own("gateway", "gauge", "kairos_cache_bytes", "Memory taken by stored responses"),
    _own("gateway", "gauge", "kairos_cache_entries", "Entries of the cache"),
    _own("gateway", "gauge", "kairos_config_revision", "Configuration revision in force", across="max"),
    _own("gateway", "state", "requests_total", "Requests since the start"),
    _own("gateway", "state", "requests_error", "Of them, those answered with 4xx or 5xx, or left by the client"),
    _own("gateway", "state", "active_connections", "Requests being served"),
    _own("gateway", "state", "response_time_avg", "Mean response time, ms", unit=1e-3, across="mean"),
    _own("process", "counter", "kairos_process_cpu_seconds", "CPU time of the gateway's processes", unit=1e-6),
    _own("process", "gauge", "kairos_process_resident_memory_bytes",
         "Resident memory; pages that several processes share count for each"),
)  # fmt: skip
BY_NUMBER = {field.number: field for field in FIELDS}
BY_NAME = {field.name: field for field in FIELDS}


def numbered() -> dict[str, int]:
    """Every number that was ever given."""
    return dict(_NUMBERS)


def of_scope(scope: Scope, kind: Kind) -> list[Field]:
    """Those that are read from a cell."""
    return [field for field in FIELDS if (field.scope, field.kind) == (scope, kind) and field.cell != NOWHERE]
