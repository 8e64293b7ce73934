"""A backup of what the control process keeps: every table as it was at one moment, and files of the state folder.

A gzipped tar, the same for SQLite and PostgreSQL, so that it also moves from one to the other:

    manifest.json           format, program's version, schema's step, time, rows of each table; first
    tables/<name>.jsonl     a JSON object a row; bytes as {"base64": "…"}
    files/<name>            configuration, backends.json

It holds what the database holds: hashes of passwords and tokens, and configurations with the secrets that stand in
them.
"""

from __future__ import annotations

import base64
import io
import json
import tarfile
import time
from typing import IO, TYPE_CHECKING, Any

from alembic.migration import MigrationContext
from sqlalchemy import MetaData, func, insert, select, text

from kairos.storage.database import migrate
from kairos.storage.schema import metadata

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from sqlalchemy import Connection, Table

FORMAT = 1
ROWS = 500  # read or written at once
MAX_MEMBER = 1 << 32
_VERSION_TABLE = "alembic_version"


class BackupError(Exception):
    """It cannot be read, or not be put here; the text says why."""


def write_backup(
    out: IO[bytes],
    connection: Connection,
    files: Mapping[str, bytes],
    *,
    version: str,
    without: frozenset[str] = frozenset(),
) -> dict[str, int]:
    """All tables but `without`, as the transaction of `connection` sees them; rows of each.

    Tables are written one by one through memory, each compressed as it goes.
    """
    tables = [table for table in metadata.sorted_tables if table.name not in without]
    bodies = {table.name: _rows(connection, table) for table in tables}
    counts = {name: body.count(b"\n") for name, body in bodies.items()}
    manifest = {
        "format": FORMAT,
        "version": version,
        "schema": MigrationContext.configure(connection).get_current_revision(),
        "time": time.time(),
        "tables": counts,
        "files": sorted(files),
    }
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        _add(archive, "manifest.json", json.dumps(manifest, indent=2).encode())
        for name, body in bodies.items():
            _add(archive, f"tables/{name}.jsonl", body)
        for name, body in files.items():
            _add(archive, f"files/{name}", body)
    return counts


def _rows(connection: Connection, table: Table) -> bytes:
    body = io.BytesIO()
    rows = connection.execution_options(yield_per=ROWS).execute(select(table).order_by(*table.primary_key.columns))
    for row in rows.mappings():
        body.write(json.dumps({name: _plain(value) for name, value in row.items()}, separators=(",", ":")).encode())
        body.write(b"\n")
    return body.getvalue()


def _plain(value: Any) -> Any:
    return {"base64": base64.b64encode(value).decode()} if isinstance(value, bytes) else value


def _add(archive: tarfile.TarFile, name: str, body: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size, member.mode, member.mtime = len(body), 0o600, int(time.time())
    archive.addfile(member, io.BytesIO(body))


class Backup:
    """One that was written. Raises BackupError for what is none."""

    def __init__(self, source: IO[bytes]) -> None:
        try:
            self._archive = tarfile.open(fileobj=source, mode="r:*")  # noqa: SIM115  (open as long as this is)
            self.manifest: dict[str, Any] = json.loads(self._member("manifest.json"))
        except (tarfile.TarError, OSError, EOFError, ValueError) as error:
            raise BackupError(f"not a backup, or a damaged one: {error}") from error
        if self.manifest.get("format") != FORMAT:
            raise BackupError(f"of format {self.manifest.get('format')}, which this version does not read")

    def files(self) -> dict[str, bytes]:
        """Of the state folder."""
        return {name: self._member(f"files/{name}") for name in self.manifest["files"]}

    def restore(self, connection: Connection) -> dict[str, int]:
        """Replace everything in the database, within the transaction of `connection`; rows of each table."""
        _empty(connection)
        try:
            migrate(connection, str(self.manifest["schema"]))
        except Exception as error:
            raise BackupError(f"of a newer version ({self.manifest['version']}): install that one") from error
        then = MetaData()
        then.reflect(connection)
        counts = {}
        for table in then.sorted_tables:
            if table.name in self.manifest["tables"]:
                counts[table.name] = self._fill(connection, table)
                _count_on(connection, table)
        migrate(connection)
        return counts

    def _fill(self, connection: Connection, table: Table) -> int:
        count = 0
        for rows in self._chunks(table.name):
            connection.execute(insert(table), rows)
            count += len(rows)
        if count != self.manifest["tables"][table.name]:
            raise BackupError(
                f"damaged: table {table.name} has {count} rows and not {self.manifest['tables'][table.name]}"
            )
        return count

    def _chunks(self, table: str) -> Iterator[list[dict[str, Any]]]:
        rows = []
        for line in io.BytesIO(self._member(f"tables/{table}.jsonl")):
            rows.append({name: _value(value) for name, value in json.loads(line).items()})
            if len(rows) == ROWS:
                yield rows
                rows = []
        if rows:
            yield rows

    def _member(self, name: str) -> bytes:
        try:
            opened = self._archive.extractfile(name)
        except KeyError:
            opened = None
        if opened is None:
            raise BackupError(f"damaged: {name} is not in it")
        return opened.read(MAX_MEMBER)


def _value(value: Any) -> Any:
    return base64.b64decode(value["base64"]) if isinstance(value, dict) else value


def _count_on(connection: Connection, table: Table) -> None:
    """PostgreSQL numbers rows by a sequence, which knows nothing of rows that came with their number."""
    if connection.dialect.name != "postgresql":
        return
    for column in table.primary_key.columns:
        name = connection.scalar(
            text("SELECT pg_get_serial_sequence(:table, :column)"), {"table": table.name, "column": column.name}
        )
        if name is not None:
            last = connection.scalar(select(func.max(column)))
            connection.execute(text("SELECT setval(:name, :last)"), {"name": name, "last": last or 1})


def _empty(connection: Connection) -> None:
    """Every table goes, for those of the backup may be of an older schema."""
    found = MetaData()
    found.reflect(connection)
    known = {*metadata.tables, _VERSION_TABLE}
    found.drop_all(connection, tables=[table for table in found.sorted_tables if table.name in known])
