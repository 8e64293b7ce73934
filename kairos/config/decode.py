"""Plain values into the typed model, field by field, so that one mistake does not hide the next.

msgspec judges the leaves; the walk is ours because msgspec stops at the first error. Unknown keys are errors with the
nearest known name; comment keys (`$schema`, `_comment`, anything beginning with `_` or `//`) pass. A null stands for
"not given" where the field has a default and no null of its own.
"""

from __future__ import annotations

import difflib
import math
import types
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import msgspec

from kairos.config.interpolate import Expanded
from kairos.config.model import Method

if TYPE_CHECKING:
    from collections.abc import Callable

    from kairos.config.problems import Findings, Path

    Decoder = Callable[[Any, Path, Findings], Any]

INVALID: Any = object()
"""What a decoder gives for a value it has reported."""

_INT64 = 1 << 63
_NAMES = {
    dict: "an object",
    list: "a list",
    str: "a string",
    Expanded: "a string",
    bool: "a boolean",
    int: "an integer",
    float: "a number",
    type(None): "null",
}


def is_comment(key: str) -> bool:
    """Keys a person may add anywhere."""
    return key.startswith(("_", "//")) or key == "$schema"


def decode(value: Any, kind: Any, found: Findings, keys: Path = ()) -> Any:
    """`value` as a `kind`, or INVALID once every problem in it is in `found`."""
    return _decoder(kind)(value, keys, found)


@cache
def _decoder(kind: Any) -> Decoder:
    """How to decode one type. Cached, so the model is examined once."""
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType) and type(None) in args:
        return _optional(Union[tuple(arg for arg in args if arg is not type(None))])  # noqa: UP007 - made of a tuple
    if origin in (Union, types.UnionType):
        return _number_or_word(kind, *args) if get_origin(args[-1]) is Literal else _either(args)
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return lambda value, keys, found: _struct(kind, value, keys, found)
    if origin is list:
        return _list(args[0])
    if origin is dict:
        return _mapping(args[1])
    if origin is Literal:
        return _choice(kind, args)
    return _plain if kind is Any else _leaf(kind)


def _expected(what: str, value: Any) -> str:
    return f"expected {what}, got {_NAMES.get(type(value), type(value).__name__)}"


def _optional(inner: Any) -> Decoder:
    plain = _decoder(inner)
    return lambda value, keys, found: None if value is None else plain(value, keys, found)


# ---- objects


class _Field(NamedTuple):
    name: str
    decoder: Decoder
    required: bool
    nullable: bool


@cache
def _fields(kind: type[msgspec.Struct]) -> dict[str, _Field]:
    """By the name in the file."""
    return {
        info.encode_name: _Field(info.name, _decoder(info.type), info.required, type(None) in get_args(info.type))
        for info in msgspec.structs.fields(kind)
    }


def _struct(kind: type[msgspec.Struct], value: Any, keys: Path, found: Findings) -> Any:
    if not isinstance(value, dict):
        found.error(keys, _expected("an object", value))
        return INVALID
    fields = _fields(kind)
    arguments: dict[str, Any] = {}
    for key, item in value.items():
        field = fields.get(key)
        if field is None:
            if not is_comment(key):
                found.error((*keys, key), lambda key=key: _unknown(kind, key))  # type: ignore[misc]
                arguments[key] = INVALID
        elif item is not None or field.nullable or field.required:
            arguments[field.name] = field.decoder(item, (*keys, key), found)
    missing = [key for key, field in fields.items() if field.required and field.name not in arguments]
    for key in missing:
        found.error(keys, f"the key '{key}' is missing")
    if missing or any(argument is INVALID for argument in arguments.values()):
        return INVALID
    return kind(**arguments)


@lru_cache(1024)
def _unknown(kind: type[msgspec.Struct], key: str) -> str:
    near = difflib.get_close_matches(key[:64], _fields(kind), n=1)
    return f"unknown key '{key[:64]}'" + (f", did you mean '{near[0]}'?" if near else "")


def _mapping(item: Any) -> Decoder:
    """Names of the user's own, to values of one type."""
    decoder = _decoder(item)

    def decode_mapping(value: Any, keys: Path, found: Findings) -> Any:
        if not isinstance(value, dict):
            found.error(keys, _expected("an object", value))
            return INVALID
        made = {str(key): decoder(element, (*keys, key), found) for key, element in value.items()}
        return INVALID if any(element is INVALID for element in made.values()) else made

    return decode_mapping


def _plain(value: Any, _keys: Path, _found: Findings) -> Any:
    """Any JSON there is, as it stands."""
    if isinstance(value, dict):
        return {str(key): _plain(item, _keys, _found) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item, _keys, _found) for item in value]
    return str(value) if type(value) is Expanded else value


