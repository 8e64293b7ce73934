"""One try of an exchange at one backend: the slot it takes, and what the backend's breaker is told of it.

Every enter() that was granted is followed by exactly one leave(). An outcome is SUCCESS, FAILURE or NO_VERDICT of
kairos._speedups.breaker.
"""

from libc.stdint cimport int64_t

from kairos._speedups.breaker cimport Breaker, CLOSED, FAILURE, NO_VERDICT, OPEN, SUCCESS, at_rest, settle
from kairos._speedups.cells cimport (
    U_ANSWER_US, U_ANSWERS, U_ATTEMPTS, U_FAILURES, U_IN_FLIGHT, ordered_add, ordered_load
)
from kairos.proxy.exchange cimport Exchange, Target
from kairos.proxy.wire cimport monotonic_us

from kairos.telemetry.log import get_logger

log = get_logger("upstream")


cdef int64_t _under_way(Target target) noexcept nogil:
    """Requests of all workers. Each adds its own first and then looks: together they never exceed the limit."""
    cdef int64_t total = 0
    cdef Py_ssize_t worker
    for worker in range(target.workers):
        total += ordered_load(target.in_flight + worker * target.stride)
    return total


cdef bint full(Target target) noexcept nogil:
    """Whether enter() would refuse just now."""
    return target.limit and _under_way(target) >= target.limit


cdef bint enter(Target target) noexcept nogil:
    """Take a slot of the backend; False when all its max_requests are taken."""
    if not target.limit:
        target.row[U_IN_FLIGHT] += 1
        return True
    ordered_add(target.row + U_IN_FLIGHT, 1)
    if _under_way(target) <= target.limit:
        return True
    ordered_add(target.row + U_IN_FLIGHT, -1)
    return False


cdef int leave(Exchange x, Target target, bint trial, int outcome, int64_t us) except -1:
    """The attempt is over; `us`: from the request sent to the response's head, -1 without one."""
    account(x, target, outcome, us)
    return tell(x, target, trial, outcome)


cdef int account(Exchange x, Target target, int outcome, int64_t us) except -1:
    """Give the slot back and count how it went."""
    if target.limit:
        ordered_add(target.row + U_IN_FLIGHT, -1)
        if x.runtime.queues:
            x.runtime.serve_queues_soon()
    else:
        target.row[U_IN_FLIGHT] -= 1
    if us >= 0:
        target.row[U_ANSWERS] += 1
        target.row[U_ANSWER_US] += us
    if outcome != NO_VERDICT:
        target.row[U_ATTEMPTS] += 1
        target.row[U_FAILURES] += outcome == FAILURE
        if x.plan.measures:
            x.plan.balancer.observe_attempt(target.index, us, outcome != FAILURE, monotonic_us())
    return 0


cdef int tell(Exchange x, Target target, bint trial, int outcome) except -1:
    """Let the breaker know, which nearly always need not hear of a success."""
    cdef const Breaker* breaker = &x.plan.policy.breaker
    cdef int moved
    if not target.guarded or (outcome == SUCCESS and at_rest(target.shared)):
        return 0
    moved = settle(target.shared, breaker, outcome, trial, monotonic_us())
    if moved == OPEN:
        log.warning("circuit breaker opened", upstream=target.key, route=x.plan.name,
                    reason="a trial failed" if trial else f"{breaker.failure_threshold} failures in a row",
                    last=x.failure or f"status_{x.upstream_status}", reset_s=breaker.reset_us / 1e6)
    elif moved == CLOSED:
        log.info("circuit breaker closed", upstream=target.key, route=x.plan.name)
    return 0
