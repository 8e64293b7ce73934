"""Routes: list, find, create, replace, delete, validate; at once in every worker.

`{path}` is the external path without its leading slash, as it is or percent-encoded; `%2Fapi%2Fx`, with the slash, is
the same. Where several routes have one path, `?methods=`, `?host=` or `?id=` says which. Answers are kairos-rs's:
`success`, `message`, `route`, `routes`; beside them stands what came of a write (writing.py).
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from typing import Annotated, Any

from litestar import Request, Response, delete, get, post, put
from litestar.di import NamedDependency
from litestar.exceptions import ValidationException
from litestar.params import FromPath, JSONBody, Parameter, QueryParameter
from msgspec import UNSET, Struct, UnsetType

from kairos.config.editing import (
    EditError,
    RouteKey,
    as_written,
    canonical_route,
    canonical_routes,
    find_route,
    with_route,
    with_route_replaced,
    without_route,
)
from kairos.config.identity import route_identity
from kairos.config.mask import masked_plain
from kairos.config.model import Route
from kairos.config.problems import Findings
from kairos.config.unmask import unmasked
from kairos.control.api.guards import needs
from kairos.control.api.paths import segment
from kairos.control.api.problems import no_document
from kairos.control.api.writing import Written, check_references, tagged, told, writes
from kairos.control.changes import UNCHANGED, Changes, Wish, edit_refused
from kairos.control.commands import CommandError

TAGS = ["Routes"]
Plain = dict[str, Any]
Methods = Annotated[str | None, Parameter(description="Of the route that is meant: `GET,POST`.", max_length=200)]
Host = Annotated[str | None, Parameter(description="One of the hosts of the route that is meant.", max_length=300)]
Id = Annotated[str | None, QueryParameter(name="id", description="`id` of the route that is meant.", max_length=40)]
_NO_ROUTE: Any = {ValidationException: no_document}
_FIRST = (
    "host",
    "port",
    "backends",
    "protocol",
    "load_balancing_strategy",
    "external_path",
    "internal_path",
    "methods",
)
_RETRY = {
    "max_retries": 3, "initial_backoff_ms": 100, "max_backoff_ms": 5000, "backoff_multiplier": 2.0,
    "retry_on_status_codes": [502, 503, 504], "retry_on_connection_error": True,
}  # fmt: skip


class RouteList(Struct, frozen=True):
    """Routes of the configuration in use."""

    success: bool
    message: str
    routes: list[Plain]
    total: int
    """That fit the filter; `routes` has those of the page."""
    offset: int
    revision: int


class RouteFound(Struct, frozen=True):
    """One route."""

    success: bool
    message: str
    route: Plain
    revision: int


class RouteToJudge(Struct, frozen=True, forbid_unknown_fields=True):
    """A route that is only looked at."""

    route: Plain


class RouteVerdict(Struct, frozen=True, omit_defaults=True):
    """Whether a route could be used."""

    valid: bool
    error: str | UnsetType = UNSET
    """The first reason why not."""
    problems: list[str] = []
    warnings: list[str] = []


@get("/api/routes", tags=TAGS, **needs("config:read"))
async def list_routes(
    request: Request[Any, Any, Any],
    changes: NamedDependency[Changes],
    limit: Annotated[int, Parameter(ge=1, le=10_000)] = 10_000,
    offset: Annotated[int, Parameter(ge=0, le=1 << 31)] = 0,
    path: Annotated[str | None, Parameter(description="Part of the external path.", max_length=2000)] = None,
    method: Annotated[str | None, Parameter(max_length=20)] = None,
    host: Annotated[str | None, Parameter(max_length=300)] = None,
    protocol: Annotated[str | None, Parameter(max_length=20)] = None,
    group: Annotated[str | None, Parameter(max_length=200)] = None,
    backend: Annotated[str | None, Parameter(description="Part of a backend's host.", max_length=300)] = None,
) -> Response[RouteList]:
    """In the order of the configuration."""
    number, tag = changes.number, changes.etag  # first: with a change in between, If-Match has to fail
    found = [
        route
        for route in await asyncio.to_thread(shown_routes, changes)
        if (path is None or path in route.get("external_path", ""))
        and (method is None or method.upper() in route.get("methods", ()))
        and (host is None or host in route.get("hosts", ()))
        and (protocol is None or protocol == route["protocol"])
        and (group is None or group == route.get("group"))
        and (backend is None or any(backend in str(one) for one in _hosts(route)))
    ]
    page = found[offset : offset + limit]
    answer = RouteList(True, f"Found {len(found)} routes", page, len(found), offset, number)
    told_now: Response[RouteList] = tagged(request, answer, tag)
    return told_now


@get("/api/routes/{path:path}", tags=TAGS, **needs("config:read"))
async def get_route(
    request: Request[Any, Any, Any],
    changes: NamedDependency[Changes],
    path: FromPath[str],
    methods: Methods = None,
    host: Host = None,
    id_: Id = None,
) -> Response[RouteFound]:
    """One route."""
    number, tag = changes.number, changes.etag
    routes = (await asyncio.to_thread(changes.document)).get("routers") or []
    at = _find(routes, _key(routes, path, methods, host, id_))
    answer = RouteFound(True, "Route found", shown(routes[at]), number)
    told_now: Response[RouteFound] = tagged(request, answer, tag)
    return told_now


@post("/api/routes", tags=TAGS, exception_handlers=_NO_ROUTE, **writes())
async def create_route(
    changes: NamedDependency[Changes],
    wish: NamedDependency[Wish],
    data: JSONBody[Plain],
    at: Annotated[int | None, Parameter(ge=0, le=1 << 31)] = None,
) -> Response[Written]:
    """One route more, at the end or as number `at`: 201, and how it is now."""
    new = given(data)

    def edit(value: Plain) -> Plain:
        _refuse_masks(new)
        return with_route(value, new, at)

    outcome = await _judged(changes, edit, wish)
    answer = told(outcome, "Route created", route=shown(canonical_route(new)))
    answer.status_code = 200 if wish.dry_run else 201
    return answer


@put("/api/routes/{path:path}", tags=TAGS, exception_handlers=_NO_ROUTE, **writes())
async def replace_route(
    changes: NamedDependency[Changes],
    wish: NamedDependency[Wish],
    data: JSONBody[Plain],
    path: FromPath[str],
    methods: Methods = None,
    host: Host = None,
    id_: Id = None,
) -> Response[Written]:
    """Another route in place of this one. Masks in it stand for the secrets it has."""
    new = canonical_route(given(data))
    if new.get("external_path") != external_path(path):
        raise CommandError("bad", "Route external_path must match URL parameter")
    made: list[Plain] = []

    def edit(value: Plain) -> Plain:
        routes = canonical_routes(value)
        key = _key(routes, path, methods, host, id_)
        at = find_route(routes, _narrowed(key, routes, new))
        made[:] = [_with_secrets(new, routes[at])]
        return with_route_replaced(value, RouteKey(key.external_path, index=at), made[0])

    outcome = await _judged(changes, edit, wish)
    return told(outcome, "Route updated", route=shown(made[0]))


@delete("/api/routes/{path:path}", tags=TAGS, status_code=200, **writes())
async def delete_route(
    changes: NamedDependency[Changes],
    wish: NamedDependency[Wish],
    path: FromPath[str],
    methods: Methods = None,
    host: Host = None,
    id_: Id = None,
) -> Response[Written]:
    """One route less."""

    def edit(value: Plain) -> Plain:
        return without_route(value, _key(canonical_routes(value), path, methods, host, id_))

    return told(await changes.apply(edit, wish), "Route deleted")


@post("/api/routes/validate", tags=TAGS, status_code=200, exception_handlers=_NO_ROUTE, **needs("config:read"))
async def validate_route(
    request: Request[Any, Any, Any], changes: NamedDependency[Changes], data: JSONBody[RouteToJudge]
) -> RouteVerdict:
    """Whether a route could be used, in place of the one that serves the same requests now, if there is one."""
    check_references(request, data.route)

    def edit(value: Plain) -> Plain:
        new = given(data.route)
        try:
            return with_route(value, new)
        except EditError as error:
            if error.kind != "exists":
                raise
            routes = canonical_routes(value)
            at = int(error.keys[1])
            key = RouteKey(routes[at]["external_path"], index=at)
            return with_route_replaced(value, key, _with_secrets(canonical_route(new), routes[at]))

    try:
        outcome = await _judged(changes, edit, Wish("", dry_run=True))
    except CommandError as error:
        if error.why not in ("bad", "refused"):
            raise
        reason = str(error).removeprefix("Route validation failed: ").removesuffix(UNCHANGED)
        return RouteVerdict(False, reason, error.problems)
    return RouteVerdict(True, warnings=outcome.warnings)


# ---- which route


def external_path(given: str) -> str:
    """A path as it stands in the URL, with its leading slash."""
    path = segment(given.removeprefix("/"))
    return path if path.startswith("/") else f"/{path}"


def route_id(route: Plain) -> str:
    """A short name for what a route serves: it stays while path, methods and hosts do."""
    return hashlib.sha256(json.dumps(route_identity(route)).encode()).hexdigest()[:12]


def _key(routes: list[Plain], path: str, methods: str | None, host: str | None, id_: str | None) -> RouteKey:
    key = RouteKey(
        external_path(path),
        [method.strip().upper() for method in methods.split(",")] if methods is not None else None,
        [host] if host is not None else None,
    )
    if id_ is None:
        return key
    at = next((at for at, route in enumerate(routes) if route_id(route) == id_), len(routes))
    return RouteKey(key.external_path, key.methods, key.hosts, at)


def _narrowed(key: RouteKey, routes: list[Plain], new: Plain) -> RouteKey:
    """Where nothing else was said, the one with the new one's methods and hosts."""
    same_path = [route for route in routes if route.get("external_path") == key.external_path]
    if len(same_path) < 2 or (key.methods, key.hosts, key.index) != (None, None, None):
        return key
    at = next((at for at, route in enumerate(routes) if route_identity(route) == route_identity(new)), None)
    return key if at is None else RouteKey(key.external_path, index=at)


