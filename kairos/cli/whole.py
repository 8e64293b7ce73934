"""The verbs of `kairos` for the gateway as a whole: status, reload, upgrade."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from kairos.cli.shown import moment, span, table
from kairos.cli.talk import talks

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
