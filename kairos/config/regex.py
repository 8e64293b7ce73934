"""Regular expressions that need linear time whatever they are given (RE2), and replacement texts in Rust's spelling.

In a replacement `$1`, `${1}` and `${name}` stand for what a group took, `$$` for `$`. A name is as long as it can be:
`$1x` is the group named `1x`. What names no group, or one that took no part, is empty. Replacements are templates too
(values.py); whoever replaces says what becomes of their values.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from kairos.config.values import Template, Value

MEMORY = 1 << 20
"""Bytes one compiled expression may take; larger ones are refused."""

_CONTINUATION = frozenset(bytes([byte]) for byte in range(0x80, 0xC0))
_REFERENCE = re.compile(rb"\$(?:(\$)|\{([^{}]*)\}|([0-9A-Za-z_]+))")


class Regex:
    """A compiled expression over bytes; text outside ASCII is UTF-8 on both sides."""

    __slots__ = ("_regex", "count", "groups", "pattern")

    def __init__(self, pattern: str) -> None:
        import re2  # not at the top: most configurations have no expression, and the library costs 10 ms

        options = re2.Options()
        options.log_errors = False
        options.max_mem = MEMORY
        try:
            self._regex = re2.compile(pattern.encode(), options)
        except re2.error as error:
            raise ValueError(_problem(pattern, error)) from None
        self.pattern = pattern
        self.count: int = self._regex.groups
        self.groups = {name.decode(): index for name, index in self._regex.groupindex.items()}

    def search(self, text: bytes) -> bool:
        """Whether it matches somewhere in the text."""
        return self._regex.search(text) is not None

    def takes(self, text: bytes) -> bool:
        """Whether it matches the whole text."""
        return self._regex.fullmatch(text) is not None

    def replace(
        self, text: bytes, replacement: Replacement, limit: int = 0, fill: Callable[[Value], bytes] | None = None
    ) -> bytes:
        """The text with its first `limit` matches (0: with all of them) replaced; `fill` gives values of templates."""
        pieces: list[bytes] = []
        last = 0
        for count, match in enumerate(self._matches(text)):
            if limit and count == limit:
                break
            pieces += text[last : match.start()], replacement.expand(match, fill)
            last = match.end()
        return b"".join([*pieces, text[last:]]) if pieces else text

    def _matches(self, text: bytes) -> Iterator[re.Match[bytes]]:
        """As Rust counts them: no empty one behind another match, none within a character."""
        end = -1
        for match in self._regex.finditer(text):
            start = match.start()
            if match.end() > start or (start != end and text[start : start + 1] not in _CONTINUATION):
                yield match
            end = match.end()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Regex) and other.pattern == self.pattern

    def __hash__(self) -> int:
        return hash(self.pattern)

    def __repr__(self) -> str:
        return f"Regex({self.pattern!r})"


def _problem(pattern: str, error: Exception) -> str:
    """RE2 names the part that is wrong; where it stands is for us to find."""
    text = error.args[0].decode(errors="replace") if error.args else "cannot be compiled"
    message, _, part = text.partition(": ")
    at = pattern.find(part) if part else -1
    place = f" at character {at + 1}" if at >= 0 else ""
    return f"no regular expression: {text if place else message}{place}"


class Replacement:
    """What a match is replaced by."""

    __slots__ = ("_parts", "missing")

    def __init__(self, template: Template, regex: Regex) -> None:
        self.missing: list[str] = []
        """Groups it names that the expression does not have."""
        self._parts = tuple(self._read(template, regex))

    @property
    def values(self) -> list[Value]:
        """What it takes beside groups."""
        return [part for part in self._parts if isinstance(part, tuple)]

    def _read(self, template: Template, regex: Regex) -> Iterator[bytes | int | Value]:
        for part in template.parts:
            if isinstance(part, str):
                yield from self._text(part.encode(), regex)
            else:
                yield part

    def _text(self, text: bytes, regex: Regex) -> Iterator[bytes | int]:
        at = 0
        for found in _REFERENCE.finditer(text):
            yield text[at : found.start()]
            at = found.end()
            if found[1]:
                yield b"$"
                continue
            name = (found[3] if found[2] is None else found[2]).decode(errors="replace")
            group = self._group(name, regex)
            if group is not None:
                yield group
        yield text[at:]

    def _group(self, name: str, regex: Regex) -> int | None:
        index = int(name) if name.isascii() and name.isdigit() and len(name) < 6 else regex.groups.get(name)
        if index is None or index > regex.count:
            self.missing.append(name)
            return None
        return index

    def expand(self, match: re.Match[bytes], fill: Callable[[Value], bytes] | None = None) -> bytes:
        """For one match."""
        return b"".join([self._part(part, match, fill) for part in self._parts])

    def _part(self, part: bytes | int | Value, match: re.Match[bytes], fill: Callable[[Value], bytes] | None) -> bytes:
        if isinstance(part, bytes):
            return part
        if isinstance(part, int):
            return match[part] or b""
        return b"" if fill is None else fill(part)
