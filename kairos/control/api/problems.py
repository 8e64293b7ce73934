"""Errors of the admin API as RFC 9457 has them, with kairos-rs's `success` and `message` beside.

`problems` stands where there are several reasons; each is a line that names its place.
"""

from __future__ import annotations

import http
import math
from typing import TYPE_CHECKING, Any

from litestar import Response
from litestar.exceptions import HTTPException, SerializationException, ValidationException
from msgspec import Struct

from kairos.config.editing import EditError
from kairos.control.access.accounts import DeniedError
from kairos.control.access.lockout import LockedError
from kairos.control.access.logins import WrongError
from kairos.control.changes import edit_refused
from kairos.control.commands import CommandError
from kairos.storage.database import UnavailableError
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from litestar import Request
    from litestar.types import ExceptionHandlersMap

    from kairos.control.commands import Why

MEDIA_TYPE = "application/problem+json"
STATUS: dict[Why, int] = {
    "bad": 400, "forbidden": 403, "unknown": 404, "refused": 409, "stale": 412, "invalid": 422,
    "unavailable": 503, "timeout": 504, "full": 507,
}  # fmt: skip
RETRY_AFTER = "5"

log = get_logger("api")


class Problem(Struct, frozen=True, omit_defaults=True):
    """What went wrong (RFC 9457)."""

    title: str
    status: int
    detail: str
    type: str = "about:blank"
    success: bool = False
    message: str = ""
    """The same as `detail`."""
    problems: list[str] = []
    """Each reason, where there are several."""


def problem(
    status: int, detail: str, *, problems: Sequence[str] = (), headers: Mapping[str, str] | None = None
) -> Response[Any]:
    """An answer that says no."""
    body: dict[str, Any] = {"type": "about:blank", "title": http.HTTPStatus(status).phrase, "status": status}
    body |= {"detail": detail, "success": False, "message": detail}
    body |= {"problems": list(problems)} if problems else {}
    return Response(body, status_code=status, media_type=MEDIA_TYPE, headers=dict(headers or {}))


def _command(_request: Request[Any, Any, Any], error: CommandError) -> Response[Any]:
    headers = {"Retry-After": RETRY_AFTER} if error.why == "unavailable" else {}
    return problem(STATUS[error.why], str(error), problems=error.problems, headers=headers)


def _edit(request: Request[Any, Any, Any], error: EditError) -> Response[Any]:
    return _command(request, edit_refused(error))


def _unavailable(_request: Request[Any, Any, Any], error: UnavailableError) -> Response[Any]:
    return problem(503, str(error), headers={"Retry-After": RETRY_AFTER})


def _invalid(_request: Request[Any, Any, Any], error: ValidationException) -> Response[Any]:
    extra = error.extra if isinstance(error.extra, list) else []
    reasons = [f"{one.get('key', 'body')}: {one.get('message', '')}" for one in extra if isinstance(one, dict)]
    return problem(422, "; ".join(reasons) or error.detail, problems=reasons)


def no_document(request: Request[Any, Any, Any], error: ValidationException) -> Response[Any]:
    """400 where kairos-rs says so."""
    said = _invalid(request, error).content
    return problem(400, f"Json deserialize error: {said['detail']}", problems=said.get("problems", ()))


def _too_deep(_request: Request[Any, Any, Any], _error: RecursionError) -> Response[Any]:
    return problem(400, "the body is nested too deeply")


def _http(_request: Request[Any, Any, Any], error: HTTPException) -> Response[Any]:
    what = "Json deserialize error: " if isinstance(error.__cause__, SerializationException) else ""
    return problem(error.status_code, f"{what}{error.detail}", headers=error.headers)


def _failed(request: Request[Any, Any, Any], error: Exception) -> Response[Any]:
    log.error("a request failed", method=request.method, path=request.url.path, exc_info=error)
    return problem(500, "internal error; the gateway's log says more")


def _denied(_request: Request[Any, Any, Any], error: DeniedError) -> Response[Any]:
    return problem(403, str(error))


def _wrong(_request: Request[Any, Any, Any], error: WrongError) -> Response[Any]:
    return problem(401, str(error), headers={"WWW-Authenticate": 'Bearer realm="kairos"'})


def _locked(_request: Request[Any, Any, Any], error: LockedError) -> Response[Any]:
    return problem(429, str(error), headers={"Retry-After": str(math.ceil(error.seconds))})


HANDLERS: ExceptionHandlersMap = {
    DeniedError: _denied,
    WrongError: _wrong,
    LockedError: _locked,
    CommandError: _command,
    EditError: _edit,
    UnavailableError: _unavailable,
    ValidationException: _invalid,
    HTTPException: _http,
    RecursionError: _too_deep,
    Exception: _failed,
}
