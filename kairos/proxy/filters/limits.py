"""Which rate limits hold on a route, and where in the chain: those that need no name before it is known who asks.

Parts of a Composite stay together: if one of them needs to know who asks, all wait for that.
"""

from __future__ import annotations

from itertools import groupby
from typing import TYPE_CHECKING, Any

from kairos._speedups.limits import FixedWindow, Limit, SlidingWindow, TokenBucket
from kairos.config.policies.ratelimit import BY_IDENTITY, KEYS_LABEL, rules_in, rules_of
from kairos.proxy.filters.ratelimit import Meter, RateLimiter

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
    early, late = _split(site)
    own = _KeyLimits(site) if _keys_have_limits(site) else None
    if not late and own is None:
        return None
    return RateLimiter([meter(rule, site) for rule in late], any(_shown(rule) for rule in early), own)


def _split(site: Site) -> tuple[list[Rule], list[Rule]]:
    """The rules by whether they need to know who asks."""
    early: list[Rule] = []
    late: list[Rule] = []
    for _, scope in groupby(rules_of(site.name, site.route, site.config), lambda rule: rule.scope):
        rules = list(scope)
        (late if any(rule.spec.strategy in BY_IDENTITY for rule in rules) else early).extend(rules)
    return early, late


def _shown(rule: Rule) -> bool:
    return rule.spec.headers in ("standard", "both")


def meter(rule: Rule, site: Site, label: str | None = None) -> Meter:
    """A rule compiled for this worker."""
    spec, board = rule.spec, site.board
    limit = limit_of(spec)
    block = board.limit_block(site.slot, site.services.series.limit(label or rule.label))
    return Meter(rule, limit, board.limit_table(limit.words), board.seed, board.page, block)


def limit_of(spec: RateLimit) -> Limit:
    """The arithmetic of a limit."""
    return KINDS[spec.window_type](spec.requests_per_window, spec.window_duration * 1_000_000, spec.burst_allowance)


# ---- API keys


def _keys_have_limits(site: Site) -> bool:
    return False


class _KeyLimits:
    """Makes the meters of an API key's own limit, which holds over all routes."""

    def __init__(self, site: Site) -> None:
        self._site = site

    def __call__(self, key: Any) -> list[Meter]:
        rules = rules_in(key.rate_limit, f"key {key.id}", "key", self._site.name)
        return [meter(rule, self._site, KEYS_LABEL).by_key() for rule in rules]
