"""A shared cache in front of a route: RFC 9111, the decisions of which are in proxy/cachecontrol.py.

    consider   GET, HEAD: answer from what is stored, wait for who fetches it already, or go on and remember why
    on_response  what the upstream said: store it, or use what is stored in its place

Rules here:
- What is not part of a key is not sent upstream either: fields that frameworks take for another path or host, and
  query parameters that are ignored. A request with a body goes past the cache.
- A response is stored when all of it came, and only if it says where it ends.
- One fetches, others wait, but never for what could not be stored lately, and no longer than `collapse`.
- Whatever goes wrong with the cache itself, the request is answered without it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import unquote_to_bytes

import msgspec

from kairos._speedups.cells import (
    R_CACHE_BYPASSED,
    R_CACHE_COLLAPSED,
    R_CACHE_HITS,
    R_CACHE_MISSES,
    R_CACHE_STALE,
    R_CACHE_STORED,
    R_CACHE_STORED_BYTES,
    R_CACHE_VALIDATED,
)  # fmt: skip
from kairos.proxy import cachecontrol as cc
from kairos.proxy.cachecontrol import Rules, Said
from kairos.proxy.edits import Edits, addition
from kairos.proxy.exchange import BodyPipe, Response
from kairos.proxy.fields import OVERRIDING, RESPONSE_OWN
from kairos.proxy.filters import cachehit
from kairos.proxy.filters.cacheentry import (
    Entry,
    Marker,
    lives_ms,
    monotonic_us,
    of_marker,
    of_pass,
    of_response,
    to_monotonic,
    to_unix,
)  # fmt: skip
from kairos.proxy.filters.cachehit import APART, MARKER, PASS, CacheHit, Look
from kairos.rediscache import Put, RedisCache
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable

    from kairos.config.policies.cache import Cache as Spec
    from kairos.proxy.cachecontrol import Fields, Wanted
    from kairos.proxy.detached import Fetched
    from kairos.proxy.exchange import Exchange
    from kairos.proxy.site import Services, Site

log = get_logger("cache")
SAFE = frozenset(("OPTIONS", "TRACE"))
POLL_S: Final = 0.01
"""How often those who wait look whether another worker has it."""
_WORDS = {"stale": "expired", "request": "refresh"}
"""For the log, of what is asked upstream."""
RANGE: Final = b":range"
"""Pseudo-field of the range that is asked for: parts (206) are told apart by it."""
_CONDITIONS = ("If-None-Match", "If-Modified-Since")
_NOT_ASKED = frozenset((b"range", b"if-range", b"if-match", b"if-unmodified-since", b"if-none-match", b"host"))
_SAID = re.compile(rb"(?i)\b(host|proto)=(\"[^\"]*\"|[^;,]*)")
"""Of Forwarded, what is not about addresses."""
_FILES = {
    b"css": b"text/css", b"js": b"javascript", b"mjs": b"javascript", b"json": b"json", b"png": b"image/",
    b"jpg": b"image/", b"jpeg": b"image/", b"gif": b"image/", b"webp": b"image/", b"avif": b"image/", b"svg": b"image/",
    b"ico": b"image/", b"woff": b"font", b"woff2": b"font", b"ttf": b"font", b"pdf": b"pdf", b"mp4": b"video/",
    b"webm": b"video/", b"mp3": b"audio/", b"wasm": b"wasm", b"txt": b"text/plain", b"xml": b"xml",
}  # fmt: skip
"""What the type of a file holds that ends so, for guard_types."""


class _Wait:
    """In place of an answer: another one fetches it."""


_WAIT: Final = _Wait()


class Keeper:
    """What outlives a snapshot: who waits in this worker, and what is under way without a client."""

    def __init__(self) -> None:
        self.waiters: dict[int, asyncio.Event] = {}
        self.tasks: set[asyncio.Task[None]] = set()

    async def turn(self, mark: int) -> None:
        """Until somebody of this worker has it, or for a moment."""
        event = self.waiters.setdefault(mark, asyncio.Event())
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(event.wait(), POLL_S)

    def wake(self, mark: int) -> None:
        event = self.waiters.pop(mark, None)
        if event is not None:
            event.set()

    def start(self, work: Any) -> None:
        task = asyncio.ensure_future(work)
        self.tasks.add(task)
        task.add_done_callback(self._over)

    def _over(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("background revalidation failed", exc_info=error)


def build(site: Site) -> Cache | None:
    """The cache of a route."""
    spec = site.policies.cache
    if spec is None or site.board.cache is None:
        return None
    return Cache(site, spec)


def _redis_of(site: Site, spec: Spec) -> RedisCache | None:
    """Where it is kept, if not in this node's memory."""
    section = site.config.redis
    if spec.store == "memory" or section is None:
        return None
    return site.kept(("cache", msgspec.json.encode(section)), lambda: RedisCache(section))


