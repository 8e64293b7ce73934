"""What a sample holds: resets, routes that come, series without a place, processes, and numbers that never change."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from kairos._speedups import cells
from kairos.control.history import fields
from kairos.control.history.fields import BY_NAME, BY_NUMBER
from kairos.control.history.frame import Frame, Record, Seen
from kairos.control.history.places import IDLE_S, Places
from kairos.control.history.sampler import Sampler, grown
from kairos.telemetry import prometheus
from kairos.telemetry.procfs import usage
from tests.history.recording import APP, USERS, Gateway

REQUESTS = BY_NAME["kairos_http_requests"].number


def sampler_of(gateway: Gateway, **options: bool) -> Sampler:
    made = Sampler(gateway.board, supervisor=os.getppid(), control=os.getpid())
    made.assign(gateway.series, **options)
    assert made.look(0.0) is None
    return made


def look(sampler: Sampler, now: float = 10.0) -> Frame:
    frame = sampler.look(now)
    assert frame is not None
    return frame


def requests_of(frame: Frame) -> dict[tuple[str, ...], int]:
    found = {key: record.get(REQUESTS) for key, record in frame.series.items() if key[0] == "pair"}
    return {key[1:]: sum(cells.values()) for key, cells in found.items() if isinstance(cells, dict)}


@pytest.mark.parametrize(("before", "now", "expected"), [(0, 5, 5), (5, 5, 0), (7, 9, 2), (9, 4, 4), (9, 0, 0)])
def test_a_counter_that_went_down_began_anew(before: int, now: int, expected: int) -> None:
    assert grown(before, now) == expected


def test_what_was_counted_before_anybody_looked_is_not_known() -> None:
    gateway = Gateway()
    gateway.request(times=100)
    sampler = sampler_of(gateway)
    gateway.request(times=3)
    assert requests_of(look(sampler)) == {(USERS, APP): 3}


def test_routes_that_a_reload_brings_are_counted_from_their_first_request() -> None:
    gateway = Gateway(USERS)
    sampler = sampler_of(gateway)
    gateway.routes(USERS, "/new")
    gateway.request("/new", times=4)
    sampler.assign(gateway.series)
    assert requests_of(look(sampler)) == {("/new", APP): 4}


def test_without_per_route_all_routes_are_one() -> None:
    gateway = Gateway()
    sampler = sampler_of(gateway, per_route=False)
    gateway.request(USERS, times=2)
    gateway.request("/orders", times=3)
    assert requests_of(look(sampler)) == {("all", APP): 5}


def test_nothing_happened_is_next_to_nothing() -> None:
    frame = look(sampler_of(Gateway()))
    assert {key[0] for key in frame.series} == {"gateway", "process"}
    assert frame.span == 10.0


def test_another_gateway_serves_so_its_gauges_count() -> None:
    gateway = Gateway()
    sampler = sampler_of(gateway)
    sampler.gauges = False
    gateway.request(times=2)
    gateway.worker(cells.W_CONNECTIONS_OPEN, 5)
    frame = look(sampler)
    assert requests_of(frame) == {(USERS, APP): 2}
    assert not any(isinstance(value, Seen) for record in frame.series.values() for value in record.values())


# --- a place for each ---------------------------------------------------------------------------------------------


def test_series_without_a_place_are_counted_as_other() -> None:
    paths = [f"/r{n}" for n in range(8)]
    gateway = Gateway(*paths, backends=("http://app",))
    sampler = sampler_of(gateway)
    sampler.places.room = 3
    for path in paths:
        gateway.request(path)
        gateway.board.page.set(gateway.board.route_block(0, gateway.series.route(path)) + cells.R_QUEUED, 2)
    frame = look(sampler)
    assert requests_of(frame) == {("/r0", APP): 1, ("/r1", APP): 1, ("/r2", APP): 1, ("other", "other"): 5}
    depth = BY_NAME["kairos_queue_depth"].number
    assert frame.series["route", "other"][depth] == Seen.once(16)  # of all eight: side by side, not one after another


def test_who_is_idle_makes_room_the_longest_idle_first() -> None:
    places = Places(2)
    assert places.take(("route", "/a"), 0)
    assert places.take(("route", "/b"), 1)
    assert not places.take(("route", "/c"), 2)
    assert places.take(("route", "/a"), 100)
    assert places.take(("route", "/c"), 1 + IDLE_S)
    assert (("route", "/b") in places, ("route", "/a") in places) == (False, True)
    assert not places.take(("route", "/b"), 2 + IDLE_S)


def test_fewer_places_take_effect_as_series_fall_idle() -> None:
    places = Places(5)
    for n in range(5):
        places.take(("route", str(n)), 0)
    places.room = 2
    assert places.take(("route", "0"), 10)
    assert not places.take(("route", "new"), 20)
    assert places.take(("route", "new"), 20 + IDLE_S)
    assert len(places) == 1 + 1


# --- processes ----------------------------------------------------------------------------------------------------


BUSY = """
import time
print(flush=True)
input()
end = time.process_time() + 0.2
while time.process_time() < end:
    pass
