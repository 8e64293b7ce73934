"""Events: what is told of what changes in the shared page, and how a watcher goes on where it was."""

from __future__ import annotations

import asyncio
import time
from typing import Any, get_args

import msgspec
import pytest

from kairos._speedups import cells
from kairos._speedups.breaker import FAILURE, Gate
from kairos.config.model import AccessLog as Spec
from kairos.config.model import Backend, CircuitBreaker, Config, Route
from kairos.control import events
from kairos.control.bans import Bans, BanStatus
from kairos.control.events import (
    KEPT,
    MAX_WATCHERS,
    QUEUE,
    TYPES,
    AnyEvent,
    BackendEjected,
    BreakerChanged,
    EjectionEnded,
    Event,
    EventBus,
    LogLevelsChanged,
    TooManyWatchersError,
    WorkerEnded,
    kinds,
)
from kairos.control.transitions import Transitions
from kairos.control.upstreams import known_upstreams, monotonic_us
from kairos.scoreboard import Capacity, Scoreboard, Series

KEY = "http://app:80"


def ended(n: int) -> WorkerEnded:
    return WorkerEnded(slot=0, pid=n)


def pids(found: list[Event]) -> list[int]:
    return [event.pid for event in found if isinstance(event, WorkerEnded)]


# --- the bus --------------------------------------------------------------------------------------------------------


def test_names_are_those_of_the_types_and_every_event_can_be_read_again() -> None:
    assert set(TYPES.values()) == set(get_args(AnyEvent))
    assert TYPES["backend_health_changed"] is events.BackendHealthChanged
    told = LogLevelsChanged(levels={"jwt": "debug"}, seconds=5.0, id="a-1", time=1.0)
    assert msgspec.json.decode(msgspec.json.encode(told), type=AnyEvent) == told
    assert b'"type":"log_levels_changed"' in msgspec.json.encode(told)
    with pytest.raises(ValueError, match="no event 'x'"):
        kinds(["x"])


def test_the_newest_are_kept() -> None:
    bus = EventBus(lambda: 7.0)
    for n in range(KEPT + 10):
        bus.publish(ended(n))
    recent = bus.recent()
    assert (len(recent), pids(recent)[0], recent[-1].time) == (KEPT, 10, 7.0)
    assert pids(bus.recent(limit=2)) == [KEPT + 8, KEPT + 9]
    assert bus.recent((BreakerChanged,)) == []


def test_who_comes_back_gets_what_was_missed() -> None:
    async def trace() -> None:
        bus = EventBus()
        for n in range(5):
            bus.publish(ended(n))
        last = bus.recent()[2].id
        watcher = bus.watch(after=last)
        bus.publish(ended(5))
        assert pids(await watcher.take(5)) == [3, 4, 5]
        assert not watcher.lost
        newest = bus.watch(after=bus.recent()[-1].id)
        assert await newest.take(0.01) == []
        assert not newest.lost

    asyncio.run(trace())


@pytest.mark.parametrize("after", ["other-3", "x", "3", "-", "other-99999999999999999999999"])
def test_an_id_of_another_process_gets_all_and_is_told_so(after: str) -> None:
    async def trace() -> None:
        bus = EventBus()
        bus.publish(ended(0))
        watcher = bus.watch(after=after)
        assert watcher.lost
        assert pids(await watcher.take(5)) == [0]

    asyncio.run(trace())


def test_an_id_that_is_too_old_is_told_so() -> None:
    async def trace() -> None:
        bus = EventBus()
        bus.publish(ended(0))
        first = bus.recent()[0].id
        for n in range(KEPT):
            bus.publish(ended(n))
        assert not bus.watch(after=first).lost
        bus.publish(ended(0))
        assert bus.watch(after=first).lost

    asyncio.run(trace())


def test_a_slow_watcher_loses_the_oldest_and_knows() -> None:
    async def trace() -> None:
        bus = EventBus()
        watcher = bus.watch()
        for n in range(QUEUE + 5):
            bus.publish(ended(n))
        assert watcher.lost
        assert pids(await watcher.take(5)) == list(range(5, QUEUE + 5))

    asyncio.run(trace())


def test_types_and_numbers_of_watchers_are_bounded() -> None:
    async def trace() -> None:
        bus = EventBus()
        made = [bus.watch(kinds(["breaker_changed"])) for _ in range(MAX_WATCHERS)]
        with pytest.raises(TooManyWatchersError):
            bus.watch()
        made[0].close()
        other = bus.watch()
        bus.publish(ended(1))
        assert await made[1].take(0.01) == []
        assert pids(await other.take(5)) == [1]

    asyncio.run(trace())


# --- transitions ----------------------------------------------------------------------------------------------------


class Gateway:
    """A page with one backend, and what is told of it."""

    def __init__(self) -> None:
        self.board = Scoreboard(Capacity(workers=2, routes=2, pairs=2, upstreams=2))
        backend = Backend(host="http://app")
        route = Route(external_path="/", internal_path="/", methods=["GET"], backends=[backend])
        self.config = Config(routers=[route], access_log=Spec())
        self.series = Series(self.board).assign(self.config.routers)
        self.bus = EventBus()
        self.bans = Bans(self.board)
        self.upstream = known_upstreams(self.board, self.series)[KEY]
        self.begin()

    def begin(self, *certificates: tuple[str, float]) -> None:
        """As the next control process does."""
        self.watch = Transitions(self.board, self.bus, bans=self.bans, why_down=lambda key: f"{key} is silent")
        self.watch.apply(self.config, self.series, certificates)

    def told(self) -> list[dict[str, Any]]:
        """What a look brings, without ids and times."""
        before = len(self.bus.recent())
        self.watch.look()
        found = [msgspec.to_builtins(event) for event in self.bus.recent()[before:]]
        return [{key: value for key, value in one.items() if key not in ("id", "time")} for one in found]


