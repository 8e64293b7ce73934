"""`kairos bans` and `kairos limits`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kairos.cli.shown import table
from kairos.cli.talk import group, talks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kairos.client import Client


def _ban_lines(answer: Any) -> Iterable[str]:
    heads = ("ADDRESS", "JAIL", "SECONDS LEFT", "OFFENCES")
    return table(heads, [[ban["address"], ban["jail"], round(ban["seconds"]), ban["offences"]] for ban in answer])


@group("list")
def bans() -> None:
    """Show which addresses are banned; let one in again.

    Of IPv6 a /64 is banned. A ban that is lifted counts as never given.
    """


@bans.command("list")
@talks(_ban_lines)
def list_bans(client: Client) -> Any:
    """List the bans in force, the longest first. The same as without a verb."""
    return client.list_bans()


def _lifted(answer: Any) -> Iterable[str]:
    yield f"{answer['address']} is let in again"


@bans.command()
@click.argument("address")
@talks(_lifted)
def lift(client: Client, address: str) -> Any:
    """Let an address in again, whatever it was banned for."""
    return client.lift_ban(address)


def _limit_lines(answer: Any) -> Iterable[str]:
    rows = [[one["limit"], one["allowed"], one["limited"], one["unshared"]] for one in answer["limits"]]
    yield from table(("LIMIT", "ALLOWED", "LIMITED", "WITHOUT REDIS"), rows)
    for one in answer["tables"]:
        kept = f"{one['keys']} of {one['places']} places for keys taken"
        yield f"{one['table']}: {kept}, {one['forgotten']} forgotten, {one['full']} refused for want of one"
    if answer["redis_down"]:
        yield f"Redis does not answer {answer['redis_down']} of the workers"


@click.command()
@talks(_limit_lines)
def limits(client: Client) -> Any:
    """Show what rate limits did.

    And how many keys (addresses, users, ...) they remember.
    """
    return client.show_limits()
