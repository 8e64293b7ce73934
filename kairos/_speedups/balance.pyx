"""Balancers: which backend of a route gets the next request.

Who may be picked:
- never, when an operator took it out (drain, maintenance, a weight of 0 %) or its breaker lets nobody through;
- not, when health checks or outlier detection took it out; but when the share of healthy backends is no more than the
  route's panic threshold, these verdicts are not believed and all but the former may be picked;
- not, when it has its max_requests; when all that may be picked have, ALL_FULL;
- not, when it was tried for this request already, while there is another.

Share: what an operator left a backend, times its slow start: from a tenth to all of it after it came back. A backend
whose turn it is takes it with the probability of its share; otherwise it is drawn among all by their shares, which
gives each exactly its part. Those that compare loads count a load divided by the share.

round_robin        in turn; what would have been the turn of a backend that is out is spread over the others
least_connections  fewest requests in flight; ties in turn
random             evenly
weighted           smooth weighted round robin (A:2 B:1 gives A B A), exact in each cycle of sum(weights) / gcd picks;
                   cycles above MOST_TURNS are scaled down, so that tiny shares become slightly larger
ip_hash            consistent hashing of the key over the weighted ring of backend names; a backend with a part of its
                   share keeps that part of its keys, always the same; slow start does not move keys
p2c                two at random, the one with fewer requests in flight
ewma               least expected cost, see Ewma

A load costs a read for each worker, of a line that worker writes. So least_connections and ewma compare all backends
where there are few, and a few at random where there are many.

Counters are shared by all workers: round robin and weighted are exact over the whole gateway, loads are those of all
workers. No lock, no allocation and no clock here: `now_us` is the caller's monotonic time.
"""

import cython
from cpython.mem cimport PyMem_RawFree
from libc.math cimport fabs, sqrt
from libc.stdint cimport int32_t, uint8_t

from kairos._speedups.breaker cimport blocked
from kairos._speedups.cells cimport (
    OUT_DRAIN, OUT_MAINTENANCE, SU_BACK_AT_US, SU_CELLS, SU_DEVIATION_NS, SU_EWMA_AT_US, SU_EWMA_NS, SU_FAILING,
    SU_LOAD, SU_LOAD_COVARIANCE, SU_LOAD_VARIANCE, SU_OUT, SU_SAMPLES, SU_SKIP_UNTIL_US, SU_WEIGHT, atomic_add,
    atomic_load, atomic_store,
)
from kairos._speedups.hashing cimport hash_bytes, hash_word, next_random
from kairos._speedups.memory cimport calloc_rows
from kairos._speedups.ring cimport Ring

from math import gcd

cdef enum:
    MOST_TURNS = 65536  # of a weighted cycle
    FEW = 16  # backends that are all compared

cdef double SLOW_START_FROM = 0.1
cdef uint64_t GOLDEN = 0x9E3779B97F4A7C15  # 2^64 divided by the golden ratio: multiples of it fall evenly


cdef inline bint was_tried(int backend, uint64_t tried) noexcept nogil:
    """A bit stands for each 64th backend: a tried one is known for sure, another one may be taken for tried."""
    return (tried >> (backend & 63)) & 1


