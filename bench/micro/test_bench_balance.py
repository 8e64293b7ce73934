"""Picks of each strategy: 3 and 50 backends, 8 workers' in-flight cells; and what ewma learns from an attempt."""

from __future__ import annotations

from mmap import mmap
from typing import TYPE_CHECKING, get_args

import pytest

from kairos._speedups.balance import Balancer, make
from kairos._speedups.cells import OUT_DOWN, SU_CELLS, SU_OUT, U_CELLS, Page
from kairos.config.model import Strategy

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
WORKERS = 8


def balancer(strategy: Strategy, count: int, down: int = 0, limit: int = 0) -> Balancer:
    flights = 8 + SU_CELLS * count
    page = Page(mmap(-1, 8 * (flights + U_CELLS * count * WORKERS)))
    backends = [
        (8 + SU_CELLS * at, flights + U_CELLS * at, at % 5 + 1, f"http://b{at}:80", limit) for at in range(count)
    ]
    for at in range(down):
        page.set(8 + SU_CELLS * at + SU_OUT, OUT_DOWN)
    made = make(
        strategy,
        page,
        cursor=0,
        workers=WORKERS,
        stride=U_CELLS * count,
        backends=backends,
        seed=1,
        slow_us=10_000_000,
        panic_percent=0,
        breakers=True,
    )
    for at in range(count):
        for sample in range(50):
            made.observe(at, 1000 + at + sample % 7, True, 1)
    return made


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


@pytest.mark.parametrize("strategy", ["round_robin", "ewma"])
def test_pick_1000_with_limits(benchmark: BenchmarkFixture, strategy: Strategy) -> None:
    picks_1000(benchmark, balancer(strategy, 3, limit=100))


def test_observe_1000(benchmark: BenchmarkFixture) -> None:
    observe = balancer("ewma", 3).observe

    def learned() -> None:
        for us in range(1000, 2000):
            observe(1, us, True, 1)

    benchmark(learned)
