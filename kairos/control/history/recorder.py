"""Takes a sample every ten seconds and has it written: in threads and tasks of its own, nobody waits for either.

What the database does not take (locked, full, gone) waits and is written with the next sample, the oldest being dropped
when too much waits; both ends of such a time are said once in the log.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from kairos.control.history.rollup import RAW, Stamp, Windows, window
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kairos.control.history.frame import SeriesKey
    from kairos.control.history.sampler import Sampler
    from kairos.control.history.store import Store

MAX_WAITING = 600  # frames: an hour of samples with their roll-ups
MAX_WAITING_BYTES = 64 << 20
AT_ONCE = 100  # frames in a transaction
EXPIRE_EVERY = 6  # samples between two looks for what is too old
_LATE_S = 0.05  # a sample is taken so much after its window's end

log = get_logger("history")


class Clock(Struct, frozen=True):
    """What the time is, for people and for spans."""

    wall: Callable[[], float] = time.time
    monotonic: Callable[[], float] = time.monotonic


class Recorder:
    """`start` and `stop` as often as one likes, then `close`. `sample` and `flush` may be called at any time."""

    def __init__(
        self,
        sampler: Sampler,
        store: Store,
        clock: Clock | None = None,
        beside: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        """`beside`: what else is to be looked at with every sample."""
        self._sampler = sampler
        self._beside = beside
        self._store = store
        self._clock = clock or Clock()
        self._windows = Windows()
        self._waiting: dict[Stamp, bytes] = {}
        self._bytes = 0
        self._keys: set[SeriesKey] = set()
        self._due = asyncio.Event()
        self._sampling = asyncio.Lock()
        self._flushing = asyncio.Lock()
        self._tasks: list[asyncio.Task[None]] = []
        self._failing = False
        self._passes = 0
        self._last: float | None = None
        self.written = 0
        """Samples that are in the database."""
        self.dropped = 0
        """Samples that were given up."""

    @property
    def waiting(self) -> int:
        """Samples that are to be written."""
        return sum(stamp.resolution == RAW.step for stamp in self._waiting)

    def start(self) -> None:
        """Begin: what is counted from here on will be known."""
        if not self._tasks:
            self._sampler.forget()
            self._tasks = [asyncio.create_task(self._sample_forever()), asyncio.create_task(self._write_forever())]

    def stop(self) -> list[asyncio.Task[None]]:
        """Take no more samples; what ends with it."""
        ending, self._tasks = self._tasks, []
        for task in ending:
            task.cancel()
        return ending

    async def close(self, patience: float) -> None:
        """Take a last sample and write what waits, if that can be done in so many seconds."""
        ending = self.stop()
        await asyncio.gather(*ending, return_exceptions=True)
        if ending:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self.sample()
                    await self.flush()

    async def _sample_forever(self) -> None:
        while True:
            await self.sample()
            now = self._clock.wall()
            await asyncio.sleep(window(now, RAW.step) + RAW.step + _LATE_S - now)

    async def _write_forever(self) -> None:
        while True:
            await self._due.wait()
            self._due.clear()
            await self.flush()

    async def sample(self) -> None:
        """Count what happened since the last one in the window in which most of it did."""
        async with self._sampling:
            try:
                made, keys = await asyncio.to_thread(self._look)
                if self._beside is not None:
                    await self._beside()
            except Exception as error:
                log.error("a sample of the metrics failed", error=repr(error))
                return
            self._keys |= keys
            for stamp, data in made.items():
                self._bytes += len(data) - len(self._waiting.pop(stamp, b""))
                self._waiting[stamp] = data
            self._drop_oldest()
        self._due.set()

    def _look(self) -> tuple[dict[Stamp, bytes], set[SeriesKey]]:
        now = self._clock.wall()
        frame = self._sampler.look(self._clock.monotonic())
        if frame is None:
            return {}, set()
        return self._windows.add(now - frame.span / 2, frame), {key for key, record in frame.series.items() if record}

    def _drop_oldest(self) -> None:
        while len(self._waiting) > MAX_WAITING or self._bytes > MAX_WAITING_BYTES:
            stamp = next(iter(self._waiting))
            self._bytes -= len(self._waiting.pop(stamp))
            self.dropped += stamp.resolution == RAW.step

    async def flush(self) -> None:
        """Write what waits, as far as the database takes it."""
        async with self._flushing:
            try:
                while self._waiting:
                    await self._write(dict(list(self._waiting.items())[:AT_ONCE]))
                self._passes += 1
                if self._passes % EXPIRE_EVERY == 0:
                    await self._store.expire(self._clock.wall())
            except Exception as error:  # whatever it is, the next sample tries again
                return self._fail(error)
            self._recover()

    async def _write(self, batch: dict[Stamp, bytes]) -> None:
        keys = set(self._keys)
        await self._store.write(batch, keys, self._clock.wall())
        self._keys -= keys
        for stamp, data in batch.items():
            if self._waiting.get(stamp) is data:  # it did not grow meanwhile
                del self._waiting[stamp]
                self._bytes -= len(data)
                self.written += stamp.resolution == RAW.step

    def _fail(self, error: Exception) -> None:
        if not self._failing:
            log.error("metrics cannot be written; they wait and are tried again", error=str(error))
        self._failing = True

    def _recover(self) -> None:
        if self._failing:
            log.info("metrics are written again", dropped=self.dropped)
        self._failing = False
