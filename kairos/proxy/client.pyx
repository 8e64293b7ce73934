"""HTTP/1.1 towards a client: reads requests, writes responses, keeps the connection honest (RFC 9112).

    IDLE -> HEAD -> BODY -> WAIT -> IDLE ...     TUNNEL after a 101     LINGER before a close

Before that, where they are due: a PROXY header, then a TLS handshake (`outer`). TLS stays on the way of all bytes.

Rules here: one request is read to its end before the next head is looked at; whatever leaves the framing in doubt
ends the connection; an answer before the request's end ends it too, politely (RFC 9112 section 9.6).
"""

from email.utils import formatdate

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t
from libc.stdio cimport snprintf
from libc.string cimport memcpy, memset

from kairos._speedups.cells cimport (
    W_BAD_REQUESTS, W_CONNECTIONS_OPEN, W_CONNECTIONS_PEAK, W_CONNECTIONS_TOTAL, W_PROXY_REFUSED, W_REQUESTS_ACTIVE,
    W_TLS_12, W_TLS_12_RESUMED, W_TLS_13, W_TLS_CLIENT_CERTIFICATE, W_TLS_GONE, W_TLS_NO_TLS,
    W_TLS_PROTOCOL, W_TLS_REJECTED, W_TLS_TIMEOUT, W_TLS_UNKNOWN_NAME, W_TUNNELS_OPEN,
)
from kairos._speedups.http1 cimport (
    BAD_ENCODING, BAD_FIELD, BAD_HOST, BAD_LENGTH, BAD_START_LINE, C_CLOSE, C_DATA, C_END, C_ERROR, C_KEEP_ALIVE,
    C_NAMES, HEAD_TOO_LARGE, Head, LINE_TOO_LONG, NEED_MORE, RESPONSE, TARGET_TOO_LONG,
    TOO_MANY_FIELDS, UNUSUAL, copy_fields, cut_named, find_head_end, has_token, scan_request,
    worth_scanning,
)
from kairos._speedups.tls cimport T_BROKEN, T_ENDED, T_HANDSHAKE
from kairos.proxy.edits cimport edit_lines
from kairos.proxy.exchange cimport (
    Downstream, Exchange, F_CHUNKED, F_CLOSE, F_NONE, Runtime, Slices, add_slice, clear_slices, gather, joined,
)
from kairos.proxy.sockets cimport Socket
from kairos.proxy.wire cimport monotonic_us

from kairos._speedups.tls import UNKNOWN_NAME
from kairos.proxy.fields import answer_lines
from kairos.proxy.proxy_protocol import ProxyError, parse as parse_proxy
from kairos.proxy.reasons import status_line
from kairos.proxy.trailers import announced
from kairos.proxy.unusual import Refused, canonical_request
from kairos.telemetry.log import get_logger

cdef extern from *:
    """
    #include <linux/sockios.h>
    #include <sys/ioctl.h>
    #include <sys/socket.h>
    /* Bytes the kernel still holds for the peer. */
    static int kairos_outq(int fd) {
        int n = 0;
        return ioctl(fd, SIOCOUTQ, &n) < 0 ? 0 : n;
    }
    /* Make the close a reset, which is the one way left to say "not complete" where the close ends the body. */
    static void kairos_reset_on_close(int fd) {
        struct linger none = {1, 0};
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &none, sizeof none);
    }
    """
    int outq "kairos_outq"(int fd) noexcept nogil
    void reset_on_close "kairos_reset_on_close"(int fd) noexcept nogil


cdef enum:
    AHEAD_BYTES = 65536         # requests sent ahead (pipelined) held before the client is told to wait
    LINGER_BYTES = 67108864     # thrown away after the last answer, so that it is not lost to a reset
    LINGER_US = 5000000
    CROWD = 32                  # connections above the limit that are told why they are turned away

cdef dict REFUSALS = {
    BAD_START_LINE: "bad_start_line", BAD_FIELD: "bad_field", BAD_LENGTH: "bad_length", BAD_ENCODING: "bad_encoding",
    BAD_HOST: "bad_host", LINE_TOO_LONG: "head_too_large", TARGET_TOO_LONG: "uri_too_long",
    HEAD_TOO_LARGE: "head_too_large", TOO_MANY_FIELDS: "head_too_large",
}  # fmt: skip


cdef object log = get_logger("proxy")


