"""Tokens that are good only with a proof that their holder has a key (DPoP, RFC 9449).

A proof is a JWT of its own, made for one request: it names the method and the address, is some seconds old, belongs to
the token it comes with, is signed with the key that the token names, and is good once, on all workers. What is left of
it afterwards stands in the memory that all workers share, like used signatures: only proofs that are right get there.
"""

from __future__ import annotations

import hmac
import json
import re
import time
from base64 import urlsafe_b64encode
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import urlsplit

from jwt.algorithms import get_default_algorithms

from kairos.config.jose import JwkError, VerifyKey, base64url, jwk_key
from kairos.openid.token import Token, TokenError, parse
from kairos.proxy.filters.authenticate import Refusal
from kairos.proxy.filters.authn.memory import Recent
from kairos.proxy.filters.authn.verify import INVALID
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Callable

    from kairos.config.policies.jwt import Dpop
    from kairos.proxy.exchange import Exchange
    from kairos.proxy.filters.authn.signature import Nonces
    from kairos.proxy.identity import Identity

MAX_PROOF = 4096
MAX_JTI = 512
KEPT = 4096
"""Keys of clients that need not be read anew with each proof."""
KEEP_S = 600.0
SCHEME = b"dpop "
_THUMBED = {"EC": ("crv", "kty", "x", "y"), "OKP": ("crv", "kty", "x"), "RSA": ("e", "kty", "n")}
_ESCAPE = re.compile(r"%([0-9A-Fa-f]{2})")
_UNRESERVED = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-._~")
_ALGORITHMS = get_default_algorithms()
_PORTS = {"https": ":443", "http": ":80"}

log = get_logger("jwt")


class Signer(NamedTuple):
    """What the header of a proof says: the same for all that a client makes."""

    algorithm: str
    key: VerifyKey
    thumbprint: str


class Proofs:
    """Made by jwt.build for a section with `dpop`."""

    def __init__(self, spec: Dpop, nonces: Nonces, clock: Callable[[], float] = time.time) -> None:
        self.required = spec.required
        self._spec = spec
        self._nonces = nonces
        self._clock = clock
        self._signers: Recent[Signer] = Recent(KEPT)
        self.challenge = f'DPoP realm="kairos", algs="{" ".join(spec.algorithms)}"'.encode()
        self.invalid = Refusal("unauthorized", "The DPoP proof is not valid", self._error("invalid_dpop_proof"))
        self.unbound = Refusal("unauthorized", "The token is bound to no key", self._error("invalid_token"))
        self.bearer = Refusal("unauthorized", "The token needs a DPoP proof", self._error("invalid_token"))

    def _error(self, code: str) -> bytes:
        return self.challenge.replace(b", algs", f', error="{code}", algs'.encode())

    def judge(self, x: Exchange, raw: bytes, identity: Identity) -> Identity | Refusal:
        """The caller, if the request proves that he has the key his token names."""
        if not isinstance(identity.key, str):
            return self.unbound if identity.key is None else INVALID
        try:
            self._check(x, raw, identity.key)
        except TokenError as error:
            log.debug("proof refused", reason=str(error))
            return self.invalid
        return identity

    def _check(self, x: Exchange, raw: bytes, thumbprint: str) -> None:
        shown = x.header_values(b"dpop")
        if len(shown) != 1 or len(shown[0]) > MAX_PROOF:
            raise TokenError("is not there once")
        proof = parse(shown[0])
        signer = self._signer(proof, shown[0].partition(b".")[0])
        if not hmac.compare_digest(signer.thumbprint, thumbprint):
            raise TokenError("is of another key than the token's")
        self._check_claims(proof.claims, x, raw)
        signed, _, signature = shown[0].rpartition(b".")
        if not _ALGORITHMS[signer.algorithm].verify(signed, signer.key.key, base64url(signature)):
            raise TokenError("has a signature of another key")
        if not self._nonces.use(f"dpop {thumbprint}", proof.claims["jti"]):
            raise TokenError("was used already")

    def _signer(self, proof: Token, header: bytes) -> Signer:
        signer = self._signers.find(header)
        if signer is None:
            signer = self._read(proof.header)
            self._signers.keep(header, signer, KEEP_S)
        return signer

    def _read(self, header: dict[str, Any]) -> Signer:
        algorithm, jwk = str(header["alg"]), header.get("jwk")
        if str(header.get("typ", "")).lower() != "dpop+jwt":
            raise TokenError("is no proof by its typ")
        if algorithm not in self._spec.algorithms:
            raise TokenError(f"is signed with {algorithm[:16]}, which is not allowed")
        try:
            return Signer(algorithm, jwk_key(jwk, [algorithm]), thumbprint_of(jwk))
        except JwkError as error:
            raise TokenError(f"has a key that {error}") from None

    def _check_claims(self, claims: dict[str, Any], x: Exchange, raw: bytes) -> None:
        now, issued = self._clock(), claims.get("iat")
        if not isinstance(claims.get("jti"), str) or not 0 < len(claims["jti"]) <= MAX_JTI:
            raise TokenError("has no jti")
        if issued is None or not now - self._spec.max_age <= issued <= now + self._spec.skew:
            raise TokenError("is too old, or of the future")
        if claims.get("exp", now + 1) <= now or claims.get("nbf", now) > now + self._spec.skew:
            raise TokenError("is not good now")
        if claims.get("htm") != x.method:
            raise TokenError("is for another method")
        if not self._is_address(claims.get("htu"), x):
            raise TokenError("is for another address")
        if not _same(claims.get("ath"), _base64url(sha256(raw).digest())):
            raise TokenError("is for another token")

    def _is_address(self, htu: object, x: Exchange) -> bool:
        """Whether it is the request's, without query and fragment (RFC 9449 section 4.3)."""
        origin = self._spec.origin or f"{x.client_scheme}://{x.host}"
        path = x.target.partition(b"?")[0].decode("latin-1")
        return isinstance(htu, str) and _address(htu) == _address(origin.rstrip("/") + path)


def _address(text: str) -> tuple[str, str, str] | None:
    """Normalised as RFC 3986 section 6.2.2 and 6.2.3 have it."""
    try:
        parts = urlsplit(text)
    except ValueError:
        return None
    host = parts.netloc.lower().removesuffix(_PORTS.get(parts.scheme, " "))
    return parts.scheme, host, _ESCAPE.sub(_decoded, parts.path) or "/"


def _decoded(found: re.Match[str]) -> str:
    character = chr(int(found[1], 16))
    return character if character in _UNRESERVED else found[0].upper()


def thumbprint_of(jwk: Any) -> str:
    """RFC 7638, of a key that was read."""
    members = {name: jwk[name] for name in _THUMBED[jwk["kty"]]}
    return _base64url(sha256(json.dumps(members, sort_keys=True, separators=(",", ":")).encode()).digest())


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()


def _same(given: object, expected: str) -> bool:
    return isinstance(given, str) and hmac.compare_digest(given.encode("utf-8", "surrogatepass"), expected.encode())
