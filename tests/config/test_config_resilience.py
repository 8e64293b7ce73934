"""What is said of settings for failing backends: contradictions, false protection, what has nothing to do."""

import pytest
from config_samples import file, problems_of, read, route, said

UP, OTHER, ELSE = ({"host": f"https://{name}.example"} for name in ("up", "other", "else"))
TWO = {"backends": [UP, OTHER]}


def limited(**keys):
    return {"backends": [{**UP, "max_requests": 5}, OTHER], **keys}


# ---- errors: keys of a route, and the beginning of its one error

ERRORS = [
    ({"retry": {"initial_backoff_ms": 9, "max_backoff_ms": 8}}, "retry.initial_backoff_ms: initial_backoff_ms cannot"),
    ({"retry": {"budget_percent": 101}}, "retry.budget_percent: must be between 0"),
    ({"retry": {"budget_percent": -1}}, "retry.budget_percent: must be between 0"),
    ({"hedge": {"percentile": 100}}, "hedge.percentile: must be"),
    ({"circuit_breaker": {"failure_status_codes": [399]}}, "circuit_breaker.failure_status_codes[0]: must be between"),
    ({"circuit_breaker": {"reset_timeout": 0}}, "circuit_breaker.reset_timeout: must be greater than 0"),
    ({"health_check": {"expected_status": []}}, "health_check.expected_status: no answer would be good enough"),
    (
        {"health_check": {"expected_status": ["2yy"]}},
        "health_check.expected_status[0]: must be between 100 and 599, or",
    ),
    ({"health_check": {"expected_status": [600]}}, "health_check.expected_status[0]: must be between 100 and 599, or"),
    ({"health_check": {"expected_status": [None]}}, "health_check.expected_status[0]: must be between 100 and 599, or"),
    ({"health_check": {"expected_status": [2.5]}}, "health_check.expected_status[0]: must be between 100 and 599, or"),
    ({"health_check": {"path": "up"}}, "health_check.path: must be a text that matches ^/"),
    ({"health_check": {"path": "/a\r\nX: y"}}, "health_check.path: must be a path"),
    ({"health_check": {"host": "a\r\nX: y"}}, "health_check.host: must be a host name"),
    ({"health_check": {"type": "icmp"}}, "health_check.type: unknown value: 'icmp'"),
    ({"backends": [{**UP, "health_check_path": "/a\r\nX: y"}]}, "backends[0].health_check_path: must be a path"),
    ({"backends": [{**UP, "max_requests": 0}]}, "backends[0].max_requests: must be between 1"),
    ({"outlier_detection": {"ejection_time": 9, "max_ejection_time": 8}}, "outlier_detection.max_ejection_time: canno"),
    ({"outlier_detection": {"latency_factor": 1}}, "outlier_detection.latency_factor: ejects backends as fast"),
    ({"queue": {"timeout": 0}}, "queue.timeout: must be greater than 0"),
    ({"priority": 11}, "priority: must be between 0 and 10"),
]


@pytest.mark.parametrize(("keys", "begins"), ERRORS, ids=[text for _, text in ERRORS])
def test_errors(keys, begins):
    (text,) = said(file(route(**{**TWO, **keys})))
    assert text.startswith(f"routers[0].{begins}")


SECTIONS = [
    ({"health_check": {"expected_status": []}}, "health_check.expected_status: "),
    ({"outlier_detection": {"ejection_time": 9, "max_ejection_time": 8}}, "outlier_detection.max_ejection_time: "),
    ({"load_shedding": {"max_lag": 0}}, "load_shedding.max_lag: "),
]


@pytest.mark.parametrize(("sections", "begins"), SECTIONS, ids=[text for _, text in SECTIONS])
def test_sections_are_judged_like_the_routes_own(sections, begins):
    (text,) = said(file(route(**TWO), **sections))
    assert text.startswith(begins)


def test_numbers_and_classes_of_status_may_be_mixed():
    config = read(file(health_check={"expected_status": ["2xx", 404, "${NONE:-301}"]})).config
    assert config.health_check.expected_status == ["2xx", 404, 301]


# ---- warnings and hints: keys of a route, a severity, the place and a phrase

