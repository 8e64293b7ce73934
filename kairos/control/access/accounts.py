"""Users and roles. What nobody can do, whatever they may: give more than they have, or leave the gateway without an
administrator.

Who changes a user, or a role, has to have every permission that it has before and after: so only an administrator makes
another one, or gives an administrator a new password. All changes of one database happen one after the other.
"""

from __future__ import annotations

import json
import re
import time
from typing import TYPE_CHECKING, Any

from msgspec import UNSET, Struct, UnsetType
from sqlalchemy import delete, insert, select, text, update

from kairos.control.access import passwords
from kairos.control.access.permissions import ALL, ROLES, Permission
from kairos.control.commands import CommandError
from kairos.storage.schema import guesses, sessions, tokens, user_roles
from kairos.storage.schema import roles as roles_table
from kairos.storage.schema import users as users_table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from sqlalchemy.ext.asyncio import AsyncConnection

    from kairos.control.access.passwords import Passwords
    from kairos.control.access.principal import Principal
    from kairos.storage.database import Database

NAME = re.compile(r"[a-z0-9][a-z0-9._@+-]{0,99}")
ROLE_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,99}")
ADMIN = "admin"
MAX_USERS = 10_000
_LOCK = 0x6B6169726F75  # of PostgreSQL's advisory locks: one change at a time


class DeniedError(Exception):
    """They may not do this."""


class User(Struct, frozen=True):
    """Somebody who may manage the gateway."""

    name: str
    display_name: str
    email: str
    roles: list[str]
    permissions: list[Permission]
    """What the roles allow together."""
    disabled: bool
    must_change: bool
    """The password has to be changed at the next login."""
    sso: bool
    """Logs in at the identity provider."""
    created_at: float
    last_login_at: float | None


class NewUser(Struct, frozen=True, forbid_unknown_fields=True):
    """A user to be made."""

    name: str
    """Lower-case letters, digits and `. _ @ + -`."""
    roles: list[str]
    password: str | None = None
    """Without one, a password for one login is made and returned."""
    display_name: str = ""
    email: str = ""


