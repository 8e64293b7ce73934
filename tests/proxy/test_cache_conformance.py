"""The cache from outside, case by case: what an origin says, what clients ask, who is asked in the end.

A case is a row: requests in order, each with what the origin answers if it is asked, and what must come of it. All of
them go through one gateway, each on a path of its own. RFC 9111 unless another one is named.

`{now-60}` in a field stands for that HTTP-date; an `Age` field makes a response old without anybody waiting.
"""

from __future__ import annotations

import itertools
import re
import time
from collections.abc import Iterator
from email.utils import formatdate
from typing import Any, NamedTuple

import pytest

from tests.support.inprocess import InProcess, serving
from tests.support.net import Peer, origin, read_request, status_of

FRESH = "Cache-Control: max-age=100"
STALE = ("Cache-Control: max-age=10", "Age: 20")
ETAG = 'ETag: "v1"'
CHANGED = "Last-Modified: {now-100}"


class Step(NamedTuple):
    """One request, and what is to come of it."""

    expect: str
    """`hit`: nobody asks the origin. `asked`: it is asked, and its answer given. `valid`: it says 304, the client gets
    what is stored. `stale`: it is asked, and its answer not given. `504`: nobody is asked, and nothing given."""
    lines: tuple[str, ...]
    """Of the request."""
    fields: tuple[str, ...]
    """Of the origin's answer."""
    status: int
    method: str
    body: str | None
    query: str
    has: tuple[str, ...]
    """Lines the client gets; a name alone: such a field is there."""
    lacks: tuple[str, ...]
    sent: tuple[str, ...]
    """Lines the origin gets."""
    not_sent: tuple[str, ...]
    shown: int | None
    """Status the client gets, if not the one of what it is given."""
    gets: str | None
    """Body the client gets, if not that of what it is given."""


def step(expect: str, *lines: str, **more: Any) -> Step:
    if "lines" in more:
        lines = _tuple(more.pop("lines"))
    made: dict[str, Any] = {
        "status": 200, "method": "GET", "body": None, "query": "", "shown": None, "gets": None
    }  # fmt: skip
    made |= {name: _tuple(more.pop(name, ())) for name in ("fields", "has", "lacks", "sent", "not_sent")}
    return Step(expect=expect, lines=lines, **(made | more))


def _tuple(value: Any) -> tuple[str, ...]:
    return (value,) if isinstance(value, str) else tuple(value)


def given(*fields: str, **more: Any) -> Step:
    """The origin is asked, and answers with these fields."""
    return step("asked", fields=fields, **more)


def hit(*lines: str, **more: Any) -> Step:
    return step("hit", *lines, **more)


def asked(*lines: str, **more: Any) -> Step:
    return step("asked", *lines, **more)


def valid(*lines: str, **more: Any) -> Step:
    return step("valid", *lines, **more)


class Origin:
    """Answers from the script of each path, and remembers what it was asked."""

    def __init__(self) -> None:
        self.replies: dict[str, tuple[int, tuple[str, ...], str]] = {}
        self.seen: dict[str, list[str]] = {}

    def script(self, peer: Peer) -> None:
        while True:
            head, _ = read_request(peer)
            text = head.decode("latin-1")
            method, target, _ = text.split(" ", 2)
            key = target.partition("?")[0]
            self.seen.setdefault(key, []).append(text)
            status, fields, body = self.replies[key]
            if status == 0:
                return
            peer.send(self._response(method, status, fields, body))

    def _response(self, method: str, status: int, fields: tuple[str, ...], body: str) -> bytes:
        lines = [f"HTTP/1.1 {status} X", *(dated(field) for field in fields)]
        if not any(field.lower().startswith("date:") for field in fields):
            lines.append(f"Date: {formatdate(usegmt=True)}")
        lines = [line for line in lines if line != "Date: none"]
        empty = status in (204, 304)
        if not empty and not any(field.lower().startswith("content-length:") for field in fields):
            lines.append(f"Content-Length: {len(body)}")
        head = "\r\n".join([*lines, "", ""]).encode("latin-1")
        return head if empty or method == "HEAD" else head + body.encode()


def dated(text: str) -> str:
    return re.sub(
        r"\{now([+-]\d+)?\}", lambda match: formatdate(time.time() + int(match.group(1) or 0), usegmt=True), text
    )


POLICIES: dict[str, dict[str, Any]] = {
    "plain": {},
    "defaults": {"default_ttl": 60, "ttl": {"404": 30, "5xx": 5, "201": 9}},
    "override": {"override_ttl": 60},
    "stale": {"stale_if_error": 600, "stale_while_revalidate": 0},
    "unreached": {"stale_if_unreachable": 0},
    "store-cookies": {"set_cookie": "store"},
    "strip-cookies": {"set_cookie": "strip"},
    "refuse-cookies": {"set_cookie": "refuse"},
    "bypass": {"cookies": "bypass"},
    "ignore": {"cookies": "ignore", "default_ttl": 60},
    "no-directives": {"client_directives": False},
    "surrogate": {"targeted": ["Surrogate-Control", "CDN-Cache-Control"]},
    "query": {"query": {"ignore": ["utm_*", "fbclid"]}},
    "only": {"query": {"only": ["q"]}},
    "keyed": {"key": {"headers": ["X-Country"], "cookies": ["lang"]}},
    "types": {"guard_types": True},
    "quiet": {"status_header": False},
    "small": {"max_entry": 10},
}

CASES: list[tuple[str, tuple[Step, ...]]] = []


def case(name: str, *steps: Step) -> None:
    assert name not in {other for other, _ in CASES}, f"{name}: twice"
    CASES.append((name, steps))


# ---- freshness (4.2) -----------------------------------------------------------------------------------------------

