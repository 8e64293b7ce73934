"""Feeds that go on until somebody leaves, as server-sent events and over WebSocket.

A feed yields batches of frames. Whoever cannot keep up is served by what stands behind the feed: it drops and counts,
and nothing is kept here. A stream ends after LIFETIME_S, and its watcher comes back: permissions may have changed.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
import weakref
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from litestar.exceptions import WebSocketDisconnect
from litestar.response import Stream

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from litestar import WebSocket
    from litestar.datastructures import State

    from kairos.control.access.principal import Principal

MEDIA_TYPE = "text/event-stream"
HEARTBEAT_S = 15.0
"""Between two signs of life: shorter than what proxies cut off."""
LIFETIME_S = 3600.0
GOING_AWAY = 1001


class Frame(NamedTuple):
    """One message of a feed."""

    type: str
    data: bytes
    """JSON."""
    id: str = ""


class Watching(Protocol):
    """Who is behind a feed: to be closed when it ends."""

    def close(self) -> None: ...


def alive(began: float) -> bool:
    """Whether a stream that began at this monotonic time goes on."""
    return time.monotonic() - began < LIFETIME_S


def event_stream(feed: AsyncGenerator[list[Frame]], watcher: Watching) -> Stream:
    """An answer in server-sent events; an empty batch is a sign of life."""
    made = _encoded(feed)
    for generator in (feed, made):
        weakref.finalize(generator, watcher.close)  # one that was never begun does not come to its end
    headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
    return Stream(made, media_type=MEDIA_TYPE, headers=headers)


async def _encoded(feed: AsyncGenerator[list[Frame]]) -> AsyncGenerator[bytes]:
    yield b": watching\n\n"  # the answer's head goes out with it
    async with contextlib.aclosing(feed):
        async for batch in feed:
            yield b"".join(map(_as_event, batch)) or b": alive\n\n"


def _as_event(frame: Frame) -> bytes:
    id_ = b"id: %b\n" % frame.id.encode() if frame.id else b""
    return b"%bevent: %b\ndata: %b\n\n" % (id_, frame.type.encode(), frame.data)


async def push(socket: WebSocket[Principal, Any, State], feed: AsyncGenerator[list[Frame]]) -> None:
    """The same over WebSocket, a text message a frame: `{"type":..., "id":..., "data":...}`; what comes is ignored."""
    await socket.accept()
    async with contextlib.aclosing(feed):
        tasks = [asyncio.create_task(_send(socket, feed)), asyncio.create_task(_until_gone(socket))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
    with contextlib.suppress(Exception):  # it may be gone
        await socket.close(GOING_AWAY)


async def _send(socket: WebSocket[Principal, Any, State], feed: AsyncGenerator[list[Frame]]) -> None:
    async for batch in feed:
        for frame in batch:
            id_ = b'"id":"%b",' % frame.id.encode() if frame.id else b""
            text = b'{"type":"%b",%b"data":%b}' % (frame.type.encode(), id_, frame.data)
            await socket.send_data(text.decode(), mode="text")


async def _until_gone(socket: WebSocket[Principal, Any, State]) -> None:
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            await socket.receive_data(mode="text")
