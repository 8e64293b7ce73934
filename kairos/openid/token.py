"""A JSON Web Token taken apart (RFC 7519, RFC 7515 compact form), and judged as far as one can without a key. Pure.

What is refused here is what libraries have been fooled with, or let pass: other spellings of the same token, repeated
names, critical extensions nobody here knows, a kid that is no text, times that are no sane numbers.
"""

from __future__ import annotations

from typing import Any

from msgspec import Struct

from kairos.config.jose import base64url, strict_json

LATEST = 253_402_300_799
"""The last second of the year 9999. A later one was meant as milliseconds, and would never come."""
MAX_KID = 1024
TYPES = ("jwt", "at+jwt")
"""What `typ` may be where the configuration does not say: JWTs meant for something else (a logout token, a proof of
possession) name that (RFC 8725 section 3.11)."""

_TIMES = ("exp", "nbf", "iat")


class TokenError(Exception):
    """A token that is no good; the text is for the operator, not for who sent it."""


class Token(Struct, frozen=True):
    """A token's parts, of which nothing is proven."""

    header: dict[str, Any]
    claims: dict[str, Any]

    @property
    def algorithm(self) -> str:
        """Not the token's to choose: it only has to be the key's."""
        return str(self.header["alg"])

    @property
    def kid(self) -> str | None:
        kid = self.header.get("kid")
        return kid if isinstance(kid, str) else None


def parse(raw: bytes) -> Token:
    """The token these bytes spell.

    Raises:
        TokenError: they spell none, or one that nobody should trust.
    """
    parts = raw.split(b".")
    if len(parts) != 3 or not all(parts):
        raise TokenError("is not of three parts")
    try:
        header, payload, _ = map(base64url, parts)
        token = Token(_object(header, "header"), _object(payload, "payload"))
    except ValueError as error:
        raise TokenError(f"is malformed: {error}") from None
    _check_header(token.header)
    _check_claims(token.claims)
    return token


def _object(data: bytes, name: str) -> dict[str, Any]:
    value = strict_json(data)
    if not isinstance(value, dict):
        raise TokenError(f"has a {name} that is no object")
    return value


def _check_header(header: dict[str, Any]) -> None:
    if not isinstance(header.get("alg"), str):
        raise TokenError("has no alg")
    for name in ("crit", "b64", "zip", "enc"):
        if name in header:
            raise TokenError(f"has the header parameter {name}, which is not taken")
    kid = header.get("kid")
    if "kid" in header and not (isinstance(kid, str) and len(kid) <= MAX_KID):
        raise TokenError("has a kid that is no text")
    if not isinstance(header.get("typ", ""), str):
        raise TokenError("has a typ that is no text")


def check_type(token: Token, types: tuple[str, ...]) -> None:
    """Whether it is a token for what it is used for; `types` are in lower case.

    Raises:
        TokenError: it is not.
    """
    written = token.header.get("typ", "jwt").lower().removeprefix("application/")
    if written not in types:
        raise TokenError(f"is of type {written}")


def _check_claims(claims: dict[str, Any]) -> None:
    for name in _TIMES:
        if name in claims and not _is_time(claims[name]):
            raise TokenError(f"has an {name} that is no time")
    for name in ("iss", "sub", "jti"):
        if name in claims and not isinstance(claims[name], str):
            raise TokenError(f"has an {name} that is no text")
    audience = claims.get("aud", "")
    if not isinstance(audience, str) and not _are_texts(audience):
        raise TokenError("has an aud that is no text and no list of texts")


def _is_time(value: object) -> bool:
    """A NumericDate; neither NaN nor infinite, which compare as no date does."""
    return isinstance(value, int | float) and not isinstance(value, bool) and -LATEST <= value <= LATEST


def _are_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)
