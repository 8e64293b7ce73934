"""Opening upstream connections: name to addresses, addresses in turn, TLS.

Not on the hot path: connections are pooled. Every failure leaves as a DialError naming its row of the error table.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kairos.proxy.upstream.connection import Origin, UpstreamConnection
    from kairos.resolver import Resolver

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


async def dial(origin: Origin, timeout_s: float) -> UpstreamConnection:
    """A connection to the origin, TLS included, within `timeout_s` seconds over all its addresses.

    Raises:
        DialError: it could not be resolved, refused, failed its handshake or took too long.
    """
    try:
        async with asyncio.timeout(timeout_s) as limit:
            return await _dial(origin, limit)
    except TimeoutError as error:
        raise DialError("connect_timeout", f"no connection within {timeout_s} s") from error


async def _dial(origin: Origin, limit: asyncio.Timeout) -> UpstreamConnection:
    if origin.address.unix is not None:
        return await _open(origin, path=origin.address.unix)
    assert _resolver is not None
    addresses = await _resolver.resolve(origin.address.host)
    if not addresses:
        raise DialError("resolve_failed", f"{origin.address.host} has no address")
    for left in range(len(addresses), 1, -1):
        with contextlib.suppress(TimeoutError, _UnreachableError):
            async with asyncio.timeout(_share(limit, left)):
                return await _open(origin, host=addresses[-left], port=origin.address.port)
    return await _open(origin, host=addresses[-1], port=origin.address.port)


def _share(limit: asyncio.Timeout, left: int) -> float:
    """Seconds for one of the addresses left: one that is silent must not use up the others' time."""
    end = limit.when()
    assert end is not None
    return (end - asyncio.get_running_loop().time()) / left


async def _open(origin: Origin, **where: Any) -> UpstreamConnection:
    loop = asyncio.get_running_loop()
    if origin.tls is not None:
        where.update(ssl=origin.tls, server_hostname=origin.server_name)
    try:
        if "path" in where:
            _, connection = await loop.create_unix_connection(origin.protocol, **where)
        else:
            _, connection = await loop.create_connection(origin.protocol, **where)
    except ssl.SSLError as error:
        raise DialError("tls_failed", str(error)) from error
    except OSError as error:
        raise _UnreachableError("connect_failed", str(error)) from error
    return connection