case("nothing said, not stored", given(), asked())
case("max-age", given(FRESH), hit(has=("Age: 0", "Cache-Status: kairos; hit; ttl")))
case("max-age=0", given("Cache-Control: max-age=0"), asked())
case("max-age beats Expires in the past", given(FRESH, "Expires: {now-100}"), hit())
case("max-age=0 beats Expires to come", given("Cache-Control: max-age=0", "Expires: {now+100}"), asked())
case("the largest max-age", given("Cache-Control: max-age=2147483647"), hit())
case("max-age of 2^31", given("Cache-Control: max-age=2147483648"), hit())
case("max-age beyond all counting", given("Cache-Control: max-age=99999999999999999999999"), hit())
case("leading zeros", given("Cache-Control: max-age=00000000000000000000000100"), hit())
case("leading zeros of little", given("Cache-Control: max-age=0000", ETAG), asked(status=200))
case("MAX-AGE", given("CaChE-cOnTrOl: MaX-aGe=100"), hit())
case("an extension beside it", given("Cache-Control: foobar, max-age=100, x=y"), hit())
case("among empty members", given("Cache-Control: , , max-age=100 ,,"), hit())
case("in quotes", given('Cache-Control: max-age="100"'), hit())
case("in wrong quotes", given("Cache-Control: max-age='100'"), asked())
case("negative", given("Cache-Control: max-age=-100"), asked())
case("a fraction", given("Cache-Control: max-age=100.5"), asked())
case("letters before", given("Cache-Control: max-age=a100"), asked())
case("letters behind", given("Cache-Control: max-age=100a"), asked())
case("no value", given("Cache-Control: max-age"), asked())
case("an empty value", given("Cache-Control: max-age="), asked())
case("a blank before =", given("Cache-Control: max-age =100"), asked())
case("a blank behind =", given("Cache-Control: max-age= 100"), asked())
case("inside a quoted extension it says nothing", given('Cache-Control: ext="max-age=100", max-age=0'), asked())
case("and behind one", given('Cache-Control: max-age=0, ext="max-age=100"'), asked())
case("nor does no-store in one", given('Cache-Control: ext="no-store", max-age=100'), hit())
case("a quote that does not end hides nothing", given('Cache-Control: ext="max-age=100, no-store'), asked())
case("twice in a line: the first", given("Cache-Control: max-age=100, max-age=0"), hit())
case("twice in a line: the first, stale", given("Cache-Control: max-age=0, max-age=100"), asked())
case("in two lines: the first", given("Cache-Control: max-age=100", "Cache-Control: max-age=0"), hit())
case("directives in two lines", given("Cache-Control: foo", FRESH), hit())
case("s-maxage beats max-age", given("Cache-Control: max-age=0, s-maxage=100"), hit())
case("s-maxage=0 beats max-age", given("Cache-Control: max-age=100, s-maxage=0"), asked())
case("s-maxage beats Expires", given("Cache-Control: s-maxage=100", "Expires: {now-9}"), hit())
case("S-MaxAge", given("Cache-Control: S-MaxAge=100"), hit())
case("a broken s-maxage counts", given("Cache-Control: s-maxage=x, max-age=100"), asked())
case("Expires to come", given("Expires: {now+100}"), hit())
case("Expires now", given("Expires: {now}"), asked())
case("Expires in the past", given("Expires: {now-100}"), asked())
case("Expires: 0", given("Expires: 0"), asked())
case("Expires: -1", given("Expires: -1", "Last-Modified: {now-9999}"), asked())
case("Expires that is no date stops heuristics", given("Expires: soon", "Last-Modified: {now-9999}"), asked())
case("Expires counts from Date", given("Expires: {now-50}", "Date: {now-100}"), asked())
case("Expires and a clock that is behind", given("Expires: {now+50}", "Date: {now-30}"), hit())
case("Expires and a clock ahead", given("Expires: {now+150}", "Date: {now+100}"), hit())
case("Expires ahead of Date by nothing", given("Expires: {now+100}", "Date: {now+100}"), asked())
case("Expires with an Age", given("Expires: {now+100}", "Age: 200"), asked())
case("Expires in the old form", given("Expires: Thursday, 18-Aug-50 02:01:18 GMT"), hit())
case("Expires as asctime", given("Expires: Thu Aug  8 02:01:18 2050"), hit())
case("Expires in the far future", given("Expires: Sun, 21 Nov 2286 04:46:39 GMT"), hit())
case("Expires in lower case", given("Expires: thu, 18 aug 2050 02:01:18 gmt"), hit())
case("Expires in UTC", given("Expires: Thu, 18 Aug 2050 02:01:18 UTC"), asked())
case("Expires in another zone", given("Expires: Thu, 18 Aug 2050 02:01:18 AEST"), asked())
case("Expires with an offset", given("Expires: Thu, 18 Aug 2050 02:01:18 +0100"), asked())
case("Expires without a comma", given("Expires: Thu 18 Aug 2050 02:01:18 GMT"), asked())
case("Expires with a day that is not there", given("Expires: Thu, 31 Jun 2050 02:01:18 GMT"), asked())
case("Expires with one digit", given("Expires: Thu, 8 Aug 2050 02:01:18 GMT"), asked())
case("Expires with two blanks", given("Expires: Thu,  18 Aug 2050 02:01:18 GMT"), asked())
case("Expires with dashes", given("Expires: Thu, 18-Aug-2050 02:01:18 GMT"), asked())
case("Expires without seconds", given("Expires: Thu, 18 Aug 2050 02:01 GMT"), asked())
case("Expires with two digits of a year", given("Expires: Thu, 18 Aug 50 02:01:18 GMT"), asked())
case("Expires with one digit of an hour", given("Expires: Thu, 18 Aug 2050 2:01:18 GMT"), asked())
case("Expires with dots", given("Expires: Thu, 18 Aug 2050 02.01.18 GMT"), asked())
case("Expires broken twice", given("Expires: in an hour", "Expires: tomorrow"), asked())
case("Expires before Date, both to come", given("Expires: {now+30}", "Date: {now+40}"), asked())
case("Expires and a Date that is none", given("Expires: {now+60}", "Date: today"), hit())
case("Expires, an Age and a clock that is behind", given("Expires: {now+20}", "Date: {now-20}", "Age: 45"), asked())
case("Expires, an Age and a clock ahead", given("Expires: {now+40}", "Date: {now+20}", "Age: 25"), asked())
case("Expires at 24 o'clock", given("Expires: Thu, 18 Aug 2050 24:01:18 GMT"), asked())
case("Age counts", given(FRESH, "Age: 200"), asked())
case("Age goes on", given(FRESH, "Age: 30"), hit(has=("Age: 30",)))
case("Age that is no number", given(FRESH, "Age: abc"), hit(has=("Age: 0",)))
case("Age below zero", given(FRESH, "Age: -200"), hit())
case("Age with a fraction", given(FRESH, "Age: 200.5"), hit())
case("Age with a parameter", given(FRESH, "Age: 200;a=b"), hit())
case("Age beyond counting", given(FRESH, "Age: 2147483648"), asked())
case("the largest Age", given(FRESH, "Age: 2147483647"), asked())
case("an Age just beyond counting", given(FRESH, "Age: 2147483649"), asked())
case("Age in two lines, the same", given(FRESH, "Age: 40", "Age: 40"), hit(has="Age: 40"))
case("Age far beyond counting", given(FRESH, "Age: 99999999999999999999999999"), asked())
case("Age in a list: the first", given(FRESH, "Age: 0, 200"), hit())
case("Age in a list: the first, old", given(FRESH, "Age: 200, 0"), asked())
case("Age in two lines: the first", given(FRESH, "Age: 0", "Age: 200"), hit())
case("Age in two lines: the first, old", given(FRESH, "Age: 200", "Age: 0"), asked())
case("a Date in the past is an age", given(FRESH, "Date: {now-200}"), asked())
case("and is told", given(FRESH, "Date: {now-50}"), hit(has=("Age: 5",)))
case("a Date to come is none", given(FRESH, "Date: {now+200}"), hit(has=("Age: 0",)))
case("no Date", given(FRESH, "Date: none"), hit(has=("Date",)))
case("Date stays where Expires is there", given("Expires: {now+90}", "Date: {now-5}"), hit(has=("Date: {now-5}",)))
case("Expires stays as it was", given("Expires: {now+90}", "Date: {now-5}"), hit(has=("Expires: {now+90}",)))
case("Date stays that of the origin", given(FRESH, "Date: {now-5}"), hit(has=("Date: {now-5}",)))
case("stale at once", given(*STALE), asked())

# ---- heuristics (4.2.2) --------------------------------------------------------------------------------------------

for _status in (200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501):
    case(f"heuristics: {_status}", given("Last-Modified: {now-86400}", status=_status), hit())
for _status in (201, 202, 302, 303, 307, 400, 401, 403, 418, 429, 500, 502, 503, 504, 599):
    case(f"no heuristics: {_status}", given("Last-Modified: {now-86400}", status=_status), asked(status=_status))
case("public allows heuristics", given("Cache-Control: public", "Last-Modified: {now-86400}", status=599), hit())
case("a tenth of the time", given("Last-Modified: {now-1000}", "Age: 90"), hit())
case("not more than a tenth", given("Last-Modified: {now-1000}", "Age: 110"), asked(not_sent=("If-None-Match",)))
case("at most a day", given("Last-Modified: {now-99999999}", "Age: 86500"), asked())
case("Last-Modified to come", given("Last-Modified: {now+1000}"), asked())
case("Last-Modified that is none", given("Last-Modified: yesterday"), asked())
case("heuristics and a cookie do not mix", given("Last-Modified: {now-86400}"), hit(), hit("Cookie: a=b"))
case("a cookie first", given("Last-Modified: {now-86400}", lines="Cookie: a=b"), asked())

# ---- statuses (3) --------------------------------------------------------------------------------------------------

for _status in (
    200,
    201,
    202,
    203,
    204,
    299,
    300,
    301,
    302,
    303,
    307,
    308,
    400,
    401,
    402,
    403,
    404,
    405,
    410,
    451,
    499,
):
    case(f"{_status} with max-age", given(FRESH, status=_status), hit(shown=_status))
for _status in (500, 501, 502, 503, 504, 599):
    case(f"{_status} with max-age", given(FRESH, status=_status), hit(shown=_status))
for _status in (
    200, 203, 204, 299, 301, 302, 303, 307, 308, 400, 404, 410, 499, 500, 502, 503, 504, 599,
):  # fmt: skip
    case(f"{_status} without a lifetime", given("Cache-Control: max-age=0", status=_status), asked(status=_status))
    case(
        f"{_status} that has expired",
        given("Expires: {now-900}", "Last-Modified: {now-9999}", status=_status),
        asked(status=_status),
    )
case(
    "206 nobody asked for is not stored", given(FRESH, "Content-Range: bytes 0-3/10", status=206, body="0123"), asked()
)
case("must-understand and a known status", given("Cache-Control: max-age=100, no-store, must-understand"), hit())
case("must-understand and 404", given("Cache-Control: max-age=100, no-store, must-understand", status=404), hit())
case(
    "must-understand, no-store and a strange status",
    given("Cache-Control: max-age=100, no-store, must-understand", status=598),
    asked(status=598),
)
for _status in (299, 499, 599):
    case(
        f"must-understand and {_status}",
        given("Cache-Control: max-age=100, must-understand", status=_status),
        asked(status=_status),
    )

# ---- response directives (5.2.2) -----------------------------------------------------------------------------------