class UserChange(Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be another way; what is left out stays."""

    roles: list[str] | UnsetType = UNSET
    disabled: bool | UnsetType = UNSET
    display_name: str | UnsetType = UNSET
    email: str | UnsetType = UNSET


class UserMade(Struct, frozen=True):
    """A user, and the password that was made up for one login: shown this once."""

    user: User
    one_time_password: str | None = None


class Role(Struct, frozen=True):
    """What its users may do."""

    name: str
    description: str
    permissions: list[Permission]
    built_in: bool


class RoleContent(Struct, frozen=True, forbid_unknown_fields=True):
    """A role of one's own."""

    permissions: list[Permission]
    description: str = ""


class Accounts:
    """Raises CommandError and DeniedError with the reason; UnavailableError without a database."""

    def __init__(self, database: Database, passwords_: Passwords, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._passwords = passwords_
        self._clock = clock

    async def prepare(self, password: str, *, must_change: bool) -> bool:
        """The roles that are always there, and where there is no user, the first one. False: there were some."""
        hashed = None if await self.any_user() else await self._passwords.hash(password)
        async with self._database.write() as connection:
            await self._one_at_a_time(connection)
            await _keep_built_in_roles(connection)
            there = (await connection.execute(select(users_table.c.id).limit(1))).first() is not None
            if there or hashed is None:
                return False
            row = {"name": ADMIN, "password_hash": hashed, "must_change": must_change}
            await self._insert(connection, row, [ADMIN])
        return True

    async def keep_roles(self) -> None:
        """Those that are always there."""
        async with self._database.write() as connection:
            await self._one_at_a_time(connection)
            await _keep_built_in_roles(connection)

    async def any_user(self) -> bool:
        async with self._database.read() as connection:
            return (await connection.execute(select(users_table.c.id).limit(1))).first() is not None

    # --- users ---

    async def users(self) -> list[User]:
        """All of them, by name."""
        async with self._database.read() as connection:
            rows = (await connection.execute(select(users_table).order_by(users_table.c.name))).mappings().all()
            of_users = await _roles_by_user(connection)
        return [_user(row, of_users.get(row["id"], {})) for row in rows]

    async def user(self, name: str) -> User:
        async with self._database.read() as connection:
            return await _read(connection, name)

    async def add(self, new: NewUser, who: Principal) -> UserMade:
        name = _checked_name(new.name, NAME, "a user's name")
        one_time = None if new.password is not None else passwords.one_time()
        password = one_time or passwords.accepted(new.password or "", name)
        hashed = await self._passwords.hash(password)
        async with self._database.write() as connection:
            await self._one_at_a_time(connection)
            if await connection.scalar(select(users_table.c.id).where(users_table.c.name == name)) is not None:
                raise CommandError("refused", f"there is a user {name!r} already")
            await _may_give(connection, who, new.roles)
            row: dict[str, Any] = {"name": name, "password_hash": hashed, "must_change": one_time is not None}
            row |= {"display_name": _short(new.display_name, 200), "email": _short(new.email, 320)}
            await self._insert(connection, row, new.roles)
            return UserMade(await _read(connection, name), one_time)

    async def change(self, name: str, change: UserChange, who: Principal) -> User:
        async with self._database.write() as connection:
            await self._one_at_a_time(connection)
            before = await _read(connection, name)
            _may_touch(who, before)
            if not isinstance(change.roles, UnsetType):
                await _may_give(connection, who, change.roles)
                await _set_roles(connection, await _id_of(connection, name), change.roles)
            values: dict[str, Any] = {}
            if not isinstance(change.disabled, UnsetType):
                values["disabled"] = change.disabled
            if not isinstance(change.display_name, UnsetType):
                values["display_name"] = _short(change.display_name, 200)
            if not isinstance(change.email, UnsetType):
                values["email"] = _short(change.email, 320)
            if values:
                await connection.execute(update(users_table).where(users_table.c.name == name).values(**values))
            await _an_admin_is_left(connection, before)
            if values.get("disabled"):
                await _end_everything(connection, await _id_of(connection, name))
            return await _read(connection, name)

    async def remove(self, name: str, who: Principal) -> None:
        async with self._database.write() as connection:
            await self._one_at_a_time(connection)
            before = await _read(connection, name)
            _may_touch(who, before)
            id_ = await _id_of(connection, name)
            await _end_everything(connection, id_)
            await connection.execute(delete(user_roles).where(user_roles.c.user_id == id_))
            await connection.execute(delete(users_table).where(users_table.c.id == id_))
            await _an_admin_is_left(connection, before)

    async def reset_password(self, name: str, password: str | None, who: Principal) -> UserMade:
        """Another password, to be changed at the next login where none is given; sessions and tokens end."""
        one_time = None if password is not None else passwords.one_time()
        hashed = await self._passwords.hash(one_time or passwords.accepted(password or "", name))
        async with self._database.write() as connection:
            await self._one_at_a_time(connection)
            _may_touch(who, await _read(connection, name))
            id_ = await _id_of(connection, name)
            values = {"password_hash": hashed, "must_change": True, "password_changed_at": self._clock()}
            await connection.execute(update(users_table).where(users_table.c.id == id_).values(**values))
            await _end_everything(connection, id_)
            return UserMade(await _read(connection, name), one_time)

    async def _insert(self, connection: AsyncConnection, row: Mapping[str, Any], roles: Iterable[str]) -> int:
        now = self._clock()
        made = {"display_name": "", "email": "", "created_at": now, "password_changed_at": now, "disabled": False}
        await connection.execute(insert(users_table).values(**{**made, **row}))
        id_ = await _id_of(connection, row["name"])
        await _set_roles(connection, id_, roles)
        return id_

    async def sign_in_elsewhere(
        self, issuer: str, subject: str, name: str, words: Mapping[str, str], roles: list[str] | None,
        at_first: list[str], *, create: bool,
    ) -> int | None:  # fmt: skip
        """The user of this subject; None: there is none. Has these roles from now on (None: as before, a new one those
        `at_first`)."""
        async with self._database.write() as connection:
            await self._one_at_a_time(connection)
            known = (users_table.c.issuer == issuer) & (users_table.c.subject == subject)
            mine = select(users_table.c.id, users_table.c.name, users_table.c.disabled).where(known)
            row = (await connection.execute(mine)).first()
            for role in {*(roles or ()), *at_first}:
                if await _role_row(connection, role) is None:
                    raise DeniedError(f"there is no role {role!r}; see admin.sso")
            if row is None:
                if not create:
                    return None
                taken = await connection.scalar(select(users_table.c.id).where(users_table.c.name == name))
                if taken is not None:
                    raise DeniedError(f"there is a user {name!r} already who does not log in by single sign-on")
                made = {"name": name, "password_hash": None, "must_change": False, "issuer": issuer, "subject": subject}
                return await self._insert(connection, {**made, **words}, at_first if roles is None else roles)
            if row.disabled:
                return None
            if roles is not None:
                before = await _read(connection, row.name)
                await _set_roles(connection, row.id, roles)
                await _an_admin_is_left(connection, before)
            return int(row.id)

    # --- roles ---

    async def roles(self) -> list[Role]:
        """All of them, by name."""
        async with self._database.read() as connection:
            rows = (await connection.execute(select(roles_table).order_by(roles_table.c.name))).mappings().all()
        return [_role(row) for row in rows]

    async def put_role(self, name: str, content: RoleContent, who: Principal) -> Role:
        """Made or changed."""
        _checked_name(name, ROLE_NAME, "a role's name")
        permissions = sorted({*content.permissions, "self"})
        within(who, permissions, f"the role {name!r}")
        async with self._database.write() as connection:
            await self._one_at_a_time(connection)
            row = await _role_row(connection, name)
            values = {"description": _short(content.description, 2000), "permissions": json.dumps(permissions)}
            if row is None:
                await connection.execute(insert(roles_table).values(name=name, built_in=False, **values))
            else:
                _may_change_role(who, row)
                await connection.execute(update(roles_table).where(roles_table.c.name == name).values(**values))
            return _role(await _role_row(connection, name) or {})

    async def remove_role(self, name: str, who: Principal) -> None:
        async with self._database.write() as connection:
            await self._one_at_a_time(connection)
            row = await _role_row(connection, name)
            if row is None:
                raise CommandError("unknown", f"there is no role {name!r}")
            _may_change_role(who, row)
            holder = await connection.scalar(
                select(users_table.c.name).join(user_roles, user_roles.c.user_id == users_table.c.id).where(
                    user_roles.c.role == name
                ).limit(1)
            )  # fmt: skip
            if holder is not None:
                raise CommandError("refused", f"{holder} still has the role {name!r}")
            await connection.execute(delete(roles_table).where(roles_table.c.name == name))

    async def _one_at_a_time(self, connection: AsyncConnection) -> None:
        if self._database.shared:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})


