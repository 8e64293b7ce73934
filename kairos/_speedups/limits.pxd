"""Rate-limit cells: the C interface. The algorithms are told in limits.pyx."""

from libc.stdint cimport int64_t, uint64_t

from kairos._speedups.cells cimport Page

cdef enum:
    ASK = -1  # of Lease.take(): whoever leases is to be asked
    WAYS = 8  # places of a set


cdef struct Grant:  # what a take found
    int64_t left  # what can still be taken at once
    int64_t until_us  # from then on, forgetting the state lets nobody do more
    bint low  # of a Lease: ask for more, although this was granted
    int64_t* state  # where it lies; NULL: nowhere


cdef class Limit:
    cdef:
        readonly int64_t capacity  # the most that can be taken at once
        readonly int64_t fresh  # what a key never seen before can take
        readonly int words  # int64 cells of its state; all zero is a key never seen
        double share  # turns an amount into 127ths of `fresh`

    # Take `cost` (1 or more): 0 if it was granted, else µs until it could be, or INT64_MAX where it never can.
    cdef int64_t take(self, int64_t* state, int64_t now_us, int64_t cost, Grant* grant) noexcept nogil
    # What take() would say.
    cdef int64_t look(self, const int64_t* state, int64_t now_us, int64_t cost) noexcept nogil
    # Give back what was taken at `taken_us` and not used.
    cdef void give(self, int64_t* state, int64_t taken_us, int64_t cost) noexcept nogil
    # µs until more can be taken than now; 0 where nothing was taken.
    cdef int64_t more_in(self, const int64_t* state, int64_t now_us) noexcept nogil
    # Say what a key never seen before can take.
    cdef void begin_with(self, int64_t fresh) noexcept nogil
    # 0..127: how much of what a new key has is used up.
    cdef int used(self, int64_t left) noexcept nogil


cdef class Lease(Limit):
    cdef int64_t low  # fewer than so many left: ask for more

    cdef int64_t left_ms(self, int64_t word, int64_t now_us) noexcept nogil
    # Add tokens that may be used until then; where they were leased `beyond` are left, and more come at `more_us`.
    cdef void put(self, int64_t* state, int64_t now_us, int64_t until_us, int64_t tokens, int64_t beyond,
                  int64_t more_us) noexcept nogil
    # Nothing is to be had: do not ask until then, and tell people to wait for `more_us`.
    cdef void hold(self, int64_t* state, int64_t now_us, int64_t until_us, int64_t more_us) noexcept nogil
    # Take out what was not used in time; how much it was.
    cdef int64_t drain(self, int64_t* state, int64_t now_us) noexcept nogil


cdef class LimitCell:
    cdef:
        Page page  # keeps the state mapped
        Limit limit
        int64_t* state


cdef class LimitTable:
    cdef:
        Page page  # keeps the table mapped
        int64_t* header  # T_*
        int64_t* sets  # WAYS keys, WAYS metas, WAYS states; and so on
        Py_ssize_t stride  # cells of a set
        readonly int words  # of a state: the most a limit may have
        uint64_t mask  # sets - 1

    # Take from the state of a key, given by its hash; as Limit.take.
    cdef int64_t take(self, uint64_t key, Limit limit, int64_t now_us, int64_t cost, Grant* grant) noexcept nogil
    # What take() would say, but for a lack of room.
    cdef int64_t look(self, uint64_t key, Limit limit, int64_t now_us, int64_t cost) noexcept nogil
    # The state of a key, NULL where it has none.
    cdef int64_t* state_of(self, uint64_t key) noexcept nogil
    # By number of the place, 0 to places - 1: its key (0: free, negative: not there yet), and state.
    cdef int64_t key_at(self, Py_ssize_t place) noexcept nogil
    cdef int64_t* state_in(self, Py_ssize_t place) noexcept nogil
    # The state of a key; a place is made where it has none, unless there is no room: NULL.
    cdef int64_t* state_for(self, uint64_t key, int64_t now_us) noexcept nogil

    cdef int check(self, Limit limit) except -1
    cdef int64_t* set_of(self, uint64_t key) noexcept nogil
    cdef int64_t* state_at(self, int64_t* first, Py_ssize_t way) noexcept nogil
    cdef Py_ssize_t find(self, int64_t* first, int64_t tag) noexcept nogil
    cdef Py_ssize_t claim(self, int64_t* first, int64_t pending, int64_t now_us) noexcept nogil
    cdef Py_ssize_t replace(self, int64_t* first, Py_ssize_t way, int64_t pending, int64_t now_us) noexcept nogil
    cdef bint settle(self, int64_t* first, Py_ssize_t way, int64_t tag) noexcept nogil
    cdef void adopt(self, int64_t* first, int64_t tag) noexcept nogil
    cdef int64_t shortest(self, int64_t* first, int64_t now_us) noexcept nogil
    cdef void note(self, int64_t* meta, Limit limit, int64_t now_us, int64_t wait, Grant* grant) noexcept nogil
