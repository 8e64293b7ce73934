"""A frame: what all series of a node did in one window of time. Pure: frames are made, merged, and written as bytes.

A record is sparse: no value means zero (a state: unknown). Values by the kind of their field:

    counter             what it grew by
    histogram, matrix   {bucket or cell: what it grew by}
    gauge, state        Seen: how often looked at, and sum, least, most and last of what was seen

Merging adds; order matters only for `last`. `span` is the time that was really watched: rates divide by it, so what
was missed is a gap and not a slack period. As bytes: deflated MessagePack of [FORMAT, samples, span_ms, {series id:
record}], in which a single look is just its number.
"""

from __future__ import annotations

import functools
import hashlib
import zlib
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import Raw, Struct

from kairos.control.history.fields import BY_NUMBER

if TYPE_CHECKING:
    from collections.abc import Iterable

FORMAT = 1
_LEVEL = 1  # of deflate: level 6 makes frames 5 % smaller in three times the time


class Seen(Struct, array_like=True):
    """A gauge over some looks."""

    n: float
    sum: float
    least: float
    most: float
    last: float

    @classmethod
    def once(cls, value: float) -> Seen:
        """One look."""
        return cls(1, value, value, value, value)

    def add(self, later: Seen) -> None:
        """And what was seen after it."""
        self.n += later.n
        self.sum += later.sum
        self.least = min(self.least, later.least)
        self.most = max(self.most, later.most)
        self.last = later.last

    def copy(self) -> Seen:
        """One that may be added to."""
        return Seen(self.n, self.sum, self.least, self.most, self.last)


Value = int | dict[int, int] | Seen
Record = dict[int, Value]
SeriesKey = tuple[str, ...]
"""Scope and labels."""


@functools.lru_cache(maxsize=1 << 14)
def series_id(key: SeriesKey) -> int:
    """The same in every process and node: 48 bits of a hash, so that nobody has to ask for a number."""
    return int.from_bytes(hashlib.blake2b("\0".join(key).encode(), digest_size=6).digest())


class Frame(Struct):
    """Of one node."""

    samples: int
    span: float
    series: dict[SeriesKey, Record]


def add_record(into: Record, later: Record) -> None:
    """Merge a record with one of a later time."""
    for number, value in later.items():
        held = into.get(number)
        if held is None:
            into[number] = _own(value)
        elif isinstance(held, Seen):
            held.add(value)  # type: ignore[arg-type]
        elif isinstance(held, dict):
            for cell, n in value.items():  # type: ignore[union-attr]
                held[cell] = held.get(cell, 0) + n
        else:
            into[number] = held + value  # type: ignore[operator]


def fold_record(into: Record, beside: Record) -> None:
    """Merge a record with that of another series of the same time: gauges add up instead of following each other."""
    for number, value in beside.items():
        held = into.get(number)
        if isinstance(held, Seen) and isinstance(value, Seen):
            total = BY_NUMBER[number].across == "sum"
            both = held.last + value.last if total else max(held.last, value.last)
            into[number] = Seen.once(both)
        else:
            add_record(into, {number: value})


def _own(value: Value) -> Value:
    if isinstance(value, Seen):
        return value.copy()
    return dict(value) if isinstance(value, dict) else value


def add_frame(into: Frame, later: Frame) -> None:
    """Merge with the frame that came after."""
    into.samples += later.samples
    into.span += later.span
    for key, record in later.series.items():
        held = into.series.get(key)
        if held is None:
            held = into.series[key] = {}
        add_record(held, record)
    for key in into.series.keys() - later.series.keys():
        _nothing_now(into.series[key], {})
    for key, record in later.series.items():
        _nothing_now(into.series[key], record)


def _nothing_now(held: Record, later: Record) -> None:
    """A gauge that is no longer there is zero."""
    for number, value in held.items():
        if isinstance(value, Seen) and number not in later and BY_NUMBER[number].kind == "gauge":
            value.last = 0


# --- as bytes -----------------------------------------------------------------------------------------------------


class Packed(Struct, array_like=True):
    """A frame as it is stored: records still to be decoded, for most queries look at few."""

    format: int
    samples: int
    span_ms: int
    series: dict[int, Raw]

    @property
    def span(self) -> float:
        """Seconds."""
        return self.span_ms / 1000


_packed = msgspec.msgpack.Decoder(Packed)
_record = msgspec.msgpack.Decoder(dict[int, Any])
_encoder = msgspec.msgpack.Encoder()


def pack(frame: Frame) -> bytes:
    """Bytes of a frame."""
    series = {series_id(key): _sparse(record) for key, record in frame.series.items() if record}
    body = _encoder.encode([FORMAT, frame.samples, round(frame.span * 1000), series])
    return zlib.compress(body, _LEVEL)


def _sparse(record: Record) -> dict[int, Any]:
    return {number: _bare(value) if isinstance(value, Seen) else value for number, value in record.items()}


def _bare(seen: Seen) -> Any:
    if seen.n == 1 and seen.sum == seen.least == seen.most == seen.last:
        return _short(seen.last)
    return [seen.n, *map(_short, (seen.sum, seen.least, seen.most, seen.last))]


def _short(value: float) -> float:
    """Whole numbers as such: a float takes nine bytes."""
    whole = int(value)
    return whole if whole == value else value


def unpack(data: bytes) -> Packed | None:
    """None for a frame of a format that this program does not know."""
    packed = _packed.decode(zlib.decompress(data))
    return packed if packed.format == FORMAT else None


def unpack_record(raw: Raw, numbers: Iterable[int]) -> Record:
    """These values of a record, where it has them."""
    found = _record.decode(raw)
    return {number: _value(number, found[number]) for number in numbers if number in found}


def _value(number: int, stored: Any) -> Value:
    if BY_NUMBER[number].kind not in ("gauge", "state"):
        return stored  # type: ignore[no-any-return]
    return Seen(*stored) if isinstance(stored, list) else Seen.once(stored)
