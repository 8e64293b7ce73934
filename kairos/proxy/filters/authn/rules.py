"""Claim rules compiled: which of them a caller's claims break. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kairos.config.regex import Regex
from kairos.proxy.identity import claim

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from kairos.config.policies.claims import ClaimRule


class Rules:
    """All have to hold."""

    def __init__(self, rules: Sequence[ClaimRule]) -> None:
        self._tests = [(rule, _test(rule)) for rule in rules]

    def broken(self, claims: Mapping[str, Any]) -> ClaimRule | None:
        """The first rule that does not hold, if any."""
        for rule, holds in self._tests:
            value = claim(claims, rule.claim)
            if value is None or not holds(value):
                return rule
        return None


def _test(rule: ClaimRule) -> Callable[[Any], bool]:
    if rule.pattern is not None:
        return _matches(Regex(rule.pattern))
    if rule.one_of is not None:
        wanted = rule.one_of
        return lambda value: any(_same(value, one) for one in wanted)
    if rule.contains is not None:
        return _holds(rule.contains)
    return lambda value: _same(value, rule.equals)


def _same(value: Any, wanted: object) -> bool:
    """As JSON compares: 1 is 1.0, but true is not 1."""
    return value == wanted and isinstance(value, bool) == isinstance(wanted, bool)


def _holds(wanted: object) -> Callable[[Any], bool]:
    def holds(value: Any) -> bool:
        if isinstance(value, list):
            return any(_same(item, wanted) for item in value)
        return isinstance(value, str) and wanted in value.split(" ")

    return holds


def _matches(regex: Regex) -> Callable[[Any], bool]:
    def matches(value: Any) -> bool:
        texts = value if isinstance(value, list) else [value]
        return any(isinstance(text, str) and regex.takes(text.encode("utf-8", "replace")) for text in texts)

    return matches
