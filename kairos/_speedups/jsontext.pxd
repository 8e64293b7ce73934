"""Depth and members of JSON texts; see jsontext.pyx."""

cdef (Py_ssize_t, Py_ssize_t) measure(const char* p, Py_ssize_t n) noexcept nogil
cdef Py_ssize_t count(object value, int left) except -1
