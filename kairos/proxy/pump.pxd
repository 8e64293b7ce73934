"""Bytes both ways between two sockets, moved by one C thread per worker that knows nothing of Python."""

from libc.stdint cimport int64_t, uint64_t


cdef extern from "<pthread.h>" nogil:
    ctypedef unsigned long pthread_t
    ctypedef struct pthread_mutex_t:
        pass


cdef struct End:
    int fd
    bint ending             # its peer said that nothing more comes: read to the end
    char* rest              # bytes it did not take yet; while there are any, the other end is not read
    Py_ssize_t start        # of what is left of them
    Py_ssize_t size
    int64_t sent            # bytes written to it in all


cdef struct Tunnel:
    End ends[2]
    int64_t last_us         # monotonic µs of the last byte; written by the thread
    bint over               # the thread is done with it
    Tunnel* following       # in the list of those that are over


cdef struct Engine:         # all that the thread can reach
    int epoll
    int bell                # eventfd rung when tunnels are over
    pthread_mutex_t lock    # guards `over`
    Tunnel* over            # for the loop to collect
    char* buffer


cdef class Pump:
    cdef object loop
    cdef Engine* engine     # None until the first tunnel
    cdef dict owners        # address of a tunnel -> callable(sent to a, sent to b)
    cdef readonly int count  # tunnels open

    cdef Tunnel* open(self, int a, int b, object owner) except NULL
    cdef int end(self, Tunnel* tunnel) noexcept
    cdef int _start(self) except -1
