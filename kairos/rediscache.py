"""Cached responses that nodes share in Redis: how they lie there, and how they are read, written and purged.

    <prefix>e:<key>     L or S (purged softly), length of the meta, meta, body
    <prefix>t:<tag>     keys of the entries that bear it
    <prefix>p:u<url>, p:t<tag>, p:*     unix µs of the last purge: what was asked for before it is not stored

Redis is asked for as long as its section says. One that does not answer is left alone for a moment: requests then do
without a cache, and nothing is remembered for later.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any, NamedTuple

from kairos.redisclient import close, connect, scan, shown
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from kairos.config.redis import Redis

log = get_logger("cache")
PREFIX = b"{kairos:cache}:"
"""In a cluster a hash tag: what one script touches has to lie on one node, and here that is everything."""
PURGES_S = 600
"""How long a purge is remembered: longer than any response takes."""
DOWN_S = 1.0

# KEYS: entry, then marks of purges, then tags. ARGV: value, ms to live, unix µs at which it was asked for, marks, tags
_PUT = """
local marks = tonumber(ARGV[4])
for i = 2, marks + 1 do
  local purged = redis.call('GET', KEYS[i])
  if purged and tonumber(purged) >= tonumber(ARGV[3]) then redis.call('DEL', KEYS[1]) return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
for i = marks + 2, #KEYS do
  redis.call('SADD', KEYS[i], KEYS[1])
  if redis.call('PTTL', KEYS[i]) < tonumber(ARGV[2]) then redis.call('PEXPIRE', KEYS[i], ARGV[2]) end
end
return 1
"""
_SOFT = """
local count = 0
for _, key in ipairs(KEYS) do
  if redis.call('EXISTS', key) == 1 then redis.call('SETRANGE', key, 0, 'S') count = count + 1 end
end
return count
"""

Found = tuple[bytes, bytes, bool]


class Put(NamedTuple):
    """An entry to be written."""

    key: bytes
    url: bytes
    meta: bytes
    body: bytes
    tags: Sequence[bytes]
    live_ms: int
    asked_us: int
    """Unix µs."""


class RedisCache:
    """One Redis as a cache."""

    def __init__(self, spec: Redis) -> None:
        self._spec = spec
        self._client: Any = None
        self._down_until = 0.0
        self._closing: asyncio.Task[None] | None = None

    def retire(self) -> None:
        """No configuration names it any more."""
        client, self._client = self._client, None
        self._down_until = float("inf")
        if client is not None:
            self._closing = asyncio.get_running_loop().create_task(close(client))

    async def get(self, keys: Sequence[bytes]) -> dict[bytes, Found]:
        """Those of the entries that are there."""
        names = [PREFIX + b"e:" + key for key in keys]
        values = await self._asked(lambda client: client.mget(names)) or []
        found = zip(keys, values, strict=False)
        return {key: _unpacked(value) for key, value in found if value is not None and len(value) > 5}

    async def put(self, entry: Put) -> bool:
        """Whether it is there now."""
        marks = [b"p:u" + entry.url, b"p:*", *(b"p:t" + tag for tag in entry.tags)]
        keys = [b"e:" + entry.key, *marks, *(b"t:" + tag for tag in entry.tags)]
        value = b"L" + len(entry.meta).to_bytes(4, "big") + entry.meta + entry.body
        arguments = [value, entry.live_ms, entry.asked_us, len(marks)]
        names = [PREFIX + key for key in keys]
        return bool(await self._asked(lambda client: client.eval(_PUT, len(names), *names, *arguments)))

    async def delete(self, keys: Iterable[bytes]) -> None:
        """Forget entries."""
        names = [PREFIX + b"e:" + key for key in keys]
        if names:
            await self._asked(lambda client: client.delete(*names))

    async def purge_url(self, url: bytes, soft: bool = False) -> int:
        """One URL with its variants. How many entries there were."""
        await self._mark(b"u" + url)
        return await self._forget([PREFIX + b"e:" + url], soft) + await self._sweep(url + b"\n", soft)

    async def purge_tags(self, tags: Sequence[bytes], soft: bool = False) -> int:
        """All entries with one of these tags."""
        count = 0
        for tag in tags:
            await self._mark(b"t" + tag)
            name = PREFIX + b"t:" + tag
            count += await self._forget(list(await self._asked(lambda client, n=name: client.smembers(n)) or ()), soft)
        return count

    async def purge_prefix(self, prefix: bytes, soft: bool = False) -> int:
        """All entries whose keys begin so."""
        await self._mark(b"*")
        return await self._sweep(prefix, soft)

    async def _mark(self, what: bytes) -> None:
        """What is being fetched now is not to be stored."""
        name, now = PREFIX + b"p:" + what, time.time_ns() // 1000
        await self._asked(lambda client: client.set(name, now, ex=PURGES_S))

    async def _sweep(self, prefix: bytes, soft: bool) -> int:
        pattern = PREFIX + b"e:" + b"".join(b"\\" + bytes([c]) if c in b"*?[]\\" else bytes([c]) for c in prefix) + b"*"
        count, cursor = 0, 0
        while True:
            answer = await self._asked(lambda client, at=cursor: scan(client, self._spec, PREFIX, at, pattern))
            if answer is None:
                return count
            cursor, names = answer
            count += await self._forget(names, soft)
            if cursor == 0:
                return count

    async def _forget(self, names: Sequence[bytes], soft: bool) -> int:
        if not names:
            return 0
        if soft:
            return int(await self._asked(lambda client: client.eval(_SOFT, len(names), *names)) or 0)
        return int(await self._asked(lambda client: client.delete(*names)) or 0)

    async def _asked(self, ask: Any) -> Any:
        """The answer to one question; None: there is none."""
        now = time.monotonic()
        if now < self._down_until:
            return None
        patience = self._spec.timeout if self._client is not None else self._spec.timeout + self._spec.connect_timeout
        if self._client is None:
            self._client = connect(self._spec)
        try:
            async with asyncio.timeout(patience):
                return await ask(self._client)
        except Exception as error:  # whatever the client raises: there is no answer
            self._down_until = time.monotonic() + DOWN_S
            reason = str(error) or type(error).__name__
            log.warning("Redis does not answer: no cache without it", redis=shown(self._spec.url), error=reason)
            return None


def _unpacked(value: bytes) -> Found:
    end = 5 + int.from_bytes(value[1:5], "big")
    return value[5:end], value[end:], value[:1] == b"S"
