"""Request targets and Host values: what a client sends, and the one form everything behind sees."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from kairos._speedups.target import TargetError, checked_query, normal_host, normal_path

KEPT = [
    b"/",
    b"//",
    b"/a/b.html",
    b"/.well-known/acme",
    b"/...",
    b"/a/..b/.c/d..",
    b"/a;v=1/b,c/d=e",
    b"/%20%2F%25%3F%23",
    b"/a/b/c/d/e/f/g/h/i/j/k",
    b"/exactly", b"/exactly8", b"/exactly89",
    b"/{a}|^[b]<c>\"`",
]  # fmt: skip

REWRITTEN = [
    (b"/%41%7a%2d%5F%7E", b"/Az-_~"),
    (b"/caf%c3%a9", b"/caf%C3%A9"),
    (b"/a%2fb", b"/a%2Fb"),
    (b"/a/./b", b"/a/b"),
    (b"/a/.", b"/a/"),
    (b"/a/..", b"/"),
    (b"/a/b/../c", b"/a/c"),
    (b"/a/b/../../c", b"/c"),
    (b"/a/b/..", b"/a/"),
    (b"/a//../b", b"/a/b"),
    (b"/%2e/a/%2E%2e/b", b"/b"),
    (b"/a/b/c/d/e/f/g/%2e%2e/h", b"/a/b/c/d/e/f/h"),
]

REFUSED = [
    (b"", "does not begin with a slash"),
    (b"*", "does not begin with a slash"),
    (b"a/b", "does not begin with a slash"),
    (b"/a b", "percent-encoded"),
    (b"/a\x00", "percent-encoded"),
    (b"/a\r\nX: y", "percent-encoded"),
    (b"/a\x7f", "percent-encoded"),
    (b"/caf\xc3\xa9", "percent-encoded"),
    (b"/a#b", "percent-encoded"),
    (b"/a?b", "percent-encoded"),
    (b"/a\\b", "backslash"),
    (b"/a%5cb", "backslash"),
    (b"/a%00", "%00"),
    (b"/a%", "two hex digits"),
    (b"/a%4", "two hex digits"),
    (b"/a%g1", "two hex digits"),
    (b"/a%1g", "two hex digits"),
    (b"/..", "leaves the root"),
    (b"/../a", "leaves the root"),
    (b"/a/../../b", "leaves the root"),
    (b"/%2e%2e/a", "leaves the root"),
    (b"/.%2e/a", "leaves the root"),
    (b"/a/..;x/b", "disguised"),
    (b"/a/.;x/b", "disguised"),
    (b"/a/..;", "disguised"),
    (b"/a/%2e%2e%3bx", "disguised"),
    (b"/a/..%2fb", "disguised"),
    (b"/a/b%2f..", "disguised"),
    (b"/a/b%2F.%2Fc", "disguised"),
]


@pytest.mark.parametrize("path", KEPT)
def test_a_normal_path_is_given_back_itself(path: bytes) -> None:
    assert normal_path(path) is path


@pytest.mark.parametrize(("path", "normal"), REWRITTEN)
def test_a_path_is_rewritten(path: bytes, normal: bytes) -> None:
    assert normal_path(path) == normal


def test_double_encoding_is_decoded_once_at_most() -> None:
    assert normal_path(b"/%252e%252e/a") == b"/%252e%252e/a"


@pytest.mark.parametrize(("path", "why"), REFUSED)
def test_a_path_is_refused(path: bytes, why: str) -> None:
    with pytest.raises(TargetError, match=re.escape(why)):
        normal_path(path)


@pytest.mark.parametrize("bad", [b" ", b"\x00", b"\x1f", b"\x7f", b"\x80", b"\xff", b"#", b"\\", b"%", b"?"])
@pytest.mark.parametrize("before", range(20))
def test_a_bad_byte_is_seen_wherever_it_stands(bad: bytes, before: int) -> None:
    for after in range(10):
        with pytest.raises(TargetError):
            normal_path(b"/" + b"a" * before + bad + b"z" * after)


@pytest.mark.parametrize("before", range(1, 20))
def test_a_dot_segment_is_seen_wherever_it_stands(before: int) -> None:
    for after in range(10):
        path = b"/" + b"a" * before + b"/../" + b"z" * after
        assert normal_path(path) == b"/" + b"z" * after
        assert normal_path(b"/" + b"a" * before + b"//" + b"z" * after, merge_slashes=True).count(b"/") == 2


def test_an_encoded_slash_is_refused_where_asked() -> None:
    with pytest.raises(TargetError, match="%2F"):
        normal_path(b"/a%2fb", refuse_encoded_slash=True)


@pytest.mark.parametrize(
    ("path", "merged"),
    [(b"//", b"/"), (b"///a//b///", b"/a/b/"), (b"/a/..//b", b"/b"), (b"/a/.//b", b"/a/b"), (b"/a/b", b"/a/b")],
)
def test_slashes_are_merged_where_asked(path: bytes, merged: bytes) -> None:
    assert normal_path(path, merge_slashes=True) == merged


ESCAPE = re.compile(rb"%([0-9a-fA-F]{2})|%|[^%]")
UNRESERVED = re.compile(rb"[A-Za-z0-9._~-]")


def reference(path: bytes, refuse: bool, merge: bool) -> bytes | None:
    """The rules once more, slowly; None where the path is refused."""
    if not path.startswith(b"/") or re.search(rb"[^\x21-\x7e]|[#?\\]", path):
        return None
    kept: list[bytes] = []
    segments = path[1:].split(b"/")
    for at, raw in enumerate(segments):
        last = at == len(segments) - 1
        segment = b""
        for unit in ESCAPE.finditer(raw):
            if unit[0] == b"%":
                return None
            byte = bytes([int(unit[1], 16)]) if unit[1] else unit[0]
            if byte in (b"\0", b"\\") or (unit[1] and byte == b"/" and refuse):
                return None
            segment += unit[0].upper() if unit[1] and not UNRESERVED.match(byte) else byte
        if segment in (b".", b".."):
            if segment == b"..":
                if not kept:
                    return None
                kept.pop()
            if last:
                kept.append(b"")
            continue
        if any(re.fullmatch(rb"\.\.?((;|%3B).*)?", piece) for piece in segment.split(b"%2F")):
            return None
        if segment or last or not merge:
            kept.append(segment)
    return b"/" + b"/".join(kept)


PIECES = st.sampled_from(
    [b"/", b"/", b"/", b"a", b"bc", b".", b"..", b"%2e", b"%2E", b"%2f", b"%2F", b";", b"%3b", b"%41", b"%c3", b"%5c",
     b"%00", b"%", b"%2", b"\\", b"#", b" ", b"\x7f", b"\x80", b"index.html", b"=", b"~"]
)  # fmt: skip
PATHS = st.one_of(
    st.lists(PIECES, max_size=24).map(lambda pieces: b"/" + b"".join(pieces)),
    st.lists(st.sampled_from([b"/", b"a", b".", b"..", b"%2e", b"%2F", b"bcdefghi"]), max_size=24).map(
        lambda pieces: b"/" + b"".join(pieces)
    ),
    st.binary(max_size=40),
)


@given(PATHS, st.booleans(), st.booleans())
@example(b"/..%2F", False, True)
def test_the_normal_form_is_the_reference_s_and_a_fixed_point(path: bytes, refuse: bool, merge: bool) -> None:
    expected = reference(path, refuse, merge)
    try:
        normal = normal_path(path, refuse_encoded_slash=refuse, merge_slashes=merge)
    except TargetError:
        assert expected is None
        return
    assert normal == expected
    assert normal_path(normal, refuse_encoded_slash=refuse, merge_slashes=merge) is normal
    assert not {b".", b".."} & set(normal.split(b"/"))
    assert len(normal) <= len(path)


@pytest.mark.parametrize("query", [b"", b"a=b&c=%zz", b"q=/../?x", b"long=" + b"y" * 50, b'j={"a":[1]}|\\'])
def test_a_query_passes_untouched(query: bytes) -> None:
    assert checked_query(query) is query


@pytest.mark.parametrize("bad", [b" ", b"\x00", b"\n", b"\x7f", b"\x80", b"#"])
@pytest.mark.parametrize("before", range(18))
def test_a_query_with_a_bad_byte_is_refused(bad: bytes, before: int) -> None:
    for after in (0, 3, 9):
        with pytest.raises(TargetError):
            checked_query(b"q" * before + bad + b"z" * after)


HOSTS = [
    (b"example.com", b"example.com", None),
    (b"Example.COM:8080", b"example.com", 8080),
    (b"example.com.", b"example.com", None),
    (b"EXAMPLE.com.:443", b"example.com", 443),
    (b"example.com:", b"example.com", None),
    (b"under_score-x.local", b"under_score-x.local", None),
    (b"127.0.0.1:5900", b"127.0.0.1", 5900),
    (b"[::1]", b"[::1]", None),
    (b"[2001:DB8::A]:65535", b"[2001:db8::a]", 65535),
    (b"[::ffff:1.2.3.4]:80", b"[::ffff:1.2.3.4]", 80),
]

BAD_HOSTS = [
    b"", b".", b":80", b"a,b", b"user@example.com", b"exa mple.com", b" example.com", b"example.com ", b"a..b", b".a",
    b"a..", b"a\x00b", b"a\tb", b"caf\xc3\xa9", b"a/b", b"a?b", b"a%41", b"[", b"[]", b"[::1", b"::1", b"[::1]x",
    b"[::1]]", b"[::g]", b"[1.2.3.4]", b"[fe80::1%25eth0]", b"[::1\x00]", b"[" + b"1:" * 40 + b"]",
    b"a:x", b"a:8o", b"a:-1", b"a:0", b"a:65536", b"a:123456", b"a:80:80", b"a:80 ", b"[::1]:x",
]  # fmt: skip


@pytest.mark.parametrize(("host", "name", "port"), HOSTS)
def test_a_host_is_normalised_and_its_port_split_off(host: bytes, name: bytes, port: int | None) -> None:
    assert normal_host(host) == (name, port)


@pytest.mark.parametrize("host", BAD_HOSTS)
def test_a_host_is_refused(host: bytes) -> None:
    with pytest.raises(TargetError):
        normal_host(host)


@given(st.binary(max_size=30) | st.text("aB.-:[]01,@", max_size=20).map(str.encode))
def test_a_normal_host_is_a_fixed_point(host: bytes) -> None:
    try:
        name, _ = normal_host(host)
    except TargetError:
        return
    assert normal_host(name) == (name, None)
    assert name == name.lower()
    assert not name.endswith(b".")