case("no-store", given("Cache-Control: no-store"), asked())
case("no-store beside max-age", given("Cache-Control: no-store, max-age=100"), asked())
case("max-age beside no-store", given("Cache-Control: max-age=100, no-store"), asked())
case("No-StOrE", given("Cache-Control: No-StOrE, max-age=100"), asked())
case("no-store in another line", given(FRESH, "Cache-Control: no-store"), asked())
case("no-store with a value", given("Cache-Control: no-store=1, max-age=100"), asked())
case("no-store and Expires", given("Cache-Control: no-store", "Expires: {now+100}"), asked())
case("private", given("Cache-Control: private"), asked())
case("private beside max-age", given("Cache-Control: private, max-age=100"), asked())
case("PRIVATE", given("Cache-Control: max-age=100, PRIVATE"), asked())
case("private and s-maxage", given("Cache-Control: private, s-maxage=100"), asked())
case("private and public", given("Cache-Control: public, private, max-age=100"), asked())
case(
    "private fields are left out",
    given('Cache-Control: private="X-One, x-two", max-age=100', "X-One: a", "X-Two: b", "X-Three: c"),
    hit(has=("X-Three: c",), lacks=("X-One", "X-Two")),
)
case("no-cache is stored and validated", given("Cache-Control: no-cache", ETAG), valid(sent=('If-None-Match: "v1"',)))
case("no-cache beside max-age", given("Cache-Control: no-cache, max-age=100", ETAG), valid())
case("no-cache without a validator", given("Cache-Control: no-cache, max-age=100"), asked())
case("NO-CACHE", given("Cache-Control: NO-CACHE, max-age=100"), asked())
case("no-cache in another line", given(FRESH, "Cache-Control: no-cache"), asked())
case(
    "no-cache fields are left out",
    given('Cache-Control: no-cache="X-One", max-age=100', "X-One: a", "X-Two: b"),
    hit(has=("X-Two: b",), lacks=("X-One",)),
)
case("no-store is not asked for while there is a fresh one", given(FRESH), hit(fields="Cache-Control: no-store"), hit())
case(
    "must-revalidate is asked about when stale", given("Cache-Control: max-age=9, must-revalidate", "Age: 20", ETAG),
    valid(sent='If-None-Match: "v1"'),
)  # fmt: skip
case("must-revalidate is fresh", given("Cache-Control: max-age=100, must-revalidate"), hit())
case("proxy-revalidate is fresh", given("Cache-Control: max-age=100, proxy-revalidate"), hit())
case("immutable", given("Cache-Control: max-age=100, immutable"), hit())
case("no-transform", given("Cache-Control: max-age=100, no-transform"), hit())
case("public alone is no lifetime", given("Cache-Control: public"), asked())
case("Pragma of a response says nothing", given(FRESH, "Pragma: no-cache"), hit())
case("what is stored goes when no-store comes", given(*STALE), asked(fields="Cache-Control: no-store"), asked())

# ---- Authorization (3.5) -------------------------------------------------------------------------------------------

_AUTH = "Authorization: Basic YTpi"
case("to Authorization", given(FRESH, lines=_AUTH), asked(_AUTH))
case("to Authorization, then without", given(FRESH, lines=_AUTH), asked())
case("to Authorization, with Expires", given("Expires: {now+100}", lines=_AUTH), asked())
case("to Authorization, heuristics", given("Last-Modified: {now-86400}", lines=_AUTH), asked())
case("to Authorization, public", given("Cache-Control: public, max-age=100", lines=_AUTH), hit(_AUTH))
case("to Authorization, s-maxage", given("Cache-Control: s-maxage=100", lines=_AUTH), hit(_AUTH))
case("to Authorization, must-revalidate", given("Cache-Control: max-age=100, must-revalidate", lines=_AUTH), hit(_AUTH))
case("to Authorization, proxy-revalidate", given("Cache-Control: max-age=100, proxy-revalidate", lines=_AUTH), asked())
case("to Authorization, private", given("Cache-Control: public, private, max-age=9", lines=_AUTH), asked(_AUTH))
case("stored from one without", given(FRESH), hit(_AUTH))
case("validated by one with", given(*STALE, ETAG), valid(_AUTH), asked())

# ---- Set-Cookie ----------------------------------------------------------------------------------------------------

case("Set-Cookie", given(FRESH, "Set-Cookie: a=b"), asked())
case(
    "Set-Cookie, public", given("Cache-Control: public, max-age=100", "Set-Cookie: a=b"), hit(has=("Set-Cookie: a=b",))
)
case("Set-Cookie, s-maxage", given("Cache-Control: s-maxage=100", "Set-Cookie: a=b"), hit(has=("Set-Cookie: a=b",)))
case("store-cookies: Set-Cookie", given(FRESH, "Set-Cookie: a=b", "Set-Cookie: c=d"), hit(has=("Set-Cookie: c=d",)))
case("strip-cookies: Set-Cookie", given(FRESH, "Set-Cookie: a=b"), hit(lacks=("Set-Cookie",)))
case("refuse-cookies: Set-Cookie", given("Cache-Control: public, max-age=100", "Set-Cookie: a=b"), asked())
case("a request's cookie", given(FRESH, lines="Cookie: a=b"), hit("Cookie: c=d"))
case("bypass: a cookie", given(FRESH), asked("Cookie: a=b"), hit(gets="body 1"))
case("bypass: a cookie first", given(FRESH, lines="Cookie: a=b"), asked())
case("ignore: a cookie", given(lines="Cookie: a=b"), hit("Cookie: c=d"))

# ---- request directives (5.2.1) ------------------------------------------------------------------------------------

case("request no-store", given(FRESH, lines="Cache-Control: no-store"), asked())
case("request no-cache", given(FRESH), asked("Cache-Control: no-cache", fields=FRESH), hit())
case("request no-cache validates", given(FRESH, ETAG), valid("Cache-Control: no-cache", sent=('If-None-Match: "v1"',)))
case("request max-age=0", given(FRESH, ETAG), valid("Cache-Control: max-age=0"))
case("request max-age", given(FRESH, "Age: 30"), hit("Cache-Control: max-age=40"), asked("Cache-Control: max-age=20"))
case(
    "request min-fresh",
    given(FRESH, "Age: 50"),
    hit("Cache-Control: min-fresh=20"),
    asked("Cache-Control: min-fresh=60"),
)
case("request max-stale", given(*STALE), hit("Cache-Control: max-stale=20", has="Age: 20"))
case("request max-stale, too little", given(*STALE), asked("Cache-Control: max-stale=5"))
case("request max-stale without a limit", given(*STALE), hit("Cache-Control: max-stale"))
case(
    "max-stale, must-revalidate",
    given("Cache-Control: max-age=9, must-revalidate", "Age: 20"),
    asked("Cache-Control: max-stale=100"),
)
case(
    "max-stale, proxy-revalidate",
    given("Cache-Control: max-age=9, proxy-revalidate", "Age: 20"),
    asked("Cache-Control: max-stale=100"),
)
case("max-stale, s-maxage", given("Cache-Control: s-maxage=9", "Age: 20"), asked("Cache-Control: max-stale=100"))
case("max-stale, no-cache", given("Cache-Control: no-cache", ETAG), valid("Cache-Control: max-stale=100"))
case("only-if-cached", step("504", "Cache-Control: only-if-cached"))
case("only-if-cached, stored", given(FRESH), hit("Cache-Control: only-if-cached"))
case("only-if-cached, stale", given(*STALE), step("504", "Cache-Control: only-if-cached"))
case("request Pragma", given(FRESH), asked("Pragma: no-cache"))
case("request Pragma beside Cache-Control", given(FRESH), hit("Pragma: no-cache", "Cache-Control: max-age=100"))
case("no-directives: request no-cache", given(FRESH), hit("Cache-Control: no-cache"), hit("Pragma: no-cache"))
case("a request's unknown directive", given(FRESH), hit("Cache-Control: whatever=1"))

# ---- Vary (4.1) ----------------------------------------------------------------------------------------------------

