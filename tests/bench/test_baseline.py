"""Micro-benchmarks are judged by ratios, so a slower machine does not fail and a slower leaf does."""

import json

import pytest

from bench.micro import __main__ as command
from bench.micro import baseline


def session(scale=1.0, **seconds):
    everything = {"test_calibration_count": 4e-4, "test_calibration_look_up": 1e-4, **seconds}
    entries = [
        {"fullname": f"bench/micro/test_x.py::{name}", "stats": {"min": value * scale}}
        for name, value in everything.items()
    ]
    return {"benchmarks": entries}


def name_of(name):
    return f"bench/micro/test_x.py::{name}"


def test_a_figure_is_relative_to_the_calibration():
    assert baseline.figures(session(test_match=1e-4)) == {name_of("test_match"): pytest.approx(0.5)}


def test_a_slower_machine_gives_the_same_figure():
    slow, fast = (baseline.figures(session(scale, test_match=1e-4)) for scale in (3.0, 1.0))
    assert slow == pytest.approx(fast)


def test_a_session_without_calibration_cannot_be_judged():
    with pytest.raises(ValueError, match="test_calibration_"):
        baseline.figures({"benchmarks": [{"fullname": "x", "stats": {"min": 1.0}}]})


@pytest.mark.parametrize(("now", "regressed"), [(0.5, False), (1.49, False), (1.5, False), (1.51, True), (9.0, True)])
def test_more_than_half_as_long_again_is_a_regression(now, regressed):
    (verdict,) = baseline.judge({"a": 1.0}, {"a": now})
    assert verdict.regressed is regressed
    assert ("REGRESSED" in str(verdict)) is regressed


def test_new_and_missing_benchmarks_are_said_but_do_not_fail():
    verdicts = baseline.judge({"gone": 1.0}, {"new": 1.0})
    assert [str(verdict).split() for verdict in verdicts] == [["missing", "gone"], ["new", "new"]]
    assert not any(verdict.regressed for verdict in verdicts)


@pytest.fixture
def compare(tmp_path, monkeypatch):
    """Run a command of `python -m bench.micro` over a session, with a baseline of its own."""
    monkeypatch.setattr(baseline, "FILE", tmp_path / "baseline.json")
    monkeypatch.setattr(baseline.read, "__defaults__", (tmp_path / "baseline.json",))
    monkeypatch.setattr(baseline.write, "__defaults__", (tmp_path / "baseline.json",))

    def run(action, document):
        file = tmp_path / "session.json"
        file.write_text(json.dumps(document))
        return command.main([action, "--session", str(file)])

    return run


def test_save_then_compare(compare, capsys):
    assert compare("save", session(test_match=1e-4)) == 0
    assert compare("compare", session(2.0, test_match=1.2e-4)) == 0
    assert compare("compare", session(2.0, test_match=1.6e-4)) == 1
    assert "REGRESSED  bench/micro/test_x.py::test_match: 1.60 × baseline" in capsys.readouterr().out


def test_of_two_sessions_the_better_figures_count():
    assert baseline.better({"a": 1.0, "b": 5.0}, {"a": 2.0, "b": 3.0}) == {"a": 1.0, "b": 3.0}


def test_the_saved_baseline_is_readable():
    assert all(figure > 0 for figure in baseline.read().values())
