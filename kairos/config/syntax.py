"""The bytes of a configuration file as plain values: JSON, YAML or TOML, never more than they say.

JSON may hold `//` and `/* */` comments and trailing commas. Every format refuses what could be read in two ways or
what only looks small: keys given twice, NaN and infinity, YAML tags and alias bombs. Lines are looked up afterwards and
only for the paths that have a problem, so that a good file costs one pass of a C parser.
"""

from __future__ import annotations

import json
import re
import tomllib
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, NoReturn

import yaml

from kairos.config.problems import LIMIT

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from kairos.config.problems import Path

Format = Literal["json", "yaml", "toml"]

FORMATS: dict[str, Format] = {
    ".json": "json",
    ".jsonc": "json",
    ".json5": "json",
    ".yaml": "yaml",
    ".yml": "yaml",
    ".toml": "toml",
}

MAX_DEPTH = 100
MAX_ALIASED = 1_000_000
"""Values that YAML aliases may stand for in all: a bomb of a few lines stands for billions."""


class FormatError(Exception):
    """Text that is not of its format."""

    def __init__(self, message: str, line: int | None = None, keys: Path = ()) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.keys = keys


class Event(NamedTuple):
    """One step through a document, the same for JSON and YAML."""

    kind: Literal["{", "[", "}", "]", "value"]
    text: str
    """Of a value that may be a key: the key."""
    line: int


def parse(text: str, format_: Format) -> tuple[Any, list[FormatError]]:
    """Plain values of `text`, and the keys that stand twice in it. Raises FormatError."""
    try:
        return _PARSERS[format_](text)
    except RecursionError:
        raise FormatError(f"nested too deeply (more than {MAX_DEPTH} levels)") from None


def locate(text: str, format_: Format, paths: Iterable[Path]) -> dict[Path, int]:
    """The line of each path, or of the nearest thing around it that has one."""
    wanted = {path[:length] for path in paths for length in range(len(path) + 1)}
    return _LINES[format_](text, wanted)


# ---- JSON

_STRING = r'"[^"\\]*+(?:\\.[^"\\]*+)*+(?:"|\Z)'
_COMMENT = r"//[^\n]*+|/\*(?s:.*?)(?:\*/|\Z)"
_JSON_EXTRAS = re.compile(rf"{_STRING}|(?P<comment>{_COMMENT})", re.S)
_JSON_COMMAS = re.compile(rf"{_STRING}|,(?=\s*+[}}\]])", re.S)
_JSON_TOKEN = re.compile(rf'{_STRING}|[{{}}\[\],:]|[^\s{{}}\[\],:"]++', re.S)
_NOT_NEWLINE = re.compile(r"[^\n]")


def _parse_json(text: str) -> tuple[Any, list[FormatError]]:
    doubled = False

    def pairs(items: list[tuple[str, Any]]) -> dict[str, Any]:
        nonlocal doubled
        made = dict(items)
        doubled = doubled or len(made) != len(items)
        return made

    try:
        value = _decode_json(text, pairs)
    except json.JSONDecodeError:
        text = plain_json(text)
        value = _decode_json(text, pairs, final=True)
    return value, _Walk(None).follow(_json_events(text)).doubled if doubled else []


def _decode_json(text: str, pairs: Callable[[list[tuple[str, Any]]], dict[str, Any]], *, final: bool = False) -> Any:
    try:
        return json.loads(text, object_pairs_hook=pairs, parse_constant=_refuse_constant)
    except json.JSONDecodeError as error:
        if not final:
            raise
        raise FormatError(f"{error.msg} (column {error.colno})", error.lineno) from None
    except ValueError as error:  # an integer of thousands of digits
        raise FormatError(str(error).partition(";")[0]) from None


def _refuse_constant(name: str) -> NoReturn:
    raise FormatError(f"{name} is not a number that JSON has")


def plain_json(text: str) -> str:
    """Comments and trailing commas become blanks, so that every character keeps its place."""
    text = _JSON_EXTRAS.sub(_blank_comment, text)
    return _JSON_COMMAS.sub(_blank_comma, text)


def _blank_comment(match: re.Match[str]) -> str:
    found = match[0]
    if match["comment"] is None or (found.startswith("/*") and not found.endswith("*/", 2)):
        return found
    return _NOT_NEWLINE.sub(" ", found)


