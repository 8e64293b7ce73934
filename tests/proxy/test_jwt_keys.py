"""Tokens and keys: every algorithm, attacks that confuse them, several issuers, rules, revocation, and what is kept."""

from __future__ import annotations

import asyncio
import base64
import datetime
import gc
import json
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509 import load_pem_x509_certificate
from hypothesis import given
from hypothesis import strategies as st

from kairos.config.jose import KeySet
from kairos.config.policies.jwt import Jwt, JwtProvider
from kairos.proxy.exchange import Exchange, Handler, Response
from kairos.proxy.filters.authenticate import Refusal
from kairos.proxy.filters.authn.remote import RemoteKeys
from kairos.proxy.filters.authn.verify import INVALID, UNAVAILABLE, Verified, Verifier
from tests.support.inprocess import Chain, in_process
from tests.support.net import echo, origin, status_of
from tests.support.tls import Authority, client_context, connect_tls
from tests.support.tokens import (
    ED448,
    ED25519,
    HOUR,
    OTHER_RSA,
    P256,
    P384,
    P521,
    RSA,
    SECRET,
    asking,
    bearer,
    claims,
    forged,
    jwk,
    part,
    pem,
    section,
    signed,
    token,
    unreachable,
)

LONG = SECRET * 2
SIGNERS: dict[str, Any] = {
    "HS256": LONG, "HS384": LONG, "HS512": LONG,
    "RS256": RSA, "RS384": RSA, "RS512": RSA, "PS256": RSA, "PS384": RSA, "PS512": RSA,
    "ES256": P256, "ES384": P384, "ES512": P521, "EdDSA": ED25519,
}  # fmt: skip


def verdict(spec: Jwt, raw: str | bytes) -> Verified | Refusal:
    """What the verifier of a section says to a token, where it need not ask for keys."""
    found = Verifier(spec, unreachable).verify(raw if isinstance(raw, bytes) else raw.encode())
    assert isinstance(found, Verified | Refusal)
    return found


def good(spec: Jwt, raw: str) -> bool:
    found = verdict(spec, raw)
    assert isinstance(found, Verified) or found is INVALID
    return isinstance(found, Verified)


def section_for(algorithm: str, **members: Any) -> Jwt:
    key = SIGNERS[algorithm]
    if isinstance(key, str):
        return section(secret=key, algorithms=[algorithm], **members)
    return section(public_key=pem(key), **members)


BARE = section(secret=SECRET)
TOKEN = token().encode()


# ---- algorithms


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_every_algorithm_verifies_its_own_signatures(algorithm: str) -> None:
    spec = section_for(algorithm)
    raw = signed(SIGNERS[algorithm], algorithm)
    found = verdict(spec, raw)
    assert isinstance(found, Verified)
    assert found.identity.subject == "ann"
    assert found.identity.claims["role"] == "admin"
    head, body, signature = raw.split(".")
    assert not good(spec, f"{head}.{part(claims(role='root'))}.{signature}")
    other = base64.urlsafe_b64decode(signature + "==")
    assert not good(spec, f"{head}.{body}.{part(bytes([other[0] ^ 1]) + other[1:])}")


def test_ed448_too() -> None:
    assert good(section(public_key=pem(ED448)), signed(ED448, "EdDSA"))


@pytest.mark.parametrize("algorithm", SIGNERS)
def test_a_key_is_for_no_algorithm_of_another_kind(algorithm: str) -> None:
    """Whatever a token says of itself."""
    spec = section_for(algorithm)
    for other, key in SIGNERS.items():
        same_key = key is SIGNERS[algorithm] and algorithm[:2] not in ("HS",)
        assert good(spec, signed(key, other)) == (other == algorithm or same_key), other
    public = pem(SIGNERS[algorithm]).encode() if not isinstance(SIGNERS[algorithm], str) else b"known"
    for digest in ("sha256", "sha384", "sha512"):
        name = f"HS{digest[3:]}"
        assert not good(spec, forged({"alg": name}, claims(), public, digest)), "anybody has the public key"
        assert not good(spec, forged({"alg": algorithm}, claims(), public, digest))
    for none in ("none", "None", "NONE", ""):
        assert not good(spec, forged({"alg": none}, claims()) + part(b"x"))


