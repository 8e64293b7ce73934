"""Feeds end with what let them begin: a session, a token, a user, a permission.

WebSockets and event streams go on for long after it was found out who asks. So that is asked again every AGAIN_S: where
the answer has changed the handler is told that its client has gone, and the client that it may not (a WebSocket by 4401
or 4403; an event stream ends). To be watched is no use of a session: one that is idle ends. While the database is away
nobody knows, but nobody can be disabled either: feeds go on.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from litestar.enums import ScopeType

from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from litestar.types import ASGIApp, Message, Receive, Scope, Send

AGAIN_S = 10.0
FAREWELL_S = 5.0
"""For a client to take the last word."""
STREAM = b"text/event-stream"
REASONS = {401: "the login is over", 403: "this is not allowed any more"}

log = get_logger("api")


class Lasting:
    """Around one request: `run` the rest of the app in it. `objection` says 401 or 403, or None."""

    def __init__(self, receive: Receive, send: Send, objection: Callable[[], Awaitable[int | None]]) -> None:
        self._receive = receive
        self._send = send
        self._objection = objection
        self._over: asyncio.Task[int] | None = None
        """Ends when somebody may not go on; there for feeds that have begun."""
        self._socket = False
        self._ended = False

    async def run(self, app: ASGIApp, scope: Scope) -> None:
        try:
            await app(scope, self.receive, self.send)
            if self._over is not None and self._over.done():
                await self._farewell(scope, self._over.result())
        finally:
            if self._over is not None:
                self._over.cancel()

    async def receive(self) -> Any:
        if self._over is None:
            return await self._receive()
        coming = asyncio.ensure_future(self._receive())
        try:
            await asyncio.wait({coming, self._over}, return_when=asyncio.FIRST_COMPLETED)
            if not self._over.done():
                return coming.result()
        finally:
            coming.cancel()
        return {"type": "websocket.disconnect" if self._socket else "http.disconnect", "code": 4401}

    async def send(self, message: Message) -> None:
        if self._over is None:
            self._begin(message)
        elif self._over.done():
            return  # nothing goes out any more
        self._ended = message["type"] == "websocket.close" or (
            message["type"] == "http.response.body" and not message.get("more_body", False)
        )
        await self._send(message)

    def _begin(self, message: Message) -> None:
        self._socket = message["type"] == "websocket.accept"
        if self._socket or (message["type"] == "http.response.start" and _is_stream(message)):
            self._over = asyncio.create_task(self._until_over())

    async def _until_over(self) -> int:
        while True:
            await asyncio.sleep(AGAIN_S)
            if status := await self._objection():
                return status

    async def _farewell(self, scope: Scope, status: int) -> None:
        if self._ended:
            return
        log.info("a feed ends", path=scope["path"], user=scope["user"].name, reason=REASONS[status])
        last: Any = {"type": "http.response.body", "body": b"", "more_body": False}
        if scope["type"] == ScopeType.WEBSOCKET:
            last = {"type": "websocket.close", "code": 4000 + status, "reason": REASONS[status]}
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._send(last), FAREWELL_S)


def _is_stream(message: Any) -> bool:
    return any(name.lower() == b"content-type" and value.startswith(STREAM) for name, value in message["headers"])
