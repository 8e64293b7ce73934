"""The PostgreSQL of the tests: fresh databases, and everything a server may do to those who use it."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.support.postgres import PostgresServer, postgres_server

ROOT = Path(__file__).parents[2]


def name_of(url: str) -> str:
    return url.rpartition("/")[2]


def test_each_database_is_empty_and_its_own(postgres: PostgresServer, postgres_url: str) -> None:
    other = postgres.database()
    assert name_of(other) != name_of(postgres_url)
    postgres.sql("CREATE TABLE t (a int); INSERT INTO t VALUES (1)", name_of(postgres_url))
    assert postgres.sql("SELECT count(*) FROM pg_tables WHERE tablename = 't'", name_of(other)) == "0"
    assert postgres.sql("SELECT a FROM t", name_of(postgres_url)) == "1"


def test_a_server_of_ones_own_may_crash_hang_and_come_back() -> None:
    with postgres_server() as server:
        name = name_of(server.database())
        server.sql("CREATE TABLE t (a int)", name)
        server.kill()
        with pytest.raises(AssertionError, match="refused"):
            server.sql("SELECT 1")
        server.start()
        assert server.sql("SELECT count(*) FROM t", name) == "0"
        server.hang()
        with pytest.raises(subprocess.TimeoutExpired):
            subprocess.run(["psql", "-X", "-d", server.url(), "-c", "SELECT 1"], capture_output=True, timeout=0.3)
        server.go_on()
        server.shut_down()
        server.start()
        assert server.sql("SELECT count(*) FROM t", name) == "0"


def test_no_server_outlives_tests_that_were_killed() -> None:
    code = """
from tests.support.postgres import PostgresServer
print(PostgresServer().process.pid, flush=True)
input()
"""
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT
    ) as tests:
        assert tests.stdout is not None
        pid = int(tests.stdout.readline())
        tests.kill()
    deadline = time.monotonic() + 30
    while Path(f"/proc/{pid}").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
