"""One request and its response: routed, filtered, handled, accounted for.

    begin -> route -> filters -> handler -> (upstream) -> filters back -> finish

Rules here: the head stays the bytes that were read, nothing is made an object unless somebody asks; a failure is a row
of errors.KINDS; finish() runs exactly once, on every path, and nothing else counts or logs.
"""

import asyncio

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_Free, PyMem_Malloc
from libc.stdint cimport int32_t, int64_t, uint64_t
from libc.string cimport memchr, memcpy, memset

from kairos._speedups.breaker cimport FAILURE, NO_VERDICT, SUCCESS, blocked
from kairos._speedups.cells cimport (
    CLASSES, P_CELLS, P_CONNECT_ERRORS, P_TIMEOUTS, Page, R_BYTES_IN, R_BYTES_OUT, R_CELLS, R_EXTRA_ACTIVE,
    R_GATEWAY, R_SHED, R_TOTAL, R_UPSTREAM, SU_CELLS, SU_OUT, SU_SKIP_UNTIL_US, SU_WEIGHT, U_CELLS, W_CELLS,
    W_REQUESTS_ACTIVE, W_REQUESTS_PEAK, W_REQUESTS_UNROUTED, atomic_load, observe, status_class,
)
from kairos._speedups.hashing cimport next_random
from kairos._speedups.http1 cimport (
    C_DATA, C_MORE, C_TRAILER, C_UPGRADE, Chunks, GET, Head, Limits, O_HOST, O_METHOD, O_PATH, O_SCHEME, OPTIONS, OTHER,
    RESPONSE, Span, chunk_step, cut_named, equals, has_token, next_field, scan_response,
)
from kairos._speedups.routes cimport FOUND, METHOD_NOT_ALLOWED, OPTIONS_ANSWER, REDIRECT
from kairos._speedups.target cimport BAD_HOST, check_query, normalize_host, normalize_path, problem, SAME
from kairos._speedups.tls cimport TlsSession
from kairos.proxy.edits cimport Edits, edit_lines
from kairos.proxy.wire cimport Wire, monotonic_us, unix_us
from kairos.telemetry.accesslog cimport AccessRecord, Text

from kairos.proxy.errors import KINDS, render
from kairos.proxy.edits import addition, edit, edited_values
from kairos.proxy.fields import REQUEST_OWN, RESPONSE_OWN, check_target
from kairos.proxy.reasons import status_line
from kairos.telemetry.accesslog import json_text, tls_fields

cdef extern from *:
    """
    /* In a sanitizer build, scratch ends where it was asked to: writing behind it is reported like any overflow. */
    #ifdef __SANITIZE_ADDRESS__
    #include <sanitizer/asan_interface.h>
    static void kairos_bound(const char *p, size_t n, size_t size) {
        __asan_unpoison_memory_region(p, size);
        __asan_poison_memory_region(p + n, size - n);
    }
    #else
    #define kairos_bound(p, n, size) ((void)0)
    #endif
    """
    void bound "kairos_bound"(const char* p, size_t n, size_t size) noexcept nogil

OVERRIDES = {"path": O_PATH, "host": O_HOST, "method": O_METHOD, "scheme": O_SCHEME}
TLS_VERSIONS = {0x0303: "TLSv1.2", 0x0304: "TLSv1.3"}
QUEUE_TICK = 0.002  # seconds between two looks at queues that nothing else moves
METHOD_NAMES = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE")
METHOD_BYTES = tuple(name.encode() for name in METHOD_NAMES)
cdef enum:
    SHED_STEP = 256             # shed levels per priority, a power of two
    INBOX_BYTES = 65536         # request body held for a reader before the client is told to wait
    MAX_HOST = 260
    STORED_MORE = 4096          # bytes that a stored head may be longer than a received one


# ---- bodies in pieces ------------------------------------------------------------------------------------------------

cdef int gather(Chunks* chunks, const char** p, Py_ssize_t* n, Slices* body, Slices* trailer) noexcept nogil:
    """Decode chunked bytes into slices: C_MORE when all are used, C_DATA when body is full, C_END or C_ERROR.

    p and n move on. The trailer section is handed over in slices as well.
    """
    cdef Py_ssize_t used = 0, size = 0
    cdef const char* piece = NULL
    cdef int event
    while n[0] > 0:
        if body.count == PIECES or trailer.count == PIECES:
            return C_DATA
        event = chunk_step(chunks, p[0], n[0], &used, &piece, &size)
        p[0] += used
        n[0] -= used
        if event == C_DATA:
            add_slice(body, piece, size)
        elif event == C_TRAILER:
            add_slice(trailer, piece, size)
        else:
            return event
    return C_MORE


cdef bytes joined(Slices* slices):
    """The bytes of slices as one object."""
    cdef int i
    return b"".join([
        PyBytes_FromStringAndSize(<char*>slices.iov[i].iov_base, slices.iov[i].iov_len)
        for i in range(1, slices.count + 1)
    ])


# ---- interfaces ---------------------------------------------------------------------------------------------------

cdef class Filter:
    """A policy on the way in and out. None means go on, a Response means answer that now; never a boolean.

    on_request   before the handler; may also return an awaitable of None or Response, while which the exchange waits
    on_response  once the response's status is known, before its head goes out; may edit response headers, put a
                 BodyPipe in the body's way, or return a Response that takes its place. Innermost first: in the
                 reverse order of on_request
    on_finish    once, at the very end, whatever happened; may only look
    """

    cpdef object on_request(self, Exchange x):
        return None

    cpdef object on_response(self, Exchange x):
        return None

    cpdef object on_finish(self, Exchange x):
        return None


cdef class BodyPipe:
    """What a response's body passes on its way to the client; put there by a filter's on_response.

    feed    bytes that came, and what goes out for them now; never called for a response without a body
    finish  once, at the end of the body: what is still to go out
    abort   once, instead of finish, when the response is cut or the client leaves
    """

    cpdef bytes feed(self, bytes data):
        return data

    cpdef bytes finish(self):
        return b""

    cpdef object abort(self):
        return None


cdef class Handler:
    """The end of a route's chain: sees to it that a response is made.

    handle() makes it, or returns it as a Response, or returns an awaitable that does either.
    """

    cpdef object handle(self, Exchange x):
        raise NotImplementedError

    cdef int upstream_connected(self, Exchange x, Target target, bint trial, Upstream up) except -1:
        """The connection opened for x is there."""
        raise NotImplementedError

    cdef int upstream_failed(self, Exchange x, Target target, bint trial, str kind, bint stale) except -1:
        """An attempt failed before any of the response went out; stale: on a connection that had been idle."""
        return x.fail(kind)

    cdef bint upstream_declined(self, Exchange x, Target target, const char* base, Head* head) except -1:
        """The answer's head is one to be retried. True: it is not passed on, the handler goes on with x."""
        return False

    cdef int resume(self, Exchange x) except -1:
        """x waited in its plan's queue, and a backend may have room."""
        raise NotImplementedError

    cdef int hedge(self, Exchange x) except -1:
        """x is slow: begin a second attempt beside the first."""
        raise NotImplementedError


class Response:
    """An answer made here rather than upstream.

    `headers` are pairs; or field lines in bytes, of a response that an upstream gave before: the filters find it like
    one that comes from there now.
    """

    __slots__ = ("body", "headers", "status")

    def __init__(self, status, body=b"", headers=()):
        self.status = status
        self.body = body
        self.headers = headers


cdef class Settings:
    """Filled by snapshot.py from Config, in µs and bytes."""

    def __init__(self, config, Networks trusted):
        limits, timeouts = config.limits, config.timeouts
        self.limits.head_bytes = limits.head_bytes
        self.limits.line_bytes = limits.line_bytes
        self.limits.header_count = limits.header_count
        self.limits.underscores = config.headers.underscores
        self.limits.overrides = sum([OVERRIDES[kind] for kind in set(config.headers.overrides)])
        self.head_us = int(timeouts.head * 1e6)
        self.idle_us = int(timeouts.idle * 1e6)
        self.body_idle_us = int(timeouts.body_idle * 1e6)
        self.write_idle_us = int(timeouts.write_idle * 1e6)
        self.requests_per_connection = limits.requests_per_connection
        self.connections_per_ip = limits.connections_per_ip
        self.body_rate = limits.body_rate
        paths = config.paths
        self.path_flags = (1 if paths.encoded_slash == "reject" else 0) | (2 if paths.merge_slashes else 0)
        self.keep_request_id = config.headers.request_id == "keep"
        self.max_informational = config.headers.max_informational
        self.via = config.headers.via.encode()
        self.trusted = trusted
        self._wrapping(config.server)

    def _wrapping(self, server):
        """What comes before HTTP."""
        proxy = server.proxy_protocol
        if proxy is not None:
            self.proxies = Networks([network for network in proxy.networks if network != "unix"])
            self.unix_proxies = "unix" in proxy.networks
            self.proxy_us = int(proxy.timeout * 1e6)
        if server.tls is not None:
            self.handshake_us = int(server.tls.handshake_timeout * 1e6)


