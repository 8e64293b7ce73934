"""How people and programs prove who they are: a password makes a session, a session makes tokens.

Of both only hashes are kept. A session ends when it was idle for too long, after its lifetime, with another password,
and when its user is disabled; a token when it expires, is revoked, or its user is disabled. What a token may do is what
its scopes and its user's roles both allow, at the moment it is used.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import time
from typing import TYPE_CHECKING, Any

from msgspec import Struct, structs
from sqlalchemy import delete, func, insert, select, update

from kairos.control.access import passwords as rules
from kairos.control.access.accounts import DeniedError, permissions_of
from kairos.control.access.lockout import Lockouts
from kairos.control.access.permissions import ALL, Permission
from kairos.control.access.principal import Principal
from kairos.control.commands import CommandError
from kairos.storage.database import UnavailableError
from kairos.storage.schema import sessions, tokens, users
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from kairos.config.admin import Admin
    from kairos.control.access.passwords import Passwords
    from kairos.storage.database import Database

SEEN_EVERY_S = 60.0  # the last use is written down no more often than that
MAX_SESSIONS = 50  # of one user; the oldest go
MAX_TOKENS = 100
DAY_S = 86_400.0
TOKEN = "kairos_"

log = get_logger("users")


class WrongError(Exception):
    """Name or password is wrong; which one is not said."""


class Session(Struct, frozen=True):
    """A login that lasts."""

    id: str
    created_at: float
    seen_at: float
    expires_at: float
    address: str
    agent: str
    current: bool
    """Whether it is the one that asks."""


class LoggedIn(Struct, frozen=True):
    """A session that was just made."""

    user: str
    csrf: str
    must_change: bool
    secret: str
    """The cookie's value."""
    id: str
    permissions: list[Permission]
    device: str = ""
    """What the browser shows the next time, so that others' guesses do not lock it out."""


class EndedThere(Struct, frozen=True):
    """What a provider says has ended: a session of its own, or all of a user."""

    issuer: str
    subject: str | None
    sid: str | None
    at: float
    """Sessions that began later go on: so nothing is gained by saying it again."""


class Token(Struct, frozen=True):
    """A token, without its secret."""

    id: str
    name: str
    scopes: list[Permission]
    created_at: float
    expires_at: float | None
    used_at: float | None
    used_from: str | None


class NewToken(Struct, frozen=True, forbid_unknown_fields=True):
    """A token to be made."""

    name: str
    scopes: list[Permission] | None = None
    """What it may do at most; everything that its user may where nothing is said."""
    days: int | None = None
    """How long it is good for; as configured where nothing is said."""


class TokenMade(Struct, frozen=True):
    """A token with its secret: shown this once."""

    token: str
    info: Token


