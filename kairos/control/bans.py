"""Bans of addresses, as an operator sees and lifts them. The table is the workers'; nothing is kept here but names."""

from __future__ import annotations

import ipaddress
import time
from typing import TYPE_CHECKING

from msgspec import Struct

from kairos._speedups.bans import jail_hash, lifted, listed
from kairos._speedups.cells import BAN_CELLS

if TYPE_CHECKING:
    from kairos.config.model import Config
    from kairos.config.policies import Policies
    from kairos.scoreboard import Scoreboard

_IPV4 = bytes(10) + b"\xff\xff"


class BanStatus(Struct, frozen=True):
    """One ban in force."""

    address: str
    """Of IPv6 the /64."""
    jail: str
    """The name of the ban in the configuration; empty where it is in none any more."""
    seconds: float
    """Until it ends."""
    offences: int
    """Bans of this address that are not forgotten, this one included."""


class Bans:
    """The bans of one gateway."""

    def __init__(self, board: Scoreboard) -> None:
        self._board = board
        self._names: dict[int, str] = {}

    def apply(self, config: Config) -> None:
        """Take up the names of a configuration."""
        holders: list[Policies] = [config, *config.groups.values(), *config.routers]
        bans = [holder.access.ban for holder in holders if holder.access is not None and holder.access.ban is not None]
        self._names = {jail_hash(ban.name): ban.name for ban in bans}

    def list(self) -> list[BanStatus]:
        """Those in force, the longest first."""
        now_us = time.monotonic_ns() // 1000
        found = listed(self._board.page, self._board.bans, BAN_CELLS, now_us)
        return [
            BanStatus(_shown(address), self._names.get(jail, ""), left / 1e6, offences)
            for address, jail, left, offences in sorted(found, key=lambda ban: ban[2], reverse=True)
        ]

    def lift(self, address: str) -> int:
        """Forget the bans of an address, in every jail; how many there were.

        Raises:
            ValueError: it is no address.
        """
        parsed = ipaddress.ip_address(address.removesuffix("/64"))
        packed = parsed.packed if parsed.version == 6 else _IPV4 + parsed.packed
        return lifted(self._board.page, self._board.bans, BAN_CELLS, packed)


def _shown(address: bytes) -> str:
    if address.startswith(_IPV4):
        return str(ipaddress.IPv4Address(address[12:]))
    return f"{ipaddress.IPv6Address(address)}/64"
