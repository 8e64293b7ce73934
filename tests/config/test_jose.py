"""Keys that verify tokens: the RFCs' own, what is read of a set, and what is refused, each with its reason."""

from __future__ import annotations

import base64
import contextlib
import json
from typing import Any

import jwt
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa, x25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from hypothesis import given
from hypothesis import strategies as st
from jwt.api_jws import PyJWS

from kairos.config.jose import (
    MAX_DOCUMENT,
    JwkError,
    KeySet,
    base64url,
    jwk_key,
    pem_key,
    read_set,
    secret_key,
    strict_json,
)
from tests.support.tokens import ED448, ED25519, OTHER_RSA, P256, P384, P521, RSA, jwk, part, pem

# ---- the RFCs' own keys and signatures

HS_JWK = {
    "kty": "oct",
    "k": "AyM1SysPpbyDfgZld3umj1qzKObwVMkoqQ-EstJQLr_T-1qS0gZH75aKtMN3Yj0iPS4hcgUuTwjAzZr1Z9CAow",
}
RS_JWK = {
    "kty": "RSA",
    "n": "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS"
    "-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2Cap"
    "Hg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h"
    "4FRWyuXpoQ",
    "e": "AQAB",
}
ES256_JWK = {
    "kty": "EC",
    "crv": "P-256",
    "x": "f83OJ3D2xF1Bg8vub9tLe1gHMzV76e8Tus9uPHvRVEU",
    "y": "x_FEzRu9m36HLN_tue659LNpXW6pCyStikYjKIWI5a0",
}
ES512_JWK = {
    "kty": "EC",
    "crv": "P-521",
    "x": "AekpBQ8ST8a8VcfVOTNl353vSrDCLLJXmPk06wTjxrrjcBpXp5EOnYG_NjFZ6OvLFV1jSfS9tsz4qUxcWceqwQGk",
    "y": "ADSmRA43Z1DSNx_RvcLI87cdL07l6jQyyBXMoxVg_l2Th-x3S1WDhjDly79ajL4Kkd0AZMaZmh9ubmf63e3kyMj2",
}
ED_JWK = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}
CLAIMS = "eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ"
VECTORS = {
    "RFC 7515 A.1": (
        HS_JWK,
        ["HS256"],
        f"eyJ0eXAiOiJKV1QiLA0KICJhbGciOiJIUzI1NiJ9.{CLAIMS}.dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk",
    ),
    "RFC 7515 A.2": (
        RS_JWK,
        ["RS256"],
        f"eyJhbGciOiJSUzI1NiJ9.{CLAIMS}.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_"
        "lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07"
        "Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98r"
        "qVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw",
    ),
    "RFC 7515 A.3": (
        ES256_JWK,
        [],
        f"eyJhbGciOiJFUzI1NiJ9.{CLAIMS}.DtEhU3ljbEg8L38VWAfUAqOyKAM6-Xx-F4GawxaepmXFCgfTjDxw5djxLa8ISlSApmWQxfKTUJqPP3-"
        "Kg6NU1Q",
    ),
    "RFC 7515 A.4": (
        ES512_JWK,
        [],
        "eyJhbGciOiJFUzUxMiJ9.UGF5bG9hZA.AdwMgeerwtHoh-l192l60hp9wAHZFVJbLfD_UxMi70cwnZOYaRI1bKPWROc-mZZqwqT2SI-KGDKB34"
        "XO0aw_7XdtAG8GaSwFKdCAPZgoXD2YBJZCPEX3xKpRwcdOO8KpEHwJjyqOgzDO7iKvU8vcnwNrmxYbSW9ERBXukOXolLzeO_Jn",
    ),
    "RFC 8037 A.4": (
        ED_JWK,
        [],
        "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR"
        "4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg",
    ),
}


@pytest.mark.parametrize("name", VECTORS)
def test_keys_of_the_rfcs_verify_their_signatures(name: str) -> None:
    members, algorithms, token = VECTORS[name]
    key = jwk_key(members, algorithms, shared=True)
    assert key.algorithms == {PyJWS().get_unverified_header(token)["alg"]}
    PyJWS().decode(token, key.key, sorted(key.algorithms))
    tampered = token[:-8] + ("A" if token[-8] != "A" else "B") + token[-7:]
    with pytest.raises(jwt.InvalidSignatureError):
        PyJWS().decode(tampered, key.key, sorted(key.algorithms))


