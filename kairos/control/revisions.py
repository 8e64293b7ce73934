"""Keeps every revision that came into use, off the loop: a disk that is slow, full or gone delays nothing.

What cannot be written waits and is tried again; that is said once, and once more when it works again.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kairos import __version__
from kairos.storage.revisions import KEPT
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from kairos.config.text import ConfigText
    from kairos.storage.revisions import Revisions

RETRY = 5.0  # seconds before a failed write is tried again

log = get_logger("control")


@dataclass(frozen=True, slots=True)
class _Waiting:
    number: int
    text: ConfigText
    time: float


class Keeper:
    """`keep` at any time on the loop, then `close`."""

    def __init__(self, revisions: Revisions, *, retry: float = RETRY) -> None:
        self._revisions = revisions
        self._retry = retry
        self._waiting: deque[_Waiting] = deque(maxlen=KEPT)  # older ones would be removed by these
        self._task: asyncio.Task[None] | None = None
        self._failing = False

    def keep(self, number: int, text: ConfigText) -> None:
        """This revision is in use from now on."""
        self._waiting.append(_Waiting(number, text, time.time()))
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._write_all())

    async def close(self, patience: float) -> None:
        """Write what waits, if that can be done in so many seconds."""
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._task, patience)

    async def _write_all(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            try:
                await asyncio.to_thread(self._write, first)
            except OSError as error:
                self._fail(error)
                await asyncio.sleep(self._retry)
                continue
            self._recover()
            if self._waiting and self._waiting[0] is first:
                self._waiting.popleft()

    def _write(self, waiting: _Waiting) -> None:
        self._revisions.add(waiting.number, waiting.text, time=waiting.time, version=__version__)

    def _fail(self, error: OSError) -> None:
        if not self._failing:
            log.error("cannot keep revisions; trying again", error=str(error))
        self._failing = True

    def _recover(self) -> None:
        if self._failing:
            log.info("keeping revisions again")
        self._failing = False
