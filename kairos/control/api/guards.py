"""Every endpoint says which permission it needs; one that says nothing does not come into being.

@get("/status", **needs("status:read"))
@post("/login", **public())
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar.enums import ScopeType
from litestar.exceptions import (
    HTTPException,
    NotAuthorizedException,
    PermissionDeniedException,
    WebSocketException,
)
from litestar.handlers import HTTPRouteHandler, WebsocketRouteHandler

from kairos.control.access.permissions import PERMISSIONS

if TYPE_CHECKING:
    from litestar import Litestar
    from litestar.connection import ASGIConnection
    from litestar.handlers.base import BaseRouteHandler
    from litestar.types import Scope

    from kairos.control.access.permissions import Permission
    from kairos.control.access.principal import Principal

_PERMISSION = "permission"
_PUBLIC = "public"


def needs(permission: Permission, *, action: str = "") -> dict[str, Any]:
    """Keywords for a handler that only those may use who have the permission; `action` is its name in the audit log."""
    assert permission in PERMISSIONS
    return {"opt": {_PERMISSION: permission, "action": action}, "guards": [_guard]}


def public(*, action: str = "") -> dict[str, Any]:
    """Keywords for a handler that anybody may use."""
    return {"opt": {_PUBLIC: True, "action": action}}


def permission_of(handler: BaseRouteHandler) -> Permission | None:
    """What it needs; None: nothing. Raises KeyError where nothing is said."""
    return None if handler.opt.get(_PUBLIC) else handler.opt[_PERMISSION]


async def _guard(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    try:
        _judge(connection, handler)
    except HTTPException as error:
        raise refusal(connection.scope, error) from None


def refusal(scope: Scope, error: HTTPException) -> Exception:
    """As the client of a WebSocket understands it: Litestar closes that with 4500, whatever was wrong."""
    if scope["type"] != ScopeType.WEBSOCKET:
        return error
    return WebSocketException(detail=error.detail, code=4000 + error.status_code)


def _judge(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    principal: Principal = connection.scope["user"]
    if principal.method == "none":
        raise NotAuthorizedException(
            "log in, or send a token: Authorization: Bearer ...", headers={"WWW-Authenticate": 'Bearer realm="kairos"'}
        )
    if handler.opt[_PERMISSION] not in principal.permissions:
        raise PermissionDeniedException(f"{principal.name} may not do this: it needs {handler.opt[_PERMISSION]}")
    if principal.must_change and handler.opt[_PERMISSION] != "self":
        raise PermissionDeniedException("change your password first: POST /api/me/password")


def forgotten(app: Litestar) -> list[str]:
    """Endpoints that say nothing: there must be none, but for the answers to OPTIONS that Litestar makes."""
    found = []
    for route in app.routes:
        for handler in getattr(route, "route_handlers", [getattr(route, "route_handler", None)]):
            ours = isinstance(handler, HTTPRouteHandler | WebsocketRouteHandler)
            made = getattr(handler, "http_methods", None) == {"OPTIONS"}
            if ours and not made and not {_PERMISSION, _PUBLIC} & handler.opt.keys():
                found.append(route.path)
    return found
