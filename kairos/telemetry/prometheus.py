"""Prometheus exposition: the scoreboard read as metric families, written out by prometheus-client.

Only series that ever moved are shown, but for the verdicts on backends: those of every backend in use. Two sets of
names: the gateway's own (base units, bounded labels, real histograms), and those of kairos-rs, process-wide and in
milliseconds, for what was built on them.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    SummaryMetricFamily,
)
from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector

from kairos import __version__
from kairos._speedups import breaker, cells
from kairos._speedups.breaker import Gate
from kairos._speedups.limits import T_FORGOTTEN, T_FULL, T_KEYS, T_REUSED
from kairos.config.model import CircuitBreaker
from kairos.scoreboard import LIMIT_WORDS, WINDOW_WORDS
from kairos.telemetry.procfs import usage

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from prometheus_client.metrics_core import Metric

    from kairos._speedups.cells import Page
    from kairos.scoreboard import Assignment, Scoreboard

METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "other")  # by METHOD_*
CODES = ("1xx", "2xx", "3xx", "4xx", "5xx", "499")  # by CLASS_*
ALL_ROUTES = "all"
_Key = TypeVar("_Key")
_SECONDS = [*(str(us / 1e6) for us in cells.BOUNDS_US), "+Inf"]
_LEGACY_BOUNDS_US = (100_000, 500_000, 1_000_000, 5_000_000)
ERRORS = (cells.CLASS_4XX, cells.CLASS_5XX, cells.CLASS_GONE)

HISTOGRAMS = (
    (cells.R_TOTAL, "kairos_http_request_duration_seconds", "Time from a request's first byte to its response's last"),
    (cells.R_GATEWAY, "kairos_gateway_overhead_seconds", "The gateway's own share of the request time"),
    (cells.R_UPSTREAM, "kairos_upstream_request_duration_seconds", "The upstream's share of the request time"),
)
ROUTE_COUNTERS = (
    (cells.R_BYTES_IN, "kairos_http_request_bytes", "Request bytes received"),
    (cells.R_BYTES_OUT, "kairos_http_response_bytes", "Response bytes sent"),
    (cells.R_SHED, "kairos_http_requests_shed", "Requests turned away because their worker fell behind"),
    (cells.R_COMPRESSED_IN, "kairos_compression_in_bytes", "Response bytes that were compressed"),
    (cells.R_COMPRESSED_OUT, "kairos_compression_out_bytes", "What they came to"),
    (cells.R_INVALID, "kairos_validation_failures", "Requests and responses that do not fit their rules or schemas"),
    (cells.R_NO_BACKEND, "kairos_http_requests_without_backend", "Requests for which no backend was left"),
    (cells.R_BUDGET_SPENT, "kairos_retry_budget_spent", "Retries and hedges not made because the budget was spent"),
    (cells.R_CACHE_HITS, "kairos_cache_hits", "Requests answered from the cache"),
    (cells.R_CACHE_STALE, "kairos_cache_stale", "Requests answered from the cache with what was stale"),
    (cells.R_CACHE_VALIDATED, "kairos_cache_validated", "Requests answered from the cache after asking the upstream"),
    (cells.R_CACHE_MISSES, "kairos_cache_misses", "Requests for which the upstream was asked"),
    (cells.R_CACHE_BYPASSED, "kairos_cache_bypassed", "Requests that went past the cache"),
    (cells.R_CACHE_COLLAPSED, "kairos_cache_collapsed", "Requests that waited for another one's answer"),
    (cells.R_CACHE_STORED, "kairos_cache_stored", "Responses stored"),
    (cells.R_CACHE_STORED_BYTES, "kairos_cache_stored_bytes", "Bytes of their bodies"),
    (cells.R_QUEUE_FULL, "kairos_queue_full", "Requests turned away because the queue was full"),
    (cells.R_MIRRORED, "kairos_mirrored_requests", "Copies of requests sent to the route's mirror"),
    (cells.R_MIRROR_DROPPED, "kairos_mirrored_requests_dropped", "Copies not sent: too large, or too many under way"),
    (cells.R_QUEUE_TIMEOUTS, "kairos_queue_timeouts", "Requests turned away because they waited too long"),
)
ROUTE_GAUGES = (
    (cells.R_EXTRA_ACTIVE, "kairos_extra_attempts_in_flight", "Requests on a retry, or with a hedge under way"),
    (cells.R_QUEUED, "kairos_queue_depth", "Requests waiting until a backend has room (max_requests)"),
)
PAIR_COUNTERS = (
    (cells.P_TIMEOUTS, "kairos_upstream_timeouts", "Requests an upstream did not answer in time"),
    (cells.P_HEDGES, "kairos_upstream_hedges", "Second attempts made beside a slow first one"),
    (cells.P_HEDGE_WINS, "kairos_upstream_hedge_wins", "Of them, those that answered first"),
)
UPSTREAM_COUNTERS = (
    (cells.U_CONNECTS, "kairos_upstream_connects", "Connections made to an upstream"),
    (cells.U_CONNECT_FAILURES, "kairos_upstream_connect_failures", "Connections to an upstream that failed"),
    (cells.U_REUSES, "kairos_upstream_reuses", "Requests sent over a kept-alive upstream connection"),
    (cells.U_ATTEMPTS, "kairos_upstream_attempts", "Attempts that ended: answered or failed"),
    (cells.U_FAILURES, "kairos_upstream_failures", "Of them, those that count as failures for the circuit breaker"),
)
LIMIT_COUNTERS = (
    (cells.L_ALLOWED, "kairos_rate_limit_allowed", "Requests that a rate limit granted"),
    (cells.L_LIMITED, "kairos_rate_limit_limited", "Requests that a rate limit refused"),
    (cells.L_UNSHARED, "kairos_rate_limit_unshared", "Decided without the Redis that nodes share, for it was down"),
)
_LIMIT_TABLE_COUNTERS = (
    (T_REUSED, "kairos_rate_limit_reused", "Places that went from a key whose limit was over to another one"),
    (T_FORGOTTEN, "kairos_rate_limit_forgotten", "The same before it was over: the key had used little"),
    (T_FULL, "kairos_rate_limit_full", "Requests refused because all places were those of keys being refused"),
)
BACKEND_COUNTERS = (
    (cells.SU_OPENED, "kairos_upstream_breaker_openings", "Times its circuit breaker opened"),
    (cells.SU_EJECTED, "kairos_upstream_ejections", "Times it was ejected because it failed or was slow"),
)
WORKER_COUNTERS = (
    (cells.W_CONNECTIONS_TOTAL, "kairos_connections_accepted", "Client connections accepted"),
    (cells.W_BAD_REQUESTS, "kairos_http_bad_requests", "Request heads refused before routing"),
    (cells.W_LEASE_TRIPS, "kairos_rate_limit_redis_trips", "Round trips to the Redis that nodes share"),
    (cells.W_LEASE_FAILURES, "kairos_rate_limit_redis_failures", "Of them, those without an answer"),
    (cells.W_LEASE_TOKENS, "kairos_rate_limit_leased", "Requests leased from it"),
    (cells.W_LEASE_RETURNED, "kairos_rate_limit_returned", "Of them, those not used in time and given back"),
    (cells.W_REQUESTS_UNROUTED, "kairos_http_requests_unrouted", "Requests that no route took"),
    (cells.W_ACCESS_DENIED, "kairos_access_denied", "Requests from networks that may not use their route"),
    (cells.W_BANS, "kairos_bans", "Addresses banned because they failed too often"),
    (cells.W_BANNED, "kairos_banned_requests", "Requests refused during a ban"),
    (cells.W_OIDC_LOGINS, "kairos_oidc_logins", "Logins completed"),
    (cells.W_PROXY_REFUSED, "kairos_proxy_protocol_refused", "Connections without the PROXY header they should have"),
)
_HANDSHAKES = (
    (cells.W_TLS_12, cells.W_TLS_12_RESUMED, "1.2"),
    (cells.W_TLS_13, cells.W_TLS_13_RESUMED, "1.3"),
)
_HANDSHAKE_FAILURES = (
    (cells.W_TLS_TIMEOUT, "timeout"),
    (cells.W_TLS_GONE, "client_gone"),
    (cells.W_TLS_NO_TLS, "plain_http"),
    (cells.W_TLS_CLIENT_CERTIFICATE, "client_certificate"),
    (cells.W_TLS_REJECTED, "rejected_by_client"),
    (cells.W_TLS_UNKNOWN_NAME, "unknown_name"),
    (cells.W_TLS_PROTOCOL, "protocol"),
)
_LOGIN_FAILURES = (
    (cells.W_OIDC_STATE, "state"),
    (cells.W_OIDC_DENIED, "denied"),
    (cells.W_OIDC_ANSWER, "answer"),
    (cells.W_OIDC_CODE, "code"),
    (cells.W_OIDC_TOKEN, "token"),
    (cells.W_OIDC_UNAVAILABLE, "unavailable"),
)
_RENEWALS = (
    (cells.W_OIDC_RENEWED, "renewed"),
    (cells.W_OIDC_NOT_RENEWED, "ended"),
    (cells.W_OIDC_RENEWAL_FAILED, "failed"),
)
_LOGOUTS = (
    (cells.W_OIDC_LOGOUTS, "browser"),
    (cells.W_OIDC_ENDED, "provider"),
    (cells.W_OIDC_NOT_ENDED, "refused"),
)
_WORKER_GAUGES = (
    (cells.W_REVISION, "kairos_worker_config_revision", "Configuration revision a worker serves", 1),
    (cells.W_LAG_US, "kairos_worker_lag_seconds", "How late a worker's event loop was throughout the last second", 1e6),
    (cells.W_LEASE_DOWN, "kairos_rate_limit_redis_down", "1: the Redis that nodes share does not answer a worker", 1),
    (cells.W_SHED_LEVEL, "kairos_worker_shed_level", "From p * 256 on requests of priority p are shed; 0: none", 1),
)
_BREAKER_STATES = {breaker.CLOSED: "closed", breaker.OPEN: "open", breaker.HALF_OPEN: "half_open"}
_FORCED = {cells.FORCED_OPEN: breaker.OPEN, cells.FORCED_CLOSED: breaker.CLOSED}


class HistoryStatus(Struct, frozen=True):
    """How the recording of historical metrics does."""

    written: int = 0
    dropped: int = 0
    waiting: int = 0
    series: int = 0


class GatewayCollector(Collector):
    """All families of one gateway. `assignment` and `per_route` may be replaced at any time."""

    def __init__(self, scoreboard: Scoreboard, assignment: Assignment, *, per_route: bool = True) -> None:
        self.scoreboard = scoreboard
        self.assignment = assignment
        self.per_route = per_route
        self.certificates: list[tuple[str, float]] = []
        """Files of the certificates that are served, and when each ends."""
        self.pids: dict[str, int] = {}
        """Of processes beside the workers."""
        self.history: Callable[[], HistoryStatus] | None = None
        """How the recording of historical metrics does, once there is one."""

    def expose(self, accept: str = "") -> tuple[bytes, str]:
        """Body and content type: text format 0.0.4, or OpenMetrics where the Accept header asks for it."""
        encode, content_type = choose_encoder(accept)
        return encode(self), content_type

    def collect(self) -> Iterator[Metric]:
        """Read the page once and tell it under both sets of names."""
        reading = _Reading(self.scoreboard, self.assignment, per_route=self.per_route)
        yield from _process(self.scoreboard, reading)
        yield from _routes(reading)
        yield from _limits(self.scoreboard, reading)
        yield from _workers(self.scoreboard)
        yield from _processes(self.scoreboard, self.pids)
        yield from _history(self.history() if self.history is not None else HistoryStatus())
        yield from _tls(reading, self.certificates)
        yield from _logins(reading)
        yield from _cache(self.scoreboard)
        yield from _upstreams(reading)
        yield from _backends(reading)
        yield from _kairos_rs(self.scoreboard, reading)


class _Reading:
    """The page's totals at one moment, by label."""

    def __init__(self, scoreboard: Scoreboard, assignment: Assignment, *, per_route: bool) -> None:
        def label(route: str) -> str:
            return route if per_route else ALL_ROUTES

        board = scoreboard
        self.worker = board.totals(board.worker_block(0), cells.W_CELLS)
        self.routes: dict[str, list[int]] = {}
        for route, index in assignment.routes.items():
            _fold(self.routes, label(route), board.totals(board.route_block(0, index), cells.R_CELLS))
        self.pairs: dict[tuple[str, str], list[int]] = {}
        for (route, upstream), index in assignment.pairs.items():
            _fold(self.pairs, (label(route), upstream), board.totals(board.pair_block(0, index), cells.P_CELLS))
        self.limits: dict[str, list[int]] = {}
        for limit, index in assignment.limits.items():
            _fold(self.limits, label(limit), board.totals(board.limit_block(0, index), cells.L_CELLS))
        self.upstreams: dict[str, list[int]] = {}
        for upstream, index in assignment.upstreams.items():
            if index or assignment.full:  # else index 0 holds only the way to the control process
                self.upstreams[upstream] = board.totals(board.upstream_block(0, index), cells.U_CELLS)
        self.backends = {upstream: _Backend(board, index) for upstream, index in assignment.upstreams.items() if index}
        self.current = {
            upstream: self.backends[upstream] for upstream in assignment.current if upstream in self.backends
        }
        self.process_pair = _sum_blocks(self.pairs.values(), cells.P_CELLS)
        self.process_route = _sum_blocks(self.routes.values(), cells.R_CELLS)

    def requests(self, classes: Iterable[int] = range(cells.CLASSES)) -> int:
        """Requests of all methods that ended with one of these status classes."""
        methods = range(cells.METHODS)
        return sum(
            self.process_pair[cells.P_REQUESTS + m * cells.CLASSES + c] for m, c in itertools.product(methods, classes)
        )


