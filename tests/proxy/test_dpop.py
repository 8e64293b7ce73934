"""Tokens bound to a key of the client's (DPoP, RFC 9449): proofs as clients make them, and as thieves do."""

from __future__ import annotations

import re
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from hashlib import sha256
from secrets import token_hex
from typing import Any

import jwt as pyjwt
import pytest

from kairos.config.problems import ConfigError
from kairos.proxy.filters.authn.dpop import thumbprint_of
from tests.support.gateway import gateway
from tests.support.inprocess import InProcess, checked, serving
from tests.support.net import echo, origin, status_of
from tests.support.tokens import ED25519, P256, P384, RSA, SECRET, jwk, part, token
from tests.support.ws import header

ORIGIN = "http://api.test"
Plain = dict[str, Any]


def digest(data: bytes) -> str:
    return urlsafe_b64encode(sha256(data).digest()).rstrip(b"=").decode()


def proof(key: Any = P256, algorithm: str = "ES256", head: Plain | None = None, **changes: Any) -> str:
    """A good one for GET /a with `access`, but for the changes; None leaves a claim out."""
    access = changes.pop("access", BOUND)
    good = {
        "jti": token_hex(8), "htm": "GET", "htu": f"{ORIGIN}/a", "iat": time.time(), "ath": digest(access.encode()),
    }  # fmt: skip
    claims = {name: value for name, value in (good | changes).items() if value is not None}
    headers = {"typ": "dpop+jwt", "jwk": jwk(key)} | (head or {})
    return pyjwt.encode(claims, key, algorithm=algorithm, headers={k: v for k, v in headers.items() if v is not None})


BOUND = token(cnf={"jkt": thumbprint_of(jwk(P256))})
PLAIN = token()


def document(backend: str, dpop: Plain | None, **more: Any) -> Plain:
    route = {"external_path": "/{rest:path}", "internal_path": "/{rest}", "methods": ["GET", "POST"],
             "backends": [{"host": backend}], "auth": {"methods": ["jwt"], **more.pop("auth", {})}}  # fmt: skip
    return {"jwt": {"secret": SECRET, **({} if dpop is None else {"dpop": dpop}), **more}, "routers": [route]}


@pytest.fixture(scope="module")
def backend() -> Iterator[str]:
    with origin(echo) as made:
        yield made.url


@pytest.fixture(scope="module")
def gate(backend: str) -> Iterator[InProcess]:
    with serving(document(backend, {}, sources=[{"in": "header"}, {"in": "cookie"}])) as made:
        yield made


def ask(gate: InProcess, *lines: str, path: str = "/a", method: str = "GET", host: str = "api.test") -> bytes:
    """The head of the answer."""
    request = "\r\n".join((f"{method} {path} HTTP/1.1", f"Host: {host}", *lines, "Content-Length: 0", "", ""))
    return gate.request(request.encode())[0]


def shown(gate: InProcess, given: str, access: str = BOUND, **more: Any) -> int:
    return status_of(ask(gate, f"Authorization: DPoP {access}", f"DPoP: {given}", **more))


def test_the_thumbprint_of_the_specification() -> None:
    key = {"kty": "EC", "x": "l8tFrhx-34tV3hRICRDY9zCkDlpBhF42UQUfWVAWBFs",
           "y": "9VE4jf_Ok_o64zbTTlcuNJajHmt6v9TDVrU0CdvGRDA", "crv": "P-256"}  # fmt: skip
    assert thumbprint_of(key) == "0ZcOCORZNYy-DWpqq30jZyJGHTN0d2HglBV3uiguA4I"
    assert thumbprint_of({**key, "kid": "x", "use": "sig"}) == thumbprint_of(key)


@pytest.mark.parametrize(("key", "algorithm"), [(P256, "ES256"), (ED25519, "EdDSA"), (RSA, "PS256")],
                         ids=["ES256", "EdDSA", "PS256"])  # fmt: skip