_VARY = (FRESH, "Vary: Foo")
case("Vary: the same", given(*_VARY, lines="Foo: 1"), hit("Foo: 1"))
case("Vary: another", given(*_VARY, lines="Foo: 1"), asked("Foo: 2", has="Cache-Status: kairos; fwd=vary-miss"))
case("Vary: left out", given(*_VARY, lines="Foo: 1"), asked())
case("Vary: left out first", given(*_VARY), asked("Foo: 1"))
case("Vary: left out both times", given(*_VARY), hit())
case("Vary: empty is not left out", given(*_VARY), asked("Foo:"))
case(
    "Vary: both are kept",
    given(*_VARY, lines="Foo: 1"),
    given(*_VARY, lines="Foo: 2"),
    hit("Foo: 1", gets="body 1"),
    hit("Foo: 2", gets="body 2"),
)
case("Vary: names in any case", given(FRESH, "Vary: fOO", lines="Foo: 1"), hit("foo: 1"), asked("FOO: 2"))
case("Vary: *", given(FRESH, "Vary: *"), asked())
case("Vary: * among others", given(FRESH, "Vary: Foo, *", lines="Foo: 1"), asked("Foo: 1"))
case("Vary: * first", given(FRESH, "Vary: *, Foo", lines="Foo: 1"), asked("Foo: 1"))
case("Vary: * behind nothing", given(FRESH, "Vary: , *"), asked())
case("Vary: * in another line", given(FRESH, "Vary: Foo", "Vary: *", lines="Foo: 1"), asked("Foo: 1"))
case("Vary: * behind an empty line", given(FRESH, "Vary:", "Vary: *", lines="Foo: 1"), asked("Foo: 1"))
case("Vary: * in both lines", given(FRESH, "Vary: *", "Vary: *"), asked())
case("Vary: other fields do not count", given(*_VARY, lines=("Foo: 1", "Bar: 2")), hit("Foo: 1", "Bar: 3"))
case(
    "Vary: one of three left out both times",
    given(FRESH, "Vary: A-A, B-B, C-C", lines=("A-A: 1", "C-C: 3")),
    hit("C-C: 3", "A-A: 1"),
    asked("A-A: 1", "B-B: 2", "C-C: 3"),
)
case(
    "Vary: one of three differs, in another order",
    given(FRESH, "Vary: A-A, B-B, C-C", lines=("A-A: 1", "B-B: 2", "C-C: 3")),
    asked("C-C: 3", "A-A: 1", "B-B: 22"),
    asked("A-A: 9", "B-B: 2", "C-C: 3"),
)
case(
    "Vary: what it names is sent when it is validated",
    given(*STALE, "Vary: Foo", ETAG, lines="Foo: 1"),
    valid("Foo: 1", sent=("Foo: 1", 'If-None-Match: "v1"')),
)
case("Vary: * twice", given(FRESH, "Vary: *, *"), asked())
case("Vary: nothing", given(FRESH, "Vary:"), hit("Foo: 1"))
case(
    "Vary: two fields",
    given(FRESH, "Vary: Foo, Bar", lines=("Foo: 1", "Bar: 2")),
    hit("Bar: 2", "Foo: 1"),
    asked("Foo: 1", "Bar: 3"),
    asked("Foo: 1"),
)
case(
    "Vary: two lines",
    given(FRESH, "Vary: Foo", "Vary: Bar", lines=("Foo: 1", "Bar: 2")),
    hit("Foo: 1", "Bar: 2"),
    asked("Foo: 1", "Bar: 9"),
)
case(
    "Vary: three",
    given(FRESH, "Vary: A-A, B-B, C-C", lines=("A-A: 1", "B-B: 2", "C-C: 3")),
    hit("A-A: 1", "B-B: 2", "C-C: 3"),
    asked("A-A: 1", "B-B: 2"),
)
case("Vary: values swapped", given(FRESH, "Vary: Foo, Bar", lines=("Foo: 1", "Bar: 2")), asked("Foo: 2", "Bar: 1"))
case(
    "Vary: a value that looks like another field",
    given(FRESH, "Vary: Foo, Bar", lines="Foo: 1,bar=2"),
    asked("Foo: 1", "Bar: 2"),
)
case("Vary: lists joined", given(*_VARY, lines=("Foo: 1", "Foo: 2")), hit("Foo: 1, 2"))
case("Vary: order counts", given(*_VARY, lines="Foo: 1, 2"), asked("Foo: 2, 1"))
case("Vary: blanks do not", given(*_VARY, lines="Foo: 1,2"), hit("Foo:   1 ,  2  "))
case("Vary: case counts", given(*_VARY, lines="Foo: a"), asked("Foo: A"))
case(
    "Vary: languages in any case",
    given(FRESH, "Vary: Accept-Language", lines="Accept-Language: en, DE"),
    hit("Accept-Language: EN,de"),
    asked("Accept-Language: fr"),
)
case(
    "Vary: weights with blanks",
    given(FRESH, "Vary: Accept-Language", lines="Accept-Language: en; q=0.5"),
    hit("Accept-Language: en;q=0.5"),
)
case(
    "Vary: encodings in any order",
    given(FRESH, "Vary: Accept-Encoding", lines="Accept-Encoding: gzip, br"),
    hit("Accept-Encoding: br,gzip"),
    asked("Accept-Encoding: gzip"),
)
case("Vary: Cookie", given(FRESH, "Vary: Cookie", lines="Cookie: a=1"), hit("Cookie: a=1"), asked("Cookie: a=2"))
case(
    "Vary: Authorization",
    given("Cache-Control: public, max-age=9", "Vary: Authorization", lines=_AUTH),
    asked("Authorization: Basic x"),
    hit(_AUTH, gets="body 1"),
)
case(
    "Vary: changes",
    given(FRESH, "Vary: Foo", lines=("Foo: 1", "Bar: 1")),
    given(FRESH, "Vary: Bar", lines=("Foo: 2", "Bar: 2")),
    hit("Foo: 1", "Bar: 1", gets="body 1"),
    hit("Foo: 9", "Bar: 2", gets="body 2"),
)
case(
    "Vary: goes",
    given(*_VARY, lines="Foo: 1"),
    given(FRESH, lines="Foo: 2"),
    hit("Foo: 3"),
    hit("Foo: 1", gets="body 2"),
)
case("Vary: comes", given(*STALE), given(*_VARY, lines="Foo: 1"), hit("Foo: 1"), asked("Foo: 2"))
case(
    "Vary: validates its own",
    given(*STALE, "Vary: Foo", ETAG, lines="Foo: 1"),
    given(*STALE, "Vary: Foo", 'ETag: "v2"', lines="Foo: 2"),
    valid("Foo: 1", sent='If-None-Match: "v1"', gets="body 1"),
)
case(
    "Vary: Origin",
    given(FRESH, "Vary: Origin", lines="Origin: http://a"),
    asked("Origin: http://b"),
    hit("Origin: http://a", gets="body 1"),
)

# ---- keys ----------------------------------------------------------------------------------------------------------

case("query: the same", given(FRESH, query="?a=b"), hit(query="?a=b"))
case("query: another", given(FRESH, query="?a=b"), asked(query="?a=c"), asked())
case("query: order counts", given(FRESH, query="?a=1&b=2"), asked(query="?b=2&a=1"))
case("host: any case", given(FRESH), hit("Host: TEST"))
case("host: another", given(FRESH), asked("Host: other"))
case("host: the scheme's own port", given(FRESH), hit("Host: test:80"), asked("Host: test:81"))
case("path: escapes", given(FRESH, query="?%7e"), asked(query="?~"))
case(
    "query: ignored parameters",
    given(FRESH, query="?a=1&utm_source=x&fbclid=y"),
    hit(query="?utm_campaign=z&a=1"),
    asked(query="?a=2"),
)
case("query: escaped names are the same names", given(FRESH, query="?a=1"), hit(query="?a=1&utm%5fx=2"))
case("only: these alone", given(FRESH, query="?q=1&x=2"), hit(query="?x=3&q=1"), asked(query="?q=2"))
case("keyed: headers", given(FRESH, lines="X-Country: de"), hit("X-Country: de"), asked("X-Country: fr"), asked())
case(
    "keyed: cookies",
    given(FRESH, lines="Cookie: lang=de; id=1"),
    hit("Cookie: id=2; lang=de"),
    asked("Cookie: lang=fr"),
)

# ---- conditions of clients (4.3.2) ---------------------------------------------------------------------------------