cdef class Target:
    """Made by snapshot.py; the cells belong to the scoreboard's page, which outlives it."""

    def __init__(self, origin, str key, Page page, Py_ssize_t pair, Py_ssize_t row, Py_ssize_t shared, int index=0,
                 bint guarded=False, int64_t limit=0, Py_ssize_t in_flight=0, Py_ssize_t workers=0,
                 Py_ssize_t stride=0):
        self.origin = origin
        self.key = key
        self.log_key = json_text(key)
        self.pair = page.at(pair, P_CELLS)
        self.row = page.at(row, U_CELLS)
        self.shared = page.at(shared, SU_CELLS)
        self.index = index
        self.guarded = guarded
        self.limit = limit
        if limit:
            self.in_flight = page.at(in_flight, 1)
            self.workers = workers
            self.stride = stride
            page.at(in_flight + (workers - 1) * stride, 1)


cdef class Plan:
    """Made by snapshot.py."""

    def __init__(self, str name, route, Settings settings, Handler handler, filters, timeouts,
                 Page page, Py_ssize_t cells, Py_ssize_t pair, Template template=None, Balancer balancer=None,
                 targets=(), int64_t body_limit=0, Policy policy=None, queue=None, hedge=None):
        self.name = name
        self.log_name = json_text(name)
        self.variant = getattr(route, "branch", "")
        self.branches = {}
        self.route = route
        self.settings = settings
        self.handler = handler
        self.request_filters = tuple(f for f in filters if overrides(f, "on_request"))
        self.response_filters = tuple(f for f in reversed(filters) if overrides(f, "on_response"))
        self.finish_filters = tuple(f for f in filters if overrides(f, "on_finish"))
        self.template = template
        self.balancer = balancer
        self.targets = list(targets)
        self.cells = page.at(cells, R_CELLS)
        self.pair = page.at(pair, P_CELLS)
        self.body_limit = body_limit
        self.connect_us = int(timeouts.connect * 1e6)
        self.first_byte_us = int(timeouts.first_byte * 1e6)
        self.read_idle_us = int(timeouts.read_idle * 1e6)
        self.total_us = int((timeouts.total or 0) * 1e6)
        self.tunnel_idle_us = int(timeouts.tunnel_idle * 1e6)
        self.preflights = any((<Filter>f).answers_preflights for f in filters)
        self.policy = policy
        self.queue = queue
        self.hedger = None if hedge is None else hedge(self)
        self.shed_from = (10 if route is None else route.priority) * SHED_STEP
        if route is not None:
            self.websocket = route.protocol == "websocket"
            self.upgrade = route.upgrade or self.websocket
            self.preserve_host = route.preserve_host
            self.needs_key = route.load_balancing_strategy == "ip_hash"
            self.measures = balancer is not None and route.load_balancing_strategy == "ewma"

    def live_targets(self):
        """Backends that may be picked: not down, not ejected, not taken out by an operator, their breaker not open."""
        cdef Target target
        cdef bint breakers = self.policy is not None and self.policy.breaker.enabled
        cdef int64_t now = monotonic_us()
        return [
            target for target in self.targets
            if atomic_load(&target.shared[SU_OUT]) == 0 and atomic_load(&target.shared[SU_SKIP_UNTIL_US]) <= now
            and atomic_load(&target.shared[SU_WEIGHT]) != 1 and not blocked(target.shared, breakers, now)
        ]


def overrides(filter_, str hook):
    """Whether a filter has this hook: one it has not costs nothing."""
    return getattr(type(filter_), hook) is not getattr(Filter, hook)


# ---- the process ----------------------------------------------------------------------------------------------------

cdef class Runtime:
    """Made by worker.py; serve() puts a snapshot in force."""

    def __init__(self, Clock clock, scoreboard, int slot, AccessLog log, uint64_t seed):
        cdef Page page = scoreboard.page
        self.clock = clock
        self.pump = Pump(clock.loop)
        self.scoreboard = scoreboard
        self.worker = page.at(scoreboard.worker_block(slot), W_CELLS)
        self.log = log
        self.per_ip = {}
        self.queues = []
        self.random = seed

    def __cinit__(self):
        self.scratch_size = 1 << 17
        self.scratch = <char*>PyMem_Malloc(self.scratch_size)
        if self.scratch == NULL:
            raise MemoryError

    def __dealloc__(self):
        bound(self.scratch, self.scratch_size, self.scratch_size)
        PyMem_Free(self.scratch)

    def serve(self, snapshot):
        """Put a snapshot in force for requests that begin from now on: one assignment for each thing they read."""
        self.snapshot = snapshot
        self.table = snapshot.table
        self.plans = snapshot.plans
        self.unrouted = snapshot.unrouted
        self.settings = snapshot.settings
        self.tls = snapshot.tls

    @property
    def clients(self):
        """Open client connections: those of the clock's wires, for no other list is kept of them."""
        return [wire for wire in self.clock.wires() if isinstance(wire, Downstream)]

    def wait_in(self, queue):
        """Somebody waits in this queue now: it is served whenever a slot becomes free, and looked at in between."""
        if queue not in self.queues:
            self.queues.append(queue)
        if self.queue_timer is None:
            self.queue_timer = self.clock.loop.call_later(QUEUE_TICK, self._queue_tick)

    def _queue_tick(self):
        """Slots that other workers gave back, and those who waited too long."""
        self.queue_timer = None
        self._serve_queues()
        if self.queues:
            self.queue_timer = self.clock.loop.call_later(QUEUE_TICK, self._queue_tick)

    cdef int serve_queues_soon(self) except -1:
        """In the next turn of the loop: who gives a slot back is in the middle of something."""
        if not self.queues_due:
            self.queues_due = True
            self.clock.loop.call_soon(self._slot_free)
        return 0

    def _slot_free(self):
        """This worker gave a slot back: for its own, or for those who wait in others."""
        self.queues_due = False
        for queue in self.queues:
            queue.leaves(monotonic_us(), next_random(&self.random))
        self._serve_queues()

    def _serve_queues(self):
        """Each queue in turn until nobody waits or nothing is free; the first one is another one each time."""
        if len(self.queues) > 1:
            self.queues.append(self.queues.pop(0))
        for queue in self.queues[:]:
            if not queue.serve(monotonic_us()):
                self.queues.remove(queue)

    def switch_log(self, AccessLog log):
        """Use another access log (or none) from now on."""
        self.log = log

    cdef char* room(self, Py_ssize_t n) except NULL:
        """Scratch of at least n bytes; good until the next call."""
        cdef char* larger
        if n > self.scratch_size:
            larger = <char*>PyMem_Malloc(n)
            if larger == NULL:
                raise MemoryError
            bound(self.scratch, self.scratch_size, self.scratch_size)
            PyMem_Free(self.scratch)
            self.scratch = larger
            self.scratch_size = n
        bound(self.scratch, n, self.scratch_size)
        return self.scratch

    cdef Exchange acquire(self):
        cdef Exchange x = Exchange.__new__(Exchange)
        x.runtime = self
        x.flag = b"-"
        x.detail = b"via_upstream"
        x.own_length = -1
        return x


# ---- abstract ends --------------------------------------------------------------------------------------------------

