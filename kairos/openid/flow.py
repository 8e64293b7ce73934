"""What is sent to a provider by way of the browser, and what comes back. Pure: bytes, texts and `now`.

RFC 6749 (code flow), RFC 7636 (PKCE), RFC 9207 (whose answer it is), RFC 9700 (best current practice).
"""

from __future__ import annotations

import hmac
import re
import secrets
from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import TYPE_CHECKING, Literal
from urllib.parse import parse_qsl, urlencode, urlsplit

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kairos.config.discovery import Metadata
    from kairos.config.oidc import OidcProvider

_ERROR_CODE = re.compile(r"[a-z_]{1,64}")
_TARGET = re.compile(rb"/[\x21-\x7e]*")
MAX_TARGET = 2048


Cause = Literal["state", "denied", "answer", "code", "token", "unavailable"]
_CAUSES: dict[str, Cause] = {"login_denied": "denied", "auth_unavailable": "unavailable"}


class LoginError(Exception):
    """A login that cannot be completed: a row of the error table, and what the user may know."""

    def __init__(self, kind: str, detail: str, reason: str = "", cause: Cause = "answer") -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.reason = reason
        """For the log."""
        self.cause: Cause = _CAUSES.get(kind, cause)
        """For metrics."""


class Attempt(msgspec.Struct, frozen=True, array_like=True):
    """A login under way: what the callback must find again in the browser that began it."""

    state: str
    nonce: str
    verifier: str
    target: str
    """Path and query to go on with."""
    redirect_uri: str
    ends: float


def begin(target: str, redirect_uri: str, ends: float) -> Attempt:
    """A login attempt that nobody can guess."""
    return Attempt(
        secrets.token_urlsafe(24), secrets.token_urlsafe(24), secrets.token_urlsafe(48), target, redirect_uri, ends
    )


def authorization_url(metadata: Metadata, provider: OidcProvider, attempt: Attempt) -> str:
    """Where the browser is sent."""
    query = {
        **provider.authorize_params,
        "response_type": "code",
        "client_id": provider.client_id,
        "redirect_uri": attempt.redirect_uri,
        "scope": " ".join(provider.scopes),
        "state": attempt.state,
        "nonce": attempt.nonce,
        "code_challenge": challenge(attempt.verifier),
        "code_challenge_method": "S256",
    }
    return with_query(metadata.authorization_endpoint, query)


def end_session_url(metadata: Metadata, client_id: str, after: str, id_token: str | None) -> str | None:
    """Where the browser is sent to log out there too (OpenID Connect RP-Initiated Logout 1.0 section 2); None: the
    provider does not know how. It comes back to `after`."""
    if metadata.end_session_endpoint is None:
        return None
    query = {"client_id": client_id, "post_logout_redirect_uri": after}
    if id_token is not None:
        query["id_token_hint"] = id_token
    return with_query(metadata.end_session_endpoint, query)


def challenge(verifier: str) -> str:
    """RFC 7636 section 4.2."""
    return urlsafe_b64encode(sha256(verifier.encode()).digest()).rstrip(b"=").decode()


def with_query(url: str, query: Mapping[str, str]) -> str:
    """The address with these parameters behind those it has."""
    return url + ("&" if urlsplit(url).query else "?") + urlencode(query)


def form_value(body: bytes, name: str) -> str:
    """Of a form; empty where it is not there, or more than once."""
    return _values(body).get(name, "")


def _values(text: bytes) -> dict[str, str]:
    try:
        pairs = parse_qsl(text.decode("latin-1"), keep_blank_values=True, max_num_fields=32)
    except ValueError:
        return {}
    names = [name for name, _ in pairs]
    return {name: value for name, value in pairs if names.count(name) == 1}


class Callback:
    """What came back in the address of the callback. A parameter that is repeated is none (RFC 6749 section 3.1)."""

    def __init__(self, query: bytes) -> None:
        self._values = _values(query)

    @property
    def state(self) -> str:
        return self._values.get("state", "")

    def code(self, attempt: Attempt | None, metadata: Metadata, now: float) -> str:
        """The code, if it answers this attempt.

        Raises:
            LoginError: it does not, or the provider says no.
        """
        if attempt is None or not hmac.compare_digest(self.state.encode(), attempt.state.encode()):
            raise LoginError("login_failed", "This browser has no such login under way: begin anew", cause="state")
        if now >= attempt.ends:
            raise LoginError("login_failed", "The login took too long: begin anew", cause="state")
        self._check_issuer(metadata)
        error = self._values.get("error")
        if error is not None:
            code = error if _ERROR_CODE.fullmatch(error) else "error"
            raise LoginError("login_denied", f"The identity provider refused the login: {code}", code)
        code = self._values.get("code", "")
        if not code or len(code) > 4096:
            raise LoginError("login_failed", "The identity provider sent no code")
        return code

    def _check_issuer(self, metadata: Metadata) -> None:
        """Another provider's answer must not be redeemed at this one (RFC 9207 section 2.4)."""
        issuer = self._values.get("iss")
        if issuer is None and not metadata.authorization_response_iss_parameter_supported:
            return
        if issuer != metadata.issuer:
            raise LoginError("login_failed", "The answer is another identity provider's", "iss")


def safe_target(path: bytes, query: bytes) -> str:
    """Path and query to go back to after the login: always on this host, whatever the client sent.

    A second slash would make a host of it, and browsers take a backslash for a slash.
    """
    target = path + (b"?" + query if query else b"")
    if len(target) > MAX_TARGET or not _TARGET.fullmatch(target) or b"\\" in target:
        return "/"
    return ("/." if target.startswith(b"//") else "") + target.decode("ascii")


def is_navigation(method: str, mode: bytes | None, requested_with: bytes | None, accept: bytes | None) -> bool:
    """Whether a person waits for a page, who can be sent to log in; a script gets 401."""
    if method not in ("GET", "HEAD"):
        return False
    if mode is not None:
        return mode == b"navigate"
    return requested_with is None and b"text/html" in (accept or b"").lower()
