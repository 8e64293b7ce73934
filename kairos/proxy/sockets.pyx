"""Sockets of clients: accepting, reading, and writing what could not be written at once; one epoll for all.

The loop watches that epoll like any descriptor, and one turn of it serves every client that has something to say. To a
Wire, a Socket is a transport of the loop, but that there is no handle, no socket object and no context behind it: a
connection that only shakes hands costs half as much.

Rules here:
- What was read lies in one buffer and is handed to the wire as it is (`Wire.arrived`).
- Level-triggered: what a turn leaves, the next one finds. Who is not to be read is not registered.
- connection_lost() is called once, at the end of a turn and never from within a call of the wire's. Only then is the
  descriptor closed: within a turn no number, and no address of a Watched, comes to mean another one.
- A worker without descriptors stops accepting for a moment: who waits, waits in the kernel.
"""

from collections import deque

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EMFILE, ENFILE, ENOBUFS, ENOMEM, EPERM, EPROTO, errno
from libc.stdint cimport uint32_t
from libc.string cimport strerror

from kairos.telemetry.log import get_logger

cdef extern from *:
    """
    #include <arpa/inet.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <string.h>
    #include <sys/epoll.h>
    #include <sys/socket.h>
    #include <unistd.h>
    /* Text of an internet address into out[46]; its length, 0 for any other. IPv4 over IPv6 sockets is IPv4. */
    static int kairos_address(const struct sockaddr_storage *a, char *out, int *port) {
        *port = 0;
        if (a->ss_family == AF_INET) {
            if (!inet_ntop(AF_INET, &((struct sockaddr_in *)a)->sin_addr, out, 46)) return 0;
        } else if (a->ss_family == AF_INET6) {
            struct in6_addr *six = &((struct sockaddr_in6 *)a)->sin6_addr;
            if (IN6_IS_ADDR_V4MAPPED(six)) {
                if (!inet_ntop(AF_INET, six->s6_addr + 12, out, 46)) return 0;
            } else if (!inet_ntop(AF_INET6, six, out, 46)) return 0;
        } else return 0;
        *port = ntohs(((struct sockaddr_in *)a)->sin_port); /* at the same place in an IPv6 one */
        return (int)strlen(out);
    }
    static int kairos_accept(int fd, char *out, int *size, int *port) {
        struct sockaddr_storage a;
        socklen_t n = sizeof a;
        int got = accept4(fd, (struct sockaddr *)&a, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (got >= 0) {
            if (n < sizeof(a.ss_family)) a.ss_family = AF_UNIX;
            *size = kairos_address(&a, out, port);
        }
        return got;
    }
    static int kairos_name(int fd, int theirs, char *out, int *port) {
        struct sockaddr_storage a;
        socklen_t n = sizeof a;
        *port = 0;
        if ((theirs ? getpeername : getsockname)(fd, (struct sockaddr *)&a, &n) < 0) return 0;
        return kairos_address(&a, out, port);
    }
    static void kairos_nodelay(int fd) {
        int on = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    static int kairos_watch(int epoll, int op, int fd, unsigned int events, void *p) {
        struct epoll_event event;
        event.events = events;
        event.data.ptr = p;
        return epoll_ctl(epoll, op, fd, &event);
    }
    """
    ctypedef struct epoll_data_t "epoll_data_t":
        void* ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    int accept_from "kairos_accept"(int fd, char* out, int* size, int* port) nogil
    int name_of "kairos_name"(int fd, bint theirs, char* out, int* port) noexcept nogil
    void no_delay "kairos_nodelay"(int fd) noexcept nogil
    int set_events "kairos_watch"(int epoll, int op, int fd, unsigned int events, void* p) noexcept nogil
    int epoll_create1(int flags) nogil
    int epoll_wait(int epoll, epoll_event* events, int size, int timeout) nogil
    int EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_DEL, EPOLL_CTL_MOD
    uint32_t EPOLLIN, EPOLLOUT, EPOLLHUP, EPOLLERR
    ssize_t recv(int fd, void* buf, size_t n, int flags) nogil
    ssize_t send(int fd, const void* buf, size_t n, int flags) nogil
    int shutdown(int fd, int how) nogil
    int c_close "close"(int fd) nogil
    int MSG_DONTWAIT, MSG_NOSIGNAL, SHUT_WR

cdef enum:
    EVENTS = 128                # clients served in a turn; the others in the next
    CROWD = 32                  # connections accepted in a turn at most
    BUFFER = 131072
    HIGH_WATER = 65536          # bytes queued above which a wire is told to pause, and
    LOW_WATER = 16384           # below which to go on
BREATH = 0.1  # seconds without accepting where no descriptor is left

cdef object log = get_logger("proxy")


