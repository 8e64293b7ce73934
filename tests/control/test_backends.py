"""What operators say of backends: how it shows, what it writes, and that it is kept."""

from __future__ import annotations

import asyncio
import contextlib
import json
import resource
import stat
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop
from structlog.testing import capture_logs

from kairos._speedups import cells
from kairos._speedups.breaker import FAILURE, Gate
from kairos.config.model import Backend, CircuitBreaker, Config, HealthCheck
from kairos.control import backends as backends_module
from kairos.control.backends import Backends, BackendStatus, UnknownBackendError
from kairos.control.health import HealthChecker, NotCheckedError
from kairos.control.upstreams import monotonic_us
from kairos.storage.overrides import write_overrides
from tests.control.page import PATIENCE, Board, in_loop, route, until
from tests.support.net import Peer, origin

A, B, C = "http://a:80", "http://b:80", "http://c:80"
BOTH = Config(routers=[route("/a", "http://a", "http://b"), route("/b", "http://b")])
ONLY_A = Config(routers=[route("/a", "http://a")])
ONLY_B = Config(routers=[route("/b", "http://b")])


class Desk:
    """An operator's desk at one page; `again()` is the next control process, `anew()` the next gateway."""

    def __init__(self, file: Path | None = None, board: Board | None = None, config: Config = BOTH) -> None:
        self.file = file
        self.board = board or Board()
        self.backends = Backends(self.board.scoreboard, HealthChecker(self.board.scoreboard), file)
        self.apply(config)

    def apply(self, config: Config) -> None:
        async def trace() -> None:
            self.backends.apply(*self.board.assign(config))
            await self.backends.close(PATIENCE)

        uvloop.run(trace())

    def set(self, key: str, **said: Any) -> BackendStatus:
        return uvloop.run(self.backends.set(key, **said))

    def again(self, config: Config = BOTH) -> Desk:
        return Desk(self.file, self.board, config)

    def anew(self, config: Config = BOTH) -> Desk:
        return Desk(self.file, None, config)

    def words(self, key: str = A) -> tuple[int, int, int]:
        """SU_OUT, SU_FORCED, SU_WEIGHT."""
        upstream = self.board.upstream(key)
        return upstream.get(cells.SU_OUT), upstream.get(cells.SU_FORCED), upstream.get(cells.SU_WEIGHT)


UNTOUCHED = (0, 0, 0)


# --- what it writes -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"state": "drain"}, (cells.OUT_DRAIN, 0, 0)),
        ({"state": "maintenance"}, (cells.OUT_MAINTENANCE, 0, 0)),
        ({"weight": 25}, (0, 0, 26)),
        ({"weight": 0}, (0, 0, 1)),
        ({"weight": 100}, UNTOUCHED),
        ({"breaker": "open"}, (0, cells.FORCED_OPEN, 0)),
        ({"breaker": "closed"}, (0, cells.FORCED_CLOSED, 0)),
        ({"state": "drain", "weight": 50, "breaker": "closed"}, (cells.OUT_DRAIN, cells.FORCED_CLOSED, 51)),
        ({}, UNTOUCHED),
    ],
)
def test_what_is_said_is_in_the_cells_and_can_be_taken_back(said, words):
    desk = Desk()
    desk.set(A, **said)
    assert desk.words() == words
    assert desk.words(B) == UNTOUCHED
    desk.set(A, state="active", weight=100, breaker="auto")
    assert desk.words() == UNTOUCHED


def test_what_is_not_given_stays():
    desk = Desk()
    desk.set(A, state="drain")
    desk.set(A, weight=10)
    desk.set(A, state="maintenance")
    assert desk.words() == (cells.OUT_MAINTENANCE, 0, 11)


def test_from_drain_to_maintenance_it_was_never_back():
    desk = Desk()
    desk.set(A, state="drain")
    desk.set(A, state="maintenance")
    assert desk.board.word(A, cells.SU_BACK_AT_US) == 0
    before = monotonic_us()
    desk.set(A, state="active")
    assert desk.board.word(A, cells.SU_BACK_AT_US) >= before


def test_the_health_checks_bit_is_not_the_operators():
    desk = Desk()
    desk.board.upstream(A).put_out(cells.OUT_DOWN)
    desk.set(A, state="drain")
    desk.set(A, state="active")
    assert desk.words() == (cells.OUT_DOWN, 0, 0)
    assert desk.board.word(A, cells.SU_BACK_AT_US) == 0
    assert desk.backends.list()[0].state == "unhealthy"


@pytest.mark.parametrize("weight", [-1, 101])
def test_a_weight_is_a_percentage(weight):
    desk = Desk()
    with pytest.raises(ValueError, match=f"0 to 100, not {weight}"):
        desk.set(A, state="drain", weight=weight)
    assert desk.words() == UNTOUCHED


