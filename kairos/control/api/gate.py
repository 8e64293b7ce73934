"""In front of everything that comes over a network: by which name the API is called, and from which page.

A page of another site may make a name of its own point here (DNS rebinding), and then its requests are of one origin to
the browser: so `Host` has to be an address, or a name that the configuration knows. `Origin`, which browsers send with
whatever could change something and with WebSockets, has to be the API's own or an allowed one.
"""

from __future__ import annotations

import ipaddress
import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from litestar.datastructures import MutableScopeHeaders
from litestar.enums import ScopeType

from kairos.control.api.listeners import listener_of
from kairos.control.api.recording import method_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from litestar.types import ASGIApp, Message, Receive, Scope, Send

    from kairos.config.admin import Admin
    from kairos.control.access.access import Access

ALLOWED_METHODS = "GET, HEAD, POST, PUT, PATCH, DELETE"
EXPOSED = "ETag, Retry-After, X-Request-Id, Location"
PREFLIGHT_S = 600


class Gate:
    """Around the app; adds `headers` to every answer."""

    def __init__(self, app: ASGIApp, access: Access | None, headers: Mapping[str, str]) -> None:
        self._app = app
        self._access = access
        self._headers = headers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        given = _headers(scope)
        origin = given.get("origin")
        allowed: str | None = None
        if self._access is not None and listener_of(scope) != "local":
            admin = self._access.admin
            if not knows_host(admin, given.get("host", "")):
                return await self._refuse(scope, send, 421, "not called by this name; see admin.allowed_hosts")
            if origin is not None and origin in admin.allowed_origins:
                allowed = origin
            elif origin is not None and not same_origin(origin, given.get("host", "")):
                return await self._refuse(scope, send, 403, "not for pages of this origin; see admin.allowed_origins")
        if allowed is not None and method_of(scope) == "OPTIONS" and "access-control-request-method" in given:
            return await self._answer_preflight(send, allowed, given.get("access-control-request-headers", ""))
        await self._app(scope, receive, self._sending(send, allowed))

    def _sending(self, send: Send, origin: str | None) -> Send:
        async def sending(message: Message) -> None:
            if message["type"] in ("http.response.start", "websocket.http.response.start"):
                headers = MutableScopeHeaders.from_message(message)
                for name, value in self._headers.items():
                    headers.setdefault(name, value)
                if origin is not None:
                    headers["Access-Control-Allow-Origin"] = origin
                    headers["Access-Control-Allow-Credentials"] = "true"
                    headers["Access-Control-Expose-Headers"] = EXPOSED
                    headers.extend_header_value("Vary", "Origin")
            await send(message)

        return sending

    async def _refuse(self, scope: Scope, send: Send, status: int, detail: str) -> None:
        if scope["type"] == ScopeType.WEBSOCKET:
            return await send({"type": "websocket.close", "code": 4000 + status, "reason": detail})
        title = {421: "Misdirected Request", 403: "Forbidden"}[status]
        body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "detail": detail}
        body |= {"success": False, "message": detail}
        headers = {"Content-Type": "application/problem+json", **self._headers}
        await _send(send, status, headers, json.dumps(body).encode())

    async def _answer_preflight(self, send: Send, origin: str, wanted: str) -> None:
        headers = {"Access-Control-Allow-Origin": origin, "Access-Control-Allow-Credentials": "true", "Vary": "Origin"}
        headers |= {"Access-Control-Allow-Methods": ALLOWED_METHODS, "Access-Control-Max-Age": str(PREFLIGHT_S)}
        if wanted:
            headers["Access-Control-Allow-Headers"] = wanted
        await _send(send, 204, headers, b"")


async def _send(send: Send, status: int, headers: Mapping[str, str], body: bytes) -> None:
    pairs = [(name.lower().encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    if body:
        pairs.append((b"content-length", str(len(body)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": pairs})
    await send({"type": "http.response.body", "body": body, "more_body": False})


def knows_host(admin: Admin, host: str) -> bool:
    """Whether the API may be called so. No address can be made to point elsewhere, so all of them may."""
    name = _name_of(host)
    if name is None:
        return False
    if name == "localhost" or name.endswith(".localhost") or name == admin.host.lower() or _is_address(name):
        return True
    allowed = {one.lower().rstrip(".") for one in admin.allowed_hosts}
    return name in allowed or f"*.{name.partition('.')[2]}" in allowed


def same_origin(origin: str, host: str) -> bool:
    """Compared without the scheme: TLS may end before us, and two schemes do not share a port."""
    try:
        netloc = urlsplit(origin).netloc
    except ValueError:
        return False
    return bool(netloc) and netloc.lower() == host.lower()


def _name_of(host: str) -> str | None:
    """Without the port; None: it is nonsense."""
    try:
        name = urlsplit(f"//{host}").hostname
    except ValueError:
        return None
    return name.rstrip(".") if name else None


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name.partition("%")[0])
    except ValueError:
        return False
    return True


def _headers(scope: Scope) -> dict[str, str]:
    """Of one that is sent twice, both: nothing is equal to that."""
    found: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        text = value.decode("latin-1")
        found[key] = f"{found[key]}, {text}" if key in found else text
    return found
