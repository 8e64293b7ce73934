"""A responder for the control process's unix socket: GET only, bounded requests, keep-alive, no pipelining.

Peers are the gateway's own workers, which forward /metrics here, and whoever may open the socket.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from email.utils import formatdate
from typing import cast

import httptools

Answer = Callable[[str], tuple[bytes, str]]  # takes the Accept header, gives body and content type
MAX_REQUEST = 16 * 1024  # bytes, a body included: no request here has a use for one
REQUEST_TIMEOUT = 10.0  # seconds from a request's first byte to its last
IDLE_TIMEOUT = 75.0  # longer than the workers keep an idle upstream connection


class Responder(asyncio.Protocol):
    """One connection."""

    def __init__(self, answers: Mapping[str, Answer]) -> None:
        self._answers = answers
        self._parser = httptools.HttpRequestParser(self)
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)  # uvloop's are no subclass of it
        self._begin()

    def connection_lost(self, _error: Exception | None) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def data_received(self, data: bytes) -> None:
        if self._size == 0:
            self._expect(REQUEST_TIMEOUT)
        self._size += len(data)
        if self._size > MAX_REQUEST:
            return self._transport.abort()
        try:
            self._parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            self._send("400 Bad Request", "Connection: close\r\n")
            self._transport.close()

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        if name.lower() == b"accept":
            self._accept = value.decode("latin-1")

    def on_message_complete(self) -> None:
        if self._transport.get_write_buffer_size():
            return self._transport.abort()  # asked again before the last answer was read
        answer = self._answers.get(self._target.partition(b"?")[0].decode("latin-1"))
        if answer is None:
            self._send("404 Not Found")
        elif self._parser.get_method() != b"GET":
            self._send("405 Method Not Allowed", "Allow: GET\r\n")
        else:
            body, content_type = answer(self._accept)
            self._send("200 OK", f"Content-Type: {content_type}\r\n", body)
        if not self._parser.should_keep_alive():
            self._transport.close()
        self._begin()

    def _begin(self) -> None:
        self._size, self._target, self._accept = 0, b"", ""
        self._expect(IDLE_TIMEOUT)

    def _expect(self, seconds: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_later(seconds, self._transport.abort)

    def _send(self, status: str, headers: str = "", body: bytes = b"") -> None:
        head = f"HTTP/1.1 {status}\r\nDate: {formatdate(usegmt=True)}\r\n{headers}Content-Length: {len(body)}\r\n\r\n"
        self._transport.write(head.encode("latin-1") + body)
