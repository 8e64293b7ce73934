"""What is changed in a configuration file: sections and routes, by their canonical names, in a text or its values.

The operations take the plain values of a document and give new ones; nothing is resolved, so `${…}` stays what it is.
Whatever spelling the document uses, the outcome means what was asked: an older spelling of what is set goes, comment
keys of what is replaced stay, and a section or route that already says the same stays as it is written. `edited` does
it to a text.
"""

from __future__ import annotations

import difflib
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import msgspec

from kairos.config.decode import INVALID, decode, is_comment
from kairos.config.identity import matched, same
from kairos.config.legacy import normalise
from kairos.config.model import Config, Route
from kairos.config.problems import Findings
from kairos.config.rewriting import rewrite
from kairos.config.syntax import FormatError, parse
from kairos.config.writing import UnwritableError

if TYPE_CHECKING:
    from collections.abc import Callable

    from kairos.config.problems import Path
    from kairos.config.syntax import Format

Plain = dict[str, Any]
Kind = Literal["not_found", "exists", "ambiguous", "invalid", "unreadable", "unwritable"]

_KEEP_ALIVE = ("keep_alive", "keep_alive_secs")


class EditError(Exception):
    """An edit that cannot be made; the document is as it was."""

    def __init__(self, kind: Kind, message: str, keys: Path = (), line: int | None = None) -> None:
        super().__init__(message)
        self.kind = kind
        self.message = message
        self.keys = keys
        self.line = line


def edited(text: str, format_: Format, change: Callable[[Plain], Plain]) -> str:
    """A text after a change of what it holds.

    Raises:
        EditError: it cannot be made.
    """
    try:
        held = document(text, format_)
        return rewrite(text, format_, change(held), held)
    except UnwritableError as error:
        raise EditError("unwritable", str(error), error.keys) from None


def document(text: str, format_: Format) -> Plain:
    """The plain values of a text.

    Raises:
        EditError: it is no document.
    """
    try:
        value, doubled = parse(text, format_)
    except FormatError as error:
        raise EditError("unreadable", error.message, error.keys, error.line) from None
    if doubled:
        raise EditError("unreadable", doubled[0].message, doubled[0].keys, doubled[0].line)
    if not isinstance(value, dict):
        raise EditError("unreadable", "the text must hold an object")
    return value


def canonical(value: Plain) -> Plain:
    """A document in canonical spelling.

    Raises:
        EditError: two spellings in it contradict each other.
    """
    found = Findings()
    made, _ = normalise(value, found)
    for problem in found.problems:
        if problem.severity == "error":
            raise EditError("invalid", problem.message, problem.keys)
    return made


# ---- sections


def with_section(value: Plain, name: str, section: Any) -> Plain:
    """A document whose section is this, in place of whatever says the same now; None takes it out."""
    if section is None:
        return without_section(value, name)
    _check_name(name)
    given = canonical({name: section})
    if name == "routers" and isinstance(section, list):
        return {**value, name: _routes_in_place(value, canonical(value), given[name])}
    made = _without_older(value, name)
    old = canonical(value).get(name)
    new = keeping_comments(given.pop(name), old)
    made[name] = value[name] if name in value and _means(name, old, new) and name not in _older(value) else new
    for other, members in given.items():  # what an older spelling in it says of other sections
        made = with_section(made, other, {**(canonical(made).get(other) or {}), **members})
    return made


def with_members(value: Plain, name: str, members: Plain) -> Plain:
    """A document whose section has these members, and its others as before."""
    given = canonical({name: members})[name]
    old = canonical(value).get(name)
    whole = {**(old if isinstance(old, dict) else {}), **given}
    older = {key: members[key] for key in _KEEP_ALIVE if name == "server" and key in members}
    return with_section(value, name, {**whole, **older})


def without_section(value: Plain, name: str) -> Plain:
    """A document in which nothing says anything of a section.

    Raises:
        EditError: nothing does.
    """
    _check_name(name)
    if canonical(value).get(name) is None:
        raise EditError("not_found", f"there is no section '{name}'", (name,))
    made = _without_older(value, name)
    made.pop(name, None)
    return made


def _check_name(name: str) -> None:
    if name in Config.__struct_fields__ or is_comment(name):
        return
    near = difflib.get_close_matches(name, Config.__struct_fields__, n=1)
    raise EditError("not_found", f"no section is called '{name}'" + (f", did you mean '{near[0]}'?" if near else ""))


