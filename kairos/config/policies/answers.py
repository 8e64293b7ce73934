"""What the gateway answers itself instead of a backend: fixed answers, redirects, maintenance pages."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, Annotated, Any

from msgspec import Meta, field

from kairos.config.fields import RESPONSE_OWN, field_problem
from kairos.config.networks import check_networks
from kairos.config.policies.transform import NO_BODY, check_json
from kairos.config.spec import Spec
from kairos.config.templates import check_condition, check_template

if TYPE_CHECKING:
    from kairos.config.problems import Findings, Path

MAX_FILE = 1 << 20
"""Bytes of a page: it is held in every worker's memory."""

REDIRECTS = (301, 302, 303, 307, 308)


class Page(Spec, frozen=True):
    """Body and fields of an answer. One of body, file and json, or none of them."""

    body: str | None = None
    """Text with templates in it; values are escaped as the content type needs it."""
    file: str | None = None
    """Path of a file sent as it is, of at most 1 MiB. Read when the configuration is loaded."""
    json: Any = None
    """JSON value whose strings are templates."""
    content_type: str | None = None
    """By default that of the file's name, application/json, or text/plain."""
    headers: dict[str, str] = field(default_factory=dict)
    """Further fields; the values are templates."""


class Respond(Page, frozen=True):
    """An answer without a backend, once everything else has let the request through."""

    enabled: bool = True
    status: Annotated[int, Meta(ge=200, le=599)] = 200
    when: str | None = None
    """Condition; other requests go to the backends."""


class Redirect(Spec, frozen=True):
    """Sends the client elsewhere."""

    target: str
    """Template of a path or URL; values are percent-encoded."""
    enabled: bool = True
    status: Annotated[int, Meta(ge=301, le=308)] = 302
    """301, 302, 303, 307 or 308."""
    keep_query: bool = True
    """Add the request's query to the target."""
    when: str | None = None
    """Condition; other requests go to the backends."""


class Maintenance(Page, frozen=True):
    """Closes a route for a while: everybody gets the page but those who are let in."""

    enabled: bool = True
    status: Annotated[int, Meta(ge=400, le=599)] = 503
    retry_after: Annotated[int, Meta(ge=0, le=31_536_000)] | None = 300
    """Seconds, told in Retry-After."""
    allow: list[str] = field(default_factory=list)
    """Networks that are let in."""
    allow_headers: dict[str, str] = field(default_factory=dict)
    """Name and value of fields one of which lets a request in; treated as secrets."""


def check_respond(spec: Respond, keys: Path, found: Findings) -> None:
    """What its types cannot say."""
    check_condition(spec.when, (*keys, "when"), found)
    check_page(spec, keys, found)
    if spec.status in NO_BODY and (spec.body or spec.file or spec.json is not None):
        found.error((*keys, "status"), f"an answer with status {spec.status} has no body: leave it out")


def check_redirect(spec: Redirect, keys: Path, found: Findings) -> None:
    """What its types cannot say."""
    check_condition(spec.when, (*keys, "when"), found)
    if spec.status not in REDIRECTS:
        found.error((*keys, "status"), f"{spec.status} sends nobody elsewhere: use {', '.join(map(str, REDIRECTS))}")
    template = check_template(spec.target, (*keys, "target"), found)
    if template is None:
        return
    start = template.parts[0] if template.parts else ""
    if isinstance(start, tuple) or not start.startswith(("/", "http://", "https://")):
        found.error(
            (*keys, "target"), "must begin with '/', 'http://' or 'https://': a value there could lead anywhere"
        )
    elif start in ("http://", "https://") or start.startswith(("//", "/\\")):
        found.warning((*keys, "target"), "who chooses the host here sends clients anywhere: write the host out")


def check_maintenance(spec: Maintenance, keys: Path, found: Findings) -> None:
    """What its types cannot say."""
    check_page(spec, keys, found)
    check_networks(spec.allow, (*keys, "allow"), found)
    for name, value in spec.allow_headers.items():
        if problem := field_problem(name, value, frozenset()):
            found.error((*keys, "allow_headers", name), problem)
        elif not value:
            found.error((*keys, "allow_headers", name), "an empty value lets everybody in")


def check_page(spec: Page, keys: Path, found: Findings) -> None:
    """Body and fields of an answer."""
    given = [name for name in ("body", "file", "json") if getattr(spec, name) is not None]
    if len(given) > 1:
        found.error(keys, f"give one of {' and '.join(given)}")
    if spec.body is not None:
        check_template(spec.body, (*keys, "body"), found)
    if spec.file is not None:
        _check_file(spec.file, (*keys, "file"), found)
    check_json(spec.json, (*keys, "json"), found)
    if spec.content_type is not None and (problem := field_problem("Content-Type", spec.content_type, frozenset())):
        found.error((*keys, "content_type"), problem)
    for name, value in spec.headers.items():
        if problem := field_problem(name, value, RESPONSE_OWN):
            found.error((*keys, "headers", name), problem)
        check_template(value, (*keys, "headers", name), found)


def files(spec: Page) -> list[str]:
    """What it reads."""
    return [] if spec.file is None else [spec.file]


def _check_file(path: str, keys: Path, found: Findings) -> None:
    try:
        state = os.stat(path)
        if not stat.S_ISREG(state.st_mode):
            found.error(keys, f"{path} is not a regular file")
        elif state.st_size > MAX_FILE:
            found.error(keys, f"{path} has {state.st_size} bytes, more than {MAX_FILE}")
        else:
            with open(path, "rb"):
                pass
    except (OSError, ValueError) as error:
        reason = os.strerror(error.errno or 0) if isinstance(error, OSError) else str(error)
        found.error(keys, f"cannot read {path}: {reason}")
