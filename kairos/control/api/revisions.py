"""Configurations that were in use."""

from __future__ import annotations

from typing import Annotated

from litestar import get
from litestar.params import Parameter

from kairos.control.api.guards import needs
from kairos.control.commands import Commands, RevisionText
from kairos.storage.revisions import Stored

TAGS = ["Revisions"]
Number = Annotated[int, Parameter(ge=1, lt=1 << 62)]


@get("/api/revisions", tags=TAGS, **needs("config:read"))
async def list_revisions(commands: Commands) -> list[Stored]:
    """Those that are kept, newest first."""
    return await commands.revisions()


@get("/api/revisions/{number:int}", tags=TAGS, **needs("config:read"))
async def get_revision(commands: Commands, number: Number) -> RevisionText:
    """One of them, in the canonical form: references as written, secrets masked."""
    return await commands.revision(number)


HANDLERS = [list_revisions, get_revision]
