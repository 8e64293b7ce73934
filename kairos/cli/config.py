"""The verbs of `kairos config`, and those beside it that look at files alone: nothing here talks to a gateway.

Exit codes are those of every verb (`talk`): 1, the file has errors or is not as it should be; 2, a backend could not
be reached (`test-route --backend`); 3, the file cannot be read or is not of its format.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, NoReturn

import click
import msgspec

from kairos.cli.gateway import count, default_config, summary, tell
from kairos.cli.shown import table
from kairos.cli.talk import EXIT_CONFIG, EXIT_REFUSED, EXIT_UNREACHABLE, fail
from kairos.config import schema as json_schema
from kairos.config.diff import differences, text_diff
from kairos.config.editing import EditError, RouteKey, as_written, canonical, document, find_route, with_everything
from kairos.config.identity import route_identity
from kairos.config.load import MAX_BYTES, Loaded, judged, load
from kairos.config.mask import masked
from kairos.config.policies import effective
from kairos.config.problems import ConfigError, Problem, render
from kairos.config.rewriting import rewrite
from kairos.config.samples import SAMPLES, sample
from kairos.config.syntax import FORMATS, Format
from kairos.config.text import ConfigText
from kairos.config.writing import UnwritableError, dumps
from kairos.control.source import FileSource, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kairos.config.explain import Explanation
    from kairos.config.model import Config

Plain = dict[str, Any]

INSECURE_DEV = click.option("--insecure-dev", is_flag=True, help="Accept weak secrets, for development only.")
FILE = click.argument("file", required=False)
OUTPUT = click.option("-o", "--output", type=click.Choice(["text", "json"]), default="text", help="How to answer.")
_FORMAT = click.Choice(["json", "yaml", "toml"])


# --- files ----------------------------------------------------------------------------------------------------------


class _File(NamedTuple):
    """A configuration as text."""

    name: str
    format: Format
    text: str
    value: Plain
    sha256: str


def chosen(given: str | None) -> str:
    """The file that is named, or the one that the gateway would take."""
    return given or os.environ.get("KAIROS_CONFIG_PATH") or default_config()


def _format_of(name: str) -> Format:
    return FORMATS.get(Path(name).suffix.lower(), "json")


def _opened(name: str) -> _File:
    """A file that is of its format; else the program ends."""
    try:
        data = Path(name).read_bytes()
        if len(data) > MAX_BYTES:
            raise ValueError(f"larger than {MAX_BYTES} bytes")
        text = data.decode("utf-8-sig")
        value = document(text, _format_of(name))
        return _File(name, _format_of(name), text, value, hashlib.sha256(data).hexdigest())
    except EditError as error:
        _refuse(name, error)
    except OSError as error:
        fail(EXIT_CONFIG, [f"{name}: {error.strerror}"])
    except ValueError as error:
        fail(EXIT_CONFIG, [f"{name}: {error}"])


def _refuse(name: str, error: EditError) -> NoReturn:
    """What is wrong with a document, where it stands."""
    code = EXIT_CONFIG if error.kind == "unreadable" else EXIT_REFUSED
    fail(code, [str(Problem("error", error.keys, error.message, error.line, name))])


def _canonical(file: _File) -> Plain:
    try:
        return canonical(file.value)
    except EditError as error:
        _refuse(file.name, error)


def _loaded(name: str) -> Loaded:
    """A file that can be decoded; else the program ends."""
    _opened(name)
    try:
        return load(name)
    except ConfigError as error:
        tell(error.problems)
        sys.exit(EXIT_REFUSED)


def _write(name: str | None, text: str, *, force: bool) -> None:
    """To a new file, or standard output. What is there is not overwritten unless that is wanted."""
    if name is None or name == "-":
        click.echo(text, nl=False)
        return
    path = Path(name)
    try:
        with path.open("w" if force else "x", encoding="utf-8", newline="") as file:
            if not force:
                os.fchmod(file.fileno(), 0o600)  # it may hold secrets
            file.write(text)
    except FileExistsError:
        fail(EXIT_REFUSED, [f"{name} is there already: --force overwrites it"])
    except OSError as error:
        fail(EXIT_CONFIG, [f"{name}: {error.strerror}"])


def _replace(file: _File, text: str) -> None:
    """Whole or not at all, with the rights it had, and only if it is still what was read."""
    made = ConfigText(text.encode(), file.format, file.name, "format", replaces=file.sha256)
    try:
        FileSource(file.name).stage(made).commit()
    except SourceError as error:
        fail(EXIT_REFUSED, [str(error)])


def _as_json(value: Any) -> str:
    return json.dumps(msgspec.to_builtins(value), indent=2, ensure_ascii=False)


# --- validate -------------------------------------------------------------------------------------------------------


@click.command()
@FILE
@click.option("-f", "--file", "named", metavar="FILE", hidden=True)
@click.option("-v", "--verbose", is_flag=True, help="Also show every route, its backends and its policies.")
@click.option("--strict", is_flag=True, help="Warnings count as errors.")
@INSECURE_DEV
@OUTPUT
def validate(file: str | None, named: str | None, verbose: bool, strict: bool, insecure_dev: bool, output: str) -> None:
    """Print every problem of a file and a verdict.

    Exit code 0: it can be used; 1: it has errors, or warnings with --strict; 3: it cannot be read.
    """
    name = chosen(file or named)
    config, problems = _judged(name, insecure_dev=insecure_dev)
    wrong = config is None or (strict and any(problem.severity != "hint" for problem in problems))
    if output == "json":
        click.echo(_as_json(_verdict(name, config, problems, valid=not wrong)))
    else:
        tell(problems)
        _print_verdict(name, config, problems, verbose=verbose, wrong=wrong)
    sys.exit(EXIT_REFUSED if wrong else 0)


def _judged(name: str, *, insecure_dev: bool) -> tuple[Config | None, list[Problem]]:
    _opened(name)
    try:
        loaded = judged(load(name), insecure_dev=insecure_dev)
    except ConfigError as error:
        return None, error.problems
    return loaded.config, loaded.problems


def _verdict(name: str, config: Config | None, problems: list[Problem], *, valid: bool) -> Plain:
    told = [
        {"severity": problem.severity, "line": problem.line, "path": problem.path, "message": problem.message}
        for problem in problems
    ]
    return {"file": name, "valid": valid, "routes": len(config.routers) if config else None, "problems": told}


def _print_verdict(name: str, config: Config | None, problems: list[Problem], *, verbose: bool, wrong: bool) -> None:
    color = False if os.environ.get("NO_COLOR") else None
    if config is not None and verbose:
        click.echo("\n".join(table(("METHODS", "ROUTE", "BACKENDS", "POLICIES"), _rows(config))))
    if config is None:
        click.secho(f"{name}: cannot be used: {count(problems)}", fg="red", color=color)
    else:
        verdict = f"not good enough: {count(problems)}" if wrong else f"good: {summary(config)}; {count(problems)}"
        click.secho(f"{name}: {verdict}", fg="red" if wrong else "green", color=color)


def _rows(config: Config) -> Iterator[tuple[str, ...]]:
    for route in config.routers:
        policies = effective(route, config)
        names = [name for name in policies.__struct_fields__ if getattr(policies, name) is not None]
        backends = ", ".join(f"{one.host}:{one.port}" if one.port else one.host for one in route.backends)
        yield ",".join(route.methods), "".join([*route.hosts, route.external_path]), backends or "-", ", ".join(names)


# --- show, schema ---------------------------------------------------------------------------------------------------


@click.command()
@FILE
@click.option("--effective", metavar="PATH", help="Only the policies in force on the route with this external path.")
@click.option("-m", "--method", metavar="METHOD", help="Which of several routes with that path.")
@click.option("-o", "--output", type=_FORMAT, default="json", show_default=True, help="How to write it.")
def show(file: str | None, effective: str | None, method: str | None, output: Format) -> None:
    """Print the canonical form, secrets masked."""
    config = _loaded(chosen(file)).config
    shown = masked(config)
    if effective is not None:
        shown = _effective(config, shown, RouteKey(effective, [method] if method else None))
    click.echo(dumps(shown, output), nl=False)


def _effective(config: Config, shown: Plain, key: RouteKey) -> Plain:
    try:
        route = config.routers[find_route(shown["routers"], key)]
    except EditError as error:
        fail(EXIT_REFUSED, [error.message])
    policies: Plain = masked(effective(route, config))
    return policies


@click.command("schema")
def schema() -> None:
    """Print the JSON Schema, for editors: put its path under "$schema" in the file."""
    click.echo(json.dumps(json_schema.export(), indent=2))


# --- new files ------------------------------------------------------------------------------------------------------


@click.command()
@click.option("-o", "--output", metavar="FILE", default="config.json", show_default=True, help="'-': standard output.")
@click.option("-t", "--template", type=click.Choice(list(SAMPLES)), default="basic", show_default=True)
@click.option("--to", "wanted", type=_FORMAT, help="Format, where the file's name does not say it.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
def generate(output: str, template: str, wanted: Format | None, force: bool) -> None:
    """Write a commented configuration to begin with, with secrets of its own."""
    _write(output, sample(template, wanted or _format_of(output)), force=force)
    if output != "-":
        click.echo(f"{output} is written; look at it with: kairos config validate {output}")


@click.command()
@click.argument("source")
@click.argument("target", required=False)
@click.option("--to", "wanted", type=_FORMAT, help="Format, where the file's name does not say it.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
def convert(source: str, target: str | None, wanted: Format | None, force: bool) -> None:
    """Write SOURCE in another format, to TARGET or standard output.

    References such as ${NAME} stay as they are. Comments do not come along, keys that begin with _ do.
    """
    if target is None and wanted is None:
        raise click.UsageError("name a target, or give its format with --to")
    file = _opened(source)
    try:
        text = dumps(file.value, wanted or _format_of(target or ""))
    except UnwritableError as error:
        fail(EXIT_REFUSED, [f"{source}: {render(error.keys)}: {error}"])
    _write(target, text, force=force)


# --- changes --------------------------------------------------------------------------------------------------------


@click.command("format")
@FILE
@click.option("--check", is_flag=True, help="Change nothing; exit code 1 where something would change.")
def format_(file: str | None, check: bool) -> None:
    """Write older spellings in a file in the canonical way. Comments, order and references stay."""
    opened = _opened(chosen(file))
    value = _canonical(opened)
    if isinstance(value.get("routers"), list):
        value["routers"] = [_plain_route(route) for route in value["routers"]]
    text = rewrite(opened.text, opened.format, value)
    if text == opened.text:
        click.echo(f"{opened.name}: as it should be")
    elif check:
        changed = [f"{opened.name} is not in canonical spelling: kairos config format {opened.name}"]
        fail(EXIT_REFUSED, changed)
    else:
        _replace(opened, text)
        click.echo(f"{opened.name}: written in canonical spelling")


def _plain_route(route: Any) -> Any:
    """Without the mark of how it was written."""
    return {key: item for key, item in route.items() if key != "legacy"} if isinstance(route, dict) else route


@click.command()
@click.argument("files", nargs=-1, required=True)
@click.option("-o", "--output", metavar="FILE", help="Default: standard output.")
@click.option("--force", is_flag=True, help="Overwrite the file.")
def merge(files: tuple[str, ...], output: str | None, force: bool) -> None:
    """Lay files over each other: what a later one says counts.

    Objects are joined key by key. A route takes the place of one with the same path, methods and hosts; other lists
    are replaced. The outcome keeps the comments of the first file, where the format stays.
    """
    first, *others = map(_opened, files)
    whole = _canonical(first)
    for file in others:
        whole = _merged(whole, _canonical(file))
    target = _format_of(output) if output and output != "-" else first.format
    try:
        text = _in_words_of(first, whole) if target == first.format else dumps(_written(whole), target)
    except UnwritableError as error:
        fail(EXIT_REFUSED, [f"{render(error.keys)}: {error}"])
    _write(output, text, force=force)


def _in_words_of(file: _File, whole: Plain) -> str:
    return rewrite(file.text, file.format, with_everything(file.value, whole))


def _written(whole: Plain) -> Plain:
    routes = whole.get("routers")
    return {**whole, "routers": [as_written(route) for route in routes]} if isinstance(routes, list) else whole


def _merged(one: Any, other: Any, name: str = "") -> Any:
    if isinstance(one, dict) and isinstance(other, dict):
        return {**one, **{key: _merged(one[key], item, key) if key in one else item for key, item in other.items()}}
    if name == "routers" and isinstance(one, list) and isinstance(other, list):
        return _merged_routes(one, other)
    return other


def _merged_routes(one: list[Any], other: list[Any]) -> list[Any]:
    places = {route_identity(route): at for at, route in enumerate(one)}
    made = list(one)
    for route in other:
        at = places.get(route_identity(route))
        if at is None:
            made.append(route)
        else:
            made[at] = route
    return made


# --- comparing ------------------------------------------------------------------------------------------------------


@click.command("diff")
@click.argument("before")
@click.argument("after")
@click.option("--exit-code", is_flag=True, help="End with exit code 1 where something differs.")
@OUTPUT
def diff(before: str, after: str, exit_code: bool, output: str) -> None:
    """Show what is different between two files, whatever their formats and spellings. Secrets stay masked."""
    old, new = (_diffable(_canonical(_opened(name))) for name in (before, after))
    found = differences(old, new)
    if output == "json":
        click.echo(_as_json(found))
    else:
        click.echo(text_diff(old, new, (before, after)), nl=False)
    sys.exit(EXIT_REFUSED if found and exit_code else 0)


def _diffable(value: Plain) -> Plain:
    routes = value.get("routers")
    return {**value, "routers": list(map(_plain_route, routes))} if isinstance(routes, list) else value


# --- test-route -----------------------------------------------------------------------------------------------------


@click.command("test-route")
@click.option("-c", "--config", "file", metavar="FILE", help="Default: KAIROS_CONFIG_PATH or ./config.json.")
@click.option("-p", "--path", required=True, metavar="PATH", help="As in the request, with its query.")
@click.option("-m", "--method", default="GET", show_default=True)
@click.option("-H", "--header", "headers", multiple=True, metavar="NAME:VALUE", help="May be given several times.")
@click.option("--host", metavar="HOST", help="Host of the request.")
@click.option("--client-ip", metavar="ADDRESS", help="Who asks.")
@click.option("--https", is_flag=True, help="The request comes over HTTPS.")
@click.option("--backend", is_flag=True, help="Also connect to each backend; exit code 2 where none answers.")
@OUTPUT
def try_route(
    file: str | None,
    path: str,
    method: str,
    headers: tuple[str, ...],
    host: str | None,
    client_ip: str | None,
    https: bool,
    backend: bool,
    output: str,
) -> None:
    """Tell what would become of a request: its route and why, its filters, its backends. Nothing is sent.

    Exit code 1: no route takes it.
    """
    from kairos.config.explain import Question

    fields = dict(header(line) for line in headers)
    request = Question(path, method.upper(), host, fields, client_ip, "https" if https else "http")
    config = _loaded(chosen(file)).config
    found = _explained(config, request)
    reached = _reached(config, found) if backend else {}
    if output == "json":
        click.echo(_as_json({**msgspec.to_builtins(found), **({"reached": reached} if backend else {})}))
    else:
        click.echo("\n".join(explanation_lines(found, reached)))
    if found.outcome in ("not_found", "method_not_allowed"):
        sys.exit(EXIT_REFUSED)
    sys.exit(EXIT_UNREACHABLE if reached and all(reached.values()) else 0)


def header(line: str) -> tuple[str, str]:
    name, colon, value = line.partition(":")
    if not colon or not name.strip():
        raise click.UsageError(f"a header is NAME:VALUE, not {line!r}")
    return name.strip(), value.strip()


def _explained(config: Config, request: Any) -> Explanation:
    from kairos._speedups.patterns import RouteError
    from kairos.config.explain import Explainer

    try:
        return Explainer(config).explain(request)
    except (RouteError, ValueError) as error:
        fail(EXIT_REFUSED, [str(error)])


def explanation_lines(found: Explanation, reached: dict[str, str]) -> Iterator[str]:
    status = f" {found.status}" if found.status else ""
    yield f"{found.outcome.replace('_', ' ')}{status}: {found.why}"
    if found.external_path is not None:
        yield f"route     routers[{found.index}] {found.external_path}" + (
            f" of group {found.group}" if found.group else ""
        )
        if found.params:
            yield "captured  " + ", ".join(f"{name}={value}" for name, value in found.params.items())
    if found.outcome == "forwarded":
        yield f"sent as   {found.upstream_path}"
    yield from _part("filters", [_stage_row(stage) for stage in found.filters])
    yield from _part(
        "backends" + (f", {found.strategy}" if found.strategy else ""),
        [_backend_row(one, reached) for one in found.backends],
    )
    yield from _part("routes", [_candidate_row(candidate) for candidate in found.candidates])
    yield from _part("also", [(note,) for note in found.notes])


def _part(head: str, rows: list[tuple[str, ...]]) -> Iterator[str]:
    if rows:
        yield ""
        yield from table((head.upper(), *([""] * (len(rows[0]) - 1))), rows)


def _stage_row(stage: Any) -> tuple[str, str, str]:
    whose = {"route": "its own", "group": "of the group", "all": "for all", None: ""}[stage.set_by]
    return stage.name, whose, f"refuses: {stage.refuses}" if stage.refuses else stage.does


def _backend_row(one: Any, reached: dict[str, str]) -> tuple[str, ...]:
    state = reached.get(one.backend)
    answer = () if state is None else (state or "answers",)
    return one.backend, f"{one.share:.0%}", *([one.variant] if one.variant else []), *answer


def _candidate_row(candidate: Any) -> tuple[str, str, str, str]:
    place = f"[{candidate.index}]"
    return place, ",".join(candidate.methods), "".join([*candidate.hosts, candidate.external_path]), candidate.reason


def _reached(config: Config, found: Explanation) -> dict[str, str]:
    """Backend → why it cannot be connected to; empty where it can."""
    from kairos.cli.reach import reach

    return {one.backend: reach(one.backend) for one in found.backends} if found.index is not None else {}


# --- the group ------------------------------------------------------------------------------------------------------


@click.group()
def config() -> None:
    """Look at configurations, make them, compare and change them. No gateway is asked."""


for verb in (validate, show, diff, format_, merge, convert, generate, schema):
    config.add_command(verb)
