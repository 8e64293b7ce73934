"""The metrics of the admin API over a real connection: kairos-rs's answers, questions, feeds, and what is refused."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import time as wall_time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from websockets.asyncio.client import ClientConnection, unix_connect
from websockets.exceptions import ConnectionClosed

from kairos._speedups import cells
from kairos.control.api.app import all_handlers, make_app, wanted
from kairos.control.api.listeners import Server
from kairos.control.history import live
from kairos.control.history.catalog import LEGACY, names
from tests.history.recording import APP, USERS, Gateway, Recording, Time, in_loop, open_database, sqlite_url

SNAPSHOT = {
    "type", "timestamp", "requests_total", "requests_success", "requests_error", "active_connections",
    "avg_response_time", "success_rate",
}  # fmt: skip
PATIENCE = 25


class Api:
    """Served on a socket; two minutes of the past are there."""

    def __init__(self, recording: Recording, path: Path) -> None:
        self.recording = recording
        self.path = path
        self.http = httpx.AsyncClient(transport=httpx.AsyncHTTPTransport(uds=str(path)), base_url="http://gateway")

    async def get(self, url: str, **params: Any) -> Any:
        answer = await self.http.get(url, params=params)
        assert answer.status_code == 200, answer.text
        return answer.json()

    async def refused(self, url: str, **params: Any) -> str:
        answer = await self.http.get(url, params=params)
        assert answer.status_code == 400, answer.text
        assert answer.headers["content-type"] == "application/problem+json"
        return str(answer.json()["detail"])

    def watch(self, path: str = "/ws/metrics") -> Any:
        return unix_connect(str(self.path), f"ws://gateway{path}")


async def receive(socket: ClientConnection) -> Any:
    return json.loads(await asyncio.wait_for(socket.recv(), PATIENCE))


async def receive_until(socket: ClientConnection, kind: str) -> Any:
    while (found := await receive(socket))["type"] != kind:
        assert found["type"] in ("Snapshot", "Heartbeat"), found
    return found


@contextlib.asynccontextmanager
async def api(folder: Path) -> AsyncIterator[Api]:
    async with open_database(sqlite_url(folder)) as database:
        time = Time(wall_time.time() // 60 * 60 - 120)
        recording = Recording(Gateway(), database, time)
        recording.history.live.assign(recording.gateway.series)
        await recording.begin()
        for n in range(12):
            await recording.tick(10, lambda n=n: recording.gateway.request(times=10, us=900 if n < 6 else 30_000))
        things: dict[str, Any] = dict.fromkeys(wanted(all_handlers()))
        path = folder / "api.sock"
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen()
        listener.setblocking(False)
        server = Server(make_app({**things, "history": recording.history}), "local", listener)
        server.start()
        made = Api(recording, path)
        try:
            yield made
        finally:
            await made.http.aclose()
            await server.close()


def served(folder: Path, trace: Any) -> None:
    async def run() -> None:
        async with api(folder) as made:
            await trace(made)

    in_loop(run)


# --- kairos-rs ----------------------------------------------------------------------------------------------------


def test_list_and_catalog(tmp_path: Path) -> None:
    async def trace(api: Api) -> None:
        listed = await api.get("/api/metrics/list")
        assert listed == names()
        assert listed[:4] == list(LEGACY)
        catalog = await api.get("/api/metrics/catalog")
        assert [metric["name"] for metric in catalog] == listed
        requests = next(metric for metric in catalog if metric["name"] == "kairos_http_requests_total")
        assert (requests["type"], requests["labels"]) == ("counter", ["route", "upstream", "method", "code"])

    served(tmp_path, trace)


def test_history_as_kairos_rs_has_it(tmp_path: Path) -> None:
    async def trace(api: Api) -> None:
        start = api.recording.time.wall - 120
        begun = wall_time.strftime("%Y-%m-%dT%H:%M:%SZ", wall_time.gmtime(start))
        over = wall_time.strftime("%Y-%m-%dT%H:%M:%S+00:00", wall_time.gmtime(start + 120))
        points = await api.get("/api/metrics/history", name="requests_total", start=begun, end=over)
        assert [point["value"] for point in points] == [{"type": "Counter", "value": 10.0 * n} for n in range(1, 13)]
        assert points[-1]["timestamp"] == over.replace("+00:00", "Z")
        gauge = await api.get("/api/metrics/history", name="active_connections", start=begun, end=over)
        assert {point["value"]["type"] for point in gauge} == {"Gauge"}
        windows = await api.get(
            "/api/metrics/history", name="response_time_avg", start=begun, end=over, interval="one_minute"
        )
        assert [set(window) for window in windows] == [
            {"start_time", "end_time", "count", "sum", "min", "max", "avg"}
        ] * 2
        assert [round(window["avg"], 6) for window in windows] == [0.9, 30.0]
        assert await api.get("/api/metrics/history", name="nonsense", start=begun, end=over) == []
        unencoded = f"/api/metrics/history?name=requests_total&start={begun}&end={over}"  # its `+` comes as a space
        assert (await api.http.get(unencoded)).json() == points

    served(tmp_path, trace)


def test_history_that_cannot_be_read_is_a_400(tmp_path: Path) -> None:
    async def trace(api: Api) -> None:
        history = "/api/metrics/history"
        assert "start" in await api.refused(history, name="requests_total")
        assert "'yesterday' is no time" in await api.refused(history, name="requests_total", start="yesterday")
        assert "no time" in await api.refused(history, name="requests_total", start="nan")
        assert "no time" in await api.refused(history, name="requests_total", start="9" * 400)
        assert "interval is none of" in await api.refused(
            history, name="requests_total", start="-1h", interval="one_week"
        )
        assert "after end" in await api.refused(history, name="requests_total", start="-1h", end="-2h")

    served(tmp_path, trace)


def test_an_early_start_is_answered_as_quickly_as_a_late_one(tmp_path: Path) -> None:
    async def trace(api: Api) -> None:
        windows = await api.get(
            "/api/metrics/history", name="requests_total", start="0001-01-01T00:00:00Z", interval="one_minute"
        )
        assert 1 <= len(windows) <= 3

    served(tmp_path, trace)


# --- ours ---------------------------------------------------------------------------------------------------------


def test_a_query_by_route_and_class(tmp_path: Path) -> None:
    async def trace(api: Api) -> None:
        start = api.recording.time.wall - 120
        answer = await api.get(
            "/api/metrics/query", name="kairos_http_requests_total", start=start, end=start + 120, step=60,
            group_by=["route", "upstream", "code"],
        )  # fmt: skip
        assert (answer["step"], answer["resolution"], answer["series_found"]) == (60, 60, 1)
        assert answer["timestamps"] == [int(start), int(start) + 60]
        assert answer["series"] == [
            {
                "name": "kairos_http_requests_total", "aggregation": "rate", "total": 1.0, "values": [1.0, 1.0],
                "labels": {"route": USERS, "upstream": APP, "code": "2xx"},
            }
        ]  # fmt: skip
        times = await api.get(
            "/api/metrics/query", name="kairos_http_request_duration_seconds", start=start, end=start + 120, step=60,
            aggregation=["p50", "buckets"],
        )  # fmt: skip
        median, buckets = (series["values"] for series in times["series"])
        assert median == [0.00075, 0.0375]
        assert [sum(counts) for counts in buckets] == [60, 60]
        assert len(times["buckets"]) == len(buckets[0]) - 1

    served(tmp_path, trace)


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({}, "name"),
    ({"name": "nonsense"}, "there is no metric 'nonsense'"),
    ({"name": "kairos_http_requests_total", "step": "abc"}, "step"),
    ({"name": "kairos_http_requests_total", "start": "-400d", "step": 1}, "ask for a step of"),
    ({"name": "kairos_http_requests_total", "start": "-999999999w"}, "'-999999999w' is no time"),
    ({"name": "kairos_http_requests_total", "top": 0}, "top is not between"),
    ({"name": "kairos_http_requests_total", "group_by": "limit"}, "none of the metrics has a label 'limit'"),
    ({"name": "kairos_http_requests_total", "aggregation": "p99"}, "rate, increase do"),
]


def test_a_query_that_cannot_be_answered_says_what_can(tmp_path: Path) -> None:
    async def trace(api: Api) -> None:
        for params, complaint in REFUSED:
            assert complaint in await api.refused("/api/metrics/query", **params), params

    served(tmp_path, trace)


def test_without_a_database_there_is_no_past_but_a_present(tmp_path: Path) -> None:
    async def trace(api: Api) -> None:
        for file in tmp_path.glob("kairos.db*"):
            file.unlink()
        await api.recording.history.store._database.close()
        for url in ("/api/metrics/query?name=requests_total", "/api/metrics/history?name=requests_total&start=-1h"):
            answer = await api.http.get(url)
            assert (answer.status_code, answer.headers["retry-after"]) == (503, "5"), answer.text
        assert (await api.get("/api/metrics/snapshot"))["requests_total"] == 120

    served(tmp_path, trace)


def test_a_snapshot_tells_of_the_last_ten_seconds(tmp_path: Path) -> None:
    async def trace(api: Api) -> None:
        first = await api.get("/api/metrics/snapshot")
        assert (first["requests_total"], first["success_rate"], first["requests_error"]) == (120, 100.0, 0)
        recording = api.recording
        recording.time.pass_(10)
        recording.gateway.request(times=50, us=4000)
        recording.gateway.request(times=10, us=4000, code=cells.CLASS_5XX)
        second = await api.get("/api/metrics/snapshot")
        recent = second["recent"]
        assert (second["requests_total"], second["requests_error"], second["success_rate"]) == (180, 10, 94.44)
        assert (recent["seconds"], recent["requests_per_second"], recent["server_errors_per_second"]) == (
            10.0,
            6.0,
            1.0,
        )
        assert recent["p50_ms"] == 3.75
        assert second["avg_response_time"] == 4.0  # not of all there ever was
        assert second["memory_bytes"] > 1 << 20
        recording.time.pass_(8)
        assert (await api.get("/api/metrics/snapshot"))["recent"]["seconds"] == 18.0  # the last look but one
        recording.time.pass_(2)
        assert (await api.get("/api/metrics/snapshot"))["recent"]["requests_per_second"] == 0

    served(tmp_path, trace)


# --- feeds --------------------------------------------------------------------------------------------------------


def test_a_snapshot_comes_at_once_and_then_by_the_second(tmp_path: Path) -> None:
    async def trace(api: Api) -> None:
        async with api.watch() as socket:
            first, second = await receive(socket), await receive(socket)
        assert first["type"] == second["type"] == "Snapshot"
        assert first.keys() >= SNAPSHOT
        assert (first["requests_total"], first["timestamp"][-1]) == (120, "Z")

    served(tmp_path, trace)


def test_history_comes_once_per_subscription(tmp_path: Path) -> None:
    async def trace(api: Api) -> None:
        async with api.watch() as socket:
            await socket.send('{"metrics": [], "include_history": true}')
            series = [await receive_until(socket, "TimeSeries") for _ in LEGACY]
            assert [found["metric_name"] for found in series] == list(LEGACY)
            assert [point["value"] for point in series[0]["data_points"]] == [10 * n for n in range(1, 13)]
            await socket.send('{"metrics": ["kairos_connections"], "include_history": true, "interval_seconds": 60}')
            assert (await receive_until(socket, "TimeSeries"))["metric_name"] == "kairos_connections"

    served(tmp_path, trace)


INVALID = [
    "nonsense", "{}", "[]", '{"metrics": "all"}', '{"metrics": ["nonsense"]}', '{"metrics": [1]}',
    '{"metrics": [], "interval_seconds": "1"}', '{"metrics": [], "include_history": 1}',
    json.dumps({"metrics": ["requests_total"] * 21}),
]  # fmt: skip


def test_an_invalid_subscription_is_told_and_the_feed_goes_on(tmp_path: Path) -> None:
    async def trace(api: Api) -> None:
        async with api.watch() as socket:
            for sent in INVALID:
                await socket.send(sent)
                error = await receive_until(socket, "Error")
                assert error["message"].startswith("Invalid subscription: "), sent
            await receive_until(socket, "Snapshot")

    served(tmp_path, trace)


def test_intervals_are_between_a_second_and_a_minute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero ends the task in kairos-rs."""
    monkeypatch.setattr("kairos.control.api.metrics_feeds.HEARTBEAT_S", 0.05)

    async def trace(api: Api) -> None:
        async with api.watch() as socket:
            for interval in (0, -5, 0.001, 1e300, 3600):
                await socket.send(json.dumps({"metrics": [], "interval_seconds": interval}))
                kinds = [(await receive(socket))["type"] for _ in range(4)]
                assert kinds.count("Heartbeat") >= 2, interval

    served(tmp_path, trace)


