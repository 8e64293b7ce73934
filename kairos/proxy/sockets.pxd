"""Sockets of clients behind one epoll of the worker: a Socket is the transport of its Wire. See sockets.pyx."""

from libc.stdint cimport int64_t, uint32_t

from kairos.proxy.wire cimport Wire


cdef class Sockets:
    """All that a worker accepts from and has accepted."""
    cdef object loop
    cdef int epoll
    cdef char* buffer           # what was read last
    cdef int64_t turn           # number of it
    cdef bint turning           # in a turn: who ends is buried at its end
    cdef list ending            # Watched that are to be let go of

    cdef int _serve(self, Watched watched, uint32_t events) except -1
    cdef int _report(self, Watched watched, object error) except -1
    cdef int end(self, Watched watched) except -1


cdef class Watched:
    """One descriptor in the epoll, which owns a reference for as long as it is there."""
    cdef Sockets sockets
    cdef int fd                 # -1: let go of
    cdef uint32_t interest      # epoll's events it is registered for, 0: not registered
    cdef bint over              # among those that are ending

    cdef int watch(self, uint32_t interest) except -1
    cdef int ready(self, uint32_t events) except -1
    cdef int let_go(self) except -1


cdef class Listener(Watched):
    """A listening socket, lent by whoever called Sockets.listen()."""
    cdef readonly object sock
    cdef object factory         # makes the wire of a connection
    cdef int port               # 0: no internet socket
    cdef bint older             # connections may wait that have not the listener's options
    cdef int streak             # turns in a row that found somebody waiting,
    cdef int64_t last           # and the last of them
    cdef object pause           # TimerHandle while no descriptor is left
    cdef bint starved           # none was left when last asked for

    cdef int _accept(self) except -1


cdef class Socket(Watched):
    """asyncio's transport, as far as a Wire asks for it."""
    cdef Wire wire
    cdef char peer[46]          # address of the client
    cdef int peer_size          # 0: no internet socket
    cdef int peer_port
    cdef int port               # ours; 0: no internet socket
    cdef bint reading
    cdef bint ended             # the peer says no more
    cdef bint closing           # close() or abort() was called
    cdef bint end_due           # nothing follows what is queued
    cdef bint congested         # the wire was told to pause
    cdef object queue           # deque of what is still to be written
    cdef Py_ssize_t start       # what is written of the first
    cdef Py_ssize_t queued      # bytes still to be written

    cdef int begin(self, object factory) except -1
    cdef int _interest(self) except -1
    cdef int _read(self) except -1
    cdef int _write(self) except -1
    cdef int _written(self) except -1
