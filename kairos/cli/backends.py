"""The verbs of `kairos backends`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import click

from kairos.cli.shown import table
from kairos.cli.talk import group, talks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kairos.client import Client


def _backend_lines(answer: Any) -> Iterable[str]:
    heads = ("BACKEND", "STATE", "WEIGHT", "BREAKER", "IN FLIGHT", "ATTEMPTS", "FAILURES", "CHECK")
    return table(heads, [_backend_row(backend) for backend in (answer if isinstance(answer, list) else [answer])])


def _backend_row(backend: Any) -> list[Any]:
    breaker = backend["breaker"] + (" (forced)" if backend["breaker_forced"] else "")
    numbers = [backend[name] for name in ("in_flight", "attempts", "failures")]
    return [backend["key"], backend["state"], f"{backend['weight']} %", breaker, *numbers, _checked(backend["check"])]


def _checked(check: Any) -> str:
    if check is None:
        return "none"
    return "passes" if check["last_ok"] else check["last_reason"] or "not yet"


@group("list")
def backends() -> None:
    """Show backends; drain them, weigh them, force their breakers.

    What is set holds at once in every worker and stays, over restarts too, until it is set otherwise. KEY is a backend
    as the list shows it, such as http://10.0.0.7:8080; its end will do where only one ends so.
    """


@backends.command("list")
@talks(_backend_lines)
def list_backends(client: Client) -> Any:
    """List every backend of the configuration in use. The same as without a verb."""
    return client.list_backends()


KEY = click.argument("key")


@backends.command()
@KEY
@talks(_backend_lines)
def drain(client: Client, key: str) -> Any:
    """Give it no new requests; those under way finish."""
    return client.change_backend(_key(client, key), state="drain")


@backends.command()
@KEY
@talks(_backend_lines)
def maintenance(client: Client, key: str) -> Any:
    """Give it no new requests, for longer than a drain.

    The workers do the same as for drain; lists and metrics tell the two apart.
    """
    return client.change_backend(_key(client, key), state="maintenance")


@backends.command()
@KEY
@talks(_backend_lines)
def activate(client: Client, key: str) -> Any:
    """Take it back after drain or maintenance."""
    return client.change_backend(_key(client, key), state="active")


@backends.command()
@KEY
@click.argument("percent", type=click.IntRange(0, 100))
@talks(_backend_lines)
def weight(client: Client, key: str, percent: int) -> Any:
    """Leave it PERCENT of its share.

    Of the share that its weight in the configuration gives it; 100 is all of it.
    """
    return client.change_backend(_key(client, key), weight=percent)


@backends.command()
@KEY
@click.argument("state", type=click.Choice(["open", "closed", "auto"]))
@talks(_backend_lines)
def breaker(client: Client, key: str, state: Literal["open", "closed", "auto"]) -> Any:
    """Force its circuit breaker.

    open lets nothing through, closed everything; auto lets it decide by itself again.
    """
    return client.change_backend(_key(client, key), breaker=state)


@backends.command()
@KEY
@talks(_backend_lines)
def probe(client: Client, key: str) -> Any:
    """Check its health now.

    Without waiting for the next interval; the result counts like any other.
    """
    return client.probe_backend(_key(client, key))


def _key(client: Client, given: str) -> str:
    """The backend that is meant; the gateway says what is wrong with a key that fits none, or several."""
    keys = [backend.key for backend in client.list_backends()]
    meant = [key for key in keys if key.endswith(given)]
    return given if given in keys or len(meant) != 1 else meant[0]
