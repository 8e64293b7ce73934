"""Requests that the worker makes itself, over the plans, pools and breakers that clients' requests use.

For revalidation, mirroring, asking other services. Rules here: the response is held in memory, so it has a limit; no
filter runs, nothing is counted or logged as a client's request; the one who waits may go away at any time.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport int64_t

from kairos._speedups.cells cimport W_REQUESTS_ACTIVE
from kairos._speedups.http1 cimport Head, Span, next_field, scan_request
from kairos.proxy.exchange cimport Downstream, Exchange, Plan, Runtime, Slices, joined
from kairos.proxy.wire cimport monotonic_us

from kairos.proxy.edits import edit
from kairos.proxy.fields import REQUEST_OWN, check_target, request_head

LIMIT = 1 << 20


class Fetched:
    """What came of a request: `failure` is None, or the row of the error table, and then nothing else counts."""

    __slots__ = ("body", "failure", "headers", "status")

    def __init__(self, int status, list headers, bytes body, failure=None):
        self.status = status
        self.headers = headers
        self.body = body
        self.failure = failure

    def header(self, bytes name):
        """Value of the first field of this name (lower case), or None."""
        return next((value for key, value in self.headers if key.lower() == name), None)

    def __repr__(self):
        return f"<Fetched {self.failure or self.status}>"


def fetch(Runtime runtime, Plan plan, str method, bytes target, headers=(), bytes body=b"", *,
          Py_ssize_t limit=LIMIT, bytes client=b"unknown", bint secure=False):
    """Send a request on a plan and give a future of its Fetched. It never raises but by being cancelled.

    `target` is the path and query sent upstream, `headers` a list of (name, value) in bytes: a Host is sent upstream
    where the plan preserves it, framing and forwarding fields are ours, and tell of
    `client`, and with `secure` of https. A body of more than `limit` bytes fails.

    Raises:
        ValueError: the target or a header would break the head apart.
    """
    cdef Detached down = Detached.__new__(Detached)
    cdef Exchange x = runtime.acquire()
    cdef bytes head
    headers = list(headers)
    check_target(target)
    head = request_head(method, target, headers, len(body))
    if scan_request(PyBytes_AS_STRING(head), len(head), &runtime.settings.limits, &x.head) != len(head):
        raise ValueError(f"not a request: {head[:200]!r}")
    x.data = head
    x.base = PyBytes_AS_STRING(head)
    x.plan = plan
    x.own_target = target
    x.request_edits = _forwarding(headers)
    down.runtime = runtime
    down.limit = limit
    down.client = client
    down.secure = secure
    down.future = runtime.clock.loop.create_future()
    down._begin(x, body)
    return down.future


def _forwarding(headers):
    """X-Forwarded-* that only the one who asks here can know; a client's own are taken out of every head."""
    return [
        edit(name.decode("latin-1"), value, REQUEST_OWN) for name, value in headers
        if name.lower().startswith(b"x-forwarded-") and name.lower() not in REQUEST_OWN
    ] or None


@cython.final
cdef class Detached(Downstream):
    """Made by fetch()."""

    cdef int _begin(self, Exchange x, bytes body) except -1:
        cdef Runtime runtime = self.runtime
        self.x = x
        self.clock = runtime.clock
        self.clock.add(self)
        self.fd = -1
        self.headers = []
        self.pieces = []
        runtime.worker[W_REQUESTS_ACTIVE] += 1
        x.down = self
        x.detached = True
        x.request_done = True
        x.started = monotonic_us()
        x.step = len(x.plan.request_filters)
        if x.plan.total_us:
            x.total_deadline = x.started + x.plan.total_us
        self.deadline = x.total_deadline
        if body:
            x.body_owner = body
            x.body_start = PyBytes_AS_STRING(body)
            x.body_size = PyBytes_GET_SIZE(body)
        self.future.add_done_callback(self._unwanted)
        return x.advance()

    def _unwanted(self, future):
        cdef Exchange x = self.x  # held: its end lets go of it
        if x is not None:
            x.gone()

    cdef int on_deadline(self, int64_t now) except -1:
        cdef Exchange x = self.x
        if x is None:
            return 0
        if x.total_deadline and now >= x.total_deadline:
            return x.fail("total_timeout")
        self.deadline = x.total_deadline
        return 0

    cdef int relay_head(self, Exchange x, const char* base, Head* head) except -1:
        cdef Py_ssize_t pos = head.fields
        cdef Span name, value
        self.status = head.status
        while next_field(base, head, &pos, &name, &value):
            self.headers.append((base[name.start:name.end], base[value.start:value.end]))
        x.head_sent = True
        return 0

    cdef int answer_head(self, Exchange x, int status, object headers, int64_t length) except -1:
        self.status = status
        self.headers = list(headers)
        self.own = True
        x.head_sent = True
        return 0

    cdef int body(self, Exchange x, Slices* slices, bytes owner) except -1:
        self.size += slices.total
        if self.size > self.limit and not self.own:
            return x.fail("upstream_too_large")
        self.pieces.append(joined(slices))
        return 0

    cdef int end(self, Exchange x, bytes trailers) except -1:
        return 0

    cdef int flush(self, Exchange x) except -1:
        return 0

    cdef int hold(self, Exchange x) except -1:
        return 0

    cdef int unhold(self, Exchange x) except -1:
        return 0

    cdef bint congested(self, Exchange x) noexcept:
        return False

    cdef int informational(self, Exchange x, const char* base, Head* head) except -1:
        return 0

    cdef int proceed(self, Exchange x) except -1:
        return 0

    cdef bint withdraw(self, Exchange x) except -1:
        """Nobody saw anything of it yet."""
        x.head_sent = False
        self.headers = []
        self.pieces = []
        return True

    cdef int cut(self, Exchange x) except -1:
        self.broken = True
        return 0

    cdef int ended(self, Exchange x) except -1:
        self.x = None
        self.deadline = 0
        self.clock.remove(self)
        if not self.future.done():
            failure = x.failure or "internal" if self.own or self.broken else None
            self.future.set_result(Fetched(self.status, self.headers, b"".join(self.pieces), failure))
        return 0

    cdef const char* address(self, Py_ssize_t* n) noexcept:
        n[0] = PyBytes_GET_SIZE(self.client)
        return PyBytes_AS_STRING(self.client)

    # -- drain: as of any client --------------------------------------------------------------------------------------

    def drain(self):
        """It ends by itself."""

    def kill(self):
        """The drain deadline passed."""
        cdef Exchange x = self.x
        if x is not None:
            self.broken = True
            x.gone()

    @property
    def idle(self):
        return False
