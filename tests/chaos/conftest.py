"""What every scenario has: a seed, a length, a gateway before counting origins, and a verdict at the end.

`KAIROS_CHAOS` makes all scenarios so many times as long (1: a minute for all), `KAIROS_CHAOS_SEED` repeats a run.
Chance decides what clients ask for; what happens to the gateway, and in which order, stands in the test.
"""

from __future__ import annotations

import contextlib
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from bench import procfs
from tests.chaos.clients import Failure, Load, Tally, Victim, client_ports, wait_for
from tests.chaos.origins import Origin
from tests.support.gateway import Gateway, gateway, route

SCALE = float(os.environ.get("KAIROS_CHAOS") or 1)
SEED = int(os.environ.setdefault("KAIROS_CHAOS_SEED", str(random.SystemRandom().randrange(10_000))))
LEAST_TIMEOUT_S = 120
_REQUESTS = re.compile(
    r'^kairos_http_requests_total\{code="(.)xx",method="(\w+)",route="/work".*\} (\d+)', re.MULTILINE
)


def pytest_report_header() -> str:
    return f"chaos: KAIROS_CHAOS={SCALE:g} KAIROS_CHAOS_SEED={SEED}"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.timeout(LEAST_TIMEOUT_S * max(1.0, SCALE)))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """The tallies, also where the tests ran in processes of pytest-xdist."""
    terminalreporter.section("what clients saw")
    for reports in terminalreporter.stats.values():
        for report in reports:
            for name, line in getattr(report, "user_properties", ()) if getattr(report, "when", "") == "call" else ():
                terminalreporter.line(f"{name}: {line}")


class Site:
    """A gateway, the origins behind it, and what was done to them."""

    def __init__(self, request: pytest.FixtureRequest, folder: Path) -> None:
        self.seed = SEED
        self.origins: list[Origin] = []
        self.victims: list[Victim] = []
        self._request = request
        self._folder = folder
        self._open = contextlib.ExitStack()

    def start(
        self, *, origins: int = 1, workers: int = 2, sections: dict[str, Any] | None = None, **members: Any
    ) -> None:
        """Origins, and a gateway whose route `/work` has them all. `members` are the route's, `sections` the file's."""
        self.start_origins(origins)
        self.start_gateway({"routers": [self.route(**members)], **(sections or {})}, workers=workers)

    def start_origins(self, count: int, **where: Any) -> None:
        for _ in range(count):
            self.origins.append(Origin(self._folder / f"origin{len(self.origins)}", **where))

    def route(self, **members: Any) -> dict[str, Any]:
        return route("/work", ",".join(origin.url for origin in self.origins), **members)

    def start_gateway(self, config: dict[str, Any], **options: Any) -> Gateway:
        self.gateway = self._open.enter_context(gateway(config, **options))
        return self.gateway

    def close(self) -> None:
        try:
            self._open.close()
        finally:
            for origin in self.origins:
                origin.kill()

    def times(self, count: int) -> int:
        """How often to do what is done so often by default."""
        return max(1, round(count * SCALE))

    def load(self, **options: Any) -> Load:
        return Load(self.gateway.port, self.seed, **options)

    # -- deaths ------------------------------------------------------------------------------------------------------

    def kill(self, *names: str) -> None:
        """kill -9 of children of the gateway, at once; what they had is remembered. Returns when their heirs are there.

        They are stopped first: so which connections they die with is known exactly.
        """
        pids = {name: self.gateway.children()[name] for name in names}
        before = time.monotonic()
        for pid in pids.values():
            stop(pid)
        ports = frozenset().union(*(client_ports(procfs.sockets(pid), self.gateway.port) for pid in pids.values()))
        for pid in pids.values():
            os.kill(pid, signal.SIGKILL)
        self.victims.append(Victim(ports, before, time.monotonic()))
        wait_for(lambda: self._replaced(pids), f"heirs of {names}")

    def _replaced(self, dead: dict[str, int]) -> bool:
        living = self.gateway.children()
        return all(living.get(name, pid) != pid for name, pid in dead.items())

    # -- the verdict -------------------------------------------------------------------------------------------------

    def executions(self) -> Counter[tuple[str, str]]:
        return sum((origin.executions() for origin in self.origins), Counter())

    def judge(
        self, *loads: Load, metrics: bool = True, excused: Callable[[Failure], bool] = lambda failure: False
    ) -> Tally:
        """Every request had its one answer, nothing was done twice, and the gateway counted what the clients did."""

        def forgiven(failure: Failure) -> bool:
            return any(victim.excuses(failure) for victim in self.victims) or excused(failure)

        tally = Tally.of(loads, self.executions(), forgiven)
        self.note(str(tally))
        assert not tally.failures, Counter((failure.method, failure.what) for failure in tally.failures)
        assert tally.duplicates == []
        assert tally.sent == tally.answered + tally.not_taken + tally.unanswered
        if metrics:
            self.compare_metrics(loads, tolerance=tally.unanswered + len(self.victims))
        return tally

    def note(self, line: str) -> None:
        """Say how it went, with -s at once and in the report."""
        self._request.node.user_properties.append((self._request.node.name, line))
        print(f"{self._request.node.name} (KAIROS_CHAOS_SEED={self.seed}): {line}")

    def compare_metrics(self, loads: Sequence[Load], tolerance: int) -> None:
        """kairos_http_requests against the clients' own count, by method and class of status."""
        wanted: Counter[tuple[str, int]] = Counter()
        for load in loads:
            for (method, status), count in load.answers().items():
                wanted[method, status // 100] += count

        def off() -> int:
            counted: Counter[tuple[str, int]] = Counter()
            for status_class, method, count in _REQUESTS.findall(self.gateway.metrics()):
                counted[method, int(status_class)] += int(count)
            return sum(abs(counted[key] - wanted[key]) for key in counted | wanted)

        wait_for(lambda: off() <= tolerance, f"agreement with {wanted} (off by more than {tolerance}): {off()}")


def stop(pid: int) -> None:
    """SIGSTOP, and wait until it stands still."""
    os.kill(pid, signal.SIGSTOP)
    wait_for(lambda: Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T", f"stop of {pid}")


@pytest.fixture
def site(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Site]:
    made = Site(request, tmp_path)
    try:
        yield made
    finally:
        made.close()
