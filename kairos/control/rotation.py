"""Rotation of log files, and what becomes of old ones.

A rotation is one rename: who appends to the file finds out by its name and goes on in a new one, so no line is lost
and none is written twice. Rules:
- one process of a gateway rotates a file, and while another gateway takes over or has done so, not this one;
- only old files of the very name are touched: `<name>.<time of their end>` with or without `.gz`;
- a file is compressed when nobody appends to it any more, under another name first: a kill or a full disk costs only
  the compression. What cannot be done is said once, and tried again a minute later.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import re
import stat
import threading
import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from msgspec import Struct

from kairos.telemetry.log import LOOK_S, get_logger, open_log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kairos.config.log import LogFile

GZ = ".gz"
NEW = ".new"
SETTLE_S = 5 * LOOK_S
"""After so long, whoever appends to a file has seen that it was rotated."""
TIDY_S = 60.0
CHUNK = 1 << 18
_STAMP = re.compile(r"\.(\d{8}T\d{6}\.\d{3}Z)(\.gz)?")

log = get_logger("control")


class Rotation:
    """Of one file: when, and under which name what is full goes on living."""

    def __init__(self, path: str, spec: LogFile, now: float) -> None:
        self.path = path
        self.spec = spec
        self._period = self._period_of(self._written_at(now))

    def due(self, size: int, now: float) -> bool:
        """Whether the file, of so many bytes, is to be followed by another one before the next line."""
        if size == 0:
            self._period = self._period_of(now)
            return False
        full = self.spec.max_bytes is not None and size >= self.spec.max_bytes
        return full or self._period_of(now) != self._period

    def rotate(self, now: float) -> None:
        """Give the file its old name. Raises OSError."""
        os.rename(self.path, _free_name(self.path, now))
        self._period = self._period_of(now)

    def _period_of(self, now: float) -> int:
        return int(now // self.spec.rotate_every) if self.spec.rotate_every is not None else 0

    def _written_at(self, now: float) -> float:
        """When the last line came to the file, which may be long before this process began."""
        try:
            return os.stat(self.path).st_mtime
        except OSError:
            return now


def _free_name(path: str, now: float) -> str:
    while os.path.exists(name := f"{path}.{stamp(now)}") or os.path.exists(name + GZ):
        now += 0.001
    return name


def stamp(now: float) -> str:
    """`20261127T020000.000Z`."""
    moment = datetime.fromtimestamp(now, UTC)
    return f"{moment:%Y%m%dT%H%M%S}.{moment.microsecond // 1000:03}Z"


def is_regular(file: int) -> bool:
    """Whether a descriptor is that of a file, and not of a pipe or device, which nobody rotates."""
    return stat.S_ISREG(os.fstat(file).st_mode)


# --- old files ------------------------------------------------------------------------------------------------------


class Old(Struct, frozen=True):
    """A file that was rotated."""

    path: str
    ended_at: float
    compressed: bool


def old_files(path: str) -> list[Old]:
    """Those of a log file, the newest first. Raises OSError."""
    folder, name = os.path.split(path)
    found = []
    for entry in os.listdir(folder or "."):
        match = _STAMP.fullmatch(entry, len(name)) if entry.startswith(name) else None
        if match is not None:
            ended_at = datetime.strptime(match[1], "%Y%m%dT%H%M%S.%fZ").replace(tzinfo=UTC).timestamp()
            found.append(Old(os.path.join(folder, entry), ended_at, compressed=match[2] is not None))
    return sorted(found, key=lambda old: old.ended_at, reverse=True)


def surplus(files: list[Old], spec: LogFile, now: float) -> Iterator[Old]:
    """Which of them, the newest first, are not to be kept; one that is there twice counts once."""
    moments: list[float] = []
    for old in files:
        if old.ended_at not in moments:
            moments.append(old.ended_at)
        too_many = spec.max_files is not None and len(moments) > spec.max_files
        if too_many or (spec.max_age is not None and now - old.ended_at > spec.max_age):
            yield old


def compress(path: str, stopped: Callable[[], bool] = lambda: False) -> None:
    """Replace a file by its compressed self, unless told to stop meanwhile. Raises OSError."""
    new = path + GZ + NEW
    try:
        with open(path, "rb") as source, open(new, "wb") as made:
            before = os.fstat(source.fileno())
            os.fchmod(made.fileno(), stat.S_IMODE(before.st_mode))
            with gzip.GzipFile("", "wb", 6, made, before.st_mtime) as packed:
                while data := source.read(CHUNK):
                    if stopped():
                        raise InterruptedError
                    packed.write(data)
            made.flush()
            os.fsync(made.fileno())
        os.utime(new, ns=(before.st_atime_ns, before.st_mtime_ns))
        os.rename(new, path + GZ)
        os.unlink(path)
    except InterruptedError:
        _remove(new)
    except OSError:
        _remove(new)
        raise


def _remove(path: str) -> None:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


# --- at work --------------------------------------------------------------------------------------------------------


class Housekeeper:
    """Rotates the program's log, and looks after the old files of both logs: a thread, for disks may be slow."""

    def __init__(self) -> None:
        self._said: Rotation | None = None
        self._kept: dict[str, LogFile] = {}
        self._failing: set[str] = set()
        self._retry_at = 0.0
        self._tidy_at = 0.0
        self._allowed = False
        self._stopping = False
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="logfiles", daemon=True)

    def apply(self, program: tuple[str, LogFile], access: tuple[str, LogFile]) -> None:
        """These are the logs from here on; `-` is no file."""
        self._kept = {path: spec for path, spec in (program, access) if path != "-" and spec.rotates}
        path, spec = program
        if path not in self._kept:
            self._said = None
        elif self._said is None or (self._said.path, self._said.spec) != (path, spec):
            self._said = Rotation(path, spec, time.time())
        self.look()

    def allow(self, *, allowed: bool) -> None:
        """Whether this process may rotate and tidy: not beside another gateway that does."""
        self._allowed = allowed
        self.look()

    def look(self) -> None:
        """There may be something to do."""
        self._tidy_at = 0.0
        if self._kept and self._allowed and not self._thread.is_alive() and not self._stopping:
            self._thread.start()
        self._wake.set()

    def stop(self, timeout: float) -> None:
        """End; what is being compressed is left as it was."""
        self._stopping = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)  # compressing is to take from nobody
        while not self._stopping:
            if self._allowed:
                self._rotate(time.time())
                self._tidy(time.time())
            self._wake.wait(LOOK_S)
            self._wake.clear()

    def _rotate(self, now: float) -> None:
        rotation = self._said
        if rotation is None or now < self._retry_at:
            return
        try:
            found = os.stat(rotation.path)
            if stat.S_ISREG(found.st_mode) and rotation.due(found.st_size, now):
                rotation.rotate(now)
                os.close(open_log(rotation.path))  # processes make it with their next line, which may be hours away
                self._tidy_at = now + SETTLE_S
        except FileNotFoundError:
            return
        except OSError as error:
            self._retry_at = now + TIDY_S
            self._fail(rotation.path, "cannot rotate a log file", error)

    def _tidy(self, now: float) -> None:
        if now < self._tidy_at:
            return
        self._tidy_at = now + TIDY_S
        for path, spec in self._kept.items():
            try:
                waiting = tidy(path, spec, now, lambda: self._stopping)
            except OSError as error:
                self._fail(path, "cannot tidy up old log files", error)
                continue
            self._failing.discard(path)
            if waiting:
                self._tidy_at = now + SETTLE_S

    def _fail(self, path: str, what: str, error: OSError) -> None:
        if path not in self._failing:
            self._failing.add(path)
            log.error(what, file=path, error=str(error))


def tidy(path: str, spec: LogFile, now: float, stopped: Callable[[], bool] = lambda: False) -> bool:
    """Remove old files that are not to be kept and compress others; whether one is too fresh for that. OSError."""
    files = old_files(path)
    going = list(surplus(files, spec, now))
    for old in going:
        _remove(old.path)
        _remove(old.path + GZ + NEW)  # of a compression that was killed
    if not spec.compress:
        return False
    plain = [old for old in files if not old.compressed and old not in going]
    for old in plain:
        if now - old.ended_at >= SETTLE_S and not stopped():
            compress(old.path, stopped)
    return any(now - old.ended_at < SETTLE_S for old in plain)
