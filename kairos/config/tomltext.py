"""TOML edited in place: a text is statements (headers and pairs), each with the path of what it says.

A table is all statements below its path, wherever they stand. What is added goes behind the last of them: pairs below
their header, tables after the tables. Values in brackets are edited as in every format.
"""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from kairos.config.bracketed import Editor, TooFineError, renamed, steps
from kairos.config.identity import same
from kairos.config.spans import Member, Node
from kairos.config.writing import is_table, is_tables, toml_key, toml_line, toml_lines

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kairos.config.problems import Path

Plain = dict[str, Any]


def rewritten(text: str, held: Plain, wanted: Plain, levels: int | None = None) -> str:
    """
    Raises:
        TooFineError: there is no way to do it in place.
    """
    editor = TomlEditor(text, levels)
    editor.table((), held, wanted)
    return editor.made()


# ---- reading

_SPACE = re.compile(r"(?:[ \t\r\n]|#[^\n]*)*")
_KEY = r"""(?:[\w-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')"""
_ONE_KEY = re.compile(_KEY)
_KEYS = re.compile(rf"{_KEY}(?:[ \t]*\.[ \t]*{_KEY})*")
_EQUALS = re.compile(r"[ \t]*=[ \t]*")
_PLAIN_VALUE = re.compile(
    r'"""(?s:(?:[^"\\]|\\.|"{1,2}(?!"))*)"{3,5}'
    r"|'''(?s:(?:[^']|'{1,2}(?!'))*)'{3,5}"
    r'|"(?:[^"\\\n]|\\.)*"'
    r"|'[^'\n]*'"
    r"|[^,\]}#\s]+(?: \d\d:[^,\]}#\s]+)?"  # a date may have a blank before its time
)


@dataclass(slots=True)
class Statement:
    """A header or a pair."""

    path: Path
    """Of the table or value, with the numbers of array tables in it."""
    section: Path
    """The table whose header stands above a pair; of a header itself: its own."""
    start: int
    keys_end: int
    end: int
    value: Node | None = None
    """Of a pair."""


