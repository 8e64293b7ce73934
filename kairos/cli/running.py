"""The verbs of `kairos` for a running gateway: each is one request to its admin socket, and how the answer is shown."""

from __future__ import annotations

import functools
import json
import os
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NoReturn
from urllib.parse import quote

import click

from kairos.cli.admin import Admin, RefusedError, UnreachableError
from kairos.storage.state import default_folder

EXIT_UNREACHABLE = 1
EXIT_REFUSED = 2

Show = Callable[[Any], Iterable[str]]
"""Makes lines for people of an answer."""


STATE_DIR = click.option("--state-dir", metavar="DIR", help="The gateway's state folder. Default: KAIROS_STATE_DIR")
OUTPUT = click.option("-o", "--output", type=click.Choice(["text", "json"]), help="How to answer. Default: text")


def talks(show: Show) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Give a verb its options and a gateway to talk to; print what it answers, or why there is no answer."""

    def decorate(verb: Callable[..., Any]) -> Callable[..., None]:
        @STATE_DIR
        @OUTPUT
        @click.pass_context
        @functools.wraps(verb)
        def command(context: click.Context, /, state_dir: str | None, output: str | None, **given: Any) -> None:
            above: dict[str, str | None] = context.obj or {}
            answer = _answer(verb, Admin(_folder(state_dir or above.get("state_dir"))), given)
            if (output or above.get("output")) == "json":
                click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
            else:
                click.echo("\n".join(show(answer)))

        return command

    return decorate


def group(default: str) -> Callable[[Callable[[], None]], click.Group]:
    """A group of verbs that is the verb `default` by itself, and takes the options of its verbs for them."""

    def decorate(described: Callable[[], None]) -> click.Group:
        @click.group(described.__name__, invoke_without_command=True, help=described.__doc__)
        @STATE_DIR
        @OUTPUT
        @click.pass_context
        def made(context: click.Context, /, **options: str | None) -> None:
            context.obj = options
            if context.invoked_subcommand is None:
                context.invoke(made.commands[default])

        return made

    return decorate


def _folder(given: str | None) -> str:
    return given or os.environ.get("KAIROS_STATE_DIR") or default_folder()


def _answer(verb: Callable[..., Any], admin: Admin, given: dict[str, Any]) -> Any:
    try:
        return verb(admin, **given)
    except UnreachableError as error:
        _fail(EXIT_UNREACHABLE, [str(error)])
    except RefusedError as error:
        _fail(EXIT_REFUSED if error.status < 500 else EXIT_UNREACHABLE, [*error.problems, str(error)])


def _fail(code: int, lines: Iterable[str]) -> NoReturn:
    for line in lines:
        click.secho(line, err=True, fg="red", color=False if os.environ.get("NO_COLOR") else None)
    sys.exit(code)


# --- the gateway ----------------------------------------------------------------------------------------------------


def _status_lines(status: Any) -> Iterable[str]:
    yield f"kairos {status['version']}, process {status['pid']}, {status['phase']} for {_span(status['uptime'])}"
    yield f"configuration {status['config']}, revision {status['revision']}"
    yield f"state folder  {status['state_dir'] or 'none'}"
    reloads = status["reloads"]
    last = f", the last at {_moment(reloads['last_at'])}" if reloads["last_at"] else ""
    yield f"reloads       {reloads['done']} done{last}; {reloads['failed']} refused"
    if reloads["problems"]:
        yield "The last reload was refused:"
        yield from (f"  {problem}" for problem in reloads["problems"])
    yield ""
    names = ("slot", "pid", "revision", "connections", "requests")
    heads = ("WORKER", "PROCESS", "REVISION", "CONNECTIONS", "REQUESTS")
    yield from _table(heads, [[worker[name] for name in names] for worker in status["workers"]])


@click.command()
@talks(_status_lines)
def status(admin: Admin) -> Any:
    """Show how the gateway is.

    Its phase, the revision in use and in each worker, and how the last reload ended. Exit code 1: no gateway answers.
    """
    return admin.get("/api/status")


def _reloaded(answer: Any) -> Iterable[str]:
    yield f"revision {answer['revision']} is in use"


@click.command()
@talks(_reloaded)
def reload(admin: Admin) -> Any:
    """Have the configuration file read again.

    Waits for the outcome. All workers prepare it before any of them uses it; requests under way and open connections
    are not disturbed. A file with errors changes nothing: they are printed, and the exit code is 2.
    """
    return admin.post("/api/reload")


def _upgraded(answer: Any) -> Iterable[str]:
    yield f"process {answer['pid']} serves now; the old one finishes what is open"


@click.command()
@talks(_upgraded)
def upgrade(admin: Admin) -> Any:
    """Replace the running program by the one installed now.

    No connection is lost. The new program starts on the same sockets and must be ready before the old one drains. One
    that does not come up is abandoned, the old one serves on, and the exit code is 2.
    """
    return admin.post("/api/upgrade")


# --- backends -------------------------------------------------------------------------------------------------------


def _backend_lines(answer: Any) -> Iterable[str]:
    heads = ("BACKEND", "STATE", "WEIGHT", "BREAKER", "IN FLIGHT", "ATTEMPTS", "FAILURES", "CHECK")
    return _table(heads, [_backend_row(backend) for backend in (answer if isinstance(answer, list) else [answer])])


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
def list_backends(admin: Admin) -> Any:
    """List every backend of the configuration in use. The same as without a verb."""
    return admin.get("/api/backends")


KEY = click.argument("key")


@backends.command()
@KEY
@talks(_backend_lines)
def drain(admin: Admin, key: str) -> Any:
    """Give it no new requests; those under way finish."""
    return admin.patch(_path(admin, key), state="drain")


@backends.command()
@KEY
@talks(_backend_lines)
def maintenance(admin: Admin, key: str) -> Any:
    """Give it no new requests, for longer than a drain.

    The workers do the same as for drain; lists and metrics tell the two apart.
    """
    return admin.patch(_path(admin, key), state="maintenance")


@backends.command()
@KEY
@talks(_backend_lines)
def activate(admin: Admin, key: str) -> Any:
    """Take it back after drain or maintenance."""
    return admin.patch(_path(admin, key), state="active")


@backends.command()
@KEY
@click.argument("percent", type=click.IntRange(0, 100))
@talks(_backend_lines)
def weight(admin: Admin, key: str, percent: int) -> Any:
    """Leave it PERCENT of its share.

    Of the share that its weight in the configuration gives it; 100 is all of it.
    """
    return admin.patch(_path(admin, key), weight=percent)


@backends.command()
@KEY
@click.argument("state", type=click.Choice(["open", "closed", "auto"]))
@talks(_backend_lines)
def breaker(admin: Admin, key: str, state: str) -> Any:
    """Force its circuit breaker.

    open lets nothing through, closed everything; auto lets it decide by itself again.
    """
    return admin.patch(_path(admin, key), breaker=state)


@backends.command()
@KEY
@talks(_backend_lines)
def probe(admin: Admin, key: str) -> Any:
    """Check its health now.

    Without waiting for the next interval; the result counts like any other.
    """
    return admin.post(_path(admin, key) + "/probe")


def _path(admin: Admin, given: str) -> str:
    """The path of the backend that is meant; the gateway says what is wrong with a key that fits none, or several."""
    keys = [backend["key"] for backend in admin.get("/api/backends")]
    meant = [key for key in keys if key.endswith(given)]
    return "/api/backends/" + quote(given if given in keys or len(meant) != 1 else meant[0], safe="")


# --- bans -----------------------------------------------------------------------------------------------------------


def _ban_lines(answer: Any) -> Iterable[str]:
    heads = ("ADDRESS", "JAIL", "SECONDS LEFT", "OFFENCES")
    return _table(heads, [[ban["address"], ban["jail"], round(ban["seconds"]), ban["offences"]] for ban in answer])


@group("list")
def bans() -> None:
    """Show which addresses are banned; let one in again.

    Of IPv6 a /64 is banned. A ban that is lifted counts as never given.
    """


@bans.command("list")
@talks(_ban_lines)
def list_bans(admin: Admin) -> Any:
    """List the bans in force, the longest first. The same as without a verb."""
    return admin.get("/api/bans")


def _lifted(answer: Any) -> Iterable[str]:
    yield f"{answer['address']} is let in again"


@bans.command()
@click.argument("address")
@talks(_lifted)
def lift(admin: Admin, address: str) -> Any:
    """Let an address in again, whatever it was banned for."""
    return admin.delete("/api/bans/" + quote(address, safe=""))


# --- rate limits ----------------------------------------------------------------------------------------------------


def _limit_lines(answer: Any) -> Iterable[str]:
    rows = [[one["limit"], one["allowed"], one["limited"], one["unshared"]] for one in answer["limits"]]
    yield from _table(("LIMIT", "ALLOWED", "LIMITED", "WITHOUT REDIS"), rows)
    for one in answer["tables"]:
        kept = f"{one['keys']} of {one['places']} places for keys taken"
        yield f"{one['table']}: {kept}, {one['forgotten']} forgotten, {one['full']} refused for want of one"
    if answer["redis_down"]:
        yield f"Redis does not answer {answer['redis_down']} of the workers"


@click.command()
@talks(_limit_lines)
def limits(admin: Admin) -> Any:
    """Show what rate limits did.

    And how many keys (addresses, users, ...) they remember.
    """
    return admin.get("/api/limits")


# --- the cache ------------------------------------------------------------------------------------------------------


def _cache_lines(answer: Any) -> Iterable[str]:
    used = 100 * answer["bytes"] // max(1, answer["capacity"])
    yield f"entries    {answer['entries']}, {answer['bytes']} of {answer['capacity']} bytes ({used} %)"
    yield f"stored     {answer['inserts']}, evicted {answer['evictions']}, not stored {answer['rejected']}"
    yield f"purges     {answer['purges']}"


@group("stats")
def cache() -> None:
    """Show what is in the cache; throw responses out of it.

    The cache of this node, which all its workers share.
    """


@cache.command("stats")
@talks(_cache_lines)
def cache_stats(admin: Admin) -> Any:
    """Show how full it is. The same as without a verb."""
    return admin.get("/api/cache")


def _purged(answer: Any) -> Iterable[str]:
    yield f"{answer['purged']} entries purged"


@cache.command()
@click.option("--url", help="One URL, with all its variants.")
@click.option("--prefix", help="All URLs that begin so.")
@click.option("--tag", "tags", multiple=True, help="All with this Surrogate-Key or Cache-Tag; may be repeated.")
@click.option("--all", "everything", is_flag=True, help="Everything.")
@click.option("--soft", is_flag=True, help="Keep it, but have it validated before its next use.")
@talks(_purged)
def purge(
    admin: Admin, url: str | None, prefix: str | None, tags: tuple[str, ...], everything: bool, soft: bool
) -> Any:
    """Throw responses out, by URL, prefix or tag.

    Holds at once for every worker; what is being fetched meanwhile is not stored either.
    """
    given = {"url": url, "prefix": prefix, "tags": list(tags) or None, "all": everything, "soft": soft}
    return admin.post("/api/cache/purge", **given)


# --- revisions ------------------------------------------------------------------------------------------------------


def _revision_lines(answer: Any) -> Iterable[str]:
    heads = ("REVISION", "IN USE SINCE", "REASON", "FILE", "SHA-256")
    names = ("number", "time", "reason", "name", "sha256")
    rows = [[revision[name] for name in names] for revision in answer]
    return _table(heads, [[number, _moment(when), why, name, sha[:12]] for number, when, why, name, sha in rows])


@group("list")
def revisions() -> None:
    """Show the configurations that were in use.

    The newest 50 are kept in the state folder, as they were read. A reload that changes no text adds none. A gateway
    whose file cannot be used starts with the newest one when it is given --last-good.
    """


@revisions.command("list")
@talks(_revision_lines)
def list_revisions(admin: Admin) -> Any:
    """List those that are kept, newest first. The same as without a verb."""
    return admin.get("/api/revisions")


def _config_lines(answer: Any) -> Iterable[str]:
    yield json.dumps(answer["config"], indent=2, ensure_ascii=False)


@revisions.command()
@click.argument("number", type=click.IntRange(1))
@talks(_config_lines)
def show(admin: Admin, number: int) -> Any:
    """Print one in the canonical form, secrets masked, ${...} as written."""
    return admin.get(f"/api/revisions/{number}")


# --- words ----------------------------------------------------------------------------------------------------------


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> Iterable[str]:
    """Columns as wide as what is in them."""
    cells = [list(heads), *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    for row in cells:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _moment(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def _span(seconds: float) -> str:
    """`3 d 4 h`, `5 min`: two units at most."""
    units = (("d", 86_400), ("h", 3_600), ("min", 60), ("s", 1))
    parts = []
    rest = int(seconds)
    for unit, size in units:
        count, rest = divmod(rest, size)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"
