"""The bench of rate limits, on a small scale: what it counts, and that it holds."""

from __future__ import annotations

import pytest

from bench import limits
from bench.__main__ import main
from kairos._speedups.limits import FixedWindow, SlidingWindow


def test_four_processes_get_the_limit_to_the_request() -> None:
    run = limits.together(FixedWindow, 4, 5_000)
    assert (run.tries, run.granted, run.allowed, run.over) == (20_000, 10_000, 10_000, 0)


def test_a_flood_passes_and_washes_nobody_out() -> None:
    seen = limits.flood(SlidingWindow, 20_000, 1024)
    assert (seen.passed, seen.attacker, seen.full) == (20_000, 0, 0)
    assert seen.forgotten > 18_000


def test_it_prints_both_tables(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["limits", "--processes", "2", "--tries", "500", "--keys", "2000", "--places", "64"]) == 0
    printed = capsys.readouterr().out
    assert "2 processes at one limit" in printed
    assert "2000 keys, 64 places" in printed
    assert printed.count("SlidingWindow") == 2
