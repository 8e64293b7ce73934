"""Trailer fields: only those announced in Trailer, and never what belongs in a head (RFC 9110 section 6.5), nor of
requests what the gateway itself says there: some recipients put both together.
"""

from __future__ import annotations

from kairos.proxy.fields import OVERRIDING

_FORBIDDEN = OVERRIDING | frozenset(
    name.encode()
    for name in (
        "transfer-encoding", "content-length", "host", "connection", "keep-alive", "upgrade", "te", "trailer", "via",
        "cache-control", "expect", "max-forwards", "pragma", "range", "authorization", "proxy-authorization", "cookie",
        "set-cookie", "content-encoding", "content-type", "content-range", "forwarded", "x-request-id", "proxy",
        "x-forwarded-for", "x-forwarded-host", "x-forwarded-port", "x-forwarded-proto", "x-real-ip",
    )
)  # fmt: skip


def announced(section: bytes | None, names: bytes | None) -> bytes | None:
    """The lines of a trailer section that may go on, or None when there are none.

    `section` is as the chunk decoder gave it: whole lines, each with its CRLF.
    """
    if not section or not names:
        return None
    allowed = {name.strip().lower() for name in names.split(b",")} - _FORBIDDEN
    kept = [line for line in section.splitlines(keepends=True) if line.partition(b":")[0].lower() in allowed]
    return b"".join(kept) or None


def unedited(section: bytes, names: bytes) -> bytes:
    """The lines of a section that are of none of these names (lower case, with commas between)."""
    own = frozenset(names.split(b","))
    return b"".join(line for line in section.splitlines(keepends=True) if line.partition(b":")[0].lower() not in own)
