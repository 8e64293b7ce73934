"""Every write, and every attempt that was refused, goes into the audit log: here, and nowhere else.

What is recorded of a request: who, from where, what (the handler's name, or what it says with `note`), to what, how it
ended, and the body where it is short JSON, secrets masked. The log is bounded, so what is refused is damped: nobody is
to fill it, or drive older entries out of it, by what they may not do.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import time
from typing import TYPE_CHECKING, Any, cast

import msgspec
from litestar.datastructures import MutableScopeHeaders

from kairos.control.access.guessing import network_of
from kairos.control.access.principal import NOBODY, Principal
from kairos.control.api.listeners import listener_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from litestar.connection import ASGIConnection
    from litestar.types import ASGIApp, Message, Receive, Scope, Send

    from kairos.control.access.audit import Audit, Outcome

READING = frozenset({"GET", "HEAD", "OPTIONS"})
REFUSED = frozenset({401, 403, 421, 429})
BODY = 8192  # bytes of a request that are kept
SECRET = frozenset({"login", "user.password"})  # actions of which nothing is: their handlers may never have run
DAMPED = 20  # entries a minute of an address (of IPv6: a /64) that proved nothing
DAMPED_USER = 300  # of a user, of what did not succeed
BURST, STEADY = 1000, 2.0  # of all who proved nothing together: at once, and a minute after that
SOURCES = 1000
TOLD = 10  # sources of which an entry says how much was left out; the rest is one
WINDOW_S = 60.0
OTHERS = "others"
_NOTE = "kairos_note"
_ID = "kairos_request_id"
_GOOD_ID = re.compile(r"[\w.:=+/-]{1,64}", re.ASCII)


class _Note(msgspec.Struct):
    """What a handler says of its own request."""

    actor: str | None = None
    action: str | None = None
    target: str | None = None
    detail: dict[str, Any] | None = None


def note(connection: ASGIConnection[Any, Any, Any, Any], detail: dict[str, Any] | None = None, **words: str) -> None:
    """Of a request that is under way: `actor`, `action`, `target`, or a `detail` in place of its body."""
    told: _Note = cast("dict[str, Any]", connection.scope).setdefault(_NOTE, _Note())
    for name, word in words.items():
        setattr(told, name, word)
    if detail is not None:
        told.detail = (told.detail or {}) | detail


def address_of(scope: Scope) -> str:
    """Where a request comes from: an address, or `local`."""
    client = scope.get("client")
    return "local" if listener_of(scope) == "local" else (client[0] if client else "")


def request_id_of(scope: Scope) -> str:
    """What this request is called in the audit log, and in the answer's X-Request-Id."""
    return str(cast("dict[str, Any]", scope).get(_ID, ""))


