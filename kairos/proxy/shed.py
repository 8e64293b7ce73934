"""How much of its work a worker that falls behind turns away. Pure: lags in, levels out.

A worker is behind when even the most punctual tick of its clock in a whole second was late by max_lag: a short stall is
none. The level rises while it is behind, faster the further, and falls slowly when it is not (so that it settles where
the lag is just borne). A route of priority p is shed from level p * STEP on, entirely from (p + 1) * STEP; priority 10
never.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kairos.config.model import LoadShedding

STEP = 256
"""Levels per priority; exchange.pyx has the same."""
HIGHEST = 10 * STEP
RISE = STEP // 2
"""Per second, times how many times max_lag the lag is."""
FALL = STEP // 8


class LoadShedder:
    """The level of one worker, judged once a second."""

    def __init__(self) -> None:
        self.level = 0

    def configure(self, spec: LoadShedding, lowest: int) -> None:
        """Take a revision's settings and the lowest priority of its routes, where shedding begins; the level stays."""
        self._enabled = spec.enabled and lowest * STEP < HIGHEST
        self._max_lag_us = int(spec.max_lag * 1e6)
        self._floor = lowest * STEP

    def judge(self, lag_us: int) -> int:
        """The level from here on, after a second in which no tick was less late than this."""
        if not self._enabled:
            self.level = 0
        elif lag_us > self._max_lag_us:
            risen = max(self.level, self._floor) + RISE * min(lag_us // self._max_lag_us, 8)
            self.level = min(HIGHEST, risen)
        else:
            fallen = self.level - FALL
            self.level = fallen if fallen > self._floor else 0
        return self.level
