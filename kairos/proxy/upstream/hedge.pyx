"""When a request is slow enough for a second attempt beside the first.

The delay is a percentile of the route's recent upstream times in this worker, read from its histogram about once a
second. It is nearly the same for all requests of a route, so those under way stand in the order of their dues and one
timer serves them all.
"""

from collections import OrderedDict

cimport cython
from libc.stdint cimport int64_t
from libc.string cimport memcpy

from kairos._speedups.cells cimport HIST_BUCKETS, R_UPSTREAM, kairos_bounds_us
from kairos.proxy.exchange cimport Exchange, Plan
from kairos.proxy.wire cimport monotonic_us

cdef enum:
    LOOK_US = 1000000           # between two readings of the histogram
    WINDOW_US = 30000000        # a window of it is closed after this
    ENOUGH = 20                 # requests that say something about a percentile


@cython.final
cdef class Hedger:
    """Of one plan. The percentile is taken over the window at hand and the one before it."""
    cdef:
        Plan plan
        double share
        int64_t least_us, delay_us
        int64_t looked_at, window_from
        int64_t older[19]       # the histogram when the window before began
        int64_t base[19]        # and when this one did
        object waiting          # {Exchange: monotonic µs at which its hedge is due}, the earliest first
        object timer

    def __init__(self, spec, Plan plan not None):
        self.plan = plan
        self.share = spec.percentile / 100
        self.least_us = self.delay_us = spec.min_delay_ms * 1000
        self.window_from = monotonic_us()
        memcpy(self.base, plan.cells + R_UPSTREAM, sizeof(self.base))  # older: zeros, what was seen before a reload
        self.waiting = OrderedDict()

    def watch(self, Exchange x, int64_t now):
        """x is sent: unless it is forgotten before it is due, its handler is asked for a hedge."""
        if now - self.looked_at > LOOK_US:
            self._look(now)
        self.waiting[x] = now + self.delay_us
        if self.timer is None:
            self.timer = x.runtime.clock.loop.call_later(self.delay_us / 1e6, self._due, x.runtime.clock.loop)

    def forget(self, Exchange x):
        self.waiting.pop(x, None)

    def _due(self, loop):
        cdef int64_t now = monotonic_us()
        cdef Exchange x
        self.timer = None
        while self.waiting:
            x, due = next(iter(self.waiting.items()))
            if due > now:
                self.timer = loop.call_later((due - now) / 1e6, self._due, loop)
                return
            del self.waiting[x]
            self.plan.handler.hedge(x)

    cdef int _look(self, int64_t now) except -1:
        """Read the histogram anew."""
        cdef int64_t* counts = self.plan.cells + R_UPSTREAM
        cdef int64_t total = 0, below = 0, here, low = 0
        cdef int bucket
        self.looked_at = now
        for bucket in range(HIST_BUCKETS):
            total += counts[bucket] - self.older[bucket]
        if total >= ENOUGH:
            for bucket in range(HIST_BUCKETS):
                here = counts[bucket] - self.older[bucket]
                if below + here >= self.share * total or bucket == HIST_BUCKETS - 1:
                    break
                below += here
                low = kairos_bounds_us[bucket]
            self.delay_us = max(self.least_us, _between(low, bucket, (self.share * total - below) / max(here, 1)))
        if now - self.window_from > WINDOW_US:
            self.window_from = now
            memcpy(self.older, self.base, sizeof(self.base))
            memcpy(self.base, counts, sizeof(self.base))
        return 0

    @property
    def delay(self):
        """Seconds after which a hedge is due."""
        return self.delay_us / 1e6


cdef int64_t _between(int64_t low, int bucket, double share) noexcept nogil:
    """A value inside a bucket; the last one has no upper bound."""
    if bucket == HIST_BUCKETS - 1:
        return low
    return low + <int64_t>(share * (kairos_bounds_us[bucket] - low))
