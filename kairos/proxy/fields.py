"""Header fields made here rather than read: checked against injection (RFC 9110 section 5.5), and kept off those that
the gateway writes itself: a second Content-Length or Host would be read differently by the next hop.
"""

from __future__ import annotations

import re
import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable


class Edit(NamedTuple):
    """A field to be set, removed (None), or added beside those that are there."""

    name: bytes
    value: bytes | None
    add: bool = False


_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_NOT_IN_TARGET = re.compile(rb"[\x00-\x20\x7f-\xff#]")
_BREAKS = re.compile(rb"[\r\n\0]")
_FRAMING = frozenset(
    (b"connection", b"content-length", b"keep-alive", b"te", b"trailer", b"transfer-encoding", b"upgrade")
)
REQUEST_OWN = _FRAMING | {
    b"expect", b"forwarded", b"host", b"proxy-connection", b"via", b"x-forwarded-for", b"x-forwarded-host",
    b"x-forwarded-port", b"x-forwarded-proto", b"x-request-id",
}  # fmt: skip
RESPONSE_OWN = _FRAMING | {b"via", b"x-request-id"}
_ANSWER_OWN = frozenset((b"content-length", b"transfer-encoding", b"x-request-id"))


def edit(name: str, value: str | bytes | None, own: frozenset[bytes]) -> Edit:
    """An edit of a field that is not one of `own`.

    Raises:
        ValueError: the name is no token or the gateway's own, or the value holds CR, LF or NUL.
    """
    raw = name.encode("ascii")
    if raw.lower() in own:
        raise ValueError(f"header {name} is written by the gateway itself")
    data = value.encode("latin-1") if isinstance(value, str) else value
    _check(raw, data or b"")
    return Edit(raw, data)


def addition(name: str, value: str | bytes, own: frozenset[bytes]) -> Edit:
    """A field beside those of its name that are there.

    Raises:
        ValueError: see edit().
    """
    return edit(name, value, own)._replace(add=True)


def edit_lines(edits: Iterable[Edit]) -> tuple[bytes, bytes]:
    """Edits as the comma-separated names they replace, and the lines they add.

    Of several that replace a name the last one counts, and what was added before it.
    """
    lines: dict[bytes, list[Edit]] = {}
    replaced: dict[bytes, None] = {}
    for edit_ in edits:
        lower = edit_.name.lower()
        if edit_.add:
            lines.setdefault(lower, []).append(edit_)
        else:
            lines[lower] = [edit_]
            replaced[lower] = None
    made = [b"%s: %s\r\n" % (name, value) for of in lines.values() for name, value, _ in of if value is not None]
    return b",".join(replaced), b"".join(made)


def answer_lines(headers: Iterable[tuple[bytes, bytes]], edits: Iterable[Edit] | None) -> tuple[bytes, bool]:
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
            _check(name, value)
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
        _check(name, value)
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


def _check(name: bytes, value: bytes) -> None:
    if not _NAME.fullmatch(name):
        raise ValueError(f"not a header name: {name!r}")
    if _BREAKS.search(value):
        raise ValueError(f"header {name.decode()}: the value holds a line break or NUL")


def retry_after(value: bytes) -> float | None:
    """Seconds a Retry-After asks for, given as such or as a date (RFC 9110 section 10.2.3); None: it is neither."""
    text = value.decode("latin-1")
    if text.isascii() and text.isdigit():
        return float(text[:9])
    try:
        return max(0.0, parsedate_to_datetime(text).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
