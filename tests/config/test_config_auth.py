"""Authentication in a configuration: every mistake that can be known at load, told where it stands."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from config_samples import SECRET, file, read, route, said

from kairos.config.load import judged
from kairos.config.logged import logged
from kairos.config.mask import masked
from kairos.config.policies.jwt import Revocation, read_revocations
from tests.support.tokens import ED25519, OTHER_RSA, P256, RSA, jwk, part, pem

RS = pem(RSA)


def jwt(**section: Any) -> dict[str, Any]:
    return file(route(auth_required=True), jwt=section)


def providers(*items: dict[str, Any], **section: Any) -> dict[str, Any]:
    return jwt(providers=list(items), **section)


def auth(**section: Any) -> dict[str, Any]:
    return file(route(auth=section), jwt={"secret": SECRET})


GOOD: dict[str, dict[str, Any]] = {
    "secret": jwt(secret=SECRET, algorithms=["HS256"]),
    "longer secret": jwt(secret=SECRET * 2, algorithms=["HS512", "HS384"]),
    "PEM": jwt(public_key=RS, algorithms=["RS256", "PS512"]),
    "EC": jwt(public_key=pem(P256)),
    "EdDSA": jwt(public_key=pem(ED25519), algorithms=["EdDSA"]),
    "an address": jwt(jwks_url="https://login.example.com:8443/keys?v=1", issuer=["https://a", "https://b"]),
    "an address at home": jwt(jwks_url="http://127.0.0.1:8080/keys"),
    "several": providers({"issuer": "https://a", "secret": SECRET}, {"issuer": ["https://b"], "public_key": RS}),
    "one of a list": providers({"secret": SECRET}),
    "older spelling": file(route(auth_required=True), jwt={"secret": SECRET, "algorithm": "hs256"}),
    "sources": jwt(secret=SECRET, sources=[{"in": "cookie", "name": "sid"}, {"in": "websocket"}]),
    "rules": jwt(secret=SECRET, claims=[{"claim": "a.b", "pattern": "x+"}, {"claim": "a", "equals": False}]),
    "auth": auth(methods=["jwt"], claims_to_headers={"sub": "X-User"}, claims=[{"claim": "a", "one_of": [1, "b"]}]),
    "off": file(route(auth={"enabled": False}), auth={"methods": ["jwt"]}, jwt={"secret": SECRET}),
    "for a group": file(route(group="g"), groups={"g": {"auth": {}}}, jwt={"secret": SECRET}),
}


@pytest.mark.parametrize("name", GOOD)
def test_what_is_right_is_taken(name: str) -> None:
    assert said(GOOD[name]) == []
    assert judged(read(GOOD[name])).config


BAD: list[tuple[dict[str, Any], str]] = [
    (jwt(), "jwt: needs exactly one of secret, public_key, public_key_file, jwks_file, jwks_url"),
    (jwt(secret=SECRET, public_key=RS), "jwt: needs exactly one of secret, public_key, public_key_file, jwks_file"),
    (jwt(secret=SECRET, jwks_url="https://a/"), "jwt: needs exactly one of"),
    (jwt(secret=SECRET, algorithms=["RS256"]), "jwt.algorithms: RS256 needs a public key, not a secret"),
    (jwt(secret=SECRET, algorithms=["none"]), "jwt.algorithms[0]: "),
    (jwt(secret="s" * 32, algorithms=["HS512"]), "jwt.secret: JWT secret should be at least 64 bytes for HS512"),
    (jwt(secret=RS), "jwt.secret: is no secret: The specified key is an asymmetric key"),
    (jwt(secret=json.dumps(jwk(RSA))), "jwt.secret: is no secret"),
    (jwt(public_key="key"), "jwt.public_key: must hold one PEM block"),
    (jwt(public_key=RS, algorithms=["ES256"]), "jwt.public_key: is a key for RS256 or RS384"),
    (jwt(public_key=RS, algorithms=["HS256"]), "jwt.public_key: is a key for RS256 or RS384"),
    (jwt(public_key=RS + RS), "jwt.public_key: must hold one PEM block"),
    (jwt(public_key_file="/nowhere/key.pem"), "jwt.public_key_file: No such file or directory"),
    (jwt(jwks_file="/nowhere/keys.json"), "jwt.jwks_file: No such file or directory"),
    (jwt(jwks_url="keys"), "jwt.jwks_url: must be https://host/path"),
    (jwt(jwks_url="ftp://a/keys"), "jwt.jwks_url: must be https://host/path"),
    (jwt(jwks_url="https:///keys"), "jwt.jwks_url: must be https://host/path"),
    (jwt(jwks_url="https://a:x/keys"), "jwt.jwks_url: is no address"),
    (jwt(jwks_url="https://a/ keys"), "jwt.jwks_url: must be https://host/path"),
    (jwt(jwks_url="https://a/\r\nX: 1"), "jwt.jwks_url: must be https://host/path"),
    (jwt(jwks_url="https://u:p@a/keys"), "jwt.jwks_url: must hold no credentials"),
    (jwt(jwks_url="https://a/keys#x"), "jwt.jwks_url: must hold no credentials and no '#'"),
    (jwt(jwks_url="http://login.example.com/keys"), "jwt.jwks_url: must be https"),
    (jwt(jwks_url="https://a/keys", algorithms=["HS256"]), "jwt.algorithms: HS256 and its kin need a secret"),
    (jwt(jwks_url="https://a/keys", jwks_ca_file="/nowhere"), "jwt.jwks_ca_file: there is no file /nowhere"),
    (jwt(jwks_url="https://a/keys", jwks_refresh=0), "jwt.jwks_refresh: "),
    (jwt(secret=SECRET, issuer=[]), "jwt.issuer: is empty"),
    (jwt(secret=SECRET, issuer=""), "jwt.issuer: is empty"),
    (jwt(secret=SECRET, audience=["a", ""]), "jwt.audience: is empty"),
    (jwt(secret=SECRET, leeway=-1), "jwt.leeway: "),
    (jwt(secret=SECRET, sources=[]), "jwt.sources: lists no place"),
    (jwt(secret=SECRET, sources=[{"in": "body"}]), "jwt.sources[0].in: "),
    (jwt(secret=SECRET, sources=[{"in": "cookie", "name": "a b"}]), "jwt.sources[0].name: 'a b' is no name"),
    (jwt(secret=SECRET, sources=[{"in": "header", "name": "a:"}]), "jwt.sources[0].name: 'a:' is no name"),
    (jwt(secret=SECRET, revocations_file="/nowhere"), "jwt.revocations_file: cannot read /nowhere: No such file"),
    (jwt(secret=SECRET, claims=[{"claim": "a"}]), "jwt.claims[0]: needs exactly one of equals, one_of, contains and"),
    (jwt(secret=SECRET, claims=[{"claim": "a", "equals": 1, "pattern": "x"}]), "jwt.claims[0]: needs exactly one of"),
    (jwt(secret=SECRET, claims=[{"claim": "", "equals": 1}]), "jwt.claims[0].claim: names no claim"),
    (jwt(secret=SECRET, claims=[{"claim": "a", "one_of": []}]), "jwt.claims[0].one_of: lists nothing"),
    (jwt(secret=SECRET, claims=[{"claim": "a", "pattern": "(x"}]), "jwt.claims[0].pattern: is no regular expression"),
    (jwt(secret=SECRET, claims=[{"claim": "a", "pattern": "(?=x)"}]), "jwt.claims[0].pattern: is no regular"),
    (providers({"secret": SECRET}, {"public_key": RS}), "jwt.providers[0].issuer: is needed: with several providers"),
    (providers({"issuer": "i", "secret": SECRET}, {"issuer": "i", "public_key": RS}),
     "jwt.providers[1].issuer: 'i' is that of providers[0]"),
    (providers({"issuer": "i", "secret": "short"}), "jwt.providers[0].secret: JWT secret should be at least 32"),
    (providers({"issuer": "i"}), "jwt.providers[0]: needs exactly one of"),
    (providers({"secret": SECRET}, secret=SECRET), "jwt.secret: stands beside 'providers'"),
    (providers({"secret": SECRET}, leeway=5), "jwt.leeway: stands beside 'providers'"),
    (providers({"secret": SECRET, "sources": []}), "jwt.providers[0].sources: "),
    (auth(methods=[]), "routers[0].auth.methods: names no method"),
    (auth(methods=["jwt", "jwt"]), "routers[0].auth.methods[1]: jwt is listed twice"),
    (auth(methods=["magic"]), "routers[0].auth.methods[0]: "),
    (auth(claims=[{"claim": "a"}]), "routers[0].auth.claims[0]: needs exactly one of"),
    (auth(claims_to_headers={"sub": "X User"}), "routers[0].auth.claims_to_headers.sub: 'X User' is no header name"),
    (auth(claims_to_headers={"sub": "Host"}), "routers[0].auth.claims_to_headers.sub: Host is written by the gateway"),
    (auth(claims_to_headers={"sub": "X-Forwarded-For"}), "routers[0].auth.claims_to_headers.sub: X-Forwarded-For is"),
    (auth(claims_to_headers={"a": "X-A", "b": "x-a"}), "routers[0].auth.claims_to_headers.b: x-a is also that of a"),
    (file(route(auth={}, auth_required=True)), "routers[0].auth_required: JWT configuration is required"),
    (file(route(auth={})), "routers[0].auth"),
    (file(route(group="g"), groups={"g": {"auth": {"methods": []}}}), "groups.g.auth.methods: names no method"),
    (file(route(), auth={"methods": []}), "auth.methods: names no method"),
    (file(route(auth={"enabled": False}, auth_required=True), jwt={"secret": SECRET}),
     "routers[0].auth_required: is true, but this route's auth section is turned off"),
]  # fmt: skip


@pytest.mark.parametrize(("document", "problem"), BAD, ids=[problem[:60] for _, problem in BAD])
def test_a_mistake_is_told_where_it_stands(document: dict[str, Any], problem: str) -> None:
    found = said(document)
    assert any(line.startswith(problem) for line in found), found


def test_an_issuer_of_many_applications_needs_an_audience() -> None:
    told = "jwt.audience: is not set: tokens that this issuer made for others are taken too"
    assert told in said(jwt(jwks_url="https://a/keys"), "warning")
    assert told not in said(jwt(jwks_url="https://a/keys", audience="shop"), "warning")
    assert told not in said(jwt(secret=SECRET), "warning")


def test_a_query_parameter_with_a_token_is_kept_out_of_the_log() -> None:
    document = jwt(secret=SECRET, sources=[{"in": "query", "name": "t" * 64}, {"in": "cookie", "name": "c"}])
    assert not any("redact" in line for line in said(document, "warning"))
    assert logged(judged(read(document)).config).redact[-1] == "t" * 64
    assert "c" not in logged(judged(read(document)).config).redact
    told = "is longer than the 64 bytes of a name that the access log can redact"
    assert f"jwt.sources[0].name: {told}" in said(jwt(secret=SECRET, sources=[{"in": "query", "name": "t" * 65}]))
    assert f"access_log.redact[0]: {told}" in said(document | {"access_log": {"redact": ["é" * 33]}})


def test_files_with_keys_are_read(tmp_path: Path) -> None:
    key, keys = tmp_path / "key.pem", tmp_path / "keys.json"
    key.write_text(RS)
    keys.write_text(json.dumps({"keys": [jwk(RSA, kid="a"), jwk(OTHER_RSA, use="enc", kid="b")]}))
    assert said(jwt(public_key_file=str(key))) == []
    assert said(jwt(jwks_file=str(keys))) == []
    warnings = said(jwt(jwks_file=str(keys)), "warning")
    assert any("jwt.jwks_file: keys[1] is for use 'enc', not for signatures; it is left out" in one for one in warnings)
    keys.write_text(json.dumps({"kty": "oct", "k": part(b"k" * 32)}))
    assert said(jwt(jwks_file=str(keys), algorithms=["HS256"])) == []
    (problem,) = said(jwt(jwks_file=str(keys)))
    assert problem.startswith("jwt.jwks_file: holds no key that can be used: keys[0] is a symmetric key")
    key.write_bytes(b"\xff\xfe")
    assert said(jwt(public_key_file=str(key)))[0].startswith("jwt.public_key_file: ")


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("jti 7f", "is no revocation"), ("{}", "must be"), ('{"jti": "a", "sub": "b"}', "must be"), ("[]", "is no rev"),
        ('{"iat": 1}', "must be"), ('{"jti": "a", "iat": 1}', "must be"), ('{"jti": 7}', "is no revocation"),
        ('{"jti": "a", "x": 1}', "is no revocation"), ('{"sub": "a", "iat": "1"}', "is no revocation"),
    ],
)  # fmt: skip
def test_a_revocation_that_means_nothing_is_told_with_its_line(tmp_path: Path, line: str, reason: str) -> None:
    path = tmp_path / "revoked"
    path.write_text(f'{{"jti": "good"}}\n# why\n{line}\n')
    (problem,) = said(jwt(secret=SECRET, revocations_file=str(path)))
    assert problem.startswith(f"jwt.revocations_file: line 3 of {path} {reason}")


def test_a_list_of_revocations_is_read(tmp_path: Path) -> None:
    path = tmp_path / "revoked"
    path.write_bytes(b'# all\r\n\r\n{"jti": "\xc3\xa4"}\r\n{"sub": "ann", "iat": 7}')
    assert read_revocations(str(path)) == [Revocation(jti="ä"), Revocation(sub="ann", iat=7.0)]


def test_secrets_of_providers_are_masked() -> None:
    config = judged(read(providers({"secret": SECRET, "issuer": "https://a"}))).config
    assert config is not None
    shown = masked(config)["jwt"]["providers"][0]
    assert (shown["secret"], shown["issuer"]) == ("***", "https://a")
