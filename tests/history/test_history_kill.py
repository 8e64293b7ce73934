"""A control process is killed while it writes: what it said was written is there, once, at every level."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kairos.control.history.rollup import LEVELS
from tests.history.recording import START, Gateway, Recording, Time, in_loop, open_database, recorded, sqlite_url

WRITER = """
import asyncio, sys
from tests.history.recording import Gateway, Recording, Time, open_database

async def main(url, wall):
    async with open_database(url) as database:
        gateway, time = Gateway(), Time(wall)
        recording = Recording(gateway, database, time)
        await recording.begin()
        while True:
            await recording.tick(10, gateway.request)
            print(recording.history.recorder.written, flush=True)

asyncio.run(main(sys.argv[1], float(sys.argv[2])))
"""
ROOT = Path(__file__).parents[2]
LIVES = 2


def one_life(url: str, wall: float, samples: int) -> int:
    """How many samples the process said were written before it was killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, url, str(wall)], stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ
    )
    assert process.stdout is not None
    with process, process.stdout as out:
        said = [out.readline() for _ in range(samples)]
        process.send_signal(signal.SIGKILL)
        said += out.readlines()
    return max(int(line) for line in said if line.endswith("\n"))


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_what_was_said_to_be_written_is_there_once(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = sqlite_url(tmp_path) if kind == "sqlite" else request.getfixturevalue("postgres").database()
    said = [one_life(url, START + 1000 * life, 5 + life) for life in range(LIVES)]

    async def trace() -> None:
        async with open_database(url) as database:
            time = Time(START + 1000 * LIVES)
            recording = Recording(Gateway(), database, time)
            totals = []
            for level in LEVELS:
                (line,) = await recording.ask(
                    "kairos_http_requests_total",
                    start=START, end=time.wall, step=level.step, aggregations=["increase"],
                )  # fmt: skip
                totals.append(line.total)
            assert len(set(totals)) == 1, totals
            assert sum(said) <= totals[0] <= sum(said) + LIVES  # one transaction of each may have ended unheard

    in_loop(trace)


def test_the_last_sample_is_written_at_the_end(tmp_path: Path) -> None:
    async def trace(recording: Recording) -> None:
        gateway, time = recording.gateway, recording.time
        recorder = recording.history.recorder
        recorder.start()
        recorder.start()  # once is enough
        await asyncio.sleep(0)
        await recorder.sample()
        time.pass_(3)
        gateway.request(times=6)
        await recording.history.close(5)
        assert (recorder.waiting, recorder.written) == (0, 1)
        assert await recording.line("kairos_http_requests_total", start=START, end=time.wall, step=10) == [2.0]

    recorded(sqlite_url(tmp_path), trace)