def test_changes_are_logged_with_what_was_before():
    desk = Desk()
    with capture_logs() as logs:
        desk.set(A, state="drain", weight=100)
        desk.set(A, state="drain")
        desk.set(A, weight=5, breaker="open")
    first, second = logs
    common = {"component": "health", "event": "backend set by an operator", "log_level": "info", "upstream": A}
    assert first == common | {"state": "drain", "state_was": "active"}
    assert second == common | {"weight": 5, "weight_was": 100, "breaker": "open", "breaker_was": "auto"}


# --- how it shows ---------------------------------------------------------------------------------------------------


def test_every_backend_shows_with_its_routes_and_counts():
    desk = Desk()
    desk.board.work(B, slot=0, in_flight=2, connections_open=5, connections_idle=3, attempts=90, failures=7)
    desk.board.work(B, slot=1, in_flight=1, connections_open=1, attempts=10, failures=3)
    first, second = desk.backends.list()
    assert (first.key, first.routes, first.state, first.weight, first.breaker) == (A, ["/a"], "healthy", 100, "closed")
    assert (second.key, second.routes) == (B, ["/a", "/b"])
    assert (second.in_flight, second.connections, second.connections_idle) == (3, 6, 3)
    assert (second.attempts, second.failures) == (100, 10)
    assert second.check is None
    assert json.loads(msgspec.json.encode(second))["state"] == "healthy"


def test_the_strongest_reason_shows_as_the_state():
    desk = Desk()
    upstream = desk.board.upstream(A)
    seen = [desk.backends.list()[0].state]
    upstream.set(cells.SU_SKIP_UNTIL_US, monotonic_us() + 60_000_000)
    assert 59 < desk.backends.list()[0].ejected_for <= 60
    seen.append(desk.backends.list()[0].state)
    for why in (cells.OUT_DOWN, cells.OUT_DRAIN, cells.OUT_MAINTENANCE):
        upstream.put_out(why)
        seen.append(desk.backends.list()[0].state)
    assert seen == ["healthy", "ejected", "unhealthy", "draining", "maintenance"]


def test_a_breaker_shows_as_it_is_and_as_it_is_forced():
    desk = Desk()
    shared = desk.board.scoreboard.shared_upstream(desk.board.series.upstream(A))
    gate = Gate(desk.board.scoreboard.page, shared, CircuitBreaker(failure_threshold=1))
    gate.settle(FAILURE, False, monotonic_us())
    status = desk.set(A, breaker="closed")
    assert (status.breaker, status.breaker_forced, status.breaker_opened) == ("open", "closed", 1)
    assert desk.set(A, breaker="auto").breaker_forced is None


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("a:80", "did you mean http://a:80[?]"),
        ("http://a:81", "did you mean http://a:80"),
        ("nothing like it", "the list of backends shows their keys"),
        ("", "the list of backends shows their keys"),
    ],
)
def test_an_unknown_key_is_told_what_it_resembles(key, hint):
    with pytest.raises(UnknownBackendError, match=hint):
        Desk().set(key, state="drain")


def test_a_probe_on_demand_shows_its_result():
    def script(peer: Peer) -> None:
        peer.receive_head()
        peer.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n")

    async def trace() -> None:
        board = Board()
        checker = HealthChecker(board.scoreboard)
        backends = Backends(board.scoreboard, checker, None)
        checked = Backend(host="http://127.0.0.1", port=server.port, health_check_path="/up")
        given = board.assign(Config(routers=[route("/a", checked, "http://b")], health_check=HealthCheck(fall=1)))
        checker.apply(*given)
        backends.apply(*given)
        status = await backends.probe_now(f"http://127.0.0.1:{server.port}")
        assert (status.state, status.check.last_reason, status.checks_failed) == ("unhealthy", "status 503", 1)
        with pytest.raises(NotCheckedError):
            await backends.probe_now(B)
        with pytest.raises(UnknownBackendError):
            await backends.probe_now(C)
        await checker.close()

    with origin(script) as server:
        in_loop(trace)


# --- how it is kept -------------------------------------------------------------------------------------------------


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "backends.json"


def test_it_outlives_the_gateway(file):
    desk = Desk(file)
    desk.set(A, state="drain", weight=30)
    desk.set(B, breaker="open")
    assert json.loads(file.read_text()) == {A: {"state": "drain", "weight": 30}, B: {"breaker": "open"}}
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    later = desk.anew()
    assert later.words(A) == (cells.OUT_DRAIN, 0, 31)
    assert later.words(B) == (0, cells.FORCED_OPEN, 0)
    later.set(A, state="active", weight=100)
    assert json.loads(file.read_text()) == {B: {"breaker": "open"}}
    assert [path.name for path in file.parent.iterdir()] == ["backends.json"]


def test_it_outlives_the_control_process_without_a_file():
    desk = Desk()
    desk.set(A, state="maintenance", weight=0, breaker="closed")
    words = desk.words()
    later = desk.again()
    assert later.words() == words
    later.set(A, state="active")
    assert later.words() == (0, cells.FORCED_CLOSED, 1), "it knows the rest"


