"""What reading the scoreboard costs: single cells, and the totals a scrape takes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kairos._speedups import cells
from kairos.scoreboard import Capacity, Scoreboard

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

BOARD = Scoreboard(Capacity(workers=8, routes=201, pairs=401, upstreams=101))


def test_observe(benchmark: BenchmarkFixture) -> None:
    block = BOARD.route_block(0, 1)
    benchmark(BOARD.page.observe, block, 1200)
    assert BOARD.page.get(block + cells.HIST_SUM) > 0


def test_atomic_add(benchmark: BenchmarkFixture) -> None:
    cursor = BOARD.shared_route(1)
    benchmark(BOARD.page.add, cursor, 1)
    assert BOARD.page.get(cursor) > 0


def test_totals_of_200_routes_over_8_workers(benchmark: BenchmarkFixture) -> None:
    def scrape() -> int:
        return sum(len(BOARD.totals(BOARD.route_block(0, route), cells.R_CELLS)) for route in range(201))

    assert benchmark(scrape) == 201 * cells.R_CELLS
