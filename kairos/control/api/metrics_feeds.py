"""Metrics as they happen, over WebSockets as kairos-rs has them, and as server-sent events.

    /ws/metrics           an event at once and one per interval; what the client sends is a subscription
    /ws/admin/metrics     six totals a second; what the client sends is ignored
    /api/events/metrics   a snapshot per interval

All feeds share one reading of the page. A client that does not read holds up only its own feed; there are at most FEEDS
of them, and who comes later is told so. An invalid subscription is answered and changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from litestar import WebSocket, get, websocket
from litestar.di import NamedDependency
from litestar.exceptions import ClientException, ServiceUnavailableException, WebSocketDisconnect
from litestar.params import QueryParameter
from litestar.response import ServerSentEvent, ServerSentEventMessage
from msgspec import Struct, field
from msgspec.structs import asdict

from kairos.control.api.guards import needs
from kairos.control.api.metrics import rfc3339
from kairos.control.history.catalog import LEGACY, METRICS
from kairos.control.history.history import History
from kairos.control.history.live import FEEDS
from kairos.storage.database import UnavailableError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from kairos.control.history.live import Snapshot

TAGS = ["Metrics"]
SHORTEST, LONGEST = 1, 60  # seconds between two snapshots
HEARTBEAT_S = 15.0
HISTORY_S = 3600
MAX_METRICS = 20
TRY_LATER = 1013
_TOTALS = (
    "requests_total", "active_connections", "requests_error", "success_rate", "uptime", "peak_connections",
)  # fmt: skip


class Subscription(Struct, frozen=True):
    """What a client asks for."""

    metrics: list[str] = field(default_factory=list)
    """Those whose last hour is sent; empty: the four of kairos-rs."""
    interval_seconds: float = SHORTEST
    include_history: bool = False

    @property
    def interval(self) -> float:
        """Within what is possible."""
        return min(max(self.interval_seconds, SHORTEST), LONGEST)


class _Asked(Subscription, frozen=True):
    metrics: list[str]  # has to be there
    interval_seconds: float = SHORTEST
    include_history: bool = False


_asked = msgspec.json.Decoder(_Asked)


def subscription(data: str | bytes) -> Subscription:
    """As it came. Raises ValueError that says what is wrong with it."""
    asked = _asked.decode(data)
    if len(asked.metrics) > MAX_METRICS:
        raise ValueError(f"more than {MAX_METRICS} metrics")
    for name in asked.metrics:
        if name not in METRICS:
            raise ValueError(f"there is no metric {name[:100]!r}")
    return asked


def event(kind: str, **members: Any) -> str:
    """A message to the client."""
    return msgspec.json.encode({"type": kind, **members}).decode()


def snapshot_event(snapshot: Snapshot) -> str:
    """kairos-rs's members and ours."""
    return event("Snapshot", **{**asdict(snapshot), "timestamp": rfc3339(snapshot.timestamp)})


# --- /ws/metrics --------------------------------------------------------------------------------------------------

_Socket = WebSocket[Any, Any, Any]


