"""kill -9 of the gateway's own processes under load: a worker costs what it had in flight, control nothing.

A child that keeps dying is brought back more and more slowly, so longer runs have more load between two deaths, and
not more deaths.
"""

from __future__ import annotations

from tests.chaos.conftest import Site


def test_a_killed_worker_costs_what_it_had_in_flight(site: Site) -> None:
    site.start()
    with site.load() as load:
        for _ in range(4):
            load.goes_on(site.times(500))
            site.kill("kairos-worker0")
    site.judge(load)


def test_a_worker_killed_twice_in_a_row_comes_back_twice(site: Site) -> None:
    site.start()
    with site.load() as load:
        for _ in range(2):
            load.goes_on(site.times(500))
            site.kill("kairos-worker1")
            site.kill("kairos-worker1")
            load.goes_on(site.times(500))
    site.judge(load)


def test_all_workers_killed_at_once_leave_nobody_refused(site: Site) -> None:
    """Whoever comes while there is no worker waits in the listeners' queues, which the supervisor keeps."""
    site.start()
    with site.load() as load:
        for _ in range(3):
            load.goes_on(site.times(500))
            site.kill("kairos-worker0", "kairos-worker1")
    site.judge(load)


def test_death_of_control_costs_nothing(site: Site) -> None:
    site.start()
    with site.load() as load:
        for _ in range(4):
            load.goes_on(site.times(500))
            site.kill("kairos-control")
    site.judge(load)
    site.gateway.wait(lambda: len(site.gateway.access_lines()) >= load.answered, "every line of the access log")
