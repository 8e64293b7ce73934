"""Shared cells: the numbers of the scoreboard's cells, and the leaf functions that write them.

A cell is one int64 in memory shared by all processes. These enums are the one source of its layout:
compiled code cimports them, Python reads the same names from this module. Rules:
- a block's size is a multiple of 8 cells, so no two writers ever share a cache line;
- a cell with one writer is written with a plain store (`cell[0] += 1`), all others with atomic_*;
- a gauge goes down again and is zeroed when its worker dies; every other cell only grows.
"""

from libc.stdint cimport int64_t

cpdef enum:  # header, once per page
    H_MAGIC = 0  # MAGIC, so that a foreign page is not mistaken for ours
    H_WORKERS = 1  # capacities the page was laid out for
    H_ROUTES = 2
    H_PAIRS = 3
    H_UPSTREAMS = 4
    H_ROW_STRIDE = 5  # cells from one worker's row to the next
    H_STARTED_AT = 6  # unix µs
    H_REVISION = 7  # config revision committed last
    H_FLAGS = 8  # FLAG_*
    H_WORKER_RESTARTS = 9  # workers respawned after an unexpected death (supervisor)
    H_SERIES_FULL = 10  # 1 once a route, pair or upstream had to share index 0
    H_LOG_UNWRITTEN = 11  # access-log lines that could not be written out (control)
    H_CELLS = 64

cpdef enum:  # bits of H_FLAGS
    FLAG_READY = 1  # /ready may say yes
    FLAG_DRAINING = 2  # shutting down

cpdef enum:  # shared block of an upstream: several writers, atomics only
    SU_STATE = 0  # STATE_*
    SU_SKIP_UNTIL_US = 1  # monotonic µs: not picked before
    SU_CONNECT_FAILURES = 2  # consecutive
    SU_EWMA_US = 3  # smoothed response time
    SU_CURSOR = 4  # for balancers that keep one per upstream
    SU_CELLS = 8

cpdef enum:  # values of SU_STATE
    STATE_UP = 0
    STATE_DOWN = 1
    STATE_DRAIN = 2

cpdef enum:  # shared block of a route: several writers, atomics only
    SR_CURSOR = 0  # round-robin position
    SR_CELLS = 8

cpdef enum:  # worker block
    W_CONNECTIONS_OPEN = 0  # gauge
    W_CONNECTIONS_PEAK = 1
    W_CONNECTIONS_TOTAL = 2
    W_REQUESTS_ACTIVE = 3  # gauge
    W_REQUESTS_PEAK = 4
    W_TUNNELS_OPEN = 5  # gauge
    W_BAD_REQUESTS = 6  # heads refused before routing
    W_REQUESTS_UNROUTED = 7
    W_LOG_DROPPED = 8  # access-log lines lost to a full ring
    W_REVISION = 9  # config revision this worker serves
    W_STARTED_AT = 10  # unix µs
    W_PID = 11  # gauge: 0 while the slot has no process
    W_CELLS = 64

cpdef enum:  # histogram: non-cumulative buckets, then the sum
    HIST_BUCKETS = 19  # the last one is +Inf
    HIST_SUM = 19  # µs
    HIST_CELLS = 20

cpdef enum:  # route block
    R_TOTAL = 0  # histogram: request's first byte to the response's last
    R_GATEWAY = 20  # histogram: the gateway's own share of it
    R_UPSTREAM = 40  # histogram: the upstream's share of it
    R_BYTES_IN = 60  # request bytes
    R_BYTES_OUT = 61  # response bytes
    R_CELLS = 64

cpdef enum:  # pair block: a route with one of its upstreams, or with none
    P_REQUESTS = 0  # [method][class]: cell = method * CLASSES + class
    P_TIMEOUTS = 54
    P_CONNECT_ERRORS = 55
    P_RETRIES = 56
    P_CELLS = 64

