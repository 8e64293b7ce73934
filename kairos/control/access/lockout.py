"""Guesses counted in the database, so that several nodes are no more tries than one; and here, while it cannot count.

Rows go by hashes: what is typed as a name may be a password. Names that nobody has share BUCKETS rows and are locked
like those that somebody has, so that this tells nobody who there is. Rows are bounded by users, buckets, DEVICES a user
and ROOM addresses. Who has to wait costs one reading.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from sqlalchemy import delete, func, insert, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from kairos.control.access.guessing import (
    FORGOTTEN_S,
    NONE,
    ROOM,
    Count,
    Guessing,
    Key,
    counted,
    network_of,
    taken_back,
    waits,
)
from kairos.storage.database import UnavailableError
from kairos.storage.schema import guesses
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from kairos.config.admin import Lockout
    from kairos.storage.database import Database

BUCKETS = 1024
DEVICES = 20
DEVICE_S = 90 * 86_400.0
"""For so long after a login a browser is a known device."""
CLEANED_EVERY_S = 60.0

log = get_logger("users")


class LockedError(Exception):
    """Too many wrong ones."""

    def __init__(self, seconds: float) -> None:
        super().__init__("too many wrong passwords; try again later")
        self.seconds = seconds


class Attempt(Struct, frozen=True):
    """One that goes on."""

    user_id: int | None
    keys: list[Key]
    """What it is counted of."""
    device: str
    """The secret of a known device, or nothing."""


class _Keys(Struct, frozen=True):
    device: Key
    address: Key
    account: Key

    def of(self, *, known: bool) -> list[Key]:
        """What counts and makes wait; of a known device the account only counts."""
        return [self.device if known else self.address, self.account]


class Lockouts:
    """`begin` each attempt, then `right` where it was."""

    def __init__(self, database: Database, spec: Lockout) -> None:
        self.spec = spec
        self._database = database
        self._here = Guessing()
        self._cleaned = float("-inf")

    async def begin(self, user_id: int | None, name: str, address: str, device: str, now: float) -> Attempt:
        """Raises LockedError, and UnavailableError where not even reading works."""
        keys = _keys(user_id, name, address, device)
        async with self._database.read() as connection:
            found = await _counts(connection, keys)
        known = keys.device in found and found[keys.device].seen > now - DEVICE_S
        if wait := self._wait(found, keys, now, known=known):
            raise LockedError(wait)
        mine = keys.of(known=known)
        here = self._here.begin(mine[:1] if known else mine, self.spec, now)
        try:
            wait = await self._count(keys, user_id, now, known=known)
        except UnavailableError as error:
            log.warning("a wrong password may not be counted for other nodes", error=str(error))
            wait = here
        if wait:
            raise LockedError(wait)
        return Attempt(user_id, mine, device if known else "")

    def _wait(self, found: Mapping[Key, Count], keys: _Keys, now: float, *, known: bool) -> float:
        asked = [keys.device] if known else [keys.address, keys.account]
        return max(waits(found.get(key, NONE), self.spec, now) for key in asked)

    async def _count(self, keys: _Keys, user_id: int | None, now: float, *, known: bool) -> float:
        """Seconds to wait, as they are once nobody else counts."""
        mine = keys.of(known=known)
        async with self._database.write() as connection:
            await self._make(connection, mine, user_id, now)
            found = await _counts(connection, keys, lock=True)
            if wait := self._wait(found, keys, now, known=known):
                return wait
            for key in mine:
                await _set(connection, key, counted(key.kind, found.get(key, NONE), self.spec, now))
            await self._clean(connection, now)
        return 0.0

    async def _make(self, connection: AsyncConnection, keys: list[Key], user_id: int | None, now: float) -> None:
        """Rows to be locked; in the order of all, so that nobody waits for who waits for them."""
        dialect = postgresql if self._database.shared else sqlite
        for key in sorted(keys, key=_hashed):
            owner = user_id if key.kind != "address" else None
            row = {"key": _hashed(key), "kind": key.kind, "user_id": owner, "wrong": 0.0, "until": 0.0, "seen": now}
            made = dialect.insert(guesses).values(**row)
            await connection.execute(made.on_conflict_do_nothing(index_elements=["key"]))

    async def right(self, attempt: Attempt, now: float) -> str:
        """The secret of what is a known device from here on. Raises UnavailableError."""
        self._here.right(attempt.keys, self.spec)
        async with self._database.write() as connection:
            for key in sorted(attempt.keys, key=_hashed):
                rows = await connection.execute(_select([key]).with_for_update())
                for row in rows.all():
                    count = Count(row.wrong, row.until, row.seen)
                    await _set(connection, key, taken_back(key.kind, count, self.spec))
            secret = attempt.device or secrets.token_urlsafe(32)
            await _remember(connection, attempt, secret, now)
        return secret

    async def _clean(self, connection: AsyncConnection, now: float) -> None:
        if now - self._cleaned < CLEANED_EVERY_S:
            return
        self._cleaned = now
        old = (guesses.c.kind != "device") & (guesses.c.seen < now - FORGOTTEN_S)
        await connection.execute(delete(guesses).where(or_(old, guesses.c.seen < now - DEVICE_S)))
        addresses = select(guesses.c.key).where(guesses.c.kind == "address")
        count = await connection.scalar(select(func.count()).select_from(addresses.subquery())) or 0
        if count > ROOM:
            oldest = addresses.order_by(guesses.c.until, guesses.c.seen).limit(count - ROOM)
            await connection.execute(delete(guesses).where(guesses.c.key.in_(oldest)))


def _keys(user_id: int | None, name: str, address: str, device: str) -> _Keys:
    digest = hashlib.sha256(name.encode("utf-8", "surrogatepass")).digest()
    bucket = int.from_bytes(digest[:4], "big") % BUCKETS
    account = f"user {user_id}" if user_id is not None else f"nobody {bucket}"
    return _Keys(
        Key("device", f"{user_id} {device}"), Key("address", network_of(address)), Key("account", account)
    )  # fmt: skip


def _hashed(key: Key) -> str:
    return hashlib.sha256(f"{key.kind} {key.name}".encode("utf-8", "surrogateescape")).hexdigest()


def _select(keys: list[Key]) -> Any:
    return select(guesses).where(guesses.c.key.in_([_hashed(key) for key in keys])).order_by(guesses.c.key)


async def _counts(connection: AsyncConnection, keys: _Keys, *, lock: bool = False) -> dict[Key, Count]:
    every = [keys.device, keys.address, keys.account]
    query = _select(every)
    rows = {row.key: row for row in await connection.execute(query.with_for_update() if lock else query)}
    named = {key: rows.get(_hashed(key)) for key in every}
    return {key: Count(row.wrong, row.until, row.seen) for key, row in named.items() if row is not None}


async def _set(connection: AsyncConnection, key: Key, count: Count) -> None:
    values = {"wrong": count.wrong, "until": count.until, "seen": count.seen}
    await connection.execute(update(guesses).where(guesses.c.key == _hashed(key)).values(**values))


async def _remember(connection: AsyncConnection, attempt: Attempt, secret: str, now: float) -> None:
    """Known devices of a user; the oldest go."""
    row = {"key": _hashed(Key("device", f"{attempt.user_id} {secret}")), "kind": "device", "user_id": attempt.user_id}
    await connection.execute(delete(guesses).where(guesses.c.key == row["key"]))
    await connection.execute(insert(guesses).values(**row, wrong=0.0, until=0.0, seen=now))
    mine = select(guesses.c.key).where(guesses.c.kind == "device", guesses.c.user_id == attempt.user_id)
    old = (await connection.scalars(mine.order_by(guesses.c.seen.desc()).offset(DEVICES))).all()
    if old:
        await connection.execute(delete(guesses).where(guesses.c.key.in_(old)))
