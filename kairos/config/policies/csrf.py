"""Requests that another site makes a logged-in browser send (cross-site request forgery)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

from msgspec import Meta, field

from kairos.config.shared_secrets import check_secrets
from kairos.config.spec import Spec
from kairos.config.weborigin import check_origins

if TYPE_CHECKING:
    from kairos.config.problems import Findings, Path

_Token = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_-]{1,64}$")]


class Csrf(Spec, frozen=True):
    """For routes whose users are known by what browsers send by themselves: cookies, basic auth, client certificates.
    Methods that change something, and WebSocket handshakes, have to come from this host's own pages; requests that are
    authenticated by a header of their own (bearer tokens, API keys, signatures) cannot be forged, and pass."""

    enabled: bool = True
    trusted_origins: list[str] = field(default_factory=list)
    """Other origins whose pages may send them: `https://app.example.com`, `https://*.example.com`."""
    allow_missing: bool = False
    """Let requests pass that say nothing of where they come from (Sec-Fetch-Site, Origin, Referer): programs that keep
    cookies. Every browser of today says it."""
    token: bool = False
    """Ask for a token as well, which only a page of this host can read from its cookie."""
    secrets: list[str] = field(default_factory=list)
    """Keys that sign tokens, 32 bytes or more each: the first one signs, all are taken."""
    cookie: _Token = "kairos_csrf"
    """Cookie of the token; over https `__Host-` stands before it."""
    header: _Token = "X-CSRF-Token"
    """Header that has to repeat it. The backend gets it too, to write it into forms."""
    form_field: _Token | None = None
    """Field of an urlencoded form that may stand for the header."""


def check(spec: Csrf, keys: Path, found: Findings) -> None:
    """What its types cannot say."""
    check_origins(spec.trusted_origins, (*keys, "trusted_origins"), found, stars=False)
    for at, origin in enumerate(spec.trusted_origins):
        if origin.startswith("http://") and not origin.startswith(("http://localhost", "http://127.", "http://[::1]")):
            found.warning((*keys, "trusted_origins", at), f"who is between can speak for {origin}: use https")
    if spec.token:
        check_secrets(spec.secrets, (*keys, "secrets"), found)
    elif spec.form_field is not None:
        found.warning((*keys, "form_field"), "has no effect without token: true")