class _Feed:
    """One client of /ws/metrics."""

    def __init__(self, socket: _Socket, history: History) -> None:
        self._socket = socket
        self._history = history
        self._subscription = Subscription()
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Until the client leaves."""
        sending = asyncio.create_task(self._send_forever())
        try:
            while True:
                await self._hear(await self._socket.receive_data("text"))
        finally:
            sending.cancel()
            await asyncio.gather(sending, return_exceptions=True)

    async def _hear(self, data: str) -> None:
        try:
            self._subscription = subscription(data)
        except ValueError as error:
            return await self._socket.send_text(event("Error", message=f"Invalid subscription: {error}"))
        self._changed.set()
        if self._subscription.include_history:
            await self._send_history(self._subscription)

    async def _send_history(self, asked: Subscription) -> None:
        """The last hour of each metric, once per subscription."""
        now = (await self._history.live.snapshot()).timestamp
        for name in asked.metrics or LEGACY:
            try:
                found = await self._history.points(name, now - HISTORY_S, now)
            except UnavailableError as error:
                return await self._socket.send_text(event("Error", message=str(error)))
            points = [{"timestamp": rfc3339(at), "value": value} for at, value in found.points]
            await self._socket.send_text(event("TimeSeries", metric_name=name, data_points=points))

    async def _send_forever(self) -> None:
        with contextlib.suppress(WebSocketDisconnect):
            while True:
                await self._socket.send_text(snapshot_event(await self._history.live.snapshot()))
                await self._wait()

    async def _wait(self) -> None:
        """An interval; a client is not left without a word for long, and a new subscription begins at once."""
        left = self._subscription.interval
        self._changed.clear()
        while left > 0:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), min(left, HEARTBEAT_S))
                return
            left -= HEARTBEAT_S
            if left > 0:
                now = (await self._history.live.snapshot()).timestamp
                await self._socket.send_text(event("Heartbeat", timestamp=rfc3339(now)))


async def _serve(socket: _Socket, history: History, run: Any) -> None:
    """Within the bounds."""
    await socket.accept()
    with history.feeds.one() as room, contextlib.suppress(WebSocketDisconnect):
        if not room:
            await socket.send_text(event("Error", message=f"{FEEDS} clients watch already: try again later"))
            return await socket.close(TRY_LATER)
        await run()


@websocket("/ws/metrics", **needs("metrics:read"))
async def watch_metrics(socket: _Socket, history: NamedDependency[History]) -> None:
    """A snapshot at once, and one per interval."""
    await _serve(socket, history, _Feed(socket, history).run)


@websocket("/ws/admin/metrics", **needs("metrics:read"))
async def watch_totals(socket: _Socket, history: NamedDependency[History]) -> None:
    """Totals, every second."""
    await _serve(socket, history, lambda: _send_totals(socket, history))


async def _send_totals(socket: _Socket, history: History) -> None:
    sending = asyncio.create_task(_send_totals_forever(socket, history))
    try:
        while True:  # a client that leaves is noticed here
            await socket.receive_data("text")
    finally:
        sending.cancel()
        await asyncio.gather(sending, return_exceptions=True)


async def _send_totals_forever(socket: _Socket, history: History) -> None:
    with contextlib.suppress(WebSocketDisconnect):
        while True:
            snapshot = await history.live.snapshot()
            totals = {name: getattr(snapshot, name) for name in _TOTALS} | {"uptime": int(snapshot.uptime)}
            await socket.send_text(msgspec.json.encode(totals).decode())  # whole seconds, as on /health
            await asyncio.sleep(1)


@get(["/ws/metrics", "/ws/admin/metrics"], include_in_schema=False, sync_to_thread=False, **needs("metrics:read"))
def not_a_websocket() -> None:
    """As kairos-rs answers."""
    raise ClientException("this is a WebSocket: ask for an upgrade")


# --- server-sent events -------------------------------------------------------------------------------------------


@get("/api/events/metrics", tags=TAGS, media_type="text/event-stream", **needs("metrics:read"))
async def stream_metrics(
    history: NamedDependency[History],
    interval: Annotated[
        float, QueryParameter(ge=SHORTEST, le=LONGEST, description="Seconds between two events.")
    ] = 1.0,
) -> ServerSentEvent:
    """Server-sent events, each with a snapshot."""
    if history.feeds.open >= FEEDS:
        raise ServiceUnavailableException(f"{FEEDS} clients watch already", headers={"Retry-After": "10"})
    return ServerSentEvent(_snapshots(history, interval))


async def _snapshots(history: History, interval: float) -> AsyncIterator[ServerSentEventMessage]:
    with history.feeds.one() as room:
        while room:
            snapshot = await history.live.snapshot()
            yield ServerSentEventMessage(msgspec.json.encode(snapshot).decode(), event="snapshot")
            await asyncio.sleep(interval)


HANDLERS = [watch_metrics, watch_totals, not_a_websocket, stream_metrics]