async def permissions_of(connection: AsyncConnection, user_id: int) -> frozenset[Permission]:
    """What the roles of a user allow together."""
    found = (await _roles_by_user(connection, user_id)).get(user_id, {})
    return frozenset[Permission]().union(*found.values(), ("self",))


async def _roles_by_user(
    connection: AsyncConnection, user_id: int | None = None
) -> dict[int, dict[str, frozenset[Permission]]]:
    query = select(user_roles.c.user_id, roles_table.c.name, roles_table.c.permissions).join(
        roles_table, roles_table.c.name == user_roles.c.role
    )
    if user_id is not None:
        query = query.where(user_roles.c.user_id == user_id)
    found: dict[int, dict[str, frozenset[Permission]]] = {}
    for row in await connection.execute(query.order_by(roles_table.c.name)):
        found.setdefault(row.user_id, {})[row.name] = _allowed(row.name, row.permissions)
    return found


def _allowed(name: str, stored: str) -> frozenset[Permission]:
    """Built-in roles are as this program has them; of others, what it knows."""
    return ROLES[name] if name in ROLES else frozenset(json.loads(stored)) & ALL


async def _keep_built_in_roles(connection: AsyncConnection) -> None:
    for name, permissions in ROLES.items():
        values = {"permissions": json.dumps(sorted(permissions)), "built_in": True}
        done = await connection.execute(update(roles_table).where(roles_table.c.name == name).values(**values))
        if not done.rowcount:
            await connection.execute(insert(roles_table).values(name=name, description="", **values))


