"""What verbs that change the configuration have in common: options, and what came of it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

MESSAGE = click.option("-m", "--message", metavar="TEXT", help="Why, for the history.")
DRY_RUN = click.option("--dry-run", is_flag=True, default=None, help="Say what would come of it; change nothing.")
IF_MATCH = click.option("--if-match", metavar="ETAG", help="Only if the configuration is still this one.")


def changes_with(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a verb the options of a change."""
    for option in (IF_MATCH, DRY_RUN, MESSAGE):
        command = option(command)
    return command


def change_lines(answer: Any) -> Iterable[str]:
    """What came of a change, for people."""
    yield answer["message"]
    if answer.get("text_diff"):
        yield from (f"  {line}" for line in answer["text_diff"].splitlines())
    yield from (f"warning: {warning}" for warning in answer.get("warnings") or [])
    if restart := answer.get("restart_required"):
        yield f"in force after a restart: {', '.join(restart)}"
    yield from answer.get("notes") or []
