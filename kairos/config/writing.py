"""Plain values as text in JSON, YAML or TOML, as people write them: small lists and objects on one line.

What is written reads back as the same values; `syntax.parse` is the judge. TOML knows no null: a key without a value
is left out, which says the same wherever the model has no other default (`needs_null`).
"""

from __future__ import annotations

import json
import re
from functools import cache
from typing import TYPE_CHECKING, Any, get_args

import msgspec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kairos.config.problems import Path
    from kairos.config.syntax import Format

WIDTH = 100
"""A collection that is longer, or holds collections, takes a line for each member."""
INDENT = "  "


class UnwritableError(ValueError):
    """A value that the format cannot say."""

    def __init__(self, message: str, keys: Path = ()) -> None:
        super().__init__(message)
        self.keys = keys


def dumps(value: dict[str, Any], format_: Format) -> str:
    """A whole document.

    Raises:
        UnwritableError: the format has no such value.
    """
    return _WRITERS[format_](value)


# ---- JSON


def json_text(value: Any, indent: str = "", unit: str = INDENT, *, wide: bool = True) -> str:
    """A value whose first line stands behind something that is indented by `indent`; `wide`: lines may be broken."""
    if not wide or not value or not isinstance(value, dict | list):
        return _json_line(value)
    if _small(value) and len(line := _json_line(value)) <= WIDTH - len(indent):
        return line
    inner = indent + unit
    parts = [inner + part for part in _json_parts(value, inner, unit)]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    return f"{opening}\n" + ",\n".join(parts) + f"\n{indent}{closing}"


def _json_parts(value: Any, indent: str, unit: str) -> Iterator[str]:
    if isinstance(value, dict):
        yield from (f"{_json_line(key)}: {json_text(item, indent, unit)}" for key, item in value.items())
    else:
        yield from (json_text(item, indent, unit) for item in value)


