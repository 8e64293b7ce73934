"""Names to addresses by c-ares (aiodns), kept for as long as their TTL says.

A name that expired is asked for again by whoever needs it next. A DNS outage takes no running service down: what was
known last stays good while no server answers, and nobody waits long for one then; servers in trouble also deny names
that exist, so a name that is said not to exist loses its addresses only when that goes on.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

import aiodns

if TYPE_CHECKING:
    from collections.abc import Callable

MIN_TTL = 1.0
MAX_TTL = 3600.0  # c-ares keeps answers no longer either
RETRY_AFTER = 2.0
"""Seconds until a name without an answer, or without addresses, is asked for again."""
PATIENCE = 0.1
"""Seconds for which whoever has an expired answer waits for the new one."""
BELIEVED_AFTER = 3600.0
"""Seconds since the last answer with addresses after which it is believed that there are none."""
_NO_ADDRESS = frozenset((aiodns.error.ARES_ENOTFOUND, aiodns.error.ARES_ENODATA))


class _Entry(NamedTuple):
    addresses: list[str]
    expires: float
    found: float
    """When a server last gave these addresses."""


class Resolver:
    """One per process. Addresses of a name come rotated, so that connections spread over them.

    Name servers (`address` or `address:port`) and search domains are the system's, unless some are given.
    """

    def __init__(self, nameservers: list[str] | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._resolver = aiodns.DNSResolver(nameservers=nameservers, timeout=2.0, tries=2)
        self._cache: dict[str, _Entry] = {}
        self._asking: dict[str, asyncio.Task[_Entry]] = {}
        self._turn = 0

    async def close(self) -> None:
        await self._resolver.close()

    async def resolve(self, host: str) -> list[str]:
        """Addresses of a name or literal, none when it has none and never had."""
        if _is_address(host):
            return [host]
        entry = self._cache.get(host)
        if entry is None or entry.expires <= self._clock():
            entry = await self._renewed(host, entry)
        self._turn += 1
        pivot = self._turn % len(entry.addresses) if entry.addresses else 0
        return entry.addresses[pivot:] + entry.addresses[:pivot]

    async def _renewed(self, host: str, known: _Entry | None) -> _Entry:
        """The servers' answer; if it takes its time, what was known."""
        asking = self._ask_once(host)
        if known is None or not known.addresses:
            return await asyncio.shield(asking)
        await asyncio.wait([asking], timeout=PATIENCE)
        if asking.done():
            return asking.result()
        self._cache[host] = known._replace(expires=self._clock() + RETRY_AFTER)  # the next need not even wait
        return known

    def _ask_once(self, host: str) -> asyncio.Task[_Entry]:
        """One question under way per name, however many wait for it."""
        task = self._asking.get(host)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._ask(host))
            self._asking[host] = task
            task.add_done_callback(lambda _: self._asking.pop(host, None))
        return task

    async def _ask(self, host: str) -> _Entry:
        try:
            answer = await self._resolver.getaddrinfo(host, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM)
        except aiodns.error.DNSError as error:
            entry = self._without_answer(host, denied=error.args[0] in _NO_ADDRESS)
        else:
            now = self._clock()
            ttl = min((node.ttl for node in answer.nodes), default=0)
            addresses = list(dict.fromkeys(_text(node.addr[0]) for node in answer.nodes))
            entry = _Entry(addresses, now + min(max(float(ttl), MIN_TTL), MAX_TTL), now)
        self._cache[host] = entry
        return entry

    def _without_answer(self, host: str, *, denied: bool) -> _Entry:
        """What holds until the name is asked for again."""
        now = self._clock()
        known = self._cache.get(host)
        if known is None or (denied and now - known.found >= BELIEVED_AFTER):
            return _Entry([], now + RETRY_AFTER, now)
        return known._replace(expires=now + RETRY_AFTER)


def _text(address: str | bytes) -> str:
    return address.decode() if isinstance(address, bytes) else address


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
