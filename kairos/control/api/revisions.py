"""Configurations that were in use: who changed what, when and why, and the way back."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated, Any

from litestar import Response, get, post
from litestar.di import NamedDependency
from litestar.params import Parameter
from msgspec import Struct, structs

from kairos.config.diff import Difference, differences, text_diff
from kairos.config.mask import masked_text
from kairos.control.api.guards import needs
from kairos.control.api.writing import Written, told, writes
from kairos.control.changes import Changes, Wish, document_of
from kairos.control.ledger import Filter, Ledger, Revision

if TYPE_CHECKING:
    from kairos.config.text import ConfigText

TAGS = ["Revisions"]
Number = Annotated[int, Parameter(ge=1, lt=1 << 62)]
Seconds = Annotated[float | None, Parameter(ge=0, le=1e11, description="Unix seconds.")]


class RevisionText(Struct, frozen=True):
    """A revision, what it changed, and what it says."""

    revision: Revision
    diff: list[Difference]
    """Since the one before it."""
    config: Any
    """In the canonical form, references unresolved, secrets masked."""


class RevisionDiff(Struct, frozen=True):
    """From one revision to another."""

    before: int
    after: int
    diff: list[Difference]
    text_diff: str


@get("/api/revisions", tags=TAGS, **needs("config:read"))
async def list_revisions(
    ledger: NamedDependency[Ledger],
    author: Annotated[str | None, Parameter(max_length=200)] = None,
    origin: Annotated[str | None, Parameter(max_length=40)] = None,
    since: Seconds = None,
    until: Seconds = None,
    before: Annotated[int | None, Parameter(ge=1, lt=1 << 62, description="Only those with a lower number.")] = None,
    limit: Annotated[int, Parameter(ge=1, le=1000)] = 100,
) -> list[Revision]:
    """The newest first. Further pages: `before` the number of the last one."""
    wanted = Filter(author=author, origin=origin, since=since, until=until)
    return await ledger.page(wanted, before=before, limit=limit)


@get("/api/config/history", tags=["Configuration"], **needs("config:read"))
async def config_history(
    ledger: NamedDependency[Ledger],
    before: Annotated[int | None, Parameter(ge=1, lt=1 << 62)] = None,
    limit: Annotated[int, Parameter(ge=1, le=1000)] = 100,
) -> list[Revision]:
    """The same as /api/revisions."""
    return await ledger.page(Filter(), before=before, limit=limit)


@get("/api/revisions/{number:int}", tags=TAGS, **needs("config:read"))
async def get_revision(ledger: NamedDependency[Ledger], number: Number) -> RevisionText:
    """One of them, in the canonical form: references as written, secrets masked."""
    revision, text, diff = await ledger.find(number)
    return RevisionText(revision, diff, await asyncio.to_thread(masked_text, text))


@get("/api/revisions/{number:int}/diff", tags=TAGS, **needs("config:read"))
async def diff_revision(
    ledger: NamedDependency[Ledger],
    changes: NamedDependency[Changes],
    number: Number,
    against: Annotated[
        int | None, Parameter(ge=1, lt=1 << 62, description="The older one; without it: the one in use, as the newer.")
    ] = None,
) -> RevisionDiff:
    """What changed from `against` to this revision, or from this revision to what is in use."""
    _, text, _ = await ledger.find(number)
    first, one, last, other = number, text, changes.number, changes.text
    if against is not None:
        _, older, _ = await ledger.find(against)
        first, one, last, other = against, older, number, text
    return await asyncio.to_thread(_diff, first, one, last, other)


def _diff(first: int, one: ConfigText, last: int, other: ConfigText) -> RevisionDiff:
    before, after = document_of(one), document_of(other)
    names = f"revision {first}", f"revision {last}"
    return RevisionDiff(first, last, differences(before, after), text_diff(before, after, names))


@post("/api/revisions/{number:int}/rollback", tags=TAGS, status_code=200, **writes())
async def rollback_revision(
    ledger: NamedDependency[Ledger], changes: NamedDependency[Changes], wish: NamedDependency[Wish], number: Number
) -> Response[Written]:
    """Use this revision's text again, as a new revision."""
    _, text, _ = await ledger.find(number)
    message = wish.message or f"back to revision {number}"
    outcome = await changes.replace(text.data, text.format, structs.replace(wish, message=message, origin="rollback"))
    return told(outcome, f"Rolled back to revision {number}")


HANDLERS = [list_revisions, config_history, get_revision, diff_revision, rollback_revision]
