"""Forged requests: what changes something has to come from a page of this host, or of one that is trusted.

    what browsers say   Sec-Fetch-Site where there is one (no page can set it), else Origin, else Referer
    a token             where it is asked for: in a cookie that pages of this host can read, signed and bound to who is
                        logged in, and repeated in a header or a form's field; others can send the cookie along, but
                        neither read nor make it
    nothing to forge    without a cookie, basic auth and client certificate there is nothing that a browser adds by
                        itself; and what it does not add by itself (Authorization: Bearer, an API key) no other page
                        can send without a CORS preflight

Rules: GET, HEAD, OPTIONS and TRACE pass, but for WebSocket handshakes, which no CORS protects.
"""

from __future__ import annotations

import hmac
import secrets
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, urlsplit

from kairos.config.weborigin import WebOrigins
from kairos.proxy.exchange import Exchange, Filter

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from kairos.config.policies.csrf import Csrf
    from kairos.proxy.site import Site

SAFE = frozenset(("GET", "HEAD", "OPTIONS", "TRACE"))
AMBIENT_SCHEMES = frozenset((b"basic", b"digest", b"negotiate", b"ntlm"))
"""Of Authorization: those that browsers add by themselves."""
OWN_HEADER = frozenset(("api_key", "signature"))
"""Methods of authentication whose credential no browser adds by itself."""
MAX_FORM = 64 * 1024
_FORM = b"application/x-www-form-urlencoded"


class CsrfFilter(Filter):
    """A csrf section; `handshakes`: the route takes those of WebSocket."""

    def __init__(self, spec: Csrf, *, handshakes: bool) -> None:
        self._spec = spec
        self._handshakes = handshakes
        self._trusted = WebOrigins(spec.trusted_origins)
        self._tokens = Tokens(spec) if spec.token else None

    def on_request(self, x: Exchange) -> Awaitable[None] | None:
        if x.method in SAFE:
            if self._handshakes and x.header(b"sec-websocket-key") is not None:
                self._check_source(x)
            elif self._tokens is not None:
                self._tokens.give(x)
            return None
        if not is_forgeable(x) or not self._check_source(x) or self._tokens is None:
            return None
        return self._check_token(x, self._tokens)

    def _check_source(self, x: Exchange) -> bool:
        reason = self._foreign(x) if is_forgeable(x) else None
        if reason is not None:
            x.fail_as("csrf", f"{reason}: open this site and try again")
        return reason is None

    def _foreign(self, x: Exchange) -> str | None:
        """Why it is not from where it should be."""
        site, origin = x.header(b"sec-fetch-site"), x.header(b"origin")
        if site in (b"same-origin", b"none"):
            return None
        if origin is None and site is None:
            origin = _origin_of(x.header(b"referer"))
            if origin is None:
                return None if self._spec.allow_missing else "The request does not say where it comes from"
        text = (origin or b"").decode("latin-1")
        if self._trusted.lists(text) or (site is None and _is_own(text, x)):
            return None
        return "The request comes from another site"

    def _check_token(self, x: Exchange, tokens: Tokens) -> Awaitable[None] | None:
        given = x.header(tokens.header)
        if given is None and self._spec.form_field is not None and _is_form(x):
            return self._check_form(x, tokens, self._spec.form_field)
        self._judge(x, tokens, given)
        return None

    async def _check_form(self, x: Exchange, tokens: Tokens, field: str) -> None:
        try:
            body = await x.read(MAX_FORM)
            values = [value for name, value in parse_qsl(body.decode("latin-1"), max_num_fields=1000) if name == field]
        except ValueError:
            values = []
        if not x.finished:
            self._judge(x, tokens, values[0].encode("latin-1") if len(values) == 1 else None)

    def _judge(self, x: Exchange, tokens: Tokens, given: bytes | None) -> None:
        if not tokens.is_good(x, given):
            x.fail_as("csrf", f"The token in {self._spec.header} is missing or not this session's: reload the page")


