"""Serves the app on sockets: uvicorn in the control process's loop, a server for each listener.

A request knows by which listener it came: `local` (the socket in the state folder), `remote` (the admin port) or
`gateway` (the gateway's own port, through a worker). Nothing here handles signals: the supervisor says when to end.
"""

from __future__ import annotations

import asyncio
import contextlib
import struct
from socket import SO_PEERCRED, SOL_SOCKET
from typing import TYPE_CHECKING, Any, Literal, cast

import uvicorn
from litestar.enums import ScopeType
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from kairos.control.api.paths import keep_slashes
from kairos.telemetry.log import get_logger

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
HEAD_S = 20.0  # for a request's head, and between two requests
BODY_S = 15.0  # for the next piece of a body
WHOLE_BODY_S = 120.0
READ_S = 60.0  # for a client to take a piece of the answer


log = get_logger("api")


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
                http=_LocalHttp if kind == "local" else _Http,
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


class _Http(HttpToolsProtocol):
    """Ends connections on which no head arrives in time: uvicorn only ends those that are idle after an answer."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect_head()

    def on_headers_complete(self) -> None:
        self._stop_waiting()
        super().on_headers_complete()

    def on_response_complete(self) -> None:
        super().on_response_complete()
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _expect_head(self) -> None:
        self._stop_waiting()
        if not self.transport.is_closing():
            self._patience = self.loop.call_later(HEAD_S, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


class _LocalHttp(_Http):
    """Whoever opens this socket is the administrator: but no worker, which would open it for a route to
    `unix:.../admin.sock`, and so for anybody."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if _is_worker(transport.get_extra_info("socket")):
            log.error("a worker asked for the admin socket: does a route lead to it?")
            transport.abort()


def _is_worker(peer: socket.socket) -> bool:
    pid, _, _ = struct.unpack("3i", peer.getsockopt(SOL_SOCKET, SO_PEERCRED, struct.calcsize("3i")))
    with contextlib.suppress(OSError), open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as name:
        return name.read().startswith("kairos-worker")
    return False


class _Patience:
    """How long a request waits for its client: for each piece of the body, all of it, and an answer to be read."""

    def __init__(self, receive: Receive, send: Send) -> None:
        self._receive = receive
        self._send = send
        self._whole = False
        self._started = False
        self._given_up = False
        self._ends = asyncio.get_running_loop().time() + WHOLE_BODY_S

    async def receive(self) -> Any:
        if self._whole:
            return await self._receive()
        left = self._ends - asyncio.get_running_loop().time()
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, min(BODY_S, left)))
        except TimeoutError:
            self._whole = True
            await self._too_slow()
            return {"type": "http.disconnect"}
        self._whole = message["type"] != "http.request" or not message.get("more_body", False)
        return message

    async def send(self, message: Any) -> None:
        if self._given_up:
            return
        self._started = True
        await asyncio.wait_for(self._send(message), READ_S)

    async def _too_slow(self) -> None:
        if self._started:
            return
        headers = [(b"content-type", b"application/problem+json"), (b"connection", b"close")]
        body = b'{"type":"about:blank","title":"Request Timeout","status":408,"detail":"the body came too slowly"}'
        await self.send({"type": "http.response.start", "status": 408, "headers": headers})
        await self.send({"type": "http.response.body", "body": body})
        self._given_up = True


def through_gateway(scope: Scope) -> None:
    """A worker says who its client is, and how it came; nobody else can reach the socket it says so on."""
    said = {name: value.decode("latin-1") for name, value in scope["headers"] if name.startswith(b"x-forwarded-")}
    scope["client"] = (said.get(b"x-forwarded-for", "").rpartition(",")[2].strip(), 0)
    if said.get(b"x-forwarded-proto") == "https":
        scope["scheme"] = "wss" if scope["type"] == ScopeType.WEBSOCKET else "https"


def _marked(app: ASGIApp, kind: Kind) -> ASGIApp:
    async def marked(scope: Scope, receive: Receive, send: Send) -> None:
        cast("dict[str, Any]", scope)[_KEY] = kind
        if kind == "gateway":
            through_gateway(scope)
        keep_slashes(scope)
        if scope["type"] == ScopeType.HTTP:
            patience = _Patience(receive, send)
            receive, send = patience.receive, patience.send
        await app(scope, receive, send)

    return marked
