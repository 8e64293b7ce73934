"""JSON bodies made anew from the old ones: a template, members set and removed by JSON Pointer (RFC 6901).

Values are put in as JSON values; nothing is spliced as text. What is not JSON is told, never guessed at.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from kairos.config.policies.transform import parse_pointer
from kairos.config.values import parse_template
from kairos.proxy.values import json_builder

if TYPE_CHECKING:
    from kairos.config.policies.transform import BodyRules
    from kairos.proxy.exchange import Exchange


def is_json(content_type: bytes | None) -> bool:
    """application/json, and types built on it (RFC 6839): `+json`."""
    kind = (content_type or b"").partition(b";")[0].strip().lower()
    return kind == b"application/json" or (kind.startswith(b"application/") and kind.endswith(b"+json"))


class Rewriter:
    """The body rules of one direction."""

    def __init__(self, rules: BodyRules, sources: frozenset[str]) -> None:
        allowed = sources | {"body"}

        def parse(text: str) -> Any:
            return parse_template(text, allowed)

        self._template = None if rules.template is None else json_builder(rules.template, parse)
        self._set = [(parse_pointer(at), json_builder(value, parse)) for at, value in rules.set.items()]
        self._remove = [parse_pointer(at) for at in rules.remove]

    def rewrite(self, x: Exchange, data: bytes) -> bytes:
        """The new body.

        Raises:
            ValueError: the old one is no JSON.
        """
        old = orjson.loads(data)
        made = old if self._template is None else self._template(x, old)
        given = [(steps, build(x, old)) for steps, build in self._set]
        for steps in self._remove:
            _remove(made, steps)
        for steps, value in given:
            made = _put(made, steps, value)
        try:
            return orjson.dumps(made)
        except TypeError as error:  # nested too deeply
            raise ValueError(str(error)) from None


def _remove(value: Any, steps: tuple[str, ...]) -> None:
    for step in steps[:-1]:
        value = _member(value, step)
    last = steps[-1]
    if isinstance(value, dict):
        value.pop(last, None)
    elif isinstance(value, list) and (at := _index(last, value)) is not None:
        del value[at]


def _put(value: Any, steps: tuple[str, ...], new: Any) -> Any:
    """The value with a member set; what is on the way and no object or list becomes an object."""
    if not steps:
        return new
    step, rest = steps[0], steps[1:]
    if isinstance(value, list):
        at = _index(step, value)
        if at is not None:
            value[at] = _put(value[at], rest, new)
        elif step == "-":
            value.append(_put(None, rest, new))
        return value
    made = value if isinstance(value, dict) else {}
    made[step] = _put(made.get(step), rest, new)
    return made


def _member(value: Any, step: str) -> Any:
    if isinstance(value, dict):
        return value.get(step)
    at = _index(step, value) if isinstance(value, list) else None
    return None if at is None else value[at]


def _index(step: str, value: list[Any]) -> int | None:
    """RFC 6901 section 4: digits, without a leading zero."""
    if not step.isascii() or not step.isdigit() or len(step) > 9 or (step[0] == "0" and step != "0"):
        return None
    return int(step) if int(step) < len(value) else None
