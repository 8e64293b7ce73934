"""Response bodies made anew by a policy: held until they are whole, within a limit, in the coding they came in.

A body that cannot be rewritten (too large, broken, of an unknown coding) passes as it is, or is refused: 502.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Literal

from kairos.proxy.codings import ENCODERS, encoded
from kairos.proxy.decoding import DecodeError, decode, response_coding
from kairos.proxy.edits import Edits, edit
from kairos.proxy.exchange import BodyPipe
from kairos.proxy.fields import REQUEST_OWN, RESPONSE_OWN

if TYPE_CHECKING:
    from kairos.proxy.codings import Coding
    from kairos.proxy.exchange import Exchange

Rewrite = Callable[[bytes], bytes]
"""The new body; ValueError where there is none."""

PLAIN = Edits(edit(name, value, REQUEST_OWN) for name, value in (("Accept-Encoding", "identity"), ("Range", None)))
"""Asks the backend for a whole body that can be read."""
_STALE = Edits(
    edit(name, None, RESPONSE_OWN) for name in ("ETag", "Last-Modified", "Accept-Ranges", "Content-MD5", "Digest")
)
"""What was true of the old body only."""
_LEVELS: dict[Coding, int] = {"zstd": 1, "gzip": 1, "br": 1}
"""Rewritten bodies are encoded once, for one client."""


def rewrite_response(x: Exchange, rewrite: Rewrite, limit: int, *, passes: bool, fits: bool = True) -> None:
    """In on_response: put the rewriting in the body's way, if it can be applied to it."""
    length = x.response_header(b"content-length")
    if length == b"0":
        return
    coding = _coding(x)
    if coding is not None and fits and (length is None or int(length) <= limit):
        x.add_body_pipe(_Whole(rewrite, x, limit, passes, coding))
        x.add_response_edits(_STALE)
    elif not passes:
        x.fail_as("upstream_body")


def _coding(x: Exchange) -> Coding | Literal[""] | None:
    """The body's content coding, "" for none; None: it cannot be undone and made anew."""
    try:
        name = response_coding(x).decode().removeprefix("x-")
    except DecodeError:
        return None
    return name if name in ENCODERS else None if name else ""


class _Whole(BodyPipe):
    """Holds the body until it is whole. It leaves in the coding it came in: then one that cannot be read may pass."""

    def __init__(self, rewrite: Rewrite, x: Exchange, limit: int, passes: bool, coding: Coding | Literal[""]) -> None:
        self._coding = coding
        self._limit = limit
        self._rewrite = rewrite
        self._x = x
        self._left = limit
        self._passes = passes
        self._pieces: list[bytes] = []
        self._passing = False

    def feed(self, data: bytes) -> bytes:
        if self._passing:
            return data
        self._pieces.append(data)
        self._left -= len(data)
        return self._give_up() if self._left < 0 else b""

    def _give_up(self) -> bytes:
        """It cannot be rewritten: it passes, or the response ends here."""
        self._passing = True
        if self._passes:
            return b"".join(self._pieces)
        self._x.fail_as("upstream_body")
        return b""

    def finish(self) -> bytes:
        if self._passing:
            return b""
        body = b"".join(self._pieces)
        try:
            if not self._coding:
                return self._rewrite(body)
            made = self._rewrite(decode(body, self._coding.encode(), self._limit))
        except (ValueError, DecodeError):
            return self._give_up()
        return encoded(self._coding, _LEVELS[self._coding], [made])
