"""The shared page: where every process keeps its counters, and how they are read.

One anonymous mmap, made by the supervisor before its first fork. Cells are int64; their numbers inside a block are
the enums of `_speedups/cells.pxd`, their blocks' places are computed here and nowhere else:

    header | shared upstream blocks | shared route blocks | a row per worker | an access-log ring per worker | bans
           | used signatures | rate limits | rate limits with sliding windows | keys of session tickets | log levels
           | a ring for the live tail per worker | a ring for the program's log per worker and for the supervisor
    row    = worker block | route blocks | pair blocks | upstream blocks | limit blocks

- A row has one writer: the worker of that slot. Its totals outlive it; a respawned worker goes on in the same row.
- Index 0 of routes, pairs, upstreams and limits means "none", and takes in what no longer fits (`Series`).
"""

from __future__ import annotations

import itertools
import mmap
import secrets
import sys
import time
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct, field

from kairos._speedups import cells
from kairos._speedups.cachestore import MIN_BYTES as CACHE_MIN_BYTES
from kairos._speedups.cachestore import CacheStore
from kairos._speedups.cells import Page
from kairos._speedups.limits import LimitTable, table_cells
from kairos._speedups.tls import TICKET_CELLS, rotate_ticket_key
from kairos.config.origin import parse_backend
from kairos.config.policies.ratelimit import KEYS_LABEL, rules_of
from kairos.config.serving import Branch

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from kairos.config.model import Backend, Config, Protocol, Route

_Key = TypeVar("_Key")

NO_ROUTE = "none"
NO_UPSTREAM = "none"
NO_LIMIT = "none"
LIMIT_WORDS = 2
WINDOW_WORDS = 16
_CELL_BYTES = 8
_ROW_ALIGN = 512  # cells of a memory page: rows of different workers share none
_NORESERVE: int = getattr(mmap, "MAP_NORESERVE", 0x4000 if sys.platform == "linux" else 0)  # named since Python 3.13
_WORKER_GAUGES = (
    cells.W_CONNECTIONS_OPEN, cells.W_REQUESTS_ACTIVE, cells.W_TUNNELS_OPEN, cells.W_PID, cells.W_LAG_US,
    cells.W_SHED_LEVEL, cells.W_LEASE_DOWN,
)  # fmt: skip
_ROUTE_GAUGES = (cells.R_EXTRA_ACTIVE, cells.R_QUEUED)
_UPSTREAM_GAUGES = (cells.U_IN_FLIGHT, cells.U_CONNECTIONS_OPEN, cells.U_CONNECTIONS_IDLE)


class Capacity(Struct, frozen=True):
    """How many of each the page has room for, index 0 included."""

    workers: int
    routes: int
    pairs: int
    upstreams: int
    keys: int = 64
    """Of rate limits, that are remembered at once."""

    @classmethod
    def with_headroom(cls, *, workers: int, routes: int, pairs: int, upstreams: int, keys: int = 64) -> Capacity:
        """Room for reloads to come: memory is only taken when a cell is touched. Backends come and go more than routes
        do: where each deployment brings new addresses, theirs are used up first."""
        return cls(workers, max(2048, 4 * routes), max(16384, 4 * pairs), max(8192, 4 * upstreams), keys)

    @property
    def limits(self) -> int:
        """A rate limit or two for each route."""
        return 2 * self.routes


