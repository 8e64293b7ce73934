"""Rate limits: takes each request's share of the limits that hold on its route, or answers 429.

Two of these may be on a route: one before it is known who asks, one after. Of one filter's limits all grant or none is
charged. Counts lie in shared memory; those shared with other nodes are leased from there ahead of time (leases.py), and
only a request that finds no lease waits for one.
"""

import hashlib

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

from kairos._speedups.cells cimport L_ALLOWED, L_CELLS, L_LIMITED, L_UNSHARED, Page
from kairos._speedups.hashing cimport hash_bytes, hash_word
from kairos._speedups.http1 cimport Span, equals, next_field
from kairos._speedups.limits cimport ASK, Grant, Lease, Limit, LimitTable
from kairos.proxy.exchange cimport Exchange, Filter
from kairos.proxy.peers cimport Networks, parse_address
from kairos.proxy.wire cimport monotonic_us

cdef enum:
    BY_NOTHING
    BY_ADDRESS
    BY_USER
    BY_KEY
    BY_HEADER

cdef enum:
    A_IP
    A_PASS
    A_SHARE

cdef enum:
    F_LOCAL
    F_OPEN
    F_CLOSED

cdef enum:
    CLOSED = -2                     # of Meter.take(): not to be had while what is shared is not there
    ITEM = 128                      # bytes one meter says of itself in a header

_BY = {
    "PerIP": BY_ADDRESS, "PerIPAndRoute": BY_ADDRESS, "PerUser": BY_USER, "PerUserAndRoute": BY_USER,
    "PerRoute": BY_NOTHING, "Header": BY_HEADER, "ApiKey": BY_KEY,
}
_ANONYMOUS = {"ip": A_IP, "pass": A_PASS, "share": A_SHARE}
_FAILURES = {"local": F_LOCAL, "fail_open": F_OPEN, "fail_closed": F_CLOSED}

cdef uint64_t LOCAL = 0x6A09E667F3BCC909  # sets what is counted alone apart from what was leased


cdef class Shared:
    """Base of leases.Leases."""

    def __cinit__(self, *_):
        self.up = True
        self.asking = {}

    def ahead(self, Meter meter, key, text):
        """A lease goes to its end: get the next one."""
        raise NotImplementedError


# ---- one limit -------------------------------------------------------------------------------------------------------

