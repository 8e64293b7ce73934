"""What happens now: events, requests as they end, lines of the program's log; as SSE and over WebSocket."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar, cast

import msgspec
from litestar import Request, Response, WebSocket, get, websocket
from litestar.di import NamedDependency, Provide
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import FromQuery, Parameter, QueryParameter

from kairos.config.log import Level
from kairos.control.api.guards import needs
from kairos.control.api.streams import HEARTBEAT_S, MEDIA_TYPE, Frame, alive, event_stream, push
from kairos.control.commands import CommandError
from kairos.control.events import KEPT, AnyEvent, EventBus, TooManyWatchersError, kinds
from kairos.control.tail import MAX_RATE, RATE, ProgramFilter, RequestFilter, Tail

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable

    from kairos.control.events import EventWatcher
    from kairos.control.tail import Watcher

TAGS = ["Live"]
Log = Literal["requests", "program"]
Word = Annotated[str | None, Parameter(max_length=1024)]
Words = Annotated[list[str] | None, Parameter(max_items=32)]
Share = Annotated[float, Parameter(gt=0, le=1, description="Of the lines that fit.")]
Rate = Annotated[float, Parameter(gt=0, le=MAX_RATE, description="Lines a second at most; the rest is dropped.")]
Recent = Annotated[int, Parameter(ge=0, le=1000, description="Of the newest lines, before those to come.")]
Types = Annotated[
    list[str] | None, QueryParameter(name="type", max_items=64, description="Only events of these types.")
]
After = Annotated[str | None, Parameter(max_length=64, description="Go on behind the event of this id.")]
_Result = TypeVar("_Result")
_Request = Request[Any, Any, Any]
_Socket = WebSocket[Any, Any, Any]


def stream(what: str) -> dict[int, ResponseSpec]:
    """How the description tells of an event stream."""
    media: Any = MEDIA_TYPE
    return {200: ResponseSpec(str, generate_examples=False, description=what, media_type=media)}


def asked(ask: Callable[[], _Result]) -> _Result:
    """What a watcher or filter comes to."""
    try:
        return ask()
    except TooManyWatchersError as error:
        raise CommandError("unavailable", str(error)) from None
    except ValueError as error:
        raise CommandError("invalid", str(error)) from None


# --- events -----------------------------------------------------------------------------------------------------------


@get("/api/events", tags=TAGS, sync_to_thread=False, responses=stream("Events."), **needs("status:read"))
def watch_events(
    request: _Request, events: NamedDependency[EventBus], types: Types = None, after: After = None
) -> Response[str]:
    """Events as they happen (SSE).

    Those behind `after` come first, or behind Last-Event-ID, which browsers send by themselves when they come
    back; `lost` says that some are not kept any more."""
    last = request.headers.get("last-event-id") or after or ""
    watcher = asked(lambda: events.watch(kinds(types or ()), last))
    return event_stream(_events(watcher), watcher)  # type: ignore[return-value]


@websocket("/api/events", **needs("status:read"))
async def push_events(
    socket: _Socket, events: NamedDependency[EventBus], types: Types = None, after: After = None
) -> None:
    """The same over WebSocket."""
    watcher = asked(lambda: events.watch(kinds(types or ()), after or ""))
    await push(socket, _events(watcher))


@get("/api/events/recent", tags=TAGS, sync_to_thread=False, **needs("status:read"))
def list_events(
    events: NamedDependency[EventBus], types: Types = None, limit: Annotated[int, Parameter(ge=1, le=KEPT)] = 100
) -> list[AnyEvent]:
    """The newest events that are kept, in the order of their coming."""
    return cast("list[AnyEvent]", asked(lambda: events.recent(kinds(types or ()), limit)))


async def _events(watcher: EventWatcher) -> AsyncGenerator[list[Frame]]:
    began = time.monotonic()
    try:
        while alive(began):
            found = await watcher.take(HEARTBEAT_S)
            frames = [Frame("lost", b"{}")] if watcher.lost else []
            watcher.lost = False
            for event in found:
                tag = str(type(event).__struct_config__.tag)
                frames.append(Frame(tag, msgspec.json.encode(event), event.id))
            yield frames
    finally:
        watcher.close()


# --- the tail ---------------------------------------------------------------------------------------------------------


def request_filter(
    route: Word = None,
    upstream: Word = None,
    method: Words = None,
    status: Words = None,
    host: Word = None,
    path: Word = None,
    client: Word = None,
    request_id: Word = None,
    trace_id: Word = None,
    min_ms: Annotated[float, Parameter(ge=0)] = 0,
    flagged: FromQuery[bool] = False,
    text: Word = None,
) -> RequestFilter:
    """Which requests; several conditions have to hold together. `status` is 503 or 5xx, `path` may have `*` in it,
    `client` is an address or a network, `min_ms` a duration, `flagged` those that did not go well."""
    return RequestFilter(
        route=route, upstream=upstream, method=method or [], status=status or [], host=host, path=path, client=client,
        request_id=request_id, trace_id=trace_id, min_ms=min_ms, flagged=flagged, text=text,
    )  # fmt: skip


def program_filter(level: FromQuery[Level] = "debug", component: Words = None, text: Word = None) -> ProgramFilter:
    """Which lines of the program's log: from a level on, of these components."""
    return ProgramFilter(level=level, component=component or [], text=text)


