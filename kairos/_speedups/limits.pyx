"""Rate-limit cells in shared memory: token bucket, fixed window, sliding window, and a bounded table of them by key.

There is no lock, so a killed process cannot leave one behind: every grant is one compare-and-swap of one int64, and a
process that dies takes at most the grant it was making with it. Processes sharing a cell never grant more than its
limit. `now_us` is a monotonic clock that all share (CLOCK_MONOTONIC), `cost` 1 or more; nothing here allocates.

TokenBucket     starts with `requests` tokens, holds up to `requests` + `burst`, refills `requests` per window.
FixedWindow     the window begins with the key's first request and grants `requests` + `burst`.
SlidingWindow   grants `requests` + `burst` in any window, wherever it begins. Grants are counted in fifteenths of the
                window, each given back when its last moment is a window old: at most a fifteenth late, never early.
Lease           tokens taken elsewhere in advance; says ASK when there are none.

A place of a table is handed from key to key, and a key's limit may be of another kind or pace than the one before it.
Who is late and still charges the old key writes a word that means nothing there: what lies more than AHEAD in the
future is no word of this limit and counts as none.
"""

import cython
from libc.stdint cimport INT64_MAX, INT64_MIN, int32_t, uint32_t
from libc.string cimport memset

from kairos._speedups.cells cimport atomic_add, atomic_load, atomic_store

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
    COUNT_BITS = 25  # of a fixed window's or lease's word; the other 39 are a time in ms
    HELD = 1 << 24  # of a lease's word: there is nothing to be had before its end
    SLICES = 16  # of a sliding window's state: a window touches one more than the fifteen it is long
    TRIES = 16  # searches of a table; a key that still finds no rest is granted
    FULL = -2  # of claim(): every place of the set is that of a key being refused
    NOTE_BITS = 8  # of a meta word: whether the key was refused, and how much it has used; the rest is a time in ms
    REFUSED = 1 << 7

cpdef enum:  # header of a table
    T_KEYS = 0  # places ever taken
    T_REUSED = 1  # times a place changed hands whose limit was no longer in force
    T_FORGOTTEN = 2  # the same, but it was: of a key that had used little and was not refused
    T_FULL = 3  # requests refused because no place was to be had
    T_CELLS = 8

cdef int64_t BIAS = <int64_t>1 << 61  # keeps a token bucket's word above zero, which means never used
cdef int64_t MOST_UNITS = <int64_t>1 << 60
cdef int64_t PENDING = INT64_MIN  # bit of a key that is being brought into a table
cdef int64_t AHEAD = 3_600_000_000  # µs; see above