class Scoreboard:
    """The page with its layout. Methods answer cell numbers for `page`."""

    def __init__(self, capacity: Capacity, cache_bytes: int = 0) -> None:
        self.capacity = capacity
        self._shared_upstreams = cells.H_CELLS
        self._shared_routes = self._shared_upstreams + capacity.upstreams * cells.SU_CELLS
        self._rows = _aligned(self._shared_routes + capacity.routes * cells.SR_CELLS)
        self._row_routes = cells.W_CELLS
        self._row_pairs = self._row_routes + capacity.routes * cells.R_CELLS
        self._row_upstreams = self._row_pairs + capacity.pairs * cells.P_CELLS
        self._row_limits = self._row_upstreams + capacity.upstreams * cells.U_CELLS
        self.row_stride = _aligned(self._row_limits + capacity.limits * cells.L_CELLS)
        self._rings = self._rows + capacity.workers * self.row_stride
        self.bans = self._rings + capacity.workers * cells.LOG_CELLS
        """The table of bans; its rules: _speedups/bans.pyx."""
        self.nonces = self.bans + cells.BAN_CELLS
        """The table of signatures that were used."""
        self.limits = self.nonces + cells.NONCE_CELLS
        """The LimitTable of states of up to LIMIT_WORDS words."""
        self.windows = self.limits + table_cells(capacity.keys, LIMIT_WORDS)
        """The LimitTable of those that are larger."""
        self.ticket_ring = self.windows + table_cells(capacity.keys, WINDOW_WORDS)
        """Keys of TLS session tickets: _speedups/tls.pyx."""
        self.levels = _aligned(self.ticket_ring + TICKET_CELLS)
        """The LEVEL_* block: levels of the program's log."""
        self._tails = self.levels + cells.LEVEL_CELLS
        self._said = self._tails + capacity.workers * cells.TAIL_CELLS
        self.cells = self._said + (capacity.workers + 1) * cells.SAID_CELLS
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _NORESERVE
        self.page = Page(mmap.mmap(-1, self.cells * _CELL_BYTES, flags=flags))
        self._write_header()
        self.cache = self._make_cache(cache_bytes)
        """Stored responses, in memory of their own; None where there is to be no cache."""

    @classmethod
    def create(
        cls, *, workers: int, routes: int, pairs: int, upstreams: int, keys: int = 64, cache_bytes: int = 0
    ) -> Scoreboard:
        """A page for so many workers, with room for more routes, pairs and upstreams than asked for."""
        capacity = Capacity.with_headroom(workers=workers, routes=routes, pairs=pairs, upstreams=upstreams, keys=keys)
        return cls(capacity, cache_bytes)

    def _make_cache(self, size: int) -> CacheStore | None:
        if size < CACHE_MIN_BYTES:
            return None
        flags = mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | _NORESERVE
        return CacheStore(mmap.mmap(-1, size, flags=flags), self.seed, True)

    def _write_header(self) -> None:
        header = {
            cells.H_MAGIC: cells.MAGIC,
            cells.H_WORKERS: self.capacity.workers,
            cells.H_ROUTES: self.capacity.routes,
            cells.H_PAIRS: self.capacity.pairs,
            cells.H_UPSTREAMS: self.capacity.upstreams,
            cells.H_ROW_STRIDE: self.row_stride,
            cells.H_STARTED_AT: time.time_ns() // 1000,
            cells.H_SEED: secrets.randbits(62),
        }
        for cell, value in header.items():
            self.page.set(cell, value)
        rotate_ticket_key(self.page, self.ticket_ring, secrets.token_bytes(80), int(time.time()))

    # --- places ---------------------------------------------------------------------------------------------------

    def shared_upstream(self, upstream: int) -> int:
        """The SU_* block every process reads and writes."""
        return self._shared_upstreams + _index(upstream, self.capacity.upstreams) * cells.SU_CELLS

    def shared_route(self, route: int) -> int:
        """The SR_* block every process reads and writes."""
        return self._shared_routes + _index(route, self.capacity.routes) * cells.SR_CELLS

    def worker_block(self, slot: int) -> int:
        """The W_* block, which begins the slot's row."""
        return self._rows + _index(slot, self.capacity.workers) * self.row_stride

    def route_block(self, slot: int, route: int) -> int:
        """The R_* block of a route in one worker's row."""
        return self.worker_block(slot) + self._row_routes + _index(route, self.capacity.routes) * cells.R_CELLS

    def pair_block(self, slot: int, pair: int) -> int:
        """The P_* block of a route and upstream in one worker's row."""
        return self.worker_block(slot) + self._row_pairs + _index(pair, self.capacity.pairs) * cells.P_CELLS

    def upstream_block(self, slot: int, upstream: int) -> int:
        """The U_* block of an upstream in one worker's row; `row_stride` further on lies the next worker's."""
        start = self.worker_block(slot) + self._row_upstreams
        return start + _index(upstream, self.capacity.upstreams) * cells.U_CELLS

    def limit_block(self, slot: int, limit: int) -> int:
        """The L_* block of a rate limit in one worker's row."""
        return self.worker_block(slot) + self._row_limits + _index(limit, self.capacity.limits) * cells.L_CELLS

    def limit_table(self, words: int) -> LimitTable:
        """The table of rate limits whose states have so many words."""
        if words <= LIMIT_WORDS:
            return LimitTable(self.page, self.limits, table_cells(self.capacity.keys, LIMIT_WORDS), LIMIT_WORDS)
        return LimitTable(self.page, self.windows, table_cells(self.capacity.keys, WINDOW_WORDS), WINDOW_WORDS)

    def log_ring(self, slot: int) -> int:
        """The LOG_* block of a worker."""
        return self._rings + _index(slot, self.capacity.workers) * cells.LOG_CELLS

    def tail_ring(self, slot: int) -> int:
        """The ring of a worker's lines for the live tail."""
        return self._tails + _index(slot, self.capacity.workers) * cells.TAIL_CELLS

    def said_ring(self, slot: int) -> int:
        """The ring of what a worker says in the program's log, or with -1 the supervisor."""
        return self._said + _index(slot + 1, self.capacity.workers + 1) * cells.SAID_CELLS

    # --- readers --------------------------------------------------------------------------------------------------

    def total(self, block: int, cell: int = 0) -> int:
        """One cell of a block of slot 0 (say `upstream_block(0, 3)`), summed over all workers."""
        return self.totals(block + cell, 1)[0]

    def totals(self, block: int, count: int) -> list[int]:
        """`count` cells from a place in slot 0's row on, each summed over all workers."""
        return self.page.sums(block, count, self.row_stride, self.capacity.workers)

    @property
    def seed(self) -> int:
        """Secret, for hashes of what clients choose."""
        return self.page.get(cells.H_SEED)

    @property
    def started_at(self) -> float:
        """Unix seconds at which the page was made."""
        return self.page.get(cells.H_STARTED_AT) / 1e6

    # --- writers --------------------------------------------------------------------------------------------------

    def zero_gauges(self, slot: int, series: Assignment) -> None:
        """Take back what a dead worker still counted as open. Only while the slot has no process.

        Of routes and upstreams that were ever assigned: writing to the headroom would take memory for it.
        """
        worker = self.worker_block(slot)
        for gauge in _WORKER_GAUGES:
            self.page.set(worker + gauge, 0)
        for route, gauge in itertools.product(range(len(series.routes)), _ROUTE_GAUGES):
            self.page.set(self.route_block(slot, route) + gauge, 0)
        for upstream, gauge in itertools.product(range(len(series.upstreams)), _UPSTREAM_GAUGES):
            self.page.set(self.upstream_block(slot, upstream) + gauge, 0)

    def set_flag(self, flag: int, on: bool) -> None:
        """Raise or lower one FLAG_*; the supervisor is the only writer."""
        flags = self.page.get(cells.H_FLAGS)
        self.page.set(cells.H_FLAGS, flags | flag if on else flags & ~flag)

    def flag(self, flag: int) -> bool:
        """Whether a FLAG_* is raised."""
        return bool(self.page.get(cells.H_FLAGS) & flag)