class _Reader:
    """Takes a text apart that `tomllib` has accepted."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.counts: dict[Path, int] = {}
        """Array table → number of its last."""

    def statements(self) -> Iterator[Statement]:
        section: Path = ()
        at = self._skip(0)
        while at < len(self.text):
            statement = self._header(at) if self.text[at] == "[" else self._pair(at, section)
            section = statement.section
            yield statement
            at = self._skip(statement.end)

    def _skip(self, at: int) -> int:
        found = _SPACE.match(self.text, at)
        assert found is not None
        return found.end()

    def _names(self, at: int) -> tuple[tuple[str, ...], int]:
        found = _KEYS.match(self.text, at)
        if found is None:
            raise TooFineError
        return _names_of(found[0]), found.end()

    def _header(self, start: int) -> Statement:
        opening = "[[" if self.text.startswith("[[", start) else "["
        names, at = self._names(self._skip(start + len(opening)))
        end = self.text.index("]", at) + len(opening)
        path: Path = ()
        for number, name in enumerate(names):
            path = (*path, name)
            if opening == "[[" and number == len(names) - 1:
                self.counts[path] = self.counts.get(path, -1) + 1
            if path in self.counts:
                path = (*path, self.counts[path])
        return Statement(path, path, start, at, end)

    def _pair(self, start: int, section: Path) -> Statement:
        names, at = self._names(start)
        node = self._value(self._equals(at))
        return Statement((*section, *names), section, start, at, node.end, node)

    def _equals(self, at: int) -> int:
        found = _EQUALS.match(self.text, at)
        if found is None:
            raise TooFineError
        return found.end()

    def _value(self, at: int) -> Node:
        if self.text[at] in "[{":
            return self._collection(at)
        found = _PLAIN_VALUE.match(self.text, at)
        if found is None:
            raise TooFineError
        return Node("value", at, found.end())

    def _collection(self, start: int) -> Node:
        node = Node("list" if self.text[start] == "[" else "map", start, start)
        at = self._skip(start + 1)
        while self.text[at] not in "]}":
            member = Member(at, self._value(at)) if node.kind == "list" else self._inline_member(at)
            node.members.append(member)
            at = self._skip(member.end)
            if self.text[at] == ",":
                at = self._skip(at + 1)
        node.end = at + 1
        return node

    def _inline_member(self, start: int) -> Member:
        names, end = self._names(start)
        if len(names) > 1:
            raise TooFineError
        return Member(start, self._value(self._equals(end)), names[0], end)


@lru_cache(1024)
def _names_of(keys: str) -> tuple[str, ...]:
    if re.fullmatch(r"[\w-]+", keys):
        return (keys,)
    names, value = [], tomllib.loads(f"{keys} = 0")
    while isinstance(value, dict):
        ((name, value),) = value.items()
        names.append(name)
    return tuple(names)


# ---- editing


class TomlEditor(Editor):
    """Edits of a TOML text."""

    @cached_property
    def statements(self) -> list[Statement]:
        return list(_Reader(self.text).statements())

    @cached_property
    def _below(self) -> dict[Path, list[Statement]]:
        """Path → the statements at and below it."""
        found: dict[Path, list[Statement]] = {}
        for statement in self.statements:
            for length in range(len(statement.path) + 1):
                found.setdefault(statement.path[:length], []).append(statement)
        return found

    def line(self, value: Any, at: int) -> str:
        return toml_line(value)

    def key(self, key: str) -> str:
        return toml_key(key)

    def member(self, key: str, value: Any, at: int) -> str:
        return f"{toml_key(key)} = {toml_line(value)}"

    def table(self, path: Path, old: Plain, new: Plain) -> None:
        added = {key: item for key, item in new.items() if key not in old}
        for key in old:
            if key not in new and not self._moved(path, key, old, added):
                self._remove((*path, key))
        for key in old:
            if key in new and not same(old[key], new[key]):
                self._change((*path, key), old[key], new[key], added)
        self._add(path, added)

    def _moved(self, path: Path, key: str, old: Plain, added: Plain) -> bool:
        """Write a table or value under another key, if its settings are wanted there."""
        name = renamed(key, old, added)
        if name is None or self._levels is not None:
            return False
        here = (*path, key)
        below, begun = self._below.get(here, []), len(self.edits)
        value = added.pop(name)
        try:
            for statement in below:
                self._rename(statement, sum(isinstance(step, str) for step in here), name)
            if not same(old[key], value):
                self._piecewise(here, old[key], value)
        except TooFineError:
            del self.edits[begun:]
            added[name] = value
            return False
        return True

    def _rename(self, statement: Statement, depth: int, name: str) -> None:
        """Another name at a depth of the path, where the statement spells that out."""
        if statement.value is not None:
            depth -= sum(isinstance(step, str) for step in statement.section)
        spelled = list(_ONE_KEY.finditer(self.text, statement.start, statement.keys_end))
        if depth > 0:
            self.put(*spelled[depth - 1].span(), toml_key(name))

    def _change(self, path: Path, old: Any, new: Any, added: Plain) -> None:
        """Change what stands at a path; where that cannot be, take it out and have it added."""

        def anew() -> None:
            self._remove(path)
            added[str(path[-1])] = new

        self.finely(self._piecewise, anew, path, old, new)

    def _piecewise(self, path: Path, old: Any, new: Any) -> None:
        below = self._below.get(path, [])
        if len(below) == 1 and below[0].path == path and below[0].value is not None:
            if is_table(new) and not isinstance(old, dict):
                raise TooFineError
            self.change(below[0].value, old, new)
        elif is_table(new) and isinstance(old, dict):
            self.table(path, old, new)
        elif is_tables(new) and isinstance(old, list):
            self._tables(path, old, new)
        else:
            raise TooFineError

    def _tables(self, path: Path, old: list[Any], new: list[Any]) -> None:
        before: int | None = None
        for step in steps(old, new):
            if step.old is None:
                self._insert_table(path, before, new[step.new or 0])
                continue
            before = step.old
            if step.new is None:
                self._remove((*path, step.old))
            elif not same(old[step.old], new[step.new]):
                self.table((*path, step.old), old[step.old], new[step.new])

    def _insert_table(self, path: Path, before: int | None, value: Plain) -> None:
        lines = list(_within(path[:-1], {str(path[-1]): [value]}))
        if before is not None:
            self.append_lines(self._below[*path, before][-1].end, lines)
        else:
            at = self.comments_above(self._below[*path, 0][0].start)
            self.put(at, at, "\n".join([*lines[1:], "", ""]))

    def _remove(self, path: Path) -> None:
        for statement in self._below.get(path, []):
            self.remove_lines(statement.start, statement.end)

    def _add(self, path: Path, added: Plain) -> None:
        tables = {key: item for key, item in added.items() if is_table(item) or is_tables(item)}
        pairs = [self.member(key, item, 0) for key, item in added.items() if key not in tables]
        self._add_pairs(path, pairs)
        for key, item in tables.items():
            below = self._below.get(path)
            if below and path and below[-1].section[: len(path)] != path:
                raise TooFineError  # dotted keys in another table
            self.append_lines(below[-1].end if below else len(self.text), list(_within(path, {key: item})))

    def _add_pairs(self, path: Path, pairs: list[str]) -> None:
        if not pairs:
            return
        own = [statement for statement in self.statements if statement.section == path]
        if own:
            self.append_lines(own[-1].end, pairs)
        elif path:
            raise TooFineError  # there is no header of its own
        elif self.statements:
            at = self.comments_above(self.statements[0].start)
            self.put(at, at, "\n".join([*pairs, "", ""]))
        else:
            self.append_lines(len(self.text), pairs)


def _within(path: Path, value: Plain) -> Iterator[str]:
    names = tuple(toml_key(step) for step in path if isinstance(step, str))
    return toml_lines(value, names)
