"""Parameters of requests: how text in paths, queries, header fields and cookies is read as values (OpenAPI's styles).

Text becomes a number, a boolean or null only where the schema allows that type and the text is one beyond doubt;
everything else stays text, which the schema then judges.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote, unquote_plus

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kairos.config.documents import Validator

_INTEGER = re.compile(r"-?(?:0|[1-9][0-9]{0,17})")
_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]{0,30})(?:\.[0-9]{1,30})?(?:[eE][+-]?[0-9]{1,3})?")
_BOOLEANS = {"true": True, "false": False}
_SEPARATORS = {"spaceDelimited": " ", "pipeDelimited": "|"}
MAX_PAIRS = 1000


class Unreadable(ValueError):  # noqa: N818 - the client's text is, not the program
    """Text that is not of its parameter's style."""


class Shape(NamedTuple):
    """What of a schema decides how text is read."""

    types: frozenset[str] = frozenset()
    items: Shape | None = None
    members: Mapping[str, Shape] = {}

    @property
    def is_array(self) -> bool:
        return "array" in self.types

    @property
    def is_object(self) -> bool:
        return "object" in self.types or bool(self.members)


class Parameter(NamedTuple):
    """One parameter of an operation."""

    where: str
    name: str
    required: bool
    style: str
    explode: bool
    shape: Shape
    validator: Validator | None


Pairs = list[tuple[str, str]]
"""A query, or a form, decoded, in order."""


def pairs(text: bytes) -> Pairs:
    """`a=1&b=2`.

    Raises:
        Unreadable: there are too many, or they are not UTF-8.
    """
    if text.count(b"&") >= MAX_PAIRS:
        raise Unreadable(f"more than {MAX_PAIRS} parameters")
    try:
        found = [part.decode("ascii").partition("=") for part in text.split(b"&") if part]
        return [(unquote_plus(name, errors="strict"), unquote_plus(value, errors="strict")) for name, _, value in found]
    except UnicodeDecodeError:
        raise Unreadable("not UTF-8") from None


def cookies(fields: Sequence[bytes]) -> Pairs:
    """Of all Cookie fields."""
    found = []
    for item in b";".join(fields).decode("latin-1").split(";")[:MAX_PAIRS]:
        name, mark, value = item.strip().partition("=")
        if mark:
            found.append((name, value[1:-1] if len(value) > 1 and value[0] == value[-1] == '"' else value))
    return found


def scalar(text: str, shape: Shape) -> Any:
    """One value."""
    types = shape.types
    if "string" in types or not types:
        return text
    if "integer" in types and _INTEGER.fullmatch(text):
        return int(text)
    if "number" in types and _NUMBER.fullmatch(text):
        return float(text)
    if "boolean" in types and text in _BOOLEANS:
        return _BOOLEANS[text]
    return None if text == "" and "null" in types else text


def listed(texts: Sequence[str], shape: Shape) -> list[Any]:
    return [scalar(text, shape.items or Shape()) for text in texts]


def member(name: str, text: str, shape: Shape) -> Any:
    return scalar(text, shape.members.get(name) or Shape())


def in_text(text: str, p: Parameter) -> Any:
    """A parameter whose whole text is given: in a path (escapes still in it) or a header field, or JSON.

    Raises:
        Unreadable: it is not of its style.
    """
    decoded = unquote if p.where == "path" else str
    if p.style == "json":
        return from_json(decoded(text))
    separator, exploded = ",", p.explode
    if p.style == "label":
        text = _behind(text, ".")
        separator = "." if exploded else ","
    elif p.style == "matrix":
        return _matrix(text, p)
    if p.shape.is_array:
        return listed([decoded(part).strip() for part in text.split(separator)] if text else [], p.shape)
    if p.shape.is_object:
        parts = [decoded(part).strip() for part in text.split(separator)] if text else []
        return _from_parts(parts, p.shape, exploded)
    return scalar(decoded(text), p.shape)


def _matrix(text: str, p: Parameter) -> Any:
    parts = [part.partition("=") for part in _behind(text, ";").split(";")]
    if p.shape.is_object and p.explode:
        return {unquote(name): member(unquote(name), unquote(value), p.shape) for name, _, value in parts}
    if any(name != p.name for name, _, _ in parts):
        raise Unreadable(f"not of the style matrix: ;{p.name}=…")
    texts = [value for _, _, value in parts]
    if p.shape.is_array:
        return listed([unquote(text) for text in (texts if p.explode else texts[0].split(","))], p.shape)
    if p.shape.is_object:
        return _from_parts([unquote(part) for part in texts[0].split(",")], p.shape, False)
    return scalar(unquote(texts[0]), p.shape)


def _behind(text: str, mark: str) -> str:
    if not text.startswith(mark):
        raise Unreadable(f"must begin with '{mark}'")
    return text[1:]


def _from_parts(parts: Sequence[str], shape: Shape, exploded: bool) -> dict[str, Any]:
    """`R=100,G=200`, or `R,100,G,200`."""
    if exploded:
        split = [part.partition("=") for part in parts]
        return {name: member(name, value, shape) for name, _, value in split}
    if len(parts) % 2:
        raise Unreadable("must be names and values in turn")
    return {name: member(name, value, shape) for name, value in zip(parts[::2], parts[1::2], strict=True)}


ABSENT = object()


def in_pairs(found: Mapping[str, list[str]], p: Parameter) -> Any:
    """A parameter of a query, a cookie or a form; ABSENT where it is not there.

    Raises:
        Unreadable: it is not of its style, or stands there twice.
    """
    if p.style == "deepObject":
        return _deep(found, p)
    if p.shape.is_object and p.explode and p.style == "form":
        members = {name: member(name, _one(found[name]), p.shape) for name in p.shape.members if name in found}
        return members or ABSENT
    texts = found.get(p.name)
    if texts is None:
        return ABSENT
    if p.style == "json":
        return from_json(_one(texts))
    if p.shape.is_array:
        if p.explode and p.style == "form":
            return listed(texts, p.shape)
        text = _one(texts)
        return listed(text.split(_SEPARATORS.get(p.style, ",")) if text else [], p.shape)
    if p.shape.is_object:
        return _from_parts(_one(texts).split(_SEPARATORS.get(p.style, ",")), p.shape, False)
    return scalar(_one(texts), p.shape)


def _deep(found: Mapping[str, list[str]], p: Parameter) -> Any:
    """`filter[name]=x&filter[age]=3`."""
    members = {}
    for name, texts in found.items():
        if name.startswith(p.name + "[") and name.endswith("]"):
            key = name[len(p.name) + 1 : -1]
            shape = p.shape.members.get(key) or Shape()
            members[key] = listed(texts, shape) if shape.is_array else scalar(_one(texts), shape)
    return members or ABSENT


def _one(texts: Sequence[str]) -> str:
    """Two readers of a name that stands twice may take either."""
    if len(texts) > 1:
        raise Unreadable("is given more than once")
    return texts[0]


def from_json(text: str) -> Any:
    """A parameter that is a JSON text of its own."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        raise Unreadable("is no JSON") from None


def form(found: Pairs, shape: Shape) -> dict[str, Any]:
    """An application/x-www-form-urlencoded body as its schema's object."""
    texts = grouped(found)
    made: dict[str, Any] = {}
    for name, values in texts.items():
        own = shape.members.get(name) or Shape()
        made[name] = listed(values, own) if own.is_array else scalar(_one(values), own)
    return made


def grouped(found: Pairs) -> dict[str, list[str]]:
    """By name."""
    texts: dict[str, list[str]] = {}
    for name, value in found:
        texts.setdefault(name, []).append(value)
    return texts
