"""The request head towards a backend, see head.pyx."""

from kairos.proxy.exchange cimport Exchange


cdef Py_ssize_t write_head(Exchange x, bytes authority, char** start) except -2
