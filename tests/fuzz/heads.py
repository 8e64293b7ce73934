"""Heads to try: valid ones made of parts that matter to a proxy, and the same with a few bytes changed."""

from __future__ import annotations

from hypothesis import strategies as st

METHODS = [b"GET", b"HEAD", b"POST", b"PUT", b"DELETE", b"OPTIONS", b"PATCH", b"TRACE"]
ODD_METHODS = [b"get", b"CONNECT", b"PROPFIND", b"M-SEARCH", b"BREW", b"G(T", b"", b"A" * 40]
NAMES = [
    b"Host", b"Content-Length", b"Transfer-Encoding", b"Connection", b"Keep-Alive", b"Upgrade", b"TE", b"Trailer",
    b"Expect", b"X-Forwarded-For", b"X-Forwarded-Odd", b"X-Real-IP", b"Forwarded", b"Via", b"X-Request-Id", b"Proxy",
    b"Proxy-Connection", b"Proxy-Authorization", b"HTTP2-Settings", b"Authorization", b"Cookie", b"Content-Type",
    b"User-Agent", b"Referer", b"X-A", b"X-B", b"X_C", b"X.D", b"a", b"Sec-WebSocket-Key", b"Sec-WebSocket-Version",
]  # fmt: skip
VALUES = [
    b"", b"a", b"a.test", b"0", b"5", b"05", b"+5", b"5, 5", b"99999999999999999", b"1000000000000000000", b"chunked",
    b"Chunked", b"gzip, chunked", b"identity", b"close", b"keep-alive", b"close, X-A", b"X-A, x-b", b"X-A,Host, Cookie",
    b"upgrade", b"Upgrade, HTTP2-Settings", b"websocket", b"h2c", b"trailers", b"100-continue", b"for=1.2.3.4",
    b"1.2.3.4, 5.6.7.8", b"caf\xc3\xa9", b"\xa0", b"a\tb", b'"q"', b", ,", b"x" * 200,
]  # fmt: skip
BLANKS = [b"", b" ", b"  ", b"\t", b" \t "]
NASTY = [
    b"\r", b"\n", b"\r\n", b"\0", b" ", b"\t", b":", b",", b";", b"\x0b", b"\x7f", b"\x80", b"\xa0", b"\xff", b"-",
    b"+", b"_", b"0", b"\r\n ", b"\r\n\r\n", b"HTTP/1.1", b"chunked", b"#", b"%", b"/", b"\\", b"@",
]  # fmt: skip

targets = st.one_of(
    st.sampled_from(
        [b"/", b"/a", b"/a?b=c", b"*", b"http://a.test/", b"http://a.test/a?b", b"a.test:443", b"//a", b"/%zz"]
    ),
    st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=1, max_size=40).map(
        lambda t: b"/" + t.encode()
    ),
)
field_lines = st.tuples(
    st.sampled_from(NAMES), st.sampled_from(BLANKS), st.sampled_from(VALUES), st.sampled_from(BLANKS)
).map(lambda parts: parts[0] + b":" + parts[1] + parts[2] + parts[3] + b"\r\n")


def _head(start: bytes, lines: list[bytes]) -> bytes:
    return start + b"\r\n" + b"".join(lines) + b"\r\n"


_versions = st.sampled_from(
    [b"HTTP/1.1"] * 6 + [b"HTTP/1.0", b"HTTP/1.0", b"HTTP/1.2", b"HTTP/2.0", b"http/1.1", b"HTTP/11"]
)
_request_lines = st.tuples(st.sampled_from(METHODS * 3 + ODD_METHODS), targets, _versions).map(b" ".join)
_hosted = st.booleans().map(lambda hosted: [b"Host: a.test\r\n"] if hosted else [])
requests = st.builds(
    lambda line, host, lines: _head(line, host + lines), _request_lines, _hosted, st.lists(field_lines, max_size=8)
)
_statuses = st.sampled_from(
    [b"200", b"204", b"304", b"100", b"101", b"404", b"500", b"999", b"099", b"20", b"2000", b"+20"]
)
_reasons = st.sampled_from([b" OK", b" ", b"", b" Not\tFound", b" caf\xc3\xa9"])
responses = st.builds(
    lambda version, status, reason, lines: _head(version + b" " + status + reason, lines),
    _versions, _statuses, _reasons, st.lists(field_lines, max_size=8),
)  # fmt: skip


@st.composite
def mutated(draw: st.DrawFn, source: st.SearchStrategy[bytes]) -> bytes:
    """A head with up to four bytes (or nasty runs of them) inserted, replaced, doubled or dropped."""
    data = draw(source)
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(data)))
        width = draw(st.integers(0, 3))
        patch = draw(st.one_of(st.sampled_from(NASTY), st.binary(max_size=2), st.just(data[at : at + width] * 2)))
        data = data[:at] + patch + data[at + width :]
    return data


chunk_sizes = st.one_of(
    st.integers(0, 40).map(lambda n: b"%x" % n),
    st.sampled_from([b"0005", b"A", b"0x5", b"+5", b"", b"5 ", b" 5", b"5_", b"fffffffffffffff", b"1" * 17]),
)
extensions = st.sampled_from([b"", b"", b"", b";a", b";a=b", b';a="b c"', b";", b";a=b;c", b" ;a", b";a\t", b';"'])


@st.composite
def chunked_bodies(draw: st.DrawFn) -> bytes:
    """Mostly well-formed chunks, trailers and bytes behind them."""
    out = b""
    for _ in range(draw(st.integers(0, 4))):
        size = draw(st.integers(1, 20))
        out += b"%x" % size + draw(extensions) + b"\r\n" + draw(st.binary(min_size=size, max_size=size)) + b"\r\n"
    if draw(st.integers(0, 4)) == 0:
        out += draw(chunk_sizes) + b"\r\n"
    out += b"0" + draw(extensions) + b"\r\n" + b"".join(draw(st.lists(field_lines, max_size=2)))
    return out + b"\r\n" + draw(st.sampled_from([b"", b"GET / HTTP/1.1\r\n", b"\r\n", b"0\r\n\r\n"]))