def _find(routes: list[Plain], key: RouteKey) -> int:
    try:
        return find_route(routes, key)
    except EditError as error:
        raise edit_refused(error) from None


# ---- what is given and shown


def given(data: Plain) -> Plain:
    """Without what only an answer has."""
    return {key: value for key, value in data.items() if key != "id"}


def _refuse_masks(new: Plain) -> None:
    _with_secrets(canonical_route(new), {})


def _with_secrets(new: Plain, old: Plain) -> Plain:
    found = Findings()
    made: Plain = unmasked(new, old, found)
    if found.problems:
        problem = found.problems[0]
        raise EditError("invalid", problem.message, problem.keys)
    return made


async def _judged(changes: Changes, edit: Any, wish: Wish) -> Any:
    """What does not hold is a 400 here, as it is in kairos-rs."""
    try:
        return await changes.apply(edit, wish)
    except CommandError as error:
        if error.why != "invalid":
            raise
        raise CommandError("bad", f"Route validation failed: {error}", error.problems) from None


def shown_routes(changes: Changes) -> list[Plain]:
    """All of the configuration in use, as they may be shown."""
    return [shown(route) for route in changes.document().get("routers") or [] if isinstance(route, dict)]


def shown(route: Plain) -> Plain:
    """A canonical route in kairos-rs's form and order: the keys it knows with their defaults, then the others."""
    held = as_written(masked_plain(route))
    defaults = {"protocol": "http", "load_balancing_strategy": "round_robin", "auth_required": False}
    made = {name: held.get(name, defaults.get(name)) for name in (*_FIRST, "auth_required")}
    if isinstance(held.get("backends"), list):
        made["backends"] = [_shown_backend(one) for one in held["backends"]]
    if isinstance(held.get("retry"), dict):
        made["retry"] = {**_RETRY, **held["retry"]}
    made |= {name: value for name, value in held.items() if name not in made}
    return {**{name: value for name, value in made.items() if value is not None}, "id": route_id(route)}


def _shown_backend(backend: Any) -> Any:
    if not isinstance(backend, dict):
        return backend
    first = {"host": backend.get("host"), "port": backend.get("port"), "weight": backend.get("weight", 1)}
    return {**first, "health_check_path": backend.get("health_check_path"), **backend}


def _hosts(route: Plain) -> list[Any]:
    return [route.get("host"), *(one.get("host") for one in route.get("backends", ()) if isinstance(one, dict))]


assert set(_FIRST[2:]) <= set(Route.__struct_fields__)
HANDLERS = [list_routes, get_route, create_route, replace_route, delete_route, validate_route]
