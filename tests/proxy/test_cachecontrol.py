"""The pure core of the cache, function by function: what fields say, how old it is, what may be done with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kairos.proxy import cachecontrol as cc
from kairos.proxy.cachecontrol import Fields, Rules, Said

NOW = 1_700_000_000.0
DATE = b"Tue, 14 Nov 2023 22:13:20 GMT"  # the same moment


def fields(*lines: bytes) -> Fields:
    return [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        (b"max-age=1", {b"max-age": b"1"}),
        (b"MAX-AGE=1, Public", {b"max-age": b"1", b"public": None}),
        (b'max-age="1"', {b"max-age": b"1"}),
        (b'no-cache="a, b", x', {b"no-cache": b"a, b", b"x": None}),
        (b'x="a\\"b, no-store", y=1', {b"x": b'a"b, no-store', b"y": b"1"}),
        (b'x="open, no-store', {b"x": b"open", b"no-store": None}),
        (b"a=1, a=2", {b"a": b"1"}),
        (b",, ,a,,", {b"a": None}),
        (b"a =1", {b"a": b""}),
        (b"a= 1", {b"a": b""}),
        (b"=1, b", {b"b": None}),
        (b"", {}),
        (b'"no-store"', {}),
    ],
)
def test_directives(text: bytes, found: cc.Directives) -> None:
    assert cc.directives([text]) == found
    assert cc.directives([b"first", text]).keys() == found.keys() | {b"first"}


@given(st.lists(st.binary(max_size=40), max_size=4))
def test_any_bytes_are_directives_of_some_kind(lines: list[bytes]) -> None:
    cc.directives(lines)
    cc.targeted(lines)
    cc.etags(lines)
    cc.age(lines)
    for line in lines:
        cc.date(line, NOW)
        cc.names(line)
        cc.same_origin(line, b"http://a")
        for name in (b"Range", b"If-Range", b"Vary", b"Cache-Control", b"Pragma"):
            cc.part([(name, line)], 200, [], 10)
            cc.wanted([(name, line)])
            cc.vary([(name, line)])


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b"0", 0), (b"10", 10), (b"000010", 10), (b"4294967296", cc.FOREVER), (b"9" * 50, cc.FOREVER), (b"0" * 50, 0),
        (b"00" * 30 + b"7", 7), (b"", None), (b"-1", None), (b"1.0", None), (b"1 ", None), (b"\xb2", None),
        (None, None),
    ],
)  # fmt: skip
def test_seconds(text: bytes | None, value: int | None) -> None:
    assert cc.seconds(text) == value


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (DATE, NOW),
        (DATE.lower(), NOW),
        (DATE.replace(b"GMT", b"UTC"), None),
        (b"Tuesday, 14-Nov-23 22:13:20 GMT", NOW),
        (b"Tue Nov 14 22:13:20 2023", NOW),
        (b"Sun Nov  6 08:49:37 1994", 784_111_777),
        (b"Sunday, 06-Nov-94 08:49:37 GMT", 784_111_777),
        (b"Tue, 14 Nov 2023 22:13:60 GMT", NOW + 40),
        (b"Tue, 29 Feb 2024 00:00:00 GMT", 1_709_164_800),
        (b"Tue, 29 Feb 2023 00:00:00 GMT", None),
        (b"Tue, 14 Nov 0000 22:13:20 GMT", None),
        (b"Tue, 14 Foo 2023 22:13:20 GMT", None),
        (b"Tue, 14 Nov 2023 22:13:20 PST", None),
        (b"Tue, 14 Nov 2023 22:13:20", None),
        (b"Tue, 4 Nov 2023 22:13:20 GMT", None),
        (b"0", None),
        (b"", None),
    ],
)
def test_dates(text: bytes, value: float | None) -> None:
    assert cc.date(text, NOW) == value


def test_ages() -> None:
    assert cc.initial_age(fields(b"Date: " + DATE), NOW, NOW) == 0
    assert cc.initial_age(fields(b"Date: " + DATE), NOW + 90, NOW + 100) == 100, "an old Date"
    assert cc.initial_age(fields(b"Age: 7"), NOW, NOW + 3) == 10, "and the way here"
    assert cc.initial_age(fields(b"Date: " + DATE, b"Age: 200"), NOW, NOW + 3) == 203
    assert cc.initial_age(fields(b"Date: " + DATE), NOW - 50, NOW - 50) == 0, "a clock ahead"
    assert cc.initial_age([], NOW, NOW) == 0


def life(status: int, *lines: bytes, rules: Rules = Rules(), cookie: bool = False) -> float:  # noqa: B008
    found = fields(*lines)
    return cc.lifetime(status, found, cc.said(found, rules), rules, NOW, cookie)


def test_lifetimes_go_before_each_other() -> None:
    lines = [
        b"CDN-Cache-Control: max-age=5", b"Cache-Control: s-maxage=4, max-age=3", b"Date: " + DATE,
        b"Expires: Tue, 14 Nov 2023 22:13:22 GMT", b"Last-Modified: Tue, 14 Nov 2023 22:13:10 GMT",
    ]  # fmt: skip
    assert life(200, *lines, rules=Rules(override_ttl=6)) == 6
    assert life(200, *lines) == 5
    assert life(200, *lines, rules=Rules(targeted=())) == 4
    assert life(200, b"Cache-Control: max-age=3", *lines[2:]) == 3
    assert life(200, *lines[2:]) == 2
    assert life(200, lines[2], lines[4]) == 1
    assert life(200, lines[2], lines[4], rules=Rules(default_ttl=9)) == 9
    assert life(200, lines[2], lines[4], rules=Rules(default_ttl=9, ttl_by_status={200: 8})) == 8
    assert life(200, lines[2], lines[4], rules=Rules(heuristic=0)) == 0
    assert life(200, lines[2], lines[4], rules=Rules(heuristic_max=0.5)) == 0.5
    assert life(200, lines[2], lines[4], cookie=True) == 0
    assert life(200, lines[2], lines[4], cookie=True, rules=Rules(ignore_cookies=True)) == 1
    assert life(500, lines[2], lines[4]) == 0


def no(*lines: bytes, status: int = 200, request: Fields | None = None, rules: Rules = Rules(), **more: bool) -> str:  # noqa: B008
    found = fields(*lines)
    return cc.refusal(status, request or [], found, cc.said(found, rules), rules, **more)


def test_reasons_not_to_store() -> None:
    assert no(b"Cache-Control: max-age=1") == ""
    assert no(b"Cache-Control: no-store") == "no-store"
    assert no(b"Cache-Control: private") == "private"
    assert no(b'Cache-Control: private="x"') == ""
    assert no(b"Cache-Control: no-store, must-understand") == ""
    assert no(b"Cache-Control: must-understand", status=599) == "must-understand"
    assert no(status=206) == no(status=304) == no(status=103) == "status"
    assert no(b"Vary: *") == "vary-star"
    authorized = [(b"authorization", b"x")]
    for words, reason in (
        (b"max-age=1", "authorization"), (b"public", ""), (b"s-maxage=1", ""), (b"must-revalidate", ""),
        (b"private, public", "private"), (b"no-store, public", "no-store"), (b"proxy-revalidate", "authorization"),
    ):  # fmt: skip
        assert no(b"Cache-Control: " + words, request=authorized) == reason
        assert no(b"Cache-Control: " + words, identified=True) == reason
    assert no(request=[(b"Cache-Control", b"no-store")]) == "request-no-store"
    for choice, results in {
        "explicit": ("set-cookie", "", ""), "refuse": ("set-cookie",) * 3, "strip": ("",) * 3, "store": ("",) * 3
    }.items():  # fmt: skip
        rules = Rules(set_cookie=choice)  # type: ignore[arg-type]
        texts = (b"max-age=1", b"public", b"s-maxage=1")
        assert tuple(no(b"Cache-Control: " + text, b"Set-Cookie: a=b", rules=rules) for text in texts) == results


def test_staleness() -> None:
    rules = Rules(stale_if_error=7, stale_while_revalidate=8, stale_if_unreachable=9)

    def of(text: bytes) -> tuple[bool, bool, bool, float, float, float]:
        return cc.staleness(Said(cc.directives([text]), False), rules)

    assert of(b"") == (False, False, False, 8, 7, 9)
    assert of(b"stale-if-error=1, stale-while-revalidate=2") == (False, False, False, 2, 1, 9)
    assert of(b"must-revalidate, stale-if-error=1") == (False, True, True, 0, 0, 0)
    assert of(b"proxy-revalidate") == (False, True, True, 0, 0, 0)
    assert of(b"s-maxage=1") == (False, False, True, 0, 0, 0)
    assert of(b"s-maxage=1, stale-if-error=1") == (False, False, True, 0, 1, 0)
    assert of(b"no-cache") == (True, True, True, 0, 0, 0)
    assert of(b'no-cache="x"') == (False, False, False, 8, 7, 9)


def test_what_is_kept() -> None:
    lines = fields(
        b"A: 1", b"Connection: b, Keep-Alive", b"B: 2", b"Keep-Alive: x", b"C: 3", b"D: 4", b"Age: 5", b"Warning: x",
        b"Transfer-Encoding: chunked", b"Content-Length: 3", b"Proxy-Authenticate: x", b"Trailer: A", b"A: 6",
    )  # fmt: skip
    what = Said(cc.directives([b'private="C", no-cache="d"']), False)
    assert cc.kept_fields(lines, what, Rules()) == fields(b"A: 1", b"A: 6")


def test_variants() -> None:
    assert cc.vary(fields(b"Vary: B, a", b"Vary: A")) == (b"a", b"b")
    assert cc.vary(fields(b"Vary: a, *")) is None
    assert cc.vary([]) == ()
    spec = (b"a", b"b")
    assert cc.variant(fields(b"A: 1"), spec) != cc.variant(fields(b"A: 1", b"B: "), spec)
    assert cc.variant(fields(b"A: 1,b=2"), spec) != cc.variant(fields(b"A: 1", b"B: 2"), spec)
    assert cc.normal(b"accept-encoding", [b"GZIP;q=0.5 , br", b"zstd"]) == b"br,gzip;q=0.5,zstd"
    assert cc.normal(b"cookie", [b"A=b"]) == b"A=b"


@pytest.mark.parametrize(
    ("text", "size", "found"),
    [
        (b"bytes=0-0", 10, (0, 1)),
        (b"bytes=0-", 10, (0, 10)),
        (b"BYTES = 3-5", 10, (3, 6)),
        (b"bytes=9-9", 10, (9, 10)),
        (b"bytes=10-", 10, "none"),
        (b"bytes=-3", 10, (7, 10)),
        (b"bytes=-0", 10, "none"),
        (b"bytes=-3", 0, "none"),
        (b"bytes=0-", 0, "none"),
        (b"bytes=5-" + b"9" * 40, 10, (5, 10)),
        (b"bytes=" + b"9" * 17 + b"-", 10, "none"),
        (b"bytes=5-4", 10, "whole"),
        (b"bytes=0-1,3-4", 10, "whole"),
        (b"items=0-1", 10, "whole"),
        (b"bytes=a-b", 10, "whole"),
    ],
)
def test_ranges(text: bytes, size: int, found: object) -> None:
    assert cc.part([(b"range", text)], 200, [], size) == found


def test_conditions_need_a_success() -> None:
    stored = fields(b'ETag: "a"')
    request = fields(b'If-None-Match: "a"')
    assert cc.not_modified(request, 200, stored, NOW)
    assert not cc.not_modified(request, 404, stored, NOW)
    assert not cc.not_modified([], 200, stored, NOW)


@pytest.mark.parametrize(
    ("url", "path"),
    [
        (b"/a?b", b"/a?b"),
        (b"http://h/a", b"/a"),
        (b"HTTP://H/a#x", b"/a"),
        (b"http://h", b"/"),
        (b"c", b"/x/c"),
        (b"?q", b"/x/y?q"),
        (b"//evil/a", None),
        (b"http://h.evil/a", None),
        (b"https://h/a", None),
        (b"mailto:a", None),
    ],
)
def test_urls_on_the_same_origin(url: bytes, path: bytes | None) -> None:
    assert cc.same_origin(url, b"http://h", b"/x/y") == path


def test_tags() -> None:
    assert cc.tags(fields(b"Surrogate-Key: a  b", b"Cache-Tag: c, d,e", b"Surrogate-Key: a")) == [
        b"a", b"b", b"c", b"d", b"e"
    ]  # fmt: skip
