"""Routes that are served over HTTPS only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, field

from kairos.config.spec import Spec

if TYPE_CHECKING:
    from kairos.config.problems import Findings, Path

ACME = "/.well-known/acme-challenge/"


class HttpsOnly(Spec, frozen=True):
    """What becomes of requests that come without TLS. One from a trusted proxy that says the client used HTTPS counts
    as HTTPS."""

    enabled: bool = True
    action: Literal["redirect", "refuse"] = "redirect"
    """308 to the same place over HTTPS, or 403: a program that sends its credentials in the clear is better told so."""
    port: Annotated[int, Meta(ge=1, le=65_535)] = 443
    """Of HTTPS as clients reach it, for redirects."""
    exempt: list[str] = field(default_factory=lambda: [ACME])
    """Beginnings of paths that stay open, such as those that prove to a certificate authority whose the name is."""


def check(spec: HttpsOnly, keys: Path, found: Findings) -> None:
    """Prefixes that a path can have."""
    for at, prefix in enumerate(spec.exempt):
        if not prefix.startswith("/"):
            found.error((*keys, "exempt", at), f"'{prefix}' begins no path: write /{prefix}")
