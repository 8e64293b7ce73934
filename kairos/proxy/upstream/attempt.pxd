"""One try of an exchange at one backend: the slot it takes, and what the backend's breaker is told of it."""

from libc.stdint cimport int64_t

from kairos.proxy.exchange cimport Exchange, Target


cdef bint enter(Target target) noexcept nogil
cdef bint full(Target target) noexcept nogil
cdef int leave(Exchange x, Target target, bint trial, int outcome, int64_t us) except -1
cdef int account(Exchange x, Target target, int outcome, int64_t us) except -1
cdef int tell(Exchange x, Target target, bint trial, int outcome) except -1
