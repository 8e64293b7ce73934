"""The program's log: what the processes say about themselves, on standard error or in a file all of them append to.

One JSON object a line, for machines; on a terminal, readable lines (coloured unless NO_COLOR is set). Requests are
not logged here but in the access log. Rules:
- no line is worth a process: what cannot be written (a full disk, a reader that is gone) is lost, but what a file does
  not take goes to standard error;
- each line is one write() at the end of the file, so processes need not know of each other. They open the file again
  when another one has its name: the control process alone rotates it;
- every component has a level in a cell that all processes see; a line below it costs a look at that cell.
"""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import sys
import threading
import time
from typing import TYPE_CHECKING, Any, Protocol, TextIO

import orjson

from kairos._speedups.cells import LEVEL_NOW
from kairos.config.log import COMPONENTS, Level, Log

# structlog loads rich where it is installed: 4 MB and a tenth of a second, in every process, for colourful tracebacks.
_UNWANTED = "rich" not in sys.modules
if _UNWANTED:
    sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402

if _UNWANTED:
    del sys.modules["rich"]

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import EventDict, Processor

    from kairos._speedups.cells import Page

LEVELS: dict[Level, int] = {"debug": 10, "info": 20, "warning": 30, "error": 40}
DEBUG, INFO, WARNING, ERROR = LEVELS.values()
FIELDS = ("time", "level", "component", "event", "pid", "node")
"""Of every line in JSON; others are the event's own."""
LOOK_S = 1.0
"""Between two looks whether the log file was rotated."""
_MODE = 0o640


def component_index(component: str) -> int:
    """Whose level a component has: 0 stands for all that are not listed."""
    return COMPONENTS.index(component) + 1 if component in COMPONENTS else 0


# --- levels ---------------------------------------------------------------------------------------------------------


class _Table(Protocol):
    def get(self, cell: int) -> int: ...
    def set(self, cell: int, value: int) -> None: ...


class _OwnTable:
    """Levels of a process that shares none: everything is logged until somebody configures it."""

    def __init__(self) -> None:
        self._levels = [0] * (len(COMPONENTS) + 1)

    def get(self, cell: int) -> int:
        return self._levels[cell]

    def set(self, cell: int, value: int) -> None:
        self._levels[cell] = value


_levels: _Table = _OwnTable()
_first = 0
"""Cell of the first level."""


def share_levels(page: Page, block: int) -> None:
    """Go by the LEVEL_* block of the shared page from here on, as does every process that is forked later."""
    global _levels, _first
    _levels, _first = page, block + LEVEL_NOW


def write_levels(spec: Log) -> None:
    """Set every component's level as configured."""
    _levels.set(_first, LEVELS[spec.level])
    for index, component in enumerate(COMPONENTS, 1):
        _levels.set(_first + index, LEVELS[spec.level_of(component)])


# --- loggers --------------------------------------------------------------------------------------------------------


class Logger:
    """What one part of the gateway has to say; `exception` is an error with the traceback under way."""

    __slots__ = ("_index", "component")

    def __init__(self, component: str) -> None:
        self.component = component
        self._index = component_index(component)

    def logs(self, level: int) -> bool:
        """Whether a line of this level would be written."""
        return _levels.get(_first + self._index) <= level

    def debug(self, event: str, **fields: Any) -> None:
        if _levels.get(_first + self._index) <= DEBUG:
            _emit(self.component, "debug", event, fields)

    def info(self, event: str, **fields: Any) -> None:
        if _levels.get(_first + self._index) <= INFO:
            _emit(self.component, "info", event, fields)

    def warning(self, event: str, **fields: Any) -> None:
        if _levels.get(_first + self._index) <= WARNING:
            _emit(self.component, "warning", event, fields)

    def error(self, event: str, **fields: Any) -> None:
        _emit(self.component, "error", event, fields)

    def exception(self, event: str, **fields: Any) -> None:
        _emit(self.component, "error", event, {"exc_info": True, **fields})


def get_logger(component: str) -> Logger:
    """The logger of one part of the gateway; may be made at import, before configure()."""
    return Logger(component)


def _emit(component: str, level: str, event: str, fields: dict[str, Any]) -> None:
    line: Any = {"component": component, "event": event, **fields}
    try:
        for processor in structlog.get_config()["processors"]:
            line = processor(None, level, line)
    except structlog.DropEvent:
        return
    _write(line)


# --- where lines go -------------------------------------------------------------------------------------------------


