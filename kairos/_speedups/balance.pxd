"""Balancers: the C interface. What each strategy does is told in balance.pyx."""

from libc.stdint cimport int64_t, uint64_t

from kairos._speedups.cells cimport Page

cdef struct Backend:
    int64_t* shared  # the upstream's shared block, SU_*
    int64_t* in_flight  # its U_IN_FLIGHT cell of the first worker


cdef class Balancer:
    cdef:
        Page page  # keeps the cells mapped
        Backend* backends
        readonly int count
        int64_t* cursor  # the route's SR_CURSOR, shared by all workers
        Py_ssize_t workers  # how many in-flight cells a backend has
        Py_ssize_t stride  # cells from one worker's to the next
        uint64_t random  # state of this process's generator

    # Index of the backend for a request, or -1 where there are none. `key` is a hash of the client, for ip_hash.
    cdef int pick(self, uint64_t key, int64_t now_us, uint64_t tried) noexcept nogil
    # A response of this backend took so long. Every balancer takes it; only ewma asks.
    cdef void observe_latency(self, int backend, int64_t us, int64_t now_us) noexcept nogil

    cdef void observe_attempt(self, int backend, int64_t us, bint ok, int64_t now_us) noexcept nogil

    cdef int _take(self, Page page, Py_ssize_t cursor, list backends) except -1
    cdef bint available(self, int backend, int64_t now_us) noexcept nogil
    cdef int available_count(self, int64_t now_us) noexcept nogil
    cdef int nth_available(self, int n, int up, int64_t now_us) noexcept nogil
    cdef int64_t load(self, int backend) noexcept nogil
    cdef int below(self, int bound) noexcept nogil