cdef class Balancer:
    """Common to all: the backends, who may be picked, how loaded they are."""

    def __cinit__(self, Page page not None, list backends not None, cursor, workers, stride, seed, slow_us,
                  panic_percent, breakers):
        if workers < 1 or stride < 0:
            raise ValueError(f"{workers} workers with a stride of {stride} cells")
        self.workers = workers
        self.stride = stride
        self.random = self.spread = hash_word(seed)
        self.slow_us = slow_us
        self.panic_percent = panic_percent
        self.breakers = breakers
        self.cursor = page.at(cursor, 1)
        self._take(page, backends)

    def __dealloc__(self):
        PyMem_RawFree(self.backends)
        PyMem_RawFree(self.shares)

    def __len__(self):
        return self.count

    cdef int _take(self, Page page, list backends) except -1:
        """Look every cell up once, bounds-checked; picks then follow plain pointers."""
        cdef Py_ssize_t shared, in_flight
        cdef Backend* backend
        self.page = page
        self.backends = <Backend*>calloc_rows(len(backends), sizeof(Backend))
        self.shares = <double*>calloc_rows(len(backends), sizeof(double))
        for shared, in_flight, _, _, limit in backends:
            backend = &self.backends[self.count]
            backend.shared = page.at(shared, SU_CELLS)
            backend.in_flight = page.at(in_flight, 1)
            page.at(in_flight + (self.workers - 1) * self.stride, 1)
            backend.limit = limit
            backend.weight = 1
            self.limited = self.limited or limit > 0
            self.count += 1
        return 0

    # -- who may be picked --------------------------------------------------------------------------------------------

    cdef bint ready(self, int backend, int64_t now_us, uint64_t tried) noexcept nogil:
        """What nearly always is: nothing speaks against it, and it has its whole share. All in one cache line."""
        cdef int64_t* shared = self.backends[backend].shared
        cdef int64_t back
        if atomic_load(shared + SU_OUT) | atomic_load(shared + SU_WEIGHT):
            return False
        if atomic_load(shared + SU_SKIP_UNTIL_US) > now_us:
            return False
        if blocked(shared, self.breakers, now_us):
            return False
        if self.slow_us:
            back = atomic_load(shared + SU_BACK_AT_US)
            if back and now_us - back < self.slow_us:
                return False
        return not (tried and was_tried(backend, tried)) and (not self.limited or self.room(backend))

    cdef double share(self, int backend, int64_t now_us) noexcept nogil:
        """From 0 to 1; 0 when it must not be picked whatever becomes of the others."""
        cdef int64_t* shared = self.backends[backend].shared
        cdef int64_t weight = atomic_load(shared + SU_WEIGHT), back
        cdef double share = 1
        if atomic_load(shared + SU_OUT) & (OUT_DRAIN | OUT_MAINTENANCE) or blocked(shared, self.breakers, now_us):
            return 0
        if weight:
            share = (weight - 1) / 100.0
        if self.slow_us:
            back = atomic_load(shared + SU_BACK_AT_US)
            if back and now_us - back < self.slow_us:
                share *= SLOW_START_FROM + (1 - SLOW_START_FROM) * max(0, now_us - back) / <double>self.slow_us
        return share

    cdef int survey(self, int64_t now_us, uint64_t tried) noexcept nogil:
        """Find every backend's share, 0 for one that may not be picked. How many may, or NONE_LEFT or ALL_FULL."""
        cdef int64_t* shared
        cdef int backend, healthy = 0
        for backend in range(self.count):
            shared = self.backends[backend].shared
            self.shares[backend] = self.share(backend, now_us)
            if atomic_load(shared + SU_OUT) or atomic_load(shared + SU_SKIP_UNTIL_US) > now_us:
                self.shares[backend] *= -1  # to be picked in panic only
            healthy += self.shares[backend] > 0
        return self._leave_out(healthy * 100 <= self.panic_percent * self.count, tried)

    cdef int _leave_out(self, bint panic, uint64_t tried) noexcept nogil:
        cdef int backend, eligible = 0, free = 0, fresh = 0
        for backend in range(self.count):
            if self.shares[backend] < 0:
                self.shares[backend] = -self.shares[backend] if panic else 0
            if self.shares[backend] > 0:
                eligible += 1
                if self.limited and not self.room(backend):
                    self.shares[backend] = 0
                else:
                    free += 1
                    fresh += not was_tried(backend, tried)
        if free == 0:
            return ALL_FULL if eligible else NONE_LEFT
        if fresh == 0 or fresh == free:
            return free
        for backend in range(self.count):
            if was_tried(backend, tried):
                self.shares[backend] = 0
        return fresh

    cdef bint room(self, int backend) noexcept nogil:
        """Whether it has a slot left."""
        cdef int64_t limit = self.backends[backend].limit
        return limit == 0 or self.load(backend) < limit

    # -- chance -------------------------------------------------------------------------------------------------------

    cdef int taken_or_drawn(self, int backend, int64_t now_us, uint64_t tried) noexcept nogil:
        """This backend, whose turn it is, or another one in its place."""
        cdef int left
        if self.ready(backend, now_us, tried):
            return backend
        left = self.survey(now_us, tried)
        if left < 0:
            return left
        return backend if self.uniform() < self.shares[backend] else self.draw()

    cdef int drawn(self, int64_t now_us, uint64_t tried) noexcept nogil:
        """For a further attempt, which must not use up a turn: the next requests would all begin where this one did."""
        cdef int left = self.survey(now_us, tried)
        return left if left < 0 else self.draw()

    cdef int draw(self) noexcept nogil:
        """One of those that survey() found, by weight and share. Successive draws fall evenly, not by chance."""
        cdef double total = 0, point
        cdef int backend, last = 0
        for backend in range(self.count):
            total += self.shares[backend] * self.backends[backend].weight
        self.spread += GOLDEN
        point = total * <double>(self.spread >> 11) / <double>(<uint64_t>1 << 53)
        for backend in range(self.count):
            if self.shares[backend] > 0:
                last = backend
                point -= self.shares[backend] * self.backends[backend].weight
                if point < 0:
                    break
        return last

    cdef int below(self, int bound) noexcept nogil:
        """A random number from 0 to bound - 1."""
        return <int>((next_random(&self.random) >> 32) * <uint64_t>bound >> 32)

    cdef double uniform(self) noexcept nogil:
        """A random number from 0 up to 1."""
        return <double>(next_random(&self.random) >> 11) / <double>(<uint64_t>1 << 53)

    cdef int64_t load(self, int backend) noexcept nogil:
        """Requests in flight to a backend from all workers."""
        cdef:
            Py_ssize_t worker
            int64_t total = 0
        for worker in range(self.workers):
            total += atomic_load(self.backends[backend].in_flight + worker * self.stride)
        return total

    # -- the interface ------------------------------------------------------------------------------------------------

    cdef int pick(self, uint64_t key, int64_t now_us, uint64_t tried) noexcept nogil:
        return NONE_LEFT

    cdef void observe_attempt(self, int backend, int64_t us, bint ok, int64_t now_us) noexcept nogil:
        pass

    def choose(self, uint64_t key=0, int64_t now_us=0, uint64_t tried=0):
        """`pick` for Python."""
        return self.pick(key, now_us, tried)

    def observe(self, int backend, int64_t us, bint ok, int64_t now_us):
        """`observe_attempt` for Python."""
        if not 0 <= backend < self.count:
            raise IndexError(f"backend {backend} of {self.count}")
        self.observe_attempt(backend, us, ok, now_us)


