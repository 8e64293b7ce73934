"""Keys of TLS session tickets: a new one when the one in use is old enough.

They lie in the shared page, where workers find them; nothing of them is ever written to a disk. Who dies and comes back
goes on by the age that stands beside the key.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from typing import TYPE_CHECKING

from kairos._speedups.tls import rotate_ticket_key, ticket_key_made_at

if TYPE_CHECKING:
    from kairos.config.model import Config
    from kairos.scoreboard import Scoreboard

LOOK_S = 20.0


class TicketKeys:
    """Looks now and then, from `start` on until `close`."""

    def __init__(self, board: Scoreboard) -> None:
        self._board = board
        self._every: int | None = None
        self._task: asyncio.Task[None] | None = None

    def apply(self, config: Config) -> None:
        """A configuration is in use."""
        tls = config.server.tls
        self._every = tls.tickets.rotate if tls is not None and tls.tickets.enabled else None

    def start(self) -> None:
        self._task = asyncio.create_task(self._run())

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def _run(self) -> None:
        while True:
            self.rotate(int(time.time()))
            await asyncio.sleep(LOOK_S)

    def rotate(self, now: int) -> None:
        """If it is time. A clock that was set back is no reason to wait for it."""
        page, ring = self._board.page, self._board.ticket_ring
        age = now - ticket_key_made_at(page, ring)
        if self._every is not None and not 0 <= age < self._every:
            rotate_ticket_key(page, ring, secrets.token_bytes(80), now)