REMARKS = [
    ({"methods": ["GET", "POST", "PATCH"], "retry": {"retry_non_idempotent": True}},
     "warning", "retry.retry_non_idempotent: POST and PATCH may take effect twice"),
    ({"methods": ["POST"], "retry": {}}, "hint", "retry: a POST goes to another backend only"),
    ({"methods": ["PUT"], "retry": {"buffer_bytes": 100}}, "hint", "retry.buffer_bytes: a request whose body has more"),
    ({"retry": {"retry_on_status_codes": [200]}}, "warning", "retry.retry_on_status_codes: a status below 400"),
    ({"retry": {"budget_percent": 0, "budget_min": 0}}, "warning", "retry: with budget_percent and budget_min 0"),
    ({"retry": {}, "timeouts": {"total": 20}}, "hint", "retry: timeouts.first_byte leaves no time"),
    ({"methods": ["POST"], "hedge": {}}, "warning", "hedge: only idempotent methods are hedged"),
    ({"protocol": "websocket", "hedge": {}}, "warning", "hedge: handshakes are never hedged"),
    ({"protocol": "websocket", "retry": {}}, "hint", "retry: a handshake goes to another backend only"),
    ({"backends": [UP], "hedge": {}}, "hint", "hedge: with one backend"),
    ({"backends": [UP, {**UP, "port": 443}], "hedge": {}}, "hint", "hedge: with one backend"),
    ({"hedge": {"min_delay_ms": 500}, "timeouts": {"first_byte": 0.5}}, "warning", "hedge.min_delay_ms: the"),
    ({"circuit_breaker": {"failure_status_codes": [404, 500]}}, "warning",
     "circuit_breaker.failure_status_codes: clients can provoke"),
    ({"health_check": {"timeout": 11}}, "warning", "health_check.timeout: is longer than interval"),
    ({"health_check": {"type": "tcp", "path": "/up"}}, "warning", "health_check.path: has no effect: type tcp"),
    ({"health_check": {"type": "tcp", "expected_status": [200]}}, "warning", "health_check.expected_status: has no"),
    ({"health_check": {"type": "tcp"}, "backends": [{**UP, "health_check_path": "/up"}]}, "warning",
     "backends[0].health_check_path: is never asked for"),
    ({"outlier_detection": {"max_ejection_percent": 0}}, "warning", "outlier_detection.max_ejection_percent: one back"),
    ({"outlier_detection": {}, "backends": [UP]}, "hint", "outlier_detection: the only backend"),
    ({"panic_threshold": 100}, "warning", "panic_threshold: probes and ejections are never believed"),
    ({"circuit_breaker": {"enabled": False}, "outlier_detection": {"enabled": False}}, "warning",
     ": no breaker, no ejection, no probes"),
    ({"queue": {"size": 5}}, "hint", "queue: nobody ever waits"),
    (limited(queue={"size": 0}), "hint", "queue.size: nobody waits"),
    (limited(queue={"timeout": 5}, timeouts={"total": 5}), "hint", "queue.timeout: as long as timeouts.total"),
]  # fmt: skip


@pytest.mark.parametrize(("keys", "severity", "phrase"), REMARKS, ids=[f"{s}-{p}" for _, s, p in REMARKS])
def test_remarks(keys, severity, phrase):
    document = file(route(**{**TWO, **keys}))
    assert said(document) == []
    texts = said(document, severity)
    assert any(text.startswith(f"routers[0]{'' if phrase[0] == ':' else '.'}{phrase}") for text in texts), texts


SENSIBLE = [
    {"retry": {}},
    {"retry": {"max_retries": 0, "budget_percent": 0, "budget_min": 0}},
    {"retry": {}, "methods": ["GET", "POST"]},
    {"retry": {"buffer_bytes": 0}},
    {"retry": {}, "timeouts": {"total": 0}},
    {"hedge": {}, "retry": {}},
    {"hedge": {}, "methods": ["GET", "POST"]},
    {"circuit_breaker": {"failure_status_codes": [429, 500, 503]}},
    {"circuit_breaker": {"enabled": False}},
    {"circuit_breaker": {"enabled": False}, "outlier_detection": {"enabled": False}, "health_check": {}},
    {"circuit_breaker": {"enabled": False}, "outlier_detection": {"enabled": False}, "backends": [UP]},
    {"health_check": {"path": "/up?full=1", "host": "up.example:8080", "timeout": 10}},
    {"health_check": {"type": "tcp"}},
    {"outlier_detection": {"latency_factor": 0}},
    {"panic_threshold": 50, "slow_start": 0, "priority": 10},
    limited(),
    limited(queue={"size": 5, "timeout": 0.5}),
]


@pytest.mark.parametrize("keys", SENSIBLE, ids=str)
def test_nothing_is_said_of_sensible_settings(keys):
    problems = problems_of(file(route(**{**TWO, **keys}), route(external_path="/other", backends=[ELSE])))
    assert [text for text in map(str, problems) if "no rate_limit" not in text] == []


# ---- among routes


def test_one_backend_has_one_health_check():
    asked = {**UP, "health_check_path": "/up"}
    texts = said(file(
        route(backends=[asked]),
        route(external_path="/b", backends=[asked]),
        route(external_path="/c", backends=[UP]),
        route(external_path="/d", backends=[{**UP, "health_check_path": "/live", "port": 443}]),
        route(external_path="/e", backends=[asked], health_check={"interval": 20}),
    ), "warning")  # fmt: skip
    assert [text.partition(" is probed as routers[0] says")[0] for text in texts] == ["routers[3].backends[0].host:"]
    assert texts[0].endswith("(and 1 more like it)")


def test_limits_of_one_backend_in_two_routes_are_told():
    one, other = {**UP, "max_requests": 5}, {**UP, "max_requests": 6}
    texts = said(file(
        route(backends=[one]), route(external_path="/b", backends=[one]), route(external_path="/c", backends=[other]),
    ), "hint")  # fmt: skip
    (text,) = [text for text in texts if "max_requests" in text]
    assert text.startswith("routers[2].backends[0].max_requests: routers[0] has 5 for this backend")


def test_priorities_without_shedding_and_shedding_without_priorities():
    document = file(route(priority=1), load_shedding={"enabled": False})
    assert any("routers[0].priority: has no effect" in text for text in said(document, "hint"))
    assert any(text.startswith("load_shedding: every route") for text in said(file(route(priority=10)), "hint"))


def test_a_file_without_routes_has_its_sections_judged_all_the_same():
    texts = said({"routers": [], "health_check": {"expected_status": []}})
    assert [text.partition(":")[0] for text in texts] == ["health_check.expected_status", "routers"]
