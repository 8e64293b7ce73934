"""Structured fields (RFC 9651): dictionaries of items and inner lists, strictly parsed and canonically written.

Values are int, float, str, Token, bytes and bool; dates and display strings are not read. An item is (value,
parameters), an inner list an item whose value is a list of items.
"""

from __future__ import annotations

import base64
import binascii
import re
from typing import Any

Value = Any
"""int, float, str, Token, bytes, bool, or a list of Items."""
Parameters = dict[str, Value]
Item = tuple[Value, Parameters]

_SPACES = re.compile(r" *")
_COMMA = re.compile(r"[ \t]*,[ \t]*")
_KEY = re.compile(r"[a-z*][a-z0-9_.*-]*")
_NUMBER = re.compile(r"-?(?:\d{1,12}\.\d{1,3}|\d{1,15})(?![\d.])")
_STRING = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])*)"')
_TOKEN = re.compile(r"[A-Za-z*][!#$%&'*+.^_`|~0-9A-Za-z:/-]*")
_BYTES = re.compile(r":([A-Za-z0-9+/]*={0,2}):")
_BOOLEAN = re.compile(r"\?([01])")


class StructureError(ValueError):
    """A text that is no such field."""


class Token(str):
    """A bare word, as opposed to a quoted string."""

    __slots__ = ()


def parse_dictionary(text: str) -> dict[str, Item]:
    """A dictionary field; of a key that is there twice the last one counts, as the RFC has it.

    Raises:
        StructureError: it is none.
    """
    return _Scanner(text).dictionary()


class _Scanner:
    def __init__(self, text: str) -> None:
        self.text = text.strip(" ")
        self.at = 0

    def take(self, pattern: re.Pattern[str]) -> re.Match[str] | None:
        found = pattern.match(self.text, self.at)
        if found is not None:
            self.at = found.end()
        return found

    def skip(self, character: str) -> bool:
        if not self.text.startswith(character, self.at):
            return False
        self.at += 1
        return True

    def fail(self, wanted: str) -> StructureError:
        return StructureError(f"{wanted} expected at character {self.at + 1}")

    def dictionary(self) -> dict[str, Item]:
        members: dict[str, Item] = {}
        while self.at < len(self.text):
            if members and self.take(_COMMA) is None:
                raise self.fail("a comma")
            key = self.key()
            members[key] = self.member() if self.skip("=") else (True, self.parameters())
        return members

    def key(self) -> str:
        found = self.take(_KEY)
        if found is None:
            raise self.fail("a key")
        return found[0]

    def member(self) -> Item:
        if not self.skip("("):
            return self.item()
        items: list[Item] = []
        while True:
            spaces = self.take(_SPACES)
            if self.skip(")"):
                return items, self.parameters()
            if items and not (spaces and spaces[0]):
                raise self.fail("a space or ')'")
            items.append(self.item())

    def item(self) -> Item:
        return self.bare(), self.parameters()

    def parameters(self) -> Parameters:
        found: Parameters = {}
        while self.skip(";"):
            self.take(_SPACES)
            key = self.key()
            found[key] = self.bare() if self.skip("=") else True
        return found

    def bare(self) -> Value:
        if found := self.take(_STRING):
            return re.sub(r"\\(.)", r"\1", found[1])
        if found := self.take(_NUMBER):
            return float(found[0]) if "." in found[0] else int(found[0])
        if found := self.take(_BYTES):
            return self._decoded(found[1])
        if found := self.take(_BOOLEAN):
            return found[1] == "1"
        if found := self.take(_TOKEN):
            return Token(found[0])
        raise self.fail("a value")

    def _decoded(self, text: str) -> bytes:
        try:
            return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
        except binascii.Error:
            raise self.fail("base64") from None


def write_item(item: Item) -> str:
    """The canonical text of an item or inner list, with its parameters."""
    value, parameters = item
    text = "(" + " ".join(map(write_item, value)) + ")" if isinstance(value, list) else write_bare(value)
    return text + "".join(
        f";{key}" if given is True else f";{key}={write_bare(given)}" for key, given in parameters.items()
    )


def write_bare(value: Value) -> str:
    """The canonical text of a value."""
    if isinstance(value, bool):
        return f"?{value:d}"
    if isinstance(value, Token | int):
        return str(value)
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").removesuffix(".") + (".0" if value == int(value) else "")
    if isinstance(value, bytes):
        return f":{base64.b64encode(value).decode()}:"
    return '"' + re.sub(r'(["\\])', r"\\\1", value) + '"'
