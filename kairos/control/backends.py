"""Operators' verdicts on backends: drain, maintenance, weight, a breaker forced; and what there is to see of a backend.

What an operator set is in the shared cells, and in a file, to outlive a restart or upgrade of the gateway. Rules:
- the cells are right where they say something: a control process that died may not have come to write the file;
- the file is replaced whole, off the loop, and a change is answered when that is done; where it cannot be written that
  is logged, the verdict holds all the same, and the next change or reload tries again;
- the supervisor writes to the cells what is on file before any process is there; a gateway that takes over from another
  reads the file once more (`take_up`) when that lets operators change nothing any more;
- verdicts on backends that no route has any more stay on file and take effect when one has them again.
"""

from __future__ import annotations

import asyncio
import difflib
from collections.abc import Sequence  # noqa: TC003  (msgspec needs it at run time)
from typing import TYPE_CHECKING, Literal

from msgspec import Struct
from msgspec.structs import replace

from kairos._speedups import breaker, cells
from kairos.control.health import CheckStatus  # noqa: TC001  (msgspec needs it at run time)
from kairos.control.upstreams import Upstream, known_upstreams, monotonic_us, users
from kairos.storage.overrides import FORCED, NOTHING, OUT, Override, UnreadableError, read_overrides, write_overrides
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from pathlib import Path

    from kairos.config.model import Config
    from kairos.control.health import HealthChecker
    from kairos.scoreboard import Assignment, Scoreboard
    from kairos.storage.overrides import Force, State

Condition = Literal["healthy", "unhealthy", "draining", "maintenance", "ejected"]

_OPERATORS = cells.OUT_DRAIN | cells.OUT_MAINTENANCE
BREAKER_STATES: dict[int, Literal["closed", "open", "half_open"]] = {
    breaker.CLOSED: "closed", breaker.OPEN: "open", breaker.HALF_OPEN: "half_open",
}  # fmt: skip

log = get_logger("health")


class BackendStatus(Struct, frozen=True):
    """A backend at this moment, over all workers."""

    key: str
    routes: list[str]
    state: Condition
    """What keeps requests away, the operator's word first."""
    weight: int
    """Percent of its share that an operator left it."""
    breaker: Literal["closed", "open", "half_open"]
    breaker_forced: Literal["open", "closed"] | None
    ejected_for: float
    """Seconds for which it is still left out as an outlier."""
    in_flight: int
    connections: int
    connections_idle: int
    attempts: int
    failures: int
    breaker_opened: int
    ejections: int
    checks: int
    checks_failed: int
    check: CheckStatus | None
    """Its health check; null if it has none."""


class UnknownBackendError(LookupError):
    """No route has a backend of this key; the text names those it resembles."""


