"""Judges what is to help when backends fail: retries, hedging, breakers, probes, ejection, queues, load shedding.

A value that contradicts another is an error. What is risky, or protects nothing although it looks so, is a warning;
what merely has nothing to do is a hint.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from kairos.config.model import HealthCheck, Queue, Route

if TYPE_CHECKING:
    from kairos.config.model import (
        Backend,
        CircuitBreaker,
        Config,
        Hedge,
        OutlierDetection,
        Retry,
    )
    from kairos.config.problems import Findings, Notes, Path

REPEATABLE = frozenset({"GET", "HEAD", "PUT", "DELETE", "OPTIONS", "TRACE"})
"""Idempotent methods (RFC 9110 section 9.2.2): those that may be sent twice unasked."""
SMALL_BUFFER = 4096
NEVER_SHED = 10

_WITH_BODY = frozenset({"POST", "PUT", "PATCH"})
_CLIENTS_DOING = frozenset(range(400, 500)) - {408, 429}
_PRIORITY = next(field.default for field in msgspec.structs.fields(Route) if field.name == "priority")
_PATH = re.compile(r"/[^\x00-\x1f\x7f]*")
_HOST = re.compile(r"[A-Za-z0-9._~\[\]:-]{1,255}")


class Named(NamedTuple):
    """A backend of a route, where it stands, and the origin it is."""

    keys: Path
    backend: Backend
    origin: str


class Resilience:
    """Goes from route to route; remembers what they say of the backends they share."""

    def __init__(self, config: Config, found: Findings, notes: Notes) -> None:
        self.config = config
        self.found = found
        self.notes = notes
        self._probes: dict[str, tuple[HealthCheck, str, int]] = {}
        """Origin → how it is probed, on which path, and by which route's word."""
        self._limits: dict[str, tuple[int | None, int]] = {}
        """Origin → max_requests, and the route that says so."""

    def check_sections(self) -> None:
        """The sections for routes without their own."""
        config = self.config
        _check_breaker(config.circuit_breaker, ("circuit_breaker",), self.notes)
        _check_probe(config.health_check, ("health_check",), self.found, self.notes)
        _check_outliers(config.outlier_detection, ("outlier_detection",), self.found, self.notes)
        if (
            config.load_shedding.enabled
            and config.routers
            and all(route.priority == NEVER_SHED for route in config.routers)
        ):
            self.notes.hint(("load_shedding",), f"every route has priority {NEVER_SHED}: there is nothing to shed")

    def check_route(self, route: Route, keys: Path, backends: list[Named]) -> None:
        """What one route sets for itself, and against what others say of the same backends."""
        alone = len({named.origin for named in backends}) == 1
        if route.retry is not None:
            self._check_retry(route, route.retry, (*keys, "retry"))
        if route.hedge is not None:
            self._check_hedge(route, route.hedge, (*keys, "hedge"), alone=alone)
        if route.circuit_breaker is not None:
            _check_breaker(route.circuit_breaker, (*keys, "circuit_breaker"), self.notes)
        if route.health_check is not None:
            _check_probe(route.health_check, (*keys, "health_check"), self.found, self.notes)
        if route.outlier_detection is not None:
            here = (*keys, "outlier_detection")
            _check_outliers(route.outlier_detection, here, self.found, self.notes)
            if alone and route.outlier_detection.enabled:
                self.notes.hint(here, "the only backend of a route is never ejected: there is no other to compare with")
        self._check_queue(route, keys)
        self._check_safety(route, keys, backends, alone=alone)
        for named in backends:
            self._check_probed(route, named, int(keys[-1]))
            self._check_shared_limit(named, int(keys[-1]))

    # ---- attempts

    def _check_retry(self, route: Route, retry: Retry, keys: Path) -> None:
        if retry.initial_backoff_ms > retry.max_backoff_ms:
            self.found.error((*keys, "initial_backoff_ms"), "initial_backoff_ms cannot be greater than max_backoff_ms")
        if retry.max_retries == 0:
            return
        if any(code < 400 for code in retry.retry_on_status_codes):
            message = "a status below 400 is no failure: every such answer would be asked for again"
            self.notes.warning((*keys, "retry_on_status_codes"), message)
        if not retry.budget_percent and not retry.budget_min:
            message = "with budget_percent and budget_min 0 nothing is sent again, but what could not be sent at all"
            self.notes.warning(keys, message)
        self._check_repeatable(route, retry, keys)
        total, first_byte = self._seconds(route, "total"), self._seconds(route, "first_byte")
        if total and first_byte and total <= first_byte:
            message = "timeouts.first_byte leaves no time before timeouts.total: a backend that hangs is not retried"
            self.notes.hint(keys, message)

    def _check_repeatable(self, route: Route, retry: Retry, keys: Path) -> None:
        unsafe = [method for method in route.methods if method not in REPEATABLE]
        repeated = _repeatable(route)
        if route.protocol == "websocket":
            self.notes.hint(keys, "a handshake goes to another backend only where it could not be sent at all")
        elif retry.retry_non_idempotent and unsafe:
            message = f"{' and '.join(unsafe)} may take effect twice: set this only where the backend tells repetitions"
            self.notes.warning((*keys, "retry_non_idempotent"), message)
        elif not repeated:
            message = f"a {' or '.join(unsafe)} goes to another backend only where it could not be sent at all"
            self.notes.hint(keys, message)
        if retry.buffer_bytes < SMALL_BUFFER and not _WITH_BODY.isdisjoint(repeated):
            message = f"a request whose body has more than {retry.buffer_bytes} bytes is not retried once it was begun"
            self.notes.hint((*keys, "buffer_bytes"), message)

    def _check_hedge(self, route: Route, hedge: Hedge, keys: Path, *, alone: bool) -> None:
        if route.protocol == "websocket":
            self.notes.warning(keys, "handshakes are never hedged")
        elif not _repeatable(route):
            message = f"only idempotent methods are hedged, and this route has {' and '.join(route.methods)} only"
            self.notes.warning(keys, message)
        elif alone:
            self.notes.hint(keys, "with one backend there is nowhere else to ask: no hedge is ever made")
        first_byte = self._seconds(route, "first_byte")
        if first_byte and hedge.min_delay_ms / 1000 >= first_byte:
            message = "the attempt has run into timeouts.first_byte by then: no hedge is ever made"
            self.notes.warning((*keys, "min_delay_ms"), message)

    # ---- load

    def _check_queue(self, route: Route, keys: Path) -> None:
        queue, limited = route.queue, any(backend.max_requests is not None for backend in route.backends)
        total = self._seconds(route, "total")
        if queue != Queue() and not limited:
            self.notes.hint((*keys, "queue"), "nobody ever waits: no backend of this route has max_requests")
        elif limited and not queue.size:
            message = "nobody waits: a request that finds every backend at its max_requests gets 503 at once"
            self.notes.hint((*keys, "queue", "size"), message)
        elif limited and total and queue.timeout >= total:
            message = "as long as timeouts.total: who waits to the end has no time left for the answer"
            self.notes.hint((*keys, "queue", "timeout"), message)
        if route.priority != _PRIORITY and not self.config.load_shedding.enabled:
            self.notes.hint((*keys, "priority"), "has no effect while load_shedding.enabled is false")

    # ---- backends

    def _check_safety(self, route: Route, keys: Path, backends: list[Named], *, alone: bool) -> None:
        """Whether anything at all keeps requests away from a dead backend."""
        if route.panic_threshold >= 100:
            message = "probes and ejections are never believed: all backends are always asked"
            self.notes.warning((*keys, "panic_threshold"), message)
        breaker = route.circuit_breaker or self.config.circuit_breaker
        outliers = route.outlier_detection or self.config.outlier_detection
        probed = any(self._probe_of(route, named.backend) for named in backends)
        if backends and not alone and not (breaker.enabled or outliers.enabled or probed):
            message = "no breaker, no ejection, no probes: a dead backend is asked like the others, again and again"
            self.notes.warning(keys, message)

    def _probe_of(self, route: Route, backend: Backend) -> tuple[HealthCheck, str] | None:
        """How a route wants a backend probed, and on which path."""
        if backend.health_check_path is None and route.health_check is None:
            return None
        spec = route.health_check or self.config.health_check
        return spec, (backend.health_check_path or spec.path) if spec.type == "http" else ""

    def _check_probed(self, route: Route, named: Named, at: int) -> None:
        """A backend is probed once however many routes have it; the first that wants it says how."""
        path = named.backend.health_check_path
        if path is not None:
            here = (*named.keys, "health_check_path")
            if not _PATH.fullmatch(path):
                self.found.error(here, _BAD_PATH)
            elif (route.health_check or self.config.health_check).type == "tcp":
                self.notes.warning(here, "is never asked for: health_check.type is tcp, which only connects")
        probe = self._probe_of(route, named.backend)
        if probe is None:
            return
        spec, asked, other = self._probes.setdefault(named.origin, (*probe, at))
        if (spec, asked) != probe:
            message = f"is probed as routers[{other}] says, not as this route does: one backend has one health check"
            self.notes.warning((*named.keys, "host"), message)

    def _check_shared_limit(self, named: Named, at: int) -> None:
        limit = named.backend.max_requests
        first, other = self._limits.setdefault(named.origin, (limit, at))
        if first != limit and other != at:
            words = "no limit" if first is None else str(first)
            message = (
                f"routers[{other}] has {words} for this backend: each route holds its own number against all requests"
            )
            self.notes.hint((*named.keys, "max_requests"), message)

    def _seconds(self, route: Route, name: str) -> float | None:
        """A timeout as the route has it; None or 0 means none."""
        own: float | None = getattr(route.timeouts, name, None)
        given: float | None = getattr(self.config.timeouts, name) if own is None else own
        return given


