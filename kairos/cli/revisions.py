"""The verbs of `kairos revisions`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from kairos.cli.changes import change_lines, changes_with
from kairos.cli.shown import moment, table
from kairos.cli.talk import group, talks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kairos.client import Client


def _revision_lines(answer: Any) -> Iterable[str]:
    heads = ("REVISION", "IN USE SINCE", "BY", "THROUGH", "SHA-256", "MESSAGE")
    names = ("number", "time", "author", "origin", "sha256", "message")
    rows = [[revision[name] for name in names] for revision in answer]
    return table(heads, [[row[0], moment(row[1]), row[2] or "-", row[3], row[4][:12], row[5]] for row in rows])


@group("list")
def revisions() -> None:
    """Show the configurations that were in use.

    The newest 50 are kept in the state folder, as they were read. A reload that changes no text adds none. A gateway
    whose file cannot be used starts with the newest one when it is given --last-good.
    """


@revisions.command("list")
@talks(_revision_lines)
def list_revisions(client: Client) -> Any:
    """List those that are kept, newest first. The same as without a verb."""
    return client.list_revisions()


def _config_lines(answer: Any) -> Iterable[str]:
    yield json.dumps(answer["config"], indent=2, ensure_ascii=False)


@revisions.command()
@click.argument("number", type=click.IntRange(1))
@talks(_config_lines)
def show(client: Client, number: int) -> Any:
    """Print one in the canonical form, secrets masked, ${...} as written."""
    return client.get_revision(number)


NUMBER = click.argument("number", type=click.IntRange(1))


def _diff_lines(answer: Any) -> Iterable[str]:
    return answer["text_diff"].splitlines() or [f"revisions {answer['before']} and {answer['after']} say the same"]


@revisions.command()
@NUMBER
@click.option("--against", type=click.IntRange(1), help="An older one; by default it is compared with what is in use.")
@talks(_diff_lines)
def diff(client: Client, number: int, against: int | None) -> Any:
    """Show what changed: from NUMBER to what is in use, or from --against to NUMBER."""
    return client.diff_revision(number, against=against)


@revisions.command()
@NUMBER
@changes_with
@talks(change_lines)
def rollback(client: Client, number: int, **wish: Any) -> Any:
    """Use revision NUMBER again, as a new revision."""
    return client.rollback_revision(number, **wish)
