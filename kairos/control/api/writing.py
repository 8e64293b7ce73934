"""What every write of the configuration has in common: who wants it and how, what is answered, and ETags.

`?dry_run=1` says what would come of it; `If-Match` holds it to the document that was looked at; `?message=` or
`X-Kairos-Message` says why. Every write answers with the revision, the diff and the warnings.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

from litestar import Request, Response
from litestar.di import Provide
from litestar.params import HeaderParameter, Parameter
from msgspec import UNSET, UnsetType, structs

from kairos.config.mask import MASK
from kairos.control.access.accounts import DeniedError
from kairos.control.access.permissions import ALL
from kairos.control.api.guards import needs
from kairos.control.changes import Outcome, Wish

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kairos.control.access.principal import Principal
    from kairos.control.changes import Origin

_ORIGINS: dict[str, Origin] = {"cli": "cli", "ui": "ui"}


class Written(Outcome, frozen=True, kw_only=True, omit_defaults=True):
    """A change that was made, or in a dry run would be."""

    success: bool
    message: str
    route: dict[str, Any] | UnsetType = UNSET
    """As it is now."""


def make_wish(
    request: Request[Any, Any, Any],
    dry_run: Annotated[bool, Parameter(description="Change nothing, and say what would come of it.")] = False,
    message: Annotated[str | None, Parameter(max_length=2000, description="Why, for the history.")] = None,
    why: Annotated[str | None, HeaderParameter(name="X-Kairos-Message", max_length=2000)] = None,
    client: Annotated[str | None, HeaderParameter(name="X-Kairos-Client", max_length=40)] = None,
    if_match: Annotated[str | None, HeaderParameter(name="If-Match", max_length=2000)] = None,
) -> Wish:
    """What a request says beside its body."""
    principal: Principal = request.scope["user"]
    origin = _ORIGINS.get(client or "", "api")
    administers = principal.permissions >= ALL
    return Wish(principal.name, message or why or "", origin, tags(if_match), dry_run, administers)


def writes() -> dict[str, Any]:
    """Keywords for a handler that changes the configuration, and takes a `wish`."""
    return {**needs("config:write"), "dependencies": {"wish": Provide(make_wish, sync_to_thread=False)}}


def check_references(request: Request[Any, Any, Any], value: Any) -> None:
    """To try a configuration is to look up what its references and masks stand for, and reasons against it say what
    that is: only who may change the configuration does. Raises DeniedError."""
    principal: Principal = request.scope["user"]
    if "config:write" not in principal.permissions and _stands_for_something(value):
        raise DeniedError(
            "only who may change the configuration (config:write) tries references (${...}) and masks (***)"
        )


def _stands_for_something(value: Any) -> bool:
    if isinstance(value, dict):
        return any(_stands_for_something(item) for pair in value.items() for item in pair)
    if isinstance(value, list):
        return any(map(_stands_for_something, value))
    return isinstance(value, str) and ("${" in value or MASK in value)


def tags(header: str | None) -> list[str] | None:
    """The entity tags of a header; None: any will do."""
    if header is None or header.strip() == "*":
        return None
    return [tag.strip().removeprefix("W/").strip('"') for tag in header.split(",")]


def told(outcome: Outcome, done: str, **more: Any) -> Response[Written]:
    """The answer to a write. `done` is what kairos-rs calls it: `Route created`."""
    said = structs.asdict(outcome)
    message = f"{done} successfully" if outcome.changed else "Nothing to change"
    if outcome.dry_run:
        message = "Dry run: nothing was changed"
    elif outcome.restart_required:
        message += f". Restart required for {', '.join(outcome.restart_required)}"
    written = Written(success=True, message=message, **said, **more)
    return Response(written, headers=etag(outcome.etag))


def etag(tag: str) -> dict[str, str]:
    """The header of a strong entity tag."""
    return {"ETag": f'"{tag}"'}


def fresh(request: Request[Any, Any, Any], tag: str) -> bool:
    """Whether the client has it already (If-None-Match)."""
    wanted = request.headers.get("If-None-Match")
    return wanted is not None and (wanted.strip() == "*" or tag in (tags(wanted) or ()))


def tagged(request: Request[Any, Any, Any], content: Any, tag: str, more: Mapping[str, str] | None = None) -> Any:
    """An answer with its entity tag, or 304."""
    headers = {**etag(tag), "Cache-Control": "no-cache", **(more or {})}
    if fresh(request, tag):
        return Response(None, status_code=304, headers=headers)
    return Response(content, headers=headers)
