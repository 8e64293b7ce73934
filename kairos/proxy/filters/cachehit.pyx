"""The compiled part of the cache: what a request asks for, its key, the answer where a fresh one is there, and what
comes of a plain miss that is not stored.

What is not that simple is left to consider(), for GET and HEAD, change(), for all other methods, and responded(); they
belong to the class in cache.py. A hit costs one pass over the request's fields, a look into shared memory and two
copies; a miss that is not stored one more pass over the response's fields.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint32_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memchr, memcmp, memcpy

from kairos._speedups.cachestore cimport CacheStore
from kairos._speedups.cells cimport R_CACHE_HITS, R_CACHE_MISSES, R_CACHE_STORED_BYTES
from kairos._speedups.http1 cimport Span, equals, next_field
from kairos._speedups.target cimport SAME, normalize_host
from kairos.proxy.edits cimport Edits
from kairos.proxy.exchange cimport Exchange, Filter
from kairos.proxy.wire cimport monotonic_us

import time

from kairos.proxy.cachecontrol import ANYTHING
from kairos.proxy.exchange import Response
from kairos.proxy.fields import OVERRIDING

VALIDATE, NEVER_STALE, EXPLICIT_STALE, MARKER, PASS = F_VALIDATE, F_NEVER_STALE, F_EXPLICIT_STALE, F_MARKER, F_PASS
DIRECTIVES, CONDITIONS, RANGE, FORWARD = A_DIRECTIVES, A_CONDITIONS, A_RANGE, A_FORWARD
AUTHORIZATION, COOKIE, OVERRIDES, BODY = A_AUTHORIZATION, A_COOKIE, A_OVERRIDES, A_BODY
EDITED, ANNOUNCED = A_EDITED, A_ANNOUNCED
ASK, NO_STORE, PRIVATE, ZERO, SILENT, STORED = V_ASK, V_NO_STORE, V_PRIVATE, V_ZERO, V_SILENT, V_STORED
SHARED, COOKIES = V_SHARED, V_COOKIES
META_BYTES = sizeof(Meta)
PASS_US = 10_000_000
"""How long nobody waits for answers that could not be stored lately."""
APART = b"\n:identified"
"""Behind a URL: where it is noted that answers to those who are known are not stored."""
REMEMBERED = 1024
"""Markers, values of varying fields, and Cache-Controls that are not worked out anew."""
REASONS = ("no-store", "private", "authorization", "vary-star", "set-cookie", "undelimited", "too-large", "no-lifetime")
cdef enum:
    FAST = A_DIRECTIVES | A_CONDITIONS | A_RANGE | A_FORWARD | A_BODY | A_EDITED | A_ANNOUNCED
    NO_RESPONSE = F_VALIDATE | F_MARKER | F_PASS
    IS_NO_STORE = 0                     # places in REASONS
    IS_PRIVATE = 1
    IS_AUTHORIZATION = 2
    IS_VARY = 3
    IS_COOKIE = 4
    IS_UNDELIMITED = 5
    IS_LARGE = 6
    IS_STALE = 7

cdef frozenset NO_NEEDS = frozenset()
cdef dict WORDS = {
    "hit": b"hit", "stale": b"stale", "revalidated": b"revalidated", "miss": b"miss", "expired": b"expired",
    "refresh": b"refresh", "bypass": b"bypass",
}


def pack(int64_t born, int64_t fresh, int64_t revalidate, int64_t error, int64_t stored, uint32_t status,
         uint32_t flags, uint32_t hidden=0, uint32_t alone=0):
    """The beginning of an entry's meta."""
    cdef Meta m
    m.born, m.fresh, m.revalidate, m.error, m.stored = born, fresh, revalidate, error, stored
    m.status, m.flags, m.hidden, m.alone = status, flags, hidden, alone
    return PyBytes_FromStringAndSize(<char*>&m, sizeof(Meta))


def unpack(bytes meta):
    """See pack()."""
    cdef Meta m
    if len(meta) < <Py_ssize_t>sizeof(Meta):
        raise ValueError("not an entry")
    memcpy(&m, PyBytes_AS_STRING(meta), sizeof(Meta))
    return m.born, m.fresh, m.revalidate, m.error, m.stored, m.status, m.flags, m.hidden, m.alone


