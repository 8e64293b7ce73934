"""The audit log: what was done or tried through the admin API, by whom, in a chain that shows what is missing.

`record` only queues; a task writes. Every entry holds the hash of the one before it, and its own hash is over all of
it: SHA-256 of canonical JSON. The first one follows a random anchor kept in the settings, the newest one is noted there
too, so that nothing can be cut off at either end unnoticed. Nodes that share a database write one chain: the place at
its end is given out under a lock. While the database is away entries wait, up to ROOM; those beyond are counted, and
an entry of their own says so.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import json
import secrets
import time
from collections import deque
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct, structs
from sqlalchemy import String, and_, cast, delete, func, insert, or_, select, text, update

from kairos.config.admin import AdminAudit
from kairos.config.mask import hidden
from kairos.control.access import retention
from kairos.control.access.principal import Principal
from kairos.control.access.retention import Old, Pruned
from kairos.storage.database import UnavailableError
from kairos.storage.schema import audit, settings
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from sqlalchemy import ColumnElement, RowMapping, Select
    from sqlalchemy.ext.asyncio import AsyncConnection

    from kairos.storage.database import Database

Outcome = Literal["done", "refused", "failed"]
ROOM = 10_000  # entries that may wait
BATCH = 200
PAGE = 500
RETRY_S = 1.0
LONGEST = {"actor": 200, "method": 20, "address": 64, "action": 100, "target": 2000, "request_id": 64, "node": 200}
DETAIL = 16_384  # characters
ANCHOR = "audit.anchor"
HEAD = "audit.head"
PRUNED = "audit.pruned"
PRUNE_BATCH = 2000
FIRST_PRUNE_S = 60.0
PRUNE_EVERY_S = 3600.0
_LOCK = 0x6B6169726F61  # of PostgreSQL's advisory locks: one node appends at a time
SYSTEM = Principal("kairos", "local", frozenset())

log = get_logger("audit")


class Entry(Struct, frozen=True):
    """One thing that was done, or tried."""

    number: int
    time: float
    node: str
    """Which gateway it was done through."""
    actor: str
    method: str
    """How they proved who they are: local, session, token, or none."""
    address: str
    action: str
    target: str
    outcome: Outcome
    detail: dict[str, Any]
    request_id: str
    previous: str
    hash: str


class Search(Struct, frozen=True, kw_only=True):
    """Which entries: all that is given has to fit."""

    actor: str | None = None
    action: str | None = None
    """All of it, or the start: `config.` finds every change of the configuration."""
    target: str | None = None
    outcome: Outcome | None = None
    since: float | None = None
    until: float | None = None
    text: str | None = None
    """Somewhere in actor, action, target, address or detail, upper and lower case alike."""


class Verdict(Struct, frozen=True):
    """Whether the chain is whole."""

    intact: bool
    entries: int
    """That were looked at."""
    pruned: int
    """Those with numbers up to this were kept long enough and are gone; an entry `audit.prune` says so."""
    number: int
    """Of the newest entry."""
    hash: str
    """Its hash. Kept elsewhere, it shows later that nothing up to here was changed."""
    broken_at: int | None = None
    reason: str = ""


class _Waiting(Struct, frozen=True):
    """An entry that has no place in the chain yet."""

    time: float
    node: str
    actor: str
    method: str
    address: str
    action: str
    target: str
    outcome: str
    detail: str
    request_id: str


class _Lost(Struct):
    """Entries there was no room for."""

    count: int = 0
    since: float = 0.0


class Audit:
    """`start`, `record` as often as needed, `close`; `search`, `export` and `verify` at any time."""

    def __init__(
        self,
        database: Database,
        node: str,
        clock: Callable[[], float] = time.time,
        kept: AdminAudit | None = None,
    ) -> None:
        self._database = database
        self._node = node
        self._kept = kept or AdminAudit()
        self._clock = clock
        self._waiting: deque[_Waiting] = deque()
        self._lost = _Lost()
        self._attempted: tuple[int, str] | None = None
        """Number and hash of the last entry of a write whose fate is not known."""
        self._news = asyncio.Event()
        self._written = asyncio.Event()
        self._written.set()
        self._tasks: list[asyncio.Task[None]] = []
        self._verifying = asyncio.Lock()

    def start(self) -> None:
        self._tasks = [asyncio.create_task(self._write_all()), asyncio.create_task(self._prune_all())]

    def apply(self, kept: AdminAudit) -> None:
        """A configuration is in use."""
        self._kept = kept

    async def close(self, patience: float = 1.0) -> None:
        """What waits is written, or else said in the log."""
        with contextlib.suppress(TimeoutError):
            await self.flush(patience)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for one in self._waiting:
            log.error("an audit entry could not be kept", **structs.asdict(one))

    async def flush(self, patience: float = 5.0) -> None:
        """Wait for what was recorded so far. Raises TimeoutError."""
        await asyncio.wait_for(self._written.wait(), patience)

    @property
    def waiting(self) -> int:
        """Entries that are not in the database yet."""
        return len(self._waiting)

    def record(
        self,
        principal: Principal,
        action: str,
        target: str = "",
        outcome: Outcome = "done",
        detail: Mapping[str, Any] | None = None,
        *,
        address: str = "",
        request_id: str = "",
    ) -> None:
        """Never waits and never fails. Secrets in `detail` are masked, by the names they go by."""
        if len(self._waiting) >= ROOM:
            return self._lose()
        words = {"actor": principal.name, "method": principal.method, "address": address, "action": action}
        words |= {"target": target, "request_id": request_id, "node": self._node}
        clean = {name: _clean(word)[: LONGEST[name]] for name, word in words.items()}
        now = round(self._clock(), 6)
        self._waiting.append(_Waiting(time=now, outcome=outcome, detail=_detail(detail or {}), **clean))
        self._written.clear()
        self._news.set()

    def _lose(self) -> None:
        if not self._lost.count:
            self._lost.since = self._clock()
            log.error("the audit log is behind: entries are lost", room=ROOM)
        self._lost.count += 1

    async def _write_all(self) -> None:
        told = False
        while True:
            await self._news.wait()
            try:
                await self._write_some()
            except UnavailableError as error:
                if not told:
                    log.error("the audit log cannot be written; entries wait", error=str(error))
                told = True
                await asyncio.sleep(RETRY_S)
            except Exception as error:
                log.error("the audit log fails; entries wait", exc_info=error)
                await asyncio.sleep(RETRY_S)
            else:
                told = False

    async def _write_some(self) -> None:
        batch = [self._waiting[number] for number in range(min(BATCH, len(self._waiting)))]
        told = self._lost.count
        lost = [self._loss(told)] if told and len(batch) == len(self._waiting) else []
        async with self._database.write() as connection:
            rows = await self._append(connection, batch + lost)
        self._attempted = None
        for _ in batch:
            self._waiting.popleft()
        if lost:
            self._lost.count -= told
            self._lost.since = lost[0].time
        if not self._waiting and not self._lost.count:
            self._news.clear()
            self._written.set()
        for row in rows:
            _tell(row)

    def _loss(self, count: int) -> _Waiting:
        now = round(self._clock(), 6)
        return self._of_itself("audit.lost", {"entries": count, "since": self._lost.since, "until": now}, "failed", now)

    def _of_itself(self, action: str, detail: dict[str, Any], outcome: Outcome, now: float) -> _Waiting:
        return _Waiting(now, self._node, SYSTEM.name, SYSTEM.method, "", action, "", outcome, _detail(detail), "")

    async def _append(self, connection: AsyncConnection, batch: list[_Waiting]) -> list[dict[str, Any]]:
        """Their places in the chain, unless a write that seemed to fail gave them these already."""
        await self._one_at_a_time(connection)
        if self._attempted is not None and await self._is_there(connection, *self._attempted):
            return []
        rows = await _chained(connection, batch)
        self._attempted = rows[-1]["number"], rows[-1]["hash"]
        await _add(connection, rows)
        return rows

    async def _one_at_a_time(self, connection: AsyncConnection) -> None:
        if self._database.shared:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})

    async def _is_there(self, connection: AsyncConnection, number: int, hash_: str) -> bool:
        return await connection.scalar(select(audit.c.hash).where(audit.c.number == number)) == hash_

    async def search(self, wanted: Search, *, before: int | None = None, limit: int = 100) -> list[Entry]:
        """The newest first; older ones with the number of the last as `before`. Raises UnavailableError."""
        query = select(audit).where(*_conditions(wanted)).order_by(audit.c.number.desc()).limit(limit)
        if before is not None:
            query = query.where(audit.c.number < before)
        async with self._database.read() as connection:
            return [_entry(row) for row in (await connection.execute(query)).mappings()]

    async def export(self, wanted: Search) -> AsyncIterator[list[Entry]]:
        """All that fit, the oldest first, in pieces."""
        last = 0
        query = select(audit).where(*_conditions(wanted)).order_by(audit.c.number).limit(PAGE)
        while True:
            async with self._database.read() as connection:
                rows = (await connection.execute(query.where(audit.c.number > last))).mappings().all()
            if not rows:
                return
            last = rows[-1]["number"]
            yield [_entry(row) for row in rows]

    # --- what was kept long enough ---

    async def _prune_all(self) -> None:
        await asyncio.sleep(FIRST_PRUNE_S)
        while True:
            try:
                await self.prune()
            except UnavailableError as error:
                log.warning("the audit log is not pruned; trying again", error=str(error))
            except Exception as error:
                log.error("the audit log cannot be pruned", exc_info=error)
            await asyncio.sleep(PRUNE_EVERY_S)

    async def prune(self) -> int:
        """Remove what need not be kept (admin.audit), in pieces; how many entries went. Raises UnavailableError."""
        gone = 0
        while count := await self._prune_some():
            gone += count
        return gone

    async def _prune_some(self) -> int:
        async with self._database.read() as connection:  # mostly there is nothing, and nobody has to wait
            if (await self._due(connection))[1] is None:
                return 0
        async with self._database.write() as connection:
            await self._one_at_a_time(connection)
            first, last = await self._due(connection)
            if last is None:
                return 0
            count = last.number - first + 1
            detail = retention.told(last, count, await _fault(connection, last.number))
            about = self._of_itself(retention.ACTION, detail, "done", round(self._clock(), 6))
            rows = await _chained(connection, [about])
            await _add(connection, rows)
            await connection.execute(delete(audit).where(audit.c.number <= last.number))
            await _set(connection, PRUNED, structs.asdict(Pruned(last.number, last.hash)))
        _tell(rows[0])
        log.info("audit entries were kept long enough and are gone", **detail)
        return count

    async def _due(self, connection: AsyncConnection) -> tuple[int, Old | None]:
        """The first number that is there, and the last entry that may go."""
        query = select(audit.c.number, audit.c.time, audit.c.hash).order_by(audit.c.number).limit(PRUNE_BATCH)
        oldest = [Old(*row) for row in await connection.execute(query)]
        newest = (await _get(connection, HEAD) or {"number": 0})["number"]
        first = oldest[0].number if oldest else 0
        return first, retention.due(oldest, newest, self._kept, self._clock())

    # --- the chain ---

    async def verify(self) -> Verdict:
        """Walk along the chain; one at a time does. Raises UnavailableError."""
        async with self._verifying:
            while True:
                begins = await self._begins()
                verdict = await self._walk(begins)
                if verdict.intact or await self._begins() == begins:  # else it was shortened meanwhile
                    return verdict

    async def _begins(self) -> Pruned:
        async with self._database.read() as connection:
            return await _beginning(connection)

    async def _walk(self, begins: Pruned) -> Verdict:
        async with self._database.read() as connection:
            head = await _get(connection, HEAD) or {"number": 0, "hash": ""}
        number, hash_, pruning = begins.number, begins.hash, None

        def verdict(reason: str = "", at: int | None = None) -> Verdict:
            return Verdict(not reason, number - begins.number, begins.number, number, hash_, at, reason)

        while number < head["number"]:
            rows = await self._after(number, head["number"])
            if not rows:
                return verdict("the newest entries are missing", number + 1)
            for row in rows:
                if reason := _wrong(row, number + 1, hash_):
                    return verdict(reason, number + 1)
                number, hash_ = row["number"], row["hash"]
                pruning = row if row["action"] == retention.ACTION else pruning
        if hash_ != head["hash"] and number:
            return verdict("the newest entry is not the one that was noted", number)
        if not retention.vouches(pruning, begins):
            return verdict("the entries before were not removed because they were kept long enough", begins.number)
        return verdict()

    async def _after(self, number: int, last: int) -> list[dict[str, Any]]:
        async with self._database.read() as connection:
            found = await connection.execute(_between(number, last).limit(PAGE))
            return [dict(row) for row in found.mappings()]


async def _beginning(connection: AsyncConnection) -> Pruned:
    pruned = await _get(connection, PRUNED)
    return Pruned(**pruned) if pruned else Pruned(0, await _get(connection, ANCHOR) or "")


async def _fault(connection: AsyncConnection, last: int) -> str:
    """What is wrong with the entries that are about to go, which nobody can ask about then."""
    begins = await _beginning(connection)
    number, hash_ = begins.number, begins.hash
    for row in (await connection.execute(_between(number, last))).mappings():
        if reason := _wrong(dict(row), number + 1, hash_):
            return f"{number + 1}: {reason}"
        number, hash_ = row["number"], row["hash"]
    return ""


def _between(number: int, last: int) -> Select[Any]:
    """Entries behind one, up to another."""
    return select(audit).where(audit.c.number > number, audit.c.number <= last).order_by(audit.c.number)


async def _chained(connection: AsyncConnection, batch: list[_Waiting]) -> list[dict[str, Any]]:
    """As rows behind the newest."""
    number, previous = await _end_of_chain(connection)
    rows = []
    for one in batch:
        number += 1
        row = {"number": number, **structs.asdict(one), "previous": previous}
        previous = row["hash"] = hash_of(row)
        rows.append(row)
    return rows


async def _add(connection: AsyncConnection, rows: list[dict[str, Any]]) -> None:
    await connection.execute(insert(audit), rows)
    await _set(connection, HEAD, {"number": rows[-1]["number"], "hash": rows[-1]["hash"]})


def hash_of(row: Mapping[str, Any]) -> str:
    """Over everything but itself; with `previous`, so that it stands for all before it too."""
    told = {name: value for name, value in row.items() if name != "hash"}
    canonical = json.dumps(told, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(canonical.encode()).hexdigest()


def _wrong(row: dict[str, Any], number: int, previous: str) -> str:
    if row["number"] != number:
        return "an entry is missing"
    if row["previous"] != previous:
        return "does not follow the entry before it"
    return "" if row["hash"] == hash_of(row) else "was changed"


async def _end_of_chain(connection: AsyncConnection) -> tuple[int, str]:
    newest = select(audit.c.number, audit.c.hash).order_by(audit.c.number.desc()).limit(1)
    row = (await connection.execute(newest)).first()
    head = await _get(connection, HEAD)
    if row is not None or head is not None:  # numbers go on after entries that somebody removed: the gap shows
        return max((row.number, row.hash) if row else (0, ""), (head["number"], head["hash"]) if head else (0, ""))
    anchor = secrets.token_hex(32)
    await _set(connection, ANCHOR, anchor)
    return 0, anchor


async def _get(connection: AsyncConnection, key: str) -> Any:
    value = await connection.scalar(select(settings.c.value).where(settings.c.key == key))
    return None if value is None else json.loads(value)


async def _set(connection: AsyncConnection, key: str, value: Any) -> None:
    written = json.dumps(value)
    done = await connection.execute(update(settings).where(settings.c.key == key).values(value=written))
    if not done.rowcount:
        await connection.execute(insert(settings).values(key=key, value=written))


def _conditions(wanted: Search) -> list[ColumnElement[bool]]:
    given = {name: getattr(wanted, name) for name in ("actor", "target", "outcome")}
    found: list[ColumnElement[bool]] = [
        audit.c[name] == _clean(word) for name, word in given.items() if word is not None
    ]
    if wanted.action is not None:
        found.append(audit.c.action.startswith(_clean(wanted.action), autoescape=True))
    if wanted.since is not None:
        found.append(audit.c.time >= wanted.since)
    if wanted.until is not None:
        found.append(audit.c.time < wanted.until)
    if wanted.text:
        found.append(_mentions(_clean(wanted.text)))
    return [and_(*found)] if found else []


def _mentions(words: str) -> ColumnElement[bool]:
    columns = (audit.c.actor, audit.c.action, audit.c.target, audit.c.address, audit.c.detail)
    return or_(*(func.lower(cast(column, String)).contains(words.lower(), autoescape=True) for column in columns))


def _entry(row: RowMapping) -> Entry:
    return Entry(**{**row, "detail": json.loads(row["detail"])})


def _detail(detail: Mapping[str, Any]) -> str:
    """JSON with secrets masked; what is too long is left out, and said to be."""
    written = json.dumps(hidden(dict(detail)), default=str, ensure_ascii=True)
    if len(written) > DETAIL:
        written = json.dumps({"left_out": f"{len(written)} characters", "keys": sorted(map(str, detail))[:50]})
    return written.replace("\\u0000", "\\ufffd")


def _clean(word: str) -> str:
    """What every database stores: no NUL, no half of a character."""
    return word.replace("\0", "\ufffd").encode("utf-8", "replace").decode()


def _tell(row: Mapping[str, Any]) -> None:
    """In the log as well, where others may keep it."""
    told = {name: row[name] for name in ("number", "actor", "action", "target", "outcome", "address", "hash")}
    log.info("audit", **told)