def is_forgeable(x: Exchange) -> bool:
    """Whether something in it was added by the browser itself, and nothing else says who it is."""
    scheme = (x.header(b"authorization") or b"").partition(b" ")[0].lower()
    if scheme and scheme not in AMBIENT_SCHEMES:
        return False
    if x.identity is not None and x.identity.method in OWN_HEADER:
        return False
    return bool(scheme) or x.header(b"cookie") is not None or x.client_certificate is not None


def _is_own(origin: str, x: Exchange) -> bool:
    """Whether it is this host's. Its scheme only where it is known that the user came over TLS."""
    scheme, _, authority = origin.partition("://")
    if authority.lower() != x.host.lower():
        return False
    return scheme == "https" or (scheme == "http" and x.client_scheme == "http")


def _origin_of(referer: bytes | None) -> bytes | None:
    try:
        parts = urlsplit((referer or b"").decode("latin-1"))
    except ValueError:
        return b"null"
    return f"{parts.scheme}://{parts.netloc}".encode("latin-1") if parts.netloc else None


def _is_form(x: Exchange) -> bool:
    return (x.header(b"content-type") or b"").partition(b";")[0].strip().lower() == _FORM


class Tokens:
    """Made of random bytes and a signature over them and who is logged in, so that none is good for anybody else."""

    def __init__(self, spec: Csrf) -> None:
        self.header = spec.header.lower().encode()
        self._spec = spec
        self._keys = [hmac.digest(secret.encode(), b"kairos csrf", "sha256") for secret in spec.secrets]

    def make(self, who: str) -> str:
        """A new one."""
        nonce = secrets.token_urlsafe(16)
        return f"{nonce}.{_signature(self._keys[0], nonce, who)}"

    def is_of(self, token: bytes, who: str) -> bool:
        """Whether it was made for this user."""
        nonce, _, signature = token.decode("latin-1").partition(".")
        return any(
            hmac.compare_digest(signature.encode("latin-1"), _signature(key, nonce, who).encode()) for key in self._keys
        )

    def is_good(self, x: Exchange, given: bytes | None) -> bool:
        """Whether what was given is the cookie's, and this user's."""
        held = self._held(x)
        return given is not None and held is not None and hmac.compare_digest(given, held) and self.is_of(held, _who(x))

    def give(self, x: Exchange) -> None:
        """See that who is logged in has one, and that the backend knows it."""
        if x.identity is None:
            return
        held, who = self._held(x), _who(x)
        if held is None or not self.is_of(held, who):
            held = self.make(who).encode()
            x.add_response_header("Set-Cookie", self._cookie(x, held.decode()))
        x.set_request_header(self._spec.header, held)

    def _held(self, x: Exchange) -> bytes | None:
        name = self._name(x).encode()
        for part in (x.header(b"cookie") or b"").split(b";"):
            key, _, value = part.strip().partition(b"=")
            if key == name:
                return value
        return None

    def _name(self, x: Exchange) -> str:
        return f"__Host-{self._spec.cookie}" if x.client_scheme == "https" else self._spec.cookie

    def _cookie(self, x: Exchange, token: str) -> str:
        """Readable by this host's pages: that is what it is for."""
        secure = "; Secure" if x.client_scheme == "https" else ""
        return f"{self._name(x)}={token}; Path=/; SameSite=Lax{secure}"


def _signature(key: bytes, nonce: str, who: str) -> str:
    return hmac.digest(key, f"{nonce}\0{who}".encode("utf-8", "replace"), "sha256").hex()


def _who(x: Exchange) -> str:
    return x.identity.who if x.identity is not None else ""


def build(site: Site) -> Filter | None:
    """The filter of a route with a csrf section."""
    spec = site.policies.csrf
    if spec is None:
        return None
    return CsrfFilter(spec, handshakes=site.route.upgrade or site.route.protocol == "websocket")
