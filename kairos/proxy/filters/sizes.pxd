"""Sizes that are refused; see sizes.pyx."""

from libc.stdint cimport int64_t

from kairos.proxy.exchange cimport BodyPipe, Exchange, Filter


cdef class Sizes(Filter):
    cdef int64_t target, parameters, header_bytes, header_count, rate, request_body, response_body
    cdef dict types                     # media type or "type/*" -> bytes
    cdef int _head(self, Exchange x) except -1
    cdef int _body(self, Exchange x) except -1


cdef class Meter(BodyPipe):
    cdef Exchange x                     # None once the body has ended
    cdef int64_t left