cdef class Downstream(Wire):
    """See exchange.pxd; client.pyx is the HTTP/1.1 one."""

    cdef int relay_head(self, Exchange x, const char* base, Head* head) except -1:
        raise NotImplementedError

    cdef int answer_head(self, Exchange x, int status, object headers, int64_t length) except -1:
        raise NotImplementedError

    cdef int body(self, Exchange x, Slices* slices, bytes owner) except -1:
        raise NotImplementedError

    cdef int end(self, Exchange x, bytes trailers) except -1:
        raise NotImplementedError

    cdef int flush(self, Exchange x) except -1:
        raise NotImplementedError

    cdef int hold(self, Exchange x) except -1:
        """Read no more of the request for now; an HTTP/1.1 connection carries no other."""
        return self.pause()

    cdef int unhold(self, Exchange x) except -1:
        return self.resume()

    cdef bint congested(self, Exchange x) noexcept:
        """Whether the client reads slower than the response comes."""
        return self.write_paused

    cdef int informational(self, Exchange x, const char* base, Head* head) except -1:
        raise NotImplementedError

    cdef int proceed(self, Exchange x) except -1:
        raise NotImplementedError

    cdef bint withdraw(self, Exchange x) except -1:
        raise NotImplementedError

    cdef int cut(self, Exchange x) except -1:
        raise NotImplementedError

    cdef int ended(self, Exchange x) except -1:
        raise NotImplementedError

    cdef int tunnel(self, Exchange x, const char* base, Head* head) except -1:
        raise NotImplementedError

    cdef int tunnel_bytes(self, Exchange x, bytes owner, const char* p, Py_ssize_t n) except -1:
        raise NotImplementedError

    cdef const char* address(self, Py_ssize_t* n) noexcept:
        n[0] = 0
        return b""

    def ends(self):
        """Address and port of who asked, and of what it connected to."""
        return (b"unknown", 0), (b"unknown", 0)


cdef class Upstream(Wire):
    """See exchange.pxd; upstream/connection.pyx is the HTTP/1.1 one."""

    cdef int request_body(self, Exchange x, Slices* slices, bytes owner) except -1:
        raise NotImplementedError

    cdef int request_end(self, Exchange x, bytes trailers) except -1:
        raise NotImplementedError

    cdef int cancel(self, Exchange x, int outcome) except -1:
        raise NotImplementedError

    cdef int release(self, Exchange x) except -1:
        raise NotImplementedError

    cdef int tunnel_bytes(self, Exchange x, bytes owner, const char* p, Py_ssize_t n) except -1:
        raise NotImplementedError


cdef inline list _with(list edits, item):
    """Edits and one more; most exchanges have none, and no list for them."""
    if edits is None:
        return [item]
    edits.append(item)
    return edits


# ---- the exchange ---------------------------------------------------------------------------------------------------

