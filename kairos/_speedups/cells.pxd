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
    H_RELOADS = 12  # revisions put in use after the first (supervisor)
    H_RELOADS_FAILED = 13  # reloads refused or abandoned (supervisor)
    H_RELOADED_AT = 14  # unix µs of the last one put in use
    H_UPGRADES_FAILED = 15  # upgrades abandoned (supervisor)
    H_SEED = 16  # secret, for hashes of what clients choose: the same in all processes, another one in each page
    H_KEYS = 17  # times a key set that is fetched for all workers changed (control)
    H_TAIL = 18  # 1 while somebody watches requests and workers are to write lines for it (control)
    H_ENDED = 19  # times sessions of logins were ended, here or at the provider (control)
    H_CELLS = 64

cpdef enum:  # bits of H_FLAGS
    FLAG_READY = 1  # /ready may say yes
    FLAG_DRAINING = 2  # shutting down
    FLAG_HANDING_OVER = 4  # the next gateway has taken up, or is taking up, what operators set

cpdef enum:  # shared block of an upstream: several writers, atomics only
    # read at each pick, seldom written
    SU_OUT = 0  # OUT_*: why it is not to be picked; control is the only writer
    SU_SKIP_UNTIL_US = 1  # monotonic µs: ejected as an outlier until then; control is the only writer
    SU_BREAKER = 2  # the breaker's word, see breaker.pxd
    SU_OPEN_UNTIL_US = 3  # monotonic µs: an open breaker lets nobody through before; a half-open one starts over then
    SU_FORCED = 4  # FORCED_*: an operator's verdict in place of the breaker's; control is the only writer
    SU_WEIGHT = 5  # percent of its share that an operator left it, plus 1; 0: all; control is the only writer
    SU_BACK_AT_US = 6  # monotonic µs at which it came back, slow start counts from here; 0: was never away
    # counters, and what one response in many changes
    SU_OPENED = 8  # times its breaker opened
    SU_EJECTED = 9  # times it was ejected (control)
    SU_CHECKS = 10  # active health checks made (control)
    SU_CHECKS_FAILED = 11  # of them, those that failed (control)
    # smoothed over attempts, for balancers; see balance.pyx
    SU_EWMA_NS = 16  # response time
    SU_EWMA_AT_US = 17  # monotonic µs of the last sample
    SU_FAILING = 18  # share of attempts that failed, of 1 << 20: 0 means none, so that a fresh block is a good one
    SU_SAMPLES = 19  # how many recent ones the averages stand for
    SU_DEVIATION_NS = 20  # of response times, the mean absolute one
    SU_LOAD = 21  # requests in flight, itself included, of 1 << 16
    SU_LOAD_VARIANCE = 22  # of 1 << 16
    SU_LOAD_COVARIANCE = 23  # of load and response time, in ns
    SU_CELLS = 24

cpdef enum:  # bits of SU_OUT
    OUT_DOWN = 1  # active health checks fail
    OUT_DRAIN = 2  # an operator lets it finish what it has
    OUT_MAINTENANCE = 4  # an operator took it out

