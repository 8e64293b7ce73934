"""The commands over HTTP: paths, bodies and status codes; what they do stands in commands.py.

    GET /v1/status                        POST /v1/reload       POST /v1/upgrade
    GET /v1/backends                      GET or PATCH /v1/backends/{key}      POST /v1/backends/{key}/probe
    GET /v1/revisions                     GET /v1/revisions/{number}
    GET /v1/limits
    GET /v1/bans                          DELETE /v1/bans/{address}
    GET /v1/cache                         POST /v1/cache/purge

A backend's key is percent-encoded in the path. Answers are JSON, errors problem+json with `problems` where there are
several reasons.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from kairos.control.caches import PurgeRequest
from kairos.control.commands import BackendChange, CommandError
from kairos.control.http import Response, Router, problem

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from kairos.control.commands import Commands, Why
    from kairos.control.http import Handler, Request

_Body = TypeVar("_Body")
STATUS: dict[Why, int] = {"unknown": 404, "invalid": 422, "refused": 409, "unavailable": 503, "timeout": 504}


def router(commands: Commands) -> Router:
    """The table of all commands."""

    async def change(request: Request) -> object:
        return await commands.change_backend(request.params["key"], _body(request, BackendChange))

    return Router(
        {
            "/v1/status": {"GET": _now(lambda _: commands.status())},
            "/v1/reload": {"POST": _later(lambda _: commands.reload("admin API"))},
            "/v1/upgrade": {"POST": _later(lambda _: commands.upgrade())},
            "/v1/backends": {"GET": _now(lambda _: commands.backends())},
            "/v1/backends/{key}": {
                "GET": _now(lambda request: commands.backend(request.params["key"])),
                "PATCH": _later(change),
            },
            "/v1/backends/{key}/probe": {"POST": _later(lambda request: commands.probe(request.params["key"]))},
            "/v1/limits": {"GET": _now(lambda _: commands.limits())},
            "/v1/bans": {"GET": _now(lambda _: commands.bans())},
            "/v1/bans/{address}": {"DELETE": _now(lambda request: commands.lift_ban(request.params["address"]))},
            "/v1/cache": {"GET": _now(lambda _: commands.cache())},
            "/v1/cache/purge": {"POST": _later(lambda request: commands.purge(_body(request, PurgeRequest)))},
            "/v1/revisions": {"GET": _later(lambda _: commands.revisions())},
            "/v1/revisions/{number}": {"GET": _later(lambda request: commands.revision(_number(request)))},
        }
    )


def _now(command: Callable[[Request], object]) -> Handler:
    """A command that answers at once."""

    def handler(request: Request) -> Response:
        try:
            return Response(msgspec.json.encode(command(request)))
        except CommandError as error:
            return _refusal(error)

    return handler


def _later(command: Callable[[Request], Coroutine[Any, Any, object]]) -> Handler:
    """A command that waits for something."""

    async def handler(request: Request) -> Response:
        try:
            return Response(msgspec.json.encode(await command(request)))
        except CommandError as error:
            return _refusal(error)

    return handler


def _refusal(error: CommandError) -> Response:
    return problem(STATUS[error.why], str(error), problems=error.problems)


def _body(request: Request, kind: type[_Body]) -> _Body:
    try:
        return msgspec.json.decode(request.body or b"{}", type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise CommandError("invalid", f"the body cannot be used: {error}") from None


def _number(request: Request) -> int:
    given = request.params["number"]
    if not (given.isascii() and given.isdigit()):
        raise CommandError("unknown", f"{given!r} is no revision's number")
    return int(given[:18])