class _Backend:
    """What all workers and the control process know of an upstream."""

    def __init__(self, board: Scoreboard, index: int) -> None:
        block = board.shared_upstream(index)
        gate = Gate(board.page, block, CircuitBreaker())
        self.cells = board.page.sums(block, cells.SU_CELLS, 0, 1)
        self.forced = self.cells[cells.SU_FORCED] != cells.FORCED_NOT
        self.state = _FORCED.get(self.cells[cells.SU_FORCED], gate.state)
        self.failures = gate.count if gate.state == breaker.CLOSED else 0
        self.successes = gate.count if gate.state == breaker.HALF_OPEN else 0

    def out(self, flag: int) -> bool:
        """Whether an OUT_* is set."""
        return bool(self.cells[cells.SU_OUT] & flag)

    @property
    def ejected(self) -> bool:
        return self.cells[cells.SU_SKIP_UNTIL_US] > time.monotonic_ns() // 1000

    @property
    def weight(self) -> float:
        """The share of its share that an operator left it."""
        percent = self.cells[cells.SU_WEIGHT] - 1
        return percent / 100 if percent >= 0 else 1.0


def _fold(table: dict[_Key, list[int]], key: _Key, block: list[int]) -> None:
    table[key] = [a + b for a, b in zip(table[key], block, strict=True)] if key in table else block


