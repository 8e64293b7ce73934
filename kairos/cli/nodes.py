"""`kairos nodes`: the gateways that share a database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kairos.cli.shown import moment, table
from kairos.cli.talk import talks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kairos.client import Client


def _node_lines(answer: Any) -> Iterable[str]:
    heads = ("NODE", "STATE", "VERSION", "REVISION", "SEEN", "WORKERS", "REQUESTS", "URL")
    yield from table(heads, [_row(node) for node in answer["nodes"]])
    for node in answer["nodes"]:
        yield from (f"{node['name']}: {problem}" for problem in node["problems"])
    if answer["problem"]:
        yield f"only this node is shown: {answer['problem']}"


def _row(node: Any) -> list[Any]:
    state = "silent" if not node["alive"] else "serves" if node["current"] else "behind"
    status = node["status"]
    name = node["name"] + (" (this)" if node["this"] else "")
    numbers = [status.get("workers", "-"), status.get("requests", "-")]
    return [
        name,
        state,
        node["version"],
        node["revision"] or "own",
        moment(node["seen_at"]),
        *numbers,
        node["url"] or "-",
    ]


@click.command()
@talks(_node_lines)
def nodes(client: Client) -> Any:
    """Show the gateways that share this one's database.

    Which revision each serves with, when it was heard of last, and why one is behind.
    """
    return client.list_nodes()
