"""A look at the client connections of this process. See connections.pyx."""

from libc.stdint cimport int64_t

from kairos.proxy.client cimport ClientConnection
from kairos.proxy.exchange cimport Exchange, Runtime
from kairos.proxy.peers cimport Networks
from kairos.proxy.wire cimport Walk


cdef enum ConnectionState:      # as inquiry.STATES
    S_HANDSHAKE = 0             # what comes before HTTP is not through
    S_IDLE = 1
    S_READING = 2               # a request is coming
    S_WAITING = 3               # it is here, an answer is not
    S_SENDING = 4
    S_STREAMING = 5             # an event stream is open
    S_TUNNEL = 6
    S_CLOSING = 7
    S_STATES = 8

cdef enum ConnectionProtocol:   # as inquiry.PROTOCOLS
    V_HTTP = 0
    V_SSE = 1
    V_WEBSOCKET = 2

cdef enum Order:
    BY_AGE = 0
    BY_YOUTH = 1
    BY_IDLE = 2
    BY_REQUEST = 3              # how long the one under way takes
    BY_REQUESTS = 4
    BY_BYTES = 5

cdef enum Ending:               # what becomes of those that fit
    E_NONE = 0
    E_NOW = 1
    E_GENTLY = 2                # once the answer under way is out


cdef struct Tcp:                # what the kernel knows of a connection
    bint known
    int64_t idle_ms
    int64_t received            # bytes
    int64_t sent                # bytes, acknowledged
    int64_t rtt_us


cdef class Survey:
    """Goes over the connections and keeps the first of those that are wanted."""
    cdef Runtime runtime
    cdef Walk walk
    cdef int slot
    cdef int64_t now            # monotonic µs of the slice
    cdef int64_t counts[8]      # by state, of those that fit
    cdef readonly int64_t looked_at
    cdef Py_ssize_t limit
    cdef int order
    cdef int ends               # Ending
    cdef list best              # heap of (key, serial, connection)
    cdef readonly list connections  # inquiry.Connection of those that were described
    # what is wanted
    cdef int64_t serial         # 0: any
    cdef int64_t born_before, idle_us, request_us
    cdef Networks clients       # None: any
    cdef str route, backend     # None: any
    cdef unsigned int state_bits
    cdef int protocol           # -1: any
    cdef int port               # 0: any

    cdef int _see(self, ClientConnection c) except -1
    cdef bint _fits(self, ClientConnection c) except -1
    cdef bint _carries(self, Exchange x) except -1
    cdef bint _from(self, ClientConnection c) except -1
    cdef int _keep(self, ClientConnection c) except -1
    cdef object _described(self, ClientConnection c)
    cdef int64_t _key(self, ClientConnection c) except? -1
