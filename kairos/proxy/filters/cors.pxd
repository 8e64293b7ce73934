"""CORS: see cors.pyx."""

from kairos.proxy.exchange cimport Exchange, Filter


cdef class CorsFilter(Filter):
    cdef object _origins            # config.weborigin.WebOrigins
    cdef bint _open                 # every origin, without credentials: one answer for all
    cdef bint _credentials
    cdef bint _private_network
    cdef bytes _exposed             # line, may be empty
    cdef bytes _others              # lines for origins that are not allowed, and for no origin
    cdef dict _known                # origin → lines
    cdef list _methods              # str
    cdef list _headers              # str
    cdef object _max_age            # int or None
    cdef bytes _lines(self, bytes origin)
    cdef bytes _made(self, bytes origin)
    cdef object _preflight(self, Exchange x)
