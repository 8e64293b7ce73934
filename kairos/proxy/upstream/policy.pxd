"""How a route deals with backends that fail, in the units of the hot path. Pure: numbers in, answers out."""

from libc.stdint cimport int64_t, uint64_t

from kairos._speedups.breaker cimport Breaker


cdef class Policy:
    cdef Breaker breaker
    cdef uint64_t failing[16]           # one bit per status: the answer counts as a failure
    cdef uint64_t again[16]             # one bit per status: the answer is not passed on while there are retries left
    cdef int max_retries
    cdef bint repeats                   # a backend that failed may be asked once more when no other is left
    cdef bint on_errors                 # retry where no connection came about, or it broke before the answer
    cdef bint on_timeouts               # and where the answer did not begin in time
    cdef bint any_method                # POST and PATCH too
    cdef int64_t buffer_bytes           # of a request body, kept for being sent again
    cdef int64_t first_us, most_us      # back-off: longest wait before the first retry, and before any
    cdef double multiplier
    cdef double budget_share            # of requests under way that may be on a retry or hedge
    cdef int64_t budget_min             # and so many in any case

    cdef bint fails(self, int status) noexcept nogil
    cdef bint retries(self, int status) noexcept nogil
    cdef int64_t wait_us(self, int retry, uint64_t* random) noexcept nogil
    cdef bint affords(self, int64_t extra, int64_t live) noexcept nogil
