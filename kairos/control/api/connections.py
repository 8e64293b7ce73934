"""The client connections of all workers at this moment: looked at, and closed."""

from __future__ import annotations

from typing import Annotated, Any

from litestar import Request, delete, get
from litestar.di import NamedDependency, Provide
from litestar.params import FromPath, FromQuery, Parameter, QueryParameter

from kairos.control.api.guards import needs
from kairos.control.api.recording import note
from kairos.control.commands import Commands
from kairos.control.connections import ClosedConnections, Connections
from kairos.control.pools import Pool
from kairos.inquiry import MAX_SHOWN, Connection, Protocol, Sort, State, Wanted

TAGS = ["Connections"]
Word = Annotated[str | None, Parameter(max_length=1024)]
Words = Annotated[list[str] | None, Parameter(max_items=64)]
States = Annotated[list[State] | None, QueryParameter(name="state", max_items=8)]
Slot = Annotated[int | None, Parameter(ge=0, le=4096, description="Only of this worker.")]
Port = Annotated[int, Parameter(ge=0, le=65535)]
Seconds = Annotated[float, Parameter(ge=0, le=1e9)]
Limit = Annotated[int, Parameter(ge=0, le=MAX_SHOWN, description="Connections that are shown; all that fit count.")]
Gently = Annotated[bool, Parameter(description="Let the answer under way go out first; tunnels and streams stay.")]
_Request = Request[Any, Any, Any]


def wanted_connections(
    client: Words = None,
    route: Word = None,
    backend: Word = None,
    states: States = None,
    protocol: FromQuery[Protocol | None] = None,
    port: Port = 0,
    min_age: Seconds = 0.0,
    min_idle: Seconds = 0.0,
    min_request: Seconds = 0.0,
) -> Wanted:
    """Which connections; several conditions have to hold together. `client` is an address or a network, `route` and
    `backend` those of the request under way, `port` the gateway's; the rest are seconds: since it was accepted, since
    bytes went either way, since its request began."""
    return Wanted(
        client=client or [], route=route, backend=backend, state=states or [], protocol=protocol, port=port,
        min_age=min_age, min_idle=min_idle, min_request=min_request,
    )  # fmt: skip


FILTERS = {"wanted": Provide(wanted_connections, sync_to_thread=False)}


@get("/api/connections", tags=TAGS, dependencies=FILTERS, **needs("connections:read"))
async def list_connections(
    commands: NamedDependency[Commands],
    wanted: NamedDependency[Wanted],
    worker: Slot = None,
    sort: FromQuery[Sort] = "oldest",
    limit: Limit = 100,
) -> Connections:
    """Those of clients, in all workers.

    The first `limit` are shown, all that fit are counted. A worker that does not answer is named, and the answer is
    not `complete`."""
    return await commands.connections(wanted, sort, limit, worker)


@delete(
    "/api/connections", tags=TAGS, status_code=200, dependencies=FILTERS,
    **needs("connections:operate", action="connections.close"),
)  # fmt: skip
async def close_connections(
    request: _Request,
    commands: NamedDependency[Commands],
    wanted: NamedDependency[Wanted],
    worker: Slot = None,
    gently: Gently = False,
) -> ClosedConnections:
    """Close all that fit; there has to be a condition.

    A request under way on one fails with 503 `closed_by_operator`, or is cut where its answer has begun."""
    closed = await commands.close_connections(wanted, gently=gently, worker=worker)
    note(request, {"closed": closed.closed, "gently": gently, "query": request.url.query})
    return closed


@delete(
    "/api/connections/{connection_id:str}", tags=TAGS, status_code=200,
    **needs("connections:operate", action="connection.close"),
)  # fmt: skip
async def close_connection(
    request: _Request, commands: NamedDependency[Commands], connection_id: FromPath[str], gently: Gently = False
) -> Connection:
    """Close one by its id; it is answered as it was."""
    closed = await commands.close_connection(connection_id, gently=gently)
    note(request, {"client": closed.client, "state": closed.state, "gently": gently, **_carried(closed)})
    return closed


def _carried(closed: Connection) -> dict[str, str]:
    under_way = closed.request
    return {} if under_way is None else {"route": under_way.route, "request_id": under_way.id}


@get("/api/pools", tags=TAGS, sync_to_thread=False, **needs("status:read"))
def list_pools(commands: NamedDependency[Commands]) -> list[Pool]:
    """Connections to backends, open and idle, by worker."""
    return commands.pools()


HANDLERS = [list_connections, close_connections, close_connection, list_pools]
