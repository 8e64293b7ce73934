"""Content codings: which one a client gets, and bodies in every one of them, read back by other implementations."""

import gzip
import os

import brotli
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from kairos.proxy.codings import CODINGS, ENCODERS, MAX_PADDING, ZstdEncoder, choose, encoded

LEVELS = {"zstd": 3, "gzip": 1, "br": 4}
READERS = {"zstd": zstd.decompress, "gzip": gzip.decompress, "br": brotli.decompress}
TEXT = b'{"name": "value", "numbers": [1, 2, 3]}\n' * 500 + os.urandom(500)

# --- Accept-Encoding (RFC 9110 section 12.5.3) ---


@pytest.mark.parametrize(
    ("accept", "coding", "plain"),
    [
        (b"gzip, deflate, br, zstd", "zstd", True),
        (b"gzip", "gzip", True),
        (b"x-gzip", "gzip", True),
        (b"GZip", "gzip", True),
        (b"br", "br", True),
        (b"deflate", None, True),
        (b"", None, True),
        (b"*", "zstd", True),
        (b"gzip;q=1, *;q=0.5", "gzip", True),
        (b"zstd;q=0, *", "gzip", True),
        (b"gzip;q=0.8, br;q=1.0, zstd;q=0.8", "br", True),
        (b"gzip;q=0.001", "gzip", True),
        (b"gzip;q=0", None, True),
        (b"gzip;q=0, x-gzip", None, True),
        (b"identity", None, True),
        (b"identity;q=1, gzip;q=0.5", None, True),
        (b"identity;q=0.5, gzip;q=1.0", "gzip", True),
        (b"gzip, identity", "gzip", True),
        (b"identity;q=0, gzip", "gzip", False),
        (b"identity;q=0", None, False),
        (b"*;q=0", None, False),
        (b"*;q=0, gzip", "gzip", False),
        (b"*;q=0, identity", None, True),
        (b"gzip ; q = 0.5 , br;q=.4", "gzip", True),
        (b",,gzip,,", "gzip", True),
        (b"gzip;q=high", None, True),
        (b"gzip;level=9", None, True),
        (b"gzip;q=1.000;x=y", None, True),
        (b"gzip;q=-1", None, True),
        (b"gzip;q=\xb2", None, True),
        (b"gzip;q=9", "gzip", True),
        (b"\xff\x00;;;=,gzip", "gzip", True),
        (b"nothing," * 100 + b"gzip", None, True),
    ],
)
def test_what_an_accept_encoding_comes_to(accept, coding, plain):
    choice = choose(accept, CODINGS)
    assert (choice.coding, choice.plain) == (coding, plain)


def test_the_order_of_the_gateway_decides_among_equals():
    assert choose(b"gzip, br, zstd", ("br", "gzip")).coding == "br"
    assert choose(b"gzip, br, zstd", ("gzip",)).coding == "gzip"
    assert choose(b"gzip, br, zstd", ()).coding is None


@given(st.binary(max_size=200))
def test_any_bytes_are_an_accept_encoding(accept):
    assert choose(accept, CODINGS).coding in (None, *CODINGS)


# --- bodies ---


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("padding", [0, 1, 2, 3, 100, MAX_PADDING])
@pytest.mark.parametrize("size", [len(TEXT), 1000, 1])
def test_a_body_comes_back_however_it_was_cut(coding, padding, size):
    pieces = [TEXT[at : at + size] for at in range(0, min(len(TEXT), 200 * size), size)]
    assert READERS[coding](encoded(coding, LEVELS[coding], pieces, padding)) == b"".join(pieces)


@pytest.mark.parametrize("coding", CODINGS)
@pytest.mark.parametrize("padding", [0, 30])
@pytest.mark.parametrize("pieces", [[], [b""], [b"", b"x", b""]])
def test_an_empty_body_and_empty_pieces(coding, padding, pieces):
    assert READERS[coding](encoded(coding, LEVELS[coding], pieces, padding)) == b"".join(pieces)


@pytest.mark.parametrize("coding", CODINGS)
def test_all_that_was_fed_can_be_read_before_the_end(coding):
    """A slow body must not be stuck in the encoder."""
    encoder = ENCODERS[coding](LEVELS[coding], 30)
    readers = {"zstd": zstd.ZstdDecompressor().decompress, "br": brotli.Decompressor().process}
    inflate = readers.get(coding) or __import__("zlib").decompressobj(31).decompress
    for number in range(50):
        line = b"line %d\n" % number
        assert inflate(encoder.feed(line)) == line


@pytest.mark.parametrize("coding", CODINGS)
def test_padding_changes_the_length_and_nothing_else(coding):
    plain = encoded(coding, LEVELS[coding], [TEXT])
    sizes = {len(encoded(coding, LEVELS[coding], [TEXT], padding)) - len(plain) for padding in range(3, MAX_PADDING)}
    assert max(sizes) >= MAX_PADDING - 3
    assert len(sizes) >= MAX_PADDING // 3 - 2


def test_a_zstd_context_is_used_again_also_after_a_body_that_broke_off():
    first = ZstdEncoder(2)
    first.feed(b"half of a body")
    first.drop()
    second = ZstdEncoder(2)
    assert second._context is first._context
    whole = second.feed(b"a whole ") + second.last(b"body")
    assert zstd.decompress(whole) == b"a whole body"


def test_zstd_windows_are_small_enough_for_every_client():
    """RFC 9659 section 2: 8 MiB; ours are far smaller, also where the length is not known."""
    encoder = ZstdEncoder(6)
    frame = b"".join(encoder.feed(TEXT) for _ in range(100)) + encoder.last(b"")
    options = {zstd.DecompressionParameter.window_log_max: 18}
    assert zstd.ZstdDecompressor(options=options).decompress(frame) == TEXT * 100
