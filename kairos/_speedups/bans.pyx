"""Bans: who fails too often is refused for a while, longer each time. States of a LimitTable, shared by all workers.

No lock: each move is one compare-and-swap of the first word, which has all that decides:

    time (39 bits, ms) | banned | offences (4) | failures (20)

While failures are counted, `time` is when the first of them came; while banned, when the ban ends. A ban that is over
leaves its offences, until nothing was counted for `forget`. The other words say who it is, for people.
"""

import cython
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy

from kairos._speedups.cells cimport Page
from kairos._speedups.hashing cimport hash_bytes
from kairos._speedups.limits cimport Grant, Limit, LimitTable

cdef extern from *:
    """
    static inline int kairos_ban_swap(int64_t *cell, int64_t before, int64_t after) {
        return __atomic_compare_exchange_n(cell, &before, after, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
    static inline int64_t kairos_ban_load(const int64_t *cell) { return __atomic_load_n(cell, __ATOMIC_SEQ_CST); }
    static inline void kairos_ban_store(int64_t *cell, int64_t n) { __atomic_store_n(cell, n, __ATOMIC_SEQ_CST); }
    """
    bint swap "kairos_ban_swap" (int64_t* cell, int64_t before, int64_t after) noexcept nogil
    int64_t load "kairos_ban_load" (const int64_t* cell) noexcept nogil
    void store "kairos_ban_store" (int64_t* cell, int64_t n) noexcept nogil

cdef enum:
    FAILURE_BITS = 20
    OFFENCE_BITS = 4
    TIME_SHIFT = 25

cdef int64_t BANNED = <int64_t>1 << (FAILURE_BITS + OFFENCE_BITS)
cdef int64_t MOST_FAILURES = (<int64_t>1 << FAILURE_BITS) - 1


cdef inline int offences_of(int64_t word) noexcept nogil:
    return <int>(word >> FAILURE_BITS & (OFFENCES - 1))


cdef inline int64_t word_of(int64_t time_ms, int64_t banned, int64_t offences, int64_t failures) noexcept nogil:
    return time_ms << TIME_SHIFT | banned | offences << FAILURE_BITS | failures


cdef int64_t ban_left(const int64_t* state, int64_t now_us) noexcept nogil:
    """µs until the ban ends; 0 where there is none."""
    cdef int64_t word = load(state)
    cdef int64_t left = (word >> TIME_SHIFT) * 1000 - now_us
    return left if word & BANNED and left > 0 else 0


cdef class Rule(Limit):
    """When an address is banned and for how long; made by rule()."""

    cdef int64_t length_ms(self, int offences) noexcept nogil:
        return self.lengths[offences]

    cdef int kept_offences(self, int64_t word, int64_t now_ms) noexcept nogil:
        """Those that are not forgotten, of a word that is neither counting nor a ban any more."""
        cdef int64_t since = word >> TIME_SHIFT
        if not word & BANNED:
            since += self.window_ms
        return offences_of(word) if now_ms < since + self.forget_ms else 0

    cdef int64_t counted(self, int64_t word, int64_t now_ms, int64_t cost) noexcept nogil:
        """The word after so many more failures, short of any ban."""
        cdef int64_t start = word >> TIME_SHIFT
        if word and not word & BANNED and now_ms - start < self.window_ms:
            return word + min(cost, MOST_FAILURES - (word & MOST_FAILURES))
        return word_of(now_ms, 0, self.kept_offences(word, now_ms) if word else 0, min(cost, MOST_FAILURES))

    cdef int64_t take(self, int64_t* state, int64_t now_us, int64_t cost, Grant* grant) noexcept nogil:
        """Count failures: µs of the ban that they bring, else 0. While a ban lasts nothing is counted."""
        cdef int64_t now_ms = now_us // 1000
        cdef int64_t word, after, length
        while True:
            word = load(state)
            length = 0
            if ban_left(&word, now_us) > 0:
                self.tell(grant, word)
                return 0
            after = self.counted(word, now_ms, cost)
            if after & MOST_FAILURES >= self.failures:
                length = self.length_ms(offences_of(after))
                after = word_of(now_ms + length, BANNED, min(offences_of(after) + 1, OFFENCES - 1), 0)
            if swap(state, word, after):
                self.tell(grant, after)
                return length * 1000

    cdef void tell(self, Grant* grant, int64_t word) noexcept nogil:
        """For a full table: who failed the least goes first, who was banned stays."""
        grant.left = 0 if word & BANNED else self.failures - (word & MOST_FAILURES)
        grant.until_us = self.kept_until(word)

    cdef int64_t kept_until(self, int64_t word) noexcept nogil:
        """µs at which forgetting it changes nothing."""
        cdef int64_t until = word >> TIME_SHIFT
        if not word & BANNED:
            until += self.window_ms
        return (until + (self.forget_ms if offences_of(word) else 0)) * 1000


