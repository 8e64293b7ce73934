"""A backup of the database and the state folder, to download."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Annotated, Any

from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import Parameter

from kairos import __version__
from kairos.control.api.guards import needs
from kairos.control.commands import Commands
from kairos.storage.backup import write_backup
from kairos.storage.database import Database
from kairos.storage.state import BACKENDS

TAGS = ["Backup"]
METRICS = frozenset({"metric_series", "metric_frames"})


@get("/api/backup", tags=TAGS, media_type="application/gzip", **needs("backup:read"))
async def get_backup(
    commands: NamedDependency[Commands],
    database: NamedDependency[Database],
    metrics: Annotated[bool, Parameter(description="Historical metrics as well.")] = True,
) -> Response[bytes]:
    """Everything that is kept, as one file: secrets of the configuration and hashes of passwords are in it."""
    status = commands.status()
    files = _files(Path(status.config), Path(status.state_dir) if status.state_dir else None)
    out = io.BytesIO()
    without = frozenset() if metrics else METRICS
    async with database.read() as connection:
        await connection.run_sync(
            lambda sync: write_backup(out, sync, files, version=__version__, without=without),
        )
    name = time.strftime("kairos-%Y%m%d-%H%M%S.tar.gz", time.gmtime())
    headers: dict[str, Any] = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(out.getvalue(), media_type="application/gzip", headers=headers)


def _files(config: Path, state: Path | None) -> dict[str, bytes]:
    """What cannot be read is not there: the database is what matters."""
    wanted = {f"config{config.suffix or '.json'}": config}
    if state is not None:
        wanted[BACKENDS] = state / BACKENDS
    return {name: path.read_bytes() for name, path in wanted.items() if path.is_file()}


HANDLERS = [get_backup]
