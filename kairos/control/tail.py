"""The live tail: requests as they end, and lines of the program's log, for whoever watches.

Lines come from the log writer's thread, as they stand in the access log: escaped, bounded, secrets struck out. The
newest are kept, so that a watcher sees something at once. Rules:
- where the access log has every request as JSON, its own lines are handed on; else the workers write lines for the tail
  only, and only while somebody watches requests (H_TAIL);
- watching may take a twentieth of the control process's time, and no memory without bound: what a watcher does not get
  is counted, and told to that watcher. Nothing here ever holds up the writing of a log.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import random
import threading
import time
from collections import deque
from typing import TYPE_CHECKING, Annotated, Generic, Protocol, TypeVar

import msgspec
from msgspec import Meta, Struct

from kairos._speedups.cells import H_TAIL
from kairos.config.log import Level  # noqa: TC001  (msgspec needs it at run time)
from kairos.control.events import Inbox, TooManyWatchersError
from kairos.telemetry.accesslog import json_text
from kairos.telemetry.log import LEVELS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from kairos.scoreboard import Scoreboard

MAX_WATCHERS = 16
RECENT_BYTES = 1 << 19
"""Of each log, kept for those who come to watch."""
QUEUE_LINES, QUEUE_BYTES = 1000, 1 << 20
"""What may wait for a watcher."""
PENDING_BYTES = 8 << 20
"""Between the log writer's thread and the loop."""
RATE, MAX_RATE = 200.0, 2000.0
"""Lines a second that a watcher gets, unless it asks for another rate."""
SHARE = 0.05
"""Of the loop's time that choosing lines may take."""
_LOOK_AT_CLOCK = 128  # lines


# --- which lines ----------------------------------------------------------------------------------------------------


