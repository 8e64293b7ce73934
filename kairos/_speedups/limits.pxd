"""Rate-limit cells: the C interface. The algorithms are told in limits.pyx."""

from libc.stdint cimport int64_t, uint64_t

from kairos._speedups.cells cimport Page


cdef class Limit:
    cdef:
        readonly int64_t capacity  # the most that can be taken at once
        readonly int words  # int64 cells of its state; all zero is a key never seen

    # Take `cost` (1 or more): 0 if it was granted, else µs until it could be, or INT64_MAX where it never can.
    cdef int64_t take(self, int64_t* state, int64_t now_us, int64_t cost) noexcept nogil
    # µs until forgetting the state lets nobody do more; 0 or less when it is so already.
    cdef int64_t in_force(self, const int64_t* state, int64_t now_us) noexcept nogil
    # Zero the state, unless it is in force and not `forced`, or somebody changed it meanwhile: then False.
    cdef bint clear(self, int64_t* state, int64_t now_us, bint forced) noexcept nogil


cdef class LimitCell:
    cdef:
        Page page  # keeps the state mapped
        Limit limit
        int64_t* state

    cdef int64_t take(self, int64_t now_us, int64_t cost) noexcept nogil


cdef class LimitTable:
    cdef:
        Page page  # keeps the table mapped
        readonly Limit limit
        int64_t* keys  # WAYS to a set, one cache line; 0 is free, negative one that is being brought in
        int64_t* states  # limit.words to a key
        uint64_t mask  # sets - 1

    # Take from the state of a key, given by its hash; as Limit.take.
    cdef int64_t take(self, uint64_t key, int64_t now_us, int64_t cost) noexcept nogil

    # The state of a key that has a slot, else NULL; somebody may take the slot at any time.
    cdef int64_t* seek(self, uint64_t key) noexcept nogil

    cdef int64_t* state(self, Py_ssize_t slot) noexcept nogil
    cdef Py_ssize_t find(self, Py_ssize_t first, int64_t key) noexcept nogil
    cdef Py_ssize_t claim(self, Py_ssize_t first, int64_t pending, int64_t now_us) noexcept nogil
    cdef Py_ssize_t replace(self, Py_ssize_t slot, int64_t pending, int64_t now_us, bint forced) noexcept nogil
    cdef bint settle(self, Py_ssize_t first, Py_ssize_t slot, int64_t key) noexcept nogil
    cdef void adopt(self, Py_ssize_t first, int64_t key) noexcept nogil
