"""What a provider says of itself (OpenID Connect Discovery 1.0), and what workers and the control process say of it to
each other. Pure data: the control process asks providers, workers ask the control process.
"""

from __future__ import annotations

from typing import Any
from urllib.parse import urlsplit

import msgspec

WELL_KNOWN = "/.well-known/openid-configuration"


class Metadata(msgspec.Struct, frozen=True, omit_defaults=True):
    """The part of a discovery document that is used here."""

    issuer: str
    authorization_endpoint: str
    token_endpoint: str
    jwks_uri: str
    userinfo_endpoint: str | None = None
    end_session_endpoint: str | None = None
    revocation_endpoint: str | None = None
    id_token_signing_alg_values_supported: list[str] = msgspec.field(default_factory=lambda: ["RS256"])
    code_challenge_methods_supported: list[str] | None = None
    authorization_response_iss_parameter_supported: bool = False


class Known(msgspec.Struct, frozen=True):
    """Control to worker: a provider's metadata and the keys it signs with."""

    metadata: Metadata
    keys: str
    """The JWK set as it came."""


class CodeGrant(msgspec.Struct, frozen=True):
    """Worker to control: exchange a code for tokens."""

    code: str
    verifier: str
    redirect_uri: str
    state: str
    """Of the login: each is exchanged once."""


class RefreshGrant(msgspec.Struct, frozen=True):
    """Worker to control: renew a session."""

    refresh_token: str


class Ending(msgspec.Struct, frozen=True):
    """Worker to control: sessions end."""

    who: str
    """Whose: see kairos.proxy.oidc.endings."""
    at: float
    """Those that began up to then; unix seconds."""
    until: float
    """When the last of them is over anyway."""
    jti: str = ""
    """Of the token that said so: it does so once."""


class Endings(msgspec.Struct, frozen=True):
    """Control to worker: sessions that ended."""

    epoch: str
    """Of the numbers: another one with each control process."""
    number: int
    """Of the first ending that is not among these."""
    endings: list[Ending]
    more: bool
    """There are further ones."""


class EndingsSince(msgspec.Struct, frozen=True):
    """Worker to control: what ended that I do not know?"""

    epoch: str
    number: int


class Granted(msgspec.Struct, frozen=True, omit_defaults=True):
    """Control to worker: what the token endpoint said, tokens or an error."""

    error: str | None = None
    """An error code of RFC 6749 section 5.2, or `replayed`."""
    access_token: str | None = None
    id_token: str | None = None
    refresh_token: str | None = None
    expires_in: float | None = None
    userinfo: dict[str, Any] | None = None


def metadata_of(document: bytes, issuer: str) -> Metadata:
    """The metadata of exactly this issuer.

    Raises:
        ValueError: it is no discovery document, another one's, or leads away from TLS; the text says what.
    """
    try:
        metadata = msgspec.json.decode(document, type=Metadata)
    except msgspec.MsgspecError as error:
        raise ValueError(f"no discovery document: {error}") from error
    if metadata.issuer != issuer:
        raise ValueError(f"issuer '{issuer}' is configured, the document says '{metadata.issuer[:200]}'")
    for name in ("authorization_endpoint", "token_endpoint", "jwks_uri", "userinfo_endpoint", "end_session_endpoint",
                 "revocation_endpoint"):  # fmt: skip
        url = getattr(metadata, name)
        if url is not None and not _is_safe(url, issuer):
            raise ValueError(f"{name} must be an https address")
    methods = metadata.code_challenge_methods_supported
    if methods is not None and "S256" not in methods:
        raise ValueError("the provider does not support PKCE with S256")
    return metadata


def _is_safe(url: str, issuer: str) -> bool:
    """TLS, but for a provider that is itself configured without."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return False
    return bool(parts.hostname) and parts.scheme in ("https", urlsplit(issuer).scheme)