def test_listed_algorithms_narrow_what_a_key_is_for() -> None:
    spec = section(public_key=pem(RSA), algorithms=["PS256", "ES256"])
    assert good(spec, signed(RSA, "PS256"))
    assert not good(spec, signed(RSA, "RS256"))
    assert not good(section(secret=LONG), signed(LONG, "HS512")), "HS256 where nothing else is said"


def test_an_ec_signature_of_nothing_is_none() -> None:
    """r = s = 0 passed in a well-known library (CVE-2022-21449); so did the other encoding of signatures."""
    text = f"{part({'alg': 'ES256'})}.{part(claims())}"
    spec = section(public_key=pem(P256))
    assert not good(spec, f"{text}.{part(bytes(64))}")
    assert not good(spec, f"{text}.{part(encode_dss_signature(0, 0))}")
    der = P256.sign(text.encode(), ec.ECDSA(SHA256()))
    assert not good(spec, f"{text}.{part(der)}")


# ---- tokens that are spelled, or say, something odd; each signed with the right key


def ours(header: Any = None, body: Any = None) -> str:
    return forged({"alg": "HS256"} if header is None else header, claims() if body is None else body, SECRET.encode())


def raw_json(text: str) -> bytes:
    """Claims as bytes, with good ones put in for `…`."""
    return text.replace("…", json.dumps(claims())[1:-1]).encode()


ODD: dict[str, str] = {
    "crit": ours({"alg": "HS256", "crit": ["exp"]}),
    "empty crit": ours({"alg": "HS256", "crit": []}),
    "crit null": ours({"alg": "HS256", "crit": None}),
    "unencoded payload": ours({"alg": "HS256", "b64": False, "crit": ["b64"]}),
    "b64 true": ours({"alg": "HS256", "b64": True}),
    "compressed": ours({"alg": "HS256", "zip": "DEF"}),
    "encrypted, it says": ours({"alg": "HS256", "enc": "A256GCM"}),
    "kid a number": ours({"alg": "HS256", "kid": 7}),
    "kid null": ours({"alg": "HS256", "kid": None}),
    "kid a list": ours({"alg": "HS256", "kid": ["a"]}),
    "kid nested lists": ours(b'{"alg":"HS256","kid":' + b"[" * 500 + b"]" * 500 + b"}"),
    "kid an object": ours({"alg": "HS256", "kid": {"a": 1}}),
    "kid endless": ours({"alg": "HS256", "kid": "k" * 1025}),
    "typ of an odd type": ours({"alg": "HS256", "typ": ["JWT"]}),
    "typ null": ours({"alg": "HS256", "typ": None}),
    "a logout token": ours({"alg": "HS256", "typ": "logout+jwt"}),
    "a proof of possession": ours({"alg": "HS256", "typ": "dpop+jwt"}),
    "alg twice": ours(b'{"alg":"none","alg":"HS256"}'),
    "alg twice, escaped": ours(b'{"alg":"HS256","\\u0061lg":"HS256"}'),
    "sub twice": ours(body=raw_json('{"sub":"root",…}')),
    "a name twice, within": ours(body=raw_json('{…,"x":{"a":1,"a":2}}')),
    "exp twice": ours(body=raw_json('{"exp":1,…}')),
    "exp NaN": ours(body=b'{"exp":NaN}'),
    "exp Infinity": ours(body=b'{"exp":Infinity}'),
    "exp 1e400": ours(body=b'{"exp":1e400}'),
    "exp a text": ours(body=claims(exp=str(int(time.time()) + HOUR))),
    "exp true": ours(body=claims(exp=True)),
    "exp null": ours(body={**claims(), "exp": None}),
    "exp a list": ours(body=claims(exp=[int(time.time()) + HOUR])),
    "exp in milliseconds": ours(body=claims(exp=(int(time.time()) + HOUR) * 1000)),
    "exp huge": ours(body=claims(exp=1 << 80)),
    "nbf a text": ours(body=claims(nbf="0")),
    "nbf NaN": ours(body=raw_json('{…,"nbf":NaN}')),
    "nbf minus huge": ours(body=raw_json('{…,"nbf":-1e300}')),
    "iat a text": ours(body=claims(iat="0")),
    "iat to come": ours(body=claims(iat=int(time.time()) + HOUR)),
    "iss a list": ours(body=claims(iss=["https://issuer"])),
    "sub a number": ours(body=claims(sub=7)),
    "sub null": ours(body={**claims(), "sub": None}),
    "jti a number": ours(body=claims(jti=7)),
    "aud a number": ours(body=claims(aud=7)),
    "aud of numbers": ours(body=claims(aud=[7])),
    "aud of lists": ours(body=claims(aud=[["shop"]])),
    "half a surrogate pair": ours(body=raw_json('{…,"x":"\\ud800"}')),
    "UTF-16": ours(body=json.dumps(claims()).encode("utf-16")),
    "a byte order mark": ours(body=b"\xef\xbb\xbf" + json.dumps(claims()).encode()),
    "Latin-1": ours(body=raw_json('{…}')[:-1] + b',"x":"\xe4"}'),
    "JSON and more": ours(body=raw_json("{…} ")[:-1] + b"{}"),
    "endless": ours(body=claims(x="x" * 8192)),
}  # fmt: skip


