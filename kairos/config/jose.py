"""Keys that verify tokens (RFC 7517, 7518, 8037): secrets, PEM, JWK sets; and what of them is refused.

A key knows the algorithms it may be used with before any token is seen, so that no token chooses how it is verified.
Strict where a lax reader has been fooled: base64url without padding and in its one canonical form, JSON without
repeated names, no private keys, no key that says it is for something else, no short keys. A set is read key by key:
what cannot be used is left out and said, as RFC 7517 section 5 wants it, and what is left is used.

Loads cryptography: import it where a configuration has tokens to verify, not at the top of what every worker loads.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
import warnings
from typing import TYPE_CHECKING, Any, NoReturn

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import load_pem_public_key
from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

MAX_DOCUMENT = 256 * 1024
"""Bytes of a JWK set."""
MAX_KEYS = 256
MIN_RSA_BITS = 2048
MAX_RSA_BITS = 8192
"""Verifying takes longer with each bit, and anybody may send a token."""
HMAC_BYTES = {"HS256": 32, "HS384": 48, "HS512": 64}
"""RFC 7518 section 3.2: a key at least as long as the hash."""
FITTING: dict[str, tuple[str, ...]] = {
    "oct": ("HS256", "HS384", "HS512"),
    "RSA": ("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"),
    "P-256": ("ES256",),
    "P-384": ("ES384",),
    "P-521": ("ES512",),
    "Ed25519": ("EdDSA",),
    "Ed448": ("EdDSA",),
}
"""Algorithms a kind of key may be used with."""

_EC: dict[str, Callable[[], ec.EllipticCurve]] = {"P-256": ec.SECP256R1, "P-384": ec.SECP384R1, "P-521": ec.SECP521R1}
_COORDINATE = {"P-256": 32, "P-384": 48, "P-521": 66}
_CURVES = {"secp256r1": "P-256", "secp384r1": "P-384", "secp521r1": "P-521"}
_OKP_BYTES = {"Ed25519": 32, "Ed448": 57}
_PRIVATE = frozenset({"d", "p", "q", "dp", "dq", "qi", "oth"})
_BASE64URL = re.compile(rb"[A-Za-z0-9_-]*")
_PEM = re.compile(r"-----BEGIN ([A-Z0-9 ]+)-----")


class JwkError(ValueError):
    """A key, or all of a set, that cannot be used; the text says why."""


class VerifyKey(Struct, frozen=True, eq=False):
    """A key and what it may be used with."""

    kind: str
    """One of FITTING."""
    algorithms: frozenset[str]
    key: Any
    """As pyjwt takes it."""
    kid: str | None = None


# ---- pieces


def base64url(text: bytes | str) -> bytes:
    """The bytes of a base64url text.

    Raises:
        ValueError: padding, a character of another alphabet, or bits behind the last byte that are not zero: each
            would give one value several spellings.
    """
    raw = text.encode("ascii") if isinstance(text, str) else text
    if not _BASE64URL.fullmatch(raw) or len(raw) % 4 == 1:
        raise ValueError("not base64url")
    data = base64.urlsafe_b64decode(raw + b"=" * (-len(raw) % 4))
    if base64.urlsafe_b64encode(data).rstrip(b"=") != raw:
        raise ValueError("not canonical base64url")
    return data


def strict_json(data: bytes) -> Any:
    """The value of a JSON text in UTF-8.

    Raises:
        ValueError: it is none, repeats a name within an object, holds NaN or Infinity, or half a surrogate pair.
    """
    try:
        value = json.loads(data.decode(), object_pairs_hook=_object, parse_constant=_constant)
    except RecursionError:
        raise ValueError("nested too deeply") from None
    if b"\\u" in data:
        json.dumps(value, ensure_ascii=False).encode()
    return value


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) != len(pairs):
        raise ValueError("a name is repeated")
    return made


def _constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")


# ---- secrets and PEM


def secret_key(secret: str | bytes, algorithms: Sequence[str]) -> VerifyKey:
    """A shared secret. How long it has to be is the caller's to judge: `--insecure-dev` takes short ones.

    Raises:
        JwkError: it is a key of another kind, which everybody may know.
    """
    from jwt.algorithms import HMACAlgorithm
    from jwt.exceptions import InvalidKeyError

    raw = secret.encode() if isinstance(secret, str) else secret
    try:
        key = HMACAlgorithm(HMACAlgorithm.SHA256).prepare_key(raw)
    except InvalidKeyError as error:
        raise JwkError(f"is no secret: {error}") from None
    return VerifyKey("oct", frozenset(algorithms or ("HS256",)), key)


def pem_key(text: str, algorithms: Sequence[str]) -> VerifyKey:
    """The one public key, or the key of the certificate, in a PEM text.

    Raises:
        JwkError: it is none, a private one, too short, or fits none of the algorithms.
    """
    labels = _PEM.findall(text)
    if len(labels) != 1:
        raise JwkError("must hold one PEM block: -----BEGIN PUBLIC KEY----- …")
    if "PRIVATE" in labels[0]:
        raise JwkError("is a private key, which only the issuer of tokens may have: give the public one")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of what is refused below
            data = text.strip().encode()
            certificate = labels[0] == "CERTIFICATE"
            key = x509.load_pem_x509_certificate(data).public_key() if certificate else load_pem_public_key(data)
    except (ValueError, UnsupportedAlgorithm) as error:
        raise JwkError(f"is no PEM public key: {error}") from None
    return _usable(key, algorithms)


def _usable(key: Any, algorithms: Iterable[str], kid: str | None = None) -> VerifyKey:
    kind = _kind(key)
    allowed = frozenset(algorithms) or frozenset(FITTING[kind])
    fitting = allowed.intersection(FITTING[kind])
    if not fitting:
        raise JwkError(f"is a key for {' or '.join(FITTING[kind])}, which is not among the algorithms")
    return VerifyKey(kind, fitting, key, kid)


def _kind(key: Any) -> str:
    if isinstance(key, rsa.RSAPublicKey):
        if not MIN_RSA_BITS <= key.key_size <= MAX_RSA_BITS:
            raise JwkError(f"is an RSA key of {key.key_size} bits: {MIN_RSA_BITS} to {MAX_RSA_BITS} are taken")
        return "RSA"
    if isinstance(key, ec.EllipticCurvePublicKey) and key.curve.name in _CURVES:
        return _CURVES[key.curve.name]
    if isinstance(key, ed25519.Ed25519PublicKey):
        return "Ed25519"
    if isinstance(key, ed448.Ed448PublicKey):
        return "Ed448"
    raise JwkError("is a key of a kind that no algorithm here uses")


# ---- JWK sets


class KeySet:
    """The usable keys of a set, and what is wrong with the others."""

    def __init__(self, keys: Sequence[VerifyKey], problems: Sequence[str] = ()) -> None:
        self.keys = tuple(keys)
        self.problems = tuple(problems)

    def pick(self, kid: str | None, algorithm: str) -> VerifyKey | None:
        """The one key for a token; None where there is none, or more than one so that none is named.

        Keys without a kid are for tokens of any.
        """
        named = [key for key in self.keys if key.kid == kid] if kid is not None else list(self.keys)
        named = named or [key for key in self.keys if key.kid is None]
        fitting = [key for key in named if algorithm in key.algorithms]
        return fitting[0] if len(fitting) == 1 else None


def read_set(data: bytes, algorithms: Sequence[str], *, shared: bool = False) -> KeySet:
    """The keys of a JWK set, or of a single JWK, that may be used with these algorithms (none: with what fits them).

    `shared`: symmetric keys are taken, where the algorithms name theirs. What everybody can read never has one.

    Raises:
        JwkError: the document is none, or holds no usable key.
    """
    if len(data) > MAX_DOCUMENT:
        raise JwkError(f"is longer than {MAX_DOCUMENT} bytes")
    try:
        document = strict_json(data)
    except ValueError as error:
        raise JwkError(f"is no JWK set: {error}") from None
    jwks = _jwks(document)
    keys, problems = [], []
    for at, jwk in enumerate(jwks):
        try:
            keys.append(jwk_key(jwk, algorithms, shared=shared))
        except JwkError as error:
            problems.append(f"keys[{at}] {error}")
    keys = _without_doubles(keys, problems)
    if not keys:
        raise JwkError("holds no key that can be used" + (f": {problems[0]}" if problems else ""))
    return KeySet(keys, problems)


def _jwks(document: Any) -> list[Any]:
    if isinstance(document, dict) and "keys" not in document and "kty" in document:
        return [document]
    jwks = document.get("keys") if isinstance(document, dict) else None
    if not isinstance(jwks, list):
        raise JwkError('is no JWK set: {"keys": […]} is expected')
    if len(jwks) > MAX_KEYS:
        raise JwkError(f"holds {len(jwks)} keys: at most {MAX_KEYS} are taken")
    return jwks


def _without_doubles(keys: list[VerifyKey], problems: list[str]) -> list[VerifyKey]:
    """Two keys of a kid that fit the same algorithm: no token says which is meant, so neither is used."""
    kept = []
    for key in keys:
        twins = [other for other in keys if other is not key and key.kid is not None and other.kid == key.kid]
        if any(key.algorithms & twin.algorithms for twin in twins):
            problems.append(f"kid '{key.kid}' is that of several keys, so that none is used")
        else:
            kept.append(key)
    return kept


def jwk_key(jwk: Any, algorithms: Iterable[str] = (), *, shared: bool = False) -> VerifyKey:
    """The key a JWK is.

    Raises:
        JwkError: it cannot be used to verify with any of these algorithms.
    """
    if not isinstance(jwk, dict):
        raise JwkError("is no JSON object")
    _check_purpose(jwk)
    kid = jwk.get("kid")
    if not isinstance(kid, str | None):
        raise JwkError("has a kid that is no text")
    wanted = frozenset(algorithms)
    if jwk.get("kty") == "oct":
        key = _oct(jwk, wanted, kid, shared=shared)
    elif not _PRIVATE.isdisjoint(jwk):
        raise JwkError("is a private key: take it out, and make a new one if others could read it")
    else:
        key = _usable(_public_key(jwk), wanted, kid)
    return _for_its_algorithm(key, jwk)


def _check_purpose(jwk: dict[str, Any]) -> None:
    """`use` and `key_ops` (RFC 7517 section 4.2, 4.3): where one is there, it has to allow verifying."""
    if jwk.get("use", "sig") != "sig":
        raise JwkError(f"is for use '{jwk['use']}', not for signatures")
    operations = jwk.get("key_ops", ["verify"])
    if not isinstance(operations, list) or not all(isinstance(name, str) for name in operations):
        raise JwkError("has key_ops that are no list of texts")
    if len(set(operations)) != len(operations):
        raise JwkError("repeats a name in key_ops")
    if "verify" not in operations:
        raise JwkError("has key_ops without 'verify'")


def _for_its_algorithm(key: VerifyKey, jwk: dict[str, Any]) -> VerifyKey:
    """A JWK with `alg` is for that one alone (RFC 7517 section 4.4)."""
    algorithm = jwk.get("alg")
    if algorithm is None:
        return key
    if not isinstance(algorithm, str) or algorithm not in key.algorithms:
        raise JwkError(f"is for algorithm {algorithm!r}, which does not fit it or is not allowed")
    return VerifyKey(key.kind, frozenset((algorithm,)), key.key, key.kid)


def _oct(jwk: dict[str, Any], algorithms: frozenset[str], kid: str | None, *, shared: bool) -> VerifyKey:
    if not shared:
        raise JwkError("is a symmetric key, which only a file may hold, and with algorithms that name HS256 or others")
    secret = _member(jwk, "k")
    fitting = [name for name in algorithms if name in HMAC_BYTES and len(secret) >= HMAC_BYTES[name]]
    if not fitting:
        raise JwkError(f"is a symmetric key of {len(secret)} bytes, which is too short or not among the algorithms")
    made = secret_key(secret, fitting)
    return VerifyKey(made.kind, made.algorithms, made.key, kid)


def _public_key(jwk: dict[str, Any]) -> Any:
    """By kty and crv; sizes are those RFC 7518 section 6 and RFC 8037 ask for."""
    try:
        match jwk.get("kty"), jwk.get("crv"):
            case "RSA", _:
                return rsa.RSAPublicNumbers(_number(jwk, "e"), _number(jwk, "n")).public_key()
            case "EC", ("P-256" | "P-384" | "P-521") as curve:
                return _point(jwk, curve)
            case "OKP", ("Ed25519" | "Ed448") as curve:
                raw = _member(jwk, "x", _OKP_BYTES[curve])
                kind = ed25519.Ed25519PublicKey if curve == "Ed25519" else ed448.Ed448PublicKey
                return kind.from_public_bytes(raw)
            case kty, curve:
                raise JwkError(f"is of kty {kty!r}" + (f" and crv {curve!r}" if curve else "") + ", unknown here")
    except JwkError:
        raise
    except (ValueError, UnsupportedAlgorithm) as error:
        raise JwkError(f"is no valid key: {error}") from None


def _point(jwk: dict[str, Any], name: str) -> ec.EllipticCurvePublicKey:
    curve = _EC[name]()
    x, y = (int.from_bytes(_member(jwk, axis, _COORDINATE[name]), "big") for axis in ("x", "y"))
    return ec.EllipticCurvePublicNumbers(x, y, curve).public_key()


def _number(jwk: dict[str, Any], name: str) -> int:
    return int.from_bytes(_member(jwk, name), "big")


def _member(jwk: dict[str, Any], name: str, size: int | None = None) -> bytes:
    text = jwk.get(name)
    if not isinstance(text, str) or not text.isascii():
        raise JwkError(f"has no member '{name}' in base64url")
    try:
        data = base64url(text)
    except (ValueError, binascii.Error) as error:
        raise JwkError(f"has a member '{name}' that is {error}") from None
    if not data or (size is not None and len(data) != size):
        raise JwkError(f"has a member '{name}' of {len(data)} bytes" + (f", {size} are due" if size else ""))
    return data
