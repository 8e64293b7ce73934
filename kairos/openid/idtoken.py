"""What an ID token has to be (OpenID Connect Core 1.0 sections 3.1.3.7 and 12.2), and the claims that are kept."""

from __future__ import annotations

import hmac
from base64 import urlsafe_b64encode
from hashlib import sha256, sha384, sha512
from typing import TYPE_CHECKING, Any

from jwt.algorithms import get_default_algorithms

from kairos.config.jose import base64url, secret_key
from kairos.openid.token import TokenError, check_type, parse

if TYPE_CHECKING:
    from kairos.config.discovery import Granted, Metadata
    from kairos.config.jose import KeySet, VerifyKey
    from kairos.config.oidc import OidcProvider
    from kairos.openid.token import Token

PROTOCOL_CLAIMS = frozenset({"nonce", "at_hash", "c_hash", "s_hash"})
"""Of no use to anybody once they were looked at."""
LOGOUT_EVENT = "http://schemas.openid.net/event/backchannel-logout"
LOGOUT_LIFE = 120.0
"""Seconds that one is good for which does not say."""
_ALGORITHMS = get_default_algorithms()
_HASHES = {"256": sha256, "384": sha384, "512": sha512, "DSA": sha512}


class UnknownKeyError(TokenError):
    """The token is signed with a key that is not in the set: there may be a newer one."""


def algorithms(provider: OidcProvider, metadata: Metadata) -> frozenset[str]:
    """What is allowed and what the provider says it uses."""
    return frozenset(provider.algorithms) & frozenset(metadata.id_token_signing_alg_values_supported)


def id_claims(
    raw: str, provider: OidcProvider, metadata: Metadata, keys: KeySet, granted: Granted, nonce: str | None, now: float
) -> dict[str, Any]:
    """The claims of an ID token that is signed by the provider, for us, now; `nonce` None: it came with a refresh.

    Raises:
        UnknownKeyError: another look at the provider's keys may help.
        TokenError: it is not.
    """
    token = parse(raw.encode())
    check_type(token, ("jwt",))
    _check_signature(token, raw, provider, metadata, keys)
    claims = token.claims
    if claims.get("iss") != metadata.issuer:
        raise TokenError("is of another issuer")
    _check_audience(claims, provider.client_id)
    _check_times(claims, now, provider.leeway)
    if not isinstance(claims.get("sub"), str) or not claims["sub"]:
        raise TokenError("says of nobody who it is")
    if nonce is not None and not _same(claims.get("nonce"), nonce):
        raise TokenError("answers another login: its nonce is not ours")
    _check_hash(token, claims, granted.access_token)
    return claims


def logout_claims(raw: str, provider: OidcProvider, metadata: Metadata, keys: KeySet, now: float) -> dict[str, Any]:
    """The claims of a token by which the provider ends sessions (OpenID Connect Back-Channel Logout 1.0 section 2.6).

    Raises: as id_claims() does.
    """
    token = parse(raw.encode())
    check_type(token, ("logout+jwt", "jwt"))
    _check_signature(token, raw, provider, metadata, keys)
    claims = token.claims
    if claims.get("iss") != metadata.issuer:
        raise TokenError("is of another issuer")
    if provider.client_id not in _listed(claims.get("aud")):
        raise TokenError("is for another client")
    _check_times({"exp": claims.get("iat", 0) + LOGOUT_LIFE, **claims}, now, provider.leeway)
    events = claims.get("events")
    if not isinstance(events, dict) or not isinstance(events.get(LOGOUT_EVENT), dict):
        raise TokenError("tells of no logout")
    if "nonce" in claims:
        raise TokenError("is an ID token")
    for name in ("jti", "sid", "sub"):
        if not isinstance(claims.get(name, ""), str) or claims.get(name) == "":
            raise TokenError(f"has a {name} that is none")
    if "jti" not in claims or not claims.keys() & {"sid", "sub"}:
        raise TokenError("lacks jti, or says of nobody who it is")
    return claims


def _check_signature(token: Token, raw: str, provider: OidcProvider, metadata: Metadata, keys: KeySet) -> None:
    if token.algorithm not in algorithms(provider, metadata):
        raise TokenError(f"is signed with {token.algorithm[:16]}, which is not allowed")
    if token.algorithm.startswith("HS"):
        key = secret_key(provider.client_secret or "", [token.algorithm])
    else:
        found = keys.pick(token.kid, token.algorithm)
        if found is None:
            raise UnknownKeyError("is signed with a key that the provider does not publish")
        key = found
    if not _verified(raw.encode(), token.algorithm, key):
        raise TokenError("has a signature that is not the provider's")


def _verified(raw: bytes, algorithm: str, key: VerifyKey) -> bool:
    """The algorithm is one that the key is for: it was picked by it."""
    signed, _, signature = raw.rpartition(b".")
    return bool(_ALGORITHMS[algorithm].verify(signed, key.key, base64url(signature)))


def _check_audience(claims: dict[str, Any], client_id: str) -> None:
    """For us; and where it is for others too, asked for by us."""
    listed = _listed(claims.get("aud"))
    if client_id not in listed:
        raise TokenError("is for another client")
    party = claims.get("azp")
    if (party is None and len(listed) > 1) or (party is not None and party != client_id):
        raise TokenError("was asked for by another client")


def _listed(audience: Any) -> list[Any]:
    return [audience] if isinstance(audience, str) else audience or []


def _check_times(claims: dict[str, Any], now: float, leeway: float) -> None:
    if "exp" not in claims or "iat" not in claims:
        raise TokenError("lacks exp or iat")
    if now >= claims["exp"] + leeway:
        raise TokenError("is expired")
    if claims["iat"] > now + leeway or claims.get("nbf", now) > now + leeway:
        raise TokenError("is of the future: look at the clocks")


def _check_hash(token: Token, claims: dict[str, Any], access_token: str | None) -> None:
    """An access token that came with it belongs to it."""
    if "at_hash" not in claims or access_token is None:
        return
    digest = _HASHES[token.algorithm[-3:]](access_token.encode()).digest()
    expected = urlsafe_b64encode(digest[: len(digest) // 2]).rstrip(b"=").decode()
    if not _same(claims["at_hash"], expected):
        raise TokenError("came with an access token that is not its own")


def _same(given: object, expected: str) -> bool:
    return isinstance(given, str) and hmac.compare_digest(given.encode(), expected.encode())


def session_claims(claims: dict[str, Any], userinfo: dict[str, Any] | None) -> dict[str, Any]:
    """What a session remembers.

    Raises:
        TokenError: the userinfo endpoint speaks of somebody else (section 5.3.2).
    """
    if userinfo is not None and userinfo.get("sub") != claims["sub"]:
        raise TokenError("and the userinfo endpoint speak of different people")
    kept = {name: value for name, value in claims.items() if name not in PROTOCOL_CLAIMS}
    return {**(userinfo or {}), **kept}
