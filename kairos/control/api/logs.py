"""Logs: the levels of the program's own, and the newest lines of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import msgspec
from litestar import get, put
from litestar.di import NamedDependency
from litestar.params import FromQuery, JSONBody, Parameter

from kairos.control.api.guards import needs
from kairos.control.api.live import FILTERS, Log, asked
from kairos.control.loglevels import LevelChange, LevelStatus, LogLevels
from kairos.control.tail import ProgramFilter, RequestFilter, Tail

TAGS = ["Logs"]
Limit = Annotated[int, Parameter(ge=1, le=1000)]


@get("/api/logs/levels", tags=TAGS, sync_to_thread=False, **needs("status:read"))
def list_log_levels(log_levels: NamedDependency[LogLevels]) -> Sequence[LevelStatus]:
    """From which level on each component logs, now and as configured."""
    return log_levels.list()


@put("/api/logs/levels", tags=TAGS, sync_to_thread=False, **needs("logs:operate"))
def set_log_levels(log_levels: NamedDependency[LogLevels], data: JSONBody[LevelChange]) -> Sequence[LevelStatus]:
    """Set levels in all processes at once, for a while or until the gateway ends; null: as configured again."""
    return asked(lambda: log_levels.set(data))


@get("/api/logs/recent", tags=TAGS, sync_to_thread=False, dependencies=FILTERS, **needs("tail:read"))
def list_recent_lines(
    tail: NamedDependency[Tail],
    requests: NamedDependency[RequestFilter],
    lines: NamedDependency[ProgramFilter],
    log: FromQuery[Log] = "requests",
    limit: Limit = 100,
) -> list[dict[str, Any]]:
    """The newest lines in memory, the oldest first: requests, or with `log=program` the program's log.

    Requests are there as long as the access log has all of them as JSON, else since somebody watches."""
    found = asked(
        lambda: tail.requests.newest(requests, limit) if log == "requests" else tail.program.newest(lines, limit)
    )
    return [msgspec.json.decode(line) for line in found]


HANDLERS = [list_log_levels, set_log_levels, list_recent_lines]
