"""Users and roles. Nobody gives more than they have, and one administrator is always left."""

from __future__ import annotations

from typing import Any

from litestar import Request, delete, get, patch, post, put
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from kairos.control.access.accounts import Accounts, NewUser, Role, RoleContent, User, UserChange, UserMade, within
from kairos.control.access.logins import Logins, NewToken, Token, TokenMade
from kairos.control.access.permissions import PERMISSIONS, Permission
from kairos.control.api.guards import needs
from kairos.control.api.me import principal
from kairos.control.api.paths import segment
from kairos.control.api.recording import note

TAGS = ["Users"]
Asked = Request[Any, Any, Any]


class PasswordReset(Struct, frozen=True, forbid_unknown_fields=True):
    """Another password for somebody."""

    password: str | None = None
    """To be changed at the next login; without one, a password for one login is made and returned."""


@get("/api/users", tags=TAGS, **needs("users:read"))
async def list_users(accounts: NamedDependency[Accounts]) -> list[User]:
    """Everybody."""
    return await accounts.users()


@post("/api/users", tags=TAGS, **needs("users:write"))
async def add_user(request: Asked, accounts: NamedDependency[Accounts], data: JSONBody[NewUser]) -> UserMade:
    """Somebody more."""
    note(request, target=data.name[:100])
    return await accounts.add(data, principal(request))


@get("/api/users/{name:str}", tags=TAGS, **needs("users:read"))
async def get_user(accounts: NamedDependency[Accounts], name: FromPath[str]) -> User:
    """One of them."""
    return await accounts.user(_word(name))


@patch("/api/users/{name:str}", tags=TAGS, **needs("users:write"))
async def change_user(
    request: Asked, accounts: NamedDependency[Accounts], name: FromPath[str], data: JSONBody[UserChange]
) -> User:
    """Roles, names, disabled: who is disabled loses sessions and tokens."""
    return await accounts.change(_word(name), data, principal(request))


@delete("/api/users/{name:str}", tags=TAGS, **needs("users:write"))
async def remove_user(request: Asked, accounts: NamedDependency[Accounts], name: FromPath[str]) -> None:
    """For good, with sessions and tokens."""
    await accounts.remove(_word(name), principal(request))


@post("/api/users/{name:str}/password", tags=TAGS, status_code=200, **needs("users:write", action="user.password"))
async def reset_password(
    request: Asked,
    accounts: NamedDependency[Accounts],
    name: FromPath[str],
    data: JSONBody[PasswordReset],
) -> UserMade:
    """Another password: sessions and tokens end, and it has to be changed at the next login."""
    return await accounts.reset_password(_word(name), data.password, principal(request))


@delete("/api/users/{name:str}/sessions", tags=TAGS, **needs("users:write", action="session.end"))
async def end_sessions(
    request: Asked, accounts: NamedDependency[Accounts], logins: NamedDependency[Logins], name: FromPath[str]
) -> None:
    """Log somebody out everywhere."""
    await _may_act_for(request, accounts, _word(name))
    await logins.end_sessions(_word(name))


@get("/api/users/{name:str}/tokens", tags=TAGS, **needs("users:read"))
async def list_tokens(logins: NamedDependency[Logins], name: FromPath[str]) -> list[Token]:
    """A user's, without their secrets."""
    return await logins.tokens_of(await logins.id_of(_word(name)))


@post("/api/users/{name:str}/tokens", tags=TAGS, **needs("users:write", action="token.make"))
async def make_token(
    request: Asked,
    accounts: NamedDependency[Accounts],
    logins: NamedDependency[Logins],
    name: FromPath[str],
    data: JSONBody[NewToken],
) -> TokenMade:
    """For a user who is a program. Who makes it may do everything that the user may."""
    user = await _may_act_for(request, accounts, _word(name))
    return await logins.make_token(await logins.id_of(user.name), data, frozenset(user.permissions))


@delete("/api/users/{name:str}/tokens/{token_id:str}", tags=TAGS, **needs("users:write", action="token.revoke"))
async def revoke_token(
    request: Asked,
    accounts: NamedDependency[Accounts],
    logins: NamedDependency[Logins],
    name: FromPath[str],
    token_id: FromPath[str],
) -> None:
    """A user's."""
    await _may_act_for(request, accounts, _word(name))
    await logins.revoke_token(await logins.id_of(_word(name)), token_id)


@get("/api/roles", tags=TAGS, **needs("users:read"))
async def list_roles(accounts: NamedDependency[Accounts]) -> list[Role]:
    """Those that are always there, and one's own."""
    return await accounts.roles()


@get("/api/permissions", tags=TAGS, sync_to_thread=False, **needs("users:read"))
def list_permissions() -> list[Permission]:
    """Of which roles and tokens are made."""
    return list(PERMISSIONS)


@put("/api/roles/{name:str}", tags=TAGS, **needs("users:write"))
async def put_role(
    request: Asked, accounts: NamedDependency[Accounts], name: FromPath[str], data: JSONBody[RoleContent]
) -> Role:
    """Make or change a role of one's own."""
    return await accounts.put_role(_word(name), data, principal(request))


@delete("/api/roles/{name:str}", tags=TAGS, **needs("users:write"))
async def remove_role(request: Asked, accounts: NamedDependency[Accounts], name: FromPath[str]) -> None:
    """One that nobody has any more."""
    await accounts.remove_role(_word(name), principal(request))


async def _may_act_for(request: Asked, accounts: Accounts, name: str) -> User:
    user = await accounts.user(name)
    within(principal(request), user.permissions, f"the user {name!r}")
    return user


def _word(given: str) -> str:
    return segment(given).replace("\0", "\ufffd")


HANDLERS = [
    list_users, add_user, get_user, change_user, remove_user, reset_password, end_sessions,
    list_tokens, make_token, revoke_token, list_roles, list_permissions, put_role, remove_role,
]  # fmt: skip
