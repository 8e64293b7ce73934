"""The exposition, parsed back: every count of the page under its names, in both formats."""

from __future__ import annotations

import time

import msgspec
import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from kairos import __version__
from kairos._speedups import cells
from kairos._speedups.breaker import FAILURE, SUCCESS, TRIAL, Gate
from kairos.config.model import Backend, CircuitBreaker, Route
from kairos.scoreboard import Capacity, Scoreboard, Series
from kairos.telemetry.prometheus import GatewayCollector

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
USERS, ORDERS, ODD = "/users/{id}", "/orders", '/od"d\\{a}\n'
APP, SPARE = "http://app:80", "http://spare:80"
CONTACTED = {  # families that an upstream is in once it was contacted
    "kairos_upstream_requests_in_flight", "kairos_upstream_connections", "kairos_upstream_connects_total",
    "kairos_upstream_connect_failures_total", "kairos_upstream_reuses_total", "kairos_upstream_retries_total",
    "kairos_upstream_attempts_total", "kairos_upstream_failures_total", "kairos_upstream_first_byte_seconds_count",
    "kairos_upstream_first_byte_seconds_sum",
}  # fmt: skip


class Gateway:
    """A page of two workers that count what a test tells them to."""

    def __init__(self):
        self.board = Scoreboard(Capacity(workers=2, routes=5, pairs=9, upstreams=5))
        routes = [
            Route(external_path=path, internal_path="/", methods=["GET"], backends=[Backend(host="http://app")])
            for path in (USERS, ORDERS, ODD)
        ]
        self.series = Series(self.board).assign(routes)

    def request(self, slot, route, upstream, method, status_class, us=1000, times=1):
        pair = self.board.pair_block(slot, self.series.pair(route, upstream))
        block = self.board.route_block(slot, self.series.route(route))
        for _ in range(times):
            self.board.page.add(pair + method * cells.CLASSES + status_class, 1)
            self.board.page.observe(block + cells.R_TOTAL, us)
            self.board.page.observe(block + cells.R_GATEWAY, 40)

    def add(self, cell, n):
        self.board.page.add(cell, n)

    def samples(self, accept="", **options):
        """{(name, label values…): value} of what a scrape sees."""
        body, content_type = GatewayCollector(self.board, self.series, **options).expose(accept)
        parse = parse_openmetrics if content_type.startswith("application/openmetrics-text") else parse_text
        return {
            (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
            for family in parse(body.decode())
            for sample in family.samples
        }


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_requests_are_counted_over_workers_by_route_upstream_method_and_code(accept):
    gateway = Gateway()
    gateway.request(0, USERS, APP, cells.METHOD_GET, cells.CLASS_2XX, times=3)
    gateway.request(1, USERS, APP, cells.METHOD_GET, cells.CLASS_2XX, times=4)
    gateway.request(1, ORDERS, "none", cells.METHOD_POST, cells.CLASS_4XX)
    gateway.request(1, ORDERS, APP, cells.METHOD_OTHER, cells.CLASS_GONE)
    gateway.request(0, "none", "none", cells.METHOD_PATCH, cells.CLASS_4XX)
    seen = {key[1:]: value for key, value in gateway.samples(accept).items() if key[0] == "kairos_http_requests_total"}
    assert seen == {  # code, method, route, upstream
        ("2xx", "GET", USERS, APP): 7,
        ("4xx", "POST", ORDERS, "none"): 1,
        ("499", "other", ORDERS, APP): 1,
        ("4xx", "PATCH", "none", "none"): 1,
    }


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_histograms_are_cumulative_with_sum_and_count(accept):
    gateway = Gateway()
    for slot, us in ((0, 50), (0, 900), (1, 900), (1, 2_000_000), (1, 60_000_000)):
        gateway.request(slot, USERS, APP, cells.METHOD_GET, cells.CLASS_2XX, us)
    samples = gateway.samples(accept)
    name = "kairos_http_request_duration_seconds"
    buckets = [
        samples[f"{name}_bucket", le, USERS] for le in ("5e-05", "0.0005", "0.001", "1.0", "2.5", "30.0", "+Inf")
    ]
    assert buckets == [1, 1, 3, 3, 4, 4, 5]
    assert samples[f"{name}_count", USERS] == 5
    assert samples[f"{name}_sum", USERS] == pytest.approx(62.00185)
    assert samples["kairos_gateway_overhead_seconds_sum", USERS] == pytest.approx(0.0002)
    assert (f"{name}_count", ORDERS) not in samples
    assert ("kairos_upstream_request_duration_seconds_count", USERS) not in samples


def test_labels_of_any_route_come_back_as_they_were():
    gateway = Gateway()
    gateway.request(0, ODD, APP, cells.METHOD_GET, cells.CLASS_2XX)
    for accept in ("", OPENMETRICS):
        assert gateway.samples(accept)["kairos_http_requests_total", "2xx", "GET", ODD, APP] == 1


def test_routes_fold_into_one_when_asked():
    gateway = Gateway()
    gateway.request(0, USERS, APP, cells.METHOD_GET, cells.CLASS_2XX)
    gateway.request(1, ORDERS, APP, cells.METHOD_GET, cells.CLASS_2XX)
    samples = gateway.samples(per_route=False)
    assert samples["kairos_http_requests_total", "2xx", "GET", "all", APP] == 2
    assert samples["kairos_http_request_duration_seconds_count", "all"] == 2
    assert not any(USERS in key for key in samples)


def test_upstreams_show_their_connections_once_contacted():
    gateway = Gateway()
    assert not any(key[-1] == APP and key[0] in CONTACTED for key in gateway.samples())
    for slot in (0, 1):
        block = gateway.board.upstream_block(slot, gateway.series.upstream(APP))
        for cell, n in enumerate((1, 5, 3, 10, 2, 100, 4, 110, 8, 104, 3_000_000)):  # U_IN_FLIGHT … U_ANSWER_US
            gateway.add(block + cell, n)
    gateway.add(gateway.board.pair_block(0, gateway.series.pair(USERS, APP)) + cells.P_RETRIES, 6)
    gateway.add(gateway.board.pair_block(1, gateway.series.pair(ORDERS, APP)) + cells.P_RETRIES, 1)
    seen = {key: value for key, value in gateway.samples().items() if APP in key and key[0] in CONTACTED}
    assert seen == {
        ("kairos_upstream_requests_in_flight", APP): 2,
        ("kairos_upstream_connections", "active", APP): 4,
        ("kairos_upstream_connections", "idle", APP): 6,
        ("kairos_upstream_connects_total", APP): 20,
        ("kairos_upstream_connect_failures_total", APP): 4,
        ("kairos_upstream_reuses_total", APP): 200,
        ("kairos_upstream_retries_total", "stale", APP): 8,
        ("kairos_upstream_retries_total", "policy", APP): 7,
        ("kairos_upstream_attempts_total", APP): 220,
        ("kairos_upstream_failures_total", APP): 16,
        ("kairos_upstream_first_byte_seconds_count", APP): 208,
        ("kairos_upstream_first_byte_seconds_sum", APP): 6.0,
    }


# --- when backends fail -------------------------------------------------------------------------------------------


class Failing(Gateway):
    """One route with two backends, of which a test makes one fail."""

    def __init__(self):
        self.board = Scoreboard(Capacity(workers=2, routes=2, pairs=4, upstreams=3))
        self.all = Series(self.board)
        self.series = self.assigned("http://app", "http://spare")
        self.shared = self.board.shared_upstream(self.series.upstream(APP))
        self.gate = Gate(self.board.page, self.shared, CircuitBreaker(failure_threshold=2, success_threshold=2))

    def assigned(self, *hosts):
        backends = [Backend(host=host) for host in hosts]
        return self.all.assign([Route(external_path=USERS, internal_path="/", methods=["GET"], backends=backends)])

    def of(self, upstream, name):
        """{label values but the upstream…: value} of one family."""
        found = {key[1:]: value for key, value in self.samples().items() if key[0] == name and upstream in key}
        return {tuple(label for label in key if label != upstream): value for key, value in found.items()}

    def state(self, upstream=APP):
        """The one state that is 1, and kairos-rs's number of it."""
        states = self.of(upstream, "kairos_upstream_breaker_state")
        (name,) = [name for (name,), value in states.items() if value]
        assert states.keys() == {("closed",), ("open",), ("half_open",)}
        return name, self.of(upstream, "kairos_circuit_breaker_state")[()]


def test_breakers_are_shown_in_the_state_they_are_in():
    gateway = Failing()
    gateway.gate.settle(FAILURE, False, 0)
    assert gateway.state() == ("closed", 0)
    assert gateway.of(APP, "kairos_circuit_breaker_failures")[()] == 1
    assert gateway.of(APP, "kairos_upstream_breaker_openings_total") == {}
    gateway.gate.settle(FAILURE, False, 0)
    assert gateway.state() == ("open", 1)
    assert gateway.gate.admit(31_000_000) == TRIAL
    assert gateway.state() == ("half_open", 2)
    gateway.gate.settle(SUCCESS, True, 31_000_000)
    assert gateway.of(APP, "kairos_circuit_breaker_successes")[()] == 1
    assert gateway.of(APP, "kairos_circuit_breaker_failures")[()] == 0
    assert gateway.of(APP, "kairos_upstream_breaker_openings_total") == {(): 1}
    assert gateway.state(SPARE) == ("closed", 0)


@pytest.mark.parametrize(
    ("forced", "shown", "flag"),
    [
        (cells.FORCED_OPEN, ("open", 1), 1),
        (cells.FORCED_CLOSED, ("closed", 0), 1),
        (cells.FORCED_NOT, ("half_open", 2), 0),
    ],
)
def test_an_operators_verdict_is_the_state(forced, shown, flag):
    gateway = Failing()
    for _ in range(2):
        gateway.gate.settle(FAILURE, False, 0)
    gateway.gate.admit(31_000_000)
    gateway.board.page.set(gateway.shared + cells.SU_FORCED, forced)
    assert gateway.state() == shown
    assert gateway.of(APP, "kairos_upstream_breaker_forced") == {(): flag}


def test_verdicts_on_backends_are_shown_from_the_start():
    gateway = Failing()
    for upstream in (APP, SPARE):
        assert gateway.of(upstream, "kairos_upstream_healthy") == {(): 1}
        assert gateway.of(upstream, "kairos_upstream_out") == {("ejected",): 0, ("drain",): 0, ("maintenance",): 0}
        assert gateway.of(upstream, "kairos_upstream_weight_ratio") == {(): 1}


def test_why_a_backend_is_left_out():
    gateway = Failing()
    page = gateway.board.page
    page.set(gateway.shared + cells.SU_OUT, cells.OUT_DOWN | cells.OUT_DRAIN)
    page.set(gateway.shared + cells.SU_WEIGHT, 26)
    page.set(gateway.shared + cells.SU_SKIP_UNTIL_US, (time.monotonic_ns() + 3600 * 10**9) // 1000)
    assert gateway.of(APP, "kairos_upstream_healthy") == {(): 0}
    assert gateway.of(APP, "kairos_upstream_out") == {("ejected",): 1, ("drain",): 1, ("maintenance",): 0}
    assert gateway.of(APP, "kairos_upstream_weight_ratio") == {(): 0.25}
    page.set(gateway.shared + cells.SU_OUT, cells.OUT_MAINTENANCE)
    page.set(gateway.shared + cells.SU_WEIGHT, 1)
    page.set(gateway.shared + cells.SU_SKIP_UNTIL_US, time.monotonic_ns() // 1000)
    assert gateway.of(APP, "kairos_upstream_healthy") == {(): 1}
    assert gateway.of(APP, "kairos_upstream_out") == {("ejected",): 0, ("drain",): 0, ("maintenance",): 1}
    assert gateway.of(APP, "kairos_upstream_weight_ratio") == {(): 0}


def test_checks_and_ejections_are_counted():
    gateway = Failing()
    for cell, n in ((cells.SU_CHECKS, 10), (cells.SU_CHECKS_FAILED, 3), (cells.SU_EJECTED, 2)):
        gateway.add(gateway.shared + cell, n)
    assert gateway.of(APP, "kairos_upstream_health_checks_total") == {("success",): 7, ("failure",): 3}
    assert gateway.of(APP, "kairos_upstream_ejections_total") == {(): 2}
    assert gateway.of(SPARE, "kairos_upstream_health_checks_total") == {}


def test_a_backend_that_is_gone_keeps_its_counts_but_no_verdict():
    gateway = Failing()
    gateway.add(gateway.shared + cells.SU_CHECKS, 10)
    gateway.series = gateway.assigned("http://spare")
    assert gateway.of(APP, "kairos_upstream_health_checks_total") == {("success",): 10}
    assert {key[0] for key in gateway.samples() if APP in key} == {"kairos_upstream_health_checks_total"}
    assert gateway.state(SPARE) == ("closed", 0)


def test_hedges_are_counted_by_route_and_upstream():
    gateway = Failing()
    pair = gateway.board.pair_block(1, gateway.series.pair(USERS, SPARE))
    gateway.add(pair + cells.P_HEDGES, 5)
    gateway.add(pair + cells.P_HEDGE_WINS, 2)
    samples = gateway.samples()
    assert samples["kairos_upstream_hedges_total", USERS, SPARE] == 5
    assert samples["kairos_upstream_hedge_wins_total", USERS, SPARE] == 2


def test_what_routes_turn_away_and_let_wait():
    gateway = Failing()
    assert not any("queue" in key[0] or "shed_total" in key[0] for key in gateway.samples())
    for slot in (0, 1):
        block = gateway.board.route_block(slot, gateway.series.route(USERS))
        for cell, n in enumerate((1, 2, 3, 4, 5, 6, 7, 8, 500_000), cells.R_SHED):  # R_SHED … R_QUEUE_US
            gateway.add(block + cell, n)
    seen = {key[0]: value for key, value in gateway.samples().items() if key[1:] == (USERS,)}
    assert seen == {
        "kairos_http_requests_shed_total": 2,
        "kairos_http_requests_without_backend_total": 4,
        "kairos_retry_budget_spent_total": 6,
        "kairos_extra_attempts_in_flight": 8,
        "kairos_queue_depth": 10,
        "kairos_queue_full_total": 14,
        "kairos_queue_timeouts_total": 16,
        "kairos_queue_wait_seconds_count": 12,
        "kairos_queue_wait_seconds_sum": 1.0,
    }


def test_workers_that_are_alive_tell_revision_lag_and_shedding():
    gateway = Failing()
    block = gateway.board.worker_block(1)
    for cell, n in ((cells.W_PID, 7), (cells.W_REVISION, 3), (cells.W_LAG_US, 1500), (cells.W_SHED_LEVEL, 2)):
        gateway.add(block + cell, n)
    seen = {key: value for key, value in gateway.samples().items() if key[0].startswith("kairos_worker_")}
    del seen[("kairos_worker_restarts_total",)]
    assert seen == {
        ("kairos_worker_config_revision", "1"): 3,
        ("kairos_worker_lag_seconds", "1"): 0.0015,
        ("kairos_worker_shed_level", "1"): 2,
    }


def test_reloads_and_upgrades_are_counted():
    gateway = Failing()
    page = gateway.board.page
    for cell, value in (
        (cells.H_RELOADS, 4),
        (cells.H_RELOADS_FAILED, 2),
        (cells.H_RELOADED_AT, 1_700_000_000_500_000),
        (cells.H_UPGRADES_FAILED, 1),
        (cells.H_KEYS, 3),
    ):
        page.set(cell, value)
    samples = gateway.samples()
    assert samples["kairos_config_reloads_total", "success"] == 4
    assert samples["kairos_config_reloads_total", "failure"] == 2
    assert samples[("kairos_config_last_reload_timestamp_seconds",)] == 1_700_000_000.5
    assert samples[("kairos_upgrades_failed_total",)] == 1
    assert samples[("kairos_key_set_changes_total",)] == 3


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_a_page_on_which_everything_moved_can_be_read_in_both_formats(accept):
    gateway = Failing()
    board = gateway.board
    for cell in range(board.worker_block(0), board.worker_block(0) + board.row_stride):
        board.page.set(cell, 1)
    for cell in range(cells.SU_CELLS):
        board.page.set(gateway.shared + cell, 1)
    samples = gateway.samples(accept)
    assert samples["kairos_queue_wait_seconds_count", USERS] == 1
    assert samples["kairos_circuit_breaker_state", APP] == 1


# --- the page -----------------------------------------------------------------------------------------------------


def test_the_way_to_the_control_process_is_no_upstream():
    gateway = Gateway()
    gateway.add(gateway.board.upstream_block(0, 0) + cells.U_CONNECTS, 1)
    assert ("kairos_upstream_connects_total", "none") not in gateway.samples()


def test_upstreams_that_found_no_room_are_shown_together():
    gateway = Gateway()
    gateway.series = msgspec.structs.replace(gateway.series, full=True)
    gateway.add(gateway.board.upstream_block(0, 0) + cells.U_CONNECTS, 1)
    assert gateway.samples()["kairos_upstream_connects_total", "none"] == 1


def test_process_values_come_from_the_header_and_the_worker_blocks():
    gateway = Gateway()
    board = gateway.board
    for cell, value in ((cells.H_REVISION, 7), (cells.H_WORKER_RESTARTS, 2), (cells.H_LOG_UNWRITTEN, 9)):
        board.page.set(cell, value)
    for slot in (0, 1):
        block = board.worker_block(slot)
        gateway.add(block + cells.W_PID, 100 + slot)
        gateway.add(block + cells.W_CONNECTIONS_OPEN, 3)
        gateway.add(block + cells.W_CONNECTIONS_TOTAL, 30)
        gateway.add(block + cells.W_REQUESTS_ACTIVE, 1)
        gateway.add(block + cells.W_TUNNELS_OPEN, 2)
        gateway.add(block + cells.W_BAD_REQUESTS, 4)
        gateway.add(block + cells.W_REQUESTS_UNROUTED, 5)
        gateway.add(block + cells.W_LOG_DROPPED, 6)
    board.zero_gauges(1, gateway.series)
    samples = gateway.samples()
    assert samples["kairos_build_info", __version__] == 1
    assert samples[("process_start_time_seconds",)] == pytest.approx(board.started_at)
    expected = {
        ("kairos_config_revision",): 7,
        ("kairos_workers",): 1,
        ("kairos_worker_restarts_total",): 2,
        ("kairos_connections", "open"): 3,
        ("kairos_connections", "tunnel"): 2,
        ("kairos_connections_accepted_total",): 60,
        ("kairos_requests_in_flight",): 1,
        ("kairos_http_bad_requests_total",): 8,
        ("kairos_http_requests_unrouted_total",): 10,
        ("kairos_access_log_dropped_total", "ring_full"): 12,
        ("kairos_access_log_dropped_total", "unwritten"): 9,
        ("kairos_series_full",): 0,
    }
    assert {key: samples[key] for key in expected} == expected


# --- kairos-rs's names --------------------------------------------------------------------------------------------


def test_without_traffic_the_success_rate_is_full():
    samples = Gateway().samples()
    assert samples[("kairos_success_rate",)] == 100
    assert samples[("kairos_response_time_avg",)] == 0
    assert samples[("kairos_requests_total",)] == 0


def test_kairos_rs_names_say_what_they_mean():
    gateway = Gateway()
    for status_class, us in (
        (cells.CLASS_2XX, 90_000),
        (cells.CLASS_2XX, 400_000),
        (cells.CLASS_3XX, 1_000),
        (cells.CLASS_4XX, 1_000),
        (cells.CLASS_GONE, 1_000),
        (cells.CLASS_5XX, 6_000_000),
    ):
        gateway.request(0, USERS, APP, cells.METHOD_GET, status_class, us)
    pair = gateway.board.pair_block(1, gateway.series.pair(USERS, APP))
    gateway.add(pair + cells.P_TIMEOUTS, 2)
    gateway.add(pair + cells.P_CONNECT_ERRORS, 3)
    route = gateway.board.route_block(1, gateway.series.route(USERS))
    gateway.add(route + cells.R_BYTES_IN, 11)
    gateway.add(route + cells.R_BYTES_OUT, 22)
    gateway.add(gateway.board.worker_block(0) + cells.W_REQUESTS_ACTIVE, 4)
    gateway.add(gateway.board.worker_block(0) + cells.W_REQUESTS_PEAK, 9)
    samples = gateway.samples()
    expected = {
        ("kairos_requests_total",): 6,
        ("kairos_requests_success_total",): 2,
        ("kairos_requests_error_total",): 3,
        ("kairos_http_4xx_errors_total",): 2,
        ("kairos_http_5xx_errors_total",): 1,
        ("kairos_timeout_errors_total",): 2,
        ("kairos_connection_errors_total",): 3,
        ("kairos_request_bytes_total",): 11,
        ("kairos_response_bytes_total",): 22,
        ("kairos_response_time_avg",): 1082.17,
        ("kairos_response_time_bucket", "100"): 4,
        ("kairos_response_time_bucket", "500"): 5,
        ("kairos_response_time_bucket", "1000"): 5,
        ("kairos_response_time_bucket", "5000"): 5,
        ("kairos_response_time_bucket", "+Inf"): 6,
        ("kairos_response_time_count",): 6,
        ("kairos_response_time_sum",): 6493,
        ("kairos_success_rate",): 50.0,
        ("kairos_active_connections",): 4,
        ("kairos_peak_connections",): 9,
    }
    assert {key: samples[key] for key in expected} == expected
    assert samples[("kairos_uptime_seconds",)] >= 0


def test_the_format_follows_the_accept_header():
    collector = GatewayCollector(Gateway().board, Gateway().series)
    assert collector.expose()[1] == "text/plain; version=0.0.4; charset=utf-8"
    body, content_type = collector.expose(OPENMETRICS)
    assert content_type.startswith("application/openmetrics-text; version=1.0.0")
    assert body.endswith(b"# EOF\n")
