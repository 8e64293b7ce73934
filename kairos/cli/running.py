"""The verbs of `kairos config` for the gateway that runs: what is in use, another in its place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kairos.cli.changes import change_lines, changes_with
from kairos.cli.talk import talks
from kairos.config.syntax import FORMATS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kairos.client import Client

TYPES = {"json": "application/json", "yaml": "application/yaml", "toml": "application/toml"}


def _as_json(answer: Any) -> Iterable[str]:
    yield json.dumps(answer, indent=2, ensure_ascii=False)


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--verbatim", is_flag=True, help="Keep the text as it is, comments and all.")
@changes_with
@talks(change_lines)
def apply(client: Client, file: Path, verbatim: bool, **wish: Any) -> Any:
    """Put FILE in the place of the configuration in use.

    All workers try it first: one with errors changes nothing, they are printed and the exit code is 1. Masks (***) keep
    the secrets they stand for. --dry-run prints what would change.
    """
    kind = TYPES[FORMATS.get(file.suffix.lower(), "json")]
    return client.put_config(file.read_bytes(), content_type=kind, verbatim=verbatim, **wish)


@click.command()
@click.option("--effective", is_flag=True, help="With all defaults, and what the command line overrides.")
@talks(_as_json)
def running(client: Client, effective: bool) -> Any:
    """Print the configuration in use, secrets masked, ${...} as written."""
    return client.get_config(effective=effective)