@cython.final
cdef class ClientConnection(Downstream):
    """Made by the listener's factory for each connection accepted."""

    def __init__(self, Runtime runtime, bint secure=False):
        self.runtime = runtime
        self.secure = secure

    # -- asyncio protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport):
        cdef Runtime runtime = self.runtime
        cdef int64_t* worker = runtime.worker
        self.attach(transport, runtime.clock, True)
        self._know_peer(transport)
        worker[W_CONNECTIONS_TOTAL] += 1
        worker[W_CONNECTIONS_OPEN] += 1
        self.serial = worker[W_CONNECTIONS_TOTAL]
        if worker[W_CONNECTIONS_OPEN] > worker[W_CONNECTIONS_PEAK]:
            worker[W_CONNECTIONS_PEAK] = worker[W_CONNECTIONS_OPEN]
        self.since = monotonic_us()
        self.deadline = self.since + runtime.settings.head_us
        if self.secure or runtime.settings.proxies is not None:
            self._unwrap_first()
        if not self._admitted():
            self._turn_away()

    cdef int _know_peer(self, transport) except -1:
        """Its address, which a unix socket has not."""
        cdef Socket socket
        if isinstance(transport, Socket) and (<Socket>transport).peer_size:
            socket = transport
            self.peer_size = socket.peer_size
            self.peer_port = socket.peer_port
            self.local_port = socket.port
            memcpy(self.peer, socket.peer, socket.peer_size)
        else:
            memcpy(self.peer, b"unknown", 7)
            self.peer_size = 7
        return 0

    cdef bint _admitted(self) except -1:
        """Count the connection; False when there are too many."""
        cdef Runtime runtime = self.runtime
        if runtime.settings.connections_per_ip and self.outer != O_PROXY and not self.counted:
            self.counted = True
            address = self.peer[:self.peer_size]
            runtime.per_ip[address] = runtime.per_ip.get(address, 0) + 1
            if runtime.per_ip[address] > runtime.settings.connections_per_ip:
                return False
        return runtime.max_connections == 0 or runtime.worker[W_CONNECTIONS_OPEN] <= runtime.max_connections

    cdef int _forget(self) except -1:
        cdef Runtime runtime = self.runtime
        if not self.counted:
            return 0
        address = self.peer[:self.peer_size]
        if runtime.per_ip.get(address, 0) > 1:
            runtime.per_ip[address] -= 1
        else:
            runtime.per_ip.pop(address, None)
        return 0

    cdef int _turn_away(self) except -1:
        """Tell it why; but those who are told linger, so of a crowd the most is just closed."""
        cdef Exchange x = self.runtime.acquire()
        cdef int64_t most = self.runtime.max_connections
        if most and self.runtime.worker[W_CONNECTIONS_OPEN] > most + CROWD or self.outer != O_NONE:
            return self.abort()  # a handshake is what an overloaded gateway has the least time for
        return self._refuse(x, b"", 0, "overloaded")

    # -- what comes before HTTP ---------------------------------------------------------------------------------------

    cdef int _unwrap_first(self) except -1:
        """Connections of trusted load balancers begin with a PROXY header, those of the secure port with TLS."""
        cdef Runtime runtime = self.runtime
        if runtime.settings.proxies is not None and self._through_proxy():
            self.outer = O_PROXY
            self.deadline = monotonic_us() + runtime.settings.proxy_us
            return 0
        return self._begin_tls() if self.secure else 0

    cdef bint _through_proxy(self) except -1:
        if self.local_port == 0:
            return self.runtime.settings.unix_proxies
        return self.runtime.settings.proxies.contains(self.peer, self.peer_size)

    cdef int _begin_tls(self) except -1:
        self.outer = O_TLS
        self.deadline = monotonic_us() + self.runtime.settings.handshake_us
        if self.runtime.tls is None:  # a reload took the section away: the listener stays until a restart
            return self.abort()
        self.tls = self.runtime.tls.session()
        return 0

    cdef int _unwrap(self, bytes data) except -1:
        """What arrived where something is due before HTTP, or was."""
        if self.outer == O_PROXY:
            data = self._after_proxy(data)
        if data is None or self.closed:
            return 0
        if self.outer == O_NONE or self.state == C_LINGER:
            return self._received(data)
        return self._decipher(PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    cdef int _decipher(self, const char* p, Py_ssize_t n) except -1:
        """What arrived through TLS, which it does not outlast."""
        cdef bytes plain
        cdef int before = self.tls.state
        if before == T_HANDSHAKE and not self.shaking and c"A" <= p[0] <= c"Z":
            return self._no_tls(p[:n])
        self.shaking = True
        plain = self.tls.receive(p, n)
        if before == T_HANDSHAKE and self.tls.state != T_HANDSHAKE:
            self._shaken()
        self.send_records()
        if plain is not None and not self.closed:
            self._received(plain)
        if self.tls.state == T_ENDED and not self.closed:
            self.eof_received()
            self.close()
        return 0

    cdef bytes _after_proxy(self, bytes data):
        """Take in the PROXY header. What follows it, None: nothing yet, or the connection is ended."""
        if self.pending is not None:
            data = self.pending + data
            self.pending = None
        try:
            header = parse_proxy(data)
        except ProxyError as error:
            self.runtime.worker[W_PROXY_REFUSED] += 1
            log.debug("PROXY header refused", proxy=self._peer_text(), reason=str(error))
            self.abort()
            return None
        if header is None:
            self.pending = data
            return None
        self._believe(header)
        self.outer = O_NONE
        self.deadline = monotonic_us() + self.runtime.settings.head_us
        if self.secure:
            self._begin_tls()
        if not self._admitted():
            self._turn_away()
            return None
        return data[header.size:] or None

    cdef int _believe(self, header) except -1:
        """The connection is from whom the load balancer says."""
        cdef bytes address
        if header.source is None:
            return 0
        address, self.peer_port = header.source
        self.peer_size = <int>len(address)
        memcpy(self.peer, PyBytes_AS_STRING(address), len(address))
        self.destination = header.destination
        self.local_port = header.destination[1]
        return 0

    cdef int _shaken(self) except -1:
        """The handshake is over, well or not."""
        cdef int64_t* worker = self.runtime.worker
        if self.tls.state == T_BROKEN:
            worker[_failure(self.tls.reason)] += 1
            return self._log_failure(self.tls.reason)
        first = W_TLS_13 if self.tls.version == 0x0304 else W_TLS_12
        worker[first] += 1
        if self.tls.resumed:
            worker[first + W_TLS_12_RESUMED - W_TLS_12] += 1
        self.deadline = monotonic_us() + self.runtime.settings.head_us
        return 0

    cdef int _log_failure(self, str reason) except -1:
        name = self.tls.server_name
        log.debug(
            "TLS handshake failed", client=self._peer_text(), reason=reason,
            server_name=None if name is None else name.decode("ascii", "replace"),
        )
        return 0

    cdef int _no_tls(self, bytes data) except -1:
        """Plain HTTP on the secure port: say so in its own words."""
        self.runtime.worker[W_TLS_NO_TLS] += 1
        self.tls = None
        self.outer = O_NONE
        self.secure = False
        return self._refuse(self.runtime.acquire(), data, 0, "tls_required")

    cdef bint _handshaking(self) noexcept:
        return self.outer == O_PROXY or (self.tls is not None and self.tls.state == T_HANDSHAKE)

    cdef int _too_long(self) except -1:
        """No PROXY header, or no handshake, in time."""
        if self.outer == O_PROXY:
            self.runtime.worker[W_PROXY_REFUSED] += 1
            log.debug("PROXY header refused", proxy=self._peer_text(), reason="none came in time")
        else:
            self.runtime.worker[W_TLS_TIMEOUT] += 1
            self._log_failure("took too long")
        return self.abort()

    cdef str _peer_text(self):
        return self.peer[:self.peer_size].decode("ascii", "replace")

    # -- bytes of HTTP ------------------------------------------------------------------------------------------------

    cdef int arrived(self, const char* p, Py_ssize_t n) except -1:
        if self.outer == O_TLS and self.state != C_LINGER:
            return self._decipher(p, n) if not self.closed else 0
        self.data_received(p[:n])
        return 0

    def data_received(self, bytes data):
        if self.outer != O_NONE:
            self._unwrap(data)
        else:
            self._received(data)

    cdef int _received(self, bytes data) except -1:
        if self.state <= C_HEAD and not self.write_paused:
            self._heads(data)
        elif self.state == C_BODY:
            self._after_body(data)
        elif self.state <= C_WAIT:
            self._stash(data, 0)
        elif self.state == C_TUNNEL:
            self.x.bytes_in += PyBytes_GET_SIZE(data)
            self.x.up.tunnel_bytes(self.x, data, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
        else:
            self.lingered += len(data)
            if self.lingered > LINGER_BYTES:
                self.abort()
        return 0

    cdef int _after_body(self, bytes data) except -1:
        cdef Py_ssize_t rest = self._request_body(data, 0)
        if rest < len(data):
            if self.state <= C_HEAD:
                self._heads(data[rest:])
            elif self.state == C_WAIT:
                self._stash(data, rest)
        return 0

    def eof_received(self):
        if self.x is not None:
            self.x.gone()

    def connection_lost(self, error):
        if self.tls is not None and self.tls.state == T_HANDSHAKE and self.shaking and not self.closed:
            self.runtime.worker[W_TLS_GONE] += 1
        self.detach()
        self._forget()
        self.runtime.worker[W_CONNECTIONS_OPEN] -= 1
        self.pending = None
        if self.x is not None:
            self.x.gone()

    cdef int on_deadline(self, int64_t now) except -1:
        cdef Exchange x = self.x
        if self.write_paused or self.closed or self.state == C_LINGER:
            return self._stalled(now)
        if self.outer != O_NONE and self._handshaking():
            return self._too_long()
        if self.state == C_IDLE:
            return self.close()
        if self.state == C_HEAD:
            x = self.runtime.acquire()
            return self._refuse(x, self.pending or b"", 0, "request_timeout")
        if self.state <= C_WAIT and x.total_deadline and now >= x.total_deadline:
            return x.fail("total_timeout")
        if self.state == C_BODY:
            if not self.read_paused:
                return x.fail("request_timeout")
            self.deadline = now + self.runtime.settings.body_idle_us  # held back by us: the reader's time runs
        return 0

    cdef int _stalled(self, int64_t now) except -1:
        """The client does not read: as long as something moves it may be slow, else it goes."""
        cdef Py_ssize_t unsent = self._unsent()
        if self.x is not None and self.x.total_deadline and now >= self.x.total_deadline:
            return self.x.fail("total_timeout")
        if 0 < unsent < self.unsent:
            self._arm_write(unsent, now)
            return 0
        if unsent > 0:  # a mere close would leave the kernel with it, for as long as the client likes
            reset_on_close(self.transport.get_extra_info("socket").fileno())
        return self.abort()

    cdef Py_ssize_t _unsent(self) except -1:
        """What the client has not acknowledged: the kernel's part of it alone may take a slow client minutes."""
        return <Py_ssize_t>self.transport.get_write_buffer_size() + outq(
            self.transport.get_extra_info("socket").fileno())

    cdef int _arm_write(self, Py_ssize_t unsent, int64_t now) except -1:
        """By then some of it must have gone out, and all of an answer by its end."""
        self.unsent = unsent
        self.deadline = now + self.runtime.settings.write_idle_us
        if self.x is not None and self.x.total_deadline and self.x.total_deadline < self.deadline:
            self.deadline = self.x.total_deadline
        return 0

    cdef int on_congested(self) except -1:
        self._arm_write(self._unsent(), monotonic_us())
        if self.x is not None and self.x.up is not None:
            self.x.up.pause()
            self.x.up.deadline = 0
        return 0

    cdef int on_drained(self) except -1:
        cdef Exchange x = self.x
        if x is None:
            return self._next()
        self.deadline = x.total_deadline
        if x.up is not None:
            x.up.resume()
            x.up.deadline = monotonic_us() + (
                x.plan.tunnel_idle_us if x.tunnelling or x.event_stream else x.plan.read_idle_us)
        return x.wake()

    # -- requests in --------------------------------------------------------------------------------------------------

    cdef int _heads(self, bytes data) except -1:
        """Read requests from data until one is under way, more bytes are needed or nothing is left."""
        cdef Py_ssize_t offset = 0, known
        if self.pending is not None:
            known = len(self.pending)
            data = self.pending + data if data else self.pending
            self.pending = None
            if self.state == C_HEAD and not worth_scanning(data, len(data), known) \
                    and len(data) < self.runtime.settings.limits.head_bytes:
                self.pending = data  # a head that drips in costs no more for it
                return 0
        self.busy = True
        try:
            while offset < PyBytes_GET_SIZE(data) and self.x is None and self.state <= C_HEAD \
                    and not self.closed and not self.write_paused:
                offset = self._head(data, offset)
                if offset < 0:
                    return 0
        finally:
            self.busy = False
        if offset < PyBytes_GET_SIZE(data) and not self.closed and self.state != C_LINGER:
            self._stash(data, offset)
        return 0

    cdef Py_ssize_t _head(self, bytes data, Py_ssize_t offset) except -2:
        """One request at offset. Where the bytes after it begin, or -1 when there is nothing more to do."""
        cdef const char* base = PyBytes_AS_STRING(data)
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data), n
        cdef Exchange x
        cdef int skipped = 0
        while skipped < 2 and size - offset >= 2 and base[offset] == c"\r" and base[offset + 1] == c"\n":
            offset += 2  # empty lines before a request line are passed over (RFC 9112 section 2.2)
            skipped += 1
        if offset == size or (size - offset == 1 and base[offset] == c"\r"):
            self.pending = data[offset:] or None  # empty lines are no request: the deadline stays
            return -1
        x = self.runtime.acquire()
        n = scan_request(base + offset, size - offset, &self.runtime.settings.limits, &x.head)
        if n > 0:
            return self._start(x, data, offset, n)
        if n == NEED_MORE:
            self._wait_for_head(data, offset)
            return -1
        if n == UNUSUAL:
            return self._unusual(x, data, offset)
        self._refuse(x, data, offset, REFUSALS[n])
        return -1

    cdef Py_ssize_t _unusual(self, Exchange x, bytes data, Py_ssize_t offset) except -2:
        """What the scanner leaves to httptools: made canonical, then scanned like any other."""
        cdef Py_ssize_t end = find_head_end(PyBytes_AS_STRING(data), len(data), offset)
        cdef Py_ssize_t n
        if end < 0:
            if len(data) - offset < self.runtime.settings.limits.head_bytes:
                self._wait_for_head(data, offset)
            else:
                self._refuse(x, data, offset, "head_too_large")
            return -1
        try:
            head = canonical_request(data[offset:end])
        except Refused as refused:
            self._refuse(x, data, offset, refused.kind)
            return -1
        n = scan_request(PyBytes_AS_STRING(head), len(head), &self.runtime.settings.limits, &x.head)
        if n != len(head):
            self._refuse(x, head, 0, REFUSALS.get(n, "bad_start_line"))
            return -1
        return self._start_canonical(x, head, data, end)

    cdef Py_ssize_t _start_canonical(self, Exchange x, bytes head, bytes data, Py_ssize_t end) except -2:
        """Start a request whose head was rewritten; its body still lies behind `end` in data."""
        cdef bytes whole = head + data[end:]
        cdef Py_ssize_t rest = self._start(x, whole, 0, len(head))
        return rest if rest < 0 else rest - len(head) + end

    cdef Py_ssize_t _start(self, Exchange x, bytes data, Py_ssize_t offset, Py_ssize_t n) except -2:
        """A head was scanned: begin its exchange with what is there of the body."""
        cdef Runtime runtime = self.runtime
        cdef Head* head = &x.head
        cdef Py_ssize_t rest
        x.down = self
        x.data = data
        x.base = PyBytes_AS_STRING(data) + offset
        x.started = x.paced_from = monotonic_us()
        x.paced_bytes = n
        self.requests += 1
        self.keep = (
            not head.connection & C_CLOSE and (head.minor != 0 or head.connection & C_KEEP_ALIVE != 0)
            and self.requests < runtime.settings.requests_per_connection and not runtime.draining
        )
        offset += n
        if head.content_length > 0:
            rest = PyBytes_GET_SIZE(data) - offset
            if rest > head.content_length:
                rest = <Py_ssize_t>head.content_length
            x.body_owner = data
            x.body_start = PyBytes_AS_STRING(data) + offset
            x.body_size = rest
            x.body_left = head.content_length - rest
            offset += rest
            x.request_done = x.body_left == 0
        else:
            x.request_done = not head.chunked
        self.x = x
        if x.request_done:
            self.state = C_WAIT
            self.deadline = 0
        else:
            self.state = C_BODY
            self.deadline = x.started + runtime.settings.body_idle_us
        x.begin()
        if self.state == C_BODY and self.x is x and head.chunked and offset < PyBytes_GET_SIZE(data):
            offset = self._request_chunks(data, offset)
        if self.state == C_WAIT and self.x is x and x.up is None:
            self.deadline = x.total_deadline  # a Python handler or a connect: no upstream's deadline covers it
        return offset

    cdef int _wait_for_head(self, bytes data, Py_ssize_t offset) except -1:
        if self.state != C_HEAD:
            self.state = C_HEAD
            self.deadline = monotonic_us() + self.runtime.settings.head_us
        self.pending = data[offset:] if offset else data
        return 0

    cdef int _refuse(self, Exchange x, bytes data, Py_ssize_t offset, str kind) except -1:
        """Answer bytes that never became a request."""
        x.down = self
        x.data = data
        x.base = PyBytes_AS_STRING(data) + offset
        x.started = monotonic_us()
        x.plan = self.runtime.unrouted
        x.head.minor = 1
        if x.head.length == 0:
            memset(&x.head.host, 0, sizeof(x.head.host))
        self.runtime.worker[W_BAD_REQUESTS] += 1
        self.runtime.worker[W_REQUESTS_ACTIVE] += 1
        self.keep = False
        self.pending = None
        self.x = x
        self.state = C_BODY
        self.deadline = 0
        return x.fail(kind)

    cdef Py_ssize_t _request_body(self, bytes data, Py_ssize_t offset) except -2:
        """Body bytes from offset on. Where the bytes after the body begin."""
        cdef Exchange x = self.x
        cdef Slices slices
        cdef Py_ssize_t n
        cdef int64_t now = monotonic_us()
        if self._too_slow(x, now):
            return PyBytes_GET_SIZE(data)
        self.deadline = now + self.runtime.settings.body_idle_us
        if x.head.chunked:
            return self._request_chunks(data, offset)
        n = PyBytes_GET_SIZE(data) - offset
        if n > x.body_left:
            n = <Py_ssize_t>x.body_left
        x.body_left -= n
        clear_slices(&slices)
        add_slice(&slices, PyBytes_AS_STRING(data) + offset, n)
        x.take_body(&slices, data)
        if x.body_left == 0 and self.x is x:
            self._request_read(x)
        return offset + n

    cdef int _request_read(self, Exchange x) except -1:
        """The request is complete: what follows is the next one."""
        self.state = C_WAIT
        self.deadline = x.total_deadline if x.up is None else 0
        return x.end_body()

    cdef Py_ssize_t _request_chunks(self, bytes data, Py_ssize_t offset) except -2:
        cdef Exchange x = self.x
        cdef Slices slices, trailer
        cdef const char* p = PyBytes_AS_STRING(data) + offset
        cdef Py_ssize_t n = PyBytes_GET_SIZE(data) - offset
        cdef int event = C_DATA
        while event == C_DATA:
            clear_slices(&slices)
            clear_slices(&trailer)
            event = gather(&x.chunks, &p, &n, &slices, &trailer)
            if event == C_ERROR:
                x.fail("bad_chunk")
                return PyBytes_GET_SIZE(data)
            if trailer.count:
                x.request_trailers = (x.request_trailers or b"") + joined(&trailer)
            if slices.count:
                x.take_body(&slices, data)
            if self.x is not x:
                return PyBytes_GET_SIZE(data)
        if event == C_END:
            x.request_trailers = announced(x.request_trailers, x.base[x.head.trailer.start:x.head.trailer.end])
            self._request_read(x)
        return PyBytes_GET_SIZE(data) - n

    cdef int unhold(self, Exchange x) except -1:
        """Read on; the time it was held back is not the client's."""
        x.paced_from = monotonic_us()
        x.paced_bytes = x.bytes_in
        return self.resume()

    cdef bint _too_slow(self, Exchange x, int64_t now) except -1:
        """A body that takes longer than body_idle must come at body_rate bytes per second at least."""
        cdef int64_t elapsed = now - x.paced_from
        if elapsed > self.runtime.settings.body_idle_us and not self.read_paused:
            if (x.bytes_in - x.paced_bytes) * 1000000 < x.body_rate * elapsed:
                x.fail("request_timeout")
                return True
        return False

    cdef int _stash(self, bytes data, Py_ssize_t offset) except -1:
        """Keep what was sent ahead for when its turn comes."""
        rest = data[offset:] if offset else data
        self.pending = rest if self.pending is None else self.pending + rest
        if len(self.pending) > AHEAD_BYTES:
            self.pause()
        return 0

    # -- responses out ------------------------------------------------------------------------------------------------

    cdef char* _common_fields(self, Exchange x, char* out, bint keep) except NULL:
        """X-Request-Id and Connection."""
        cdef Py_ssize_t n = 0
        cdef const char* text = x.id_text(&n)
        memcpy(out, b"X-Request-Id: ", 14)
        memcpy(out + 14, text, n)
        out += 14 + n
        memcpy(out, b"\r\n", 2)
        out += 2
        if not keep:
            memcpy(out, b"Connection: close\r\n", 19)
            out += 19
        elif x.head.minor == 0:
            memcpy(out, b"Connection: keep-alive\r\n", 24)
            out += 24
        return out

    cdef char* _framing(self, Exchange x, char* out, int64_t length) noexcept:
        if x.framing == F_CHUNKED:
            memcpy(out, b"Transfer-Encoding: chunked\r\n", 28)
            return out + 28
        if x.framing == F_CLOSE:
            self.keep = False
        elif length >= 0 and x.status != 204:
            return out + snprintf(out, 48, b"Content-Length: %lld\r\n", <long long>length)
        return out

    cdef int relay_head(self, Exchange x, const char* base, Head* head) except -1:
        """Build the client's head from the upstream's; it goes out with the first body bytes, or flush()."""
        cdef bytes edits = b""
        cdef char* out
        cdef char* scratch
        cdef bytes via = x.plan.settings.via
        if head.connection & C_NAMES or x.response_edits is not None:
            edits = _edit_head(x, base, head)
            if edits is None:
                return x.fail("upstream_protocol")
        if x.last or not x.request_done:
            self.keep = False
        if x.response_lines is not None:
            edits += x.response_lines
        scratch = self.runtime.room(head.length + len(edits) + len(via) + 512)
        out = copy_fields(base, head, _shown_status(scratch, base, head, x))
        out = self._framing(x, out, x.body_length)
        if x.framing == F_CHUNKED and self._wants_trailers(x) and head.trailer.end > head.trailer.start:
            out = _field(out, b"Trailer: ", 9, base + head.trailer.start, head.trailer.end - head.trailer.start)
        if via:  # the version is that of the message received (RFC 9110 section 7.6.3)
            out = _field(out, b"Via: 1.1 " if head.minor else b"Via: 1.0 ", 9, PyBytes_AS_STRING(via), len(via))
        memcpy(out, PyBytes_AS_STRING(edits), len(edits))
        out = self._common_fields(x, out + len(edits), self.keep)
        memcpy(out, b"\r\n", 2)
        x.head_sent = True
        self.held = <int>(out + 2 - scratch)
        self.terminated = False
        x.bytes_out += self.held
        return 0

    cdef bint _wants_trailers(self, Exchange x) noexcept:
        return has_token(x.base + x.head.te.start, x.head.te.end - x.head.te.start, b"trailers", 8)

    cdef int answer_head(self, Exchange x, int status, object headers, int64_t length) except -1:
        """The head of an answer made here."""
        cdef bytes head
        cdef char* out
        cdef char* scratch
        lines, close = answer_lines(((b"Date", formatdate(usegmt=True).encode()), *headers), x.response_edits)
        if close or x.last or not x.request_done:
            self.keep = False
        head = status_line(status) + lines + (x.response_lines or b"")
        scratch = self.runtime.room(len(head) + 512)
        memcpy(scratch, PyBytes_AS_STRING(head), len(head))
        out = self._framing(x, scratch + len(head), length)
        out = self._common_fields(x, out, self.keep)
        memcpy(out, b"\r\n", 2)
        x.head_sent = True
        self.held = <int>(out + 2 - scratch)
        self.terminated = False
        x.bytes_out += self.held
        return 0

    cdef int body(self, Exchange x, Slices* slices, bytes owner) except -1:
        """Body bytes, framed; a head that is held goes out with them in one call."""
        cdef char prefix[20]
        cdef char* at
        cdef int first = 1, count = slices.count, digits
        if x.framing == F_NONE or count == 0:
            return 0
        x.bytes_out += slices.total
        if x.framing == F_CHUNKED:
            at = self.runtime.scratch + self.held if self.held else prefix
            digits = snprintf(at, 20, b"%zx\r\n", slices.total)
            slices.iov[count + 1].iov_base = <void*><const char*>(b"\r\n0\r\n\r\n" if slices.last else b"\r\n")
            slices.iov[count + 1].iov_len = 7 if slices.last else 2
            self.terminated = slices.last
            first = 0
            slices.iov[0].iov_base = self.runtime.scratch if self.held else prefix
            slices.iov[0].iov_len = self.held + digits
            count += 2
        elif self.held:
            first = 0
            slices.iov[0].iov_base = self.runtime.scratch
            slices.iov[0].iov_len = self.held
            count += 1
        self.held = 0
        return self.sendv(&slices.iov[first], count, owner)

    cdef int flush(self, Exchange x) except -1:
        """Send a head that was held for a body."""
        cdef int n = self.held
        self.held = 0
        return self.send(self.runtime.scratch, n) if n else 0

    cdef int end(self, Exchange x, bytes trailers) except -1:
        """The response is complete."""
        if x.tunnelling:
            return self.close()
        if x.framing == F_CHUNKED and not self.terminated:
            self.flush(x)
            tail = b"0\r\n"
            if trailers and self._wants_trailers(x):
                tail += trailers
            tail += b"\r\n"
            return self.send(PyBytes_AS_STRING(tail), len(tail))
        return self.flush(x)

    cdef int informational(self, Exchange x, const char* base, Head* head) except -1:
        """A 1xx head on its way through (RFC 9110 section 15.2)."""
        cdef char* scratch = self.runtime.room(head.length + 16)
        cdef char* out = copy_fields(base, head, _status_line(scratch, base, head))
        memcpy(out, b"\r\n", 2)
        return self.send(scratch, out + 2 - scratch)

    cdef int proceed(self, Exchange x) except -1:
        """The body is wanted (RFC 9110 section 10.1.1)."""
        return self.send(b"HTTP/1.1 100 Continue\r\n\r\n", 25) if x.head.minor == 1 else 0

    cdef int cut(self, Exchange x) except -1:
        """The response cannot be completed: the client must see that it was not."""
        self.held = 0
        self.keep = False
        if x.framing != F_CLOSE:
            return self.close()
        if self.fd >= 0:
            reset_on_close(self.fd)
        return self.abort()

    cdef bint withdraw(self, Exchange x) except -1:
        """Take back a head that is still held: the client has seen nothing of the response. False: it has."""
        if self.held == 0:
            return False
        x.bytes_out -= self.held
        x.head_sent = False
        self.held = 0
        return True

    cdef int ended(self, Exchange x) except -1:
        """The exchange is over: next request, or the end of the connection."""
        cdef bint more
        self.x = None
        self.held = 0
        if x.tunnelling:
            self.runtime.worker[W_TUNNELS_OPEN] -= 1
        if self.closed:
            self.deadline = monotonic_us() + self.runtime.settings.write_idle_us
            return 0
        if not x.request_done or not self.keep:
            more = not x.request_done or self.pending is not None or (x.last and not x.tunnelling)  # may be coming
            return self._linger() if more else self._close_soon()
        self.state = C_IDLE
        if self.write_paused:  # whoever does not read gets no more answers: memory stays bounded
            return 0
        self.deadline = x.answered + self.runtime.settings.idle_us if x.answered else \
            monotonic_us() + self.runtime.settings.idle_us
        if self.read_paused:
            self.resume()
        if self.pending is not None and not self.busy:
            self._heads(b"")
        return 0

    cdef int _next(self) except -1:
        """The client reads again and nothing is under way: on with what it sent meanwhile."""
        if self.state > C_HEAD or self.closed:
            return 0
        self.deadline = monotonic_us() + (
            self.runtime.settings.idle_us if self.state == C_IDLE else self.runtime.settings.head_us)
        self.resume()
        if self.pending is not None:
            self._heads(b"")
        return 0

    cdef int _close_soon(self) except -1:
        """Close once written; a client that does not read is given write_idle."""
        self.close()
        self.unsent = self._unsent()
        self.deadline = monotonic_us() + self.runtime.settings.write_idle_us
        return 0

    cdef int _linger(self) except -1:
        """Say that nothing more will come, but take what the client still sends: a reset would destroy the answer."""
        self.state = C_LINGER
        self.pending = None
        self.unsent = self._unsent()
        self.deadline = monotonic_us() + LINGER_US
        if self.transport.can_write_eof():
            self.say_end()
            self.transport.write_eof()
            self.fd = -1
            self.resume()
            return 0
        return self.close()

    cdef int tunnel(self, Exchange x, const char* base, Head* head) except -1:
        """Pass on the 101 and stop speaking HTTP."""
        cdef bytes edits = b"", ahead
        cdef char* scratch
        cdef char* out
        cdef Py_ssize_t n
        if head.connection & C_NAMES or x.response_edits is not None:
            edits = _edit_head(x, base, head)
            if edits is None:
                return x.fail("upstream_protocol")
        scratch = self.runtime.room(head.length + len(edits) + 512)
        out = copy_fields(base, head, _status_line(scratch, base, head))
        memcpy(out, b"Upgrade: websocket\r\nConnection: Upgrade\r\n", 41)
        memcpy(out + 41, PyBytes_AS_STRING(edits), len(edits))
        out = self._common_fields(x, out + 41 + len(edits), True)
        memcpy(out, b"\r\n", 2)
        n = out + 2 - scratch
        x.tunnelling = True
        x.head_sent = True
        x.bytes_out += n
        self.keep = False
        self.state = C_TUNNEL
        self.deadline = 0
        self.runtime.worker[W_TUNNELS_OPEN] += 1
        self.send(scratch, n)
        ahead, self.pending = self.pending, None
        if ahead is not None:
            x.bytes_in += len(ahead)
            x.up.tunnel_bytes(x, ahead, PyBytes_AS_STRING(ahead), len(ahead))
        if not x.up.write_paused:
            self.resume()
        return 0

    cdef int tunnel_bytes(self, Exchange x, bytes owner, const char* p, Py_ssize_t n) except -1:
        x.bytes_out += n
        return self.send_bytes(owner, p, n)

    def ends(self):
        """Address and port of the client and of what it connected to, for a PROXY header to a backend."""
        here = self.destination
        if here is None and self.local_port:
            name = self.transport.get_extra_info("sockname")
            here = (name[0].partition("%")[0].encode(), name[1])
        return (self.peer[:self.peer_size], self.peer_port), here or (b"unknown", 0)

    cdef const char* address(self, Py_ssize_t* n) noexcept:
        n[0] = self.peer_size
        return self.peer

    # -- drain --------------------------------------------------------------------------------------------------------

    def drain(self):
        """The process is stopping: end now if idle, else after the request under way."""
        if self.state == C_IDLE:
            self._close_soon()
        else:
            self.keep = False

    def kill(self):
        """The drain deadline passed."""
        if self.x is not None and self.x.joined != NULL:
            self.x.part(0)
        else:
            self.abort()

    cdef int dismiss(self, bint gently) except -1:
        """An operator ends the connection: a request under way fails, or with `gently` may be answered first."""
        cdef Exchange x = self.x
        if x is None and (self.closed or self.state == C_LINGER):
            return 0 if gently else self.abort()
        if x is None:
            return self.abort() if self.write_paused or self._handshaking() else self._close_soon()
        if gently:
            self.keep = False
            return 0
        if x.joined != NULL:
            x.flag = b"LR"
            x.detail = b"closed_by_operator"
            return x.part(0)
        x.fail("closed_by_operator")
        return self.abort() if self.write_paused else 0

    @property
    def idle(self):
        return self.state == C_IDLE

    def __repr__(self):
        state = ("idle", "head", "body", "wait", "tunnel", "linger")[self.state]
        return f"<ClientConnection {self.peer[:self.peer_size].decode()} {'closed' if self.closed else state}>"


cdef int _failure(str reason):
    """The cell in which a failed handshake is counted, by OpenSSL's words for it."""
    if reason.startswith("certificate verify failed") or reason == "peer did not return a certificate":
        return W_TLS_CLIENT_CERTIFICATE
    if "alert" in reason:
        return W_TLS_REJECTED
    return W_TLS_UNKNOWN_NAME if reason == UNKNOWN_NAME else W_TLS_PROTOCOL


cdef bytes _edit_head(Exchange x, const char* base, Head* head):
    """Cut what Connection names and what filters edit; the lines these add. None: the head cannot be taken apart."""
    cdef bytes names, lines = b""
    if head.connection & C_NAMES and cut_named(base, head, NULL, 0, RESPONSE) < 0:
        return None
    if x.response_edits is not None:
        names, lines = edit_lines(x.response_edits)
        if cut_named(base, head, names, len(names), RESPONSE) < 0:
            return None
    return lines


cdef char* _shown_status(char* out, const char* base, const Head* head, Exchange x) except NULL:
    """The status line, with another status where a filter wants one."""
    cdef bytes line
    if x.status == head.status:
        return _status_line(out, base, head)
    line = status_line(x.status)
    memcpy(out, PyBytes_AS_STRING(line), len(line))
    return out + len(line)


cdef char* _status_line(char* out, const char* base, const Head* head) noexcept nogil:
    """As received but for the version; the blank is due without a reason too (RFC 9112 section 4)."""
    cdef Py_ssize_t n = head.reason.end if head.reason.end else 12
    memcpy(out, b"HTTP/1.1", 8)
    memcpy(out + 8, base + 8, n - 8)
    if n == 12:
        out[n] = c" "
        n += 1
    memcpy(out + n, b"\r\n", 2)
    return out + n + 2


cdef char* _field(char* out, const char* name, Py_ssize_t n, const char* value, Py_ssize_t m) noexcept nogil:
    memcpy(out, name, n)
    memcpy(out + n, value, m)
    memcpy(out + n + m, b"\r\n", 2)
    return out + n + m + 2