@cython.final
cdef class Meter:

    def __init__(self, rule, Limit limit, LimitTable table, seed, Page page, Py_ssize_t cells):
        spec = rule.spec
        identity = rule.identity.encode()
        table.fits(limit)
        self.rule = rule
        self.limit = limit
        self.table = table
        self.seed = hash_bytes(identity, len(identity), <uint64_t>seed)
        self.cost = spec.cost
        self.by = _BY[spec.strategy]
        self.anonymous = _ANONYMOUS[spec.anonymous]
        self.failure = _FAILURES[spec.redis_failure]
        self.bits4 = 96 + spec.ipv4_prefix
        self.bits6 = spec.ipv6_prefix
        self.exempt = Networks(spec.exempt) if spec.exempt else None
        self.header = (spec.header or "").lower().encode()
        self.cells = page.at(cells, L_CELLS)
        self.item = b'"%b";r=' % rule.policy.encode() if spec.headers in ("standard", "both") else b""
        self.legacy = spec.headers in ("legacy", "both")
        self.place = f"{spec.redis_key_prefix}:{hashlib.blake2b(identity, digest_size=8).hexdigest()}"

    def by_key(self):
        """Count by API key, whatever the strategy says: for the limit of a key."""
        self.by = BY_KEY
        return self

    def share(self, Shared shared, Lease lease, LimitTable leases):
        """Count together with other nodes; without a lease they are asked each time."""
        self.shared = shared
        self.lease = lease
        self.leases = leases
        return self

    @property
    def policy(self):
        """What RateLimit-Policy says of it; empty: nothing."""
        spec = self.rule.spec
        return f'"{self.rule.policy}";q={self.limit.capacity};w={spec.window_duration}' if self.item else ""

    @property
    def tells_legacy(self):
        return self.legacy

    # -- whose requests ------------------------------------------------------------------------------------------------

    cdef bint counts(self, Exchange x, uint64_t* key) except -1:
        """Whether this request is counted, and as whose."""
        cdef Py_ssize_t n = 0
        cdef const char* p
        if self.exempt is not None:
            p = x.client_text(&n)
            if self.exempt.contains(p, n):
                return False
        if self.by == BY_ADDRESS:
            return self._by_address(x, self.seed, key)
        if self.by == BY_NOTHING:
            key[0] = self.seed
            return True
        if self.by == BY_HEADER:
            p = _field(x, self.header, &n)
            return self._nobody(x, key) if p == NULL else self._by_text(p, n, key)
        who = _who(x.identity, self.by)
        if who is None:
            return self._nobody(x, key)
        return self._by_text(PyBytes_AS_STRING(who), PyBytes_GET_SIZE(who), key)

    cdef bint _by_text(self, const char* p, Py_ssize_t n, uint64_t* key) noexcept:
        key[0] = hash_bytes(p, n, self.seed)
        return True

    cdef bint _nobody(self, Exchange x, uint64_t* key) noexcept:
        """What is counted was not there."""
        if self.anonymous == A_IP:
            return self._by_address(x, hash_word(self.seed), key)
        key[0] = hash_word(self.seed + 1)
        return self.anonymous == A_SHARE

    cdef bint _by_address(self, Exchange x, uint64_t seed, uint64_t* key) noexcept:
        cdef unsigned char address[16]
        key[0] = hash_bytes(<const char*>address, 16 if self.masked(x, address) else 0, seed)
        return True

    cdef bint masked(self, Exchange x, unsigned char* address) noexcept:
        """The part of the client's address that is one client. False for a unix socket: nobody knows."""
        cdef Py_ssize_t n = 0
        cdef const char* text = x.client_text(&n)
        cdef int bits, whole, i
        cdef uint64_t high
        if not parse_address(text, n, address):
            return False
        memcpy(&high, address, 8)
        bits = self.bits4 if high == 0 and address[8] == 0 and address[9] == 0 and address[10] == 0xFF \
            and address[11] == 0xFF else self.bits6
        whole = bits >> 3
        if whole < 16:
            address[whole] &= <unsigned char>(0xFF00 >> (bits & 7))
            for i in range(whole + 1, 16):
                address[i] = 0
        return True

    def text_of(self, Exchange x):
        """Whose request it is, the same on every node, and nobody's name or address in the clear."""
        cdef unsigned char address[16]
        cdef Py_ssize_t n = 0
        cdef const char* p = NULL
        who = None
        if self.by == BY_NOTHING:
            return "all"
        if self.by == BY_HEADER:
            p = _field(x, self.header, &n)
            who = p[:n] if p != NULL else None
        elif self.by != BY_ADDRESS:
            who = _who(x.identity, self.by)
        if who is not None:
            return "key:" + hashlib.blake2b(who, digest_size=16).hexdigest()
        if self.by != BY_ADDRESS and self.anonymous == A_SHARE:
            return "nobody"
        return ("ip:" if self.by == BY_ADDRESS else "nobody:") + (
            (<const char*>address)[:16].hex() if self.masked(x, address) else "local")

    # -- taking --------------------------------------------------------------------------------------------------------

    cdef int64_t look(self, uint64_t key, int64_t now_us) noexcept nogil:
        """What take() would say, where it is known here."""
        if self.shared is None:
            return self.table.look(key, self.limit, now_us, self.cost)
        if self.lease is not None:
            return self.leases.look(key, self.lease, now_us, self.cost)
        return ASK

    cdef int64_t take(self, uint64_t key, int64_t now_us, Grant* grant) noexcept nogil:
        """0: granted; µs to wait; ASK: whom it is shared with is to be asked; or CLOSED."""
        cdef int64_t wait = ASK
        if self.shared is None:
            return self.table.take(key, self.limit, now_us, self.cost, grant)
        memset(grant, 0, sizeof(Grant))
        if self.lease is not None:
            wait = self.leases.take(key, self.lease, now_us, self.cost, grant)
        return self.fall_back(key, now_us, grant) if wait == ASK and not self.shared.up else wait

    cdef int64_t fall_back(self, uint64_t key, int64_t now_us, Grant* grant) noexcept nogil:
        """What is shared is not there."""
        self.cells[L_UNSHARED] += 1
        memset(grant, 0, sizeof(Grant))
        grant.left = self.limit.capacity
        if self.failure == F_LOCAL:
            return self.table.take(key ^ LOCAL, self.limit, now_us, self.cost, grant)
        return 0 if self.failure == F_OPEN else CLOSED

    cdef void give(self, uint64_t key, int64_t taken_us) noexcept nogil:
        """Give back what take() took here."""
        cdef int64_t* state
        if self.shared is None:
            state = self.table.state_of(key)
            if state != NULL:
                self.limit.give(state, taken_us, self.cost)
        elif self.lease is not None:
            state = self.leases.state_of(key)
            if state != NULL:
                self.lease.give(state, taken_us, self.cost)

    cdef int64_t more_in(self, Grant* grant, int64_t now_us) noexcept nogil:
        if grant.state == NULL:
            return 0
        if self.lease is not None and self.shared.up:
            return self.lease.more_in(grant.state, now_us)
        return self.limit.more_in(grant.state, now_us)