print(flush=True)
input()
"""


def test_cpu_and_memory_of_processes_as_the_kernel_counts_them() -> None:
    gateway = Gateway()
    with subprocess.Popen([sys.executable, "-c", BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as worker:
        assert worker.stdin is not None
        assert worker.stdout is not None
        gateway.worker(cells.W_PID, worker.pid)
        worker.stdout.readline()
        sampler = sampler_of(gateway)
        worker.stdin.write(b"\n")
        worker.stdin.flush()
        worker.stdout.readline()
        record: Record = look(sampler).series["process", "worker"]
        worker.stdin.write(b"\n")
    cpu = record[BY_NAME["kairos_process_cpu_seconds"].number]
    memory = record[BY_NAME["kairos_process_resident_memory_bytes"].number]
    assert isinstance(cpu, int)
    assert isinstance(memory, Seen)
    assert 180_000 <= cpu < 1_000_000
    assert 1 << 20 < memory.last < 1 << 30


def test_who_is_gone_uses_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    assert usage(process.pid) is None


# --- numbers stand in databases -----------------------------------------------------------------------------------


def test_no_number_is_given_twice() -> None:
    numbers = fields.numbered()
    assert len(set(numbers.values())) == len(numbers)
    assert len(BY_NUMBER) == len(BY_NAME) == len(fields.FIELDS) == len(numbers)


@pytest.mark.parametrize(
    "table",
    [
        "HISTOGRAMS", "ROUTE_COUNTERS", "ROUTE_GAUGES", "PAIR_COUNTERS", "UPSTREAM_COUNTERS", "LIMIT_COUNTERS",
        "BACKEND_COUNTERS", "WORKER_COUNTERS",
    ],
)  # fmt: skip
def test_what_is_scraped_is_kept(table: str) -> None:
    """A new counter needs a new number in kairos/control/history/fields.py."""
    assert [name for _, name, _ in getattr(prometheus, table) if name not in fields.numbered()] == []


def test_what_stands_in_databases_means_what_it_meant() -> None:
    """Buckets and cells are stored by their number: whoever changes them gives the field another one."""
    assert cells.BOUNDS_US == (
        50, 100, 250, 500, 1000, 2500, 5000, 10000, 25000, 50000, 100000, 250000, 500000,
        1000000, 2500000, 5000000, 10000000, 30000000,
    )  # fmt: skip
    assert prometheus.METHODS == ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE", "other")
    assert prometheus.CODES == ("1xx", "2xx", "3xx", "4xx", "5xx", "499")
    known = {1: "kairos_http_requests", 20: "kairos_http_request_duration_seconds", 170: "requests_total"}
    assert {number: BY_NUMBER[number].name for number in known} == known