@cython.freelist(128)
cdef class Exchange:
    """What a filter or handler gets. Its Python face is at the end; the connection drives the rest."""

    # -- in ---------------------------------------------------------------------------------------------------------

    cdef int begin(self) except -1:
        """The head is scanned: count it, route it, start its chain."""
        cdef Runtime runtime = self.runtime
        cdef int64_t* worker = runtime.worker
        worker[W_REQUESTS_ACTIVE] += 1
        if worker[W_REQUESTS_ACTIVE] > worker[W_REQUESTS_PEAK]:
            worker[W_REQUESTS_PEAK] = worker[W_REQUESTS_ACTIVE]
        self.plan = runtime.unrouted
        self.bytes_in = self.head.length + self.body_size
        if not self._route():
            return 0
        if runtime.shed_level > self.plan.shed_from and self._sheds():
            return self._turn_away()
        if self.plan.total_us:
            self.total_deadline = self.started + self.plan.total_us
        self.body_limit = self.plan.body_limit
        self.body_rate = self.plan.settings.body_rate
        if self.body_limit and (self.body_left + self.body_size) > self.body_limit:
            return self.fail("payload_too_large")
        if self.head.expect.end and not self._expects_continue():
            return self.fail("expectation_failed")
        if (self.head.connection & C_UPGRADE or self.plan.websocket) and not self._check_upgrade():
            return 0
        return self.advance()

    cdef bint _sheds(self) noexcept:
        """Of the priority at the edge of the shed level, the part that lies below it; of lower ones, all."""
        cdef Runtime runtime = self.runtime
        cdef int above = runtime.shed_level - self.plan.shed_from
        return above >= SHED_STEP or <int>(next_random(&runtime.random) & (SHED_STEP - 1)) < above

    cdef int _turn_away(self) except -1:
        """Behind with our work: say so while it still costs next to nothing."""
        self.plan.cells[R_SHED] += 1
        return self.fail("shed")

    cdef bint _normalize(self) except -1:
        """Target to path and query, once; everything later reads these bytes."""
        cdef const char* raw = self.base + self.head.target.start
        cdef Py_ssize_t n = self.head.target.end - self.head.target.start
        cdef const char* mark = <const char*>memchr(raw, c"?", n)
        cdef Py_ssize_t size = n if mark == NULL else mark - raw
        cdef Py_ssize_t out = 0
        cdef char* scratch = self.runtime.room(size + 1)
        cdef int code = normalize_path(raw, size, scratch, &out, self.runtime.settings.path_flags)
        self.query = self.head.target.start + <int32_t>size
        if code >= 0 and mark != NULL:
            if check_query(mark + 1, n - size - 1) < 0:
                code = -2
        if code < 0:
            self.fail_with("bad_target", f"{KINDS['bad_target'].message}: {problem(code).decode()}")
            return False
        if code == SAME:
            self.path_start = raw
            self.path_size = <int32_t>size
        else:
            self.path_owner = PyBytes_FromStringAndSize(scratch, out)
            self.path_start = PyBytes_AS_STRING(self.path_owner)
            self.path_size = <int32_t>out
        return True

    cdef bint _route(self) except -1:
        """Find the plan. False when the request was answered here."""
        cdef char host[MAX_HOST]
        cdef const char* name = self.base + self.head.host.start
        cdef Py_ssize_t n = self.head.host.end - self.head.host.start
        cdef Py_ssize_t size = 0
        cdef int port = -1
        cdef int code
        if not self._normalize():
            return False
        if n > 0 or self.head.minor == 1:
            code = BAD_HOST if n >= MAX_HOST else normalize_host(name, n, host, &size, &port)
            if code < 0:
                self.fail("bad_host")
                return False
            if code != SAME:
                name = host
        self.table = self.runtime.table
        if self.head.method == OPTIONS and self._route_preflight(name, size):
            return True
        code = self.table.lookup(name, size, self.path_start, self.path_size, self.head.method, &self.match)
        if code == FOUND:
            self.plan = <Plan>self.runtime.plans[self.match.index]
            return True
        self._unroutable(code)
        return False

    cdef bint _route_preflight(self, const char* host, Py_ssize_t n) except -1:
        """A CORS preflight is for the route it asks about, if that one answers such; else it is any OPTIONS."""
        cdef Span wanted = self.request_field(b"access-control-request-method", 29)
        cdef Span origin = self.request_field(b"origin", 6)
        cdef Plan plan
        cdef int code, method
        if wanted.end == wanted.start or origin.end == origin.start:
            return False
        name = self.base[wanted.start:wanted.end]
        method = METHOD_BYTES.index(name) if name in METHOD_BYTES else OTHER
        code = self.table.lookup(host, n, self.path_start, self.path_size, method, &self.match)
        if self.match.index < 0 or code == REDIRECT:
            return False
        plan = <Plan>self.runtime.plans[self.match.index]
        if plan.preflights:
            self.plan = plan
            self.preflight = True
        return plan.preflights

    cdef int _unroutable(self, int code) except -1:
        if code == METHOD_NOT_ALLOWED or code == OPTIONS_ANSWER:
            self.plan = <Plan>self.runtime.plans[self.match.index]
            allow = b", ".join([name.encode() for i, name in enumerate(METHOD_NAMES) if self.match.allowed >> i & 1])
            if code == METHOD_NOT_ALLOWED:
                return self.fail_with("method_not_allowed", [(b"Allow", allow)])
            return self.reply(Response(204, headers=[(b"Allow", allow)]))
        if code == REDIRECT:
            self.plan = <Plan>self.runtime.plans[self.match.index]
            path = self.path_start[:self.path_size]
            path = path[:-1] if path.endswith(b"/") else path + b"/"
            location = path + self.base[self.query:self.head.target.end]
            if location.startswith(b"//"):
                location = b"/." + location  # keep a client from reading it as a host (RFC 3986 section 4.2)
            return self.reply(Response(308, headers=[(b"Location", location)]))
        self.runtime.worker[W_REQUESTS_UNROUTED] += 1
        return self.fail("route_not_found")

    cdef bint _expects_continue(self) noexcept:
        cdef Span* e = &self.head.expect
        return equals(self.base + e.start, e.end - e.start, b"100-continue", 12)

    cdef bint _check_upgrade(self) except -1:
        """Whether the request may go on: as a handshake where the route takes one, else as an ordinary request."""
        cdef Head* head = &self.head
        cdef bint asks = (
            head.connection & C_UPGRADE and head.minor == 1
            and has_token(self.base + head.upgrade.start, head.upgrade.end - head.upgrade.start, b"websocket", 9)
        )
        self.last = asks
        if not asks or not self.plan.upgrade:
            if self.plan.websocket:
                self.fail_with("upgrade_required", [(b"Upgrade", b"websocket"), (b"Connection", b"Upgrade")])
                return False
            return True
        if head.method != GET or head.chunked or head.content_length > 0 or not self._websocket_key():
            self.fail("bad_upgrade")
            return False
        if head.ws_version.end - head.ws_version.start != 2 or self.base[head.ws_version.start] != c"1" \
                or self.base[head.ws_version.start + 1] != c"3":
            self.fail_with("upgrade_required", [(b"Sec-WebSocket-Version", b"13"), (b"Upgrade", b"websocket"),
                                                (b"Connection", b"Upgrade")])
            return False
        self.upgrading = True
        self.fresh_only = True  # never sent twice, so never on a pooled connection that may prove stale
        return True

    cdef bint _websocket_key(self) noexcept:
        """Sec-WebSocket-Key: 16 bytes in base64 (RFC 6455 section 4.1)."""
        cdef const char* p = self.base + self.head.ws_key.start
        cdef Py_ssize_t n = self.head.ws_key.end - self.head.ws_key.start
        cdef Py_ssize_t i
        cdef char c
        if n != 24 or p[22] != c"=" or p[23] != c"=":
            return False
        for i in range(22):
            c = p[i]
            if not (c"0" <= c <= c"9" or c"A" <= c <= c"Z" or c"a" <= c <= c"z" or c == c"+" or c == c"/"):
                return False
        return True

    cdef int advance(self) except -1:
        """Run the filters that are left, then the handler."""
        cdef tuple filters = self.plan.request_filters
        while self.step < len(filters):
            self.step += 1
            try:
                outcome = (<Filter>filters[self.step - 1]).on_request(self)
            except Exception as error:
                return self._crashed(error)
            if outcome is not None:
                return self._settle(outcome, True)
            if self.finished:
                return 0
        if self.preflight:  # the filter that takes these is gone: they are for nobody else
            return self.fail("method_not_allowed")
        self._want_body()
        self.handled = True
        try:
            outcome = self.plan.handler.handle(self)
        except Exception as error:
            return self._crashed(error)
        return 0 if outcome is None else self._settle(outcome, False)

    cdef int _want_body(self) except -1:
        """Somebody is going to read the body: a client that waits to be told may send it."""
        if self.head.expect.end and not self.proceeded and not self.request_done and self.body_size == 0:
            self.proceeded = True
            self.down.proceed(self)
        return 0

    cdef int _settle(self, object outcome, bint is_filter) except -1:
        """What a filter or handler returned: the answer, or an awaitable of it."""
        try:
            if isinstance(outcome, Response):
                return self.reply(outcome)
            return self.run(outcome, is_filter)
        except Exception as error:
            return self._crashed(error)

    cdef int run(self, object awaitable, bint is_filter) except -1:
        """Await what a Python filter or handler returned; the client is read no further than its inbox."""
        self.task = asyncio.ensure_future(awaitable, loop=self.runtime.clock.loop)
        self.task.add_done_callback(self._filter_done if is_filter else self._handler_done)
        return 0

    def _filter_done(self, task):
        self.task = None
        try:
            outcome = task.result()
            if self.finished:
                return
            if outcome is not None:
                self.answer(outcome)
                return
        except asyncio.CancelledError:
            self.fail("internal")  # nobody else ends it; nothing to do where the exchange's end was the reason
            return
        except Exception as error:
            self._crashed(error)
            return
        self.advance()

    def _handler_done(self, task):
        self.task = None
        try:
            outcome = task.result()
            if self.finished:
                return
            if outcome is not None:
                self.answer(outcome)
            else:
                self.end()
        except asyncio.CancelledError:
            self.fail("internal")
        except Exception as error:
            self._crashed(error)

    cdef int _crashed(self, object error) except -1:
        """A filter or handler raised: the client gets 500, the log the traceback, the worker goes on."""
        context = {"message": f"route {self.plan.name} failed", "exception": error}
        self.runtime.clock.loop.call_exception_handler(context)
        self.refiltered = True
        return self.fail("internal")

    cdef int take_body(self, Slices* slices, bytes owner) except -1:
        """Body bytes arrived from the client."""
        cdef bytes piece
        cdef char* out
        cdef int i
        self.bytes_in += slices.total
        if self.body_limit and self.bytes_in - self.head.length > self.body_limit:
            return self.fail("payload_too_large")
        if self.tapped is not None:
            self._tap(slices)
        if self.up is not None:
            if not self.body_lost:
                self._pass_body(slices)
            return self.up.request_body(self, slices, owner)
        if self.inbox is None:
            self.inbox = []
            self.inbox_bytes = 0
        piece = PyBytes_FromStringAndSize(NULL, slices.total)  # one object, however small a client cuts its chunks
        out = PyBytes_AS_STRING(piece)
        for i in range(1, slices.count + 1):
            memcpy(out, slices.iov[i].iov_base, slices.iov[i].iov_len)
            out += slices.iov[i].iov_len
        self.inbox.append(piece)
        self.inbox_bytes += slices.total
        if self.inbox_bytes > INBOX_BYTES:
            self.down.hold(self)
        return self.wake()

    cdef int _pass_body(self, Slices* slices) except -1:
        """Keep a copy of what is passed on, while it may have to be sent again and is not too much."""
        if self.kept is None or self.kept_bytes + slices.total > self.plan.policy.buffer_bytes:
            self.body_lost = True
            self.kept = None
            return 0
        self.kept.append(joined(slices))
        self.kept_bytes += slices.total
        return 0

    cdef int _tap(self, Slices* slices) except -1:
        """Keep a copy for who asked for one, while it is not too much."""
        self.tap_left -= slices.total
        if self.tap_left < 0:
            self.tapped = None
        else:
            self.tapped.append(joined(slices))
        return 0

    cdef int rewind_body(self) except -1:
        """The next attempt sends the body from its beginning: what was kept goes before what is still to be passed."""
        if self.kept:
            self.inbox = self.kept + (self.inbox or [])
            self.inbox_bytes += self.kept_bytes
            self.kept = []
            self.kept_bytes = 0
        return 0

    cdef bint sends_chunks(self) noexcept:
        """Whether the request's body goes upstream in chunks: as it came, unless another one takes its place."""
        return self.head.chunked and self.own_length < 0

    cdef int end_body(self) except -1:
        """The request is complete."""
        self.request_done = True
        if self.up is not None:
            return self.up.request_end(self, self.request_trailers)
        return self.wake()

    # -- out --------------------------------------------------------------------------------------------------------

    cdef int set_upstream_head(self, const char* base, Head* head) except -1:
        """The upstream's final status is known: decide how the body goes out, ask the filters back."""
        self.status = self.upstream_status = head.status
        self.body_length = head.content_length
        if self.head.method == 1 or head.status == 204 or head.status == 304:  # HEAD
            self.framing = F_NONE
        elif head.chunked or head.content_length < 0:
            self.framing = F_CHUNKED if self.head.minor == 1 else F_CLOSE
        else:
            self.framing = F_LENGTH
        if self.plan.response_filters and not self.detached:
            self.response_base = base
            self.response_head = head
            self._filter_back()
            self.response_head = NULL
        return 0

    cdef bint _filter_back(self) except -1:
        """Run the response filters that are left. False: one of them answered in the response's place."""
        cdef tuple filters = self.plan.response_filters
        if not self.filtered:
            self.filtered = True
            self.early_edits = len(self.response_edits or ())
            self.early_lines = self.response_lines
        while self.back < len(filters):
            self.back += 1
            self.filtering = True
            try:
                outcome = (<Filter>filters[self.back - 1]).on_response(self)
                if outcome is not None:
                    self.answer(outcome)
            except Exception as error:
                self._crashed(error)
            finally:
                self.filtering = False
            if self.finished:
                return False
        return True

    cdef int _replace_response(self) except -1:
        """Another answer takes the place of the response: what was to become of that is forgotten.

        Where a filter gave it, those further out are still to be asked. An error passes them all once more, unless it
        is theirs, or that of an error.
        """
        self._abort_pipes()
        if self.filtered:
            if self.response_edits is not None:
                del self.response_edits[self.early_edits:]
            self.response_lines = self.early_lines
            self.response_head = NULL
            if not self.filtering:
                self.back = len(self.plan.response_filters) if self.refiltered else 0
                self.refiltered = True
        return 0

    cdef int fail(self, str kind) except -1:
        """End the exchange with a row of the error table."""
        return self.fail_with(kind, None)

    cdef int fail_with(self, str kind, object extra) except -1:
        """`extra`: None, more headers (a list), a detail that may be shown (a str), or (detail, headers, errors)."""
        if self.finished:
            return 0
        row = KINDS[kind]
        self.flag = _literal(row.flag)
        self.detail = _literal(kind)
        self._count_failure(kind, row)
        self.failure = kind
        # Of what a client or the gateway does wrong, or a client that sends slowly, nothing is learned about a backend;
        # nor where the time ran out while the client did not read.
        blamed = row.source == "upstream" and self.request_done
        if kind == "total_timeout" and self.down.congested(self):
            blamed = False
        self.let_go(FAILURE if blamed else NO_VERDICT)
        if self.head_sent and not self.down.withdraw(self):
            self.down.cut(self)
            return self.finish()
        detail, more, errors = extra if isinstance(extra, tuple) else (
            (None, extra, None) if isinstance(extra, list) else (extra, (), None))
        headers = [(b"Content-Type", b"application/problem+json"), *more]
        if row.status == 503 and not any(name == b"Retry-After" for name, _ in more):
            headers.append((b"Retry-After", b"1"))
        if row.close:
            headers.append((b"Connection", b"close"))
        body = render(kind, self.request_id_str, detail or self._shown_detail(kind), errors)
        return self.reply(Response(row.status, body, headers))

    def fail_as(self, str kind, detail=None, headers=None, errors=None):
        """For filters and handlers: end the exchange with a row of the error table.

        `detail` is shown to the client instead of the row's message, `headers` is a list of (name, value) in bytes,
        `errors` a list of dicts that say what is wrong where.
        """
        self.fail_with(kind, (detail, headers or [], errors))

    def count(self, int cell):
        """Add one to an R_* cell of the route."""
        if not 0 <= cell < R_CELLS:
            raise IndexError(f"a route has no cell {cell}")
        self.plan.cells[cell] += 1

    cdef object _shown_detail(self, str kind):
        """What helps the client: its own request, never ours."""
        if kind == "route_not_found":
            return f"{KINDS[kind].message}: {self.path_str}"
        if kind == "method_not_allowed":
            return f"{KINDS[kind].message}: {self.method} {self.path_str}"
        return None

    cdef int _count_failure(self, str kind, object row) except -1:
        cdef int64_t* pair = self.plan.pair if self.target is None else self.target.pair
        if row.status == 504:
            pair[P_TIMEOUTS] += 1
        elif row.flag == "UF" or row.flag == "DF":
            pair[P_CONNECT_ERRORS] += 1
        return 0

    def answer(self, response):
        """Answer with a Response made here. Anything upstream is cancelled.

        Raises:
            RuntimeError: the response was begun already.
        """
        if not isinstance(response, Response):
            raise TypeError(f"the answer of {self.plan.name} is no Response: {response!r}")
        self.reply(response)

    cdef int reply(self, object response) except -1:
        cdef Slices slices
        cdef bytes body = response.body
        if self.finished or self.head_sent:
            raise RuntimeError("the exchange has its answer already")
        self.let_go(self._verdict())
        self._replace_response()
        if self.flag[0] == c"-":
            self.flag = b"LR"
            self.detail = b"direct_response"
        if type(response.headers) is bytes:
            self._start_stored(response.status, response.headers, len(body) if response.status != 304 else -1)
        else:
            self._start(response.status, response.headers, len(body))
        if self.finished:
            return 0
        if body:
            clear_slices(&slices)
            add_slice(&slices, PyBytes_AS_STRING(body), len(body))
            self.send_body(&slices, body)
        if not self.finished:
            self.send_end(None)
        return self.finish()

    cdef int _verdict(self) noexcept:
        """What the breaker learns where an answer takes the response's place: what the upstream said counts."""
        if self.response_head == NULL:
            return NO_VERDICT
        return FAILURE if self.plan.policy.fails(self.upstream_status) else SUCCESS

    def start(self, int status, headers=(), length=None):
        """Send the head of a response; write() and end() follow. Without a length the body is chunked.

        Raises:
            ConnectionResetError: the client left.
            RuntimeError: the response was started already.
            ValueError: a header field holds a line break, or is one the gateway writes itself.
        """
        if self.finished:
            raise ConnectionResetError("the client left")
        if self.head_sent:
            raise RuntimeError("the response was started already")
        self._start(status, headers, -1 if length is None else length)
        if not self.finished:
            self.down.flush(self)

    cdef int _start(self, int status, object headers, int64_t length) except -1:
        """The head of an answer; the connection may hold it for the first body bytes."""
        self.status = status
        if self.head.method == 1 or status == 204 or status == 304:
            self.framing = F_NONE
        elif length >= 0:
            self.framing = F_LENGTH
        else:
            self.framing = F_CHUNKED if self.head.minor == 1 else F_CLOSE
        self.promised = self.body_length = length
        if self.plan.response_filters and not self.detached:
            self.answer_headers = headers = list(headers)
            if not self._filter_back():
                return 0
        return self.down.answer_head(self, self.status, headers, self.body_length)

    cdef int _start_stored(self, int status, bytes lines, int64_t length) except -1:
        """The head of a response that an upstream gave before."""
        cdef bytes data = status_line(status) + lines + b"\r\n"
        cdef Limits limits = self.plan.settings.limits
        cdef Head head
        limits.head_bytes += STORED_MORE
        limits.header_count += STORED_MORE
        if scan_response(PyBytes_AS_STRING(data), len(data), &limits, &head) != len(data):
            raise ValueError("a stored response has no sound head")
        self.status = status
        self.promised = self.body_length = length
        self.framing = F_NONE if self.head.method == 1 or status == 204 or status == 304 else F_LENGTH
        self.response_base = PyBytes_AS_STRING(data)
        self.response_head = &head
        try:
            if self.plan.response_filters and not self._filter_back():
                return 0
        finally:
            self.response_head = NULL
        return self.down.relay_head(self, PyBytes_AS_STRING(data), &head)

    async def write(self, bytes data):
        """Send body bytes; waits while the client reads slower than they come.

        Raises:
            ConnectionResetError: the client left.
            RuntimeError: start() was not called.
            ValueError: more bytes than start() announced.
        """
        self._write(data)
        while self.down.congested(self) and not self.finished:
            await self._wait()

    cdef int _write(self, bytes data) except -1:
        cdef Slices slices
        if self.finished:
            raise ConnectionResetError("the client left")
        if not self.head_sent:
            raise RuntimeError("write() before start()")
        if self.framing == F_LENGTH:
            if len(data) > self.promised:
                raise ValueError(f"{len(data)} bytes written, {self.promised} are left of the announced length")
            self.promised -= len(data)
        clear_slices(&slices)
        if data:
            add_slice(&slices, PyBytes_AS_STRING(data), len(data))
            self.send_body(&slices, data)
        return 0

    def end(self):
        """The response is complete. A handler's coroutine that returns has the same effect.

        Raises:
            RuntimeError: start() was not called, or announced more bytes than were written.
        """
        if self.finished:
            return
        if not self.head_sent:
            raise RuntimeError(f"the handler of {self.plan.name} made no response")
        if self.framing == F_LENGTH and self.promised:
            raise RuntimeError(f"the handler of {self.plan.name} left out {self.promised} bytes it had announced")
        self.send_end(None)
        self.finish()

    # -- pipes -----------------------------------------------------------------------------------------------------

    cdef int send_body(self, Slices* slices, bytes owner) except -1:
        """Response body bytes on their way to the client."""
        cdef Slices piped
        cdef bytes data
        if self.pipes is None:
            return self.down.body(self, slices, owner)
        data = joined(slices)
        try:
            for pipe in self.pipes:
                if data:
                    data = (<BodyPipe>pipe).feed(data)
        except Exception as error:
            return self._crashed(error)
        if data and not self.finished:
            clear_slices(&piped)
            add_slice(&piped, PyBytes_AS_STRING(data), len(data))
            self.down.body(self, &piped, data)
        return 0

    cdef int send_end(self, bytes trailers) except -1:
        """The response body is whole: what the pipes still hold goes out, then its end."""
        cdef Slices piped
        cdef bytes data = b""
        if self.pipes is not None:
            pipes, self.pipes = self.pipes, None
            try:
                for pipe in pipes:
                    data = ((<BodyPipe>pipe).feed(data) if data else data) + (<BodyPipe>pipe).finish()
            except Exception as error:
                return self._crashed(error)
            if data and not self.finished:
                clear_slices(&piped)
                add_slice(&piped, PyBytes_AS_STRING(data), len(data))
                self.down.body(self, &piped, data)
        return 0 if self.finished else self.down.end(self, trailers)

    cdef int _abort_pipes(self) except -1:
        """The response is cut, replaced, or nobody is there to read it."""
        if self.pipes is None:
            return 0
        pipes, self.pipes = self.pipes, None
        for pipe in pipes:
            try:
                (<BodyPipe>pipe).abort()
            except Exception as error:
                self.runtime.clock.loop.call_exception_handler(
                    {"message": f"route {self.plan.name} failed", "exception": error})
        return 0

    # -- tunnels ----------------------------------------------------------------------------------------------------

    cdef int join_ends(self) except -1:
        """The tunnel stands: leave its bytes to the pump, where both ends are plain sockets with nothing queued."""
        cdef Wire down = self.down, up = self.up
        if up is None or down.tls is not None or not down._direct() or not up._direct():
            return 0
        down.pause()
        up.pause()
        down.deadline = 0
        self.joined = self.runtime.pump.open(down.fd, up.fd, self._parted)
        return 0

    cdef int part(self, int64_t now) except -1:
        """End a joined tunnel that has been idle too long; `now` 0 ends it whatever it does."""
        cdef int64_t left = self.joined.last_us + self.plan.tunnel_idle_us - now
        if now and left > 0:
            self.up.deadline = now + left
            return 0
        return self.runtime.pump.end(self.joined)

    def _parted(self, int64_t to_client, int64_t to_upstream):
        """The pump is done: one side left, or part() was called."""
        self.joined = NULL
        self.bytes_out += to_client
        self.bytes_in += to_upstream
        self.down.end(self, None)
        self.finish()

    # -- account ----------------------------------------------------------------------------------------------------

    cdef int gone(self) except -1:
        """The client left in the middle."""
        if self.finished:
            return 0
        if self.tunnelling:
            return self.finish()  # what it sent before is still passed on
        self.status = 499
        self.flag = b"DC"
        self.detail = b"client_gone"
        self.let_go(NO_VERDICT)
        return self.finish()

    cdef int note_retry(self, str why) except -1:
        """For the log: a further attempt is made for this reason."""
        self.retried_for = _literal(why)
        return 0

    cdef int let_go(self, int outcome) except -1:
        """Nothing more is wanted from upstream; `outcome` is what its breaker is told."""
        cdef Upstream up = self.up, rival = self.rival
        self.up = self.rival = None
        if up is not None:
            up.cancel(self, outcome)
        if rival is not None:
            rival.cancel(self, NO_VERDICT)
        return 0

    cdef int finish(self) except -1:
        """The one end of every exchange: release, count, log, tell the client connection."""
        cdef int64_t now, total, upstream
        cdef Upstream up = self.up
        cdef Plan plan = self.plan
        cdef int64_t* cells = plan.cells
        cdef int64_t* pair = plan.pair if self.target is None else self.target.pair
        if self.finished:
            return 0
        self.finished = True
        now = monotonic_us()
        total = now - self.started
        if self.pipes is not None:
            self._abort_pipes()
        upstream = self.upstream_us
        if upstream == 0 and self.target is not None:
            upstream = now - self.sent  # it never answered to the end: all the wait was for it
        if upstream > total:
            upstream = total
        self.runtime.worker[W_REQUESTS_ACTIVE] -= 1
        if not self.detached:
            pair[self.head.method * CLASSES + status_class(self.status)] += 1
            cells[R_BYTES_IN] += self.bytes_in
            cells[R_BYTES_OUT] += self.bytes_out
        if not self.tunnelling and not self.detached:
            observe(cells + R_TOTAL, total)
            observe(cells + R_GATEWAY, total - upstream)
            if self.attempts:
                observe(cells + R_UPSTREAM, upstream)
        if self.extra:
            cells[R_EXTRA_ACTIVE] -= 1
        if self.queued:
            plan.queue.forget(self)
        if plan.hedger is not None:
            plan.hedger.forget(self)
        if self.runtime.log is not None and not self.detached:
            self._log(now, total, upstream)
        if plan.finish_filters and not self.detached:
            self._filter_finish()
        if up is not None:
            self.up = None
            up.release(self)
        if self.task is not None or self.waiter is not None:
            self._stop_python()
        self.down.ended(self)
        return 0

    cdef int _filter_finish(self) except -1:
        for item in self.plan.finish_filters:
            try:
                (<Filter>item).on_finish(self)
            except Exception as error:
                self.runtime.clock.loop.call_exception_handler(
                    {"message": f"route {self.plan.name} failed", "exception": error})
        return 0

    cdef int _stop_python(self) except -1:
        self.wake()
        if self.task is not None and self.task is not asyncio.current_task(self.runtime.clock.loop):
            self.task.cancel()
        return 0

    cdef int _log(self, int64_t now, int64_t total, int64_t upstream) except -1:
        cdef AccessRecord r
        cdef Head* head = &self.head
        memset(&r, 0, sizeof(AccessRecord))
        r.time_us = unix_us() - total
        r.client.at = self.client_text(&r.client.size)
        r.method = _text(self.base, head.verb)
        r.scheme = b"https" if self.down.secure else b"http"
        if self.down.tls is not None:
            r.tls = _tls_text(self.down.tls)
        r.host = _text(self.base, head.host)
        r.target = _text(self.base, head.target)
        r.version = 10 + head.minor
        r.status = self.status
        r.request_id.at = self.id_text(&r.request_id.size)
        r.traceparent = _text(self.base, head.traceparent)
        r.route.at = PyBytes_AS_STRING(self.plan.log_name)
        r.route.size = len(self.plan.log_name)
        if self.target is not None:
            r.upstream.at = PyBytes_AS_STRING(self.target.log_key)
            r.upstream.size = len(self.target.log_key)
        r.attempts = self.attempts
        r.retried_for = self.retried_for
        r.total_us = total
        r.gateway_us = total - upstream
        r.upstream_us = upstream
        r.bytes_in = self.bytes_in
        r.bytes_out = self.bytes_out
        r.user_agent = _text(self.base, head.user_agent)
        r.referer = _text(self.base, head.referer)
        r.flag = self.flag
        r.cache = self.cached
        r.detail = self.detail
        self.runtime.log.write(&r)
        return 0

    # -- who and which ------------------------------------------------------------------------------------------------

    cdef const char* id_text(self, Py_ssize_t* n) noexcept:
        """The request's id: the client's where it is well formed and may be kept, else a new UUID (version 4)."""
        cdef Span* given = &self.head.request_id
        if not self.own_id and given.end > given.start and self.plan.settings.keep_request_id \
                and _valid_id(self.base + given.start, given.end - given.start):
            n[0] = given.end - given.start
            return self.base + given.start
        if not self.own_id:
            self.own_id = True
            _write_uuid(next_random(&self.runtime.random), next_random(&self.runtime.random), self.request_id)
        n[0] = 36
        return self.request_id

    cdef bint trusted_peer(self) noexcept:
        cdef Networks trusted = self.plan.settings.trusted
        cdef Py_ssize_t n = 0
        cdef const char* text
        if trusted is None:
            return False
        text = self.down.address(&n)
        return trusted.contains(text, n)

    cdef bint encrypted(self) noexcept:
        """Whether the client came over TLS: to us, or to a trusted peer that says so."""
        cdef Span* proto = &self.head.forwarded_proto
        if self.down.secure:
            return True
        return equals(self.base + proto.start, proto.end - proto.start, b"https", 5) and self.trusted_peer()

    cdef const char* client_text(self, Py_ssize_t* n) noexcept:
        """Address of the client: the peer, or whom a trusted peer speaks for."""
        cdef Span* chain = &self.head.forwarded_for
        cdef const char* found
        if self.plan.settings.trusted is not None and chain.end > chain.start and self.trusted_peer():
            found = self.plan.settings.trusted.client(self.base + chain.start, chain.end - chain.start, n)
            if found != NULL:
                return found
        return self.down.address(n)

    cdef Span request_field(self, const char* lower, Py_ssize_t n) noexcept:
        """Value of the request's first field of this name; 0, 0 where there is none."""
        cdef Py_ssize_t pos = self.head.fields
        cdef Span key, value
        while next_field(self.base, &self.head, &pos, &key, &value):
            if equals(self.base + key.start, key.end - key.start, lower, n):
                return value
        value.start = value.end = 0
        return value

    cdef int add_response_lines(self, bytes lines) except -1:
        """For compiled filters: whole lines, with their CRLF, that go to the client beside all others."""
        self.response_lines = lines if self.response_lines is None else self.response_lines + lines
        return 0

    cdef int cut_response_fields(self, bytes names) except -1:
        """In on_response: leave out the response's fields of these names (lower case, with commas between)."""
        if self.response_head == NULL:
            listed = names.split(b",")
            self.answer_headers[:] = [field for field in self.answer_headers if field[0].lower() not in listed]
        elif cut_named(self.response_base, self.response_head, names, len(names), RESPONSE) < 0:
            self.fail("upstream_protocol")
        return 0

    # -- for Python: filters and handlers ----------------------------------------------------------------------------

    @property
    def method(self):
        return self.base[self.head.verb.start:self.head.verb.end].decode("ascii")

    @property
    def path(self):
        """Normalised path, as matched and forwarded (bytes)."""
        return self.path_start[:self.path_size]

    @property
    def path_str(self):
        return self.path_start[:self.path_size].decode("ascii") if self.path_size else ""

    @property
    def target(self):
        """Path and query as the client sent them (bytes)."""
        return self.base[self.head.target.start:self.head.target.end]

    @property
    def query_string(self):
        """What follows the `?`, raw (bytes)."""
        return self.base[self.query + 1:self.head.target.end] if self.query < self.head.target.end else b""

    @property
    def host(self):
        """Host as the client sent it."""
        return self.base[self.head.host.start:self.head.host.end].decode("latin-1")

    @property
    def headers(self):
        """Request fields in order, as sent: a list of (name, value) in bytes, made anew each time."""
        cdef Py_ssize_t pos = self.head.fields
        cdef Span name, value
        fields = []
        while next_field(self.base, &self.head, &pos, &name, &value):
            fields.append((self.base[name.start:name.end], self.base[value.start:value.end]))
        return fields

    def header(self, bytes name):
        """Value of the first field of this name (lower case), or None. No other field is made an object."""
        cdef Span value = self.request_field(name, len(name))
        return None if value.start == 0 else self.base[value.start:value.end]

    def header_values(self, bytes name):
        """Values of all fields of this name (lower case), in order. No other field is made an object."""
        cdef Py_ssize_t pos = self.head.fields
        cdef Span key, value
        cdef const char* wanted = name
        values = []
        while next_field(self.base, &self.head, &pos, &key, &value):
            if equals(self.base + key.start, key.end - key.start, wanted, len(name)):
                values.append(self.base[value.start:value.end])
        return values

    @property
    def params(self):
        """What the path's parameters captured, as {name: bytes}."""
        cdef int i
        names = self.table.patterns[self.match.index].names if self.match.nparams else ()
        return {
            name: self.path_start[self.match.param_start[i]:self.match.param_end[i]] for i, name in enumerate(names)
        }

    @property
    def client(self):
        """Address of the client (str)."""
        cdef Py_ssize_t n = 0
        cdef const char* text = self.client_text(&n)
        return text[:n].decode("ascii")

    @property
    def request_id_str(self):
        cdef Py_ssize_t n = 0
        cdef const char* text = self.id_text(&n)
        return text[:n].decode("latin-1")

    @property
    def has_body(self):
        """Whether the request has a body of one byte or more, as far as its head tells."""
        return self.head.chunked or self.head.content_length > 0

    def limit_body(self, int64_t limit):
        """Take no more than so many bytes of request body, 0 for any number: 413 at once, or when they come."""
        cdef int64_t size = max(self.head.content_length, self.bytes_in - self.head.length)
        self.body_limit = limit
        if limit and size > limit:
            self.fail("payload_too_large")

    def pace_body(self, int64_t rate):
        """Let the request body come at so many bytes per second at least, instead of limits.body_rate."""
        self.body_rate = rate

    @property
    def secure(self):
        """Whether the client's connection is TLS."""
        return self.down.secure

    @property
    def scheme(self):
        """`https` or `http`: that of the client's connection."""
        return "https" if self.down.secure else "http"

    @property
    def client_scheme(self):
        """`https` or `http`: what the client used, where a trusted proxy says so."""
        return "https" if self.encrypted() else "http"

    @property
    def client_certificate(self):
        """The certificate the client proved to have, as DER; None: it has none. The listener verified it."""
        return None if self.down.tls is None else self.down.tls.client_certificate

    @property
    def misdirected(self):
        """Whether of this host other client certificates are asked than of the name the connection was made for."""
        cdef TlsSession tls = self.down.tls
        return tls is not None and tls.server.policy_of(self._bare_host()) != tls.context.policy

    cdef bytes _bare_host(self):
        """In small letters, without port and last dot; None where there is none."""
        cdef bytes host = self.base[self.head.host.start:self.head.host.end]
        name, colon, port = host.rpartition(b":")
        return ((name if colon and port.isdigit() else host).rstrip(b".").lower()) or None

    @property
    def server_name(self):
        """The server name the client asked for in its TLS handshake, in small letters; None: it named none."""
        return None if self.down.tls is None else self.down.tls.server_name

    def set_request_header(self, str name, value):
        """Send this field upstream instead of any the client sent under the name; None removes it.

        Raises:
            ValueError: the name or value would break the head apart, or the field is one the gateway writes itself.
        """
        self.request_edits = _with(self.request_edits, edit(name, value, REQUEST_OWN))

    def add_request_header(self, str name, value):
        """Send this field upstream beside those the client sent under the name.

        Raises:
            ValueError: see set_request_header().
        """
        self.request_edits = _with(self.request_edits, addition(name, value, REQUEST_OWN))

    cdef int edit_request(self, Edits edits) except -1:
        """Edits of the request's fields that a filter made at load."""
        self.request_edits = _with(self.request_edits, edits)
        return 0

    cdef int edit_response(self, Edits edits) except -1:
        """Edits of the response's fields that a filter made at load."""
        self.response_edits = _with(self.response_edits, edits)
        return 0

    def add_request_edits(self, Edits edits):
        """Several edits that were made at load (edits.Edits), which costs next to nothing."""
        self.edit_request(edits)

    def add_response_edits(self, Edits edits):
        """See add_request_edits()."""
        self.edit_response(edits)

    def upstream_header(self, bytes name):
        """Value of the first field of this name (lower case) as it is sent upstream: edits included. Or None."""
        if self.request_edits is None:
            return self.header(name)
        values = self.upstream_values(name)
        return values[0] if values else None

    def upstream_values(self, bytes name):
        """Values of all fields of this name (lower case) as they are sent upstream."""
        return edited_values(self.request_edits, name, self.header_values(name))

    def shown_values(self, bytes name):
        """In on_response: values of all fields of this name (lower case) as they are sent to the client."""
        return edited_values(self.response_edits, name, _values(self.response_headers, name))

    @property
    def upstream_headers(self):
        """The fields that are sent upstream, but for those that the gateway writes itself: (name, value) in bytes."""
        cdef bytes names, lines
        if self.request_edits is None:
            return self.headers
        names, lines = edit_lines(self.request_edits)
        edited = set(names.split(b","))
        fields = [(name, value) for name, value in self.headers if name.lower() not in edited]
        for line in lines.split(b"\r\n")[:-1]:
            name, _, value = line.partition(b": ")
            fields.append((name, value))
        return fields

    def switch_plan(self, Plan plan):
        """Go on with a branch of the plan: the same filters, other backends.

        Raises:
            RuntimeError: the handler was called already.
            ValueError: it is no branch of this plan.
        """
        if self.handled:
            raise RuntimeError("the plan is settled: its handler was called")
        if plan.request_filters != self.plan.request_filters:
            raise ValueError(f"{plan.name} is no branch of {self.plan.name}")
        self.plan = plan

    def tap_body(self, Py_ssize_t limit):
        """Keep a copy of the request's body for tapped_body, if it has no more than limit bytes."""
        cdef Py_ssize_t size = (self.body_size if self.body_owner is not None else 0) + self.inbox_bytes
        self.tap_left = limit - size
        self.tapped = None
        if self.tap_left >= 0:
            self.tapped = [self.body_start[:self.body_size]] if self.body_owner is not None else []
            self.tapped += self.inbox or []

    @property
    def tapped_body(self):
        """The body as it was sent upstream, or None: it was too large, is not whole, or tap_body() was not called."""
        return None if self.tapped is None or not self.request_done else b"".join(self.tapped)

    def target_on(self, Plan plan):
        """Path and query that are sent upstream on another plan of this route (bytes)."""
        return self.render_target(plan)

    cdef bytes render_target(self, Plan plan):
        cdef Py_ssize_t size
        cdef Template template = plan.template
        query = self.base[self.query:self.head.target.end] if self.head.target.end - self.query > 1 else b""
        if template is None:
            return self.path_start[:self.path_size] + query
        size = template.size(&self.match)
        path = PyBytes_FromStringAndSize(NULL, size)
        size = template.render(self.path_start, &self.match, PyBytes_AS_STRING(path), size)
        return path[:size] + (b"&" + query[1:] if query and template.has_query else query)

    @property
    def upstream_target(self):
        """Path and query that are sent upstream (bytes)."""
        return self.own_target if self.own_target is not None else self.render_target(self.plan)

    @upstream_target.setter
    def upstream_target(self, bytes target):
        """Before the handler runs.

        Raises:
            ValueError: it is no path, holds dot segments, or what no request line may hold.
        """
        check_target(target)
        self.own_target = target

    def replace_request_body(self, bytes data):
        """Send these bytes instead of the client's body, which was read whole with read().

        Raises:
            RuntimeError: the body was not read, or is on its way.
        """
        if not self.request_done or self.handled or self.body_size:
            raise RuntimeError("the request body has to be read before it is replaced")
        self.inbox = [data] if data else []
        self.inbox_bytes = len(data)
        self.own_length = len(data)

    # -- of the response, for filters in on_response ------------------------------------------------------------------

    @property
    def from_upstream(self):
        """Whether the response is the upstream's; else it was made here."""
        return self.response_head != NULL

    @property
    def response_headers(self):
        """The response's fields in order, edits not included: a list of (name, value) in bytes, made anew each time."""
        cdef Py_ssize_t pos
        cdef Span name, value
        if self.response_head == NULL:
            return list(self.answer_headers or ())
        fields = []
        pos = self.response_head.fields
        while next_field(self.response_base, self.response_head, &pos, &name, &value):
            fields.append((self.response_base[name.start:name.end], self.response_base[value.start:value.end]))
        return fields

    def response_header(self, bytes name):
        """Value of the response's first field of this name (lower case), or None; edits are not seen."""
        cdef Py_ssize_t pos
        cdef Span key, value
        cdef const char* wanted = name
        if self.response_head == NULL:
            return next((given for key_, given in self.answer_headers or () if key_.lower() == name), None)
        pos = self.response_head.fields
        while next_field(self.response_base, self.response_head, &pos, &key, &value):
            if equals(self.response_base + key.start, key.end - key.start, wanted, len(name)):
                return self.response_base[value.start:value.end]
        return None

    def set_status(self, int status):
        """Tell the client this status instead.

        Raises:
            ValueError: one of the two has no body (1xx, 204, 304), which the other's framing would not fit.
        """
        if status == self.status:
            return
        if not 200 <= status <= 999 or status in (204, 304) or self.status in (204, 304):
            raise ValueError(f"status {self.status} cannot be shown as {status}")
        self.status = status

    def add_body_pipe(self, BodyPipe pipe, int64_t length=-1, bint tap=False):
        """Let the response's body pass a pipe, behind those that are there already.

        `length` is that of what comes out of it, -1 where nobody knows; a `tap` only looks, and the length stays.
        """
        if self.pipes is None:
            self.pipes = []
        self.pipes.append(pipe)
        if tap:
            return
        self.body_length = length
        if self.framing != F_NONE:
            self.framing = F_LENGTH if length >= 0 else F_CHUNKED if self.head.minor == 1 else F_CLOSE

    def set_response_header(self, str name, value):
        """Send this field to the client instead of any the upstream sent under the name; None removes it.

        Raises:
            ValueError: see set_request_header().
        """
        self.response_edits = _with(self.response_edits, edit(name, value, RESPONSE_OWN))

    def add_response_header(self, str name, value):
        """Send this field to the client beside those the upstream sent under the name.

        Raises:
            ValueError: see set_request_header().
        """
        self.response_edits = _with(self.response_edits, addition(name, value, RESPONSE_OWN))

    async def read(self, limit=None):
        """The whole request body. A filter that reads it leaves it there for the handler.

        Raises:
            ValueError: it is larger than limit bytes.
            ConnectionResetError: the client left before it was complete.
        """
        pieces = []
        size = 0
        async for piece in self.chunks():
            size += len(piece)
            if limit is not None and size > limit:
                raise ValueError(f"request body is larger than {limit} bytes")
            pieces.append(piece)
        body = b"".join(pieces)
        if body and not self.handled:
            self.inbox = [body]
            self.inbox_bytes = size
        return body

    async def chunks(self):
        """The request body in pieces as they come, with back-pressure on the client.

        Raises:
            ConnectionResetError: the client left before it was complete.
        """
        while True:
            for piece in self._take_inbox():
                yield piece
            if self.request_done and not self.inbox:
                return
            if self.finished:
                raise ConnectionResetError("the client left")
            if not self.inbox:
                self._want_body()
                await self._wait()

    def _take_inbox(self):
        """Hand over what arrived and let the client send more."""
        pieces = self.inbox or []
        if self.body_owner is not None and self.body_size:
            pieces.insert(0, self.body_start[:self.body_size])
            self.body_size = 0
        self.inbox = []
        self.inbox_bytes = 0
        if not self.request_done:
            self.down.unhold(self)
        return pieces

    async def _wait(self):
        """Until something happened: a reader and a writer may wait side by side, so neither may cancel the future."""
        if self.waiter is None:
            self.waiter = self.runtime.clock.loop.create_future()
        await asyncio.shield(self.waiter)

    cdef int wake(self) except -1:
        waiter, self.waiter = self.waiter, None
        if waiter is not None:
            waiter.set_result(None)
        return 0

    def __repr__(self):
        return f"<Exchange {self.method} {self.path_str} {self.status or 'open'}>"


