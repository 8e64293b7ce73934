"""Circuit breaker of an upstream: a word of shared cells and the leaf functions that move it.

    closed ──failures in a row──> open ──reset time──> half-open ──successes──> closed
                                   ^──────one failure──────┘

The word holds state, trials left and a count, so that each move is one compare-and-swap: workers never see half of
one, and one that is killed leaves a breaker that goes on. The moves are told in breaker.pyx.
"""

from libc.stdint cimport int64_t

from kairos._speedups.cells cimport (
    FORCED_CLOSED, FORCED_NOT, FORCED_OPEN, SU_FORCED, SU_OPEN_UNTIL_US, SU_BREAKER, atomic_load
)

cpdef enum:  # state, the word's lowest two bits
    CLOSED = 0
    OPEN = 1
    HALF_OPEN = 2

cpdef enum:  # what admit() answers
    REFUSED = 0
    ADMITTED = 1
    TRIAL = 2  # admitted while half-open: exactly one settle() is to follow

cpdef enum:  # what became of a request
    SUCCESS = 0
    FAILURE = 1
    NO_VERDICT = 2  # the client left, or it was cancelled: nothing was learned

cdef enum:
    LEFT_SHIFT = 2  # 20 bits: trials that may still be let through
    COUNT_SHIFT = 22  # 20 bits: failures in a row while closed, successes while half-open
    FIELD = 0xFFFFF

cdef struct Breaker:
    bint enabled
    int failure_threshold  # failures in a row that open it
    int success_threshold  # successes while half-open that close it
    int trials  # let through at once while half-open
    int64_t reset_us  # from opening to the first trial


cdef inline int state_of(int64_t word) noexcept nogil:
    return <int>(word & 3)


cdef inline bint blocked(const int64_t* shared, bint enabled, int64_t now_us) noexcept nogil:
    """Whether admit() would refuse: for balancers, which pass such an upstream over. `shared`: its SU_* block.

    Not enabled, only an operator's word counts.
    """
    cdef int64_t forced = atomic_load(shared + SU_FORCED)
    cdef int64_t word
    if forced != FORCED_NOT:
        return forced == FORCED_OPEN
    if not enabled:
        return False
    word = atomic_load(shared + SU_BREAKER)
    if state_of(word) == CLOSED:
        return False
    if state_of(word) == HALF_OPEN and (word >> LEFT_SHIFT) & FIELD:
        return False
    return atomic_load(shared + SU_OPEN_UNTIL_US) > now_us


cdef int admit(int64_t* shared, const Breaker* settings, int64_t now_us) noexcept nogil
cdef int settle(int64_t* shared, const Breaker* settings, int outcome, bint trial, int64_t now_us) noexcept nogil


cdef inline bint at_rest(const int64_t* shared) noexcept nogil:
    """Closed and without a failure: what nearly always is, found out with one load. A success then changes nothing."""
    return atomic_load(shared + SU_BREAKER) == 0


cdef Breaker breaker_settings(object spec)