def _blank_comma(match: re.Match[str]) -> str:
    """A comma is trailing only after a value: `[,]` stays wrong."""
    if match[0] != ",":
        return match[0]
    text, at = match.string, match.start() - 1
    while at >= 0 and text[at].isspace():
        at -= 1
    return "," if at < 0 or text[at] in "[{,:" else " "


def json_tokens(text: str) -> Iterator[re.Match[str]]:
    """Brackets, keys and values of a text that `json` has accepted, comments blanked."""
    return (match for match in _JSON_TOKEN.finditer(text) if match[0] not in ",:")


def _json_events(text: str) -> Iterator[Event]:
    """The steps through a text that `json` has accepted."""
    line, seen = 1, 0
    for match in json_tokens(text):
        token = match[0]
        line += text.count("\n", seen, match.start())
        seen = match.start()
        if token in ("{", "[", "}", "]"):
            yield Event(token, "", line)  # type: ignore[arg-type]
        else:
            yield Event("value", json_key(token), line)


def json_key(token: str) -> str:
    """The text of a key."""
    if "\\" not in token:
        return token.strip('"')
    try:
        return str(json.loads(token, strict=False))
    except ValueError:
        return token


# ---- YAML

try:
    from yaml import CSafeLoader as _Loader
except ImportError:  # libyaml is missing: the same documents, slower
    from yaml import SafeLoader as _Loader  # type: ignore[assignment]

YamlLoader = _Loader
_TAG = "tag:yaml.org,2002:"
MERGE = "<<"
_YAML_PLAIN = {_TAG + "str", _TAG + "timestamp", _TAG + "value"}
"""Read as the text they are: a date is no type of ours."""
_YAML_TYPED = {_TAG + "int", _TAG + "float", _TAG + "bool", _TAG + "null"}


def yaml_steps(loader: YamlLoader) -> Iterator[tuple[yaml.Event, int]]:
    """Parser events with their lines."""
    while loader.check_event():
        event = loader.get_event()
        assert event is not None
        yield event, event.start_mark.line + 1 if event.start_mark else 1


class _Open:
    """A YAML collection being read: its items so far, and how many values it stands for."""

    __slots__ = ("anchor", "items", "line", "mapping", "size")

    def __init__(self, *, mapping: bool, anchor: str | None, line: int) -> None:
        self.mapping = mapping
        self.anchor = anchor
        self.line = line
        self.items: list[Any] = []
        self.size = 1


