"""Logs: where the program's own goes, from which level on, and how much of a log file is kept.

Old files stand beside the present one, under its name and the time of their end: `access.log.20261127T020000.000Z`,
with `.gz` behind it when compressed. Files of any other name are nobody's business here.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from kairos.config.spec import Spec

Level = Literal["debug", "info", "warning", "error"]
COMPONENTS = (
    "supervisor", "worker", "control",
    "proxy", "upstream", "access", "auth", "jwt", "keys", "oidc", "limits", "cache", "redis", "validation", "plugins",
    "health", "accesslog", "api", "storage", "management", "history", "audit", "users",
)  # fmt: skip
"""Parts of the gateway with a level of their own; others go by `log.level`. Their order is that of the level's cells:
what is new goes to the end."""


class LogFile(Spec, frozen=True):
    """When a log file is followed by the next one, and how many old ones are kept; nothing is rotated unless
    `max_bytes` or `rotate_every` says so."""

    max_bytes: Annotated[int, Meta(ge=4096, le=1 << 44)] | None = None
    """A new file begins when this one is so large: in the access log before it is larger, in the program's log within a
    second."""
    rotate_every: Annotated[float, Meta(ge=60, le=366 * 86_400)] | None = None
    """A new file begins at each multiple of so many seconds, in UTC: with 86400 at midnight."""
    max_files: Annotated[int, Meta(ge=0, le=100_000)] | None = 10
    """Old files kept, the newest; null keeps all."""
    max_age: Annotated[float, Meta(ge=60, le=100 * 366 * 86_400)] | None = None
    """Old files go so many seconds after their end."""
    compress: bool = False
    """Old files are compressed with gzip."""

    @property
    def rotates(self) -> bool:
        """Whether the gateway rotates it; else that is left to others."""
        return self.max_bytes is not None or self.rotate_every is not None


class Log(LogFile, frozen=True):
    """What the processes say about themselves."""

    level: Level = "info"
    levels: dict[str, Level] = field(default_factory=dict)
    """By component, where it is not `level`."""
    format: Literal["auto", "json", "text"] = "auto"
    """`auto`: readable lines on a terminal, else a JSON object a line."""
    file: str = "-"
    """Path, or `-` for standard error."""

    def level_of(self, component: str) -> Level:
        """From which on a component logs."""
        return self.levels.get(component, self.level)
