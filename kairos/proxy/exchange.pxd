"""One request and its response, from the head that was scanned to the line that is logged."""

from libc.stdint cimport int32_t, int64_t, uint64_t

from kairos._speedups.balance cimport Balancer
from kairos._speedups.http1 cimport Chunks, Head, Limits, Span
from kairos._speedups.routes cimport Match, RouteTable, Template
from kairos._speedups.tls cimport TlsServer, TlsSession
from kairos.proxy.edits cimport Edits
from kairos.proxy.peers cimport Networks
from kairos.proxy.pump cimport Pump, Tunnel
from kairos.proxy.upstream.policy cimport Policy
from kairos.proxy.wire cimport Clock, Wire, iovec
from kairos.telemetry.accesslog cimport AccessLog


cdef enum:
    PIECES = 60                 # slices of a body handed over at once


cdef struct Slices:             # a run of body bytes; iov[0] and the two behind the last are for framing
    iovec iov[64]
    int count                   # pieces at iov[1] .. iov[count]
    bint last                   # nothing follows
    Py_ssize_t total


cdef inline void clear_slices(Slices* s) noexcept nogil:
    s.count = 0
    s.last = False
    s.total = 0


cdef inline void add_slice(Slices* s, const char* p, Py_ssize_t n) noexcept nogil:
    s.count += 1
    s.iov[s.count].iov_base = <void*>p
    s.iov[s.count].iov_len = n
    s.total += n


cdef int gather(Chunks* chunks, const char** p, Py_ssize_t* n, Slices* body, Slices* trailer) noexcept nogil
cdef bytes joined(Slices* slices)


cdef enum Framing:              # how a response body is delimited towards the client
    F_NONE = 0                  # no body (HEAD, 204, 304, 1xx)
    F_LENGTH = 1
    F_CHUNKED = 2
    F_CLOSE = 3                 # HTTP/1.0 client and unknown length: until the connection ends


cdef class Settings:
    """What a snapshot says about every route, in the units the hot path wants (µs, bytes)."""
    cdef Limits limits
    cdef int64_t head_us, idle_us, body_idle_us, write_idle_us
    cdef int64_t requests_per_connection
    cdef int64_t connections_per_ip
    cdef int64_t body_rate
    cdef int path_flags         # of normalize_path()
    cdef bint keep_request_id
    cdef int max_informational
    cdef bytes via              # pseudonym, may be empty
    cdef Networks trusted       # peers whose forwarding headers are believed; None: nobody's
    cdef Networks proxies       # peers whose connections begin with a PROXY header; None: nobody's
    cdef bint unix_proxies      # those of unix sockets do
    cdef int64_t proxy_us, handshake_us


cdef class Target:
    """A backend as one route sees it."""
    cdef readonly object origin         # pool of connections: upstream.pool.Origin
    cdef readonly str key               # "scheme://host:port", as in logs and metrics
    cdef bytes log_key                  # the same, JSON-escaped
    cdef int64_t* pair                  # P_* cells of (route, upstream) in this worker's row
    cdef int64_t* row                   # U_* cells in this worker's row
    cdef int64_t* shared                # SU_* cells all workers write
    cdef readonly int index             # in plan.targets
    cdef bint guarded                   # the shared cells are its own, so there is a breaker
    cdef int64_t limit                  # requests under way at once over all workers, 0 for no limit
    cdef int64_t* in_flight             # first worker's U_IN_FLIGHT, for the limit
    cdef Py_ssize_t workers, stride     # how many such cells, and how far apart


cdef class Filter:
    """A policy: see the hooks in exchange.pyx. Subclass in Cython or Python; list it in filters/__init__.py."""
    cdef readonly bint answers_preflights   # of CORS, for the route that serves the method asked for
    cpdef object on_request(self, Exchange x)
    cpdef object on_response(self, Exchange x)
    cpdef object on_finish(self, Exchange x)


cdef class BodyPipe:
    """What a response's body passes on its way to the client: see exchange.pyx."""
    cpdef bytes feed(self, bytes data)
    cpdef bytes finish(self)
    cpdef object abort(self)


cdef class Handler:
    """What ends a route's chain."""
    cpdef object handle(self, Exchange x)
    cdef int upstream_connected(self, Exchange x, Target target, bint trial, Upstream up) except -1
    cdef int upstream_failed(self, Exchange x, Target target, bint trial, str kind, bint stale) except -1
    cdef bint upstream_declined(self, Exchange x, Target target, const char* base, Head* head) except -1
    cdef int resume(self, Exchange x) except -1
    cdef int hedge(self, Exchange x) except -1


