"""Who may use a route by the address asking: lists of networks, and bans of addresses that fail too often.

The address is the client's as the gateway believes it (trusted_proxies). What has no address, a client of a unix socket
that no trusted proxy speaks for, is in no list and is never banned. A request that is let through costs one binary
search and one look into the shared table of bans; what failed is judged once it is over, by the status the client saw.
"""

from libc.stdint cimport int64_t
from libc.string cimport memset

import cython

from kairos._speedups.bans cimport Bans
from kairos._speedups.cells cimport Page, W_ACCESS_DENIED, W_BANNED, W_BANS, W_CELLS
from kairos.proxy.exchange cimport Exchange, Filter
from kairos.proxy.peers cimport AddressMap, parse_address
from kairos.proxy.wire cimport monotonic_us

from kairos._speedups.bans import rule
from kairos._speedups.cells import BAN_CELLS
from kairos.config.networks import read
from kairos.telemetry.log import get_logger

ALLOW, DENY = 1, 2
OWN_REFUSALS = frozenset({"access_denied", "banned", "banned_for_now"})
_log = get_logger("access")


@cython.final
cdef class Lists(Filter):
    """Refuses addresses that may not, with 403."""

    def __init__(self, spec, Page page not None, Py_ssize_t worker):
        allowed = [*spec.allow, *(network for name in spec.allow_files for network in read(name))]
        denied = [*spec.deny, *(network for name in spec.deny_files for network in read(name))]
        self.map = AddressMap([*((network, ALLOW) for network in allowed), *((network, DENY) for network in denied)])
        self.closed = spec.closed
        self.denied = page.at(worker + W_ACCESS_DENIED, 1)

    cpdef object on_request(self, Exchange x):
        cdef Py_ssize_t n = 0
        cdef const char* text = x.client_text(&n)
        cdef int value = self.map.find(text, n)
        if value == 1 or (value <= 0 and not self.closed):
            return None
        self.denied[0] += 1
        x.fail_as("access_denied")
        return None


@cython.final
cdef class Jail(Filter):
    """Refuses banned addresses; bans those that fail too often."""

    def __init__(self, spec, Bans bans not None, Page page not None, Py_ssize_t worker):
        self.bans = bans
        self.name = spec.name
        self.exempt = AddressMap([(network, 1) for network in spec.exempt]) if spec.exempt else None
        memset(self.failing, 0, sizeof(self.failing))
        for status in spec.statuses:
            self.failing[<int>status % 600] = True
        self.tells = spec.retry_after
        self.worker = page.at(worker, W_CELLS)

    cpdef object on_request(self, Exchange x):
        cdef unsigned char address[16]
        cdef Py_ssize_t n = 0
        cdef const char* text = x.client_text(&n)
        cdef int64_t left
        if not parse_address(text, n, address):
            return None
        left = self.bans.left(address, monotonic_us())
        if left > 0 and (self.exempt is None or self.exempt.value(address) != 1):
            self._refuse(x, left)
        return None

    cdef object _refuse(self, Exchange x, int64_t left):
        self.worker[W_BANNED] += 1
        if self.tells:
            x.fail_as("banned_for_now", None, [(b"Retry-After", b"%d" % ((left + 999_999) // 1_000_000))])
        else:
            x.fail_as("banned")

    cpdef object on_finish(self, Exchange x):
        cdef unsigned char address[16]
        cdef Py_ssize_t n = 0
        cdef const char* text
        cdef int64_t length
        if not 0 <= x.status < 600 or not self.failing[x.status] or x.failure in OWN_REFUSALS:
            return None
        text = x.client_text(&n)
        if not parse_address(text, n, address) or (self.exempt is not None and self.exempt.value(address) == 1):
            return None
        length = self.bans.fail(address, monotonic_us())
        if length > 0:
            self.worker[W_BANS] += 1
            _log.warning("address banned", address=text[:n].decode("ascii"), seconds=length // 1_000_000,
                         status=x.status, route=x.plan.name, jail=self.name)
        return None


def build_lists(site):
    """The filter of a route with lists, or None."""
    spec = site.policies.access
    if spec is None or not spec.lists:
        return None
    return Lists(spec, site.board.page, site.board.worker_block(site.slot))


def build_jail(site):
    """The filter of a route with bans, or None."""
    spec = site.policies.access
    if spec is None or spec.ban is None or not spec.ban.enabled:
        return None
    ban, board = spec.ban, site.board
    made = rule(ban.failures, int(ban.window * 1e6), int(ban.time * 1e6), int(ban.max_time * 1e6), ban.growth,
                int(ban.forget * 1e6))
    bans = Bans(board.page, board.bans, BAN_CELLS, made, ban.name, board.seed)
    return Jail(ban, bans, board.page, board.worker_block(site.slot))
