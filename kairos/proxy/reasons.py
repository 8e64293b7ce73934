"""Status lines of answers made here."""

from __future__ import annotations

import http

_REASONS = {status.value: status.phrase for status in http.HTTPStatus}
_REASONS.update({413: "Content Too Large", 414: "URI Too Long"})  # RFC 9110 names
_LINES = {code: f"HTTP/1.1 {code} {phrase}\r\n".encode() for code, phrase in _REASONS.items()}


def status_line(status: int) -> bytes:
    """`HTTP/1.1 404 Not Found` with its line end; unknown codes have an empty reason phrase."""
    return _LINES.get(status) or b"HTTP/1.1 %d \r\n" % status
