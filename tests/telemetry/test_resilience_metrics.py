"""What a scrape of a running gateway says after backends failed, requests waited and configurations came."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.support.gateway import Gateway, gateway, route
from tests.support.net import Peer, ScriptedOrigin, dead_port, origin, read_request, status_of

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
BUSY = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n"


class Backend:
    """Answers /busy with 503 and everything else with 200, /held only once it is let go."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.let_go = threading.Event()

    def __call__(self, peer: Peer) -> None:
        while True:
            path = read_request(peer)[0].split(b" ")[1]
            if path == b"/held":
                self.asked.set()
                self.let_go.wait(25)
            peer.send(BUSY if path == b"/busy" else OK)


def scraped(g: Gateway) -> dict[tuple[str, ...], float]:
    """{(name, label values…): value}"""
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(g.metrics())
        for sample in family.samples
    }


def status(g: Gateway, path: str) -> int:
    return status_of(g.get(path)[0])


@pytest.fixture
def backend() -> Iterator[tuple[Backend, ScriptedOrigin]]:
    script = Backend()
    with origin(script) as o:
        yield script, o
        script.let_go.set()


def test_a_dead_backend_is_passed_over_and_its_breaker_opens(backend: tuple[Backend, ScriptedOrigin]) -> None:
    _, alive = backend
    dead = f"http://127.0.0.1:{dead_port()}"
    members = {"circuit_breaker": {"failure_threshold": 2}, "queue": {"size": 1}}
    with gateway({"routers": [route("/", f"{dead},{alive.url}", **members)]}) as g:
        assert [status(g, "/") for _ in range(8)] == [200] * 8
        seen = scraped(g)
    assert seen["kairos_upstream_failures_total", dead] == 2
    assert seen["kairos_upstream_retries_total", "policy", alive.url] == 2
    assert seen["kairos_upstream_attempts_total", alive.url] == 8
    assert seen["kairos_upstream_first_byte_seconds_count", alive.url] == 8
    assert seen["kairos_upstream_breaker_openings_total", dead] == 1
    assert seen["kairos_upstream_breaker_state", "open", dead] == 1
    assert seen["kairos_circuit_breaker_state", dead] == 1
    assert seen["kairos_upstream_breaker_state", "closed", alive.url] == 1


def test_a_spent_budget_and_a_route_without_backend_are_counted(backend: tuple[Backend, ScriptedOrigin]) -> None:
    _, o = backend
    spare: dict[str, Any] = {"budget_percent": 0, "budget_min": 0, "initial_backoff_ms": 1}
    dead = f"http://127.0.0.1:{dead_port()}"
    routers = [
        route("/busy", o.url, retry=spare),
        route("/dead", dead, circuit_breaker={"failure_threshold": 1}),
    ]
    with gateway({"routers": routers}) as g:
        assert [status(g, "/busy"), status(g, "/dead"), status(g, "/dead")] == [503, 502, 503]
        seen = scraped(g)
    assert seen["kairos_retry_budget_spent_total", "/busy"] == 1
    assert seen["kairos_http_requests_without_backend_total", "/dead"] == 1
    assert seen["kairos_extra_attempts_in_flight", "/busy"] == 0


def test_who_waits_is_shown_while_waiting_and_counted_after(backend: tuple[Backend, ScriptedOrigin]) -> None:
    script, o = backend
    limited = route("/held", o.url, queue={"size": 1, "timeout": 30})
    limited["backends"][0]["max_requests"] = 1
    with gateway({"routers": [limited]}) as g, g.connect() as first, g.connect() as second:
        first.send(b"GET /held HTTP/1.1\r\nHost: h\r\n\r\n")
        assert script.asked.wait(25)
        second.send(b"GET /held HTTP/1.1\r\nHost: h\r\n\r\n")
        g.wait(lambda: scraped(g).get(("kairos_queue_depth", "/held")) == 1, "request in the queue")
        assert status(g, "/held") == 503
        script.let_go.set()
        assert [status_of(peer.receive_response()[0]) for peer in (first, second)] == [200, 200]
        seen = scraped(g)
    assert seen["kairos_queue_full_total", "/held"] == 1
    assert seen["kairos_queue_depth", "/held"] == 0
    assert seen["kairos_queue_wait_seconds_count", "/held"] == 1
    assert seen["kairos_queue_wait_seconds_sum", "/held"] > 0


def test_a_hedge_that_wins_is_counted_where_it_went() -> None:
    slow, quick = Backend(), Backend()
    quick.let_go.set()
    with origin(slow) as one, origin(quick) as other:
        hedged = route("/held", f"{one.url},{other.url}", hedge={"min_delay_ms": 20})
        with gateway({"routers": [hedged]}) as g:
            assert [status(g, "/held") for _ in range(2)] == [200, 200]  # one of them at least meets the slow one first
            seen = scraped(g)
        slow.let_go.set()
        made = seen["kairos_upstream_hedges_total", "/held", other.url]
        assert made >= 1
        assert seen["kairos_upstream_hedge_wins_total", "/held", other.url] == made


def test_verdicts_of_probes_are_shown(backend: tuple[Backend, ScriptedOrigin]) -> None:
    _, o = backend
    checked = {"health_check": {"path": "/busy", "interval": 0.1, "fall": 2}}
    with gateway({"routers": [route("/", o.url, **checked)]}) as g:
        g.wait(lambda: scraped(g)["kairos_upstream_healthy", o.url] == 0, "unhealthy backend")
        assert scraped(g)["kairos_upstream_health_checks_total", "failure", o.url] >= 2


def test_reloads_good_and_bad(backend: tuple[Backend, ScriptedOrigin]) -> None:
    _, o = backend
    with gateway({"routers": [route("/", o.url)]}, workers=2) as g:
        before = scraped(g)
        g.write({"routers": [route("/", o.url), route("/more", o.url)]})
        g.signal(signal.SIGHUP)
        g.wait(lambda: scraped(g)["kairos_config_reloads_total", "success"] == 1, "reload")
        g.config_path.write_text(json.dumps({"routers": 7}))
        g.signal(signal.SIGHUP)
        g.wait(lambda: scraped(g)["kairos_config_reloads_total", "failure"] == 1, "refused reload")
        seen = scraped(g)
    assert before[("kairos_config_last_reload_timestamp_seconds",)] == 0
    assert seen[("kairos_config_last_reload_timestamp_seconds",)] >= seen[("process_start_time_seconds",)]
    revision = before[("kairos_config_revision",)] + 1
    assert seen[("kairos_config_revision",)] == revision
    assert [seen["kairos_worker_config_revision", worker] for worker in "01"] == [revision] * 2