async def _read(connection: AsyncConnection, name: str) -> User:
    row = (await connection.execute(select(users_table).where(users_table.c.name == name))).mappings().first()
    if row is None:
        raise CommandError("unknown", f"there is no user {name!r}")
    return _user(row, (await _roles_by_user(connection, row["id"])).get(row["id"], {}))


async def _id_of(connection: AsyncConnection, name: str) -> int:
    return int(await connection.scalar(select(users_table.c.id).where(users_table.c.name == name)) or 0)


def _user(row: Mapping[Any, Any], roles: Mapping[str, frozenset[Permission]]) -> User:
    same = ("name", "display_name", "email", "disabled", "must_change", "created_at", "last_login_at")
    permissions: list[Permission] = sorted(frozenset[Permission]().union(*roles.values(), ("self",)))
    return User(roles=list(roles), permissions=permissions, sso=row["issuer"] is not None, **{n: row[n] for n in same})


async def _role_row(connection: AsyncConnection, name: str) -> Mapping[Any, Any] | None:
    return (await connection.execute(select(roles_table).where(roles_table.c.name == name))).mappings().first()


def _role(row: Mapping[Any, Any]) -> Role:
    permissions = sorted(_allowed(row["name"], row["permissions"]))
    return Role(row["name"], row["description"], permissions, bool(row["built_in"]))


async def _set_roles(connection: AsyncConnection, user_id: int, roles: Iterable[str]) -> None:
    await connection.execute(delete(user_roles).where(user_roles.c.user_id == user_id))
    rows = [{"user_id": user_id, "role": role} for role in sorted(set(roles))]
    if rows:
        await connection.execute(insert(user_roles), rows)


async def _may_give(connection: AsyncConnection, who: Principal, roles: Iterable[str]) -> None:
    for name in roles:
        row = await _role_row(connection, name)
        if row is None:
            raise CommandError("invalid", f"there is no role {name!r}")
        within(who, _allowed(name, row["permissions"]), f"the role {name!r}")


def _may_touch(who: Principal, user: User) -> None:
    within(who, user.permissions, f"the user {user.name!r}")


def _may_change_role(who: Principal, row: Mapping[Any, Any]) -> None:
    if row["built_in"]:
        raise CommandError("refused", f"the role {row['name']!r} is always there, as it is")
    within(who, _allowed(row["name"], row["permissions"]), f"the role {row['name']!r}")


def within(who: Principal, permissions: Iterable[Permission], what: str) -> None:
    """Nobody gives, or has a hand in, more than they may do themselves. Raises DeniedError."""
    if more := sorted(set(permissions) - who.permissions - {"self"}):
        raise DeniedError(f"{what} has more permissions than {who.name}: {', '.join(more)}")


async def _an_admin_is_left(connection: AsyncConnection, before: User) -> None:
    """After a change of somebody who was one."""
    if before.disabled or ADMIN not in before.roles:
        return
    query = select(users_table.c.id).join(user_roles, user_roles.c.user_id == users_table.c.id)
    query = query.where(user_roles.c.role == ADMIN, users_table.c.disabled.is_(False)).limit(1)
    if (await connection.execute(query)).first() is None:
        raise CommandError("refused", "nobody would be left who is an administrator")


async def _end_everything(connection: AsyncConnection, user_id: int) -> None:
    for table in (sessions, tokens, guesses):
        await connection.execute(delete(table).where(table.c.user_id == user_id))


def _checked_name(name: str, pattern: re.Pattern[str], what: str) -> str:
    if not pattern.fullmatch(name):
        raise CommandError("invalid", f"{what} is of lower-case letters, digits and . _ -, up to 100")
    return name


def _short(words: str, most: int) -> str:
    if len(words) > most or not words.isprintable():
        raise CommandError("invalid", f"at most {most} printable characters")
    return words
