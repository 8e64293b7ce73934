"""JSON Web Tokens as issuers and attackers make them, and the filter that judges them, without a configuration."""

from __future__ import annotations

import base64
import hmac
import json
import mmap
import time
from collections.abc import Callable
from typing import Any

import jwt as pyjwt
import msgspec
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kairos._speedups.cells import H_CELLS, Page
from kairos._speedups.tokens import TokenCache
from kairos.config.policies.auth import Auth
from kairos.config.policies.jwt import Jwt, JwtProvider, TokenSource
from kairos.proxy.filters.authenticate import Authenticate, Authenticator
from kairos.proxy.filters.authn import Judge
from kairos.proxy.filters.authn.bearer import Bearer
from kairos.proxy.filters.authn.carried import Place
from kairos.proxy.filters.authn.remote import RemoteKeys
from kairos.proxy.filters.authn.telling import claim_edits
from kairos.proxy.filters.authn.verify import Verifier

SECRET = "a secret of more than thirty-two bytes, for tests"
HOUR = 3600
RSA = rsa.generate_private_key(65537, 2048)
OTHER_RSA = rsa.generate_private_key(65537, 2048)
P256, P384, P521 = (ec.generate_private_key(curve()) for curve in (ec.SECP256R1, ec.SECP384R1, ec.SECP521R1))
ED25519, ED448 = ed25519.Ed25519PrivateKey.generate(), ed448.Ed448PrivateKey.generate()


def claims(**changes: Any) -> dict[str, Any]:
    """Good claims but for the changes; None removes one."""
    now = int(time.time())
    good = {"sub": "ann", "iat": now, "exp": now + HOUR, "iss": "https://issuer", "aud": "shop", "role": "admin"}
    return {name: value for name, value in (good | changes).items() if value is not None}


def signed(key: Any, algorithm: str, header: dict[str, Any] | None = None, **changes: Any) -> str:
    """A token by an issuer of good claims."""
    return pyjwt.encode(claims(**changes), key, algorithm=algorithm, headers=header)


def token(secret: str = SECRET, **changes: Any) -> str:
    return signed(secret, "HS256", **changes)


def part(data: object) -> str:
    raw = data if isinstance(data, bytes) else json.dumps(data).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def forged(head: object, body: object, key: bytes = b"", digest: str = "sha256") -> str:
    """A token as an attacker builds it."""
    text = f"{part(head)}.{part(body)}"
    return f"{text}.{part(hmac.digest(key, text.encode(), digest)) if key else ''}"


def pem(key: Any) -> str:
    """The public half of a private key."""
    return str(key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "ascii")


def jwk(key: Any, **members: Any) -> dict[str, Any]:
    """The public half of a private key, as a JWK with further members."""
    kinds: list[tuple[type, Any]] = [
        (rsa.RSAPrivateKey, pyjwt.algorithms.RSAAlgorithm),
        (ec.EllipticCurvePrivateKey, pyjwt.algorithms.ECAlgorithm),
        (object, pyjwt.algorithms.OKPAlgorithm),
    ]
    algorithm = next(algorithm for kind, algorithm in kinds if isinstance(key, kind))
    made: dict[str, Any] = algorithm.to_jwk(key.public_key(), as_dict=True)
    made.pop("key_ops", None)
    return made | members


def section(**members: Any) -> Jwt:
    """A jwt section as it would stand in a file."""
    return msgspec.convert(members, Jwt)


def unreachable(provider: JwtProvider) -> RemoteKeys:
    """Keys of a set that nobody fetches."""

    async def ask(_: bytes) -> bytes:
        raise OSError("there is no control process")

    return RemoteKeys(provider.jwks_url or "", provider.algorithms, ask)


def bearer(spec: Jwt, remote: Callable[[JwtProvider], RemoteKeys] = unreachable, page: Page | None = None) -> Bearer:
    """The authenticator of a section."""
    cache = TokenCache(spec.cache_tokens, 1) if spec.cache_tokens else None
    places = None if spec.sources == [TokenSource("header")] else [Place(source) for source in spec.sources]
    return Bearer(Verifier(spec, remote), cache, places, page or Page(mmap.mmap(-1, 8 * H_CELLS)))


def asking(*methods: Authenticator, **members: Any) -> Authenticate:
    """The filter of a route with these methods and settings of its auth section."""
    spec = msgspec.convert(members, Auth)
    anonymous = claim_edits({}, spec.claims_to_headers) if spec.claims_to_headers else None
    return Authenticate(methods, Judge(spec), anonymous, optional=spec.optional, forward=spec.forward_credentials)
