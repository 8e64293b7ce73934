"""A request of the control process to a server elsewhere: a provider's keys and documents, a token endpoint.

One connection a request: they are rare. An answer has a size and a time it must keep to; redirects are not followed,
for a secret may be in the request.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

import httptools

from kairos import __version__
from kairos.control.sockets import connected

if TYPE_CHECKING:
    import socket
    from collections.abc import Mapping

    from kairos.resolver import Resolver

TIMEOUT = 10.0
"""Seconds for all of it."""
HANDSHAKE = 5.0
"""Seconds for TLS: a limit of its own, for uvloop never frees a handshake that is cancelled."""
MAX_ANSWER = 1024 * 1024
_READ = 64 * 1024
_PORTS = {"http": 80, "https": 443}


class NoAnswerError(Exception):
    """There is no answer; the text says why, without what was asked."""


class Answer(NamedTuple):
    """What the server said."""

    status: int
    headers: dict[str, str]
    """Lower-case names; of several fields of a name the last one."""
    body: bytes


class Asking(NamedTuple):
    """What is asked."""

    url: str
    method: str = "GET"
    headers: Mapping[str, str] = {}
    body: bytes = b""


async def ask(
    asking: Asking, resolver: Resolver, context: ssl.SSLContext | None = None, patience: float = TIMEOUT
) -> Answer:
    """The server's answer, whatever its status. `context` is for https, by default one that trusts the system's store.

    Raises:
        NoAnswerError: no connection, no TLS, no HTTP, too late or too large.
    """
    try:
        async with asyncio.timeout(patience):
            return await _exchange(asking, resolver, context)
    except TimeoutError:
        raise NoAnswerError(f"no answer within {patience:g} s") from None
    except OSError as error:
        raise NoAnswerError(_reason(error)) from error


def _reason(error: OSError) -> str:
    if isinstance(error, ssl.SSLCertVerificationError):
        return f"certificate not accepted: {error.verify_message}"
    if isinstance(error, ConnectionRefusedError):
        return "connection refused"
    return error.strerror or str(error)


async def _exchange(asking: Asking, resolver: Resolver, context: ssl.SSLContext | None) -> Answer:
    parts = urlsplit(asking.url)
    host, port = parts.hostname or "", parts.port or _PORTS.get(parts.scheme, 0)
    if not host or not port:
        raise NoAnswerError("not an http address")
    secure = parts.scheme == "https"
    sock = await _dial(host, port, resolver)
    if secure and context is None:
        context = ssl.create_default_context()
    reader, writer = await asyncio.open_connection(
        sock=sock,
        ssl=context if secure else None,
        server_hostname=host if secure else None,
        ssl_handshake_timeout=HANDSHAKE if secure else None,
    )
    try:
        path = (parts.path or "/") + ("?" + parts.query if parts.query else "")
        writer.write(_request(asking, path, parts.netloc.rpartition("@")[2]))
        return await _answer(reader)
    finally:
        writer.transport.abort()


async def _dial(host: str, port: int, resolver: Resolver) -> socket.socket:
    addresses = await resolver.resolve(host)
    if not addresses:
        raise NoAnswerError(f"{host} has no address")
    for address in addresses[:-1]:
        with contextlib.suppress(OSError):
            return await connected(address, port)
    return await connected(addresses[-1], port)


def _request(asking: Asking, path: str, authority: str) -> bytes:
    fields = {"Host": authority, "User-Agent": f"kairos/{__version__}", "Accept": "application/json"}
    fields |= asking.headers
    if asking.body or asking.method != "GET":
        fields["Content-Length"] = str(len(asking.body))
    fields["Connection"] = "close"
    lines = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    return f"{asking.method} {path} HTTP/1.1\r\n{lines}\r\n".encode() + asking.body


class _Reading:
    """What httptools tells of the answer."""

    def __init__(self) -> None:
        self.parser = httptools.HttpResponseParser(self)
        self.headers: dict[str, str] = {}
        self.body = bytearray()
        self.whole = False

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_body(self, data: bytes) -> None:
        self.body += data

    def on_message_complete(self) -> None:
        self.whole = self.parser.get_status_code() >= 200

    @property
    def until_close(self) -> bool:
        return "content-length" not in self.headers and "transfer-encoding" not in self.headers


async def _answer(reader: asyncio.StreamReader) -> Answer:
    reading, size = _Reading(), 0
    while not reading.whole:
        data = await reader.read(_READ)
        size += len(data)
        if size > MAX_ANSWER:
            raise NoAnswerError(f"the answer is larger than {MAX_ANSWER} bytes")
        if not data:
            if size and reading.until_close:
                break
            raise NoAnswerError("the connection was closed before the whole answer came")
        try:
            reading.parser.feed_data(data)
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):
            raise NoAnswerError("that is no HTTP answer") from None
    return Answer(reading.parser.get_status_code(), reading.headers, bytes(reading.body))
