"""A real gateway records its history: asked for on its socket, and there when it is gone."""

import asyncio
import time

from kairos.control.history.history import History, Query
from kairos.scoreboard import Capacity, Scoreboard
from kairos.storage.database import Database
from tests.support.gateway import gateway, route
from tests.support.net import echo, origin


def test_what_was_counted_is_known_when_the_gateway_is_gone():
    begun = time.time()
    with origin(echo) as app, gateway({"routers": [route("/a", app.url)]}, workers=2) as g:
        assert "requests_total" in g.admin("GET", "/api/metrics/list")[1]
        assert g.admin("GET", "/api/metrics/query?name=kairos_http_requests_total")[0] == 200
        for _ in range(5):
            g.get("/a")
        assert g.get("/none")[0].startswith(b"HTTP/1.1 404")
        g.wait(lambda: g.admin("GET", "/api/metrics/snapshot")[1]["requests_total"] == 6, "six requests")
        snapshot = g.admin("GET", "/api/metrics/snapshot")[1]
        assert (snapshot["requests_error"], snapshot["workers"]) == (1, 2)
        assert 'kairos_process_resident_memory_bytes{process="worker1"}' in g.metrics()
        assert 'kairos_history_samples_total{result="written"}' in g.metrics()
        assert g.stop() == 0
        assert kept(g.state_dir / "kairos.db", begun) == [[8.0], [1.0]]  # the two scrapes are requests, too


def kept(path, begun):
    """The last value of kairos-rs's counters."""

    async def ask():
        database = Database(f"sqlite:///{path}")
        await database.start()
        history = History(Scoreboard(Capacity(1, 1, 1, 1)), database, "any")
        asked = Query(["requests_total", "requests_error"], begun - 10, time.time(), 3600, ["last"])
        _, answer = await history.query(asked)
        await database.close()
        return [[value for value in line.values if value is not None][-1:] for line in answer.lines]

    return asyncio.run(ask())
