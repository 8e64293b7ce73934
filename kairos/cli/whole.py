"""The verbs of `kairos` for the gateway as a whole: status, reload, upgrade."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import click

from kairos.cli.shown import moment, span, table
from kairos.cli.talk import EXIT_REFUSED, answering, print_answer, taken, talks, with_options

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kairos.client import Client


def _status_lines(status: Any) -> Iterable[str]:
    yield f"kairos {status['version']}, process {status['pid']}, {status['phase']} for {span(status['uptime'])}"
    yield f"configuration {status['config']}, revision {status['revision']}"
    yield f"state folder  {status['state_dir'] or 'none'}"
    reloads = status["reloads"]
    last = f", the last at {moment(reloads['last_at'])}" if reloads["last_at"] else ""
    yield f"reloads       {reloads['done']} done{last}; {reloads['failed']} refused"
    if reloads["problems"]:
        yield "The last reload was refused:"
        yield from (f"  {problem}" for problem in reloads["problems"])
    yield ""
    names = ("slot", "pid", "revision", "connections", "requests")
    heads = ("WORKER", "PROCESS", "REVISION", "CONNECTIONS", "REQUESTS")
    yield from table(heads, [[worker[name] for name in names] for worker in status["workers"]])


@click.command()
@talks(_status_lines)
def status(client: Client) -> Any:
    """Show how the gateway is.

    Its phase, the revision in use and in each worker, and how the last reload ended. Exit code 2: no gateway answers.
    """
    return client.status()


def _reloaded(answer: Any) -> Iterable[str]:
    yield f"revision {answer['revision']} is in use"


@click.command()
@talks(_reloaded)
def reload(client: Client) -> Any:
    """Have the configuration file read again.

    Waits for the outcome. All workers prepare it before any of them uses it; requests under way and open connections
    are not disturbed. A file with errors changes nothing: they are printed, and the exit code is 1.
    """
    return client.reload()


def _upgraded(answer: Any) -> Iterable[str]:
    yield f"process {answer['pid']} serves now; the old one finishes what is open"


@click.command()
@talks(_upgraded)
def upgrade(client: Client) -> Any:
    """Replace the running program by the one installed now.

    No connection is lost. The new program starts on the same sockets and must be ready before the old one drains. One
    that does not come up is abandoned, the old one serves on, and the exit code is 1.
    """
    return client.upgrade()


def _health_lines(found: Any) -> Iterable[str]:
    yield f"{'healthy' if found['healthy'] else 'unhealthy'}: kairos {found['version']}, {found['phase']}"
    yield from (f"  {backend['key']}: {backend['state']}" for backend in found["backends"])


@click.command()
@click.option("--check-backends", is_flag=True, help="Every backend as well: each has to be healthy.")
@click.option("--timeout", type=click.FloatRange(0.1, 150), metavar="SECONDS", help="For the answer.")
@with_options
@click.pass_context
def health(context: click.Context, /, check_backends: bool, timeout: float | None, **given: Any) -> None:
    """Whether the gateway serves. Exit code 0: it does; 1: not, or not all backends; 2: no gateway answers."""
    options = taken(context, given)
    with answering(options) as client:
        if timeout is not None:
            client.http.timeout = timeout
        status = client.status()
        backends = client.list_backends() if check_backends else []
    shown = [{"key": backend.key, "state": backend.state} for backend in backends]
    healthy = status.phase == "running" and all(backend["state"] == "healthy" for backend in shown)
    found = {"healthy": healthy, "version": status.version, "phase": status.phase, "backends": shown}
    print_answer(found, _health_lines, options["output"])
    sys.exit(0 if healthy else EXIT_REFUSED)