@pytest.fixture
def g() -> Gateway:
    return Gateway()


def test_nothing_changed_nothing_told(g: Gateway) -> None:
    assert g.told() == []


def test_health(g: Gateway) -> None:
    g.upstream.put_out(cells.OUT_DOWN)
    reason = f"{KEY} is silent"
    assert g.told() == [{"type": "backend_health_changed", "upstream": KEY, "healthy": False, "reason": reason}]
    assert g.told() == []
    g.upstream.put_back(cells.OUT_DOWN)
    assert g.told() == [{"type": "backend_health_changed", "upstream": KEY, "healthy": True, "reason": ""}]


def test_a_breaker_that_workers_open(g: Gateway) -> None:
    gate = Gate(g.board.page, g.board.shared_upstream(1), CircuitBreaker(failure_threshold=2))
    for _ in range(2):
        gate.settle(FAILURE, False, monotonic_us())
    expected = {"type": "breaker_changed", "upstream": KEY, "state": "open", "was": "closed", "opened": 1}
    assert g.told() == [expected]


def test_a_breaker_that_opened_and_closed_between_two_looks_is_told_of(g: Gateway) -> None:
    g.upstream.count(cells.SU_OPENED)
    expected = {"type": "breaker_changed", "upstream": KEY, "state": "closed", "was": "closed", "opened": 1}
    assert g.told() == [expected]


def test_ejections(g: Gateway) -> None:
    g.upstream.set(cells.SU_SKIP_UNTIL_US, monotonic_us() + 30_000_000)
    g.upstream.count(cells.SU_EJECTED)
    (told,) = g.told()
    assert (told["type"], told["upstream"]) == ("backend_ejected", KEY)
    assert 29 < told["seconds"] <= 30
    g.upstream.set(cells.SU_SKIP_UNTIL_US, 0)
    assert g.told() == [{"type": "ejection_ended", "upstream": KEY}]
    g.upstream.count(cells.SU_EJECTED)  # and over before anybody looked
    assert [one["type"] for one in g.told()] == ["backend_ejected", "ejection_ended"]
    assert {BackendEjected, EjectionEnded} <= set(TYPES.values())


def test_what_operators_set(g: Gateway) -> None:
    g.upstream.put_out(cells.OUT_DRAIN)
    g.upstream.set(cells.SU_WEIGHT, 51)
    g.upstream.set(cells.SU_FORCED, cells.FORCED_OPEN)
    expected = {"type": "backend_set", "upstream": KEY, "state": "drain", "weight": 50, "breaker": "open"}
    assert expected in g.told()


def test_workers_come_and_go(g: Gateway) -> None:
    pid = g.board.worker_block(1) + cells.W_PID
    g.board.page.set(pid, 100)
    assert g.told() == [{"type": "worker_started", "slot": 1, "pid": 100, "restarts": 0}]
    g.board.page.set(pid, 101)  # killed and replaced between two looks
    g.board.page.add(cells.H_WORKER_RESTARTS, 1)
    assert g.told() == [
        {"type": "worker_ended", "slot": 1, "pid": 100},
        {"type": "worker_started", "slot": 1, "pid": 101, "restarts": 1},
    ]
    g.board.page.set(g.board.worker_block(1) + cells.W_SHED_LEVEL, 3)
    assert g.told() == [{"type": "shedding_changed", "slot": 1, "level": 3}]


def test_the_next_control_process_begins_with_what_it_finds(g: Gateway) -> None:
    g.upstream.put_out(cells.OUT_DOWN)
    g.board.page.set(g.board.worker_block(0) + cells.W_PID, 100)
    g.begin()
    assert g.told() == []


def test_a_reload_forgets_nothing(g: Gateway) -> None:
    g.upstream.put_out(cells.OUT_DOWN)
    g.watch.apply(g.config, g.series, [])
    assert [one["type"] for one in g.told()] == ["backend_health_changed"]


def test_lines_that_were_lost(g: Gateway) -> None:
    g.board.page.add(g.board.worker_block(1) + cells.W_LOG_DROPPED, 7)
    assert g.told() == [{"type": "log_lines_lost", "lines": 7}]


def test_bans(g: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    bans = [BanStatus("192.0.2.7", "login", 60.0, 1)]
    monkeypatch.setattr(g.bans, "list", lambda: asked.append(1) or bans)  # type: ignore[func-returns-value]
    assert g.told() == []
    assert asked == []  # the table is read only when there is a new one
    g.board.page.add(g.board.worker_block(0) + cells.W_BANS, 1)
    assert g.told() == [{"type": "address_banned", "address": "192.0.2.7", "jail": "login", "seconds": 60.0}]


def test_certificates_are_told_of_at_each_step_once(g: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    end = time.time() + 8.5 * 86_400
    g.begin(("shop.pem", end), ("far.pem", end + 1e8))
    assert g.told() == [{"type": "certificate_expires", "certificate": "shop.pem", "ends_at": end, "days": 8}]
    assert g.told() == []
    for later, days in ((2, 6), (8.7, -1)):
        now = end - (8.5 - later) * 86_400
        monkeypatch.setattr("kairos.control.transitions.time.time", lambda now=now: now)
        assert [one["days"] for one in g.told()] == [days]