cdef class Plan:
    """A route compiled: its filters in order, then one handler, and all that would else be looked up per request."""
    cdef readonly str name              # the route's external path, host in front where it has one
    cdef readonly str variant           # of the route's split; empty: none
    cdef public dict branches           # plans of the route's variants and mirror by name, shared by all of them
    cdef bytes log_name                 # the same, JSON-escaped
    cdef readonly object route          # config.model.Route, None for built-in ones
    cdef readonly tuple request_filters, response_filters, finish_filters
    cdef readonly Handler handler
    cdef Settings settings
    cdef Template template              # internal path; None where nothing is forwarded
    cdef Balancer balancer              # None with one target
    cdef readonly list targets
    cdef int64_t* cells                 # R_* cells of this worker's row
    cdef int64_t* pair                  # P_* cells of (route, no upstream)
    cdef int64_t body_limit             # bytes, 0 for none
    cdef int64_t connect_us, first_byte_us, read_idle_us, total_us, tunnel_idle_us
    cdef bint upgrade                   # WebSocket upgrades may pass
    cdef bint websocket                 # and nothing else
    cdef bint preserve_host
    cdef bint preflights                # a filter answers CORS preflights for it
    cdef bint needs_key                 # the balancer hashes the client's address
    cdef bint measures                  # the balancer wants to know how long responses took
    cdef Policy policy                  # what a backend's failures lead to; None where nothing is forwarded
    cdef readonly object queue          # upstream.queue.WaitQueue where backends have limits, else None
    cdef readonly object hedger         # upstream.hedge.Hedger, or None
    cdef int shed_from                  # shed level from which on requests may be turned away


cdef class Runtime:
    """One data-plane process: the snapshot in force and what every connection shares."""
    cdef readonly Clock clock
    cdef Pump pump                      # of tunnels
    cdef readonly object snapshot       # proxy.snapshot.Snapshot in force
    cdef RouteTable table
    cdef tuple plans                    # by the table's index
    cdef Plan unrouted                  # counts and logs what no route took
    cdef Settings settings
    cdef TlsServer tls                  # how connections to the secure port are served; None: there is none
    cdef AccessLog log                  # None: off
    cdef object scoreboard
    cdef int64_t* worker                # W_* cells
    cdef char* scratch                  # heads are built here, then sent in the same call
    cdef Py_ssize_t scratch_size
    cdef uint64_t random        # state of next_random()
    cdef public bint draining
    cdef dict per_ip                    # address -> open connections, where limited
    cdef public int64_t max_connections  # of clients; 0 for no limit
    cdef public int shed_level          # see shed.py; 0: nothing is turned away
    cdef readonly list queues           # WaitQueues somebody waits in
    cdef object queue_timer             # looks at them while there are any
    cdef bint queues_due                # a look at them is planned for this turn of the loop
    cdef int serve_queues_soon(self) except -1
    cdef char* room(self, Py_ssize_t n) except NULL
    cdef Exchange acquire(self)


cdef class Downstream(Wire):
    """Who asked: an HTTP/1.1 connection, later also one stream of an HTTP/2 connection.

    Response verbs, in order: one relay_head() or answer_head(), any body(), one end().
    """
    cdef int local_port                 # 0 on a unix socket
    cdef bint secure                    # over TLS
    cdef int relay_head(self, Exchange x, const char* base, Head* head) except -1
    cdef int answer_head(self, Exchange x, int status, object headers, int64_t length) except -1
    cdef int body(self, Exchange x, Slices* slices, bytes owner) except -1
    cdef int end(self, Exchange x, bytes trailers) except -1
    cdef int flush(self, Exchange x) except -1
    cdef int hold(self, Exchange x) except -1
    cdef int unhold(self, Exchange x) except -1
    cdef bint congested(self, Exchange x) noexcept
    cdef int informational(self, Exchange x, const char* base, Head* head) except -1
    cdef int proceed(self, Exchange x) except -1
    cdef bint withdraw(self, Exchange x) except -1
    cdef int cut(self, Exchange x) except -1
    cdef int ended(self, Exchange x) except -1
    cdef int tunnel(self, Exchange x, const char* base, Head* head) except -1
    cdef int tunnel_bytes(self, Exchange x, bytes owner, const char* p, Py_ssize_t n) except -1
    cdef const char* address(self, Py_ssize_t* n) noexcept


