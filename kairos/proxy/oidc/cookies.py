"""Values in cookies (RFC 6265bis): their names, their attributes, and values too long for one cookie.

Over https every name has the prefix `__Host-`: browsers take such a cookie only from this very host, over TLS, so that
no subdomain and no plain connection can plant one. A long value is cut into pieces `name`, `name_1`, ...; the first one
says how many there are.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST_PREFIX = "__Host-"
PIECE = 3800
"""Bytes of a value in one cookie: browsers take 4096 with name and attributes."""
MAX_PIECES = 5


def cookie_name(name: str, *, secure: bool) -> str:
    """The name in use."""
    return HOST_PREFIX + name if secure else name


def parsed(header: bytes | None) -> dict[bytes, bytes]:
    """A Cookie field as names and values; of two of a name, browsers put the more specific one first."""
    made: dict[bytes, bytes] = {}
    for part in (header or b"").split(b";"):
        name, equals, value = part.strip().partition(b"=")
        if equals:
            made.setdefault(name, value)
    return made


def without(header: bytes, names: set[bytes]) -> bytes | None:
    """A Cookie field without some cookies; None if nothing is left of it."""
    kept = [part.strip() for part in header.split(b";") if part.strip().partition(b"=")[0] not in names]
    return b"; ".join(kept) or None


def joined(cookies: dict[bytes, bytes], name: str) -> bytes | None:
    """The value in the pieces `name`, `name_1`, ...; None where some are missing."""
    count, dot, first = cookies.get(name.encode(), b"").partition(b".")
    if not dot or not count.isdigit() or len(count) > 1 or not 1 <= int(count) <= MAX_PIECES:
        return None
    pieces = [first, *(cookies.get(f"{name}_{at}".encode(), b"") for at in range(1, int(count)))]
    return b"".join(pieces) if all(pieces) else None


def set_lines(name: str, value: str, *, secure: bool, max_age: int, sent: dict[bytes, bytes]) -> Iterator[str]:
    """Set-Cookie values that leave exactly this value in the browser, which `sent` these cookies.

    Raises:
        ValueError: the value is too long for MAX_PIECES cookies.
    """
    pieces = [value[at : at + PIECE] for at in range(0, len(value), PIECE)]
    if len(pieces) > MAX_PIECES:
        raise ValueError(f"{len(value)} bytes are too many for {MAX_PIECES} cookies")
    for at, piece in enumerate(pieces):
        yield line(_piece(name, at), piece if at else f"{len(pieces)}.{piece}", max_age, secure=secure)
    for at in range(len(pieces), MAX_PIECES):
        if _piece(name, at).encode() in sent:
            yield line(_piece(name, at), "", 0, secure=secure)


def clear_lines(name: str, *, secure: bool, sent: dict[bytes, bytes]) -> Iterator[str]:
    """Set-Cookie values that leave nothing of it."""
    for at in range(MAX_PIECES):
        if _piece(name, at).encode() in sent:
            yield line(_piece(name, at), "", 0, secure=secure)


def _piece(name: str, at: int) -> str:
    return f"{name}_{at}" if at else name


def line(name: str, value: str, max_age: int, *, secure: bool) -> str:
    """A Set-Cookie value. No script reads it, and no other site's form or frame sends it."""
    return f"{name}={value}; Path=/; Max-Age={max_age}; HttpOnly; SameSite=Lax" + ("; Secure" if secure else "")
