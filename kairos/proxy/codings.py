"""Content codings (RFC 9110 section 8.4) as a gateway writes them: which one a client gets, and the encoders.

Pure: bytes in, bytes out. Every `feed` ends with a flush, so what an upstream sent so far can be read by the client;
a body that is fed in one piece of known length costs one call. Windows are small (256 KiB), so that a stream costs less
than 1 MiB at the default levels, however long it is. zstd contexts are used again, which halves the cost of a body.

Padding (against guessing secrets by the length of what was compressed) goes where decoders skip it: a comment in the
gzip head, empty blocks of zstd, a metadata block of brotli.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

Coding = Literal["zstd", "br", "gzip"]
CODINGS: tuple[Coding, ...] = ("zstd", "gzip", "br")

WINDOW_LOG = 18
IDLE_CONTEXTS = 16
"""zstd contexts kept per level; each holds up to 2 MiB."""
MAX_PADDING = 255

_ALIASES = {"x-gzip": "gzip"}


# ---- which one ------------------------------------------------------------------------------------------------------


class Choice:
    """What an Accept-Encoding comes to: a coding or none, and whether the body may go out as it is."""

    __slots__ = ("coding", "plain")

    def __init__(self, coding: Coding | None, plain: bool) -> None:
        self.coding = coding
        self.plain = plain

    def __repr__(self) -> str:
        return f"Choice({self.coding!r}, plain={self.plain})"


def choose(accept: bytes, offered: Sequence[Coding]) -> Choice:
    """RFC 9110 section 12.5.3: of what the client weighs highest the first that is offered.

    Identity is wanted least unless the client lists it, and refused only by `identity;q=0`, or `*;q=0` where it is not
    listed. What is not an item is passed over.
    """
    weights = _weights(accept)
    rest = weights.get("*")
    best: Coding | None = None
    weight = 0.0
    for coding in offered:
        own = weights.get(coding, rest if rest is not None else 0.0)
        if own > weight:
            best, weight = coding, own
    plain = weights.get("identity", rest if rest == 0 else None)
    if "identity" in weights and weights["identity"] > weight:
        best = None
    return Choice(best, plain != 0)


def _weights(accept: bytes) -> dict[str, float]:
    """Weight by coding, in lower case; one that is listed twice has the first of its weights."""
    found: dict[str, float] = {}
    for item in accept.decode("latin-1").lower().split(",")[:64]:
        name, _, parameters = item.partition(";")
        name = name.strip(" \t")
        weight = _weight(parameters)
        if name and weight is not None:
            found.setdefault(_ALIASES.get(name, name), weight)
    return found


def _weight(parameters: str) -> float | None:
    """A qvalue: 0 to 1 with at most three digits; None: it is none."""
    text = parameters.strip(" \t")
    if not text:
        return 1.0
    name, mark, value = text.partition("=")
    value = value.strip(" \t")
    if name.strip(" \t") != "q" or not mark or not value.replace(".", "", 1).isdigit() or not value.isascii():
        return None
    return min(float(value[:5]), 1.0)


# ---- encoders -------------------------------------------------------------------------------------------------------


class Encoder(Protocol):
    """One body. `feed` any number of times, then `finish` or `drop` once."""

    def feed(self, data: bytes) -> bytes:
        """What the client can be sent now: all of `data` can be read from it and what went before."""

    def last(self, data: bytes) -> bytes:
        """The rest of the body, and its end."""

    def drop(self) -> None:
        """The body is not needed to its end."""


@cache
def _zstd() -> Any:
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd


class ZstdEncoder:
    """RFC 8878. A context that has ended its frame is kept for the next body."""

    _idle: dict[int, list[Any]] = {}  # noqa: RUF012 - one shelf for the worker
    _EMPTY_BLOCK = b"\0\0\0"  # raw, of length 0, not the last

    def __init__(self, level: int, padding: int = 0) -> None:
        self._shelf = self._idle.setdefault(level, [])
        self._context = self._shelf.pop() if self._shelf else _zstd_context(level)
        self._padding = self._EMPTY_BLOCK * max(padding // 3, padding > 0)
        self._begun = False  # the frame has its head: before it there is no place for a block

    def feed(self, data: bytes) -> bytes:
        self._begun = self._begun or data != b""
        return bytes(self._context.compress(data, self._context.FLUSH_BLOCK))

    def last(self, data: bytes) -> bytes:
        context = self._context
        if self._padding and (self._begun or data):
            out = context.compress(data, context.FLUSH_BLOCK) + self._padding + context.flush(context.FLUSH_FRAME)
        else:
            out = context.compress(data, context.FLUSH_FRAME)
        self._put_back()
        return bytes(out)

    def drop(self) -> None:
        """A context is only of use for another body once its frame has an end."""
        self._context.flush(self._context.FLUSH_FRAME)
        self._put_back()

    def _put_back(self) -> None:
        if len(self._shelf) < IDLE_CONTEXTS:
            self._shelf.append(self._context)


def _zstd_context(level: int) -> Any:
    zstd = _zstd()
    names = zstd.CompressionParameter
    return zstd.ZstdCompressor(options={names.compression_level: level, names.window_log: WINDOW_LOG})


class GzipEncoder:
    """RFC 1952."""

    _HEAD = b"\x1f\x8b\x08%c\0\0\0\0\0\xff"
    _COMMENT = 0x10

    def __init__(self, level: int, padding: int = 0) -> None:
        from isal import isal_zlib

        self._zlib = isal_zlib
        self._stream = isal_zlib.compressobj(level, isal_zlib.DEFLATED, -15)
        self._crc = 0
        self._size = 0
        self._head = self._HEAD % (self._COMMENT if padding else 0) + (b"x" * (padding - 1) + b"\0" if padding else b"")

    def feed(self, data: bytes) -> bytes:
        return self._taken(data) + self._stream.flush(self._zlib.Z_SYNC_FLUSH)

    def last(self, data: bytes) -> bytes:
        trailer = self._taken(data) + self._stream.flush()
        return trailer + self._crc.to_bytes(4, "little") + (self._size & 0xFFFFFFFF).to_bytes(4, "little")

    def _taken(self, data: bytes) -> bytes:
        head, self._head = self._head, b""
        self._crc = self._zlib.crc32(data, self._crc)
        self._size += len(data)
        return head + self._stream.compress(data)

    def drop(self) -> None:
        """Nothing is kept."""


class BrotliEncoder:
    """RFC 7932."""

    def __init__(self, level: int, padding: int = 0) -> None:
        import brotli

        self._stream = brotli.Compressor(quality=level, lgwin=WINDOW_LOG)
        self._padding = _brotli_metadata(padding) if padding else b""

    def feed(self, data: bytes) -> bytes:
        return bytes(self._stream.process(data) + self._stream.flush())

    def last(self, data: bytes) -> bytes:
        if self._padding:
            return self.feed(data) + self._padding + bytes(self._stream.finish())
        return bytes(self._stream.process(data) + self._stream.finish())

    def drop(self) -> None:
        """Nothing is kept."""


def _brotli_metadata(size: int) -> bytes:
    """A meta-block that is skipped (section 9.2: MNIBBLES 0), for where a flush ended: on a byte."""
    skipped = max(size - 2, 1)
    head = 0b01_0_11_0 | (skipped - 1) << 6
    return head.to_bytes(2, "little") + b"x" * skipped


ENCODERS: dict[Coding, Callable[[int, int], Encoder]] = {
    "zstd": ZstdEncoder,
    "gzip": GzipEncoder,
    "br": BrotliEncoder,
}


def encoded(coding: Coding, level: int, pieces: Iterable[bytes], padding: int = 0) -> bytes:
    """A whole body."""
    encoder = ENCODERS[coding](level, padding)
    return b"".join(map(encoder.feed, pieces)) + encoder.last(b"")
