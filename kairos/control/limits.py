"""Rate limits as an operator sees them: what each did, how full the tables of keys are, whether Redis answers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct

from kairos._speedups import cells
from kairos._speedups.limits import T_FORGOTTEN, T_FULL, T_KEYS
from kairos.scoreboard import LIMIT_WORDS, NO_LIMIT, WINDOW_WORDS, Assignment, limit_labels

if TYPE_CHECKING:
    from kairos.config.model import Config
    from kairos.scoreboard import Scoreboard


class LimitStatus(Struct, frozen=True):
    """One limit of the configuration in use, over all workers, since the start."""

    limit: str
    """Its name in metrics."""
    allowed: int
    limited: int
    unshared: int
    """Of both, those decided without the Redis that nodes share."""


class TableStatus(Struct, frozen=True):
    """Where counts by key lie."""

    table: str
    """`windows` for sliding windows, else `counts`."""
    keys: int
    """Places that were ever taken."""
    places: int
    forgotten: int
    """Keys that made room for others although their limit was in force."""
    full: int
    """Requests refused because no key could make room."""


class LimitsStatus(Struct, frozen=True):
    """All of it."""

    limits: list[LimitStatus]
    tables: list[TableStatus]
    redis_down: int
    """Workers that Redis does not answer."""


class Limits:
    """The rate limits of one gateway."""

    def __init__(self, board: Scoreboard) -> None:
        self._board = board
        self._places: dict[str, int] = {}

    def apply(self, config: Config, series: Assignment) -> None:
        """Take up the limits of a configuration."""
        self._places = {label: series.limit(label) for label in limit_labels(config) if label != NO_LIMIT}

    def status(self) -> LimitsStatus:
        """Read the page."""
        board = self._board
        limits = [
            LimitStatus(label, *board.totals(board.limit_block(0, at), cells.L_CELLS)[: cells.L_UNSHARED + 1])
            for label, at in self._places.items()
        ]
        down = board.total(board.worker_block(0), cells.W_LEASE_DOWN)
        return LimitsStatus(limits, [self._table("counts", LIMIT_WORDS), self._table("windows", WINDOW_WORDS)], down)

    def _table(self, name: str, words: int) -> TableStatus:
        table = self._board.limit_table(words)
        return TableStatus(name, table.count(T_KEYS), table.places, table.count(T_FORGOTTEN), table.count(T_FULL))
