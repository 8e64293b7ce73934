"""The admin API put together: who asks (authentication), whether they may (guards), and then the resource's file.

What handlers work with is handed to them by name: `commands`, `database`. A new resource is a file with HANDLERS and a
line in RESOURCES. OpenAPI is made from the handlers' types and docstrings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from litestar import Litestar, Router
from litestar.di import Provide
from litestar.handlers import HTTPRouteHandler
from litestar.handlers.base import BaseRouteHandler
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.datastructures import ResponseSpec
from litestar.openapi.plugins import JsonRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme
from msgspec import Struct

from kairos import __version__
from kairos.control.api import (
    audit,
    backends,
    backup,
    cache,
    config,
    connections,
    docs,
    explain,
    gateway,
    inventory,
    limits,
    live,
    logs,
    me,
    metrics,
    metrics_feeds,
    nodes,
    problems,
    prometheus,
    revisions,
    routes,
    sso,
    users,
)
from kairos.control.api.authentication import Authentication
from kairos.control.api.gate import Gate
from kairos.control.api.guards import forgotten, public
from kairos.control.api.recording import Recording

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from kairos.control.api.authentication import Authenticator

MAX_BODY = 12 * 1024 * 1024  # a whole configuration, escaped
_PROBLEM: Any = problems.MEDIA_TYPE
RESOURCES = (
    gateway, inventory, connections, routes, explain, config, backends, limits, cache, revisions, backup, audit, nodes,
    metrics, metrics_feeds, prometheus, me, sso, users, logs, live,
)  # fmt: skip
DESCRIPTION = """Manages a running Kairos gateway.

Send a token (`Authorization: Bearer kairos_...`), or log in for a session's cookie. Errors are problem+json."""
ERRORS = {
    400: "What was sent is no JSON, or no document of its kind.",
    401: "Nobody is logged in.",
    403: "Not allowed.",
    404: "There is no such thing.",
    409: "It cannot be done now; `detail` says why.",
    412: "Somebody else changed it first (If-Match).",
    413: "Too large.",
    422: "It does not fit; `problems` has every reason.",
    429: "Too often; Retry-After says when to try again.",
    507: "There is no room to write it.",
    503: "Something this needs does not work now; Retry-After says when to try again.",
}
SECURITY_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; style-src 'self' 'unsafe-inline'; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'self'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


def make_app(things: Mapping[str, Any], authenticators: Sequence[Authenticator] = ()) -> Litestar:
    """`things` are what handlers may ask for, by name."""
    handlers = all_handlers()
    app = _litestar(handlers, things, authenticators)
    assert not (silent := forgotten(app)), f"say which permission is needed: {silent}"
    gate = Gate(app.asgi_handler, things.get("access"), SECURITY_HEADERS)
    app.asgi_handler = Recording(gate, things.get("audit"))
    return app


def _litestar(
    handlers: Sequence[BaseRouteHandler], things: Mapping[str, Any], authenticators: Sequence[Authenticator]
) -> Litestar:
    return Litestar(
        route_handlers=[*handlers, docs.page, docs.start, docs.document, docs.assets],
        dependencies={name: Provide(_given(thing), sync_to_thread=False) for name, thing in things.items()},
        middleware=[Authentication(authenticators)],
        exception_handlers=problems.HANDLERS,
        openapi_config=_openapi(),
        request_max_body_size=MAX_BODY,
        logging_config=None,
        pdb_on_exception=False,
        debug=False,
    )


def all_handlers() -> list[BaseRouteHandler]:
    """Of all resources, each with the errors that any may answer."""
    handlers: list[BaseRouteHandler] = [handler for resource in RESOURCES for handler in resource.HANDLERS]
    for handler in handlers:
        if isinstance(handler, HTTPRouteHandler):
            handler.responses = {**_errors(), **(handler.responses or {})}
    return handlers


def _openapi() -> OpenAPIConfig:
    token = SecurityScheme(type="http", scheme="bearer", description="A token made with POST /api/me/tokens.")
    return OpenAPIConfig(
        title="Kairos admin API",
        version=__version__,
        description=DESCRIPTION,
        components=Components(security_schemes={"token": token}),
        security=[{"token": []}],
        use_handler_docstrings=True,
        operation_id_creator=lambda handler, _method, _path: handler.handler_name,
        render_plugins=[JsonRenderPlugin(path="/openapi.json")],
        openapi_router=Router("/docs/schema", route_handlers=[], include_in_schema=False, **public()),
    )


def _errors() -> dict[int, ResponseSpec]:
    return {
        status: ResponseSpec(problems.Problem, generate_examples=False, description=what, media_type=_PROBLEM)
        for status, what in ERRORS.items()
    }


def wanted(handlers: Iterable[BaseRouteHandler]) -> set[str]:
    """The names of what handlers ask for: parameters whose type is a class of ours, but no plain data."""
    return {
        name
        for handler in handlers
        for name, field in handler.parsed_fn_signature.parameters.items()
        if isinstance(field.annotation, type)
        and field.annotation.__module__.startswith("kairos.")
        and not issubclass(field.annotation, Struct)
        and name != "data"
    }


def _given(thing: object) -> Any:
    def give() -> Any:
        return thing

    return give
