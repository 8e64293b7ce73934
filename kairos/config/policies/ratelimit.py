"""How many requests are taken: per client, user or route, in a window; the rules that hold on a route.

Limits add up: those of the whole file, of the route's group and of the route itself all hold there, each with counts of
its own. `enabled: false` lifts those of its own level and of the wider ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, field

from kairos.config.networks import check_networks
from kairos.config.redis import check_url
from kairos.config.spec import Count, Spec

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kairos.config.model import Config, Route
    from kairos.config.policies import Policies
    from kairos.config.problems import Findings, Path

LimitStrategy = Literal[
    "PerIP", "PerUser", "PerRoute", "PerIPAndRoute", "PerUserAndRoute", "Header", "ApiKey", "Composite"
]
WindowType = Literal["FixedWindow", "SlidingWindow", "TokenBucket"]
MOST = (1 << 24) - 1
"""Requests of one window that can be counted."""
MOST_RULES = 16
"""Limits that may hold on one route."""
BY_IDENTITY = frozenset({"PerUser", "PerUserAndRoute", "ApiKey"})
"""Strategies that can count only when it is known who asks."""
BY_ROUTE = frozenset({"PerRoute", "PerIPAndRoute", "PerUserAndRoute"})

KEYS_LABEL = "API keys"
"""In metrics: of all limits that API keys have of their own."""

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class RateLimit(Spec, frozen=True):
    """A limit on requests; absent means none."""

    strategy: LimitStrategy = "PerIP"
    """What is counted apart; of a Composite all parts must let a request pass."""
    limits: list[RateLimit] = field(default_factory=list)
    """The parts of strategy Composite."""
    requests_per_window: Count = 100
    window_duration: Count = 60
    """In seconds."""
    burst_allowance: Annotated[int, Meta(ge=0)] = 0
    """Requests on top of that: in every window, or saved up by a TokenBucket that is not used."""
    window_type: WindowType = "SlidingWindow"
    enable_redis: bool = False
    """Share the counts with other nodes through the Redis of the section redis."""
    redis_key_prefix: str = "kairos_rl"
    redis_url: str | None = None
    """Another Redis than that of the section."""
    redis_mode: Literal["lease", "strict"] = "lease"
    """Take requests from Redis in blocks ahead of time, or ask it each time."""
    redis_failure: Literal["local", "fail_open", "fail_closed"] = "local"
    """While Redis does not answer: count in this node alone, let all pass, or let none pass (503)."""
    enabled: bool = True
    name: Annotated[str, Meta(pattern=r"^[ !#-\[\]-~]{1,64}$")] | None = None
    """In response headers and metrics; by default where the limit is set: global, group or route."""
    header: str | None = None
    """Whose value is counted apart by strategy Header."""
    anonymous: Literal["ip", "pass", "share"] = "ip"
    """Requests without the user, key or header that is counted: by address, not limited, or all in one."""
    ipv4_prefix: Annotated[int, Meta(ge=8, le=32)] = 32
    """Bits of an IPv4 address that are one client."""
    ipv6_prefix: Annotated[int, Meta(ge=16, le=128)] = 64
    """Of an IPv6 address: a subscriber has a /64, or more."""
    exempt: list[str] = field(default_factory=list)
    """Networks whose requests are neither counted nor limited."""
    cost: Count = 1
    """What one request counts for."""
    headers: Literal["standard", "legacy", "both", "none"] = "standard"
    """RateLimit and RateLimit-Policy, X-RateLimit-Limit, -Remaining and -Reset, both, or none. 429 has Retry-After."""


# ---- the rules of a route


@dataclass(frozen=True)
class Rule:
    """One limit that is no Composite, as it holds on one route."""

    spec: RateLimit
    scope: str
    """Who set it: rules of one scope are the same wherever they hold, and share their counts."""
    number: int
    """Which of the scope's it is."""
    policy: str
    """Its name in response headers."""
    route: str
    """The route's name, where counts are kept apart by route; else empty."""

    @property
    def label(self) -> str:
        """Its name in metrics."""
        name = self.spec.name or (str(self.number + 1) if self.number or self.policy[-1:].isdigit() else "")
        return f"{self.scope} {name}".rstrip()

    @property
    def identity(self) -> str:
        """What may not change if counts are to be kept: the same in every process, and on every node."""
        spec = self.spec
        parts = (
            self.scope, self.number, self.route, spec.strategy, spec.header, spec.window_type,
            spec.requests_per_window, spec.window_duration, spec.burst_allowance, spec.ipv4_prefix, spec.ipv6_prefix,
        )  # fmt: skip
        return "\n".join(map(str, parts))