def _of_this_node(found: dict[bytes, tuple[bytes, bytes, bool]]) -> dict[bytes, tuple[bytes, bytes, bool]]:
    """Entries with times of this node's clock."""
    return {key: (to_monotonic(meta), body, purged) for key, (meta, body, purged) in found.items()}


def rules_of(spec: Spec) -> Rules:
    """The spec in the core's terms."""
    by_status: dict[int, float] = {}
    for text, seconds in sorted(spec.ttl.items(), key=lambda item: "x" not in item[0]):  # classes first
        first = int(text[0]) * 100
        for status in range(first, first + 100) if "x" in text else (int(text),):
            by_status[status] = seconds
    return Rules(
        default_ttl=spec.default_ttl,
        ttl_by_status=by_status,
        override_ttl=spec.override_ttl,
        heuristic=spec.heuristic,
        heuristic_max=spec.heuristic_max,
        set_cookie=spec.set_cookie,
        targeted=tuple(name.lower().encode() for name in spec.targeted),
        stale_if_error=spec.stale_if_error,
        stale_while_revalidate=spec.stale_while_revalidate,
        stale_if_unreachable=spec.stale_if_unreachable,
        ignore_cookies=spec.cookies == "ignore",
    )


class Tap(BodyPipe):
    """Copies a body on its way, and has it stored once it is whole."""

    def __init__(self, cache: Cache, x: Exchange, look: Look, status: int, fields: Fields, room: int) -> None:
        self._cache = cache
        self._x = x
        self._look = look
        self._status = status
        self._fields = fields
        self._room = room
        self._pieces: list[bytes] = []
        self._answered = monotonic_us(), time.time()

    def feed(self, data: bytes) -> bytes:
        self._room -= len(data)
        if self._room >= 0:
            self._pieces.append(data)
        elif self._pieces:
            self._pieces = []
            self._cache.settle(self._look)
        return data

    def finish(self) -> bytes:
        if self._room >= 0:
            body = b"".join(self._pieces)
            if self._cache.keep(self._look, self._status, self._fields, body, *self._answered):
                self._cache.count(self._x, R_CACHE_STORED)
                self._cache.count(self._x, R_CACHE_STORED_BYTES, len(body))
        self._cache.settle(self._look)
        return b""

    def abort(self) -> None:
        self._cache.settle(self._look)


