"""Balancers: the C interface. What each strategy does is told in balance.pyx."""

from libc.stdint cimport int64_t, uint64_t

from kairos._speedups.cells cimport Page

cpdef enum:  # what pick() answers where it has no backend
    NONE_LEFT = -1  # none may be asked
    ALL_FULL = -2  # those that may be asked have their max_requests

cdef struct Backend:
    int64_t* shared  # the upstream's shared block, SU_*
    int64_t* in_flight  # its U_IN_FLIGHT cell of the first worker
    int64_t limit  # requests in flight at once from all workers, 0 for no limit
    double weight  # in draws: 1, or its turns in a weighted cycle


cdef class Balancer:
    cdef:
        Page page  # keeps the cells mapped
        Backend* backends
        readonly int count
        int64_t* cursor  # the route's SR_CURSOR, shared by all workers
        Py_ssize_t workers  # how many in-flight cells a backend has
        Py_ssize_t stride  # cells from one worker's to the next
        uint64_t random  # state of this process's generator
        uint64_t spread  # where the last draw fell
        int64_t slow_us  # length of the slow start
        double panic_percent  # of healthy backends, at which all are asked
        bint breakers  # open breakers are passed over
        bint limited  # some backend has a limit
        double* shares  # what survey() found; a worker has one thread

    # Index of the backend for a request, or NONE_LEFT or ALL_FULL. `key` is a hash of the client, for ip_hash; `tried`
    # has a bit for each of the first 64 backends that was asked already.
    cdef int pick(self, uint64_t key, int64_t now_us, uint64_t tried) noexcept nogil
    # An attempt ended: `us` from sending it to the response's head, -1 without one. Once for each attempt, after it
    # is no longer in flight. Every balancer takes it; only ewma asks.
    cdef void observe_attempt(self, int backend, int64_t us, bint ok, int64_t now_us) noexcept nogil

    cdef int _take(self, Page page, list backends) except -1
    cdef bint ready(self, int backend, int64_t now_us, uint64_t tried) noexcept nogil
    cdef int survey(self, int64_t now_us, uint64_t tried) noexcept nogil
    cdef int _leave_out(self, bint panic, uint64_t tried) noexcept nogil
    cdef double share(self, int backend, int64_t now_us) noexcept nogil
    cdef bint room(self, int backend) noexcept nogil
    cdef int taken_or_drawn(self, int backend, int64_t now_us, uint64_t tried) noexcept nogil
    cdef int drawn(self, int64_t now_us, uint64_t tried) noexcept nogil
    cdef int draw(self) noexcept nogil
    cdef int64_t load(self, int backend) noexcept nogil
    cdef int below(self, int bound) noexcept nogil
    cdef double uniform(self) noexcept nogil