def rules_of(name: str, route: Route, config: Config) -> list[Rule]:
    """The limits on a route, named as `route_key` does; those for all come first."""
    found: list[Rule] = []
    for scope, word, spec in reversed(list(_levels(name, route, config))):
        found += rules_in(spec, scope, word, name)
    return found


def rules_in(spec: RateLimit, scope: str, word: str, route: str) -> list[Rule]:
    """The limits a scope sets on a route: one, or the parts of a Composite."""
    leaves = list(_leaves(spec))
    return [
        Rule(
            leaf,
            scope,
            number,
            leaf.name or (word if len(leaves) == 1 else f"{word}-{number + 1}"),
            route if leaf.strategy in BY_ROUTE else "",
        )
        for number, leaf in enumerate(leaves)
    ]


def _levels(name: str, route: Route, config: Config) -> Iterator[tuple[str, str, RateLimit]]:
    """From the route outwards, until one says that there is no limit."""
    group = config.groups.get(route.group) if route.group is not None else None
    levels = ((name, "route", route), (f"group {route.group}", "group", group), ("global", "global", config))
    for scope, word, holder in levels:
        spec = holder.rate_limit if holder is not None else None
        if spec is not None and not spec.enabled:
            return
        if spec is not None:
            yield scope, word, spec


def _leaves(spec: RateLimit) -> Iterator[RateLimit]:
    if spec.strategy != "Composite":
        yield spec
        return
    for part in spec.limits:
        if part.enabled:
            yield from _leaves(part)


# ---- what types cannot say


def check(spec: RateLimit, keys: Path, found: Findings) -> None:
    """A limit that cannot be kept, or is not the one that was meant."""
    if spec.strategy == "Composite":
        _check_parts(spec, keys, found)
        return
    if spec.limits:
        found.error((*keys, "limits"), "only strategy Composite has parts: set it, or drop them")
    capacity = spec.requests_per_window + spec.burst_allowance
    if capacity > MOST:
        found.error((*keys, "burst_allowance"), f"{capacity} requests in one window: at most {MOST} can be counted")
    if spec.cost > capacity:
        found.error((*keys, "cost"), f"a request costs {spec.cost}, but there are only {capacity}: none would pass")
    check_networks(spec.exempt, (*keys, "exempt"), found)
    _check_header(spec, keys, found)


def _check_parts(spec: RateLimit, keys: Path, found: Findings) -> None:
    if not spec.limits:
        found.error((*keys, "limits"), "strategy Composite needs parts: list them in 'limits'")
    names: set[str] = set()
    for at, part in enumerate(spec.limits):
        check(part, (*keys, "limits", at), found)
        if part.name is not None and part.name in names:
            found.error((*keys, "limits", at, "name"), f"'{part.name}' is the name of another part")
        names |= {part.name} if part.name is not None else set()
    if len(list(_leaves(spec))) > MOST_RULES // 2:
        found.error((*keys, "limits"), f"more than {MOST_RULES // 2} parts")


def _check_header(spec: RateLimit, keys: Path, found: Findings) -> None:
    if spec.strategy == "Header" and spec.header is None:
        found.error((*keys, "header"), "strategy Header needs to know which: name it in 'header'")
    elif spec.strategy != "Header" and spec.header is not None:
        found.warning((*keys, "header"), "without effect: only strategy Header counts by a header")
    elif spec.header is not None and not _TOKEN.fullmatch(spec.header):
        found.error((*keys, "header"), f"'{spec.header}' is no header name")


def check_whole(config: Config, found: Findings) -> None:
    """What only the whole file tells."""
    levels: list[tuple[Path, Policies]] = [
        ((), config),
        *((("groups", name), group) for name, group in config.groups.items()),
        *((("routers", at), route) for at, route in enumerate(config.routers)),
    ]
    limits = [((*keys, "rate_limit"), level.rate_limit) for keys, level in levels if level.rate_limit is not None]
    if not limits:
        found.hint((), "no rate_limit: clients may send as many requests as they like; set one for a public gateway")
    for keys, spec in limits:
        _check_shared(spec, keys, config, found)


def _check_shared(spec: RateLimit, keys: Path, config: Config, found: Findings) -> None:
    """Counts to be shared need somewhere to be. What stands in braces says where in a cluster."""
    for at, part in enumerate(spec.limits):
        _check_shared(part, (*keys, "limits", at), config, found)
    if spec.strategy == "Composite" or not spec.enable_redis:
        return
    if spec.redis_url is not None:
        check_url(spec.redis_url, (*keys, "redis_url"), found)
    elif config.redis is not None and config.redis.cluster and set("{}").intersection(spec.redis_key_prefix):
        found.error((*keys, "redis_key_prefix"), "must have no braces: in a cluster the gateway needs those of its own")
    elif config.redis is None:
        message = "there is no section redis: each node counts for itself; add redis with its url"
        found.warning((*keys, "enable_redis"), message)
