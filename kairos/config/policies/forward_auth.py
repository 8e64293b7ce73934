"""Another service is asked whether a request may pass: where, with what of the request, what becomes of its answer.

What is remembered of its answers is remembered under all that it was told, and under nothing less: to remember more, it
has to be told less (`tell`, `request_headers`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta, field

from kairos.config.fields import NAME, REQUEST_OWN, RESPONSE_OWN
from kairos.config.spec import Seconds, Spec

if TYPE_CHECKING:
    from kairos.config.problems import Findings, Path

ALL = "*"
Part = Literal["method", "uri", "host", "client"]


class ForwardAuth(Spec, frozen=True):
    """The service to ask, for routes whose `auth` lists the method forward."""

    url: str
    """`http://` or `https://` address that is asked, with its path."""
    enabled: bool = True
    method: Literal["GET", "HEAD", "POST"] = "GET"
    """Of the question, which has no body."""
    tell: list[Part] = field(default_factory=lambda: ["method", "uri", "host", "client"])
    """What it is told beside headers: X-Forwarded-Method, X-Forwarded-Uri, X-Forwarded-Host, X-Forwarded-For."""
    request_headers: list[str] = field(default_factory=lambda: ["Authorization", "Cookie"])
    """Headers of the request that it is told; `*` for all of them."""
    response_headers: list[str] = field(default_factory=list)
    """Headers of its consent that the backend is told; what a client sends under these names never reaches it."""
    user_header: str | None = None
    """Header of its consent that names the caller, for limits by user and `claims_to_headers`."""
    client_headers: list[str] = field(
        default_factory=lambda: ["Content-Type", "Location", "Set-Cookie", "WWW-Authenticate"]
    )
    """Headers of its refusal (any answer below 500 but 2xx) that the client gets, with status and body."""
    timeout: Seconds = 5.0
    on_failure: Literal["deny", "allow"] = "deny"
    """What becomes of a request when no answer comes, or one of 500 and above: 503, or it passes as nobody's."""
    cache_time: Annotated[float, Meta(ge=0, le=86_400)] = 0.0
    """How long consent holds for requests that tell it the same, per worker; Cache-Control of the answer shortens
    it. 0 asks at each request."""
    cache_size: Annotated[int, Meta(ge=1, le=1_000_000)] = 10_000
    """Answers remembered per worker; the one not used for longest goes first."""


def check(spec: ForwardAuth, keys: Path, found: Findings) -> None:
    """An address that can be asked, names that headers have."""
    _check_url(spec.url, (*keys, "url"), found)
    for name in ("request_headers", "response_headers", "client_headers"):
        own = RESPONSE_OWN if name == "client_headers" else REQUEST_OWN
        for at, header in enumerate(getattr(spec, name)):
            if header != ALL or name != "request_headers":
                _check_name(header, own, (*keys, name, at), found)
    if spec.user_header is not None:
        _check_name(spec.user_header, frozenset(), (*keys, "user_header"), found)
    if spec.on_failure == "allow":
        found.warning((*keys, "on_failure"), "whoever keeps the service from answering passes without being asked")
    if spec.cache_time and not spec.request_headers and not spec.tell:
        found.error((*keys, "cache_time"), "the first consent would hold for everybody: the service is told nothing")


def _check_url(url: str, keys: Path, found: Findings) -> None:
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.fragment or parts.username is not None or not url.isascii() or any(c <= " " for c in url):
        found.error(keys, f"'{url}' is no address to ask: write http://name:port/path")
    elif parts.scheme == "http" and parts.hostname not in ("localhost", "127.0.0.1", "::1"):
        found.warning(keys, "credentials are sent to it without TLS")


def _check_name(name: str, own: frozenset[str], keys: Path, found: Findings) -> None:
    if not NAME.fullmatch(name):
        found.error(keys, f"'{name}' is no header name")
    elif name.lower() in own:
        found.error(keys, f"{name} is written by the gateway itself")
