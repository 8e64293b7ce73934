"""Opening upstream connections: name to addresses, addresses in turn, TLS.

Not on the hot path: connections are pooled. Every failure leaves as a DialError naming its row of the error table.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kairos.proxy.upstream.connection import Origin, UpstreamConnection
    from kairos.resolver import Resolver

HANDSHAKE_GRACE_S = 1.0
"""A handshake's own limit comes so much after that of the dial."""

_resolver: Resolver | None = None


class DialError(Exception):
    """No connection could be made; `kind` is a row of errors.KINDS."""

    def __init__(self, kind: str, reason: str) -> None:
        super().__init__(reason)
        self.kind = kind


class _UnreachableError(DialError):
    """One address refused; another may not."""


def use_resolver(resolver: Resolver) -> None:
    """Set the process's resolver (worker start-up)."""
    global _resolver
    _resolver = resolver


async def dial(origin: Origin, timeout_s: float, preamble: bytes = b"") -> UpstreamConnection:
    """A connection to the origin, TLS included, within `timeout_s` seconds over all its addresses.

    `preamble` is sent before anything else.

    Raises:
        DialError: it could not be resolved, refused, failed its handshake or took too long.
    """
    try:
        async with asyncio.timeout(timeout_s) as limit:
            return await _dial(origin, limit, timeout_s + HANDSHAKE_GRACE_S, preamble)
    except TimeoutError as error:
        raise DialError("connect_timeout", f"no connection within {timeout_s} s") from error


async def _dial(origin: Origin, limit: asyncio.Timeout, handshake_s: float, preamble: bytes) -> UpstreamConnection:
    if origin.address.unix is not None:
        return await _open(origin, handshake_s, preamble, path=origin.address.unix)
    assert _resolver is not None
    addresses = await _resolver.resolve(origin.address.host)
    if not addresses:
        raise DialError("resolve_failed", f"{origin.address.host} has no address")
    for left in range(len(addresses), 1, -1):
        with contextlib.suppress(TimeoutError, _UnreachableError):
            async with asyncio.timeout(_share(limit, left)):
                return await _open(origin, handshake_s, preamble, host=addresses[-left], port=origin.address.port)
    return await _open(origin, handshake_s, preamble, host=addresses[-1], port=origin.address.port)


def _share(limit: asyncio.Timeout, left: int) -> float:
    """Seconds for one of the addresses left: one that is silent must not use up the others' time."""
    end = limit.when()
    assert end is not None
    return (end - asyncio.get_running_loop().time()) / left


async def _open(origin: Origin, handshake_s: float, preamble: bytes, **where: Any) -> UpstreamConnection:
    try:
        if origin.tls is not None:
            return await _shake_hands(origin, await _connected(preamble, **where), handshake_s)
        if preamble:
            return await _plain(origin.protocol(), sock=await _connected(preamble, **where))
        return await _plain(origin.protocol(), **where)
    except ssl.SSLError as error:
        raise DialError("tls_failed", str(error)) from error
    except OSError as error:
        raise _UnreachableError("connect_failed", str(error)) from error


async def _plain(connection: UpstreamConnection, **where: Any) -> UpstreamConnection:
    """Attached to a transport, or not: one that came together with the cancellation is dropped by loops in silence."""
    loop = asyncio.get_running_loop()
    try:
        if "path" in where:
            await loop.create_unix_connection(lambda: connection, **where)
        else:
            await loop.create_connection(lambda: connection, **where)
    except BaseException:
        connection.connection_lost(None)
        if "sock" in where:
            where["sock"].close()
        raise
    return connection


async def _connected(preamble: bytes, host: str = "", port: int = 0, path: str | None = None) -> socket.socket:
    family = socket.AF_UNIX if path is not None else socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family)
    try:
        sock.setblocking(False)
        if path is None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await asyncio.get_running_loop().sock_connect(sock, (host, port) if path is None else path)
        if preamble:
            await asyncio.get_running_loop().sock_sendall(sock, preamble)
    except BaseException:
        sock.close()
        raise
    return sock


async def _shake_hands(origin: Origin, sock: socket.socket, limit_s: float) -> UpstreamConnection:
    """A TLS handshake runs to its end or its own limit, also when nobody waits for it any more.

    uvloop never frees one that is cancelled (20 KB each).
    """
    handshake = asyncio.create_task(_handshake(origin, sock, limit_s))
    try:
        return await asyncio.shield(handshake)
    except asyncio.CancelledError:
        handshake.add_done_callback(_unwanted)
        raise


async def _handshake(origin: Origin, sock: socket.socket, limit_s: float) -> UpstreamConnection:
    try:
        _, connection = await asyncio.get_running_loop().create_connection(
            origin.protocol,
            sock=sock,
            ssl=origin.tls,
            server_hostname=origin.server_name,
            ssl_handshake_timeout=limit_s,
        )
    except BaseException:
        sock.close()
        raise
    return connection


def _unwanted(handshake: asyncio.Task[UpstreamConnection]) -> None:
    """Keep the connection for another request, where there is one."""
    if handshake.exception() is None:
        handshake.result().spare()
