"""What one access-log line costs the worker: formatting and the ring, a thousand lines a round (and one drain)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kairos._speedups import cells
from kairos.config.model import AccessLog as Spec
from kairos.scoreboard import Capacity, Scoreboard
from kairos.telemetry.accesslog import AccessLog, LogReader

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

LINES = 1000
BROWSER = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/120.0 Safari/537.36"
TARGETS = {"plain": "/api/v1/users/42", "query": "/api/v1/users/42?full=1&token=abcdef&page=2"}


@pytest.mark.parametrize("target", TARGETS.values(), ids=TARGETS)
@pytest.mark.parametrize("format_", ["json", "combined"])
def test_line(benchmark: BenchmarkFixture, format_: str, target: str) -> None:
    board = Scoreboard(Capacity(workers=1, routes=1, pairs=1, upstreams=1))
    log = AccessLog(board, 0, Spec(format="json" if format_ == "json" else "combined"))
    reader = LogReader(board)

    def write_lines() -> bytes:
        log.write_line(
            times=LINES,
            time_us=1_795_243_383_000_042,
            client="192.0.2.7",
            method="GET",
            scheme="http",
            host="api.example.com",
            target=target,
            version=11,
            status=200,
            request_id="0af7651916cd43dd8448eb211c80319c",
            route="/api/v1/users/{id}",
            upstream="http://10.0.0.1:8080",
            attempts=1,
            total_us=1234,
            gateway_us=34,
            upstream_us=1200,
            bytes_out=512,
            user_agent=BROWSER,
            detail="via_upstream",
        )
        return reader.drain(0)

    assert benchmark(write_lines).count(b"\n") == LINES
    assert board.total(board.worker_block(0), cells.W_LOG_DROPPED) == 0
