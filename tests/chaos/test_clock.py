"""The wall clock jumps by an hour, forth and back: nobody is timed out or taken out, and the logs tell the new time."""

from __future__ import annotations

import os
import subprocess
import time
from datetime import datetime
from pathlib import Path

from tests.chaos.conftest import Site
from tests.support.gateway import route
from tests.support.net import connect, status_of

HOUR = 3600
SECTIONS = {
    "health_check": {"interval": 0.2, "fall": 1},
    "outlier_detection": {"interval": 0.5, "ejection_time": 1},
    "circuit_breaker": {"reset_timeout": 1},
}


class WallClock:
    """The gateway's: libfaketime moves it as the file says, and leaves the monotonic one alone."""

    def __init__(self, file: Path) -> None:
        self.file = file
        self.set(0)
        self.env = {
            "LD_PRELOAD": library(),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_CACHE_DURATION": "0",
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "FAKETIME_DONT_RESET": "1",
        }

    def set(self, offset_s: int) -> None:
        beside = self.file.with_suffix(".new")
        beside.write_text(f"{offset_s:+d}\n")
        os.replace(beside, self.file)


def library() -> str:
    """As Debian's `faketime` names it to the program it starts."""
    printed = subprocess.check_output(["faketime", "-f", "+0", "printenv", "LD_PRELOAD"], text=True)
    return printed.strip().rpartition(":")[2]


def test_steps_of_the_wall_clock_are_no_time(site: Site, tmp_path: Path) -> None:
    clock = WallClock(tmp_path / "clock")
    site.start_origins(2)
    routers = [
        site.route(retry={}, health_check={"path": "/work?id=probe"}),
        route("/patient", site.origins[0].url),
    ]
    config = {"routers": routers, **SECTIONS}
    gate = site.start_gateway(config, workers=2, env=clock.env)
    with site.load(pause=0.002) as load, connect(gate.port) as idle, connect(gate.port) as waiting:
        idle.send(b"GET /live HTTP/1.1\r\nHost: idle\r\n\r\n")
        assert status_of(idle.receive_response()[0]) == 200
        waiting.send(b"GET /patient?id=patient&wait=3000 HTTP/1.1\r\nHost: patient\r\n\r\n")
        for offset in (HOUR, 0, -HOUR, 0) * site.times(1):
            load.goes_on(200)
            clock.set(offset)
            gate.wait(lambda offset=offset: logged_now(gate.access_lines()[-1], offset), f"log at {offset:+d} s")
            load.goes_on(200)
        assert status_of(waiting.receive_response()[0]) == 200
        idle.send(b"GET /live HTTP/1.1\r\nHost: idle\r\n\r\n")
        assert status_of(idle.receive_response()[0]) == 200
    tally = site.judge(load)
    assert tally.resent == tally.not_taken == 0, "a connection was timed out"
    for event in ("ejected", "unhealthy", "opened"):
        assert event not in gate.log


def logged_now(line: dict[str, str], offset_s: int) -> bool:
    """Whether an access-log line was written now, by a clock that is off by so much."""
    at = datetime.fromisoformat(line["time"]).timestamp()
    return abs(at - offset_s - time.time()) < 60
