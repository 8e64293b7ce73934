"""`kairos audit`: what was done to the gateway, and by whom."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Literal

import click

from kairos.cli.shown import moment, table
from kairos.cli.talk import answering, fail, group, taken, talks, with_options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kairos.client import Client


def _lines(answer: Any) -> Iterable[str]:
    heads = ("NUMBER", "WHEN", "WHO", "FROM", "WHAT", "TARGET", "OUTCOME")
    names = ("actor", "address", "action", "target", "outcome")
    return table(
        heads,
        [[one["number"], moment(one["time"]), *(one[name] or "-" for name in names)] for one in answer["entries"]],
    )


@group("list")
def audit() -> None:
    """Search the audit log: logins, changes, refused attempts.

    Its entries are chained by hashes: verify finds one that was changed or taken out.
    """


@audit.command("list")
@click.option("--actor", help="Only of this user.")
@click.option("--action", help="Only these, or those that begin so.")
@click.option("--outcome", type=click.Choice(["done", "refused", "failed"]))
@click.option("--since", metavar="TIME", help="ISO 8601.")
@click.option("--text", help="Only with this in them.")
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True)
@talks(_lines)
def list_entries(
    client: Client,
    actor: str | None,
    action: str | None,
    outcome: Literal["done", "refused", "failed"] | None,
    since: str | None,
    text: str | None,
    limit: int,
) -> Any:
    """The newest first. The same as without a verb."""
    return client.search_audit(actor=actor, action=action, outcome=outcome, since=since, text=text, limit=limit)


@audit.command()
@with_options
@click.pass_context
def verify(context: click.Context, /, **given: Any) -> None:
    """Check the chain. Exit code 1: an entry was changed or is missing."""
    with answering(taken(context, given)) as client:
        found = client.verify_audit()
    if not found.intact:
        fail(1, [f"not intact: entry {found.broken_at}: {found.reason}"])
    gone = f" after {found.pruned} that were kept long enough" if found.pruned else ""
    click.echo(f"intact: {found.entries} entries{gone}, the last is {found.number} with hash {found.hash}")


@audit.command()
@click.option("--format", "format_", type=click.Choice(["jsonl", "csv"]), default="jsonl", show_default=True)
@click.option("--since", metavar="TIME", help="ISO 8601: only from then on.")
@click.option("--until", metavar="TIME", help="ISO 8601: only before then.")
@with_options
@click.pass_context
def export(
    context: click.Context, /, format_: Literal["jsonl", "csv"], since: str | None, until: str | None, **given: Any
) -> None:
    """Write all of it to standard output."""
    with answering(taken(context, given)) as client:
        data = client.export_audit(format=format_, since=since, until=until)
    sys.stdout.write(data)
