"""Names to addresses by c-ares (aiodns), kept for as long as their TTL says.

A name that expired is asked for again by whoever needs it next; while the server does not answer, what was known last
stays good, so that a DNS outage takes no running service down.
"""

from __future__ import annotations

import asyncio
import ipaddress
import socket
from typing import NamedTuple

import aiodns

MIN_TTL = 1.0
MAX_TTL = 300.0
RETRY_AFTER = 2.0
"""Seconds until a name that could not be asked for is asked for again."""


class _Entry(NamedTuple):
    addresses: list[str]
    expires: float


class Resolver:
    """One per worker. Addresses of a name come rotated, so that connections spread over them."""

    def __init__(self, nameservers: list[str] | None = None) -> None:
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
        if entry is None or entry.expires <= asyncio.get_running_loop().time():
            entry = await asyncio.shield(self._ask_once(host))
        self._turn += 1
        pivot = self._turn % len(entry.addresses) if entry.addresses else 0
        return entry.addresses[pivot:] + entry.addresses[:pivot]

    def _ask_once(self, host: str) -> asyncio.Task[_Entry]:
        """One question under way per name, however many wait for it."""
        task = self._asking.get(host)
        if task is None:
            task = asyncio.get_running_loop().create_task(self._ask(host))
            self._asking[host] = task
            task.add_done_callback(lambda _: self._asking.pop(host, None))
        return task

    async def _ask(self, host: str) -> _Entry:
        now = asyncio.get_running_loop().time()
        try:
            answer = await self._resolver.getaddrinfo(host, family=socket.AF_UNSPEC, type=socket.SOCK_STREAM)
        except aiodns.error.DNSError:
            known = self._cache.get(host, _Entry([], 0.0))
            entry = _Entry(known.addresses, now + RETRY_AFTER)
        else:
            ttl = min((node.ttl for node in answer.nodes), default=0)
            addresses = list(dict.fromkeys(_text(node.addr[0]) for node in answer.nodes))
            entry = _Entry(addresses, now + min(max(float(ttl), MIN_TTL), MAX_TTL))
        if entry.addresses:
            self._cache[host] = entry
        return entry


def _text(address: str | bytes) -> str:
    return address.decode() if isinstance(address, bytes) else address


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
