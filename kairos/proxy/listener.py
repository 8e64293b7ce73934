"""Closing a listening socket without losing a connection it took on.

close() resets whatever waits in the accept queue. So new handshakes are refused by a filter first (the client's SYN
goes unanswered and is sent again, to whoever listens by then), then the queue is accepted until it is empty.
"""

from __future__ import annotations

import asyncio
import ctypes
import socket
import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SETTLE = 0.25
"""How long handshakes under way get to complete. Less than the second after which clients repeat a SYN: whoever was
refused finds the socket gone by then and is given to another."""
_POLL = 0.01
_SO_ATTACH_FILTER = 26  # <asm-generic/socket.h>; not in the socket module


def refuse_new(sock: socket.socket) -> None:
    """Let no new TCP handshake start on a listener; those under way complete. Holds for every owner of the socket."""
    program = ctypes.create_string_buffer(_DROP_SYN, len(_DROP_SYN))
    fprog = struct.pack("HL", len(_DROP_SYN) // _INSTRUCTION.size, ctypes.addressof(program))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)


_INSTRUCTION = struct.Struct("HBBI")
# Classic BPF over the TCP header: byte 13 holds the flags; SYN without ACK is dropped, all else passes whole.
_DROP_SYN = b"".join(
    _INSTRUCTION.pack(*instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # ldb [13]
        (0x54, 0, 0, 0x12),  # and #SYN|ACK
        (0x15, 0, 1, 0x02),  # jeq #SYN, next, next but one
        (0x06, 0, 0, 0),  # ret #0
        (0x06, 0, 0, 0xFFFFFFFF),  # ret #all
    )
)


def accept_waiting(sock: socket.socket) -> Iterator[socket.socket]:
    """Connections in the accept queue, without waiting for more."""
    while True:
        try:
            connection, _ = sock.accept()
        except (ConnectionAbortedError, InterruptedError):
            continue  # that client left while it waited; the next may be there
        except OSError:
            return  # empty, or out of descriptors and then worth another try later
        connection.setblocking(False)
        yield connection


async def drain_listener(sock: socket.socket, *, shared: bool, settle: float = SETTLE) -> AsyncIterator[socket.socket]:
    """Close a listener and yield every connection it had taken on. Stop your own accepting from it first.

    A shared socket (`WorkerBoot.shares`) goes on for its other owners: only what waits right now is taken from it.
    """
    try:
        if not shared:
            loop = asyncio.get_running_loop()
            deadline = loop.time() + settle
            refuse_new(sock)
            while loop.time() < deadline:
                for connection in accept_waiting(sock):
                    yield connection
                await asyncio.sleep(_POLL)
        for connection in accept_waiting(sock):
            yield connection
        if not shared:  # the supervisor holds the socket as well: this ends it for both, so nobody is sent there
            sock.shutdown(socket.SHUT_RDWR)
    finally:
        sock.close()
