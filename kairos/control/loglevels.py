"""Levels of the program's log on a running gateway, set by operators for a while or until the gateway ends.

They stand in cells that every process looks at for each line (`kairos/telemetry/log.py`), and so does the time of their
end: the next control process finds both. To be used inside the event loop.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from kairos._speedups.cells import LEVEL_NOW, LEVEL_UNTIL_US
from kairos.config.log import COMPONENTS, Level, Log
from kairos.telemetry.log import LEVELS, component_index, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kairos.scoreboard import Scoreboard

ALL = "*"
"""Stands for every component."""
OTHERS = "others"
"""Components that are not listed: plugins' libraries, what is new."""
FOREVER_US = 1 << 62
LONGEST_S = 7 * 86_400.0
_NAMES: dict[int, Level] = {value: name for name, value in LEVELS.items()}

log = get_logger("control")


class LevelStatus(Struct, frozen=True):
    """From which level on a component logs."""

    component: str
    level: Level
    configured: Level
    until: float | None
    """Unix seconds at which it goes back to what is configured; null: it is that, or stays until the gateway ends."""


class LevelChange(Struct, frozen=True, forbid_unknown_fields=True):
    """Levels to be set; null goes back to what is configured."""

    levels: dict[str, Level | None]
    """By component; `*` is all of them."""
    duration: float | None = None
    """Seconds until they go back; null: they stay until the gateway ends."""


class LogLevels:
    """All components of one gateway."""

    def __init__(self, scoreboard: Scoreboard) -> None:
        self._page = scoreboard.page
        self._now = scoreboard.levels + LEVEL_NOW
        self._until = scoreboard.levels + LEVEL_UNTIL_US
        self._spec = Log()
        self._timer: asyncio.TimerHandle | None = None
        self.on_change: Callable[[dict[str, Level], float | None], None] = lambda _levels, _duration: None

    def apply(self, spec: Log) -> None:
        """A configuration is in use: its levels hold where no operator has set one."""
        self._spec = spec
        for component in (OTHERS, *COMPONENTS):
            if not self._page.get(self._until + component_index(component)):
                self._write(component, self._configured(component), 0)
        self._expire()

    def close(self) -> None:
        """End; what was set stays set."""
        if self._timer is not None:
            self._timer.cancel()

    def list(self) -> Sequence[LevelStatus]:
        """All components."""
        return [self._status(component) for component in (*COMPONENTS, OTHERS)]

    def set(self, change: LevelChange) -> Sequence[LevelStatus]:
        """Set levels, in all processes at once.

        Raises:
            ValueError: no such component, no such time.
        """
        wanted = expanded(change.levels)
        if change.duration is not None and not 0 < change.duration <= LONGEST_S:
            raise ValueError(f"duration is a number of seconds up to {LONGEST_S:.0f}, not {change.duration:g}")
        until_us = FOREVER_US if change.duration is None else time.time_ns() // 1000 + int(change.duration * 1e6)
        for component, level in wanted.items():
            self._write(component, level or self._configured(component), until_us if level else 0)
        shown = {name: level or self._spec.level_of(name) for name, level in change.levels.items()}
        log.info("log levels set by an operator", levels=shown, seconds=change.duration)
        self.on_change(shown, change.duration)
        self._expire()
        return self.list()

    def _write(self, component: str, level: Level, until_us: int) -> None:
        index = component_index(component)
        self._page.set(self._until + index, until_us)
        self._page.set(self._now + index, LEVELS[level])

    def _configured(self, component: str) -> Level:
        return self._spec.level_of(component)

    def _status(self, component: str) -> LevelStatus:
        index = component_index(component)
        until_us = self._page.get(self._until + index)
        return LevelStatus(
            component=component,
            level=_NAMES.get(self._page.get(self._now + index), "debug"),
            configured=self._configured(component),
            until=until_us / 1e6 if 0 < until_us < FOREVER_US else None,
        )

    def _expire(self) -> None:
        """Put back what has had its time, and come again for the next."""
        self.close()
        now_us = time.time_ns() // 1000
        over = {}
        next_us = FOREVER_US
        for component in (OTHERS, *COMPONENTS):
            until_us = self._page.get(self._until + component_index(component))
            if 0 < until_us <= now_us:
                over[component] = self._configured(component)
                self._write(component, over[component], 0)
            elif until_us:
                next_us = min(next_us, until_us)
        if over:
            log.info("log levels are as configured again", levels=over)
            self.on_change(over, None)
        if next_us < FOREVER_US:
            wait = (next_us - now_us) / 1e6
            self._timer = asyncio.get_running_loop().call_later(min(wait + 0.001, LONGEST_S), self._expire)


def expanded(levels: Mapping[str, Level | None]) -> dict[str, Level | None]:
    """For each component what is wanted: its own word counts more than that for all. Raises ValueError."""
    known = (OTHERS, *COMPONENTS)
    if unknown := [component for component in levels if component not in (ALL, *known)]:
        raise ValueError(f"there is no component {unknown[0]!r}: there are {', '.join(known)}, and {ALL} for all")
    if not levels:
        raise ValueError("no level is given")
    wanted = dict.fromkeys(known, levels[ALL]) if ALL in levels else {}
    return wanted | {component: level for component, level in levels.items() if component != ALL}
