"""How many requests are taken: per client, user or route, in a window."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from kairos.config.spec import Count, Spec

LimitStrategy = Literal["PerIP", "PerUser", "PerRoute", "PerIPAndRoute", "PerUserAndRoute", "Composite"]
WindowType = Literal["FixedWindow", "SlidingWindow", "TokenBucket"]


class RateLimit(Spec, frozen=True):
    """A limit on requests; absent means none."""

    strategy: LimitStrategy = "PerIP"
    limits: list[RateLimit] = field(default_factory=list)
    """The parts of strategy Composite."""
    requests_per_window: Count = 100
    window_duration: Count = 60
    burst_allowance: Annotated[int, Meta(ge=0)] = 0
    window_type: WindowType = "SlidingWindow"
    enable_redis: bool = False
    redis_key_prefix: str = "kairos_rl"
    redis_url: str | None = None
