"""The verbs of `kairos connections`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kairos.cli.shown import span, table
from kairos.cli.talk import group, talks
from kairos.inquiry import MAX_SHOWN, PROTOCOLS, SORTS, STATES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kairos.client import Client

HEADS = ("ID", "CLIENT", "STATE", "AGE", "IDLE", "REQUESTS", "RECEIVED", "SENT", "TLS", "REQUEST", "BACKEND")
_UNITS = (("G", 1 << 30), ("M", 1 << 20), ("K", 1 << 10))

_FILTERS = (
    click.option(
        "--client", "addresses", multiple=True, metavar="ADDRESS", help="Of this client or network; may be repeated."
    ),
    click.option("--route", help="With a request for this route."),
    click.option("--backend", metavar="KEY", help="With a request that went there."),
    click.option("--state", multiple=True, type=click.Choice(STATES), help="May be repeated."),
    click.option("--protocol", type=click.Choice(PROTOCOLS)),
    click.option("--port", type=click.IntRange(1, 65535), help="That they connected to."),
    click.option("--worker", type=click.IntRange(0), metavar="SLOT"),
    click.option("--older", "min_age", type=float, metavar="SECONDS", help="Open for so long."),
    click.option("--idle", "min_idle", type=float, metavar="SECONDS", help="Without a byte for so long."),
    click.option("--request", "min_request", type=float, metavar="SECONDS", help="With a request for so long."),
)


def _filtered(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in reversed(_FILTERS):
        command = option(command)
    return command


def _asked(given: dict[str, Any]) -> dict[str, Any]:
    """What was not said is left out; what may be said several times is a list."""
    given["client"] = given.pop("addresses")
    return {name: list(value) if isinstance(value, tuple) else value for name, value in given.items() if value}


def connection_lines(answer: Any) -> Iterable[str]:
    yield from table(HEADS, [_row(one) for one in answer["found"]])
    yield ""
    states = ", ".join(f"{number} {state}" for state, number in sorted(answer["states"].items()))
    shown = f", {len(answer['found'])} of them shown" if answer["cut"] else ""
    yield f"{answer['matched']} of {answer['connections']} connections{shown}" + (f": {states}" if states else "")
    yield from _problems(answer)


def _problems(answer: Any) -> Iterable[str]:
    return (f"not complete: {worker['problem']}" for worker in answer["workers"] if worker["problem"])


def _row(one: Any) -> list[str]:
    request, tls = one["request"], one["tls"]
    state = f"{one['state']} ({request['waits_for']})" if request and request["waits_for"] else one["state"]
    sizes = [size(one["bytes_received"]), size(one["bytes_sent"])]
    words = [one["id"], one["client"], state, span(one["age"]), "-" if one["idle"] is None else span(one["idle"])]
    secure = (tls["version"] or "handshake") if tls else "-"
    asked = f"{request['method']} {request['path']} for {span(request['age'])}" if request else "-"
    return [*words, str(one["requests"]), *sizes, secure, asked, (request and request["backend"]) or "-"]


def size(number: int | None) -> str:
    """`12`, `3.4K`; a dash where nobody knows."""
    if number is None:
        return "-"
    unit, factor = next(((unit, factor) for unit, factor in _UNITS if number >= factor), ("", 1))
    return f"{number / factor:.1f}{unit}" if unit else str(number)


@group("list")
def connections() -> None:
    """Show the connections of clients; close some.

    Those of all workers at this moment, each with the request it carries. Of a path the query is not shown.
    """


@connections.command("list")
@_filtered
@click.option("--sort", type=click.Choice(SORTS), help="What comes first. Default: oldest")
@click.option("-n", "--limit", type=click.IntRange(0, MAX_SHOWN), default=100, show_default=True)
@talks(connection_lines)
def list_connections(client: Client, limit: int, **given: Any) -> Any:
    """List them, the oldest first. The same as without a verb.

    Several conditions have to hold together. All that fit are counted, the first --limit shown.
    """
    return client.list_connections(limit=limit, **_asked(given))


def _closed_lines(answer: Any) -> Iterable[str]:
    gently = " once their answers are out" if answer["gently"] else ""
    yield f"{answer['closed']} connections are closed{gently}"
    yield from _problems(answer)


POOL = ("open", "idle", "in_flight", "connects", "connect_failures", "reuses")


def _pool_lines(answer: Any) -> Iterable[str]:
    heads = ("BACKEND", "WORKER", *(name.replace("_", " ").upper() for name in POOL))
    rows = [
        [pool["backend"], one.get("slot", "all"), *(one[name] for name in POOL)]
        for pool in answer
        for one in (pool, *pool["workers"])
    ]
    return table(heads, rows)


@connections.command()
@talks(_pool_lines)
def pools(client: Client) -> Any:
    """Show the connections to backends, by worker."""
    return client.list_pools()


@connections.command()
@click.argument("ids", nargs=-1, metavar="[ID]...")
@_filtered
@click.option("--gently", is_flag=True, help="Let answers under way go out first; tunnels and streams stay.")
@talks(_closed_lines)
def close(client: Client, ids: tuple[str, ...], gently: bool, **given: Any) -> Any:
    """Close those with an ID as the list shows it, or all that fit.

    A request under way on one is answered 503, or cut where its answer has begun.
    """
    wanted = _asked(given)
    if bool(ids) == bool(wanted):
        raise click.UsageError("give either IDs, or options that say which connections")
    if wanted:
        return client.close_connections(gently=gently, **wanted)
    found = [client.close_connection(one, gently=gently) for one in ids]
    return {"closed": len(found), "gently": gently, "found": found, "workers": []}
