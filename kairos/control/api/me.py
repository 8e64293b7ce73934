"""Logging in and out, and everybody's own account: password, sessions, tokens."""

from __future__ import annotations

from typing import Any

from litestar import Request, Response, delete, get, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody
from msgspec import Struct

from kairos.config.admin import Admin
from kairos.control.access.access import Access
from kairos.control.access.accounts import DeniedError
from kairos.control.access.logins import LoggedIn, Logins, NewToken, Session, Token, TokenMade
from kairos.control.access.permissions import Permission
from kairos.control.access.principal import Method, Principal
from kairos.control.access.sso import SingleSignOn
from kairos.control.api.credentials import cookie_name, device_cookie, device_of, session_cookie
from kairos.control.api.guards import needs, public
from kairos.control.api.recording import address_of, note

TAGS = ["Account"]
Asked = Request[Any, Any, Any]


class Login(Struct, frozen=True, forbid_unknown_fields=True):
    """Who somebody says they are."""

    name: str
    password: str


class Me(Struct, frozen=True):
    """Who asks, and what they may do."""

    name: str
    method: Method
    permissions: list[Permission]
    must_change: bool
    """Nothing else can be done before the password is changed."""
    csrf: str | None = None
    """What writes of a session have to bring as X-CSRF-Token."""


class LoggedOut(Struct, frozen=True):
    """A session has ended here."""

    location: str | None
    """Where the browser goes to end the one at the identity provider as well; null: there is none."""


class PasswordChange(Struct, frozen=True, forbid_unknown_fields=True):
    """Another password."""

    current_password: str
    new_password: str
    end_tokens: bool = False
    """Revoke all tokens too."""


@post("/api/login", tags=TAGS, status_code=200, **public(action="login"))
async def login(
    request: Asked, logins: NamedDependency[Logins], access: NamedDependency[Access], data: JSONBody[Login]
) -> Response[Me]:
    """Start a session: a cookie, and the token that its writes have to show."""
    name = data.name.strip().lower()[:100]
    note(request, {}, actor=name, target=name)
    if old := request.cookies.get(cookie_name(request.scope)):
        await _forget(logins, old)
    agent = request.headers.get("user-agent", "")
    made = await logins.log_in(data.name, data.password, address_of(request.scope), agent, device_of(request))
    note(request, {"session": made.id})
    return logged_in(request, made, access.admin)


def logged_in(request: Asked, made: LoggedIn, admin: Admin) -> Response[Me]:
    """With the session's cookie."""
    body = Me(made.user, "session", made.permissions, made.must_change, made.csrf)
    cookies = [session_cookie(request.scope, made.secret, int(admin.sessions.lifetime))]
    if made.device:
        cookies.append(device_cookie(request.scope, made.device))
    return Response(body, cookies=cookies)


@post("/api/logout", tags=TAGS, status_code=200, **needs("self", action="logout"))
async def logout(
    request: Asked, logins: NamedDependency[Logins], sso: NamedDependency[SingleSignOn]
) -> Response[LoggedOut]:
    """End this session, and say where the one at the identity provider ends."""
    who, location = principal(request), None
    if who.method == "session":
        id_token = await logins.end_session(who.user_id, who.credential)
        here = f"{request.scope['scheme']}://{request.headers.get('host', '')}"
        location = await sso.goodbye(id_token, here)
    return Response(LoggedOut(location), cookies=[session_cookie(request.scope, "", 0)])


@get("/api/me", tags=TAGS, **needs("self"))
async def show_me(request: Asked, logins: NamedDependency[Logins]) -> Me:
    """Who asks."""
    who = principal(request)
    csrf = None
    if who.method == "session":
        found = await logins.by_session(request.cookies.get(cookie_name(request.scope), ""))
        csrf = found[1] if found else None
    return Me(who.name, who.method, sorted(who.permissions), who.must_change, csrf)


@post("/api/me/password", tags=TAGS, status_code=200, **needs("self", action="user.password"))
async def change_my_password(
    request: Asked, logins: NamedDependency[Logins], access: NamedDependency[Access], data: JSONBody[PasswordChange]
) -> Response[Me]:
    """Another password: all sessions end, and a new one starts."""
    who, address = principal(request), address_of(request.scope)
    note(request, {}, target=who.name)
    await logins.change_password(
        who, data.current_password, data.new_password, address, device_of(request), end_tokens=data.end_tokens
    )
    await logins.end_session(who.user_id, who.credential)
    made = await logins.open_session(who.user_id or 0, address, request.headers.get("user-agent", ""))
    return logged_in(request, made, access.admin)


@get("/api/me/sessions", tags=TAGS, **needs("self"))
async def list_my_sessions(request: Asked, logins: NamedDependency[Logins]) -> list[Session]:
    """Where one is logged in."""
    return await logins.sessions_of(principal(request))


@delete("/api/me/sessions/{session_id:str}", tags=TAGS, **needs("self", action="session.end"))
async def end_my_session(request: Asked, logins: NamedDependency[Logins], session_id: FromPath[str]) -> None:
    """Log out there."""
    await logins.end_session(_own(request), session_id)


@get("/api/me/tokens", tags=TAGS, **needs("self"))
async def list_my_tokens(request: Asked, logins: NamedDependency[Logins]) -> list[Token]:
    """Without their secrets."""
    return await logins.tokens_of(principal(request).user_id)


@post("/api/me/tokens", tags=TAGS, **needs("self", action="token.make"))
async def make_my_token(request: Asked, logins: NamedDependency[Logins], data: JSONBody[NewToken]) -> TokenMade:
    """For a program that manages the gateway in one's name. Only who is logged in makes one."""
    who = principal(request)
    if who.method != "session" or who.must_change:
        raise DeniedError("log in with a password of your own to make tokens")
    return await logins.make_token(_own(request), data, who.permissions)


@delete("/api/me/tokens/{token_id:str}", tags=TAGS, **needs("self", action="token.revoke"))
async def revoke_my_token(request: Asked, logins: NamedDependency[Logins], token_id: FromPath[str]) -> None:
    """At once."""
    await logins.revoke_token(_own(request), token_id)


def principal(request: Asked) -> Principal:
    """Who asks."""
    found: Principal = request.scope["user"]
    return found


def _own(request: Asked) -> int:
    user_id = principal(request).user_id
    if user_id is None:
        raise DeniedError(f"{principal(request).name} has no account of its own")
    return user_id


async def _forget(logins: Logins, secret: str) -> None:
    found = await logins.by_session(secret)
    if found is not None:
        await logins.end_session(found[0].user_id, found[0].credential)


HANDLERS = [
    login, logout, show_me, change_my_password, list_my_sessions, end_my_session,
    list_my_tokens, make_my_token, revoke_my_token,
]  # fmt: skip
