"""Header rules as filters."""

from kairos.proxy.edits cimport Edits
from kairos.proxy.exchange cimport Filter


cdef class AddMissing:
    """A field added where there is none of its name."""
    cdef bytes lower        # name in lower case
    cdef Edits edits        # that add it


cdef class RequestHeaders(Filter):
    cdef tuple steps        # Edits, AddMissing, or callables that take the exchange


cdef class ResponseHeaders(Filter):
    cdef tuple steps        # see RequestHeaders
