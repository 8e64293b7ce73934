"""One health probe of one backend: connect, ask, judge the answer.

Nothing a backend does costs more than the check's timeout and MAX_ANSWER bytes. Its head decides; its body is read as
far as that, so that a server sees its answer taken. What is our own lack (no descriptors left, a certificate
file that is gone), or the name servers', says nothing about it: workers may know addresses that we do not.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import ssl
import string
import time
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote

import httptools
from msgspec import Struct

from kairos import __version__
from kairos.config.tls import client_context
from kairos.control.sockets import connected
from kairos.resolver import Resolver

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from kairos.config.model import HealthCheck
    from kairos.config.origin import Origin
    from kairos.config.tls import TlsKey

MAX_ANSWER = 64 * 1024
"""Bytes read of an answer, head included."""
_READ = 16 * 1024
_LATE = 0.5
"""Seconds by which a timeout that comes later than it should is ours: the process was stopped, the machine asleep."""
_BACKSTOP = 1.0
"""Seconds that a handshake's own limit is given."""
_OUR_FAULT = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL})
_FRAMING = frozenset({b"content-length", b"transfer-encoding"})

Streams: TypeAlias = "tuple[asyncio.StreamReader, asyncio.StreamWriter]"


class Check(Struct, frozen=True):
    """What is asked of a backend. Equal checks are the same check: a reload leaves it alone."""

    origin: Origin
    spec: HealthCheck
    path: str
    tls: TlsKey | None
    """None for a backend without TLS. A renewed certificate makes another check."""


class Outcome(Struct, frozen=True):
    """What a probe taught."""

    good: bool | None
    """None: nothing about the backend."""
    reason: str
    """Why it is not good."""
    seconds: float


class ProbeError(Exception):
    """The backend failed the probe; the text says how."""


class CannotProbeError(Exception):
    """Nothing was learned about the backend; the text says why."""


class Prober:
    """Probes, so many at once. Inside the event loop."""

    def __init__(self, at_once: int, resolver: Resolver | None = None) -> None:
        self._resolver = resolver or Resolver()
        self._room = asyncio.Semaphore(at_once)
        self._contexts: dict[TlsKey, ssl.SSLContext] = {}

    async def close(self) -> None:
        """No probe is to be under way."""
        await self._resolver.close()

    def keep(self, checks: Iterable[Check]) -> None:
        """Forget what none of these checks needs."""
        used = {check.tls for check in checks}
        self._contexts = {key: context for key, context in self._contexts.items() if key in used}

    async def probe(self, check: Check) -> Outcome:
        """Ask once."""
        seconds = 0.0
        try:
            addresses = await self._addresses(check.origin)
            async with self._room:
                began = time.monotonic()
                try:
                    await _probe(check, addresses, self._context(check))
                finally:
                    seconds = round(time.monotonic() - began, 6)
        except ProbeError as error:
            return Outcome(False, str(error), seconds)
        except CannotProbeError as error:
            return Outcome(None, str(error), seconds)
        return Outcome(True, "", seconds)

    async def _addresses(self, origin: Origin) -> list[str]:
        """Before the probe's time runs: a slow name server is not the backend's doing, and holds up no other probe."""
        if origin.unix is not None:
            return []
        addresses = await self._resolver.resolve(origin.host)
        if not addresses:
            raise CannotProbeError(f"{origin.host} has no address")
        return addresses

    def _context(self, check: Check) -> ssl.SSLContext | None:
        """One for all backends of the same settings: reading the system's certificates takes a while."""
        key = check.tls
        if key is None or check.spec.type != "http":
            return None
        if key not in self._contexts:
            try:
                self._contexts[key] = client_context(key[0])
            except OSError as error:
                raise CannotProbeError(f"TLS settings: {error}") from error
        return self._contexts[key]


async def _probe(check: Check, addresses: list[str], context: ssl.SSLContext | None) -> None:
    missing = "connection"
    try:
        async with asyncio.timeout(check.spec.timeout) as limit:
            reader, writer = await _connect(check, addresses, context, limit)
            missing = "whole answer"
            try:
                if check.spec.type == "http":
                    await _ask(check, reader, writer)
            finally:
                writer.transport.abort()
    except TimeoutError as error:
        raise _timeout(check, missing, limit) from error
    except OSError as error:
        raise _failure(error) from error


async def _connect(
    check: Check, addresses: list[str], context: ssl.SSLContext | None, limit: asyncio.Timeout
) -> Streams:
    origin = check.origin
    if origin.unix is not None:
        return await asyncio.open_unix_connection(origin.unix)
    sock = await _dial(addresses, origin.port, limit)
    if context is None or check.tls is None:
        return await asyncio.open_connection(sock=sock)
    return await _shake_hands(sock, context, check.tls[0].server_name or origin.host, limit)


