"""Header fields made here rather than read: checked against injection (RFC 9110 section 5.5), and kept off those that
the gateway writes itself: a second Content-Length or Host would be read differently by the next hop.
"""

from __future__ import annotations

import re
import time
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from kairos.config import fields
from kairos.proxy.edits import check_field, edit_lines

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kairos.proxy.edits import Edit, Edits


_NOT_IN_TARGET = re.compile(rb"[\x00-\x20\x7f-\xff#]")
REQUEST_OWN = frozenset(name.encode() for name in fields.REQUEST_OWN)
RESPONSE_OWN = frozenset(name.encode() for name in fields.RESPONSE_OWN)
OVERRIDING = frozenset((
    b"x-original-url", b"x-rewrite-url", b"x-original-host", b"x-host", b"x-http-host-override", b"x-forwarded-server",
    b"x-forwarded-scheme", b"x-forwarded-ssl", b"x-forwarded-prefix", b"x-forwarded-path", b"x-forwarded-uri",
    b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-url-scheme", b"x-real-url",
    b"front-end-https", b"x-original-uri", b"x-override-url",
))  # fmt: skip
"""By which frameworks take another path, host, method or scheme than the request's own. X-Forwarded-* of clients never
go on; of the others those that `headers.overrides` lets through."""
_ANSWER_OWN = frozenset((b"content-length", b"transfer-encoding", b"x-request-id"))


def answer_lines(headers: Iterable[tuple[bytes, bytes]], edits: list[Edit | Edits] | None) -> tuple[bytes, bool]:
    """Field lines of an answer with these headers after these edits, and whether they ask for the connection's end.

    Raises:
        ValueError: see edit().
    """
    names, added = edit_lines(edits) if edits else (b"", b"")
    edited = names.split(b",") if names else ()
    lines, close = [], False
    for name, value in headers:
        lower = name.lower()
        if lower in _ANSWER_OWN:
            raise ValueError(f"header {name.decode('latin-1')} is written by the gateway itself")
        if lower == b"connection" and value.lower() == b"close":
            close = True
        elif lower not in edited:
            check_field(name, value)
            lines.append(b"%s: %s\r\n" % (name, value))
    return b"".join(lines) + added, close


def request_head(method: str, target: bytes, headers: Iterable[tuple[bytes, bytes]], length: int) -> bytes:
    """The head of a request made here; framing is ours, whatever the headers say.

    Raises:
        ValueError: a header field would break it apart.
    """
    lines = [b"%s %s HTTP/1.1\r\n" % (method.encode("ascii"), target)]
    host = b"kairos"
    for name, value in headers:
        check_field(name, value)
        lower = name.lower()
        if lower == b"host":
            host = value
        elif lower not in REQUEST_OWN:
            lines.append(b"%s: %s\r\n" % (name, value))
    lines.append(b"Host: %s\r\n" % host)
    if length or method not in ("GET", "HEAD", "OPTIONS", "TRACE", "DELETE"):
        lines.append(b"Content-Length: %d\r\n" % length)
    return b"".join([*lines, b"\r\n"])


def check_target(target: bytes) -> None:
    """See that it can stand in a request line and leads nowhere else.

    Raises:
        ValueError: it is no absolute path, holds dot segments, or a byte that no target has.
    """
    if not target.startswith(b"/") or _NOT_IN_TARGET.search(target):
        raise ValueError(f"not a request target: {target[:80]!r}")
    path = target.partition(b"?")[0]
    if b"." in path or b"%" in path:
        plain = re.sub(rb"(?i)%2e", b".", path)
        if not {b".", b".."}.isdisjoint(plain.split(b"/")):
            raise ValueError(f"dot segments in a request target: {target[:80]!r}")


def retry_after(value: bytes) -> float | None:
    """Seconds a Retry-After asks for, given as such or as a date (RFC 9110 section 10.2.3); None: it is neither."""
    text = value.decode("latin-1")
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        at = parsedate_to_datetime(text)
        if at.tzinfo is None:  # the asctime form, which is in UTC all the same (section 5.6.7)
            at = at.replace(tzinfo=UTC)
        return max(0.0, at.timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