class _YamlBuilder:
    """Makes values from parser events, without recursion."""

    def __init__(self, text: str) -> None:
        self.loader = YamlLoader(text)
        self.anchors: dict[str, tuple[Any, int] | None] = {}
        """Value and size; none while the anchored collection is still open."""
        self.aliased = 0
        self.doubled = False
        self.stack: list[_Open] = [_Open(mapping=False, anchor=None, line=1)]

    def build(self) -> Any:
        documents = 0
        for event, line in yaml_steps(self.loader):
            documents += isinstance(event, yaml.DocumentStartEvent)
            if documents > 1:
                raise FormatError("more than one document in the file", line)
            self._take(event, line)
        return self.stack[0].items[0] if self.stack[0].items else None

    def _take(self, event: yaml.Event, line: int) -> None:
        if isinstance(event, yaml.ScalarEvent):
            self._add(self._scalar(event, line), 1, event.anchor)
        elif isinstance(event, yaml.CollectionStartEvent):
            self._open(event, line)
        elif isinstance(event, yaml.CollectionEndEvent):
            done = self.stack.pop()
            self._add(self._mapping(done) if done.mapping else done.items, done.size, done.anchor)
        elif isinstance(event, yaml.AliasEvent):
            self._alias(event.anchor or "", line)

    def _open(self, event: yaml.CollectionStartEvent, line: int) -> None:
        mapping = isinstance(event, yaml.MappingStartEvent)
        if event.tag not in (None, "!", _TAG + ("map" if mapping else "seq")):
            raise FormatError(f"the tag {event.tag} is not supported", line)
        if len(self.stack) > MAX_DEPTH:
            raise FormatError(f"nested too deeply (more than {MAX_DEPTH} levels)", line)
        if event.anchor:
            self.anchors[event.anchor] = None
        self.stack.append(_Open(mapping=mapping, anchor=event.anchor, line=line))

    def _add(self, value: Any, size: int, anchor: str | None) -> None:
        if anchor:
            self.anchors[anchor] = value, size
        top = self.stack[-1]
        top.items.append(value)
        top.size += size

    def _alias(self, name: str, line: int) -> None:
        if name not in self.anchors:
            raise FormatError(f"the alias *{name} has no anchor &{name} before it", line)
        known = self.anchors[name]
        if known is None:
            raise FormatError(f"the alias *{name} stands inside what it stands for", line)
        value, size = known
        self.aliased += size
        if self.aliased > MAX_ALIASED:
            raise FormatError(f"aliases stand for more than {MAX_ALIASED} values", line)
        self._add(value, size, None)

    def _scalar(self, event: yaml.ScalarEvent, line: int) -> Any:
        """A key is the text it is written as: `on:` and `80:` are no booleans or numbers here."""
        top = self.stack[-1]
        if top.mapping and len(top.items) % 2 == 0:
            return _MERGE_KEY if event.value == MERGE and event.implicit[0] else event.value
        tag = event.tag
        if tag in (None, "!"):
            tag = self.loader.resolve(yaml.ScalarNode, event.value, event.implicit)  # type: ignore[no-untyped-call]
        if tag in _YAML_PLAIN:
            return event.value
        if tag not in _YAML_TYPED:
            raise FormatError(f"the tag {tag} is not supported", line)
        try:
            return self.loader.construct_object(yaml.ScalarNode(tag, event.value))
        except (ValueError, KeyError, IndexError):
            raise FormatError(f"not a value of type {tag.removeprefix(_TAG)}", line) from None

    def _mapping(self, done: _Open) -> dict[Any, Any]:
        """Explicit keys win over merged ones, earlier merged ones over later (YAML merge key draft)."""
        own: dict[Any, Any] = {}
        merged: dict[Any, Any] = {}
        for key, value in zip(done.items[::2], done.items[1::2], strict=True):
            if key is _MERGE_KEY:
                self._merge(merged, value, done.line)
                continue
            if not isinstance(key, str):
                raise FormatError("a key must be text", done.line)
            self.doubled = self.doubled or key in own
            own[key] = value
        return {**merged, **own}

    def _merge(self, into: dict[Any, Any], value: Any, line: int) -> None:
        for part in value if isinstance(value, list) else [value]:
            if not isinstance(part, dict):
                raise FormatError("<< takes a mapping or a list of mappings", line)
            for key, item in part.items():
                into.setdefault(key, item)


_MERGE_KEY = object()


def _parse_yaml(text: str) -> tuple[Any, list[FormatError]]:
    try:
        builder = _YamlBuilder(text)
        value = builder.build()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise FormatError(error.problem or "not YAML", mark.line + 1 if mark else None) from None
    except yaml.YAMLError as error:
        raise FormatError(" ".join(str(error).split())) from None
    return value, _Walk(None).follow(_yaml_events(text)).doubled if builder.doubled else []


def _yaml_events(text: str) -> Iterator[Event]:
    """The steps through a text that was built once."""
    for event, line in yaml_steps(YamlLoader(text)):
        if isinstance(event, yaml.CollectionStartEvent):
            yield Event("{" if isinstance(event, yaml.MappingStartEvent) else "[", "", line)
        elif isinstance(event, yaml.CollectionEndEvent):
            yield Event("}" if isinstance(event, yaml.MappingEndEvent) else "]", "", line)
        elif isinstance(event, yaml.ScalarEvent):
            yield Event("value", event.value, line)
        elif isinstance(event, yaml.AliasEvent):
            yield Event("value", f"*{event.anchor}", line)


# ---- where things stand, for JSON and YAML


class _Place:
    """A collection being walked: its path (none when nobody asks for it) and what comes next in it."""

    __slots__ = ("index", "key", "key_line", "keys", "path")

    def __init__(self, path: Path | None, *, mapping: bool) -> None:
        self.path = path
        self.keys: dict[str, int] | None = {} if mapping else None
        self.key: str | None = None
        self.key_line = 0
        self.index = -1

    def step(self) -> Path | None:
        """The path of the value that begins now."""
        self.index += 1
        step: str | int = self.index if self.key is None else self.key
        self.key = None
        return None if self.path is None else (*self.path, step)


