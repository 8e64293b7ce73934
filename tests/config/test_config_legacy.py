"""Older spellings load as what they mean, and problems in them are told in their own words."""

import json
from pathlib import Path

import msgspec
import pytest
from config_samples import SECRET, file, problems_of, read, route, said

from kairos.config.load import load_checked
from kairos.config.model import AiStrategy, Backend, Config, Route
from kairos.config.policies.ratelimit import RateLimit

SHIPPED = Path(__file__).parent / "kairos_rs"


def limit(**keys: object) -> RateLimit | None:
    return read(file(rate_limit=keys)).config.rate_limit


def one(**keys: object) -> Route:
    return read(file(route(**keys))).config.routers[0]


# ---- the shipped files


@pytest.mark.parametrize("name", sorted(path.name for path in SHIPPED.glob("*.json")))
def test_every_shipped_file_loads_without_an_error(name):
    loaded = load_checked(SHIPPED / name)
    assert len(loaded.config.routers) == len(json.loads((SHIPPED / name).read_text())["routers"])


def test_seven_files_are_shipped():
    assert len(list(SHIPPED.glob("*.json"))) == 7


def test_the_file_kairos_rs_cannot_load_means_what_it_says():
    config = load_checked(SHIPPED / "config_multi_protocol.json").config
    assert config.rate_limit == RateLimit(
        requests_per_window=100, window_duration=60, burst_allowance=50, window_type="SlidingWindow"
    )
    assert [made.protocol for made in config.routers] == ["http", "websocket", "ftp", "dns"]
    assert config.routers[3].backends[0] == Backend(host="9.9.9.9", port=53)


# ---- rate limits: written form -> canonical form

LIMITS = [
    ({}, RateLimit()),
    (
        {"strategy": "PerUser", "requests_per_window": 7, "window_duration": 8, "burst_allowance": 9,
         "window_type": "FixedWindow", "enable_redis": True, "redis_key_prefix": "x"},
        RateLimit("PerUser", [], 7, 8, 9, "FixedWindow", True, "x"),
    ),
    (
        {"algorithm": "token_bucket", "requests_per_second": 30, "burst_size": 10},
        RateLimit(requests_per_window=30, window_duration=1, burst_allowance=10, window_type="TokenBucket"),
    ),
    (
        {"algorithm": "fixed_window", "requests_per_window": 40, "burst_allowance": 4},
        RateLimit(requests_per_window=40, burst_allowance=4, window_type="FixedWindow"),
    ),
    ({"requests_per_window": 40, "burst_allowance": 4}, RateLimit(requests_per_window=40, burst_allowance=4)),
    (
        {"strategy": "sliding_window", "requests_per_minute": 100, "burst_size": 150},
        RateLimit(requests_per_window=100, window_duration=60, burst_allowance=50),
    ),
    (
        {"strategy": "FixedWindow", "window_type": "Minute", "max_requests": 11, "redis_url": "redis://r"},
        RateLimit(requests_per_window=11, window_duration=60, window_type="FixedWindow", redis_url="redis://r"),
    ),
    ({"window_type": "Second"}, RateLimit(window_duration=1)),
    ({"window_type": "hour"}, RateLimit(window_duration=3600)),
    (
        {"strategy": "sliding_window", "window_duration": 9, "max_requests": 5, "enabled": True},
        RateLimit(requests_per_window=5, window_duration=9),
    ),
    ({"algorithm": "sliding_window", "max_requests": 5, "enabled": False}, RateLimit("PerIP", [], 5, enabled=False)),
    ({"strategy": "per_ip_and_route"}, RateLimit(strategy="PerIPAndRoute")),
    ({"requests_per_window": 10, "burst_size": 10}, RateLimit(requests_per_window=10, burst_allowance=0)),
    ({"requests_per_window": 10, "burst_size": 9}, RateLimit(requests_per_window=10, burst_allowance=9)),
    (
        {"strategy": {"Composite": [{"strategy": "PerUser", "max_requests": 3}, {"strategy": "PerRoute"}]}},
        RateLimit("Composite", [RateLimit("PerUser", requests_per_window=3), RateLimit("PerRoute")]),
    ),
    ({"redis_url": None, "burst_allowance": None, "strategy": None}, RateLimit()),
]  # fmt: skip


@pytest.mark.parametrize(("written", "meant"), LIMITS, ids=[json.dumps(written)[:60] for written, _ in LIMITS])
def test_forms_of_rate_limit(written, meant):
    assert limit(**written) == meant
    assert one(rate_limit=written).rate_limit == meant


def test_null_and_absent_rate_limit_are_no_limit():
    assert read(file(rate_limit=None)).config.rate_limit is None
    assert read(file()).config.rate_limit is None


