"""Rate limits, and the addresses that are banned."""

from __future__ import annotations

from litestar import delete, get
from litestar.di import NamedDependency
from litestar.params import FromPath

from kairos.control.api.guards import needs
from kairos.control.api.paths import segment
from kairos.control.bans import BanStatus
from kairos.control.commands import Commands, Lifted
from kairos.control.limits import LimitsStatus

TAGS = ["Limits"]


@get("/api/limits", tags=TAGS, sync_to_thread=False, **needs("status:read"))
def show_limits(commands: NamedDependency[Commands]) -> LimitsStatus:
    """What rate limits did, and how many keys they remember."""
    return commands.limits()


@get("/api/bans", tags=TAGS, sync_to_thread=False, **needs("status:read"))
def list_bans(commands: NamedDependency[Commands]) -> list[BanStatus]:
    """Bans in force."""
    return commands.bans()


@delete("/api/bans/{address:str}", tags=TAGS, status_code=200, sync_to_thread=False, **needs("limits:operate"))
def lift_ban(commands: NamedDependency[Commands], address: FromPath[str]) -> Lifted:
    """Let an address in again."""
    return commands.lift_ban(segment(address))


HANDLERS = [show_limits, list_bans, lift_ban]