def test_who_has_the_key_passes(gate: InProcess, key: Any, algorithm: str) -> None:
    access = token(cnf={"jkt": thumbprint_of(jwk(key))})
    for _ in range(2):
        assert shown(gate, proof(key, algorithm, access=access), access) == 200


def test_a_proof_is_good_once(gate: InProcess) -> None:
    used = proof()
    assert [shown(gate, used), shown(gate, used)] == [200, 401]
    again = proof(jti="one of two keys")
    assert shown(gate, again) == 200
    other = token(cnf={"jkt": thumbprint_of(jwk(ED25519))})
    assert shown(gate, proof(ED25519, "EdDSA", access=other, jti="one of two keys"), other) == 200


def test_the_address_is_the_requests_whatever_way_it_is_written(gate: InProcess) -> None:
    for htu, path, host in (
        (f"{ORIGIN}/a", "/a?x=1", "api.test"), (f"{ORIGIN}/a?y#z", "/a", "API.test"),
        (f"{ORIGIN}:80/a", "/a", "api.test"),
        ("HTTP://Api.Test/a%2fb", "/a%2Fb", "api.test"), (f"{ORIGIN}/%61", "/a", "api.test"),
        (f"{ORIGIN}:8080/a", "/a", "api.test:8080"), (f"{ORIGIN}/", "/", "api.test"), (ORIGIN, "/", "api.test"),
    ):  # fmt: skip
        assert shown(gate, proof(htu=htu), path=path, host=host) == 200, htu
    others: list[object] = [
        f"{ORIGIN}/b", "https://api.test/a", "http://other.test/a", f"{ORIGIN}/a/", "/a", "", 7, f"{ORIGIN}:1/a",
        "http://[/a",
    ]  # fmt: skip
    for other in others:
        assert shown(gate, proof(htu=other)) == 401, other


NOW = time.time()
BAD: list[tuple[str, Plain]] = [
    ("another key", {"key": P384, "algorithm": "ES384"}),
    ("another key of the kind", {"key": ED25519, "algorithm": "EdDSA"}),
    ("the right key named, another one signs", {"key": ED25519, "algorithm": "EdDSA", "head": {"jwk": jwk(P256)}}),
    ("an algorithm that is not allowed", {"key": RSA, "algorithm": "RS512"}),
    ("no typ", {"head": {"typ": None}}),
    ("another typ", {"head": {"typ": "JWT"}}),
    ("no key", {"head": {"jwk": None}}),
    ("a private key", {"head": {"jwk": {**jwk(P256), "d": "AA"}}}),
    ("a key that is none", {"head": {"jwk": {"kty": "EC"}}}),
    ("a symmetric key", {"head": {"jwk": {"kty": "oct", "k": "AAAA"}}}),
    ("critical extensions", {"head": {"crit": ["x"], "x": 1}}),
    ("another method", {"htm": "POST"}),
    ("no method", {"htm": None}),
    ("no address", {"htu": None}),
    ("no jti", {"jti": None}),
    ("an empty jti", {"jti": ""}),
    ("a long jti", {"jti": "x" * 513}),
    ("no iat", {"iat": None}),
    ("too old", {"iat": NOW - 1000}),
    ("of the future", {"iat": NOW + 1000}),
    ("over", {"exp": NOW - 1}),
    ("for another token", {"ath": digest(b"another")}),
    ("for no token", {"ath": None}),
]


@pytest.mark.parametrize(("name", "changes"), BAD, ids=[name for name, _ in BAD])
def test_proofs_that_are_none(gate: InProcess, name: str, changes: Plain) -> None:
    answer = ask(gate, f"Authorization: DPoP {BOUND}", f"DPoP: {proof(**changes)}")
    assert status_of(answer) == 401, name
    assert b'error="invalid_dpop_proof"' in answer
    assert b'algs="ES256 EdDSA PS256 RS256"' in answer