_304 = {"shown": 304, "gets": ""}
case(
    "If-None-Match, stored",
    given(FRESH, ETAG, "X-A: b"),
    hit('If-None-Match: "v1"', has=(ETAG, FRESH, "Age: 0"), lacks="Content-Length", **_304),
)
case("If-None-Match, another", given(FRESH, ETAG), hit('If-None-Match: "v2"'))
case(
    "If-None-Match, a list",
    given(FRESH, ETAG),
    hit('If-None-Match: "v0", "v1", "v2"', **_304),
    hit('If-None-Match: "v1","x"', **_304),
    hit('If-None-Match: "x" ,  "v1"', **_304),
)
case("If-None-Match, two lines", given(FRESH, ETAG), hit('If-None-Match: "v0"', 'If-None-Match: "v1"', **_304))
case("If-None-Match, *", given(FRESH, ETAG), hit("If-None-Match: *", **_304))
case("If-None-Match, weakly", given(FRESH, ETAG), hit('If-None-Match: W/"v1"', **_304))
case(
    "If-None-Match, stored weakly",
    given(FRESH, 'ETag: W/"v1"'),
    hit('If-None-Match: "v1"', **_304),
    hit('If-None-Match: W/"v1"', **_304),
)
case(
    "If-None-Match, a comma in it",
    given(FRESH, 'ETag: "a,b"'),
    hit('If-None-Match: "a,b"', **_304),
    hit('If-None-Match: "a", "b"'),
)
case("If-None-Match, odd bytes", given(FRESH, 'ETag: "\xe4"'), hit('If-None-Match: "\xe4"', **_304))
case("If-None-Match, without quotes", given(FRESH, "ETag: v1"), hit("If-None-Match: v1", **_304))
case("If-None-Match, no ETag stored", given(FRESH, CHANGED), hit('If-None-Match: "v1"', "If-Modified-Since: {now}"))
case(
    "If-None-Match goes before If-Modified-Since",
    given(FRESH, ETAG, CHANGED),
    hit('If-None-Match: "v2"', "If-Modified-Since: {now}"),
)
case(
    "If-None-Match goes before an older If-Modified-Since",
    given(FRESH, ETAG, CHANGED),
    hit('If-None-Match: "v1"', "If-Modified-Since: {now-200}", has=ETAG, **_304),
)
case(
    "If-Modified-Since in the old form",
    given(FRESH, "Last-Modified: Thu, 01 Jan 2015 00:00:00 GMT"),
    hit("If-Modified-Since: Thursday, 01-Jan-15 00:00:00 GMT", **_304),
)
case("If-Modified-Since, the same", given(FRESH, CHANGED), hit("If-Modified-Since: {now-99}", **_304))
case("If-Modified-Since, later", given(FRESH, CHANGED), hit("If-Modified-Since: {now}", **_304))
case("If-Modified-Since, earlier", given(FRESH, CHANGED), hit("If-Modified-Since: {now-200}"))
case("If-Modified-Since, no date", given(FRESH, CHANGED), hit("If-Modified-Since: never"))
case(
    "If-Modified-Since, nothing stored of it",
    given(FRESH, "Date: {now-50}"),
    hit("If-Modified-Since: {now-10}", **_304),
    hit("If-Modified-Since: {now-70}"),
)
case(
    "conditions go on where nothing is stored",
    asked('If-None-Match: "v1"', sent='If-None-Match: "v1"', status=304, fields=(FRESH, ETAG)),
    asked(),
)
case("and so does If-Modified-Since", asked("If-Modified-Since: {now}", sent="If-Modified-Since", fields=FRESH), hit())
case("a client's condition and a stale one", given(*STALE, ETAG), valid('If-None-Match: "v1"', **_304))
case(
    "a client's other condition and a stale one",
    given(*STALE, ETAG),
    valid('If-None-Match: "v9"', sent='If-None-Match: "v1"', not_sent='"v9"'),
)
case("conditions are of no use to a 404", given(FRESH, ETAG, status=404), hit('If-None-Match: "v1"'))
case(
    "If-Match is the origin's",
    given(FRESH, ETAG),
    asked('If-Match: "v1"'),
    asked("If-Unmodified-Since: {now}"),
    hit(gets="body 1"),
)
case(
    "304 tells what concerns caches",
    given(FRESH, ETAG, CHANGED, "Vary: Foo", "Content-Location: /x", "Content-Type: a/b"),
    hit("If-None-Match: *", has=("Vary: Foo", "Content-Location: /x", "Date"), lacks=("Content-Type",), **_304),
)

# ---- validation (4.3.1, 4.3.3, 4.3.4) ------------------------------------------------------------------------------

case("with an ETag", given(*STALE, ETAG), valid(sent='If-None-Match: "v1"', not_sent="If-Modified-Since"))
case("with a weak one", given(*STALE, 'ETag: W/"v1"'), valid(sent='If-None-Match: W/"v1"'))
case("with a date", given(*STALE, CHANGED), valid(sent="If-Modified-Since: ", not_sent="If-None-Match"))
case("with both", given(*STALE, ETAG, CHANGED), valid(sent=('If-None-Match: "v1"', "If-Modified-Since: ")))
case("with none", given(*STALE), asked(not_sent=("If-None-Match", "If-Modified-Since")))
case("304 makes it fresh", given(*STALE, ETAG), valid(fields=(FRESH, ETAG)), hit(gets="body 1", has="Age: 0"))
case(
    "304 that says nothing leaves it stale",
    given("Cache-Control: max-age=10", "Age: 20", ETAG),
    valid(fields=("Cache-Control: max-age=0", ETAG)),
    valid(),
)
case(
    "304 without a lifetime starts the old one anew",
    given("Cache-Control: max-age=10", "Age: 20", ETAG),
    valid(fields=ETAG),
    hit(gets="body 1"),
)
case("304 is told as such", given(*STALE, ETAG), valid(has="Cache-Status: kairos; fwd=stale; fwd-status=304"))
case(
    "304 updates fields",
    given(*STALE, ETAG, "X-A: 1", "X-B: 2"),
    valid(fields=(FRESH, ETAG, "X-A: 3"), has=("X-A: 3", "X-B: 2"), lacks="X-A: 1"),
    hit(gets="body 1", has=("X-A: 3", "X-B: 2")),
)
for _field in ("Test-Header", "X-Test", "Content-Foo", "X-Content-Foo", "Content-MD5", "Clear-Site-Data", "Link"):
    case(
        f"304 updates {_field}",
        given(*STALE, ETAG, f"{_field}: old"),
        valid(fields=(FRESH, ETAG, f"{_field}: new"), has=f"{_field}: new", lacks=f"{_field}: old"),
        hit(gets="body 1", has=f"{_field}: new"),
    )
case(
    "304 leaves what it does not name",
    given(*STALE, CHANGED, "Test-Header: a"),
    valid(fields=CHANGED, has="Test-Header: a", sent="If-Modified-Since"),
)
case(
    "304 updates Cache-Control",
    given(*STALE, ETAG),
    valid(fields=("Cache-Control: max-age=77", ETAG), has="Cache-Control: max-age=77"),
    hit(gets="body 1", has="Cache-Control: max-age=77"),
)
case(
    "304 replaces all of a name",
    given(*STALE, ETAG, "X-A: 1", "X-A: 2"),
    valid(fields=(FRESH, ETAG, "X-A: 3"), has="X-A: 3", lacks=("X-A: 1", "X-A: 2")),
)
case(
    "304 does not update its own framing",
    given(*STALE, ETAG),
    valid(
        fields=(FRESH, ETAG, "Content-Length: 999", "Connection: X-A", "X-A: 1"), has="Content-Length: 6", lacks="X-A"
    ),
    hit(gets="body 1", lacks="X-A"),
)
case(
    "304 does not update the coding",
    given(*STALE, ETAG, "Content-Encoding: x"),
    valid(
        fields=(FRESH, ETAG, "Content-Encoding: y", "Content-Range: z"),
        has="Content-Encoding: x",
        lacks="Content-Range",
    ),
)
case(
    "304 brings another type",
    given(*STALE, ETAG, "Content-Type: a/b"),
    valid(fields=(FRESH, ETAG, "Content-Type: c/d"), has="Content-Type: c/d"),
)
case(
    "304 of another ETag updates nothing",
    given(*STALE, ETAG, "X-A: 1"),
    valid(fields=(FRESH, 'ETag: "v2"', "X-A: 2"), has="X-A: 1"),
    valid(),
)
case(
    "304 without an ETag",
    given(*STALE, ETAG, "X-A: 1"),
    valid(fields=(FRESH, "X-A: 2"), has=("X-A: 2", ETAG)),
    hit(gets="body 1"),
)
case(
    "304 with no-store is the last",
    given(*STALE, ETAG),
    valid(fields=("Cache-Control: no-store", ETAG)),
    asked(not_sent="If-None-Match"),
)
case("304 keeps Date new", given(*STALE, ETAG, "Date: {now-500}"), valid(fields=(FRESH, ETAG)), hit(gets="body 1"))
case("200 takes its place", given(*STALE, ETAG), given(FRESH, 'ETag: "v2"'), hit())
case("a failure leaves it", given(*STALE, ETAG), asked(status=500), valid(gets="body 1"))
case("404 takes its place", given(*STALE, ETAG), asked(status=404, fields=FRESH), hit())
case("404 that is not stored ends it", given(*STALE, ETAG), asked(status=404), asked(not_sent="If-None-Match"))
case("several times", given(*STALE, ETAG), valid(fields=ETAG), hit(gets="body 1"))

# ---- stale (4.2.4, RFC 5861) ---------------------------------------------------------------------------------------

_SIE = ("Cache-Control: max-age=10, stale-if-error=60", "Age: 20")
for _status in (500, 502, 503, 504):
    case(f"stale-if-error: {_status}", given(*_SIE), step("stale", status=_status, has="Age: 20"))