_BAD_PATH = "must be a path that starts with '/', without control characters"


def _repeatable(route: Route) -> list[str]:
    """The methods whose requests may be sent twice."""
    if route.protocol == "websocket":
        return []
    if route.retry is not None and route.retry.retry_non_idempotent:
        return [*route.methods]
    return [method for method in route.methods if method in REPEATABLE]


def _check_breaker(breaker: CircuitBreaker, keys: Path, notes: Notes) -> None:
    if not _CLIENTS_DOING.isdisjoint(breaker.failure_status_codes or ()):
        message = "clients can provoke a 4xx, and so open the breaker for everybody: list statuses from 500 on"
        notes.warning((*keys, "failure_status_codes"), message)


def _check_probe(spec: HealthCheck, keys: Path, found: Findings, notes: Notes) -> None:
    if not _PATH.fullmatch(spec.path):
        found.error((*keys, "path"), _BAD_PATH)
    if spec.host is not None and not _HOST.fullmatch(spec.host):
        found.error((*keys, "host"), "must be a host name or address, with a port if it needs one")
    if not spec.expected_status:
        found.error((*keys, "expected_status"), "no answer would be good enough: list statuses, such as 200 or 2xx")
    if spec.timeout > spec.interval:
        message = "is longer than interval: a backend that hangs is probed less often than interval says"
        notes.warning((*keys, "timeout"), message)
    if spec.type == "tcp":
        plain = HealthCheck()
        for name in ("path", "method", "host", "expected_status"):
            if getattr(spec, name) != getattr(plain, name):
                notes.warning((*keys, name), "has no effect: type tcp only connects")


def _check_outliers(spec: OutlierDetection, keys: Path, found: Findings, notes: Notes) -> None:
    if spec.max_ejection_time < spec.ejection_time:
        found.error((*keys, "max_ejection_time"), "cannot be less than ejection_time")
    if 0 < spec.latency_factor <= 1:
        message = "ejects backends as fast as the others: 2 or more makes sense, and 0 turns it off"
        found.error((*keys, "latency_factor"), message)
    if spec.enabled and not spec.max_ejection_percent:
        message = "one backend may be ejected even so: enabled false turns ejection off"
        notes.warning((*keys, "max_ejection_percent"), message)