# --- in turn or at random --------------------------------------------------------------------------------------------

@cython.final
cdef class RoundRobin(Balancer):

    cdef int pick(self, uint64_t key, int64_t now_us, uint64_t tried) noexcept nogil:
        if self.count == 0:
            return NONE_LEFT
        if tried:
            return self.drawn(now_us, tried)
        return self.taken_or_drawn(
            <int>(<uint64_t>atomic_add(self.cursor, 1) % <uint64_t>self.count), now_us, tried)


@cython.final
cdef class Random(Balancer):

    cdef int pick(self, uint64_t key, int64_t now_us, uint64_t tried) noexcept nogil:
        return self.taken_or_drawn(self.below(self.count), now_us, tried) if self.count else NONE_LEFT


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

    def __cinit__(self, Page page not None, list backends not None, *_):
        cdef:
            list weights = cycle_weights([weight for _, _, weight, _, _ in backends])
            Py_ssize_t backend
        self.cycle = sum(weights)
        self.turns = <int32_t*>calloc_rows(self.cycle, sizeof(int32_t))
        for backend in range(len(weights)):
            self.backends[backend].weight = weights[backend]
        self.lay_out()

    def __dealloc__(self):
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
                credit[backend] += <int64_t>self.backends[backend].weight
                if credit[backend] > credit[richest]:
                    richest = backend
            credit[richest] -= <int64_t>self.cycle
            self.turns[turn] = richest
        PyMem_RawFree(credit)
        return 0

    cdef int pick(self, uint64_t key, int64_t now_us, uint64_t tried) noexcept nogil:
        if self.count == 0:
            return NONE_LEFT
        if tried:
            return self.drawn(now_us, tried)
        return self.taken_or_drawn(self.turns[<uint64_t>atomic_add(self.cursor, 1) % self.cycle], now_us, tried)


