"""Compare the balancing strategies with an oracle: `python -m bench balancing`.

Simulated time, seeded; see balancing_simulation.py for what is simulated and what is charged. The figure to look at is
the mean latency relative to the oracle's; the recommended strategy, ewma, is to stay below 1.05 in every scenario.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from typing import get_args

from bench.balancing_simulation import SECOND, Backend, Episode, Outcome, Scenario, oracle, strategy
from kairos.config.model import Strategy

STRATEGIES: tuple[Strategy, ...] = get_args(Strategy)
MS = 1000


def scenarios(requests: int) -> list[Scenario]:
    """What happens to real backends. Loads are 60 % of what they can do, or less; episodes lie in the run's middle."""
    equal = [Backend(20 * MS, 8)] * 5
    end = requests / 1200 * SECOND
    begin, over = 0.3 * end, 0.6 * end
    fast = [Backend(10 * MS, 8), *[Backend(20 * MS, 8)] * 3]
    return [
        Scenario("steady", equal, 1200, requests),
        Scenario(
            "comes back, cold",
            equal,
            1200,
            requests,
            [Episode(0, 0, begin, down=True), Episode(0, begin, end, factor=5, warms_in=2 * SECOND)],
        ),
        Scenario("brown-out x6", equal, 1200, requests, [Episode(0, begin, over, factor=6)]),
        Scenario("90 % fast errors", equal, 1200, requests, [Episode(0, begin, over, factor=0.05, failing=0.9)]),
        Scenario("30 % errors", equal, 1200, requests, [Episode(0, begin, over, failing=0.3)]),
        Scenario("one twice as fast", fast, 1200, requests),
        Scenario("the same, low load", fast, 600, requests),
        Scenario("2, 4, 8, 16 slots", [Backend(20 * MS, slots) for slots in (2, 4, 8, 16)], 900, requests),
        Scenario("one slot each", [Backend(20 * MS, 1)] * 5, 150, requests),
        Scenario("50 backends", [Backend(20 * MS, 4)] * 50, 6000, requests),
    ]


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench balancing", description=__doc__)
    parser.add_argument("--requests", type=int, default=20_000, help="of each run (20000)")
    parser.add_argument("--seed", type=int, default=1, help="another one gives other requests (1)")
    parser.add_argument(
        "--only", nargs="+", choices=STRATEGIES, default=list(STRATEGIES), help="strategies to run (all)"
    )
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    for scenario in scenarios(options.requests):
        print("\n".join(table(scenario, options.only, options.seed)), flush=True)
    return 0


def table(scenario: Scenario, names: Sequence[Strategy], seed: int) -> Iterator[str]:
    """One scenario: the oracle's figures, and each strategy's relative to them."""
    best = oracle(scenario, seed)
    yield f"\n{scenario.name}: {len(scenario.backends)} backends, {scenario.rate:.0f} requests/s"
    yield f"{'':20}{'mean':>10}{'p99':>10}{'fill p99':>10}{'in a row':>10}{'failed':>10}"
    yield (
        f"{'oracle':20}{best.mean_us / MS:>7.1f} ms{best.p99_us / MS:>7.1f} ms"
        f"{best.fill:>10.2f}{best.longest_run:>10}{best.failed:>10}"
    )
    for name in names:
        yield row(name, strategy(name)(scenario, seed), best)


def row(name: str, run: Outcome, best: Outcome) -> str:
    return (
        f"{name:20}{run.mean_us / best.mean_us:>8.3f} x{run.p99_us / best.p99_us:>8.2f} x"
        f"{run.fill:>10.2f}{run.longest_run:>10}{run.failed:>10}"
    )