def is_delimited(Exchange x):
    """In on_response: whether the response says where its body ends, so that a part is not taken for the whole."""
    return x.response_head != NULL and (x.response_head.chunked or x.response_head.content_length >= 0
                                        or x.response_head.status == 204)


cdef uint32_t ask_of(const char* name, Py_ssize_t n) noexcept:
    """What a field of this name is to the cache. Lengths first: most fields are none of these."""
    if n >= 6 and (name[0] | 32) in (c"x", c"f"):
        return A_OVERRIDES if name[:n].lower() in OVERRIDING else 0
    if n == 5:
        return A_RANGE if equals(name, n, b"range", 5) else 0
    if n == 6:
        return A_COOKIE if equals(name, n, b"cookie", 6) else A_DIRECTIVES if equals(name, n, b"pragma", 6) else 0
    if n == 8:
        return A_RANGE if equals(name, n, b"if-range", 8) else A_FORWARD if equals(name, n, b"if-match", 8) else 0
    if n == 13:
        if equals(name, n, b"cache-control", 13):
            return A_DIRECTIVES
        if equals(name, n, b"if-none-match", 13):
            return A_CONDITIONS
        return A_AUTHORIZATION if equals(name, n, b"authorization", 13) else 0
    if n == 17 and equals(name, n, b"if-modified-since", 17):
        return A_CONDITIONS
    return A_FORWARD if n == 19 and equals(name, n, b"if-unmodified-since", 19) else 0


cdef bint announces(Exchange x) noexcept:
    """Whether a trusted proxy tells backends of another host or port than Host does."""
    cdef Span* host = &x.head.forwarded_host
    cdef Span* port = &x.head.forwarded_port
    cdef Span* own = &x.head.host
    cdef bint other
    if host.end == host.start and port.end == port.start and x.head.forwarded.end == x.head.forwarded.start:
        return False
    other = x.head.forwarded.end > x.head.forwarded.start or (host.end > host.start and (
        host.end - host.start != own.end - own.start
        or memcmp(x.base + host.start, x.base + own.start, own.end - own.start) != 0))
    if not other and port.end > port.start:
        if x.encrypted():
            other = not equals(x.base + port.start, port.end - port.start, b"443", 3)
        else:
            other = not equals(x.base + port.start, port.end - port.start, b"80", 2)
    return other and x.trusted_peer()


cdef class Look:

    def __init__(self, bytes url, list request, uint32_t asks):
        self.fill(url, request, asks)
        self.asked = monotonic_us()

    cdef int fill(self, bytes url, list request, uint32_t asks) except -1:
        self.url = url
        self.request = request
        self.asks = asks
        self.wanted = ANYTHING
        self.why = "uri-miss"
        self.needs = NO_NEEDS
        self.stores = True
        self.there = {}
        self.writes = []
        self.quick = False
        return 0

    @property
    def unix(self):
        """When it was asked, in unix seconds."""
        return time.time() - (monotonic_us() - self.asked) / 1e6


