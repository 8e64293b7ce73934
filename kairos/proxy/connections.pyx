"""A look at the client connections of this process, for whoever asks: filtered, counted by state, the first kept.

Rules here:
- Nothing is kept for this while nobody asks. What is shown is read off the connections; bytes and idle time are the
  kernel's own numbers (TCP_INFO), asked for only where they are shown, sorted or filtered by.
- A slice lasts SLICE_US, whatever the number of connections; between two slices the loop serves its clients.
- Only what can be told without harm: no query, no header field but Host.
"""

import heapq
import os

cimport cython
from libc.stdint cimport int64_t

from kairos._speedups.cells cimport W_CONNECTIONS_OPEN
from kairos.proxy.client cimport C_BODY, C_HEAD, C_LINGER, C_TUNNEL, ClientConnection
from kairos.proxy.exchange cimport Exchange, Runtime
from kairos.proxy.peers cimport Networks
from kairos.proxy.sockets cimport Socket
from kairos.proxy.wire cimport Walk, Wire, monotonic_us

from kairos.inquiry import PROTOCOLS, STATES, Connection, RequestUnderWay, TlsInUse, connection_id
from kairos.proxy.exchange import TLS_VERSIONS

cdef extern from *:
    """
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <stdint.h>
    #include <string.h>
    #include <sys/socket.h>
    /* By offsets of the kernel's interface, which only grows: the C library's struct ends before the byte counts. */
    static int kairos_tcp(int fd, int64_t *idle_ms, int64_t *received, int64_t *sent, int64_t *rtt_us) {
        unsigned char info[256];
        socklen_t n = sizeof info;
        uint32_t last_sent, last_received, rtt;
        uint64_t bytes;
        if (fd < 0 || getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &n) < 0 || n < 136) return 0;
        memcpy(&last_sent, info + 44, 4);
        memcpy(&last_received, info + 52, 4);
        memcpy(&rtt, info + 68, 4);
        *idle_ms = last_sent < last_received ? last_sent : last_received;
        *rtt_us = rtt;
        memcpy(&bytes, info + 120, 8);
        *sent = (int64_t)bytes;
        memcpy(&bytes, info + 128, 8);
        *received = (int64_t)bytes;
        return 1;
    }
    """
    bint tcp_info "kairos_tcp"(int fd, int64_t* idle_ms, int64_t* received, int64_t* sent, int64_t* rtt) noexcept nogil

cdef enum:
    SLICE_US = 500
    LOOKS = 32                  # connections between two looks at the clock
    MAX_PATH = 1024
    MAX_HOST = 260

cdef dict ORDERS = {
    "oldest": BY_AGE, "newest": BY_YOUTH, "idle": BY_IDLE, "request": BY_REQUEST, "requests": BY_REQUESTS,
    "bytes": BY_BYTES,
}  # fmt: skip


cdef int state_of(ClientConnection c) noexcept:
    cdef Exchange x = c.x
    if c.closed or c.state == C_LINGER:
        return S_CLOSING
    if c._handshaking():
        return S_HANDSHAKE
    if x is None:
        return S_SENDING if c.write_paused else S_READING if c.state == C_HEAD else S_IDLE
    if c.state == C_TUNNEL:
        return S_TUNNEL
    if x.head_sent:
        return S_STREAMING if x.event_stream else S_SENDING
    return S_READING if c.state == C_BODY else S_WAITING


cdef int protocol_of(ClientConnection c) noexcept:
    if c.x is None:
        return V_HTTP
    return V_WEBSOCKET if c.x.tunnelling or c.x.upgrading else V_SSE if c.x.event_stream else V_HTTP


cdef Tcp tcp_of(ClientConnection c):
    cdef Tcp tcp
    cdef bint internet = isinstance(c.transport, Socket) and (<Socket>c.transport).peer_size > 0
    tcp.idle_ms = tcp.received = tcp.sent = tcp.rtt_us = 0
    tcp.known = internet and tcp_info((<Socket>c.transport).fd, &tcp.idle_ms, &tcp.received, &tcp.sent, &tcp.rtt_us)
    return tcp