def test_the_cells_are_newer_than_the_file(file):
    desk = Desk(file)
    desk.set(A, weight=30)
    desk.board.upstream(A).set(cells.SU_WEIGHT, 61)  # set, and killed before it was written
    assert desk.again().backends.list()[0].weight == 60


def test_a_backend_that_leaves_and_returns(file):
    desk = Desk(file)
    desk.set(A, state="drain")
    desk.apply(ONLY_B)
    assert desk.words(A) == UNTOUCHED
    assert [status.key for status in desk.backends.list()] == [B]
    with pytest.raises(UnknownBackendError):
        desk.set(A, state="active")
    desk.set(B, weight=5)
    assert json.loads(file.read_text())[A] == {"state": "drain"}
    desk.apply(BOTH)
    assert desk.words(A) == (cells.OUT_DRAIN, 0, 0)
    assert desk.anew(ONLY_B).anew().words(A) == (cells.OUT_DRAIN, 0, 0)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"http://a:80": {"state": "gone"}}', b"\xff"])
def test_a_file_that_cannot_be_read_is_said_and_not_believed(file, text):
    file.write_bytes(text)
    with capture_logs() as logs:
        desk = Desk(file)
    assert desk.words() == UNTOUCHED
    assert [(entry["event"], entry["log_level"]) for entry in logs] == [
        ("cannot read what was set for backends", "error")
    ]


@contextlib.contextmanager
def full_disk() -> Iterator[None]:
    """Not a byte can be written to a file."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_stops_no_verdict_and_spoils_no_file(file):
    desk = Desk(file)
    desk.set(A, state="drain")
    kept = file.read_bytes()
    with capture_logs() as logs, full_disk():
        desk.set(A, state="maintenance")
    assert desk.words() == (cells.OUT_MAINTENANCE, 0, 0)
    assert logs[-1]["event"] == "cannot keep what was set for backends"
    assert file.read_bytes() == kept
    desk.apply(BOTH)
    assert desk.anew().words() == (cells.OUT_MAINTENANCE, 0, 0), "written with the next reload"


def test_a_folder_that_is_not_there_stops_no_verdict(tmp_path):
    desk = Desk(tmp_path / "gone" / "backends.json")
    with capture_logs() as logs:
        desk.set(A, state="drain")
    assert desk.words() == (cells.OUT_DRAIN, 0, 0)
    assert "No such file or directory" in logs[-1]["error"]


def test_a_backend_that_returns_is_out_before_a_worker_can_pick_it(file):
    Desk(file).set(A, state="maintenance")
    desk = Desk(file, config=ONLY_B)
    desk.set(B, state="drain")
    desk.backends.prepare(*desk.board.assign(BOTH))
    assert (desk.words(A), desk.words(B)) == ((cells.OUT_MAINTENANCE, 0, 0), (cells.OUT_DRAIN, 0, 0))
    desk.apply(ONLY_B)  # the revision was not to be
    assert desk.words(A) == UNTOUCHED
    desk.apply(BOTH)
    assert desk.words(A) == (cells.OUT_MAINTENANCE, 0, 0)


def test_what_another_gateway_kept_meanwhile_is_taken_up(file):
    desk = Desk(file)
    desk.set(A, state="drain")
    heir = desk.anew()
    desk.set(A, state="active")
    desk.set(B, state="maintenance")
    heir.backends.take_up()
    assert (heir.words(A), heir.words(B)) == (UNTOUCHED, (cells.OUT_MAINTENANCE, 0, 0))
    file.write_bytes(b"{")
    heir.backends.take_up()
    assert heir.words(B) == (cells.OUT_MAINTENANCE, 0, 0), "what cannot be read takes nothing back"


def test_a_slow_disk_holds_up_who_asked_and_nobody_else(file, monkeypatch):
    let_go = threading.Event()

    def slowly(*given: Any) -> None:
        let_go.wait(PATIENCE)
        write_overrides(*given)

    async def trace() -> None:
        monkeypatch.setattr(backends_module, "write_overrides", slowly)
        board = Board()
        backends = Backends(board.scoreboard, HealthChecker(board.scoreboard), file)
        backends.apply(*board.assign(BOTH))
        first, second, same = (
            asyncio.create_task(backends.set(key, state=state))
            for key, state in ((A, "drain"), (B, "maintenance"), (B, "maintenance"))
        )
        await until(lambda: backends.list()[1].state == "maintenance")
        first.cancel()  # its client is gone
        await asyncio.wait([first])
        assert [second.done(), same.done(), file.exists()] == [False] * 3
        let_go.set()
        await asyncio.gather(second, same)
        assert json.loads(file.read_text()) == {A: {"state": "drain"}, B: {"state": "maintenance"}}

    in_loop(trace)
