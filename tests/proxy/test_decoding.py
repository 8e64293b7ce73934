"""Request bodies without their content coding: what comes back, what is refused, and what bombs cost."""

import bz2
import contextlib
import gzip
import os
import tracemalloc
import zlib
from functools import partial

import brotli
import pytest
from backports import zstd
from hypothesis import given
from hypothesis import strategies as st

from kairos.proxy.decoding import MEMBERS, SLACK, DecodeError, content_coding, decode

MIB = 1 << 20


def raw_deflate(data):
    stream = zlib.compressobj(wbits=-15)
    return stream.compress(data) + stream.flush()


WRITERS = {
    b"gzip": [gzip.compress],
    b"x-gzip": [gzip.compress],
    b"deflate": [zlib.compress, raw_deflate],
    b"br": [partial(brotli.compress, quality=5)],
    b"zstd": [zstd.compress],
}
PAIRS = [(coding, write) for coding, writers in WRITERS.items() for write in writers]


@pytest.mark.parametrize(("coding", "write"), PAIRS)
@pytest.mark.parametrize(
    "body", [b"", b"x", b'{"a": 1}' * 1000, os.urandom(300_000)], ids=["none", "x", "json", "noise"]
)
def test_bodies_come_back(coding, write, body):
    assert decode(write(body), coding, MIB) == body


@pytest.mark.parametrize(("coding", "write"), PAIRS)
def test_a_bomb_is_refused_at_the_limit_and_never_held(coding, write):
    bomb = write(b"\0" * (16 * MIB))
    assert len(bomb) < 100_000
    tracemalloc.start()
    with pytest.raises(DecodeError) as refused:
        decode(bomb, coding, 2 * MIB)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert refused.value.kind == "payload_too_large"
    assert peak < 5 * MIB


@pytest.mark.parametrize(("coding", "write"), PAIRS)
def test_a_body_that_grows_too_much_is_refused_within_any_limit(coding, write):
    with pytest.raises(DecodeError, match="100 times its size"):
        decode(write(b"a" * (8 * MIB)), coding, 1 << 40)
    assert decode(write(b"a" * SLACK), coding, 1 << 40) == b"a" * SLACK


@pytest.mark.parametrize(("coding", "write"), PAIRS)
@pytest.mark.parametrize(
    "spoil",
    [
        lambda body: body[:-1],
        lambda body: body[: len(body) // 2],
        lambda body: body + b"x",
        lambda body: b"\x01\x02" + body,
        lambda _: b"plain text, in truth",
        bz2.compress,
    ],
    ids=["short", "half", "trailing", "leading", "plain", "twice"],
)
def test_broken_bodies_are_refused(coding, write, spoil):
    with pytest.raises(DecodeError) as refused:
        decode(spoil(write(b"some text that is long enough to be cut, " * 20)), coding, MIB)
    assert refused.value.kind == "bad_body"
    assert "zlib" not in refused.value.detail.lower()


@pytest.mark.parametrize(("coding", "write"), [(b"gzip", gzip.compress), (b"zstd", zstd.compress)])
def test_members_in_a_row_are_one_body_but_not_any_number(coding, write):
    assert decode(write(b"a") * MEMBERS, coding, MIB) == b"a" * MEMBERS
    with pytest.raises(DecodeError):
        decode(write(b"a") * (MEMBERS + 1), coding, MIB)


def test_a_brotli_window_that_costs_more_than_the_body_is_refused():
    with pytest.raises(DecodeError, match="4 MiB"):
        decode(brotli.compress(b"\0" * 100, lgwin=24), b"br", MIB)
    assert decode(brotli.compress(b"ab" * 100, lgwin=22), b"br", MIB) == b"ab" * 100


@given(st.sampled_from(sorted(WRITERS)), st.binary(max_size=300))
def test_any_bytes_end_in_a_body_or_a_refusal(coding, data):
    with contextlib.suppress(DecodeError):
        assert len(decode(data, coding, 1000)) <= 1000


class Request:
    def __init__(self, *values):
        self.headers = [(b"Content-Encoding", value) for value in values]


@pytest.mark.parametrize(
    ("fields", "coding"),
    [
        ([], b""),
        ([b"gzip"], b"gzip"),
        ([b"GZIP"], b"gzip"),
        ([b"identity"], b""),
        ([b"identity, br"], b"br"),
        ([b""], b""),
    ],
)
def test_the_coding_of_a_request(fields, coding):
    assert content_coding(Request(*fields)) == coding


@pytest.mark.parametrize("fields", [[b"gzip, gzip"], [b"gzip", b"br"], [b"compress"], [b"aes128gcm"], [b"gzip;q=1"]])
def test_other_codings_are_415_and_say_which_would_do(fields):
    with pytest.raises(DecodeError) as refused:
        content_coding(Request(*fields))
    assert refused.value.kind == "unsupported_media_type"
    assert refused.value.headers == [(b"Accept-Encoding", b"gzip, deflate, br, zstd")]
