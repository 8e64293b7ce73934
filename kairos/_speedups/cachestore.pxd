"""A cache in memory that all processes of a node share: read without locks, bounded, whole whoever dies."""

from libc.stdint cimport int64_t, uint64_t


cdef class CacheStore:
    """See cachestore.pyx."""
    cdef object memory              # a buffer, held as long as the store lives
    cdef Py_buffer view
    cdef char* base
    cdef uint64_t seed
    cdef uint64_t shards            # a power of two
    cdef uint64_t slots             # of each shard's index, a power of two
    cdef readonly Py_ssize_t max_entry

    cdef uint64_t hash(self, const char* key, Py_ssize_t n) noexcept nogil
    cdef tuple lookup(self, const char* key, Py_ssize_t n, uint64_t hash)
    cpdef int acquire(self, uint64_t mark, int64_t now_us, int64_t until_us) noexcept
    cpdef void release(self, uint64_t mark, int64_t until_us) noexcept
    cdef bint _mark(self, uint64_t hash, bytes key, bint soft) except -1
    cdef int _note(self, uint64_t kind, uint64_t hash, int64_t now_us) except -1
