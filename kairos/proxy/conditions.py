"""Conditions compiled into predicates over an exchange (kairos.config.conditions says what they mean)."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from kairos.config.conditions import AllOf, AnyOf, Compare, Condition, Matches, Not, OneOf, Present, parse_condition
from kairos.config.values import REQUEST
from kairos.proxy.values import as_bytes, reader

if TYPE_CHECKING:
    from kairos.proxy.exchange import Exchange

Predicate = Callable[["Exchange"], bool]

_OPERATORS: dict[str, Callable[[Any, Any], bool]] = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip


def predicate(text: str, allowed: frozenset[str] = REQUEST) -> Predicate:
    """The predicate of a condition's text.

    Raises:
        ValueError: it is no condition.
    """
    return _compiled(parse_condition(text, allowed))


def _compiled(condition: Condition) -> Predicate:
    compile_: Callable[[Any], Predicate] = _KINDS[type(condition)]
    return compile_(condition)


def _any_of(condition: AnyOf) -> Predicate:
    parts = [_compiled(part) for part in condition.parts]
    return lambda x: any(part(x) for part in parts)


def _all_of(condition: AllOf) -> Predicate:
    parts = [_compiled(part) for part in condition.parts]
    return lambda x: all(part(x) for part in parts)


def _not(condition: Not) -> Predicate:
    part = _compiled(condition.part)
    return lambda x: not part(x)


def _present(condition: Present) -> Predicate:
    read = reader(condition.value)
    return lambda x: bool(as_bytes(read(x, None)))


def _compare(condition: Compare) -> Predicate:
    left, right, compare = reader(condition.left), reader(condition.right), _OPERATORS[condition.sign]
    if not condition.numbers:
        return lambda x: compare(as_bytes(left(x, None)), as_bytes(right(x, None)))

    def compared(x: Exchange) -> bool:
        a, b = _number(left(x, None)), _number(right(x, None))
        return a is not None and b is not None and compare(a, b)

    return compared


def _number(value: Any) -> float | None:
    try:
        return float(as_bytes(value))
    except ValueError:
        return None


def _matches(condition: Matches) -> Predicate:
    read, search = reader(condition.value), condition.regex.search
    return lambda x: search(as_bytes(read(x, None)))


def _one_of(condition: OneOf) -> Predicate:
    read, choices = reader(condition.value), frozenset(choice.encode() for choice in condition.choices)
    return lambda x: as_bytes(read(x, None)) in choices


_KINDS: dict[type, Callable[[Any], Predicate]] = {
    AnyOf: _any_of,
    AllOf: _all_of,
    Not: _not,
    Present: _present,
    Compare: _compare,
    Matches: _matches,
    OneOf: _one_of,
}
