"""Run the micro-benchmarks, then save their calibrated figures or compare them with the saved ones.

python -m bench.micro compare   exit 1 when a benchmark takes more than 1.5 times its saved figure
python -m bench.micro save      make this session the baseline (bench/micro/baseline.json)
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from bench.micro import baseline

Measure = Callable[[], dict[str, Any]]
"""Gives a session of pytest-benchmark."""


def parse(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        "python -m bench.micro", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("action", choices=("compare", "save"))
    parser.add_argument("--session", type=Path, help="judge this file of pytest-benchmark instead of running anything")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str]) -> int:
    options = parse(arguments)
    measure = (lambda: json.loads(options.session.read_text())) if options.session else run
    return save(measure) if options.action == "save" else compare(measure)


def run() -> dict[str, Any]:
    """A session of the whole folder; its own report goes to the terminal."""
    folder = Path(__file__).parent
    with tempfile.TemporaryDirectory(prefix="bench-micro-") as home:
        file = Path(home) / "session.json"
        options = ["--benchmark-only", f"--benchmark-json={file}", "--benchmark-columns=min,median,rounds"]
        done = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:xdist", *options, str(folder)], check=False
        )
        if done.returncode != 0:
            sys.exit(done.returncode)
        session: dict[str, Any] = json.loads(file.read_text())
        return session


def save(measure: Measure) -> int:
    """The better of two sessions: a disturbed figure would hide regressions later."""
    now = baseline.better(baseline.figures(measure()), baseline.figures(measure()))
    baseline.write(now)
    print(f"saved {len(now)} figures to {baseline.FILE}")
    return 0


def compare(measure: Measure) -> int:
    """What looks like a regression has to show twice."""
    saved, now = baseline.read(), baseline.figures(measure())
    if baseline.regressions(saved, now):
        now = baseline.better(now, baseline.figures(measure()))
    print("\n".join(str(verdict) for verdict in baseline.judge(saved, now)))
    return 1 if baseline.regressions(saved, now) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
