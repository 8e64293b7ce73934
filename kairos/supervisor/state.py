"""What the supervisor holds of the state folder: its lock, what was kept to start from, and the admin socket.

Without a folder of its own a gateway serves as well as with one: what is wrong with it is said once, in a warning.

The admin socket is made under another name and takes its own when the gateway serves, over that of a gateway that is
gone or being replaced: who connects by name always reaches one that serves.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

from kairos.storage.overrides import UnreadableError, read_overrides
from kairos.storage.revisions import Revisions
from kairos.storage.state import ADMIN_SOCKET, BACKENDS, REVISIONS, State, StateError
from kairos.supervisor.sockets import ListenError, listen_unix
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    import socket

    from kairos.scoreboard import Assignment, Scoreboard

ADMIN_MODE = 0o600
ADMIN_BACKLOG = 32
LONGEST_PATH = 107
"""Bytes that the kernel takes as a unix socket's path."""

log = get_logger("supervisor")


class GatewayState:
    """The folder of this gateway, or none."""

    def __init__(self, folder: str | None, inherited: int | None = None) -> None:
        self._state = _claim(folder, inherited)
        self.folder = str(self._state.folder) if self._state else ""
        self.revisions = Revisions(self._state.folder / REVISIONS) if self._state else None
        self._socket: AdminSocket | None = None

    @property
    def lock(self) -> int | None:
        """The descriptor that a successor is to inherit."""
        return self._state.fd if self._state else None

    @property
    def admin(self) -> socket.socket | None:
        """Where operators connect; for the control process to accept from."""
        return self._socket.listener if self._socket else None

    def apply_overrides(self, scoreboard: Scoreboard, series: Assignment) -> None:
        """Before the first fork, so that no worker knows a backend without what operators said of it.

        Control is the only writer from then on; it also says what is wrong with a file that cannot be read.
        """
        with contextlib.suppress(UnreadableError):
            overrides = read_overrides(Path(self.folder) / BACKENDS) if self.folder else {}
            for key, override in overrides.items():
                if index := series.upstream(key):
                    for word, value in override.words.items():
                        scoreboard.page.set(scoreboard.shared_upstream(index) + word, value)

    def listen(self) -> None:
        """Make the admin socket, not yet under its name."""
        if self._state is None:
            return
        try:
            self._socket = AdminSocket(self._state.folder)
        except ListenError as error:
            log.warning("no admin socket: the kairos command cannot reach this gateway", reason=str(error))

    def publish(self) -> None:
        """The gateway serves: this is the one that a command is to reach."""
        if self._state is not None:
            self._state.sign()
        if self._socket is not None:
            self._socket.publish()

    def let_go(self, *, admin: bool) -> None:
        """In a child: the lock is the supervisor's, the socket (`admin`) only the control process's."""
        if self._state is not None:
            self._state.close()
        if admin and self._socket is not None:
            self._socket.listener.close()

    def close(self) -> None:
        """At the end of the gateway."""
        if self._socket is not None:
            self._socket.close()
        if self._state is not None:
            self._state.close()


def _claim(folder: str | None, inherited: int | None) -> State | None:
    if folder is None:
        return None
    try:
        return State.claim(folder, inherited)
    except StateError as error:
        log.warning("running without state: no admin socket, no kept revisions", reason=str(error))
        return None


class AdminSocket:
    """A listening unix socket that only this user may open."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / ADMIN_SOCKET
        self._new = folder / "admin.new"
        if len(os.fsencode(self._path)) > LONGEST_PATH:
            raise ListenError(f"{self._path} has more than {LONGEST_PATH} bytes; choose a shorter --state-dir")
        with contextlib.suppress(OSError):
            self._new.unlink()  # of a gateway that did not come up; the folder is ours
        try:
            self.listener = listen_unix(str(self._new), ADMIN_BACKLOG, ADMIN_MODE)
        except OSError as error:
            raise ListenError(f"cannot listen on {self._new}: {error}") from error
        self._inode = self._new.stat().st_ino

    def publish(self) -> None:
        """Take the name, whoever has it."""
        try:
            self._new.rename(self._path)
        except OSError as error:
            log.warning("the admin socket cannot take its name", path=str(self._path), error=str(error))

    def close(self) -> None:
        """The file goes too, unless it is another gateway's by now."""
        self.listener.close()
        for path in (self._new, self._path):
            with contextlib.suppress(OSError):
                if path.stat().st_ino == self._inode:
                    path.unlink()