class Recording:
    """Around the app."""

    def __init__(self, app: ASGIApp, audit: Audit | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._app = app
        self._audit = audit
        self._damper = Damper(clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] not in ("http", "websocket"):
            return await self._app(scope, receive, send)
        request = _Request(scope, receive, send)
        try:
            await self._app(scope, request.receive, request.send)
        except Exception:
            request.status = request.status or 500
            raise
        finally:
            if self._audit is not None:
                self._record(self._audit, scope, request)

    def _record(self, audit: Audit, scope: Scope, request: _Request) -> None:
        principal: Principal = scope.get("user") or NOBODY
        status = request.status or 499
        refused = status in REFUSED
        said = _NOTE in scope
        if method_of(scope) in READING and not said and not (refused and (principal is not NOBODY or _tried(scope))):
            return
        address = address_of(scope)
        for source, count in self._damper.ended():
            audit.record(NOBODY, "audit.damped", source, "refused", {"requests": count})
        if status >= 400 and not self._damper.admits(principal, address):
            return
        told: _Note = cast("dict[str, Any]", scope).get(_NOTE) or _Note()
        if told.actor is not None:
            principal = Principal(told.actor, principal.method, frozenset())
        outcome: Outcome = "refused" if refused else "done" if status < 400 else "failed"
        action, target = told.action or action_of(scope), told.target or target_of(scope)
        body = {} if principal is NOBODY or action in SECRET else request.body()
        detail = {"status": status, **(body if told.detail is None else told.detail)}
        audit.record(principal, action, target, outcome, detail, address=address, request_id=request_id_of(scope))


class _Request:
    """What went in and out."""

    def __init__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self.status = 0
        self._scope = scope
        self._receive = receive
        self._send = send
        self._data = bytearray()
        given = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        self._id = given if _GOOD_ID.fullmatch(given) else secrets.token_hex(8)
        cast("dict[str, Any]", scope)[_ID] = self._id

    async def receive(self) -> Any:
        message = await self._receive()
        if message["type"] == "http.request" and len(self._data) <= BODY:
            self._data += message.get("body", b"")[: BODY + 1]
        return message

    async def send(self, message: Message) -> None:
        if message["type"] in ("http.response.start", "websocket.http.response.start"):
            self.status = message["status"]
            MutableScopeHeaders.from_message(message).setdefault("X-Request-Id", self._id)
        elif message["type"] == "websocket.accept":
            self.status = 101
        elif message["type"] == "websocket.close" and not self.status:
            self.status = {4401: 401, 4403: 403, 4421: 421}.get(message["code"] or 0, 400)
        await self._send(message)

    def body(self) -> dict[str, Any]:
        """Only what is JSON and short."""
        if not self._data or len(self._data) > BODY:
            return {"body": "too long to keep"} if self._data else {}
        with contextlib.suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return {"body": msgspec.json.decode(bytes(self._data))}
        return {"body": "no JSON"}


def action_of(scope: Scope) -> str:
    """`change_backend` of backends.py is backend.change, `reload` of gateway.py is gateway.reload."""
    handler: Any = scope.get("route_handler")
    if handler is None or not hasattr(handler, "fn"):
        return f"{method_of(scope).lower()} {scope['path']}"
    if said := handler.opt.get("action"):
        return str(said)
    verb, _, noun = handler.fn.__name__.partition("_")
    return f"{noun or handler.fn.__module__.rpartition('.')[2]}.{verb}"


def target_of(scope: Scope) -> str:
    """What stands in the path in place of parameters, or else the path."""
    given = scope.get("path_params")
    return "/".join(str(value) for value in given.values()) if given else scope["path"]


def _tried(scope: Scope) -> bool:
    """Whether there are credentials, good or not."""
    headers = dict(scope["headers"])
    return b"authorization" in headers or b"kairos_session=" in headers.get(b"cookie", b"")


def method_of(scope: Scope) -> str:
    """A WebSocket begins with a GET."""
    return str(cast("dict[str, Any]", scope).get("method", "GET"))


class Damper:
    """Who gets an entry more for what was refused, and how many were left out."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._ends = 0.0
        self._counts: dict[str, int] = {}
        self._left_out: dict[str, int] = {}
        self._room = float(BURST)
        """Of all who proved nothing."""
        self._filled = clock()

    def admits(self, who: Principal, address: str) -> bool:
        """One more."""
        nobody = who is NOBODY
        key = network_of(address) if nobody else f"user {who.name}"
        if key not in self._counts and len(self._counts) >= SOURCES:
            key = OTHERS
        count = self._counts[key] = self._counts.get(key, 0) + 1
        admitted = count <= (DAMPED if nobody else DAMPED_USER) and (not nobody or self._take())
        if not admitted:
            self._left_out[key] = self._left_out.get(key, 0) + 1
        return admitted

    def _take(self) -> bool:
        now = self._clock()
        self._room = min(float(BURST), self._room + (now - self._filled) / 60.0 * STEADY)
        self._filled = now
        if self._room < 1.0:
            return False
        self._room -= 1.0
        return True

    def ended(self) -> list[tuple[str, int]]:
        """What was left out in the minute that is over, the most first."""
        now = self._clock()
        if now < self._ends:
            return []
        over = sorted(self._left_out.items(), key=lambda one: one[1], reverse=True)
        rest = sum(count for _, count in over[TOLD:])
        self._counts.clear()
        self._left_out.clear()
        self._ends = now + WINDOW_S
        return over[:TOLD] + ([(OTHERS, rest)] if rest else [])