def rule(int64_t failures, int64_t window_us, int64_t ban_us, int64_t most_us, double growth, int64_t forget_us):
    """A Rule: so many failures in a window ban for `ban_us`, times `growth` per earlier offence, at most `most_us`.

    An offence is forgotten when nothing was counted for `forget_us`.
    """
    cdef Rule made = Rule(1, window_us)
    cdef int i
    cdef double length = ban_us
    if failures < 1 or failures > MOST_FAILURES or growth < 1 or ban_us < 1_000_000 or forget_us < 0:
        raise ValueError(f"a ban of {ban_us} us x {growth} after {failures} failures")
    made.words = STATE_WORDS
    made.begin_with(failures)
    made.failures = failures
    made.window_ms = window_us // 1000
    made.forget_ms = forget_us // 1000
    for i in range(OFFENCES):
        made.lengths[i] = <int64_t>(min(length, <double>most_us) / 1000)
        length = min(length * growth, 1e15)
    return made


@cython.final
cdef class Bans:
    """The bans and failures of one jail (a name) in a table that all jails share."""

    def __cinit__(self, Page page not None, Py_ssize_t cell, Py_ssize_t count, Rule rule not None, str jail, seed):
        name = jail.encode()
        self.table = LimitTable(page, cell, count, STATE_WORDS)
        self.rule = rule
        self.jail = hash_bytes(name, len(name), 0)
        self.seed = <uint64_t>seed ^ self.jail

    cdef uint64_t key(self, const unsigned char* address) noexcept nogil:
        """An IPv4 address, or a /64: what one subscriber has of IPv6."""
        return hash_bytes(<const char*>address, width(address), self.seed)

    cdef int64_t left(self, const unsigned char* address, int64_t now_us) noexcept nogil:
        cdef int64_t* state = self.table.state_of(self.key(address))
        return 0 if state == NULL else ban_left(state, now_us)

    cdef int64_t fail(self, const unsigned char* address, int64_t now_us) noexcept nogil:
        cdef Grant grant
        cdef int64_t length = self.table.take(self.key(address), self.rule, now_us, 1, &grant)
        cdef int64_t* state = grant.state
        cdef int64_t words[2]
        if state == NULL:  # no room: nothing is known of this address
            return 0
        if length:
            words[1] = 0
            memcpy(words, address, width(address))
            store(state + STATE_WHO, words[0])
            store(state + STATE_WHO + 1, words[1])
            store(state + STATE_JAIL, self.jail)
        return length

    def banned_for(self, bytes address, int64_t now_us):
        """For Python: µs that are left of the ban of an address (16 bytes), or 0."""
        return self.left(_checked(address), now_us)

    def failed(self, bytes address, int64_t now_us):
        """For Python: count a failure; µs of the ban it brought, or 0."""
        return self.fail(_checked(address), now_us)


cdef const unsigned char* _checked(bytes address) except NULL:
    if len(address) != 16:
        raise ValueError(f"{address!r} is no address of 16 bytes")
    return address


cdef inline size_t width(const unsigned char* address) noexcept nogil:
    """How many bytes of an address are banned together."""
    cdef int i
    for i in range(10):
        if address[i]:
            return 8
    return 16 if address[10] == 0xFF and address[11] == 0xFF else 8


def listed(Page page not None, Py_ssize_t cell, Py_ssize_t count, int64_t now_us):
    """Every ban in force, as (address of 16 bytes, hash of its jail, µs left, offences)."""
    cdef LimitTable table = LimitTable(page, cell, count, STATE_WORDS)
    cdef Py_ssize_t slot
    cdef int64_t* state
    found = []
    for slot in range(table.places):
        if table.key_at(slot) > 0:
            state = table.state_in(slot)
            if ban_left(state, now_us) > 0:
                found.append((
                    (<char*>(state + STATE_WHO))[:16], state[STATE_JAIL], ban_left(state, now_us),
                    offences_of(state[0]),
                ))
    return found


def lifted(Page page not None, Py_ssize_t cell, Py_ssize_t count, bytes address):
    """Forget the bans of an address (16 bytes) in every jail; how many there were."""
    cdef LimitTable table = LimitTable(page, cell, count, STATE_WORDS)
    cdef const unsigned char* wanted = _checked(address)
    cdef Py_ssize_t slot
    cdef int64_t* state
    cdef int64_t word
    cdef int lifted = 0
    who = wanted[:width(wanted)].ljust(16, b"\0")
    for slot in range(table.places):
        state = table.state_in(slot)
        word = load(state)
        if table.key_at(slot) > 0 and word & BANNED and (<char*>(state + STATE_WHO))[:16] == who:
            lifted += swap(state, word, 0)
    return lifted


def jail_hash(str jail):
    """By which listed() names a jail."""
    name = jail.encode()
    return <int64_t>hash_bytes(name, len(name), 0)
