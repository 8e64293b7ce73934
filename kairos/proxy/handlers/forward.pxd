"""The common handler: see forward.pyx."""

from kairos.proxy.exchange cimport Exchange, Handler
from kairos.proxy.upstream.connection cimport UpstreamConnection


cdef class Forward(Handler):
    cdef int _attempt(self, Exchange x) except -1
    cdef int _send(self, Exchange x, UpstreamConnection connection) except -1