case(
    "stale-if-error: told",
    given(*_SIE),
    step("stale", status=503, has="Cache-Status: kairos; fwd=stale; fwd-status=503"),
)
case("stale-if-error: 404 is no failure", given(*_SIE), asked(status=404))
case("stale-if-error: the origin hangs up", given(*_SIE), step("stale", status=0))
case("stale-if-error: for too long", given("Cache-Control: max-age=10, stale-if-error=5", "Age: 20"), asked(status=503))
case(
    "stale-if-error, must-revalidate",
    given("Cache-Control: max-age=10, must-revalidate, stale-if-error=60", "Age: 20"),
    asked(status=503),
)
case("stale-if-error, no-cache", given("Cache-Control: no-cache, stale-if-error=60", ETAG), asked(status=503))
case(
    "stale-if-error, s-maxage",
    given("Cache-Control: s-maxage=10, stale-if-error=60", "Age: 20"),
    step("stale", status=503),
)
case("a failure, not allowed to be stale", given(*STALE), asked(status=503))
for _word in ("must-revalidate", "proxy-revalidate", "no-cache"):
    case(f"hangs up, {_word}", given(f"Cache-Control: max-age=10, {_word}", "Age: 20", ETAG), step("failed", status=0))
case("hangs up, s-maxage", given("Cache-Control: s-maxage=10", "Age: 20"), step("failed", status=0))
case("hangs up, stale for long", given("Cache-Control: max-age=10", "Age: 100"), step("failed", status=0))
case("hangs up, a fresh one", given(FRESH), hit())
case("hangs up", given(*STALE), step("stale", status=0, has="Cache-Status: kairos; fwd=stale"))
case("unreached: never, as configured", given(*STALE), step("failed", status=0))
case("stale: by configuration", given(*STALE), step("stale", status=503))
case(
    "stale: not against must-revalidate",
    given("Cache-Control: max-age=10, must-revalidate", "Age: 20"),
    asked(status=503),
)
case("stale: not against s-maxage", given("Cache-Control: s-maxage=10", "Age: 20"), asked(status=503))
case("Warning is dropped", given(FRESH, 'Warning: 110 - "old"'), hit(lacks="Warning"))

# ---- fields stored (3.1) -------------------------------------------------------------------------------------------

for _field in (
    "Test-Header: a", "X-Test: b", "Content-Foo: c", "Content-Encoding: x-none", "Content-MD5: x",
    "Content-Location: /x",
    "Content-Security-Policy: default-src 'self'", "Content-Type: a/b", "Clear-Site-Data: x", 'ETag: "q"',
    "Expires: {now-9}", "X-Frame-Options: deny", "X-XSS-Protection: 1", "WWW-Authenticate: Basic", "Server: x",
    "Content-Language: de", "Link: </a>; rel=b", "Retry-After: 9", "Accept-Ranges: bytes",
    "Strict-Transport-Security: x",
    "Content-Disposition: attachment", "Cache-Status: Origin; hit", "Location: /there", "Allow: GET", "Alt-Svc: clear",
):  # fmt: skip
    case(f"stored: {_field}", given(FRESH, _field), hit(has=_field))
for _field in (
    "Keep-Alive: x", "Proxy-Connection: x", "TE: x", "Upgrade: x", "Proxy-Authenticate: Basic",
    "Proxy-Authentication-Info: x", "Proxy-Authorization: x",
):  # fmt: skip
    case(f"not stored: {_field}", given(FRESH, _field), hit(lacks=_field))
case(
    "what Connection names is not stored",
    given(FRESH, "Connection: X-A, x-b", "X-A: 1", "X-B: 2", "X-C: 3"),
    hit(has="X-C: 3", lacks=("X-A", "X-B")),
)
case(
    "fields in their order, all of them",
    given(FRESH, "X-A: 1", "X-A: 2", "X-A: 3"),
    hit(has=("X-A: 1", "X-A: 2", "X-A: 3")),
)

# ---- methods (4, 4.3.5, 4.4) ---------------------------------------------------------------------------------------

case("HEAD from GET", given(FRESH), hit(method="HEAD", has="Content-Length: 6", gets=""))
case("what is sent beyond its length is not stored", given(FRESH, "Content-Length: 3", body="abcdef", gets="abc"))
case("HEAD is not stored for GET", given(FRESH, method="HEAD"), asked())
case("HEAD is not stored for HEAD", given(FRESH, method="HEAD"), asked(method="HEAD"))
case(
    "HEAD updates",
    given(*STALE, ETAG),
    asked(method="HEAD", fields=(FRESH, ETAG, "X-New: 1", "Content-Length: 6")),
    hit(gets="body 1", has="X-New: 1"),
)
case(
    "HEAD of another length ends it",
    given(*STALE, ETAG),
    asked(method="HEAD", fields=(FRESH, ETAG, "Content-Length: 99")),
    asked(not_sent="If-None-Match"),
)
case(
    "HEAD of another ETag ends it",
    given(*STALE, ETAG),
    asked(method="HEAD", fields=(FRESH, 'ETag: "v2"', "Content-Length: 6")),
    asked(not_sent="If-None-Match"),
)
case("HEAD validates", given(*STALE, ETAG), valid(method="HEAD", gets=""))
for _method in ("POST", "PUT", "DELETE", "PATCH"):
    case(f"{_method} is not stored", given(FRESH, method=_method), asked(method=_method))
    case(f"{_method} ends it", given(FRESH), asked(method=_method), asked())
    case(f"{_method} that moved ends it", given(FRESH), asked(method=_method, status=303), asked())
    case(f"{_method} that fails does not", given(FRESH), asked(method=_method, status=500), hit(gets="body 1"))
    case(f"{_method} that is refused does not", given(FRESH), asked(method=_method, status=403), hit(gets="body 1"))
case("OPTIONS ends nothing", given(FRESH), asked(method="OPTIONS"), hit(gets="body 1"))
case(
    "POST ends all variants",
    given(*_VARY, lines="Foo: 1"),
    given(*_VARY, lines="Foo: 2"),
    asked(method="POST"),
    asked("Foo: 1"),
    asked("Foo: 2"),
)
case(
    "and none comes back with the next",
    given(*_VARY, lines="Foo: 1"),
    given(*_VARY, lines="Foo: 2"),
    asked(method="POST"),
    given(*_VARY, lines="Foo: 1"),
    asked("Foo: 2"),
)

# ---- ranges (RFC 9110 section 14) ----------------------------------------------------------------------------------

