"""The verbs of `kairos routes`: look at routes of the gateway that runs, change them, ask what they would do."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kairos.cli.changes import change_lines, changes_with
from kairos.cli.shown import table
from kairos.cli.talk import EXIT_CONFIG, fail, group, talks

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kairos.client import Client

METHODS = click.option("--methods", metavar="GET,POST", help="Which of several routes with this path, by methods.")
HOST = click.option("--host", metavar="HOST", help="Which of several routes with this path, by host.")
PATH = click.argument("path")


def _route_lines(answer: Any) -> Iterable[str]:
    heads = ("PATH", "METHODS", "HOSTS", "PROTOCOL", "BACKENDS", "POLICIES")
    return table(heads, [_row(route) for route in answer["routes"]])


def _row(route: Any) -> list[str]:
    known = {"id", "external_path", "internal_path", "methods", "hosts", "protocol", "backends", "host", "port"}
    backends = route.get("backends") or [route]
    shown = [f"{one['host']}:{one['port']}" for one in backends if one.get("host")]
    more = f" +{len(shown) - 1}" if len(shown) > 1 else ""
    policies = sorted(name for name, value in route.items() if name not in known and value not in (None, False))
    policies = [name for name in policies if name != "load_balancing_strategy"]
    return [
        route["external_path"],
        ",".join(route.get("methods", [])),
        ",".join(route.get("hosts") or []) or "*",
        route.get("protocol", "http"),
        (shown[0] if shown else "-") + more,
        ",".join(policies) or "-",
    ]


@group("list")
def routes() -> None:
    """Show and change the routes of a running gateway.

    PATH is a route's external path. Changes hold at once in every worker, are written to where the configuration is
    kept, and can be taken back (kairos config rollback).
    """


@routes.command("list")
@click.option("--path", help="Only those with this in their path.")
@click.option("--method", help="Only those that take it.")
@click.option("--backend", help="Only those with this in a backend's host.")
@talks(_route_lines)
def list_routes(client: Client, path: str | None, method: str | None, backend: str | None) -> Any:
    """List them in the order of the configuration. The same as without a verb."""
    return client.list_routes(path=path, method=method, backend=backend)


def _document(answer: Any) -> Iterable[str]:
    yield json.dumps(answer.get("route", answer), indent=2, ensure_ascii=False)


@routes.command()
@PATH
@METHODS
@HOST
@talks(_document)
def show(client: Client, path: str, methods: str | None, host: str | None) -> Any:
    """Print one as JSON, secrets masked."""
    return client.get_route(path.removeprefix("/"), methods=methods, host=host)


@routes.command()
@click.argument("file", type=click.File("r"), required=False)
@click.option("--path", help="External path, in place of FILE.")
@click.option("--backend", "backends", multiple=True, metavar="URL", help="http://10.0.0.7:8080; may be repeated.")
@click.option("--methods", default="GET,POST,PUT,PATCH,DELETE,HEAD,OPTIONS", show_default=True)
@click.option("--internal-path", help="Path at the backend; by default the same.")
@click.option("--at", type=click.IntRange(0), help="Its place in the list; by default the end.")
@changes_with
@talks(change_lines)
def add(
    client: Client,
    file: Any,
    path: str | None,
    backends: tuple[str, ...],
    methods: str,
    internal_path: str | None,
    at: int | None,
    **wish: Any,
) -> Any:
    """Add a route: from FILE (JSON, `-` for standard input), or from options.

    kairos routes add --path /shop --backend http://10.0.0.7:8080 --backend http://10.0.0.8:8080
    """
    route = _read(file) if file is not None else _from_options(path, backends, methods, internal_path)
    return client.create_route(route, at=at, **wish)


def _from_options(path: str | None, backends: tuple[str, ...], methods: str, internal: str | None) -> dict[str, Any]:
    if path is None or not backends:
        raise click.UsageError("give a FILE, or --path and --backend")
    found = [url.rpartition(":") for url in backends]
    if any(not port.isdigit() for _, _, port in found):
        raise click.UsageError("a backend is scheme://host:port, such as http://10.0.0.7:8080")
    return {
        "external_path": path,
        "internal_path": internal or path,
        "methods": methods.upper().split(","),
        "backends": [{"host": host, "port": int(port)} for host, _, port in found],
    }


def _read(file: Any) -> dict[str, Any]:
    try:
        value = json.load(file)
    except ValueError as error:
        fail(EXIT_CONFIG, [f"{file.name}: not JSON: {error}"])
    if not isinstance(value, dict):
        fail(EXIT_CONFIG, [f"{file.name}: a route is an object"])
    return value


@routes.command()
@PATH
@METHODS
@HOST
@click.option(
    "--file", "given", type=click.File("r"), help="The new one, in place of an editor; `-` for standard input."
)
@changes_with
@talks(change_lines)
def edit(client: Client, path: str, methods: str | None, host: str | None, given: Any, **wish: Any) -> Any:
    """Change a route in your editor (EDITOR), or from a file.

    Masks (***) keep the secrets they stand for.
    """
    found = client.get_route(path.removeprefix("/"), methods=methods, host=host)
    route = _read(given) if given is not None else _edited(found.route)
    return client.replace_route(path.removeprefix("/"), route, methods=methods, host=host, **wish)


def _edited(route: Any) -> dict[str, Any]:
    text = click.edit(json.dumps(route, indent=2, ensure_ascii=False) + "\n", extension=".json")
    if text is None:
        click.echo("nothing was changed", err=True)
        sys.exit(0)
    try:
        value: dict[str, Any] = json.loads(text)
    except ValueError as error:
        kept = Path(f"kairos-route-{abs(hash(text)) % 10_000}.json")
        kept.write_text(text)
        fail(EXIT_CONFIG, [f"not JSON: {error}", f"what you wrote is in {kept}: mend it, then --file {kept}"])
    return value


@routes.command()
@PATH
@METHODS
@HOST
@changes_with
@talks(change_lines)
def rm(client: Client, path: str, methods: str | None, host: str | None, **wish: Any) -> Any:
    """Remove a route."""
    return client.delete_route(path.removeprefix("/"), methods=methods, host=host, **wish)


def _explanation(answer: Any) -> Iterable[str]:
    import msgspec

    from kairos.cli.config import explanation_lines
    from kairos.config.explain import Explanation

    return explanation_lines(msgspec.convert(_said(answer), Explanation), {})


def _said(value: Any) -> Any:
    """Without what was left unsaid."""
    if isinstance(value, dict):
        return {name: _said(item) for name, item in value.items() if item is not None}
    return list(map(_said, value)) if isinstance(value, list) else value


@routes.command()
@PATH
@click.option("-m", "--method", default="GET", show_default=True)
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME:VALUE", help="May be given several times.")
@click.option("--host", metavar="HOST", help="Host of the request.")
@click.option("--client-ip", metavar="ADDRESS", help="Who asks.")
@click.option("--https", is_flag=True, help="The request comes over HTTPS.")
@talks(_explanation)
def explain(
    client: Client,
    path: str,
    method: str,
    headers: tuple[str, ...],
    host: str | None,
    client_ip: str | None,
    https: bool,
) -> Any:
    """Tell which route a request would take, and why: nothing is sent.

    Through which filters, to which backends, and why no other route. `kairos test-route` asks the same of a file.
    """
    from kairos.cli.config import header

    fields = dict(map(header, headers))
    return client.explain_request(
        path=path, method=method, host=host, headers=fields, client_ip=client_ip, scheme="https" if https else "http"
    )
