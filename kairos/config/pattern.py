"""Path patterns: `{name}` is one segment or a part of one, `{name:path}` as the last segment the rest of the path.

Names are letters, digits and `_` of any script. Two names in one segment need text between them, as in `/{file}.{ext}`.
"""

from __future__ import annotations

import re
from functools import lru_cache

from msgspec import Struct

_BRACES = re.compile(r"\{([^{}]*)\}")
_NAME = re.compile(r"\w+")


class PatternError(ValueError):
    """A path that is no pattern; the text says why."""


class Pattern(Struct, frozen=True):
    """A parsed external path."""

    shape: str
    """The path with its names left out: two patterns of one shape match the same paths."""
    names: tuple[str, ...]

    @property
    def dynamic(self) -> bool:
        return bool(self.names)


def parse_pattern(path: str) -> Pattern:
    """Raises PatternError."""
    if "{" not in path and "}" not in path:
        return Pattern(path, ())
    names: list[str] = []
    segments = path.split("/")
    shape = "/".join(_segment(part, names, last=at == len(segments) - 1) for at, part in enumerate(segments))
    for name in names:
        if names.count(name) > 1:
            raise PatternError(f"the parameter {{{name}}} is there twice")
    return Pattern(shape, tuple(names))


def _segment(segment: str, names: list[str], *, last: bool) -> str:
    """The shape of one segment; its names are added to `names`."""
    literal = _BRACES.sub("", segment)
    if "{" in literal or "}" in literal:
        raise PatternError(f"a brace in '{segment}' is not closed or not opened")
    if "}{" in segment:
        raise PatternError(f"two parameters touch in '{segment}': put text between them")
    for match in _BRACES.finditer(segment):
        name, is_rest, kind = match[1].partition(":")
        if not _NAME.fullmatch(name):
            raise PatternError(_bad_name(name))
        if is_rest and kind != "path":
            raise PatternError(f"'{match[0]}' is neither {{{name}}} nor {{{name}:path}}")
        if is_rest and (match[0] != segment or not last):
            raise PatternError(f"'{match[0]}' must be the last segment, and all of it")
        names.append(name)
    return _BRACES.sub(lambda match: "{:path}" if ":" in match[1] else "{}", segment)


def _bad_name(name: str) -> str:
    if not name:
        return "a parameter '{}' has no name"
    return f"'{name}' is no name of a parameter: only letters, digits and '_'"


def placeholders(path: str) -> list[str]:
    """What stands in braces in an internal path."""
    return _BRACES.findall(path)


def overlap(one: str, other: str) -> bool:
    """Whether some path may match both shapes (of equally many segments, without a rest)."""
    return all(map(_segments_overlap, one.split("/"), other.split("/")))


@lru_cache(4096)
def _segments_overlap(one: str, other: str) -> bool:
    if "{" not in one and "{" not in other:
        return one == other
    (head, *_, tail), (other_head, *_, other_tail) = _ends(one), _ends(other)
    return (head.startswith(other_head) or other_head.startswith(head)) and (
        tail.endswith(other_tail) or other_tail.endswith(tail)
    )


def _ends(shape: str) -> list[str]:
    """Literal text before the first and after the last parameter; a literal is both of its ends."""
    parts = shape.split("{}")
    return parts if len(parts) > 1 else [shape, shape]
