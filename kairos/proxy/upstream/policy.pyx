"""How a route deals with backends that fail, in the units of the hot path. Pure: numbers in, answers out.

Made from the route's `circuit_breaker` and `retry`. Without `retry`, only what cannot do harm is done: a request that
could not be sent, and an idempotent one whose connection broke before the answer, goes to a backend not tried yet.
"""

cimport cython
from libc.stdint cimport int64_t, uint64_t

from kairos._speedups.breaker cimport breaker_settings
from kairos._speedups.hashing cimport next_random

from kairos.config.model import Retry

DEFAULT_RETRIES = 3  # without a `retry` section, and never more than there are other backends


cdef inline bint has(const uint64_t* statuses, int status) noexcept nogil:
    return 0 <= status < 1000 and statuses[status >> 6] >> (status & 63) & 1


cdef void put(uint64_t* statuses, int status) noexcept nogil:
    if 0 <= status < 1000:
        statuses[status >> 6] |= <uint64_t>1 << (status & 63)


@cython.final
cdef class Policy:

    def __init__(self, circuit_breaker, retry, int backends):
        self.breaker = breaker_settings(circuit_breaker)
        codes = circuit_breaker.failure_status_codes
        for status in range(500, 600) if codes is None else codes:
            put(self.failing, status)
        self._take(Retry() if retry is None else retry)
        if retry is None:
            self.max_retries = min(backends - 1, DEFAULT_RETRIES)
            self.repeats = False
            self.on_timeouts = False
            self.first_us = 0
        else:
            for status in retry.retry_on_status_codes:
                put(self.again, status)

    def _take(self, retry):
        self.max_retries = retry.max_retries
        self.repeats = True
        self.on_errors = self.on_timeouts = retry.retry_on_connection_error
        self.any_method = retry.retry_non_idempotent
        self.buffer_bytes = retry.buffer_bytes
        self.first_us = retry.initial_backoff_ms * 1000
        self.most_us = retry.max_backoff_ms * 1000
        self.multiplier = retry.backoff_multiplier
        self.budget_share = retry.budget_percent / 100
        self.budget_min = retry.budget_min

    cdef bint fails(self, int status) noexcept nogil:
        return has(self.failing, status)

    cdef bint retries(self, int status) noexcept nogil:
        return has(self.again, status)

    cdef int64_t wait_us(self, int retry, uint64_t* random) noexcept nogil:
        """How long to wait before a retry, the first being 1: full jitter, anything up to the exponential bound."""
        cdef double bound = self.first_us
        cdef int _
        for _ in range(retry - 1):
            bound *= self.multiplier
            if bound >= self.most_us:
                break
        if bound > self.most_us:
            bound = self.most_us
        return <int64_t>(bound * (<double>(next_random(random) >> 11) / <double>(<uint64_t>1 << 53)))

    cdef bint affords(self, int64_t extra, int64_t live) noexcept nogil:
        """Whether one request more may be on a retry or hedge, `extra` of the `live` ones being so."""
        return extra < self.budget_min or extra < self.budget_share * live

    # -- for tests ----------------------------------------------------------------------------------------------------

    def counts_as_failure(self, int status):
        return bool(self.fails(status))

    def retries_on(self, int status):
        return bool(self.retries(status))

    def wait(self, int retry, uint64_t seed):
        """Microseconds before this retry, as `seed` has it."""
        return self.wait_us(retry, &seed)

    def may_spend(self, int64_t extra, int64_t live):
        return bool(self.affords(extra, live))
