"""What the control process asks of the supervisor, and who waits for the answer."""

from __future__ import annotations

import asyncio
import itertools
import os
from typing import TYPE_CHECKING

from kairos.channel import ReloadRequest, ReloadResult, Settled, UpgradeRequest, UpgradeResult

if TYPE_CHECKING:
    from collections.abc import Callable

    from kairos.channel import FromChild
    from kairos.config.text import ConfigText

PATIENCE = 120.0  # seconds for an answer: a boot or another reload may come first


class Requests:
    """Numbers no process before this one used, so that answers to a predecessor find nobody."""

    def __init__(self, say: Callable[[FromChild], None]) -> None:
        self._say = say
        self._numbers = itertools.count((os.getpid() << 20) + 1)
        self._reloads: dict[int, asyncio.Future[ReloadResult]] = {}
        self._upgrades: dict[int, asyncio.Future[UpgradeResult]] = {}

    async def reload(self, reason: str, *, if_changed: bool = False, author: str = "") -> ReloadResult:
        """Have the configuration read again. Raises TimeoutError."""
        return await self._reload(ReloadRequest(next(self._numbers), reason, if_changed, author=author))

    async def use(self, text: ConfigText, above: int = 0) -> ReloadResult:
        """Have a text used that replaces the one in use; `settled` is to follow. Raises TimeoutError."""
        request = ReloadRequest(next(self._numbers), text.reason, text=text, author=text.author, above=above)
        return await self._reload(request)

    def settled(self, revision: int) -> None:
        """The file says what this revision says, or nothing will come of that."""
        self._say(Settled(revision))

    async def _reload(self, request: ReloadRequest) -> ReloadResult:
        number = request.id
        answer = self._reloads[number] = asyncio.get_running_loop().create_future()
        self._say(request)
        try:
            return await asyncio.wait_for(answer, PATIENCE)
        finally:
            del self._reloads[number]

    async def upgrade(self) -> UpgradeResult:
        """Have the program replaced by the one that is installed now. Raises TimeoutError."""
        number = next(self._numbers)
        answer = self._upgrades[number] = asyncio.get_running_loop().create_future()
        self._say(UpgradeRequest(number))
        try:
            return await asyncio.wait_for(answer, PATIENCE)
        finally:
            del self._upgrades[number]

    def reloaded(self, result: ReloadResult) -> None:
        """The supervisor answered."""
        answer = self._reloads.get(result.id)
        if answer is not None and not answer.done():
            answer.set_result(result)

    def upgraded(self, result: UpgradeResult) -> None:
        """The supervisor answered."""
        answer = self._upgrades.get(result.id)
        if answer is not None and not answer.done():
            answer.set_result(result)
