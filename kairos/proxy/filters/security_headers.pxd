"""Security headers: see security_headers.pyx."""

from libc.stdint cimport uint64_t

from kairos.proxy.exchange cimport Exchange, Filter


cdef class SecurityHeadersFilter(Filter):
    cdef list _names                # of the headers, lower case; HSTS last
    cdef list _lines                # whole, in the same order
    cdef bytes _hsts                # its line, or None
    cdef bytes _removed             # names, comma-separated, of what the backend's response loses
    cdef bint _override
    cdef dict _made                 # bits of what is there already → lines for what is not
    cdef uint64_t _lengths          # a bit for each length of a name
    cdef uint64_t _sent(self, Exchange x) except? 0
    cdef uint64_t _bit(self, const char* name, Py_ssize_t n) noexcept
