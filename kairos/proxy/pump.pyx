"""Bytes both ways between two sockets, moved by one C thread per worker that knows nothing of Python.

A tunnel (WebSocket after its 101) has no messages to judge, so it need not wait for the loop, nor the loop for it:
per message that is one epoll_wait(2), one recv(2), one send(2), as in nginx, and no interpreter.

Rules here: the thread touches only Engine and Tunnel, never an object; the loop's side touches a Tunnel it opened only
to end() it, until the bell hands it back. Descriptors stay the transports': they are closed after that, not before.
Events are edge-triggered: an end is read until it has no more, or the other takes no more and its rest is kept.
"""

import os

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from kairos.proxy.wire cimport monotonic_us


cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int op, int fd, epoll_event* event)
    int epoll_wait(int epoll, epoll_event* events, int size, int timeout)
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD
    uint32_t EPOLLIN, EPOLLOUT, EPOLLRDHUP, EPOLLHUP, EPOLLERR, EPOLLET

cdef extern from "<sys/eventfd.h>" nogil:
    int eventfd(unsigned int start, int flags)
    int EFD_CLOEXEC, EFD_NONBLOCK

cdef extern from "<sys/socket.h>" nogil:
    ssize_t recv(int fd, void* buf, size_t n, int flags)
    ssize_t send(int fd, const void* buf, size_t n, int flags)
    int shutdown(int fd, int how)
    int MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_RDWR

cdef extern from "<unistd.h>" nogil:
    ssize_t write(int fd, const void* buf, size_t n)

cdef extern from "<signal.h>" nogil:
    ctypedef struct sigset_t:
        pass
    int sigfillset(sigset_t* signals)
    int SIG_SETMASK

cdef extern from "<pthread.h>" nogil:
    int pthread_create(pthread_t* thread, void* attributes, void* (*run)(void*) noexcept nogil, void* argument)
    int pthread_detach(pthread_t thread)
    int pthread_mutex_init(pthread_mutex_t* lock, void* attributes)
    int pthread_mutex_lock(pthread_mutex_t* lock)
    int pthread_mutex_unlock(pthread_mutex_t* lock)
    int pthread_sigmask(int how, const sigset_t* signals, sigset_t* before)


cdef enum:
    BUFFER = 65536              # bytes read at a time
    ROUNDS = 16                 # reads of one end before the others have their turn
    EVENTS = 64


# ---- the thread -----------------------------------------------------------------------------------------------------

cdef void* _run(void* argument) noexcept nogil:
    cdef Engine* engine = <Engine*>argument
    cdef epoll_event events[64]
    cdef Tunnel* tunnel
    cdef Tunnel* over
    cdef int64_t now
    cdef int i, n
    while True:
        n = epoll_wait(engine.epoll, events, EVENTS, -1)
        now = monotonic_us()
        over = NULL
        for i in range(n):  # n is -1 after a signal
            tunnel = <Tunnel*>(events[i].data.u64 & ~<uint64_t>1)
            if tunnel.over:
                continue
            tunnel.last_us = now
            if not _serve(engine, tunnel, <int>(events[i].data.u64 & 1), events[i].events):
                _leave(engine, tunnel)
                tunnel.following = over
                over = tunnel
        if over != NULL:  # only now: until here the batch may still have named them
            _hand_back(engine, over)


cdef bint _serve(Engine* engine, Tunnel* tunnel, int side, uint32_t events) noexcept nogil:
    """Do what an end is ready for. False when the tunnel is over."""
    cdef End* here = &tunnel.ends[side]
    if events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        here.ending = True
    if here.size and events & (EPOLLOUT | EPOLLHUP | EPOLLERR):
        if not _write_rest(here):
            return False
        if here.size == 0 and not _flow(engine, tunnel, 1 - side):
            return False
    if events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR):
        return _flow(engine, tunnel, side)
    return True


cdef bint _flow(Engine* engine, Tunnel* tunnel, int side) noexcept nogil:
    """Move what one end has to the other. False when the tunnel is over."""
    cdef End* here = &tunnel.ends[side]
    cdef End* there = &tunnel.ends[1 - side]
    cdef Py_ssize_t n, taken
    cdef int _round
    if there.size:
        return True  # read again once it took its rest
    for _round in range(ROUNDS):
        n = recv(here.fd, engine.buffer, BUFFER, MSG_DONTWAIT)
        if n <= 0:
            return n < 0 and (errno == EAGAIN or errno == EINTR)
        taken = send(there.fd, engine.buffer, n, MSG_DONTWAIT | MSG_NOSIGNAL)
        if taken < 0:
            if errno != EAGAIN and errno != EINTR:
                return False
            taken = 0
        there.sent += n
        if taken < n:
            return _keep_rest(there, engine.buffer + taken, n - taken)
        if n < BUFFER and not here.ending:
            return True  # what comes from here on is a new edge
    _watch(engine, tunnel, side, EPOLL_CTL_MOD)  # there is more: be told again, after the others
    return True


