"""HTTP/1.1 towards a client: one connection, one exchange at a time."""

from libc.stdint cimport int32_t, int64_t

from kairos._speedups.http1 cimport Head
from kairos.proxy.exchange cimport Downstream, Exchange, Runtime, Slices


cdef enum State:
    C_IDLE = 0
    C_HEAD = 1
    C_BODY = 2
    C_WAIT = 3
    C_TUNNEL = 4
    C_LINGER = 5

cdef enum Outer:                # what is due before HTTP
    O_NONE = 0                  # plain HTTP
    O_PROXY = 1                 # a PROXY header
    O_TLS = 2                   # a handshake, or it is behind us: all bytes pass through TLS


cdef class ClientConnection(Downstream):
    cdef Runtime runtime
    cdef int64_t since          # monotonic µs at which it was accepted
    cdef int64_t serial         # among all that this worker slot ever accepted
    cdef Exchange x             # under way, None between requests
    cdef int state
    cdef bint keep              # the connection may carry another request
    cdef bint busy              # _heads() is running: ended() leaves what is pending to it
    cdef int32_t requests
    cdef int32_t held           # bytes of a head in the runtime's scratch, to go out with what follows
    cdef bint terminated        # the last chunk went out with the body
    cdef bytes pending          # part of a head, or requests sent ahead
    cdef int64_t lingered       # bytes thrown away after the last answer
    cdef Py_ssize_t unsent      # not acknowledged by the client when last looked at
    cdef char peer[46]          # address of the client
    cdef int peer_size
    cdef int peer_port
    cdef tuple destination      # address and port that a PROXY header named; None: those of the socket
    cdef int outer              # Outer
    cdef bint shaking           # the handshake has begun
    cdef bint counted           # in the runtime's per_ip

    cdef int _know_peer(self, transport) except -1
    cdef int _decipher(self, const char* p, Py_ssize_t n) except -1
    cdef int _unwrap_first(self) except -1
    cdef bint _through_proxy(self) except -1
    cdef int _begin_tls(self) except -1
    cdef int _unwrap(self, bytes data) except -1
    cdef bytes _after_proxy(self, bytes data)
    cdef int _believe(self, header) except -1
    cdef int _shaken(self) except -1
    cdef int _log_failure(self, str reason) except -1
    cdef int _no_tls(self, bytes data) except -1
    cdef bint _handshaking(self) noexcept
    cdef int _too_long(self) except -1
    cdef str _peer_text(self)
    cdef int _received(self, bytes data) except -1

    cdef int _heads(self, bytes data) except -1
    cdef Py_ssize_t _head(self, bytes data, Py_ssize_t offset) except -2
    cdef Py_ssize_t _start(self, Exchange x, bytes data, Py_ssize_t offset, Py_ssize_t n) except -2
    cdef int _wait_for_head(self, bytes data, Py_ssize_t offset) except -1
    cdef int _refuse(self, Exchange x, bytes data, Py_ssize_t offset, str kind) except -1
    cdef Py_ssize_t _request_body(self, bytes data, Py_ssize_t offset) except -2
    cdef Py_ssize_t _request_chunks(self, bytes data, Py_ssize_t offset) except -2
    cdef int unhold(self, Exchange x) except -1
    cdef bint _too_slow(self, Exchange x, int64_t now) except -1
    cdef int _stash(self, bytes data, Py_ssize_t offset) except -1
    cdef int _linger(self) except -1
    cdef bint _wants_trailers(self, Exchange x) noexcept
    cdef char* _common_fields(self, Exchange x, char* out, bint keep) except NULL
    cdef char* _framing(self, Exchange x, char* out, int64_t length) noexcept
    cdef bint _admitted(self) except -1
    cdef int _forget(self) except -1
    cdef int _turn_away(self) except -1
    cdef int _after_body(self, bytes data) except -1
    cdef int _stalled(self, int64_t now) except -1
    cdef Py_ssize_t _unusual(self, Exchange x, bytes data, Py_ssize_t offset) except -2
    cdef Py_ssize_t _start_canonical(self, Exchange x, bytes head, bytes data, Py_ssize_t end) except -2
    cdef int _request_read(self, Exchange x) except -1
    cdef int _close_soon(self) except -1
    cdef int _next(self) except -1
    cdef Py_ssize_t _unsent(self) except -1
    cdef int dismiss(self, bint gently) except -1
    cdef int _arm_write(self, Py_ssize_t unsent, int64_t now) except -1
