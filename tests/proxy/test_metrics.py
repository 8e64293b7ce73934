"""/metrics after a known series of requests: exact, over all workers, and over their deaths."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.proxy.test_backpressure import children, name_of
from tests.support.gateway import Gateway, gateway, route
from tests.support.net import Peer, ScriptedOrigin, dead_port, origin, read_request, status_of

STATUSES = {b"/ok": b"200 OK", b"/moved": b"302 Found", b"/missing": b"404 Not Found", b"/broken": b"500 Oops"}


def answer(peer: Peer) -> None:
    while True:
        head, _ = read_request(peer)
        path = head.split(b" ")[1]
        if path == b"/slow":
            time.sleep(0.2)
        if path == b"/never":
            peer.closed()
            return
        status = STATUSES.get(path, b"200 OK")
        peer.send(b"HTTP/1.1 %s\r\nContent-Length: 2\r\n\r\n" % status + (b"" if head.startswith(b"HEAD") else b"ok"))


@contextlib.contextmanager
def measured(workers: int) -> Iterator[tuple[Gateway, ScriptedOrigin]]:
    with origin(answer) as o:
        routers = [
            route("/{x}", o.url, "/{x}"),
            route("/never", o.url, timeouts={"first_byte": 0.2}),
            route("/dead", f"http://127.0.0.1:{dead_port()}"),
        ]
        with gateway({"routers": routers}, workers=workers) as g:
            yield g, o


Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def samples(g: Gateway) -> Samples:
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(g.metrics())
        for sample in family.samples
    }


def value(read: Samples, name: str, **labels: str) -> float:
    return read.get((name, frozenset(labels.items())), 0)


def play(g: Gateway) -> None:
    """The known series: 20 requests."""
    for path in ("/ok", "/ok", "/ok", "/moved", "/missing", "/broken"):
        g.get(path)
    for _ in range(4):
        g.request(b"POST /ok HTTP/1.1\r\nHost: test\r\nContent-Length: 1000\r\n\r\n" + b"x" * 1000)
    for _ in range(2):
        g.get("/never")
    g.get("/dead")
    for _ in range(3):
        g.get("/a/b")
    with g.connect() as client:
        client.send(b"HEAD /ok HTTP/1.1\r\nHost: test\r\n\r\nGET /ok HTTP/1.1\r\nHost: test\r\n\r\n")
        client.receive_head()
        client.receive_response()
    g.request(b"BREW /ok HTTP/1.1\r\nHost: test\r\n\r\n")
    g.request(b"DELETE / HTTP/1.1\r\nHost: test\r\n bad\r\n\r\n")


def counted(g: Gateway, requests: int) -> None:
    """Until so many are accounted for: an answer is on its way a moment before it is counted, then logged."""
    g.wait(lambda: len(g.access_lines()) == requests, f"{requests} access-log lines")


def judge(read: Samples, url: str, since: int = 0) -> None:
    """What the series must have left, and so many successful requests to the gateway itself since."""

    def requests(**labels: str) -> float:
        return value(read, "kairos_http_requests_total", **labels)

    assert requests(route="/{x}", upstream=url, method="GET", code="2xx") == 4
    assert requests(route="/{x}", upstream=url, method="GET", code="3xx") == 1
    assert requests(route="/{x}", upstream=url, method="GET", code="4xx") == 1
    assert requests(route="/{x}", upstream=url, method="GET", code="5xx") == 1
    assert requests(route="/{x}", upstream=url, method="POST", code="2xx") == 4
    assert requests(route="/{x}", upstream=url, method="HEAD", code="2xx") == 1
    assert requests(route="/never", upstream=url, method="GET", code="5xx") == 2
    assert value(read, "kairos_upstream_timeouts_total", route="/never", upstream=url) == 2
    assert value(read, "kairos_http_request_bytes_total", route="/{x}") >= 4000
    assert value(read, "kairos_http_requests_unrouted_total") == 3
    assert value(read, "kairos_http_bad_requests_total") == 2
    assert value(read, "kairos_http_request_duration_seconds_count", route="/{x}") == 12
    assert value(read, "kairos_gateway_overhead_seconds_count", route="/{x}") == 12
    assert value(read, "kairos_upstream_request_duration_seconds_count", route="/{x}") == 12
    assert value(read, "kairos_upstream_request_duration_seconds_sum", route="/never") > 0.35
    _separated(read, "/never")
    assert value(read, "kairos_upstream_requests_in_flight", upstream=url) == 0
    # the names of kairos-rs
    assert value(read, "kairos_requests_total") == 20 + since
    assert value(read, "kairos_requests_success_total") == 9 + since
    assert value(read, "kairos_requests_error_total") == 10
    assert value(read, "kairos_http_4xx_errors_total") == 5
    assert value(read, "kairos_http_5xx_errors_total") == 5
    assert value(read, "kairos_timeout_errors_total") == 2
    assert value(read, "kairos_connection_errors_total") == 1
    assert value(read, "kairos_response_time_count") == 20 + since
    assert value(read, "kairos_response_time_bucket", le="+Inf") == 20 + since
    assert value(read, "kairos_success_rate") == round(100 * (10 + since) / (20 + since), 2)


def _separated(read: Samples, path: str) -> None:
    """The upstream's time and the gateway's own are the whole, however slow the machine: nothing is in both."""
    whole, upstream, own = (
        value(read, f"kairos_{name}_seconds_sum", route=path)
        for name in ("http_request_duration", "upstream_request_duration", "gateway_overhead")
    )
    assert whole == pytest.approx(upstream + own, abs=0.001)


@pytest.mark.parametrize("workers", [1, 2])
def test_counts_are_exact_and_survive_their_workers(workers: int) -> None:
    with measured(workers) as (g, o):
        play(g)
        counted(g, 20)
        judge(samples(g), o.url)
        counted(g, 21)
        for pid in children(g.process.pid):
            if name_of(pid).startswith("kairos-worker"):
                os.kill(pid, signal.SIGKILL)
        g.wait(lambda: g.log.count("killed by SIGKILL") == workers, "respawned workers")
        g.wait(lambda: _answers(g), "answering worker")
        counted(g, 22)
        after = samples(g)
        judge(after, o.url, since=2)  # the first scrape and one probe
        assert value(after, "kairos_worker_restarts_total") == workers
        g.wait(lambda: value(samples(g), "kairos_connections", state="open") == 1, "end of the other connections")


def _answers(g: Gateway) -> bool:
    try:
        return status_of(g.get("/health")[0]) == 200
    except (OSError, EOFError):
        return False


def test_bytes_are_those_on_the_wire() -> None:
    with measured(1) as (g, _):
        request = b"POST /ok HTTP/1.1\r\nHost: test\r\nContent-Length: 10\r\n\r\n0123456789"
        head, body = g.request(request)
        read = samples(g)
        assert value(read, "kairos_http_request_bytes_total", route="/{x}") == len(request)
        assert value(read, "kairos_http_response_bytes_total", route="/{x}") == len(head + body)


def test_upstream_time_is_not_the_gateways() -> None:
    with measured(1) as (g, _):
        g.get("/slow")
        read = samples(g)
        assert value(read, "kairos_upstream_request_duration_seconds_sum", route="/{x}") >= 0.2
        _separated(read, "/{x}")


def test_reuse_and_connections_are_counted() -> None:
    with measured(1) as (g, o):
        with g.connect() as client:
            for _ in range(5):
                client.send(b"GET /ok HTTP/1.1\r\nHost: test\r\n\r\n")
                client.receive_response()
            read = samples(g)
            assert value(read, "kairos_connections", state="open") == 2
        assert value(read, "kairos_upstream_connects_total", upstream=o.url) == 1
        assert value(read, "kairos_upstream_reuses_total", upstream=o.url) == 4
        assert value(read, "kairos_upstream_connections", upstream=o.url, state="idle") == 1
        assert value(read, "kairos_upstream_connections", upstream=o.url, state="active") == 0


def test_only_listed_networks_may_read_them() -> None:
    with origin(answer) as o, gateway({"routers": [route("/x", o.url)], "metrics": {"allow": ["10.0.0.0/8"]}}) as g:
        assert status_of(g.get("/metrics")[0]) == 403
