"""The common handler: see forward.pyx."""

from libc.stdint cimport int64_t

from kairos.proxy.exchange cimport Exchange, Handler, Target
from kairos.proxy.upstream.connection cimport UpstreamConnection


cdef class Forward(Handler):
    cdef int _next(self, Exchange x, int64_t now) except -1
    cdef int _begin(self, Exchange x, Target target, bint trial, int64_t now) except -1
    cdef int _send(self, Exchange x, Target target, bint trial, UpstreamConnection connection, int64_t now) except -1
    cdef int _nobody(self, Exchange x, int why, int64_t now) except -1
    cdef bint _again(self, Exchange x, str kind) except -1
    cdef bint _retry_in(self, Exchange x, int64_t wait) except -1
    cdef int _wait_on_client(self, Exchange x) except -1
