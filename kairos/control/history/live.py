"""How the gateway does at this moment: totals since the start, and what the last ten seconds were like.

Readings of the page are shared by all who watch, at most one in half a second; while nobody watches, one with each
sample of the history. Between two readings lies what "the last ten seconds" is made of.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from typing import TYPE_CHECKING

from msgspec import Struct

from kairos._speedups import cells
from kairos.control.history.evaluate import percentile
from kairos.control.history.recorder import Clock
from kairos.scoreboard import Assignment
from kairos.telemetry.procfs import usage
from kairos.telemetry.prometheus import ERRORS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kairos.scoreboard import Scoreboard

FRESH_S = 0.5
RECENT_S = 10.0
FEEDS = 100
_SUCCESS = [method * cells.CLASSES + cells.CLASS_2XX for method in range(cells.METHODS)]
_ERRORS = [method * cells.CLASSES + code for method in range(cells.METHODS) for code in ERRORS]
_SERVER_ERRORS = [method * cells.CLASSES + cells.CLASS_5XX for method in range(cells.METHODS)]


class Recent(Struct, frozen=True):
    """Of the last ten seconds; of `seconds`, where nobody watched."""

    seconds: float
    requests_per_second: float
    errors_per_second: float
    """4xx, 5xx, and clients that left."""
    server_errors_per_second: float
    bytes_in_per_second: float
    bytes_out_per_second: float
    p50_ms: float | None
    """Null without requests."""
    p95_ms: float | None
    p99_ms: float | None
    gateway_p99_ms: float | None
    """Of the gateway's own share."""
    cpu_cores: float
    """Used by workers: 1.5 are one and a half cores."""


class Snapshot(Struct, frozen=True):
    """The gateway at one moment."""

    timestamp: float
    """Unix seconds."""
    requests_total: int
    requests_success: int
    """2xx."""
    requests_error: int
    """4xx, 5xx, and clients that left."""
    active_connections: int
    """Requests being served."""
    avg_response_time: float
    """Milliseconds, of the last ten seconds; without requests in them since the start."""
    success_rate: float
    """Percent of requests that were no errors, since the start."""
    peak_connections: int
    uptime: float
    """Seconds."""
    connections: int
    """Of clients, tunnels included."""
    tunnels: int
    workers: int
    lag_ms: float
    """How late the latest worker's event loop was."""
    memory_bytes: int
    """Resident, of all processes; what they share counts for each."""
    recent: Recent | None
    """Null at the first look."""


class Feeds:
    """Clients that watch: a bounded number."""

    def __init__(self) -> None:
        self.open = 0

    @contextlib.contextmanager
    def one(self) -> Iterator[bool]:
        """Whether there is room for one more, which is there until the end of the block."""
        if self.open >= FEEDS:
            yield False
            return
        self.open += 1
        try:
            yield True
        finally:
            self.open -= 1


class Reading(Struct, frozen=True):
    """The page at one moment."""

    at: float
    requests: int
    success: int
    errors: int
    server_errors: int
    times: list[int]
    gateway: list[int]
    bytes_in: int
    bytes_out: int
    worker: list[int]
    workers: int
    lag_us: int
    cpu_us: dict[int, int]
    """By pid, of workers."""
    memory: int


