"""Historical metrics put together: recorded while the gateway runs, asked for by the API.

Questions are answered page by page, each in a thread, and few at a time: the control process has other work.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from msgspec import Struct

from kairos.control.history.contract import INTERVALS, Moments, Window, past
from kairos.control.history.evaluate import Answer, Evaluation
from kairos.control.history.frame import unpack
from kairos.control.history.live import Feeds, Live
from kairos.control.history.query import Plan, Query, QueryError, plan
from kairos.control.history.recorder import Clock, Recorder
from kairos.control.history.sampler import Sampler
from kairos.control.history.store import Store
from kairos.telemetry.prometheus import HistoryStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kairos.config.model import Config
    from kairos.control.history.store import Stored
    from kairos.scoreboard import Assignment, Scoreboard
    from kairos.storage.database import Database

AT_ONCE = 2  # questions
MAX_FRAMES = 60_000  # read for one of them: five nodes with all there is of a level

__all__ = ["INTERVALS", "Answer", "History", "Points", "Query", "QueryError", "Window"]


class Points(Struct, frozen=True):
    """Of one metric: time and value."""

    counts: bool
    """Whether the values only grow."""
    points: list[tuple[float, float]]


class History:
    """`apply` as configurations come into use, then `close`."""

    def __init__(self, board: Scoreboard, database: Database, node: str, clock: Clock | None = None) -> None:
        self._clock = clock or Clock()
        self.sampler = Sampler(board, supervisor=os.getppid(), control=os.getpid())
        self.live = Live(board, self._clock, [os.getppid(), os.getpid()])
        self.feeds = Feeds()
        self.store = Store(database, node)
        self.recorder = Recorder(self.sampler, self.store, self._clock, self.live.snapshot)
        self._asking = asyncio.Semaphore(AT_ONCE)

    def apply(self, config: Config, series: Assignment) -> None:
        """A configuration is in use from here on: record, or do not."""
        self.sampler.assign(series, per_route=config.metrics.per_route)
        self.live.assign(series)
        self.sampler.places.room = config.metrics.history.series
        (self.recorder.start if config.metrics.history.enabled else self.recorder.stop)()

    def status(self) -> HistoryStatus:
        """For the scrape."""
        recorder = self.recorder
        return HistoryStatus(recorder.written, recorder.dropped, recorder.waiting, len(self.sampler.places))

    def step_down(self) -> None:
        """Another gateway serves here: what is left to count is counted, but gauges are the other's."""
        self.sampler.gauges = False

    async def close(self, patience: float) -> None:
        """Write what waits, if that can be done in so many seconds."""
        await self.recorder.close(patience)

    async def query(self, query: Query) -> tuple[Plan, Answer]:
        """Raises QueryError and UnavailableError."""
        planned = plan(query, self._clock.wall())
        async with self._asking:
            await self.store.ready()
            evaluation = Evaluation(planned, await self.store.series())
            read = 0
            async for page in self.store.frames(planned.level.step, planned.start, planned.end):
                read += len(page)
                if read > MAX_FRAMES:
                    raise QueryError("too many nodes for so long a time: ask for larger steps")
                await asyncio.to_thread(_evaluate, evaluation, page)
            return planned, await asyncio.to_thread(evaluation.answer)

    async def points(self, name: str, start: float, end: float) -> Points:
        """As kairos-rs has them; of an unknown name none. Raises QueryError and UnavailableError."""
        moments = await self._moments(name, start, end, None)
        return Points(moments.counts, moments.points()) if moments else Points(False, [])

    async def windows(self, name: str, start: float, end: float, interval: str) -> list[Window]:
        """As kairos-rs has them. Raises QueryError and UnavailableError."""
        moments = await self._moments(name, start, end, interval)
        return moments.windows() if moments else []

    async def _moments(self, name: str, start: float, end: float, interval: str | None) -> Moments | None:
        what = past(name, start, end, interval, self._clock.wall())
        if what is None:
            return None
        async with self._asking:
            await self.store.ready()
            moments = Moments(what, await self.store.series())
            first, last = int(what.start) - what.level.step, int(what.end) + 1
            async for page in self.store.frames(what.level.step, first, last, [self.store.node]):
                await asyncio.to_thread(_note, moments, page)
            return moments


def _evaluate(evaluation: Evaluation, page: Sequence[Stored]) -> None:
    for stored in page:
        if (packed := unpack(stored.data)) is not None:
            evaluation.add(stored.at, stored.node, packed)


def _note(moments: Moments, page: Sequence[Stored]) -> None:
    for stored in page:
        if (packed := unpack(stored.data)) is not None:
            moments.add(stored.at, packed)
