"""Makes frames: what the shared page counted since the last look, and what its gauges show now.

Counters of the page only grow, over deaths of workers too; one that went down began anew, and all of it counts. The
first look after this process began is only a place to start from: nobody knows when it was counted. What is counted
between two looks under a route or upstream that a reload brought is all of it.
"""

from __future__ import annotations

import time
from collections import defaultdict
from typing import TYPE_CHECKING

from kairos._speedups import cells
from kairos.config.model import MetricsHistory
from kairos.control.history.fields import BY_NAME, SHARED, Scope, of_scope
from kairos.control.history.frame import Frame, Record, Seen, fold_record
from kairos.control.history.places import Places, other
from kairos.scoreboard import Assignment
from kairos.telemetry.procfs import usage
from kairos.telemetry.prometheus import ALL_ROUTES, ERRORS

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kairos.control.history.frame import SeriesKey
    from kairos.scoreboard import Scoreboard

ROOM = MetricsHistory().series
_REQUESTS = cells.METHODS * cells.CLASSES
_ERROR_CELLS = [method * cells.CLASSES + code for method in range(cells.METHODS) for code in ERRORS]
_Table = list[tuple[int, int]]


class _Layout:
    """Which cells of a scope's block make which values of a record."""

    def __init__(self, scope: Scope) -> None:
        self._counters = _cells_of(scope, "counter")
        self._gauges = _cells_of(scope, "gauge")
        self._groups = [(number, cell, cells.HIST_CELLS) for number, cell in _cells_of(scope, "histogram")]
        self._groups += [(number, cell, _REQUESTS) for number, cell in _cells_of(scope, "matrix")]

    def record(self, before: Sequence[int], now: Sequence[int]) -> Record:
        """What happened between two readings of a block."""
        record: Record = {number: Seen.once(now[cell]) for number, cell in self._gauges if now[cell] > 0}
        if before == now:
            return record
        for number, cell in self._counters:
            if before[cell] != now[cell]:
                record[number] = grown(before[cell], now[cell])
        for number, cell, count in self._groups:
            if before[cell : cell + count] != now[cell : cell + count]:
                record[number] = _growths(before[cell : cell + count], now[cell : cell + count])
        return record


def _cells_of(scope: Scope, kind: str) -> _Table:
    return [(field.number, field.cell) for field in of_scope(scope, kind)]  # type: ignore[arg-type]


def grown(before: int, now: int) -> int:
    """What a counter grew by; it began anew if it is less than it was."""
    return now - before if now >= before else now


def _growths(before: Sequence[int], now: Sequence[int]) -> dict[int, int]:
    return {i: grown(a, b) for i, (a, b) in enumerate(zip(before, now, strict=True)) if a != b}


_LAYOUTS: dict[str, _Layout] = {scope: _Layout(scope) for scope in ("gateway", "route", "pair", "upstream", "limit")}


