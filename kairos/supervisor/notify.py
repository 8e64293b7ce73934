"""The service manager's protocol (systemd): state reports on NOTIFY_SOCKET and sockets passed by LISTEN_FDS.

Without a service manager nothing is sent and nothing is inherited. The variables are taken out of the environment, so
that no child believes they were meant for it.

In a binary upgrade one process speaks at a time, so that `NotifyAccess=main` is enough: the old supervisor until it
names the new one as the main process, from then on the new one, which is silent before.
"""

from __future__ import annotations

import contextlib
import os
import socket
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import MutableMapping

_FIRST_FD = 3


class Notifier:
    """Tells the service manager what the gateway is doing, and that it lives."""

    def __init__(self, environ: MutableMapping[str, str], *, silent: bool = False) -> None:
        self.silent = silent
        """Whether another process is the main one still."""
        self._address = environ.pop("NOTIFY_SOCKET", "")
        self._socket = _connect(self._address)
        self._watchdog = _watchdog_interval(environ) if self._socket else None
        self._next_beat = 0.0

    def ready(self, status: str) -> None:
        """Boot or reload is over."""
        self._send("READY=1", f"STATUS={status}", f"MAINPID={os.getpid()}")

    def reloading(self) -> None:
        """Until the next `ready`; the stamp lets the manager tell this reload from an earlier one."""
        self._send("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reloading")

    def stopping(self, status: str) -> None:
        """The end has begun."""
        self._send("STOPPING=1", f"STATUS={status}")

    def beat(self, now: float) -> None:
        """Feed the watchdog if it is time."""
        if self._watchdog is not None and now >= self.next_beat():
            self._next_beat = now + self._watchdog
            self._send("WATCHDOG=1")

    def next_beat(self) -> float:
        """When `beat` wants to be called; infinite without a watchdog."""
        return self._next_beat if self._watchdog is not None and not self.silent else float("inf")

    def for_successor(self) -> dict[str, str]:
        """The variables by which a new gateway finds the manager."""
        if self._socket is None:
            return {}
        usec = {} if self._watchdog is None else {"WATCHDOG_USEC": str(round(self._watchdog * 2e6))}
        return {"NOTIFY_SOCKET": self._address, **usec}

    def hand_over(self, pid: int) -> None:
        """The new gateway is the main process, and has the word from here on."""
        self._send(f"MAINPID={pid}")
        self.close()

    def close(self) -> None:
        """Nothing more to report: in a forked child, and at the end."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        self._watchdog = None

    def _send(self, *assignments: str) -> None:
        if self._socket is not None and not self.silent:
            with contextlib.suppress(OSError):  # a manager that does not listen must not stop the gateway
                self._socket.send("\n".join(assignments).encode())


def _connect(address: str) -> socket.socket | None:
    if not address.startswith(("/", "@")):
        return None
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.setblocking(False)
    try:
        sock.connect("\0" + address[1:] if address[0] == "@" else address)
    except OSError:
        sock.close()
        return None
    return sock


def _watchdog_interval(environ: MutableMapping[str, str]) -> float | None:
    """Half of what the manager allows, in seconds, if it watches this very process."""
    usec, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
    if not usec.isdigit() or int(usec) == 0 or (pid and pid != str(os.getpid())):
        return None
    return int(usec) / 2e6


def inherited_sockets(environ: MutableMapping[str, str], first_fd: int = _FIRST_FD) -> list[socket.socket]:
    """Listening stream sockets passed to this process (sd_listen_fds); others passed along are left alone."""
    pid, count = environ.pop("LISTEN_PID", ""), environ.pop("LISTEN_FDS", "")
    environ.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()) or not count.isdigit():
        return []
    found = []
    for fd in range(first_fd, first_fd + int(count)):
        try:
            sock = socket.socket(fileno=fd)
        except OSError:
            continue  # a file, a pipe
        sock.set_inheritable(False)
        if sock.type == socket.SOCK_STREAM and sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
            sock.setblocking(False)
            found.append(sock)
        else:
            sock.detach()
    return found
