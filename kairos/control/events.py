"""What happens to the gateway, as typed events: for whoever watches, and with ids from which a watcher goes on.

Published inside the control process, on its loop, and kept there: the newest KEPT of them. An id is `<boot>-<number>`,
and the boot is another one in each control process: who comes back with an id of an earlier process gets everything
that is kept, and is told that something may be missing. Slow watchers lose the oldest events, and are told so.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import secrets
import time
from collections import deque
from typing import TYPE_CHECKING, Generic, Literal, TypeVar, get_args

from msgspec import Struct
from msgspec.structs import replace

from kairos.config.log import Level  # noqa: TC001  (msgspec needs it at run time)

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

KEPT = 1024
QUEUE = KEPT
"""Events a watcher may be behind."""
MAX_WATCHERS = 64
BreakerState = Literal["closed", "open", "half_open"]
_Item = TypeVar("_Item")


def _tag(name: str) -> str:
    """`BreakerChanged` is told as `breaker_changed`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).lower()


class Event(Struct, frozen=True, kw_only=True, tag_field="type", tag=_tag):
    """What all of them have."""

    id: str = ""
    """To go on behind it (Last-Event-ID)."""
    time: float = 0.0
    """Unix seconds."""


class BackendHealthChanged(Event, frozen=True):
    """Active health checks turned their verdict."""

    upstream: str
    healthy: bool
    reason: str
    """Of the last check that failed."""


class BreakerChanged(Event, frozen=True):
    """A circuit breaker opened, let trials through, or closed."""

    upstream: str
    state: BreakerState
    was: BreakerState
    opened: int
    """Times it opened so far: it may have moved more than once since the last event."""


class BackendEjected(Event, frozen=True):
    """Left out as an outlier."""

    upstream: str
    seconds: float


class EjectionEnded(Event, frozen=True):
    """It gets requests again, slowly at first."""

    upstream: str


class BackendSet(Event, frozen=True):
    """An operator's verdict on a backend."""

    upstream: str
    state: Literal["active", "drain", "maintenance"]
    weight: int
    """Percent of its share."""
    breaker: Literal["auto", "open", "closed"]


class ControlStarted(Event, frozen=True):
    """A control process began; what happened before it is not kept."""

    pid: int


class WorkerStarted(Event, frozen=True):
    """A worker serves."""

    slot: int
    pid: int
    restarts: int
    """Workers that had to be replaced since the gateway's start."""


class WorkerEnded(Event, frozen=True):
    """A worker is gone: told to, or dead."""

    slot: int
    pid: int


class SheddingChanged(Event, frozen=True):
    """A worker turns requests away because it falls behind, more or less of them; 0: none."""

    slot: int
    level: int


class RevisionInUse(Event, frozen=True):
    """A configuration came into use in every worker."""

    revision: int
    reason: str
    """Why it was read: `file change`, `HUP`, `api`."""


class ReloadFailed(Event, frozen=True):
    """A configuration was refused; the one in use stays."""

    revision: int
    """In use."""
    problems: list[str]


class ConfigChanged(Event, frozen=True):
    """Somebody known changed the configuration: told with its `revision_in_use`."""

    revision: int
    author: str
    message: str


class UpgradeEnded(Event, frozen=True):
    """Another program took over, or did not."""

    pid: int
    """Of the new supervisor; 0: nothing has changed."""
    problem: str


class CertificateExpires(Event, frozen=True):
    """A certificate ends soon, or has ended."""

    certificate: str
    ends_at: float
    days: int
    """Left, rounded down; below 0 it has ended."""


class AddressBanned(Event, frozen=True):
    """Too many failures."""

    address: str
    jail: str
    seconds: float


class LogLevelsChanged(Event, frozen=True):
    """Levels of the program's log were set, or their time was over."""

    levels: dict[str, Level]
    seconds: float | None
    """Until they go back."""


class LogLinesLost(Event, frozen=True):
    """Lines of the access log that found no room: its disk is full or too slow."""

    lines: int
    """Since the last event of this kind."""


