"""Finds out who asks, before anything else happens to a request: `scope["user"]` is a Principal from here on.

On the socket in the state folder everybody is the local administrator. Elsewhere the authenticators are asked in turn;
one that finds credentials that are no good raises NotAuthorizedException, one that finds none answers None.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from litestar.connection import ASGIConnection
from litestar.exceptions import HTTPException, NotAuthorizedException
from litestar.middleware import ASGIMiddleware

from kairos.control.access.principal import LOCAL, NOBODY, Principal
from kairos.control.api.guards import permission_of, refusal
from kairos.control.api.lasting import Lasting
from kairos.control.api.listeners import listener_of
from kairos.storage.database import UnavailableError

if TYPE_CHECKING:
    from litestar.types import ASGIApp, Receive, Scope, Send

Connection = ASGIConnection[Any, Any, Any, Any]
Authenticator = Callable[[Connection], Awaitable[Principal | None]]
_AGAIN = "kairos_again"


def asks_again(connection: Connection) -> bool:
    """Whether somebody who watches is only looked at once more: no use of a session or token."""
    return _AGAIN in connection.scope


class Authentication(ASGIMiddleware):
    """The first of the middleware."""

    def __init__(self, authenticators: Sequence[Authenticator]) -> None:
        self._authenticators = authenticators

    async def handle(self, scope: Scope, receive: Receive, send: Send, next_app: ASGIApp) -> None:
        scope["user"] = NOBODY
        try:
            scope["user"] = await self._find(scope)
        except HTTPException as error:
            raise refusal(scope, error) from None
        await Lasting(receive, send, lambda: self._objection(scope)).run(next_app, scope)

    async def _objection(self, scope: Scope) -> int | None:
        """Why somebody who watches may not go on."""
        before: Principal = scope["user"]
        try:
            now = await self._find(cast("Scope", {**scope, _AGAIN: True}))
        except NotAuthorizedException:
            return 401
        except UnavailableError:
            return None
        if (now.method, now.user_id) != (before.method, before.user_id):
            return 401
        needed = permission_of(scope["route_handler"])
        return 403 if needed is not None and (needed not in now.permissions or now.must_change) else None

    async def _find(self, scope: Scope) -> Principal:
        if listener_of(scope) == "local":
            return LOCAL
        connection: Connection = ASGIConnection(scope)
        for authenticator in self._authenticators:
            principal = await authenticator(connection)
            if principal is not None:
                return principal
        return NOBODY
