"""Tokens verified: by the provider that issued them, with the one key that fits, and all that it asks for.

pyjwt verifies the signature and the registered claims. What it would let pass is refused before, in token.py and
jose.py; what it does not know (claim rules, revocations, types) is looked at after. Why a token was refused is logged
at debug level and never told to whoever sent it.

Loads pyjwt and cryptography: import it where a route has tokens to verify.
"""

from __future__ import annotations

import math
import time
import warnings
from typing import TYPE_CHECKING, Any, NamedTuple

import jwt
from jwt.warnings import InsecureKeyLengthWarning

from kairos.config.jose import base64url
from kairos.config.policies.jwt import local_keys, providers, read_revocations, texts
from kairos.openid.token import Token, TokenError, check_type, parse
from kairos.proxy.filters.authenticate import Refusal
from kairos.proxy.filters.authn.remote import UNKNOWN_PAUSE
from kairos.proxy.filters.authn.rules import Rules
from kairos.proxy.identity import Identity
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kairos.config.jose import KeySet, VerifyKey
    from kairos.config.policies.jwt import Jwt, JwtProvider
    from kairos.proxy.filters.authn.remote import RemoteKeys

INVALID = Refusal("unauthorized", "Invalid or expired token", b'Bearer realm="kairos", error="invalid_token"')
UNAVAILABLE = Refusal("auth_unavailable")
METHOD = "jwt"

log = get_logger("jwt")

# Short secrets are refused when the configuration is checked; --insecure-dev takes them, and has been told then.
warnings.filterwarnings("ignore", category=InsecureKeyLengthWarning)


class Verified(NamedTuple):
    """A good token's caller, and until when it may be believed (Unix seconds)."""

    identity: Identity
    until: float


class Verifier:
    """All providers of a configuration. `remote` makes the keys of one whose set is elsewhere."""

    def __init__(self, spec: Jwt, remote: Callable[[JwtProvider], RemoteKeys]) -> None:
        self._spec = spec
        self._providers = [Provider(one, spec, remote(one) if one.jwks_url else None) for one in providers(spec)]
        self._by_issuer = {issuer: one for one in self._providers for issuer in one.issuers}
        self.remotes = [one.remote for one in self._providers if one.remote is not None]

    def verify(self, raw: bytes) -> Verified | Refusal | Awaitable[Verified | Refusal]:
        """Whose token it is, or that it is nobody's; awaitable where keys have to be asked for."""
        if len(raw) > self._spec.max_token_bytes:
            return INVALID
        try:
            token = parse(raw)
            provider = self._provider(token)
            key = provider.key(token)
            if key is not None:
                return provider.judge(raw, token, key)
        except TokenError as error:
            return _invalid(error)
        remote = provider.remote
        if remote is None or (token.kid is None and remote.keys is not None) or not remote.may_ask():
            return provider.unknown_key()
        return _ask_first(raw, token, provider, remote)

    def _provider(self, token: Token) -> Provider:
        """With several, the issuer it names; that it is really theirs is verified afterwards."""
        if len(self._providers) == 1:
            return self._providers[0]
        provider = self._by_issuer.get(token.claims.get("iss", ""))
        if provider is None:
            raise TokenError("is of no known issuer")
        return provider


async def _ask_first(raw: bytes, token: Token, provider: Provider, remote: RemoteKeys) -> Verified | Refusal:
    """Keys may have been rotated."""
    await remote.renew(token.kid, UNKNOWN_PAUSE)
    try:
        key = provider.key(token)
        return provider.unknown_key() if key is None else provider.judge(raw, token, key)
    except TokenError as error:
        return _invalid(error)


def _invalid(reason: TokenError) -> Refusal:
    log.debug("token refused", reason=str(reason))
    return INVALID


