"""Picks of each strategy: 3 and 50 backends, 8 workers' in-flight cells."""

from __future__ import annotations

from mmap import mmap
from typing import TYPE_CHECKING, get_args

import pytest

from kairos._speedups.balance import Balancer, make
from kairos._speedups.cells import SU_CELLS, SU_OUT, Page
from kairos.config.model import Strategy

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
WORKERS = 8


def balancer(strategy: Strategy, count: int, down: int = 0) -> Balancer:
    flights = 8 + SU_CELLS * count
    page = Page(mmap(-1, 8 * (flights + 8 * count * WORKERS)))
    backends = [(8 + SU_CELLS * at, flights + 8 * at, at % 5 + 1, f"http://b{at}:80") for at in range(count)]
    for at in range(down):
        page.set(8 + SU_CELLS * at + SU_OUT, 1)
    return make(strategy, page, cursor=0, workers=WORKERS, stride=8 * count, backends=backends, seed=1)


def picks_1000(benchmark: BenchmarkFixture, chosen: Balancer) -> None:
    choose = chosen.choose

    def picks() -> None:
        for key in range(1000):
            choose(key, 1)

    benchmark(picks)


@pytest.mark.parametrize("count", [3, 50])
@pytest.mark.parametrize("strategy", STRATEGIES)
def test_pick_1000(benchmark: BenchmarkFixture, strategy: Strategy, count: int) -> None:
    picks_1000(benchmark, balancer(strategy, count))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_pick_1000_with_one_out(benchmark: BenchmarkFixture, strategy: Strategy) -> None:
    picks_1000(benchmark, balancer(strategy, 3, down=1))
