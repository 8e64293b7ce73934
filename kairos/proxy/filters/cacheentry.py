"""What the cache keeps: one response, how its variants differ, or that none is to be waited for.

An entry in the store is a meta (numbers, then the field lines as they are sent) and a body. Its times are monotonic µs,
which all processes of a node share; in Redis, which outlives nodes, they are unix µs.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, NamedTuple

import msgspec

from kairos.proxy import cachecontrol as cc
from kairos.proxy.filters.cachehit import (
    EXPLICIT_STALE,
    MARKER,
    META_BYTES,
    NEVER_STALE,
    PASS,
    PASS_US,
    VALIDATE,
    pack,
    unpack,
)  # fmt: skip

if TYPE_CHECKING:
    from collections.abc import Sequence

    from kairos.proxy.cachecontrol import Fields, Rules

MARKER_US = 366 * 86_400_000_000
SPECS = 4
"""Sets of fields a resource may vary by, of which the latest are remembered."""


def monotonic_us() -> int:
    """The clock of entries."""
    return time.monotonic_ns() // 1000


def split_lines(lines: bytes) -> Fields:
    """Field lines, as they are written, as (name, value)."""
    fields = [line.partition(b": ") for line in lines.split(b"\r\n")[:-1]]
    return [(name, value) for name, _, value in fields]


class Entry(NamedTuple):
    """One that was found."""

    meta: bytes
    body: bytes
    purged: bool
    """Softly: to be validated before it is used."""
    born: int
    fresh: int
    revalidate: int
    error: int
    stored: int
    status: int
    flags: int
    hidden: int
    alone: int

    @classmethod
    def of(cls, found: tuple[bytes, bytes, bool]) -> Entry:
        """What a store gave."""
        return cls(*found, *unpack(found[0]))

    @property
    def lines(self) -> bytes:
        """Field lines, as they are sent."""
        return self.meta[META_BYTES + self.hidden :]

    @property
    def fields(self) -> Fields:
        """Those that are sent."""
        return split_lines(self.lines)

    @property
    def all_fields(self) -> Fields:
        """Those that are kept for the cache alone, too."""
        return split_lines(self.meta[META_BYTES:])

    def is_fresh(self, now: int) -> bool:
        """Whether it may be used without asking anybody."""
        return not self.purged and not self.flags & VALIDATE and now - self.born < self.fresh

    def staleness(self, now: int) -> int:
        """µs since it was fresh last; 0: it still is, or was until it was purged."""
        return max(0, now - self.born - self.fresh)

    def may_be_stale(self, now: int, allowed: float) -> bool:
        """Whether it is stale by no more than so many µs, and allows that."""
        return not self.flags & NEVER_STALE and self.staleness(now) < allowed


def of_response(
    status: int, fields: Fields, hidden: frozenset[bytes], initial_age: float, now: int, unix: float, rules: Rules,
    cookie: bool,
) -> bytes:  # fmt: skip
    """The meta of a response that may be stored; fields of `hidden` names are kept, but not sent."""
    what = cc.said(fields, rules)
    fresh = cc.lifetime(status, fields, what, rules, unix, cookie)
    stale = cc.staleness(what, rules)
    flags = (
        (VALIDATE if stale.validate_always else 0)
        | (NEVER_STALE if stale.never else 0)
        | (EXPLICIT_STALE if stale.implicit else 0)
    )
    kept = cc.kept_fields(fields, what, rules)
    secret = b"".join(b"%s: %s\r\n" % field for field in kept if field[0].lower() in hidden)
    shown = b"".join(b"%s: %s\r\n" % field for field in kept if field[0].lower() not in hidden)
    swr, sie = int(stale.while_revalidate * 1e6), int(stale.if_error * 1e6)
    return (
        pack(
            now - int(initial_age * 1e6), int(fresh * 1e6), swr, sie, now, status, flags, len(secret),
            int(stale.if_unreachable),
        )
        + secret
        + shown
    )  # fmt: skip


def of_pass(now: int) -> bytes:
    """The meta of: no response of this resource is to be waited for."""
    return pack(now, PASS_US, 0, 0, now, 0, PASS)


def of_marker(now: int) -> bytes:
    """The meta of a Marker, which is the body."""
    return pack(now, MARKER_US, 0, 0, now, 0, MARKER)


def _moved(meta: bytes, by: int) -> bytes:
    born, fresh, revalidate, error, stored, status, flags, hidden, alone = unpack(meta)
    return pack(born + by, fresh, revalidate, error, stored + by, status, flags, hidden, alone) + meta[META_BYTES:]


def to_unix(meta: bytes) -> bytes:
    """With times that other nodes understand."""
    return _moved(meta, time.time_ns() // 1000 - monotonic_us())


def to_monotonic(meta: bytes) -> bytes:
    """With times of this node's clock. Raises ValueError: it is no meta."""
    return _moved(meta, monotonic_us() - time.time_ns() // 1000)


def lives_ms(meta: bytes) -> int:
    """How long it is of use: until nobody may use it stale, and a day longer to be validated."""
    born, fresh, revalidate, error, stored, _, flags, _, alone = unpack(meta)
    left = fresh + max(revalidate, error, alone * 1_000_000) - (stored - born)
    return max(1, left // 1000 + (0 if flags & PASS else 86_400_000))


class Marker(NamedTuple):
    """By which request fields a resource's variants differ, latest first. The nonce is part of their keys, so that
    those of before it was purged are never found again."""

    nonce: bytes
    specs: list[list[bytes]]

    @classmethod
    def of(cls, body: bytes) -> Marker:
        """From an entry's body."""
        return msgspec.msgpack.decode(body, type=cls)

    @classmethod
    def new(cls) -> Marker:
        return cls(os.urandom(8), [])

    def encode(self) -> bytes:
        return msgspec.msgpack.encode(self)

    def with_spec(self, spec: Sequence[bytes]) -> Marker:
        """The same with this one as the latest."""
        latest = list(spec)
        return Marker(self.nonce, [latest, *(other for other in self.specs if other != latest)][:SPECS])

    @property
    def has_pseudo(self) -> bool:
        """Whether what tells them apart is not all in Vary."""
        return any(name.startswith(b":") for spec in self.specs for name in spec)

    def key(self, url: bytes, spec: Sequence[bytes], request: Fields) -> bytes:
        """Of the variant that a request gets."""
        return b"\n".join((url, self.nonce.hex().encode(), cc.variant(request, spec)))
