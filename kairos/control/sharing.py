"""Ended sessions told from gateway to gateway through the Redis that nodes share, for providers that want it.

    kairos_endings:{<provider>}   a sorted set: an ending as JSON, by when it was (unix seconds)

Each gateway writes what it was told, and looks every second for what others were told. What could not be written is
written once Redis answers again, and what was written meanwhile is found then.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import msgspec

from kairos.config.discovery import Ending
from kairos.redisclient import close, connect, shown
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from kairos.config.redis import Redis

PREFIX = "kairos_endings:"
EVERY = 1.0
"""Seconds between two looks."""
OVERLAP = 120.0
"""Seconds by which the gateways' clocks may differ."""
MOST = 65_536

log = get_logger("control")


class Sharing:
    """One Redis. `take` is called with what others wrote, known or not."""

    def __init__(
        self,
        spec: Redis,
        names: frozenset[str],
        take: Callable[[str, list[Ending]], Awaitable[None]],
        wall: Callable[[], float],
    ) -> None:
        self.spec = spec
        self.names = names
        self._take = take
        self._wall = wall
        self._client: Any = None
        self._untold: list[tuple[str, Ending]] = []
        self._wake = asyncio.Event()
        self._looked = 0.0
        self._down = False
        self._running = asyncio.create_task(self._run())

    def tell(self, name: str, ending: Ending) -> None:
        """Soon, to all others."""
        if name in self.names:
            self._untold = [*self._untold[-MOST:], (name, ending)]
            self._wake.set()

    async def stop(self) -> None:
        self._running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._running
        await self._let_go()

    async def _run(self) -> None:
        while True:
            self._wake.clear()
            try:
                async with asyncio.timeout(self.spec.timeout + self.spec.connect_timeout):
                    found = await self._round()
                for name, endings in found.items():
                    await self._take(name, endings)
                self._say(down=False)
            except Exception as error:  # whatever the client raises: there is no answer
                self._say(down=True, reason=str(error) or type(error).__name__)
                await self._let_go()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.spec.retry if self._down else EVERY):
                    await self._wake.wait()

    async def _round(self) -> dict[str, list[Ending]]:
        """Write what is to be told, and read what is new."""
        if self._client is None:
            self._client = connect(self.spec)
        while self._untold:
            await self._write(*self._untold[0])
            del self._untold[0]
        began, since = self._wall(), self._looked - OVERLAP
        found = {}
        for name in self.names:
            rows = await self._client.zrevrangebyscore(_key(name), "+inf", since, 0, MOST)
            found[name] = [msgspec.json.decode(row, type=Ending) for row in reversed(rows)]
        self._looked = began
        return found

    async def _write(self, name: str, ending: Ending) -> None:
        key = _key(name)
        await self._client.zadd(key, {msgspec.json.encode(ending): ending.at})
        await self._client.zremrangebyrank(key, 0, -(MOST + 1))
        await self._client.expire(key, int(max(ending.until - self._wall(), 0) + OVERLAP))

    def _say(self, *, down: bool, reason: str = "") -> None:
        if down and not self._down:
            log.warning("ended sessions are not shared: Redis fails", redis=shown(self.spec.url), error=reason)
        elif self._down and not down:
            log.info("ended sessions are shared again", redis=shown(self.spec.url))
        self._down = down

    async def _let_go(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            await close(client)


def _key(name: str) -> str:
    return f"{PREFIX}{{{name}}}"
