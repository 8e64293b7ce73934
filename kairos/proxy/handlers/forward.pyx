"""The common handler: pick a backend, take a connection, send the request; where that fails, perhaps once more.

An attempt is one try at one backend (upstream/attempt.pyx). What a failed one leads to is the route's policy
(upstream/policy.pyx). Rules here:
- what may have been done once is done again only where repeating is harmless (RFC 9110 section 9.2.2) or the route
  says so, with a body still whole in our hands, before anything of an answer went out, and within the budget;
- what could not be sent costs nobody anything: it goes elsewhere without a budget, and at once;
- the next attempt goes to a backend not tried yet, as long as there is one.
"""

cimport cython
from libc.stdint cimport int64_t, uint64_t

from kairos._speedups.balance cimport ALL_FULL, NONE_LEFT
from kairos._speedups.breaker cimport ADMITTED, FAILURE, NO_VERDICT, REFUSED, TRIAL, admit, blocked
from kairos._speedups.cells cimport (
    OUT_DRAIN, OUT_MAINTENANCE, P_HEDGES, P_RETRIES, R_BUDGET_SPENT, R_EXTRA_ACTIVE, R_NO_BACKEND, SU_OPEN_UNTIL_US,
    SU_OUT, SU_SKIP_UNTIL_US, SU_WEIGHT, U_IN_FLIGHT, U_STALE_RETRIES, atomic_load
)
from kairos._speedups.hashing cimport hash_bytes
from kairos._speedups.http1 cimport (
    DELETE, GET, HEAD as HEAD_, Head, OPTIONS, PUT, Span, TRACE, equals, next_field
)
from kairos.proxy.exchange cimport Exchange, Handler, Plan, Target, Upstream
from kairos.proxy.upstream.attempt cimport enter, full, leave
from kairos.proxy.upstream.connection cimport Origin, UpstreamConnection
from kairos.proxy.upstream.head cimport write_head
from kairos.proxy.upstream.policy cimport Policy
from kairos.proxy.wire cimport monotonic_us

from kairos.proxy.errors import KINDS
from kairos.proxy.fields import retry_after

cdef enum:  # what _enter() answers, beside ADMITTED, TRIAL and REFUSED of the breaker
    NO_ROOM = -2


