"""HTTP/1.1 towards an origin, and the pool of its idle connections.

Rules here: a response's framing is decided once, from a head as strictly scanned as a request's; a connection is used
again only when its request was sent whole and its response ended exactly where it should, with not a byte to spare.
"""

from functools import partial

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t
from libc.stdio cimport snprintf
from libc.string cimport memset

from kairos._speedups.breaker cimport FAILURE, NO_VERDICT, SUCCESS
from kairos._speedups.cells cimport (
    P_HEDGE_WINS, Page, U_CELLS, U_CONNECT_FAILURES, U_CONNECTIONS_IDLE, U_CONNECTIONS_OPEN, U_CONNECTS, U_REUSES,
)
from kairos._speedups.hashing cimport next_random
from kairos._speedups.http1 cimport (
    C_CLOSE, C_DATA, C_END, C_ERROR, C_KEEP_ALIVE, C_UPGRADE, Chunks, Head, NEED_MORE,
    has_token, scan_response, worth_scanning,
)
from kairos.proxy.edits cimport edit_lines
from kairos.proxy.exchange cimport Exchange, Runtime, Slices, Target, add_slice, clear_slices, gather, joined
from kairos.proxy.upstream.attempt cimport account, leave, tell
from kairos.proxy.wire cimport iovec, monotonic_us, readable, receive

from kairos.proxy.trailers import announced, unedited
from kairos.proxy.proxy_protocol import write as write_proxy
from kairos.proxy.upstream.dial import DialError, dial
from kairos.telemetry.log import get_logger

log = get_logger("upstream")

cdef enum:
    U_IDLE = 0                  # in the pool, or not yet given out
    U_HEAD = 1                  # request under way, response head awaited
    U_BODY = 2
    U_TUNNEL = 3
    U_DONE = 4                  # to be used no more
    REST_BYTES = 65536
    STALE_US = 1000000          # a pooled connection that breaks later was not dead before, its origin worked on it


cdef class Origin:
    """Made by snapshot.py, kept over reloads by its key."""

    def __init__(self, Runtime runtime, address, tls, server_name, keepalive, Page page, Py_ssize_t row,
                 int announce=0):
        self.runtime = runtime
        self.address = address
        self.authority = address.authority
        self.tls = tls
        self.server_name = server_name
        self.announce = announce
        self.idle = []
        self.row = page.at(row, U_CELLS)
        self.configure(keepalive)

    def configure(self, keepalive):
        """Take a new snapshot's keep-alive settings."""
        self.idle_us = int(keepalive.idle * 1e6)
        self.max_idle = keepalive.connections
        self.max_requests = keepalive.requests
        self.age_us = int(keepalive.age * 1e6)
        self.retired = False

    def retire(self):
        """No snapshot names it any more: idle connections close now, busy ones when they are done."""
        self.retired = True
        for connection in self.idle[:]:
            (<UpstreamConnection>connection).close()

    @property
    def idle_connections(self):
        return len(self.idle)

    cdef UpstreamConnection take(self, bint looked_at):
        """An idle connection, or None. Looked at: not one that the kernel knows to be closed before the loop does.

        Under TLS the kernel's view says nothing.
        """
        cdef UpstreamConnection connection
        while self.idle:
            connection = <UpstreamConnection>self.idle.pop()
            self.row[U_CONNECTIONS_IDLE] -= 1
            if looked_at and connection.fd >= 0 and readable(connection.fd):
                connection.abort()
            if not connection.closed:
                self.row[U_REUSES] += 1
                return connection
        return None

    cdef int connect(self, Exchange x, Target target, bint trial) except -1:
        """Open a connection for an attempt of x; the handler hears of a failure, or its exchange goes on."""
        x.task = self.runtime.clock.loop.create_task(dial(self, x.plan.connect_us / 1e6, self._preamble(x)))
        x.task.add_done_callback(partial(self._dialled, x, target, trial))
        return 0

    cdef bytes _preamble(self, Exchange x):
        """The PROXY header of a connection made for x, where the backend wants one."""
        return write_proxy(self.announce, *x.down.ends()) if self.announce else b""

    def _dialled(self, Exchange x, Target target, bint trial, task):
        """The dial ended, one way or another: also for an exchange that is over by now, or has its answer."""
        x.task = None
        x.hedging = False
        error = None if task.cancelled() else task.exception()
        if error is not None:
            self.row[U_CONNECT_FAILURES] += 1
            if not self.unreachable:  # once for an outage, not for each request
                log.warning("upstream cannot be reached", upstream=self.address.key, error=str(error))
            self.unreachable = True
        elif not task.cancelled():
            self.unreachable = False
        if x.finished or x.answered:
            leave(x, target, trial, NO_VERDICT, -1)
            if error is None and not task.cancelled():
                (<UpstreamConnection>task.result()).give_back(monotonic_us())
        elif isinstance(error, DialError):
            x.plan.handler.upstream_failed(x, target, trial, error.kind, False)
        elif error is not None:
            leave(x, target, trial, NO_VERDICT, -1)
            x._crashed(error)
        elif (<UpstreamConnection>task.result()).closed:  # lost since: nobody would hear of an attempt on it
            x.plan.handler.upstream_failed(x, target, trial, "connect_failed", False)
        else:
            x.plan.handler.upstream_connected(x, target, trial, <UpstreamConnection>task.result())

    def protocol(self):
        """A new connection for dial() to attach to a transport."""
        cdef UpstreamConnection connection = UpstreamConnection.__new__(UpstreamConnection)
        connection.origin = self
        connection.keep = True
        return connection


