"""The client connections of all workers, as operators see them, and how they are closed.

Workers are asked one by one, at the same time, over their lines (`kairos.inquiry`); nothing is kept here. A worker that
does not answer in time is named in the answer, which then is not `complete`; the others' part of it is good.
"""

from __future__ import annotations

import asyncio
import ipaddress
from collections import Counter
from typing import TYPE_CHECKING

from msgspec import Struct

from kairos._speedups import cells
from kairos.channel import ChannelError
from kairos.inquiry import (
    MAX_SHOWN,
    CloseConnections,
    Connection,
    Found,
    ListConnections,
    Receiver,
    State,
    Wanted,
    connection_id,
    encode,
    line_of,
    parse_id,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from kairos.inquiry import Question, Sort
    from kairos.scoreboard import Scoreboard

PATIENCE_S = 2.0
"""For a worker's answer: more than inquiry.ANSWER_S."""
AT_ONCE = 4
"""Questions to all workers under way; further ones wait."""
MAX_NETWORKS = 64


class WorkerAnswer(Struct, frozen=True):
    """What a worker said."""

    slot: int
    pid: int
    connections: int
    """Open, by its counter."""
    requests: int
    """Under way on them, by its counter."""
    matched: int
    complete: bool
    problem: str
    """Why its part is missing, or not complete."""


class Connections(Struct, frozen=True):
    """Client connections at this moment."""

    connections: int
    """Open in all workers, by their counters."""
    requests: int
    """Under way."""
    matched: int
    """Connections that fit."""
    states: dict[State, int]
    """Of those that fit: how many are in which state."""
    complete: bool
    """Every worker looked at all of its own."""
    cut: bool
    """More fit than are shown."""
    workers: list[WorkerAnswer]
    found: list[Connection]


class ClosedConnections(Struct, frozen=True):
    """What was closed."""

    closed: int
    gently: bool
    """Each once the answer under way on it is out."""
    states: dict[State, int]
    """They were in."""
    complete: bool
    workers: list[WorkerAnswer]
    found: list[Connection]
    """The first of them, as they were."""


class NoConnectionError(LookupError):
    """There is no such connection, or not any more."""


class NoWorkerError(LookupError):
    """There is no such worker."""


class SilentError(Exception):
    """The worker that was asked did not answer; the text says which, and why."""


class ClientConnections:
    """Those of all workers of one gateway. To be used on the loop."""

    def __init__(self, board: Scoreboard, control_path: str, patience: float = PATIENCE_S) -> None:
        self._board = board
        self._path = control_path
        self._patience = patience
        self._turn = asyncio.Semaphore(AT_ONCE)

    async def look(self, wanted: Wanted, sort: Sort, limit: int, worker: int | None = None) -> Connections:
        """The first `limit` in this order. Raises NoWorkerError, ValueError (an address that is none)."""
        limit = min(limit, MAX_SHOWN)
        answers = await self._ask(ListConnections(_checked(wanted), sort, limit), worker)
        found = sorted((one for _, answer in answers if answer for one in answer.connections), key=_ORDER[sort])
        told = [told for told, _ in answers]
        return Connections(
            connections=sum(one.connections for one in told),
            requests=sum(one.requests for one in told),
            matched=(matched := sum(one.matched for one in told)),
            states=_states(answers),
            complete=all(one.complete for one in told),
            cut=matched > len(found[:limit]),
            workers=told,
            found=found[:limit],
        )

    async def close(self, wanted: Wanted, *, gently: bool, worker: int | None = None) -> ClosedConnections:
        """All that are wanted. Raises NoWorkerError, ValueError (nothing is said of which, or no address)."""
        if worker is None and wanted.anything:
            raise ValueError("say which connections: all of them are closed by a restart")
        answers = await self._ask(CloseConnections(_checked(wanted), gently), worker)
        told = [told for told, _ in answers]
        return ClosedConnections(
            closed=sum(one.matched for one in told),
            gently=gently,
            states=_states(answers),
            complete=all(one.complete for one in told),
            workers=told,
            found=[one for _, answer in answers if answer for one in answer.connections][:MAX_SHOWN],
        )

    async def close_one(self, given: str, *, gently: bool) -> Connection:
        """By its id; as it was. Raises NoConnectionError, SilentError, ValueError (no id)."""
        slot, pid, serial = parse_id(given)
        if slot >= self._board.capacity.workers or self._get(slot, cells.W_PID) != pid:
            raise NoConnectionError(f"the worker of connection {given} is gone, and with it the connection")
        ((told, answer),) = await self._ask(CloseConnections(Wanted(serial=serial), gently), slot)
        if answer is None:
            raise SilentError(told.problem)
        for one in answer.connections:
            if one.id == connection_id(slot, pid, serial):
                return one
        raise NoConnectionError(f"there is no connection {given}, or not any more")

    def _slots(self) -> list[int]:
        return [slot for slot in range(self._board.capacity.workers) if self._get(slot, cells.W_PID)]

    def _get(self, slot: int, cell: int) -> int:
        return self._board.page.get(self._board.worker_block(slot) + cell)

    async def _ask(self, question: Question, worker: int | None) -> list[tuple[WorkerAnswer, Found | None]]:
        slots = self._slots()
        if worker is not None and worker not in slots:
            raise NoWorkerError(f"there is no worker {worker}; there are {', '.join(map(str, slots))}")
        frame = encode(question)
        async with self._turn:
            asked = slots if worker is None else [worker]
            return list(await asyncio.gather(*(self._ask_one(slot, frame) for slot in asked)))

    async def _ask_one(self, slot: int, frame: bytes) -> tuple[WorkerAnswer, Found | None]:
        pid = self._get(slot, cells.W_PID)
        who = f"worker {slot} (process {pid})"
        try:
            async with asyncio.timeout(self._patience):
                found = await _answered(line_of(self._path, slot), frame)
        except TimeoutError:
            return self._told(slot, pid, None, f"{who} did not answer within {self._patience:g} s"), None
        except (OSError, ChannelError) as error:
            return self._told(slot, pid, None, f"{who} could not be asked: {error}"), None
        short = f"{who} looked at {found.looked_at} of {found.open} connections in the time it had"
        return self._told(slot, found.pid, found, "" if found.complete else short), found

    def _told(self, slot: int, pid: int, found: Found | None, problem: str) -> WorkerAnswer:
        return WorkerAnswer(
            slot=slot,
            pid=pid,
            connections=self._get(slot, cells.W_CONNECTIONS_OPEN),
            requests=self._get(slot, cells.W_REQUESTS_ACTIVE),
            matched=sum(found.states.values()) if found is not None else 0,
            complete=found is not None and found.complete,
            problem=problem,
        )


async def _answered(path: str, frame: bytes) -> Found:
    """Raises OSError, ChannelError."""
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(frame)
        receiver = Receiver()
        while data := await reader.read(1 << 16):
            answer = receiver.answer(data)
            if answer is not None:
                return answer
        raise ChannelError("it ended before it answered")
    finally:
        writer.close()


def _checked(wanted: Wanted) -> Wanted:
    """Raises ValueError."""
    if len(wanted.client) > MAX_NETWORKS:
        raise ValueError(f"no more than {MAX_NETWORKS} addresses and networks at once")
    for text in wanted.client:
        ipaddress.ip_network(text, strict=False)
    return wanted


def _states(answers: Sequence[tuple[WorkerAnswer, Found | None]]) -> dict[State, int]:
    total: Counter[State] = Counter()
    for _, answer in answers:
        if answer is not None:
            total.update(answer.states)
    return dict(total)


_ORDER: dict[Sort, Callable[[Connection], float]] = {
    "oldest": lambda one: -one.age,
    "newest": lambda one: one.age,
    "idle": lambda one: -(one.idle or 0.0),
    "request": lambda one: -one.request.age if one.request is not None else 0.0,
    "requests": lambda one: -one.requests,
    "bytes": lambda one: -((one.bytes_received or 0) + (one.bytes_sent or 0)),
}
