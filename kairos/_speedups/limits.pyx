"""Rate-limit cells in shared memory: token bucket, fixed window, sliding window, and a bounded table of them by key.

There is no lock, so a killed process cannot leave one behind: every grant is one compare-and-swap of one int64, and a
process that dies takes at most the grant it was making with it. Processes sharing a cell never grant more than its
limit. `now_us` is a monotonic clock that all share (CLOCK_MONOTONIC), `cost` 1 or more; nothing here allocates.

TokenBucket     starts with `requests` tokens, holds up to `requests` + `burst`, refills `requests` per window.
FixedWindow     the window begins with the key's first request and grants `requests` + `burst`.
SlidingWindow   grants `requests` + `burst` in any window, wherever it begins. Grants are counted in fifteenths of the
                window, each given back when its last moment is a window old: at most a fifteenth late, never early.
"""

import cython
from libc.stdint cimport INT64_MAX, INT64_MIN, int32_t, uint32_t

cdef extern from *:
    """
    static inline int kairos_limit_swap(int64_t *cell, int64_t before, int64_t after) {
        return __atomic_compare_exchange_n(cell, &before, after, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    static inline int64_t kairos_limit_load(const int64_t *cell) { return __atomic_load_n(cell, __ATOMIC_SEQ_CST); }
    """
    bint swap "kairos_limit_swap" (int64_t* cell, int64_t before, int64_t after) noexcept nogil
    int64_t load "kairos_limit_load" (const int64_t* cell) noexcept nogil

cdef enum:
    FRACTION_BITS = 8  # token buckets reckon in 1/256 µs
    COUNT_BITS = 25  # of a fixed window's count; the other 39 are its start in ms
    SLICES = 16  # of a sliding window's state: a window touches one more than the fifteen it is long
    WAYS = 8  # slots of a set
    TRIES = 16  # searches of a table; a key that still finds no rest is granted

cdef int64_t BIAS = <int64_t>1 << 61  # keeps a token bucket's word above zero, which means never used
cdef int64_t MOST_UNITS = <int64_t>1 << 60
cdef int64_t PENDING = INT64_MIN  # bit of a key that is being brought into a table


cdef class Limit:
    """What is granted; immutable. The state lies elsewhere and is handed in."""

    def __cinit__(self, int64_t requests, int64_t window_us, int64_t burst=0):
        if requests < 1 or window_us < 1_000_000 or burst < 0:
            raise ValueError(f"a limit of {requests} + {burst} per {window_us} us: at least 1 + 0 per second")
        if requests + burst >= 1 << COUNT_BITS:
            raise ValueError(f"a limit of {requests} + {burst}: at most {(1 << COUNT_BITS) - 1} in one window")
        self.capacity = requests + burst
        self.words = 1

    cdef int64_t take(self, int64_t* state, int64_t now_us, int64_t cost) noexcept nogil:
        return INT64_MAX

    cdef int64_t in_force(self, const int64_t* state, int64_t now_us) noexcept nogil:
        return 0

    cdef bint clear(self, int64_t* state, int64_t now_us, bint forced) noexcept nogil:
        cdef int64_t word = load(state)
        if not forced and self.in_force(&word, now_us) > 0:
            return False
        return swap(state, word, 0)