def _json_line(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if text.isprintable() else _AWKWARD.sub(_escaped, text)


def _small(value: Any) -> bool:
    """A list of plain values, or an object of few; an object that holds others is none."""
    items = list(value.values()) if isinstance(value, dict) else value
    plain = not any(isinstance(item, dict | list) and item for item in items)
    return plain and (isinstance(value, list) or len(items) <= 3)


_AWKWARD = re.compile(r"[\x7f-\xa0\xad\u061c\u200b-\u200f\u2028-\u202f\u2060-\u206f\ufeff\ufff9-\uffff\ud800-\udfff]")
"""What JSON allows as it is, and other formats or people do not."""


def _escaped(match: re.Match[str]) -> str:
    return f"\\u{ord(match[0]):04x}"


# ---- YAML

_PLAIN = re.compile(r"[A-Za-z/_][\w./*$@%+=~^-]*", re.ASCII)
_WORDS = re.compile(r"(?i:null|true|false|yes|no|on|off|y|n)")


def yaml_line(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{yaml_line(key)}: {yaml_line(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(yaml_line, value)) + "]"
    if isinstance(value, str):
        plain = _PLAIN.fullmatch(value) and not _WORDS.fullmatch(value)
        return str(value) if plain else _json_line(value)
    if isinstance(value, float):
        return _yaml_float(value)
    return json.dumps(value)


def _yaml_float(value: float) -> str:
    """YAML 1.1 wants a dot and the exponent's sign."""
    text = repr(value)
    mantissa, e, exponent = text.partition("e")
    return text if not e else f"{mantissa if '.' in mantissa else mantissa + '.0'}e{exponent}"


def yaml_lines(value: Any) -> list[str]:
    """A collection that is not empty, in block style; each line from the left edge."""
    if isinstance(value, dict):
        return [line for key, item in value.items() for line in yaml_member(key, item)]
    return [line for item in value for line in yaml_item(item)]


def yaml_member(key: str, value: Any) -> list[str]:
    """`key: value`, on as many lines as it takes."""
    name = yaml_line(key)
    if not yaml_block(value):
        return [f"{name}: {yaml_line(value)}"]
    return [f"{name}:", *(INDENT + line for line in yaml_lines(value))]


def yaml_item(value: Any) -> list[str]:
    """`- value`, on as many lines as it takes."""
    lines = yaml_lines(value) if yaml_block(value) else [yaml_line(value)]
    return ["- " + lines[0], *(INDENT + line for line in lines[1:])]


def yaml_block(value: Any) -> bool:
    """Objects are blocks, lists of plain values are lines while they fit."""
    if not value or not isinstance(value, dict | list):
        return False
    if isinstance(value, list):
        return not _small(value) or len(yaml_line(value)) > WIDTH - 20
    return True


# ---- TOML


_BARE = re.compile(r"[\w-]+", re.ASCII)


def toml_key(key: str) -> str:
    return key if _BARE.fullmatch(key) else _json_line(key)


def toml_line(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml_key(key)} = {toml_line(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_line, value)) + "]"
    return repr(value) if isinstance(value, float) else _json_line(value)


def toml_lines(value: dict[str, Any], path: tuple[str, ...] = (), header: str = "") -> Iterator[str]:
    """A table: its plain values below its header, then the tables in it."""
    tables = {key: item for key, item in value.items() if is_table(item) or is_tables(item)}
    plain = {key: item for key, item in value.items() if key not in tables}
    if header and (plain or not tables or header.startswith("[[")):
        yield from ("", header)
    yield from (f"{toml_key(key)} = {toml_line(item)}" for key, item in plain.items())
    for key, item in tables.items():
        inner = (*path, toml_key(key))
        name = ".".join(inner)
        if isinstance(item, dict):
            yield from toml_lines(item, inner, f"[{name}]")
        else:
            for element in item:
                yield from toml_lines(element, inner, f"[[{name}]]")


def is_table(value: Any) -> bool:
    """Whether it is written as a table of its own."""
    return isinstance(value, dict) and bool(value)


def is_tables(value: Any) -> bool:
    """Whether it is written as an array of tables."""
    return isinstance(value, list) and bool(value) and all(map(is_table, value))


def toml_document(value: dict[str, Any]) -> str:
    return "\n".join(toml_lines(without_nulls(value))).lstrip("\n") + "\n"


def without_nulls(value: Any, keys: Path = ()) -> Any:
    """For TOML.

    Raises:
        UnwritableError: a null that means something.
    """
    if isinstance(value, dict):
        for key, item in value.items():
            if item is None and key in needs_null():
                raise UnwritableError("TOML has no null, which this key needs: use JSON or YAML", (*keys, key))
        return {key: without_nulls(item, (*keys, key)) for key, item in value.items() if item is not None}
    if isinstance(value, list):
        if None in value:
            raise UnwritableError("TOML has no null in lists: use JSON or YAML", keys)
        return [without_nulls(item, (*keys, at)) for at, item in enumerate(value)]
    return value


def without_needless_nulls(value: Any) -> Any:
    """Without keys whose null says no more than leaving them out."""
    if isinstance(value, dict):
        kept = {key: item for key, item in value.items() if item is not None or key in needs_null()}
        return {key: without_needless_nulls(item) for key, item in kept.items()}
    return list(map(without_needless_nulls, value)) if isinstance(value, list) else value


@cache
def needs_null() -> frozenset[str]:
    """Keys where null says something else than leaving the key out."""
    from kairos.config.schema import modules

    found = set()
    for module in modules():
        for kind in vars(module).values():
            if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
                found |= {info.encode_name for info in msgspec.structs.fields(kind) if _null_counts(info)}
    return frozenset(found)


def _null_counts(info: msgspec.structs.FieldInfo) -> bool:
    return type(None) in get_args(info.type) and not info.required and info.default is not None


_WRITERS: dict[Format, Callable[[dict[str, Any]], str]] = {
    "json": lambda value: json_text(value) + "\n",
    "yaml": lambda value: "\n".join(yaml_lines(value)) + "\n" if value else "{}\n",
    "toml": toml_document,
}
