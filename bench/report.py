"""Results: what was measured, how rounds are condensed, the table on the terminal, the JSON file.

Rules: peers are compared within a round, where they ran within the same seconds: the figure that counts is the median
over rounds of that ratio, with its least and greatest value. Bare times are shown, never compared between runs.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from statistics import median
from typing import Any


@dataclass(frozen=True, slots=True)
class Sample:
    """One peer in one round of a load case."""

    cpu_us: float
    """CPU time of the peer's whole process tree per unit of work."""
    rate: float
    p50_us: float
    p99_us: float
    errors: int


@dataclass(frozen=True, slots=True)
class Spread:
    """Median, least and greatest of a list."""

    median: float
    low: float
    high: float


@dataclass(slots=True)
class LoadResult:
    """A load case: samples[peer] has one entry a round."""

    title: str
    unit: str
    samples: dict[str, list[Sample]] = field(default_factory=dict)


@dataclass(slots=True)
class MemoryResult:
    """A memory case: rows[peer][column]."""

    title: str
    rows: dict[str, dict[str, float]] = field(default_factory=dict)


Result = LoadResult | MemoryResult


def spread(values: Sequence[float]) -> Spread:
    return Spread(median(values), min(values), max(values))


def ratios(samples: Sequence[Sample], base: Sequence[Sample]) -> Spread:
    """CPU per unit of a peer over that of another, round by round."""
    return spread([mine.cpu_us / theirs.cpu_us for mine, theirs in zip(samples, base, strict=True)])


def errors(results: Sequence[Result]) -> int:
    """Failed requests of a whole run."""
    loads = [result for result in results if isinstance(result, LoadResult)]
    return sum(sample.errors for load in loads for samples in load.samples.values() for sample in samples)


def render(result: Result) -> str:
    """The result as a table with a title above it."""
    table = _load_table(result) if isinstance(result, LoadResult) else _memory_table(result)
    return f"\n{result.title}\n{_aligned(table)}"


def _load_table(result: LoadResult) -> list[list[str]]:
    bases = _bases(result)
    unit = result.unit
    head = ["", f"CPU µs/{unit}", f"{unit}s/s", "p50 ms", "p99 ms", "errors", *(f"CPU ÷ {base}" for base in bases)]
    return [head, *(_load_row(name, result, bases) for name in result.samples)]


def _bases(result: LoadResult) -> list[str]:
    """Whom the others are divided by: Kairos itself where it is there with policies too."""
    bases = ("kairos", "nginx", "haproxy") if "policies" in result.samples else ("nginx", "haproxy")
    return [name for name in bases if name in result.samples]


def _load_row(name: str, result: LoadResult, bases: Sequence[str]) -> list[str]:
    samples = result.samples[name]
    cpu = spread([sample.cpu_us for sample in samples])
    return [
        name,
        f"{_plain(cpu.median)} ({_plain(cpu.low)}–{_plain(cpu.high)})",
        f"{median(sample.rate for sample in samples):,.0f}",
        f"{median(sample.p50_us for sample in samples) / 1000:.2f}",
        f"{median(sample.p99_us for sample in samples) / 1000:.2f}",
        str(sum(sample.errors for sample in samples)),
        *(_ratio_cell(ratios(samples, result.samples[base])) if base != name else "1" for base in bases),
    ]


def _ratio_cell(ratio: Spread) -> str:
    return f"{ratio.median:.2f} ({ratio.low:.2f}–{ratio.high:.2f})"


def _memory_table(result: MemoryResult) -> list[list[str]]:
    columns = list(next(iter(result.rows.values())))
    return [
        ["", *columns],
        *([name, *(_plain(row[column]) for column in columns)] for name, row in result.rows.items()),
    ]


def _plain(value: float) -> str:
    return f"{value:.1f}" if value < 1000 else f"{value:,.0f}"


def _aligned(table: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[column]) for row in table) for column in range(len(table[0]))]
    return "\n".join(
        "  ".join(
            [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        )
        for row in table
    )


def summary(result: Result) -> dict[str, Any]:
    """The result with its condensed figures, ready for JSON."""
    if isinstance(result, MemoryResult):
        return {"kind": "memory", **asdict(result)}
    bases = _bases(result)
    condensed = {
        name: {
            "cpu_us": asdict(spread([sample.cpu_us for sample in samples])),
            "rate": asdict(spread([sample.rate for sample in samples])),
            "ratio": {base: asdict(ratios(samples, result.samples[base])) for base in bases if base != name},
        }
        for name, samples in result.samples.items()
    }
    return {"kind": "load", **asdict(result), "summary": condensed}


def write_json(file: Path, machine: dict[str, str], options: dict[str, Any], results: Sequence[Result]) -> None:
    document = {"machine": machine, "options": options, "results": [summary(result) for result in results]}
    file.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
