"""Requests that the worker makes itself."""

from kairos.proxy.exchange cimport Downstream, Exchange, Runtime


cdef class Detached(Downstream):
    """The client's end of a request that has no client: takes the response, whole and bounded."""
    cdef Runtime runtime
    cdef Exchange x
    cdef object future          # of a Fetched; done at the end
    cdef Py_ssize_t limit       # bytes of the body that are taken
    cdef bytes client           # address told upstream
    cdef int status
    cdef list headers
    cdef list pieces
    cdef Py_ssize_t size
    cdef bint own               # the answer was made here: nothing came from upstream
    cdef bint broken            # the response was cut
    cdef int _begin(self, Exchange x, bytes body) except -1