def _aligned(cell: int) -> int:
    return -(-cell // _ROW_ALIGN) * _ROW_ALIGN


def _index(index: int, capacity: int) -> int:
    if not 0 <= index < capacity:
        raise IndexError(f"index {index} is outside the scoreboard's {capacity}")
    return index


# --- series -------------------------------------------------------------------------------------------------------


def route_key(route: Route) -> str:
    """The name of a route in metrics and logs: its path, behind its hosts where it has any, before its branch."""
    branch = f"@{route.branch}" if isinstance(route, Branch) else ""
    return ",".join(route.hosts) + route.external_path + branch


def limit_labels(config: Config) -> Iterator[str]:
    """The labels of all rate limits of a configuration; of API keys' own limits there is one series."""
    for route in config.routers:
        yield from (rule.label for rule in rules_of(route_key(route), route, config))
    yield KEYS_LABEL


def upstream_key(backend: Backend, protocol: Protocol = "http") -> str:
    """The name of an upstream, `scheme://host:port` or `unix:/path`, one per origin however it is written."""
    return parse_backend(backend, protocol).key


class Assignment(Struct, frozen=True):
    """Which key has which index: made by the supervisor for each revision, the same in every process."""

    routes: dict[str, int] = field(default_factory=lambda: {NO_ROUTE: 0})
    upstreams: dict[str, int] = field(default_factory=lambda: {NO_UPSTREAM: 0})
    pairs: dict[tuple[str, str], int] = field(default_factory=lambda: {(NO_ROUTE, NO_UPSTREAM): 0})
    limits: dict[str, int] = field(default_factory=lambda: {NO_LIMIT: 0})
    full: bool = False
    """Some key found no room and counts under index 0; a restart makes room again."""
    current: list[str] = field(default_factory=list)
    """Upstream_keys of this revision; the tables also keep those of earlier ones."""

    def route(self, route: str) -> int:
        """Index of a route_key."""
        return self.routes.get(route, 0)

    def upstream(self, upstream: str) -> int:
        """Index of an upstream_key."""
        return self.upstreams.get(upstream, 0)

    def limit(self, label: str) -> int:
        """Index of a rate limit's label."""
        return self.limits.get(label, 0)

    def pair(self, route: str, upstream: str = NO_UPSTREAM) -> int:
        """Index of a route_key with one of its upstream_keys, or with none: answered by the gateway itself."""
        return self.pairs.get((route, upstream), 0)


class Series:
    """The supervisor's table of keys. It only grows, so an index never changes its meaning while the page lives."""

    def __init__(self, scoreboard: Scoreboard) -> None:
        self._scoreboard = scoreboard
        self._table = Assignment()

    def assign(self, routes: Iterable[Route], limits: Iterable[str] = ()) -> Assignment:
        """Give every route, upstream, pair and rate limit (by its label) of a configuration its index."""
        capacity, old = self._scoreboard.capacity, self._table
        table = Assignment(dict(old.routes), dict(old.upstreams), dict(old.pairs), dict(old.limits))
        full = _grow(table.limits, limits, capacity.limits)
        current: dict[str, None] = {}
        for route in routes:
            name = route_key(route)
            upstreams = [upstream_key(backend, route.protocol) for backend in route.backends]
            current.update(dict.fromkeys(upstreams))
            full |= _grow(table.routes, [name], capacity.routes)
            full |= _grow(table.upstreams, upstreams, capacity.upstreams)
            full |= _grow(table.pairs, [(name, upstream) for upstream in [NO_UPSTREAM, *upstreams]], capacity.pairs)
        self._scoreboard.page.set(cells.H_SERIES_FULL, full)
        self._table = Assignment(table.routes, table.upstreams, table.pairs, table.limits, full, list(current))
        return self._table


def _grow(table: dict[_Key, int], keys: Iterable[_Key], capacity: int) -> bool:
    """Add new keys while there is room; True when one found none and shares index 0."""
    full = False
    for key in keys:
        if key in table:
            continue
        if (index := len(table)) < capacity:
            table[key] = index
        else:
            full = True
    return full