class _Walk:
    """Follows events: the lines of wanted paths (none: of all), and every key that stands twice."""

    def __init__(self, wanted: set[Path] | None) -> None:
        self.wanted = wanted
        self.lines: dict[Path, int] = {}
        self.doubled: list[FormatError] = []
        self.places: list[_Place] = []

    def follow(self, events: Iterable[Event]) -> _Walk:
        for event in events:
            top = self.places[-1] if self.places else None
            if event.kind in "}]":
                self.places.pop()
            elif top is not None and top.keys is not None and top.key is None:
                self._key(top, event)
            else:
                self._value(top, event)
        return self

    def _key(self, top: _Place, event: Event) -> None:
        top.key, top.key_line = event.text, event.line
        assert top.keys is not None
        first = top.keys.setdefault(event.text, 0)
        if first and len(self.doubled) < LIMIT and top.path is not None:
            message = f"this key stands twice, first on line {first}"
            self.doubled.append(FormatError(message, event.line, (*top.path, event.text)))
        top.keys[event.text] = first or event.line

    def _value(self, top: _Place | None, event: Event) -> None:
        line = event.line if top is None or top.key is None else top.key_line
        path = () if top is None else top.step()
        if self.wanted is not None and path not in self.wanted:
            path = None
        if path is not None:
            self.lines[path] = line
        if event.kind != "value":
            self.places.append(_Place(path, mapping=event.kind == "{"))


def _json_lines(text: str, wanted: set[Path]) -> dict[Path, int]:
    return _Walk(wanted).follow(_json_events(plain_json(text))).lines


def _yaml_lines(text: str, wanted: set[Path]) -> dict[Path, int]:
    return _Walk(wanted).follow(_yaml_events(text)).lines


# ---- TOML

_TOML_AT = re.compile(r"\(at line (\d+), column \d+\)")
_TOML_HEADER = re.compile(r"\s*(\[\[?)\s*([^\]]+?)\s*\]")
_TOML_KEY = re.compile(r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=""")
_TOML_PART = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")


def _parse_toml(text: str) -> tuple[Any, list[FormatError]]:
    try:
        return tomllib.loads(text), []
    except tomllib.TOMLDecodeError as error:
        at = _TOML_AT.search(str(error))
        raise FormatError(_TOML_AT.sub("", str(error)).strip(), int(at[1]) if at else None) from None
    except ValueError as error:
        raise FormatError(str(error).partition(";")[0]) from None


def _toml_lines(text: str, wanted: set[Path]) -> dict[Path, int]:
    """Headers and keys at the start of a line; tomllib does not tell, and what is inside a value stays unfound."""
    lines: dict[Path, int] = {(): 1}
    counts: dict[Path, int] = {}
    table: Path = ()
    for number, line in enumerate(text.split("\n"), 1):
        if header := _TOML_HEADER.match(line):
            table = _toml_table(header[2], counts, array=header[1] == "[[")
            lines.setdefault(table, number)
        elif key := _TOML_KEY.match(line):
            path = table + tuple(_toml_names(key[1]))
            lines.setdefault(path, number)
    return {path: line for path, line in lines.items() if path in wanted}


def _toml_table(header: str, counts: dict[Path, int], *, array: bool) -> Path:
    """The path of a table; an array's tables are counted, and a name inside one means its last."""
    path: Path = ()
    names = _toml_names(header)
    for at, name in enumerate(names):
        path = (*path, name)
        if array and at == len(names) - 1:
            counts[path] = counts.get(path, -1) + 1
        if path in counts:
            path = (*path, counts[path])
    return path


def _toml_names(dotted: str) -> list[str]:
    return [part.strip("\"'") for part in _TOML_PART.findall(dotted)]


_PARSERS: dict[Format, Callable[[str], tuple[Any, list[FormatError]]]] = {
    "json": _parse_json,
    "yaml": _parse_yaml,
    "toml": _parse_toml,
}
_LINES: dict[Format, Callable[[str, set[Path]], dict[Path, int]]] = {
    "json": _json_lines,
    "yaml": _yaml_lines,
    "toml": _toml_lines,
}