cdef bytes _who(object identity, int by):
    """The user, or the API key's id; None: there is none. A token's names may hold what is no Unicode."""
    if identity is None:
        return None
    if by == BY_USER:
        return identity.who.encode("utf-8", "surrogatepass") if identity.subject else None
    if identity.method != "api_key":
        return None
    return getattr(identity.key, "id", identity.subject).encode("utf-8", "surrogatepass")


cdef const char* _field(Exchange x, bytes wanted, Py_ssize_t* n) noexcept:
    """Value of the first field of a name (lower case), NULL: there is none."""
    cdef Py_ssize_t pos = x.head.fields
    cdef Span name, value
    while next_field(x.base, &x.head, &pos, &name, &value):
        if equals(x.base + name.start, name.end - name.start, PyBytes_AS_STRING(wanted), PyBytes_GET_SIZE(wanted)):
            n[0] = value.end - value.start
            return x.base + value.start
    return NULL


# ---- one request -----------------------------------------------------------------------------------------------------

@cython.final
@cython.freelist(16)
cdef class Case:

    def open(self):
        """Those that whom they are shared with must be asked for: (number, meter, key hash)."""
        return [
            (i, self.meters[i], self.counts[i].key) for i in range(self.count) if self.counts[i].wait == ASK
        ]

    def answered(self, int i, int64_t wait, int64_t left, int64_t more_us):
        """What was said of one of them."""
        self.counts[i].wait = wait
        self.counts[i].grant.left = left
        self.counts[i].grant.state = NULL
        self.counts[i].more_us = more_us

    def unanswered(self, int i):
        """Nobody answered for one of them."""
        cdef Meter meter = self.meters[i]
        cdef Count* count = &self.counts[i]
        count.wait = meter.fall_back(count.key, self.now_us, &count.grant)
        if count.wait == 0 and count.grant.state != NULL:
            count.more_us = meter.limit.more_in(count.grant.state, self.now_us)

    @property
    def refused(self):
        """Whether one of them does not grant."""
        return any([self.counts[i].wait != 0 for i in range(self.count)])