cpdef enum:  # values of SU_FORCED
    FORCED_NOT = 0
    FORCED_OPEN = 1
    FORCED_CLOSED = 2

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
    W_LAG_US = 12  # gauge: how late the clock's ticks were at best in the last round
    W_SHED_LEVEL = 13  # gauge: of load shedding, see proxy/shed.py
    W_BEAT_AT_US = 14  # monotonic µs of the clock's last round
    W_ACCESS_DENIED = 15  # requests from networks that may not use the route
    W_BANS = 16  # bans begun
    W_BANNED = 17  # requests refused during a ban
    W_OIDC_LOGINS = 18  # logins completed
    W_OIDC_STATE = 19  # logins that failed, by why: none under way here, too late, or completed before
    W_OIDC_DENIED = 20  # the provider or the user said no
    W_OIDC_ANSWER = 21  # the provider's answer is another one's, or lacks something
    W_OIDC_CODE = 22  # the provider did not take the code
    W_OIDC_TOKEN = 23  # the ID token is not to be believed
    W_OIDC_UNAVAILABLE = 24  # the provider could not be asked
    W_OIDC_RENEWED = 25  # sessions renewed
    W_OIDC_NOT_RENEWED = 26  # sessions that the provider did not renew, so that they ended
    W_OIDC_RENEWAL_FAILED = 27  # renewals for which it could not be asked, or not be believed
    W_OIDC_LOGOUTS = 28  # browsers that logged out
    W_OIDC_ENDED = 29  # logouts that the provider told of
    W_OIDC_NOT_ENDED = 30  # of what said it was one, refused
    W_LEASE_TRIPS = 32  # round trips to the Redis that nodes share
    W_LEASE_FAILURES = 33  # of them, those without an answer
    W_LEASE_TOKENS = 34  # requests leased there
    W_LEASE_RETURNED = 35  # of them, those not used in time and given back
    W_LEASE_DOWN = 36  # gauge: 1 while it does not answer
    W_TLS_12 = 44  # handshakes of TLS 1.2 completed
    W_TLS_13 = 45
    W_TLS_12_RESUMED = 46  # of them, those by a session ticket
    W_TLS_13_RESUMED = 47
    W_TLS_TIMEOUT = 48  # handshakes that failed, by why: they took too long
    W_TLS_GONE = 49  # the client left
    W_TLS_NO_TLS = 50  # it spoke plain HTTP
    W_TLS_CLIENT_CERTIFICATE = 51  # it showed none, or one that is not good
    W_TLS_REJECTED = 52  # it sent an alert: our certificate was not to its liking, say
    W_TLS_UNKNOWN_NAME = 53  # it asked for a name that nobody serves
    W_TLS_PROTOCOL = 54  # anything else
    W_PROXY_REFUSED = 55  # connections that did not begin with the PROXY header they should
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
    R_SHED = 62  # requests turned away because the worker fell behind
    R_NO_BACKEND = 63  # requests for which no backend was left
    R_BUDGET_SPENT = 64  # retries and hedges not made because the budget was spent
    R_EXTRA_ACTIVE = 65  # gauge: requests on a retry or hedge
    R_QUEUED = 66  # gauge: requests waiting for a slot of a backend
    R_QUEUED_TOTAL = 67  # requests that had to wait
    R_QUEUE_FULL = 68  # turned away: the queue was full
    R_QUEUE_TIMEOUTS = 69  # turned away: waited too long
    R_QUEUE_US = 70  # time spent waiting
    R_COMPRESSED_IN = 71  # response bytes that were compressed
    R_COMPRESSED_OUT = 72  # what they came to
    R_INVALID = 73  # requests and responses that validation refused, or would have
    R_MIRRORED = 74  # copies sent to a mirror
    R_MIRROR_DROPPED = 75  # not sent: the body was too large, or too many were under way
    R_CACHE_HITS = 80  # answered from the cache, fresh
    R_CACHE_STALE = 81  # answered from the cache, stale
    R_CACHE_VALIDATED = 82  # answered from the cache, after the upstream said that nothing changed
    R_CACHE_MISSES = 83  # asked upstream, since the cache had nothing to answer with
    R_CACHE_BYPASSED = 84  # asked upstream, whatever the cache has
    R_CACHE_COLLAPSED = 85  # of the hits, those that waited for another request's answer
    R_CACHE_STORED = 86  # responses stored
    R_CACHE_STORED_BYTES = 87  # of their bodies
    R_CELLS = 88

cpdef enum:  # pair block: a route with one of its upstreams, or with none
    P_REQUESTS = 0  # [method][class]: cell = method * CLASSES + class
    P_TIMEOUTS = 54
    P_CONNECT_ERRORS = 55
    P_RETRIES = 56  # further attempts made, counted at the upstream that took them
    P_HEDGES = 57  # second attempts beside a slow first one
    P_HEDGE_WINS = 58  # hedges that answered first
    P_CELLS = 64

