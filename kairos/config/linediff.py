"""A unified diff of two long texts in blocks, such as configurations of thousands of routes: its time grows with them.

Blocks (a key of the document, an item of its list) are compared as wholes first, and line by line only where one became
another; what is too long even for that is taken out and put in.
"""

from __future__ import annotations

import re
from difflib import SequenceMatcher
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    Opcode = tuple[str, int, int, int, int]

LINE_BY_LINE = 100_000
"""Pairs of lines up to which two pieces are compared line by line."""

_BEGINS = re.compile(r"\S|  - ")


def unified(old: Sequence[str], new: Sequence[str], names: tuple[str, str], context: int = 3) -> Iterator[str]:
    """The lines of the diff; none where both are the same. Lines end with their newline."""
    groups = [] if old == new else _Aligned(_aligned(old, new)).get_grouped_opcodes(context)
    for number, group in enumerate(groups):
        if number == 0:
            yield f"--- {names[0]}\n"
            yield f"+++ {names[1]}\n"
        first, last = group[0], group[-1]
        yield f"@@ -{_range(first[1], last[2])} +{_range(first[3], last[4])} @@\n"
        for tag, begin, end, there, until in group:
            if tag == "equal":
                yield from (f" {line}" for line in old[begin:end])
            else:
                yield from (f"-{line}" for line in old[begin:end])
                yield from (f"+{line}" for line in new[there:until])


def _range(begin: int, end: int) -> str:
    count = end - begin
    return f"{begin + 1}" if count == 1 else f"{begin + (count > 0)},{count}"


class _Aligned(SequenceMatcher[str]):
    """What belongs together is known."""

    def __init__(self, opcodes: Iterator[Opcode]) -> None:
        super().__init__(None, "", "")
        self._known: list[Opcode] = list(_joined(opcodes))

    def get_opcodes(self) -> list[Opcode]:  # type: ignore[override]
        return self._known


def _joined(opcodes: Iterator[Opcode]) -> Iterator[Opcode]:
    """Neighbours that are both equal, or both not, as one."""
    held: Opcode | None = None
    for opcode in opcodes:
        if held is not None and (held[0] == "equal") == (opcode[0] == "equal"):
            held = (held[0] if held[0] == opcode[0] else "replace", held[1], opcode[2], held[3], opcode[4])
            continue
        if held is not None:
            yield held
        held = opcode
    if held is not None:
        yield held


def _aligned(old: Sequence[str], new: Sequence[str]) -> Iterator[Opcode]:
    one, other = _blocks(old), _blocks(new)
    wholes = ["".join(old[begin:end]) for begin, end in one], ["".join(new[begin:end]) for begin, end in other]
    for tag, begin, end, there, until in SequenceMatcher(None, *wholes).get_opcodes():
        if tag == "equal":
            yield (tag, *_lines_of(one, begin, end), *_lines_of(other, there, until))
        else:
            yield from _by_name(old, new, one, other, (begin, end, there, until))


def _by_name(
    old: Sequence[str],
    new: Sequence[str],
    one: Sequence[tuple[int, int]],
    other: Sequence[tuple[int, int]],
    part: tuple[int, int, int, int],
) -> Iterator[Opcode]:
    """Blocks that begin with the same line became each other; of few, any lines may have."""
    begin, end, there, until = part
    whole = (*_lines_of(one, begin, end), *_lines_of(other, there, until))
    if _few(whole):
        yield from _line_by_line(old, new, whole)
        return
    names = [old[first] for first, _ in one[begin:end]], [new[first] for first, _ in other[there:until]]
    for tag, i, j, k, m in SequenceMatcher(None, *names).get_opcodes():
        if tag == "equal":
            for at in range(j - i):
                both = (*one[begin + i + at], *other[there + k + at])
                yield from _line_by_line(old, new, both) if _few(both) else [("replace", *both)]
        else:
            yield (tag, *_lines_of(one, begin + i, begin + j), *_lines_of(other, there + k, there + m))


def _few(piece: tuple[int, int, int, int]) -> bool:
    return (piece[1] - piece[0]) * (piece[3] - piece[2]) <= LINE_BY_LINE


def _line_by_line(old: Sequence[str], new: Sequence[str], piece: tuple[int, int, int, int]) -> Iterator[Opcode]:
    begin, end, there, until = piece
    for tag, i, j, k, m in SequenceMatcher(None, old[begin:end], new[there:until]).get_opcodes():
        yield (tag, begin + i, begin + j, there + k, there + m)


def _blocks(lines: Sequence[str]) -> list[tuple[int, int]]:
    """Where each begins and ends."""
    begins = [at for at, line in enumerate(lines) if at == 0 or _BEGINS.match(line)]
    return list(zip(begins, [*begins[1:], len(lines)], strict=False))


def _lines_of(blocks: Sequence[tuple[int, int]], begin: int, end: int) -> tuple[int, int]:
    """Of the blocks from `begin` to before `end`; where there are none, the place between."""
    first = blocks[begin][0] if begin < len(blocks) else (blocks[-1][1] if blocks else 0)
    return (first, blocks[end - 1][1]) if end > begin else (first, first)