class Live:
    """`assign` as configurations come into use, `snapshot` at any time."""

    def __init__(self, board: Scoreboard, clock: Clock | None = None, others: Sequence[int] = ()) -> None:
        self._board = board
        self._clock = clock or Clock()
        self._others = others
        """Pids of processes beside the workers."""
        self._series = Assignment()
        self._readings: deque[Reading] = deque()
        self._lock = asyncio.Lock()

    def assign(self, series: Assignment) -> None:
        """A configuration is in use from here on."""
        self._series = series

    async def snapshot(self) -> Snapshot:
        """As it is, or was half a second ago."""
        async with self._lock:
            now = self._clock.monotonic()
            if not self._readings or now - self._readings[-1].at >= FRESH_S:
                self._readings.append(await asyncio.to_thread(self._read))
            while len(self._readings) > 1 and now - self._readings[1].at >= RECENT_S:
                self._readings.popleft()
            first, last = self._readings[0], self._readings[-1]
        return _snapshot(first, last, self._clock.wall(), self._board.started_at)

    def _read(self) -> Reading:
        board, series = self._board, self._series
        pairs = _sum([board.totals(board.pair_block(0, i), cells.P_CELLS) for i in series.pairs.values()])
        routes = _sum([board.totals(board.route_block(0, i), cells.R_CELLS) for i in series.routes.values()])
        blocks = [board.worker_block(slot) for slot in range(board.capacity.workers)]
        pids = {pid: block for block in blocks if (pid := board.page.get(block + cells.W_PID))}
        used = {pid: found for pid in [*pids, *self._others] if (found := usage(pid)) is not None}
        return Reading(
            at=self._clock.monotonic(),
            requests=sum(pairs[: cells.METHODS * cells.CLASSES]),
            success=sum(pairs[cell] for cell in _SUCCESS),
            errors=sum(pairs[cell] for cell in _ERRORS),
            server_errors=sum(pairs[cell] for cell in _SERVER_ERRORS),
            times=routes[cells.R_TOTAL : cells.R_TOTAL + cells.HIST_CELLS],
            gateway=routes[cells.R_GATEWAY : cells.R_GATEWAY + cells.HIST_CELLS],
            bytes_in=routes[cells.R_BYTES_IN],
            bytes_out=routes[cells.R_BYTES_OUT],
            worker=board.totals(blocks[0], cells.W_CELLS),
            workers=len(pids),
            lag_us=max((board.page.get(block + cells.W_LAG_US) for block in pids.values()), default=0),
            cpu_us={pid: used[pid].cpu_us for pid in pids if pid in used},
            memory=sum(found.rss for found in used.values()),
        )


def _sum(blocks: list[list[int]]) -> list[int]:
    return [sum(column) for column in zip(*blocks, strict=True)]


def recent(first: Reading, last: Reading) -> Recent | None:
    """What happened between two readings."""
    seconds = last.at - first.at
    if seconds <= 0:
        return None
    times, gateway = _grown(first.times, last.times), _grown(first.gateway, last.gateway)
    cpu = sum(used - first.cpu_us.get(pid, used) for pid, used in last.cpu_us.items())
    return Recent(
        seconds=round(seconds, 3),
        requests_per_second=(last.requests - first.requests) / seconds,
        errors_per_second=(last.errors - first.errors) / seconds,
        server_errors_per_second=(last.server_errors - first.server_errors) / seconds,
        bytes_in_per_second=(last.bytes_in - first.bytes_in) / seconds,
        bytes_out_per_second=(last.bytes_out - first.bytes_out) / seconds,
        p50_ms=_ms(percentile(times, 0.5)),
        p95_ms=_ms(percentile(times, 0.95)),
        p99_ms=_ms(percentile(times, 0.99)),
        gateway_p99_ms=_ms(percentile(gateway, 0.99)),
        cpu_cores=max(0, cpu) / 1e6 / seconds,
    )


def _grown(before: list[int], now: list[int]) -> list[int]:
    return [max(0, b - a) for a, b in zip(before, now, strict=True)] if len(before) == len(now) else now


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds * 1000, 4)


def _snapshot(first: Reading, last: Reading, wall: float, started: float) -> Snapshot:
    worker = last.worker
    lately = _mean_ms(_grown(first.times, last.times))
    return Snapshot(
        timestamp=wall,
        requests_total=last.requests,
        requests_success=last.success,
        requests_error=last.errors,
        active_connections=max(0, worker[cells.W_REQUESTS_ACTIVE]),
        avg_response_time=lately or _mean_ms(last.times) or 0.0,
        success_rate=round(100 * (last.requests - last.errors) / last.requests, 2) if last.requests else 100.0,
        peak_connections=worker[cells.W_REQUESTS_PEAK],
        uptime=round(max(0.0, wall - started), 3),
        connections=max(0, worker[cells.W_CONNECTIONS_OPEN]),
        tunnels=max(0, worker[cells.W_TUNNELS_OPEN]),
        workers=last.workers,
        lag_ms=last.lag_us / 1000,
        memory_bytes=last.memory,
        recent=recent(first, last),
    )


def _mean_ms(times: list[int]) -> float | None:
    count = sum(times[: cells.HIST_BUCKETS])
    return round(times[cells.HIST_SUM] / count / 1000, 3) if count else None
