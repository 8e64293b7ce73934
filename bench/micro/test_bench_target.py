"""Request-target and Host normalisation, called from Python (the call itself is some 40 ns of each)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kairos._speedups.target import normal_host, normal_path

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

PATHS = {
    "short": b"/api/users/123",
    "plain": b"/api/v1/organisations/4711/projects/kairos/issues/index.html",
    "escapes": b"/api/v1/organisations/4711/caf%c3%a9/%7Euser/issues/a%20b",
    "dots": b"/api/v1/./organisations/../projects/kairos/issues/index.html",
    "1 KiB": b"/" + b"segment/" * 128,
}
HOSTS = {"name": b"api.example.com", "upper": b"API.Example.COM:8080", "ipv6": b"[2001:db8::17]:443"}


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_normal_path(benchmark: BenchmarkFixture, path: bytes) -> None:
    benchmark(normal_path, path)


@pytest.mark.parametrize("host", HOSTS.values(), ids=HOSTS)
def test_normal_host(benchmark: BenchmarkFixture, host: bytes) -> None:
    benchmark(normal_host, host)