# ---- lists, choices, leaves


def _either(kinds: tuple[Any, ...]) -> Decoder:
    """Several types that differ in what they look like in a file: an object, a list, a text, a number."""
    shapes = {_shape(kind): kind for kind in kinds}
    assert len(shapes) == len(kinds), f"{kinds} cannot be told apart"
    expected = " or ".join(_NAMES[shape] for shape in shapes)

    def decode_either(value: Any, keys: Path, found: Findings) -> Any:
        shape = str if type(value) is Expanded else type(value)
        if shape is int and int not in shapes:
            shape = float
        if shape in shapes:
            return _decoder(shapes[shape])(value, keys, found)
        found.error(keys, _expected(expected, value))
        return INVALID

    return decode_either


def _shape(kind: Any) -> type:
    """What a value of this type is in a file."""
    origin = get_origin(kind)
    if origin is Annotated:
        return _shape(get_args(kind)[0])
    if origin is Literal:
        return str
    shape: type = kind if origin is None else origin
    return dict if issubclass(shape, msgspec.Struct) else shape


def _list(item: Any) -> Decoder:
    decoder = _decoder(item)

    def decode_list(value: Any, keys: Path, found: Findings) -> Any:
        if not isinstance(value, list):
            found.error(keys, _expected("a list", value))
            return INVALID
        made = [decoder(element, (*keys, at), found) for at, element in enumerate(value)]
        return INVALID if any(element is INVALID for element in made) else made

    return decode_list


def _choice(kind: Any, choices: tuple[str, ...]) -> Decoder:
    allowed = frozenset(choices)

    def decode_choice(value: Any, keys: Path, found: Findings) -> Any:
        if isinstance(value, str) and value in allowed:
            return str(value)
        found.error(keys, _bad_choice(kind, choices, value) if isinstance(value, str) else _expected("a string", value))
        return INVALID

    return decode_choice


def _bad_choice(kind: Any, choices: tuple[str, ...], value: str) -> str:
    noun = "Invalid HTTP method" if kind is Method else "unknown value"
    folded = {choice.lower(): choice for choice in choices}
    near = difflib.get_close_matches(value[:64].lower(), folded, n=1)
    hint = f", did you mean '{folded[near[0]]}'?" if near else ""
    return f"{noun}: {value[:64]!r}{hint} (one of {', '.join(choices)})"


def _number_or_word(kind: Any, number: Any, words: Any) -> Decoder:
    """A number within bounds, or one of a few names."""
    expected = f"must be {_bounds(number)}, or one of {', '.join(get_args(words))}"

    def decode_either(value: Any, keys: Path, found: Findings) -> Any:
        try:
            if type(value) is Expanded:
                return msgspec.convert(str(value), kind, strict=False)
            return msgspec.convert(value, kind)
        except msgspec.ValidationError:
            found.error(keys, expected)
        return INVALID

    return decode_either


def _leaf(kind: Any) -> Decoder:
    base = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    name = _NAMES.get(base, str(base))
    bounds = _bounds(kind)

    def decode_leaf(value: Any, keys: Path, found: Findings) -> Any:
        try:
            if type(value) is Expanded:
                made = msgspec.convert(str(value), kind, strict=False)
            else:
                made = msgspec.convert(value, kind)
            if type(made) is str:
                made.encode()  # half of a surrogate pair is no text
            elif isinstance(made, float | int) and not (math.isfinite(made) and abs(made) < _INT64):
                raise OverflowError
        except UnicodeEncodeError:
            found.error(keys, "holds a lone surrogate, which is not text")
        except (msgspec.ValidationError, OverflowError):
            if type(value) is Expanded and base is not str:
                found.error(keys, f"what it stands for is not {name}" + (f" {bounds}" if base is not bool else ""))
            elif isinstance(value, bool) or not isinstance(value, base if base is not float else (float, int)):
                found.error(keys, _expected(name, value))
            else:
                found.error(keys, f"must be {bounds}")
        else:
            return made
        return INVALID

    return decode_leaf


def _bounds(kind: Any) -> str:
    """The range of a number in words, or the form of a text."""
    meta = next((arg for arg in get_args(kind) if isinstance(arg, msgspec.Meta)), msgspec.Meta())
    if meta.pattern is not None:
        return f"a text that matches {meta.pattern}" + (
            f", of at most {meta.max_length} characters" if meta.max_length else ""
        )
    low, high = meta.ge, meta.le
    if low is not None and high is not None:
        return f"between {low} and {high}"
    if meta.gt is not None:
        return f"greater than {meta.gt}" + (f" and at most {high}" if high is not None else "")
    return f"at least {low}" if low is not None else "a finite number of at most 64 bits"
