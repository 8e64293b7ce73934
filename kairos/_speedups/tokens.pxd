"""Values by the bytes of a token, bounded, each until a moment of its own."""

from libc.stdint cimport int64_t, uint64_t


cdef struct Kept:
    uint64_t hash
    int64_t until               # the value is good before it
    uint64_t used               # tick of the last time it was found
    void* token                 # bytes, owned; NULL: free
    void* value                 # owned


cdef class TokenCache:
    cdef Kept* slots
    cdef Py_ssize_t mask        # sets less one
    cdef Py_ssize_t hand        # next slot to give way when there are too many bytes
    cdef uint64_t seed          # of the hash, secret
    cdef uint64_t tick
    cdef readonly Py_ssize_t count
    cdef readonly Py_ssize_t held_bytes   # of the tokens
    cdef readonly Py_ssize_t most_bytes
    cdef object find(self, const char* token, Py_ssize_t n, int64_t now)
    cdef Kept* slot_of(self, const char* token, Py_ssize_t n, uint64_t hash) noexcept
    cdef Kept* victim(self, uint64_t hash, int64_t now) noexcept
    cdef object taken(self, Kept* slot)
