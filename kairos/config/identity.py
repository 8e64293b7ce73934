"""Which item of one list is which of another: routes by path, methods and hosts, backends by address, others by name.

Plain values in, indexes out. What an item is called decides, never where it stands; where that leaves it open, equal
content does.
"""

from __future__ import annotations

import json
from difflib import SequenceMatcher
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterator, Sequence

_NAMES = ("id", "name", "kid", "key_hash", "issuer", "username", "network", "url", "path", "in")
"""Keys that tell items of one list apart, best first."""


def same(one: Any, other: Any) -> bool:
    """Whether two plain values say the same: 1, 1.0 and true are three, the order of keys is none."""
    if type(one) is not type(other) and not (isinstance(one, str) and isinstance(other, str)):
        return False
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(item, other[key]) for key, item in one.items())
    if isinstance(one, list):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def route_identity(route: Any) -> Hashable:
    """A route by what it serves; the order of methods and hosts does not matter."""
    return "route", _text(route.get("external_path")), _set(route.get("methods")), _set(route.get("hosts"))


def identity(item: Any) -> Hashable:
    """What an item of a list is called; its content where it has no name."""
    if isinstance(item, dict):
        if "external_path" in item:
            return route_identity(item)
        if "host" in item:
            return "host", _text(item["host"]), _text(item.get("port"))
        for name in _NAMES:
            if isinstance(item.get(name), str):
                return name, item[name]
    return _text(item)


def kin(item: Any) -> Hashable:
    """A wider identity: the path of a route alone, the host of a backend alone."""
    if isinstance(item, dict):
        for name in ("external_path", "host"):
            if name in item:
                return name, _text(item[name])
    return identity(item)


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)


def _set(values: Any) -> str:
    return _text(sorted(values, key=str) if isinstance(values, list) else values)


def matched(old: Sequence[Any], new: Sequence[Any], *, by_place: bool = False) -> list[int | None]:
    """For each item of `new` which of `old` it was, each once. `by_place`: what is left over is what stood there."""
    found: list[int | None] = [None] * len(new)
    free = set(range(len(old)))
    for rule in _rules(old, new):
        _match(old, new, rule, found, free)
    if by_place:
        for at, item in enumerate(new):
            if found[at] is None and at in free and isinstance(item, dict) and isinstance(old[at], dict):
                found[at] = at
                free.discard(at)
    return found


def _rules(old: Sequence[Any], new: Sequence[Any]) -> tuple[Callable[[Any], Hashable], ...]:
    """By content first only where names leave it open: that costs the most."""
    told_apart = all(len(set(map(identity, items))) == len(items) for items in (old, new))
    return (identity, kin) if told_apart else (_text, identity, kin)


def _match(
    old: Sequence[Any], new: Sequence[Any], rule: Callable[[Any], Hashable], found: list[int | None], free: set[int]
) -> None:
    waiting: dict[Hashable, list[int]] = {}
    for at in sorted(free, reverse=True):
        waiting.setdefault(rule(old[at]), []).append(at)
    for at, item in enumerate(new):
        places = waiting.get(rule(item)) if found[at] is None else None
        if places:
            found[at] = places.pop()
            free.discard(found[at])


class Step(NamedTuple):
    """How one list becomes another, in order: keep or change (both), take out (old alone), put in (new alone)."""

    old: int | None
    new: int | None


def aligned(old: Sequence[Any], new: Sequence[Any]) -> Iterator[Step]:
    """The steps from one list to another that leave as much as possible in place."""
    names = [identity(item) for item in old], [identity(item) for item in new]
    for _, first, last, begin, end in SequenceMatcher(None, *names, autojunk=False).get_opcodes():
        both = min(last - first, end - begin)
        yield from (Step(first + at, begin + at) for at in range(both))
        yield from (Step(at, None) for at in range(first + both, last))
        yield from (Step(None, at) for at in range(begin + both, end))