def _sum_blocks(blocks: Iterable[list[int]], size: int) -> list[int]:
    return [sum(column) for column in zip([0] * size, *blocks, strict=True)]


def _process(board: Scoreboard, reading: _Reading) -> Iterator[Metric]:
    """What concerns no route: the processes, their connections, the configuration in force."""
    page, worker = board.page, reading.worker
    yield InfoMetricFamily("kairos_build", "Version running", value={"version": __version__})
    yield _gauge("process_start_time_seconds", "Unix time at which the gateway started", board.started_at)
    yield _gauge("kairos_config_revision", "Configuration revision in force", page.get(cells.H_REVISION))
    yield _gauge("kairos_series_full", "1: routes or upstreams share a series", page.get(cells.H_SERIES_FULL))
    pids = [page.get(board.worker_block(slot) + cells.W_PID) for slot in range(board.capacity.workers)]
    yield _gauge("kairos_workers", "Worker processes alive", sum(pid != 0 for pid in pids))
    restarts = page.get(cells.H_WORKER_RESTARTS)
    yield CounterMetricFamily("kairos_worker_restarts", "Workers respawned after an unexpected death", value=restarts)
    yield from _reloads(page)
    connections = GaugeMetricFamily("kairos_connections", "Client connections; open includes tunnels", labels=["state"])
    connections.add_metric(["open"], worker[cells.W_CONNECTIONS_OPEN])
    connections.add_metric(["tunnel"], worker[cells.W_TUNNELS_OPEN])
    yield connections
    yield _gauge("kairos_requests_in_flight", "Requests being served", worker[cells.W_REQUESTS_ACTIVE])
    for cell, name, help_ in WORKER_COUNTERS:
        yield CounterMetricFamily(name, help_, value=worker[cell])
    dropped = CounterMetricFamily("kairos_access_log_dropped", "Access-log lines lost", labels=["reason"])
    dropped.add_metric(["ring_full"], worker[cells.W_LOG_DROPPED])
    dropped.add_metric(["unwritten"], page.get(cells.H_LOG_UNWRITTEN))
    yield dropped


