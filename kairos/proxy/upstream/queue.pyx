"""Where requests wait while every backend of a route has as many as it may have. Bounded and timed, first come first.

A route's queue belongs to one worker. It is served when this worker gives a slot back, and looked at every few
milliseconds, for other workers give slots back too. So that nobody starves whose worker has no slot to give back, a
worker leaves a slot to the others as often as their part of all who wait for the route is.
"""

from collections import OrderedDict

cimport cython
from libc.stdint cimport int64_t, uint64_t

from kairos._speedups.cells cimport (
    Page, R_CELLS, R_QUEUE_FULL, R_QUEUE_TIMEOUTS, R_QUEUE_US, R_QUEUED, R_QUEUED_TOTAL, atomic_load
)
from kairos.proxy.exchange cimport Exchange
from kairos.proxy.wire cimport monotonic_us

cdef enum:
    YIELD_US = 3000             # long enough for other workers to look, see QUEUE_TICK


@cython.final
cdef class WaitQueue:
    """Made by snapshot.py; `cells` is the route's block in this worker's row, `first` that in the first worker's."""
    cdef:
        Page page
        int64_t* cells
        int64_t* queued         # first worker's R_QUEUED of the route
        Py_ssize_t workers, stride  # how many such cells, and how far apart
        int64_t yields_until    # monotonic µs: what is free before then is for other workers
        Py_ssize_t size
        int64_t timeout_us
        object waiting  # {Exchange: monotonic µs since when}, the oldest first

    def __init__(self, spec, Page page not None, Py_ssize_t cells, Py_ssize_t first, Py_ssize_t workers,
                 Py_ssize_t stride):
        self.page = page
        self.cells = page.at(cells, R_CELLS)
        self.queued = page.at(first + R_QUEUED, 1)
        page.at(first + (workers - 1) * stride + R_QUEUED, 1)
        self.workers = workers
        self.stride = stride
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

    def leaves(self, int64_t now, uint64_t random):
        """Whether a slot given back here is left to other workers: each who waits has the same chance of it."""
        cdef int64_t others = -self.cells[R_QUEUED]
        cdef Py_ssize_t worker
        for worker in range(self.workers):
            others += atomic_load(self.queued + worker * self.stride)
        if others <= 0 or random % <uint64_t>(others + len(self.waiting)) >= <uint64_t>others:
            return False
        self.yields_until = now + YIELD_US
        return True

    def serve(self, int64_t now):
        """Give those who wait what is free, the oldest first; whether somebody still waits."""
        cdef Exchange x
        if now < self.yields_until:
            return len(self.waiting) > 0
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
