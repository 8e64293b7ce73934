"""Upstreams as the control process sees them: the words it writes for the workers, and what they counted.

Control is the only writer of the words that keep an upstream from being picked (SU_OUT, SU_SKIP_UNTIL_US, SU_FORCED,
SU_WEIGHT), so reading and writing back needs no atomics. They outlive the process: the next one finds them here.
An upstream that comes back gets SU_BACK_AT_US, from which the workers count its slow start.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from kairos._speedups import cells
from kairos._speedups.breaker import Gate
from kairos.config.model import CircuitBreaker
from kairos.config.serving import every_route
from kairos.scoreboard import route_key, upstream_key

if TYPE_CHECKING:
    from kairos.config.model import Config, Route
    from kairos.scoreboard import Assignment, Scoreboard


def monotonic_us() -> int:
    """The workers' clock."""
    return time.monotonic_ns() // 1000


class Upstream:
    """One upstream's cells."""

    def __init__(self, scoreboard: Scoreboard, key: str, index: int) -> None:
        self.key = key
        self._scoreboard = scoreboard
        self._page = scoreboard.page
        self._shared = scoreboard.shared_upstream(index)
        self._row = scoreboard.upstream_block(0, index)
        self.breaker = Gate(self._page, self._shared, CircuitBreaker())
        """To be looked at: the settings are those of whoever asks, and nobody asks here."""

    def get(self, word: int) -> int:
        """An SU_* cell."""
        return self._page.get(self._shared + word)

    def set(self, word: int, value: int) -> None:
        """Write an SU_* cell of which control is the only writer."""
        self._page.set(self._shared + word, value)

    def count(self, counter: int) -> None:
        """One more in an SU_* cell."""
        self._page.add(self._shared + counter, 1)

    def totals(self) -> list[int]:
        """Its U_* cells, summed over the workers."""
        return self._scoreboard.totals(self._row, cells.U_CELLS)

    def is_out(self, why: int) -> bool:
        """Whether it is out for one of these OUT_* bits."""
        return bool(self.get(cells.SU_OUT) & why)

    def put_out(self, why: int) -> None:
        """Not to be picked any more, for an OUT_* bit."""
        self.set(cells.SU_OUT, self.get(cells.SU_OUT) | why)

    def put_back(self, why: int) -> None:
        """This OUT_* bit no longer holds; with the last one gone it comes back."""
        before = self.get(cells.SU_OUT)
        if before and before & ~why == 0:
            self.set(cells.SU_BACK_AT_US, monotonic_us())  # first: slow start is to be known when it is picked
        self.set(cells.SU_OUT, before & ~why)

    def is_available(self, now_us: int) -> bool:
        """Whether requests go to it, as far as the shared words say."""
        skipped = self.get(cells.SU_SKIP_UNTIL_US) > now_us
        return not (self.get(cells.SU_OUT) or skipped or self.breaker.blocked(now_us))


def known_upstreams(scoreboard: Scoreboard, series: Assignment) -> dict[str, Upstream]:
    """Every upstream that has cells of its own, those of earlier revisions too."""
    return {key: Upstream(scoreboard, key, index) for key, index in series.upstreams.items() if index != 0}


def upstream_keys(route: Route) -> list[str]:
    """The upstreams of a route, each once."""
    return list(dict.fromkeys(upstream_key(backend, route.protocol) for backend in route.backends))


def users(config: Config) -> dict[str, list[str]]:
    """For every upstream of a configuration the keys of the routes that use it."""
    found: dict[str, list[str]] = {}
    for route in every_route(config):
        for key in upstream_keys(route):
            found.setdefault(key, []).append(route_key(route))
    return found