@cython.final
cdef class Forward(Handler):
    """Stateless: one serves all routes. What a route wants stands in its plan."""

    cpdef object handle(self, Exchange x):
        x.sent = monotonic_us()
        if (not x.request_done or x.inbox) and x.plan.policy.max_retries and _repeatable(x):
            x.kept = []
        if x.plan.queue is not None and len(x.plan.queue):
            x.plan.queue.push(x, x.sent)
        else:
            self._next(x, x.sent)

    # -- an attempt ---------------------------------------------------------------------------------------------------

    cdef int _next(self, Exchange x, int64_t now) except -1:
        """Begin an attempt at a backend that has room and whose breaker lets it through."""
        cdef Plan plan = x.plan
        cdef Target target
        cdef int why = NONE_LEFT, index, admitted, _
        for _ in range(len(plan.targets) + 1):
            index = _pick(x, now)
            if index < 0:
                why = min(why, index)
                break
            if x.tried and _was_tried(x, index) and plan.queue is not None and _some_are_full(x, now, True):
                why = ALL_FULL  # rather wait for one that was not asked yet
                break
            target = <Target>plan.targets[index]
            admitted = _enter(x, target, now)
            if admitted > REFUSED:
                return self._begin(x, target, admitted == TRIAL, now)
            if admitted == NO_ROOM:
                why = ALL_FULL
        return self._nobody(x, why, now)

    cdef int _begin(self, Exchange x, Target target, bint trial, int64_t now) except -1:
        """On a pooled connection, or open one."""
        cdef Origin origin = <Origin>target.origin
        cdef UpstreamConnection connection = None if x.fresh_only else origin.take(not _repeatable(x))
        if x.queued:
            x.plan.queue.forget(x)
        if x.retries:
            target.pair[P_RETRIES] += 1
        x.target = target
        if connection is None:
            return origin.connect(x, target, trial)
        return self._send(x, target, trial, connection, now)

    cdef int upstream_connected(self, Exchange x, Target target, bint trial, Upstream up) except -1:
        return self._send(x, target, trial, <UpstreamConnection>up, monotonic_us())

    cdef int _send(self, Exchange x, Target target, bint trial, UpstreamConnection connection, int64_t now) except -1:
        cdef char* scratch
        cdef Py_ssize_t n = write_head(x, connection.origin.authority, &scratch)
        if n < 0:
            leave(x, target, trial, NO_VERDICT, -1)
            connection.close()
            return x.fail("head_too_large")
        if x.plan.hedger is not None and x.attempts == 0 and x.request_done and _repeatable(x):
            x.plan.hedger.watch(x, now)
        return connection.begin(x, target, trial, now, scratch, n)

    cdef int _nobody(self, Exchange x, int why, int64_t now) except -1:
        """No backend may take it: wait where they are merely full, else say when to come again."""
        if x.plan.queue is not None and (why == ALL_FULL or _some_are_full(x, now, False)):
            return 0 if x.queued else x.plan.queue.push(x, now)
        x.plan.cells[R_NO_BACKEND] += 1
        seconds = _opens_in(x.plan, now)
        if seconds < 0:
            return x.fail("no_backend")
        return x.fail_with("circuit_open", [(b"Retry-After", b"%d" % seconds)])

    cdef int resume(self, Exchange x) except -1:
        return self._next(x, monotonic_us())

    # -- once more ----------------------------------------------------------------------------------------------------

    cdef int upstream_failed(self, Exchange x, Target target, bint trial, str kind, bint stale) except -1:
        """Nothing of an answer went out. A pooled connection that was dead says nothing about its backend."""
        if stale and _repeatable(x) and not x.body_lost and not x.hedging:
            target.row[U_STALE_RETRIES] += 1
            x.note_retry(kind)
            x.rewind_body()
            self._wait_on_client(x)
            return (<Origin>target.origin).connect(x, target, trial)
        x.failure = kind
        leave(x, target, trial, NO_VERDICT if stale else FAILURE, -1)
        if x.up is not None:
            return 0  # the first attempt goes on without its hedge
        if x.hedging:
            return self._wait_on_client(x)  # the hedge is all that is left
        if self._again(x, kind):
            return 0
        return x.fail(kind)

    cdef bint _again(self, Exchange x, str kind) except -1:
        """Retry after an attempt without an answer, where that is wanted and allowed."""
        cdef Policy policy = x.plan.policy
        cdef int64_t now = monotonic_us(), wait = 0
        cdef str retryable = KINDS[kind].retryable
        cdef bint sent = retryable != "yes"
        if not policy.on_errors or retryable == "no" or x.retries >= policy.max_retries:
            return False
        if sent and (not _repeatable(x) or x.body_lost or (kind == "upstream_timeout" and not policy.on_timeouts)):
            return False
        if not _elsewhere(x, now):
            if not policy.repeats:
                return False
            wait = policy.wait_us(x.retries + 1, &x.runtime.random)
        if not _in_time(x, now + wait) or (sent and not _spend(x)):
            return False
        return self._retry_in(x, wait)

    cdef bint upstream_declined(self, Exchange x, Target target, const char* base, Head* head) except -1:
        """An answer that the route would rather have from another attempt, where that is allowed."""
        cdef Policy policy = x.plan.policy
        cdef int64_t now = monotonic_us(), wait
        if x.retries >= policy.max_retries or not _repeatable(x) or x.body_lost:
            return False
        wait = policy.wait_us(x.retries + 1, &x.runtime.random)
        if not _elsewhere(x, now):
            after = _retry_after(base, head)
            if after is not None:
                if after * 1e6 > policy.most_us:
                    return False
                wait = max(wait, <int64_t>(after * 1e6))
        if not _in_time(x, now + wait) or not _spend(x):
            return False
        x.failure = f"status_{head.status}"
        return self._retry_in(x, wait or 1)

    cdef bint _retry_in(self, Exchange x, int64_t wait) except -1:
        x.retries += 1
        x.note_retry(x.failure)
        x.fresh_only = x.upgrading
        x.rewind_body()
        self._wait_on_client(x)
        if wait:
            x.task = x.runtime.clock.loop.call_later(wait / 1e6, self._retry, x)
        else:
            self._next(x, monotonic_us())
        return True

    def _retry(self, Exchange x):
        """The back-off is over."""
        x.task = None
        if not x.finished:
            self._next(x, monotonic_us())

    cdef int _wait_on_client(self, Exchange x) except -1:
        """No upstream's deadline covers x for now: its client's does."""
        if x.request_done:
            x.down.deadline = x.total_deadline
        return 0

    # -- two at once --------------------------------------------------------------------------------------------------

    cdef int hedge(self, Exchange x) except -1:
        """A second attempt beside one that is slow, at another backend."""
        cdef UpstreamConnection connection
        cdef Target target
        cdef int64_t now = monotonic_us()
        cdef int index, admitted
        if x.up is None or x.answered or (<UpstreamConnection>x.up).relayed or x.body_lost or not _elsewhere(x, now):
            return 0
        index = _pick(x, now)
        if index < 0 or _was_tried(x, index) or index == x.target.index or not _spend(x):
            return 0
        target = <Target>x.plan.targets[index]
        admitted = _enter(x, target, now)
        if admitted <= REFUSED:
            return 0
        target.pair[P_HEDGES] += 1
        x.note_retry("slow")
        x.rewind_body()
        connection = (<Origin>target.origin).take(False)
        if connection is not None:
            return self._send(x, target, admitted == TRIAL, connection, now)
        x.hedging = True
        return (<Origin>target.origin).connect(x, target, admitted == TRIAL)


