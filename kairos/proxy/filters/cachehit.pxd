"""The compiled part of the cache: what a request asks for, its key, the answer where a fresh one is there, and what
comes of a plain miss that is not stored."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

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
    A_ANNOUNCED = 512       # a trusted proxy speaks of another host or port than Host does: backends are told


cdef enum Verdict:          # what Cache-Control alone makes of a response, under the rules of the route
    V_ASK = 0               # not for sure
    V_NO_STORE = 1
    V_PRIVATE = 2
    V_ZERO = 3              # stale at once
    V_SILENT = 4            # nothing is said of how long it is fresh
    V_STORED = 5            # nothing in it forbids that
    V_KIND = 7              # mask of the above
    V_SHARED = 8            # it is also for those who did not identify themselves
    V_COOKIES = 16          # it may set cookies


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


cdef class Look:
    """What a request's look into the cache found, until it is answered."""
    cdef public bytes url
    cdef public list request            # fields that count, as they were when it was looked for; None: nobody has asked
    cdef public uint32_t asks           # Ask bits
    cdef public int64_t asked           # monotonic µs
    cdef public object wanted           # cachecontrol.Wanted
    cdef public str why                 # it is asked upstream, in the words of Cache-Status
    cdef public object entry            # cacheentry.Entry that is stale, or not fresh enough for this client
    cdef public frozenset needs         # what tells it apart beside Vary
    cdef public bint passed             # nobody is to wait for it
    cdef public int64_t held            # until when it is said to be fetched by this one, 0: it is not
    cdef uint64_t mark                  # of a quick one, by which that is said
    cdef public bint validates          # the upstream was asked whether `entry` is still good
    cdef public bint stores
    cdef public bint collapsed
    cdef public bint change             # an unsafe method
    cdef public dict there              # what Redis had
    cdef public list writes             # what Redis is to have, and the keys of what it is to forget
    cdef public bint done
    cdef bint quick                     # a plain miss: only url, asks, asked, passed, held, mark and edits are set
    cdef Py_ssize_t edits               # edits of the request there were when it was looked for

    cdef int fill(self, bytes url, list request, uint32_t asks) except -1


cdef class CacheHit(Filter):
    cdef readonly CacheStore store      # None: everything is left to consider()
    cdef readonly bint plain            # nothing but the URL and Vary tell responses apart
    cdef readonly bint tells            # Cache-Status is sent
    cdef uint32_t slow                  # Ask bits that are left to consider()
    cdef public int64_t collapse_us     # how long others wait for one that asks, 0: they do not
    cdef public int64_t most            # bytes of a body that is stored
    cdef public bint guards             # types are compared with what the path's ending promises
    cdef public dict waiters            # in this worker, by mark
    cdef frozenset special              # names of response fields that are left to responded()
    cdef uint64_t lengths               # a bit for the length of each
    cdef dict verdicts                  # Verdict of each Cache-Control seen
    cdef dict says                      # Cache-Status of what is not stored, by status and reason
    cdef dict markers                   # what each marker seen says of its variants' keys
    cdef dict parts                     # of keys, by name and value of the field
    cdef uint32_t asks(self, Exchange x) noexcept
    cdef bytes url(self, Exchange x)
    cdef object hit(self, Exchange x, bytes meta, bytes body, int64_t age)
    cdef int grow(self, Exchange x, Look look) except -1
    cdef Look look_of(self, Exchange x)
    cdef bint is_apart(self, Exchange x, bytes key, uint32_t asks) except -1
    cdef bint miss(self, Exchange x, bytes key, uint64_t mark, uint32_t asks, bint passed) except -1
    cdef bint passes_by(self, Exchange x, Look look) except -1
    cdef int verdict(self, bytes control) except -1
    cdef int turn_down(self, Exchange x, Look look, int reason) except -1
    cdef int let_go(self, Look look) except -1
    cdef bytes variant(self, Exchange x, bytes url, bytes marker)
    cdef bytes part(self, Exchange x, bytes name)
