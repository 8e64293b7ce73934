"""Rounds become ratios, tables and JSON."""

import json

import pytest

from bench import report
from bench.report import LoadResult, MemoryResult, Sample, Spread


def samples(*cpu, errors=0):
    return [Sample(cpu_us=value, rate=1000.0, p50_us=1500.0, p99_us=4000.0, errors=errors) for value in cpu]


def test_ratios_are_taken_round_by_round():
    """Both got slower in the second round; the ratio did not change."""
    assert report.ratios(samples(9, 18, 27), samples(10, 20, 30)) == Spread(0.9, 0.9, 0.9)


def test_the_median_ratio_is_not_the_ratio_of_medians():
    mine, theirs = samples(1, 10, 100), samples(2, 40, 50)
    assert report.ratios(mine, theirs) == Spread(0.5, 0.25, 2.0)


def test_rounds_must_match():
    with pytest.raises(ValueError, match="shorter"):
        report.ratios(samples(1, 2), samples(1))


def test_a_load_table_shows_cpu_and_both_ratios():
    result = LoadResult(
        "rich", "request", {"kairos": samples(9, 10), "nginx": samples(10, 10), "haproxy": samples(18, 25)}
    )
    lines = report.render(result).splitlines()
    assert lines[1] == "rich"
    assert lines[2].split() == [
        *("CPU", "µs/request", "requests/s", "p50", "ms", "p99", "ms", "errors"),
        *("CPU", "÷", "nginx", "CPU", "÷", "haproxy"),
    ]
    assert lines[3].split()[-4:] == ["0.95", "(0.90–1.00)", "0.45", "(0.40–0.50)"]
    assert lines[4].split()[-3:] == ["1", "0.48", "(0.40–0.56)"]
    assert len({len(line) for line in lines[2:]}) == 1


def test_a_table_without_nginx_has_no_ratio_to_it():
    assert "nginx" not in report.render(LoadResult("plain", "request", {"kairos": samples(9), "haproxy": samples(8)}))


def test_a_memory_table_has_its_own_columns():
    result = MemoryResult("idle", {"nginx": {"RSS KiB/connection": 0.5}, "kairos": {"RSS KiB/connection": 1234.5}})
    assert report.render(result).splitlines()[-1].split() == ["kairos", "1,234"]


def test_errors_of_all_rounds_are_counted():
    result = LoadResult("plain", "request", {"kairos": samples(1, 2, errors=3), "nginx": samples(1, errors=1)})
    assert report.errors([result, MemoryResult("idle")]) == 7


def test_json_holds_samples_and_summary(tmp_path):
    file = tmp_path / "out.json"
    result = LoadResult("plain", "request", {"kairos": samples(9, 11), "nginx": samples(10, 10)})
    report.write_json(file, {"cpu": "2"}, {"rounds": 2}, [result, MemoryResult("idle", {"nginx": {"a": 1.0}})])
    load, memory = json.loads(file.read_text())["results"]
    assert [sample["cpu_us"] for sample in load["samples"]["kairos"]] == [9, 11]
    assert load["summary"]["kairos"]["ratio"] == {"nginx": {"median": 1.0, "low": 0.9, "high": 1.1}}
    assert (memory["kind"], memory["rows"]) == ("memory", {"nginx": {"a": 1.0}})
