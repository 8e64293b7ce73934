"""A shared page with a configuration on it, for tests of what control writes there; and how to wait for it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import uvloop

from kairos._speedups import cells
from kairos.config.model import Backend, Config, Route
from kairos.control.upstreams import Upstream, known_upstreams
from kairos.scoreboard import Assignment, Capacity, Scoreboard, Series

PATIENCE = 25.0


class Board:
    """Cells of two workers, and the words of upstreams by key."""

    def __init__(self) -> None:
        self.scoreboard = Scoreboard(Capacity(workers=2, routes=8, pairs=200, upstreams=150))
        self._series = Series(self.scoreboard)
        self.series = Assignment()

    def assign(self, config: Config) -> tuple[Config, Assignment]:
        """What apply() takes."""
        self.series = self._series.assign(config.routers)
        return config, self.series

    def upstream(self, key: str) -> Upstream:
        return known_upstreams(self.scoreboard, self.series)[key]

    def word(self, key: str, word: int) -> int:
        return self.upstream(key).get(word)

    def is_down(self, key: str) -> bool:
        return self.upstream(key).is_out(cells.OUT_DOWN)

    def work(self, key: str, *, slot: int = 0, **counts: int) -> None:
        """A worker counts: work(key, attempts=10, failures=2)."""
        block = self.scoreboard.upstream_block(slot, self.series.upstream(key))
        for name, count in counts.items():
            self.scoreboard.page.add(block + getattr(cells, f"U_{name.upper()}"), count)


def route(path: str, *backends: str | Backend, **members: Any) -> Route:
    made = [Backend(host=backend) if isinstance(backend, str) else backend for backend in backends]
    return Route(external_path=path, internal_path=path, methods=["GET"], backends=made, **members)


def in_loop(trace: Callable[[], Coroutine[Any, Any, None]]) -> None:
    uvloop.run(trace())


async def until(condition: Callable[[], object], what: str = "the condition") -> None:
    end = asyncio.get_running_loop().time() + PATIENCE
    while not condition():
        assert asyncio.get_running_loop().time() < end, f"{what} did not come"
        await asyncio.sleep(0.005)