def test_contradicting_spellings_are_refused():
    both = {"requests_per_second": 5, "window_duration": 60}
    (problem,) = said(file(rate_limit=both))
    assert problem.startswith("rate_limit.requests_per_second: says the same as 'rate_limit.window_duration'")


def test_agreeing_spellings_pass():
    assert limit(strategy="FixedWindow", window_type="FixedWindow") == RateLimit(window_type="FixedWindow")


# ---- routes: written keys -> canonical attribute

ROUTES = [
    ({"retry_config": {"max_retries": 2, "retryable_status_codes": [500]}}, "retry.retry_on_status_codes", [500]),
    ({"retry_config": {"max_retries": 2}}, "retry.max_retries", 2),
    ({"retry": {"base_delay_ms": 7}}, "retry.initial_backoff_ms", 7),
    ({"retry": {"retry_delay_ms": 8}}, "retry.initial_backoff_ms", 8),
    ({"retry": {"max_delay_ms": 900}}, "retry.max_backoff_ms", 900),
    ({"retry": {"retryable_status_codes": [503]}}, "retry.retry_on_status_codes", [503]),
    ({"retry": {"max_attempts": 4}}, "retry.max_retries", 4),
    ({"retry": {}}, "retry.max_retries", 3),
    ({"retry": {"circuit_breaker_threshold": 6}}, "circuit_breaker.failure_threshold", 6),
    ({"retry": {"circuit_breaker_timeout_ms": 1500}}, "circuit_breaker.reset_timeout", 1.5),
    ({"load_balancing_strategy": "RoundRobin"}, "load_balancing_strategy", "round_robin"),
    ({"load_balancing_strategy": "Weighted"}, "load_balancing_strategy", "weighted"),
    ({"load_balancing_strategy": "LeastConnections"}, "load_balancing_strategy", "least_connections"),
    ({"load_balancing_strategy": "Random"}, "load_balancing_strategy", "random"),
    ({"load_balancing_strategy": "IpHash"}, "load_balancing_strategy", "ip_hash"),
    ({"load_balancing_strategy": "IP_HASH"}, "load_balancing_strategy", "ip_hash"),
    ({"protocol": "HTTP"}, "protocol", "http"),
    ({"protocol": "WebSocket"}, "protocol", "websocket"),
    ({"protocol": "websocket", "methods": ...}, "methods", ["GET"]),
    ({"protocol": "websocket", "methods": None}, "methods", ["GET"]),
    ({"internal_path": ...}, "internal_path", "/a"),
    ({"internal_path": ..., "external_path": "/s/{rest:path}"}, "internal_path", "/s/{rest}"),
    ({"ai_policy": {"enabled": True, "strategy": "latency_prediction"}, "methods": ...}, "methods", ["GET", "POST"]),
    (
        {"ai_policy": {"enabled": True, "strategy": "anomaly_detection"}},
        "ai_policy.strategy", AiStrategy("anomaly_detection"),
    ),
    (
        {"ai_policy": {"enabled": True, "strategy": {"content_analysis": {"model": "m"}}}},
        "ai_policy.strategy", AiStrategy("content_analysis", "m"),
    ),
    (
        {"ai_policy": {"enabled": True, "strategy": {"content_analysis": {}}}},
        "ai_policy.strategy", AiStrategy("content_analysis"),
    ),
    (
        {"ai_policy": {"enabled": True, "strategy": {"kind": "content_analysis", "model": "m"}}},
        "ai_policy.strategy", AiStrategy("content_analysis", "m"),
    ),
    ({"backends": ..., "host": "http://h", "port": 81}, "backends", [Backend("http://h", 81)]),
    ({"backends": None, "host": "http://h", "port": 81}, "legacy", True),
    ({"backends": [{"host": "http://n"}], "host": "http://h", "port": 81}, "backends", [Backend("http://n")]),
    ({"host": None, "port": None}, "legacy", False),
]  # fmt: skip


@pytest.mark.parametrize(("written", "attribute", "meant"), ROUTES, ids=[f"{keys}"[:70] for keys, *_ in ROUTES])
def test_spellings_of_routes(written, attribute, meant):
    value: object = one(**written)
    for name in attribute.split("."):
        value = getattr(value, name)
    assert value == meant


# ---- top level: written section -> canonical attribute