cdef class RateLimiter(Filter):
    """Of the meters that count one filter's limits, in their order."""

    def __init__(self, meters, own=None):
        self.meters = tuple(meters)
        policies = ", ".join([meter.policy for meter in meters if meter.policy])
        self.policies = f"RateLimit-Policy: {policies}\r\n".encode() if policies else b""
        self.names = _replaced(meters, own is not None)
        self.replaced = b",".join(self.names)
        for name in self.names:
            self.lengths |= <uint64_t>1 << len(name)
        self.own = own
        self.known = {}

    cpdef object on_request(self, Exchange x):
        cdef Case case
        cdef Meter meter
        cdef uint64_t key = 0
        cdef int i = 0
        meters = self.meters if self.own is None else self._meters_of(x)
        case = Case.__new__(Case)
        case.meters = []
        for item in meters:
            meter = item
            if i < MOST and meter.counts(x, &key):
                case.meters.append(meter)
                memset(&case.counts[i], 0, sizeof(Count))
                case.counts[i].key = key
                i += 1
        case.count = i
        if i == 0:
            return None
        case.now_us = monotonic_us()
        return self._judge(x, case)

    cdef list _meters_of(self, Exchange x):
        """And those of the API key that was shown."""
        identity = x.identity
        key = None if identity is None else identity.key
        if key is None or getattr(key, "rate_limit", None) is None:
            return list(self.meters)
        found = self.known.get(id(key))
        if found is None or found[0] is not key:
            found = self.known[id(key)] = (key, self.own(key))
        return [*self.meters, *found[1]]

    cdef object _judge(self, Exchange x, Case case):
        """Those first that will refuse, so that the others are charged for nothing."""
        cdef Meter meter
        cdef Count* count
        cdef bint refused = False, asks = False
        cdef int i, turn
        for turn in range(2):
            for i in range(case.count):
                meter = case.meters[i]
                count = &case.counts[i]
                if count.taken or (turn == 0 and case.count > 1 and meter.look(count.key, case.now_us) <= 0):
                    continue
                if turn == 1 and case.count == 1:
                    continue
                count.wait = meter.take(count.key, case.now_us, &count.grant)
                count.taken = count.wait == 0
                asks |= count.wait == ASK
                refused |= count.wait != 0 and count.wait != ASK
            if refused:
                return self._refuse(x, case)
        if asks:
            return self._ask(x, case)
        return self._pass(x, case)

    async def _ask(self, Exchange x, Case case):
        """Ask for what is shared, all at once; what is not answered is decided here."""
        opened = case.open()
        asked = [(meter, key, meter.text_of(x)) for _, meter, key in opened]
        answers = await _answers(asked)
        if x.finished:
            return None
        for (i, meter, _), answer in zip(opened, answers, strict=True):
            if answer is None:
                case.unanswered(i)
            else:
                case.answered(i, *answer)
        if not case.refused:
            return self._pass(x, case)
        for (_, meter, key), one, answer in zip(opened, asked, answers, strict=True):
            if answer is not None and answer[0] == 0:
                meter.shared.give(one)
        return self._refuse(x, case)

    cdef object _refuse(self, Exchange x, Case case):
        """429 with the longest of the waits; who granted gets it back."""
        cdef Meter meter
        cdef Count* count
        cdef int64_t longest = 0
        cdef bint closed = False
        cdef int i
        for i in range(case.count):
            meter = case.meters[i]
            count = &case.counts[i]
            if count.taken:
                meter.give(count.key, case.now_us)
            elif count.wait != 0 and count.wait != ASK:
                meter.cells[L_LIMITED] += 1
                closed |= count.wait == CLOSED
                longest = max(longest, count.wait)
        if closed:
            x.fail_with("limits_unavailable", [(b"Retry-After", b"1")])
            return None
        self._show(x, case, True)
        x.fail_with("rate_limited", [(b"Retry-After", b"%d" % seconds(longest))])
        return None

    cdef object _pass(self, Exchange x, Case case):
        cdef Meter meter
        cdef Count* count
        cdef int i
        for i in range(case.count):
            meter = case.meters[i]
            count = &case.counts[i]
            meter.cells[L_ALLOWED] += 1
            if count.taken:
                count.more_us = meter.more_in(&count.grant, case.now_us)
            if count.grant.low and count.key not in meter.shared.asking:
                meter.shared.ahead(meter, count.key, meter.text_of(x))
        self._show(x, case, False)
        return None

    cdef int _show(self, Exchange x, Case case, bint refused) except -1:
        """The response's header fields, whatever becomes of the request."""
        cdef char text[2 * MOST * ITEM]
        cdef char* out = text
        cdef Meter meter, tightest = None
        cdef Count* count
        cdef Count* least = NULL
        cdef int i
        for i in range(case.count):
            meter = case.meters[i]
            count = &case.counts[i]
            if refused and (count.taken or count.wait <= 0):
                continue
            if refused:
                count.more_us = count.wait
            if meter.item:
                out = _text(out, b", " if out != text else b"RateLimit: ")
                out = _number(_text(out, meter.item), count.grant.left)
                out = _number(_text(out, b";t="), seconds(count.more_us))
            if meter.legacy and (least == NULL or count.grant.left < least.grant.left):
                tightest = meter
                least = count
        if out != text:
            out = _text(_text(out, b"\r\n"), self.policies)
        if tightest is not None:
            out = _number(_text(out, b"X-RateLimit-Limit: "), tightest.limit.capacity)
            out = _number(_text(out, b"\r\nX-RateLimit-Remaining: "), least.grant.left)
            out = _number(_text(out, b"\r\nX-RateLimit-Reset: "), seconds(least.more_us))
            out = _text(out, b"\r\n")
        if out != text:
            x.add_response_lines(PyBytes_FromStringAndSize(text, out - text))
        return 0

    cpdef object on_response(self, Exchange x):
        """What the backend says of its own limits is not what holds here."""
        if self.names and (x.response_head == NULL or self._theirs(x)):
            x.cut_response_fields(self.replaced)
        return None

    cdef bint _theirs(self, Exchange x) noexcept:
        cdef Py_ssize_t pos = x.response_head.fields
        cdef Span name, value
        cdef bytes wanted
        while next_field(x.response_base, x.response_head, &pos, &name, &value):
            if self.lengths >> (name.end - name.start & 63) & 1:
                for wanted in self.names:
                    if equals(x.response_base + name.start, name.end - name.start, PyBytes_AS_STRING(wanted),
                              PyBytes_GET_SIZE(wanted)):
                        return True
        return False


