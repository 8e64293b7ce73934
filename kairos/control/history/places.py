"""Which series are kept apart: as many as there is room for; what finds no place is counted in one series, `other`.

Who has a place keeps it while it is active; idle for an hour, it makes room for another, the one idle longest first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from kairos.control.history.frame import SeriesKey

OTHER = "other"
IDLE_S = 3600.0


class Places:
    """`room` may be changed at any time; fewer places take effect as series fall idle."""

    def __init__(self, room: int) -> None:
        self.room = room
        self._active: dict[SeriesKey, float] = {}  # when last; the longest ago first

    def __len__(self) -> int:
        return len(self._active)

    def __contains__(self, key: SeriesKey) -> bool:
        return key in self._active

    def take(self, key: SeriesKey, now: float) -> bool:
        """Whether a series that is active now has a place."""
        if self._active.pop(key, None) is None and not self._make_room(now):
            return False
        self._active[key] = now
        return True

    def _make_room(self, now: float) -> bool:
        while len(self._active) >= self.room:
            oldest = next(iter(self._active), None)
            if oldest is None or now - self._active[oldest] < IDLE_S:
                return False
            del self._active[oldest]
        return True


def other(key: SeriesKey) -> SeriesKey:
    """The series that takes in one without a place."""
    return (key[0], *[OTHER] * (len(key) - 1))
