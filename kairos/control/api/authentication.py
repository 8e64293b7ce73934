"""Finds out who asks, before anything else happens to a request: `scope["user"]` is a Principal from here on.

On the socket in the state folder everybody is the local administrator. Elsewhere the authenticators are asked in turn;
one that finds credentials that are no good raises NotAuthorizedException, one that finds none answers None.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any

from litestar.connection import ASGIConnection
from litestar.middleware import ASGIMiddleware

from kairos.control.access.principal import LOCAL, NOBODY, Principal
from kairos.control.api.listeners import listener_of

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Receive, Scope, Send

Connection = ASGIConnection[Any, Any, Any, Any]
Authenticator = Callable[[Connection], Awaitable[Principal | None]]


class Authentication(ASGIMiddleware):
    """The first of the middleware."""

    def __init__(self, authenticators: Sequence[Authenticator]) -> None:
        self._authenticators = authenticators

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        scope["user"] = NOBODY
        scope["user"] = await self._find(scope)
        await next_app(scope, receive, send)

    async def _find(self, scope: Scope) -> Principal:
        if listener_of(scope) == "local":
            return LOCAL
        connection: Connection = ASGIConnection(scope)
        for authenticator in self._authenticators:
            principal = await authenticator(connection)
            if principal is not None:
                return principal
        return NOBODY
