"""Mirroring: copies of requests sent to other backends, whose answers nobody sees."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta

from kairos.config.backend import Backend  # noqa: TC001  (msgspec needs it at run time)
from kairos.config.fields import REQUEST_OWN, field_problem
from kairos.config.origin import check_backends
from kairos.config.spec import Seconds, Spec
from kairos.config.templates import check_condition

if TYPE_CHECKING:
    from kairos.config.problems import Findings, Path


class Mirror(Spec, frozen=True):
    """Copies are made when the original is over, so they neither delay nor break it."""

    backends: list[Backend]
    enabled: bool = True
    percent: Annotated[float, Meta(gt=0, le=100)] = 100.0
    """Share of the requests that are copied."""
    when: str | None = None
    """Condition; other requests are not copied."""
    internal_path: Annotated[str, Meta(pattern="^/")] | None = None
    """Instead of the route's."""
    body_bytes: Annotated[int, Meta(ge=0, le=16 * 1024 * 1024)] = 64 * 1024
    """Requests with larger bodies are not copied."""
    timeout: Seconds = 10.0
    """Longest a copy may take."""
    max_in_flight: Annotated[int, Meta(ge=1, le=100_000)] = 64
    """Copies under way, per worker; further ones are dropped and counted."""
    header: str | None = "X-Mirrored-Request"
    """Field that marks a copy; null leaves it out."""
    credentials: bool = False
    """Copy Authorization, Cookie and Proxy-Authorization too."""


def check(spec: Mirror, keys: Path, found: Findings) -> None:
    """What its types cannot say."""
    if not spec.backends:
        found.error((*keys, "backends"), "at least one backend must be given")
    check_backends(spec.backends, (*keys, "backends"), found)
    check_condition(spec.when, (*keys, "when"), found)
    if spec.header is not None and (problem := field_problem(spec.header, "1", REQUEST_OWN)):
        found.error((*keys, "header"), problem)
    if spec.credentials:
        found.warning((*keys, "credentials"), "copies carry the clients' credentials: right for trusted backends only")
