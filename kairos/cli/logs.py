"""`kairos logs` and `kairos events`: what happens in a gateway, as it happens."""

from __future__ import annotations

import contextlib
import json
from typing import TYPE_CHECKING, Any

import click
from msgspec import UNSET

from kairos.cli.shown import moment, table
from kairos.cli.talk import answering, group, taken, talks, with_options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kairos.client import Client


@group(None)
def logs() -> None:
    """Watch requests and the program's log; set what is logged."""


@logs.command()
@click.option("--route", help="Only of this route.")
@click.option("--status", "statuses", multiple=True, metavar="CODE", help="503 or 5xx; may be repeated.")
@click.option("--method", "methods", multiple=True)
@click.option("--path", help="Only this path; * stands for anything.")
@click.option("--client", "client_address", metavar="ADDRESS", help="Only of this client, or network.")
@click.option("--upstream", help="Only those that went there.")
@click.option("--min-ms", type=float, help="Only those that took so long.")
@click.option("--text", help="Only lines with this in them.")
@click.option("--program", is_flag=True, help="The program's own log in place of requests.")
@click.option("--recent", type=click.IntRange(0, 1000), default=20, show_default=True, help="So many of before first.")
@click.option("-n", "--count", type=click.IntRange(1), help="End after so many lines.")
@with_options
@click.pass_context
def tail(context: click.Context, /, program: bool, recent: int, count: int | None, **given: Any) -> None:
    """Follow requests as they end. Ctrl-C ends it.

    Whatever access_log says: workers tell of requests while somebody watches. Secrets are not shown.
    """
    options = taken(context, given)
    with answering(options) as client, contextlib.suppress(KeyboardInterrupt):
        lines = _program(client, recent, given) if program else _requests(client, recent, given)
        for number, line in enumerate(lines, 1):
            click.echo(json.dumps(line, ensure_ascii=False) if options["output"] == "json" else _readable(line))
            if number == count:
                break


def _requests(client: Client, recent: int, given: dict[str, Any]) -> Iterable[Any]:
    events = client.watch_requests(
        route=given["route"], status=list(given["statuses"]) or None, method=list(given["methods"]) or None,
        path=given["path"], client=given["client_address"], upstream=given["upstream"], min_ms=given["min_ms"],
        text=given["text"], recent=recent,
    )  # fmt: skip
    return (event.data for event in events if event.type == "request")


def _program(client: Client, recent: int, given: dict[str, Any]) -> Iterable[Any]:
    return (event.data for event in client.watch_log(text=given["text"], recent=recent) if event.type == "line")


def _readable(line: Any) -> str:
    if "event" in line:
        extra = " ".join(f"{key}={value}" for key, value in line.items() if key not in ("time", "level", "event"))
        return f"{line.get('time', '')} {line.get('level', ''):7} {line['event']}  {extra}"
    took = line.get("duration_ms", line.get("total_ms", ""))
    words = (line.get(name, "") for name in ("time", "client", "method", "host", "path", "status"))
    return " ".join(str(word) for word in words) + f" {took} ms {line.get('upstream') or ''}".rstrip()


def _level_lines(answer: Any) -> Iterable[str]:
    heads = list(answer[0]) if answer else []
    return table([head.upper() for head in heads], [list(row.values()) for row in answer])


@logs.command()
@click.argument("settings", nargs=-1, metavar="[COMPONENT=LEVEL]...")
@click.option("--for", "seconds", type=float, metavar="SECONDS", help="And as configured again after so long.")
@talks(_level_lines)
def levels(client: Client, settings: tuple[str, ...], seconds: float | None) -> Any:
    """Show from which level on each component logs, or set it: kairos logs levels worker=debug --for 600

    In all processes at once. COMPONENT `all` stands for every one, LEVEL `reset` for what is configured.
    """
    if not settings:
        return client.list_log_levels()
    wanted: dict[str, Any] = {}
    for setting in settings:
        name, sign, level = setting.partition("=")
        if not sign:
            raise click.UsageError(f"{setting!r} is not COMPONENT=LEVEL")
        names = [one.component for one in client.list_log_levels()] if name == "all" else [name]
        wanted |= dict.fromkeys(names, None if level == "reset" else level)
    return client.set_log_levels(levels=wanted, duration=UNSET if seconds is None else seconds)


@click.command()
@click.option("--type", "types", multiple=True, metavar="TYPE", help="Only these; may be repeated.")
@click.option("-f", "--follow", is_flag=True, help="Go on as more happen. Ctrl-C ends it.")
@with_options
@click.pass_context
def events(context: click.Context, /, types: tuple[str, ...], follow: bool, **given: Any) -> None:
    """What happened: reloads, breakers, health, workers, bans, certificates."""
    options = taken(context, given)
    with answering(options) as client, contextlib.suppress(KeyboardInterrupt):
        found = client.call(list[dict[str, Any]], "GET", "/api/events/recent", query={"type": list(types) or None})
        for event in found:
            _echo(event, options)
        if follow:
            after = str(found[-1]["id"]) if found else None
            for one in client.watch_events(type=list(types) or None, after=after):
                if one.id:
                    _echo({"type": one.type, **one.data}, options)


def _echo(event: Any, options: dict[str, str | None]) -> None:
    if options["output"] == "json":
        return click.echo(json.dumps(event, ensure_ascii=False))
    known = ("id", "type", "time")
    extra = " ".join(f"{key}={value}" for key, value in event.items() if key not in known)
    return click.echo(f"{moment(event.get('time'))} {event.get('type', ''):20} {extra}")