class RequestFilter(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which requests; what is not said may be anything, several members have to hold together."""

    route: str | None = None
    """As in metrics and logs."""
    upstream: str | None = None
    method: list[str] = []
    """One of them."""
    status: list[str] = []
    """One of them: `503`, or `5xx`."""
    host: str | None = None
    path: str | None = None
    """`*` stands for anything, slashes too."""
    client: str | None = None
    """An address, or a network in CIDR form."""
    request_id: str | None = None
    trace_id: str | None = None
    min_ms: Annotated[float, Meta(ge=0)] = 0
    """Took at least so many milliseconds."""
    flagged: bool = False
    """Only those with a flag: something did not go well."""
    text: str | None = None
    """Stands somewhere in the line."""


class ProgramFilter(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Which lines of the program's log."""

    level: Level = "debug"
    """From this level on."""
    component: list[str] = []
    """One of them."""
    text: str | None = None


class Matcher(Protocol):
    """Whether a line is wanted."""

    def __call__(self, line: bytes) -> bool: ...


class _Decoded(Struct, frozen=True):
    """The members of a request's line that have to be understood."""

    duration_ms: float = 0.0
    path: str = ""
    client: str = ""


_decoder = msgspec.json.Decoder(_Decoded)


def request_matcher(wanted: RequestFilter) -> Matcher:
    """Raises ValueError: something in it cannot be."""
    groups = [
        _member("route", wanted.route),
        _member("upstream", wanted.upstream),
        [b'"method":"%b"' % _escaped(method.upper()) for method in wanted.method],
        [_status(status) for status in wanted.status],
        _member("host", wanted.host),
        _member("request_id", wanted.request_id),
        _member("trace_id", wanted.trace_id),
        [b',"flag":"'] if wanted.flagged else [],
        [_escaped(wanted.text)] if wanted.text else [],
    ]
    network = ipaddress.ip_network(wanted.client, strict=False) if wanted.client else None
    if network is not None and network.num_addresses == 1:
        groups.append(_member("client", str(network.network_address)))
        network = None
    glob = wanted.path.split("*") if wanted.path else None
    needles = _Needles(groups)
    if glob is None and network is None and not wanted.min_ms:
        return needles
    return _Requests(needles, wanted.min_ms, glob, network)


def program_matcher(wanted: ProgramFilter) -> Matcher:
    """The same for the program's log."""
    levels = [name for name, value in LEVELS.items() if value >= LEVELS[wanted.level]]
    return _Needles(
        [
            [b'"level":"%b"' % level.encode() for level in levels],
            [b'"component":"%b"' % _escaped(name) for name in wanted.component],
            [_escaped(wanted.text)] if wanted.text else [],
        ]
    )


def _member(key: str, value: str | None) -> list[bytes]:
    return [b'"%b":"%b"' % (key.encode(), _escaped(value))] if value else []


def _escaped(text: str) -> bytes:
    return json_text(text)


def _status(text: str) -> bytes:
    digits = text.lower().removesuffix("xx")
    if not (digits.isascii() and digits.isdigit() and len(digits) == (3 if digits == text else 1)):
        raise ValueError(f"status {text!r} is neither a status such as 503 nor a class such as 5xx")
    return b'"status":' + digits.encode()


class _Needles:
    """Of each group one has to be there. A quote inside a value is escaped, so none of them can be forged by one."""

    def __init__(self, groups: Iterable[list[bytes]]) -> None:
        self._groups = [group for group in groups if group]

    def __call__(self, line: bytes) -> bool:
        for group in self._groups:
            for needle in group:
                if needle in line:
                    break
            else:
                return False
        return True


class _Requests:
    """What cannot be told by a search for bytes."""

    def __init__(
        self,
        needles: _Needles,
        min_ms: float,
        glob: list[str] | None,
        network: ipaddress.IPv4Network | ipaddress.IPv6Network | None,
    ) -> None:
        self._needles = needles
        self._min_ms = min_ms
        self._glob = glob
        self._network = network

    def __call__(self, line: bytes) -> bool:
        if not self._needles(line):
            return False
        try:
            known = _decoder.decode(line)
            return (
                known.duration_ms >= self._min_ms
                and (self._glob is None or globs(self._glob, known.path))
                and (self._network is None or ipaddress.ip_address(known.client) in self._network)
            )
        except (msgspec.DecodeError, UnicodeDecodeError, ValueError):
            return False


def globs(pieces: list[str], text: str) -> bool:
    """Whether a text is these pieces with anything in between: in one pass, whatever the pattern."""
    first, last = pieces[0], pieces[-1]
    if len(pieces) == 1:
        return text == first
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for piece in pieces[1:-1]:
        at = text.find(piece, at, end)
        if at < 0:
            return False
        at += len(piece)
    return True


# --- watchers -------------------------------------------------------------------------------------------------------


class Watcher(Inbox[bytes]):
    """Somebody who gets lines, so many a second at most; closing it twice is once."""

    def __init__(self, matches: Matcher, leave: Callable[[Watcher], None], *, rate: float, sample: float) -> None:
        super().__init__()
        self._matches = matches
        self._leave = leave
        self._rate = rate
        self._sample = sample
        self._tokens = rate
        self._filled_at = time.monotonic()
        self._bytes = 0
        self.on_close: Callable[[], None] = lambda: None
        self.dropped = 0
        """Lines it should have got and did not; whoever tells of them sets it back."""

    def offer(self, line: bytes) -> None:
        """A line, which it may not want."""
        if not self._matches(line) or (self._sample < 1 and random.random() >= self._sample):
            return
        if not self._may_have(len(line)):
            self.dropped += 1
            return
        self._bytes += len(line)
        self.put(line)

    def _may_have(self, size: int) -> bool:
        now = time.monotonic()
        self._tokens = min(self._rate, self._tokens + (now - self._filled_at) * self._rate)
        self._filled_at = now
        if self._tokens < 1 or len(self.items) >= QUEUE_LINES or self._bytes + size > QUEUE_BYTES:
            return False
        self._tokens -= 1
        return True

    def missed(self, lines: int) -> None:
        """So many went by unseen."""
        self.dropped += lines

    async def take(self, patience: float) -> list[bytes]:
        """The lines that wait, at the latest after so many seconds: then there may be none."""
        found = await super().take(patience)
        self._bytes = 0
        return found

    def close(self) -> None:
        self._leave(self)
        self.on_close()


# --- feeds ----------------------------------------------------------------------------------------------------------


class Recent:
    """The newest lines of a log, in bounded memory; to be used by any thread."""

    def __init__(self, limit: int = RECENT_BYTES) -> None:
        self._limit = limit
        self._batches: deque[bytes] = deque()
        self._size = 0
        self._alone = threading.Lock()

    def add(self, batch: bytes) -> None:
        """Whole lines."""
        if len(batch) > self._limit:
            batch = batch[batch.find(b"\n", len(batch) - self._limit - 1) + 1 :]
        with self._alone:
            self._batches.append(batch)
            self._size += len(batch)
            while self._size > self._limit:
                self._size -= len(self._batches.popleft())

    def lines(self) -> list[bytes]:
        """All that is kept, the oldest first."""
        with self._alone:
            batches = list(self._batches)
        return b"".join(batches).splitlines()


_Filter = TypeVar("_Filter", RequestFilter, ProgramFilter)
_Argument = TypeVar("_Argument")


class Feed(Generic[_Filter]):
    """One log's lines, from its thread to its watchers on the loop."""

    def __init__(self, compiled: Callable[[_Filter], Matcher]) -> None:
        self.recent = Recent()
        self.watchers: set[Watcher] = set()
        self._compiled: Callable[[_Filter], Matcher] = compiled
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pending = 0
        self._second = 0.0
        self._spent = 0.0

    def start(self) -> None:
        """On the loop."""
        self._loop = asyncio.get_running_loop()

    def newest(self, wanted: _Filter, limit: int) -> list[bytes]:
        """The newest of what is kept, the oldest first. Raises ValueError."""
        matches = self._compiled(wanted)
        found: list[bytes] = []
        for line in reversed(self.recent.lines()):
            if len(found) == limit:
                break
            if line.startswith(b"{") and matches(line):
                found.append(line)
        return found[::-1]

    def watch(self, wanted: _Filter, *, rate: float = RATE, sample: float = 1.0) -> Watcher:
        """Lines from now on; to be closed. Raises ValueError."""
        if not (0 < rate <= MAX_RATE and 0 < sample <= 1):
            raise ValueError(f"rate is up to {MAX_RATE:.0f} lines a second, sample a share up to 1")
        watcher = Watcher(self._compiled(wanted), self.watchers.discard, rate=rate, sample=sample)
        self.watchers.add(watcher)
        return watcher

    def add(self, batch: bytes) -> None:
        """Whole lines; by the log's thread, or any other."""
        if not batch:
            return
        self.recent.add(batch)
        if not self.watchers or self._loop is None:
            return
        if self._pending + len(batch) > PENDING_BYTES:
            return self.lose(batch.count(b"\n"))
        self._pending += len(batch)
        self._on_loop(self._spread, batch)

    def lose(self, lines: int) -> None:
        """So many lines are not there to be seen; by any thread."""
        self._on_loop(self._missed, lines)

    def _on_loop(self, call: Callable[[_Argument], None], argument: _Argument) -> None:
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it has ended
                self._loop.call_soon_threadsafe(call, argument)

    def _missed(self, lines: int) -> None:
        for watcher in self.watchers:
            watcher.missed(lines)

    def _spread(self, batch: bytes) -> None:
        """To every watcher, as long as that may take."""
        self._pending -= len(batch)
        began = time.perf_counter()
        if began - self._second >= 1:
            self._second, self._spent = began, 0.0
        lines = batch.splitlines()
        for first in range(0, len(lines), _LOOK_AT_CLOCK):
            if self._spent + time.perf_counter() - began > SHARE:
                self._missed(len(lines) - first)
                break
            for line in lines[first : first + _LOOK_AT_CLOCK]:
                if line.startswith(b"{"):  # of the combined format before a reload, say
                    for watcher in self.watchers:
                        watcher.offer(line)
        self._spent += time.perf_counter() - began


class Tail:
    """Both logs of one gateway."""

    def __init__(self, scoreboard: Scoreboard) -> None:
        self._page = scoreboard.page
        self.requests: Feed[RequestFilter] = Feed(request_matcher)
        self.program: Feed[ProgramFilter] = Feed(program_matcher)
        self.complete = True
        """The access log has every request as JSON."""
        self._page.set(H_TAIL, 0)  # of an earlier control process

    def start(self) -> None:
        """On the loop."""
        self.requests.start()
        self.program.start()

    def apply(self, *, complete: bool) -> None:
        """A configuration is in use."""
        self.complete = complete
        self._tell_workers()

    def watch_requests(self, wanted: RequestFilter, *, rate: float = RATE, sample: float = 1.0) -> Watcher:
        """Requests from now on; workers that have to write lines for it do so within a second.

        Raises:
            ValueError, TooManyWatchersError
        """
        self._make_room()
        watcher = self.requests.watch(wanted, rate=rate, sample=sample)
        watcher.on_close = self._tell_workers
        self._tell_workers()
        return watcher

    def watch_program(self, wanted: ProgramFilter, *, rate: float = RATE) -> Watcher:
        """The program's log from now on. Raises ValueError, TooManyWatchersError."""
        self._make_room()
        return self.program.watch(wanted, rate=rate)

    @property
    def asks_workers(self) -> bool:
        """Whether workers write lines for watchers."""
        return bool(self._page.get(H_TAIL))

    def _make_room(self) -> None:
        if len(self.requests.watchers) + len(self.program.watchers) >= MAX_WATCHERS:
            raise TooManyWatchersError(f"{MAX_WATCHERS} watch already")

    def _tell_workers(self) -> None:
        self._page.set(H_TAIL, int(bool(self.requests.watchers) and not self.complete))
