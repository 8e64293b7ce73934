"""One end of a connection: writing, back-pressure and its one deadline. Both sides of the proxy derive from it."""

from libc.stdint cimport int64_t

from kairos._speedups.tls cimport TlsSession


cdef extern from "<sys/uio.h>" nogil:
    cdef struct iovec:
        void* iov_base
        size_t iov_len


cdef enum:
    LANES = 8               # the clock looks at one lane of connections a tick
    MAX_IOV = 64


cdef int64_t monotonic_us() noexcept nogil
cdef int64_t unix_us() noexcept nogil
cdef bint readable(int fd) noexcept nogil
cdef Py_ssize_t receive(int fd, char* out, Py_ssize_t n) noexcept nogil


cdef class Clock:
    """The only timer of a worker: each tick visits one lane of connections and ends those past their deadline."""
    cdef object loop
    cdef object handle      # pending TimerHandle, None while stopped
    cdef list heads         # one sentinel Wire per lane
    cdef int lane           # lane of the next tick
    cdef int entry          # lane of the next wire
    cdef readonly Py_ssize_t count  # wires on the clock
    cdef readonly list chores       # callables run at the end of a round
    cdef int64_t due        # monotonic µs at which the next tick should come
    cdef int64_t round_from  # monotonic µs at which this round began
    cdef int ticks          # of this round
    cdef int64_t least_late  # µs, of them
    cdef readonly int64_t lag_us    # how late even the most punctual tick of the last round was

    cdef int _plan(self, int64_t now) except -1
    cdef int _end_round(self, int64_t now) except -1
    cdef void add(self, Wire wire)
    cdef void remove(self, Wire wire)


cdef class Walk:
    """Goes over the wires of a clock, with pauses of any length."""
    cdef Clock clock
    cdef int lane
    cdef Wire place         # stands in the lane's list, before the next one

    cdef Wire next(self)
    cdef void _leave(self)
    cdef void _stand_behind(self, Wire wire)


cdef class Wire:
    """asyncio protocol over a stream transport; plain sockets are written to directly while nothing is queued."""
    cdef object transport
    cdef Clock clock
    cdef Wire before, after     # neighbours in the clock's lane
    cdef int64_t deadline       # monotonic µs when on_deadline() is due; 0 for none
    cdef int fd                 # socket written to directly, -1: only through the transport
    cdef bint queued            # the transport may hold bytes: direct writing would overtake them
    cdef bint write_paused      # the transport asked to stop (high-water mark)
    cdef bint read_paused
    cdef bint closed            # connection_lost() came, or close() was called
    cdef bint mute              # what is written is dropped: the peer takes no more
    cdef TlsSession tls         # what is written goes through it; None: plain

    cdef int arrived(self, const char* p, Py_ssize_t n) except -1
    cdef bint _direct(self) except -1
    cdef int _queue(self, object data) except -1
    cdef int _queue_rest(self, iovec* iov, int count, bytes owner) except -1
    cdef int attach(self, object transport, Clock clock, bint direct) except -1
    cdef int detach(self) except -1
    cdef int seal(self, const char* p, Py_ssize_t n) except -1
    cdef int _sealv(self, iovec* iov, int count) except -1
    cdef int send_records(self) except -1
    cdef int say_end(self) except -1
    cdef Py_ssize_t _push(self, const char* p, Py_ssize_t n) except -2
    cdef int send(self, const char* p, Py_ssize_t n) except -1
    cdef int send_bytes(self, bytes owner, const char* p, Py_ssize_t n) except -1
    cdef int sendv(self, iovec* iov, int count, bytes owner) except -1
    cdef int pause(self) except -1
    cdef int resume(self) except -1
    cdef int close(self) except -1
    cdef int abort(self) except -1
    cdef int on_deadline(self, int64_t now) except -1
    cdef int on_broken_pipe(self) except -1
    cdef int on_drained(self) except -1
    cdef int on_congested(self) except -1
