"""The price list of filters: every case goes the whole way, and is told beside the bare route."""

import asyncio

import uvloop

from bench.filters import CASES, NONE, measure, table


def test_every_case_is_measured_beside_the_bare_route():
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        best = runner.run(measure(CASES, rounds=1, count=5))
    assert set(best) == set(CASES)
    shown = table(best).splitlines()
    assert len(shown) == len(CASES) + 1
    assert shown[1].startswith(NONE)
    assert shown[1].split()[-2:] == ["+0", "1.00"]