def _values(fields, bytes name):
    return [value for key, value in fields if key.lower() == name]


_LITERALS = {}


cdef Text _tls_text(TlsSession tls) except *:
    """What the log says of the connection; rendered for its first request."""
    cdef Text text
    if tls.logged is None:
        tls.logged = tls_fields(TLS_VERSIONS.get(tls.version), tls.cipher, tls.server_name)
    text.at = PyBytes_AS_STRING(tls.logged)
    text.size = len(tls.logged)
    return text


cdef inline Text _text(const char* base, Span span) noexcept nogil:
    cdef Text text
    text.at = base + span.start
    text.size = span.end - span.start
    return text


cdef const char* _literal(str text):
    """The text as a C string that lives as long as the process. A bounded set: the error table's words, statuses."""
    cdef bytes kept = _LITERALS.get(text)
    if kept is None:
        kept = _LITERALS[text] = text.encode("ascii")
    return PyBytes_AS_STRING(kept)


cdef bint _valid_id(const char* p, Py_ssize_t n) noexcept nogil:
    """Whether a client's X-Request-Id may be kept: up to 128 letters, digits and -._~+/=:@"""
    cdef Py_ssize_t i
    cdef char c
    if n > 128:
        return False
    for i in range(n):
        c = p[i]
        if not (c"a" <= c <= c"z" or c"A" <= c <= c"Z" or c"-" <= c <= c":" or c == c"_" or c == c"~" or c == c"+"
                or c == c"=" or c == c"@"):
            return False
    return True


cdef const char* HEX_DIGITS = b"0123456789abcdef"


cdef void _write_uuid(uint64_t a, uint64_t b, char* out) noexcept nogil:
    """A version 4 UUID (RFC 9562 section 5.4) from 128 random bits: 36 characters."""
    cdef int i
    cdef int at = 0
    a = (a & <uint64_t>0xFFFFFFFFFFFF0FFF) | 0x4000
    b = (b & <uint64_t>0x3FFFFFFFFFFFFFFF) | <uint64_t>0x8000000000000000
    for i in range(32):
        if i == 8 or i == 12 or i == 16 or i == 20:
            out[at] = c"-"
            at += 1
        if i < 16:
            out[at] = HEX_DIGITS[(a >> (60 - 4 * i)) & 15]
        else:
            out[at] = HEX_DIGITS[(b >> (60 - 4 * (i - 16))) & 15]
        at += 1
