"""Bodies without their content codings, for policies that look into them; all others pass them as they are.

What a few bytes can blow up to is bounded twice: by the caller's limit, and by RATIO once SLACK is passed. The output
is made in pieces, so a bomb costs no more than the limit. One coding at most: stacked ones are refused (415), and so is
what this gateway does not know.
"""

from __future__ import annotations

import sys
import zlib
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kairos.proxy.exchange import Exchange

RATIO = 100
SLACK = 64 * 1024
"""Small bodies that say little may be any ratio."""
MEMBERS = 16
"""Members of a gzip file or frames of zstd in one body; each costs a new decoder."""
PIECE = 64 * 1024
WINDOW_LOG = 23
"""RFC 9659: a zstd body may ask for no more than 8 MiB."""
KNOWN = b"gzip, deflate, br, zstd"


class DecodeError(Exception):
    """A body that is not decoded: `kind` is a row of the error table."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail

    @property
    def headers(self) -> list[tuple[bytes, bytes]]:
        """RFC 9110 section 12.5.3: what a 415 because of a coding says."""
        return [(b"Accept-Encoding", KNOWN)] if self.kind == "unsupported_media_type" else []


async def decoded_body(x: Exchange, limit: int, ratio: int = RATIO) -> bytes:
    """The whole request body without its content coding, which leaves the body as it was for the handler.

    Raises:
        DecodeError: it is larger than `limit` with or without its coding, blown up, broken, or of another coding.
        ConnectionResetError: the client left before it was complete.
    """
    coding = content_coding(x)
    try:
        body = await x.read(limit)
    except ValueError:
        raise _too_large(limit) from None
    return decode(body, coding, limit, ratio) if coding and body else body


def content_coding(x: Exchange) -> bytes:
    """The one coding of a request body, empty where it has none.

    Raises:
        DecodeError: there are more than one, or it is not known.
    """
    return _one_coding(x.headers)


def response_coding(x: Exchange) -> bytes:
    """The same of the upstream's response.

    Raises:
        DecodeError: see content_coding().
    """
    return _one_coding(x.response_headers)


def _one_coding(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    fields = [value for name, value in headers if name.lower() == b"content-encoding"]
    named = [item.strip().lower() for field in fields for item in field.split(b",")]
    codings = [name for name in named if name not in (b"", b"identity")]
    if len(codings) > 1:
        raise DecodeError("unsupported_media_type", "A body may have one content coding, not several")
    if codings and codings[0] not in _DECODERS:
        raise DecodeError("unsupported_media_type", f"Content codings may be {KNOWN.decode()}")
    return codings[0] if codings else b""


def decode(data: bytes, coding: bytes, limit: int, ratio: int = RATIO) -> bytes:
    """Whole bodies; see decoded_body()."""
    pieces, size = [], 0
    allowed = min(limit, max(SLACK, len(data) * ratio))
    try:
        for piece in _members(data, coding):
            pieces.append(piece)
            size += len(piece)
            if size > allowed:
                raise (
                    _too_large(limit)
                    if size > limit
                    else DecodeError("payload_too_large", f"The body grows to more than {ratio} times its size")
                )
    except DecodeError:
        raise
    except Exception as error:  # each library has its own, none of which is for anybody to see
        raise _broken(coding) from error
    return b"".join(pieces)


def _too_large(limit: int) -> DecodeError:
    return DecodeError("payload_too_large", f"The body is larger than the {limit} bytes this route takes")


def _broken(coding: bytes) -> DecodeError:
    return DecodeError("bad_body", f"The body is not valid {coding.decode()}")


class _Decoder(Protocol):
    """What the libraries have in common, each made to."""

    def more(self, data: bytes) -> bytes:
        """Up to PIECE or so of what `data` and what was given before stand for; empty: it wants more, or is done."""

    def rest(self) -> bytes | None:
        """What follows the end; None: there is no end yet."""


def _members(data: bytes, coding: bytes) -> Iterator[bytes]:
    for _ in range(MEMBERS):
        decoder = _DECODERS[coding](data)
        given = data
        while piece := decoder.more(given):
            yield piece
            given = b""
        rest = decoder.rest()
        if rest is None or (rest and coding not in _IN_MEMBERS):
            raise _broken(coding)
        if not rest:
            return
        data = rest
    raise _broken(coding)


class _Zlib:
    """gzip and deflate."""

    def __init__(self, wbits: int) -> None:
        self._stream = zlib.decompressobj(wbits)

    def more(self, data: bytes) -> bytes:
        return self._stream.decompress(data or self._stream.unconsumed_tail, PIECE)

    def rest(self) -> bytes | None:
        return self._stream.unused_data if self._stream.eof else None


def _gzip(data: bytes) -> _Decoder:
    return _Zlib(31)


def _deflate(data: bytes) -> _Decoder:
    """The zlib format by RFC 9110 section 8.4.1.2, without it by many clients."""
    wrapped = len(data) > 1 and data[0] & 0x0F == 8 and (data[0] << 8 | data[1]) % 31 == 0
    return _Zlib(15 if wrapped else -15)


class _Zstd:
    def __init__(self, data: bytes) -> None:
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
        self._stream: Any = zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG})

    def more(self, data: bytes) -> bytes:
        if self._stream.eof:
            return b""
        return bytes(self._stream.decompress(data, PIECE))

    def rest(self) -> bytes | None:
        return bytes(self._stream.unused_data) if self._stream.eof else None


_WIDE = (0b1101, 0b1111)
"""Window sizes of 8 and 16 MiB (RFC 7932 section 9.1): the decoder fills a window before it gives anything out, so 53
bytes would cost 30 ms."""


class _Brotli:
    def __init__(self, data: bytes) -> None:
        import brotli

        if data and data[0] & 0b1111 in _WIDE:
            raise DecodeError("unsupported_media_type", "brotli windows may be 4 MiB at most (lgwin 22)")
        self._stream: Any = brotli.Decompressor()

    def more(self, data: bytes) -> bytes:
        if self._stream.is_finished():
            return b""
        return bytes(self._stream.process(data, output_buffer_limit=PIECE))

    def rest(self) -> bytes | None:
        return b"" if self._stream.is_finished() else None


_DECODERS = {b"gzip": _gzip, b"x-gzip": _gzip, b"deflate": _deflate, b"br": _Brotli, b"zstd": _Zstd}
_IN_MEMBERS = frozenset((b"gzip", b"x-gzip", b"zstd"))