_ALL = {"body": "0123456789"}
_PART = {"shown": 206}
case(
    "range: from the whole",
    given(FRESH, **_ALL),
    hit("Range: bytes=2-4", gets="234", has=("Content-Range: bytes 2-4/10", "Content-Length: 3"), **_PART),
)
case(
    "range: to the end",
    given(FRESH, **_ALL),
    hit("Range: bytes=7-", gets="789", has="Content-Range: bytes 7-9/10", **_PART),
)
case(
    "range: from the end",
    given(FRESH, **_ALL),
    hit("Range: bytes=-2", gets="89", has="Content-Range: bytes 8-9/10", **_PART),
)
case("range: beyond the end", given(FRESH, **_ALL), hit("Range: bytes=5-99", gets="56789", **_PART))
case("range: more than all from the end", given(FRESH, **_ALL), hit("Range: bytes=-99", gets="0123456789", **_PART))
case(
    "range: none of it",
    given(FRESH, **_ALL),
    hit("Range: bytes=10-", gets="", shown=416, has="Content-Range: bytes */10"),
)
case("range: nothing from the end", given(FRESH, **_ALL), hit("Range: bytes=-0", gets="", shown=416))
case("range: several", given(FRESH, **_ALL), hit("Range: bytes=0-1,4-5", gets="0123456789"))
case(
    "range: no range",
    given(FRESH, **_ALL),
    hit("Range: bytes=4-2", gets="0123456789"),
    hit("Range: lines=1-2", gets="0123456789"),
    hit("Range: bytes=-", gets="0123456789"),
)
case("range: of a 404", given(FRESH, status=404, **_ALL), hit("Range: bytes=1-2", gets="0123456789"))
case(
    "range: If-Range",
    given(FRESH, ETAG, **_ALL),
    hit("Range: bytes=1-2", 'If-Range: "v1"', gets="12", **_PART),
    hit("Range: bytes=1-2", 'If-Range: "v2"', gets="0123456789"),
)
case(
    "range: If-Range, weakly",
    given(FRESH, 'ETag: W/"v1"', **_ALL),
    hit("Range: bytes=1-2", 'If-Range: W/"v1"', gets="0123456789"),
)
case(
    "range: If-Range, a date",
    given(FRESH, "Last-Modified: Thu, 01 Jan 2015 00:00:00 GMT", **_ALL),
    hit("Range: bytes=1-2", "If-Range: Thu, 01 Jan 2015 00:00:00 GMT", gets="12", **_PART),
    hit("Range: bytes=1-2", "If-Range: Thu, 01 Jan 2026 00:00:00 GMT", gets="0123456789"),
)
case("range: of HEAD", given(FRESH, **_ALL), hit("Range: bytes=1-2", method="HEAD", gets=""))
case("range: and a condition", given(FRESH, ETAG, **_ALL), hit("Range: bytes=1-2", 'If-None-Match: "v1"', **_304))
case(
    "range: nothing stored",
    asked(
        "Range: bytes=0-3",
        sent="Range: bytes=0-3",
        status=206,
        body="0123",
        fields=(FRESH, "Content-Range: bytes 0-3/10"),
    ),
    asked(**_ALL),
)
_RANGE = "Range: bytes=2-4"
_SOME: dict[str, Any] = {"status": 206, "body": "234", "fields": (FRESH, "Content-Range: bytes 2-4/10", ETAG)}
case(
    "part: the same range",
    asked(_RANGE, **_SOME),
    hit("Range: bytes=02-004", gets="234", has=("Content-Range: bytes 2-4/10", "Age: 0"), **_PART),
    asked("Range: bytes=3-4"),
    asked("Range: bytes=2-"),
)
case("part: not for who wants all", asked(_RANGE, **_SOME), asked(**_ALL), hit(_RANGE, gets="234", **_PART))
case("part: others beside it", asked(_RANGE, **_SOME), asked("Range: bytes=0-1"), hit(_RANGE, gets="234", **_PART))
case("part: a condition", asked(_RANGE, **_SOME), hit(_RANGE, 'If-None-Match: "v1"', **_304))
case("part: not with If-Range", asked(_RANGE, **_SOME), asked(_RANGE, 'If-Range: "v1"'))
case("part: not to If-Range", asked(_RANGE, 'If-Range: "v1"', **_SOME), asked(_RANGE))
case("part: the whole goes first", asked(_RANGE, **_SOME), given(FRESH, **_ALL), hit(_RANGE, gets="234", **_PART))
case(
    "part: and is not lost by one",
    given(FRESH, **_ALL),
    asked(_RANGE, "Cache-Control: no-cache", **_SOME),
    hit(gets="0123456789"),
)
case("part: without a lifetime", asked(_RANGE, **(_SOME | {"fields": "Content-Range: bytes 2-4/10"})), asked(_RANGE))
case(
    "part: private",
    asked(_RANGE, **(_SOME | {"fields": ("Cache-Control: private", "Content-Range: bytes 2-4/10")})),
    asked(_RANGE),
)
case("part: known by name", asked(_RANGE, _AUTH, **_SOME), asked(_RANGE))
case("part: POST ends it", asked(_RANGE, **_SOME), asked(method="POST"), asked(_RANGE))
for _name, _given, _line in (
    ("another", "Range: bytes=2-4", "Content-Range: bytes 3-5/10"),
    ("less", "Range: bytes=2-8", "Content-Range: bytes 2-4/10"),
    ("of another length", "Range: bytes=2-5", "Content-Range: bytes 2-5/10"),
    ("none", "Range: bytes=2-4", "X-Range: bytes 2-4/10"),
    ("two", "Range: bytes=2-4,6-7", "Content-Range: bytes 2-4/10"),
    ("of other units", "Range: bytes=2-4", "Content-Range: lines 2-4/10"),
    ("not up to the end", "Range: bytes=2-", "Content-Range: bytes 2-4/10"),
    ("not from the end", "Range: bytes=-3", "Content-Range: bytes 2-4/10"),
):
    case(f"part: {_name}", asked(_given, **(_SOME | {"fields": (FRESH, _line)})), asked(_given))
for _name, _given, _line in (
    ("up to the end", "Range: bytes=2-", "Content-Range: bytes 2-4/5"),
    ("beyond the end", "Range: bytes=2-99", "Content-Range: bytes 2-4/5"),
    ("from the end", "Range: bytes=-3", "Content-Range: bytes 2-4/5"),
    ("more than all from the end", "Range: bytes=-99", "Content-Range: bytes 0-2/3"),
    ("of nobody knows how much", "Range: bytes=2-4", "Content-Range: bytes 2-4/*"),
):
    case(
        f"part: {_name}",
        asked(_given, **(_SOME | {"fields": (FRESH, _line)})),
        hit(_given, gets="234", has=_line, **_PART),
    )
case(
    "part: validated",
    asked(_RANGE, **(_SOME | {"fields": (*STALE, "Content-Range: bytes 2-4/10", ETAG)})),
    valid(_RANGE, fields=(FRESH, ETAG), sent=('If-None-Match: "v1"', _RANGE), gets="234", **_PART),
    hit(_RANGE, gets="234", has="Content-Range: bytes 2-4/10", **_PART),
)
case(
    "part: stale while it is validated it is not, for that asks for all",
    asked(
        _RANGE,
        **(
            _SOME
            | {
                "fields": (
                    "Cache-Control: max-age=10, stale-while-revalidate=99",
                    "Age: 20",
                    "Content-Range: bytes 2-4/10",
                )
            }
        ),
    ),
    asked(_RANGE),
)
case(
    "part: Vary",
    asked(_RANGE, "Foo: 1", **(_SOME | {"fields": (FRESH, "Vary: Foo", "Content-Range: bytes 2-4/10")})),
    hit(_RANGE, "Foo: 1", gets="234", **_PART),
    asked(_RANGE, "Foo: 2"),
)
case(
    "part: of everything is the whole",
    asked("Range: bytes=0-", status=206, body="0123456789", fields=(FRESH, "Content-Range: bytes 0-9/10", ETAG)),
    hit(gets="0123456789", shown=200, lacks="Content-Range"),
    hit(_RANGE, gets="234", has="Content-Range: bytes 2-4/10", **_PART),
    hit("Range: bytes=0-", gets="0123456789", has="Content-Range: bytes 0-9/10", **_PART),
)
case("416 is for nobody else", asked("Range: bytes=99-", status=416, fields=FRESH), asked(**_ALL))
case(
    "416 leaves what is stored",
    given(*STALE, ETAG),
    asked("Range: bytes=99-", status=416, fields=FRESH),
    valid(gets="body 1"),
)
case("range: the origin gives all", given(FRESH, lines="Range: bytes=0-3", **_ALL), hit(gets="0123456789"))
case("range: of a stale one", given(*STALE, ETAG, **_ALL), valid("Range: bytes=1-2", gets="12", **_PART))
case(
    "range: other fields stay",
    given(FRESH, "X-A: b", ETAG, "Content-Type: a/b", **_ALL),
    hit("Range: bytes=1-2", gets="12", has=("X-A: b", ETAG, "Content-Type: a/b", "Age: 0"), **_PART),
)

# ---- targeted fields (RFC 9213) ------------------------------------------------------------------------------------

