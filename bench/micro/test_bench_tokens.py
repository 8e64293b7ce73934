"""Tokens: known again from the cache, and verified when they are new."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from kairos._speedups.tokens import TokenCache
from kairos.config.policies.jwt import Jwt
from kairos.proxy.filters.authn.verify import Verified, Verifier

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from kairos.config.policies.jwt import JwtProvider
    from kairos.proxy.filters.authn.remote import RemoteKeys

NOW = 1_000_000
SECRET = "s" * 32
KEYS: dict[str, Any] = {
    "HS256": SECRET,
    "RS256": rsa.generate_private_key(65537, 2048),
    "ES256": ec.generate_private_key(ec.SECP256R1()),
    "EdDSA": ed25519.Ed25519PrivateKey.generate(),
}


@pytest.mark.parametrize("size", [250, 1000])
def test_find_1000(benchmark: BenchmarkFixture, size: int) -> None:
    cache = TokenCache(8192, 1)
    tokens = [b"%d." % number * (size // 4) for number in range(1000, 2000)]
    for token in tokens:
        cache.put(token[:size], token, NOW + 1, NOW)
    wanted = [token[:size] for token in tokens]
    get = cache.get

    def finds() -> None:
        for token in wanted:
            get(token, NOW)

    benchmark(finds)
    assert cache.count == 1000


@pytest.mark.parametrize("algorithm", KEYS)
def test_verify(benchmark: BenchmarkFixture, algorithm: str) -> None:
    verifier = Verifier(section(algorithm), no_remote)
    now = int(time.time())
    claims = {"sub": "ann", "iss": "https://issuer", "iat": now, "exp": now + 3600, "scope": "orders read write"}
    token = jwt.encode(claims, KEYS[algorithm], algorithm=algorithm).encode()
    assert isinstance(benchmark(verifier.verify, token), Verified)


def section(algorithm: str) -> Jwt:
    if algorithm == "HS256":
        return Jwt(secret=SECRET)
    public = KEYS[algorithm].public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    return Jwt(public_key=public.decode(), issuer="https://issuer")


def no_remote(provider: JwtProvider) -> RemoteKeys:
    raise AssertionError(provider)
