"""`kairos top`: a table of the gateway at this moment that renews itself."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from kairos.cli.shown import span
from kairos.cli.talk import answering, taken, with_options

if TYPE_CHECKING:
    from collections.abc import Iterator

    from rich.console import Group

    from kairos.client import Client

WIDTH = 160  # where there is no terminal to ask


@click.command()
@click.option("--every", type=click.FloatRange(0.2, 60), default=1.0, show_default=True, metavar="SECONDS")
@click.option("--once", is_flag=True, help="Print it and end.")
@click.option("--longest", type=click.IntRange(0, 100), default=5, show_default=True, help="Requests under way shown.")
@with_options
@click.pass_context
def top(context: click.Context, /, every: float, once: bool, longest: int, **given: Any) -> None:
    """Watch the gateway: traffic, workers, backends, the requests that take the longest. Ctrl-C ends it."""
    from rich.console import Console
    from rich.live import Live

    with answering(taken(context, given)) as client:
        console = Console(width=None if sys.stdout.isatty() else WIDTH)
        try:
            while once or not console.is_terminal:  # one table below the other
                console.print(view(client, longest))
                if once:
                    return
                time.sleep(every)
            with Live(view(client, longest), console=console, screen=True, auto_refresh=False) as live:
                while True:
                    time.sleep(every)
                    live.update(view(client, longest), refresh=True)
        except KeyboardInterrupt:
            return


def view(client: Client, longest: int) -> Group:
    """All of it, as it is now; connections only for those who may see them."""
    from rich.console import Group

    status, now = client.status(), client.show_snapshot()
    head = (
        f"[bold]kairos {status.version}[/] {status.phase} for {span(status.uptime)}, revision {status.revision}    "
        f"{now.requests_total} requests, {now.success_rate:.2f} % good, {now.avg_response_time:.2f} ms, "
        f"{now.active_connections} under way, {now.connections} connections"
    )
    return Group(head, *_connections(client, longest), _workers(status.workers), _backends(client))


def _connections(client: Client, longest: int) -> Iterator[Any]:
    from rich.markup import escape
    from rich.table import Table

    from kairos.client import ForbiddenError

    try:
        seen = client.list_connections(sort="request", limit=longest)
    except ForbiddenError:
        return
    yield "connections: " + (", ".join(f"{count} {state}" for state, count in sorted(seen.states.items())) or "none")
    yield from (f"[yellow]not complete: {escape(worker.problem)}[/]" for worker in seen.workers if worker.problem)
    made = Table("connection", "client", "state", "for", "request", "backend", box=None, header_style="dim")
    for one in seen.found:
        if (request := one.request) is not None:
            asked = escape(f"{request.method} {request.path}")
            made.add_row(one.id, one.client, one.state, span(request.age), asked, escape(request.backend or "-"))
    if made.row_count:
        yield made


def _workers(workers: Any) -> Any:
    from rich.table import Table

    made = Table("worker", "process", "revision", "connections", "requests", box=None, header_style="dim")
    for worker in workers:
        made.add_row(*map(str, (worker.slot, worker.pid, worker.revision, worker.connections, worker.requests)))
    return made


def _backends(client: Client) -> Any:
    from rich.table import Table

    heads = ("backend", "state", "weight", "breaker", "in flight", "attempts", "failures")
    made = Table(*heads, box=None, header_style="dim")
    for one in client.list_backends():
        color = {"healthy": "green", "unhealthy": "red", "ejected": "red"}.get(one.state, "yellow")
        numbers = map(str, (one.in_flight, one.attempts, one.failures))
        made.add_row(one.key, f"[{color}]{one.state}[/]", f"{one.weight} %", one.breaker, *numbers)
    return made