cpdef enum:  # upstream block, per worker
    U_IN_FLIGHT = 0  # gauge
    U_CONNECTIONS_OPEN = 1  # gauge
    U_CONNECTIONS_IDLE = 2  # gauge: those of the open ones that wait in the pool
    U_CONNECTS = 3
    U_CONNECT_FAILURES = 4
    U_REUSES = 5
    U_STALE_RETRIES = 6  # a reused connection proved dead, the request was sent again
    U_ATTEMPTS = 7  # attempts that ended: answered or failed
    U_FAILURES = 8  # of them, those that count as failures (circuit_breaker)
    U_ANSWERS = 9  # of them, those that had a response head
    U_ANSWER_US = 10  # time from the request sent to the head, summed over U_ANSWERS
    U_CELLS = 16

cpdef enum:  # limit block, per worker
    L_ALLOWED = 0  # requests a limit granted
    L_LIMITED = 1  # requests it refused
    L_UNSHARED = 2  # of both, those decided without the Redis that nodes share
    L_CELLS = 8

cpdef enum:  # access-log ring: one producer (worker), one consumer (control)
    LOG_HEAD = 0  # bytes ever produced; written by the producer
    LOG_DROPPED = 1  # of a ring for the live tail: lines that had no room
    LOG_TAIL = 8  # bytes ever consumed; written by the consumer, on a line of its own
    LOG_DATA = 16
    LOG_BYTES = 4194304  # capacity, a power of two: 0.2 s of lines at 45,000 requests per second
    LOG_CELLS = 524304  # LOG_DATA + LOG_BYTES / 8

cpdef enum:  # ring for the live tail, while somebody watches: the same, and lines without room are only counted there
    TAIL_BYTES = 1048576
    TAIL_CELLS = 131088  # LOG_DATA + TAIL_BYTES / 8

cpdef enum:  # ring for the program's log, one per worker and one for the supervisor; read by control
    SAID_BYTES = 65536
    SAID_CELLS = 8208  # LOG_DATA + SAID_BYTES / 8

cpdef enum:  # levels of the program's log by component, see telemetry/log.py; after the first fork control writes them
    LEVEL_NOW = 0  # [component] from which level on it logs
    LEVEL_UNTIL_US = 64  # [component] unix µs at which an operator's level ends; 0: there is none
    LEVEL_COMPONENTS = 64
    LEVEL_CELLS = 128

cpdef enum:  # table of bans and failures by address: several writers, see bans.pyx
    BAN_CELLS = 393224  # 65536 addresses, 3 MB once all of them failed

cpdef enum:  # table of signatures that were used: several writers, a LimitTable of FixedWindow
    NONCE_CELLS = 786440  # 262144 signatures, 6 MB

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
    static inline int kairos_atomic_swap(int64_t *cell, int64_t old, int64_t new_) {
        return __atomic_compare_exchange_n(cell, &old, new_, 0, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    }
    static inline int64_t kairos_ordered_add(int64_t *cell, int64_t n) {
        return __atomic_add_fetch(cell, n, __ATOMIC_SEQ_CST);
    }
    static inline int64_t kairos_ordered_load(const int64_t *cell) { return __atomic_load_n(cell, __ATOMIC_SEQ_CST); }
    static inline void kairos_store_release(int64_t *cell, int64_t n) { __atomic_store_n(cell, n, __ATOMIC_RELEASE); }
    """
    const int64_t kairos_bounds_us[18]
    int64_t atomic_add "kairos_atomic_add" (int64_t* cell, int64_t n) noexcept nogil  # value before
    int64_t atomic_load "kairos_atomic_load" (const int64_t* cell) noexcept nogil
    void atomic_store "kairos_atomic_store" (int64_t* cell, int64_t n) noexcept nogil
    int64_t load_acquire "kairos_load_acquire" (const int64_t* cell) noexcept nogil
    bint atomic_swap "kairos_atomic_swap" (int64_t* cell, int64_t old, int64_t new) noexcept nogil  # whether it was old
    int64_t ordered_add "kairos_ordered_add" (int64_t* cell, int64_t n) noexcept nogil  # value after; seq_cst
    int64_t ordered_load "kairos_ordered_load" (const int64_t* cell) noexcept nogil  # seq_cst
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
