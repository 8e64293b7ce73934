"""The cache of this node: what is in it, and throwing responses out of it."""

from __future__ import annotations

from litestar import get, post
from litestar.di import NamedDependency
from litestar.params import JSONBody

from kairos.control.api.guards import needs
from kairos.control.caches import CacheStatus, Purged, PurgeRequest
from kairos.control.commands import Commands

TAGS = ["Cache"]


@get("/api/cache", tags=TAGS, sync_to_thread=False, **needs("status:read"))
def show_cache(commands: NamedDependency[Commands]) -> CacheStatus:
    """How full it is."""
    return commands.cache()


@post("/api/cache/purge", tags=TAGS, status_code=200, **needs("cache:purge"))
async def purge_cache(commands: NamedDependency[Commands], data: JSONBody[PurgeRequest]) -> Purged:
    """Throw responses out, by URL, prefix or tag: at once for every worker."""
    return await commands.purge(data)


HANDLERS = [show_cache, purge_cache]
