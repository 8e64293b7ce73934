"""`kairos shell`: the same verbs at a prompt, with completion and history; and completion for the shells of people."""

from __future__ import annotations

import os
import shlex
import sys
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prompt_toolkit.completion import Completion
    from prompt_toolkit.document import Document

ENDINGS = ("exit", "quit")


@click.command()
@click.option("--state-dir", metavar="DIR", help="Of the gateway, for all verbs.")
@click.option("-u", "--url", metavar="URL", help="Its admin API, for all verbs.")
@click.option("--token", metavar="TOKEN", help="For --url.")
@click.pass_context
def shell(context: click.Context, /, **given: str | None) -> None:
    """Type verbs at a prompt: `backends drain 8080` instead of `kairos backends drain 8080`.

    Tab completes, Ctrl-R searches what was typed before, Ctrl-D ends. Without a terminal, verbs are read line by line;
    the exit code is that of the last one that failed.
    """
    for name, value in given.items():
        if value:
            os.environ[f"KAIROS_{name.upper()}"] = value
    main = context.find_root().command
    assert isinstance(main, click.Group)
    if sys.stdin.isatty():
        for line in lines(main):
            run(main, line)
    else:
        sys.exit(script(main, sys.stdin))


def script(main: click.Group, source: Iterable[str]) -> int:
    """Verbs that nobody types: the exit code of the last one that failed."""
    code = 0
    for line in map(str.strip, source):
        if line in ENDINGS:
            break
        if line and not line.startswith("#"):
            code = run(main, line) or code
    return code


def lines(main: click.Group) -> Iterator[str]:
    """What is typed, until the end."""
    from prompt_toolkit import PromptSession
    from prompt_toolkit.history import InMemoryHistory

    session: PromptSession[str] = PromptSession(history=InMemoryHistory(), completer=completer(main))
    while True:
        try:
            line = session.prompt("kairos> ").strip()
        except KeyboardInterrupt:
            continue
        except EOFError:
            return
        if line in ENDINGS:
            return
        if line:
            yield line


def run(main: click.Group, line: str) -> int:
    """One line; whatever comes of it, the prompt comes back. Its exit code."""
    try:
        main.main(shlex.split(line), prog_name="kairos", standalone_mode=True)
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    except ValueError as error:
        click.echo(f"{error}: {line}", err=True)
        return 2
    except KeyboardInterrupt:
        click.echo()
    return 0


def completer(main: click.Group) -> Any:
    """Verbs and options of where the line stands."""
    from prompt_toolkit.completion import Completer, Completion

    class Verbs(Completer):
        def get_completions(self, document: Document, complete_event: object) -> Iterable[Completion]:
            words = document.text_before_cursor.split(" ")
            command: click.Command = main
            for word in words[:-1]:
                command = command.commands.get(word, command) if isinstance(command, click.Group) else command
            for name in sorted(candidates(command)):
                if name.startswith(words[-1]):
                    yield Completion(name, -len(words[-1]))

    return Verbs()


def candidates(command: click.Command) -> list[str]:
    """What may come next."""
    options = [name for parameter in command.params for name in parameter.opts if name.startswith("--")]
    return [*options, *(command.commands if isinstance(command, click.Group) else ())]


@click.command()
@click.argument("name", type=click.Choice(["bash", "zsh", "fish"]), metavar="bash|zsh|fish")
@click.pass_context
def completion(context: click.Context, /, name: str) -> None:
    """Print completion for your shell: eval "$(kairos completion bash)" in ~/.bashrc"""
    from click.shell_completion import get_completion_class

    made = get_completion_class(name)
    assert made is not None
    click.echo(made(context.find_root().command, {}, "kairos", "_KAIROS_COMPLETE").source())
