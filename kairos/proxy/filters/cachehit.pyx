"""The compiled part of the cache: what a request asks for, its key, and the answer where a fresh one is there.

What is not that simple is left to consider(), for GET and HEAD, and change(), for all other methods; both belong to the
class in cache.py. A hit costs one pass over the request's fields, a look into shared memory and two copies.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint32_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy

from kairos._speedups.cachestore cimport CacheStore
from kairos._speedups.cells cimport R_CACHE_HITS, R_CACHE_STORED_BYTES
from kairos._speedups.http1 cimport Span, equals, next_field
from kairos._speedups.target cimport SAME, normalize_host
from kairos.proxy.exchange cimport Exchange, Filter
from kairos.proxy.wire cimport monotonic_us

from kairos.proxy.exchange import Response

VALIDATE, NEVER_STALE, EXPLICIT_STALE, MARKER, PASS = F_VALIDATE, F_NEVER_STALE, F_EXPLICIT_STALE, F_MARKER, F_PASS
DIRECTIVES, CONDITIONS, RANGE, FORWARD = A_DIRECTIVES, A_CONDITIONS, A_RANGE, A_FORWARD
AUTHORIZATION, COOKIE, OVERRIDES, BODY, EDITED = A_AUTHORIZATION, A_COOKIE, A_OVERRIDES, A_BODY, A_EDITED
META_BYTES = sizeof(Meta)
OVERRIDING = frozenset((
    b"x-original-url", b"x-rewrite-url", b"x-original-host", b"x-host", b"x-http-host-override", b"x-forwarded-server",
    b"x-forwarded-scheme", b"x-forwarded-ssl", b"x-forwarded-prefix", b"x-forwarded-path", b"x-forwarded-uri",
    b"x-http-method-override", b"x-http-method", b"x-method-override", b"x-url-scheme", b"x-real-url",
    b"front-end-https", b"x-original-uri", b"x-override-url",
))
"""Not part of the key, so never sent upstream: who could set them would choose what others are given."""

cdef enum:
    FAST = A_DIRECTIVES | A_CONDITIONS | A_RANGE | A_FORWARD | A_BODY | A_EDITED
    NO_RESPONSE = F_VALIDATE | F_MARKER | F_PASS


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


cdef class CacheHit(Filter):

    def __init__(self, CacheStore store, bint plain, bint tells, uint32_t slow):
        self.store = store
        self.plain = plain
        self.tells = tells
        self.slow = slow | FAST

    cpdef object on_request(self, Exchange x):
        cdef uint32_t asks
        cdef bytes key
        cdef tuple found
        cdef Meta* meta
        cdef int64_t age
        if x.upgrading:
            return None
        if x.head.method > 1:  # neither GET nor HEAD
            return self.change(x)
        asks = self.asks(x)
        if self.plain and self.store is not None and not asks & self.slow:
            key = self.url(x)
            found = self.store.lookup(
                PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key),
                self.store.hash(PyBytes_AS_STRING(key), PyBytes_GET_SIZE(key)))
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
        return self.consider(x, asks)

    cpdef object on_finish(self, Exchange x):
        return None if x.notes is None else self.forget(x)

    cdef uint32_t asks(self, Exchange x) noexcept:
        cdef Py_ssize_t pos = x.head.fields
        cdef Span name, value
        cdef uint32_t asks = 0
        if x.head.chunked or x.head.content_length > 0:
            asks = A_BODY
        if x.own_target is not None or x.plan.variant:
            asks |= A_EDITED
        while next_field(x.base, &x.head, &pos, &name, &value):
            asks |= ask_of(x.base + name.start, name.end - name.start)
        return asks

    cdef bytes url(self, Exchange x):
        """scheme://host/path?query, the host without the scheme's own port."""
        cdef char host[512]
        cdef Py_ssize_t n = x.head.host.end - x.head.host.start, size = 0, at
        cdef const char* text = x.base + x.head.host.start
        cdef int port = -1
        cdef int32_t query = x.head.target.end - x.query
        cdef bint secure = x.down.secure
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
        return Response(m.status, body, lines)

    # -- for cache.py -------------------------------------------------------------------------------------------------

    def url_of(self, Exchange x):
        """What keys begin with, and what purges name."""
        return self.url(x)

    def count(self, Exchange x, int cell, int64_t n=1):
        """Add to an R_CACHE_* cell of the route."""
        if not R_CACHE_HITS <= cell <= R_CACHE_STORED_BYTES:
            raise IndexError(cell)
        x.plan.cells[cell] += n

    def mark_hit(self, Exchange x, str detail):
        """For the log: this answer is the cache's."""
        x.flag = b"RFCF"
        x.detail = b"cache_hit" if detail == "cache_hit" else b"cache_stale" if detail == "cache_stale" \
            else b"cache_validated"

    def consider(self, Exchange x, uint32_t asks):
        """GET and HEAD that are not answered at once."""
        raise NotImplementedError

    def variant(self, Exchange x, bytes url, bytes marker):
        """The key of the variant that the request gets, where only one can be; else None."""
        raise NotImplementedError

    def change(self, Exchange x):
        """Other methods: what is stored may be of no more use."""
        raise NotImplementedError

    def forget(self, Exchange x):
        """The exchange is over, however it ended."""
        raise NotImplementedError