def _cache(board: Scoreboard) -> Iterator[Metric]:
    """The memory that caches share."""
    stats = board.cache.stats() if board.cache is not None else {}
    yield _gauge("kairos_cache_capacity_bytes", "Memory that responses may be stored in", stats.get("capacity", 0))
    yield _gauge("kairos_cache_bytes", "Of it, what is taken by entries", stats.get("bytes", 0))
    yield _gauge("kairos_cache_entries", "Entries of the cache", stats.get("entries", 0))
    for name, help_ in (("evictions", "Entries that made room for others"), ("rejected", "Responses without a place")):
        yield CounterMetricFamily(f"kairos_cache_{name}", help_, value=stats.get(name, 0))


def _reloads(page: Page) -> Iterator[Metric]:
    reloads = CounterMetricFamily("kairos_config_reloads", "Reloads, by how they ended", labels=["result"])
    reloads.add_metric(["success"], page.get(cells.H_RELOADS))
    reloads.add_metric(["failure"], page.get(cells.H_RELOADS_FAILED))
    yield reloads
    last = page.get(cells.H_RELOADED_AT) / 1e6
    yield _gauge(
        "kairos_config_last_reload_timestamp_seconds", "Unix time of the last reload put in use; 0: none", last
    )
    failed = page.get(cells.H_UPGRADES_FAILED)
    yield CounterMetricFamily("kairos_upgrades_failed", "Binary upgrades given up", value=failed)
    changed = page.get(cells.H_KEYS)
    yield CounterMetricFamily("kairos_key_set_changes", "Changes of key sets fetched for tokens", value=changed)


