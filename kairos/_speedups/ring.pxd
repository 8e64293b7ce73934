"""Consistent hash ring: the C interface."""

from libc.stdint cimport int32_t, uint8_t, uint64_t

cdef struct Point:
    uint64_t hash
    int32_t member


cdef class Ring:
    cdef:
        readonly Py_ssize_t members
        Point* points  # by hash
        Py_ssize_t count
        int32_t* buckets  # by the top bits of a hash: the first point not below them
        int shift  # 64 - log2(buckets)

    cdef int _fill(self, list points) except -1

    # The member that owns a hash, or the next one along the ring for which `down` (one byte a member, or NULL) is 0.
    # Where all are down, the owner; -1 on an empty ring.
    cdef int pick(self, uint64_t hash, const uint8_t* down) noexcept nogil
