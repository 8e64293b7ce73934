"""Writes the access log: empties the workers' rings into one file or standard output.

A thread of its own, for the file may be a pipe nobody reads: then the rings fill and the workers count what they drop,
but neither they nor the control process's loop wait. Rules:
- a line is written whole; after a short write the rest follows before anything else;
- a batch that cannot be written (disk full, pipe closed, no such directory) is kept and tried again, said once;
- what is left when the process ends is counted in H_LOG_UNWRITTEN.
"""

from __future__ import annotations

import os
import threading
from typing import TYPE_CHECKING

from kairos._speedups import cells
from kairos.telemetry.accesslog import LogReader
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from kairos.scoreboard import Scoreboard

STDOUT = "-"
BUSY, CALM, IDLE = 0.01, 0.05, 0.1  # seconds between two passes
RETRY = 0.5  # seconds before a failed write is tried again
_MODE = 0o640

log = get_logger("accesslog")


def open_log(path: str) -> int:
    """Descriptor to append to; OSError if that cannot be."""
    if path == STDOUT:
        return os.dup(1)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)


class LogWriter:
    """start(), then switch() and reopen() at any time, then stop()."""

    def __init__(self, scoreboard: Scoreboard, path: str) -> None:
        self._page = scoreboard.page
        self._reader = LogReader(scoreboard)
        self._path = path
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

    def switch(self, path: str) -> None:
        """Go on in another file."""
        if path != self._path:
            self._path = path
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
            return memoryview(self._reader.drain(slot))
        except RuntimeError as error:
            log.error("access-log lines are lost", error=str(error))
            return memoryview(b"")

    def _write(self) -> None:
        if self._stale.is_set():
            self._close()
        if self._file is None:
            self._file = open_log(self._path)
        while self._done < len(self._batch):
            self._done += os.write(self._file, self._batch[self._done :])

    def _close(self) -> None:
        """Let go of the file; a line begun there is written again, whole, to the next."""
        self._stale.clear()
        if self._file is not None:
            os.close(self._file)
            self._file = None
        self._done = bytes(self._batch).rfind(b"\n", 0, self._done) + 1

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