def test_the_set_of_rfc_7517_is_read() -> None:
    """Appendix A.1: an EC key for encryption, which is left out, and an RSA one with a kid and an alg."""
    document = {
        "keys": [
            ES256_JWK | {"use": "enc", "kid": "1"},
            RS_JWK | {"alg": "RS256", "kid": "2011-04-29"},
        ]
    }
    read = read_set(json.dumps(document).encode(), ())
    assert [(key.kid, sorted(key.algorithms)) for key in read.keys] == [("2011-04-29", ["RS256"])]
    assert read.problems == ("keys[0] is for use 'enc', not for signatures",)


# ---- what a key may be used with


@pytest.mark.parametrize(
    ("key", "fitting"),
    [
        (RSA, {"RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}),
        (P256, {"ES256"}), (P384, {"ES384"}), (P521, {"ES512"}), (ED25519, {"EdDSA"}), (ED448, {"EdDSA"}),
    ],
)  # fmt: skip
def test_a_public_key_is_for_the_algorithms_of_its_kind(key: Any, fitting: set[str]) -> None:
    assert jwk_key(jwk(key)).algorithms == fitting
    assert pem_key(pem(key), ()).algorithms == fitting
    assert jwk_key(jwk(key), [min(fitting), "HS256"]).algorithms == {min(fitting)}
    with pytest.raises(JwkError, match=r"is a key for .*not among the algorithms"):
        jwk_key(jwk(key), ["HS256"])
    with pytest.raises(JwkError, match=r"is a key for .*not among the algorithms"):
        pem_key(pem(key), ["HS256", "HS512"])


def test_a_secret_is_for_hs256_unless_told_otherwise() -> None:
    assert secret_key("s" * 64, ()).algorithms == {"HS256"}
    assert secret_key("s" * 64, ["HS384", "HS512"]).algorithms == {"HS384", "HS512"}


@pytest.mark.parametrize("text", [pem(RSA), pem(P256), json.dumps(jwk(RSA)), "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAI"])
def test_a_public_key_is_no_secret(text: str) -> None:
    """What anybody can read would let anybody sign."""
    with pytest.raises(JwkError, match="is no secret"):
        secret_key(text, ())


def test_a_jwk_with_an_algorithm_is_for_that_alone() -> None:
    assert jwk_key(jwk(RSA, alg="PS256")).algorithms == {"PS256"}
    with pytest.raises(JwkError, match="is for algorithm 'PS256'"):
        jwk_key(jwk(RSA, alg="PS256"), ["RS256"])


# ---- keys that are refused


def weak_rsa(bits: int) -> rsa.RSAPublicKey:
    """A public key of a size that no library generates; nobody needs its private half."""
    return rsa.RSAPublicNumbers(65537, (1 << bits) - 1).public_key()


def numbers(n: int, e: int) -> dict[str, Any]:
    def text(number: int) -> str:
        return part(number.to_bytes((number.bit_length() + 7) // 8, "big"))

    return {"kty": "RSA", "n": text(n), "e": text(e)}


MODULUS = RSA.public_key().public_numbers().n
REFUSED: dict[str, tuple[Any, str]] = {
    "no object": ([], "is no JSON object"),
    "no kty": ({}, "is of kty None, unknown here"),
    "unknown kty": ({"kty": "XYZ"}, "is of kty 'XYZ', unknown here"),
    "kty of an odd type": ({"kty": ["RSA"]}, "unknown here"),
    "unknown curve": (jwk(P256) | {"crv": "secp256k1"}, "is of kty 'EC' and crv 'secp256k1', unknown here"),
    "key agreement": ({"kty": "OKP", "crv": "X25519", "x": part(b"x" * 32)}, "crv 'X25519', unknown here"),
    "another use": (jwk(RSA, use="enc"), "is for use 'enc'"),
    "use of an odd type": (jwk(RSA, use=["sig"]), "is for use"),
    "key_ops without verify": (jwk(RSA, key_ops=["sign"]), "has key_ops without 'verify'"),
    "empty key_ops": (jwk(RSA, key_ops=[]), "has key_ops without 'verify'"),
    "key_ops twice": (jwk(RSA, key_ops=["verify", "verify"]), "repeats a name in key_ops"),
    "key_ops no list": (jwk(RSA, key_ops="verify"), "has key_ops that are no list"),
    "key_ops of odd things": (jwk(RSA, key_ops=["verify", 1]), "has key_ops that are no list"),
    "use and key_ops disagree": (jwk(RSA, use="enc", key_ops=["verify"]), "is for use 'enc'"),
    "kid of an odd type": (jwk(RSA, kid=7), "has a kid that is no text"),
    "algorithm of another kind": (jwk(RSA, alg="ES256"), "is for algorithm 'ES256'"),
    "algorithm none": (jwk(RSA, alg="none"), "is for algorithm 'none'"),
    "algorithm HS256 on RSA": (jwk(RSA, alg="HS256"), "is for algorithm 'HS256'"),
    "algorithm of another curve": (jwk(P256, alg="ES512"), "is for algorithm 'ES512'"),
    "private": (jwk(RSA, d=part(b"d")), "is a private key"),
    "private, in parts": (jwk(RSA, p=part(b"p")), "is a private key"),
    "short RSA": (numbers((1 << 1024) - 1, 65537), "is an RSA key of 1024 bits"),
    "nearly long enough": (numbers((1 << 2047) - 1, 65537), "is an RSA key of 2047 bits"),
    "endless RSA": (numbers((1 << 16384) - 1, 65537), "is an RSA key of 16384 bits"),
    "exponent 1": (numbers(MODULUS, 1), "is no valid key"),
    "even exponent": (numbers(MODULUS, 65536), "is no valid key"),
    "exponent beyond the modulus": (numbers(MODULUS, MODULUS + 2), "is no valid key"),
    "no modulus": ({"kty": "RSA", "e": "AQAB"}, "has no member 'n'"),
    "modulus as a number": ({"kty": "RSA", "e": "AQAB", "n": 7}, "has no member 'n'"),
    "empty modulus": ({"kty": "RSA", "e": "AQAB", "n": ""}, "has a member 'n' of 0 bytes"),
    "padding": (jwk(RSA) | {"e": "AQAB===="}, "has a member 'e' that is not base64url"),
    "another alphabet": (jwk(P256) | {"x": "+/" * 21 + "A"}, "has a member 'x' that is not base64url"),
    "spare bits": (jwk(P256) | {"x": jwk(P256)["x"][:-1] + "_"}, "has a member 'x' that is not canonical"),
    "beyond ASCII": (jwk(RSA) | {"n": "\u00e4"}, "has no member 'n'"),
    "coordinate too short": (jwk(P256) | {"x": part(b"x" * 31)}, "has a member 'x' of 31 bytes, 32 are due"),
    "coordinate too long": (jwk(P256) | {"y": part(b"\0" + b"y" * 32)}, "has a member 'y' of 33 bytes"),
    "point off the curve": (jwk(P256) | {"y": part(b"y" * 32)}, "is no valid key"),
    "point at infinity": (jwk(P256) | {"x": part(bytes(32)), "y": part(bytes(32))}, "is no valid key"),
    "Ed25519 too short": (jwk(ED25519) | {"x": part(b"x")}, "has a member 'x' of 1 bytes, 32 are due"),
    "symmetric": (HS_JWK, "is a symmetric key, which only a file may hold"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_a_jwk_that_cannot_be_trusted_is_refused(name: str) -> None:
    members, reason = REFUSED[name]
    with pytest.raises(JwkError) as caught:
        jwk_key(members)
    assert reason in str(caught.value)


@pytest.mark.parametrize(("size", "algorithms"), [(31, ["HS256"]), (32, ["HS384"]), (63, ["HS512"]), (64, ["RS256"])])
def test_a_symmetric_jwk_is_as_long_as_its_hash(size: int, algorithms: list[str]) -> None:
    with pytest.raises(JwkError, match=f"of {size} bytes, which is too short or not among"):
        jwk_key({"kty": "oct", "k": part(b"k" * size)}, algorithms, shared=True)


def test_a_symmetric_jwk_is_for_the_algorithms_it_is_long_enough_for() -> None:
    key = jwk_key({"kty": "oct", "k": part(b"k" * 48)}, ["HS256", "HS384", "HS512"], shared=True)
    assert key.algorithms == {"HS256", "HS384"}


def private_pem() -> str:
    return RSA.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def public_pem(key: Any) -> str:
    return str(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo), "ascii")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "must hold one PEM block"),
        ("no key", "must hold one PEM block"),
        (pem(RSA) + pem(OTHER_RSA), "must hold one PEM block"),
        (private_pem(), "is a private key"),
        ("-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----", "is no PEM public key"),
        (public_pem(weak_rsa(1024)), "is an RSA key of 1024 bits"),
        (pem(ec.generate_private_key(ec.SECP256K1())), "is a key of a kind that no algorithm here uses"),
        (pem(x25519.X25519PrivateKey.generate()), "is a key of a kind that no algorithm here uses"),
        (pem(dsa.generate_private_key(1024)), "is a key of a kind that no algorithm here uses"),
    ],
    ids=["empty", "text", "two", "private", "broken", "short", "k256", "x25519", "dsa"],
)
def test_a_pem_text_that_is_no_key_for_tokens_is_refused(text: str, reason: str) -> None:
    with pytest.raises(JwkError, match=reason):
        pem_key(text, ())


def test_the_key_of_a_certificate_is_taken() -> None:
    import datetime

    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "issuer")])
    now = datetime.datetime.now(datetime.UTC)
    builder = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(RSA.public_key())
    builder = builder.serial_number(1).not_valid_before(now).not_valid_after(now + datetime.timedelta(1))
    from cryptography.hazmat.primitives.hashes import SHA256

    text = builder.sign(RSA, SHA256()).public_bytes(Encoding.PEM).decode()
    assert pem_key(text, ()).key.public_numbers().n == MODULUS


