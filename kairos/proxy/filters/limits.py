"""Which rate limits hold on a route, and where in the chain: those that need no name before it is known who asks.

Parts of a Composite stay together: if one of them needs to know who asks, all wait for that.
"""

from __future__ import annotations

from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec.structs import replace

from kairos._speedups.limits import FixedWindow, Lease, Limit, SlidingWindow, TokenBucket
from kairos.config.policies.ratelimit import BY_IDENTITY, KEYS_LABEL, rules_in, rules_of
from kairos.config.redis import Redis
from kairos.proxy.filters.leases import Leases, block_of
from kairos.proxy.filters.ratelimit import Meter, RateLimiter
from kairos.scoreboard import LIMIT_WORDS

if TYPE_CHECKING:
    from kairos.config.policies.ratelimit import RateLimit, Rule
    from kairos.proxy.exchange import Filter
    from kairos.proxy.site import Site

KINDS: dict[str, type[Limit]] = {
    "TokenBucket": TokenBucket,
    "FixedWindow": FixedWindow,
    "SlidingWindow": SlidingWindow,
}


def build_before(site: Site) -> Filter | None:
    """Limits that need not know who asks."""
    early, _ = _split(site)
    return RateLimiter([meter(rule, site) for rule in early]) if early else None


def build_after(site: Site) -> Filter | None:
    """Limits by user or API key, those that API keys have of their own included."""
    _, late = _split(site)
    own = _KeyLimits(site) if _keys_have_limits(site) else None
    return RateLimiter([meter(rule, site) for rule in late], own) if late or own is not None else None


def _split(site: Site) -> tuple[list[Rule], list[Rule]]:
    """The rules by whether they need to know who asks."""
    early: list[Rule] = []
    late: list[Rule] = []
    for _, scope in groupby(rules_of(site.name, site.route, site.config), lambda rule: rule.scope):
        rules = list(scope)
        (late if any(rule.spec.strategy in BY_IDENTITY for rule in rules) else early).extend(rules)
    return early, late


def meter(rule: Rule, site: Site, label: str | None = None) -> Meter:
    """A rule compiled for this worker."""
    spec, board = rule.spec, site.board
    limit = limit_of(spec)
    block = board.limit_block(site.slot, site.services.series.limit(label or rule.label))
    made = Meter(rule, limit, board.limit_table(limit.words), board.seed, board.page, block)
    shared = _shared(spec, site)
    return made if shared is None else made.share(shared, _lease_of(spec), board.limit_table(LIMIT_WORDS))


def _shared(spec: RateLimit, site: Site) -> Leases | None:
    """The Redis a limit is shared through: one for all limits that name the same."""
    section = site.config.redis
    if not spec.enable_redis or (section is None and spec.redis_url is None):
        return None
    if section is None:
        section = Redis(url=spec.redis_url or "")
    elif spec.redis_url is not None:
        section = replace(section, url=spec.redis_url, sentinels=[], cluster=False, cluster_nodes=[])
    worker = site.board.worker_block(site.slot)
    return site.kept(("leases", msgspec.json.encode(section)), partial(Leases, section, site.board.page, worker))


def _lease_of(spec: RateLimit) -> Lease | None:
    """None for a limit that is asked for each request."""
    if spec.redis_mode == "strict":
        return None
    numbers = (spec.requests_per_window, spec.window_duration * 1_000_000, spec.burst_allowance)
    return Lease(*numbers, block_of(spec.requests_per_window + spec.burst_allowance, spec.cost) // 2)


def limit_of(spec: RateLimit) -> Limit:
    """The arithmetic of a limit."""
    return KINDS[spec.window_type](spec.requests_per_window, spec.window_duration * 1_000_000, spec.burst_allowance)


# ---- API keys


def _keys_have_limits(site: Site) -> bool:
    """Whether a caller of the route may show an API key with a limit of its own; those of files are not looked at."""
    auth, keys = site.policies.auth, site.policies.api_keys
    if auth is None or keys is None or "api_key" not in auth.methods:
        return False
    return keys.keys_file is not None or any(key.rate_limit is not None for key in keys.keys)


class _KeyLimits:
    """Makes the meters of an API key's own limit, which holds over all routes."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def __call__(self, key: Any) -> list[Meter]:
        rules = rules_in(key.rate_limit, f"key {key.id}", "key", self._site.name)
        return [meter(rule, self._site, KEYS_LABEL).by_key() for rule in rules]