@cython.final
cdef class Survey:
    """Made for one question; close() it. look() until it says False, then describe() until it does.

    With `ends`, those that fit are described and then closed as they are found, in no order.

    Raises:
        ValueError: an address or network that is none.
    """

    def __init__(self, Runtime runtime, int slot, wanted, str sort="oldest", Py_ssize_t limit=100, str ends=None):
        cdef int64_t now = monotonic_us()
        self.runtime = runtime
        self.slot = slot
        self.limit = limit
        self.order = ORDERS[sort]
        self.ends = E_NONE if ends is None else E_NOW if ends == "now" else E_GENTLY
        self.best = []
        self.connections = []
        self.serial = wanted.serial
        self.clients = Networks(wanted.client) if wanted.client else None
        self.route = wanted.route
        self.backend = wanted.backend
        self.protocol = -1 if wanted.protocol is None else PROTOCOLS.index(wanted.protocol)
        self.port = wanted.port
        for state in wanted.state or STATES:
            self.state_bits |= 1 << <int>STATES.index(state)
        self.born_before = now - <int64_t>(wanted.min_age * 1e6)
        self.idle_us = <int64_t>(wanted.min_idle * 1e6)
        self.request_us = <int64_t>(wanted.min_request * 1e6)
        self.walk = Walk(runtime.clock)

    def close(self):
        self.walk.close()

    def look(self):
        """For a slice of time. False: all were seen."""
        cdef Wire wire
        cdef int looks = 0
        cdef int64_t until
        self.now = monotonic_us()
        until = self.now + SLICE_US
        while True:
            wire = self.walk.next()
            if wire is None:
                return False
            if isinstance(wire, ClientConnection):
                if self._see(<ClientConnection>wire) and self.serial:
                    return False
            looks += 1
            if looks % LOOKS == 0 and monotonic_us() > until:
                return True

    cdef int _see(self, ClientConnection c) except -1:
        """Whether it fits; then it is counted, and kept or closed."""
        self.looked_at += 1
        if not self._fits(c):
            return 0
        self.counts[state_of(c)] += 1
        if self.ends == E_NONE:
            self._keep(c)
            return 1
        if len(self.connections) < self.limit:
            self.connections.append(self._described(c))
        c.dismiss(self.ends == E_GENTLY)
        return 1

    cdef bint _fits(self, ClientConnection c) except -1:
        cdef Tcp tcp
        if self.serial and c.serial != self.serial or c.since > self.born_before:
            return False
        if self.port and c.local_port != self.port or not self.state_bits >> state_of(c) & 1:
            return False
        if self.protocol >= 0 and protocol_of(c) != self.protocol:
            return False
        if not self._carries(c.x) or (self.clients is not None and not self._from(c)):
            return False
        if self.idle_us:
            tcp = tcp_of(c)
            return tcp.known and tcp.idle_ms * 1000 >= self.idle_us
        return True

    cdef bint _carries(self, Exchange x) except -1:
        """Whether the request under way, if one has to be, is one that is wanted."""
        if self.route is None and self.backend is None and not self.request_us:
            return True
        if x is None or self.now - x.started < self.request_us:
            return False
        if self.route is not None and x.plan.name != self.route:
            return False
        return self.backend is None or (x.target is not None and x.target.key == self.backend)

    cdef bint _from(self, ClientConnection c) except -1:
        cdef Py_ssize_t n = 0
        cdef const char* text
        if self.clients.contains(c.peer, c.peer_size):
            return True
        if c.x is None:
            return False
        text = c.x.client_text(&n)
        return self.clients.contains(text, n)

    cdef int _keep(self, ClientConnection c) except -1:
        """Among the first, if it is one of them."""
        cdef int64_t key
        if self.limit == 0:
            return 0
        key = self._key(c)
        if len(self.best) < self.limit:
            heapq.heappush(self.best, (key, c.serial, c))
        elif key > <int64_t>self.best[0][0]:
            heapq.heapreplace(self.best, (key, c.serial, c))
        return 0

    cdef int64_t _key(self, ClientConnection c) except? -1:
        cdef Tcp tcp
        if self.order == BY_AGE:
            return -c.since
        if self.order == BY_YOUTH:
            return c.since
        if self.order == BY_REQUESTS:
            return c.requests
        if self.order == BY_REQUEST:
            return 0 if c.x is None else self.now - c.x.started
        tcp = tcp_of(c)
        return tcp.idle_ms if self.order == BY_IDLE else tcp.received + tcp.sent

    def describe(self):
        """Some of the first of those that fit, in order; the others next. False: that was all."""
        cdef ClientConnection c
        if not self.connections:
            self.best.sort()
        for _, _, c in [self.best.pop() for _ in range(min(LOOKS, len(self.best)))]:
            if c.after is not None:  # it may have ended since
                self.connections.append(self._described(c))
        return len(self.best) > 0

    @property
    def open(self):
        """All client connections of this process."""
        return self.runtime.worker[W_CONNECTIONS_OPEN]

    @property
    def states(self):
        """Of those that fit: how many are in each state that one of them is in."""
        cdef int i
        return {STATES[i]: self.counts[i] for i in range(<int>S_STATES) if self.counts[i]}

    cdef object _described(self, ClientConnection c):
        """What there is to tell of it now."""
        cdef Tcp tcp = tcp_of(c)
        cdef int64_t now = monotonic_us()
        peer = c.peer[:c.peer_size].decode("ascii", "replace")
        return Connection(
            id=connection_id(self.slot, os.getpid(), c.serial),
            worker=self.slot,
            client=peer if c.x is None else c.x.client,
            peer=_joined(peer, c.peer_port),
            through=_through(c),
            listener=_listener(c),
            tls=None if c.tls is None else _tls(c.tls),
            protocol=PROTOCOLS[protocol_of(c)],
            state=STATES[state_of(c)],
            age=_seconds(now - c.since),
            idle=_seconds(min(tcp.idle_ms * 1000, now - c.since)) if tcp.known else None,
            requests=c.requests,
            bytes_received=tcp.received if tcp.known else None,
            bytes_sent=tcp.sent if tcp.known else None,
            unsent=max(0, c._unsent()),
            rtt_ms=tcp.rtt_us / 1000 if tcp.known else None,
            request=None if c.x is None else _request(c.x, state_of(c), now),
        )


