"""Patterns that match some of the same paths, where Kairos takes another route than kairos-rs took.

Kairos prefers literal text from the left and does not look at the order of routes; kairos-rs took the most parameters,
then the first in the file. Pairs are compared, so only tables of up to MAX_ROUTES patterns are searched.
"""

from __future__ import annotations

from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from kairos._speedups.patterns import mixed_rank

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kairos._speedups.patterns import Pattern, Segment

MAX_ROUTES = 300


class Candidate(NamedTuple):
    """A route with parameters."""

    number: int
    """In the list of routes."""
    pattern: Pattern
    methods: frozenset[str]
    hosts: frozenset[str]


def surprises(candidates: list[Candidate]) -> Iterator[tuple[Candidate, Candidate]]:
    """Pairs of (winner, the one that kairos-rs took)."""
    if len(candidates) > MAX_ROUTES:
        return
    groups: dict[int, list[Candidate]] = {}
    for candidate in candidates:
        if not candidate.pattern.tail:  # kairos-rs had none
            groups.setdefault(len(candidate.pattern.segments), []).append(candidate)
    for group in groups.values():
        for one, other in combinations(group, 2):
            if _meet(one, other) and _prefers_first(one, other) == _preferred_other(one, other):
                yield (one, other) if _prefers_first(one, other) else (other, one)


def _meet(one: Candidate, other: Candidate) -> bool:
    """Whether some request may match both, and they are not the same pattern."""
    hosts_meet = not one.hosts or not other.hosts or one.hosts & other.hosts
    if not (one.methods & other.methods and hosts_meet):
        return False
    segments = list(zip(one.pattern.segments, other.pattern.segments, strict=True))
    return one.pattern.segments != other.pattern.segments and all(_segments_meet(*pair) for pair in segments)


def _segments_meet(one: Segment, other: Segment) -> bool:
    """Compares the literal ends only: enough for a warning."""
    (head, tail), (other_head, other_tail) = _ends(one), _ends(other)
    if isinstance(one, bytes) and isinstance(other, bytes):
        return one == other
    heads = head.startswith(other_head) or other_head.startswith(head)
    return heads and (tail.endswith(other_tail) or other_tail.endswith(tail))


def _ends(segment: Segment) -> tuple[bytes, bytes]:
    if segment is None:
        return b"", b""
    return (segment, segment) if isinstance(segment, bytes) else (segment[0], segment[-1])


def _prefers_first(one: Candidate, other: Candidate) -> bool:
    """What `routes.pyx` does: the more specific segment, from the left."""
    return [*map(_rank, one.pattern.segments)] < [*map(_rank, other.pattern.segments)]


def _rank(segment: Segment) -> tuple[object, ...]:
    """Literal, mixed, whole parameter."""
    if isinstance(segment, bytes):
        return (0,)
    return (2,) if segment is None or segment == (b"", b"") else (1, *mixed_rank(segment))


def _preferred_other(one: Candidate, other: Candidate) -> bool:
    """Whether kairos-rs took the second: more parameters, or the file's order."""
    return len(other.pattern.names) > len(one.pattern.names)
