"""Writes the access log: empties the workers' rings into one file or standard output.

A thread of its own, for the file may be a pipe nobody reads: then the rings fill and the workers count what they drop,
but neither they nor the control process's loop wait. Rules:
- a line is written whole; after a short write the rest follows before anything else;
- a batch that cannot be written (disk full, pipe closed, no such directory) is kept and tried again, said once;
- a file is rotated between two lines; where that cannot be done it grows on, and it is tried again a minute later;
- what is left when the process ends is counted in H_LOG_UNWRITTEN.
"""

from __future__ import annotations

import os
import threading
import time
from typing import TYPE_CHECKING

from kairos._speedups import cells
from kairos.control.rotation import TIDY_S, Rotation, is_regular
from kairos.telemetry.accesslog import LogReader
from kairos.telemetry.log import LOOK_S, get_logger, identity, identity_of
from kairos.telemetry.log import open_log as open_file

if TYPE_CHECKING:
    from collections.abc import Callable

    from kairos.config.log import LogFile
    from kairos.control.tail import Tail
    from kairos.scoreboard import Scoreboard

STDOUT = "-"
BUSY, CALM, IDLE = 0.01, 0.05, 0.1  # seconds between two passes
RETRY = 0.5  # seconds before a failed write is tried again

log = get_logger("accesslog")


def open_log(path: str) -> int:
    """Descriptor to append to; OSError if that cannot be."""
    return os.dup(1) if path == STDOUT else open_file(path)


