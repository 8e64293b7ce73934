"""The cache of a real gateway: workers share it, a purge holds for all of them, a killed one leaves it as it was."""

from __future__ import annotations

import os
import signal

from tests.proxy.test_cache import FRESH, Scripted
from tests.support.gateway import gateway, route
from tests.support.net import origin


def test_workers_share_it_and_a_killed_one_leaves_it() -> None:
    script = Scripted(FRESH + b"Cache-Tag: red\r\n")
    with origin(script) as backend:
        config = {"routers": [route("/a", backend.url, cache={})]}
        with gateway(config, workers=2) as gate:
            for _ in range(20):  # the kernel gives connections to both
                assert gate.get("/a")[1] == b"hello"
            assert len(script.requests) == 1
            worker = gate.child("kairos-worker0")
            assert worker > 0
            os.kill(worker, signal.SIGKILL)
            gate.wait(lambda: gate.get("/a")[1] == b"hello", "answer")
            assert len(script.requests) == 1
            assert gate.admin("POST", "/api/cache/purge", {"tags": ["red"]}) == (200, {"purged": 1})
            for _ in range(20):
                gate.get("/a")
            assert len(script.requests) == 2
            assert gate.admin("GET", "/api/cache")[1]["entries"] == 1
            assert "kairos_cache_stored_total" in gate.metrics()
