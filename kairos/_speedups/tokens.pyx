"""What is known of tokens that were verified: values by a token's bytes, each good until a moment of its own.

A set of eight slots per hash; the whole token is compared, so that no two are ever confused, whatever their hashes.
Only what was verified is put in, so nobody can fill it but who holds good tokens; a full set gives up what is no longer
good, else what was not asked for the longest. `now` and `until` are of one clock, the caller's.
"""

import cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.mem cimport PyMem_Calloc, PyMem_Free
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.string cimport memcmp

from kairos._speedups.hashing cimport hash_bytes

cdef enum:
    WAYS = 8


@cython.final
cdef class TokenCache:
    """`size` tokens of `most_bytes` bytes together. `seed` is secret and the process's own."""

    def __cinit__(self, Py_ssize_t size, uint64_t seed, Py_ssize_t most_bytes=16 * 1024 * 1024):
        cdef Py_ssize_t sets = 1
        if size < 1 or size > 1 << 24 or most_bytes < 1:
            raise ValueError(f"a cache of {size} tokens and {most_bytes} bytes")
        while sets * WAYS < size:
            sets *= 2
        self.slots = <Kept*>PyMem_Calloc(sets * WAYS, sizeof(Kept))
        if self.slots == NULL:
            raise MemoryError
        self.mask = sets - 1
        self.seed = seed
        self.most_bytes = most_bytes

    def __dealloc__(self):
        if self.slots != NULL:
            self.clear()
            PyMem_Free(self.slots)

    cdef Kept* slot_of(self, const char* token, Py_ssize_t n, uint64_t hash) noexcept:
        """Where this token lies, or NULL."""
        cdef Kept* slot = self.slots + (<Py_ssize_t>(hash >> 32) & self.mask) * WAYS
        cdef int i
        for i in range(WAYS):
            if slot[i].hash == hash and slot[i].token != NULL and PyBytes_GET_SIZE(<object>slot[i].token) == n \
                    and memcmp(PyBytes_AS_STRING(<object>slot[i].token), token, n) == 0:
                return slot + i
        return NULL

    cdef object find(self, const char* token, Py_ssize_t n, int64_t now):
        """The value, or None."""
        cdef Kept* slot = self.slot_of(token, n, hash_bytes(token, n, self.seed))
        if slot == NULL:
            return None
        if slot.until <= now:
            self.taken(slot)
            return None
        self.tick += 1
        slot.used = self.tick
        return <object>slot.value

    def get(self, bytes token, int64_t now):
        """The value that was put in with these bytes and is still good, or None."""
        return self.find(PyBytes_AS_STRING(token), PyBytes_GET_SIZE(token), now)

    def put(self, bytes token, value, int64_t until, int64_t now):
        """Remember it, if it is good for any time and fits at all."""
        cdef Py_ssize_t n = PyBytes_GET_SIZE(token)
        cdef uint64_t hash = hash_bytes(PyBytes_AS_STRING(token), n, self.seed)
        cdef Kept* slot = self.slot_of(PyBytes_AS_STRING(token), n, hash)
        if slot == NULL:
            slot = self.victim(hash, now)
        gone = [self.taken(slot)]  # let go at the end: what that runs may come back here
        if until <= now or n > self.most_bytes:
            return
        while self.held_bytes + n > self.most_bytes:
            gone.append(self.taken(self.slots + self.hand))
            self.hand = (self.hand + 1) % ((self.mask + 1) * WAYS)
        Py_INCREF(token)
        Py_INCREF(value)
        self.tick += 1
        slot.hash, slot.until, slot.used = hash, until, self.tick
        slot.token, slot.value = <void*>token, <void*>value
        self.count += 1
        self.held_bytes += n

    cdef Kept* victim(self, uint64_t hash, int64_t now) noexcept:
        """The slot of a set that is given to another token."""
        cdef Kept* first = self.slots + (<Py_ssize_t>(hash >> 32) & self.mask) * WAYS
        cdef Kept* least = first
        cdef int i
        for i in range(WAYS):
            if first[i].token == NULL or first[i].until <= now:
                return first + i
            if first[i].used < least.used:
                least = first + i
        return least

    cdef object taken(self, Kept* slot):
        """What lay in a slot, which is free then."""
        cdef object pair
        if slot.token == NULL:
            return None
        pair = (<object>slot.token, <object>slot.value)
        slot.token = slot.value = NULL
        self.count -= 1
        self.held_bytes -= PyBytes_GET_SIZE(pair[0])
        Py_DECREF(pair[0])
        Py_DECREF(pair[1])
        return pair

    def clear(self):
        """Forget all."""
        cdef Py_ssize_t i
        for i in range((self.mask + 1) * WAYS):
            self.taken(self.slots + i)
