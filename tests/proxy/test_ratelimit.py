"""Rate limits on routes: who shares which counts, what clients are told, what a reload keeps."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from kairos._speedups.cells import L_ALLOWED, L_LIMITED
from tests.support.gateway import Gateway, gateway, route
from tests.support.inprocess import InProcess, serving
from tests.support.net import Peer, origin, read_request, status_of
from tests.support.tokens import SECRET, token

HOUR = 3600
TRUSTING = {"trusted_proxies": ["127.0.0.1"]}
Plain = dict[str, Any]


def answers(peer: Peer) -> None:
    """An origin with limits of its own."""
    while True:
        read_request(peer)
        peer.send(b'HTTP/1.1 200 OK\r\nContent-Length: 2\r\nRateLimit: "theirs";r=1\r\nX-RateLimit-Limit: 1\r\n\r\nok')


@pytest.fixture(scope="module")
def backend() -> Iterator[str]:
    with origin(answers) as o:
        yield o.url


def limit(requests: int = 2, **more: Any) -> Plain:
    """So many an hour, so that no test sees a window end."""
    return {"requests_per_window": requests, "window_duration": HOUR, **more}


def document(url: str, *routes: Plain, **top: Any) -> Plain:
    """Routes /0, /1, … with these members."""
    return {
        "routers": [route(f"/{at}", url, **members) for at, members in enumerate(routes)],
        "jwt": {"secret": SECRET, "required_claims": ["sub"]},
        **TRUSTING,
        **top,
    }


def ask(served: InProcess, path: str = "/0", *lines: str, ip: str = "192.0.2.1") -> int:
    return status_of(served.get(path, f"X-Forwarded-For: {ip}", *lines)[0])


def granted(served: InProcess, path: str = "/0", *lines: str, ip: str = "192.0.2.1", of: int = 4) -> int:
    """How many of some requests pass; the others get 429."""
    statuses = [ask(served, path, *lines, ip=ip) for _ in range(of)]
    assert set(statuses) <= {200, 429}
    return statuses.count(200)


def fields(served: InProcess, path: str = "/0", *lines: str) -> dict[str, str]:
    """The header fields about limits that a client sees."""
    head = served.get(path, "X-Forwarded-For: 192.0.2.1", *lines)[0].decode()
    found: dict[str, str] = {}
    for name, value in re.findall(r"^((?:x-)?ratelimit[\w-]*|retry-after): (.*?)\r$", head, re.M | re.I):
        found[name] = f"{found[name]}, {value}" if name in found else value
    return found


def counted(served: InProcess, label: str) -> tuple[int, int]:
    """Requests that a limit granted and refused."""
    block = served.board.limit_block(0, served.series.limit(label))
    return served.board.page.get(block + L_ALLOWED), served.board.page.get(block + L_LIMITED)


# --- whose requests are counted together -----------------------------------------------------------------------------


def test_a_route_without_limits_has_no_filter(backend: str) -> None:
    with serving(document(backend, {}, {"rate_limit": {"enabled": False}}, rate_limit=None)) as served:
        assert [plan.request_filters for plan in served.runtime.snapshot.routed] == [(), ()]


@pytest.mark.parametrize("window_type", ["FixedWindow", "SlidingWindow", "TokenBucket"])
def test_each_address_has_its_own_count(backend: str, window_type: str) -> None:
    with serving(document(backend, {"rate_limit": limit(window_type=window_type)})) as served:
        assert granted(served) == 2
        assert granted(served, ip="192.0.2.2") == 2
        assert counted(served, "/0") == (4, 4)


def test_clients_behind_a_proxy_that_is_not_trusted_are_one(backend: str) -> None:
    with serving(document(backend, {"rate_limit": limit()}, trusted_proxies=[])) as served:
        assert granted(served) + granted(served, ip="192.0.2.2") == 2


def test_an_ipv6_client_is_its_64_unless_it_is_said_otherwise(backend: str) -> None:
    with serving(document(backend, {"rate_limit": limit()}, {"rate_limit": limit(ipv6_prefix=128)})) as served:
        assert granted(served, ip="2001:db8:0:1::1", of=1) + granted(served, ip="2001:db8:0:1:ffff::9") == 2
        assert granted(served, ip="2001:db8:0:2::1") == 2
        assert granted(served, "/1", ip="2001:db8:0:1::1") + granted(served, "/1", ip="2001:db8:0:1::2") == 4


def test_ipv4_addresses_are_told_apart_and_a_mapped_one_is_the_same(backend: str) -> None:
    rules = [{"rate_limit": limit()}, {"rate_limit": limit(ipv4_prefix=24)}]
    with serving(document(backend, *rules)) as served:
        assert granted(served, ip="192.0.2.1") == 2
        assert granted(served, ip="::ffff:192.0.2.1") == 0
        assert granted(served, ip="192.0.2.3") == 2
        assert granted(served, "/1", ip="192.0.2.1") + granted(served, "/1", ip="192.0.2.200") == 2
        assert granted(served, "/1", ip="192.0.3.1") == 2


def test_a_limit_for_all_counts_over_routes_and_one_per_route_does_not(backend: str) -> None:
    for strategy, together in (("PerIP", 2), ("PerIPAndRoute", 4), ("PerRoute", 4)):
        with serving(document(backend, {}, {}, rate_limit=limit(strategy=strategy))) as served:
            assert granted(served, "/0") + granted(served, "/1") == together
    with serving(document(backend, {}, rate_limit=limit(strategy="PerRoute"))) as served:
        assert granted(served, of=2) + granted(served, ip="192.0.2.9") == 2


def test_routes_of_a_group_share_its_limit(backend: str) -> None:
    groups = {"g": {"rate_limit": limit()}}
    with serving(document(backend, {"group": "g"}, {"group": "g"}, {}, groups=groups)) as served:
        assert granted(served, "/0", of=1) + granted(served, "/1") == 2
        assert granted(served, "/2") == 4


def test_limits_add_up(backend: str) -> None:
    with serving(document(backend, {"rate_limit": limit(3)}, {}, rate_limit=limit(5))) as served:
        assert granted(served, "/0", of=6) == 3
        assert granted(served, "/1", of=6) == 2  # what the route refused was not charged for all


def test_health_and_metrics_are_exempt(backend: str) -> None:
    with serving(document(backend, {}, rate_limit=limit(1))) as served:
        assert granted(served) == 1
        assert {ask(served, "/health") for _ in range(5)} == {200}


def bearer(subject: str) -> str:
    return f"Authorization: Bearer {token(sub=subject)}"


def test_users_are_told_apart_after_they_are_known(backend: str) -> None:
    limited = {"auth_required": True, "rate_limit": limit(strategy="PerUser")}
    with serving(document(backend, limited)) as served:
        assert granted(served, "/0", bearer("ann")) == 2
        assert granted(served, "/0", bearer("ann"), ip="192.0.2.2") == 0
        assert granted(served, "/0", bearer("bob")) == 2
        assert ask(served) == 401
        assert counted(served, "/0")[0] == 4


def test_any_name_is_one_and_no_name_is_nobody(backend: str) -> None:
    """What is long, odd, or empty."""
    config = document(backend, {"auth_required": True, "rate_limit": limit(strategy="PerUser")})
    config["jwt"]["required_claims"] = []
    with serving(config) as served:
        for number, subject in enumerate(("n" * 3000, "\x00", "é", "\U0001f600")):
            assert granted(served, "/0", bearer(subject), ip=f"192.0.2.{number}") == 2
        assert granted(served, "/0", bearer(""), ip="192.0.2.100") == 2
        assert granted(served, "/0", bearer(""), ip="192.0.2.101") == 2
        assert served.reports == []


def test_any_bytes_in_a_header_are_a_value(backend: str) -> None:
    with serving(document(backend, {"rate_limit": limit(strategy="Header", header="X-T")})) as served:
        for value in (b"\xff\xfe", b"", b"a" * 4000, b"\x80"):
            head = b"GET /0 HTTP/1.1\r\nHost: t\r\nX-T: " + value + b"\r\n\r\n"
            assert [status_of(served.request(head)[0]) for _ in range(3)] == [200, 200, 429]
        for chain in ("", "nonsense", "1.2.3.4.5", "::ffff:1.2.3.4, x"):
            assert granted(served, "/0", "X-T: ok", ip=chain) in (0, 2)
        assert served.reports == []


@pytest.mark.parametrize(("anonymous", "passed"), [("ip", (2, 2)), ("pass", (4, 4)), ("share", (2, 0))])
def test_those_without_a_name_fall_back(backend: str, anonymous: str, passed: tuple[int, int]) -> None:
    with serving(document(backend, {"rate_limit": limit(strategy="PerUser", anonymous=anonymous)})) as served:
        assert (granted(served), granted(served, ip="192.0.2.2")) == passed


def test_a_limit_per_address_holds_before_anybody_is_asked_who_he_is(backend: str) -> None:
    with serving(document(backend, {"auth_required": True, "rate_limit": limit()})) as served:
        assert [ask(served) for _ in range(3)] == [401, 401, 429]


def test_a_header_tells_who_is_counted(backend: str) -> None:
    with serving(document(backend, {"rate_limit": limit(strategy="Header", header="X-Tenant")})) as served:
        assert granted(served, "/0", "X-TENANT: a") == 2
        assert granted(served, "/0", "x-tenant:  b ") == 2
        assert granted(served, "/0", "X-Tenant: b") == 0
        assert granted(served) == 2


def test_a_request_may_cost_more(backend: str) -> None:
    with serving(document(backend, {"rate_limit": limit(10, cost=4)})) as served:
        assert granted(served) == 2
        assert fields(served)["RateLimit"].startswith('"route";r=2;t=')


def test_exempt_networks_are_not_counted(backend: str) -> None:
    with serving(document(backend, {"rate_limit": limit(exempt=["10.0.0.0/8", "2001:db8::/32"])})) as served:
        assert granted(served, ip="10.1.2.3") == granted(served, ip="2001:db8::1") == 4
        assert granted(served) == 2
        assert counted(served, "/0") == (2, 2)


def test_of_a_composite_all_grant_or_none_is_charged(backend: str) -> None:
    parts = [limit(5, strategy="PerRoute"), limit(2), limit(4, strategy="Header", header="X-T")]
    with serving(document(backend, {"rate_limit": {"strategy": "Composite", "limits": parts}})) as served:
        assert granted(served, "/0", "X-T: 1", of=8) == 2
        assert granted(served, "/0", "X-T: 1", ip="192.0.2.2", of=8) == 2
        assert granted(served, "/0", "X-T: 1", ip="192.0.2.3", of=8) == 0
        assert granted(served, "/0", "X-T: 2", ip="192.0.2.3", of=8) == 1
        assert [counted(served, f"/0 {part}")[0] for part in (1, 2, 3)] == [5, 5, 5]


def test_a_composite_waits_for_the_name_if_one_part_needs_it(backend: str) -> None:
    parts = [limit(3), limit(2, strategy="PerUser")]
    limited = {"auth_required": True, "rate_limit": {"strategy": "Composite", "limits": parts}}
    with serving(document(backend, limited)) as served:
        assert {ask(served) for _ in range(5)} == {401}
        assert granted(served, "/0", bearer("ann")) == 2
        assert granted(served, "/0", bearer("bob")) == 1


# --- what clients are told -------------------------------------------------------------------------------------------


def test_what_is_left_is_told_and_takes_the_place_of_what_the_backend_says(backend: str) -> None:
    with serving(document(backend, {"rate_limit": limit(3, window_type="FixedWindow")})) as served:
        assert fields(served) == {
            "RateLimit": '"route";r=2;t=3600', "RateLimit-Policy": '"route";q=3;w=3600', "X-RateLimit-Limit": "1",
        }  # fmt: skip
        assert fields(served)["RateLimit"].startswith('"route";r=1;t=3')


def test_a_refusal_says_when_to_come_back(backend: str) -> None:
    with serving(document(backend, {"rate_limit": limit(1, window_type="FixedWindow")})) as served:
        assert granted(served, of=1) == 1
        head, body = served.get("/0", "X-Forwarded-For: 192.0.2.1")
        found = fields(served)
        assert status_of(head) == 429
        assert 3590 <= int(found["Retry-After"]) <= 3600
        assert found["RateLimit"] == f'"route";r=0;t={found["Retry-After"]}'
        assert found["RateLimit-Policy"] == '"route";q=1;w=3600'
        problem = json.loads(body)
        assert (problem["type"], problem["error"]) == ("rate_limit_error", "Rate limit exceeded")
        assert (problem["code"], problem["status"]) == ("rate_limited", 429)
        assert served.wait_access(status=429)["detail"] == "rate_limited"


def test_older_headers_tell_of_the_tightest_limit(backend: str) -> None:
    legacy = {"headers": "legacy", "window_type": "FixedWindow"}
    top = limit(9, **legacy)
    with serving(document(backend, {"rate_limit": limit(2, **legacy)}, rate_limit=top)) as served:
        names = ("X-RateLimit-Limit", "X-RateLimit-Remaining", "X-RateLimit-Reset")
        found = fields(served)
        assert [found[name] for name in names] == ["2", "1", "3600"]
        assert found["RateLimit"] == '"theirs";r=1'
        assert granted(served) == 1
        assert granted(served) == 0
        assert fields(served)["X-RateLimit-Remaining"] == "0"


def test_both_or_none(backend: str) -> None:
    routes = [{"rate_limit": limit(5, headers=headers)} for headers in ("both", "none")]
    with serving(document(backend, *routes)) as served:
        assert {"RateLimit", "RateLimit-Policy", "X-RateLimit-Remaining"} <= fields(served, "/0").keys()
        assert fields(served, "/1") == {"RateLimit": '"theirs";r=1', "X-RateLimit-Limit": "1"}


def test_limits_before_and_after_the_name_are_told_side_by_side(backend: str) -> None:
    fixed = {"window_type": "FixedWindow"}
    limited = {"auth_required": True, "rate_limit": limit(5, strategy="PerUser", name="per user", **fixed)}
    with serving(document(backend, limited, rate_limit=limit(9, **fixed))) as served:
        found = fields(served, "/0", bearer("ann"))
        assert found["RateLimit"] == '"global";r=8;t=3600, "per user";r=4;t=3600'
        assert found["RateLimit-Policy"] == '"global";q=9;w=3600, "per user";q=5;w=3600'


def names_too_much(peer: Peer) -> None:
    """An origin whose head can be told to filters, but not be passed on."""
    read_request(peer)
    names = ", ".join(f"x-{n}" for n in range(100))
    peer.send(f"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: {names}\r\n\r\n".encode())


def test_an_error_in_place_of_a_response_tells_it_once() -> None:
    with origin(names_too_much) as o, serving(document(o.url, {"rate_limit": limit()})) as served:
        head = served.get("/0")[0].lower()
        assert status_of(head) == 502
        assert head.count(b"\r\nratelimit:") == head.count(b"\r\nx-content-type-options:") == 1


def test_kairos_rs_limits_mean_the_same(backend: str) -> None:
    """Two and one more in a fixed window; a bucket starts without its burst."""
    fixed = limit(2, burst_allowance=1, window_type="FixedWindow")
    bucket = limit(2, burst_allowance=1, window_type="TokenBucket")
    with serving(document(backend, {"rate_limit": fixed}, {"rate_limit": bucket})) as served:
        assert (granted(served, "/0"), granted(served, "/1")) == (3, 2)


# --- reloads ---------------------------------------------------------------------------------------------------------


def test_a_reload_keeps_counts_unless_the_limit_is_another_one(backend: str) -> None:
    with serving(document(backend, {"rate_limit": limit(3)})) as served:
        assert granted(served, of=2) == 2
        served.configure(document(backend, {"rate_limit": limit(3, headers="none", name="x")}, {}))
        assert granted(served) == 1
        served.configure(document(backend, {"rate_limit": limit(4)}))
        assert granted(served, of=6) == 4
        served.configure(document(backend, {"rate_limit": limit(3)}))
        assert granted(served) == 0


# --- a real gateway --------------------------------------------------------------------------------------------------


def test_four_workers_grant_exactly_the_limit_over_reloads_and_deaths(backend: str) -> None:
    """Connections go to all workers; one of them is killed and the configuration read again in between."""
    config = document(backend, {"rate_limit": limit(60)}, {"rate_limit": limit(1)})

    def passed(g: Gateway, requests: int) -> int:
        with ThreadPoolExecutor(8) as pool:
            statuses = list(pool.map(lambda _: status_of(g.get("/0", x_forwarded_for="192.0.2.1")[0]), range(requests)))
        assert set(statuses) <= {200, 429}
        return statuses.count(200)

    with gateway(config, workers=4) as g:
        assert passed(g, 25) == 25
        os.kill(g.child("kairos-worker2"), signal.SIGKILL)
        g.wait_log("worker 2 killed by SIGKILL")
        assert passed(g, 25) == 25
        g.write(document(backend, {"rate_limit": limit(60)}))
        g.signal(signal.SIGHUP)
        g.wait_log("revision 2 is in use")
        assert passed(g, 40) == 10
        metrics = g.metrics()
        assert 'kairos_rate_limit_allowed_total{limit="/0"} 60.0' in metrics
        assert 'kairos_rate_limit_limited_total{limit="/0"} 30.0' in metrics
        assert 'kairos_rate_limit_keys{table="windows"} 1.0' in metrics
