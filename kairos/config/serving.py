"""All that requests can be sent to: the routes, and their branches, made from what divides or copies requests.

A branch is a route with other backends or another internal path. It has its own series in metrics, balancing, breakers
and probes, like any route, under the name `route@branch`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from kairos.config.model import Route, RouteTimeouts
from kairos.config.policies import effective

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kairos.config.model import Config
    from kairos.config.policies import Policies
    from kairos.config.policies.mirror import Mirror
    from kairos.config.policies.split import Variant

HEALTH, READY, LIVE = "/health", "/ready", "/live"
ALIASES = {"/health/ready": READY, "/health/live": LIVE}

ADMIN_PATHS = (
    "/api/{rest:path}", "/docs", "/docs/{rest:path}", "/openapi.json", "/ws/metrics", "/ws/admin/metrics",
)  # fmt: skip
"""Of the admin API, where the gateway's own port has it too. A route with a path of its own among them goes first."""
ADMIN_SUFFIX = "-admin"
"""Of the unix socket on which the control process serves them, behind the name of its own."""

MIRROR = "mirror"
"""The branch that copies are sent to."""


class Branch(Route, frozen=True, kw_only=True):
    """Part of a route; never in a file."""

    branch: str


def builtin_paths(config: Config) -> set[str]:
    """Paths the gateway keeps for itself."""
    kept = {HEALTH, READY, LIVE, *ALIASES} if config.health.enabled else set()
    return kept | {config.metrics.path} if config.metrics.enabled else kept


def every_route(config: Config) -> Iterator[Route]:
    """Each route, and behind it its branches."""
    for route in config.routers:
        yield route
        yield from branches(route, effective(route, config))


def branches(route: Route, policies: Policies) -> Iterator[Branch]:
    """Those of one route."""
    if policies.split is not None:
        yield from (_variant(route, variant) for variant in policies.split.variants)
    if policies.mirror is not None:
        yield _mirror(route, policies.mirror)


def _variant(route: Route, variant: Variant) -> Branch:
    return _branch(
        route,
        variant.name,
        backends=variant.backends or route.backends,
        internal_path=variant.internal_path or route.internal_path,
    )


def _mirror(route: Route, mirror: Mirror) -> Branch:
    """Nobody waits for it: it is tried once."""
    timeouts = RouteTimeouts(total=mirror.timeout, first_byte=mirror.timeout)
    changes: dict[str, Any] = {"retry": None, "hedge": None, "health_check": None}
    return _branch(
        route,
        MIRROR,
        backends=mirror.backends,
        internal_path=mirror.internal_path or route.internal_path,
        timeouts=timeouts,
        **changes,
    )


def _branch(route: Route, name: str, **changes: Any) -> Branch:
    own = {field: getattr(route, field) for field in route.__struct_fields__}
    return Branch(**{**own, **changes, "branch": name})
