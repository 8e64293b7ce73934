"""Limit cells and the table of them."""

from __future__ import annotations

from mmap import mmap
from typing import TYPE_CHECKING

import pytest

from kairos._speedups.cells import Page
from kairos._speedups.limits import FixedWindow, Limit, LimitCell, LimitTable, SlidingWindow, TokenBucket, table_cells
from kairos._speedups.ring import hash_of

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

KINDS: list[type[Limit]] = [TokenBucket, FixedWindow, SlidingWindow]
NOW = 1_000_000_000


@pytest.mark.parametrize("requests", [10_000_000, 1], ids=["granted", "refused"])
@pytest.mark.parametrize("kind", KINDS)
def test_take_1000(benchmark: BenchmarkFixture, kind: type[Limit], requests: int) -> None:
    acquire = LimitCell(Page(mmap(-1, 4096)), 0, kind(requests, 1_000_000)).acquire
    clock = iter(range(NOW, NOW << 10, 1000))

    def takes() -> None:
        now = next(clock)
        for _ in range(1000):
            acquire(now)

    benchmark(takes)


@pytest.mark.parametrize("keys", [100, 50_000])
@pytest.mark.parametrize("kind", KINDS)
def test_table_1000(benchmark: BenchmarkFixture, kind: type[Limit], keys: int) -> None:
    limit = kind(10_000_000, 1_000_000)
    cells = table_cells(1 << 17, limit.words)
    acquire = LimitTable(Page(mmap(-1, 8 * cells)), 0, cells, limit.words).acquire
    wanted = [hash_of(b"ip:%d" % (number * 7919 % keys)) for number in range(max(keys, 1000))]
    for key in wanted:
        acquire(key, limit, NOW)
    clock = iter(range(NOW, NOW << 10, 1000))

    def takes() -> None:
        now = next(clock)
        for key in wanted[:1000]:
            acquire(key, limit, now)

    benchmark(takes)