class LogWriter:
    """start(), then switch() and reopen() at any time, then stop()."""

    def __init__(self, scoreboard: Scoreboard, path: str, spec: LogFile, tail: Tail | None = None) -> None:
        self._page = scoreboard.page
        self._reader = LogReader(scoreboard)
        self._tail = tail
        self._unseen = [0] * len(self._reader)
        """Lines for watchers that had no room in a worker's ring, as far as that was told."""
        self._wanted = (path, spec)
        self._path = path
        self._rotation: Rotation | None = None
        self._rotate_from = 0.0
        self.may_rotate = True
        """False while another gateway does that."""
        self.on_rotated: Callable[[], None] = lambda: None
        self._look_at = 0.0
        self._file: int | None = None
        self._batch = memoryview(b"")  # taken from the rings
        self._done = 0  # how much of it is written
        self._stale = threading.Event()  # the file is to be opened again
        self._wake = threading.Event()
        self._stopping = False
        self._failing = False
        self._thread = threading.Thread(target=self._run, name="accesslog", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def reopen(self) -> None:
        """The file was renamed by a log rotation: go on in a new one of its name."""
        self._stale.set()
        self._wake.set()

    def switch(self, path: str, spec: LogFile) -> None:
        """Go on in another file, or rotate it in another way."""
        if (path, spec) != self._wanted:
            self._wanted = (path, spec)
            self.reopen()

    def stop(self, timeout: float) -> None:
        """Write what the rings hold and end; what takes longer than the timeout is given up and counted."""
        self._stopping = True
        self._wake.set()
        self._thread.join(timeout)
        self._page.add(cells.H_LOG_UNWRITTEN, self._left())

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(self._pass())
            self._wake.clear()
        self._pass()

    def _pass(self) -> float:
        """Write out every ring once; how long to wait before the next time."""
        taken = 0
        if self._tail is not None:
            self._show(self._tail)
        try:
            self._write()
            for slot in range(len(self._reader)):
                self._batch, self._done = self._take(slot), 0
                taken = max(taken, len(self._batch))
                self._write()
        except OSError as error:
            self._fail(error)
            return RETRY
        self._recover()
        if taken == 0:
            return IDLE
        return BUSY if taken > cells.LOG_BYTES // 4 else CALM

    def _take(self, slot: int) -> memoryview:
        try:
            lines = self._reader.drain(slot)
        except RuntimeError as error:
            log.error("access-log lines are lost", error=str(error))
            return memoryview(b"")
        if self._tail is not None and self._tail.complete:
            self._tail.requests.add(lines)
        return memoryview(lines)

    def _show(self, tail: Tail) -> None:
        """What is said in the program's log, and requests that workers tell of for watchers only, whatever the disk."""
        try:
            for slot in range(-1, len(self._reader)):
                tail.program.add(self._reader.drain_said(slot))
            for slot in range(len(self._reader)) if tail.asks_workers else ():
                lines, unseen = self._reader.drain_tail(slot)
                tail.requests.add(lines)
                if lost := unseen - self._unseen[slot]:
                    self._unseen[slot] = unseen
                    tail.requests.lose(lost)
        except RuntimeError as error:
            log.error("lines for watchers are lost", error=str(error))

    def _write(self) -> None:
        if self._stale.is_set():
            self._close()
        self._opened()
        while self._done < len(self._batch):
            end = self._end()  # first: it may begin a new file
            self._done += os.write(self._opened(), self._batch[self._done : end])
        self._look()

    def _opened(self) -> int:
        if self._file is None:
            self._path, spec = self._wanted
            self._file = open_log(self._path)
            rotates = spec.rotates and self._path != STDOUT and is_regular(self._file)
            self._rotation = Rotation(self._path, spec, time.time()) if rotates else None
        return self._file

    def _look(self) -> None:
        """Whether another process began a new file of this name, and whether the time for that has come here."""
        now = time.monotonic()
        if now >= self._look_at and self._path != STDOUT:
            self._look_at = now + LOOK_S
            known = identity_of(self._opened())
            if identity(self._path) not in (None, known):
                self._close()
            elif self._rotation is not None:
                self._end()

    def _close(self) -> None:
        """Let go of the file; a line begun there is written again, whole, to the next."""
        self._stale.clear()
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._done = bytes(self._batch).rfind(b"\n", 0, self._done) + 1

    # --- rotation -----------------------------------------------------------------------------------------------------

    def _end(self) -> int:
        """How far the batch goes into the present file; begins the next one where that is due."""
        if self._rotation is None or not self.may_rotate or time.monotonic() < self._rotate_from:
            return len(self._batch)
        lines: bytes = self._batch.obj  # type: ignore[assignment]
        if self._done and lines[self._done - 1] != 0x0A:
            return lines.index(b"\n", self._done) + 1  # first the line that was begun
        while (end := self._fitting(lines, self._rotation)) is None:
            if not self._rotated(self._rotation):
                return len(lines)
        return end

    def _fitting(self, lines: bytes, rotation: Rotation) -> int | None:
        """The end of the lines that this file is for, at least one in an empty file; None: the next one is due."""
        size = os.fstat(self._opened()).st_size
        if rotation.due(size, time.time()):
            return None
        limit = rotation.spec.max_bytes
        if limit is None or len(lines) - self._done <= limit - size:
            return len(lines)
        end = lines.rfind(b"\n", self._done, self._done + limit - size) + 1
        return end or (lines.index(b"\n", self._done) + 1 if size == 0 else None)

    def _rotated(self, rotation: Rotation) -> bool:
        """Begin the next file; False: this one has to go on."""
        file = self._opened()
        try:
            if identity(self._path) == identity_of(file):  # else another process was first
                rotation.rotate(time.time())
        except OSError as error:
            self._rotate_from = time.monotonic() + TIDY_S
            log.error("cannot rotate the access log; it grows on", file=self._path, error=str(error))
            return False
        self._file = None
        os.close(file)
        self._opened()
        self.on_rotated()
        return True

    def _fail(self, error: OSError) -> None:
        if not self._failing:
            log.error("cannot write the access log; trying again", file=self._path, error=str(error))
        self._failing = True

    def _recover(self) -> None:
        if self._failing:
            log.info("writing the access log again", file=self._path)
        self._failing = False

    def _left(self) -> int:
        """Lines that were not written; nothing, unless the last pass failed or never ended."""
        rings = [self._batch[self._done :], *map(self._take, range(len(self._reader)))]
        return sum(bytes(lines).count(b"\n") for lines in rings)
