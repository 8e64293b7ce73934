"""Hash ring picks: flat in the number of members."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kairos._speedups.ring import Ring, hash_of

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

KEYS = [hash_of(b"10.0.%d.%d" % (number >> 8, number & 255)) for number in range(1000)]


@pytest.mark.parametrize("members", [2, 10, 200])
def test_owner_1000(benchmark: BenchmarkFixture, members: int) -> None:
    owner = Ring([f"http://backend-{number}:80" for number in range(members)]).owner

    def picks() -> None:
        for key in KEYS:
            owner(key)

    benchmark(picks)


@pytest.mark.parametrize("size", [4, 16, 64, 1024])
def test_hash(benchmark: BenchmarkFixture, size: int) -> None:
    benchmark(hash_of, b"k" * size)
