"""Connections of the control process to servers elsewhere: probes, key sets, OpenID providers."""

from __future__ import annotations

import asyncio
import socket


async def connected(address: str, port: int) -> socket.socket:
    """A TCP socket connected to an IP address, for a transport to take over.

    Raises:
        OSError: it refuses, cannot be reached, or there is no descriptor left.
    """
    sock = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
    try:
        sock.setblocking(False)
        await asyncio.get_running_loop().sock_connect(sock, (address, port))
    except BaseException:
        sock.close()
        raise
    return sock