cdef class Limit:
    """What is granted; immutable. The state lies elsewhere and is handed in."""

    def __cinit__(self, int64_t requests, int64_t window_us, int64_t burst=0, *more):
        if requests < 1 or window_us < 1_000_000 or burst < 0:
            raise ValueError(f"a limit of {requests} + {burst} per {window_us} us: at least 1 + 0 per second")
        if requests + burst >= 1 << 24:
            raise ValueError(f"a limit of {requests} + {burst}: at most {(1 << 24) - 1} in one window")
        self.capacity = requests + burst
        self.words = 1
        self.begin_with(self.capacity)

    cdef void begin_with(self, int64_t fresh) noexcept nogil:
        self.fresh = fresh
        self.share = 127.0 / <double>fresh

    cdef int64_t take(self, int64_t* state, int64_t now_us, int64_t cost, Grant* grant) noexcept nogil:
        return INT64_MAX

    cdef int64_t look(self, const int64_t* state, int64_t now_us, int64_t cost) noexcept nogil:
        return INT64_MAX

    cdef void give(self, int64_t* state, int64_t taken_us, int64_t cost) noexcept nogil:
        pass

    cdef int64_t more_in(self, const int64_t* state, int64_t now_us) noexcept nogil:
        return 0

    cdef int used(self, int64_t left) noexcept nogil:
        return <int>(<double>(self.fresh - left) * self.share) if left < self.fresh else 0


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
        self.begin_with(requests)
        self.brim = self.capacity * self.interval
        self.initial = requests * self.interval

    cdef int64_t empty_at(self, int64_t word, int64_t now) noexcept nogil:
        cdef int64_t moment = word - BIAS if word else now - self.initial
        if moment > now + (AHEAD << FRACTION_BITS):
            moment = now - self.initial
        return moment if moment > now - self.brim else now - self.brim

    cdef int64_t wait(self, int64_t moment, int64_t now) noexcept nogil:
        return ((moment - now - 1) >> FRACTION_BITS) + 1

    cdef void tell(self, Grant* grant, int64_t moment, int64_t now) noexcept nogil:
        """It is in force until it holds what a new one holds."""
        grant.left = (now - moment) // self.interval if moment < now else 0
        grant.until_us = (moment + self.initial + 255) >> FRACTION_BITS

    cdef int64_t take(self, int64_t* state, int64_t now_us, int64_t cost, Grant* grant) noexcept nogil:
        cdef:
            int64_t now = now_us << FRACTION_BITS
            int64_t word, moment, after
        while True:
            word = load(state)
            moment = self.empty_at(word, now)
            after = moment + cost * self.interval if cost <= self.capacity else INT64_MAX
            if after > now:
                self.tell(grant, moment, now)
                return self.wait(after, now) if cost <= self.capacity else INT64_MAX
            if swap(state, word, after + BIAS):
                self.tell(grant, after, now)
                return 0

    cdef int64_t look(self, const int64_t* state, int64_t now_us, int64_t cost) noexcept nogil:
        cdef int64_t now = now_us << FRACTION_BITS
        cdef int64_t after
        if cost > self.capacity:
            return INT64_MAX
        after = self.empty_at(load(state), now) + cost * self.interval
        return self.wait(after, now) if after > now else 0

    cdef void give(self, int64_t* state, int64_t taken_us, int64_t cost) noexcept nogil:
        cdef int64_t word = load(state)
        while word and not swap(state, word, word - cost * self.interval):
            word = load(state)

    cdef int64_t more_in(self, const int64_t* state, int64_t now_us) noexcept nogil:
        cdef int64_t now = now_us << FRACTION_BITS
        cdef int64_t held = now - self.empty_at(load(state), now)
        if held >= self.brim:
            return 0
        return ((self.interval - (held % self.interval if held > 0 else held) - 1) >> FRACTION_BITS) + 1


cdef inline int64_t ms_word(int64_t ms, int64_t rest) noexcept nogil:
    """39 bits of a time in ms, which wrap, and what else the word holds."""
    return <int64_t>(<uint64_t>ms << COUNT_BITS) + rest