cpdef enum:  # upstream block, per worker
    U_IN_FLIGHT = 0  # gauge
    U_CONNECTIONS_OPEN = 1  # gauge
    U_CONNECTIONS_IDLE = 2  # gauge: those of the open ones that wait in the pool
    U_CONNECTS = 3
    U_CONNECT_FAILURES = 4
    U_REUSES = 5
    U_STALE_RETRIES = 6  # a reused connection proved dead, the request was sent again
    U_CELLS = 8

cpdef enum:  # access-log ring: one producer (worker), one consumer (control)
    LOG_HEAD = 0  # bytes ever produced; written by the producer
    LOG_TAIL = 8  # bytes ever consumed; written by the consumer, on a line of its own
    LOG_DATA = 16
    LOG_BYTES = 4194304  # capacity, a power of two: 0.2 s of lines at 45,000 requests per second
    LOG_CELLS = 524304  # LOG_DATA + LOG_BYTES / 8

cpdef enum:  # first index of P_REQUESTS
    METHOD_GET = 0
    METHOD_HEAD = 1
    METHOD_POST = 2
    METHOD_PUT = 3
    METHOD_DELETE = 4
    METHOD_OPTIONS = 5
    METHOD_PATCH = 6
    METHOD_TRACE = 7
    METHOD_OTHER = 8
    METHODS = 9

cpdef enum:  # second index of P_REQUESTS
    CLASS_1XX = 0
    CLASS_2XX = 1
    CLASS_3XX = 2
    CLASS_4XX = 3
    CLASS_5XX = 4
    CLASS_GONE = 5  # 499, the client left
    CLASSES = 6


cdef extern from *:
    """
    #include <stdint.h>
    static const int64_t kairos_bounds_us[18] = {
        50, 100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 500000,
        1000000, 2500000, 5000000, 10000000, 30000000};
    static inline int64_t kairos_atomic_add(int64_t *cell, int64_t n) {
        return __atomic_fetch_add(cell, n, __ATOMIC_RELAXED);
    }
    static inline int64_t kairos_atomic_load(const int64_t *cell) { return __atomic_load_n(cell, __ATOMIC_RELAXED); }
    static inline void kairos_atomic_store(int64_t *cell, int64_t n) { __atomic_store_n(cell, n, __ATOMIC_RELAXED); }
    static inline int64_t kairos_load_acquire(const int64_t *cell) { return __atomic_load_n(cell, __ATOMIC_ACQUIRE); }
    static inline void kairos_store_release(int64_t *cell, int64_t n) { __atomic_store_n(cell, n, __ATOMIC_RELEASE); }
    """
    const int64_t kairos_bounds_us[18]
    int64_t atomic_add "kairos_atomic_add" (int64_t* cell, int64_t n) noexcept nogil  # value before
    int64_t atomic_load "kairos_atomic_load" (const int64_t* cell) noexcept nogil
    void atomic_store "kairos_atomic_store" (int64_t* cell, int64_t n) noexcept nogil
    int64_t load_acquire "kairos_load_acquire" (const int64_t* cell) noexcept nogil
    void store_release "kairos_store_release" (int64_t* cell, int64_t n) noexcept nogil


cdef inline void observe(int64_t* hist, int64_t us) noexcept nogil:
    """Count one duration into a histogram this process writes alone."""
    cdef int bucket = 0
    if us < 0:  # a sum that went down would read as a counter reset
        us = 0
    while bucket < HIST_BUCKETS - 1 and us > kairos_bounds_us[bucket]:
        bucket += 1
    hist[bucket] += 1
    hist[HIST_SUM] += us


cdef inline int status_class(int status) noexcept nogil:
    """The CLASS_* a final status is counted under."""
    if status == 499:
        return CLASS_GONE
    if status < 200:
        return CLASS_1XX
    if status >= 500:
        return CLASS_5XX
    return status // 100 - 1


cdef class Page:
    """Shared memory seen as cells; keeps its buffer alive as long as it lives."""

    cdef:
        Py_buffer view  # held from __cinit__ to __dealloc__
        int64_t* base  # first cell
        Py_ssize_t cells  # how many there are

    cdef int64_t* at(self, Py_ssize_t cell, Py_ssize_t count) except NULL