# ---- which backend --------------------------------------------------------------------------------------------------

cdef int _pick(Exchange x, int64_t now) except -3:
    """Index of a backend, NONE_LEFT or ALL_FULL."""
    cdef Plan plan = x.plan
    cdef Target target
    if plan.balancer is not None:
        return plan.balancer.pick(_key(x) if plan.needs_key else 0, now, x.tried)
    target = <Target>plan.targets[0]
    if _withdrawn(target) or _shut(plan, target, now):
        return NONE_LEFT
    return ALL_FULL if full(target) else 0


cdef inline bint _withdrawn(Target target) noexcept nogil:
    """By an operator."""
    return (
        atomic_load(target.shared + SU_OUT) & (OUT_DRAIN | OUT_MAINTENANCE)
        or atomic_load(target.shared + SU_WEIGHT) == 1
    )


cdef inline bint _shut(Plan plan, Target target, int64_t now) noexcept nogil:
    """By its breaker, or an operator's word about that."""
    return target.guarded and blocked(target.shared, plan.policy.breaker.enabled, now)


cdef int _enter(Exchange x, Target target, int64_t now) except -1:
    """Take a slot and ask the breaker: ADMITTED, TRIAL, REFUSED or NO_ROOM. But for the last, it was tried."""
    cdef int admitted = ADMITTED
    if not enter(target):
        return NO_ROOM
    x.tried |= <uint64_t>1 << (target.index & 63)
    if target.guarded:
        admitted = admit(target.shared, &x.plan.policy.breaker, now)
        if admitted == REFUSED:
            leave(x, target, False, NO_VERDICT, -1)
    return admitted


cdef inline bint _was_tried(Exchange x, int index) noexcept nogil:
    return x.tried >> (index & 63) & 1


cdef bint _elsewhere(Exchange x, int64_t now) noexcept:
    """Whether there is a backend, healthy and not tried yet."""
    cdef Target target
    for item in x.plan.targets:
        target = <Target>item
        if (
            not _was_tried(x, target.index) and atomic_load(target.shared + SU_OUT) == 0 and not _withdrawn(target)
            and atomic_load(target.shared + SU_SKIP_UNTIL_US) <= now
            and not _shut(x.plan, target, now)
        ):
            return True
    return False


cdef bint _some_are_full(Exchange x, int64_t now, bint untried) noexcept:
    """Whether a backend (that was not tried yet) would do, had it a slot."""
    cdef Target target
    for item in x.plan.targets:
        target = <Target>item
        if (
            full(target) and not _withdrawn(target) and not (untried and _was_tried(x, target.index))
            and not _shut(x.plan, target, now)
        ):
            return True
    return False


cdef object _opens_in(Plan plan, int64_t now):
    """Seconds until a breaker lets somebody through, at least 1; -1 where none is in the way."""
    cdef Target target
    cdef int64_t first = -1, left
    for item in plan.targets:
        target = <Target>item
        if _shut(plan, target, now):
            left = max(0, atomic_load(target.shared + SU_OPEN_UNTIL_US) - now)
            first = left if first < 0 else min(first, left)
    return first if first < 0 else first // 1000000 + 1


cdef unsigned long long _key(Exchange x) noexcept:
    cdef Py_ssize_t n = 0
    cdef const char* text = x.client_text(&n)
    return hash_bytes(text, n, 0)


# ---- whether once more ----------------------------------------------------------------------------------------------

cdef bint _repeatable(Exchange x) noexcept:
    """Whether it is harmless, or declared to be, that the request is done twice."""
    cdef int method = x.head.method
    return not x.upgrading and (
        method == GET or method == HEAD_ or method == OPTIONS or method == TRACE or method == PUT or method == DELETE
        or x.plan.policy.any_method
    )


cdef bint _in_time(Exchange x, int64_t at) noexcept:
    return not x.total_deadline or at < x.total_deadline


cdef bint _spend(Exchange x) noexcept:
    """Have a retry or hedge from the route's budget, once for all those of an exchange."""
    cdef int64_t* cells = x.plan.cells
    cdef int64_t live = 0
    if x.extra:
        return True
    for item in x.plan.targets:
        live += (<Target>item).row[U_IN_FLIGHT]
    if not x.plan.policy.affords(cells[R_EXTRA_ACTIVE], live):
        cells[R_BUDGET_SPENT] += 1
        return False
    cells[R_EXTRA_ACTIVE] += 1
    x.extra = True
    return True


cdef object _retry_after(const char* base, Head* head):
    """Seconds the answer asks to wait, or None (RFC 9110 section 10.2.3)."""
    cdef Py_ssize_t pos = head.fields
    cdef Span name, value
    while next_field(base, head, &pos, &name, &value):
        if equals(base + name.start, name.end - name.start, b"retry-after", 11):
            return retry_after(base[value.start:value.end])
    return None
