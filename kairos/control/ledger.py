"""The history of the configuration in the database: every revision that came into use, whose doing it was, and what
it changed.

Nothing waits for it: what cannot be written waits here and is tried again, and what a kill takes from here is still in
the state folder (storage/revisions.py), from where it is taken up at the next start. Numbers are the supervisor's; one
that another text has already (the folder was lost) gives way to the next free one.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections import deque
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Struct
from sqlalchemy import delete, func, insert, select

from kairos import __version__
from kairos.config.diff import Difference, differences
from kairos.config.text import ConfigText
from kairos.control.changes import HISTORY_S, Recorder, document_of
from kairos.control.commands import CommandError
from kairos.storage.database import UnavailableError
from kairos.storage.revisions import DamagedError
from kairos.storage.schema import revisions
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncConnection

    from kairos.storage.database import Database
    from kairos.storage.revisions import Revisions, Stored

KEPT = 1000  # of one node
RETRY_S = 2.0
FAILING_S = 0.2
_ORIGINS = {"start": "start", "HUP": "signal", "file change": "file"}

log = get_logger("control")


class Revision(Struct, frozen=True):
    """A configuration that came into use."""

    number: int
    time: float
    """Unix seconds at which it did."""
    author: str
    """Whose change it was, as far as that is known."""
    origin: str
    """start, signal, file, api, cli, ui, rollback."""
    message: str
    parent: int | None
    """The one before it."""
    node: str
    """The gateway that wrote it."""
    sha256: str
    """Of its text."""
    format: str
    name: str
    """The file it was read from."""
    version: str
    """Of the program."""


class Filter(Struct, frozen=True, kw_only=True):
    """Which revisions: all that is given has to fit."""

    author: str | None = None
    origin: str | None = None
    since: float | None = None
    until: float | None = None


class _Waiting(Struct, frozen=True):
    number: int
    text: ConfigText
    time: float
    version: str = __version__


class Ledger(Recorder):
    """`note` at any time; `start` once the database works; `close`."""

    def __init__(self, database: Database, node: str, kept: Revisions | None = None) -> None:
        self._database = database
        self._node = node
        self._kept = kept
        self._waiting: deque[_Waiting] = deque(maxlen=KEPT)
        self._news = asyncio.Event()
        self._written = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._failing = ""

    def note(self, number: int, text: ConfigText) -> None:
        """This revision is in use from now on."""
        self._waiting.append(_Waiting(number, text, time.time()))
        self._written.clear()
        self._news.set()

    def start(self) -> None:
        self._failing = ""
        self._news.set()
        self._task = asyncio.create_task(self._write_all())

    async def close(self, patience: float = 1.0) -> None:
        """Write what waits, if that can be done in so many seconds: the state folder has it as well."""
        if self._task is not None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._written.wait(), patience)
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)

    async def recorded(self, number: int) -> str:
        try:
            await asyncio.wait_for(self._written.wait(), FAILING_S if self._failing else HISTORY_S)
        except TimeoutError:
            why = self._failing or "the database is slow, or not open yet"
            return f"revision {number} is in use and not in the history yet: {why}"
        return ""

    async def _write_all(self) -> None:
        taken_up = False
        while True:
            await self._news.wait()
            try:
                if not taken_up:
                    await self._take_up()
                    taken_up = True
                await self._write_waiting()
                self._recover()
            except UnavailableError as error:
                self._fail(str(error))
                await asyncio.sleep(RETRY_S)
            except Exception as error:
                self._fail(f"{type(error).__name__}: {error}")
                await asyncio.sleep(RETRY_S)

    def _fail(self, why: str) -> None:
        if not self._failing:
            log.error("the history of revisions cannot be written; trying again", error=why)
        self._failing = why

    def _recover(self) -> None:
        if self._failing:
            log.info("the history of revisions is written again")
        self._failing = ""

    async def _take_up(self) -> None:
        """What the state folder has and the database has not."""
        async with self._database.read() as connection:
            query = select(revisions.c.sha256, revisions.c.number).where(revisions.c.node == self._node)
            rows = (await connection.execute(query)).all()
        known = {(str(sha256), int(number)) for sha256, number in rows}
        self.highest = max((number for _, number in known), default=0)
        missing = await asyncio.to_thread(self._missing, known)
        noted = {waiting.number for waiting in self._waiting}
        self._waiting.extendleft(reversed([one for one in missing if one.number not in noted]))

    def _missing(self, known: set[tuple[str, int]]) -> list[_Waiting]:
        if self._kept is None:
            return []
        found = []
        for stored in self._kept.kept():
            if (stored.sha256, stored.number) not in known:
                with contextlib.suppress(OSError, DamagedError):
                    found.append(_Waiting(stored.number, self._kept.text(stored), stored.time, stored.version))
        return found

    async def _write_waiting(self) -> None:
        while self._waiting:
            first = self._waiting[0]
            async with self._database.write() as connection:
                await self._write(connection, first)
            if self._waiting and self._waiting[0] is first:
                self._waiting.popleft()
        self._news.clear()
        self._written.set()

    async def _write(self, connection: AsyncConnection, one: _Waiting) -> None:
        number, column = one.number, revisions.c
        mine = column.node == self._node
        sha256 = await connection.scalar(select(column.sha256).where(mine, column.number == number))
        self.highest = max(await connection.scalar(select(func.max(column.number)).where(mine)) or 0, number)
        if sha256 == one.text.sha256:
            return
        if sha256 is not None:
            number = self.highest = self.highest + 1
        query = select(revisions).where(mine, column.number < number).order_by(column.number.desc()).limit(1)
        before = (await connection.execute(query)).mappings().first()
        if before is not None and before["sha256"] == one.text.sha256:
            return  # the same again: a start, a file that was written by nobody's change
        row = self._row(number, one, before["number"] if before else None)
        row["diff"] = await asyncio.to_thread(_diff, text_of(before) if before else None, one.text)
        await connection.execute(insert(revisions).values(row))
        oldest = select(column.number).where(mine).order_by(column.number.desc()).offset(KEPT).limit(1)
        if (last := await connection.scalar(oldest)) is not None:
            await connection.execute(delete(revisions).where(mine, column.number <= last))

    def _row(self, number: int, one: _Waiting, parent: int | None) -> dict[str, Any]:
        text, origin = one.text, _origin(one.text)
        return {
            "number": number, "parent": parent, "time": one.time, "author": text.author[:200], "origin": origin,
            "message": text.message, "node": self._node, "format": text.format, "name": text.name, "text": text.data,
            "sha256": text.sha256, "version": one.version,
        }  # fmt: skip

    # --- questions ----------------------------------------------------------------------------------------------------

    async def page(self, wanted: Filter, *, before: int | None = None, limit: int = 100) -> list[Revision]:
        """The newest first; older ones with the number of the last as `before`."""
        column = revisions.c
        conditions: list[ColumnElement[bool]] = [column.node == self._node]
        conditions += [column.author == wanted.author] if wanted.author is not None else []
        conditions += [column.origin == wanted.origin] if wanted.origin is not None else []
        conditions += [column.time >= wanted.since] if wanted.since is not None else []
        conditions += [column.time < wanted.until] if wanted.until is not None else []
        conditions += [column.number < before] if before is not None else []
        columns = [column[name] for name in Revision.__struct_fields__]
        query = select(*columns).where(*conditions).order_by(column.number.desc()).limit(limit)
        late = self._late(wanted, before)
        try:
            async with self._database.read() as connection:
                written = [Revision(**row) for row in (await connection.execute(query)).mappings()]
        except UnavailableError:
            written = await self._list_kept(wanted, before, limit)
        known = {one.number for one in written}
        return [*(one for one in late if one.number not in known), *written][:limit]

    def _late(self, wanted: Filter, before: int | None) -> list[Revision]:
        """What is in use, or was, and not written yet: the newest first."""
        found = [_of_waiting(one, self._node) for one in reversed(self._waiting)]
        return [one for one in found if _fits(one, wanted) and (before is None or one.number < before)]

    async def _list_kept(self, wanted: Filter, before: int | None, limit: int) -> list[Revision]:
        if self._kept is None:
            return []
        found = [_of_stored(stored, self._node) for stored in await asyncio.to_thread(self._kept.kept)]
        older = [one for one in reversed(found) if before is None or one.number < before]
        return [one for one in older if _fits(one, wanted)][:limit]

    async def find(self, number: int) -> tuple[Revision, ConfigText, list[Difference]]:
        """One with its text, and what it changed. Raises CommandError."""
        query = select(revisions).where(revisions.c.node == self._node, revisions.c.number == number)
        try:
            async with self._database.read() as connection:
                row = (await connection.execute(query)).mappings().first()
        except UnavailableError:
            row = None
        if row is None:
            late = next((one for one in self._waiting if one.number == number), None)
            if late is not None:
                return _of_waiting(late, self._node), late.text, []
            return await asyncio.to_thread(self._find_kept, number)
        found = Revision(**{name: row[name] for name in Revision.__struct_fields__})
        return found, text_of(row), msgspec.json.decode(row["diff"], type=list[Difference])

    def _find_kept(self, number: int) -> tuple[Revision, ConfigText, list[Difference]]:
        stored = self._kept.find(number) if self._kept is not None else None
        if self._kept is None or stored is None:
            raise CommandError("unknown", f"revision {number} is not kept")
        try:
            return _of_stored(stored, self._node), self._kept.text(stored), []
        except (OSError, DamagedError) as error:
            raise CommandError("unavailable", str(error)) from error


def text_of(row: Mapping[Any, Any]) -> ConfigText:
    """As it was read."""
    return ConfigText(row["text"], row["format"], row["name"], row["origin"], row["author"], row["message"])


def _origin(text: ConfigText) -> str:
    return _ORIGINS.get(text.reason.partition(",")[0], text.reason if text.replaces else "api")[:40]


def _of_waiting(one: _Waiting, node: str) -> Revision:
    text = one.text
    return Revision(
        one.number, one.time, text.author, _origin(text), text.message, None, node, text.sha256, text.format, text.name,
        one.version,
    )  # fmt: skip


def _of_stored(stored: Stored, node: str) -> Revision:
    origin = _ORIGINS.get(stored.reason.partition(",")[0], "api" if " " in stored.reason else stored.reason)
    return Revision(
        stored.number, stored.time, stored.author, origin, stored.message, None, node, stored.sha256, stored.format,
        stored.name, stored.version,
    )  # fmt: skip


def _fits(one: Revision, wanted: Filter) -> bool:
    return (
        wanted.author in (None, one.author)
        and wanted.origin in (None, one.origin)
        and (wanted.since is None or one.time >= wanted.since)
        and (wanted.until is None or one.time < wanted.until)
    )


def _diff(before: ConfigText | None, after: ConfigText) -> str:
    """What cannot be compared is no reason to keep no history."""
    try:
        found = differences(document_of(before), document_of(after)) if before is not None else []
    except CommandError:
        found = []
    return msgspec.json.encode(found).decode()