async def _dial(addresses: list[str], port: int, limit: asyncio.Timeout) -> socket.socket:
    """To the first address that accepts, as requests do; a silent one leaves the others their share of the time."""
    for at, address in enumerate(addresses[:-1]):
        with contextlib.suppress(OSError):
            async with asyncio.timeout(_left(limit) / (len(addresses) - at)):
                return await connected(address, port)
    return await connected(addresses[-1], port)


async def _shake_hands(sock: socket.socket, context: ssl.SSLContext, name: str, limit: asyncio.Timeout) -> Streams:
    """uvloop never frees a handshake that is cancelled (20 KB each), so the handshake's own limit comes before ours."""
    left, end = _left(limit), limit.when()
    limit.reschedule(end + _BACKSTOP if end is not None else None)
    try:
        streams = await asyncio.open_connection(
            sock=sock, ssl=context, server_hostname=name, ssl_handshake_timeout=max(left, 0.001)
        )
    except ConnectionAbortedError as error:
        if "handshake is taking longer" in str(error):
            raise TimeoutError from error
        raise
    limit.reschedule(end)
    return streams


def _left(limit: asyncio.Timeout) -> float:
    """Seconds until it is over."""
    end = limit.when()
    assert end is not None
    return end - asyncio.get_running_loop().time()


def _timeout(check: Check, missing: str, limit: asyncio.Timeout) -> ProbeError | CannotProbeError:
    if -_left(limit) > _LATE:
        return CannotProbeError("this process was held up")
    return ProbeError(f"timeout: no {missing} within {check.spec.timeout:g} s")


def _failure(error: OSError) -> ProbeError | CannotProbeError:
    if isinstance(error, ssl.SSLCertVerificationError):
        return ProbeError(f"TLS: certificate not accepted: {error.verify_message}")
    if isinstance(error, ssl.SSLError):
        return ProbeError(f"TLS: {error.reason or error}")
    if isinstance(error, ConnectionRefusedError):
        return ProbeError("refused")
    text = error.strerror or str(error)
    return CannotProbeError(text) if error.errno in _OUR_FAULT else ProbeError(text)


# --- HTTP -----------------------------------------------------------------------------------------------------------


class _Answer:
    """What httptools tells of the response; one to HEAD ends with its head."""

    def __init__(self, *, head_only: bool) -> None:
        self._head_only = head_only
        self.parser = httptools.HttpResponseParser(self)
        self.status = 0
        """Of the final head, once that is complete."""
        self.framed = False
        """The body's end does not depend on the connection's."""
        self.whole = False

    def on_message_begin(self) -> None:
        self.framed = False

    def on_header(self, name: bytes, _value: bytes) -> None:
        self.framed |= name.lower() in _FRAMING

    def on_headers_complete(self) -> None:
        status = self.parser.get_status_code()
        if status >= 200 or status == 101:
            self.status = status
            self.whole = self._head_only

    def on_message_complete(self) -> None:
        self.whole = self.status != 0


async def _ask(check: Check, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    writer.write(_request(check))
    answer, size = _Answer(head_only=check.spec.method == "HEAD"), 0
    while not answer.whole and size < MAX_ANSWER:
        data = await reader.read(_READ)
        if not data:
            return _judge_end(answer, size)
        size += len(data)
        _parse(answer, data)
        if answer.status and not _expected(answer.status, check.spec):
            raise ProbeError(f"status {answer.status}")
    if not answer.status:
        raise ProbeError(f"response head beyond {MAX_ANSWER} bytes")


def _request(check: Check) -> bytes:
    host = check.spec.host.encode() if check.spec.host else check.origin.authority
    path = quote(check.path, safe=string.punctuation)
    head = f"User-Agent: kairos-health/{__version__}\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    method = check.spec.method.encode()
    return b"%s %s HTTP/1.1\r\nHost: %s\r\n%s" % (method, path.encode(), host, head.encode())


def _parse(answer: _Answer, data: bytes) -> None:
    try:
        answer.parser.feed_data(data)
    except httptools.HttpParserUpgrade:
        answer.whole = True
    except httptools.HttpParserError as error:
        raise ProbeError(f"no HTTP response: {error}") from error


def _judge_end(answer: _Answer, size: int) -> None:
    """The backend closed the connection."""
    if size == 0:
        raise ProbeError("closed without an answer")
    if not answer.status or answer.framed:
        raise ProbeError("the answer broke off")


def _expected(status: int, spec: HealthCheck) -> bool:
    return status in spec.expected_status or f"{status // 100}xx" in spec.expected_status
