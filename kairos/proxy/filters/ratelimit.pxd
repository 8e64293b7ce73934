"""Rate limits as a filter: the C interface."""

from libc.stdint cimport int64_t, uint64_t

from kairos._speedups.limits cimport Grant, Lease, Limit, LimitTable
from kairos.proxy.exchange cimport Exchange, Filter
from kairos.proxy.peers cimport Networks

cdef enum:
    MOST = 16                       # meters of one filter, those of an API key included


cdef class Shared:
    """Who takes requests from what other nodes take from too: filters/leases.py."""
    cdef public bint up             # it answers; while it does not, nobody asks
    cdef public dict asking         # key hash → what is under way for it


cdef class Meter:
    """One limit as it is counted on one route: whose requests, where, and what is said of it."""
    cdef readonly object rule       # config.policies.ratelimit.Rule
    cdef readonly Limit limit
    cdef LimitTable table
    cdef readonly Lease lease       # None: not shared, or asked for each time
    cdef readonly LimitTable leases
    cdef readonly Shared shared     # None: counts of this node alone
    cdef readonly int64_t cost
    cdef readonly str place         # where it is counted in what is shared
    cdef int failure                # F_*
    cdef uint64_t seed
    cdef int by                     # BY_*
    cdef int anonymous              # A_*
    cdef int bits4, bits6           # of an address that are one client; IPv4 counts from bit 96
    cdef Networks exempt            # None: nobody
    cdef bytes header               # lower case
    cdef int64_t* cells             # L_*
    cdef bytes item                 # `"name";r=`, empty: not shown
    cdef bint legacy

    cdef bint counts(self, Exchange x, uint64_t* key) except -1
    cdef bint _by_text(self, const char* p, Py_ssize_t n, uint64_t* key) noexcept
    cdef bint _nobody(self, Exchange x, uint64_t* key) noexcept
    cdef bint _by_address(self, Exchange x, uint64_t seed, uint64_t* key) noexcept
    cdef bint masked(self, Exchange x, unsigned char* address) noexcept
    cdef int64_t look(self, uint64_t key, int64_t now_us) noexcept nogil
    cdef int64_t take(self, uint64_t key, int64_t now_us, Grant* grant) noexcept nogil
    cdef int64_t fall_back(self, uint64_t key, int64_t now_us, Grant* grant) noexcept nogil
    cdef void give(self, uint64_t key, int64_t taken_us) noexcept nogil
    cdef int64_t more_in(self, Grant* grant, int64_t now_us) noexcept nogil


cdef struct Count:                  # of one meter, for one request
    uint64_t key
    int64_t wait                    # 0: granted; else as Meter.take()
    bint taken                      # and to be given back where another one refuses
    Grant grant
    int64_t more_us                 # until there is more


cdef class Case:
    """One request before its meters."""
    cdef list meters
    cdef Count counts[MOST]
    cdef int count
    cdef int64_t now_us


cdef class RateLimiter(Filter):
    cdef readonly tuple meters
    cdef bytes policies             # the line RateLimit-Policy; empty: not shown
    cdef bytes replaced             # header fields of the backend that are left out, lower case
    cdef uint64_t lengths           # a bit for the length of each of these
    cdef tuple names
    cdef object own                 # makes the meters of an API key, or None
    cdef dict known                 # id of a key → (key, its meters)

    cdef list _meters_of(self, Exchange x)
    cdef object _judge(self, Exchange x, Case case)
    cdef object _refuse(self, Exchange x, Case case)
    cdef object _pass(self, Exchange x, Case case)
    cdef int _show(self, Exchange x, Case case, bint refused) except -1
    cdef bint _theirs(self, Exchange x) noexcept
