"""Who is trusted, and for whom a trusted peer speaks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kairos.proxy.peers import Networks

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

NETWORKS = Networks(["10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7"])


def test_contains(benchmark: BenchmarkFixture) -> None:
    assert benchmark(NETWORKS.__contains__, "192.168.7.9")


def test_client_behind_two_proxies(benchmark: BenchmarkFixture) -> None:
    assert benchmark(NETWORKS.client_of, b"203.0.113.9, 10.1.1.1, 10.2.2.2") == "203.0.113.9"