# --- by key ----------------------------------------------------------------------------------------------------------

@cython.final
cdef class IpHash(Balancer):
    cdef:
        Ring ring
        uint8_t* passed  # one byte a backend: the key goes on to the next; filled when its owner is not ready
        uint64_t* salts  # a number of each backend, the same in every process

    def __cinit__(self, Page page not None, list backends not None, *_):
        cdef:
            list names = [name for _, _, _, name, _ in backends]
            Py_ssize_t backend
            bytes text
        self.ring = Ring(names, [weight for _, _, weight, _, _ in backends])
        self.passed = <uint8_t*>calloc_rows(len(backends), 1)
        self.salts = <uint64_t*>calloc_rows(len(backends), sizeof(uint64_t))
        for backend in range(len(names)):
            text = names[backend].encode()
            self.salts[backend] = hash_bytes(text, len(text), 0)

    def __dealloc__(self):
        PyMem_RawFree(self.passed)
        PyMem_RawFree(self.salts)

    cdef bint keeps(self, int backend, uint64_t place) noexcept nogil:
        """Whether the key lies in what an operator left the backend. A smaller part lies within each larger one."""
        cdef int64_t weight = atomic_load(self.backends[backend].shared + SU_WEIGHT)
        return weight == 0 or (hash_word(place ^ self.salts[backend]) >> 32) * 100 >> 32 < <uint64_t>(weight - 1)

    cdef int pick(self, uint64_t key, int64_t now_us, uint64_t tried) noexcept nogil:
        cdef:
            uint64_t place = hash_word(key)
            int backend = self.ring.pick(place, NULL)
            int other, left, kept = 0
        if backend < 0 or self.ready(backend, now_us, tried):
            return backend
        left = self.survey(now_us, tried)
        if left < 0:
            return left
        for other in range(self.count):
            self.passed[other] = self.shares[other] == 0 or not self.keeps(other, place)
            kept += not self.passed[other]
        if kept == 0:  # it has to go somewhere
            for other in range(self.count):
                self.passed[other] = self.shares[other] == 0
        return self.ring.pick(place, self.passed)


# --- by load ---------------------------------------------------------------------------------------------------------

cdef struct Candidate:
    int backend
    double share
    double load  # requests in flight
    double ns  # its usual response time, 0 where it is not known yet


