"""Circuit breaker of an upstream, shared by all workers and routes.

Closed, every request is admitted; a success zeroes the count of failures, which opens it at the threshold. Open,
nobody is admitted until the reset time is over. Then it is half-open: so many trials at once; each success makes room
for the next one, enough of them close it, a single failure opens it anew. Trials that never come back (their worker
was killed) are replaced when another reset time is over. Late answers to requests from before it opened are ignored.

The state belongs to the upstream, the settings to the route a request came by. No clock here: `now_us` is the caller's
monotonic time.
"""

cimport cython
from libc.stdint cimport int64_t

from kairos._speedups.cells cimport Page, SU_BACK_AT_US, SU_CELLS, SU_OPENED, atomic_add, atomic_store, atomic_swap


cdef inline int64_t word_of(int state, int64_t left, int64_t count) noexcept nogil:
    return state | left << LEFT_SHIFT | count << COUNT_SHIFT


cdef inline int64_t left_of(int64_t word) noexcept nogil:
    return (word >> LEFT_SHIFT) & FIELD


cdef inline int64_t count_of(int64_t word) noexcept nogil:
    return (word >> COUNT_SHIFT) & FIELD


cdef int admit(int64_t* shared, const Breaker* settings, int64_t now_us) noexcept nogil:
    """Ask for a request to this upstream: ADMITTED, TRIAL or REFUSED."""
    cdef int64_t forced, word, until
    forced = atomic_load(shared + SU_FORCED)
    if forced != FORCED_NOT:
        return ADMITTED if forced == FORCED_CLOSED else REFUSED
    if not settings.enabled:
        return ADMITTED
    while True:
        word = atomic_load(shared + SU_BREAKER)
        if state_of(word) == CLOSED:
            return ADMITTED
        if state_of(word) == HALF_OPEN and left_of(word) > 0:
            if atomic_swap(shared + SU_BREAKER, word, word_of(HALF_OPEN, left_of(word) - 1, count_of(word))):
                return TRIAL
            continue
        until = atomic_load(shared + SU_OPEN_UNTIL_US)
        if until > now_us:
            return REFUSED
        # One of those who see the time run out begins the round and takes its first trial.
        if atomic_swap(shared + SU_OPEN_UNTIL_US, until, now_us + settings.reset_us):
            if atomic_swap(shared + SU_BREAKER, word, word_of(HALF_OPEN, settings.trials - 1, 0)):
                return TRIAL


cdef int settle(int64_t* shared, const Breaker* settings, int outcome, bint trial, int64_t now_us) noexcept nogil:
    """Report what became of a request that was admitted. OPEN or CLOSED where that moved the breaker there, else -1."""
    cdef int64_t word
    if not settings.enabled or (outcome == NO_VERDICT and not trial):
        return -1
    while True:
        word = atomic_load(shared + SU_BREAKER)
        if state_of(word) == CLOSED:
            if outcome == FAILURE:
                if count_of(word) + 1 >= settings.failure_threshold:
                    if _open(shared, word, settings, now_us):
                        return OPEN
                elif atomic_swap(shared + SU_BREAKER, word, word_of(CLOSED, 0, count_of(word) + 1)):
                    return -1
            elif outcome == NO_VERDICT or word == 0 or atomic_swap(shared + SU_BREAKER, word, 0):
                return -1
        elif state_of(word) == OPEN or not trial:
            return -1
        elif outcome == FAILURE:
            if _open(shared, word, settings, now_us):
                return OPEN
        elif outcome == SUCCESS and count_of(word) + 1 >= settings.success_threshold:
            if atomic_swap(shared + SU_BREAKER, word, 0):
                atomic_store(shared + SU_BACK_AT_US, now_us)
                return CLOSED
        else:
            if left_of(word) >= settings.trials:
                return -1  # of an earlier round
            if atomic_swap(shared + SU_BREAKER, word,
                           word_of(HALF_OPEN, left_of(word) + 1, count_of(word) + (outcome == SUCCESS))):
                return -1


cdef bint _open(int64_t* shared, int64_t word, const Breaker* settings, int64_t now_us) noexcept nogil:
    """The time first: who sees the breaker open must find when it ends."""
    atomic_store(shared + SU_OPEN_UNTIL_US, now_us + settings.reset_us)
    if not atomic_swap(shared + SU_BREAKER, word, word_of(OPEN, 0, 0)):
        return False
    atomic_add(shared + SU_OPENED, 1)
    return True


@cython.final
cdef class Gate:
    """One upstream's breaker for Python: metrics, operators, tests."""
    cdef:
        Page page  # keeps the cells mapped
        int64_t* shared
        Breaker settings

    def __init__(self, Page page not None, Py_ssize_t shared, settings):
        self.page = page
        self.shared = page.at(shared, SU_CELLS)
        self.settings = breaker_settings(settings)

    def admit(self, int64_t now_us):
        return admit(self.shared, &self.settings, now_us)

    def settle(self, int outcome, bint trial, int64_t now_us):
        return settle(self.shared, &self.settings, outcome, trial, now_us)

    def blocked(self, int64_t now_us):
        return bool(blocked(self.shared, self.settings.enabled, now_us))

    @property
    def state(self):
        return state_of(atomic_load(self.shared + SU_BREAKER))

    @property
    def count(self):
        """Failures in a row while closed, successes while half-open."""
        return count_of(atomic_load(self.shared + SU_BREAKER))


cdef Breaker breaker_settings(object spec):
    """A config.model.CircuitBreaker in the units of the hot path."""
    cdef Breaker settings
    settings.enabled = spec.enabled
    settings.failure_threshold = min(spec.failure_threshold, FIELD)
    settings.success_threshold = min(spec.success_threshold, FIELD)
    settings.trials = min(spec.half_open_requests, FIELD)
    settings.reset_us = int(spec.reset_timeout * 1e6)
    return settings
