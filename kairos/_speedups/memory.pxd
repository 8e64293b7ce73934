"""Zeroed C memory for the tables of the leaves, as an inline function; give it back with PyMem_RawFree."""

from cpython.mem cimport PyMem_RawCalloc


cdef inline void* calloc_rows(Py_ssize_t count, size_t size) except NULL:
    """Room for `count` rows, or for one where there are none."""
    cdef void* rows = PyMem_RawCalloc(count if count > 0 else 1, size)
    if rows == NULL:
        raise MemoryError
    return rows