# ---- sets


def keys(*jwks: Any, algorithms: tuple[str, ...] = ()) -> KeySet:
    return read_set(json.dumps({"keys": jwks}).encode(), algorithms)


@pytest.mark.parametrize(
    ("document", "reason"),
    [
        (b"", "is no JWK set"),
        (b"[]", "is no JWK set"),
        (b"{}", "is no JWK set"),
        (b'{"keys": {}}', "is no JWK set"),
        (b'{"keys": []}', "holds no key that can be used"),
        (b'{"keys": [], "keys": []}', "a name is repeated"),
        (b'{"keys": [NaN]}', "NaN is no JSON"),
        (b"\xff\xfe", "is no JWK set"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"keys": [' + b"{}," * 300 + b"{}]}", "holds 301 keys"),
        (b" " * (MAX_DOCUMENT + 1), "is longer than"),
        (b'{"keys": [{"kty": "RSA"}]}', "holds no key that can be used: keys[0] has no member"),
    ],
)
def test_a_document_without_a_usable_key_is_refused(document: bytes, reason: str) -> None:
    with pytest.raises(JwkError) as caught:
        read_set(document, ())
    assert reason in str(caught.value)


def test_what_cannot_be_used_is_left_out_and_said() -> None:
    read = keys({"kty": "new"}, jwk(RSA, kid="a"), HS_JWK, jwk(P256, use="enc"))
    assert [key.kid for key in read.keys] == ["a"]
    assert [problem.split(" ", 1)[0] for problem in read.problems] == ["keys[0]", "keys[2]", "keys[3]"]


def test_a_single_jwk_is_a_set_of_one() -> None:
    assert len(read_set(json.dumps(jwk(RSA)).encode(), ()).keys) == 1


def test_two_keys_of_one_kid_are_not_used() -> None:
    read = keys(jwk(RSA, kid="a"), jwk(OTHER_RSA, kid="a"), jwk(P256, kid="b"))
    assert [key.kid for key in read.keys] == ["b"]
    assert any("kid 'a' is that of several keys" in problem for problem in read.problems)


def test_keys_of_one_kid_for_different_algorithms_are_told_apart() -> None:
    """RFC 7517 section 4.5 has it so; the same for keys of one kind that each have an alg."""
    read = keys(jwk(RSA, kid="a"), jwk(P256, kid="a"), jwk(P384, kid="a"))
    for algorithm, kind in (("RS256", "RSA"), ("ES256", "P-256"), ("ES384", "P-384")):
        key = read.pick("a", algorithm)
        assert key is not None
        assert key.kind == kind
    read = keys(jwk(RSA, kid="a", alg="RS256"), jwk(OTHER_RSA, kid="a", alg="PS256"))
    assert len(read.keys) == 2


def test_a_token_gets_the_key_it_names_or_the_only_one() -> None:
    read = keys(jwk(RSA, kid="a"), jwk(OTHER_RSA, kid="b"), jwk(P256, kid="c"))
    found = read.pick("b", "RS256")
    assert found is not None
    assert found.kid == "b"
    assert read.pick("b", "ES256") is None, "named, but of another kind"
    assert read.pick("d", "RS256") is None
    assert read.pick(None, "RS256") is None, "two would fit"
    only = read.pick(None, "ES256")
    assert only is not None
    assert only.kid == "c"


def test_keys_without_a_kid_are_for_any_token() -> None:
    assert keys(jwk(RSA)).pick("whatever", "RS256") is not None
    assert keys(jwk(RSA), jwk(P256, kid="a")).pick("a", "RS256") is None, "the kid names another"


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=8,
)
MEMBERS = ["kty", "crv", "use", "key_ops", "alg", "kid", "n", "e", "x", "y", "k", "d"]
GOOD = [jwk(RSA), jwk(P256), jwk(ED25519), HS_JWK]


@given(st.sampled_from(GOOD), st.dictionaries(st.sampled_from(MEMBERS), JSON), st.booleans())
def test_a_jwk_with_anything_in_it_is_a_key_or_refused(
    members: dict[str, Any], changes: dict[str, Any], shared: bool
) -> None:
    document = json.dumps(members | changes).encode()
    for algorithms in ((), ("HS256", "RS256")):
        with contextlib.suppress(JwkError):
            assert read_set(document, algorithms, shared=shared).keys[0].algorithms


@given(st.binary(max_size=64) | JSON.map(lambda value: json.dumps(value).encode()))
def test_any_document_is_a_set_or_refused(document: bytes) -> None:
    with pytest.raises(JwkError):
        read_set(document, (), shared=True)


# ---- pieces


@pytest.mark.parametrize("data", [b"", b"\0", b"\0\0", b"\0\0\0", b"\xff" * 7])
def test_base64url_is_read(data: bytes) -> None:
    assert base64url(base64.urlsafe_b64encode(data).rstrip(b"=")) == data


@pytest.mark.parametrize(
    "text", [b"A", b"AB", b"AA=", b"AA==", b"A A", b"AA\n", b"A+AA", b"A/AA", b"AAB", b"=", b"AAAAA"]
)
def test_other_spellings_are_not(text: bytes) -> None:
    with pytest.raises(ValueError, match="base64url"):
        base64url(text)


@pytest.mark.parametrize(
    "text",
    [
        b'{"a": 1, "a": 1}', b'{"b": {"a": 1, "a": 2}}', b'[{"a": 1, "\\u0061": 2}]', b"NaN", b"[Infinity]",
        b"-Infinity", b"\xff", b"\xed\xa0\x80", b'"\\ud800"', b'{"\\udfff": 1}', b"[" * 100_000, b"9" * 5000, b"",
        b"{} {}", b"\xef\xbb\xbf{}", b"\xff\xfe{\0}\0",
    ],
)  # fmt: skip
def test_json_that_could_be_read_in_two_ways_is_refused(text: bytes) -> None:
    with pytest.raises(ValueError):
        strict_json(text)


def test_json_in_utf_8_is_read() -> None:
    assert strict_json('{"é": ["\\u00e9", "\\ud83d\\ude00", 1.5]}'.encode()) == {"é": ["é", "😀", 1.5]}
