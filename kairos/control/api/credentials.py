"""Sessions' cookies and tokens, as requests bring them. A write by session has to show the session's X-CSRF-Token."""

from __future__ import annotations

import hmac
from typing import TYPE_CHECKING, Any

from litestar.connection import ASGIConnection
from litestar.datastructures import Cookie
from litestar.exceptions import NotAuthorizedException, PermissionDeniedException

from kairos.control.access.lockout import DEVICE_S
from kairos.control.api.authentication import asks_again
from kairos.control.api.recording import READING, address_of, method_of

if TYPE_CHECKING:
    from litestar.types import Scope

    from kairos.control.access.logins import Logins
    from kairos.control.access.principal import Principal
    from kairos.control.api.authentication import Authenticator

Connection = ASGIConnection[Any, Any, Any, Any]
COOKIE = "kairos_session"
DEVICE = "kairos_device"
CSRF = "x-csrf-token"
CHALLENGE = {"WWW-Authenticate": 'Bearer realm="kairos"'}


def authenticators(logins: Logins) -> list[Authenticator]:
    """Those there are, in their order."""

    async def token(connection: Connection) -> Principal | None:
        scheme, _, given = connection.headers.get("authorization", "").partition(" ")
        if not scheme:
            return None
        if scheme.lower() != "bearer":
            raise NotAuthorizedException("send a token: Authorization: Bearer kairos_...", headers=CHALLENGE)
        principal = await logins.by_token(given.strip(), address_of(connection.scope), use=not asks_again(connection))
        if principal is None:
            raise NotAuthorizedException("the token is unknown, expired or revoked", headers=CHALLENGE)
        return principal

    async def session(connection: Connection) -> Principal | None:
        secret = connection.cookies.get(cookie_name(connection.scope))
        found = await logins.by_session(secret, use=not asks_again(connection)) if secret else None
        if found is None:
            return None
        principal, csrf = found
        if method_of(connection.scope) not in READING:
            _show_token(connection, csrf)
        return principal

    return [token, session]


def _show_token(connection: Connection, csrf: str) -> None:
    given = connection.headers.get(CSRF, "")
    if not hmac.compare_digest(given.encode(), csrf.encode()):
        raise PermissionDeniedException("send the session's X-CSRF-Token: it is in GET /api/me")


def cookie_name(scope: Scope, name: str = COOKIE) -> str:
    """Over HTTPS it is for this host alone, and no other may set it."""
    return f"__Host-{name}" if scope["scheme"] in ("https", "wss") else name


def session_cookie(scope: Scope, secret: str, seconds: int) -> Cookie:
    """0 seconds: take it away."""
    return _cookie(scope, COOKIE, secret, seconds)


def device_cookie(scope: Scope, secret: str) -> Cookie:
    """Proves nothing but that somebody logged in with it before."""
    return _cookie(scope, DEVICE, secret, int(DEVICE_S))


def device_of(connection: Connection) -> str:
    """What it showed; empty where it is a new one."""
    return connection.cookies.get(cookie_name(connection.scope, DEVICE), "")[:100]


def _cookie(scope: Scope, name: str, value: str, seconds: int) -> Cookie:
    key = cookie_name(scope, name)
    cookie = Cookie(key=key, value=value, path="/", max_age=seconds, httponly=True, samesite="strict")
    cookie.secure = scope["scheme"] == "https"
    return cookie
