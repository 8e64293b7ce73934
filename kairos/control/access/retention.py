"""How long the audit log is kept, and what shows later that its beginning went by that rule. Pure: `now` is passed in.

Entries go from the oldest on, in the order of their numbers, so that what is left stays one chain. What it hangs on
then is noted twice: beside the chain, and in an entry `audit.prune` at its end, which nobody removes unnoticed. A
beginning that was cut off otherwise has no such entry.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from kairos.config.admin import AdminAudit

ACTION = "audit.prune"
DAY_S = 86_400.0


class Pruned(Struct, frozen=True):
    """Where the chain begins now: behind this entry, which is gone."""

    number: int
    hash: str


class Old(Struct, frozen=True):
    """What has to be known of an entry to judge it."""

    number: int
    time: float
    hash: str


def due(oldest: Sequence[Old], newest: int, kept: AdminAudit, now: float) -> Old | None:
    """The last one that may go of the `oldest` entries, which are in order; None: all have to stay.

    Days are whole ones, and what is too many goes with a hundredth more: else every hour would leave an entry about it.
    """
    if not oldest:
        return None
    before = (now - kept.days * DAY_S) // DAY_S * DAY_S if kept.days else float("-inf")
    beyond = 0
    if kept.entries and newest - oldest[0].number + 1 > kept.entries:
        beyond = newest - kept.entries + kept.entries // 100 + 1  # the entry about it
    last = None
    for one in oldest:
        if one.time >= before and one.number > beyond:
            break
        last = one
    return last


def told(last: Old, entries: int, fault: str) -> dict[str, Any]:
    """The detail of the entry about it; `fault`: what was wrong with the chain up to there."""
    found = {"through": last.number, "hash": last.hash, "entries": entries, "until": last.time}
    return {**found, "intact": not fault, **({"reason": fault} if fault else {})}


def vouches(entry: Mapping[str, Any] | None, beginning: Pruned) -> bool:
    """Whether the newest entry about it says the same as the note."""
    if not beginning.number:
        return True
    detail = json.loads(entry["detail"]) if entry is not None else {}
    return (detail.get("through"), detail.get("hash")) == (beginning.number, beginning.hash)