def _older(value: Plain) -> set[str]:
    """Sections of which an older spelling elsewhere says something."""
    server = value.get("server")
    found = {"jwt"} if value.get("jwt_secret") is not None else set()
    if isinstance(server, dict) and any(key in server for key in _KEEP_ALIVE):
        found |= {"timeouts", "server"}
    return found


def _without_older(value: Plain, name: str) -> Plain:
    """A copy without older spellings of a section; what they say of others is said there."""
    made = dict(value)
    if name == "jwt":
        made.pop("jwt_secret", None)
    elif name in ("server", "timeouts") and name in _older(value):
        whole = canonical(value)
        made["server"] = {key: item for key, item in value["server"].items() if key not in _KEEP_ALIVE}
        if name == "server" and whole.get("timeouts"):
            made["timeouts"] = whole["timeouts"]
    return made


# ---- routes


class RouteKey(msgspec.Struct, frozen=True):
    """Which route is meant."""

    external_path: str
    methods: list[str] | None = None
    """Where several routes have the path; all the methods the route has, or some that no other has."""
    hosts: list[str] | None = None
    index: int | None = None
    """Its number in the list, for a document that has not changed since that was looked up."""

    def __str__(self) -> str:
        more = [*(self.methods or ()), *(self.hosts or ())]
        return " ".join([self.external_path, *more])


def find_route(routes: list[Plain], key: RouteKey) -> int:
    """The number of a route.

    Raises:
        EditError: there is none, or several.
    """
    found = [at for at, route in enumerate(routes) if route.get("external_path") == key.external_path]
    if key.index is not None:
        found = [at for at in found if at == key.index]
    found = _narrowed(found, routes, "methods", key.methods)
    found = _narrowed(found, routes, "hosts", key.hosts)
    if not found:
        raise EditError("not_found", f"Route not found: {key}", ("routers",))
    if len(found) > 1:
        told = "; ".join(" ".join([*routes[at].get("methods", ()), *routes[at].get("hosts", ())]) for at in found)
        raise EditError("ambiguous", f"{len(found)} routes have the path {key.external_path}: say which ({told})")
    return found[0]


def _narrowed(found: list[int], routes: list[Plain], name: str, wanted: list[str] | None) -> list[int]:
    """Those that have just these methods or hosts; if none has, those that have these among others."""
    if wanted is None:
        return found
    held = {at: set(routes[at].get(name) or ()) for at in found}
    exact = [at for at in found if held[at] == set(wanted)]
    return exact or [at for at in found if wanted and held[at] >= set(wanted)]


def with_route(value: Plain, route: Plain, at: int | None = None) -> Plain:
    """A document with one route more, at the end or where it is wanted.

    Raises:
        EditError: a route for the same requests is there.
    """
    new = canonical_route(route)
    routes = _routes(value)
    for number, other in enumerate(canonical_routes(value)):
        if _collide(other, new):
            message = f"Route already exists: {new.get('external_path')}"
            raise EditError("exists", message, ("routers", number))
    place = len(routes) if at is None else max(0, min(at, len(routes)))
    return {**value, "routers": [*routes[:place], as_written(new), *routes[place:]]}


def with_route_replaced(value: Plain, key: RouteKey, route: Plain) -> Plain:
    """A document in which a route is now this one.

    Raises:
        EditError: it is not there, or another serves the same requests.
    """
    routes, held = _routes(value), canonical_routes(value)
    at, new = find_route(held, key), canonical_route(route)
    for number, other in enumerate(held):
        if number != at and _collide(other, new):
            raise EditError("exists", f"Route already exists: {new.get('external_path')}", ("routers", number))
    return {**value, "routers": [*routes[:at], _route_in_place(routes[at], held[at], new), *routes[at + 1 :]]}


def without_route(value: Plain, key: RouteKey) -> Plain:
    """A document with one route less.

    Raises:
        EditError: it is not there.
    """
    routes = _routes(value)
    at = find_route(canonical_routes(value), key)
    return {**value, "routers": [*routes[:at], *routes[at + 1 :]]}


def _routes(value: Plain) -> list[Any]:
    routes = value.get("routers")
    if not isinstance(routes, list | None):
        raise EditError("invalid", "routers must be a list", ("routers",))
    return routes or []