@cython.final
cdef class TokenBucket(Limit):
    """Its word is the moment the bucket was or will be empty, so that refilling needs no write."""
    cdef:
        int64_t interval  # units a token takes to come, rounded up
        int64_t brim  # units a full bucket is worth
        int64_t initial  # units a new bucket is worth

    def __cinit__(self, int64_t requests, int64_t window_us, int64_t burst=0):
        self.interval = ((window_us << FRACTION_BITS) + requests - 1) // requests
        # What takes more than 2^60 units to fill, some 140 years, is never full: the bound is not noticed.
        self.capacity = min(self.capacity, MOST_UNITS // self.interval)
        self.brim = self.capacity * self.interval
        self.initial = requests * self.interval

    cdef int64_t empty_at(self, int64_t word, int64_t now) noexcept nogil:
        cdef int64_t moment = word - BIAS if word else now - self.initial
        return moment if moment > now - self.brim else now - self.brim

    cdef int64_t take(self, int64_t* state, int64_t now_us, int64_t cost) noexcept nogil:
        cdef:
            int64_t now = now_us << FRACTION_BITS
            int64_t word, moment
        if cost > self.capacity:
            return INT64_MAX
        while True:
            word = load(state)
            moment = self.empty_at(word, now) + cost * self.interval
            if moment > now:
                return ((moment - now - 1) >> FRACTION_BITS) + 1
            if swap(state, word, moment + BIAS):
                return 0

    cdef int64_t in_force(self, const int64_t* state, int64_t now_us) noexcept nogil:
        """Until it holds what a new one holds."""
        cdef int64_t now = now_us << FRACTION_BITS
        return (self.empty_at(state[0], now) + self.initial - now + 255) >> FRACTION_BITS


@cython.final
cdef class FixedWindow(Limit):
    """Its word is the start of the window in ms, rounded up, and the count."""
    cdef int64_t window_ms

    def __cinit__(self, int64_t requests, int64_t window_us, int64_t burst=0):
        self.window_ms = (window_us + 999) // 1000

    cdef int64_t left_ms(self, int64_t word, int64_t now_us) noexcept nogil:
        """Of the window; 0 or less when it is over. The start's 39 bits wrap, hence the shifts."""
        cdef:
            uint64_t start = <uint64_t>word >> COUNT_BITS
            int64_t elapsed = <int64_t>((<uint64_t>(now_us // 1000) - start) << COUNT_BITS) >> COUNT_BITS
        return self.window_ms - elapsed if word else 0

    cdef int64_t opened(self, int64_t now_us, int64_t cost) noexcept nogil:
        """The word of a window that begins now with a grant."""
        return <int64_t>((<uint64_t>((now_us + 999) // 1000) << COUNT_BITS) + <uint64_t>cost)

    cdef int64_t take(self, int64_t* state, int64_t now_us, int64_t cost) noexcept nogil:
        cdef int64_t word, left, count
        if cost > self.capacity:
            return INT64_MAX
        while True:
            word = load(state)
            left = self.left_ms(word, now_us)
            count = word & ((1 << COUNT_BITS) - 1)
            if left > 0 and count + cost > self.capacity:
                return left * 1000
            if swap(state, word, word + cost if left > 0 else self.opened(now_us, cost)):
                return 0

    cdef int64_t in_force(self, const int64_t* state, int64_t now_us) noexcept nogil:
        return self.left_ms(state[0], now_us) * 1000


# --- sliding window --------------------------------------------------------------------------------------------------

cdef inline uint32_t number_of(int64_t word) noexcept nogil:
    """The slice a word counts for, modulo 2^32."""
    return <uint32_t>(<uint64_t>word >> 32)


cdef inline int64_t count_of(int64_t word) noexcept nogil:
    return <int64_t><uint32_t>word


cdef inline int64_t slice_word(uint32_t number, int64_t count) noexcept nogil:
    return <int64_t>(<uint64_t>number << 32) + count


cdef inline bint counts(int64_t word, uint32_t number) noexcept nogil:
    """Whether a word lies in the window that ends in slice `number`, or ahead of it: others read the clock later."""
    return <int32_t>(number - number_of(word)) < SLICES


@cython.final
cdef class SlidingWindow(Limit):
    """Its words are the counts of the last SLICES slices, each with the slice's number.

    A grant is counted first and then the sum is looked at again: two processes in different slices do not meet in one
    word, and where both went too far at least one of them sees it and takes its grant back.
    """
    cdef int64_t slice_us

    def __cinit__(self, int64_t requests, int64_t window_us, int64_t burst=0):
        self.words = SLICES
        self.slice_us = (window_us + SLICES - 2) // (SLICES - 1)

    cdef int64_t total(self, const int64_t* state, uint32_t number) noexcept nogil:
        cdef:
            int64_t word, total = 0
            int i
        for i in range(SLICES):
            word = load(state + i)
            if counts(word, number):
                total += count_of(word)
        return total

    cdef int64_t wait(self, const int64_t* state, int64_t now_us, int64_t excess) noexcept nogil:
        """µs until the oldest slices that hold `excess` between them are out of the window."""
        cdef:
            int64_t now = now_us // self.slice_us
            int64_t word
            int age
        for age in range(SLICES - 1, -1, -1):
            word = load(state + <uint32_t>(now - age) % SLICES)
            if number_of(word) == <uint32_t>(now - age):
                excess -= count_of(word)
            if excess <= 0:
                return (now - age + SLICES) * self.slice_us - now_us
        return SLICES * self.slice_us

    cdef int64_t take(self, int64_t* state, int64_t now_us, int64_t cost) noexcept nogil:
        cdef:
            uint32_t number = <uint32_t>(now_us // self.slice_us)
            int64_t* cell = state + number % SLICES
            int64_t word, total
        if cost > self.capacity:
            return INT64_MAX
        while True:
            word = load(cell)
            total = self.total(state, number)
            if total + cost > self.capacity:
                return self.wait(state, now_us, total + cost - self.capacity)
            if word == 0 or not counts(word, number):
                word = self.turn(cell, word, number)
            if swap(cell, word, word + cost):
                break
        if self.total(state, number) <= self.capacity:
            return 0
        self.give_back(cell, number_of(word), cost)
        return self.slice_us

    cdef int64_t turn(self, int64_t* cell, int64_t word, uint32_t number) noexcept nogil:
        """Begin a slice in the place of one long past; what the cell holds then."""
        swap(cell, word, slice_word(number, 0))
        return load(cell)

    cdef void give_back(self, int64_t* cell, uint32_t number, int64_t cost) noexcept nogil:
        cdef int64_t word = load(cell)
        while number_of(word) == number and not swap(cell, word, word - cost):
            word = load(cell)

    cdef int64_t in_force(self, const int64_t* state, int64_t now_us) noexcept nogil:
        cdef:
            int64_t now = now_us // self.slice_us
            int64_t word
            int age
        for age in range(SLICES):
            word = load(state + <uint32_t>(now - age) % SLICES)
            if number_of(word) == <uint32_t>(now - age) and count_of(word):
                return (now - age + SLICES) * self.slice_us - now_us
        return 0

    cdef bint clear(self, int64_t* state, int64_t now_us, bint forced) noexcept nogil:
        cdef:
            uint32_t number = <uint32_t>(now_us // self.slice_us)
            int64_t word
            int i
        for i in range(SLICES):
            word = load(state + i)
            if not forced and counts(word, number) and count_of(word):
                return False
            if not swap(state + i, word, 0):
                return False
        return True


# --- where the state lies --------------------------------------------------------------------------------------------

cdef int64_t checked_cost(int64_t cost) except -1:
    if cost < 1:
        raise ValueError(f"cost {cost}: at least 1")
    return cost


@cython.final
cdef class LimitCell:
    """One limit's state at a place of a page."""

    def __cinit__(self, Page page not None, Py_ssize_t cell, Limit limit not None):
        self.page = page
        self.limit = limit
        self.state = page.at(cell, limit.words)

    cdef int64_t take(self, int64_t now_us, int64_t cost) noexcept nogil:
        return self.limit.take(self.state, now_us, cost)

    def acquire(self, int64_t now_us, int64_t cost=1):
        """`take` for Python: 0, or µs to wait."""
        return self.limit.take(self.state, now_us, checked_cost(cost))


@cython.final
cdef class LimitTable:
    """A bounded table of states by key hash, WAYS slots for each hash to lie in.

    A key without a slot takes a free one, else that of a state no longer in force, else that of the state which is so
    for the shortest time. A key found to have moved while its state was changed is charged again in its new place, so
    grants are never lost; a state may be charged for a key that just left it.
    Keys come from clients: hash them with a secret seed, or they can be made to share a set.
    """

    def __cinit__(self, Page page not None, Py_ssize_t cell, Py_ssize_t count, Limit limit not None):
        cdef Py_ssize_t sets = 1
        if count < WAYS * (1 + limit.words):
            raise ValueError(f"{count} cells for a limit table: at least {WAYS * (1 + limit.words)}")
        while 2 * sets * WAYS * (1 + limit.words) <= count:
            sets *= 2
        self.page = page
        self.limit = limit
        self.mask = sets - 1
        self.keys = page.at(cell, sets * WAYS * (1 + limit.words))
        self.states = self.keys + sets * WAYS

    def __len__(self):
        """How many keys have a slot."""
        cdef Py_ssize_t slot
        return sum(1 for slot in range((self.mask + 1) * WAYS) if self.keys[slot])

    @property
    def slots(self):
        return (self.mask + 1) * WAYS

    cdef int64_t* state(self, Py_ssize_t slot) noexcept nogil:
        return self.states + slot * self.limit.words

    cdef Py_ssize_t find(self, Py_ssize_t first, int64_t key) noexcept nogil:
        cdef Py_ssize_t slot
        for slot in range(first, first + WAYS):
            if load(self.keys + slot) == key:
                return slot
        return -1

    cdef int64_t* seek(self, uint64_t key) noexcept nogil:
        """A look brings no key in."""
        cdef Py_ssize_t slot = self.find(<Py_ssize_t>((key >> 32) & self.mask) * WAYS, <int64_t>key & ~PENDING or 1)
        return NULL if slot < 0 else self.state(slot)

    cdef Py_ssize_t claim(self, Py_ssize_t first, int64_t pending, int64_t now_us) noexcept nogil:
        """A slot for a new key, marked as pending; -1 when others changed the set meanwhile."""
        cdef:
            Py_ssize_t slot, best = first
            int64_t left, least = INT64_MAX
        for slot in range(first, first + WAYS):
            if load(self.keys + slot) == 0:
                return slot if swap(self.keys + slot, 0, pending) else -1
        for slot in range(first, first + WAYS):
            left = self.limit.in_force(self.state(slot), now_us)
            if left <= 0:
                return self.replace(slot, pending, now_us, False)
            if left < least:
                least = left
                best = slot
        return self.replace(best, pending, now_us, True)

    cdef Py_ssize_t replace(self, Py_ssize_t slot, int64_t pending, int64_t now_us, bint forced) noexcept nogil:
        """Cleared first: whoever still charges the old key sees it gone and charges it elsewhere."""
        cdef int64_t old = load(self.keys + slot)
        if old & ~PENDING == pending & ~PENDING or not self.limit.clear(self.state(slot), now_us, forced):
            return -1
        return slot if swap(self.keys + slot, old, pending) else -1

    cdef bint settle(self, Py_ssize_t first, Py_ssize_t slot, int64_t key) noexcept nogil:
        """Show a pending key, unless somebody else brings the same one: who sees that gives its own slot up."""
        cdef:
            Py_ssize_t other
            int64_t found
        for other in range(first, first + WAYS):
            found = load(self.keys + other)
            if other != slot and found & ~PENDING == key:
                swap(self.keys + slot, key | PENDING, 0)
                return False
        return swap(self.keys + slot, key | PENDING, key)

    cdef void adopt(self, Py_ssize_t first, int64_t key) noexcept nogil:
        """Show a key that somebody left pending and died."""
        cdef Py_ssize_t slot
        for slot in range(first, first + WAYS):
            if swap(self.keys + slot, key | PENDING, key):
                return

    cdef int64_t take(self, uint64_t key, int64_t now_us, int64_t cost) noexcept nogil:
        cdef:
            Py_ssize_t first = <Py_ssize_t>((key >> 32) & self.mask) * WAYS
            Py_ssize_t slot
            int64_t tag = <int64_t>key & ~PENDING or 1
            int64_t wait = 0
            int tries
        for tries in range(TRIES):
            if tries == TRIES // 2:
                self.adopt(first, tag)
            slot = self.find(first, tag)
            if slot < 0:
                slot = self.claim(first, tag | PENDING, now_us)
                if slot < 0 or not self.settle(first, slot, tag):
                    continue
            wait = self.limit.take(self.state(slot), now_us, cost)
            if load(self.keys + slot) == tag:
                break
        return wait

    def acquire(self, uint64_t key, int64_t now_us, int64_t cost=1):
        """`take` for Python: 0, or µs to wait."""
        return self.take(key, now_us, checked_cost(cost))
