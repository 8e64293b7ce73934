"""Looks once a second what has changed in the shared page that nobody announces, and tells it as events.

Breakers move in the workers, health and ejections by parts of their own, workers come and go by the supervisor: all of
them leave it in cells. A control process begins with what it finds, and tells what changes from then on.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from kairos._speedups import cells
from kairos.control.backends import BREAKER_STATES, override_of
from kairos.control.events import (
    AddressBanned,
    BackendEjected,
    BackendHealthChanged,
    BackendSet,
    BreakerChanged,
    BreakerState,
    CertificateExpires,
    EjectionEnded,
    LogLinesLost,
    SheddingChanged,
    WorkerEnded,
    WorkerStarted,
)
from kairos.control.upstreams import known_upstreams, monotonic_us, users
from kairos.storage.overrides import Override  # noqa: TC001  (msgspec needs it at run time)
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kairos.config.model import Config
    from kairos.control.bans import Bans
    from kairos.control.events import EventBus
    from kairos.control.upstreams import Upstream
    from kairos.scoreboard import Assignment, Scoreboard

LOOK_S = 1.0
DAYS = (30, 14, 7, 3, 1, 0)
"""Left for a certificate, at which that is told."""
_DAY = 86_400

log = get_logger("control")


class _Seen(Struct, frozen=True):
    """An upstream when it was looked at last."""

    down: bool
    ejected: bool
    ejections: int
    breaker: BreakerState
    opened: int
    set: Override
    """By an operator."""


class Transitions:
    """What is watched of one gateway. To be used on the control process's loop."""

    def __init__(
        self, scoreboard: Scoreboard, bus: EventBus, *, bans: Bans, why_down: Callable[[str], str] = lambda _key: ""
    ) -> None:
        self._board = scoreboard
        self._bus = bus
        self._bans = bans
        self._why_down = why_down
        self._upstreams: dict[str, Upstream] = {}
        self._seen: dict[str, _Seen] = {}
        self._workers: dict[int, int] = {}
        self._shed: dict[int, int] = {}
        self._banned = self._total(cells.W_BANS)
        self._dropped = self._total(cells.W_LOG_DROPPED)
        self._known_bans: set[tuple[str, str]] = set()
        self._certificates: list[tuple[str, float]] = []
        self._told: dict[str, int] = {}
        self._task: asyncio.Task[None] | None = None
        self._look_at_workers(tell=False)

    def apply(self, config: Config, series: Assignment, certificates: Iterable[tuple[str, float]]) -> None:
        """A configuration is in use: these are its backends and certificates."""
        used = users(config)
        self._upstreams = {key: one for key, one in known_upstreams(self._board, series).items() if key in used}
        now_us = monotonic_us()
        self._seen = {key: self._seen.get(key) or _look(one, now_us) for key, one in self._upstreams.items()}
        self._certificates = list(certificates)

    def start(self) -> None:
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def _run(self) -> None:
        while True:
            try:
                self.look()
            except Exception:  # a fault of ours is not the end of watching
                log.exception("looking for events failed")
            await asyncio.sleep(LOOK_S)

    def look(self) -> None:
        """Tell what has changed since the last look."""
        now_us = monotonic_us()
        for key, upstream in self._upstreams.items():
            before, after = self._seen[key], _look(upstream, now_us)
            if after != before:
                self._seen[key] = after
                self._tell(key, upstream, before, after, now_us)
        self._look_at_workers(tell=True)
        self._look_at_bans()
        self._look_at_lines()
        self._look_at_certificates(time.time())

    def _tell(self, key: str, upstream: Upstream, before: _Seen, after: _Seen, now_us: int) -> None:
        publish = self._bus.publish
        if after.down != before.down:
            reason = self._why_down(key) if after.down else ""
            publish(BackendHealthChanged(upstream=key, healthy=not after.down, reason=reason))
        if after.breaker != before.breaker or after.opened != before.opened:
            publish(BreakerChanged(upstream=key, state=after.breaker, was=before.breaker, opened=after.opened))
        if after.ejections != before.ejections:
            left_us = upstream.get(cells.SU_SKIP_UNTIL_US) - now_us
            publish(BackendEjected(upstream=key, seconds=round(max(left_us, 0) / 1e6, 1)))
        if not after.ejected and (before.ejected or after.ejections != before.ejections):
            publish(EjectionEnded(upstream=key))
        if (said := after.set) != before.set:
            publish(BackendSet(upstream=key, state=said.state, weight=said.weight, breaker=said.breaker))

    def _look_at_workers(self, *, tell: bool) -> None:
        get, publish = self._board.page.get, self._bus.publish
        for slot in range(self._board.capacity.workers):
            block = self._board.worker_block(slot)
            pid, was = get(block + cells.W_PID), self._workers.get(slot, 0)
            if pid != was and tell:
                if was:
                    publish(WorkerEnded(slot=slot, pid=was))
                if pid:
                    publish(WorkerStarted(slot=slot, pid=pid, restarts=get(cells.H_WORKER_RESTARTS)))
            self._workers[slot] = pid
            level = get(block + cells.W_SHED_LEVEL)
            if tell and level != self._shed.get(slot, 0):
                publish(SheddingChanged(slot=slot, level=level))
            self._shed[slot] = level

    def _look_at_bans(self) -> None:
        if (total := self._total(cells.W_BANS)) == self._banned:
            return  # the table is large, and seldom changes
        self._banned = total
        bans = self._bans.list()
        for ban in bans:
            if (ban.address, ban.jail) not in self._known_bans:
                self._bus.publish(AddressBanned(address=ban.address, jail=ban.jail, seconds=round(ban.seconds, 1)))
        self._known_bans = {(ban.address, ban.jail) for ban in bans}

    def _look_at_lines(self) -> None:
        if (total := self._total(cells.W_LOG_DROPPED)) != self._dropped:
            self._bus.publish(LogLinesLost(lines=total - self._dropped))
            self._dropped = total

    def _look_at_certificates(self, now: float) -> None:
        for name, ends_at in self._certificates:
            days = int((ends_at - now) // _DAY)
            reached = min((step for step in DAYS if days < step), default=None)
            if reached is not None and reached != self._told.get(name):
                self._bus.publish(CertificateExpires(certificate=name, ends_at=ends_at, days=days))
            self._told[name] = reached if reached is not None else max(DAYS) + 1

    def _total(self, cell: int) -> int:
        return self._board.total(self._board.worker_block(0), cell)


def _look(upstream: Upstream, now_us: int) -> _Seen:
    return _Seen(
        down=upstream.is_out(cells.OUT_DOWN),
        ejected=upstream.get(cells.SU_SKIP_UNTIL_US) > now_us,
        ejections=upstream.get(cells.SU_EJECTED),
        breaker=BREAKER_STATES[upstream.breaker.state],
        opened=upstream.get(cells.SU_OPENED),
        set=override_of(upstream),
    )
