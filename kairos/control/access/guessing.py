"""Who guesses passwords has to wait, longer each time. Pure: `now` is passed in.

An attempt counts as wrong from its beginning, so that a thousand at once are not a thousand guesses; a right one takes
that back. Counted are

    address   attempts from one network that no known device makes
    device    attempts from a browser that logged in to the account before
    account   attempts on one account from everywhere, of which one is forgotten in each `longest`: so one network
              alone, which then has one in the same time, never locks an account for others

Who comes with a known device of the account waits for the device alone: nobody else can lock them out.
"""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec import Struct

if TYPE_CHECKING:
    from collections.abc import Iterable

    from kairos.config.admin import Lockout

Kind = Literal["address", "device", "account"]
ROOM = 10_000
FORGOTTEN_S = 86_400.0


class Key(NamedTuple):
    """What attempts are counted of."""

    kind: Kind
    name: str


class Count(Struct, frozen=True):
    """What is known of one key."""

    wrong: float = 0.0
    until: float = 0.0
    seen: float = 0.0


NONE = Count()


def waits(count: Count, spec: Lockout, now: float) -> float:
    """Seconds; never more than `longest`, whatever another node's clock said."""
    return min(max(0.0, count.until - now), spec.longest)


def counted(kind: Kind, count: Count, spec: Lockout, now: float) -> Count:
    """One attempt more."""
    since = max(0.0, now - count.seen)
    wrong = 0.0 if since > FORGOTTEN_S else count.wrong
    if kind == "account" and spec.longest:
        wrong = max(0.0, wrong - since / spec.longest)
    wrong += 1
    over = int(wrong) - _most(kind, spec)
    until = now + min(spec.longest, spec.duration * 2 ** min(over, 30)) if over >= 0 else 0.0
    return Count(wrong, until, now)


def taken_back(kind: Kind, count: Count, spec: Lockout) -> Count:
    """The attempt was right: a device has nothing to be feared for, of others there was one wrong one less."""
    if kind == "device":
        return Count(0.0, 0.0, count.seen)
    wrong = max(0.0, count.wrong - 1)
    return Count(wrong, count.until if wrong >= _most(kind, spec) else 0.0, count.seen)


def _most(kind: Kind, spec: Lockout) -> int:
    return spec.account_attempts if kind == "account" else spec.attempts


class Guessing:
    """What this process saw, for when the database cannot be asked. What was counted longest ago is forgotten."""

    def __init__(self) -> None:
        self._known: OrderedDict[Key, Count] = OrderedDict()

    def begin(self, keys: Iterable[Key], spec: Lockout, now: float) -> float:
        """Seconds to wait; 0: go on."""
        keys = list(keys)
        if wait := max(waits(self._known.get(key, NONE), spec, now) for key in keys):
            return wait
        for key in keys:
            self._known[key] = counted(key.kind, self._known.pop(key, NONE), spec, now)
        while len(self._known) > ROOM:
            self._known.popitem(last=False)
        return 0.0

    def right(self, keys: Iterable[Key], spec: Lockout) -> None:
        for key in keys:
            if key in self._known:
                self._known[key] = taken_back(key.kind, self._known[key], spec)


def network_of(address: str) -> str:
    """Whoever has one address of a /64 has them all."""
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return address
    if parsed.version == 4:
        return address
    mapped = parsed.ipv4_mapped
    return str(mapped) if mapped else str(ipaddress.ip_network((parsed, 64), strict=False))
