"""Route lookups over 10, 1,000 and 100,000 routes: the cost should be flat but for what misses the caches."""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

import pytest

from kairos._speedups.routes import RouteTable, Template

if TYPE_CHECKING:
    from pytest_benchmark.fixture import BenchmarkFixture

    from kairos._speedups.patterns import RouteRow

SIZES = [10, 1_000, 100_000]
KINDS = {
    "static": ("/svc{n}/api/v1/status", "/svc{n}/api/v1/status"),
    "one": ("/svc{n}/users/{{id}}", "/svc{n}/users/1234567"),
    "two": ("/svc{n}/users/{{id}}/orders/{{order}}", "/svc{n}/users/1234567/orders/987"),
    "mixed": ("/svc{n}/files/{{name}}.{{ext}}", "/svc{n}/files/report.pdf"),
    "tail": ("/svc{n}/assets/{{rest:path}}", "/svc{n}/assets/css/site/main.css"),
}


@cache
def rows(count: int) -> list[RouteRow]:
    """As many routes, a fifth of each kind."""
    patterns = [pattern.format(n=number) for number in range(count // len(KINDS)) for pattern, _ in KINDS.values()]
    return [((), pattern, ("GET", "POST"), "strict", pattern) for pattern in patterns]


@cache
def table(count: int) -> RouteTable:
    return RouteTable(rows(count))


def paths(kind: str, count: int) -> list[str]:
    """A thousand requests spread over all routes of a kind."""
    services = count // len(KINDS)
    return [KINDS[kind][1].format(n=number * 7919 % services) for number in range(1000)]


@pytest.mark.parametrize("count", SIZES)
@pytest.mark.parametrize("kind", KINDS)
def test_match_1000(benchmark: BenchmarkFixture, kind: str, count: int) -> None:
    match, wanted = table(count).match, paths(kind, count)

    def requests() -> None:
        for path in wanted:
            match(None, path, "GET")

    assert all(match(None, path, "GET").status == "found" for path in wanted)
    benchmark(requests)


@pytest.mark.parametrize("count", SIZES)
def test_match_nothing_1000(benchmark: BenchmarkFixture, count: int) -> None:
    match, wanted = table(count).match, [path + "/none" for path in paths("two", count)]

    def requests() -> None:
        for path in wanted:
            match(None, path, "GET")

    assert all(match(None, path, "GET").status == "not_found" for path in wanted)
    benchmark(requests)


@pytest.mark.parametrize("count", SIZES)
def test_build(benchmark: BenchmarkFixture, count: int) -> None:
    rounds = 3 if count < 100_000 else 1
    benchmark.pedantic(RouteTable, args=(rows(count),), rounds=rounds)  # type: ignore[no-untyped-call]


def test_template(benchmark: BenchmarkFixture) -> None:
    served = table(10)
    match = served.match(None, "/svc0/users/1234567/orders/987", "GET")
    template = Template("/internal/{order}/of/{id}?user={id}", served.patterns[match.index].names)
    assert benchmark(template.expand, match) == b"/internal/987/of/1234567?user=1234567"
