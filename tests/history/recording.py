"""A shared page that a test counts on, a clock it turns, and a history that is recorded from both."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import uvloop

from kairos._speedups import cells
from kairos.config.model import Backend, Route
from kairos.control.history.evaluate import Line
from kairos.control.history.history import History, Query
from kairos.control.history.recorder import Clock
from kairos.scoreboard import Capacity, Scoreboard, Series
from kairos.storage.database import Database

START = 1_700_000_000.0 // 86400 * 86400  # a midnight
USERS, ORDERS = "/users/{id}", "/orders"
APP, SPARE = "http://app:80", "http://spare:80"


class Gateway:
    """Two workers on one page."""

    def __init__(self, *paths: str, backends: tuple[str, ...] = ("http://app", "http://spare")) -> None:
        self.board = Scoreboard(Capacity(workers=2, routes=64, pairs=200, upstreams=20))
        self._series = Series(self.board)
        self._backends = [Backend(host=host) for host in backends]
        self.routes(*(paths or (USERS, ORDERS)))

    def routes(self, *paths: str) -> None:
        """A configuration with these."""
        routes = [
            Route(external_path=path, internal_path="/", methods=["GET"], backends=self._backends) for path in paths
        ]
        self.series = self._series.assign(routes)

    def request(
        self,
        route: str = USERS,
        upstream: str = APP,
        *,
        slot: int = 0,
        method: int = cells.METHOD_GET,
        code: int = cells.CLASS_2XX,
        us: int = 1000,
        times: int = 1,
    ) -> None:
        page = self.board.page
        pair = self.board.pair_block(slot, self.series.pair(route, upstream))
        page.add(pair + cells.P_REQUESTS + method * cells.CLASSES + code, times)
        block = self.board.route_block(slot, self.series.route(route))
        for _ in range(times):
            page.observe(block + cells.R_TOTAL, us)

    def worker(self, cell: int, value: int, *, slot: int = 0) -> None:
        self.board.page.set(self.board.worker_block(slot) + cell, value)

    def upstream(self, key: str, cell: int, value: int, *, slot: int = 0) -> None:
        self.board.page.set(self.board.upstream_block(slot, self.series.upstream(key)) + cell, value)

    def shared(self, key: str, cell: int, value: int) -> None:
        self.board.page.set(self.board.shared_upstream(self.series.upstream(key)) + cell, value)


class Time:
    """Both clocks, which a test turns."""

    def __init__(self, wall: float = START) -> None:
        self.wall = wall
        self.monotonic = 1000.0
        self.ticks = 0.0
        """By how much time goes on with every look at the wall clock."""

    @property
    def clock(self) -> Clock:
        return Clock(self._look, lambda: self.monotonic)

    def _look(self) -> float:
        self.wall += self.ticks
        return self.wall

    def pass_(self, seconds: float) -> None:
        self.wall += seconds
        self.monotonic += seconds


class Recording:
    """One control process's history, sampled when the test says so."""

    def __init__(self, gateway: Gateway, database: Database, time: Time, node: str = "a") -> None:
        self.gateway = gateway
        self.time = time
        self.history = History(gateway.board, database, node, time.clock)
        self.history.sampler.assign(gateway.series)

    async def tick(self, seconds: float = 10, work: Callable[[], None] | None = None, *, write: bool = True) -> None:
        """Time passes, in which `work` is done; then a sample is taken."""
        self.time.pass_(seconds)
        if work is not None:
            work()
        await self.history.recorder.sample()
        if write:
            await self.history.recorder.flush()

    async def begin(self) -> None:
        """The first look."""
        await self.history.recorder.sample()

    async def ask(self, *names: str, **options: Any) -> list[Line]:
        _, answer = await self.history.query(Query(names, **options))
        return answer.lines

    async def line(self, name: str, **options: Any) -> list[Any]:
        """Values of the one series there is."""
        (line,) = await self.ask(name, **options)
        return line.values


@contextlib.asynccontextmanager
async def open_database(url: str) -> AsyncIterator[Database]:
    database = Database(url)
    await database.start()
    try:
        yield database
    finally:
        await database.close()


def sqlite_url(folder: Path) -> str:
    return f"sqlite:///{folder}/kairos.db"


def in_loop(trace: Callable[[], Coroutine[Any, Any, None]]) -> None:
    uvloop.run(trace())


def recorded(url: str, trace: Callable[[Recording], Awaitable[None]], *paths: str) -> None:
    """Run a trace on a gateway with these routes, whose history is in this database."""

    async def run() -> None:
        async with open_database(url) as database:
            backends = ("http://app",) if paths else ("http://app", "http://spare")
            await trace(Recording(Gateway(*paths, backends=backends), database, Time()))

    in_loop(run)
