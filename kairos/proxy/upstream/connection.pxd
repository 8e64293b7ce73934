"""HTTP/1.1 towards an origin, and the pool of its idle connections."""

from libc.stdint cimport int64_t

from kairos._speedups.http1 cimport Chunks, Head
from kairos.proxy.exchange cimport Exchange, Runtime, Slices, Target, Upstream


cdef class Origin:
    """Where requests go: address, TLS and the idle connections of this worker."""
    cdef readonly object address        # config.origin.Origin: scheme, host, port, unix path, authority, key
    cdef readonly object tls            # ssl.SSLContext, or None
    cdef readonly object server_name    # SNI, or None
    cdef readonly Runtime runtime
    cdef readonly bytes authority       # Host sent upstream
    cdef list idle                      # connections waiting, the most recently used last
    cdef int64_t idle_us
    cdef int64_t max_idle
    cdef int64_t max_requests
    cdef int64_t age_us
    cdef int64_t* row                   # U_* cells of this worker
    cdef int announce                   # version of the PROXY header that connections begin with, 0: none
    cdef bint retired                   # no snapshot in force names it
    cdef bint unreachable               # the last attempt to connect failed

    cdef bytes _preamble(self, Exchange x)
    cdef UpstreamConnection take(self, bint looked_at)
    cdef int connect(self, Exchange x, Target target, bint trial) except -1


cdef class UpstreamConnection(Upstream):
    cdef readonly Origin origin
    cdef Exchange x                     # being served, None while idle
    cdef Target target                  # the attempt that x makes here ...
    cdef bint trial                     # ... is a half-open breaker's trial
    cdef int told                       # what the breaker heard already, or NO_VERDICT
    cdef bint parted                    # its slot was given back
    cdef int64_t sent                   # monotonic µs at which the request was out
    cdef int64_t answered               # monotonic µs of the response head, 0 before
    cdef int state
    cdef bint reused                    # has answered before
    cdef bint answering                 # a byte of the current response came
    cdef bint keep                      # may serve another exchange after this one
    cdef bint at_once                   # head and body came in one read
    cdef bint relayed                   # an interim response went out to the client
    cdef bint until_close               # the response body ends with the connection
    cdef int informational              # 1xx heads so far
    cdef int64_t requests               # sent in its life
    cdef int64_t retires                # monotonic µs from which on it serves no further one
    cdef int64_t remaining              # of a Content-Length body
    cdef Head head                      # of the response
    cdef Chunks chunks
    cdef bytes pending                  # a head that is not complete
    cdef bytes trailers                 # section as it came, then what of it may go on
    cdef bytes trailer                  # names announced in the head

    cdef int begin(self, Exchange x, Target target, bint trial, int64_t now, const char* head, Py_ssize_t n) except -1
    cdef bint wins(self, Exchange x) except -1
    cdef bint _declined(self, Exchange x, bytes data, Py_ssize_t offset) except -1
    cdef int _read_rest(self) except -1
    cdef int lose(self, Exchange x) except -1
    cdef int _stand_down(self, Exchange x, int outcome) except -1
    cdef int _over(self, Exchange x) except -1
    cdef int _part(self, Exchange x, int outcome) except -1
    cdef int give_back(self, int64_t now) except -1
    cdef int64_t _jitter(self, int64_t us) noexcept
    cdef int _sent(self, Exchange x) except -1
    cdef int _arm(self, Exchange x, int64_t wait, int64_t now) except -1
    cdef int _heads(self, bytes data) except -1
    cdef bint _is_event_stream(self, const char* base) noexcept
    cdef int _informational(self, const char* base) except -1
    cdef int _respond(self, bytes data, Py_ssize_t offset) except -1
    cdef int _body(self, bytes data, Py_ssize_t offset) except -1
    cdef int _chunked(self, bytes data, Py_ssize_t offset) except -1
    cdef int _complete(self) except -1
    cdef int _broken(self, str kind) except -1
    cdef int _pass_inbox(self, Exchange x) except -1
    cdef int _switch(self, bytes data, Py_ssize_t offset) except -1
    cdef int _arm_body(self, Exchange x, int64_t now) except -1
    cdef int _arm_request(self, Exchange x, int64_t now) except -1