@cython.final
cdef class Sockets:
    """Made within the loop; close() it at its end."""

    def __cinit__(self, loop):
        self.loop = loop
        self.ending = []
        self.buffer = <char*>PyMem_RawMalloc(BUFFER)
        self.epoll = epoll_create1(EPOLL_CLOEXEC)
        if self.buffer == NULL or self.epoll < 0:
            raise MemoryError("no epoll")
        loop.add_reader(self.epoll, self._turn)

    def __dealloc__(self):
        PyMem_RawFree(self.buffer)

    def close(self):
        """Nothing is served any more."""
        if self.epoll >= 0:
            self.loop.remove_reader(self.epoll)
            c_close(self.epoll)
            self.epoll = -1

    def listen(self, sock, int backlog, factory):
        """Accept from a socket, which stays the caller's. `factory` makes a wire for each connection."""
        cdef Listener listener = Listener.__new__(Listener)
        cdef char name[46]
        sock.listen(backlog)
        sock.setblocking(False)
        listener.sockets = self
        listener.sock = sock
        listener.factory = factory
        listener.fd = sock.fileno()
        if name_of(listener.fd, False, name, &listener.port):
            no_delay(listener.fd)  # connections have it from their listener, but for those that wait already
            listener.older = True
        listener.watch(EPOLLIN)
        return listener

    def adopt(self, sock, factory):
        """Serve a connection that was accepted elsewhere; the socket object is done with."""
        cdef Socket socket = Socket.__new__(Socket)
        cdef char name[46]
        socket.sockets = self
        socket.fd = sock.detach()
        socket.peer_size = name_of(socket.fd, True, socket.peer, &socket.peer_port)
        if name_of(socket.fd, False, name, &socket.port):
            no_delay(socket.fd)
        try:
            socket.begin(factory)
        except Exception as error:
            self._report(socket, error)

    def _turn(self):
        cdef epoll_event events[EVENTS]
        cdef int n = epoll_wait(self.epoll, events, EVENTS, 0), i
        self.turn += 1
        self.turning = True
        try:
            for i in range(n):
                self._serve(<Watched>events[i].data.ptr, events[i].events)
        finally:
            self.turning = False
        if self.ending:
            self._bury()

    cdef int _serve(self, Watched watched, uint32_t events) except -1:
        if watched.over:
            return 0
        try:
            watched.ready(events)
        except Exception as error:
            self._report(watched, error)
        return 0

    cdef int _report(self, Watched watched, object error) except -1:
        """A wire raised: its connection ends, the worker goes on."""
        self.loop.call_exception_handler({"message": f"{watched!r} failed", "exception": error})
        if isinstance(watched, Socket):
            (<Socket>watched).abort()
        return 0

    cdef int end(self, Watched watched) except -1:
        """Let go of it at the end of this turn, or outside of one soon."""
        watched.over = True
        if not self.turning and not self.ending:
            self.loop.call_soon(self._bury)
        self.ending.append(watched)
        return 0

    def _bury(self):
        cdef Watched watched
        while self.ending:
            buried, self.ending = self.ending, []
            for watched in buried:
                try:
                    watched.let_go()
                except Exception as error:
                    self.loop.call_exception_handler({"message": f"{watched!r} failed", "exception": error})


cdef class Watched:

    cdef int watch(self, uint32_t interest) except -1:
        """Be told of these events from now on."""
        cdef int op
        if interest == self.interest or self.fd < 0:
            return 0
        op = EPOLL_CTL_DEL if interest == 0 else EPOLL_CTL_ADD if self.interest == 0 else EPOLL_CTL_MOD
        if set_events(self.sockets.epoll, op, self.fd, interest, <void*>self) < 0:
            raise OSError(errno, "epoll: " + strerror(errno).decode())
        if self.interest == 0:
            Py_INCREF(self)
        elif interest == 0:
            Py_DECREF(self)
        self.interest = interest
        return 0

    cdef int ready(self, uint32_t events) except -1:
        return 0

    cdef int let_go(self) except -1:
        return 0


@cython.final
cdef class Listener(Watched):

    cdef int ready(self, uint32_t events) except -1:
        """Accept one, and of a crowd that lasts more with each turn: asking in vain is not for free."""
        self.streak = min(self.streak + 1, CROWD) if self.last == self.sockets.turn - 1 else 1
        self.last = self.sockets.turn
        for _ in range(self.streak):
            if self._accept() == 0:
                self.streak = 0
                break
        return 0

    cdef int _accept(self) except -1:
        """0 where nobody waits any more."""
        cdef Socket socket = Socket.__new__(Socket)
        cdef int fd = accept_from(self.fd, socket.peer, &socket.peer_size, &socket.peer_port), why = errno
        if fd < 0:
            self.older = self.older and why != EAGAIN
            if why == EMFILE or why == ENFILE or why == ENOBUFS or why == ENOMEM:
                self._take_breath(strerror(why).decode())
            return why == ECONNABORTED or why == EINTR or why == EPROTO or why == EPERM
        self.starved = False
        if self.older:
            no_delay(fd)
        socket.sockets = self.sockets
        socket.fd = fd
        socket.port = self.port
        try:
            socket.begin(self.factory)
        except Exception as error:
            self.sockets._report(socket, error)
        return 1

    def _take_breath(self, str reason):
        if not self.starved:
            log.warning("accepts nobody for a moment", reason=reason)
        self.starved = True
        self.watch(0)
        self.pause = self.sockets.loop.call_later(BREATH, self._go_on)

    def _go_on(self):
        self.pause = None
        self.watch(EPOLLIN)

    def close(self):
        """Accept no more; the socket stays open."""
        if self.pause is not None:
            self.pause.cancel()
            self.pause = None
        if self.fd >= 0 and not self.over:
            Py_INCREF(self)  # let_go() gives it back: this turn may hold events of it
            self.watch(0)
            self.sockets.end(self)

    cdef int let_go(self) except -1:
        self.fd = -1
        Py_DECREF(self)
        return 0

    def __repr__(self):
        return f"<Listener {self.sock!r}>"