cdef bint _keep_rest(End* end, const char* data, Py_ssize_t n) noexcept nogil:
    end.rest = <char*>malloc(n)
    if end.rest == NULL:
        return False
    memcpy(end.rest, data, n)
    end.start = 0
    end.size = n
    return True


cdef bint _write_rest(End* end) noexcept nogil:
    cdef Py_ssize_t taken = send(end.fd, end.rest + end.start, end.size, MSG_DONTWAIT | MSG_NOSIGNAL)
    if taken < 0:
        return errno == EAGAIN or errno == EINTR
    end.start += taken
    end.size -= taken
    if end.size == 0:
        free(end.rest)
        end.rest = NULL
    return True


cdef int _watch(Engine* engine, Tunnel* tunnel, int side, int op) noexcept nogil:
    cdef epoll_event event
    event.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET
    event.data.u64 = <uint64_t>tunnel | <uint64_t>side
    return epoll_ctl(engine.epoll, op, tunnel.ends[side].fd, &event)


cdef void _leave(Engine* engine, Tunnel* tunnel) noexcept nogil:
    cdef int side
    tunnel.over = True
    for side in range(2):
        epoll_ctl(engine.epoll, EPOLL_CTL_DEL, tunnel.ends[side].fd, NULL)


cdef void _hand_back(Engine* engine, Tunnel* over) noexcept nogil:
    cdef Tunnel* last = over
    cdef uint64_t one = 1
    while last.following != NULL:
        last = last.following
    pthread_mutex_lock(&engine.lock)
    last.following = engine.over
    engine.over = over
    pthread_mutex_unlock(&engine.lock)
    write(engine.bell, &one, 8)


# ---- the loop's side ------------------------------------------------------------------------------------------------

cdef class Pump:
    """One per worker; its thread begins with the first tunnel and ends with the process."""

    def __cinit__(self, loop):
        self.loop = loop
        self.owners = {}

    cdef int _start(self) except -1:
        cdef pthread_t thread
        cdef sigset_t all_signals, before
        cdef Engine* engine = <Engine*>calloc(1, sizeof(Engine))
        if engine == NULL:
            raise MemoryError
        engine.buffer = <char*>malloc(BUFFER)
        engine.epoll = epoll_create1(EPOLL_CLOEXEC)
        engine.bell = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)
        if engine.buffer == NULL or engine.epoll < 0 or engine.bell < 0:
            raise OSError(errno, "no room for the tunnels' thread")
        pthread_mutex_init(&engine.lock, NULL)
        sigfillset(&all_signals)
        pthread_sigmask(SIG_SETMASK, &all_signals, &before)  # signals are the interpreter's
        failed = pthread_create(&thread, NULL, _run, engine)
        pthread_sigmask(SIG_SETMASK, &before, NULL)
        if failed:
            raise OSError(failed, "no thread for the tunnels")
        pthread_detach(thread)
        self.engine = engine
        self.loop.add_reader(engine.bell, self._collect)
        return 0

    cdef Tunnel* open(self, int a, int b, object owner) except NULL:
        """Join two sockets. `owner(sent_to_a, sent_to_b)` is called in the loop when either side ended.

        Both must be non-blocking, with nothing queued elsewhere, and stay open until then.
        """
        cdef Tunnel* tunnel
        if self.engine == NULL:
            self._start()
        tunnel = <Tunnel*>calloc(1, sizeof(Tunnel))
        if tunnel == NULL:
            raise MemoryError
        tunnel.ends[0].fd = a
        tunnel.ends[1].fd = b
        tunnel.last_us = monotonic_us()
        self.owners[<uint64_t>tunnel] = owner
        self.count += 1
        if _watch(self.engine, tunnel, 0, EPOLL_CTL_ADD) < 0 or _watch(self.engine, tunnel, 1, EPOLL_CTL_ADD) < 0:
            self.end(tunnel)  # the thread sees the end of whichever could be watched
            raise OSError(errno, "a socket cannot be watched")
        return tunnel

    cdef int end(self, Tunnel* tunnel) noexcept:
        """Break a tunnel off: both ends see the end of the stream, then the owner is called."""
        shutdown(tunnel.ends[0].fd, SHUT_RDWR)
        shutdown(tunnel.ends[1].fd, SHUT_RDWR)
        return 0

    def _collect(self):
        """The bell rang: tell the owners."""
        cdef Tunnel* tunnel
        cdef Tunnel* following
        os.eventfd_read(self.engine.bell)
        pthread_mutex_lock(&self.engine.lock)
        tunnel = self.engine.over
        self.engine.over = NULL
        pthread_mutex_unlock(&self.engine.lock)
        while tunnel != NULL:
            following = tunnel.following
            self.count -= 1
            owner = self.owners.pop(<uint64_t>tunnel)
            sent = tunnel.ends[0].sent, tunnel.ends[1].sent
            free(tunnel.ends[0].rest)
            free(tunnel.ends[1].rest)
            free(tunnel)
            owner(*sent)
            tunnel = following

    def join(self, int a, int b, owner):
        """open() for tests; a number to end_joined() it by."""
        return <uint64_t>self.open(a, b, owner)

    def end_joined(self, uint64_t number):
        self.end(<Tunnel*>number)
