"""Which pages of other origins may call the route and read its answers (the Fetch standard's CORS protocol)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, field

from kairos.config.spec import Spec
from kairos.config.weborigin import ANY, check_origins, check_patterns

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kairos.config.problems import Findings, Path

_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


class Cors(Spec, frozen=True):
    """Cross-origin resource sharing. Preflights are answered by the gateway, and what a backend says of
    Access-Control-* is replaced. Origins that are not listed get no such header; their requests still pass, for it is
    their browser that keeps pages from reading the answer."""

    enabled: bool = True
    allowed_origins: list[str] = field(default_factory=list)
    """As browsers send them: `https://app.example.com`, with `*.` for one label or more, `:*` for any port, `null` for
    pages without an origin, or `*` for all."""
    allowed_origin_patterns: list[str] = field(default_factory=list)
    """Regular expressions (RE2 syntax) that the whole origin has to match; never `null`."""
    allowed_methods: list[str] = field(default_factory=list)
    """Methods pages may use; none means those of the route, `*` all."""
    allowed_headers: list[str] = field(default_factory=list)
    """Request headers pages may set beside the harmless ones; `*` means all, Authorization as well."""
    exposed_headers: list[str] = field(default_factory=list)
    """Response headers pages may read beside the harmless ones; `*` means all, but not with credentials."""
    allow_credentials: bool = False
    """Pages may send cookies and read what comes of it."""
    allow_private_network: bool = False
    """Answer preflights of public pages for a gateway in a private network (Private Network Access)."""
    max_age: Annotated[int, Meta(ge=0)] | None = None
    """Seconds a browser may keep the answer to a preflight; without it browsers keep it for 5."""


def check(spec: Cors, keys: Path, found: Findings) -> None:
    """What its types cannot say."""
    check_origins(spec.allowed_origins, (*keys, "allowed_origins"), found, stars=True)
    check_patterns(spec.allowed_origin_patterns, (*keys, "allowed_origin_patterns"), found)
    for name in ("allowed_methods", "allowed_headers", "exposed_headers"):
        _check_tokens(getattr(spec, name), (*keys, name), found)
    if spec.allow_credentials:
        _check_credentials(spec, keys, found)
    elif ANY in spec.allowed_origins and (len(spec.allowed_origins) > 1 or spec.allowed_origin_patterns):
        found.warning((*keys, "allowed_origins"), "'*' allows every origin: the others make no difference beside it")
    if spec.enabled and not spec.allowed_origins and not spec.allowed_origin_patterns:
        found.warning(keys, "no origin is allowed: list some in allowed_origins")


def _check_credentials(spec: Cors, keys: Path, found: Findings) -> None:
    """Any page could act as the user who is logged in: the Fetch standard forbids it."""
    if ANY in spec.allowed_origins:
        message = "browsers refuse '*' together with allow_credentials, and any page could use it: list the origins"
        found.error((*keys, "allowed_origins"), message)
    if "null" in spec.allowed_origins:
        found.warning((*keys, "allowed_origins"), "any page can send the origin 'null': do not give it credentials")
    for at, origin in enumerate(spec.allowed_origins):
        if origin.startswith("http://") and not re.match(r"http://(localhost|127\.|\[::1\])", origin):
            message = f"who is between can speak for {origin}, with the user's cookies: use https"
            found.warning((*keys, "allowed_origins", at), message)
    if "*" in spec.exposed_headers:
        message = "'*' means nothing to browsers together with allow_credentials: name the headers"
        found.error((*keys, "exposed_headers"), message)


def _check_tokens(words: Sequence[str], keys: Path, found: Findings) -> None:
    for at, word in enumerate(words):
        if not _TOKEN.fullmatch(word):
            found.error((*keys, at), f"'{word}' is no name of a method or header")
