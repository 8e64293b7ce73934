"""The configuration file as the place the configuration is kept: read, written whole or not at all.

A new text is first put beside the file, synced (`stage`); only then is it tried out, and when it is in use it takes the
file's name (`Staged.commit`). So a file or folder that cannot be written, or a full disk, is known before anything has
changed. Owner and mode stay; a link stays a link to the file that is replaced. What a kill leaves between the two is
put right by `settle`: the text in use says itself which one it replaces.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from kairos.config.model import Config
    from kairos.config.text import ConfigText

Why = Literal["read_only", "full", "gone", "changed", "unavailable"]
STAGED = ".kairos-new"
"""Suffix of what is to take the file's name."""
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
_MOUNTS = "/proc/self/mountinfo"

log = get_logger("control")


class SourceError(Exception):
    """The place cannot be read or written; the text says why and what to do."""

    def __init__(self, why: Why, detail: str) -> None:
        super().__init__(detail)
        self.why = why


class Staged(Protocol):
    """A text that is written down and not in force."""

    def commit(self) -> None:
        """It is in force. Raises SourceError, and then it is not."""

    def discard(self) -> None:
        """It is not wanted."""


class Source(Protocol):
    """Where the configuration is kept. Calls may wait for a disk: not on the loop."""

    name: str
    """For people."""

    def read(self) -> bytes:
        """What it says now. Raises SourceError."""

    def stage(self, text: ConfigText) -> Staged:
        """Write a text down. Raises SourceError, and then nothing has changed."""


class InUse:
    """What the gateway serves with: kept up to date by who hears it from the supervisor."""

    def __init__(self, number: int, text: ConfigText, config: Config) -> None:
        self.number = number
        self.text = text
        self.config = config

    def note(self, number: int, text: ConfigText, config: Config) -> None:
        self.number, self.text, self.config = number, text, config


class FileSource:
    """The file that was given on the command line."""

    def __init__(self, path: str) -> None:
        self._path = Path(path).absolute()
        self.name = str(self._path)

    def read(self) -> bytes:
        try:
            return self._path.read_bytes()
        except OSError as error:
            raise SourceError("gone", f"{self.name} cannot be read: {error.strerror}") from None

    def stage(self, text: ConfigText) -> Staged:
        target = Path(os.path.realpath(self._path))
        try:
            status = target.stat()
            _refuse_read_only(target, status)
            return _write_beside(target, status, text)
        except OSError as error:
            raise _explained(self.name, error) from None

    def settle(self, in_use: ConfigText) -> bool:
        """Finish or forget what a control process that was killed had begun; whether the file is another one now."""
        target = Path(os.path.realpath(self._path))
        staged = target.with_name(target.name + STAGED)
        try:
            if in_use.replaces and _sha256(target) == in_use.replaces != in_use.sha256:
                self.stage(in_use).commit()
                log.info("a change of the configuration file was finished", file=self.name)
                return True
            staged.unlink(missing_ok=True)
        except (OSError, SourceError) as error:
            log.error("the configuration in use is not the file's", file=self.name, error=str(error))
        return False


class _StagedFile:
    """A file beside the one whose name it is to take."""

    def __init__(self, staged: Path, target: Path, replaces: str) -> None:
        self._staged = staged
        self._target = target
        self._replaces = replaces

    def commit(self) -> None:
        try:
            if _sha256(self._target) != self._replaces:
                raise SourceError("changed", f"{self._target} was changed by somebody else meanwhile")
            self._staged.rename(self._target)
        except OSError as error:
            raise _explained(str(self._target), error) from None
        with contextlib.suppress(OSError):  # it has its name; only a power failure could take that back
            _sync_folder(self._target.parent)

    def discard(self) -> None:
        with contextlib.suppress(OSError):
            self._staged.unlink(missing_ok=True)


def _refuse_read_only(target: Path, status: os.stat_result) -> None:
    """Root may write where nobody is meant to: a file without any write permission was made so on purpose."""
    if not status.st_mode & (stat.S_IWUSR | stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    if not os.access(target, os.W_OK):
        raise PermissionError(errno.EROFS if os.statvfs(target).f_flag & os.ST_RDONLY else errno.EACCES, "")
    if _is_mounted(target):
        raise OSError(errno.EBUSY, os.strerror(errno.EBUSY))


def _is_mounted(target: Path) -> bool:
    """Whether the file itself is a mount, as containers have it: no other file can take its name."""
    with contextlib.suppress(OSError), open(_MOUNTS, encoding="utf-8", errors="surrogateescape") as mounts:
        return any(line.split(" ")[4] == str(target) for line in mounts)
    return False


def _write_beside(target: Path, status: os.stat_result, text: ConfigText) -> _StagedFile:
    path = target.with_name(target.name + STAGED)
    path.unlink(missing_ok=True)
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    staged = _StagedFile(path, target, text.replaces)
    try:
        with open(fd, "wb") as file:
            file.write(text.data)
            file.flush()
            if (status.st_uid, status.st_gid) != (os.geteuid(), os.getegid()):
                os.fchown(fd, status.st_uid, status.st_gid)
            os.fchmod(fd, stat.S_IMODE(status.st_mode))
            os.fsync(fd)
    except OSError:
        staged.discard()
        raise
    return staged


def _sync_folder(folder: Path) -> None:
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _explained(name: str, error: OSError) -> SourceError:
    if error.errno in _FULL:
        return SourceError("full", f"there is no room to write {name}: {os.strerror(error.errno or 0)}")
    if error.errno == errno.EBUSY:
        advice = "mount the folder it is in, or keep the configuration in a database (storage.source)"
        return SourceError("read_only", f"{name} is a mount of its own and cannot be replaced: {advice}")
    if error.errno in (errno.ENOENT, errno.ENOTDIR):
        return SourceError("gone", f"{name} is gone: put it back, then reload")
    reason = os.strerror(error.errno or errno.EACCES)
    advice = "give this user the right to write the file and its folder, or change it there and reload"
    return SourceError("read_only", f"{name} cannot be written: {reason}; {advice}")
