"""Backends that die and come back in turn: GETs go elsewhere, and a POST fails only with the backend that had it."""

from __future__ import annotations

from typing import Any

import pytest

from bench import procfs
from tests.chaos.clients import client_ports, wait_for
from tests.chaos.conftest import Site, stop
from tests.chaos.origins import Origin

FORGIVING = {"circuit_breaker": {"reset_timeout": 0.3}, "outlier_detection": {"ejection_time": 0.3}}
"""A backend that came back is asked again soon, so that the next may die."""
ONE_WRITE = (0, 100, 5_000)
"""Answers that a backend has sent whole or not at all: one that broke off half-way can be saved by nobody."""


@pytest.mark.parametrize("members", [{}, {"retry": {"initial_backoff_ms": 10}}], ids=["failover", "retry"])
def test_backends_killed_in_turn_cost_no_get(site: Site, members: dict[str, Any]) -> None:
    site.start(origins=3, sections=FORGIVING, **members)
    lost = 0
    with site.load(answer_sizes=ONE_WRITE) as load:
        for _ in range(site.times(2)):
            for origin in site.origins:
                load.goes_on(200)
                lost += kill_counting(origin)
                load.goes_on(200)
                revive(origin)
    tally = site.judge(load, excused=lambda failure: failure.method == "POST" and failure.what == "502 upstream_reset")
    assert tally.excused <= lost, "more POSTs failed than connections ended with a backend"


def kill_counting(origin: Origin) -> int:
    """kill -9; how many connections it had: each can take one request along."""
    stop(origin.process.pid)
    had = len(client_ports(procfs.sockets(origin.process.pid), origin.port))
    origin.kill()
    return had


def revive(origin: Origin) -> None:
    """Returns when it is asked again."""
    before = origin.busy()
    origin.start()
    wait_for(lambda: origin.busy() > before, "request to the backend that came back")