cdef object _request(Exchange x, int state, int64_t now):
    cdef Py_ssize_t path = min(x.path_size, MAX_PATH)
    return RequestUnderWay(
        id=x.request_id_str,
        method=x.base[x.head.verb.start:x.head.verb.end].decode("ascii", "replace"),
        host=x.base[x.head.host.start:min(x.head.host.end, x.head.host.start + MAX_HOST)].decode("latin-1"),
        path=x.path_start[:path].decode("ascii", "replace") if path else "",
        route=x.plan.name,
        backend=None if x.target is None else x.target.key,
        attempts=x.attempts,
        status=x.status or None,
        age=_seconds(now - x.started),
        waits_for=_waits_for(x) if state == S_WAITING else None,
        bytes_in=x.bytes_in + (0 if x.joined == NULL else x.joined.ends[1].sent),
        bytes_out=x.bytes_out + (0 if x.joined == NULL else x.joined.ends[0].sent),
    )


cdef str _waits_for(Exchange x):
    if x.queued:
        return "queue"
    if x.up is not None:
        return "response"
    if not x.handled:
        return "filter"
    return "backend" if x.plan.targets else "handler"


cdef object _tls(tls):
    name = tls.server_name
    return TlsInUse(
        version=TLS_VERSIONS.get(tls.version) if tls.state else None,
        cipher=tls.cipher,
        server_name=None if name is None else name.decode("ascii", "replace"),
        resumed=bool(tls.state) and tls.resumed,
        client_certificate=tls.client_certificate is not None,
    )


cdef str _through(ClientConnection c):
    cdef Socket socket
    if c.destination is None or not isinstance(c.transport, Socket):
        return None
    socket = c.transport
    return _joined(socket.peer[:socket.peer_size].decode("ascii"), socket.peer_port) if socket.peer_size else "unix"


cdef str _listener(ClientConnection c):
    host, port = c.ends()[1]
    return _joined(host.decode("ascii", "replace"), port) if port else "unix"


cdef str _joined(str host, int port):
    if not port:
        return "unix" if host == "unknown" else host
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


cdef double _seconds(int64_t us) noexcept:
    return max(us, 0) // 1000 / 1000.0
