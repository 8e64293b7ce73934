"""Where this worker answers what the control process asks about its clients' connections; see `kairos.inquiry`.

Costs nothing while nobody asks: a listener that the loop watches. An answer is put together in slices of half a
millisecond, between which clients are served, and stops where it would take too long.
"""

from __future__ import annotations

import asyncio
import os
from contextlib import closing
from typing import TYPE_CHECKING

from kairos.channel import ChannelError
from kairos.inquiry import ANSWER_S, MAX_SHOWN, CloseConnections, Found, ListConnections, Receiver, encode
from kairos.proxy.connections import Survey
from kairos.telemetry.log import get_logger

if TYPE_CHECKING:
    import socket

    from kairos.inquiry import Question
    from kairos.proxy.exchange import Runtime

PATIENCE_S = 5.0
"""For the whole of a question: who asks and does not read is left."""
BREATH_S = 1.0
"""Without listening, where no descriptor is left."""

log = get_logger("worker")


class Desk:
    """Made with the loop; open() it, and close() it at the end."""

    def __init__(self, runtime: Runtime, slot: int, listener: socket.socket) -> None:
        self._runtime = runtime
        self._slot = slot
        self._listener = listener
        self._loop = asyncio.get_running_loop()
        self._serving: set[asyncio.Task[None]] = set()
        self._pause: asyncio.TimerHandle | None = None

    def open(self) -> None:
        self._listener.setblocking(False)
        self._loop.add_reader(self._listener, self._accept)

    def close(self) -> None:
        if self._pause is not None:
            self._pause.cancel()
        self._loop.remove_reader(self._listener)
        self._listener.close()
        for task in self._serving:
            task.cancel()

    def _accept(self) -> None:
        try:
            sock, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:
            self._loop.remove_reader(self._listener)
            self._pause = self._loop.call_later(BREATH_S, self.open)
            return
        sock.setblocking(False)
        task = self._loop.create_task(self._serve(sock))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, sock: socket.socket) -> None:
        with sock:
            try:
                async with asyncio.timeout(PATIENCE_S):
                    answer = await self._answer(await self._asked(sock))
                    await self._loop.sock_sendall(sock, encode(answer))
            except (OSError, ChannelError, ValueError) as error:
                log.debug("a question was not answered", error=str(error))
            except Exception:
                log.exception("a question was not answered")

    async def _asked(self, sock: socket.socket) -> Question:
        receiver = Receiver()
        while data := await self._loop.sock_recv(sock, 1 << 16):
            question = receiver.question(data)
            if question is not None:
                return question
        raise ChannelError("nothing was asked")

    async def _answer(self, question: Question) -> Found:
        with closing(self._survey(question)) as survey:
            complete = await self._looked(survey)
            for _ in iter(survey.describe, False):
                await asyncio.sleep(0)
            return Found(os.getpid(), survey.open, survey.looked_at, complete, survey.states, survey.connections)

    def _survey(self, question: Question) -> Survey:
        match question:
            case ListConnections(wanted, sort, limit):
                return Survey(self._runtime, self._slot, wanted, sort, min(limit, MAX_SHOWN))
            case CloseConnections(wanted, gently):
                return Survey(self._runtime, self._slot, wanted, ends="gently" if gently else "now")

    async def _looked(self, survey: Survey) -> bool:
        """Whether all were seen in time."""
        ends = self._loop.time() + ANSWER_S
        while survey.look():
            if self._loop.time() > ends:
                return False
            await asyncio.sleep(0)
        return True
