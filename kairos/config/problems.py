"""What is wrong with a configuration: one Problem each, all of them at once.

An error keeps the gateway from using the configuration, a warning names something risky or without effect, a hint
recommends. A problem says where it is in the words of the file, also where an older spelling was rewritten.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

Severity = Literal["error", "warning", "hint"]
SEVERITIES: tuple[Severity, ...] = ("error", "warning", "hint")
Path = tuple[str | int, ...]

LIMIT = 1000
"""Problems kept of one file; more help nobody and a hostile file could ask for millions."""

_PLAIN_KEY = re.compile(r"[\w$-]+")


def render(keys: Path) -> str:
    """`("routers", 2, "port")` as `routers[2].port`."""
    return "".join(map(_step, keys)).removeprefix(".")


@lru_cache(4096)
def _step(key: str | int) -> str:
    if isinstance(key, int):
        return f"[{key}]"
    return f".{key}" if _PLAIN_KEY.fullmatch(key) else f"[{key!r}]"


class Problem(Struct, frozen=True, omit_defaults=True):
    """One thing to mend, or to know."""

    severity: Severity
    keys: Path
    """Where in the file, key by key; empty for the file as a whole."""
    message: str
    line: int | None = None
    """Counted from one; none where the format does not tell."""
    file: str | None = None

    @property
    def path(self) -> str:
        """Where in the file, as `routers[2].backends[0].port`."""
        return render(self.keys)

    def __str__(self) -> str:
        """`config.json:12: error: routers[2].methods: message`."""
        place = [str(part) for part in (self.file, self.line) if part is not None]
        return ": ".join(part for part in (":".join(place), self.severity, self.path, self.message) if part)


class Findings:
    """Collects the problems of one file, up to LIMIT of each severity."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._counts: dict[Severity, int] = dict.fromkeys(SEVERITIES, 0)

    def error(self, keys: Path, message: str | Callable[[], str]) -> None:
        self._add("error", keys, message)

    def warning(self, keys: Path, message: str | Callable[[], str]) -> None:
        self._add("warning", keys, message)

    def hint(self, keys: Path, message: str | Callable[[], str]) -> None:
        self._add("hint", keys, message)

    def _add(self, severity: Severity, keys: Path, message: str | Callable[[], str]) -> None:
        """A message that costs something to word is given as a function, called only if it is kept."""
        self._counts[severity] += 1
        if self._counts[severity] == LIMIT:
            self.problems.append(Problem(severity, (), f"more than {LIMIT} {severity}s: the rest is not shown"))
        elif self._counts[severity] < LIMIT:
            self.problems.append(Problem(severity, keys, message if isinstance(message, str) else message()))


class Notes:
    """Remarks that many routes share: each is told once, with its first place and how many more there are."""

    def __init__(self) -> None:
        self._first: dict[tuple[Severity, str], Path] = {}
        self._counts: dict[tuple[Severity, str], int] = {}

    def warning(self, keys: Path, message: str) -> None:
        self._note(("warning", message), keys)

    def hint(self, keys: Path, message: str) -> None:
        self._note(("hint", message), keys)

    def _note(self, note: tuple[Severity, str], keys: Path) -> None:
        self._first.setdefault(note, keys)
        self._counts[note] = self._counts.get(note, 0) + 1

    def tell(self, found: Findings) -> None:
        for note, keys in self._first.items():
            severity, message = note
            more = self._counts[note] - 1
            tell = found.warning if severity == "warning" else found.hint
            tell(keys, message + (f" (and {more} more like it)" if more else ""))


class ConfigError(Exception):
    """A configuration that cannot be used. Its text has one line per problem."""

    def __init__(self, problems: Sequence[Problem], heading: str = "") -> None:
        super().__init__(problems, heading)
        self.problems = list(problems)
        self.heading = heading

    def __str__(self) -> str:
        return "\n".join([self.heading, *map(str, self.problems)]).lstrip("\n")
