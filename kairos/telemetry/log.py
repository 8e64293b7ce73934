"""The application log: what the processes say about themselves, on standard error.

One JSON object a line, for machines; on a terminal, readable lines (coloured unless NO_COLOR is set). Requests are
not logged here but in the access log. No line is worth a process: what standard error does not take (its disk is full,
its reader gone) is lost.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import TYPE_CHECKING, Any, TextIO

import orjson

# structlog loads rich where it is installed: 4 MB and a tenth of a second, in every process, for colourful tracebacks.
_UNWANTED = "rich" not in sys.modules
if _UNWANTED:
    sys.modules["rich"] = None  # type: ignore[assignment]
import structlog  # noqa: E402

if _UNWANTED:
    del sys.modules["rich"]

if TYPE_CHECKING:
    from structlog.typing import EventDict, FilteringBoundLogger, Processor

LEVELS = {name: logging.getLevelNamesMapping()[name.upper()] for name in ("debug", "info", "warning", "error")}


def configure(level: str, stream: TextIO | None = None) -> None:
    """Log from `level` (debug, info, warning, error) on, to `stream` or standard error."""
    if level.lower() not in LEVELS:
        raise ValueError(f"log level {level!r} is not one of {', '.join(LEVELS)}")
    out = stream or sys.stderr
    structlog.configure(
        processors=_processors(readable=out.isatty()),
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level.lower()]),
        logger_factory=_Lines(out),
        cache_logger_on_first_use=True,  # a filtered call costs 1 µs instead of 3; configure before the first
    )


def get_logger(component: str) -> FilteringBoundLogger:
    """The logger of one part of the gateway; may be made at import, before configure()."""
    logger: FilteringBoundLogger = structlog.get_logger(component=component)
    return logger


class _Lines:
    """The factory of structlog's outermost loggers, and the one there is of them."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self.debug = self.info = self.warning = self.error = self.critical = self._write

    def __call__(self, *_: Any) -> _Lines:
        return self

    def _write(self, line: str) -> None:
        with contextlib.suppress(OSError):
            self._out.write(line + "\n")
            self._out.flush()


def _processors(*, readable: bool) -> list[Processor]:
    shared: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        _add_pid,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
    ]
    if readable:
        colors = not os.environ.get("NO_COLOR")
        return [*shared, structlog.dev.ConsoleRenderer(colors=colors, timestamp_key="time")]
    return [*shared, structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_json)]


def _add_pid(_logger: Any, _method: str, event: EventDict) -> EventDict:
    event["pid"] = os.getpid()  # here, for loggers are made before the forks
    return event


def _json(event: dict[str, Any], **options: Any) -> str:
    return orjson.dumps(event, default=options.get("default")).decode()