@cython.final
cdef class Socket(Watched):

    cdef int begin(self, object factory) except -1:
        self.reading = True
        self.watch(EPOLLIN)
        self.wire = factory()
        self.wire.connection_made(self)
        return 0

    cdef int ready(self, uint32_t events) except -1:
        if events & (EPOLLOUT | EPOLLERR | EPOLLHUP) and self.interest & EPOLLOUT:
            self._write()
        if events & (EPOLLIN | EPOLLERR | EPOLLHUP) and self.interest & EPOLLIN and not self.over:
            self._read()
        return 0

    cdef int _interest(self) except -1:
        cdef uint32_t interest = 0
        if self.reading and not self.ended and not self.closing:
            interest |= EPOLLIN
        if self.queued:
            interest |= EPOLLOUT
        return self.watch(interest)

    cdef int _read(self) except -1:
        cdef Py_ssize_t n = recv(self.fd, self.sockets.buffer, BUFFER, MSG_DONTWAIT)
        if n > 0:
            return self.wire.arrived(self.sockets.buffer, n)
        if n == 0:
            self.ended = True
            self._interest()
            if not self.wire.eof_received():
                self.close()
            return 0
        if errno != EAGAIN and errno != EINTR:
            self.abort()
        return 0

    cdef int _write(self) except -1:
        """What is queued, as far as the kernel takes it."""
        cdef Py_buffer view
        cdef Py_ssize_t n
        while self.queued:
            PyObject_GetBuffer(self.queue[0], &view, PyBUF_SIMPLE)
            n = send(self.fd, <char*>view.buf + self.start, view.len - self.start, MSG_DONTWAIT | MSG_NOSIGNAL)
            if n >= 0:
                self.queued -= n
                self.start += n
                if self.start == view.len:
                    self.start = 0
                    self.queue.popleft()
            PyBuffer_Release(&view)
            if n < 0:
                if errno != EAGAIN and errno != EINTR:
                    self.abort()
                break
        return self._written()

    cdef int _written(self) except -1:
        self._interest()
        if self.congested and self.queued <= LOW_WATER:
            self.congested = False
            self.wire.resume_writing()
        if self.queued == 0 and not self.over:
            if self.end_due:
                shutdown(self.fd, SHUT_WR)
            if self.closing:
                self.sockets.end(self)
        return 0

    cdef int let_go(self) except -1:
        """The descriptor's end; epoll forgets what is closed."""
        wire, self.wire = self.wire, None
        try:
            if wire is not None:
                wire.connection_lost(None)
        finally:
            c_close(self.fd)
            self.fd = -1
            self.queue = None
            if self.interest:
                self.interest = 0
                Py_DECREF(self)
        return 0

    # -- what a Wire asks of its transport --------------------------------------------------------------------------

    def write(self, data):
        """Queue what the kernel did not take. It is referred to, not copied."""
        cdef Py_ssize_t n = len(data)
        if self.closing or n == 0:
            return
        if self.queue is None:
            self.queue = deque()
        self.queue.append(data)
        self.queued += n
        self._interest()
        if self.queued > HIGH_WATER and not self.congested:
            self.congested = True
            self.wire.pause_writing()

    def get_write_buffer_size(self):
        return self.queued

    def can_write_eof(self):
        return True

    def write_eof(self):
        """Nothing follows what is queued."""
        if not self.end_due and not self.closing:
            self.end_due = True
            if self.queued == 0:
                shutdown(self.fd, SHUT_WR)

    def pause_reading(self):
        self.reading = False
        self._interest()

    def resume_reading(self):
        self.reading = True
        self._interest()

    def is_closing(self):
        return self.closing

    def close(self):
        """End once everything queued is written; nothing is read any more."""
        if not self.closing:
            self.closing = True
            self._interest()
            if self.queued == 0:
                self.sockets.end(self)

    def abort(self):
        """End now."""
        if not self.over:
            self.closing = True
            self.queued = 0
            self.sockets.end(self)

    def get_extra_info(self, name, default=None):
        cdef char text[46]
        cdef int port, n
        if name == "socket":
            return self
        if name == "sockname":
            n = name_of(self.fd, False, text, &port)
            return (text[:n].decode(), port) if n else default
        return default

    def fileno(self):
        return self.fd

    def __repr__(self):
        return f"<Socket {self.fd} of {self.wire!r}>"
