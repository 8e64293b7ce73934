"""Frames in the database: written in one transaction each time, read in pages, removed in small batches.

Everything may be repeated: a frame replaces the one of its stamp and node, a series is its own key. Raises
UnavailableError while the database does not work.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, NamedTuple

import orjson
from sqlalchemy import delete, select, tuple_
from sqlalchemy.dialects import postgresql, sqlite

from kairos.control.history.frame import series_id
from kairos.control.history.rollup import DAY, LEVELS, LONGEST, window
from kairos.storage.schema import metric_frames as frames
from kairos.storage.schema import metric_series as series

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Collection, Iterable, Mapping, Sequence
    from typing import Any

    from kairos.control.history.frame import SeriesKey
    from kairos.control.history.rollup import Stamp
    from kairos.storage.database import Database

PAGE = 200  # frames read at once
BATCH = 500  # rows removed at once
READY_S = 3.0
_KEY = (frames.c.resolution, frames.c.at, frames.c.node, frames.c.part)


class Stored(NamedTuple):
    """One frame of one node."""

    at: int
    node: str
    data: bytes


class Store:
    """The tables of one database, written by one node."""

    def __init__(self, database: Database, node: str) -> None:
        self._database = database
        self.node = node
        self._known: set[SeriesKey] = set()
        self._known_on = 0

    async def write(self, made: Mapping[Stamp, bytes], keys: Iterable[SeriesKey], now: float) -> None:
        """All of it or nothing."""
        today = window(now, DAY)
        if today != self._known_on:  # every series is marked as seen once a day
            self._known, self._known_on = set(), today
        unknown = set(keys) - self._known
        rows = [
            {"resolution": stamp.resolution, "at": stamp.at, "node": self.node, "part": stamp.part, "data": data}
            for stamp, data in made.items()
        ]
        async with self._database.write() as connection:
            if unknown:
                await connection.execute(self._upsert(series, "seen_at"), [_series_row(key, today) for key in unknown])
            if rows:
                await connection.execute(self._upsert(frames, "data"), rows)
        self._known |= unknown

    def _upsert(self, table: Any, changes: str) -> Any:
        dialect = sqlite if self._database.dialect == "sqlite" else postgresql
        insert = dialect.insert(table)
        return insert.on_conflict_do_update(
            index_elements=list(table.primary_key.columns), set_={changes: insert.excluded[changes]}
        )

    async def expire(self, now: float) -> int:
        """Remove one batch of what is too old, whoever wrote it; how many rows it was."""
        for level in LEVELS:
            old = select(*_KEY).where(frames.c.resolution == level.step, frames.c.at < now - level.keep)
            async with self._database.read() as connection:
                rows = [tuple(row) for row in await connection.execute(old.order_by(*_KEY).limit(BATCH))]
            if rows:
                async with self._database.write() as connection:
                    await connection.execute(delete(frames).where(tuple_(*_KEY).in_(rows)))
                return len(rows)
        return await self._expire_series(now)

    async def _expire_series(self, now: float) -> int:
        old = select(series.c.id).where(series.c.seen_at < now - LONGEST - DAY).limit(BATCH)
        async with self._database.read() as connection:
            ids = list((await connection.execute(old)).scalars())
        if ids:
            async with self._database.write() as connection:
                await connection.execute(delete(series).where(series.c.id.in_(ids)))
        return len(ids)

    async def ready(self) -> None:
        """The first questions may come while the database is being brought up to date."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._database.ready.wait(), READY_S)

    async def series(self) -> dict[int, SeriesKey]:
        """Every series that frames may name."""
        async with self._database.read() as connection:
            rows = (await connection.execute(select(series.c.id, series.c.key))).all()
        return {number: tuple(orjson.loads(key)) for number, key in rows}

    async def frames(
        self, resolution: int, start: int, end: int, nodes: Collection[str] = ()
    ) -> AsyncIterator[Sequence[Stored]]:
        """Pages of those that begin in [start, end), in their order; of these nodes, or of all."""
        wanted = select(*_KEY, frames.c.data).where(
            frames.c.resolution == resolution, frames.c.at >= start, frames.c.at < end
        )
        if nodes:
            wanted = wanted.where(frames.c.node.in_(nodes))
        wanted = wanted.order_by(*_KEY).limit(PAGE)
        page = wanted
        while True:
            async with self._database.read() as connection:
                rows = (await connection.execute(page)).all()
            if rows:
                yield [Stored(row.at, row.node, row.data) for row in rows]
            if len(rows) < PAGE:
                return
            page = wanted.where(tuple_(*_KEY) > tuple_(*rows[-1][:4]))

    async def nodes(self) -> list[str]:
        """Who wrote something in the last year."""
        coarsest = select(frames.c.node).where(frames.c.resolution == LEVELS[-1].step).distinct()
        async with self._database.read() as connection:
            return sorted((await connection.execute(coarsest)).scalars())


def _series_row(key: SeriesKey, today: int) -> dict[str, object]:
    return {"id": series_id(key), "key": orjson.dumps(key).decode(), "seen_at": today}