def _workers(board: Scoreboard) -> Iterator[Metric]:
    """One series per worker that is alive."""
    blocks = {slot: board.worker_block(slot) for slot in range(board.capacity.workers)}
    alive = {slot: block for slot, block in blocks.items() if board.page.get(block + cells.W_PID)}
    for cell, name, help_, unit in _WORKER_GAUGES:
        family = GaugeMetricFamily(name, help_, labels=["worker"])
        for slot, block in alive.items():
            family.add_metric([str(slot)], board.page.get(block + cell) / unit)
        yield family


def _processes(board: Scoreboard, others: dict[str, int]) -> Iterator[Metric]:
    """What each process uses."""
    pids = {f"worker{n}": board.page.get(board.worker_block(n) + cells.W_PID) for n in range(board.capacity.workers)}
    found = {name: usage(pid) for name, pid in {**pids, **others}.items() if pid}
    cpu = CounterMetricFamily("kairos_process_cpu_seconds", "CPU time of a process", labels=["process"])
    memory = GaugeMetricFamily("kairos_process_resident_memory_bytes", "Its resident memory", labels=["process"])
    for name, used in found.items():
        if used is not None:
            cpu.add_metric([name], used.cpu_us / 1e6)
            memory.add_metric([name], used.rss)
    yield from (cpu, memory)


def _history(status: HistoryStatus) -> Iterator[Metric]:
    """Of the metrics that are kept."""
    samples = CounterMetricFamily("kairos_history_samples", "Samples of the metrics, by result", labels=["result"])
    samples.add_metric(["written"], status.written)
    samples.add_metric(["dropped"], status.dropped)
    yield samples
    yield _gauge("kairos_history_samples_waiting", "Samples that are to be written", status.waiting)
    yield _gauge("kairos_history_series", "Series that are kept apart", status.series)