class Cache(CacheHit):
    """See the top of this file. Fresh answers to plain requests are given by CacheHit.on_request."""

    def __init__(self, site: Site, spec: Spec) -> None:
        plain = spec.query is None and spec.key is None
        slow = cachehit.COOKIE if spec.cookies == "bypass" else 0
        assert site.board.cache is not None
        self._redis = _redis_of(site, spec)
        hidden = frozenset(name.lower().encode() for name in spec.strip)
        self._rules = rules_of(spec)
        self._keeper = site.kept(("cache",), Keeper)
        store = site.board.cache if self._redis is None else None
        special = hidden.union(self._rules.targeted)
        super().__init__(store, plain, spec.status_header, slow, special, self._keeper.waiters)
        self._store = site.board.cache
        self._spec = spec
        self._services: Services = site.services
        self.collapse_us = int(spec.collapse * 1e6)
        self._hidden = hidden
        self._by = Distinctions(spec)
        self.most = min(spec.max_entry, self._store.max_entry - 4096)
        self.guards = spec.guard_types

    # -- a request ----------------------------------------------------------------------------------------------------

    def consider(self, x: Exchange, asks: int) -> Response | Awaitable[Response | None] | None:
        """Answer, wait, or go on."""
        look = Look(self.url_of(x), x.upstream_headers, asks)
        if self._spec.client_directives and asks & cachehit.DIRECTIVES:
            look.wanted = cc.wanted(look.request)
        if asks & (cachehit.FORWARD | cachehit.BODY) or look.wanted.not_stored or self._passes(asks):
            self._bypass(x, look)
            return None
        if self._spec.query is not None:
            look.url, target = self._by.without_ignored(look.url, x.upstream_target)
            x.upstream_target = target
        look.needs, pseudo = self._by.of(x, asks)
        look.request = look.request + pseudo
        if asks & cachehit.RANGE and x.method == "GET" and (part := cc.one_range(look.request)) is not None:
            look.request.append((RANGE, part))
        if self._redis is not None:
            return self._consult(x, look, self._redis)
        outcome = self._judge(x, look, self._find(look))
        return self._wait(x, look) if isinstance(outcome, _Wait) else outcome

    async def _consult(self, x: Exchange, look: Look, redis: RedisCache) -> Response | None:
        """The same with what Redis has."""
        await self._load(look, redis)
        outcome = self._judge(x, look, self._find(look))
        return await self._wait(x, look) if isinstance(outcome, _Wait) else outcome

    async def _load(self, look: Look, redis: RedisCache) -> None:
        look.there = _of_this_node(await redis.get([look.url]))
        found = look.there.get(look.url)
        if found is not None and Entry.of(found).flags & MARKER:
            marker = Marker.of(found[1])
            keys = [marker.key(look.url, spec, look.request) for spec in marker.specs]
            look.there |= _of_this_node(await redis.get(keys))

    def _get(self, look: Look, key: bytes) -> tuple[bytes, bytes, bool] | None:
        return self._store.get(key) if self._redis is None else look.there.get(key)

    def marked(self, marker: bytes) -> tuple[bytes, tuple[bytes, ...]] | tuple[()]:
        """See CacheHit."""
        made = Marker.of(marker)
        whole = [spec for spec in made.specs if RANGE not in spec]
        if len(whole) != 1 or any(name.startswith(b":") for name in whole[0]):
            return ()
        return b"\n" + made.nonce.hex().encode() + b"\n", tuple(whole[0])

    def parted(self, name: bytes, lines: list[bytes]) -> bytes:
        """See CacheHit."""
        return cc.variant([(name, line) for line in lines], (name,))

    def judge(self, control: bytes) -> int:
        """See CacheHit."""
        what = Said(cc.directives([control]), own=False)
        words = what.directives
        verdict = 0 if words.keys().isdisjoint(cc.FOR_ALL) else cachehit.SHARED
        if cc.cookie_allowed(words, self._rules):
            verdict |= cachehit.COOKIES
        if b"must-understand" in words:
            return cachehit.ASK
        if b"no-store" in words:
            return verdict | cachehit.NO_STORE
        if b"private" in words and words[b"private"] is None:
            return verdict | cachehit.PRIVATE
        return verdict | self._freshness(what)

    def _freshness(self, what: Said) -> int:
        """Of what may be stored, whether it would be of any use."""
        stale = cc.staleness(what, self._rules)
        given = cc.explicit_lifetime([], what, 0.0)
        if stale.while_revalidate or stale.if_error or self._rules.override_ttl is not None or given:
            return cachehit.STORED
        if given is not None:
            return cachehit.ZERO
        return cachehit.STORED if self._rules.ttl_by_status or self._rules.default_ttl else cachehit.SILENT

    def saying(self, status: int, reason: str) -> Edits:
        """See CacheHit."""
        return Edits([addition("Cache-Status", _told("uri-miss", status, stored=False, detail=reason), RESPONSE_OWN)])

    def _passes(self, asks: int) -> bool:
        return bool(asks & cachehit.COOKIE) and self._spec.cookies == "bypass"

    def _bypass(self, x: Exchange, look: Look) -> None:
        if look.wanted.only_if_cached:
            x.fail_as("not_cached")
            return
        look.why = "bypass"
        look.stores = False
        self.mark(x, "bypass")
        self._note(x, look)
        self.count(x, R_CACHE_BYPASSED)

    def _note(self, x: Exchange, look: Look) -> None:
        if x.notes is None:
            x.notes = {}
        x.notes[self] = look

    def _find(self, look: Look) -> Entry | None:
        """The latest stored response that this request may get, fresh or not: the whole before the part it wants."""
        entry = self._found(look)
        if entry is None and cc.first(look.request, RANGE) is not None:
            look.needs |= {RANGE}
            entry = self._found(look)
        return entry

    def _found(self, look: Look) -> Entry | None:
        found = self._get(look, look.url)
        if found is None:
            return None
        entry = Entry.of(found)
        if entry.flags & PASS:
            look.passed = entry.is_fresh(monotonic_us())
            return None
        if not entry.flags & MARKER:
            return None if look.needs else entry
        look.why = "vary-miss"
        marker = Marker.of(entry.body)
        variants = [
            self._get(look, marker.key(look.url, spec, look.request))
            for spec in marker.specs
            if look.needs.issubset(spec)
        ]
        entries = [Entry.of(variant) for variant in variants if variant is not None]
        return max(entries, key=lambda variant: variant.stored, default=None)

    def _judge(self, x: Exchange, look: Look, entry: Entry | None) -> Response | _Wait | None:
        """What is to be done with what was found."""
        now = monotonic_us()
        want = look.wanted
        if entry is not None:
            if _suits(entry, want, now):
                self.count(x, R_CACHE_HITS if entry.is_fresh(now) else R_CACHE_STALE)
                return self._serve(x, look, entry, now)
            look.why = "stale" if not entry.is_fresh(now) else "request"
        if want.only_if_cached:
            x.fail_as("not_cached")
            return None
        if (
            entry is not None
            and not want.validated
            and want.max_age is None
            and not want.min_fresh
            and entry.status != 206
            and not look.asks & cachehit.ANNOUNCED  # what was announced goes with this request alone
            and entry.may_be_stale(now, entry.revalidate)
        ):
            self._revalidate(x, look, entry)
            self.count(x, R_CACHE_STALE)
            return self._serve(x, look, entry, now)
        if not self._is_first(x, look, entry):
            return _WAIT
        self._go(x, look, entry)
        return None

    def _is_first(self, x: Exchange, look: Look, entry: Entry | None) -> bool:
        """Whether to ask upstream now: nobody else does, or it is of no use to wait."""
        if look.passed or not self.collapse_us or self._waits_for_nothing(x, look, entry):
            return True
        now = monotonic_us()
        got = self._store.acquire(self._mark(look), now, now + self.collapse_us)
        if got == 1:
            look.held = now + self.collapse_us
        return got != 0

    def _waits_for_nothing(self, x: Exchange, look: Look, entry: Entry | None) -> bool:
        """Whether what others fetch would not do for it."""
        conditional = entry is None and bool(look.asks & cachehit.CONDITIONS)
        return conditional or bool(look.asks & cachehit.RANGE) or x.method == "HEAD" or self._is_apart(x, look)

    def _is_apart(self, x: Exchange, look: Look) -> bool:
        """Whether who is known does not wait for others: such answers could not be stored lately."""
        if not look.asks & cachehit.AUTHORIZATION and x.identity is None:
            return False
        found = self._get(look, look.url + APART)
        return found is not None and Entry.of(found).is_fresh(monotonic_us())

    def _mark(self, look: Look) -> int:
        return self._store.hash_of(look.url)

    async def _wait(self, x: Exchange, look: Look) -> Response | None:
        """Until the one that fetches it has it, has given up or takes too long."""
        mark = self._mark(look)
        until = look.asked + self.collapse_us
        while True:
            await self._keeper.turn(mark)
            now = monotonic_us()
            look.passed = now >= until
            if not look.passed and self._store.busy(mark, now):
                continue
            look.collapsed = True
            if self._redis is not None:
                await self._load(look, self._redis)
            outcome = self._judge(x, look, self._find(look))
            if not isinstance(outcome, _Wait):
                if outcome is not None:
                    self.count(x, R_CACHE_COLLAPSED)
                return outcome

    def _go(self, x: Exchange, look: Look, entry: Entry | None) -> None:
        """Ask upstream: whether the entry is still good, where there is one with a validator."""
        look.entry = entry
        look.asked = monotonic_us()
        self.mark(x, _WORDS.get(look.why, "miss"))
        if look.asks & cachehit.OVERRIDES:
            for sent in {name.lower() for name, _ in x.headers} & OVERRIDING:
                x.set_request_header(sent.decode(), None)
        conditions = _conditions(entry)
        if conditions:
            look.validates = True
            for name in _CONDITIONS:
                x.set_request_header(name, conditions.get(name))
        self._note(x, look)
        self.count(x, R_CACHE_MISSES)

    def change(self, x: Exchange) -> None:
        """An unsafe method: if it succeeds, what is stored may have changed (RFC 9111 section 4.4)."""
        if x.method in SAFE:
            return
        look = Look(self.url_of(x), [], 0)
        look.change = True
        self._note(x, look)

    # -- a response ---------------------------------------------------------------------------------------------------

    def responded(self, x: Exchange, look: Look) -> Response | None:
        """See CacheHit."""
        if look.change:
            self._changed(x, look)
            return None
        status, entry = x.status, look.entry
        if entry is not None and _stands_in(entry, status, x.from_upstream):
            self.settle(look)
            self.count(x, R_CACHE_STALE)
            return self._serve(x, look, entry, monotonic_us(), status if x.from_upstream else 0)
        if not x.from_upstream:
            self.settle(look)
            return None
        fields = x.response_headers
        if look.validates and status == 304 and entry is not None:
            return self._validated(x, look, entry, fields)
        self._new(x, look, status, fields)
        return None

    def _validated(self, x: Exchange, look: Look, entry: Entry, fields: Fields) -> Response:
        """304: what is stored is as good as new (RFC 9111 section 4.3.4)."""
        current = self.freshen(look, entry, fields)
        self.settle(look)
        self.count(x, R_CACHE_VALIDATED)
        return self._serve(x, look, current, monotonic_us(), 304)

    def freshen(self, look: Look, entry: Entry, fields: Fields) -> Entry:
        """The entry with what a 304, or an answer to HEAD, says of it; stored, if that may be."""
        if not cc.updates(entry.fields, fields):
            return entry
        now, unix = monotonic_us(), time.time()
        if cc.first(fields, b"date") is None:
            fields = [*fields, (b"Date", cc.http_date(unix))]
        merged = cc.updated_fields(entry.all_fields, fields)
        age = cc.initial_age(fields, look.unix, unix)
        meta = of_response(
            entry.status, merged, self._hidden, age, now, unix, self._rules, bool(look.asks & cachehit.COOKIE)
        )
        current = Entry.of((meta, entry.body, False))
        if self._refusal(look, entry.status, merged, part=entry.status == 206):
            self._drop(look)
        else:
            self._put(look, merged, current)
        return current

    def _new(self, x: Exchange, look: Look, status: int, fields: Fields) -> None:
        """An answer of the upstream that goes to the client: store it if that may be."""
        if x.method == "HEAD":
            self._head(look, status, fields)
            reason = "method"
        else:
            reason = "" if look.stores else "bypass"
            reason = reason or self._refusal(look, status, fields, x) or self._unfit(x, look, status, fields)
            if reason:
                self._not_stored(look, status, reason)
            else:
                whole = cc.as_whole(fields) if status == 206 else None
                stored = (status, fields) if whole is None else (200, whole)
                x.add_body_pipe(Tap(self, x, look, *stored, self.most), tap=True)
        for name in self._hidden:
            if x.response_header(name) is not None:
                x.set_response_header(name.decode(), None)
        if self.tells:
            x.add_response_header("Cache-Status", _told(look.why, status, stored=not reason, detail=reason))
        if reason:
            self.settle(look)

    def _refusal(self, look: Look, status: int, fields: Fields, x: Exchange | None = None, part: bool = False) -> str:
        """Why RFC 9111 and the policy forbid to store it."""
        what = cc.said(fields, self._rules)
        identified = bool(look.asks & cachehit.AUTHORIZATION) or (x is not None and x.identity is not None)
        wanted = cc.first(look.request, RANGE)
        part = part or (wanted is not None and cc.answers_range(wanted, fields))
        return cc.refusal(status, look.request, fields, what, self._rules, identified, part)

    def _unfit(self, x: Exchange, look: Look, status: int, fields: Fields) -> str:
        """Why it is of no use, or not to be trusted to be whole or what it seems."""
        if not cachehit.is_delimited(x):
            return "undelimited"
        length = cc.first(fields, b"content-length")
        if length is not None and int(length) > self.most:
            return "too-large"
        if self._spec.guard_types and not _is_of_its_type(look.url, fields):
            return "type"
        what = cc.said(fields, self._rules)
        cookie = bool(look.asks & cachehit.COOKIE)
        stale = cc.staleness(what, self._rules)
        if cc.lifetime(status, fields, what, self._rules, time.time(), cookie) > 0:
            return ""
        lasts = bool(stale.while_revalidate or stale.if_error)
        may_be_validated = _has_validator(fields) and (
            status in cc.HEURISTIC
            or stale.validate_always
            or cc.explicit_lifetime(fields, what, time.time()) is not None
        )
        return "" if lasts or may_be_validated else "no-lifetime"

    def _not_stored(self, look: Look, status: int, reason: str) -> None:
        """What was stored is not the latest any more; and nobody is to wait for the next one, while it is like this."""
        if not look.stores or status in (206, 304, 416):
            return
        if reason == "authorization":
            if look.held and self._redis is None:
                self._write(look, look.url + APART, of_pass(monotonic_us()), b"", [])
            return
        if look.entry is not None and status < 500:
            self._drop(look)
        if look.held and self._get(look, look.url) is None:
            self._write(look, look.url, of_pass(monotonic_us()), b"", [])

    def _head(self, look: Look, status: int, fields: Fields) -> None:
        """What an answer to HEAD says of a stored one (RFC 9111 section 4.3.5)."""
        entry = look.entry
        if entry is None or entry.status != status:
            return
        if cc.is_same(entry.fields, fields, len(entry.body)):
            self.freshen(look, entry, [field for field in fields if field[0].lower() != b"content-length"])
        else:
            self._drop(look)

    def _changed(self, x: Exchange, look: Look) -> None:
        self.settle(look)
        if not x.from_upstream or not cc.invalidates(x.status):
            return
        scheme, _, rest = look.url.partition(b"://")
        origin = scheme + b"://" + rest.partition(b"/")[0]
        urls = {look.url}
        for name in (b"location", b"content-location"):
            value = x.response_header(name)
            path = None if value is None else cc.same_origin(value, origin, look.url[len(origin) :])
            if path is not None:
                urls.add(origin + path)
        for url in urls:
            if self._spec.query is not None:
                url, _ = self._by.without_ignored(url, b"/")
            if self._redis is not None:
                self._keeper.start(self._redis.purge_url(url))
            else:
                self._store.purge(url, monotonic_us())

    # -- the store ----------------------------------------------------------------------------------------------------

    def keep(self, look: Look, status: int, fields: Fields, body: bytes, now: int, unix: float) -> bool:
        """Store a response that came whole."""
        if cc.first(fields, b"date") is None:
            fields = [*fields, (b"Date", cc.http_date(unix))]
        age = cc.initial_age(fields, look.unix, unix)
        cookie = bool(look.asks & cachehit.COOKIE)
        meta = of_response(status, fields, self._hidden, age, now, unix, self._rules, cookie)
        return self._put(look, fields, Entry.of((meta, body, False)))

    def _put(self, look: Look, fields: Fields, entry: Entry) -> bool:
        """In its place: under the URL alone, or under what tells it apart."""
        tags = cc.tags(fields)
        needs = look.needs | {RANGE} if entry.status == 206 else look.needs - {RANGE}
        spec = tuple(sorted({*(cc.vary(fields) or ()), *needs}))
        found = self._get(look, look.url)
        if entry.status == 206 and found is not None and _is_whole(Entry.of(found), entry.stored):
            return False
        there = Marker.of(found[1]) if found is not None and Entry.of(found).flags & MARKER else None
        if not spec and (there is None or not there.has_pseudo):
            return self._write(look, look.url, entry.meta, entry.body, tags)
        marker = (there or Marker.new()).with_spec(spec)
        if not self._write(look, marker.key(look.url, spec, look.request), entry.meta, entry.body, tags):
            return False
        return marker == there or self._write(look, look.url, of_marker(entry.stored), marker.encode(), [])

    def _write(self, look: Look, key: bytes, meta: bytes, body: bytes, tags: list[bytes]) -> bool:
        """Put an entry in its place; where it cannot be, the one of before goes: it is not the latest."""
        if self._redis is not None:
            asked = int(look.unix * 1e6)
            look.writes.append(Put(key, look.url, to_unix(meta), body, tags, lives_ms(meta), asked))
            return True
        marks = [self._store.hash_of(b"tag " + tag) for tag in tags]
        if self._store.put(key, meta, body, marks, look.asked):
            return True
        self._store.delete(key)
        return False

    def _delete(self, look: Look, key: bytes) -> None:
        if self._redis is not None:
            look.writes.append(key)
        else:
            self._store.delete(key)

    def _drop(self, look: Look) -> None:
        """The stored response is of no more use."""
        found = self._get(look, look.url)
        if found is None:
            return
        if not Entry.of(found).flags & MARKER:
            self._delete(look, look.url)
            return
        marker = Marker.of(found[1])
        for spec in marker.specs:
            self._delete(look, marker.key(look.url, spec, look.request))

    def settle(self, look: Look) -> None:
        """It is clear what came of it: nobody has to wait for it any more."""
        look.done = True
        if look.writes and self._redis is not None:
            self._keeper.start(self._flush(look, self._redis))
        else:
            self._release(look)

    async def _flush(self, look: Look, redis: RedisCache) -> None:
        """Tell Redis, then those who wait."""
        try:
            writes, look.writes = look.writes, []
            for write in writes:
                if isinstance(write, Put):
                    await redis.put(write)
                else:
                    await redis.delete([write])
        finally:
            self._release(look)

    def wake(self, mark: int) -> None:
        """See CacheHit."""
        self._keeper.wake(mark)

    def _release(self, look: Look) -> None:
        if look.held:
            mark = self._mark(look)
            self._store.release(mark, look.held)
            look.held = 0
            self.wake(mark)

    # -- answers ------------------------------------------------------------------------------------------------------

    def _serve(self, x: Exchange, look: Look, entry: Entry, now: int, asked: int | None = None) -> Response:
        """The entry as the client wants it: whole, a part, or word that it has it. `asked`: what the upstream said."""
        stored_at = time.time() - (now - entry.stored) / 1e6
        self.mark_hit(x, "revalidated" if asked == 304 else "hit" if asked is None and entry.is_fresh(now) else "stale")
        tail = b"Age: %d\r\n" % max(0, (now - entry.born) // 1_000_000)
        if self.tells:
            tail += b"Cache-Status: %s\r\n" % _told_hit(look, entry, now, asked)
        if look.asks & cachehit.CONDITIONS and cc.not_modified(look.request, entry.status, entry.fields, stored_at):
            lines = b"".join(b"%s: %s\r\n" % field for field in cc.not_modified_fields(entry.fields))
            return Response(304, b"", lines + tail)
        if look.asks & cachehit.RANGE and x.method == "GET":
            return self._part(look, entry, tail)
        return Response(entry.status, entry.body, entry.lines + tail)

    def _part(self, look: Look, entry: Entry, tail: bytes) -> Response:
        """A range of a complete response."""
        size = len(entry.body)
        wanted = cc.part(look.request, entry.status, entry.fields, size)
        if wanted == "whole":
            return Response(entry.status, entry.body, entry.lines + tail)
        if wanted == "none":
            return Response(416, b"", tail + b"Content-Range: bytes */%d\r\n" % size)
        start, stop = wanted
        lines = entry.lines + tail + b"Content-Range: bytes %d-%d/%d\r\n" % (start, stop - 1, size)
        return Response(206, entry.body[start:stop], lines)

    # -- without a client ---------------------------------------------------------------------------------------------

    def _revalidate(self, x: Exchange, look: Look, entry: Entry) -> None:
        """Ask whether a stale entry, which was used, is still good; one at a time."""
        now = monotonic_us()
        until = now + 30_000_000
        if self._store.acquire(self._mark(look), now, until) == 0:
            return
        again = Look(look.url, look.request, look.asks & (cachehit.COOKIE | cachehit.AUTHORIZATION))
        again.needs = look.needs
        again.there = look.there
        again.held = until
        headers = [field for field in x.upstream_headers if _is_asked_again(field[0].lower())]
        headers += [(name.encode(), value) for name, value in _conditions(entry).items()]
        headers.append((b"Host", x.host.encode("latin-1")))
        asking = self._services.fetch(
            x.plan, "GET", x.upstream_target, headers, limit=self.most, client=x.client.encode(),
            secure=x.client_scheme == "https",
        )  # fmt: skip
        self._keeper.start(self._ask(again, entry, asking))

    async def _ask(self, look: Look, entry: Entry, asking: Awaitable[Fetched]) -> None:
        try:
            answer = await asking
            self._absorb(look, entry, answer)
        finally:
            self.settle(look)

    def _absorb(self, look: Look, entry: Entry, answer: Fetched) -> None:
        """What came of a revalidation that nobody waited for."""
        if answer.failure is not None or answer.status >= 500:
            return
        fields = answer.headers
        if answer.status == 304:
            self.freshen(look, entry, fields)
        elif self._refusal(look, answer.status, fields) or not _is_delimited(fields):
            self._drop(look)
        else:
            self.keep(look, answer.status, fields, answer.body, monotonic_us(), time.time())


# ---- helpers -------------------------------------------------------------------------------------------------------


class Distinctions:
    """What tells responses of a URL apart beside Vary, as fields that no request can have."""

    def __init__(self, spec: Spec) -> None:
        self._headers = tuple(name.lower().encode() for name in (spec.key.headers if spec.key else ()))
        self._cookies = tuple(name.encode() for name in (spec.key.cookies if spec.key else ()))
        self._names = frozenset((*self._headers, *(b":cookie " + name for name in self._cookies)))
        query = spec.query
        self._only = None if query is None or query.only is None else [name.encode() for name in query.only]
        self._ignored = [] if query is None else [name.encode() for name in query.ignore]

    def of(self, x: Exchange, asks: int) -> tuple[frozenset[bytes], Fields]:
        """The names that count for a request, and those of them that are no fields of its own."""
        if not self._names and not asks & (cachehit.EDITED | cachehit.ANNOUNCED):
            return frozenset(), []
        made: Fields = []
        if self._cookies:
            cookies = _cookies(x)
            made += [(b":cookie " + name, cookies[name]) for name in self._cookies if name in cookies]
        needs = self._names
        if asks & cachehit.EDITED:
            made += [(b":target", x.upstream_target), (b":branch", x.plan.variant.encode())]
            needs = needs | {b":target", b":branch"}
        if asks & cachehit.ANNOUNCED:
            made.append((b":announced", _announced(x)))
            needs = needs | {b":announced"}
        return needs, made

    def without_ignored(self, url: bytes, target: bytes) -> tuple[bytes, bytes]:
        """A URL, and the target that is asked upstream, with the parameters that count."""
        return self._filtered(url), self._filtered(target)

    def _filtered(self, url: bytes) -> bytes:
        path, mark, query = url.partition(b"?")
        if not mark:
            return url
        left = [part for part in query.split(b"&") if part and self._counts(part.partition(b"=")[0])]
        return path + b"?" + b"&".join(left) if left else path

    def _counts(self, name: bytes) -> bool:
        name = unquote_to_bytes(name)
        if self._only is not None:
            return _named(name, self._only)
        return not _named(name, self._ignored)


def _named(name: bytes, patterns: Iterable[bytes]) -> bool:
    return any(name == pattern or (pattern.endswith(b"*") and name.startswith(pattern[:-1])) for pattern in patterns)


def _cookies(x: Exchange) -> dict[bytes, bytes]:
    found: dict[bytes, bytes] = {}
    for value in x.upstream_values(b"cookie"):
        for part in value.split(b";"):
            name, _, text = part.strip().partition(b"=")
            found.setdefault(name, text)
    return found


def _announced(x: Exchange) -> bytes:
    """What a trusted proxy says of host and port: backends make links of that."""
    said = [*x.header_values(b"x-forwarded-host"), b"", *x.header_values(b"x-forwarded-port"), b""]
    for name, value in _SAID.findall(b",".join(x.header_values(b"forwarded"))):
        said += name.lower(), value
    return b" ".join(said)


def _suits(entry: Entry, want: Wanted, now: int) -> bool:
    """Whether the client takes it without anybody being asked."""
    if want.validated:
        return False
    age = now - entry.born
    if want.max_age is not None and age > want.max_age * 1_000_000:
        return False
    if entry.is_fresh(now):
        return entry.fresh - age >= want.min_fresh * 1_000_000
    stale = not entry.purged and not entry.flags & (cachehit.EXPLICIT_STALE | cachehit.VALIDATE)
    return stale and want.max_stale > 0 and entry.may_be_stale(now, want.max_stale * 1e6)


def _is_whole(entry: Entry, now: int) -> bool:
    """Whether it is a fresh response, of which no part is worth more."""
    return not entry.flags & (MARKER | PASS) and entry.is_fresh(now)


def _stands_in(entry: Entry, status: int, answered: bool) -> bool:
    """Whether it is used although it is stale, since the upstream failed, or did not answer at all."""
    if status not in (500, 502, 503, 504):
        return False
    alone = 0 if answered else entry.alone * 1_000_000
    return entry.may_be_stale(monotonic_us(), max(entry.error, alone))


def _conditions(entry: Entry | None) -> dict[str, bytes]:
    """What asks whether an entry is still good."""
    if entry is None:
        return {}
    fields = entry.fields
    found = {"If-None-Match": cc.first(fields, b"etag"), "If-Modified-Since": cc.first(fields, b"last-modified")}
    return {name: value for name, value in found.items() if value is not None}


def _has_validator(fields: Fields) -> bool:
    return cc.first(fields, b"etag") is not None or cc.first(fields, b"last-modified") is not None


def _is_asked_again(name: bytes) -> bool:
    return name not in _NOT_ASKED and name not in OVERRIDING


def _is_delimited(fields: Fields) -> bool:
    return cc.first(fields, b"content-length") is not None or cc.first(fields, b"transfer-encoding") is not None


def _is_of_its_type(url: bytes, fields: Fields) -> bool:
    """Whether what looks like a file has the type of such files."""
    ending = re.search(rb"\.([a-z0-9]+)(?:\?|$)", url.lower())
    expected = None if ending is None else _FILES.get(ending.group(1))
    return expected is None or expected in (cc.first(fields, b"content-type") or b"").lower()


def _told(why: str, status: int, stored: bool, detail: str) -> bytes:
    """Cache-Status of an answer that the upstream gave."""
    text = f"kairos; fwd={why}; fwd-status={status}"
    text += "; stored" if stored else f"; detail={detail}" if detail not in ("", "bypass", "method") else ""
    return text.encode()


def _told_hit(look: Look, entry: Entry, now: int, asked: int | None) -> bytes:
    ttl = (entry.fresh - (now - entry.born)) // 1_000_000
    if asked is None:
        return b"kairos; hit; ttl=%d%s" % (ttl, b"; collapsed" if look.collapsed else b"")
    status = b"; fwd-status=%d" % asked if asked else b""
    more = b"; detail=stale-if-error" if asked != 304 else b""
    return b"kairos; fwd=stale%s; ttl=%d%s" % (status, ttl, more)
