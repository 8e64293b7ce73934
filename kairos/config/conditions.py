"""Conditions: `method == 'GET' and (path =~ '^/v1/' or header('x-beta') == '1')`.

    condition   any and/or/not of comparisons, `&&`, `||` and `!` as well; brackets; `and` binds closer than `or`
    comparison  value, or value == != < <= > >= value, or value =~ !~ 'regex', or value in ('a', 'b')
    value       see values.py: sources, quoted texts, numbers, and `??` between alternatives

A value alone is true when it is there and not empty. Beside a number both sides are compared as numbers, and what is
none makes the comparison false; else both are compared as text, a missing one as the empty text.
"""

from __future__ import annotations

from typing import NamedTuple

from kairos.config.regex import Regex
from kairos.config.values import REQUEST, Tokens, Value, take_value, unquoted

_COMPARISONS = ("==", "!=", "<=", ">=", "<", ">")
DEPTH = 50
"""Brackets and nots within each other."""


class AnyOf(NamedTuple):
    parts: tuple[Condition, ...]


class AllOf(NamedTuple):
    parts: tuple[Condition, ...]


class Not(NamedTuple):
    part: Condition


class Present(NamedTuple):
    value: Value


class Compare(NamedTuple):
    left: Value
    sign: str
    right: Value
    numbers: bool


class Matches(NamedTuple):
    value: Value
    regex: Regex


class OneOf(NamedTuple):
    value: Value
    choices: tuple[str, ...]


Condition = AnyOf | AllOf | Not | Present | Compare | Matches | OneOf


def parse_condition(text: str, allowed: frozenset[str] = REQUEST) -> Condition:
    """The condition a text is.

    Raises:
        ValueError: it is none; the message says where.
    """
    tokens = Tokens(text)
    found = _any(tokens, allowed, 0)
    tokens.finish()
    return found


def _any(tokens: Tokens, allowed: frozenset[str], depth: int) -> Condition:
    if depth > DEPTH:
        raise tokens.problem("is nested too deeply")
    parts = [_all(tokens, allowed, depth)]
    while tokens.skip("or", "||"):
        parts.append(_all(tokens, allowed, depth))
    return parts[0] if len(parts) == 1 else AnyOf(tuple(parts))


def _all(tokens: Tokens, allowed: frozenset[str], depth: int) -> Condition:
    parts = [_not(tokens, allowed, depth)]
    while tokens.skip("and", "&&"):
        parts.append(_not(tokens, allowed, depth))
    return parts[0] if len(parts) == 1 else AllOf(tuple(parts))


def _not(tokens: Tokens, allowed: frozenset[str], depth: int) -> Condition:
    if tokens.skip("not", "!"):
        if depth > DEPTH:
            raise tokens.problem("is nested too deeply")
        return Not(_not(tokens, allowed, depth + 1))
    if tokens.skip("("):
        found = _any(tokens, allowed, depth + 1)
        tokens.need(")")
        return found
    return _comparison(tokens, allowed)


def _comparison(tokens: Tokens, allowed: frozenset[str]) -> Condition:
    number = tokens.peek().kind == "number"
    left = take_value(tokens, allowed)
    sign = tokens.peek()
    if sign.text in ("=~", "!~") and tokens.skip(sign.text):
        found = Matches(left, _regex(tokens))
        return Not(found) if sign.text == "!~" else found
    if tokens.skip("in"):
        return OneOf(left, _choices(tokens))
    if sign.kind == "sign" and tokens.skip(*_COMPARISONS):
        number = number or tokens.peek().kind == "number"
        return Compare(left, sign.text, take_value(tokens, allowed), number)
    return Present(left)


def _regex(tokens: Tokens) -> Regex:
    text = _literal(tokens)
    try:
        return Regex(text)
    except ValueError as error:
        raise tokens.problem(f"{error},") from None


def _choices(tokens: Tokens) -> tuple[str, ...]:
    tokens.need("(")
    found = [_literal(tokens)]
    while tokens.skip(","):
        found.append(_literal(tokens))
    tokens.need(")")
    return tuple(found)


def _literal(tokens: Tokens) -> str:
    token = tokens.peek()
    if token.kind not in ("text", "number"):
        raise tokens.problem("a quoted text is missing")
    tokens.take()
    return unquoted(token.text) if token.kind == "text" else token.text
