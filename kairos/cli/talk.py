"""How a verb of `kairos` talks to a gateway: its options, what it prints of the answer, and the exit codes.

    0  done                       3  a configuration cannot be used
    1  refused: `problems` why    4  not logged in, or not allowed
    2  no gateway answers, or a bad command line

A gateway is found by --url and --token (KAIROS_URL, KAIROS_TOKEN), or on this machine by its state folder.
"""

from __future__ import annotations

import functools
import json
import os
import sys
from collections.abc import Callable, Iterable
from typing import Any, NoReturn

import click
import msgspec

from kairos.storage.state import default_folder

EXIT_REFUSED = 1
EXIT_UNREACHABLE = 2
EXIT_CONFIG = 3
EXIT_AUTH = 4

Show = Callable[[Any], Iterable[str]]
"""Makes lines for people of an answer, given as plain values."""

_OPTIONS = (
    click.option("--state-dir", metavar="DIR", help="The gateway's state folder. Default: KAIROS_STATE_DIR"),
    click.option("-u", "--url", metavar="URL", help="Its admin API, such as https://gw1:5901. Default: KAIROS_URL"),
    click.option("--token", metavar="TOKEN", help="For --url. Default: KAIROS_TOKEN, which others do not see in ps"),
    click.option("--ca-file", metavar="FILE", help="Authorities to trust for --url. Default: KAIROS_CA_FILE"),
    click.option("-o", "--output", type=click.Choice(["text", "json"]), help="How to answer. Default: text"),
)


def with_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options by which a gateway is found."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def talks(show: Show) -> Callable[[Callable[..., Any]], Callable[..., None]]:
    """Give a verb its options and a client; print what it answers, or why there is no answer."""

    def decorate(verb: Callable[..., Any]) -> Callable[..., None]:
        @with_options
        @click.pass_context
        @functools.wraps(verb)
        def command(context: click.Context, /, **given: Any) -> None:
            options = taken(context, given)
            with answering(options) as client:
                print_answer(msgspec.to_builtins(verb(client, **given)), show, options.get("output"))

        return command

    return decorate


def taken(context: click.Context, given: dict[str, Any]) -> dict[str, str | None]:
    """The options of the gateway, taken out of `given`; what is not said here may be said for the group."""
    above: dict[str, str | None] = context.obj or {}
    names = ("state_dir", "url", "token", "ca_file", "output")
    return {name: given.pop(name) or above.get(name) for name in names}


def print_answer(answer: Any, show: Show, output: str | None) -> None:
    """As JSON, or as lines for people."""
    if output == "json":
        click.echo(json.dumps(answer, indent=2, ensure_ascii=False))
    elif lines := list(show(answer)):
        click.echo("\n".join(lines))


def group(default: str | None) -> Callable[[Callable[[], None]], click.Group]:
    """A group of verbs that is the verb `default` by itself, and takes the options of its verbs for them."""

    def decorate(described: Callable[[], None]) -> click.Group:
        @click.group(described.__name__, invoke_without_command=default is not None, help=described.__doc__)
        @with_options
        @click.pass_context
        def made(context: click.Context, /, **options: str | None) -> None:
            context.obj = options
            if context.invoked_subcommand is None and default is not None:
                context.invoke(made.commands[default])

        return made

    return decorate


class answering:  # noqa: N801  (reads as the statement it is)
    """A client for the block; what goes wrong in it ends the program with its exit code."""

    def __init__(self, options: dict[str, str | None]) -> None:
        from kairos.client import Client  # takes a while to load: not for --help

        self._client = Client(target=_target(options))
        self._client.http.headers["X-Kairos-Client"] = "cli"

    def __enter__(self) -> Any:
        return self._client

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        from kairos.client import ClientError

        self._client.close()
        if isinstance(error, ClientError):
            fail(*reasons(error))


def reasons(error: Any) -> tuple[int, list[str]]:
    """Exit code and lines of a ClientError."""
    from kairos.client import ApiError, BusyError, ForbiddenError, UnauthenticatedError

    if not isinstance(error, ApiError):
        return EXIT_UNREACHABLE, [str(error)]
    said = str(error)
    lines = list(error.problems) if any(one.endswith(said) for one in error.problems) else [*error.problems, said]
    if isinstance(error, UnauthenticatedError | ForbiddenError):
        return EXIT_AUTH, lines
    return EXIT_UNREACHABLE if isinstance(error, BusyError) or error.status >= 500 else EXIT_REFUSED, lines


def fail(code: int, lines: Iterable[str]) -> NoReturn:
    """Say why on standard error, and end."""
    for line in lines:
        click.secho(line, err=True, fg="red", color=False if os.environ.get("NO_COLOR") else None)
    sys.exit(code)


def _target(options: dict[str, str | None]) -> Any:
    from kairos.client import Target

    url = options.get("url") or os.environ.get("KAIROS_URL") or os.environ.get("KAIROS_GATEWAY_URL")
    if url and not options.get("state_dir"):
        verify = options.get("ca_file") or os.environ.get("KAIROS_CA_FILE") or True
        return Target(url, options.get("token") or os.environ.get("KAIROS_TOKEN") or None, None, verify)
    return Target.local(options.get("state_dir") or os.environ.get("KAIROS_STATE_DIR") or default_folder())