SECTIONS = [
    ({}, "version", 1),
    ({"jwt_secret": SECRET}, "jwt.secret", SECRET),
    ({"jwt_secret": SECRET, "jwt": {"issuer": "i"}}, "jwt.issuer", "i"),
    ({"jwt": {"secret": SECRET, "algorithm": "hs256"}}, "jwt.algorithms", ["HS256"]),
    ({"server": {"host": "::", "port": 81, "workers": 2, "keep_alive": 20}}, "timeouts.idle", 20),
    ({"server": {"keep_alive_secs": 21}, "timeouts": {"head": 3}}, "timeouts.idle", 21),
    ({"server": {"workers": 2, "keep_alive": 20}}, "server.workers", 2),
    ({"metrics": {"enabled": False}}, "metrics.enabled", False),
    ({"metrics": {"path": "/p"}}, "metrics.path", "/p"),
    ({"metrics": {"endpoint": "/e"}}, "metrics.path", "/e"),
    ({"metrics": {"prometheus_endpoint": "/pe"}}, "metrics.path", "/pe"),
    ({"metrics": {"enable_per_route_metrics": False}}, "metrics.per_route", False),
    ({"metrics": {"collect_per_route": False}}, "metrics.per_route", False),
    ({"cors": {"max_age": 5}}, "cors.max_age", 5),
    ({"cors": {"enabled": True, "allowed_origins": ["https://a"], "max_age_secs": 6}}, "cors.max_age", 6),
]


@pytest.mark.parametrize(("written", "attribute", "meant"), SECTIONS, ids=[f"{keys}"[:70] for keys, *_ in SECTIONS])
def test_spellings_of_sections(written, attribute, meant):
    value: object = read(file(**written)).config
    for name in attribute.split("."):
        value = getattr(value, name)
    assert value == meant


def test_null_stands_for_absent_in_every_optional_field():
    def nulls(kind: type[msgspec.Struct]) -> dict[str, None]:
        return {field.encode_name: None for field in msgspec.structs.fields(kind) if not field.required}

    document = file(route(**{**nulls(Route), "backends": [{"host": "http://h", **nulls(Backend)}]}), **nulls(Config))
    assert read(document).config.routers[0].backends == [Backend("http://h")]


# ---- problems keep the name that stands in the file

WRITTEN_NAMES = [
    (file(route(retry_config={"max_retries": 20})), "routers[0].retry_config.max_retries"),
    (file(route(retry_config={"max_attempts": "x"})), "routers[0].retry_config.max_attempts"),
    (file(route(retry={"circuit_breaker_timeout_ms": "x"})), "routers[0].retry.circuit_breaker_timeout_ms"),
    (file(route(retry_config={"circuit_breaker_threshold": 0})), "routers[0].retry_config.circuit_breaker_threshold"),
    (file(route(backends=..., host="http://h", port=0)), "routers[0].port"),
    (file(route(backends=..., host="h", port=80)), "routers[0].host"),
    (file(route(backends=..., port=80)), "routers[0]"),
    (file(route(internal_path=..., external_path="no")), "routers[0].external_path"),
    (file(route(rate_limit={"burst_size": -1})), "routers[0].rate_limit.burst_size"),
    (file(rate_limit={"algorithm": "leaky"}), "rate_limit.algorithm"),
    (
        file(rate_limit={"strategy": {"Composite": [{}, {"max_requests": 0}]}}),
        "rate_limit.strategy.Composite[1].max_requests",
    ),
    (file(jwt_secret="short"), "jwt_secret"),
    (file(jwt={"secret": SECRET, "algorithm": "none"}), "jwt.algorithm"),
    (file(server={"keep_alive": -1}), "server.keep_alive"),
    (file(metrics={"endpoint": "no"}), "metrics.endpoint"),
    (
        file(route(ai_policy={"enabled": True, "strategy": {"content_analysis": {"model": 1}}})),
        "routers[0].ai_policy.strategy.content_analysis.model",
    ),
    (file(route(ai_policy={"enabled": True, "strategy": "guess"})), "routers[0].ai_policy.strategy"),
]  # fmt: skip


@pytest.mark.parametrize(("document", "path"), WRITTEN_NAMES, ids=[path for _, path in WRITTEN_NAMES])
def test_problems_keep_the_written_name(document, path):
    assert path in {problem.path for problem in problems_of(document) if problem.severity == "error"}


def test_what_is_said_of_breaker_settings_keeps_the_name_in_the_file():
    (text,) = said(file(route(retry={"circuit_breaker_threshold": 6, "initial_backoff_ms": 9, "max_delay_ms": 8})))
    assert text.startswith("routers[0].retry.initial_backoff_ms: ")


def test_sections_that_older_files_have_are_in_effect():
    older = {"max_attempts": 2, "circuit_breaker_threshold": 6, "circuit_breaker_timeout_ms": 1500}
    assert said(file(route(retry_config=older)), "warning") == []