@pytest.mark.parametrize("name", ODD)
def test_a_token_that_is_odd_is_refused_although_its_signature_is_good(name: str) -> None:
    assert not good(section(secret=SECRET), ODD[name])


@pytest.mark.parametrize(
    "header",
    [
        {"typ": "JWT"}, {"typ": "jwt"}, {"typ": "at+jwt"}, {"typ": "application/at+JWT"}, {"kid": "any"}, {"x": [1]},
        {"cty": "x"}, {"jku": "https://evil.example/keys"}, {"x5u": "https://evil.example/cert"},
    ],
)  # fmt: skip
def test_what_means_nothing_here_changes_nothing(header: dict[str, Any]) -> None:
    assert good(section(secret=SECRET), ours({"alg": "HS256", **header}))


def test_types_are_as_configured() -> None:
    spec = section(secret=SECRET, types=["logout+JWT"])
    assert good(spec, ours({"alg": "HS256", "typ": "logout+jwt"}))
    assert not good(spec, ours({"alg": "HS256", "typ": "at+jwt"}))


@pytest.mark.parametrize("header", ["jwk", "jku", "x5u", "x5c"])
def test_no_token_brings_its_own_key(header: str) -> None:
    brought = {"jwk": jwk(OTHER_RSA), "jku": "https://evil.example/", "x5u": "https://evil.example/", "x5c": ["MIIB"]}
    raw = signed(OTHER_RSA, "RS256", {header: brought[header]})
    assert not good(section(public_key=pem(RSA)), raw)
    assert good(section(public_key=pem(OTHER_RSA)), raw), "only the signature was wrong"


@pytest.mark.parametrize("at", [0, 1, 2])
@pytest.mark.parametrize("change", ["=", "==", "\n", " ", "+", "/", "A", ".", "%3D", "\0"])
def test_no_other_spelling_of_a_token_is_taken(at: int, change: str) -> None:
    parts = token().split(".")
    for spelled in (parts[at] + change, change + parts[at]):
        assert not good(section(secret=SECRET), ".".join([*parts[:at], spelled, *parts[at + 1 :]]))


def test_spare_bits_of_a_part_are_no_part_of_it() -> None:
    """A last letter may stand for the same bytes as three others: four tokens, of which one may be revoked."""
    head, body, signature = token().split(".")
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    last = alphabet.index(signature[-1])
    assert last % 4 == 0
    for spare in (1, 2, 3):
        assert not good(section(secret=SECRET), f"{head}.{body}.{signature[:-1]}{alphabet[last + spare]}")


