"""What a shared cache may do with a response, and how old it is: RFC 9111, with RFC 9110 (conditions, ranges, Vary),
RFC 5861 (stale-*) and RFC 9213 (targeted fields).

Rules here: pure. Header fields are lists of (name, value) in bytes as received, times are unix seconds, passed in. What
cannot be read counts as the careful choice: a lifetime that is no number is none at all.
"""

from __future__ import annotations

import calendar
import functools
import re
from email.utils import formatdate
from typing import TYPE_CHECKING, Final, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Fields = list[tuple[bytes, bytes]]
Directives = dict[bytes, bytes | None]

FOREVER: Final = 1 << 31
"""Seconds; larger numbers mean this one (RFC 9111 section 1.2.2)."""
HEURISTIC: Final = frozenset((200, 203, 204, 300, 301, 308, 404, 405, 410, 414, 501))
"""Statuses that may be kept although nothing says how long (RFC 9110 section 15.1); 206 needs a word."""
FOR_ALL: Final = (b"public", b"s-maxage", b"must-revalidate")
"""Directives with which answers to Authorization may be stored (RFC 9111 section 3.5)."""
UNDERSTOOD: Final = frozenset(
    (
        *range(200, 206), *range(300, 304), 307, 308, *range(400, 418), *range(421, 427), 428, 429, 431, 451,
        *range(500, 509), 511,
    )
)  # fmt: skip
"""Statuses whose caching rules are known, for must-understand."""
_HOP = frozenset(
    (
        b"connection", b"keep-alive", b"proxy-connection", b"te", b"trailer", b"transfer-encoding", b"upgrade",
        b"proxy-authenticate", b"proxy-authentication-info", b"proxy-authorization",
    )
)  # fmt: skip
_NOT_KEPT = _HOP | {b"age", b"content-length", b"warning", b"x-request-id"}
_NOT_UPDATED = _NOT_KEPT | {b"content-encoding", b"content-range"}
_CASELESS = frozenset((b"accept", b"accept-charset", b"accept-encoding", b"accept-language"))
_DIRECTIVE = re.compile(rb'\s*([^\s,="]*)(\s*)(?:=(\s*)("(?:[^"\\]|\\.)*"|[^\s,]*))?[^,]*(?:,|$)', re.DOTALL)


# ---- fields --------------------------------------------------------------------------------------------------------


