"""Bans of addresses in shared memory: the C interface. The states are told in bans.pyx."""

from libc.stdint cimport int64_t, uint64_t

from kairos._speedups.limits cimport Grant, Limit, LimitTable

cdef enum:
    OFFENCES = 16  # kinds of offender: from the last one on, bans grow no more
    STATE_WHO = 1  # words behind the one that decides: the address (two),
    STATE_JAIL = 3  # hash of the jail's name
    STATE_WORDS = 4


cdef class Rule(Limit):
    cdef:
        int64_t failures, window_ms, forget_ms
        int64_t lengths[OFFENCES]  # ms of a ban, by the number of earlier ones

    cdef int64_t length_ms(self, int offences) noexcept nogil
    cdef int kept_offences(self, int64_t word, int64_t now_ms) noexcept nogil
    cdef int64_t counted(self, int64_t word, int64_t now_ms, int64_t cost) noexcept nogil
    cdef int64_t kept_until(self, int64_t word) noexcept nogil
    cdef void tell(self, Grant* grant, int64_t word) noexcept nogil


cdef class Bans:
    cdef:
        LimitTable table
        Rule rule
        uint64_t seed  # secret, and the jail's
        uint64_t jail  # hash of its name

    cdef uint64_t key(self, const unsigned char* address) noexcept nogil
    # µs that are left of the ban of an address (16 bytes, IPv4 mapped), or 0.
    cdef int64_t left(self, const unsigned char* address, int64_t now_us) noexcept nogil
    # Count a failure: µs of the ban that it brought, or 0.
    cdef int64_t fail(self, const unsigned char* address, int64_t now_us) noexcept nogil
