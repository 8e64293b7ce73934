"""Active health checks: probes backends, and says to the workers which are down (OUT_DOWN in SU_OUT).

Rules:
- one check per upstream, that of the first route that wants one; none wanted: never down;
- so many results in a row against the verdict turn it (rise, fall); what teaches nothing about it turns nothing;
- the verdict lives in the shared cells: a reload that leaves a check as it is does not disturb it, and the next control
  process begins with the verdicts it finds.
"""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from kairos._speedups import cells
from kairos.config.origin import parse_backend
from kairos.config.serving import every_route
from kairos.config.tls import tls_key
from kairos.control.probe import Check, Outcome, Prober
from kairos.control.upstreams import known_upstreams
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from kairos.config.model import Backend, Config, Route, UpstreamTls
    from kairos.config.tls import TlsKey
    from kairos.control.upstreams import Upstream
    from kairos.resolver import Resolver
    from kairos.scoreboard import Assignment, Scoreboard

AT_ONCE = 64
"""Probes under way at once."""
SPREAD = 2.0
"""Seconds over which the first probes are spread, where the interval is not shorter."""
SETTLE = 1.0
"""Seconds between the probes of a check that began, until one agrees with the verdict: a new gateway, which believes
every backend well, is not to send requests to a dead one for as long as `fall` intervals."""
JITTER = 0.1
"""Of the interval, either way: checks that began together drift apart."""

log = get_logger("health")


class CheckStatus(Struct, frozen=True):
    """An upstream's check as operators see it."""

    type: str
    path: str
    healthy: bool
    """The verdict, after rise and fall."""
    in_a_row: int
    """Results in a row that speak against the verdict."""
    last_ok: bool | None
    """The last probe's own result; null before the first and when it taught nothing."""
    last_reason: str
    """Why it was not ok."""
    last_at: float
    """When it ended, in Unix seconds; 0 before the first."""
    last_seconds: float
    """How long it took."""


class NotCheckedError(LookupError):
    """The upstream has no health check."""


class Tally:
    """Rise and fall: the verdict turns after so many results in a row against it."""

    def __init__(self, rise: int, fall: int, *, up: bool) -> None:
        self.up = up
        self.in_a_row = 0
        self._needed = {True: rise, False: fall}

    def note(self, good: bool) -> bool:
        """Take in one result; whether it turned the verdict."""
        self.in_a_row = self.in_a_row + 1 if good != self.up else 0
        if self.in_a_row < self._needed[good]:
            return False
        self.up, self.in_a_row = good, 0
        return True


class HealthChecker:
    """All checks of the configuration in use. To be used inside the event loop."""

    def __init__(self, scoreboard: Scoreboard, *, resolver: Resolver | None = None) -> None:
        self._scoreboard = scoreboard
        self._resolver = resolver
        self._prober: Prober | None = None
        self._watches: dict[str, _Watch] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def apply(self, config: Config, series: Assignment) -> None:
        """A revision is in use: begin, change and end checks; whoever is not checked any more is not down."""
        if self._prober is None:
            self._prober = Prober(AT_ONCE, self._resolver)
        wanted = checks_of(config)
        for key, upstream in known_upstreams(self._scoreboard, series).items():
            check, watch = wanted.get(key), self._watches.get(key)
            if watch is not None and watch.check == check:
                continue
            if watch is not None:
                self._watches.pop(key).end()
            if check is None:
                upstream.put_back(cells.OUT_DOWN)
            else:
                self._watches[key] = watch = _Watch(upstream, check, self._prober)
                watch.begin(self._tasks)
        self._prober.keep(wanted.values())

    async def close(self) -> None:
        """End all checks; the verdicts stay."""
        while self._watches:
            self._watches.popitem()[1].end()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._prober is not None:
            await self._prober.close()

    def status(self, key: str) -> CheckStatus | None:
        """An upstream's check, None if it has none."""
        watch = self._watches.get(key)
        return watch.status if watch is not None else None

    async def probe_now(self, key: str) -> CheckStatus:
        """Probe at once; the result counts like any other.

        Raises:
            NotCheckedError
        """
        watch = self._watches.get(key)
        if watch is None:
            raise NotCheckedError(f"{key} has no health check: give the backend a health_check_path")
        await watch.probe()
        return watch.status


