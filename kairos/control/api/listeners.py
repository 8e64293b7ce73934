"""Serves the app on sockets: uvicorn in the control process's loop, a server for each listener.

A request knows by which listener it came: `local` (the socket in the state folder), `remote` (the admin port) or
`gateway` (the gateway's own port, through a worker). Nothing here handles signals: the supervisor says when to end.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, Literal, cast

import uvicorn

from kairos.control.api.paths import keep_slashes

if TYPE_CHECKING:
    import socket

    from litestar.types import ASGIApp, Receive, Scope, Send

    from kairos.config.admin import AdminTls

Kind = Literal["local", "remote", "gateway"]
_KEY = "kairos_listener"
TICK_S = 1.0  # between two looks at the clock, for the Date header
CONNECTIONS = 512
KEEPALIVE_S = 30
WEBSOCKET_BYTES = 64 * 1024
PATIENCE_S = 1


def listener_of(scope: Scope) -> Kind:
    """By which listener a request came."""
    return cast("Kind", cast("dict[str, Any]", scope).get(_KEY, "remote"))


class Server:
    """One listener. `start`, then `close`."""

    def __init__(self, app: ASGIApp, kind: Kind, listener: socket.socket, tls: AdminTls | None = None) -> None:
        self._listener = listener
        self._server = _Uvicorn(
            uvicorn.Config(
                cast("Any", _marked(app, kind)),
                http="httptools",
                ws="websockets-sansio",
                ws_max_size=WEBSOCKET_BYTES,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=CONNECTIONS,
                timeout_keep_alive=KEEPALIVE_S,
                timeout_graceful_shutdown=PATIENCE_S,
                ssl_certfile=tls.cert_file if tls else None,
                ssl_keyfile=tls.key_file if tls else None,
            )
        )
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        self._task = asyncio.create_task(self._server.serve([self._listener]))

    async def close(self) -> None:
        """Requests under way have a moment to finish."""
        self._server.end()
        if self._task is not None:
            with contextlib.suppress(asyncio.CancelledError):
                await self._task


class _Uvicorn(uvicorn.Server):
    """Ends when it is told to, and looks at the clock once a second instead of ten times."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._ended = asyncio.Event()

    def end(self) -> None:
        self.should_exit = True
        self._ended.set()

    async def serve(self, sockets: list[socket.socket] | None = None) -> None:
        await self._serve(sockets)

    async def main_loop(self) -> None:
        while not await self.on_tick(0):
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), TICK_S)


def _marked(app: ASGIApp, kind: Kind) -> ASGIApp:
    async def marked(scope: Scope, receive: Receive, send: Send) -> None:
        cast("dict[str, Any]", scope)[_KEY] = kind
        keep_slashes(scope)
        await app(scope, receive, send)

    return marked
