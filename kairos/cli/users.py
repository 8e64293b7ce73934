"""`kairos users`, `kairos roles` and `kairos tokens`: who may manage the gateway."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from msgspec import UNSET

from kairos.cli.shown import moment, table
from kairos.cli.talk import group, talks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kairos.client import Client

NAME = click.argument("name")


def _user_lines(answer: Any) -> Iterable[str]:
    heads = ("USER", "ROLES", "STATE", "LAST LOGIN", "E-MAIL")
    found = answer if isinstance(answer, list) else [answer]
    return table(heads, [_row(user) for user in found])


def _row(user: Any) -> list[str]:
    state = "disabled" if user["disabled"] else "active"
    return [user["name"], ",".join(user["roles"]) or "-", state, moment(user["last_login_at"]), user["email"] or "-"]


def _made_lines(answer: Any) -> Iterable[str]:
    yield from _user_lines(answer["user"])
    if password := answer.get("one_time_password"):
        yield f"one-time password: {password}"
        yield "It is shown only now, and has to be changed at the first login."


def _done(answer: Any) -> Iterable[str]:
    yield answer


@group("list")
def users() -> None:
    """Show and change who may manage the gateway.

    Over the socket in the state folder this always works: whoever runs the gateway can let somebody in again.
    """


@users.command("list")
@talks(_user_lines)
def list_users(client: Client) -> Any:
    """List everybody. The same as without a verb."""
    return client.list_users()


@users.command()
@NAME
@click.option("--role", "roles", multiple=True, required=True, help="viewer, operator, editor, admin, or your own.")
@click.option("--display-name")
@click.option("--email")
@talks(_made_lines)
def add(client: Client, name: str, roles: tuple[str, ...], display_name: str | None, email: str | None) -> Any:
    """Add somebody, with a one-time password."""
    return client.add_user(name=name, roles=list(roles), display_name=display_name or UNSET, email=email or UNSET)


@users.command()
@NAME
@click.option("--role", "roles", multiple=True, help="All the roles they are to have.")
@click.option("--disable/--enable", "disabled", default=None, help="Who is disabled is logged out everywhere.")
@talks(_user_lines)
def change(client: Client, name: str, roles: tuple[str, ...], disabled: bool | None) -> Any:
    """Give somebody other roles, or shut them out."""
    return client.change_user(
        name, roles=list(roles) if roles else UNSET, disabled=UNSET if disabled is None else disabled
    )


@users.command("reset-password")
@NAME
@talks(_made_lines)
def reset_password(client: Client, name: str) -> Any:
    """Give somebody a one-time password; sessions and tokens end."""
    return client.reset_password(name)


@users.command()
@NAME
@talks(_done)
def rm(client: Client, name: str) -> Any:
    """Remove somebody for good, with sessions and tokens."""
    client.remove_user(name)
    return f"{name} is removed"


def _role_lines(answer: Any) -> Iterable[str]:
    rows = [[role["name"], role["description"] or "-", ",".join(role["permissions"])] for role in answer]
    return table(("ROLE", "ABOUT", "PERMISSIONS"), rows)


@click.command()
@talks(_role_lines)
def roles(client: Client) -> Any:
    """List the roles, and what they allow."""
    return client.list_roles()


def _token_lines(answer: Any) -> Iterable[str]:
    names = ("created_at", "expires_at", "used_at")
    rows = [[one["id"], one["name"], *(moment(one[name]) for name in names)] for one in answer]
    return table(("TOKEN", "NAME", "MADE", "UNTIL", "LAST USED"), rows)


def _secret_lines(answer: Any) -> Iterable[str]:
    yield answer["token"]


@group(None)
def tokens() -> None:
    """Make and revoke tokens: what programs manage the gateway with, in a user's name."""


@tokens.command("list")
@click.argument("user")
@talks(_token_lines)
def list_tokens(client: Client, user: str) -> Any:
    """List a user's, without their secrets."""
    return client.list_tokens(user)


@tokens.command()
@click.argument("user")
@NAME
@click.option("--scope", "scopes", multiple=True, help="A permission, as kairos roles lists them; by default all.")
@click.option("--days", type=click.IntRange(1), help="How long it is good.")
@talks(_secret_lines)
def new(client: Client, user: str, name: str, scopes: tuple[Any, ...], days: int | None) -> Any:
    """Make one called NAME: printed now and never again."""
    return client.make_token(user, name_=name, scopes=list(scopes) or UNSET, days=days or UNSET)


@tokens.command()
@click.argument("user")
@click.argument("token_id", metavar="TOKEN")
@talks(_done)
def revoke(client: Client, user: str, token_id: str) -> Any:
    """End one at once. TOKEN is what the list calls it."""
    client.revoke_token(user, token_id)
    return f"{token_id} is revoked"
