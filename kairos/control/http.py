"""HTTP for the control process's unix sockets: bounded requests, keep-alive, no pipelining; errors are problem+json.

A `Router` is a table of paths and methods; a `Responder` serves one on a connection. Peers are the gateway's own
workers, which forward /metrics, and on a socket of its own whoever may manage the gateway: each has its own table, so
that what one may ask is out of reach of the other.
"""

from __future__ import annotations

import asyncio
import http
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from email.utils import formatdate
from typing import cast
from urllib.parse import unquote

import httptools
import msgspec

from kairos.telemetry.log import get_logger

MAX_REQUEST = 16 * 1024  # bytes, a body included: a change to one thing, never a whole configuration
REQUEST_TIMEOUT = 10.0  # seconds from a request's first byte to its last
IDLE_TIMEOUT = 75.0  # longer than the workers keep an idle upstream connection
JSON = "application/json"
PROBLEM = "application/problem+json"

log = get_logger("control")


@dataclass(frozen=True, slots=True)
class Request:
    """What was asked, whole."""

    method: str
    path: str
    accept: str = ""
    body: bytes = b""
    params: Mapping[str, str] = field(default_factory=dict)
    """What stands in the place of `{name}` in the route's path, decoded."""


@dataclass(frozen=True, slots=True)
class Response:
    """What is answered."""

    body: bytes = b""
    content_type: str = JSON
    status: int = 200
    headers: Sequence[tuple[str, str]] = ()


Handler = Callable[[Request], Response | Awaitable[Response]]
"""One that has to wait answers an awaitable; one that raises is answered for with 500."""


def problem(
    status: int, detail: str, *, problems: Sequence[str] = (), headers: Sequence[tuple[str, str]] = ()
) -> Response:
    """An error as RFC 9457 has it; `problems` where there are several reasons."""
    body: dict[str, object] = {"type": "about:blank", "title": http.HTTPStatus(status).phrase, "status": status}
    body |= {"detail": detail} | ({"problems": problems} if problems else {})
    return Response(msgspec.json.encode(body), PROBLEM, status, headers)


class Router:
    """Paths, with `{name}` for a segment, and what answers each of their methods."""

    def __init__(self, routes: Mapping[str, Mapping[str, Handler]]) -> None:
        self._routes = [(pattern.split("/"), methods) for pattern, methods in routes.items()]

    def answer(self, request: Request) -> Response | Awaitable[Response]:
        """From the first route that has the path."""
        segments = request.path.split("/")
        for pattern, methods in self._routes:
            params = _match(pattern, segments)
            if params is None:
                continue
            if request.method not in methods:
                allow = ", ".join(methods)
                return problem(405, f"this path takes {allow}", headers=[("Allow", allow)])
            found = Request(request.method, request.path, request.accept, request.body, params)
            return methods[request.method](found)
        return problem(404, f"there is nothing at {request.path}")


def _match(pattern: Sequence[str], segments: Sequence[str]) -> dict[str, str] | None:
    if len(pattern) != len(segments):
        return None
    params = {}
    for wanted, given in zip(pattern, segments, strict=True):
        if wanted.startswith("{"):
            params[wanted.strip("{}")] = unquote(given)
        elif wanted != given:
            return None
    return params


class Responder(asyncio.Protocol):
    """One connection: a request at a time, and the next one only when its answer is on its way."""

    def __init__(self, router: Router) -> None:
        self._router = router
        self._parser = httptools.HttpRequestParser(self)
        self._timer: asyncio.TimerHandle | None = None
        self._answering: asyncio.Task[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it
        self._begin()

    def connection_lost(self, _error: Exception | None) -> None:
        self._expect(None)
        if self._answering is not None:
            self._answering.cancel()

    def data_received(self, data: bytes) -> None:
        if self._size == 0:
            self._expect(REQUEST_TIMEOUT)
        self._size += len(data)
        if self._size > MAX_REQUEST:
            return self._transport.abort()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._send(problem(400, "this is no HTTP/1.1 request", headers=[("Connection", "close")]))
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"accept":
            self._accept = value.decode("latin-1")

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        if self._answering is not None or self._transport.get_write_buffer_size():
            return self._transport.abort()  # asked again before the last answer was read
        path = self._target.partition(b"?")[0].decode("latin-1")
        request = Request(self._parser.get_method().decode("latin-1"), path, self._accept, self._body)
        try:
            answer = self._router.answer(request)
        except Exception:
            answer = _failed(request)
        if isinstance(answer, Response):
            return self._end(answer)
        self._expect(None)
        self._transport.pause_reading()
        self._answering = asyncio.ensure_future(self._await(request, answer))

    async def _await(self, request: Request, answer: Awaitable[Response]) -> None:
        try:
            response = await answer
        except Exception:
            response = _failed(request)
        self._answering = None
        self._transport.resume_reading()
        self._end(response)

    def _end(self, response: Response) -> None:
        self._send(response)
        if not self._parser.should_keep_alive():
            self._transport.close()
        self._begin()

    def _begin(self) -> None:
        self._size, self._target, self._accept, self._body = 0, b"", "", b""
        self._expect(IDLE_TIMEOUT)

    def _expect(self, seconds: float | None) -> None:
        """Give the peer so long for what is due from it; None: nothing is."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds is not None:
            self._timer = asyncio.get_running_loop().call_later(seconds, self._transport.abort)

    def _send(self, response: Response) -> None:
        lines = [
            f"HTTP/1.1 {response.status} {http.HTTPStatus(response.status).phrase}",
            f"Date: {formatdate(usegmt=True)}",
            f"Content-Type: {response.content_type}",
            f"Content-Length: {len(response.body)}",
            *(f"{name}: {value}" for name, value in response.headers),
        ]
        self._transport.write("\r\n".join([*lines, "\r\n"]).encode("latin-1") + response.body)


def _failed(request: Request) -> Response:
    log.exception("a command failed", method=request.method, path=request.path)
    return problem(500, "internal error; the gateway's log says more")