def test_two_proofs_or_none_or_nonsense(gate: InProcess) -> None:
    with_token = f"Authorization: DPoP {BOUND}"
    assert status_of(ask(gate, with_token)) == 401
    assert status_of(ask(gate, with_token, f"DPoP: {proof()}", f"DPoP: {proof()}")) == 401
    unsigned = f"{part({'alg': 'none', 'typ': 'dpop+jwt', 'jwk': jwk(P256)})}.{part({'jti': 'x'})}."
    for text in ("", "a", "a.b.c", "x" * 4100, unsigned):
        assert status_of(ask(gate, with_token, f"DPoP: {text}")) == 401, text[:40]


def test_a_stolen_token_is_worth_nothing_elsewhere(gate: InProcess) -> None:
    answer = ask(gate, f"Authorization: Bearer {BOUND}", f"DPoP: {proof()}")
    assert (status_of(answer), b'DPoP realm="kairos", error="invalid_token"' in answer) == (401, True)
    assert status_of(ask(gate, f"Cookie: access_token={BOUND}")) == 401
    assert (
        status_of(ask(gate, f"Authorization: DPoP {BOUND}", f"DPoP: {proof()}", f"Cookie: access_token={PLAIN}")) == 401
    )
    assert shown(gate, proof(), f"{BOUND}x") == 401


def test_tokens_bound_to_nothing(gate: InProcess, backend: str) -> None:
    assert status_of(ask(gate, f"Authorization: Bearer {PLAIN}")) == 200
    assert shown(gate, proof(access=PLAIN), PLAIN) == 401
    with serving(document(backend, {"required": True})) as strict:
        assert status_of(ask(strict, f"Authorization: Bearer {PLAIN}")) == 401
        assert shown(strict, proof()) == 200
        assert (header(ask(strict), b"www-authenticate") or b"").startswith(b"DPoP realm")
    for odd in ({"jkt": "AAAA"}, {"jkt": 7}, {"jkt": thumbprint_of(jwk(P256)), "x5t#S256": digest(b"")}):
        access = token(cnf=odd)
        assert shown(gate, proof(access=access), access) == 401
    with serving(document(backend, None)) as lax:
        assert status_of(ask(lax, f"Authorization: Bearer {BOUND}")) == 200


def test_an_origin_that_the_request_does_not_tell(backend: str) -> None:
    with serving(document(backend, {"origin": "https://shop.example/"})) as gate:
        assert shown(gate, proof(htu="https://shop.example/a")) == 200
        assert shown(gate, proof()) == 401


def test_what_the_backend_is_shown(backend: str) -> None:
    for forward in (True, False):
        with serving(document(backend, {}, auth={"forward_credentials": forward})) as gate:
            lines = f"GET /a HTTP/1.1\r\nHost: api.test\r\nAuthorization: DPoP {BOUND}\r\nDPoP: {proof()}\r\n\r\n"
            head, body = gate.request(lines.encode())
            assert status_of(head) == 200
            assert (BOUND.encode() in body, b"DPoP:" in body) == (forward, forward)


def test_a_proof_is_good_once_on_all_workers(backend: str) -> None:
    with gateway(document(backend, {}), workers=2) as g:
        used = proof(htu=f"http://127.0.0.1:{g.port}/a")
        request = f"GET /a HTTP/1.1\r\nHost: 127.0.0.1:{g.port}\r\nAuthorization: DPoP {BOUND}\r\nDPoP: {used}\r\n\r\n"
        statuses = []
        for _ in range(8):
            with g.connect() as peer:
                peer.send(request.encode())
                statuses.append(status_of(peer.receive_response()[0]))
        assert sorted(statuses) == [200] + [401] * 7


@pytest.mark.parametrize(("members", "said"), [
    ({"dpop": {"algorithms": []}}, "jwt.dpop.algorithms: must name"),
    ({"dpop": {"origin": "shop.example"}}, "jwt.dpop.origin: 'shop.example' is no origin"),
    ({"dpop": {}, "sources": [{"in": "cookie"}]}, "jwt.sources: tokens with a proof stand in Authorization"),
], ids=["algorithms", "origin", "sources"])  # fmt: skip
def test_what_cannot_be_meant_is_refused(members: Plain, said: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(said)):
        checked({"jwt": {"secret": SECRET, **members}, "routers": []})