def configure(spec: Log, stream: TextIO | None = None, *, node: str | None = None) -> None:
    """Write as configured; to `stream` where one is given. A process that shares no levels takes these too."""
    global _write
    out = stream or sys.stderr
    readable = spec.format == "text" or (spec.format == "auto" and spec.file == "-" and out.isatty())
    colors = spec.file == "-" and out.isatty() and not os.environ.get("NO_COLOR")
    structlog.configure(processors=_processors(node or socket.gethostname(), readable=readable, colors=colors))
    _write = _StreamLines(out) if spec.file == "-" or stream is not None else FileLines(spec.file)
    if isinstance(_levels, _OwnTable):
        write_levels(spec)


class _StreamLines:
    """Writes lines to a stream."""

    def __init__(self, out: TextIO) -> None:
        self._out = out

    def __call__(self, line: str) -> None:
        with contextlib.suppress(OSError, ValueError):  # full, without a reader, closed
            self._out.write(line + "\n")
            self._out.flush()


class FileLines:
    """Appends lines to the file of a name, whichever that is at the time."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._file: int | None = None
        self._known: tuple[int, int] | None = None
        self._look_at = 0.0
        self._cut = False
        """The last line was not written to its end."""
        self._lock = threading.Lock()  # one thread must not close what another one writes to

    def __call__(self, line: str) -> None:
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        try:
            with self._lock:
                self._append(data)
        except OSError:
            with contextlib.suppress(OSError):
                os.write(2, data)

    def _append(self, data: bytes) -> None:
        if time.monotonic() >= self._look_at:
            self._follow()
        if self._cut:
            data = b"\n" + data
        assert self._file is not None
        self._cut = os.write(self._file, data) < len(data)

    def _follow(self) -> None:
        """Open it unless we have it: it was rotated, or this is the first line."""
        if self._file is None or identity(self._path) != self._known:
            file = open_log(self._path)
            if self._file is not None:
                os.close(self._file)
            self._file, self._known, self._cut = file, identity_of(file), False
        self._look_at = time.monotonic() + LOOK_S


def open_log(path: str) -> int:
    """Descriptor of a log file to append to; OSError if that cannot be."""
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, _MODE)


def identity(path: str) -> tuple[int, int] | None:
    """Which file has this name; None: there is none, or it cannot be told."""
    try:
        return _identity(os.stat(path))
    except OSError:
        return None


def identity_of(file: int) -> tuple[int, int]:
    """Which file a descriptor is of."""
    return _identity(os.fstat(file))


def _identity(found: os.stat_result) -> tuple[int, int]:
    return found.st_dev, found.st_ino


_write: Callable[[str], None] = _StreamLines(sys.stderr)
_shown: Callable[[bytes], object] | None = None


def show_lines(show: Callable[[bytes], object]) -> None:
    """Hand this process's lines also to whoever watches: JSON with the end of the line, whatever the format."""
    global _shown
    _shown = show


# --- what a line looks like -----------------------------------------------------------------------------------------


def _processors(node: str, *, readable: bool, colors: bool) -> list[Processor]:
    stamp = structlog.processors.TimeStamper(fmt="iso", utc=True, key="time")
    shared: list[Processor] = [structlog.contextvars.merge_contextvars, structlog.processors.add_log_level, _add_pid]

    def add_node(_logger: Any, _method: str, event: EventDict) -> EventDict:
        event["node"] = node
        return event

    if readable:
        return [*shared, stamp, _show, structlog.dev.ConsoleRenderer(colors=colors, timestamp_key="time")]
    return [*shared, add_node, stamp, structlog.processors.format_exc_info, _show, _as_json]


def _add_pid(_logger: Any, _method: str, event: EventDict) -> EventDict:
    event["pid"] = os.getpid()  # here, for loggers are made before the forks
    return event


def _show(logger: Any, method: str, event: EventDict) -> EventDict:
    if _shown is not None:
        plain = structlog.processors.format_exc_info(logger, method, dict(event))
        _shown(_as_json(logger, method, plain).encode() + b"\n")
    return event


def _as_json(_logger: Any, _method: str, event: EventDict) -> str:
    first = {name: event[name] for name in FIELDS if name in event}
    return orjson.dumps({**first, **event}, default=repr).decode()


# --- libraries ------------------------------------------------------------------------------------------------------


class Adopted(logging.Handler):
    """Lines that a library writes by `logging`, as those of one of our components."""

    def __init__(self, component: str) -> None:
        super().__init__()
        self._logger = Logger(component)

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one on."""
        level: Level = "error" if record.levelno >= ERROR else "warning"
        if self._logger.logs(LEVELS[level]):
            fields = {"library": record.name} | ({"exc_info": record.exc_info} if record.exc_info else {})
            _emit(self._logger.component, level, record.getMessage(), fields)


def adopt(library: str, component: str) -> None:
    """Let a library's warnings and errors be a component's; what else it says goes nowhere (statements with values)."""
    its = logging.getLogger(library)
    its.handlers = [Adopted(component)]
    its.propagate = False
    its.setLevel(WARNING)