def canonical_routes(value: Plain) -> list[Plain]:
    """The routes of a document, in canonical spelling."""
    _routes(value)
    return [route if isinstance(route, dict) else {} for route in canonical(value).get("routers") or []]


def canonical_route(route: Plain) -> Plain:
    """One route in canonical spelling."""
    made: Plain = canonical({"routers": [route]})["routers"][0]
    return made


def as_written(route: Plain) -> Plain:
    """A canonical route as a file has it: one that was written with `host` and `port` of its own is again."""
    if not route.get("legacy"):
        return route
    backends, others = route.get("backends"), {key: item for key, item in route.items() if key != "legacy"}
    only = backends[0] if isinstance(backends, list) and len(backends) == 1 else None
    if not isinstance(only, dict) or not only.keys() <= {"host", "port"}:
        return others
    del others["backends"]
    return {**only, **others}


def _collide(one: Plain, other: Plain) -> bool:
    """Whether some request is meant for both."""
    hosts = [_names(route, "hosts") for route in (one, other)]
    methods = [_names(route, "methods") for route in (one, other)]
    return (
        one.get("external_path") == other.get("external_path")
        and bool(methods[0] & methods[1])
        and (hosts[0] == hosts[1] or bool(hosts[0] & hosts[1]))
    )


def _names(route: Plain, key: str) -> set[str]:
    """What is no list of names is the loader's to refuse."""
    value = route.get(key)
    return {name for name in value if isinstance(name, str)} if isinstance(value, list) else set()


def _route_in_place(written: Any, held: Plain, new: Plain) -> Any:
    """A route, as it stands if that says the same."""
    new = keeping_comments(new, held)
    return written if _decoded(new, Route) == _decoded(held, Route) is not None else as_written(new)


# ---- whole documents


def with_everything(value: Plain, new: Plain) -> Plain:
    """A document that says what `new` says, in its own words where they say the same."""
    wanted, held, older = canonical(new), canonical(value), _older(value)
    made: Plain = {}
    for name, section in keeping_comments(wanted, held).items():
        if name == "routers" and isinstance(section, list):
            made[name] = _routes_in_place(value, held, section)
        elif name in value and name not in older and _means(name, held.get(name), section):
            made[name] = value[name]
        else:
            made[name] = section
    return made


def _routes_in_place(value: Plain, held: Plain, wanted: list[Any]) -> list[Any]:
    routes, old = _routes(value), held.get("routers") or []
    return [
        new
        if not isinstance(new, dict)
        else as_written(new)
        if at is None or not isinstance(old[at], dict)
        else _route_in_place(routes[at], old[at], new)
        for new, at in zip(wanted, matched(old, wanted), strict=True)
    ]


def keeping_comments(new: Any, old: Any) -> Any:
    """What replaces something, with the comment keys that stood there."""
    if isinstance(new, dict) and isinstance(old, dict):
        comments = {key: item for key, item in old.items() if is_comment(key) and key not in new}
        return {**comments, **{key: keeping_comments(item, old.get(key)) for key, item in new.items()}}
    if isinstance(new, list) and isinstance(old, list):
        pairs = zip(new, matched(old, new, by_place=True), strict=True)
        return [item if at is None else keeping_comments(item, old[at]) for item, at in pairs]
    return new


def _means(name: str, old: Any, new: Any) -> bool:
    """Whether a section says the same in both."""
    if same(old, new):
        return True
    kind = _section_kinds().get(name)
    if kind is None or old is None or new is None:
        return False
    held = _decoded(old, kind)
    return held is not None and held == _decoded(new, kind) and same(_comments(old), _comments(new))


@cache
def _section_kinds() -> dict[str, Any]:
    return {info.encode_name: info.type for info in msgspec.structs.fields(Config)}


def _decoded(value: Any, kind: Any) -> Any:
    """None where it cannot be decoded, as with references in place of numbers."""
    found = Findings()
    made = decode(value, kind, found)
    return None if made is INVALID or found.problems else made


def _comments(value: Any) -> Any:
    """What is not decoded: comment keys, level by level."""
    if isinstance(value, dict):
        kept = {key: item if is_comment(key) else _comments(item) for key, item in value.items()}
        return {key: item for key, item in kept.items() if item not in (None, {}, [])}
    if isinstance(value, list):
        return [item for item in map(_comments, value) if item]
    return None
