"""The shared cache (RFC 9111) in front of a route."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Annotated, Literal

from msgspec import Meta, field

from kairos.config.spec import Bytes, Spec

if TYPE_CHECKING:
    from kairos.config.model import Config
    from kairos.config.policies import Policies
    from kairos.config.problems import Findings, Path

Ttl = Annotated[float, Meta(ge=0, le=31_536_000)]
Share = Annotated[float, Meta(ge=0, le=1)]
LEAST = 1 << 20
"""Bytes that a cache needs."""
_STATUS = re.compile(r"[2-5](?:\d\d|xx)")
_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")


class CacheQuery(Spec, frozen=True):
    """Which query parameters there are to the cache. The others are not sent upstream either."""

    only: list[str] | None = None
    """These alone; all when absent."""
    ignore: list[str] = field(default_factory=list)
    """All but these; a `*` at the end stands for anything."""


class CacheKey(Spec, frozen=True):
    """What tells responses apart beside scheme, host, path, query and Vary."""

    headers: list[str] = field(default_factory=list)
    cookies: list[str] = field(default_factory=list)


class Cache(Spec, frozen=True):
    """A shared cache: stores what RFC 9111 lets it store."""

    enabled: bool = True
    store: Literal["memory", "redis"] = "memory"
    """`memory` is shared by all workers of a node, `redis` by all nodes (the section `redis`)."""
    default_ttl: Ttl | None = None
    """Seconds that a response is fresh which does not say, if its status may be stored without a word."""
    ttl: dict[str, Ttl] = field(default_factory=dict)
    """The same by status (`404`) or class (`5xx`), whatever the status."""
    override_ttl: Ttl | None = None
    """Instead of what the response says; never against no-store, private or no-cache."""
    heuristic: Share = 0.1
    """A response that says nothing but when it was changed is fresh for this part of its age; 0 turns that off."""
    heuristic_max: Ttl = 86_400
    """But no longer than this."""
    stale_while_revalidate: Ttl = 0
    """Seconds that a stale response may be used while it is validated, where it does not say."""
    stale_if_error: Ttl = 0
    """Seconds that a stale response may be used when the upstream fails, where it does not say."""
    stale_if_unreachable: Ttl = 60
    """Seconds that a stale response may be used when the upstream gives no answer at all, unless it forbids that."""
    max_entry: Bytes = 1 << 20
    """Longer bodies are not stored."""
    query: CacheQuery | None = None
    key: CacheKey | None = None
    cookies: Literal["careful", "ignore", "bypass"] = "careful"
    """Requests with cookies: never with a guessed lifetime (`careful`), like others, or past the cache."""
    set_cookie: Literal["explicit", "refuse", "strip", "store"] = "explicit"
    """Responses that set cookies: stored if they say `public` or `s-maxage`, never, without the cookie, like others."""
    client_directives: bool = True
    """Clients may ask for validation (`Cache-Control: no-cache`) and the like."""
    targeted: list[str] = field(default_factory=lambda: ["CDN-Cache-Control"])
    """Fields that count before Cache-Control (RFC 9213), the first one first; `Surrogate-Control` is one that may."""
    strip: list[str] = field(default_factory=lambda: ["Surrogate-Key", "Cache-Tag", "Surrogate-Control"])
    """Response fields that clients do not get."""
    collapse: Ttl = 5
    """Seconds that requests wait for the answer another one is fetching; 0 turns that off."""
    status_header: bool = True
    """Tell clients what the cache did (`Cache-Status`, RFC 9211)."""
    guard_types: bool = False
    """Store under a path that ends like a file (`.css`, `.png` …) only what has that type: against cache deception."""


def check(spec: Cache, keys: Path, found: Findings) -> None:
    """What its types cannot say."""
    for status in spec.ttl:
        if not _STATUS.fullmatch(status):
            found.error((*keys, "ttl", status), "write a status (404) or a class of them (5xx)")
        elif status in ("206", "304"):
            found.error((*keys, "ttl", status), f"responses with status {status} are never stored by themselves")
    if spec.query is not None and spec.query.only is not None and spec.query.ignore:
        found.error((*keys, "query"), "give either only or ignore")
    for name in (*spec.targeted, *spec.strip, *(spec.key.headers if spec.key else ())):
        if not _NAME.fullmatch(name):
            found.error(keys, f"{name!r} is no header name")
    _warn(spec, keys, found)


def check_whole(config: Config, found: Findings) -> None:
    """What depends on other sections."""
    holders: list[tuple[Path, Policies]] = [((), config)]
    holders += [(("groups", name), group) for name, group in config.groups.items()]
    holders += [(("routers", at), route) for at, route in enumerate(config.routers)]
    used = [(keys, spec) for keys, holder in holders if (spec := holder.cache) is not None and spec.enabled]
    for keys, spec in used:
        if spec.store == "redis" and config.redis is None:
            found.error((*keys, "cache", "store"), "there is no section redis: add redis with its url")
    if used and config.cache_storage.memory_bytes < LEAST:
        found.warning(("cache_storage", "memory_bytes"), f"less than {LEAST}: no route has a cache")


def _warn(spec: Cache, keys: Path, found: Findings) -> None:
    """What is allowed and seldom meant."""
    if spec.set_cookie == "store":
        found.warning(
            (*keys, "set_cookie"), "a stored Set-Cookie gives one client's cookie to all others; use explicit"
        )
    if spec.override_ttl is not None and spec.cookies == "ignore":
        found.warning(
            (*keys, "override_ttl"),
            "with cookies: ignore, pages made for one user are given to others; name ttl instead",
        )
    if spec.key is not None and "authorization" in (name.lower() for name in spec.key.headers):
        found.warning((*keys, "key", "headers"), "answers to Authorization are stored only if they allow it themselves")
