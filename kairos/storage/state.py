"""The state folder: where it is, and the lock that gives it to one gateway.

    DIR/lock           held by the supervisor with flock; its text is the holder's pid, for people
    DIR/admin.sock     where the running gateway is managed
    DIR/revisions/     configurations that were in use, see revisions.py
    DIR/backends.json  what operators set for backends
    DIR/endings.json   sessions of logins that were ended before their time

The lock belongs to the open file, so whoever inherits the descriptor holds it as well: an upgrade hands it on without a
moment in which it is free. Children must close theirs, or they would hold the folder for a gateway that is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

ADMIN_SOCKET = "admin.sock"
REVISIONS = "revisions"
BACKENDS = "backends.json"
ENDINGS = "endings.json"
_LOCK = "lock"


class StateError(Exception):
    """The folder cannot be used; the text says why and what to do."""


def default_folder(environ: Mapping[str, str] = os.environ) -> str:
    """Where state is kept when nobody says: systemd's choice, the user's, or the system's; empty without a home."""
    if given := environ.get("STATE_DIRECTORY", "").partition(":")[0]:
        return given
    if home := environ.get("XDG_STATE_HOME"):
        return f"{home}/kairos"
    if os.geteuid() == 0:
        return "/var/lib/kairos"
    home = os.path.expanduser("~")
    return f"{home}/.local/state/kairos" if os.path.isabs(home) else ""


class State:
    """A folder that is ours until `close`."""

    def __init__(self, folder: Path, fd: int) -> None:
        self.folder = folder
        self.fd = fd
        """Holds the lock; pass it on to hand the folder over."""

    @classmethod
    def claim(cls, folder: str, inherited: int | None = None) -> State:
        """Make the folder and lock it, or go on with the lock of the gateway before us. Raises StateError."""
        if not folder:
            raise StateError("this user has no home for it; name a folder with --state-dir or KAIROS_STATE_DIR")
        try:
            path = Path(folder).absolute()
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if inherited is not None and _is_lock(inherited, path):
                return cls(path, inherited)
            fd = os.open(path / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            reason = f"the state folder {folder} cannot be used: {error.strerror}"
            raise StateError(f"{reason}; name another with --state-dir or KAIROS_STATE_DIR") from error
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(fd, 20, 0).decode("ascii", "replace").strip()
            os.close(fd)
            reason = f"the state folder {folder} is in use by {f'process {holder}' if holder else 'another gateway'}"
            raise StateError(f"{reason}; give this gateway its own with --state-dir or KAIROS_STATE_DIR") from error
        return cls(path, fd)

    def sign(self) -> None:
        """Say who holds it. A full disk has no room even for that, and nothing depends on it."""
        with contextlib.suppress(OSError):
            text = f"{os.getpid()}\n".encode()
            os.pwrite(self.fd, text, 0)  # first, so that the file is never empty for those who read it
            os.ftruncate(self.fd, len(text))

    def close(self) -> None:
        """Let go: of the folder, if nobody inherited the descriptor."""
        os.close(self.fd)


def _is_lock(fd: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(folder / _LOCK))
    except OSError:
        return False
