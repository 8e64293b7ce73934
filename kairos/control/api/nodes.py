"""The gateways that share a database: how each of them is, and with which revision it serves."""

from __future__ import annotations

import time
from typing import Any, Literal

from litestar import get
from litestar.di import NamedDependency
from msgspec import Struct

from kairos.control.api.guards import needs
from kairos.control.nodes import ALIVE_S, Reporter
from kairos.storage import shared
from kairos.storage.database import Database, UnavailableError

TAGS = ["Nodes"]


class Node(Struct, frozen=True):
    """One gateway."""

    name: str
    this: bool
    """It is the one that answers."""
    alive: bool
    """It said so within the last seconds."""
    seen_at: float
    """Unix seconds."""
    started_at: float
    version: str
    revision: int
    """The shared one it serves with; 0 where its configuration is its own."""
    current: bool
    """That is the newest."""
    problems: list[str]
    """Why it is not."""
    url: str
    """Of its admin API; empty where it has none."""
    status: dict[str, Any]
    """Its workers, backends and traffic, as it said last."""


class Nodes(Struct, frozen=True):
    """All of them."""

    source: Literal["file", "database"]
    """Where this node's configuration is."""
    revision: int
    """The newest shared one."""
    nodes: list[Node]
    problem: str = ""
    """Why only this node is shown: the database cannot be reached."""


@get("/api/nodes", tags=TAGS, **needs("status:read"))
async def list_nodes(database: NamedDependency[Database], reporter: NamedDependency[Reporter]) -> Nodes:
    """Every gateway with the same database; this one alone while that cannot be reached."""
    own = reporter.row()
    try:
        newest = await shared.newest_number(database)
        rows = await shared.all_nodes(database)
        problem = ""
    except UnavailableError as error:
        newest, rows, problem = own.revision, [], str(error)
    rows = [own, *(row for row in rows if row.name != own.name)]
    found = [_shown(row, own.name, newest) for row in sorted(rows, key=lambda row: row.name)]
    return Nodes("database" if reporter.follows else "file", newest, found, problem)


def _shown(row: shared.NodeRow, own: str, newest: int) -> Node:
    return Node(
        name=row.name,
        this=row.name == own,
        alive=time.time() - row.seen_at < ALIVE_S,
        seen_at=row.seen_at,
        started_at=row.started_at,
        version=row.version,
        revision=row.revision,
        current=row.revision == newest or not row.revision,
        problems=row.problems,
        url=row.url,
        status=row.status,
    )


HANDLERS = [list_nodes]