class Provider:
    """One issuer compiled."""

    def __init__(self, spec: JwtProvider, section: Jwt, remote: RemoteKeys | None) -> None:
        self.issuers = texts(spec.issuer)
        self.remote = remote
        self._name = spec.name or next(iter(self.issuers), "")
        self._local = local_keys(spec) if remote is None else None
        self._audiences = texts(spec.audience)
        self._leeway = spec.leeway
        self._kept = section.cache_seconds
        self._types = tuple(name.lower() for name in spec.types)
        self._rules = Rules(spec.claims)
        self._bound = spec.certificate_bound
        self._proven = section.dpop is not None
        self._revoked = Revoked(spec.revocations_file)
        matched = [name for name, wanted in (("iss", self.issuers), ("aud", self._audiences)) if wanted]
        required = {"exp", *spec.required_claims, *matched}
        self._options: Any = {"require": sorted(required), "verify_aud": bool(self._audiences)}

    def unknown_key(self) -> Refusal:
        """What is said to a token whose key is not there: without any key nothing can be said of it."""
        return UNAVAILABLE if self._keys() is None else _invalid(TokenError("has no known key"))

    def _keys(self) -> KeySet | None:
        return self._local if self.remote is None else self.remote.keys

    def key(self, token: Token) -> VerifyKey | None:
        """The key that has to have signed it, as far as is known."""
        keys = self._keys()
        return keys.pick(token.kid, token.algorithm) if keys is not None else None

    def judge(self, raw: bytes, token: Token, key: VerifyKey) -> Verified:
        """The caller, if everything holds.

        Raises:
            TokenError: something does not.
        """
        check_type(token, self._types)
        claims = self._decoded(raw, token, key)
        broken = self._rules.broken(claims)
        if broken is not None:
            raise TokenError(f"has a claim {broken.claim} that does not do")
        if claims in self._revoked:
            raise TokenError("is revoked")
        holder = self._holder(claims)
        identity = Identity(claims.get("sub", ""), METHOD, claims, realm=claims.get("iss", self._name), key=holder)
        return Verified(identity, min(claims["exp"] + self._leeway, time.time() + self._kept))

    def _holder(self, claims: dict[str, Any]) -> bytes | str | None:
        """What whoever shows the token has to have: a client certificate (bytes), a key (text), or nothing."""
        certificate = bound_to(claims) if self._bound else None
        key = key_of(claims) if self._proven else None
        if certificate is not None and key is not None:
            raise TokenError("is bound to two things")
        return certificate if key is None else key

    def _decoded(self, raw: bytes, token: Token, key: VerifyKey) -> dict[str, Any]:
        try:
            return jwt.decode(
                raw,
                key.key,
                algorithms=[token.algorithm],  # which is among the key's: it was picked by it
                issuer=list(self.issuers) or None,
                audience=list(self._audiences) or None,
                leeway=self._leeway,
                options=self._options,
            )
        except (jwt.PyJWTError, ValueError, TypeError, OverflowError, RecursionError) as error:
            raise TokenError(str(error)) from None


def bound_to(claims: dict[str, Any]) -> bytes | None:
    """SHA-256 of the client certificate without which the token is nobody's (RFC 8705 section 3.1).

    Raises:
        TokenError: it cannot be one.
    """
    return _confirmed(claims, "x5t#S256")


def key_of(claims: dict[str, Any]) -> str | None:
    """Thumbprint of the key that has to sign a proof for each request (RFC 9449 section 6.1).

    Raises:
        TokenError: it cannot be one.
    """
    return None if _confirmed(claims, "jkt") is None else str(claims["cnf"]["jkt"])


def _confirmed(claims: dict[str, Any], method: str) -> bytes | None:
    """A SHA-256 digest among what a token is bound to (RFC 7800)."""
    confirmation = claims.get("cnf")
    if not isinstance(confirmation, dict) or method not in confirmation:
        return None
    try:
        digest = base64url(confirmation[method])
    except (ValueError, TypeError):
        digest = b""
    if len(digest) != 32:
        raise TokenError(f"is bound to a {method} that there cannot be")
    return digest


class Revoked:
    """Tokens that are no longer taken."""

    def __init__(self, path: str | None) -> None:
        entries = read_revocations(path) if path is not None else []
        self._ids = frozenset(entry.jti for entry in entries if entry.jti is not None)
        self._subjects: dict[str, float] = {}
        for entry in entries:
            if entry.sub is not None:
                last = math.inf if entry.iat is None else entry.iat
                self._subjects[entry.sub] = max(last, self._subjects.get(entry.sub, -math.inf))

    def __contains__(self, claims: dict[str, Any]) -> bool:
        """One that does not say when it was issued counts as old."""
        last = self._subjects.get(claims.get("sub", ""))
        return claims.get("jti") in self._ids or (last is not None and claims.get("iat", -math.inf) <= last)
