"""One end of a connection: writing, back-pressure and its one deadline.

Rules here: bytes are handed to the kernel at once where the transport holds none (no object is made for them), else
they queue in the transport, whose water marks call pause_writing() and resume_writing(). A deadline is one store;
the clock finds those that passed, within a second, and never makes a timer per request. TLS is a codec on the way: its
records go the same way, and no transport of its own stands in between.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport INT64_MAX, int64_t
from libc.string cimport memcpy, memset
from posix.time cimport CLOCK_MONOTONIC, CLOCK_REALTIME, clock_gettime, timespec


from kairos._speedups.tls cimport Output, T_BROKEN, tls_output, tls_sent

cdef extern from "<sys/socket.h>" nogil:
    cdef struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    ssize_t c_send "send"(int fd, const void* buf, size_t n, int flags)
    ssize_t c_recv "recv"(int fd, void* buf, size_t n, int flags)
    ssize_t c_sendmsg "sendmsg"(int fd, const msghdr* msg, int flags)
    int MSG_NOSIGNAL
    int MSG_DONTWAIT
    int MSG_PEEK


cdef enum:
    TICK_US = 125000  # a wire is looked at every LANES ticks
    ROUND_US = 1000000
    RECORD = 16384    # plain bytes in a TLS record at most
TICK = TICK_US / 1e6


cdef int64_t monotonic_us() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_MONOTONIC, &t)
    return <int64_t>t.tv_sec * 1000000 + t.tv_nsec // 1000


cdef int64_t unix_us() noexcept nogil:
    cdef timespec t
    clock_gettime(CLOCK_REALTIME, &t)
    return <int64_t>t.tv_sec * 1000000 + t.tv_nsec // 1000


cdef bint readable(int fd) noexcept nogil:
    """Whether bytes, an end or an error wait at a socket; nothing is taken from it."""
    cdef char byte
    return c_recv(fd, &byte, 1, MSG_PEEK | MSG_DONTWAIT) >= 0 or not _would_block()


cdef Py_ssize_t receive(int fd, char* out, Py_ssize_t n) noexcept nogil:
    """Bytes that wait at a socket: how many, 0 at the end of the stream, -1 where there are none."""
    return c_recv(fd, out, n, MSG_DONTWAIT)


cdef class Clock:
    """Made with the loop it ticks on; start() and stop() it. `chores` run about once a second."""

    def __cinit__(self, loop):
        cdef Wire head
        self.loop = loop
        self.chores = []
        self.heads = []
        for _ in range(LANES):
            head = Wire.__new__(Wire)
            head.before = head
            head.after = head
            self.heads.append(head)

    def start(self):
        self.round_from = monotonic_us()
        self.least_late = INT64_MAX
        self._plan(self.round_from)

    cdef int _plan(self, int64_t now) except -1:
        self.due = now + TICK_US
        self.handle = self.loop.call_later(TICK, self.tick)
        return 0

    def stop(self):
        if self.handle is not None:
            self.handle.cancel()
            self.handle = None

    cdef void add(self, Wire wire):
        cdef Wire head = <Wire>self.heads[self.entry]
        self.entry = (self.entry + 1) % LANES
        wire.after = head.after
        wire.before = head
        head.after.before = wire
        head.after = wire
        self.count += 1

    cdef void remove(self, Wire wire):
        if wire.after is None:
            return
        wire.before.after = wire.after
        wire.after.before = wire.before
        wire.before = None
        wire.after = None
        self.count -= 1

    def wires(self):
        """All wires on the clock."""
        cdef Wire wire
        found = []
        for head in self.heads:
            wire = (<Wire>head).after
            while wire is not head:
                found.append(wire)
                wire = wire.after
        return found

    def tick(self):
        """Visit one lane; plan the next tick."""
        cdef Wire head = <Wire>self.heads[self.lane]
        cdef Wire wire = head.after
        cdef Wire following
        cdef int64_t now = monotonic_us()
        self.least_late = min(self.least_late, max(0, now - self.due))
        self._plan(now)
        self.lane = (self.lane + 1) % LANES
        while wire is not None and wire is not head:
            following = wire.after
            if wire.deadline != 0 and wire.deadline <= now:
                wire.deadline = 0
                wire.on_deadline(now)
                if following is not head and following.after is None:
                    following = head.after  # the neighbour was ended too: start over, no deadline fires twice
            wire = following
        self.ticks += 1
        if now - self.round_from >= ROUND_US and self.ticks >= 3:
            self._end_round(now)

    cdef int _end_round(self, int64_t now) except -1:
        """A second is over, and enough ticks to tell a stall from a lag."""
        self.lag_us = self.least_late
        self.least_late = INT64_MAX
        self.round_from = now
        self.ticks = 0
        for chore in self.chores:
            chore()
        return 0


@cython.final
cdef class Walk:
    """Made of a clock; close() it. Its place is a wire without deadline: whoever comes or goes, the list stays whole.

    Wires that come while it is under way may be left out; none is seen twice.
    """

    def __init__(self, Clock clock):
        self.clock = clock
        self.place = Wire.__new__(Wire)

    cdef Wire next(self):
        """None: all were seen."""
        cdef Wire head, wire
        while self.lane < LANES:
            head = <Wire>self.clock.heads[self.lane]
            if self.place.after is None:
                self._stand_behind(head)
            wire = self.place.after
            self._leave()
            if wire is not head:
                self._stand_behind(wire)
                return wire
            self.lane += 1
        return None

    cdef void _stand_behind(self, Wire wire):
        self.place.before = wire
        self.place.after = wire.after
        wire.after.before = self.place
        wire.after = self.place

    cdef void _leave(self):
        if self.place.after is not None:
            self.place.before.after = self.place.after
            self.place.after.before = self.place.before
            self.place.before = self.place.after = None

    def __iter__(self):
        return self

    def __next__(self):
        cdef Wire wire = self.next()
        if wire is None:
            raise StopIteration
        return wire

    def close(self):
        self.lane = LANES
        self._leave()


cdef class Wire:
    """See wire.pxd. Subclasses are the asyncio protocols; they call attach() and detach()."""

    cdef int attach(self, object transport, Clock clock, bint direct) except -1:
        self.transport = transport
        self.clock = clock
        self.fd = transport.get_extra_info("socket").fileno() if direct else -1
        clock.add(self)
        return 0

    cdef int detach(self) except -1:
        """The transport is gone: nothing may be written, the clock forgets it."""
        self.closed = True
        self.fd = -1
        self.deadline = 0
        if self.clock is not None:
            self.clock.remove(self)
        return 0

    cdef int arrived(self, const char* p, Py_ssize_t n) except -1:
        """What was read, where it lies only during the call."""
        self.data_received(PyBytes_FromStringAndSize(p, n))
        return 0

    cdef bint _direct(self) except -1:
        """Whether bytes may go straight to the socket."""
        if self.fd < 0:
            return False
        if self.queued:
            if self.transport.get_write_buffer_size() != 0:
                return False
            self.queued = False
        return True

    cdef int _queue(self, object data) except -1:
        self.queued = True
        self.transport.write(data)
        return 0

    cdef Py_ssize_t _push(self, const char* p, Py_ssize_t n) except -2:
        """How many bytes need no further care: the kernel took them, or nobody is there to take any."""
        cdef Py_ssize_t done
        if self.closed or self.mute:
            return n
        if not self._direct():
            return 0
        done = c_send(self.fd, p, n, MSG_NOSIGNAL | MSG_DONTWAIT)
        if done >= 0:
            return done
        if _would_block():
            return 0
        self.on_broken_pipe()
        return n

    cdef int send(self, const char* p, Py_ssize_t n) except -1:
        """Write bytes owned by the caller; what the kernel does not take now is copied."""
        cdef Py_ssize_t done
        if self.tls is not None:
            return self.seal(p, n)
        done = self._push(p, n)
        return self._queue(PyBytes_FromStringAndSize(p + done, n - done)) if done < n else 0

    cdef int send_bytes(self, bytes owner, const char* p, Py_ssize_t n) except -1:
        """Write p[:n], which lies inside owner; what the kernel does not take now is referred to, not copied."""
        cdef Py_ssize_t done, start
        if self.tls is not None:
            return self.seal(p, n)
        done = self._push(p, n)
        start = p - PyBytes_AS_STRING(owner) + done
        if done == n:
            return 0
        if start == 0 and n - done == len(owner):
            return self._queue(owner)
        return self._queue(memoryview(owner)[start:start + n - done])

    cdef int sendv(self, iovec* iov, int count, bytes owner) except -1:
        """Write several pieces in one call. A rest that lies inside owner is referred to, any other is copied."""
        cdef msghdr message
        cdef Py_ssize_t done = 0
        cdef int i = 0
        if self.closed or self.mute:
            return 0
        if self.tls is not None:
            return self._sealv(iov, count)
        if self._direct():
            memset(&message, 0, sizeof(msghdr))
            message.msg_iov = iov
            message.msg_iovlen = count
            done = c_sendmsg(self.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT)
            if done < 0:
                if not _would_block():
                    return self.on_broken_pipe()
                done = 0
        while i < count and done >= <Py_ssize_t>iov[i].iov_len:
            done -= iov[i].iov_len
            i += 1
        if i == count:
            return 0
        iov[i].iov_base = <char*>iov[i].iov_base + done
        iov[i].iov_len -= done
        return self._queue_rest(iov + i, count - i, owner)

    cdef int _queue_rest(self, iovec* iov, int count, bytes owner) except -1:
        cdef const char* first
        cdef Py_ssize_t total = 0
        cdef int i
        if count == 1 and owner is not None:
            first = PyBytes_AS_STRING(owner)
            if first <= <const char*>iov[0].iov_base < first + len(owner):
                start = <const char*>iov[0].iov_base - first
                return self._queue(memoryview(owner)[start:start + <Py_ssize_t>iov[0].iov_len])
        for i in range(count):
            total += iov[i].iov_len
        rest = PyBytes_FromStringAndSize(NULL, total)
        cdef char* out = PyBytes_AS_STRING(rest)
        for i in range(count):
            memcpy(out, iov[i].iov_base, iov[i].iov_len)
            out += iov[i].iov_len
        return self._queue(rest)

    cdef int seal(self, const char* p, Py_ssize_t n) except -1:
        """Write as TLS records."""
        if self.closed or self.mute:
            return 0
        self.tls.write(p, n)
        return self.send_records()

    cdef int _sealv(self, iovec* iov, int count) except -1:
        """Small pieces share a record: each costs a header, a tag and its own decryption."""
        cdef char record[RECORD]
        cdef Py_ssize_t held = 0, n, part
        cdef const char* p
        cdef int i
        for i in range(count):
            p = <const char*>iov[i].iov_base
            n = <Py_ssize_t>iov[i].iov_len
            while n > 0:
                part = min(n, RECORD - held)
                if part == RECORD:
                    part = n if i == count - 1 else n - n % RECORD
                    self.tls.write(p, part)
                else:
                    memcpy(record + held, p, part)
                    held += part
                    if held == RECORD:
                        self.tls.write(record, RECORD)
                        held = 0
                p += part
                n -= part
        if held:
            self.tls.write(record, held)
        return self.send_records()

    cdef int send_records(self) except -1:
        """Send what TLS has to say."""
        cdef Output* out = tls_output()
        cdef Py_ssize_t n = out.size, done
        if n:
            done = self._push(out.data, n)
            if done < n:
                self._queue(PyBytes_FromStringAndSize(out.data + done, n - done))
            tls_sent()
        return 0 if self.tls.state != T_BROKEN or self.closed else self.on_broken_pipe()

    cdef int say_end(self) except -1:
        """Over TLS, that nothing more follows: without it the peer has to think that something was cut off."""
        if self.tls is not None and not self.closed:
            self.tls.end()
            self.send_records()
        return 0

    cdef int pause(self) except -1:
        """Stop reading (back-pressure on the peer)."""
        if not self.read_paused and not self.closed:
            self.read_paused = True
            self.transport.pause_reading()
        return 0

    cdef int resume(self) except -1:
        if self.read_paused and not self.closed:
            self.read_paused = False
            self.transport.resume_reading()
        return 0

    cdef int close(self) except -1:
        """Close once everything queued is written; the fd is not used from here on."""
        if not self.closed:
            self.say_end()
            self.closed = True
            self.fd = -1
            self.transport.close()
        return 0

    cdef int abort(self) except -1:
        """Close at once. connection_lost() follows."""
        self.closed = True
        self.fd = -1
        if self.transport is not None:
            self.transport.abort()
        return 0

    def pause_writing(self):
        self.write_paused = True
        self.on_congested()

    def resume_writing(self):
        self.write_paused = False
        if not self.closed:
            self.on_drained()

    cdef int on_deadline(self, int64_t now) except -1:
        return 0

    cdef int on_broken_pipe(self) except -1:
        """Writing failed for good."""
        return self.abort()

    cdef int on_drained(self) except -1:
        return 0

    cdef int on_congested(self) except -1:
        return 0


cdef inline bint _would_block() noexcept nogil:
    return errno == EAGAIN or errno == EINTR  # EWOULDBLOCK is EAGAIN on Linux