class Backends:
    """Every backend of the configuration in use, and the operators' verdicts. To be used inside the event loop."""

    def __init__(self, scoreboard: Scoreboard, checker: HealthChecker, file: Path | None) -> None:
        """`file` keeps the overrides; None: they last as long as the gateway."""
        self._scoreboard = scoreboard
        self._checker = checker
        self._file = file
        self._overrides = self._read() or {}
        self._unkept = False
        self._writing: asyncio.Task[None] | None = None
        """The last of those that write the file one after the other."""
        self._upstreams: dict[str, Upstream] = {}
        self._users: dict[str, list[str]] = {}

    def prepare(self, config: Config, series: Assignment) -> None:
        """A revision may come into use: no worker is to pick its new backends without their overrides."""
        known = known_upstreams(self._scoreboard, series)
        for key in users(config):
            if key in known and key in self._overrides and key not in self._upstreams:
                _write(known[key], self._overrides[key])

    def apply(self, config: Config, series: Assignment) -> None:
        """A revision is in use: its backends get their overrides, others lose them."""
        self._users = users(config)
        known = known_upstreams(self._scoreboard, series)
        for key, upstream in known.items():
            if key not in self._users:
                _write(upstream, NOTHING)
                continue
            if key not in self._upstreams and (found := override_of(upstream)) != NOTHING:
                self._overrides[key] = found  # of a control process before this one
            _write(upstream, self._overrides.get(key, NOTHING))
        self._upstreams = {key: upstream for key, upstream in known.items() if key in self._users}
        if self._unkept:
            self._keep()

    def take_up(self) -> None:
        """Until now another gateway had the file: what operators set there meanwhile holds here."""
        if (found := self._read()) is None:
            return
        self._overrides = found
        for key, upstream in self._upstreams.items():
            _write(upstream, found.get(key, NOTHING))

    async def close(self, patience: float) -> None:
        """Finish writing, if that can be done in so many seconds."""
        if self._writing is not None and not self._writing.done():
            await asyncio.wait([self._writing], timeout=patience)

    def list(self) -> Sequence[BackendStatus]:
        """All backends, in the order of the configuration."""
        return [self._status(self._upstreams[key]) for key in self._users if key in self._upstreams]

    async def set(
        self, key: str, *, state: State | None = None, weight: int | None = None, breaker: Force | None = None
    ) -> BackendStatus:
        """Change what is given: takes effect with the workers' next pick, and is on file on return.

        Raises:
            UnknownBackendError, ValueError (a weight that is no percentage)
        """
        upstream = self._find(key)
        if weight is not None and not 0 <= weight <= 100:
            raise ValueError(f"weight is a percentage of the backend's share, 0 to 100, not {weight}")
        before = self._overrides.get(key, NOTHING)
        given = {"state": state, "weight": weight, "breaker": breaker}
        after = replace(before, **{name: value for name, value in given.items() if value is not None})
        if after != before:
            self._overrides[key] = after
            _write(upstream, after)
            log.info("backend set by an operator", upstream=key, **_changes(before, after))
            self._keep()
        if self._writing is not None:
            await asyncio.shield(self._writing)  # who asked may leave, the file is finished
        return self._status(upstream)

    def find(self, key: str) -> BackendStatus:
        """One of them. Raises UnknownBackendError."""
        return self._status(self._find(key))

    async def probe_now(self, key: str) -> BackendStatus:
        """Check its health at once.

        Raises:
            UnknownBackendError, NotCheckedError
        """
        upstream = self._find(key)
        await self._checker.probe_now(key)
        return self._status(upstream)

    def _find(self, key: str) -> Upstream:
        if key in self._upstreams:
            return self._upstreams[key]
        near = [known for known in self._upstreams if key and key in known]
        near = near or difflib.get_close_matches(key, self._upstreams, n=3, cutoff=0.5)
        hint = f"did you mean {' or '.join(near[:3])}?" if near else "the list of backends shows their keys"
        raise UnknownBackendError(f"no route has a backend {key!r}: {hint}")

    def _status(self, upstream: Upstream) -> BackendStatus:
        totals, now = upstream.totals(), monotonic_us()
        override = override_of(upstream)
        return BackendStatus(
            key=upstream.key,
            routes=self._users[upstream.key],
            state=_condition(upstream, now),
            weight=override.weight,
            breaker=BREAKER_STATES[upstream.breaker.state],
            breaker_forced=override.breaker if override.breaker != "auto" else None,
            ejected_for=max(upstream.get(cells.SU_SKIP_UNTIL_US) - now, 0) / 1e6,
            in_flight=totals[cells.U_IN_FLIGHT],
            connections=totals[cells.U_CONNECTIONS_OPEN],
            connections_idle=totals[cells.U_CONNECTIONS_IDLE],
            attempts=totals[cells.U_ATTEMPTS],
            failures=totals[cells.U_FAILURES],
            breaker_opened=upstream.get(cells.SU_OPENED),
            ejections=upstream.get(cells.SU_EJECTED),
            checks=upstream.get(cells.SU_CHECKS),
            checks_failed=upstream.get(cells.SU_CHECKS_FAILED),
            check=self._checker.status(upstream.key),
        )

    def _read(self) -> dict[str, Override] | None:
        try:
            return read_overrides(self._file) if self._file is not None else None
        except UnreadableError as error:
            log.error("cannot read what was set for backends", file=str(self._file), error=str(error))
            return None

    def _keep(self) -> None:
        self._writing = asyncio.create_task(self._write_after(self._writing))

    async def _write_after(self, earlier: asyncio.Task[None] | None) -> None:
        if earlier is not None and not earlier.done():
            await asyncio.wait([earlier])
        if self._file is None:
            return
        try:
            await asyncio.to_thread(write_overrides, self._file, dict(self._overrides))
            self._unkept = False
        except OSError as error:
            self._unkept = True
            log.error("cannot keep what was set for backends", file=str(self._file), error=str(error))


# --- words ----------------------------------------------------------------------------------------------------------


def _write(upstream: Upstream, override: Override) -> None:
    words = override.words
    upstream.set(cells.SU_WEIGHT, words[cells.SU_WEIGHT])
    upstream.set(cells.SU_FORCED, words[cells.SU_FORCED])
    if why := words[cells.SU_OUT]:
        upstream.put_out(why)
    upstream.put_back(_OPERATORS & ~why)


def override_of(upstream: Upstream) -> Override:
    """What the cells say; both bits are there when a control process died on the way from one to the other."""
    out, forced = upstream.get(cells.SU_OUT), upstream.get(cells.SU_FORCED)
    weight = upstream.get(cells.SU_WEIGHT)
    return Override(
        state=next(state for state, why in OUT.items() if out & why == why),
        weight=weight - 1 if weight else 100,
        breaker=next(force for force, value in FORCED.items() if value == forced),
    )


def _condition(upstream: Upstream, now_us: int) -> Condition:
    if upstream.is_out(cells.OUT_MAINTENANCE):
        return "maintenance"
    if upstream.is_out(cells.OUT_DRAIN):
        return "draining"
    if upstream.is_out(cells.OUT_DOWN):
        return "unhealthy"
    return "ejected" if upstream.get(cells.SU_SKIP_UNTIL_US) > now_us else "healthy"


def _changes(before: Override, after: Override) -> dict[str, object]:
    """Each member that differs, and what it was."""
    changed = [name for name in after.__struct_fields__ if getattr(before, name) != getattr(after, name)]
    new = {name: getattr(after, name) for name in changed}
    return new | {f"{name}_was": getattr(before, name) for name in changed}