cdef class Comparing(Balancer):
    """Those that compare candidates: all where there are few, otherwise some at random."""
    cdef:
        int few  # so many or fewer are all compared
        int samples  # of more
        Candidate* candidates
        int found  # how many there are now

    def __cinit__(self, *_):
        self.few = FEW
        self.samples = 3
        self.candidates = <Candidate*>calloc_rows(max(self.count, 4), sizeof(Candidate))

    def __dealloc__(self):
        PyMem_RawFree(self.candidates)

    cdef int best(self, int64_t now_us) noexcept nogil:
        """Of the candidates, one or more. The first of those that are equal."""
        return self.candidates[0].backend

    cdef void add(self, int backend, double share) noexcept nogil:
        cdef Candidate* candidate = &self.candidates[self.found]
        candidate.backend = backend
        candidate.share = share
        candidate.load = <double>self.load(backend)
        self.found += 1

    cdef int gather(self, int64_t now_us, uint64_t tried) noexcept nogil:
        """Fill in the candidates. How many, or NONE_LEFT or ALL_FULL."""
        cdef bint all_of_them = self.count <= self.few
        cdef int wanted = self.count if all_of_them else self.samples
        cdef int first, backend
        if self.count == 0:
            return NONE_LEFT
        if all_of_them:
            first = backend = <int>(<uint64_t>atomic_add(self.cursor, 1) % <uint64_t>self.count)
        else:
            first = backend = self.below(self.count)
        self.found = 0
        while self.found < wanted:
            if not self.ready(backend, now_us, tried):
                return self.gather_left(first, self.survey(now_us, tried), wanted)
            self.add(backend, 1)
            backend = self.after(backend, first, self.count, all_of_them)
        return self.found

    cdef int gather_left(self, int first, int left, int wanted) noexcept nogil:
        """The same among those that survey() left."""
        cdef int place, start
        if left < 0:
            return left
        self.found = 0
        place = start = first % left
        while self.found < min(wanted, left):
            self.add_left(place)
            place = self.after(place, start, left, left <= wanted)
        return self.found

    cdef int after(self, int place, int first, int count, bint in_turn) noexcept nogil:
        """Another place than the first one: the next, or any."""
        if not in_turn:
            place = first + self.below(count - 1)
        place += 1
        return place - count if place >= count else place

    cdef void add_left(self, int place) noexcept nogil:
        """The backend at that place among those that survey() left."""
        cdef int backend
        for backend in range(self.count):
            if self.shares[backend] > 0:
                if place == 0:
                    self.add(backend, self.shares[backend])
                    break
                place -= 1

    cdef int pick(self, uint64_t key, int64_t now_us, uint64_t tried) noexcept nogil:
        cdef int found = self.gather(now_us, tried)
        return self.best(now_us) if found > 0 else found


cdef class LeastConnections(Comparing):

    cdef int best(self, int64_t now_us) noexcept nogil:
        """Where shares differ, a fraction by chance lets those with a small one have their part while all are idle."""
        cdef int place, best = 0
        cdef double cost, least = 0
        cdef Candidate* candidate
        cdef bint partial = False
        for place in range(self.found):
            partial = partial or self.candidates[place].share < 1
        for place in range(self.found):
            candidate = &self.candidates[place]
            cost = (candidate.load + self.uniform()) / candidate.share if partial else candidate.load
            if place == 0 or cost < least:
                least = cost
                best = candidate.backend
        return best


@cython.final
cdef class PowerOfTwo(LeastConnections):

    def __cinit__(self, *_):
        self.few = self.samples = 2


cdef enum:
    SAMPLES = 400  # that averages stand for
    TRUSTED = 16  # samples before a backend is believed to be faster than the mean
    STEADY = 4  # loads that hardly vary say nothing about the slope: it is damped by this variance
    CROWDED = 2  # times the mean load: the cost of having more than the others is half of the most it can be
    PROBE_EVERY = 128  # picks
    STALE_US = 1000000  # without news
    LOAD_UNIT = 65536
    FAILING_UNIT = 1048576

cdef extern from *:
    """
    #define KAIROS_LONGEST_NS 3.6e12
    #define KAIROS_NOISE 1.5
    #define KAIROS_FAILING_GAIN 0.125
    #define KAIROS_STALE_GAIN 0.5
    #define KAIROS_SLOPE_GAIN 0.05
    #define KAIROS_LEAST 0.2
    #define KAIROS_LEAST_SUCCESS 0.015625
    """
    const double LONGEST_NS "KAIROS_LONGEST_NS"  # that a response counts as: products of averages fit into a cell
    const double NOISE "KAIROS_NOISE"  # errors that a difference must exceed; a mean deviation is 0.8 of a standard one
    const double FAILING_GAIN "KAIROS_FAILING_GAIN"
    const double STALE_GAIN "KAIROS_STALE_GAIN"
    const double SLOPE_GAIN "KAIROS_SLOPE_GAIN"  # at most: a few samples make no slope
    const double LEAST "KAIROS_LEAST"  # of its usual time that a backend is expected to take when idle
    const double LEAST_SUCCESS "KAIROS_LEAST_SUCCESS"


