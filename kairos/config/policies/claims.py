"""Rules about what is said of a caller: which claims it has to have, and which become headers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kairos.config.fields import REQUEST_OWN, field_problem
from kairos.config.regex import Regex
from kairos.config.spec import Spec

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kairos.config.problems import Findings, Path

Scalar = str | int | float | bool


class ClaimRule(Spec, frozen=True):
    """What one claim has to be; exactly one of the four is given. A claim that is not there fits none."""

    claim: str
    """Name, or dotted path into an object: `realm_access.roles`."""
    equals: Scalar | None = None
    """This value, of the same type."""
    one_of: list[Scalar] | None = None
    """One of these values."""
    contains: Scalar | None = None
    """A list that holds the value, or a text that holds it between spaces, as `scope` does."""
    pattern: str | None = None
    """A text, or a list with one, that the whole regular expression (RE2) matches."""


def check_rules(rules: Sequence[ClaimRule], keys: Path, found: Findings) -> None:
    """Of each rule, one thing to compare with, and patterns that compile."""
    for at, rule in enumerate(rules):
        given = [name for name in ("equals", "one_of", "contains", "pattern") if getattr(rule, name) is not None]
        if not rule.claim:
            found.error((*keys, at, "claim"), "names no claim")
        if len(given) != 1:
            found.error((*keys, at), "needs exactly one of equals, one_of, contains and pattern")
        if rule.one_of == []:
            found.error((*keys, at, "one_of"), "lists nothing, so that no caller would pass")
        if rule.pattern is not None:
            _check_pattern(rule.pattern, (*keys, at, "pattern"), found)


def _check_pattern(pattern: str, keys: Path, found: Findings) -> None:
    try:
        Regex(pattern)
    except ValueError as error:
        found.error(keys, f"is {error}")


def check_headers(headers: Mapping[str, str], keys: Path, found: Findings) -> None:
    """Names that may be sent, each once."""
    taken: dict[str, str] = {}
    for name, header in headers.items():
        here = (*keys, name)
        problem = field_problem(header, "", REQUEST_OWN)
        if problem is not None:
            found.error(here, problem)
        elif header.lower() in taken:
            found.error(here, f"{header} is also that of {taken[header.lower()]}: give each claim its own header")
        taken[header.lower()] = name
