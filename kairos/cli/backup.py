"""`kairos backup` and `kairos restore`."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kairos.cli.shown import moment
from kairos.cli.talk import EXIT_REFUSED, answering, fail, taken, with_options
from kairos.storage.files import replace_file
from kairos.storage.state import BACKENDS, State, StateError, default_folder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kairos.storage.backup import Backup


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--without-metrics", is_flag=True, help="Leave the historical metrics out: they are the largest part.")
@with_options
@click.pass_context
def backup(context: click.Context, /, file: Path, without_metrics: bool, **given: Any) -> None:
    """Write everything a gateway keeps into FILE, while it runs.

    Users, roles, tokens, revisions, the audit log, metrics, the configuration, and what operators set for backends. The
    file holds secrets: only you can read it. `-` writes to standard output.
    """
    with answering(taken(context, given)) as client:
        data = client.get_backup(metrics=not without_metrics)
    if str(file) == "-":
        sys.stdout.buffer.write(data)
        return
    try:
        replace_file(file, data)
    except OSError as error:
        fail(EXIT_REFUSED, [f"{file} cannot be written: {error.strerror}"])
    click.echo(f"{file}: {len(data)} bytes")


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--state-dir", metavar="DIR", help="Of the gateway, which must not run. Default: KAIROS_STATE_DIR")
@click.option("--database", metavar="URL", help="Restore into this one instead of the one in the state folder.")
@click.option("--config", type=click.Path(dir_okay=False, path_type=Path), help="Write the configuration to this file.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def restore(file: Path, state_dir: str | None, database: str | None, config: Path | None, yes: bool) -> None:
    """Replace everything a gateway keeps by what is in FILE.

    All or nothing: a file that is damaged changes nothing. The gateway of the state folder has to be stopped; several
    that share a database have to be stopped all.
    """
    from kairos.storage.backup import Backup, BackupError
    from kairos.storage.database import UnavailableError

    folder = state_dir or os.environ.get("KAIROS_STATE_DIR") or default_folder()
    try:
        with file.open("rb") as source, _claimed(folder) as state:
            found = Backup(source)
            told = f"of {moment(found.manifest['time'])}, version {found.manifest['version']}"
            click.echo(f"{file}: {told}, {sum(found.manifest['tables'].values())} rows")
            if not yes:
                click.confirm(f"Replace everything in {database or state}?", abort=True)
            counts = asyncio.run(_restore(found, state, database))
            _restore_files(found, state, config)
    except (BackupError, UnavailableError, StateError, ValueError) as error:
        fail(EXIT_REFUSED, [str(error)])
    click.echo(f"restored: {sum(counts.values())} rows in {len(counts)} tables")


@contextlib.contextmanager
def _claimed(folder: str) -> Iterator[Path]:
    """The state folder, for as long as nobody else has it. Raises StateError."""
    state = State.claim(folder)
    try:
        yield state.folder
    finally:
        state.close()


async def _restore(found: Backup, folder: Path, url: str | None) -> dict[str, int]:
    from kairos.storage.database import Database

    database = Database(url) if url else Database.in_folder(folder)
    try:
        await database.start()
        async with database.write() as connection:
            return await connection.run_sync(found.restore)
    finally:
        await database.close()


def _restore_files(found: Backup, folder: Path, config: Path | None) -> None:
    for name, data in found.files().items():
        if name == BACKENDS:
            replace_file(folder / BACKENDS, data)
        elif config is not None:
            replace_file(config, data)