def values(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> list[bytes]:
    """Of all fields of this name (lower case)."""
    size = len(name)
    return [value for key, value in fields if len(key) == size and key.lower() == name]


def first(fields: Iterable[tuple[bytes, bytes]], name: bytes) -> bytes | None:
    """Of the first field of this name (lower case), or None."""
    size = len(name)
    for key, value in fields:
        if len(key) == size and key.lower() == name:
            return value
    return None


def directives(lines: Sequence[bytes]) -> Directives:
    """Cache-Control: what is said twice counts as it was said first. A blank around "=" spoils the value."""
    text = b",".join(lines)
    return _remembered(text) if len(text) <= 200 else _directives(text)


@functools.lru_cache(1024)
def _remembered(text: bytes) -> Directives:
    """There are few of them, and nobody changes what they say."""
    return _directives(text)


def _directives(text: bytes) -> Directives:
    found: Directives = {}
    at = 0
    while at < len(text):
        match = _DIRECTIVE.match(text, at)
        if match is None or match.end() == at:
            break
        at = match.end()
        name, before, after, value = match.groups()
        if value is not None and (before or after):
            value = b""
        if name:
            found.setdefault(name.lower(), _unquoted(value))
    return found


def _unquoted(value: bytes | None) -> bytes | None:
    if value is None or not value.startswith(b'"'):
        return value
    return re.sub(rb"\\(.)", rb"\1", value[1:-1] if len(value) > 1 and value.endswith(b'"') else value[1:])


def seconds(value: bytes | None) -> int | None:
    """delta-seconds, or None: it is none."""
    if value is None or not value.isdigit():
        return None
    return min(int(value[-11:]) if not value[:-11].strip(b"0") else FOREVER, FOREVER)


def names(value: bytes | None) -> set[bytes]:
    """The field names of no-cache="a, b"."""
    return {name.strip().lower() for name in (value or b"").split(b",")} - {b""}


_SF_ITEM = re.compile(
    rb'([a-z*][a-z0-9_.*-]*)(?:=(-?\d+\.\d+|-?\d{1,15}|\?[01]|"(?:[\x20-\x21\x23-\x5b\x5d-\x7e]|\\["\\])*"'
    rb"|[A-Za-z*][!#$%&'*+.^_`|~\w:/-]*|:[A-Za-z0-9+/=]*:|\([^()]*\)))?((?:; *[a-z*][a-z0-9_.*-]*(?:=[^;,]*)?)*)"
)


_NUMBERS = frozenset((b"max-age", b"s-maxage", b"stale-while-revalidate", b"stale-if-error"))


def targeted(lines: Sequence[bytes]) -> Directives | None:
    """A targeted field, a dictionary of structured fields (RFC 8941 section 3.2). None: empty or malformed."""
    text = b", ".join(lines).strip(b" ")
    found: Directives = {}
    while text:
        match = _SF_ITEM.match(text)
        if match is None:
            return None
        name, value, _ = match.groups()
        found.pop(name, None)  # the last one counts
        if value in (None, b"?1"):
            found[name] = None
        elif value != b"?0" and (name not in _NUMBERS or re.fullmatch(rb"-?\d+", value)):
            found[name] = _unquoted(value)
        text = text[match.end() :].lstrip(b" \t")
        if text and not text.startswith(b","):
            return None
        if text and not (text := text[1:].lstrip(b" \t")):
            return None
    return found or None


# ---- times ---------------------------------------------------------------------------------------------------------

_MONTHS = {
    name: i
    for i, name in enumerate(
        (b"jan", b"feb", b"mar", b"apr", b"may", b"jun", b"jul", b"aug", b"sep", b"oct", b"nov", b"dec"), 1
    )
}
_DAY = rb"(?:mon|tue|wed|thu|fri|sat|sun)"
_TIME = rb"(\d\d):(\d\d):(\d\d)"
_IMF = re.compile(_DAY + rb", (\d\d) ([a-z]{3}) (\d{4}) " + _TIME + rb" gmt")
_RFC850 = re.compile(rb"(?:mon|tues|wednes|thurs|fri|satur|sun)day, (\d\d)-([a-z]{3})-(\d\d) " + _TIME + rb" gmt")
_ASCTIME = re.compile(_DAY + rb" ([a-z]{3}) ([ \d]\d) " + _TIME + rb" (\d{4})")


def date(value: bytes | None, now: float = 0.0) -> int | None:
    """An HTTP-date in unix seconds, in any of its three forms and any case (RFC 9111 section 4.2); None: it is none."""
    if value is None:
        return None
    text = value.strip(b" \t").lower()
    if match := _IMF.fullmatch(text):
        day, month, year, *clock = match.groups()
    elif match := _RFC850.fullmatch(text):
        day, month, short, *clock = match.groups()
        year = b"%d" % _century(int(short), now)
    elif match := _ASCTIME.fullmatch(text):
        month, day, *clock, year = match.groups()
    else:
        return None
    hour, minute, second = map(int, clock)
    number = _MONTHS.get(month)
    if number is None or hour > 23 or minute > 59 or second > 60 or not 1 <= int(day) <= _days(int(year), number):
        return None
    return calendar.timegm((int(year), number, int(day), hour, minute, second))


def http_date(now: float) -> bytes:
    """The form that is sent."""
    return formatdate(now, usegmt=True).encode()


def _days(year: int, month: int) -> int:
    return calendar.monthrange(year, month)[1] if year else 0


def _century(short: int, now: float) -> int:
    """Of a year in two digits: more than 50 years ahead means the past (RFC 9110 section 5.6.7)."""
    current = 1970 + int(now / 31_556_952)
    year = current // 100 * 100 + short
    return year - 100 if year > current + 50 else year


def age(lines: Sequence[bytes]) -> int:
    """Of an Age field: its first value counts, and what is no number does not (RFC 9111 section 5.1)."""
    if not lines:
        return 0
    return seconds(lines[0].split(b",")[0].strip(b" \t")) or 0


def initial_age(fields: Fields, asked_at: float, answered_at: float) -> float:
    """corrected_initial_age (RFC 9111 section 4.2.3)."""
    sent = date(first(fields, b"date"), answered_at)
    apparent = max(0.0, answered_at - sent) if sent is not None else 0.0
    if apparent < 1.0:
        apparent = 0.0  # Date tells whole seconds: less than one says nothing
    return max(apparent, age(values(fields, b"age")) + max(0.0, answered_at - asked_at))


# ---- what a response says ------------------------------------------------------------------------------------------


class Rules(NamedTuple):
    """What the configuration adds."""

    default_ttl: float | None = None
    """For responses that say nothing of how long they are fresh."""
    ttl_by_status: dict[int, float] = {}  # noqa: RUF012  (never changed)
    override_ttl: float | None = None
    """Whatever the response says."""
    heuristic: float = 0.1
    """Part of the time since it was changed."""
    heuristic_max: float = 86_400.0
    set_cookie: Literal["refuse", "explicit", "strip", "store"] = "explicit"
    targeted: tuple[bytes, ...] = (b"cdn-cache-control",)
    stale_if_error: float = 0.0
    stale_while_revalidate: float = 0.0
    stale_if_unreachable: float = 0.0
    ignore_cookies: bool = False
    """A request's cookies do not make guesses of ours risky."""


class Said(NamedTuple):
    """The directives in force: of the first targeted field that is there and sound, else of Cache-Control."""

    directives: Directives
    own: bool
    """It is a targeted field: Cache-Control and Expires do not count."""


def said(fields: Fields, rules: Rules) -> Said:
    """See Said."""
    for name in rules.targeted:
        lines = values(fields, name)
        if lines:
            found = directives(lines) if name == b"surrogate-control" else targeted(lines)
            if found is not None:
                return Said(found, True)
    return Said(directives(values(fields, b"cache-control")), False)


def explicit_lifetime(fields: Fields, what: Said, now: float) -> float | None:
    """Seconds that the response gives itself, or None: it says nothing."""
    for name in (b"s-maxage", b"max-age"):
        if name in what.directives:
            return float(seconds(what.directives[name]) or 0)
    lines = [] if what.own else values(fields, b"expires")
    if not lines:
        return None
    expires = date(lines[0], now)
    if expires is None:
        return 0.0
    sent = date(first(fields, b"date"), now)
    return max(0.0, expires - (now if sent is None else sent))


def lifetime(status: int, fields: Fields, what: Said, rules: Rules, now: float, cookie: bool = False) -> float:
    """Seconds for which the response is fresh, from its making on."""
    if rules.override_ttl is not None:
        return rules.override_ttl
    given = explicit_lifetime(fields, what, now)
    if given is not None:
        return given
    if cookie and not rules.ignore_cookies and b"public" not in what.directives:
        return 0.0
    if status in rules.ttl_by_status:
        return rules.ttl_by_status[status]
    if status not in HEURISTIC and b"public" not in what.directives:
        return 0.0
    if rules.default_ttl is not None:
        return rules.default_ttl
    changed = date(first(fields, b"last-modified"), now)
    sent = date(first(fields, b"date"), now)
    if changed is None:
        return 0.0
    return min(rules.heuristic_max, max(0.0, (now if sent is None else sent) - changed) * rules.heuristic)


def refusal(
    status: int, request: Fields, fields: Fields, what: Said, rules: Rules, identified: bool = False, part: bool = False
) -> str:
    """Why an answer to a GET must not be stored; empty: it may. `identified`: the gateway knows who asked; `part`: it
    is the one that was asked for."""
    cc = what.directives
    if status < 200 or status in (304, 416) or (status == 206 and not part):
        return "status"  # 416 is about the one client's range, and would be given to all
    if b"must-understand" in cc:
        if status not in UNDERSTOOD:
            return "must-understand"
    elif b"no-store" in cc:
        return "no-store"
    if b"private" in cc and cc[b"private"] is None:
        return "private"
    if b"no-store" in directives(values(request, b"cache-control")):
        return "request-no-store"
    shared = not cc.keys().isdisjoint(FOR_ALL)
    if (identified or first(request, b"authorization") is not None) and not shared:
        return "authorization"
    if vary(fields) is None:
        return "vary-star"
    if first(fields, b"set-cookie") is not None and not cookie_allowed(cc, rules):
        return "set-cookie"
    return ""


def cookie_allowed(cc: Directives, rules: Rules) -> bool:
    """Whoever sets cookies for all must say so: most did not mean it."""
    if rules.set_cookie == "explicit":
        return b"public" in cc or b"s-maxage" in cc
    return rules.set_cookie != "refuse"


class Staleness(NamedTuple):
    """What may be done with it once it is stale."""

    validate_always: bool
    """Not even while it is fresh without asking."""
    never: bool
    """Not without asking, whoever fails."""
    implicit: bool
    """It forbids what it does not allow itself: no max-stale of clients, nor our defaults."""
    while_revalidate: float
    if_error: float
    if_unreachable: float
    """Section 4.2.4: where the upstream gives no answer at all, unless it forbids that."""


def staleness(what: Said, rules: Rules) -> Staleness:
    """See Staleness. no-cache with names is about those fields, which are not stored."""
    cc = what.directives
    always = b"no-cache" in cc and cc[b"no-cache"] is None
    never = always or b"must-revalidate" in cc or b"proxy-revalidate" in cc
    implicit = never or b"s-maxage" in cc
    own_swr, own_sie = seconds(cc.get(b"stale-while-revalidate")), seconds(cc.get(b"stale-if-error"))
    swr = own_swr if own_swr is not None else 0.0 if implicit else rules.stale_while_revalidate
    sie = own_sie if own_sie is not None else 0.0 if implicit else rules.stale_if_error
    alone = 0.0 if implicit else rules.stale_if_unreachable
    return Staleness(always, never, implicit, 0.0 if never else swr, 0.0 if never else sie, alone)


# ---- what is kept --------------------------------------------------------------------------------------------------


def kept_fields(fields: Fields, what: Said, rules: Rules) -> Fields:
    """Those that are stored: none of a connection's or a proxy's own, nor those named as not to be (section 3.1)."""
    gone = set(_NOT_KEPT)
    for value in values(fields, b"connection"):
        gone |= names(value)
    gone |= names(what.directives.get(b"no-cache")) | names(what.directives.get(b"private"))
    if rules.set_cookie == "strip":
        gone.add(b"set-cookie")
    return [(name, value) for name, value in fields if name.lower() not in gone]


def updated_fields(stored: Fields, fields: Fields) -> Fields:
    """Stored fields after a 304 or a HEAD brought these (RFC 9111 section 3.2)."""
    listed: set[bytes] = set()
    for value in values(fields, b"connection"):
        listed |= names(value)
    new = [(name, value) for name, value in fields if name.lower() not in _NOT_UPDATED and name.lower() not in listed]
    replaced = {name.lower() for name, _ in new}
    return [field for field in stored if field[0].lower() not in replaced] + new


def is_same(stored: Fields, fields: Fields, length: int) -> bool:
    """Whether an answer to HEAD is about what is stored: it tells of no other validator or length (section 4.3.5)."""
    for name in (b"etag", b"last-modified"):
        new = first(fields, name)
        if new is not None and new != first(stored, name):
            return False
    said_length = first(fields, b"content-length")
    return said_length is None or said_length == b"%d" % length


def updates(stored: Fields, fields: Fields) -> bool:
    """Whether a 304 is about what is stored: its strong ETag, where it has one, is the stored one (section 4.3.4)."""
    etag, own = first(fields, b"etag"), first(stored, b"etag")
    if etag is None or own is None:
        return True
    return etag == own if not etag.startswith(b"W/") else opaque(etag) == opaque(own)


# ---- variants ------------------------------------------------------------------------------------------------------


def vary(fields: Fields) -> tuple[bytes, ...] | None:
    """Names of the request fields it was chosen by, in order; None for `*`."""
    found: set[bytes] = set()
    for value in values(fields, b"vary"):
        found |= names(value)
    return None if b"*" in found else tuple(sorted(found))


def normal(name: bytes, lines: list[bytes]) -> bytes:
    """A request field's value, so that those that mean the same are the same (section 4.1): lines joined, blanks out.

    Of Accept-Encoding the order does not count either.
    """
    members = [re.sub(rb"\s*([;=])\s*", rb"\1", member.strip(b" \t")) for line in lines for member in line.split(b",")]
    members = [member for member in members if member]
    if name in _CASELESS:
        members = [member.lower() for member in members]
    if name == b"accept-encoding":
        members.sort()
    return b",".join(members)


def variant(request: Fields, spec: Sequence[bytes]) -> bytes:
    """What a request says in these fields, as part of a key. A field that is not there is not an empty one."""
    parts = []
    for name in spec:
        lines = values(request, name)
        parts.append(name + (b"=" + normal(name, lines) if lines else b""))
    return b"\n".join(parts)


# ---- conditions and ranges -----------------------------------------------------------------------------------------

_ETAG = re.compile(rb'\s*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*"|[^",\s]+)\s*(?:,|$)')


def opaque(etag: bytes) -> bytes:
    """An ETag without its weakness."""
    return etag[2:] if etag.startswith(b"W/") else etag


def etags(lines: Sequence[bytes]) -> list[bytes]:
    """The members of If-None-Match; one without quotes is taken as it is."""
    return [match.group(1) for match in _ETAG.finditer(b",".join(lines))]


def not_modified(request: Fields, status: int, stored: Fields, received_at: float) -> bool:
    """Whether the client's conditions are met by 304 (RFC 9110 section 13.2.2, RFC 9111 section 4.3.2)."""
    if not 200 <= status < 300:
        return False
    lines = values(request, b"if-none-match")
    if lines:
        own = first(stored, b"etag")
        given = etags(lines)
        return b"*" in given or (own is not None and opaque(own) in map(opaque, given))
    since = date(first(request, b"if-modified-since"), received_at)
    if since is None:
        return False
    changed = date(first(stored, b"last-modified"), received_at)
    if changed is None:
        changed = date(first(stored, b"date"), received_at)
    return (received_at if changed is None else changed) <= since


def not_modified_fields(stored: Fields) -> Fields:
    """What a 304 made here says of the stored response: nothing of its content (RFC 9110 section 15.4.5)."""
    return [
        field
        for field in stored
        if not (name := field[0].lower()).startswith(b"content-")
        or name in (b"content-location", b"content-security-policy")
    ]


_RANGE = re.compile(rb"\s*bytes\s*=\s*(\d*)-(\d*)\s*", re.IGNORECASE)


def part(request: Fields, status: int, stored: Fields, size: int) -> tuple[int, int] | Literal["whole", "none"]:
    """The bytes asked for of a complete 200: first and one past the last; "none" of them are there.

    Several ranges, or a condition that is not met, give the whole (RFC 9110 section 14.2).
    """
    lines = values(request, b"range")
    if status != 200 or len(lines) != 1 or not _if_range(request, stored):
        return "whole"
    match = _RANGE.fullmatch(lines[0])
    if match is None:
        return "whole"
    low, high = match.groups()
    if not low:
        length = int(high[-18:] or b"0") if high else -1
        if length < 0:
            return "whole"
        return (max(0, size - length), size) if length and size else "none"
    start, stop = int(low[-18:]), int(high[-18:]) + 1 if high else size
    if high and stop <= start:
        return "whole"
    return (start, min(stop, size)) if start < size else "none"


def one_range(request: Fields) -> bytes | None:
    """The one range of bytes that is asked for on no condition, the same always written alike; None: there is none."""
    lines = values(request, b"range")
    if len(lines) != 1 or first(request, b"if-range") is not None:
        return None
    match = _RANGE.fullmatch(lines[0])
    if match is None or match.group(1) == match.group(2) == b"":
        return None
    return b"-".join(number and number.lstrip(b"0").rjust(1, b"0") for number in match.groups())


_CONTENT_RANGE = re.compile(rb"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)", re.IGNORECASE)


def _content_range(fields: Fields) -> tuple[int, int, int | None] | None:
    """First byte, last byte and length of the whole that a 206 tells of; None: it does not."""
    lines = values(fields, b"content-range")
    match = _CONTENT_RANGE.fullmatch(lines[0].strip(b" \t")) if len(lines) == 1 else None
    if match is None:
        return None
    return int(match.group(1)), int(match.group(2)), None if match.group(3) == b"*" else int(match.group(3))


def as_whole(fields: Fields) -> Fields | None:
    """Fields of the 200 that a 206 with all of it is as good as (RFC 9110 section 15.3.7.3); None: it is a part."""
    told = _content_range(fields)
    if told is None or told[0] != 0 or told[1] + 1 != told[2]:
        return None
    return [field for field in fields if field[0].lower() != b"content-range"]


def answers_range(wanted: bytes, fields: Fields) -> bool:
    """Whether a 206 is the part that was asked for (see one_range), and says how long it is."""
    told = _content_range(fields)
    if told is None:
        return False
    start, last, size = told
    low, _, high = wanted.partition(b"-")
    if not low:
        right = size is not None and last == size - 1 and start == max(0, size - int(high))
    else:
        end = last if not high else int(high)
        right = start == int(low) and (last == end or (last < end and size == last + 1))
        right = right and (bool(high) or size == last + 1)
    return right and start <= last and first(fields, b"content-length") == b"%d" % (last - start + 1)


def _if_range(request: Fields, stored: Fields) -> bool:
    """A strong validator, compared strongly (RFC 9110 section 13.1.5)."""
    condition = first(request, b"if-range")
    if condition is None:
        return True
    condition = condition.strip(b" \t")
    if condition.startswith(b'"'):
        return condition == first(stored, b"etag")
    changed = first(stored, b"last-modified")
    sent = date(first(stored, b"date"))
    when = date(changed)
    return condition == changed and when is not None and sent is not None and sent - when >= 1


# ---- requests ------------------------------------------------------------------------------------------------------


class Wanted(NamedTuple):
    """What the client's Cache-Control asks for; None: nothing."""

    validated: bool = False
    only_if_cached: bool = False
    not_stored: bool = False
    max_age: int | None = None
    min_fresh: int = 0
    max_stale: float = 0.0


ANYTHING: Final = Wanted()


def wanted(request: Fields) -> Wanted:
    """See Wanted. Pragma counts where there is no Cache-Control (RFC 9111 section 5.4)."""
    lines = values(request, b"cache-control")
    if not lines:
        pragma = b",".join(values(request, b"pragma")).lower()
        return Wanted(validated=True) if b"no-cache" in pragma else ANYTHING
    cc = directives(lines)
    stale = 0.0
    if b"max-stale" in cc:
        stale = float("inf") if cc[b"max-stale"] is None else float(seconds(cc[b"max-stale"]) or 0)
    return Wanted(
        validated=b"no-cache" in cc,
        only_if_cached=b"only-if-cached" in cc,
        not_stored=b"no-store" in cc,
        max_age=(seconds(cc[b"max-age"]) or 0) if b"max-age" in cc else None,
        min_fresh=seconds(cc.get(b"min-fresh")) or 0,
        max_stale=stale,
    )


# ---- what is invalidated, and tags ---------------------------------------------------------------------------------


def invalidates(status: int) -> bool:
    """Whether an answer to an unsafe method makes what is stored doubtful (RFC 9111 section 4.4)."""
    return 200 <= status < 400


def same_origin(url: bytes, origin: bytes, base: bytes = b"/") -> bytes | None:
    """Path and query of a Location or Content-Location on this origin (`scheme://host`), else None."""
    url = url.strip(b" \t").partition(b"#")[0]
    if url.lower().startswith(origin + b"/") or url.lower() == origin:
        return url[len(origin) :] or b"/"
    if url.startswith(b"/") and not url.startswith(b"//"):
        return url
    if url and re.match(rb"[a-zA-Z][a-zA-Z0-9+.-]*:|//", url) is None:
        return base.partition(b"?")[0].rpartition(b"/")[0] + b"/" + url if not url.startswith(b"?") else base + url
    return None


def tags(fields: Fields) -> list[bytes]:
    """Of Surrogate-Key (by blanks) and Cache-Tag (by commas)."""
    found = [tag for value in values(fields, b"surrogate-key") for tag in value.split()]
    found += [tag for value in values(fields, b"cache-tag") for tag in re.split(rb"[,\s]+", value)]
    return list(dict.fromkeys(tag for tag in found if tag))
