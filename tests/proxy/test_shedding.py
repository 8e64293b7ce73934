"""Load shedding: the level as a pure trace, what it lets through, and a worker that is made to fall behind."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from kairos.config.model import LoadShedding
from kairos.proxy.shed import FALL, HIGHEST, RISE, STEP, LoadShedder
from tests.support.gateway import Gateway, gateway, route
from tests.support.inprocess import Chain, InProcess, in_process
from tests.support.net import Peer, ScriptedOrigin, origin, read_request, status_of

LAG = 500_000
"""µs: the max_lag of the traces."""


def shedder(lowest: int = 0, **members: Any) -> LoadShedder:
    made = LoadShedder()
    made.configure(LoadShedding(**members), lowest)
    return made


# ---- the level ----------------------------------------------------------------------------------------------------


def test_a_lag_that_is_borne_sheds_nothing() -> None:
    shed = shedder()
    assert [shed.judge(lag) for lag in (0, 1000, LAG, LAG)] == [0] * 4


def test_the_level_rises_while_the_worker_is_behind_and_falls_slowly() -> None:
    shed = shedder()
    assert [shed.judge(LAG + 1) for _ in range(3)] == [RISE, 2 * RISE, 3 * RISE]
    assert [shed.judge(0) for _ in range(3)] == [3 * RISE - FALL, 3 * RISE - 2 * FALL, 3 * RISE - 3 * FALL]


def test_it_rises_faster_the_further_behind_up_to_a_bound() -> None:
    assert [shedder().judge(LAG * times) for times in (2, 4, 8, 1000)] == [2 * RISE, 4 * RISE, 8 * RISE, 8 * RISE]


def test_it_begins_at_the_lowest_priority_there_is() -> None:
    shed = shedder(lowest=5)
    assert shed.judge(LAG + 1) == 5 * STEP + RISE
    levels = [shed.judge(0) for _ in range(RISE // FALL + 1)]
    assert levels[-2:] == [0, 0]
    assert all(level > 5 * STEP for level in levels[:-2])


def test_it_ends_where_only_the_highest_priority_is_left() -> None:
    shed = shedder()
    assert [shed.judge(LAG * 8) for _ in range(5)][-1] == HIGHEST == 10 * STEP


def test_it_is_over_at_once_when_turned_off() -> None:
    shed = shedder()
    shed.judge(LAG * 8)
    shed.configure(LoadShedding(enabled=False), 0)
    assert [shed.judge(LAG * 8), shed.judge(0)] == [0, 0]


def test_it_comes_back_from_the_highest_level() -> None:
    shed = shedder(lowest=5)
    for _ in range(20):
        shed.judge(LAG * 8)
    assert [shed.judge(0) for _ in range(5 * STEP // FALL)][-1] == 0


def test_where_nothing_may_be_shed_it_stays_at_rest() -> None:
    shed = shedder(lowest=10)
    assert [shed.judge(LAG * 8) for _ in range(3)] == [0, 0, 0]


# ---- what a level lets through --------------------------------------------------------------------------------------


def says(body: bytes) -> Any:
    def script(peer: Peer) -> None:
        while True:
            read_request(peer)
            peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

    return script


@pytest.fixture(scope="module")
def served() -> Iterator[InProcess]:
    """A route of each of some priorities."""
    with origin(says(b"ok")) as o:
        chains = [Chain(f"/{n}", route(f"/{n}", o.url, "/x", priority=n)) for n in (0, 4, 5, 9, 10)]
        with in_process(*chains) as p:
            yield p


def at_level(p: InProcess, level: int) -> None:
    async def set_level() -> None:
        p.runtime.shed_level = level

    p.run(set_level)


@pytest.mark.parametrize(
    ("level", "shed"),
    [
        (0, []),
        (STEP, [0]),
        (4 * STEP, [0]),
        (5 * STEP, [0, 4]),
        (6 * STEP, [0, 4, 5]),
        (9 * STEP, [0, 4, 5]),
        (HIGHEST, [0, 4, 5, 9]),
    ],
)
def test_lower_priorities_are_shed_first_and_the_highest_never(served: InProcess, level: int, shed: list[int]) -> None:
    at_level(served, level)
    statuses = {n: {status_of(served.get(f"/{n}")[0]) for _ in range(20)} for n in (0, 4, 5, 9, 10)}
    assert statuses == {n: {503} if n in shed else {200} for n in statuses}
    assert status_of(served.get("/nowhere")[0]) == 404


def test_of_the_priority_at_the_edge_a_part_is_shed(served: InProcess) -> None:
    at_level(served, 4 * STEP + STEP // 2)
    statuses = [status_of(served.get("/4")[0]) for _ in range(200)]
    assert 50 < statuses.count(503) < 150
    assert statuses.count(503) + statuses.count(200) == 200


def test_who_is_shed_is_told_when_to_come_again_and_may_on_the_same_connection(served: InProcess) -> None:
    at_level(served, STEP)
    with served.connect() as client:
        client.send(b"POST /0 HTTP/1.1\r\nHost: test\r\nContent-Length: 5\r\n\r\nhello")
        head, body = client.receive_response()
        assert (status_of(head), b'"shed"' in body, b"Retry-After: 1" in head) == (503, True, True)
        at_level(served, 0)
        client.send(b"GET /0 HTTP/1.1\r\nHost: test\r\n\r\n")
        assert client.receive_response()[1] == b"ok"
    line = served.wait_access(detail="shed", method="POST")
    assert (line["status"], line["flag"], line["route"]) == (503, "OM", "/0")


# ---- a worker that falls behind --------------------------------------------------------------------------------------


class Stuttering:
    """Lets a process run for a moment only, again and again: to it, this is a machine with far too much to do."""

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self.over = threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        while not self.over.is_set():
            os.kill(self.pid, signal.SIGSTOP)
            self.over.wait(0.25)
            os.kill(self.pid, signal.SIGCONT)
            self.over.wait(0.01)

    def stop(self) -> None:
        self.over.set()
        self.thread.join()


@contextlib.contextmanager
def stuttering(g: Gateway) -> Iterator[None]:
    made = Stuttering(g.child("kairos-worker0"))
    made.thread.start()
    try:
        yield
    finally:
        made.stop()


def overload(o: ScriptedOrigin, **shedding: Any) -> dict[str, Any]:
    routers = [route(f"/{n}", o.url, "/x", priority=n) for n in (4, 10)]
    return {"routers": routers, "load_shedding": {"max_lag": 0.05, **shedding}}


def test_a_worker_that_falls_behind_sheds_and_recovers() -> None:
    with origin(says(b"ok")) as o, gateway(overload(o)) as g:
        with stuttering(g):
            g.wait_log("sheds load", 30)
            g.wait(lambda: status_of(g.get("/4")[0]) == 503, "request that is shed", 30)
            assert status_of(g.get("/10")[0]) == 200
            g.wait(lambda: _level(g) >= 6 * STEP, "level at which what has no priority of its own would be shed", 60)
            assert [status_of(g.get(path)[0]) for path in ("/health", "/ready", "/live", "/metrics")] == [200] * 4
        assert _metric(g, 'kairos_http_requests_shed_total{route="/4"}') > 0
        assert g.wait_access(detail="shed")[0]["status"] == 503
        g.wait_log("sheds no more load", 60)
        assert {status_of(g.get("/4")[0]) for _ in range(20)} == {200}


def test_one_that_may_not_shed_does_not() -> None:
    with origin(says(b"ok")) as o, gateway(overload(o, enabled=False)) as g:
        with stuttering(g):
            g.wait(lambda: _metric(g, "kairos_worker_lag_seconds") > 0.05, "lag", 30)
            assert status_of(g.get("/4")[0]) == 200
        assert "sheds load" not in g.log


def _level(g: Gateway) -> float:
    return _metric(g, "kairos_worker_shed_level")


def _metric(g: Gateway, start: str) -> float:
    """The first sample that begins so; a scrape that is shed has none."""
    for line in g.metrics().splitlines():
        if line.startswith(start):
            return float(line.rpartition(" ")[2])
    return 0.0


def test_a_short_stall_sheds_nothing() -> None:
    with origin(says(b"ok")) as o, gateway(overload(o)) as g:
        pid = g.child("kairos-worker0")
        os.kill(pid, signal.SIGSTOP)
        threading.Event().wait(0.6)
        os.kill(pid, signal.SIGCONT)
        threading.Event().wait(1.5)  # a whole round of the clock
        assert {status_of(g.get("/4")[0]) for _ in range(10)} == {200}
        assert "sheds load" not in g.log