def _routes(reading: _Reading) -> Iterator[Metric]:
    """What happened to the requests of each route."""
    labels = ["route", "upstream", "method", "code"]
    requests = CounterMetricFamily("kairos_http_requests", "Requests answered, by final status class", labels=labels)
    for pair, block in reading.pairs.items():
        for (method, code), count in zip(itertools.product(METHODS, CODES), block[cells.P_REQUESTS :], strict=False):
            if count:
                requests.add_metric([*pair, method, code], count)
    yield requests
    for first, name, help_ in HISTOGRAMS:
        family = HistogramMetricFamily(name, help_, labels=["route"])
        for route, block in reading.routes.items():
            _add_histogram(family, [route], block[first : first + cells.HIST_CELLS])
        yield family
    for cell, name, help_ in ROUTE_COUNTERS:
        yield _counters(name, help_, ["route"], (([route], block[cell]) for route, block in reading.routes.items()))
    for cell, name, help_ in ROUTE_GAUGES:
        gauge = GaugeMetricFamily(name, help_, labels=["route"])
        for route, block in reading.routes.items():
            if any(block):
                gauge.add_metric([route], block[cell])
        yield gauge
    waits = SummaryMetricFamily(
        "kairos_queue_wait_seconds", "Time spent waiting for a backend's room", labels=["route"]
    )
    for route, block in reading.routes.items():
        if block[cells.R_QUEUED_TOTAL]:
            waits.add_metric([route], block[cells.R_QUEUED_TOTAL], block[cells.R_QUEUE_US] / 1e6)
    yield waits
    for cell, name, help_ in PAIR_COUNTERS:
        pairs = (([*pair], block[cell]) for pair, block in reading.pairs.items())
        yield _counters(name, help_, ["route", "upstream"], pairs)


def _limits(board: Scoreboard, reading: _Reading) -> Iterator[Metric]:
    """What rate limits did, and how full the tables of their keys are."""
    for cell, name, help_ in LIMIT_COUNTERS:
        yield _counters(name, help_, ["limit"], (([limit], block[cell]) for limit, block in reading.limits.items()))
    tables = {"counts": board.limit_table(LIMIT_WORDS), "windows": board.limit_table(WINDOW_WORDS)}
    keys = GaugeMetricFamily("kairos_rate_limit_keys", "Places for keys that were ever taken", labels=["table"])
    places = GaugeMetricFamily("kairos_rate_limit_places", "Places for keys of rate limits", labels=["table"])
    for name, table in tables.items():
        keys.add_metric([name], table.count(T_KEYS))
        places.add_metric([name], table.places)
    yield keys
    yield places
    for cell, name, help_ in _LIMIT_TABLE_COUNTERS:
        yield _counters(name, help_, ["table"], (([name], table.count(cell)) for name, table in tables.items()))


def _upstreams(reading: _Reading) -> Iterator[Metric]:
    """What happened between the gateway and each upstream that was ever contacted."""
    used = {upstream: block for upstream, block in reading.upstreams.items() if any(block)}
    in_flight = GaugeMetricFamily("kairos_upstream_requests_in_flight", "Requests at an upstream", labels=["upstream"])
    states = ["upstream", "state"]
    connections = GaugeMetricFamily("kairos_upstream_connections", "Connections to an upstream", labels=states)
    for upstream, block in used.items():
        idle = block[cells.U_CONNECTIONS_IDLE]
        in_flight.add_metric([upstream], block[cells.U_IN_FLIGHT])
        connections.add_metric([upstream, "active"], max(0, block[cells.U_CONNECTIONS_OPEN] - idle))
        connections.add_metric([upstream, "idle"], idle)
    yield in_flight
    yield connections
    for cell, name, help_ in UPSTREAM_COUNTERS:
        yield _counters(name, help_, ["upstream"], (([upstream], block[cell]) for upstream, block in used.items()))
    heads = SummaryMetricFamily(
        "kairos_upstream_first_byte_seconds", "Request sent to response head", labels=["upstream"]
    )
    for upstream, block in used.items():
        if block[cells.U_ANSWERS]:
            heads.add_metric([upstream], block[cells.U_ANSWERS], block[cells.U_ANSWER_US] / 1e6)
    yield heads
    yield _counters(
        "kairos_upstream_retries",
        "Requests sent once more: over a new connection as the kept one was stale, or by the route's retry policy",
        ["upstream", "reason"],
        _retries(reading),
    )