def test_without_an_upgrade_it_is_a_400(tmp_path: Path) -> None:
    async def trace(api: Api) -> None:
        for path in ("/ws/metrics", "/ws/admin/metrics"):
            assert await api.refused(path) == "this is a WebSocket: ask for an upgrade"

    served(tmp_path, trace)


def test_six_totals_a_second_for_administrators(tmp_path: Path) -> None:
    async def trace(api: Api) -> None:
        async with api.watch("/ws/admin/metrics") as socket:
            await socket.send("whatever")
            totals = await receive(socket)
            assert list(totals) == [
                "requests_total", "active_connections", "requests_error", "success_rate", "uptime", "peak_connections",
            ]  # fmt: skip
            assert (totals["requests_total"], totals["success_rate"]) == (120, 100.0)
            assert isinstance(totals["uptime"], int)
            assert (await receive(socket))["uptime"] >= totals["uptime"]

    served(tmp_path, trace)


def test_who_comes_when_all_places_are_taken_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "FEEDS", 2)
    monkeypatch.setattr("kairos.control.api.metrics_feeds.FEEDS", 2)

    async def trace(api: Api) -> None:
        feeds = api.recording.history.feeds
        async with api.watch() as one, api.watch("/ws/admin/metrics") as two:
            await asyncio.gather(receive(one), receive(two))
            async with api.watch() as third:
                assert (await receive(third))["message"] == "2 clients watch already: try again later"
                with pytest.raises(ConnectionClosed) as closed:
                    await receive(third)
                assert closed.value.rcvd is not None
                assert closed.value.rcvd.code == 1013
            assert (await api.http.get("/api/events/metrics")).status_code == 503
        async with asyncio.timeout(PATIENCE):
            while feeds.open:
                await asyncio.sleep(0.005)
        async with api.watch() as again:
            assert (await receive(again))["type"] == "Snapshot"

    served(tmp_path, trace)


def test_server_sent_events(tmp_path: Path) -> None:
    async def trace(api: Api) -> None:
        async with api.http.stream("GET", "/api/events/metrics") as stream:
            assert stream.headers["content-type"].startswith("text/event-stream")
            lines = stream.aiter_lines()
            seen = [await asyncio.wait_for(anext(lines), PATIENCE) for _ in range(6)]
        assert seen[0] == "event: snapshot"
        data = json.loads(seen[1].removeprefix("data: "))
        assert data["requests_total"] == 120
        async with asyncio.timeout(PATIENCE):
            while api.recording.history.feeds.open:
                await asyncio.sleep(0.005)

    served(tmp_path, trace)
