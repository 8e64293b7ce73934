"""Connections to backends, by worker: read off the shared page, where workers count them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from kairos._speedups import cells
from kairos.control.upstreams import users

if TYPE_CHECKING:
    from kairos.config.model import Config
    from kairos.scoreboard import Assignment, Scoreboard


class WorkerPool(Struct, frozen=True):
    """One worker's connections to a backend."""

    slot: int
    open: int
    idle: int
    """Of them, those that wait for a request."""
    in_flight: int
    """Requests under way there."""
    connects: int
    connect_failures: int
    reuses: int
    """Requests that needed no new connection."""


class Pool(Struct, frozen=True):
    """Connections to a backend: all numbers are sums over the workers."""

    backend: str
    open: int
    idle: int
    in_flight: int
    connects: int
    connect_failures: int
    reuses: int
    workers: list[WorkerPool]


_CELLS = {
    "open": cells.U_CONNECTIONS_OPEN, "idle": cells.U_CONNECTIONS_IDLE, "in_flight": cells.U_IN_FLIGHT,
    "connects": cells.U_CONNECTS, "connect_failures": cells.U_CONNECT_FAILURES, "reuses": cells.U_REUSES,
}  # fmt: skip


class Pools:
    """Of the configuration in use."""

    def __init__(self, board: Scoreboard) -> None:
        self._board = board
        self._places: dict[str, int] = {}

    def apply(self, config: Config, series: Assignment) -> None:
        """A configuration is in use."""
        self._places = {key: series.upstreams[key] for key in users(config) if series.upstreams.get(key)}

    def list(self) -> list[Pool]:
        """A pool per backend, in the order of the configuration."""
        slots = [slot for slot in range(self._board.capacity.workers) if self._runs(slot)]
        return [_sum(key, [self._of(slot, place) for slot in slots]) for key, place in self._places.items()]

    def _runs(self, slot: int) -> bool:
        return self._board.page.get(self._board.worker_block(slot) + cells.W_PID) != 0

    def _of(self, slot: int, place: int) -> WorkerPool:
        block = self._board.upstream_block(slot, place)
        return WorkerPool(slot, **{name: self._board.page.get(block + cell) for name, cell in _CELLS.items()})


def _sum(key: str, workers: list[WorkerPool]) -> Pool:
    return Pool(key, workers=workers, **{name: sum(getattr(one, name) for one in workers) for name in _CELLS})
