"""The application log in a process of its own: levels, JSON lines, readable lines on a terminal."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys

import pytest

SCRIPT = """
from kairos.config.log import Log
from kairos.telemetry import log
logger = log.get_logger("worker")
log.configure(Log(level={level!r}))
logger.debug("detail", n=1)
logger.info("started", port=5900)
try:
    1 / 0
except ZeroDivisionError:
    logger.exception("broken")
"""


def run(level: str, **env: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT.format(level=level)],
        stderr=subprocess.PIPE,
        env={**os.environ, **env},
        check=True,
    )
    return done.stderr.decode().splitlines()


def run_on_terminal(**env: str) -> str:
    terminal, its_end = pty.openpty()
    plain = {key: value for key, value in os.environ.items() if key not in ("NO_COLOR", "FORCE_COLOR")}
    subprocess.run(
        [sys.executable, "-c", SCRIPT.format(level="info")], stderr=its_end, env={**plain, **env}, check=True
    )
    os.close(its_end)
    shown = os.read(terminal, 65536).decode()
    os.close(terminal)
    return shown


def test_lines_are_json_objects_with_component_and_pid():
    started, broken = (json.loads(line) for line in run("info"))
    assert started["event"] == "started"
    assert (started["component"], started["level"], started["port"]) == ("worker", "info", 5900)
    assert started["pid"] != os.getpid()
    assert started["time"].endswith("Z")
    assert "ZeroDivisionError" in broken["exception"]


@pytest.mark.parametrize(("level", "events"), [("debug", 3), ("info", 2), ("error", 1)])
def test_a_level_lets_through_itself_and_above(level, events):
    assert len(run(level)) == events


def test_a_terminal_gets_readable_lines():
    assert "\x1b[" in run_on_terminal()
    shown = run_on_terminal(NO_COLOR="1")
    assert "started" in shown
    assert "port=5900" in shown
    assert "\x1b[" not in shown
    assert "{" not in shown.splitlines()[0]


def test_a_full_disk_ends_no_process() -> None:
    with open("/dev/full", "wb") as full:
        done = subprocess.run([sys.executable, "-c", SCRIPT.format(level="debug")], stderr=full, check=False)
    assert done.returncode == 0
