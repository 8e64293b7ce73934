"""Edits of requests on their way to the backend and of responses on their way back."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from kairos.config.spec import Spec


class HeaderRule(Spec, frozen=True):
    """One edit of a header."""

    action: Literal["add", "set", "remove", "replace"]
    name: str
    value: str | None = None
    pattern: str | None = None
    replacement: str | None = None


class QueryRule(Spec, frozen=True):
    """One edit of a query parameter."""

    action: Literal["add", "set", "remove", "replace"]
    name: str
    value: str | None = None
    pattern: str | None = None
    replacement: str | None = None


class PathRule(Spec, frozen=True):
    """A pattern replaced once in the upstream path."""

    pattern: str
    replacement: str


class StatusRule(Spec, frozen=True):
    """A response status shown as another."""

    from_: Annotated[int, Meta(ge=100, le=999)] = field(name="from")
    to: Annotated[int, Meta(ge=100, le=999)]
    condition: str | None = None


class RequestTransformation(Spec, frozen=True):
    """Edits on the way to the upstream."""

    headers: list[HeaderRule] = field(default_factory=list)
    path: PathRule | None = None
    query_params: list[QueryRule] = field(default_factory=list)


class ResponseTransformation(Spec, frozen=True):
    """Edits on the way back."""

    headers: list[HeaderRule] = field(default_factory=list)
    status_code_mappings: list[StatusRule] = field(default_factory=list)