cdef class CacheHit(Filter):

    def __init__(self, CacheStore store, bint plain, bint tells, uint32_t slow, frozenset special, dict waiters):
        self.store = store
        self.plain = plain
        self.tells = tells
        self.slow = slow | FAST
        self.special = special
        self.waiters = waiters
        self.verdicts = {}
        self.says = {}
        self.markers = {}
        self.parts = {}
        for name in special:
            self.lengths |= <uint64_t>1 << min(len(name), 63)

    cpdef object on_request(self, Exchange x):
        cdef uint32_t asks
        cdef uint64_t hash
        cdef bytes key
        cdef tuple found
        cdef Meta* meta
        cdef int64_t age
        cdef bint quick
        if x.upgrading:
            return None
        if x.head.method > 1:  # neither GET nor HEAD
            return self.change(x)
        asks = self.asks(x)
        if self.plain and self.store is not None and not asks & self.slow:
            key = self.url(x)
            hash = self.store.hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key))
            found = self.store.lookup(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key), hash)
            quick = not asks & A_OVERRIDES and x.head.method == 0
            if found is None and quick and self.miss(x, key, hash, asks, self.is_apart(x, key, asks)):
                return None
            if found is not None and (<Meta*>PyBytes_AS_STRING(<bytes>found[0])).flags & F_MARKER \
                    and x.request_edits is None:
                key = self.variant(x, key, found[1])
                found = None if key is None else self.store.lookup(
                    PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key),
                    self.store.hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)))
            if found is not None and not found[2]:
                meta = <Meta*>PyBytes_AS_STRING(<bytes>found[0])
                age = monotonic_us() - meta.born
                if age < meta.fresh and not meta.flags & NO_RESPONSE:
                    return self.hit(x, found[0], found[1], age)
                if age < meta.fresh and meta.flags & F_PASS and quick and self.miss(x, key, hash, asks, True):
                    return None
        return self.consider(x, asks)

    cpdef object on_response(self, Exchange x):
        cdef Look look = self.look_of(x)
        if look is None or look.done or (look.quick and self.passes_by(x, look)):
            return None
        if look.quick:
            self.grow(x, look)
        return self.responded(x, look)

    cpdef object on_finish(self, Exchange x):
        cdef Look look = self.look_of(x)
        if look is None or look.done:
            return None
        return self.let_go(look) if look.quick else self.settle(look)

    cdef Look look_of(self, Exchange x):
        return None if x.notes is None else <Look>(<dict>x.notes).get(self)

    cdef uint32_t asks(self, Exchange x) noexcept:
        cdef Py_ssize_t pos = x.head.fields
        cdef Span name, value
        cdef uint32_t asks = 0
        if x.head.chunked or x.head.content_length > 0:
            asks = A_BODY
        if x.own_target is not None or x.plan.variant:
            asks |= A_EDITED
        if announces(x):
            asks |= A_ANNOUNCED
        while next_field(x.base, &x.head, &pos, &name, &value):
            asks |= ask_of(x.base + name.start, name.end - name.start)
        return asks

    cdef bytes url(self, Exchange x):
        """scheme://host/path?query as the client used them, the host without the scheme's own port."""
        cdef char host[512]
        cdef Py_ssize_t n = x.head.host.end - x.head.host.start, size = 0, at
        cdef const char* text = x.base + x.head.host.start
        cdef int port = -1
        cdef int32_t query = x.head.target.end - x.query
        cdef bint secure = x.encrypted()
        cdef bytes key
        cdef char* out
        if 0 < n < 500:
            if normalize_host(text, n, host, &size, &port) != SAME:
                text = host
            if port == (443 if secure else 80):
                port = -1
        at = (8 if secure else 7) + size
        key = PyBytes_FromStringAndSize(NULL, at + 6 + x.path_size + query)
        out = PyBytes_AS_STRING(key)
        memcpy(out, b"https://" if secure else b"http://", 8 if secure else 7)
        memcpy(out + at - size, text, size)
        if port >= 0:
            at += snprintf(out + at, 7, b":%d", port)
        memcpy(out + at, x.path_start, x.path_size)
        memcpy(out + at + x.path_size, x.base + x.query, query)
        return key[:at + x.path_size + query]

    cdef object hit(self, Exchange x, bytes meta, bytes body, int64_t age):
        """The response as it is, with its age."""
        cdef Meta* m = <Meta*>PyBytes_AS_STRING(meta)
        cdef Py_ssize_t start = <Py_ssize_t>sizeof(Meta) + m.hidden
        cdef Py_ssize_t size = PyBytes_GET_SIZE(meta) - start
        cdef char tail[96]
        cdef int n
        cdef bytes lines
        if self.tells:
            n = snprintf(tail, 96, b"Age: %lld\r\nCache-Status: kairos; hit; ttl=%lld\r\n",
                         <long long>(age // 1000000), <long long>((m.fresh - age) // 1000000))
        else:
            n = snprintf(tail, 96, b"Age: %lld\r\n", <long long>(age // 1000000))
        lines = PyBytes_FromStringAndSize(NULL, size + n)
        memcpy(PyBytes_AS_STRING(lines), PyBytes_AS_STRING(meta) + start, size)
        memcpy(PyBytes_AS_STRING(lines) + size, tail, n)
        x.plan.cells[R_CACHE_HITS] += 1
        x.flag = b"RFCF"
        x.detail = b"cache_hit"
        x.cached = b"hit"
        return Response(m.status, body, lines)

    # -- a plain miss ------------------------------------------------------------------------------------------------

    cdef bint is_apart(self, Exchange x, bytes key, uint32_t asks) except -1:
        """Whether nobody who is known is to wait for others, since such answers could not be stored lately."""
        if not asks & A_AUTHORIZATION and x.identity is None:
            return False
        found = self.store.get(key + APART)
        return found is not None and monotonic_us() - (<Meta*>PyBytes_AS_STRING(<bytes>found[0])).born < PASS_US

    cdef bint miss(self, Exchange x, bytes key, uint64_t mark, uint32_t asks, bint passed) except -1:
        """Go on to the upstream. False: somebody is there already, and may bring what this one wants."""
        cdef Look look = Look.__new__(Look)
        cdef int got
        look.asked = monotonic_us()
        if not passed and self.collapse_us:
            got = self.store.acquire(mark, look.asked, look.asked + self.collapse_us)
            if got == 0:
                return False
            if got == 1:
                look.held = look.asked + self.collapse_us
        look.url = key
        look.asks = asks
        look.mark = mark
        look.passed = passed
        look.quick = True
        look.edits = 0 if x.request_edits is None else len(x.request_edits)
        if x.notes is None:
            x.notes = {}
        (<dict>x.notes)[self] = look
        x.plan.cells[R_CACHE_MISSES] += 1
        x.cached = b"miss"
        return True

    cdef bint passes_by(self, Exchange x, Look look) except -1:
        """Whether the response is certainly not to be stored; then all is done that comes of that."""
        cdef const char* base = x.response_base
        cdef const char* p
        cdef Py_ssize_t pos, n
        cdef Span name, value
        cdef bytes control = b""
        cdef bint cookies = False, star = False, validated = False, expires = False
        cdef int verdict, kind, reason
        if x.response_head == NULL or x.status < 200 or x.status in (206, 304):
            return False
        pos = x.response_head.fields
        while next_field(base, x.response_head, &pos, &name, &value):
            p, n = base + name.start, name.end - name.start
            if n == 13 and equals(p, n, b"cache-control", 13):
                control = control + b"," + base[value.start:value.end] if control else base[value.start:value.end]
            elif n == 13 and equals(p, n, b"last-modified", 13) or n == 4 and equals(p, n, b"etag", 4):
                validated = True
            elif n == 4 and equals(p, n, b"vary", 4):
                star = star or memchr(base + value.start, c"*", value.end - value.start) != NULL
            elif n == 10 and equals(p, n, b"set-cookie", 10):
                cookies = True
            elif n == 7 and equals(p, n, b"expires", 7):
                expires = True
            elif self.lengths >> min(n, 63) & 1 and p[:n].lower() in self.special:
                return False
        verdict = self.verdict(control)
        kind = verdict & V_KIND
        if kind == V_ASK:
            return False
        if kind <= V_PRIVATE:
            reason = IS_NO_STORE if kind == V_NO_STORE else IS_PRIVATE
        elif not verdict & V_SHARED and (look.asks & A_AUTHORIZATION or x.identity is not None):
            reason = IS_AUTHORIZATION
        elif star:
            reason = IS_VARY
        elif cookies and not verdict & V_COOKIES:
            reason = IS_COOKIE
        elif kind == V_STORED or validated or self.guards or (kind == V_SILENT and expires):
            return False
        elif not is_delimited(x):
            reason = IS_UNDELIMITED
        else:
            reason = IS_LARGE if x.response_head.content_length > self.most else IS_STALE
        self.turn_down(x, look, reason)
        return True

    cdef int grow(self, Exchange x, Look look) except -1:
        """It is no quick one after all: what it asked for, without what later filters did to it."""
        cdef list edits = x.request_edits
        x.request_edits = edits[:look.edits] if look.edits else None
        try:
            look.fill(look.url, x.upstream_headers, look.asks)
        finally:
            x.request_edits = edits
        return 0

    cdef int verdict(self, bytes control) except -1:
        known = self.verdicts.get(control)
        if known is None:
            known = self.judge(control)
            if len(self.verdicts) >= REMEMBERED:
                self.verdicts.clear()
            if PyBytes_GET_SIZE(control) < 256:
                self.verdicts[control] = known
        return known

    cdef int turn_down(self, Exchange x, Look look, int reason) except -1:
        """It is not stored: say so, let nobody wait for the next one, nor for this one."""
        cdef int known = x.status * 16 + reason
        cdef int64_t now
        cdef bytes key
        if self.tells:
            says = self.says.get(known)
            if says is None:
                says = self.says[known] = self.saying(x.status, REASONS[reason])
            x.edit_response(<Edits?>says)
        if look.held:
            key = look.url + APART if reason == IS_AUTHORIZATION else look.url
            if self.store.get(key) is None:
                now = monotonic_us()
                self.store.put(key, pack(now, PASS_US, 0, 0, now, 0, F_PASS), b"", (), look.asked)
        return self.let_go(look)

    cdef int let_go(self, Look look) except -1:
        """It is clear what came of it: nobody has to wait for it any more."""
        look.done = True
        if look.held:
            self.store.release(look.mark, look.held)
            look.held = 0
            if self.waiters:
                self.wake(look.mark)
        return 0

    # -- the key of a variant ----------------------------------------------------------------------------------------

    cdef bytes variant(self, Exchange x, bytes url, bytes marker):
        """The key of the variant that the request gets, where only one can be; else None.

        What was worked out before is remembered: clients have few values of such fields.
        """
        cdef tuple made = self.markers.get(marker)
        cdef list parts = []
        if made is None:
            if len(self.markers) >= REMEMBERED:
                self.markers.clear()
            made = self.markers[marker] = self.marked(marker)
        if not made:
            return None
        for name in <tuple>made[1]:
            parts.append(self.part(x, name))
        return url + <bytes>made[0] + (<bytes>parts[0] if len(parts) == 1 else b"\n".join(parts))

    cdef bytes part(self, Exchange x, bytes name):
        """What the request says in fields of this name (lower case)."""
        cdef Py_ssize_t pos = x.head.fields, n = PyBytes_GET_SIZE(name)
        cdef const char* wanted = PyBytes_AS_STRING(name)
        cdef Span key, value
        cdef bytes lines = None
        cdef tuple said
        while next_field(x.base, &x.head, &pos, &key, &value):
            if equals(x.base + key.start, key.end - key.start, wanted, n):
                line = x.base[value.start:value.end]
                lines = line if lines is None else lines + b"\n" + line
        said = (name, lines)
        part = self.parts.get(said)
        if part is None:
            part = self.parted(name, [] if lines is None else lines.split(b"\n"))
            if len(self.parts) >= REMEMBERED:
                self.parts.clear()
            if len(part) < 1024:
                self.parts[said] = part
        return part

    # -- for cache.py -------------------------------------------------------------------------------------------------

    def url_of(self, Exchange x):
        """What keys begin with, and what purges name."""
        return self.url(x)

    def count(self, Exchange x, int cell, int64_t n=1):
        """Add to an R_CACHE_* cell of the route."""
        if not R_CACHE_HITS <= cell <= R_CACHE_STORED_BYTES:
            raise IndexError(cell)
        x.plan.cells[cell] += n

    def mark_hit(self, Exchange x, str word):
        """For the log: this answer is the cache's."""
        x.flag = b"RFCF"
        x.detail = b"cache_hit" if word == "hit" else b"cache_stale" if word == "stale" else b"cache_validated"
        self.mark(x, word)

    def mark(self, Exchange x, str word):
        """For the log: what the cache did."""
        cdef bytes text = WORDS[word]
        x.cached = PyBytes_AS_STRING(text)  # WORDS keeps it

    def consider(self, Exchange x, uint32_t asks):
        """GET and HEAD that are not answered at once."""
        raise NotImplementedError

    def marked(self, bytes marker):
        """Of a marker: what stands between URL and fields in its variants' keys, and the fields' names. Or ()."""
        raise NotImplementedError

    def parted(self, bytes name, list lines):
        """What a request says in these fields, as part of a key."""
        raise NotImplementedError

    def judge(self, bytes control):
        """The Verdict of a Cache-Control, in one line."""
        raise NotImplementedError

    def saying(self, int status, str reason):
        """Edits that tell why a plain miss is not stored."""
        raise NotImplementedError

    def responded(self, Exchange x, Look look):
        """A response to a request that was looked for."""
        raise NotImplementedError

    def settle(self, Look look):
        """It is clear what came of it."""
        raise NotImplementedError

    def wake(self, uint64_t mark):
        """Those in this worker who wait."""
        raise NotImplementedError

    def change(self, Exchange x):
        """Other methods: what is stored may be of no more use."""
        raise NotImplementedError
