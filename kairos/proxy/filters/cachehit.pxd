"""The compiled part of the cache: what a request asks for, its key, and the answer where a fresh one is there."""

from libc.stdint cimport int64_t, uint32_t

from kairos._speedups.cachestore cimport CacheStore
from kairos.proxy.exchange cimport Exchange, Filter


cdef enum Flag:             # of an entry
    F_VALIDATE = 1          # not to be used without asking
    F_NEVER_STALE = 2       # nor once it is stale, whoever fails
    F_EXPLICIT_STALE = 4    # stale only as it says itself
    F_MARKER = 8            # no response: by which fields its variants differ
    F_PASS = 16             # no response: none is to be waited for, it could not be stored lately

cdef enum Ask:              # what a request's head has
    A_DIRECTIVES = 1        # Cache-Control, Pragma
    A_CONDITIONS = 2        # If-None-Match, If-Modified-Since
    A_RANGE = 4             # Range, If-Range
    A_FORWARD = 8           # If-Match, If-Unmodified-Since: for the upstream alone
    A_AUTHORIZATION = 16
    A_COOKIE = 32
    A_OVERRIDES = 64        # fields that frameworks take for another path, host or method
    A_BODY = 128
    A_EDITED = 256          # the upstream is asked for something else than the client did


cdef struct Meta:           # begins an entry's meta, its field lines follow
    int64_t born            # monotonic µs at which its age was 0
    int64_t fresh           # µs it is fresh from then on
    int64_t revalidate      # µs after that in which it may be used while it is validated
    int64_t error           # and if validation fails
    int64_t stored          # monotonic µs
    uint32_t status
    uint32_t flags
    uint32_t hidden         # bytes of field lines that are not sent; they come first
    uint32_t alone          # s after `fresh` in which it may be used if the upstream gives no answer


cdef class CacheHit(Filter):
    cdef readonly CacheStore store      # None: everything is left to consider()
    cdef readonly bint plain            # nothing but the URL and Vary tell responses apart
    cdef readonly bint tells            # Cache-Status is sent
    cdef uint32_t slow                  # Ask bits that are left to consider()
    cdef uint32_t asks(self, Exchange x) noexcept
    cdef bytes url(self, Exchange x)
    cdef object hit(self, Exchange x, bytes meta, bytes body, int64_t age)
