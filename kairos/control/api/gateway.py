"""The gateway as a whole: how it is, reload, upgrade."""

from __future__ import annotations

from litestar import get, post
from litestar.di import NamedDependency

from kairos.control.api.guards import needs
from kairos.control.commands import Commands, Reloaded, Status, Upgraded

TAGS = ["Gateway"]


@get("/api/status", tags=TAGS, sync_to_thread=False, **needs("status:read"))
def status(commands: NamedDependency[Commands]) -> Status:
    """How the gateway is at this moment."""
    return commands.status()


@post("/api/reload", tags=TAGS, status_code=200, **needs("gateway:operate"))
async def reload(commands: NamedDependency[Commands]) -> Reloaded:
    """Read the configuration file again and put it in use."""
    return await commands.reload("admin API")


@post("/api/upgrade", tags=TAGS, status_code=200, **needs("gateway:operate"))
async def upgrade(commands: NamedDependency[Commands]) -> Upgraded:
    """Replace the program by the one that is installed now, without losing a connection."""
    return await commands.upgrade()


HANDLERS = [status, reload, upgrade]
