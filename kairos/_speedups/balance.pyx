"""Balancers: which backend of a route gets the next request.

A backend is out while its STATE is not up or its SKIP_UNTIL_US lies ahead. Those that are out are skipped, unless all
are: then the choice is made as if all were up, since one of them may answer. Counters are shared by all workers, so
round robin and weighted are exact over the whole gateway, and in-flight counts are those of all workers.

round_robin        in turn; what would have been the turn of a backend that is out goes to the others in turn
least_connections  fewest requests in flight; ties in turn
random             evenly
weighted           smooth weighted round robin (A:2 B:1 gives A B A), exact in each cycle of sum(weights) / gcd picks;
                   cycles above MOST_TURNS are scaled down, so that tiny shares become slightly larger
ip_hash            consistent hashing of the key over the weighted ring of backend names
p2c                two at random, the one with fewer requests in flight
ewma               least (latency x (requests in flight + 1)); the latency is a peak EWMA: up at once, down with a
                   half-life, also while nothing is sent, so that a backend that was slow is tried again; one never
                   tried is taken to be as good as the best, so that it is not flooded at first

No lock, no allocation and no clock here: `now_us` is the caller's monotonic time.
"""

import cython
from cpython.mem cimport PyMem_RawFree
from libc.stdint cimport INT64_MAX, int32_t, uint8_t

from kairos._speedups.breaker cimport blocked
from kairos._speedups.cells cimport (
    SU_CELLS, SU_EWMA_AT_US, SU_EWMA_US, SU_OUT, SU_SKIP_UNTIL_US, atomic_add, atomic_load, atomic_store
)
from kairos._speedups.hashing cimport hash_word, next_random
from kairos._speedups.memory cimport calloc_rows
from kairos._speedups.ring cimport Ring

from math import gcd

cdef enum:
    MOST_TURNS = 65536  # of a weighted cycle
    HALF_LIFE_US = 4194304  # of a latency that is not seen again; a power of two
    HALF_LIFE_BITS = 22


cdef class Balancer:
    """Common to all: the backends, who is out, how loaded they are."""

    def __cinit__(self, Page page not None, Py_ssize_t cursor, workers, stride, list backends not None, seed):
        self.workers = workers
        self.stride = stride
        self.random = hash_word(seed)
        self._take(page, cursor, backends)

    def __dealloc__(self):
        PyMem_RawFree(self.backends)

    def __len__(self):
        return self.count

    cdef int _take(self, Page page, Py_ssize_t cursor, list backends) except -1:
        """Look every cell up once, bounds-checked; picks then follow plain pointers."""
        cdef Py_ssize_t shared, in_flight
        if self.workers < 1 or self.stride < 0:
            raise ValueError(f"{self.workers} workers with a stride of {self.stride} cells")
        self.page = page
        self.cursor = page.at(cursor, 1)
        self.backends = <Backend*>calloc_rows(len(backends), sizeof(Backend))
        for shared, in_flight, _, _ in backends:
            self.backends[self.count].shared = page.at(shared, SU_CELLS)
            self.backends[self.count].in_flight = page.at(in_flight, 1)
            page.at(in_flight + (self.workers - 1) * self.stride, 1)
            self.count += 1
        return 0

    cdef bint available(self, int backend, int64_t now_us) noexcept nogil:
        cdef int64_t* shared = self.backends[backend].shared
        return (
            atomic_load(shared + SU_OUT) == 0 and atomic_load(shared + SU_SKIP_UNTIL_US) <= now_us
            and not blocked(shared, now_us)
        )

    cdef int available_count(self, int64_t now_us) noexcept nogil:
        cdef int backend, up = 0
        for backend in range(self.count):
            up += self.available(backend, now_us)
        return up

    cdef int nth_available(self, int n, int up, int64_t now_us) noexcept nogil:
        """The n-th of `up` that are available; others may change state meanwhile, then the last one seen."""
        cdef int backend, last = n
        if up == self.count:
            return n
        for backend in range(self.count):
            if self.available(backend, now_us):
                last = backend
                if n == 0:
                    break
                n -= 1
        return last

    cdef int64_t load(self, int backend) noexcept nogil:
        """Requests in flight to a backend from all workers."""
        cdef:
            Py_ssize_t worker
            int64_t total = 0
        for worker in range(self.workers):
            total += atomic_load(self.backends[backend].in_flight + worker * self.stride)
        return total

    cdef int below(self, int bound) noexcept nogil:
        """A random number from 0 to bound - 1."""
        return <int>((next_random(&self.random) >> 32) * <uint64_t>bound >> 32)

    cdef int pick(self, uint64_t key, int64_t now_us, uint64_t tried) noexcept nogil:
        return -1

    cdef void observe_latency(self, int backend, int64_t us, int64_t now_us) noexcept nogil:
        pass

    cdef void observe_attempt(self, int backend, int64_t us, bint ok, int64_t now_us) noexcept nogil:
        if us >= 0:
            self.observe_latency(backend, us, now_us)

    def choose(self, uint64_t key=0, int64_t now_us=0, uint64_t tried=0):
        """`pick` for Python; -1 where there are no backends."""
        return self.pick(key, now_us, tried)

    def observe(self, int backend, int64_t us, int64_t now_us):
        """`observe_latency` for Python."""
        if not 0 <= backend < self.count:
            raise IndexError(f"backend {backend} of {self.count}")
        self.observe_latency(backend, us, now_us)


