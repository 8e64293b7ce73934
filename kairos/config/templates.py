"""Checks that every setting with a template, a condition or an expression in it needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kairos.config.conditions import parse_condition
from kairos.config.regex import Regex, Replacement
from kairos.config.values import REQUEST, Template, parse_template

if TYPE_CHECKING:
    from kairos.config.problems import Findings, Path


def check_template(text: str, keys: Path, found: Findings, allowed: frozenset[str] = REQUEST) -> Template | None:
    """The template a text is; None where it is none, which is reported."""
    try:
        return parse_template(text, allowed)
    except ValueError as error:
        found.error(keys, f"no template: {error}")
        return None


def check_condition(text: str | None, keys: Path, found: Findings, allowed: frozenset[str] = REQUEST) -> None:
    """Report a text that is no condition."""
    if text is None:
        return
    try:
        parse_condition(text, allowed)
    except ValueError as error:
        found.error(keys, f"no condition: {error}")


def check_replacement(
    pattern: str, replacement: str, keys: Path, found: Findings, allowed: frozenset[str] = REQUEST
) -> None:
    """Report an expression that is none, a replacement that is no template, and groups that do not exist."""
    try:
        regex = Regex(pattern)
    except ValueError as error:
        found.error((*keys, "pattern"), str(error))
        return
    template = check_template(replacement, (*keys, "replacement"), found, allowed)
    if template is None:
        return
    for name in Replacement(template, regex).missing:
        advice = (
            f": write ${{{name.rstrip(_LETTERS)}}} before letters" if name[0].isdigit() and not name.isdigit() else ""
        )
        found.warning((*keys, "replacement"), f"'{name}' is no group of the pattern, so it is empty{advice}")


_LETTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ_"