cdef class Upstream(Wire):
    """Who answers: a connection that carries one exchange at a time, later also one stream of many."""
    cdef int request_body(self, Exchange x, Slices* slices, bytes owner) except -1
    cdef int request_end(self, Exchange x, bytes trailers) except -1
    cdef int cancel(self, Exchange x, int outcome) except -1
    cdef int release(self, Exchange x) except -1
    cdef int tunnel_bytes(self, Exchange x, bytes owner, const char* p, Py_ssize_t n) except -1


cdef class Exchange:
    cdef readonly Runtime runtime
    cdef Downstream down
    cdef Upstream up                    # None until the handler has one
    cdef readonly Plan plan
    cdef Upstream rival                 # a hedge beside `up`, until one of them answers
    cdef Target target                  # backend picked, None for answers of our own
    cdef uint64_t tried                 # backends asked so far, a bit for each 64th
    cdef int retries                    # further attempts begun
    cdef bint extra                     # counted in R_EXTRA_ACTIVE
    cdef bint hedging                   # a hedge is being dialled
    cdef bint queued                    # waits in plan.queue
    cdef str failure                    # why the last attempt failed
    cdef const char* retried_for        # why the last further one was made, NULL: there was none
    # request
    cdef bytes data                     # holds the head
    cdef const char* base               # the head's first byte in data
    cdef Head head
    cdef RouteTable table               # that matched: a reload may have brought another since
    cdef Match match
    cdef bytes path_owner               # holds the path where it had to be rewritten
    cdef const char* path_start         # normalised: matched, authorised and forwarded
    cdef int32_t path_size
    cdef int32_t query                  # offset of "?" in the head, or of the target's end
    cdef bytes body_owner               # body bytes that came with the head
    cdef const char* body_start
    cdef Py_ssize_t body_size
    cdef int64_t body_left              # of a Content-Length body
    cdef Chunks chunks
    cdef bytes request_trailers
    cdef bytes own_target               # path and query to send instead of the template's, None: that
    cdef int64_t own_length             # of a body that replaced the client's, -1: none did
    cdef list kept                      # body passed on so far, for being sent again; None: not kept
    cdef Py_ssize_t kept_bytes
    cdef bint body_lost                 # more was passed on than was kept
    cdef int64_t bytes_in
    cdef int64_t body_limit             # of the body, 0 for none
    cdef int64_t body_rate              # bytes per second at which it has to come
    cdef int64_t paced_from             # monotonic µs since when the body's rate is judged
    cdef int64_t paced_bytes            # bytes_in then
    cdef readonly bint request_done     # the whole request was read
    cdef bint preflight                 # of CORS: routed by the method it asks for, and never handed on
    cdef bint proceeded                 # 100 Continue was sent
    cdef bint upgrading                 # a valid WebSocket handshake
    cdef bint last                      # asked for WebSocket: what follows the head may be frames, never a request
    # response
    cdef readonly int status            # what the client is told; 0 until known
    cdef int upstream_status            # what the upstream said
    cdef const char* response_base      # the upstream's head, while the response filters run
    cdef Head* response_head            # NULL at all other times
    cdef object answer_headers          # of an answer made here, for the response filters
    cdef int64_t body_length            # Content-Length of the response, -1: not known
    cdef list pipes                     # of the response's body, None: it passes as it is
    cdef readonly bint head_sent
    cdef readonly bint tunnelling
    cdef Tunnel* joined                 # both ends are with the pump, NULL: not
    cdef bint event_stream              # open for as long as something comes: no total timeout
    cdef int framing                    # Framing
    cdef int64_t bytes_out
    cdef int64_t promised               # bytes of an announced length that a Python handler has still to write
    # account
    cdef int64_t started, sent, answered, upstream_us  # monotonic µs, sent is the first attempt's; a duration
    cdef int64_t total_deadline
    cdef readonly int attempts          # requests sent upstream
    cdef bint fresh_only                # never on a pooled connection
    cdef const char* flag
    cdef const char* detail
    cdef const char* cached             # what the cache did, for the log; NULL: none was asked
    cdef char request_id[40]            # generated, where the client sent none that may be kept
    cdef bint own_id
    cdef readonly bint finished
    # filters and Python handlers
    cdef int step                       # next request filter
    cdef bint handled                   # the handler was called
    cdef bint filtered                  # the response filters run or ran
    cdef bint refiltered                # and will not run once more
    cdef bint filtering                 # one of them is being asked
    cdef int back                       # next response filter
    cdef Py_ssize_t early_edits         # response edits made before the response filters ran
    cdef list request_edits             # fields.Edit
    cdef list response_edits
    cdef bytes early_lines              # those of them that were there before the response filters ran
    cdef bytes response_lines           # whole lines for the client beside all others, made in advance; None: none
    cdef object task                    # coroutine of a filter or handler
    cdef Py_ssize_t inbox_bytes         # held in inbox
    cdef list inbox                     # request body for Python, None: nobody reads there
    cdef object waiter                  # future of all who wait for body or room
    cdef public object state            # free for filters of this exchange (None)
    cdef public object notes            # dict of what filters keep for this exchange, by filter; None until used
    cdef public object identity         # identity.Identity of who asks; None: nobody said
    cdef list tapped                    # copy of the request body so far, None: nobody wants one
    cdef Py_ssize_t tap_left            # bytes it may still grow, negative: it was too much
    cdef bint detached                  # made by the worker itself: neither filtered, counted nor logged

    cdef int begin(self) except -1
    cdef int advance(self) except -1
    cdef int _want_body(self) except -1
    cdef int take_body(self, Slices* slices, bytes owner) except -1
    cdef int end_body(self) except -1
    cdef int rewind_body(self) except -1
    cdef int _pass_body(self, Slices* slices) except -1
    cdef int _tap(self, Slices* slices) except -1
    cdef int edit_request(self, Edits edits) except -1
    cdef int edit_response(self, Edits edits) except -1
    cdef bytes render_target(self, Plan plan)
    cdef int note_retry(self, str why) except -1
    cdef int let_go(self, int outcome) except -1
    cdef int _turn_away(self) except -1
    cdef bint _sheds(self) noexcept
    cdef int fail(self, str kind) except -1
    cdef int fail_with(self, str kind, object headers) except -1
    cdef int set_upstream_head(self, const char* base, Head* head) except -1
    cdef bint sends_chunks(self) noexcept
    cdef int send_body(self, Slices* slices, bytes owner) except -1
    cdef int send_end(self, bytes trailers) except -1
    cdef int _abort_pipes(self) except -1
    cdef int join_ends(self) except -1
    cdef int part(self, int64_t now) except -1
    cdef int finish(self) except -1
    cdef int gone(self) except -1
    cdef int wake(self) except -1
    cdef Span request_field(self, const char* lower, Py_ssize_t n) noexcept
    cdef int add_response_lines(self, bytes lines) except -1
    cdef int cut_response_fields(self, bytes names) except -1
    cdef bint _normalize(self) except -1
    cdef bint _route(self) except -1
    cdef bint _route_preflight(self, const char* host, Py_ssize_t n) except -1
    cdef int _unroutable(self, int code) except -1
    cdef bint _expects_continue(self) noexcept
    cdef bint _check_upgrade(self) except -1
    cdef bint _websocket_key(self) noexcept
    cdef int _crashed(self, object error) except -1
    cdef bint _filter_back(self) except -1
    cdef int _replace_response(self) except -1
    cdef int _settle(self, object outcome, bint is_filter) except -1
    cdef int _start(self, int status, object headers, int64_t length) except -1
    cdef object _shown_detail(self, str kind)
    cdef int _count_failure(self, str kind, object row) except -1
    cdef int reply(self, object response) except -1
    cdef int _verdict(self) noexcept
    cdef int _start_stored(self, int status, bytes lines, int64_t length) except -1
    cdef int _write(self, bytes data) except -1
    cdef int _filter_finish(self) except -1
    cdef int _stop_python(self) except -1
    cdef int _log(self, int64_t now, int64_t total, int64_t upstream) except -1
    cdef const char* id_text(self, Py_ssize_t* n) noexcept
    cdef const char* client_text(self, Py_ssize_t* n) noexcept
    cdef bint trusted_peer(self) noexcept
    cdef bint encrypted(self) noexcept
    cdef bytes _bare_host(self)
    cdef int run(self, object awaitable, bint is_filter) except -1
