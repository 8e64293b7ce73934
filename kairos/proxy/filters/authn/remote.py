"""A JWK set that the control process fetches, as one worker has it.

Rules: keys in hand stay in use until others have come, whatever happens to the control process. It is asked once at a
time, and for kids that nobody knows at most once in UNKNOWN_PAUSE: a flood of made-up kids costs it next to nothing.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Protocol
from weakref import WeakSet

import msgspec

from kairos.config.jose import JwkError, read_set
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from kairos.config.jose import KeySet

    Ask = Callable[[bytes], Awaitable[bytes]]
    """The control process's answer to a request body. Raises OSError where there is none."""

PATIENCE = 5.0
"""Seconds a request waits for keys."""
FAILED_PAUSE = 0.5
UNKNOWN_PAUSE = 1.0

log = get_logger("keys")


class Believer(Protocol):
    """One that remembers verified tokens."""

    def forget(self) -> None: ...


class RemoteKeys:
    """The keys of one set."""

    def __init__(self, url: str, algorithms: Sequence[str], ask: Ask) -> None:
        self.keys: KeySet | None = None
        """None until the first answer."""
        self.believers: WeakSet[Believer] = WeakSet()
        """Who has to forget what was verified with these keys when there are others."""
        self._url = url
        self._algorithms = algorithms
        self._ask = ask
        self._document = b""
        self._asking: asyncio.Task[bool] | None = None
        self._not_before = float("-inf")
        """Monotonic seconds before which nobody asks for an unknown kid, or again after a failure."""

    def may_ask(self) -> bool:
        """Whether asking could help, now."""
        return time.monotonic() >= self._not_before or self._under_way()

    async def renew(self, kid: str | None = None, pause: float = 0.0) -> bool:
        """Ask for the set, and for a fresh one where it lacks the kid; whether an answer came in time."""
        if not self._under_way():
            self._not_before = time.monotonic() + pause
            self._asking = asyncio.get_running_loop().create_task(self._renew(kid))
        assert self._asking is not None
        try:
            async with asyncio.timeout(PATIENCE):
                return await asyncio.shield(self._asking)
        except TimeoutError:
            return False

    def _under_way(self) -> bool:
        return self._asking is not None and not self._asking.done()

    async def _renew(self, kid: str | None) -> bool:
        body = msgspec.json.encode({"url": self._url, "kid": kid})
        try:
            document = await self._ask(body)
            if document != self._document:
                self.keys = read_set(document, self._algorithms)
                self._document = document
                for believer in list(self.believers):
                    believer.forget()
        except (OSError, JwkError) as error:
            self._not_before = time.monotonic() + FAILED_PAUSE
            log.warning("no keys from the control process", url=self._url, error=str(error), kept=bool(self.keys))
            return False
        return True
