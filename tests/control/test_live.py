"""Feeds of a running gateway: events, requests as they end, its own log; over SSE and WebSocket, and log levels."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
from typing import TYPE_CHECKING, Any

import pytest
from websockets.sync.client import unix_connect

from kairos.client import BusyError, Client, InvalidError, Target
from kairos.client.models import WorkerStarted
from kairos.control.tail import MAX_WATCHERS
from tests.support.gateway import Gateway, gateway, route
from tests.support.net import echo, origin

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kairos.client import Event


PATIENCE = 25.0


@pytest.fixture(scope="module")
def g() -> Iterator[Gateway]:
    """One whose access log is off: workers write for watchers only."""
    with (
        origin(echo) as o,
        gateway({"access_log": {"format": "off"}, "routers": [route("/a/{rest:path}", o.url)]}) as made,
    ):
        yield made


@pytest.fixture(scope="module")
def client(g: Gateway) -> Iterator[Client]:
    with Client(target=Target.local(str(g.state_dir))) as made:
        yield made


class Follower:
    """Reads a stream of events on a connection of its own. Chunks end where events do."""

    def __init__(self, g: Gateway, target: str) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.connect(str(g.state_dir / "admin.sock"))
        self._sock.sendall(f"GET {target} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        self._data = b""
        self.head = self._until(b"\r\n\r\n", PATIENCE)

    def _until(self, end: bytes, patience: float) -> bytes:
        self._sock.settimeout(patience)
        while end not in self._data:
            got = self._sock.recv(65536)
            assert got, f"the stream ended: {self._data!r}"
            self._data += got
        found, _, self._data = self._data.partition(end)
        return found

    def next(self, kind: str, patience: float = PATIENCE) -> Any:
        """The data of the next event of a type. Raises TimeoutError."""
        while True:
            lines = self._until(b"\n\n", patience).split(b"\n")
            if f"event: {kind}".encode() in lines:
                return json.loads(next(line for line in lines if line.startswith(b"data: "))[6:])

    def close(self) -> None:
        self._sock.close()


@contextlib.contextmanager
def following(g: Gateway, target: str) -> Iterator[Follower]:
    made = Follower(g, target)
    try:
        yield made
    finally:
        made.close()


def until_seen(g: Gateway, follower: Follower, path: str) -> None:
    """Workers see within a second that somebody watches: asked until the first line comes."""
    for _ in range(100):
        g.get(path)
        with contextlib.suppress(TimeoutError):
            return follower.next("request", 0.2)
    raise AssertionError("no line came")


def test_requests_are_seen_while_somebody_watches_though_the_access_log_is_off(g: Gateway) -> None:
    with following(g, "/api/tail?path=/a/w*&recent=0") as seen:
        assert b"content-type: text/event-stream" in seen.head.lower()
        assert b"no-store" in seen.head
        until_seen(g, seen, "/a/warm")
        g.get("/a/other")
        g.get("/a/watched?token=secret")
        line = seen.next("request")
        while line["path"] == "/a/warm":
            line = seen.next("request")
    assert (line["path"], line["query"], line["route"], line["status"]) == (
        "/a/watched",
        "token=***",
        "/a/{rest:path}",
        200,
    )
    assert line["client"] == "127.0.0.1"
    assert g.access_lines() == []


def test_the_same_over_websocket(g: Gateway) -> None:
    with unix_connect(str(g.state_dir / "admin.sock"), "ws://localhost/api/tail?status=4xx&recent=0") as ws:
        message = None
        for _ in range(100):
            g.get("/missing")
            with contextlib.suppress(TimeoutError):
                message = json.loads(ws.recv(0.2))
                break
    assert message is not None
    assert message["type"] == "request"
    assert (message["data"]["path"], message["data"]["status"]) == ("/missing", 404)


def test_watchers_that_leave_make_room(g: Gateway, client: Client) -> None:
    with contextlib.ExitStack() as stack:
        for _ in range(MAX_WATCHERS):
            stack.enter_context(following(g, "/api/logs/tail"))
        with pytest.raises(BusyError, match="watch already"):
            next(client.watch_log())
    g.wait(lambda: b" 200 " in _head(g), "room for a watcher")


def _head(g: Gateway) -> bytes:
    with following(g, "/api/tail") as seen:
        return seen.head


def test_what_makes_no_sense_is_refused(client: Client) -> None:
    for ask in (
        lambda: next(client.watch_requests(status=["abc"])),
        lambda: next(client.watch_requests(rate=1e9)),
        lambda: next(client.watch_events(type=["nonsense"])),
        lambda: client.set_log_levels(levels={"helth": "debug"}),
        lambda: client.set_log_levels(levels={"health": "loud"}),  # type: ignore[dict-item]
        lambda: client.list_recent_lines(client="nowhere"),
    ):
        with pytest.raises(InvalidError):
            ask()


def test_levels_are_set_in_all_processes_and_their_lines_can_be_watched(g: Gateway, client: Client) -> None:
    with (
        following(g, "/api/events?type=log_levels_changed") as events,
        following(g, "/api/logs/tail?component=supervisor&recent=0") as lines,
    ):
        shown = client.set_log_levels(levels={"supervisor": "debug"}, duration=600.0)
        (status,) = [one for one in shown if one.component == "supervisor"]
        assert (status.level, status.configured) == ("debug", "info")
        assert events.next("log_levels_changed")["levels"] == {"supervisor": "debug"}
        os.kill(g.process.pid, signal.SIGTTIN)
        while lines.next("line")["event"] != "worker 1 is ready":  # said at debug
            pass
    assert client.set_log_levels(levels={"*": None})[0].level == "info"
    recent = client.list_recent_lines(log="program", component=["supervisor"], level="debug")
    assert "worker 1 is ready" in [line["event"] for line in recent]
    assert {line["pid"] for line in recent} == {g.process.pid}


def test_changes_of_the_configuration_are_told_with_their_author(g: Gateway, client: Client) -> None:
    with following(g, "/api/events?type=revision_in_use&type=config_changed&type=reload_failed") as events:
        client.set_metrics({"per_route": False}, message="less to keep")
        in_use, changed = events.next("revision_in_use"), events.next("config_changed")
        assert (changed["author"], changed["message"]) == ("local", "less to keep")
        assert changed["revision"] == in_use["revision"]
        g.config_path.write_text("{")
        os.kill(g.process.pid, signal.SIGHUP)
        assert events.next("reload_failed")["problems"]


def test_who_comes_back_gets_the_events_that_were_missed(g: Gateway, client: Client) -> None:
    before = client.list_events()[-1]
    os.kill(g.children()["kairos-worker0"], signal.SIGKILL)
    feed: Iterator[Event] = client.watch_events(after=before.id, type=["worker_ended", "worker_started"])
    kinds = [event.type for event in itertools.islice((event for event in feed if event.data["slot"] == 0), 2)]
    assert kinds == ["worker_ended", "worker_started"]
    started = client.list_events(type=["worker_started"])
    mine = [event for event in started if isinstance(event, WorkerStarted) and event.slot == 0]
    assert mine[-1].restarts == 1
    with unix_connect(str(g.state_dir / "admin.sock"), f"ws://localhost/api/events?after={before.id}") as ws:
        while json.loads(ws.recv(20))["type"] != "worker_ended":
            pass