@cython.final
cdef class RoundRobin(Balancer):

    cdef int pick(self, uint64_t key, int64_t now_us, uint64_t tried) noexcept nogil:
        cdef:
            uint64_t turn
            int backend, up
        if self.count == 0:
            return -1
        turn = <uint64_t>atomic_add(self.cursor, 1)
        backend = <int>(turn % <uint64_t>self.count)
        if self.available(backend, now_us):
            return backend
        up = self.available_count(now_us)
        if up == 0:
            return backend
        return self.nth_available(<int>(turn // <uint64_t>self.count % <uint64_t>up), up, now_us)


@cython.final
cdef class LeastConnections(Balancer):

    cdef int pick(self, uint64_t key, int64_t now_us, uint64_t tried) noexcept nogil:
        cdef:
            int first, step, backend, best = -1
            int64_t load, least = INT64_MAX
            bint any_up
        if self.count == 0:
            return -1
        any_up = self.available_count(now_us) > 0
        first = <int>(<uint64_t>atomic_add(self.cursor, 1) % <uint64_t>self.count)
        for step in range(self.count):
            backend = (first + step) % self.count
            if any_up and not self.available(backend, now_us):
                continue
            load = self.load(backend)
            if load < least:
                least = load
                best = backend
        return best if best >= 0 else first


@cython.final
cdef class Random(Balancer):

    cdef int pick(self, uint64_t key, int64_t now_us, uint64_t tried) noexcept nogil:
        cdef int up
        if self.count == 0:
            return -1
        up = self.available_count(now_us) or self.count
        return self.nth_available(self.below(up), up, now_us)


@cython.final
cdef class PowerOfTwo(Balancer):

    cdef int pick(self, uint64_t key, int64_t now_us, uint64_t tried) noexcept nogil:
        cdef int up, one, other
        if self.count == 0:
            return -1
        up = self.available_count(now_us) or self.count
        one = self.below(up)
        if up == 1:
            return self.nth_available(one, up, now_us)
        other = self.below(up - 1)
        if other >= one:
            other += 1
        one = self.nth_available(one, up, now_us)
        other = self.nth_available(other, up, now_us)
        return other if self.load(other) < self.load(one) else one


# --- weighted --------------------------------------------------------------------------------------------------------

def cycle_weights(list weights):
    """The turns each backend has in one cycle."""
    if any(weight < 1 for weight in weights):
        raise ValueError("weights are 1 or more")
    total = sum(weights) // (gcd(*weights) or 1)
    if total > MOST_TURNS:
        room, total = MOST_TURNS - len(weights), sum(weights)
        weights = [max(1, weight * room // total) for weight in weights]
    common = gcd(*weights) or 1
    return [weight // common for weight in weights]


@cython.final
cdef class Weighted(Balancer):
    cdef:
        int32_t* turns  # the cycle: a backend for each turn
        uint64_t cycle  # how many
        int64_t* weights  # turns of each backend in a cycle

    def __cinit__(self, Page page not None, Py_ssize_t cursor, workers, stride, list backends not None, seed):
        cdef:
            list weights = cycle_weights([weight for _, _, weight, _ in backends])
            Py_ssize_t backend
        self.cycle = sum(weights)
        self.weights = <int64_t*>calloc_rows(len(weights), sizeof(int64_t))
        self.turns = <int32_t*>calloc_rows(self.cycle, sizeof(int32_t))
        for backend in range(len(weights)):
            self.weights[backend] = weights[backend]
        self.lay_out()

    def __dealloc__(self):
        PyMem_RawFree(self.weights)
        PyMem_RawFree(self.turns)

    cdef int lay_out(self) except -1:
        """Each turn everybody earns its weight; the richest has it and pays the whole cycle. Ties go to the first."""
        cdef:
            int64_t* credit = <int64_t*>calloc_rows(self.count, sizeof(int64_t))
            uint64_t turn
            int backend, richest
        for turn in range(self.cycle):
            richest = 0
            for backend in range(self.count):
                credit[backend] += self.weights[backend]
                if credit[backend] > credit[richest]:
                    richest = backend
            credit[richest] -= <int64_t>self.cycle
            self.turns[turn] = richest
        PyMem_RawFree(credit)
        return 0

    cdef int by_weight(self, uint64_t number, int64_t now_us) noexcept nogil:
        """One of the available ones by their weights, as the number falls; -1 if there are none."""
        cdef:
            int64_t total = 0, left
            int backend, last = -1
        for backend in range(self.count):
            if self.available(backend, now_us):
                total += self.weights[backend]
        if total == 0:
            return -1
        left = <int64_t>(number % <uint64_t>total)
        for backend in range(self.count):
            if self.available(backend, now_us):
                last = backend
                left -= self.weights[backend]
                if left < 0:
                    break
        return last

    cdef int pick(self, uint64_t key, int64_t now_us, uint64_t tried) noexcept nogil:
        cdef:
            uint64_t turn
            int backend, other
        if self.count == 0:
            return -1
        turn = <uint64_t>atomic_add(self.cursor, 1)
        backend = self.turns[turn % self.cycle]
        if self.available(backend, now_us):
            return backend
        other = self.by_weight(hash_word(turn), now_us)  # a hash, as a heavy backend's turns come in runs
        return other if other >= 0 else backend


# --- by key and by latency -------------------------------------------------------------------------------------------

@cython.final
cdef class IpHash(Balancer):
    cdef:
        Ring ring
        uint8_t* down  # one byte a backend, filled when the owner of a key is out; a worker has one thread

    def __cinit__(self, Page page not None, Py_ssize_t cursor, workers, stride, list backends not None, seed):
        self.ring = Ring([name for _, _, _, name in backends], [weight for _, _, weight, _ in backends])
        self.down = <uint8_t*>calloc_rows(len(backends), 1)

    def __dealloc__(self):
        PyMem_RawFree(self.down)

    cdef int pick(self, uint64_t key, int64_t now_us, uint64_t tried) noexcept nogil:
        cdef:
            uint64_t place = hash_word(key)
            int backend = self.ring.pick(place, NULL)
            int other
        if backend < 0 or self.available(backend, now_us):
            return backend
        for other in range(self.count):
            self.down[other] = not self.available(other, now_us)
        return self.ring.pick(place, self.down)


cdef inline int64_t halved(int64_t value, int64_t elapsed_us) noexcept nogil:
    """A value after some time: halved each HALF_LIFE_US, straight in between."""
    cdef int64_t halvings
    if elapsed_us <= 0:
        return value
    halvings = elapsed_us >> HALF_LIFE_BITS
    if halvings > 62:
        return 0
    value >>= halvings
    # What is left of the last half-life, as a share of 1024, takes off up to one half.
    return value - (value * ((elapsed_us & (HALF_LIFE_US - 1)) >> (HALF_LIFE_BITS - 10)) >> 11)


@cython.final
cdef class Ewma(Balancer):

    cdef int64_t latency(self, int backend, int64_t now_us) noexcept nogil:
        cdef int64_t* shared = self.backends[backend].shared
        return halved(atomic_load(shared + SU_EWMA_US), now_us - atomic_load(shared + SU_EWMA_AT_US))

    cdef int64_t least_known(self, int64_t now_us) noexcept nogil:
        """The best latency seen."""
        cdef:
            int backend
            int64_t latency, least = INT64_MAX
        for backend in range(self.count):
            latency = self.latency(backend, now_us)
            if 0 < latency < least:
                least = latency
        return 1 if least == INT64_MAX else least

    cdef int pick(self, uint64_t key, int64_t now_us, uint64_t tried) noexcept nogil:
        cdef:
            int first, step, backend, best = -1
            int64_t latency, unknown
            double cost, least = 0
            bint any_up
        if self.count == 0:
            return -1
        any_up = self.available_count(now_us) > 0
        unknown = self.least_known(now_us)
        first = <int>(<uint64_t>atomic_add(self.cursor, 1) % <uint64_t>self.count)
        for step in range(self.count):
            backend = (first + step) % self.count
            if any_up and not self.available(backend, now_us):
                continue
            latency = self.latency(backend, now_us)
            cost = <double>(latency if latency > 0 else unknown) * <double>(self.load(backend) + 1)
            if best < 0 or cost < least:
                least = cost
                best = backend
        return best if best >= 0 else first

    cdef void observe_latency(self, int backend, int64_t us, int64_t now_us) noexcept nogil:
        """Two workers may overwrite each other's sample: the next one mends it."""
        cdef:
            int64_t* shared = self.backends[backend].shared
            int64_t before = atomic_load(shared + SU_EWMA_US)
            int64_t elapsed = now_us - atomic_load(shared + SU_EWMA_AT_US)
        if us < 1:
            us = 1
        if us < before:
            us += halved(before, elapsed) - halved(us, elapsed)
        atomic_store(shared + SU_EWMA_US, us)
        atomic_store(shared + SU_EWMA_AT_US, now_us)


cdef dict STRATEGIES = {
    "round_robin": RoundRobin,
    "least_connections": LeastConnections,
    "random": Random,
    "weighted": Weighted,
    "ip_hash": IpHash,
    "p2c": PowerOfTwo,
    "ewma": Ewma,
}


def make(strategy, page, *, cursor, workers, stride, backends, seed):
    """A route's balancer. Backends are (cell of the shared block, first worker's in-flight cell, weight, name)."""
    return STRATEGIES[strategy](page, cursor, workers, stride, list(backends), seed)