def test_the_token_of_rfc_7519_was_good_in_its_time(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Section 3.1, whose key is that of RFC 7515 A.1."""
    raw = (
        "eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9."
        "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ."
        "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk"
    )
    key = "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow"
    file = tmp_path / "jwks.json"
    file.write_text(json.dumps({"kty": "oct", "k": key}))
    spec = section(jwks_file=str(file), algorithms=["HS256"], issuer="joe", leeway=0)
    assert not good(spec, raw)

    class Then(datetime.datetime):
        at = 1300819379

        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Then:
            return cls.fromtimestamp(cls.at, tz)

    monkeypatch.setattr("jwt.api_jwt.datetime", Then)
    found = verdict(spec, raw)
    assert isinstance(found, Verified)
    assert found.identity.claims == {"iss": "joe", "exp": 1300819380, "http://example.com/is_root": True}
    assert found.identity.subject == ""
    Then.at += 1
    assert not good(spec, raw), "over in the second that exp names"


@given(st.binary(max_size=64))
def test_no_bytes_are_a_token_by_chance(raw: bytes) -> None:
    assert verdict(BARE, raw) is INVALID


@given(st.data())
def test_a_token_with_any_change_is_none(data: st.DataObject) -> None:
    """A byte changed, left out, doubled or put in, anywhere."""
    at = data.draw(st.integers(0, len(TOKEN) - 1))
    new = data.draw(st.binary(max_size=3))
    cut = data.draw(st.integers(0, 2))
    changed = TOKEN[:at] + new + TOKEN[at + cut :]
    assert (verdict(BARE, changed) is INVALID) == (changed != TOKEN)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
HEADERS = ["alg", "kid", "typ", "crit", "cty", "b64", "jwk", "jku", "x5c", "zip", "enc", "x"]
CLAIMS = ["exp", "nbf", "iat", "iss", "aud", "sub", "jti", "role", "x"]


@given(st.dictionaries(st.sampled_from(HEADERS), JSON), st.dictionaries(st.sampled_from(CLAIMS), JSON))
def test_whatever_a_signed_token_says_there_is_an_answer(header: dict[str, Any], body: dict[str, Any]) -> None:
    """A caller or a refusal, never an error; and a caller only with an expiry."""
    spec = section(secret=SECRET, issuer="i", audience="a", claims=[{"claim": "role", "contains": "x"}])
    for checked in (spec, BARE):
        found = verdict(checked, ours({"alg": "HS256"} | header, body))
        assert found is INVALID or "exp" in body
        found = verdict(checked, ours({"alg": "HS256"} | header, claims() | body))
        assert isinstance(found, Verified) or found is INVALID


# ---- what a token has to say


@pytest.mark.parametrize(
    ("rule", "value", "holds"),
    [
        ({"equals": "admin"}, "admin", True),
        ({"equals": "admin"}, "Admin", False),
        ({"equals": "admin"}, ["admin"], False),
        ({"equals": 1}, 1, True),
        ({"equals": 1}, True, False),
        ({"equals": True}, 1, False),
        ({"equals": False}, 0, False),
        ({"equals": False}, False, True),
        ({"equals": "1"}, 1, False),
        ({"one_of": ["a", 1]}, 1, True),
        ({"one_of": ["a", 1]}, "b", False),
        ({"contains": "read"}, "write read", True),
        ({"contains": "read"}, "reader", False),
        ({"contains": "read"}, ["write", "read"], True),
        ({"contains": "read"}, ["reader"], False),
        ({"contains": "read"}, {"read": 1}, False),
        ({"contains": 1}, [True], False),
        ({"contains": 1}, "1", False),
        ({"pattern": "[a-z]+"}, "abc", True),
        ({"pattern": "[a-z]+"}, "abc1", False),
        ({"pattern": "a|b"}, "ac", False),
        ({"pattern": "a"}, "a\n", False),
        ({"pattern": "(?:ad|gu).*"}, ["x", "guest"], True),
        ({"pattern": "7"}, 7, False),
        ({"pattern": ".*"}, None, False),
        ({"pattern": "ä."}, "äö", True),
    ],
)
def test_rules_about_claims(rule: dict[str, Any], value: object, holds: bool) -> None:
    for name, body in (("role", {"role": value}), ("realm.role", {"realm": {"role": value}})):
        spec = section(secret=SECRET, claims=[{"claim": name, **rule}])
        assert good(spec, token(**{**body, "role": body.get("role")})) == holds  # type: ignore[arg-type]
    assert not good(section(secret=SECRET, claims=[{"claim": "absent", **rule}]), token())


def test_one_of_several_issuers_and_audiences_is_enough() -> None:
    spec = section(secret=SECRET, issuer=["https://a", "https://b"], audience=["x", "y"])
    for iss, aud, holds in (
        ("https://a", "x", True), ("https://b", ["z", "y"], True), ("https://c", "x", False),
        ("https://a", "z", False), ("https://", "x", False), (None, "x", False), ("https://a", None, False),
        ("https://a", [], False),
    ):  # fmt: skip
        assert good(spec, token(iss=iss, aud=aud)) == holds, (iss, aud)


def test_leeway_is_as_configured() -> None:
    now = int(time.time())
    for leeway, holds in ((0, False), (120, True)):
        spec = section(secret=SECRET, leeway=leeway)
        assert good(spec, token(exp=now - 60)) == holds
        assert good(spec, token(nbf=now + 60)) == holds
        assert good(spec, token(iat=now + 60)) == holds


# ---- several issuers


def test_the_issuer_a_token_names_verifies_it_and_nobody_else() -> None:
    providers = [
        {"issuer": "https://a", "public_key": pem(RSA)},
        {"issuer": ["https://b", "https://c"], "secret": SECRET, "audience": "shop"},
    ]
    spec = section(providers=providers)
    assert good(spec, signed(RSA, "RS256", iss="https://a"))
    for iss in ("https://b", "https://c"):
        assert good(spec, token(iss=iss))
        assert not good(spec, signed(RSA, "RS256", iss=iss)), "the key of another issuer"
    assert not good(spec, token(iss="https://a"))
    assert not good(spec, token(iss="https://b", aud="other"))
    for iss in ("https://d", "", None):  # type: ignore[assignment]
        assert not good(spec, signed(RSA, "RS256", iss=iss))


def test_callers_of_different_issuers_are_different() -> None:
    providers = [{"issuer": f"https://{name}", "secret": SECRET} for name in "ab"]
    found = [verdict(section(providers=providers), token(iss=f"https://{name}")) for name in "ab"]
    assert [one.identity.who for one in found if isinstance(one, Verified)] == [
        "jwt:https://a:ann", "jwt:https://b:ann",
    ]  # fmt: skip


# ---- revocation


def test_revoked_tokens_are_refused(tmp_path: Path) -> None:
    now = int(time.time())
    file = tmp_path / "revoked"
    entries = [{"jti": "7f"}, {"sub": "bob"}, {"sub": "eve", "iat": now - 10}, {"sub": "eve", "iat": now - 20}]
    file.write_text("# since the leak\n\n" + "\n".join(map(json.dumps, entries)) + "\n")
    spec = section(secret=SECRET, revocations_file=str(file))
    assert not good(spec, token(jti="7f"))
    assert good(spec, token(jti="7F"))
    assert not good(spec, token(sub="bob"))
    assert not good(spec, token(sub="eve", iat=now - 10))
    assert good(spec, token(sub="eve", iat=now - 9))
    assert not good(spec, token(sub="eve", iat=None)), "who knows when it was issued"
    assert good(spec, token(sub=None))


class Hello(Handler):
    """Whoever gets here gets an answer."""

    def handle(self, x: Exchange) -> Response:
        return Response(200, b"hello")


# ---- what is kept


def test_a_known_token_is_not_verified_again_until_it_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    made = bearer(section(secret=SECRET, leeway=0))
    raw = token()
    seen: list[bytes] = []
    verify = Verifier.verify

    def noted(self: Verifier, raw: bytes) -> Any:
        seen.append(raw)
        return verify(self, raw)

    monkeypatch.setattr(Verifier, "verify", noted)
    with origin(echo) as o:
        backend = [{"host": "http://127.0.0.1", "port": o.port}]
        end = {"external_path": "/", "internal_path": "/", "methods": ["GET"], "backends": backend}
        with in_process(Chain("/", end, asking(made))) as gate:

            def status(raw: str) -> int:
                return status_of(gate.get("/", f"Authorization: Bearer {raw}")[0])

            assert [status(raw) for _ in range(3)] == [200, 200, 200]
            assert seen == [raw.encode()]
            assert made.cache is not None
            assert made.cache.count == 1
            other = raw[:-1] + ("A" if raw[-1] != "A" else "E")
            assert [status(other) for _ in range(2)] == [401, 401]
            assert made.cache.count == 1, "there is no end of bad ones"
            assert len(seen) == 3
            soon = (token(exp=int(time.time()) + seconds) for seconds in (1, 3, 7))
            over = next(raw for raw in soon if status(raw) == 200)  # the first ones may be over before they are seen
            gate.wait(lambda: status(over) == 401, "end of a token that is known")
            made.forget()
            assert status(raw) == 200
            assert seen[-1] == raw.encode(), "other keys, everything anew"


def test_a_token_is_kept_no_longer_than_configured_or_good() -> None:
    now = time.time()
    for kept, exp, until in ((60, HOUR, 60), (HOUR * 2, 100, 100 + 60), (HOUR * 2, HOUR, HOUR + 60)):
        found = verdict(section(secret=SECRET, cache_seconds=kept), token(exp=int(now) + exp))
        assert isinstance(found, Verified)
        assert abs(found.until - now - until) < 10


def test_without_a_cache_every_token_is_verified() -> None:
    assert bearer(section(secret=SECRET, cache_tokens=0)).cache is None


# ---- keys that are elsewhere


class Elsewhere:
    """A control process as a worker sees it."""

    def __init__(self, *keys: dict[str, Any]) -> None:
        self.keys = list(keys)
        self.fresh: list[dict[str, Any]] | None = None
        """What a fetch would bring."""
        self.gone = False
        self.asked: list[str | None] = []

    async def ask(self, body: bytes) -> bytes:
        kid = json.loads(body)["kid"]
        self.asked.append(kid)
        await asyncio.sleep(0)
        if self.gone:
            raise OSError("there is no control process")
        if kid is not None and self.fresh is not None:
            self.keys = self.fresh
        return json.dumps({"keys": self.keys}).encode()

    def remote(self, provider: JwtProvider) -> RemoteKeys:
        return RemoteKeys(provider.jwks_url or "", provider.algorithms, self.ask)


FAR = section(jwks_url="https://issuer/keys")


async def settled(verifier: Verifier, raw: str) -> Verified | Refusal:
    found = verifier.verify(raw.encode())
    return found if isinstance(found, Verified | Refusal) else await found


def test_keys_are_asked_for_once_then_known() -> None:
    far = Elsewhere(jwk(RSA, kid="a"))
    verifier = Verifier(FAR, far.remote)
    raw = signed(RSA, "RS256", {"kid": "a"})

    async def trace() -> None:
        found = await asyncio.gather(*[settled(verifier, raw) for _ in range(5)])
        assert all(isinstance(one, Verified) for one in found)
        assert far.asked == ["a"], "five requests wait for one answer"
        assert isinstance(verifier.verify(raw.encode()), Verified)

    asyncio.run(trace())


def test_an_unknown_kid_brings_new_keys_but_not_in_every_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    far = Elsewhere(jwk(RSA, kid="a"))
    verifier = Verifier(FAR, far.remote)
    new = signed(OTHER_RSA, "RS256", {"kid": "b"})
    monkeypatch.setattr("kairos.proxy.filters.authn.verify.UNKNOWN_PAUSE", HOUR)

    async def trace() -> None:
        assert isinstance(await settled(verifier, signed(RSA, "RS256", {"kid": "a"})), Verified)
        far.fresh = [jwk(RSA, kid="a"), jwk(OTHER_RSA, kid="b")]
        verifier.remotes[0]._not_before = 0
        assert isinstance(await settled(verifier, new), Verified)
        asked = len(far.asked)
        for number in range(100):
            assert await settled(verifier, signed(OTHER_RSA, "RS256", {"kid": f"made up {number}"})) is INVALID
        assert len(far.asked) == asked
        assert await settled(verifier, signed(OTHER_RSA, "RS256")) is INVALID, "two keys fit, and none is named"

    asyncio.run(trace())


def test_keys_in_hand_outlive_the_control_process() -> None:
    far = Elsewhere(jwk(RSA, kid="a"))
    verifier = Verifier(FAR, far.remote)
    raw = signed(RSA, "RS256", {"kid": "a"})

    async def trace() -> None:
        far.gone = True
        assert await settled(verifier, raw) is UNAVAILABLE
        assert verifier.verify(raw.encode()) is UNAVAILABLE, "it is not asked again at once"
        far.gone = False
        verifier.remotes[0]._not_before = 0
        assert isinstance(await settled(verifier, raw), Verified)
        far.gone = True
        assert not await verifier.remotes[0].renew()
        assert isinstance(verifier.verify(raw.encode()), Verified)

    asyncio.run(trace())


def test_a_set_that_cannot_be_used_leaves_the_keys_as_they_are() -> None:
    far = Elsewhere(jwk(RSA, kid="a"))
    verifier = Verifier(FAR, far.remote)
    forgotten: list[KeySet | None] = []

    class Believer:
        def forget(self) -> None:
            forgotten.append(verifier.remotes[0].keys)

    believer = Believer()
    verifier.remotes[0].believers.add(believer)

    async def trace() -> None:
        assert await verifier.remotes[0].renew()
        assert await verifier.remotes[0].renew()
        assert len(forgotten) == 1, "the same set is no change"
        far.keys = [{"kty": "oct", "k": part(SECRET.encode())}]
        assert not await verifier.remotes[0].renew()
        assert isinstance(verifier.verify(signed(RSA, "RS256", {"kid": "a"}).encode()), Verified)
        assert len(forgotten) == 1

    asyncio.run(trace())


def test_all_who_remember_tokens_forget_them_when_keys_change() -> None:
    """A reload may have left two that use one set: the one in force, and one that is prepared or was given up."""
    far = Elsewhere(jwk(RSA, kid="a"))
    shared = far.remote(FAR)
    both = [bearer(FAR, lambda _: shared) for _ in range(2)]

    async def trace() -> None:
        assert await shared.renew()
        caches = [one.cache for one in both if one.cache is not None]
        for cache in caches:
            cache.put(b"token", "ann", 100, 1)
        far.keys = [jwk(OTHER_RSA, kid="b")]
        assert await shared.renew()
        assert [cache.count for cache in caches] == [0, 0]
        both.clear()
        gc.collect()
        assert len(shared.believers) == 0

    asyncio.run(trace())


# ---- tokens bound to a certificate


@pytest.mark.parametrize("thumbprint", ["", "AA", part(b"x" * 31), part(b"x" * 33), part(b"x" * 32) + "=", 7, None, []])
def test_a_binding_that_is_none_is_refused(thumbprint: object) -> None:
    raw = ours(body=claims(cnf={"x5t#S256": thumbprint}))
    assert not good(section(secret=SECRET), raw)
    assert good(section(secret=SECRET, certificate_bound=False), raw)


def test_a_bound_token_is_no_good_without_its_certificate() -> None:
    raw = ours(body=claims(cnf={"x5t#S256": part(b"x" * 32)}))
    unbound = ours(body=claims(cnf={"jkt": "x"}))
    made = {"/strict": section(secret=SECRET), "/lax": section(secret=SECRET, certificate_bound=False)}
    with in_process(*[Chain(path, Hello(), asking(bearer(spec))) for path, spec in made.items()]) as gate:
        for path, bearing, expected in (("/strict", raw, 401), ("/strict", unbound, 200), ("/lax", raw, 200)):
            for _ in range(2):
                assert status_of(gate.get(path, f"Authorization: Bearer {bearing}")[0]) == expected


def test_a_bound_token_is_good_with_its_certificate_only(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    shown = load_pem_x509_certificate(authority.client_certificate.cert_chain_pems[0].bytes())
    raw, others = (
        ours(body=claims(cnf={"x5t#S256": part(digest)})) for digest in (shown.fingerprint(SHA256()), b"x" * 32)
    )
    listener = {
        "certificates": [{"cert_file": authority.file("shop.test")}],
        "client_auth": {"mode": "optional", "ca_file": authority.ca_file},
    }
    with in_process(Chain("/", Hello(), asking(bearer(section(secret=SECRET)))), server={"tls": listener}) as gate:
        for own, bearing, expected in (
            (authority.client_file, raw, 200), (authority.client_file, others, 401), (None, raw, 401),
            (authority.client_file, ours(), 200), (None, ours(), 200), (authority.client_file, raw, 200),
        ):  # fmt: skip
            with connect_tls(gate.tls_port, client_context(authority, own=own)) as client:
                client.send(f"GET / HTTP/1.1\r\nHost: shop.test\r\nAuthorization: Bearer {bearing}\r\n\r\n".encode())
                assert status_of(client.receive_response()[0]) == expected
