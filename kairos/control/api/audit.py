"""The audit log: to search, to take away, to check."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from typing import Annotated, Literal

import msgspec
from litestar import Response, get
from litestar.di import NamedDependency
from litestar.params import FromQuery, Parameter
from litestar.response import Stream
from msgspec import Struct

from kairos.control.access.audit import Audit, Entry, Outcome, Search, Verdict
from kairos.control.api.guards import needs

TAGS = ["Audit"]
Word = Annotated[str | None, Parameter(max_length=400)]
Limit = Annotated[int, Parameter(ge=1, le=500)]
Before = Annotated[int | None, Parameter(ge=1, lt=1 << 62)]


class Page(Struct, frozen=True):
    """Entries, the newest first."""

    entries: list[Entry]
    next: int | None
    """Give it as `before` for older ones; null: there are none."""


@get("/api/audit", tags=TAGS, **needs("audit:read"))
async def search_audit(
    audit: NamedDependency[Audit],
    actor: Word = None,
    action: Word = None,
    target: Word = None,
    outcome: FromQuery[Outcome | None] = None,
    since: FromQuery[datetime | None] = None,
    until: FromQuery[datetime | None] = None,
    text: Word = None,
    before: Before = None,
    limit: Limit = 100,
) -> Page:
    """What was done, and tried. `action` may be the start of one, `text` stands anywhere; times in ISO 8601."""
    wanted = _search(actor, action, target, outcome, since, until, text)
    entries = await audit.search(wanted, before=before, limit=limit)
    return Page(entries, entries[-1].number if len(entries) == limit else None)


@get("/api/audit/export", tags=TAGS, **needs("audit:read"))
async def export_audit(
    audit: NamedDependency[Audit],
    format: FromQuery[Literal["jsonl", "csv"]] = "jsonl",  # noqa: A002
    actor: Word = None,
    action: Word = None,
    target: Word = None,
    outcome: FromQuery[Outcome | None] = None,
    since: FromQuery[datetime | None] = None,
    until: FromQuery[datetime | None] = None,
    text: Word = None,
) -> Response[bytes]:
    """All entries that fit, oldest first: a JSON object a line, or CSV."""
    pieces = audit.export(_search(actor, action, target, outcome, since, until, text))
    kind = "application/jsonl" if format == "jsonl" else "text/csv; charset=utf-8"
    headers = {"Content-Disposition": f'attachment; filename="kairos-audit.{format}"'}
    return Stream((_lines if format == "jsonl" else _rows)(pieces), media_type=kind, headers=headers)  # type: ignore[return-value]


@get("/api/audit/verify", tags=TAGS, **needs("audit:read"))
async def verify_audit(audit: NamedDependency[Audit]) -> Verdict:
    """Walk along the chain of hashes: what was changed, removed or put in shows."""
    return await audit.verify()


def _search(
    actor: str | None,
    action: str | None,
    target: str | None,
    outcome: Outcome | None,
    since: datetime | None,
    until: datetime | None,
    text: str | None,
) -> Search:
    times = {"since": _seconds(since), "until": _seconds(until)}
    return Search(actor=actor, action=action, target=target, outcome=outcome, text=text, **times)


def _seconds(time: datetime | None) -> float | None:
    """Without a zone it is UTC."""
    return None if time is None else (time if time.tzinfo else time.replace(tzinfo=UTC)).timestamp()


async def _lines(pieces: AsyncIterator[list[Entry]]) -> AsyncIterator[bytes]:
    async for entries in pieces:
        yield b"".join(msgspec.json.encode(entry) + b"\n" for entry in entries)


async def _rows(pieces: AsyncIterator[list[Entry]]) -> AsyncIterator[bytes]:
    yield _csv([list(Entry.__struct_fields__)])
    async for entries in pieces:
        yield _csv([[_cell(getattr(entry, name)) for name in Entry.__struct_fields__] for entry in entries])


def _csv(rows: list[list[str]]) -> bytes:
    out = io.StringIO()
    csv.writer(out).writerows(rows)
    return out.getvalue().encode()


def _cell(value: object) -> str:
    """A spreadsheet is not to take anybody's words for a formula."""
    text = msgspec.json.encode(value).decode() if isinstance(value, dict) else str(value)
    return f"'{text}" if text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


HANDLERS = [search_audit, export_audit, verify_audit]
