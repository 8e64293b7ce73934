"""Levels and windows: each frame is merged at once into the window of every level it falls into. Pure.

A window is written again each time it grew, under the part of whoever grew it: one process, for as long as its clock
goes forward. Who comes after a restart (or a kill) begins parts of his own and never touches those of others, so
nothing is counted twice and nothing has to be read back; who reads, merges the parts. All levels of a moment are
written in one transaction: they always tell the same.
"""

from __future__ import annotations

import secrets
from typing import NamedTuple

from msgspec import Struct

from kairos.control.history.frame import Frame, add_frame, pack

DAY = 86400


class Level(Struct, frozen=True):
    """Windows of `step` seconds, kept for `keep` seconds."""

    step: int
    keep: int


LEVELS = (
    Level(10, DAY),
    Level(60, 7 * DAY),
    Level(300, 30 * DAY),
    Level(3600, 366 * DAY),
    Level(86400, 366 * DAY),
)
RAW = LEVELS[0]
LONGEST = max(level.keep for level in LEVELS)


class Stamp(NamedTuple):
    """Which window of which part."""

    resolution: int
    at: int
    part: int


def window(at: float, step: int) -> int:
    """The beginning of the window it falls into, by UTC."""
    return int(at // step) * step


class Windows:
    """Those that are open, one a level."""

    def __init__(self) -> None:
        self._part = secrets.randbits(62)
        self._open: dict[int, tuple[int, Frame]] = {}

    def add(self, at: float, frame: Frame) -> dict[Stamp, bytes]:
        """Count a frame in the windows of its time; what is to be written anew."""
        if any(window(at, step) < begun for step, (begun, _) in self._open.items()):
            self._part = secrets.randbits(62)  # the clock was set back
            self._open.clear()
        return {
            Stamp(level.step, begun, self._part): pack(self._grow(level.step, begun, frame))
            for level in LEVELS
            for begun in [window(at, level.step)]
        }

    def _grow(self, step: int, begun: int, frame: Frame) -> Frame:
        last = self._open.get(step)
        if last is None or last[0] != begun:
            last = self._open[step] = (begun, Frame(0, 0.0, {}))
        add_frame(last[1], frame)
        return last[1]
