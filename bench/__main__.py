"""Measure Kairos beside nginx and HAProxy: CPU time per request, rate, latency, memory.

One worker (thread) of each proxy stands in front of the same origin and is driven in turn, round after round. The
figure to look at is CPU µs per request and its ratio to the others: load, proxy and origin share this machine's
cores, so requests/s and latencies depend on all three.

`python -m bench balancing` is something else: it simulates the balancing strategies, see balancing.py. So is
`python -m bench filters`: the price of each filter, without a network, see filters.py; and `python -m bench limits`:
whether rate limits hold, see limits.py.
"""

from __future__ import annotations

import argparse
import os
import platform
import resource
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import balancing, cases, filters, limits, origin, report
from bench.peers import COMPARED, PROGRAMS
from bench.processes import BenchError, program, require


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m bench", description=__doc__)
    parser.add_argument(
        "--cases", type=_names(cases.CASES), default=list(cases.CASES), metavar="A,B", help=_choice(cases.CASES)
    )
    parser.add_argument("--only", type=_names(COMPARED), default=list(COMPARED), metavar="A,B", help=_choice(COMPARED))
    parser.add_argument("--rounds", type=int, default=5, help="turns each proxy gets in each case (5)")
    parser.add_argument("--seconds", type=int, default=3, help="length of a turn (3)")
    parser.add_argument("--no-log", action="store_true", help="turn the access log off, for all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples and their summary there")
    return parser.parse_args(arguments)


def _choice(allowed: Sequence[str] | dict[str, Any]) -> str:
    return f"some of: {', '.join(allowed)} (all)"


class _names:  # noqa: N801 - used as an argparse type, whose name shows in its messages
    """Comma-separated names out of a known set."""

    def __init__(self, allowed: Sequence[str] | dict[str, Any]) -> None:
        self.allowed = allowed

    def __call__(self, text: str) -> list[str]:
        chosen = [name.strip() for name in text.split(",") if name.strip()]
        for name in chosen:
            if name not in self.allowed:
                raise argparse.ArgumentTypeError(f"{name!r} is none of {', '.join(self.allowed)}")
        return chosen


def main(arguments: Sequence[str]) -> int:
    if arguments[:1] == ["balancing"]:
        return balancing.main(arguments[1:])
    if arguments[:1] == ["limits"]:
        return limits.main(arguments[1:])
    if arguments[:1] == ["filters"]:
        return filters.main(arguments[1:])
    options = parse(arguments)
    for number in (signal.SIGTERM, signal.SIGINT):  # who was started in the background was told to ignore the latter
        signal.signal(number, _interrupted)
    try:
        return measure(options)
    except BenchError as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130


def _interrupted(number: int, frame: object) -> None:
    """Either unwinds, so that everything that was started is ended."""
    raise KeyboardInterrupt


def measure(options: argparse.Namespace) -> int:
    prepare(options.only)
    results: list[report.Result] = []
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, origin.started(Path(folder)) as target:
        run = cases.Run(
            target, Path(folder), tuple(options.only), options.rounds, options.seconds, logging=not options.no_log
        )
        print("\n".join(f"{key}: {value}" for key, value in machine(options.only).items()))
        for result in (result for name in options.cases for result in cases.CASES[name](run)):
            print(report.render(result), flush=True)
            results.append(result)
            if options.json is not None:  # each time, so that a run that is broken off leaves what it had
                report.write_json(options.json, machine(options.only), _shown(options), results)
    return conclude(results)


def prepare(names: Sequence[str]) -> None:
    """Everything that can be missing is asked for before the first measurement."""
    require(["wrk", "openssl", "nginx", *(PROGRAMS[name] for name in names if name in PROGRAMS)])
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def machine(names: Sequence[str]) -> dict[str, str]:
    """What one must know to read the figures."""
    model = next((line for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line), "?: ?")
    cpu = f"{os.cpu_count()} × {model.partition(':')[2].strip()}"
    facts = {"cpu": cpu, "kernel": platform.release(), "python": platform.python_version()}
    return facts | {name: _version(name) for name in names if name in PROGRAMS}


def _version(name: str) -> str:
    said = subprocess.run([program(name), "-v"], capture_output=True, text=True, check=True)
    return (said.stdout or said.stderr).splitlines()[0]


def _shown(options: argparse.Namespace) -> dict[str, Any]:
    return {key: str(value) if isinstance(value, Path) else value for key, value in vars(options).items()}


def conclude(results: Sequence[report.Result]) -> int:
    failed = report.errors(results)
    if failed:
        print(f"\nbench: {failed} requests failed: the figures above do not count", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