@cython.final
cdef class UpstreamConnection(Upstream):
    """One connection; serves one exchange at a time."""

    # -- asyncio protocol ---------------------------------------------------------------------------------------------

    def connection_made(self, transport):
        self.attach(transport, self.origin.runtime.clock, self.origin.tls is None)
        self.origin.row[U_CONNECTIONS_OPEN] += 1
        self.origin.row[U_CONNECTS] += 1
        self.retires = monotonic_us() + self.origin.age_us - self._jitter(self.origin.age_us)

    def spare(self):
        """It was opened for a request that is over: the pool may have it."""
        self.give_back(monotonic_us())

    def data_received(self, bytes data):
        cdef Exchange x = self.x
        if x is None:
            self.abort()  # bytes nobody asked for: whatever they are, the next response would begin with them
            return
        if self.state == U_BODY:
            self.at_once = False
            self._body(data, 0)
        elif self.state == U_HEAD:
            self._heads(data)
        elif self.state == U_TUNNEL:
            self.deadline = monotonic_us() + x.plan.tunnel_idle_us
            x.down.tunnel_bytes(x, data, PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    def eof_received(self):
        if self.x is None:
            self.closed = True  # connection_lost() follows in the next turn; until then nobody may take it
        if self.state == U_BODY and self.until_close and self.x is not None:
            self.keep = False
            self._complete()

    def connection_lost(self, error):
        cdef bint was_attached = self.after is not None  # on the clock
        if error is not None and self.x is not None and self.state != U_TUNNEL:
            self._read_rest()
        self.detach()
        if was_attached:
            self.origin.row[U_CONNECTIONS_OPEN] -= 1
        if self.x is not None:
            if self.state == U_TUNNEL:
                self.x.down.end(self.x, None)
                self.x.finish()
            else:
                self._broken("upstream_reset")
        elif self in self.origin.idle:
            self.origin.idle.remove(self)
            self.origin.row[U_CONNECTIONS_IDLE] -= 1

    cdef int _read_rest(self) except -1:
        """Writing failed: what the origin answered before it hung up is still to be read (RFC 9112 section 9.5)."""
        cdef Py_ssize_t n
        while self.x is not None and self.fd >= 0:
            piece = PyBytes_FromStringAndSize(NULL, REST_BYTES)
            n = receive(self.fd, PyBytes_AS_STRING(piece), REST_BYTES)
            if n <= 0:
                break
            self.data_received(piece[:n])
        return 0

    cdef int on_deadline(self, int64_t now) except -1:
        cdef Exchange x = self.x
        if self.closed or x is None:
            return self.abort()
        if self.state == U_TUNNEL:
            if x.joined != NULL:
                return x.part(now)
            x.down.end(x, None)
            return x.finish()
        if x.total_deadline and now >= x.total_deadline:
            return x.fail("total_timeout")
        if self.state == U_HEAD and not x.request_done and not self.write_paused:
            return self._arm_request(x, now)  # it has all that came: we both wait for the client, whose own time runs
        return self._broken("upstream_timeout")

    cdef int on_broken_pipe(self) except -1:
        """The origin takes no more, but what it answered before it hung up is still to be read (RFC 9112 9.5)."""
        self.mute = True
        return 0

    cdef int on_congested(self) except -1:
        if self.x is not None:
            self.x.down.hold(self.x)
        return 0

    cdef int on_drained(self) except -1:
        if self.x is not None:
            self.x.down.unhold(self.x)
        return 0

    # -- request ------------------------------------------------------------------------------------------------------

    cdef int begin(self, Exchange x, Target target, bint trial, int64_t now, const char* head, Py_ssize_t n) except -1:
        """Send the request head (scratch) and what is there of the body. Beside an attempt under way it is a hedge."""
        cdef iovec iov[2]
        self.x = x
        if x.up is None:
            x.up = self
            x.target = target
        else:
            x.rival = self
        self.target = target
        self.trial = trial
        self.told = NO_VERDICT
        self.parted = False
        self.sent = now
        self.answered = 0
        self.state = U_HEAD
        self.requests += 1
        self.answering = False
        self.informational = 0
        self.relayed = False
        x.attempts += 1
        iov[0].iov_base = <void*>head
        iov[0].iov_len = n
        if x.body_size:
            iov[1].iov_base = <void*>x.body_start
            iov[1].iov_len = x.body_size
            self.sendv(iov, 2, x.body_owner)
        else:
            self.send(head, n)
        if self.x is not x:
            return 0
        if x.request_done and not x.inbox and not x.sends_chunks():
            return self._sent(x)
        return self._pass_inbox(x)

    cdef int _sent(self, Exchange x) except -1:
        """The request is out: the upstream's time begins to run."""
        return self._arm(x, x.plan.first_byte_us, self.sent)

    cdef int _arm(self, Exchange x, int64_t wait, int64_t now) except -1:
        self.deadline = now + wait
        if x.total_deadline and x.total_deadline < self.deadline:
            self.deadline = x.total_deadline
        return 0

    cdef int _pass_inbox(self, Exchange x) except -1:
        """Body bytes that came while there was no connection."""
        cdef Slices slices
        cdef bytes piece
        self._arm(x, x.plan.first_byte_us, self.sent)
        pieces, x.inbox = x.inbox or (), None
        x.inbox_bytes = 0
        for piece in pieces:
            clear_slices(&slices)
            add_slice(&slices, PyBytes_AS_STRING(piece), len(piece))
            if not x.body_lost:
                x._pass_body(&slices)
            if self.x is x:
                self.request_body(x, &slices, piece)
        if self.x is x and not self.write_paused:
            x.down.unhold(x)
        if self.x is x and x.request_done:
            self.request_end(x, x.request_trailers)
        return 0

    cdef int request_body(self, Exchange x, Slices* slices, bytes owner) except -1:
        cdef char prefix[20]
        cdef int first = 1, count = slices.count
        if count == 0:
            return 0
        if x.sends_chunks():
            first = 0
            slices.iov[0].iov_base = prefix
            slices.iov[0].iov_len = snprintf(prefix, 20, b"%zx\r\n", slices.total)
            slices.iov[count + 1].iov_base = <void*><const char*>b"\r\n"
            slices.iov[count + 1].iov_len = 2
            count += 2
        self._arm_request(x, monotonic_us())
        return self.sendv(&slices.iov[first], count, owner)

    cdef int request_end(self, Exchange x, bytes trailers) except -1:
        if x.sends_chunks():
            if trailers and x.request_edits is not None:
                trailers = unedited(trailers, edit_lines(x.request_edits)[0])
            tail = b"0\r\n" + (trailers or b"") + b"\r\n"
            self.send(PyBytes_AS_STRING(tail), len(tail))
        if self.x is x:
            self.sent = monotonic_us()
            if x.attempts == 1:
                x.sent = self.sent
            self._arm_request(x, self.sent)
        return 0

    cdef int _arm_request(self, Exchange x, int64_t now) except -1:
        """The request moves on; where the response began already, its own clock starts again."""
        return self._arm(x, x.plan.first_byte_us, now) if self.state == U_HEAD else self._arm_body(x, now)

    # -- response -----------------------------------------------------------------------------------------------------

    cdef int _heads(self, bytes data) except -1:
        """1xx heads and the final one."""
        cdef Exchange x = self.x
        cdef Py_ssize_t offset = 0, n
        cdef const char* base
        self.answering = True
        if self.pending is not None:
            n = len(self.pending)
            data = self.pending + data
            self.pending = None
            if not worth_scanning(data, len(data), n) and len(data) < x.plan.settings.limits.head_bytes:
                self.pending = data
                return 0
        base = PyBytes_AS_STRING(data)
        while True:
            n = scan_response(base + offset, len(data) - offset, &x.plan.settings.limits, &self.head)
            if n == NEED_MORE:
                self.pending = data[offset:] if offset else data
                return 0
            if n < 0:
                return self._broken("upstream_protocol")
            if self.head.status >= 200:
                return self._respond(data, offset)
            if self.head.status == 101:
                return self._switch(data, offset)
            if self._informational(base + offset) < 0 or self.x is not x:
                return 0
            offset += n
            if offset == len(data):
                return 0

    cdef int _informational(self, const char* base) except -1:
        """100 was answered at the edge already; others go on to clients that know them."""
        cdef Exchange x = self.x
        self.informational += 1
        if self.informational > x.plan.settings.max_informational:
            self._broken("upstream_protocol")
            return 0
        if self.head.status != 100 and x.head.minor == 1 and x.rival is None and not x.hedging:
            self.relayed = True
            x.down.informational(x, base, &self.head)
        return 0

    cdef int _switch(self, bytes data, Py_ssize_t offset) except -1:
        """101: only where a handshake was sent, and only to what it asked for (RFC 9110 section 7.8)."""
        cdef Exchange x = self.x
        cdef const char* base = PyBytes_AS_STRING(data) + offset
        cdef Py_ssize_t rest = len(data) - offset - self.head.length
        cdef Head* head = &self.head
        if not x.upgrading or not head.connection & C_UPGRADE or not has_token(
            base + head.upgrade.start, head.upgrade.end - head.upgrade.start, b"websocket", 9
        ):
            return self._broken("upstream_protocol")
        self.state = U_TUNNEL
        self.keep = False
        self.answered = x.answered = monotonic_us()
        self.told = SUCCESS  # it may stay open for hours
        tell(x, self.target, self.trial, SUCCESS)
        x.upstream_us = x.answered - x.sent
        x.set_upstream_head(base, head)
        if self.x is not x:
            return 0
        self.deadline = x.answered + x.plan.tunnel_idle_us
        x.down.tunnel(x, base, head)
        if rest > 0 and self.x is x:
            x.down.tunnel_bytes(x, data, base + head.length, rest)
        return x.join_ends() if self.x is x else 0

    cdef int _respond(self, bytes data, Py_ssize_t offset) except -1:
        """The final head is here: frame the body, pass both on."""
        cdef Exchange x = self.x
        cdef Head* head = &self.head
        cdef int64_t now = monotonic_us()
        self.answered = now
        if (x.rival is not None or x.hedging) and not self.wins(x):
            return 0
        x.answered = now
        self.state = U_BODY
        self.until_close = False
        self.at_once = True
        self.keep = (
            x.request_done  # an answer before the request's end: what comes of the rest of it, nobody knows
            and not head.connection & C_CLOSE and (head.minor != 0 or head.connection & C_KEEP_ALIVE != 0)
        )
        self.remaining = 0
        self.trailers = None
        self.trailer = None
        if x.head.method == 1 or head.status == 204 or head.status == 304:  # HEAD
            pass
        elif head.chunked:
            memset(&self.chunks, 0, sizeof(Chunks))
            self.remaining = -1
            if head.trailer.end > head.trailer.start:
                self.trailer = data[offset + head.trailer.start:offset + head.trailer.end]
        elif head.content_length >= 0:
            self.remaining = head.content_length
        else:
            self.until_close = True
            self.keep = False
            self.remaining = -1
        if self.remaining == 0 and len(data) > offset + head.length:
            self.keep = False  # surplus bytes
        if x.plan.policy.retries(head.status) and not self.relayed and self._declined(x, data, offset):
            return 0
        x.set_upstream_head(PyBytes_AS_STRING(data) + offset, head)
        if self.x is not x:
            return 0
        x.down.relay_head(x, PyBytes_AS_STRING(data) + offset, head)
        if self.x is not x:
            return 0
        if self._is_event_stream(PyBytes_AS_STRING(data) + offset):
            x.event_stream = True
            x.total_deadline = 0
            x.failure = None
            self.told = FAILURE if x.plan.policy.fails(head.status) else SUCCESS
            tell(x, self.target, self.trial, self.told)
        self._arm_body(x, now)
        return self._body(data, offset + head.length)

    cdef bint _is_event_stream(self, const char* base) noexcept:
        cdef Head* head = &self.head
        return has_token(base + head.content_type.start,
                         17 if head.content_type.end - head.content_type.start > 17
                         else head.content_type.end - head.content_type.start, b"text/event-stream", 17)

    cdef int _body(self, bytes data, Py_ssize_t offset) except -1:
        cdef Exchange x = self.x
        cdef Slices slices
        cdef Py_ssize_t n = len(data) - offset
        if self.remaining < 0 and not self.until_close:
            return self._chunked(data, offset)
        if not self.until_close and n > self.remaining:
            n = <Py_ssize_t>self.remaining
            self.keep = False  # surplus bytes
        clear_slices(&slices)
        if n > 0:
            add_slice(&slices, PyBytes_AS_STRING(data) + offset, n)
            if not self.until_close:
                self.remaining -= n
                if self.remaining == 0:
                    slices.last = True
                    self._over(x)
            x.send_body(&slices, data)
            if self.x is not x:
                return 0
        if self.remaining == 0 and not self.until_close:
            return self._complete()
        if n == 0 or offset:
            x.down.flush(x)
        if offset == 0 and not self.read_paused:
            self._arm_body(x, monotonic_us())
        return 0

    cdef int _arm_body(self, Exchange x, int64_t now) except -1:
        """The body moves on: the idle clock starts again."""
        return self._arm(x, x.plan.tunnel_idle_us if x.event_stream else x.plan.read_idle_us, now)

    cdef int _chunked(self, bytes data, Py_ssize_t offset) except -1:
        cdef Exchange x = self.x
        cdef Slices slices, trailer
        cdef const char* p = PyBytes_AS_STRING(data) + offset
        cdef Py_ssize_t n = len(data) - offset
        cdef int event = C_DATA
        while event == C_DATA:
            clear_slices(&slices)
            clear_slices(&trailer)
            event = gather(&self.chunks, &p, &n, &slices, &trailer)
            if event == C_ERROR:
                return x.fail("upstream_protocol")
            if trailer.count:
                self.trailers = (self.trailers or b"") + joined(&trailer)
            if event == C_END:
                self.keep = self.keep and n == 0
                if self.trailers is not None:
                    self.trailers = announced(self.trailers, self.trailer)
                slices.last = self.trailers is None
                self._over(x)
            if slices.count:
                x.send_body(&slices, data)
                if self.x is not x:
                    return 0
        if event == C_END:
            return self._complete()
        x.down.flush(x)
        if not self.read_paused:
            self._arm_body(x, monotonic_us())
        return 0

    cdef int _complete(self) except -1:
        """The response ended where it should."""
        cdef Exchange x = self.x
        x.upstream_us = (x.answered if self.at_once else monotonic_us()) - x.sent
        self._over(x)
        x.send_end(self.trailers)
        return x.finish()

    cdef int _broken(self, str kind) except -1:
        """The connection is of no more use, and x was not done."""
        cdef Exchange x = self.x
        cdef bint stale = (
            self.reused and not self.answering and kind == "upstream_reset"
            and monotonic_us() - self.sent < STALE_US
        )
        if self.state != U_HEAD or self.relayed:
            return x.fail(kind)
        if x.rival is not None:
            x.failure = kind
            return self._stand_down(x, NO_VERDICT if stale else FAILURE)
        self.x = None
        x.up = None
        self.state = U_DONE
        if not self.closed:
            self.abort()
        return x.plan.handler.upstream_failed(x, self.target, self.trial, kind, stale)

    # -- two attempts at once -----------------------------------------------------------------------------------------

    cdef bint wins(self, Exchange x) except -1:
        """Of an attempt and its hedge, the first good answer is the one; False: the other one is left to go on.

        There is no other connection yet while the hedge is dialled.
        """
        cdef UpstreamConnection other = <UpstreamConnection>(x.rival if x.up is self else x.up)
        if x.plan.policy.fails(self.head.status) or x.plan.policy.retries(self.head.status):
            x.failure = f"status_{self.head.status}"
            self._stand_down(x, FAILURE if x.plan.policy.fails(self.head.status) else SUCCESS)
            return False
        if x.rival is self:
            self.target.pair[P_HEDGE_WINS] += 1
        x.up = self
        x.rival = None
        x.target = self.target
        if other is not None:
            other.lose(x)
        return True

    cdef int lose(self, Exchange x) except -1:
        """The other one was first. The breaker learns nothing from it, but balancers that this one takes longer."""
        self.x = None
        self.state = U_DONE
        account(x, self.target, SUCCESS, monotonic_us() - self.sent)
        tell(x, self.target, self.trial, NO_VERDICT)
        return self.abort()

    cdef int _stand_down(self, Exchange x, int outcome) except -1:
        """This one of the two has failed."""
        cdef UpstreamConnection other = <UpstreamConnection>(x.rival if x.up is self else x.up)
        x.up = other
        x.rival = None
        if other is not None:
            x.target = other.target
        else:
            x.down.deadline = x.total_deadline  # until the hedge is connected, no upstream's covers x
        return self.cancel(x, outcome)

    cdef bint _declined(self, Exchange x, bytes data, Py_ssize_t offset) except -1:
        """Whether the answer is dropped and the request made once more. One that is here whole leaves a connection."""
        cdef Head* head = &self.head
        cdef int outcome = FAILURE if x.plan.policy.fails(head.status) else SUCCESS
        if not x.plan.handler.upstream_declined(x, self.target, PyBytes_AS_STRING(data) + offset, head):
            return False
        x.up = None
        x.answered = 0
        self.keep = self.keep and self.remaining == len(data) - offset - head.length
        self.x = None
        self._part(x, outcome)
        self.give_back(self.answered)
        return True

    # -- the end ------------------------------------------------------------------------------------------------------

    cdef int _over(self, Exchange x) except -1:
        """All of the response is here. Slot and breaker are told before the client, who may ask any worker next."""
        if self.parted:
            return 0
        x.failure = None  # of an attempt before this one
        return self._part(x, FAILURE if x.plan.policy.fails(x.upstream_status) else SUCCESS)

    cdef int _part(self, Exchange x, int outcome) except -1:
        """The attempt is over. Of one whose breaker was told at its beginning, it hears only if it was cut."""
        cdef int64_t us = self.answered - self.sent if self.answered else -1
        if self.parted:
            return 0
        self.parted = True
        if self.told == NO_VERDICT:
            return leave(x, self.target, self.trial, outcome, us)
        account(x, self.target, outcome, us)
        return tell(x, self.target, False, FAILURE) if outcome == FAILURE and self.told == SUCCESS else 0

    cdef int cancel(self, Exchange x, int outcome) except -1:
        """Nobody wants the response any more. Where all of it is here, the connection is as good as before."""
        self.x = None
        if self.state == U_BODY and self.remaining == 0 and not self.until_close:
            self._part(x, outcome)
            return self.give_back(self.answered)
        self.state = U_DONE
        self._part(x, outcome)
        return self.abort()

    cdef int release(self, Exchange x) except -1:
        """The exchange is over: back to the pool, or close."""
        self.x = None
        self._over(x)
        if x.tunnelling:
            self.deadline = monotonic_us() + x.plan.settings.write_idle_us  # for what is still to be written
        return self.give_back(x.answered)

    cdef int give_back(self, int64_t now) except -1:
        """To the pool, where it may serve another exchange and there is room; else close."""
        cdef Origin origin = self.origin
        self.target = None
        if (
            not self.keep or self.closed or origin.retired or self.read_paused
            or origin.announce  # what was announced as a client's is nobody else's
            or (self.queued and self.transport.get_write_buffer_size() != 0)
            or self.requests >= origin.max_requests or now >= self.retires or len(origin.idle) >= origin.max_idle
            or origin.runtime.draining
        ):
            self.state = U_DONE
            return self.close()
        self.state = U_IDLE
        self.reused = True
        self.deadline = min(now + origin.idle_us - self._jitter(origin.idle_us), self.retires)
        origin.idle.append(self)
        origin.row[U_CONNECTIONS_IDLE] += 1
        return 0

    cdef int64_t _jitter(self, int64_t us) noexcept:
        """Up to a tenth of it: connections that were opened together are not closed together."""
        return <int64_t>(next_random(&self.origin.runtime.random) % <uint64_t>(us // 10 + 1))

    cdef int tunnel_bytes(self, Exchange x, bytes owner, const char* p, Py_ssize_t n) except -1:
        self.deadline = monotonic_us() + x.plan.tunnel_idle_us
        return self.send_bytes(owner, p, n)
