"""The balancing simulation: the oracle is what it claims to be, and ewma stays close to it."""

from __future__ import annotations

import functools

import pytest

from bench.__main__ import main
from bench.balancing import STRATEGIES, scenarios
from bench.balancing_simulation import Backend, Oracle, Scenario, oracle, simulate, strategy

REQUESTS = 6000
"""Short runs: what is learned at the beginning weighs more than in those of `python -m bench balancing`."""

each_scenario = pytest.mark.parametrize("scenario", scenarios(REQUESTS), ids=lambda scenario: scenario.name)


best_of = functools.cache(lambda name: oracle(next(one for one in scenarios(REQUESTS) if one.name == name), seed=1))


@each_scenario
def test_ewma_stays_close_to_the_oracle_and_never_herds(scenario: Scenario) -> None:
    best, run = best_of(scenario.name), strategy("ewma")(scenario, 1)
    assert run.mean_us / best.mean_us < 1.10
    assert run.p99_us / best.p99_us < 1.25
    assert run.fill <= max(2.0, 1.75 * best.fill)  # requests in flight for each slot where a pick fell
    assert run.failed <= best.failed + REQUESTS / 150


@each_scenario
def test_nobody_beats_the_oracle(scenario: Scenario) -> None:
    best = best_of(scenario.name).mean_us
    for name in STRATEGIES:
        assert strategy(name)(scenario, 1).mean_us > 0.98 * best, name


def test_a_selfish_oracle_would_be_a_weak_one() -> None:
    [scenario] = [one for one in scenarios(REQUESTS) if one.name == "one twice as fast"]
    selfish = simulate(scenario, Oracle(scenario, patience=1), seed=1)
    assert oracle(scenario, seed=1).mean_us < 0.9 * selfish.mean_us


def test_one_backend_of_one_slot_waits_as_theory_says() -> None:
    """M/M/1: the mean time in the system is mean / (1 - utilization)."""
    scenario = Scenario("one", [Backend(10_000, 1)], 50, 30_000)
    for policy in (strategy("ewma"), oracle):
        assert policy(scenario, 1).mean_us == pytest.approx(20_000, rel=0.1)


def test_a_run_repeats_exactly() -> None:
    scenario = scenarios(1000)[2]
    assert strategy("ewma")(scenario, 5) == strategy("ewma")(scenario, 5)
    assert strategy("ewma")(scenario, 5) != strategy("ewma")(scenario, 6)


def test_the_command_prints_a_table_for_each_scenario(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["balancing", "--requests", "300", "--only", "ewma", "p2c"]) == 0
    said = capsys.readouterr().out
    assert all(scenario.name in said for scenario in scenarios(1))
    rows = [line.split() for line in said.splitlines() if line.startswith(("oracle", "ewma", "p2c"))]
    assert len(rows) == 3 * len(scenarios(1))
    assert all(float(row[1]) > 0 for row in rows)
