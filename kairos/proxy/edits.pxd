"""Edits of header fields on their way."""


cdef class Edit:
    """A field to be set, removed, or added beside those that are there."""
    cdef readonly bytes name
    cdef readonly bytes lower       # name in lower case
    cdef readonly bytes value       # None: the field is removed
    cdef readonly bint add
    cdef bytes line                 # as it is written; empty where nothing is


cdef class Edits:
    """Several that are known at load."""
    cdef readonly tuple items
    cdef tuple pair                 # what edit_lines() says of them
    cdef frozenset names            # in lower case


cpdef tuple edit_lines(list edits)
