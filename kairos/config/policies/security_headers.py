"""Headers that tell browsers to be careful with a response."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, field

from kairos.config.spec import Spec

if TYPE_CHECKING:
    from kairos.config.problems import Findings, Path

ReferrerPolicy = Literal[
    "no-referrer", "no-referrer-when-downgrade", "origin", "origin-when-cross-origin", "same-origin", "strict-origin",
    "strict-origin-when-cross-origin", "unsafe-url", "off",
]  # fmt: skip

PRELOAD_AGE = 31_536_000
_TEXTS = ("content_security_policy", "content_security_policy_report_only", "permissions_policy")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_PRINTABLE = re.compile(r"[\x20-\x7e]+")
_OWN = {"connection", "content-length", "transfer-encoding", "upgrade", "keep-alive", "trailer", "te", "date", "via"}


class Hsts(Spec, frozen=True):
    """Strict-Transport-Security: browsers come back over TLS only. Sent over TLS only (RFC 6797 section 7.2)."""

    max_age: Annotated[int, Meta(ge=0, le=315_360_000)] = PRELOAD_AGE
    """Seconds; 0 takes an earlier promise back."""
    include_subdomains: bool = False
    """For all names below as well: each of them must have TLS."""
    preload: bool = False
    """Consent to being built into browsers, which takes months to undo."""


class SecurityHeaders(Spec, frozen=True):
    """On for every route with three headers that hardly any application minds; a backend that sends one of them itself
    has its own way. What can break pages (CSP, HSTS and the isolation headers) is sent only where it is asked for."""

    enabled: bool = True
    override: bool = False
    """Replace what the backend sends."""
    content_type_options: bool = True
    """X-Content-Type-Options: nosniff."""
    frame_options: Literal["DENY", "SAMEORIGIN", "off"] = "SAMEORIGIN"
    """X-Frame-Options: who may show the page in a frame."""
    referrer_policy: ReferrerPolicy = "strict-origin-when-cross-origin"
    """Referrer-Policy: what other sites learn of the address a user came from."""
    content_security_policy: str | None = None
    content_security_policy_report_only: str | None = None
    permissions_policy: str | None = None
    """Such as `geolocation=(), camera=()`."""
    cross_origin_opener_policy: (
        Literal["unsafe-none", "same-origin-allow-popups", "same-origin", "noopener-allow-popups"] | None
    ) = None
    cross_origin_embedder_policy: Literal["unsafe-none", "require-corp", "credentialless"] | None = None
    cross_origin_resource_policy: Literal["same-site", "same-origin", "cross-origin"] | None = None
    hsts: Hsts | None = None
    """Strict-Transport-Security, see below."""
    xss_protection: Literal["0", "1; mode=block"] | None = None
    """X-XSS-Protection: not sent, for the filter it switches is gone from browsers, and could be used against pages."""
    remove: list[str] = field(default_factory=list)
    """Headers of the backend that are nobody's business, such as `Server` and `X-Powered-By`."""


def check(spec: SecurityHeaders, keys: Path, found: Findings) -> None:
    """What its types cannot say."""
    for name in _TEXTS:
        text = getattr(spec, name)
        if text is not None and not _PRINTABLE.fullmatch(text):
            found.error((*keys, name), "must be one line of printable ASCII, and not empty")
    for at, header in enumerate(spec.remove):
        if not _TOKEN.fullmatch(header):
            found.error((*keys, "remove", at), f"'{header}' is no header name")
        elif header.lower() in _OWN:
            found.error((*keys, "remove", at), f"{header} is written by the gateway itself")
    if spec.hsts is not None:
        _check_hsts(spec.hsts, (*keys, "hsts"), found)


def _check_hsts(hsts: Hsts, keys: Path, found: Findings) -> None:
    if hsts.preload and (hsts.max_age < PRELOAD_AGE or not hsts.include_subdomains):
        message = f"browsers' lists take only max_age of {PRELOAD_AGE} or more with include_subdomains"
        found.error((*keys, "preload"), message)