def _tls(reading: _Reading, certificates: Iterable[tuple[str, float]]) -> Iterator[Metric]:
    done: list[tuple[list[str], int]] = []
    for all_, resumed, version in _HANDSHAKES:
        again = reading.worker[resumed]
        done += [([version, "no"], reading.worker[all_] - again), ([version, "yes"], again)]
    yield _counters("kairos_tls_handshakes", "TLS handshakes of clients", ["version", "resumed"], done)
    failed = (([reason], reading.worker[cell]) for cell, reason in _HANDSHAKE_FAILURES)
    yield _counters("kairos_tls_handshake_failures", "TLS handshakes that came to nothing", ["reason"], failed)
    ends = GaugeMetricFamily("kairos_tls_certificate_not_after_seconds", "Unix time of its end", labels=["file"])
    for path, end in certificates:
        ends.add_metric([path], end)
    yield ends


def _logins(reading: _Reading) -> Iterator[Metric]:
    """At OpenID providers."""
    families = (
        ("kairos_oidc_login_failures", "Logins that failed", "reason", _LOGIN_FAILURES),
        ("kairos_oidc_renewals", "Renewals of sessions", "result", _RENEWALS),
        ("kairos_oidc_logouts", "Logouts, by who asked for them; refused: what only said so", "by", _LOGOUTS),
    )
    for name, help_, label, rows in families:
        yield _counters(name, help_, [label], (([value], reading.worker[cell]) for cell, value in rows))


def _retries(reading: _Reading) -> Iterator[tuple[list[str], int]]:
    by_policy: Counter[str] = Counter()
    for (_, upstream), block in reading.pairs.items():
        by_policy[upstream] += block[cells.P_RETRIES]
    for upstream, block in reading.upstreams.items():
        yield [upstream, "stale"], block[cells.U_STALE_RETRIES]
        yield [upstream, "policy"], by_policy[upstream]


def _backends(reading: _Reading) -> Iterator[Metric]:
    """What is thought of each backend: verdicts of every one in use, counts of those that ever moved."""
    current = reading.current.items()
    healthy = GaugeMetricFamily("kairos_upstream_healthy", "0: its active health checks fail", labels=["upstream"])
    out = GaugeMetricFamily("kairos_upstream_out", "1: it is left out, for this reason", labels=["upstream", "reason"])
    weight = GaugeMetricFamily(
        "kairos_upstream_weight_ratio", "Share of its share an operator left it", labels=["upstream"]
    )
    for upstream, backend in current:
        healthy.add_metric([upstream], not backend.out(cells.OUT_DOWN))
        out.add_metric([upstream, "ejected"], backend.ejected)
        out.add_metric([upstream, "drain"], backend.out(cells.OUT_DRAIN))
        out.add_metric([upstream, "maintenance"], backend.out(cells.OUT_MAINTENANCE))
        weight.add_metric([upstream], backend.weight)
    yield from (healthy, out, weight)
    states = GaugeMetricFamily(
        "kairos_upstream_breaker_state", "1: the state its circuit breaker is in", labels=["upstream", "state"]
    )
    forced = GaugeMetricFamily("kairos_upstream_breaker_forced", "1: by an operator", labels=["upstream"])
    for upstream, backend in current:
        for state, name in _BREAKER_STATES.items():
            states.add_metric([upstream, name], backend.state == state)
        forced.add_metric([upstream], backend.forced)
    yield from (states, forced)
    for cell, name, help_ in BACKEND_COUNTERS:
        counts = (([upstream], backend.cells[cell]) for upstream, backend in reading.backends.items())
        yield _counters(name, help_, ["upstream"], counts)
    labels = ["upstream", "result"]
    yield _counters("kairos_upstream_health_checks", "Active health checks, by result", labels, _checks(reading))


def _checks(reading: _Reading) -> Iterator[tuple[list[str], int]]:
    for upstream, backend in reading.backends.items():
        made, failed = backend.cells[cells.SU_CHECKS], backend.cells[cells.SU_CHECKS_FAILED]
        yield [upstream, "success"], made - failed
        yield [upstream, "failure"], failed


