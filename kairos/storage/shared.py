"""Configurations that several gateways follow, and what each of those gateways says of itself, in their database.

A shared revision is the part of a document that goes to every node (config/compose.py). Numbers have no gaps and one
writer each: who comes second finds the next number taken (`TakenError`) and has lost nothing. PostgreSQL tells the
others by NOTIFY, which is a hint; that there is something new is found by looking.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any

from msgspec import Struct
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError

from kairos.storage.schema import nodes, shared_revisions

if TYPE_CHECKING:
    from kairos.storage.database import Database

CHANNEL = "kairos_revisions"
KEPT = 1000
FORGOTTEN_S = 7 * 86_400.0
"""After so long without a sign of life a node is no longer listed."""


class TakenError(Exception):
    """Another node's change came first."""


class SharedRevision(Struct, frozen=True):
    """What all nodes are to serve with."""

    number: int
    time: float
    author: str
    message: str
    node: str
    """That wrote it."""
    document: dict[str, Any]


class NodeRow(Struct, frozen=True):
    """What a node said of itself last."""

    name: str
    started_at: float
    seen_at: float
    version: str
    revision: int
    """The shared one it serves with; 0 while it follows none."""
    problems: list[str]
    """Why it does not serve with the newest."""
    status: dict[str, Any]
    url: str
    """Of its admin API; empty where it has none."""


async def newest(database: Database) -> SharedRevision | None:
    """The one to follow. Raises UnavailableError."""
    asked = select(shared_revisions).order_by(shared_revisions.c.number.desc()).limit(1)
    async with database.read() as connection:
        row = (await connection.execute(asked)).mappings().first()
    return None if row is None else SharedRevision(**{**row, "document": json.loads(row["document"])})


async def newest_number(database: Database) -> int:
    """Its number; 0 where there is none. Raises UnavailableError."""
    asked = select(shared_revisions.c.number).order_by(shared_revisions.c.number.desc()).limit(1)
    async with database.read() as connection:
        return int(await connection.scalar(asked) or 0)


async def add(
    database: Database, parent: int, document: dict[str, Any], *, author: str, message: str, node: str
) -> SharedRevision:
    """The successor of `parent`. Raises TakenError, UnavailableError."""
    made = SharedRevision(parent + 1, time.time(), author, message, node, document)
    row = {name: getattr(made, name) for name in made.__struct_fields__} | {"document": json.dumps(document)}
    try:
        async with database.write() as connection:
            await connection.execute(insert(shared_revisions).values(**row))
            await connection.execute(delete(shared_revisions).where(shared_revisions.c.number <= made.number - KEPT))
            if database.dialect == "postgresql":
                await connection.execute(text("SELECT pg_notify(:c, :n)"), {"c": CHANNEL, "n": str(made.number)})
    except IntegrityError as error:
        raise TakenError from error
    return made


async def report(database: Database, node: NodeRow) -> None:
    """A sign of life. Raises UnavailableError."""
    row = {name: getattr(node, name) for name in node.__struct_fields__}
    row |= {"problems": json.dumps(node.problems), "status": json.dumps(node.status)}
    async with database.write() as connection:
        done = await connection.execute(update(nodes).where(nodes.c.name == node.name).values(**row))
        if not done.rowcount:
            await connection.execute(insert(nodes).values(**row))
        await connection.execute(delete(nodes).where(nodes.c.seen_at < node.seen_at - FORGOTTEN_S))


async def all_nodes(database: Database) -> list[NodeRow]:
    """By name. Raises UnavailableError."""
    async with database.read() as connection:
        rows = (await connection.execute(select(nodes).order_by(nodes.c.name))).mappings().all()
    return [
        NodeRow(**{**row, "problems": json.loads(row["problems"]), "status": json.loads(row["status"])}) for row in rows
    ]