class Sampler:
    """`assign` as configurations come into use, `look` once per sample; in any thread, one call at a time."""

    def __init__(self, board: Scoreboard, *, supervisor: int, control: int) -> None:
        self._board = board
        self._assigned = (Assignment(), True)
        self._own = {"supervisor": supervisor, "control": control}
        self._before: dict[tuple[str, int], list[int]] = {}
        self._cpu: dict[int, tuple[int, int]] = {}
        self._last: float | None = None
        self._extra: dict[str, int] = {}
        self.places = Places(ROOM)
        self.gauges = True
        """False once another gateway serves: its gauges are the node's."""

    def assign(self, series: Assignment, *, per_route: bool = True) -> None:
        """A configuration is in use from here on."""
        self._assigned = (series, per_route)

    def forget(self) -> None:
        """Begin anew: nobody looked for a while."""
        self._last = None

    def look(self, now: float) -> Frame | None:
        """What happened since the last look, `now` being monotonic seconds; None the first time."""
        series, per_route = self._assigned
        frame = Frame(1, 0.0 if self._last is None else now - self._last, {})
        self._records(frame, series, per_route, now)
        self._processes(frame)
        first, self._last = self._last is None, now
        if not self.gauges:
            _without_gauges(frame)
        return None if first or frame.span <= 0 else frame

    def _records(self, frame: Frame, series: Assignment, per_route: bool, now: float) -> None:
        board = self._board

        def label(route: str) -> str:
            return route if per_route else ALL_ROUTES

        totals = [0, 0]
        for (route, upstream), index in series.pairs.items():
            block = board.totals(board.pair_block(0, index), cells.P_CELLS)
            totals[0] += sum(block[:_REQUESTS])
            totals[1] += sum([block[cell] for cell in _ERROR_CELLS])
            self._add(frame, ("pair", label(route), upstream), index, block, now)
        times = [0, 0]
        for route, index in series.routes.items():
            block = board.totals(board.route_block(0, index), cells.R_CELLS)
            record = self._add(frame, ("route", label(route)), index, block, now)
            _add_times(times, record)
        for limit, index in series.limits.items():
            block = board.totals(board.limit_block(0, index), cells.L_CELLS)
            self._add(frame, ("limit", label(limit)), index, block, now)
        for upstream, index in series.upstreams.items():
            if index or series.full:
                self._add_upstream(frame, upstream, index, upstream in series.current, now)
        self._gateway(frame, totals, times)

    def _add_upstream(self, frame: Frame, upstream: str, index: int, current: bool, now: float) -> None:
        board = self._board
        shared = board.page.sums(board.shared_upstream(index), cells.SU_CELLS, 0, 1)
        block = board.totals(board.upstream_block(0, index), cells.U_CELLS) + shared
        key = ("upstream", upstream)
        self._add(frame, key, index, block, now)
        if current and key in self.places and block[SHARED + cells.SU_CHECKS]:
            up = not block[SHARED + cells.SU_OUT] & cells.OUT_DOWN
            frame.series.setdefault(key, {})[BY_NAME["kairos_upstream_healthy"].number] = Seen.once(up)

    def _add(self, frame: Frame, key: SeriesKey, index: int, block: list[int], now: float) -> Record:
        """Note what a block says about a series, or about `other` where it has no place."""
        place = (key[0], index)
        before = self._before.get(place)
        self._before[place] = block
        if self._last is None:
            return {}
        record = _LAYOUTS[key[0]].record(before or [0] * len(block), block)
        if record:
            kept = key if len(key) == 1 or self.places.take(key, now) else other(key)
            fold_record(frame.series.setdefault(kept, {}), record)
        return record

    def _gateway(self, frame: Frame, totals: list[int], times: list[int]) -> None:
        board = self._board
        self._add(frame, ("gateway",), 0, board.totals(board.worker_block(0), cells.W_CELLS), 0.0)
        record = frame.series.setdefault(("gateway",), {})
        workers = [board.worker_block(slot) for slot in range(board.capacity.workers)]
        alive = [block for block in workers if board.page.get(block + cells.W_PID)]
        lags = [board.page.get(block + cells.W_LAG_US) for block in alive]
        stats = board.cache.stats() if board.cache is not None else {}
        shown: Mapping[str, float] = {
            "kairos_workers": len(alive),
            "kairos_worker_lag_seconds": max(lags, default=0),
            "kairos_cache_bytes": stats.get("bytes", 0),
            "kairos_cache_entries": stats.get("entries", 0),
            "kairos_config_revision": board.page.get(cells.H_REVISION),
            "kairos_uptime_seconds": int(time.time() - board.started_at),
        }
        record.update({BY_NAME[name].number: Seen.once(value) for name, value in shown.items() if value})
        self._count(record, "kairos_worker_restarts", board.page.get(cells.H_WORKER_RESTARTS))
        self._legacy(record, totals, times)

    def _legacy(self, record: Record, totals: list[int], times: list[int]) -> None:
        """kairos-rs's four."""
        active = self._board.total(self._board.worker_block(0), cells.W_REQUESTS_ACTIVE)
        record[BY_NAME["requests_total"].number] = Seen.once(totals[0])
        record[BY_NAME["requests_error"].number] = Seen.once(totals[1])
        record[BY_NAME["active_connections"].number] = Seen.once(max(0, active))
        count, us = times
        if count:
            mean = us / count
            record[BY_NAME["response_time_avg"].number] = Seen(count, us, mean, mean, mean)

    def _count(self, record: Record, name: str, value: int) -> None:
        before = self._extra.get(name)
        self._extra[name] = value
        if before is not None and before != value and self._last is not None:
            record[BY_NAME[name].number] = grown(before, value)

    def _processes(self, frame: Frame) -> None:
        """CPU and memory, of workers together."""
        board = self._board
        pids = [board.page.get(board.worker_block(slot) + cells.W_PID) for slot in range(board.capacity.workers)]
        members = [("worker", pid) for pid in pids if pid] + list(self._own.items())
        cpu: defaultdict[str, int] = defaultdict(int)
        memory: defaultdict[str, int] = defaultdict(int)
        seen: dict[int, tuple[int, int]] = {}
        for name, pid in members:
            found = usage(pid)
            if found is None:
                continue
            started, before = self._cpu.get(pid, (found.started, 0 if self._last is not None else found.cpu_us))
            cpu[name] += found.cpu_us - (before if started == found.started else 0)
            memory[name] += found.rss
            seen[pid] = (found.started, found.cpu_us)
        self._cpu = seen
        for name, rss in memory.items():
            record: Record = {BY_NAME["kairos_process_resident_memory_bytes"].number: Seen.once(rss)}
            if cpu[name] > 0:
                record[BY_NAME["kairos_process_cpu_seconds"].number] = cpu[name]
            frame.series[("process", name)] = record


def _add_times(times: list[int], record: Record) -> None:
    """Count and µs of the requests that ended."""
    grew = record.get(BY_NAME["kairos_http_request_duration_seconds"].number)
    if isinstance(grew, dict):
        us = grew.get(cells.HIST_SUM, 0)
        times[0] += sum(grew.values()) - us
        times[1] += us


def _without_gauges(frame: Frame) -> None:
    for key, record in frame.series.items():
        frame.series[key] = {number: value for number, value in record.items() if not isinstance(value, Seen)}
