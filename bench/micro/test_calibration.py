"""Two fixed loads that say how fast this machine and interpreter are; every other benchmark is judged relative to them.

Rules: never change what they do, or every saved ratio loses its meaning.
"""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

KEYS = [f"key-{number}".encode() for number in range(1000)]
TABLE = {key: number for number, key in enumerate(KEYS)}


def count() -> int:
    """Bytecode: the interpreter's loop and small integers."""
    total = 0
    for number in range(10_000):
        total += number & 7
    return total


def look_up() -> int:
    """C code: hashing, comparing, memory."""
    total = 0
    for key in KEYS:
        total += TABLE[b"key-" + key[4:]]
    return total


def test_calibration_count(benchmark: BenchmarkFixture) -> None:
    assert benchmark(count) == sum(number & 7 for number in range(10_000))


def test_calibration_look_up(benchmark: BenchmarkFixture) -> None:
    assert benchmark(look_up) == sum(range(1000))