cdef inline double cell_of(const int64_t* cell) noexcept nogil:
    return <double>atomic_load(cell)


@cython.final
cdef class Ewma(Comparing):
    """Least expected cost, as all workers learned it from all attempts.

    Response times grow with the load once a backend's slots are taken, but where is not known. So a straight line is
    fitted to (load, response time) of recent attempts: near the loads that occur, it is flat on a backend with free
    slots and steep on one with a queue. From it comes what the next request would need, corrected for queueing, and
    what it would cost those behind it: once more the slope times the load. Then
    - differences in time that lie within the noise are ignored, or the luckiest of equals would be crowded;
    - having more in flight than the others costs up to the backend's usual time once more, for the same reason;
    - the cost is divided by the rate of successes, and grows where the share is small;
    - a backend not tried yet is taken to be as good as the best, so that it is tried but not flooded;
    - one pick in PROBE_EVERY goes to the backend without news for longest, to find out whether it is well again.
    `python -m bench balancing` shows what that comes to.

    Workers write the averages without a lock: now and then a sample is lost.
    """
    cdef unsigned int turn  # picks of this worker

    cdef int pick(self, uint64_t key, int64_t now_us, uint64_t tried) noexcept nogil:
        cdef int found
        self.turn += 1
        if self.turn % PROBE_EVERY == 0:
            found = self.unheard_of(now_us, tried)
            if found >= 0:
                return found
        found = self.gather(now_us, tried)
        return self.best(now_us) if found > 0 else found

    cdef int unheard_of(self, int64_t now_us, uint64_t tried) noexcept nogil:
        """The backend with the oldest news and nothing in flight; -1 where all news is recent."""
        cdef int backend, oldest = -1
        cdef int64_t at, least = now_us - STALE_US
        if self.survey(now_us, tried) < 0:
            return -1
        for backend in range(self.count):
            at = atomic_load(self.backends[backend].shared + SU_EWMA_AT_US)
            if at < least and self.shares[backend] > 0 and self.load(backend) == 0:
                oldest = backend
                least = at
        return oldest

    cdef int best(self, int64_t now_us) noexcept nogil:
        cdef int place, known = 0, best = 0
        cdef double mean = 0, fastest = 0, loads = 0, uncrowded, cost, least = 0
        cdef Candidate* candidate
        for place in range(self.found):
            candidate = &self.candidates[place]
            candidate.ns = cell_of(self.backends[candidate.backend].shared + SU_EWMA_NS)
            loads += candidate.load
            if candidate.ns > 0:
                mean += candidate.ns
                known += 1
                if fastest == 0 or candidate.ns < fastest:
                    fastest = candidate.ns
        mean = mean / known if known else 1
        fastest = fastest if known else 1
        uncrowded = self.found / (loads + self.found)
        for place in range(self.found):
            cost = self.cost(&self.candidates[place], mean, fastest, uncrowded)
            if place == 0 or cost < least:
                least = cost
                best = self.candidates[place].backend
        return best

    cdef double cost(self, Candidate* candidate, double mean, double fastest, double uncrowded) noexcept nogil:
        """Of one more request, in ns. `uncrowded`: 1 / (mean load + 1)."""
        cdef const int64_t* shared = self.backends[candidate.backend].shared
        cdef double ns = fastest, slope = 0, usual = 1, failing = cell_of(shared + SU_FAILING), cost
        cdef double load = candidate.load + 1
        cdef double crowd = (candidate.load + self.uniform()) * uncrowded
        if candidate.ns > 0:
            ns = within_noise(shared, candidate.ns, mean)
            usual = cell_of(shared + SU_LOAD) / LOAD_UNIT
            slope = cell_of(shared + SU_LOAD_COVARIANCE)
            if slope > 0:
                slope = min(slope / (cell_of(shared + SU_LOAD_VARIANCE) / LOAD_UNIT + min(usual, STEADY)), candidate.ns)
            else:
                slope = 0
        cost = max(ns + slope * (load - usual), ns * LEAST) + slope * load + ns * crowd / (CROWDED + crowd)
        if candidate.share < 1:
            cost += ns * crowd * (1 / candidate.share - 1)
        if failing > 0:
            cost /= max(1 - failing / FAILING_UNIT, LEAST_SUCCESS)
        return cost

    cdef void observe_attempt(self, int backend, int64_t us, bint ok, int64_t now_us) noexcept nogil:
        cdef int64_t* shared = self.backends[backend].shared
        cdef bint stale = now_us - atomic_load(shared + SU_EWMA_AT_US) > STALE_US
        cdef double failing = cell_of(shared + SU_FAILING)
        atomic_store(shared + SU_EWMA_AT_US, now_us)
        if not ok or failing > 0:
            failing += (STALE_GAIN if stale else FAILING_GAIN) * ((0 if ok else FAILING_UNIT) - failing)
            atomic_store(shared + SU_FAILING, <int64_t>failing)
        if ok and us >= 0:
            learn(shared, min(<double>max(us, 1) * 1000, LONGEST_NS), <double>(self.load(backend) + 1), stale)


