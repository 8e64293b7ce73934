"""The cache as operators see it: what is in it, and how it is thrown out of it, for all workers at once.

Purges act on the memory that the workers share, or on Redis; none of them has to be told.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from msgspec import Struct

from kairos._speedups.target import TargetError, checked_query, normal_host, normal_path
from kairos.rediscache import RedisCache

if TYPE_CHECKING:
    from kairos._speedups.cachestore import CacheStore
    from kairos.config.model import Config
    from kairos.config.redis import Redis
    from kairos.scoreboard import Scoreboard

_PORTS = {"http": 80, "https": 443}


class CacheStatus(Struct, frozen=True):
    """What is in the cache that the workers of this node share."""

    capacity: int
    """Bytes."""
    bytes: int
    """Of them, those taken by entries that can be found."""
    entries: int
    """Responses, and notes on how they vary or that they are not to be stored."""
    inserts: int
    evictions: int
    rejected: int
    """Not stored: too large, or their part of the memory was busy."""
    purges: int


class PurgeRequest(Struct, frozen=True, forbid_unknown_fields=True):
    """What is to be thrown out: one of url, prefix, tags and all."""

    url: str | None = None
    prefix: str | None = None
    tags: list[str] | None = None
    all: bool = False
    soft: bool = False
    """Keep it, but have it validated before it is used."""


class Purged(Struct, frozen=True):
    """A purge that was made."""

    purged: int
    """Entries that were there."""


class NoCacheError(Exception):
    """This gateway has no cache."""


class Caches:
    """The caches of a node."""

    def __init__(self, board: Scoreboard) -> None:
        self._store = board.cache
        self._section: Redis | None = None
        self._redis: RedisCache | None = None

    def apply(self, config: Config) -> None:
        """A configuration is in use from here on."""
        if config.redis == self._section:
            return
        if self._redis is not None:
            self._redis.retire()
        self._section = config.redis
        self._redis = RedisCache(config.redis) if config.redis is not None else None

    def status(self) -> CacheStatus:
        """What is in it. Raises NoCacheError."""
        stats = self._there().stats()
        return CacheStatus(**{name: stats[name] for name in CacheStatus.__struct_fields__})

    async def purge(self, request: PurgeRequest) -> Purged:
        """Throw out, of this node's memory and of the Redis that nodes share.

        Raises NoCacheError, ValueError (what is wrong with the request).
        """
        here = await asyncio.to_thread(self._purge_memory, request)
        there = 0
        if self._redis is not None:
            there = await _purge_redis(self._redis, request)
        return Purged(here + there)

    def _purge_memory(self, request: PurgeRequest) -> int:
        store, now = self._there(), time.monotonic_ns() // 1000
        given = [name for name in ("url", "prefix", "tags", "all") if getattr(request, name)]
        if len(given) != 1:
            raise ValueError("give one of url, prefix, tags and all")
        if request.url is not None:
            return store.purge_url(normal_url(request.url), now, request.soft)
        if request.tags is not None:
            marks = [store.hash_of(b"tag " + tag.encode()) for tag in request.tags]
            return store.purge_tags(marks, now, request.soft)
        return store.purge_prefix(b"" if request.all else normal_prefix(request.prefix or ""), now, request.soft)

    def _there(self) -> CacheStore:
        if self._store is None:
            raise NoCacheError("this gateway has no cache: cache_storage.memory_bytes is too small")
        return self._store


async def _purge_redis(redis: RedisCache, request: PurgeRequest) -> int:
    if request.url is not None:
        return await redis.purge_url(normal_url(request.url), request.soft)
    if request.tags is not None:
        return await redis.purge_tags([tag.encode() for tag in request.tags], request.soft)
    return await redis.purge_prefix(b"" if request.all else normal_prefix(request.prefix or ""), request.soft)


def normal_url(text: str) -> bytes:
    """A URL as keys begin with it. Raises ValueError."""
    scheme, host, path, query = _parts(text)
    try:
        path = normal_path(path or b"/")
        checked_query(query)
    except TargetError as error:
        raise ValueError(f"not a URL of a response: {text}: {error}") from None
    return scheme + b"://" + host + path + (b"?" + query if query else b"")


def normal_prefix(text: str) -> bytes:
    """The beginning of URLs, as keys begin with it: at least scheme, host and `/`. Raises ValueError."""
    scheme, host, path, query = _parts(text)
    if not path:
        raise ValueError(f"not the beginning of URLs: {text}: write it with its host and a path, at least /")
    return scheme + b"://" + host + path + (b"?" + query if query else b"")


def _parts(text: str) -> tuple[bytes, bytes, bytes, bytes]:
    try:
        url = urlsplit(text)
        if url.scheme not in _PORTS or not url.netloc:
            raise ValueError("it does not begin with http:// or https:// and a host")
        host, port = normal_host(url.netloc.encode("ascii"))
    except (ValueError, UnicodeError) as error:
        raise ValueError(f"not a URL: {text}: {error}") from None
    if port is not None and port != _PORTS[url.scheme]:
        host += b":%d" % port
    return url.scheme.encode(), host, url.path.encode(), url.query.encode()
