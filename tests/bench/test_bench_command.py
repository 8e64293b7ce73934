"""`python -m bench` as a user runs it: a short real run, mistakes on the command line, Ctrl-C in the middle."""

import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from bench import cases, procfs
from bench.__main__ import main, parse
from bench.processes import BenchError

ROOT = Path(__file__).parents[2]


def bench(tmp_path, *options):
    command = [sys.executable, "-m", "bench", "--only", "nginx,haproxy", "--rounds", "1", *options]
    env = {**os.environ, "TMPDIR": str(tmp_path)}
    return subprocess.Popen(
        command, cwd=ROOT, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def test_a_short_run_prints_tables_and_writes_json(tmp_path):
    file = tmp_path / "out.json"
    child = bench(tmp_path, "--cases", "plain,fresh", "--seconds", "1", "--json", str(file))
    out, err = child.communicate(timeout=100)
    assert child.returncode == 0, err
    assert "CPU ÷ nginx" in out
    document = json.loads(file.read_text())
    load, memory = document["results"]
    assert document["options"]["cases"] == ["plain", "fresh"]
    assert all(sample["cpu_us"] > 0 for samples in load["samples"].values() for sample in samples)
    assert all(row["worker RSS MiB"] > 1 for row in memory["rows"].values())
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_everything_that_was_started(tmp_path, number):
    child = bench(tmp_path, "--cases", "plain,rich", "--seconds", "2")
    assert child.stderr.readline() != ""
    started = procfs.tree(child.pid)
    os.kill(child.pid, number)
    err = child.communicate(timeout=60)[1]
    assert (child.returncode, err.splitlines()[-1]) == (130, "bench: interrupted")
    assert "Traceback" not in err
    assert len(started) > 4
    gone_by = time.monotonic() + 25  # what was killed is there until somebody reaps it
    while left := [pid for pid in started if procfs.stat(pid) is not None]:
        assert time.monotonic() < gone_by, left
        time.sleep(0.01)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("options", [["--cases", "plain,plan"], ["--only", "nginx,apache"]])
def test_an_unknown_name_is_answered_with_the_known_ones(options, capsys):
    with pytest.raises(SystemExit):
        parse(options)
    said = capsys.readouterr().err
    assert "is none of" in said
    assert ("rich" in said, "kairos" in said) != (False, False)


def test_all_cases_and_peers_are_the_default():
    options = parse([])
    assert options.cases == [
        "plain",
        "rich",
        "body16k",
        "body1m",
        "post16k",
        "websocket",
        "tls",
        "tlsrich",
        "tls16k",
        "handshake",
        "handshake12",
        "tlsnew",
        "tlsnew12",
        "workers2",
        "policies",
        "idle",
        "fresh",
    ]
    assert options.only == ["kairos", "nginx", "haproxy"]


def test_failed_requests_fail_the_run(monkeypatch):
    monkeypatch.setattr("bench.report.errors", lambda results: 3)
    monkeypatch.setitem(cases.CASES, "fresh", lambda run: [])
    assert main(["--only", "nginx", "--cases", "fresh"]) == 1


@pytest.mark.parametrize(("descriptors", "count"), [(1 << 20, 10_000), (20_000, 10_000), (2_024, 1_000)])
def test_idle_connections_are_as_many_as_descriptors_allow(descriptors, count):
    assert cases.idle_count(descriptors) == count


def test_memory_is_read_when_the_tree_has_stopped_growing(monkeypatch):
    readings = iter([100, 140, 150, 151, 700])
    monkeypatch.setattr(procfs, "tree_memory", lambda root: procfs.Memory(rss=0, pss=next(readings)))
    assert cases.settled_memory(1, pause=0).pss == 151


def test_memory_that_goes_on_growing_is_no_figure(monkeypatch):
    sizes = itertools.count(100, 50)
    monkeypatch.setattr(procfs, "tree_memory", lambda root: procfs.Memory(rss=0, pss=next(sizes)))
    with pytest.raises(BenchError, match="does not settle: it is 350 KiB"):
        cases.settled_memory(1, pause=0, readings=5)