class _Watch:
    """One upstream under one check."""

    def __init__(self, upstream: Upstream, check: Check, prober: Prober) -> None:
        self.check = check
        self._upstream = upstream
        self._prober = prober
        self._alone = asyncio.Lock()
        self._ended = False
        self._settled = False
        self._task: asyncio.Task[None] | None = None
        self._tally = Tally(check.spec.rise, check.spec.fall, up=not upstream.is_out(cells.OUT_DOWN))
        self.status = CheckStatus(check.spec.type, check.path, self._tally.up, 0, None, "", 0.0, 0.0)

    def begin(self, tasks: set[asyncio.Task[None]]) -> None:
        """Probe until the end; the task is in `tasks` as long as it runs."""
        self._task = asyncio.get_running_loop().create_task(self._run())
        tasks.add(self._task)
        self._task.add_done_callback(tasks.discard)

    def end(self) -> None:
        """A probe under way no longer counts."""
        self._ended = True
        if self._task is not None:
            self._task.cancel()

    async def _run(self) -> None:
        loop, interval = asyncio.get_running_loop(), self.check.spec.interval
        await asyncio.sleep(random.uniform(0, min(interval, SPREAD)))
        while True:
            began = loop.time()
            try:
                await self.probe()
            except Exception:  # a fault of ours is nobody's verdict, and ends no check
                log.exception("health check failed to run", upstream=self._upstream.key)
            pause = interval if self._settled else min(interval, SETTLE)
            await asyncio.sleep(began + pause * random.uniform(1 - JITTER, 1 + JITTER) - loop.time())

    async def probe(self) -> None:
        """One probe and what follows from it."""
        async with self._alone:
            outcome = await self._prober.probe(self.check)
            if not self._ended:
                self._note(outcome)

    def _note(self, outcome: Outcome) -> None:
        if outcome.good is None:
            self._tell_once(outcome.reason)
        else:
            self._upstream.count(cells.SU_CHECKS)
            if not outcome.good:
                self._upstream.count(cells.SU_CHECKS_FAILED)
            if self._tally.note(outcome.good):
                self._turn(outcome.reason)
            self._settled |= outcome.good == self._tally.up
        self.status = replace(
            self.status,
            healthy=self._tally.up,
            in_a_row=self._tally.in_a_row,
            last_ok=outcome.good,
            last_reason=outcome.reason,
            last_at=time.time(),
            last_seconds=outcome.seconds,
        )

    def _tell_once(self, reason: str) -> None:
        if self.status.last_ok is not None or self.status.last_reason != reason:
            log.warning("cannot check a backend", upstream=self._upstream.key, reason=reason)

    def _turn(self, reason: str) -> None:
        spec, upstream = self.check.spec, self._upstream
        if self._tally.up:
            upstream.put_back(cells.OUT_DOWN)
            log.info("backend is healthy again", upstream=upstream.key, checks=spec.rise)
        else:
            upstream.put_out(cells.OUT_DOWN)
            log.warning("backend is unhealthy", upstream=upstream.key, reason=reason, checks=spec.fall)


# --- what is to be checked ------------------------------------------------------------------------------------------


def checks_of(config: Config) -> dict[str, Check]:
    """The check of every upstream that has one: that of the first route that wants it."""
    found: dict[str, Check] = {}
    for route in every_route(config):
        if route.protocol == "dns":
            continue
        for backend in route.backends:
            if route.health_check is not None or backend.health_check_path is not None:
                check = _check(backend, route, config)
                found.setdefault(check.origin.key, check)
    return found


def _check(backend: Backend, route: Route, config: Config) -> Check:
    spec, tls = route.health_check or config.health_check, route.tls or config.tls
    if route.protocol == "ftp":
        spec = replace(spec, type="tcp")
    path = backend.health_check_path or spec.path
    origin = parse_backend(backend, route.protocol)
    return Check(origin, spec, path, _tls(tls) if origin.tls else None)


def _tls(tls: UpstreamTls) -> TlsKey:
    try:
        return tls_key(tls)
    except OSError:
        return tls, ()  # the probe will say which file is not there
