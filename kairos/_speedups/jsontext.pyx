"""How deep a JSON text is nested and how many members its objects have, found without parsing it.

A parser keeps one of several members of the same name. Which one is its own affair (RFC 8259 section 4), so two readers
of one text may see different values. A text has such members exactly where it has more `:` outside of strings than what
became of it has members.

No text is refused here: of one that is no JSON, the figures mean nothing.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.dict cimport PyDict_Next
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from cpython.ref cimport PyObject
from libc.string cimport memchr


cdef enum:
    DEEPEST = 4000              # frames of count(): orjson, which made the value, stops at 1024


cdef (Py_ssize_t, Py_ssize_t) measure(const char* p, Py_ssize_t n) noexcept nogil:
    cdef const char* end = p + n
    cdef Py_ssize_t depth = 0, deepest = 0, colons = 0
    cdef char c
    while p < end:
        c = p[0]
        p += 1
        if c == c'"':
            p = behind_string(p, end)
        elif c == c":":
            colons += 1
        elif c == c"{" or c == c"[":
            depth += 1
            if depth > deepest:
                deepest = depth
        elif c == c"}" or c == c"]":
            depth -= 1
    return deepest, colons


cdef const char* behind_string(const char* p, const char* end) noexcept nogil:
    """Where the string that p is in has ended."""
    cdef const char* quote = p - 1  # the last one found; searched for again only when it proved escaped
    cdef const char* slash
    while True:
        if quote < p:
            quote = <const char*>memchr(p, c'"', end - p)
            if quote == NULL:
                return end
        slash = <const char*>memchr(p, c"\\", quote - p)
        if slash == NULL:
            return quote + 1
        p = slash + 2
        if p > end:
            return end


cdef Py_ssize_t count(object value, int left) except -1:
    cdef Py_ssize_t total = 0, position = 0, i
    cdef PyObject* key
    cdef PyObject* item
    if left == 0:
        raise RecursionError("nested too deeply")
    if type(value) is dict:
        total = len(<dict>value)
        while PyDict_Next(value, &position, &key, &item):
            total += count(<object>item, left - 1)
    elif type(value) is list:
        for i in range(PyList_GET_SIZE(value)):
            total += count(<object>PyList_GET_ITEM(value, i), left - 1)
    return total


def shape(bytes text not None):
    """Levels of arrays and objects, and members of all objects, as (depth, members)."""
    cdef Py_ssize_t depth, colons
    depth, colons = measure(PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    return depth, colons


def members(value):
    """Members of all dicts in what a parser made."""
    return count(value, DEEPEST)
