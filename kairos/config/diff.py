"""What is different between two configurations: as a list for programs, as lines for people. Secrets stay masked.

Routes are told apart by path, methods and hosts, other items by their names, wherever they stand: only where order
matters (plugins, rules) is another order a difference. Takes documents in canonical spelling, references unresolved.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from msgspec import UNSET, Struct, UnsetType

from kairos.config.documents import joined
from kairos.config.identity import matched, same
from kairos.config.linediff import unified
from kairos.config.mask import MASK, masked_plain
from kairos.config.writing import dumps, without_needless_nulls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kairos.config.problems import Path

Plain = dict[str, Any]
CHANGED = f"{MASK} (changed)"


class Difference(Struct, frozen=True):
    """One value that is there, gone or another."""

    op: Literal["add", "remove", "replace"]
    path: str
    """JSON pointer: into the new document, or the old one for what is removed."""
    before: Any = UNSET
    after: Any = UNSET
    route: str | UnsetType = UNSET
    """Methods and path of the route it is in."""


def differences(before: Plain, after: Plain) -> list[Difference]:
    """Everything that differs, in the order of the documents."""
    return [_told(found) for found in _found(*_prepared(before, after))]


def text_diff(before: Plain, after: Plain, names: tuple[str, str] = ("before", "after"), context: int = 3) -> str:
    """A unified diff of the masked documents in YAML; empty where they say the same."""
    before, after, old, new = _prepared(before, after)
    for found in _found(before, after, old, new):
        if found.before == MASK and found.after == MASK:
            _put(new, found.keys, CHANGED)
    new = _in_order_of(new, old)
    return "".join(unified(_lines(old), _lines(new), names, context))


def _lines(document: Plain) -> list[str]:
    return dumps(document, "yaml").splitlines(keepends=True) if document else []


class _Found(Struct, frozen=True):
    keys: Path
    before: Any
    after: Any
    route: str


_NOTHING: Any = object()


def _prepared(before: Plain, after: Plain) -> tuple[Plain, Plain, Plain, Plain]:
    """What is compared, and the same masked."""
    before, after = without_needless_nulls(before), without_needless_nulls(after)
    return before, after, masked_plain(before), masked_plain(after)


def _found(before: Plain, after: Plain, shown: Plain, shows: Plain) -> Iterator[_Found]:
    return _members((), before, after, shown, shows, "")


def _told(found: _Found) -> Difference:
    op: Literal["add", "remove", "replace"] = (
        "add" if found.before is _NOTHING else "remove" if found.after is _NOTHING else "replace"
    )
    before = UNSET if found.before is _NOTHING else found.before
    after = UNSET if found.after is _NOTHING else found.after
    return Difference(op, joined("", *found.keys), before, after, found.route or UNSET)


def _members(keys: Path, old: Plain, new: Plain, shown: Any, shows: Any, route: str) -> Iterator[_Found]:
    for key in [*old, *(key for key in new if key not in old)]:
        here = (*keys, key)
        if key not in new:
            yield _Found(here, shown[key], _NOTHING, route)
        elif key not in old:
            yield _Found(here, _NOTHING, shows[key], route)
        else:
            yield from _values(here, old[key], new[key], shown[key], shows[key], route)


def _values(keys: Path, old: Any, new: Any, shown: Any, shows: Any, route: str) -> Iterator[_Found]:
    if same(old, new):
        return
    hidden = type(shown) is not type(old) or type(shows) is not type(new)
    if not hidden and isinstance(old, dict) and isinstance(new, dict):
        yield from _members(keys, old, new, shown, shows, route)
    elif not hidden and isinstance(old, list) and isinstance(new, list) and _by_item(keys, old, new):
        yield from _items(keys, old, new, shown, shows, route)
    else:
        yield _Found(keys, shown, shows, route)


def _by_item(keys: Path, old: list[Any], new: list[Any]) -> bool:
    """Whether two lists of objects can be compared item by item: always routes, others unless their order changed."""
    if not all(isinstance(item, dict) for item in [*old, *new]):
        return False
    places = [place for place in matched(old, new) if place is not None]
    return keys == ("routers",) or (places == sorted(places) and bool(places or not old or not new))


def _items(keys: Path, old: list[Any], new: list[Any], shown: Any, shows: Any, route: str) -> Iterator[_Found]:
    places = matched(old, new)
    for at in sorted(set(range(len(old))) - set(places)):
        yield _Found((*keys, at), shown[at], _NOTHING, route or _route(old[at]))
    for at, place in enumerate(places):
        here, within = (*keys, at), route or _route(new[at])
        if place is None:
            yield _Found(here, _NOTHING, shows[at], within)
        else:
            yield from _values(here, old[place], new[at], shown[place], shows[at], within)


def _route(item: Plain) -> str:
    path = item.get("external_path")
    methods = item.get("methods")
    return f"{','.join(map(str, methods)) if isinstance(methods, list) else '*'} {path}" if path else ""


def _put(document: Any, keys: Path, value: Any) -> None:
    for key in keys[:-1]:
        document = document[key]
    document[keys[-1]] = value


def _in_order_of(new: Any, old: Any, keys: Path = ()) -> Any:
    """Keys and routes in the old document's order, as far as it has them: their order means nothing."""
    if same(old, new):
        return old
    if isinstance(new, dict) and isinstance(old, dict):
        return {
            key: _in_order_of(new[key], old.get(key), (*keys, key))
            for key in [*old, *(key for key in new if key not in old)]
            if key in new
        }
    if not isinstance(new, list) or not isinstance(old, list):
        return new
    routes = _routes_in_order(new, old) if keys == ("routers",) else new
    pairs = zip(routes, matched(old, routes), strict=True)
    return [item if at is None else _in_order_of(item, old[at], (*keys, at)) for item, at in pairs]


def _routes_in_order(routes: list[Any], held: list[Any]) -> list[Any]:
    """Those that were there first; each new one behind what it stands behind now."""
    places = matched(held, routes)
    ranks: list[tuple[int, int]] = []
    last = -1
    for at, place in enumerate(places):
        last = place if place is not None else last
        ranks.append((last, at if place is None else -1))
    return [routes[at] for at in sorted(range(len(routes)), key=ranks.__getitem__)]