class Logins:
    """Raises UnavailableError without a database."""

    def __init__(
        self, database: Database, passwords: Passwords, admin: Admin, clock: Callable[[], float] = time.time
    ) -> None:
        self._database = database
        self._passwords = passwords
        self._admin = admin
        self._clock = clock
        self._lockouts = Lockouts(database, admin.lockout)
        self._touching: dict[str, asyncio.Task[None]] = {}

    def apply(self, admin: Admin) -> None:
        """A configuration is in use."""
        self._admin = admin
        self._lockouts.spec = admin.lockout

    async def close(self) -> None:
        for task in list(self._touching.values()):
            task.cancel()
        await asyncio.gather(*self._touching.values(), return_exceptions=True)

    # --- passwords ---

    async def log_in(self, name: str, password: str, address: str, agent: str, device: str = "") -> LoggedIn:
        """Raises WrongError, LockedError and CommandError."""
        name = name.strip().lower()[:200].replace("\0", "\ufffd")
        row, device = await self._check(name, password, address, device)
        if self._passwords.stale(row["password_hash"]):
            hashed = await self._passwords.hash(password)
            async with self._database.write() as connection:
                await connection.execute(update(users).where(users.c.id == row["id"]).values(password_hash=hashed))
        return structs.replace(await self.open_session(row["id"], address, agent), device=device)

    async def _check(self, name: str, password: str, address: str, device: str) -> tuple[Mapping[Any, Any], str]:
        """Whose password it is, and what makes the browser a known device."""
        async with self._database.read() as connection:
            row = (await connection.execute(select(users).where(users.c.name == name))).mappings().first()
        attempt = None
        if address != "local":  # may do everything without one
            id_ = row["id"] if row is not None else None
            attempt = await self._lockouts.begin(id_, name, address, device, self._clock())
        stored = row["password_hash"] if row is not None and not row["disabled"] else None
        if not await self._passwords.verify(password[: rules.MAX_LENGTH], stored) or row is None:
            raise WrongError("name or password is wrong")
        return row, "" if attempt is None else await self._lockouts.right(attempt, self._clock())

    async def change_password(
        self, who: Principal, current: str, new: str, address: str, device: str = "", *, end_tokens: bool
    ) -> None:
        """One's own: other sessions end. Raises WrongError, LockedError and CommandError."""
        if who.method != "session" or who.user_id is None:
            raise DeniedError("only who is logged in changes the password")
        await self._check(who.name, current, address, device)
        if current == new:
            raise CommandError("invalid", "this is the password already")
        hashed = await self._passwords.hash(rules.accepted(new, who.name))
        values = {"password_hash": hashed, "must_change": False, "password_changed_at": self._clock()}
        async with self._database.write() as connection:
            await connection.execute(update(users).where(users.c.id == who.user_id).values(**values))
            others = (sessions.c.user_id == who.user_id) & ~sessions.c.id_hash.startswith(who.credential)
            await connection.execute(delete(sessions).where(others))
            if end_tokens:
                await connection.execute(delete(tokens).where(tokens.c.user_id == who.user_id))

    # --- sessions ---

    async def open_session(
        self, user_id: int, address: str, agent: str, id_token: str | None = None, sid: str | None = None
    ) -> LoggedIn:
        """For somebody who proved who they are, here or at a provider."""
        secret, csrf, now = secrets.token_urlsafe(32), secrets.token_urlsafe(32), self._clock()
        row: dict[str, Any] = {
            "id_hash": _hash(secret),
            "user_id": user_id,
            "csrf": csrf,
            "created_at": now,
            "seen_at": now,
        }
        row |= {"expires_at": now + self._admin.sessions.lifetime, "address": address[:64], "id_token": id_token}
        row |= {"agent": agent.replace("\0", "")[:400], "sid": sid}
        async with self._database.write() as connection:
            await connection.execute(delete(sessions).where(self._over(now)))
            await _leave_room(connection, user_id)
            await connection.execute(insert(sessions).values(**row))
            await connection.execute(update(users).where(users.c.id == user_id).values(last_login_at=now))
            mine = select(users.c.name, users.c.must_change).where(users.c.id == user_id)
            user = (await connection.execute(mine)).one()
            allowed = await permissions_of(connection, user_id)
        return LoggedIn(user.name, csrf, user.must_change, secret, row["id_hash"][:16], sorted(allowed))

    def _over(self, now: float) -> Any:
        return (sessions.c.expires_at <= now) | (sessions.c.seen_at <= now - self._admin.sessions.idle)

    async def by_session(self, secret: str, *, use: bool = True) -> tuple[Principal, str] | None:
        """Whose session it is, and what its writes have to show (X-CSRF-Token); `use` keeps it from becoming idle."""
        hashed, now = _hash(secret), self._clock()
        query = select(sessions.c.csrf, sessions.c.seen_at, *_USER).join(users, users.c.id == sessions.c.user_id)
        query = query.where(sessions.c.id_hash == hashed, ~self._over(now), users.c.disabled.is_(False))
        async with self._database.read() as connection:
            row = (await connection.execute(query)).first()
            if row is None:
                return None
            allowed = await permissions_of(connection, row.id)
        if use and now - row.seen_at >= SEEN_EVERY_S:
            self._touch(hashed, update(sessions).where(sessions.c.id_hash == hashed).values(seen_at=now))
        return Principal(row.name, "session", allowed, row.id, hashed[:16], row.must_change), row.csrf

    async def sessions_of(self, who: Principal) -> list[Session]:
        """Their own, newest first."""
        query = select(sessions).where(sessions.c.user_id == who.user_id, ~self._over(self._clock()))
        async with self._database.read() as connection:
            rows = (await connection.execute(query.order_by(sessions.c.created_at.desc()))).mappings().all()
        same = ("created_at", "seen_at", "expires_at", "address", "agent")
        mine = who.credential if who.method == "session" else ""
        return [
            Session(id=row["id_hash"][:16], current=row["id_hash"][:16] == mine, **{name: row[name] for name in same})
            for row in rows
        ]

    async def end_session(self, user_id: int | None, id_: str) -> str | None:
        """One of somebody's own; its ID token."""
        if len(id_) != 16 or not id_.isalnum():
            raise CommandError("unknown", "there is no such session")
        async with self._database.write() as connection:
            mine = (sessions.c.user_id == user_id) & sessions.c.id_hash.startswith(id_)
            row = (await connection.execute(select(sessions.c.id_token).where(mine))).first()
            if row is None:
                raise CommandError("unknown", "there is no such session")
            await connection.execute(delete(sessions).where(mine))
            return None if row.id_token is None else str(row.id_token)

    async def end_sessions(self, name: str) -> None:
        """All of a user's."""
        async with self._database.write() as connection:
            whose = select(users.c.id).where(users.c.name == name).scalar_subquery()
            await connection.execute(delete(sessions).where(sessions.c.user_id == whose))

    async def end_sessions_there(self, ended: EndedThere) -> int:
        """Those that the provider ended; how many there were."""
        whose = select(users.c.id).where(users.c.issuer == ended.issuer)
        if ended.subject is not None:
            whose = whose.where(users.c.subject == ended.subject)
        mine = sessions.c.user_id.in_(whose) & sessions.c.id_token.is_not(None) & (sessions.c.created_at <= ended.at)
        if ended.sid is not None:
            mine &= sessions.c.sid == ended.sid
        async with self._database.write() as connection:
            return int((await connection.execute(delete(sessions).where(mine))).rowcount)

    # --- tokens ---

    async def make_token(self, user_id: int, new: NewToken, most: frozenset[Permission]) -> TokenMade:
        """With no scope beyond `most`."""
        scopes = sorted(most if new.scopes is None else set(new.scopes))
        if more := sorted(set(scopes) - most):
            raise DeniedError(f"a token may not do more than who makes it: {', '.join(more)}")
        if not 0 < len(new.name) <= 200 or not new.name.isprintable():
            raise CommandError("invalid", "a token has a name of up to 200 characters")
        days = min(self._admin.tokens.days, self._admin.tokens.max_days) if new.days is None else new.days
        if not 0 < days <= self._admin.tokens.max_days:
            raise CommandError("invalid", f"days: 1 to {self._admin.tokens.max_days} (admin.tokens.max_days)")
        id_, secret, now = secrets.token_hex(8), secrets.token_urlsafe(32), self._clock()
        row = {"id": id_, "user_id": user_id, "name": new.name, "secret_hash": _hash(secret), "created_at": now}
        row |= {"scopes": json.dumps(scopes), "expires_at": now + days * DAY_S}
        async with self._database.write() as connection:
            await connection.execute(delete(tokens).where(tokens.c.expires_at <= now - 30 * DAY_S))
            count = await connection.scalar(select(func.count()).where(tokens.c.user_id == user_id).select_from(tokens))
            if (count or 0) >= MAX_TOKENS:
                raise CommandError("refused", f"there are {MAX_TOKENS} tokens already; revoke one")
            await connection.execute(insert(tokens).values(**row))
        info = Token(id_, new.name, scopes, now, now + days * DAY_S, None, None)
        return TokenMade(f"{TOKEN}{id_}_{secret}", info)

    async def by_token(self, given: str, address: str, *, use: bool = True) -> Principal | None:
        """Whose token it is."""
        id_, _, secret = given.removeprefix(TOKEN).partition("_")
        now = self._clock()
        query = select(tokens.c.secret_hash, tokens.c.scopes, tokens.c.expires_at, tokens.c.used_at, *_USER)
        query = query.join(users, users.c.id == tokens.c.user_id).where(tokens.c.id == id_[:32].replace("\0", ""))
        async with self._database.read() as connection:
            row = (await connection.execute(query.where(users.c.disabled.is_(False)))).first()
            right = hmac.compare_digest(row.secret_hash if row else "", _hash(secret))
            if row is None or not right or (row.expires_at is not None and row.expires_at <= now):
                return None
            allowed = await permissions_of(connection, row.id) & frozenset(json.loads(row.scopes)) & ALL
        if use and (row.used_at is None or now - row.used_at >= SEEN_EVERY_S):
            used = {"used_at": now, "used_from": address[:64]}
            self._touch(id_, update(tokens).where(tokens.c.id == id_).values(**used))
        return Principal(row.name, "token", allowed, row.id, id_)

    async def tokens_of(self, user_id: int | None) -> list[Token]:
        """The newest first."""
        query = select(tokens).where(tokens.c.user_id == user_id).order_by(tokens.c.created_at.desc())
        async with self._database.read() as connection:
            rows = (await connection.execute(query)).mappings().all()
        same = ("id", "name", "created_at", "expires_at", "used_at", "used_from")
        return [Token(scopes=json.loads(row["scopes"]), **{name: row[name] for name in same}) for row in rows]

    async def revoke_token(self, user_id: int | None, id_: str) -> None:
        async with self._database.write() as connection:
            mine = (tokens.c.user_id == user_id) & (tokens.c.id == id_.replace("\0", ""))
            if not (await connection.execute(delete(tokens).where(mine))).rowcount:
                raise CommandError("unknown", "there is no such token")

    async def id_of(self, name: str) -> int:
        """Of a user."""
        async with self._database.read() as connection:
            found = await connection.scalar(select(users.c.id).where(users.c.name == name.replace("\0", "")))
        if found is None:
            raise CommandError("unknown", f"there is no user {name!r}")
        return int(found)

    def _touch(self, key: str, statement: Any) -> None:
        """Written down aside: who asks does not wait for it, nor fails with it."""
        if key not in self._touching:
            task = asyncio.create_task(self._write(statement))
            self._touching[key] = task
            task.add_done_callback(lambda _: self._touching.pop(key, None))

    async def _write(self, statement: Any) -> None:
        try:
            async with self._database.write() as connection:
                await connection.execute(statement)
        except UnavailableError as error:
            log.debug("a last use was not written down", error=str(error))


_USER = (users.c.id, users.c.name, users.c.must_change)


def _hash(secret: str) -> str:
    return hashlib.sha256(secret.encode("utf-8", "surrogateescape")).hexdigest()


async def _leave_room(connection: AsyncConnection, user_id: int) -> None:
    mine = select(sessions.c.id_hash).where(sessions.c.user_id == user_id).order_by(sessions.c.created_at.desc())
    old = (await connection.scalars(mine.offset(MAX_SESSIONS - 1))).all()
    if old:
        await connection.execute(delete(sessions).where(sessions.c.id_hash.in_(old)))
