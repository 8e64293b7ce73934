"""Backends: how they are, and what operators set for them. A key is percent-encoded in the path."""

from __future__ import annotations

from collections.abc import Sequence

from litestar import get, patch, post
from litestar.di import NamedDependency
from litestar.params import FromPath, JSONBody

from kairos.control.api.guards import needs
from kairos.control.api.paths import segment
from kairos.control.backends import BackendStatus
from kairos.control.commands import BackendChange, Commands

TAGS = ["Backends"]


@get("/api/backends", tags=TAGS, sync_to_thread=False, **needs("status:read"))
def list_backends(commands: NamedDependency[Commands]) -> Sequence[BackendStatus]:
    """All backends of the configuration in use."""
    return commands.backends()


@get("/api/backends/{key:str}", tags=TAGS, sync_to_thread=False, **needs("status:read"))
def get_backend(commands: NamedDependency[Commands], key: FromPath[str]) -> BackendStatus:
    """One of them."""
    return commands.backend(segment(key))


@patch("/api/backends/{key:str}", tags=TAGS, **needs("backends:operate"))
async def change_backend(
    commands: NamedDependency[Commands], key: FromPath[str], data: JSONBody[BackendChange]
) -> BackendStatus:
    """Take it out or back in, give it another share, force its breaker: at once in every worker, and over restarts."""
    return await commands.change_backend(segment(key), data)


@post("/api/backends/{key:str}/probe", tags=TAGS, status_code=200, **needs("backends:operate"))
async def probe_backend(commands: NamedDependency[Commands], key: FromPath[str]) -> BackendStatus:
    """Check its health now; the result counts like any other."""
    return await commands.probe(segment(key))


HANDLERS = [list_backends, get_backend, change_backend, probe_backend]