cdef inline int64_t ms_since(int64_t word, int64_t now_us) noexcept nogil:
    """From a word's time until now."""
    return <int64_t>((<uint64_t>(now_us // 1000) - (<uint64_t>word >> COUNT_BITS)) << COUNT_BITS) >> COUNT_BITS


@cython.final
cdef class FixedWindow(Limit):
    """Its word is the start of the window in ms, rounded up, and the count."""
    cdef int64_t window_ms

    def __cinit__(self, int64_t requests, int64_t window_us, int64_t burst=0):
        self.window_ms = (window_us + 999) // 1000

    cdef int64_t left_ms(self, int64_t word, int64_t now_us) noexcept nogil:
        """Of the window; 0 or less when it is over."""
        cdef int64_t elapsed = ms_since(word, now_us)
        return self.window_ms - elapsed if word and elapsed > -AHEAD // 1000 else 0

    cdef int64_t take(self, int64_t* state, int64_t now_us, int64_t cost, Grant* grant) noexcept nogil:
        cdef int64_t word, left, count
        while True:
            word = load(state)
            left = self.left_ms(word, now_us)
            count = word & ((1 << COUNT_BITS) - 1) if left > 0 else 0
            grant.until_us = now_us + left * 1000
            if count + cost > self.capacity:
                grant.left = self.capacity - count if count < self.capacity else 0
                return left * 1000 if cost <= self.capacity else INT64_MAX
            if left <= 0:
                grant.until_us = now_us + self.window_ms * 1000
            if swap(state, word, word + cost if left > 0 else ms_word((now_us + 999) // 1000, cost)):
                grant.left = self.capacity - count - cost
                return 0

    cdef int64_t look(self, const int64_t* state, int64_t now_us, int64_t cost) noexcept nogil:
        cdef:
            int64_t word = load(state)
            int64_t left = self.left_ms(word, now_us)
        if cost > self.capacity:
            return INT64_MAX
        return left * 1000 if left > 0 and (word & ((1 << COUNT_BITS) - 1)) + cost > self.capacity else 0

    cdef void give(self, int64_t* state, int64_t taken_us, int64_t cost) noexcept nogil:
        """Unless another window began since."""
        cdef int64_t word = load(state)
        while 0 < self.left_ms(word, taken_us) <= self.window_ms + 1 and word & ((1 << COUNT_BITS) - 1) >= cost:
            if swap(state, word, word - cost):
                return
            word = load(state)

    cdef int64_t more_in(self, const int64_t* state, int64_t now_us) noexcept nogil:
        cdef int64_t left = self.left_ms(load(state), now_us)
        return left * 1000 if left > 0 else 0


@cython.final
cdef class Lease(Limit):
    """Its words are the end in ms and the tokens left, and what was said where they come from: when there is more, in
    ms, and how many were left."""

    def __cinit__(self, int64_t requests, int64_t window_us, int64_t burst=0, int64_t low=0):
        self.words = 2
        self.low = low

    cdef int64_t left_ms(self, int64_t word, int64_t now_us) noexcept nogil:
        cdef int64_t left = -ms_since(word, now_us)
        return left if word and left < AHEAD // 1000 else 0

    cdef int64_t take(self, int64_t* state, int64_t now_us, int64_t cost, Grant* grant) noexcept nogil:
        cdef int64_t word, left, count
        grant.left = 0
        while True:
            word = load(state)
            left = self.left_ms(word, now_us)
            count = word & (HELD - 1)
            grant.until_us = now_us + left * 1000
            if left > 0 and word & HELD:
                return max(left * 1000, self.more_in(state, now_us))
            if left <= 0 or count < cost:
                return ASK
            if swap(state, word, word - cost):
                grant.left = count - cost + (load(state + 1) & (HELD - 1))
                grant.low = count - cost < self.low
                return 0

    cdef int64_t look(self, const int64_t* state, int64_t now_us, int64_t cost) noexcept nogil:
        cdef:
            int64_t word = load(state)
            int64_t left = self.left_ms(word, now_us)
        if left > 0 and word & HELD:
            return max(left * 1000, self.more_in(state, now_us))
        return ASK if left <= 0 or (word & (HELD - 1)) < cost else 0

    cdef void give(self, int64_t* state, int64_t taken_us, int64_t cost) noexcept nogil:
        cdef int64_t word = load(state)
        while self.left_ms(word, taken_us) > 0 and not word & HELD and (word & (HELD - 1)) + cost < HELD:
            if swap(state, word, word + cost):
                return
            word = load(state)

    cdef int64_t more_in(self, const int64_t* state, int64_t now_us) noexcept nogil:
        cdef int64_t left = self.left_ms(load(state + 1), now_us)
        return left * 1000 if left > 0 else 0

    cdef void put(self, int64_t* state, int64_t now_us, int64_t until_us, int64_t tokens, int64_t beyond,
                  int64_t more_us) noexcept nogil:
        cdef int64_t word, count
        while True:
            word = load(state)
            count = word & (HELD - 1) if self.left_ms(word, now_us) > 0 and not word & HELD else 0
            if swap(state, word, ms_word(until_us // 1000, min(count + tokens, HELD - 1))):
                atomic_store(state + 1, ms_word(more_us // 1000, min(beyond, HELD - 1)))
                return

    cdef void hold(self, int64_t* state, int64_t now_us, int64_t until_us, int64_t more_us) noexcept nogil:
        """Tokens that are still there are left to be used."""
        cdef int64_t word = load(state)
        if self.left_ms(word, now_us) <= 0 or word & (HELD - 1) == 0:
            if swap(state, word, ms_word((until_us + 999) // 1000, HELD)):
                atomic_store(state + 1, ms_word((more_us + 999) // 1000, 0))

    cdef int64_t drain(self, int64_t* state, int64_t now_us) noexcept nogil:
        cdef int64_t word = load(state)
        if word == 0 or self.left_ms(word, now_us) > 0 or word & HELD or not swap(state, word, 0):
            return 0
        return word & (HELD - 1)


# --- sliding window --------------------------------------------------------------------------------------------------

cdef inline uint32_t number_of(int64_t word) noexcept nogil:
    """The slice a word counts for, modulo 2^32."""
    return <uint32_t>(<uint64_t>word >> 32)


cdef inline int64_t count_of(int64_t word) noexcept nogil:
    return <int64_t><uint32_t>word


cdef inline int64_t slice_word(uint32_t number, int64_t count) noexcept nogil:
    return <int64_t>(<uint64_t>number << 32) + count


@cython.final
cdef class SlidingWindow(Limit):
    """Its words are the counts of the last SLICES slices, each with the slice's number.

    A grant is counted first and then the sum is looked at again: two processes in different slices do not meet in one
    word, and where both went too far at least one of them sees it and takes its grant back.
    """
    cdef:
        int64_t slice_us
        int32_t ahead  # slices

    def __cinit__(self, int64_t requests, int64_t window_us, int64_t burst=0):
        self.words = SLICES
        self.slice_us = (window_us + SLICES - 2) // (SLICES - 1)
        self.ahead = <int32_t>(AHEAD // self.slice_us + SLICES)

    cdef bint counts(self, int64_t word, uint32_t number) noexcept nogil:
        """Whether a word lies in the window that ends in slice `number`, or ahead: others read the clock later."""
        cdef int32_t age = <int32_t>(number - number_of(word))
        return -self.ahead < age < SLICES

    cdef int64_t total(self, const int64_t* state, uint32_t number) noexcept nogil:
        cdef:
            int64_t word, total = 0
            int i
        for i in range(SLICES):
            word = load(state + i)
            if self.counts(word, number):
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

    cdef void tell(self, Grant* grant, int64_t now_us, int64_t total) noexcept nogil:
        grant.left = self.capacity - total if total < self.capacity else 0
        grant.until_us = (now_us // self.slice_us + SLICES) * self.slice_us

    cdef int64_t take(self, int64_t* state, int64_t now_us, int64_t cost, Grant* grant) noexcept nogil:
        cdef:
            uint32_t number = <uint32_t>(now_us // self.slice_us)
            int64_t* cell = state + number % SLICES
            int64_t word, total
        while True:
            word = load(cell)
            total = self.total(state, number)
            self.tell(grant, now_us, total)
            if total + cost > self.capacity:
                grant.until_us = now_us + self.in_force(state, now_us)
                return self.wait(state, now_us, total + cost - self.capacity) if cost <= self.capacity else INT64_MAX
            if word == 0 or not self.counts(word, number):
                word = self.turn(cell, word, number)
            if swap(cell, word, word + cost):
                break
        total = self.total(state, number)
        self.tell(grant, now_us, total)
        if total <= self.capacity:
            return 0
        self.give_back(cell, number_of(word), cost)
        return self.slice_us

    cdef int64_t look(self, const int64_t* state, int64_t now_us, int64_t cost) noexcept nogil:
        cdef int64_t excess = self.total(state, <uint32_t>(now_us // self.slice_us)) + cost - self.capacity
        if cost > self.capacity:
            return INT64_MAX
        return self.wait(state, now_us, excess) if excess > 0 else 0

    cdef void give(self, int64_t* state, int64_t taken_us, int64_t cost) noexcept nogil:
        cdef uint32_t number = <uint32_t>(taken_us // self.slice_us)
        self.give_back(state + number % SLICES, number, cost)

    cdef int64_t turn(self, int64_t* cell, int64_t word, uint32_t number) noexcept nogil:
        """Begin a slice in the place of one long past; what the cell holds then."""
        swap(cell, word, slice_word(number, 0))
        return load(cell)

    cdef void give_back(self, int64_t* cell, uint32_t number, int64_t cost) noexcept nogil:
        cdef int64_t word = load(cell)
        while number_of(word) == number and count_of(word) >= cost and not swap(cell, word, word - cost):
            word = load(cell)

    cdef int64_t more_in(self, const int64_t* state, int64_t now_us) noexcept nogil:
        return self.wait(state, now_us, 1) if self.total(state, <uint32_t>(now_us // self.slice_us)) else 0

    cdef int64_t in_force(self, const int64_t* state, int64_t now_us) noexcept nogil:
        """µs until the last grant is out of the window."""
        cdef:
            int64_t now = now_us // self.slice_us
            int64_t word
            int age
        for age in range(SLICES):
            word = load(state + <uint32_t>(now - age) % SLICES)
            if number_of(word) == <uint32_t>(now - age) and count_of(word):
                return (now - age + SLICES) * self.slice_us - now_us
        return 0


# --- where the state lies --------------------------------------------------------------------------------------------

cdef int64_t checked_cost(int64_t cost) except -1:
    if cost < 1:
        raise ValueError(f"cost {cost}: at least 1")
    return cost


@cython.final
cdef class LimitCell:
    """One limit's state at a place of a page; for tests."""

    def __cinit__(self, Page page not None, Py_ssize_t cell, Limit limit not None):
        self.page = page
        self.limit = limit
        self.state = page.at(cell, limit.words)

    def acquire(self, int64_t now_us, int64_t cost=1):
        """`take` for Python: 0, or µs to wait."""
        cdef Grant grant
        return self.limit.take(self.state, now_us, checked_cost(cost), &grant)

    def look(self, int64_t now_us, int64_t cost=1):
        return self.limit.look(self.state, now_us, checked_cost(cost))

    def give(self, int64_t taken_us, int64_t cost=1):
        self.limit.give(self.state, taken_us, checked_cost(cost))

    def take(self, int64_t now_us, int64_t cost=1):
        """µs to wait, what is left, until when it is in force, µs until there is more."""
        cdef Grant grant
        wait = self.limit.take(self.state, now_us, checked_cost(cost), &grant)
        return wait, grant.left, grant.until_us, self.limit.more_in(self.state, now_us)


def table_cells(Py_ssize_t keys, int words):
    """Cells of a table that remembers so many keys (a power of two), with states of so many words."""
    return T_CELLS + (keys + WAYS - 1) // WAYS * WAYS * (2 + words)


@cython.final
cdef class LimitTable:
    """A bounded table of states by key hash, of any limits; WAYS places for each hash to lie in.

    A key without a place takes a free one, else that of a state no longer in force, else that of the key which has
    used the least. A key that was refused keeps its place for as long as its limit is in force, so that no flood of
    other keys resets it; where a set holds only such keys, a new one is refused until one of them has no more need.
    A key found to have moved while its state was changed is charged again in its new place, so grants are never lost;
    a state may be charged for a key that just left it.
    Keys come from clients: hash them with a secret seed, or they can be made to share a set. Two keys with the same
    hash share a state: of ten million keys, a pair does with a probability of one in 200,000.
    """

    def __cinit__(self, Page page not None, Py_ssize_t cell, Py_ssize_t count, int words):
        cdef Py_ssize_t sets = 1
        if words < 1 or count < table_cells(WAYS, words):
            raise ValueError(f"{count} cells for a limit table: at least {table_cells(WAYS, words)}")
        self.stride = WAYS * (2 + words)
        while T_CELLS + 2 * sets * self.stride <= count:
            sets *= 2
        self.page = page
        self.words = words
        self.mask = sets - 1
        self.header = page.at(cell, T_CELLS + sets * self.stride)
        self.sets = self.header + T_CELLS

    @property
    def places(self):
        return (self.mask + 1) * WAYS

    cdef int64_t* set_of(self, uint64_t key) noexcept nogil:
        return self.sets + <Py_ssize_t>((key >> 32) & self.mask) * self.stride

    cdef int64_t* state_at(self, int64_t* first, Py_ssize_t way) noexcept nogil:
        return first + 2 * WAYS + way * self.words

    cdef Py_ssize_t find(self, int64_t* first, int64_t tag) noexcept nogil:
        cdef Py_ssize_t way
        for way in range(WAYS):
            if load(first + way) == tag:
                return way
        return -1

    cdef Py_ssize_t claim(self, int64_t* first, int64_t pending, int64_t now_us) noexcept nogil:
        """A place for a new key, marked as pending; -1 when others changed the set meanwhile, or FULL."""
        cdef:
            Py_ssize_t way, best = FULL
            int64_t meta, rank, least = INT64_MAX
        for way in range(WAYS):
            if load(first + way) == 0:
                if not swap(first + way, 0, pending):
                    return -1
                atomic_add(self.header + T_KEYS, 1)
                return way
        for way in range(WAYS):
            meta = atomic_load(first + WAYS + way)
            if meta >> NOTE_BITS <= now_us // 1000:
                return self.replace(first, way, pending, now_us)
            rank = ((meta & (REFUSED - 1)) << 48) + (meta >> NOTE_BITS)
            if not meta & REFUSED and rank < least:
                least = rank
                best = way
        return FULL if best == FULL else self.replace(first, best, pending, now_us)

    cdef Py_ssize_t replace(self, int64_t* first, Py_ssize_t way, int64_t pending, int64_t now_us) noexcept nogil:
        """Cleared first: whoever still charges the old key sees it gone and charges it elsewhere."""
        cdef:
            int64_t old = load(first + way)
            int64_t* meta = first + WAYS + way
            int64_t* state = self.state_at(first, way)
            int64_t word
            int i
        if old & ~PENDING == pending & ~PENDING:
            return -1
        for i in range(self.words):
            word = load(state + i)
            if word and not swap(state + i, word, 0):
                return -1
        if not swap(first + way, old, pending):
            return -1
        atomic_add(self.header + (T_REUSED if atomic_load(meta) >> NOTE_BITS <= now_us // 1000 else T_FORGOTTEN), 1)
        atomic_store(meta, (now_us // 1000 + 1000) << NOTE_BITS)  # its own as soon as something is taken
        return way

    cdef bint settle(self, int64_t* first, Py_ssize_t way, int64_t tag) noexcept nogil:
        """Show a pending key, unless somebody else brings the same one: who sees that gives its own place up."""
        cdef:
            Py_ssize_t other
            int64_t found
        for other in range(WAYS):
            found = load(first + other)
            if other != way and found & ~PENDING == tag:
                if swap(first + way, tag | PENDING, 0):
                    atomic_add(self.header + T_KEYS, -1)
                return False
        return swap(first + way, tag | PENDING, tag)

    cdef void adopt(self, int64_t* first, int64_t tag) noexcept nogil:
        """Show a key that somebody left pending and died."""
        cdef Py_ssize_t way
        for way in range(WAYS):
            if swap(first + way, tag | PENDING, tag):
                return

    cdef int64_t shortest(self, int64_t* first, int64_t now_us) noexcept nogil:
        """µs until the first key of a full set has no more need of its place."""
        cdef:
            int64_t least = INT64_MAX
            Py_ssize_t way
        for way in range(WAYS):
            least = min(least, atomic_load(first + WAYS + way) >> NOTE_BITS)
        return max(least * 1000 - now_us, 1000)

    cdef void note(self, int64_t* meta, Limit limit, int64_t now_us, int64_t wait, Grant* grant) noexcept nogil:
        """What claim() goes by; written only where it changed, so that a refusal changes nothing but once."""
        cdef:
            int64_t before = atomic_load(meta)
            int64_t after = ((grant.until_us + 999) // 1000 << NOTE_BITS) + limit.used(grant.left)
        if wait > 0 or (before & REFUSED and before >> NOTE_BITS > now_us // 1000):
            after |= REFUSED
        if after != before:
            atomic_store(meta, after)

    cdef int64_t take(self, uint64_t key, Limit limit, int64_t now_us, int64_t cost, Grant* grant) noexcept nogil:
        cdef:
            int64_t* first = self.set_of(key)
            int64_t* state
            Py_ssize_t way
            int64_t tag = <int64_t>key & ~PENDING or 1
            int64_t wait = 0
            int tries
        grant.left = grant.until_us = 0
        grant.low = False
        grant.state = NULL
        for tries in range(TRIES):
            if tries == TRIES // 2:
                self.adopt(first, tag)
            way = self.find(first, tag)
            if way < 0:
                way = self.claim(first, tag | PENDING, now_us)
                if way == FULL:
                    atomic_add(self.header + T_FULL, 1)
                    return self.shortest(first, now_us)
                if way < 0 or not self.settle(first, way, tag):
                    continue
            state = self.state_at(first, way)
            wait = limit.take(state, now_us, cost, grant)
            if load(first + way) == tag:
                self.note(first + WAYS + way, limit, now_us, wait, grant)
                grant.state = state
                break
        return wait

    cdef int64_t look(self, uint64_t key, Limit limit, int64_t now_us, int64_t cost) noexcept nogil:
        cdef int64_t* state = self.state_of(key)
        cdef int64_t nothing[SLICES]
        if state == NULL:
            memset(nothing, 0, sizeof(nothing))
            return limit.look(nothing, now_us, cost)
        return limit.look(state, now_us, cost)

    cdef int64_t* state_of(self, uint64_t key) noexcept nogil:
        cdef:
            int64_t* first = self.set_of(key)
            Py_ssize_t way = self.find(first, <int64_t>key & ~PENDING or 1)
        return NULL if way < 0 else self.state_at(first, way)

    cdef int64_t key_at(self, Py_ssize_t place) noexcept nogil:
        return load(self.sets + place // WAYS * self.stride + place % WAYS)

    cdef int64_t* state_in(self, Py_ssize_t place) noexcept nogil:
        return self.state_at(self.sets + place // WAYS * self.stride, place % WAYS)

    cdef int64_t* state_for(self, uint64_t key, int64_t now_us) noexcept nogil:
        cdef:
            int64_t* first = self.set_of(key)
            int64_t tag = <int64_t>key & ~PENDING or 1
            Py_ssize_t way
            int _
        for _ in range(TRIES):
            way = self.find(first, tag)
            if way < 0:
                way = self.claim(first, tag | PENDING, now_us)
                if way == FULL:
                    return NULL
                if way < 0 or not self.settle(first, way, tag):
                    continue
            return self.state_at(first, way)
        return NULL

    # -- for Python ---------------------------------------------------------------------------------------------------

    def acquire(self, uint64_t key, Limit limit not None, int64_t now_us, int64_t cost=1):
        """`take` for Python: 0, or µs to wait."""
        cdef Grant grant
        self.check(limit)
        return self.take(key, limit, now_us, checked_cost(cost), &grant)

    def refund(self, uint64_t key, Limit limit not None, int64_t taken_us, int64_t cost=1):
        """Give back what was taken and not used."""
        cdef int64_t* state = self.state_of(key)
        self.check(limit)
        if state != NULL:
            limit.give(state, taken_us, checked_cost(cost))

    def lend(self, uint64_t key, Lease lease not None, int64_t now_us, int64_t until_us, int64_t tokens,
             int64_t beyond=0, int64_t more_us=0):
        """See Lease.put(); False where the table has no room for the key."""
        cdef int64_t* state = self.state_for(key, now_us)
        self.check(lease)
        if state != NULL:
            lease.put(state, now_us, until_us, tokens, beyond, more_us)
        return state != NULL

    def hold(self, uint64_t key, Lease lease not None, int64_t now_us, int64_t until_us, int64_t more_us=0):
        """See Lease.hold()."""
        cdef int64_t* state = self.state_for(key, now_us)
        self.check(lease)
        if state != NULL:
            lease.hold(state, now_us, until_us, more_us)

    def drain(self, uint64_t key, Lease lease not None, int64_t now_us):
        """See Lease.drain()."""
        cdef int64_t* state = self.state_of(key)
        self.check(lease)
        return 0 if state == NULL else lease.drain(state, now_us)

    def fits(self, Limit limit not None):
        """Refuse a limit whose state is too large for this table."""
        self.check(limit)

    cdef int check(self, Limit limit) except -1:
        if limit.words > self.words:
            raise ValueError(f"a state of {limit.words} words in a table of {self.words}")
        return 0

    def count(self, Py_ssize_t cell):
        """A T_* cell."""
        if not 0 <= cell < T_CELLS:
            raise IndexError(f"no T_* cell {cell}")
        return atomic_load(self.header + cell)