cdef inline double within_noise(const int64_t* shared, double ns, double mean) noexcept nogil:
    """A response time moved towards the mean by as much as it may be wrong, or onto it."""
    cdef double samples = cell_of(shared + SU_SAMPLES)
    cdef double error = NOISE * cell_of(shared + SU_DEVIATION_NS) / sqrt(samples + 1)
    if ns > mean:
        return max(mean, ns - error)
    return min(mean, ns + error) if samples >= TRUSTED else mean


cdef void learn(int64_t* shared, double ns, double load, bint stale) noexcept nogil:
    """Take one more sample into the averages. The load is that at its end: measured as good as at its beginning."""
    cdef double before = cell_of(shared + SU_EWMA_NS)
    cdef double usual = cell_of(shared + SU_LOAD) / LOAD_UNIT
    cdef double samples = cell_of(shared + SU_SAMPLES)
    cdef double gain, slow, off, further
    if before == 0:
        atomic_store(shared + SU_EWMA_NS, <int64_t>ns)
        atomic_store(shared + SU_LOAD, <int64_t>(load * LOAD_UNIT))
        atomic_store(shared + SU_DEVIATION_NS, <int64_t>(ns / 2))
        atomic_store(shared + SU_SAMPLES, 1)
        return
    if stale:
        samples = min(samples, 1)
    gain = 1 / (samples + 1)
    slow = min(gain, SLOPE_GAIN)
    off = ns - before
    further = load - usual
    atomic_store(shared + SU_EWMA_NS, <int64_t>(before + gain * off))
    atomic_store(shared + SU_LOAD, <int64_t>((usual + gain * further) * LOAD_UNIT))
    move(shared + SU_DEVIATION_NS, fabs(off), gain)
    move(shared + SU_LOAD_VARIANCE, (1 - slow) * further * further * LOAD_UNIT, slow)
    move(shared + SU_LOAD_COVARIANCE, (1 - slow) * further * off, slow)
    atomic_store(shared + SU_SAMPLES, <int64_t>min(samples + 1, SAMPLES))


cdef inline void move(int64_t* cell, double towards, double gain) noexcept nogil:
    cdef double before = cell_of(cell)
    atomic_store(cell, <int64_t>(before + gain * (towards - before)))


cdef dict STRATEGIES = {
    "round_robin": RoundRobin,
    "least_connections": LeastConnections,
    "random": Random,
    "weighted": Weighted,
    "ip_hash": IpHash,
    "p2c": PowerOfTwo,
    "ewma": Ewma,
}


def make(strategy, page, *, cursor, workers, stride, backends, seed, slow_us, panic_percent, breakers):
    """A route's balancer.

    Backends are (cell of the shared block, first worker's in-flight cell, weight, name, most requests in flight or 0).
    """
    return STRATEGIES[strategy](
        page, list(backends), cursor, workers, stride, seed, slow_us, panic_percent, breakers)
