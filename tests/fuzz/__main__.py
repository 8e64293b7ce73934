"""python -m tests.fuzz --minutes N: the properties of tests/fuzz with as many examples as fit in the time."""

from __future__ import annotations

import argparse
import itertools
import time

from hypothesis import HealthCheck, Phase, given, seed, settings

from tests.fuzz import properties
from tests.fuzz.heads import chunked_bodies, mutated, requests, responses

TARGETS = {
    "request_head": (properties.request_head, mutated(requests)),
    "response_head": (properties.response_head, mutated(responses)),
    "canonical": (properties.canonical, mutated(requests)),
    "chunked_body": (properties.chunked_body, mutated(chunked_bodies())),
}
ROUND = settings(
    max_examples=5000,
    deadline=None,
    database=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate, Phase.shrink],
)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("targets", nargs="*", default=list(TARGETS), help=f"of {', '.join(TARGETS)}; all by default")
    options = parser.parse_args()
    end = time.monotonic() + options.minutes * 60
    for number in itertools.count():
        for name in options.targets:
            check, source = TARGETS[name]
            seed(time.time_ns())(ROUND(given(source)(check)))()
            print(f"round {number} {name}: {ROUND.max_examples} examples hold", flush=True)
            if time.monotonic() > end:
                return


if __name__ == "__main__":
    main()
