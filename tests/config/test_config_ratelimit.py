"""Limits in the configuration: which hold on a route, what is refused, what is warned of."""

from __future__ import annotations

from typing import Any

import pytest
from config_samples import file, read, route, said

from kairos.config.load import judged
from kairos.config.policies.ratelimit import Rule, rules_of

Plain = dict[str, Any]


def rules(own: Plain | None, group: Plain | None = None, top: Plain | None = None) -> list[Rule]:
    document = file(route(group="g", rate_limit=own), groups={"g": {"rate_limit": group}}, rate_limit=top)
    config = judged(read(document)).config
    return rules_of("/a", config.routers[0], config)


def per(requests: int, **more: Any) -> Plain:
    return {"requests_per_window": requests, **more}


OFF = {"enabled": False}


@pytest.mark.parametrize(("own", "group", "top", "hold"), [
    (None, None, None, []),
    (None, None, per(1), [1]),
    (per(3), per(2), per(1), [1, 2, 3]),
    (OFF, per(2), per(1), []),
    (per(3), OFF, per(1), [3]),
    (None, OFF, per(1), []),
    (None, per(2), OFF, [2]),
    (per(3), None, per(1), [1, 3]),
    ({"strategy": "Composite", "limits": [per(4), per(5, enabled=False), per(6)]}, None, per(1), [1, 4, 6]),
    ({"strategy": {"Composite": [per(4), {"strategy": {"Composite": [per(5)]}}]}}, None, None, [4, 5]),
])  # fmt: skip
def test_limits_add_up_until_one_lifts_them(own: Plain, group: Plain, top: Plain, hold: list[int]) -> None:
    assert [rule.spec.requests_per_window for rule in rules(own, group, top)] == hold


def test_each_has_a_name_in_headers_and_one_in_metrics() -> None:
    parts = [per(1), per(2, name="daily")]
    found = rules({"strategy": "Composite", "limits": parts}, per(3), per(4, name="all"))
    assert [(rule.policy, rule.label) for rule in found] == [
        ("all", "global all"), ("group", "group g"), ("route-1", "/a 1"), ("daily", "/a daily"),
    ]  # fmt: skip


def test_counts_are_kept_over_whatever_does_not_matter_to_them() -> None:
    def identity(**keys: Any) -> str:
        return rules(None, None, per(5, **keys))[0].identity

    same = identity()
    assert same == identity(headers="both", name="x", exempt=["10.0.0.0/8"], cost=2, anonymous="pass")
    changes: list[Plain] = [
        {"window_duration": 61}, {"window_type": "FixedWindow"}, {"burst_allowance": 1}, {"strategy": "PerUser"},
        {"ipv6_prefix": 56}, {"strategy": "PerIPAndRoute"},
    ]  # fmt: skip
    assert len({same, *(identity(**change) for change in changes)}) == len(changes) + 1
    assert rules(per(5))[0].identity != same


def limited(**keys: Any) -> Plain:
    return file(rate_limit=keys)


