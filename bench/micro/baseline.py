"""The saved baseline of the micro-benchmarks, and how a session is judged by it.

Rules: a benchmark's figure is its fastest round divided by the geometric mean of the calibration's fastest rounds of
the same session, so a slower machine does not look like a regression. A benchmark without a saved figure is new, a
saved one that did not run is missing; neither fails, both are said.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import geometric_mean
from typing import Any

CALIBRATION = "test_calibration_"
ALLOWED = 1.5
FILE = Path(__file__).parent / "baseline.json"


@dataclass(frozen=True, slots=True)
class Verdict:
    """One benchmark, now against saved. None stands for "not there"."""

    name: str
    saved: float | None
    now: float | None

    @property
    def change(self) -> float | None:
        """1 is as saved, 2 is twice as slow."""
        return None if self.saved is None or self.now is None else self.now / self.saved

    @property
    def regressed(self) -> bool:
        return self.change is not None and self.change > ALLOWED

    def __str__(self) -> str:
        if self.saved is None:
            return f"new        {self.name}"
        if self.now is None:
            return f"missing    {self.name}"
        return f"{'REGRESSED' if self.regressed else 'ok':9}  {self.name}: {self.now / self.saved:.2f} × baseline"


def figures(session: Mapping[str, Any]) -> dict[str, float]:
    """Calibrated figures by benchmark, from the JSON that pytest-benchmark writes."""
    fastest = {entry["fullname"]: float(entry["stats"]["min"]) for entry in session["benchmarks"]}
    yardsticks = [seconds for name, seconds in fastest.items() if CALIBRATION in name]
    if not yardsticks:
        raise ValueError(f"the session holds no {CALIBRATION}* benchmark to judge by: run the whole folder")
    unit = geometric_mean(yardsticks)
    return {name: seconds / unit for name, seconds in sorted(fastest.items()) if CALIBRATION not in name}


def judge(saved: Mapping[str, float], now: Mapping[str, float]) -> list[Verdict]:
    return [Verdict(name, saved.get(name), now.get(name)) for name in sorted(saved.keys() | now.keys())]


def regressions(saved: Mapping[str, float], now: Mapping[str, float]) -> list[Verdict]:
    return [verdict for verdict in judge(saved, now) if verdict.regressed]


def better(one: Mapping[str, float], other: Mapping[str, float]) -> dict[str, float]:
    """The lesser figure of each benchmark of two sessions of the same folder."""
    return {name: min(figure, other[name]) for name, figure in one.items()}


def read(file: Path = FILE) -> dict[str, float]:
    figures_by_name: dict[str, float] = json.loads(file.read_text()) if file.exists() else {}
    return figures_by_name


def write(figures_by_name: Mapping[str, float], file: Path = FILE) -> None:
    rounded = {name: float(f"{figure:.4g}") for name, figure in sorted(figures_by_name.items())}
    file.write_text(json.dumps(rounded, indent=2) + "\n")
