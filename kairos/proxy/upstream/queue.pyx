"""Where requests wait while every backend of a route has as many as it may have. Bounded and timed, first come first.

A route's queue belongs to one worker. It is served when this worker gives a slot back, and looked at every few
milliseconds, for other workers give slots back too.
"""

from collections import OrderedDict

cimport cython
from libc.stdint cimport int64_t

from kairos._speedups.cells cimport (
    Page, R_CELLS, R_QUEUE_FULL, R_QUEUE_TIMEOUTS, R_QUEUE_US, R_QUEUED, R_QUEUED_TOTAL
)
from kairos.proxy.exchange cimport Exchange
from kairos.proxy.wire cimport monotonic_us


@cython.final
cdef class WaitQueue:
    """Made by snapshot.py; `cells` is the route's block in this worker's row."""
    cdef:
        Page page
        int64_t* cells
        Py_ssize_t size
        int64_t timeout_us
        object waiting  # {Exchange: monotonic µs since when}, the oldest first

    def __init__(self, spec, Page page not None, Py_ssize_t cells):
        self.page = page
        self.cells = page.at(cells, R_CELLS)
        self.size = spec.size
        self.timeout_us = int(spec.timeout * 1e6)
        self.waiting = OrderedDict()

    def __len__(self):
        return len(self.waiting)

    def push(self, Exchange x, int64_t now):
        """Let x wait, or fail it where too many do."""
        if len(self.waiting) >= self.size:
            self.cells[R_QUEUE_FULL] += 1
            x.fail("queue_full")
            return 0
        x.queued = True
        self.waiting[x] = now
        self.cells[R_QUEUED] += 1
        self.cells[R_QUEUED_TOTAL] += 1
        if len(self.waiting) == 1:
            x.runtime.wait_in(self)
        return 0

    def forget(self, Exchange x):
        """x waits no longer: it has a backend, or is over."""
        x.queued = False
        self.cells[R_QUEUED] -= 1
        self.cells[R_QUEUE_US] += monotonic_us() - self.waiting.pop(x)

    def serve(self, int64_t now):
        """Give those who wait what is free, the oldest first; whether somebody still waits."""
        cdef Exchange x
        while self.waiting:
            x = next(iter(self.waiting))
            if now - self.waiting[x] >= self.timeout_us:
                self.cells[R_QUEUE_TIMEOUTS] += 1
                x.fail("queue_timeout")
                continue
            x.plan.handler.resume(x)
            if x.queued:
                return True
        return False