ERRORS = [
    (limited(requests_per_window=0), "rate_limit.requests_per_window: "),
    (limited(window_duration=0), "rate_limit.window_duration: "),
    (limited(burst_allowance=-1), "rate_limit.burst_allowance: "),
    (limited(requests_per_window=10_000_000, burst_allowance=10_000_000), "rate_limit.burst_allowance: 20000000 requ"),
    (limited(requests_per_window=5, burst_allowance=1, cost=7), "rate_limit.cost: a request costs 7, but there are on"),
    (limited(strategy="Composite"), "rate_limit.limits: strategy Composite needs parts"),
    (limited(limits=[{}]), "rate_limit.limits: only strategy Composite has parts"),
    (limited(strategy="Composite", limits=[{}] * 9), "rate_limit.limits: more than 8 parts"),
    (limited(strategy="Composite", limits=[{"name": "a"}, {"name": "a"}]), "rate_limit.limits[1].name: 'a' is the n"),
    (limited(strategy="Composite", limits=[{"cost": 101}]), "rate_limit.limits[0].cost: "),
    (limited(strategy="Header"), "rate_limit.header: strategy Header needs to know which"),
    (limited(strategy="Header", header="a b"), "rate_limit.header: 'a b' is no header name"),
    (limited(exempt=["10.0.0.1/8"]), "rate_limit.exempt[0]: '10.0.0.1/8' has bits set"),
    (limited(name='a"b'), "rate_limit.name: "),
    (limited(ipv6_prefix=8), "rate_limit.ipv6_prefix: "),
    (limited(enable_redis=True, redis_url="http://r"), "rate_limit.redis_url: must be redis://"),
    (file(redis={"url": "redis://"}), "redis.url: must be redis://"),
    (file(redis={"url": "redis://h:99999"}), "redis.url: no URL"),
    (file(redis={"url": "redis://h:0"}), "redis.url: port 0"),
    (file(redis={"url": "redis://h", "ca_file": "/nowhere"}), "redis.ca_file: there is no file /nowhere"),
    (file(redis={"url": "redis://h", "sentinels": ["h"]}), "redis.sentinels[0]: 'h' is not host:port"),
    (file(redis={"url": "redis://h", "sentinels": ["[::1]:0"]}), "redis.sentinels[0]: '[::1]:0' is not host:port"),
    (
        file(redis={"url": "redis://h", "sentinels": ["h:1"], "cluster": True}),
        "redis.sentinels: a cluster does without",
    ),
    (file(redis={"url": "unix:///s", "sentinels": ["h:1"]}), "redis.url: a socket leads to one server: with sentinels"),
    (file(redis={"url": "unix:///s", "cluster": True}), "redis.url: a socket leads to one server: with cluster"),
    (file(redis={"url": "redis://h/3", "cluster": True}), "redis.url: a cluster has database 0 only, not 3"),
    (file(redis={"url": "redis://h", "cluster_nodes": ["i:1"]}), "redis.cluster_nodes: without effect: set cluster"),
    (
        limited(enable_redis=True, redis_key_prefix="{a}") | {"redis": {"url": "redis://h", "cluster": True}},
        "rate_limit.redis_key_prefix: must have no braces",
    ),
    (file(groups={"g": {"rate_limit": {"cost": 101}}}), "groups.g.rate_limit.cost: "),
    (file(route(rate_limit={"cost": 101})), "routers[0].rate_limit.cost: "),
]


@pytest.mark.parametrize(("document", "beginning"), ERRORS, ids=[text for _, text in ERRORS])
def test_what_cannot_be_kept_is_refused(document: Plain, beginning: str) -> None:
    (problem,) = said(document)
    assert problem.startswith(beginning)


def test_what_is_without_effect_is_warned_of() -> None:
    assert said(limited(header="X-Tenant"), "warning")[0].startswith("rate_limit.header: without effect")
    (warning,) = said(limited(enable_redis=True), "warning")
    assert warning.startswith("rate_limit.enable_redis: there is no section redis: each node counts for itself")
    assert said(file(redis={"url": "redis://h"}, rate_limit={"enable_redis": True}), "warning") == []
    assert said(file(redis={"url": "rediss://h", "verify": False}), "warning")[0].startswith("redis.verify: any cert")


def test_a_limit_somewhere_is_enough_not_to_be_told_to_set_one() -> None:
    assert "no rate_limit" in said(file(), "hint")[0]
    for limited_somewhere in (file(rate_limit={}), file(route(rate_limit={})), file(groups={"g": {"rate_limit": {}}})):
        assert said(limited_somewhere, "hint") == []


def test_without_the_package_a_redis_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kairos.config.redis.find_spec", lambda _: None)
    assert said(file(redis={"url": "redis://h"})) == [
        "redis.url: the Python package redis is not installed: pip install 'kairos-gateway[redis]'"
    ]