AnyEvent = (
    BackendHealthChanged | BreakerChanged | BackendEjected | EjectionEnded | BackendSet
    | ControlStarted | WorkerStarted | WorkerEnded | SheddingChanged
    | RevisionInUse | ReloadFailed | ConfigChanged | UpgradeEnded
    | CertificateExpires | AddressBanned | LogLevelsChanged | LogLinesLost
)  # fmt: skip
TYPES: dict[str, type[Event]] = {_tag(kind.__name__): kind for kind in get_args(AnyEvent)}
"""By the name in `type`."""


class TooManyWatchersError(Exception):
    """No room for one more; the text says how many there may be."""


def kinds(names: Collection[str]) -> tuple[type[Event], ...]:
    """The types of these names, all of them where none is given. Raises ValueError."""
    if unknown := [name for name in names if name not in TYPES]:
        raise ValueError(f"there is no event {unknown[0]!r}: there are {', '.join(TYPES)}")
    return tuple(TYPES[name] for name in names) or tuple(TYPES.values())


class EventBus:
    """All events of one control process. To be used on its loop."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._boot = secrets.token_hex(4)
        self._clock = clock
        self._kept: deque[Event] = deque(maxlen=KEPT)
        self._number = 0
        self._watchers: set[EventWatcher] = set()

    def publish(self, event: Event) -> None:
        """Let it be known."""
        self._number += 1
        told = replace(event, id=f"{self._boot}-{self._number}", time=self._clock())
        self._kept.append(told)
        for watcher in self._watchers:
            watcher.offer(told)

    def recent(self, wanted: tuple[type[Event], ...] = (Event,), limit: int = KEPT) -> list[Event]:
        """The newest of what is kept, in the order of their coming."""
        found = [event for event in self._kept if isinstance(event, wanted)]
        return found[-limit:] if limit else []

    def watch(self, wanted: tuple[type[Event], ...] = (Event,), after: str = "") -> EventWatcher:
        """Events from now on, or from behind an id on; to be closed. Raises TooManyWatchersError."""
        if len(self._watchers) >= MAX_WATCHERS:
            raise TooManyWatchersError(f"{MAX_WATCHERS} watch events already")
        missed, lost = self._since(after) if after else ([], False)
        watcher = EventWatcher(wanted, self._watchers.discard, lost=lost)
        for event in missed:
            watcher.offer(event)
        self._watchers.add(watcher)
        return watcher

    def _since(self, after: str) -> tuple[list[Event], bool]:
        """What is kept from behind an id on, and whether something may be missing in between."""
        boot, _, number = after.rpartition("-")
        oldest = self._number - len(self._kept)
        if boot != self._boot or not (number.isascii() and number.isdigit()) or int(number[:18]) < oldest:
            return list(self._kept), True
        return list(self._kept)[int(number[:18]) - oldest :], False


class Inbox(Generic[_Item]):
    """What waits for a watcher."""

    def __init__(self) -> None:
        self.items: deque[_Item] = deque()
        self._some = asyncio.Event()

    def put(self, item: _Item) -> None:
        self.items.append(item)
        self._some.set()

    async def take(self, patience: float) -> list[_Item]:
        """All of it, at the latest after so many seconds: then there may be nothing."""
        if not self.items:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(patience):
                    await self._some.wait()
        found = list(self.items)
        self.items.clear()
        self._some.clear()
        return found


class EventWatcher(Inbox[Event]):
    """Somebody who is told; closing it twice is once."""

    def __init__(
        self, wanted: tuple[type[Event], ...], leave: Callable[[EventWatcher], None], *, lost: bool = False
    ) -> None:
        super().__init__()
        self._wanted = wanted
        self._leave = leave
        self.lost = lost
        """Events are missing before the next ones; whoever tells of it sets it back."""

    def offer(self, event: Event) -> None:
        if isinstance(event, self._wanted):
            if len(self.items) >= QUEUE:
                self.items.popleft()
                self.lost = True
            self.put(event)

    def close(self) -> None:
        self._leave(self)