def _replaced(meters, bint own):
    """Names (lower case) of what these meters say themselves, or those of API keys."""
    names = []
    if own or any([meter.policy for meter in meters]):
        names += [b"ratelimit", b"ratelimit-policy"]
    if any([meter.tells_legacy for meter in meters]):
        names += [b"x-ratelimit-limit", b"x-ratelimit-remaining", b"x-ratelimit-reset"]
    return tuple(names)


cdef inline char* _text(char* out, bytes text) noexcept:
    memcpy(out, PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))
    return out + PyBytes_GET_SIZE(text)


cdef inline char* _number(char* out, int64_t n) noexcept:
    """In decimal; of 0 or more."""
    cdef char digits[20]
    cdef int at = 20
    while True:
        at -= 1
        digits[at] = <char>(c"0" + n % 10)
        n //= 10
        if n == 0:
            break
    memcpy(out, digits + at, 20 - at)
    return out + 20 - at


async def _answers(asked):
    """Of all that are asked, each by whom it is shared through."""
    answers = {}
    for shared in {one[0].shared for one in asked}:
        own = [one for one in asked if one[0].shared is shared]
        answers.update(zip([one[:2] for one in own], await shared.ask(own), strict=True))
    return [answers[one[:2]] for one in asked]


cdef inline int64_t seconds(int64_t us) noexcept nogil:
    """Rounded up but for 2 ms, for windows begin at a whole one; and not less than one."""
    return max((us + 998_000) // 1_000_000, 1)