FILTERS = {
    "requests": Provide(request_filter, sync_to_thread=False),
    "lines": Provide(program_filter, sync_to_thread=False),
}


@get(
    "/api/tail", tags=TAGS, sync_to_thread=False, dependencies=FILTERS, responses=stream("Lines of the access log."),
    **needs("tail:read"),
)  # fmt: skip
def watch_requests(
    tail: NamedDependency[Tail],
    requests: NamedDependency[RequestFilter],
    rate: Rate = RATE,
    sample: Share = 1.0,
    recent: Recent = 20,
) -> Response[str]:
    """Requests as they end (SSE, events `request`), as the access log tells of them.

    Whatever the section access_log says; `dropped` says how many lines were left out for you."""
    watcher, before = _watch_requests(tail, requests, rate, sample, recent)
    return event_stream(_lines("request", watcher, before), watcher)  # type: ignore[return-value]


@websocket("/api/tail", dependencies=FILTERS, **needs("tail:read"))
async def push_requests(
    socket: _Socket,
    tail: NamedDependency[Tail],
    requests: NamedDependency[RequestFilter],
    rate: Rate = RATE,
    sample: Share = 1.0,
    recent: Recent = 20,
) -> None:
    """The same over WebSocket."""
    watcher, before = _watch_requests(tail, requests, rate, sample, recent)
    await push(socket, _lines("request", watcher, before))


@get(
    "/api/logs/tail", tags=TAGS, sync_to_thread=False, dependencies=FILTERS, responses=stream("Lines of the log."),
    **needs("tail:read"),
)  # fmt: skip
def watch_log(
    tail: NamedDependency[Tail], lines: NamedDependency[ProgramFilter], rate: Rate = RATE, recent: Recent = 20
) -> Response[str]:
    """Lines of the program's log as they are written (SSE, events `line`), of all processes."""
    watcher, before = _watch_log(tail, lines, rate, recent)
    return event_stream(_lines("line", watcher, before), watcher)  # type: ignore[return-value]


@websocket("/api/logs/tail", dependencies=FILTERS, **needs("tail:read"))
async def push_log(
    socket: _Socket,
    tail: NamedDependency[Tail],
    lines: NamedDependency[ProgramFilter],
    rate: Rate = RATE,
    recent: Recent = 20,
) -> None:
    """The same over WebSocket."""
    watcher, before = _watch_log(tail, lines, rate, recent)
    await push(socket, _lines("line", watcher, before))


def _watch_requests(
    tail: Tail, wanted: RequestFilter, rate: float, sample: float, recent: int
) -> tuple[Watcher, list[bytes]]:
    before = asked(lambda: tail.requests.newest(wanted, recent))
    return asked(lambda: tail.watch_requests(wanted, rate=rate, sample=sample)), before


def _watch_log(tail: Tail, wanted: ProgramFilter, rate: float, recent: int) -> tuple[Watcher, list[bytes]]:
    before = asked(lambda: tail.program.newest(wanted, recent))
    return asked(lambda: tail.watch_program(wanted, rate=rate)), before


async def _lines(kind: str, watcher: Watcher, before: list[bytes]) -> AsyncGenerator[list[Frame]]:
    began = time.monotonic()
    try:
        yield [Frame(kind, line) for line in before]
        while alive(began):
            frames = [Frame(kind, line) for line in await watcher.take(HEARTBEAT_S)]
            if watcher.dropped:
                frames.append(Frame("dropped", b'{"lines":%d}' % watcher.dropped))
                watcher.dropped = 0
            yield frames
    finally:
        watcher.close()


HANDLERS = [watch_events, push_events, list_events, watch_requests, push_requests, watch_log, push_log]