case(
    "targeted: max-age",
    given("Cache-Control: no-store", "CDN-Cache-Control: max-age=100"),
    hit(has="CDN-Cache-Control: max-age=100"),
)
case("targeted: beats max-age", given(FRESH, "CDN-Cache-Control: max-age=0"), asked())
case("targeted: no-store", given(FRESH, "CDN-Cache-Control: no-store"), asked())
case("targeted: private", given(FRESH, "CDN-Cache-Control: private, max-age=9"), asked())
case("targeted: no-cache", given(FRESH, "CDN-Cache-Control: no-cache"), asked())
case("targeted: private alone", given(FRESH, "Expires: {now+90}", "CDN-Cache-Control: private"), asked())
case("targeted: no-cache validates", given(FRESH, "CDN-Cache-Control: no-cache", ETAG), valid())
case("targeted: max-age=0 and Expires", given("Expires: {now+90}", "CDN-Cache-Control: max-age=0"), asked())
case("targeted: Age counts", given("CDN-Cache-Control: max-age=50", "Age: 70"), asked())
case("targeted: shorter than max-age", given(FRESH, "CDN-Cache-Control: max-age=10", "Age: 20"), asked())
case("targeted: malformed, and no-store", given("Cache-Control: no-store", "CDN-Cache-Control: max-age=9, &"), asked())
case("targeted: a text, and no-store", given("Cache-Control: no-store", 'CDN-Cache-Control: max-age="9"'), asked())
case("targeted: Expires does not count", given("Expires: {now+100}", "CDN-Cache-Control: foo"), asked())
case("targeted: empty", given(FRESH, "CDN-Cache-Control:"), hit())
case("targeted: malformed", given(FRESH, "CDN-Cache-Control: max-age=0, =,"), hit())
case("targeted: malformed no-store", given(FRESH, "CDN-Cache-Control: no-store,"), hit())
case("targeted: upper case is malformed", given(FRESH, "CDN-Cache-Control: Max-Age=0"), hit())
case("targeted: parameters", given("CDN-Cache-Control: max-age=100;x=y, foo;bar"), hit())
case("targeted: a text is no number", given('CDN-Cache-Control: max-age="100"'), asked())
case("targeted: a fraction is none", given("CDN-Cache-Control: max-age=100.0"), asked())
case("targeted: the last one counts", given("CDN-Cache-Control: max-age=0, max-age=100"), hit())
case("targeted: two lines", given("CDN-Cache-Control: foo", "CDN-Cache-Control: max-age=100"), hit())
case(
    "targeted: must-revalidate",
    given("CDN-Cache-Control: max-age=10, must-revalidate", "Age: 20", ETAG),
    step("failed", status=0),
)
case(
    "surrogate: first",
    given("Cache-Control: no-store", "Surrogate-Control: max-age=100"),
    hit(lacks="Surrogate-Control"),
)
case("surrogate: no-store", given(FRESH, "Surrogate-Control: no-store"), asked())
case(
    "surrogate: a first client does not see it",
    given(FRESH, "Surrogate-Control: max-age=9", lacks="Surrogate-Control"),
    hit(),
)
case(
    "surrogate: it lasts over 304",
    given("Cache-Control: max-age=0", "Surrogate-Control: max-age=10", "Age: 20", ETAG),
    valid(fields=ETAG),
    hit(gets="body 1"),
)
case(
    "Surrogate-Control counts only where configured",
    given("Cache-Control: max-age=0", "Surrogate-Control: max-age=100"),
    asked(),
)
case(
    "surrogate keys are not shown",
    given(FRESH, "Surrogate-Key: a b", "Cache-Tag: c", lacks=("Surrogate-Key", "Cache-Tag")),
    hit(lacks=("Surrogate-Key", "Cache-Tag")),
)

# ---- configuration -------------------------------------------------------------------------------------------------

case("defaults: by status", given(), hit())
case("defaults: 404", given("Age: 40", status=404), asked())
case("defaults: 404, fresh", given("Age: 20", status=404), hit())
case("defaults: 503", given(status=503), hit())
case("defaults: 201", given(status=201), hit())
case("defaults: 302 has none", given(status=302), asked())
case("defaults: what is said counts", given("Cache-Control: max-age=0"), asked())
case("defaults: no-store", given("Cache-Control: no-store"), asked())
case("defaults: not for cookies", given(lines="Cookie: a=b"), asked())
case("override: instead of max-age=0", given("Cache-Control: max-age=0"), hit())
case("override: not instead of no-store", given("Cache-Control: no-store"), asked())
case("override: not instead of private", given("Cache-Control: private"), asked())
case("override: not for Authorization", given(FRESH, lines=_AUTH), asked())
case("quiet: no Cache-Status", given(FRESH, lacks="Cache-Status"), hit(has="Age", lacks="Cache-Status"))
case("small: too large", given(FRESH, body="0123456789a"), asked())
case("small: just fits", given(FRESH, body="0123456789"), hit())

# ---- against poisoning ---------------------------------------------------------------------------------------------

for _field in (
    "X-Original-URL: /admin",
    "X-Rewrite-URL: /admin",
    "X-HTTP-Method-Override: DELETE",
    "X-Host: evil",
    "X-Forwarded-Scheme: evil",
    "X-Forwarded-Prefix: /evil",
    "X-Forwarded-Server: evil",
):
    case(f"not sent on: {_field}", given(FRESH, lines=_field, not_sent=_field), hit())
case("X-Forwarded-Host is the gateway's own", given(FRESH, lines="X-Forwarded-Host: evil", not_sent="evil"), hit())

# ---- Cache-Status (RFC 9211) ---------------------------------------------------------------------------------------

case("status: miss", given(FRESH, has="Cache-Status: kairos; fwd=uri-miss; fwd-status=200; stored"))
case(
    "status: not stored",
    given("Cache-Control: no-store", has="Cache-Status: kairos; fwd=uri-miss; fwd-status=200; detail=no-store"),
)
case("status: stale", given(*STALE), asked(has="Cache-Status: kairos; fwd=stale"))
case("status: request", given(FRESH), asked("Cache-Control: no-cache", has="Cache-Status: kairos; fwd=request"))
case("status: bypass", asked("Cache-Control: no-store", has="Cache-Status: kairos; fwd=bypass"))


class Bench:
    """The gateway, its origin and a client connection for all cases."""

    def __init__(self, served: InProcess, source: Origin) -> None:
        self.served = served
        self.source = source
        self.peer = served.connect()
        self._paths = itertools.count(1)

    def run(self, name: str, steps: tuple[Step, ...]) -> None:
        prefix = name.partition(":")[0]
        path = f"/{prefix if prefix in POLICIES else 'plain'}/{next(self._paths)}"
        self.source.seen[path] = []
        stored = ""
        for number, this in enumerate(steps, 1):
            body = this.body if this.body is not None else f"body {number}"
            if this.expect == "valid":
                fields = this.fields or (FRESH,)
                self.source.replies[path] = 304, fields, ""
            else:
                self.source.replies[path] = this.status, this.fields, body
            before = len(self.source.seen[path])
            head, got = self._ask(path, this)
            label = f"{name}, request {number}: {head.decode('latin-1')}"
            if self.served.reports:
                raise self.served.reports[0]
            asked_now = self.source.seen[path][before:]
            if this.expect in ("hit", "504"):
                assert not asked_now, label
            else:
                assert asked_now, label
                self._check_sent(asked_now[-1], this, label)
            if this.expect == "asked" and this.method == "GET" and this.status not in (206, 304):
                stored = body
            self._check(head, got, this, stored, label)

    def _ask(self, path: str, this: Step) -> tuple[bytes, bytes]:
        lines = [dated(line) for line in this.lines]
        host = [] if any(line.lower().startswith("host:") for line in lines) else ["Host: test"]
        length = ["Content-Length: 0"] if this.method in ("POST", "PUT", "PATCH") else []
        head = "\r\n".join([f"{this.method} {path}{this.query} HTTP/1.1", *host, *lines, *length, "", ""])
        self.peer.send(head.encode("latin-1"))
        if this.method == "HEAD":
            return self.peer.receive_head(), b""
        return self.peer.receive_response()

    def _check_sent(self, request: str, this: Step, label: str) -> None:
        for line in this.sent:
            assert line.lower() in request.lower(), f"{line} was not sent; {label}"
        for line in this.not_sent:
            assert line.lower() not in request.lower(), f"{line} was sent; {label}"

    def _check(self, head: bytes, got: bytes, this: Step, stored: str, label: str) -> None:
        lines = head.decode("latin-1").lower().split("\r\n")
        shown = this.shown or {"504": 504, "failed": 502}.get(this.expect)
        if shown is None:
            shown = this.status if this.expect == "asked" else status_of(head)
        assert status_of(head) == shown, label
        if this.expect not in ("504", "failed") and this.method != "HEAD" and shown not in (204, 304):
            want = this.gets if this.gets is not None else self._body(this, stored)
            if want is not None:
                assert got.decode() == want, label
        for line in this.has:
            want = dated(line).lower()
            assert any(other.startswith(want if ":" in want else want + ":") for other in lines), (
                f"{line} lacks; {label}"
            )
        for line in this.lacks:
            assert not any(other.startswith(line.lower()) for other in lines), f"{line} is there; {label}"

    def _body(self, this: Step, stored: str) -> str | None:
        if this.expect == "asked":
            return None if this.status in (204, 304) else (this.body or None)
        return stored


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    source = Origin()
    with origin(source.script) as backend:
        routers = [
            {
                "external_path": f"/{name}/{{rest:path}}",
                "internal_path": f"/{name}/{{rest}}",
                "methods": ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"],
                "backends": [{"host": backend.url}],
                "circuit_breaker": {"enabled": False},
                "cache": policy,
            }
            for name, policy in POLICIES.items()
        ]
        with serving({"routers": routers, "cache_storage": {"memory_bytes": 16 << 20}}) as served:
            made = Bench(served, source)
            yield made
            made.peer.close()
            assert not served.reports


@pytest.mark.parametrize(("name", "steps"), CASES, ids=[name for name, _ in CASES])
def test_case(bench: Bench, name: str, steps: tuple[Step, ...]) -> None:
    bench.run(name, steps)


def test_there_are_enough_of_them() -> None:
    assert len(CASES) > 300