def _kairos_rs(board: Scoreboard, reading: _Reading) -> Iterator[Metric]:
    """kairos-rs's names, meaning what they say: redirects are no errors, a 404 is a 4xx, +Inf counts everything."""
    pair, route, worker = reading.process_pair, reading.process_route, reading.worker
    total, errors = reading.requests(), reading.requests(ERRORS)
    times = route[cells.R_TOTAL : cells.R_TOTAL + cells.HIST_CELLS]
    answered = sum(times[: cells.HIST_BUCKETS])
    counters = (
        ("kairos_requests", "Requests", total),
        ("kairos_requests_success", "Requests answered with 2xx", reading.requests([cells.CLASS_2XX])),
        ("kairos_requests_error", "Requests answered with 4xx or 5xx, or left by the client", errors),
        ("kairos_http_4xx_errors", "4xx, the client's leaving included", errors - reading.requests([cells.CLASS_5XX])),
        ("kairos_http_5xx_errors", "5xx", reading.requests([cells.CLASS_5XX])),
        ("kairos_timeout_errors", "Requests an upstream did not answer in time", pair[cells.P_TIMEOUTS]),
        ("kairos_connection_errors", "Requests for which no connection could be made", pair[cells.P_CONNECT_ERRORS]),
        ("kairos_request_bytes", "Request bytes received", route[cells.R_BYTES_IN]),
        ("kairos_response_bytes", "Response bytes sent", route[cells.R_BYTES_OUT]),
    )
    for name, help_, value in counters:
        yield CounterMetricFamily(name, help_, value=value)
    mean_ms = times[cells.HIST_SUM] / answered / 1000 if answered else 0.0
    yield _gauge("kairos_response_time_avg", "Mean response time since the start, ms", round(mean_ms, 2))
    yield _legacy_response_time(times)
    success = 100 * (total - errors) / total if total else 100.0
    yield _gauge("kairos_success_rate", "Share of requests that were no errors, percent", round(success, 2))
    yield _gauge("kairos_active_connections", "Requests being served", worker[cells.W_REQUESTS_ACTIVE])
    peak = "Most requests served at once: each worker's peak, added up"
    yield _gauge("kairos_peak_connections", peak, worker[cells.W_REQUESTS_PEAK])
    yield _gauge("kairos_uptime_seconds", "Time since the start", round(time.time() - board.started_at, 3))
    yield from _legacy_breakers(reading)


def _legacy_breakers(reading: _Reading) -> Iterator[Metric]:
    state = GaugeMetricFamily("kairos_circuit_breaker_state", "0 closed, 1 open, 2 half-open", labels=["service"])
    failures = GaugeMetricFamily("kairos_circuit_breaker_failures", "Failures in a row", labels=["service"])
    successes = GaugeMetricFamily("kairos_circuit_breaker_successes", "Successes while half-open", labels=["service"])
    for upstream, backend in reading.current.items():
        state.add_metric([upstream], backend.state)
        failures.add_metric([upstream], backend.failures)
        successes.add_metric([upstream], backend.successes)
    yield from (state, failures, successes)


def _legacy_response_time(times: list[int]) -> Metric:
    buckets: list[tuple[str, float]] = []
    for bound in _LEGACY_BOUNDS_US:
        below = sum(times[: cells.BOUNDS_US.index(bound) + 1])
        buckets.append((str(bound // 1000), below))
    buckets.append(("+Inf", sum(times[: cells.HIST_BUCKETS])))
    total_ms = times[cells.HIST_SUM] / 1000
    return HistogramMetricFamily("kairos_response_time", "Response time, ms", buckets=buckets, sum_value=total_ms)


# --- families -----------------------------------------------------------------------------------------------------


def _gauge(name: str, help_: str, value: float) -> Metric:
    return GaugeMetricFamily(name, help_, value=value)


def _counters(name: str, help_: str, labels: list[str], samples: Iterable[tuple[list[str], int]]) -> Metric:
    """A counter family of the samples that are not zero."""
    family = CounterMetricFamily(name, help_, labels=labels)
    for values, count in samples:
        if count:
            family.add_metric(values, count)
    return family


def _add_histogram(family: HistogramMetricFamily, labels: list[str], block: list[int]) -> None:
    """One histogram, unless it is empty."""
    counts = list(itertools.accumulate(block[: cells.HIST_BUCKETS]))
    if counts[-1]:
        family.add_metric(labels, list(zip(_SECONDS, counts, strict=True)), block[cells.HIST_SUM] / 1e6)
