"""What an operator can ask of a running gateway: plain calls with typed answers, whatever carries them.

To be used on the control process's loop. What cannot be done is a `CommandError` that says why.
"""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Literal, TypeVar

from msgspec import Struct

from kairos import __version__
from kairos._speedups import cells
from kairos.control.backends import UnknownBackendError
from kairos.control.caches import NoCacheError
from kairos.control.connections import NoConnectionError, NoWorkerError, SilentError
from kairos.control.health import NotCheckedError
from kairos.storage.overrides import Force, State  # noqa: TC001  (msgspec needs them at run time)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Sequence

    from kairos.channel import ReloadResult, WorkerBoot
    from kairos.control.backends import Backends, BackendStatus
    from kairos.control.bans import Bans, BanStatus
    from kairos.control.caches import Caches, CacheStatus, Purged, PurgeRequest
    from kairos.control.connections import ClientConnections, ClosedConnections, Connections
    from kairos.control.limits import Limits, LimitsStatus
    from kairos.control.pools import Pool, Pools
    from kairos.control.requests import Requests
    from kairos.inquiry import Connection, Sort, Wanted

_Result = TypeVar("_Result")
Why = Literal["unknown", "bad", "forbidden", "invalid", "refused", "stale", "full", "unavailable", "timeout"]


class CommandError(Exception):
    """A command that was not carried out."""

    def __init__(self, why: Why, detail: str, problems: Sequence[str] = ()) -> None:
        super().__init__(detail)
        self.why: Why = why
        self.problems = list(problems)


class WorkerStatus(Struct, frozen=True):
    """One worker process."""

    slot: int
    pid: int
    """0 while there is none."""
    revision: int
    """That it serves with."""
    started_at: float
    """Unix seconds."""
    connections: int
    requests: int
    """Under way."""


class ReloadStatus(Struct, frozen=True):
    """Of reloads since the start."""

    done: int
    failed: int
    last_at: float | None
    """Unix seconds at which one last brought a new revision into use."""
    problems: list[str]
    """Why the last one was refused; empty when it was not."""


class Status(Struct, frozen=True):
    """The gateway at this moment."""

    version: str
    pid: int
    """Of the supervisor: signals go there."""
    phase: Literal["starting", "running", "draining"]
    revision: int
    """In use."""
    uptime: float
    """Seconds."""
    config: str
    """The configuration file."""
    state_dir: str
    workers: list[WorkerStatus]
    reloads: ReloadStatus


class BackendChange(Struct, frozen=True, forbid_unknown_fields=True):
    """What an operator sets; what is left out stays."""

    state: State | None = None
    weight: int | None = None
    """Percent of its share."""
    breaker: Force | None = None


class Reloaded(Struct, frozen=True):
    """A reload that was not refused."""

    revision: int
    """In use."""
    unchanged: bool


class Lifted(Struct, frozen=True):
    """Bans that are no more."""

    address: str
    bans: int


class Upgraded(Struct, frozen=True):
    """The installed version took over."""

    pid: int
    """Of the new supervisor."""


class Commands:
    """Everything that can be asked, of this gateway."""

    def __init__(
        self,
        boot: WorkerBoot,
        backends: Backends,
        requests: Requests,
        bans: Bans,
        limits: Limits,
        caches: Caches,
        clients: ClientConnections,
        pools: Pools,
    ) -> None:
        self._boot = boot
        self._board = boot.scoreboard
        self._backends = backends
        self._requests = requests
        self._bans = bans
        self._limits = limits
        self._caches = caches
        self._clients = clients
        self._pools = pools
        self._problems: list[str] = []

    def note(self, result: ReloadResult) -> None:
        """A reload ended, whoever asked for it."""
        self._problems = result.problems

    # --- the gateway ------------------------------------------------------------------------------------------------

    def status(self) -> Status:
        """How it is."""
        control = self._boot.control
        return Status(
            version=__version__,
            pid=os.getppid(),
            phase=self._phase(),
            revision=self._board.page.get(cells.H_REVISION),
            uptime=time.time() - self._board.started_at,
            config=os.path.abspath(control.config_path) if control else "",
            state_dir=control.state_dir if control else "",
            workers=[self._worker(slot) for slot in range(self._board.capacity.workers) if self._is_used(slot)],
            reloads=self._reloads(),
        )

    async def reload(self, reason: str, *, author: str = "") -> Reloaded:
        """Read the configuration again and put it in use. Raises CommandError."""
        result = await _answered(self._requests.reload(reason, author=author))
        if result.problems:
            raise CommandError("invalid", f"revision {result.revision} stays in use", result.problems)
        return Reloaded(result.revision, result.unchanged)

    async def upgrade(self) -> Upgraded:
        """Replace the program by the one that is installed now. Raises CommandError."""
        result = await _answered(self._requests.upgrade())
        if not result.pid:
            raise CommandError("refused", result.problem)
        return Upgraded(result.pid)

    def _phase(self) -> Literal["starting", "running", "draining"]:
        if self._board.flag(cells.FLAG_DRAINING):
            return "draining"
        return "running" if self._board.flag(cells.FLAG_READY) else "starting"

    def _is_used(self, slot: int) -> bool:
        return self._board.page.get(self._board.worker_block(slot) + cells.W_PID) != 0

    def _worker(self, slot: int) -> WorkerStatus:
        block, get = self._board.worker_block(slot), self._board.page.get
        return WorkerStatus(
            slot=slot,
            pid=get(block + cells.W_PID),
            revision=get(block + cells.W_REVISION),
            started_at=get(block + cells.W_STARTED_AT) / 1e6,
            connections=get(block + cells.W_CONNECTIONS_OPEN),
            requests=get(block + cells.W_REQUESTS_ACTIVE),
        )

    def _reloads(self) -> ReloadStatus:
        get = self._board.page.get
        at = get(cells.H_RELOADED_AT)
        return ReloadStatus(
            done=get(cells.H_RELOADS),
            failed=get(cells.H_RELOADS_FAILED),
            last_at=at / 1e6 if at else None,
            problems=self._problems,
        )

    # --- backends ---------------------------------------------------------------------------------------------------

    def backends(self) -> Sequence[BackendStatus]:
        """All of the configuration in use."""
        return self._backends.list()

    def backend(self, key: str) -> BackendStatus:
        """One of them. Raises CommandError."""
        try:
            return self._backends.find(key)
        except UnknownBackendError as error:
            raise CommandError("unknown", str(error)) from None

    async def change_backend(self, key: str, change: BackendChange) -> BackendStatus:
        """Take it out or back in, give it another share, force its breaker, at once. Raises CommandError."""
        self._refuse_during_hand_over()
        try:
            status = await self._backends.set(key, state=change.state, weight=change.weight, breaker=change.breaker)
        except UnknownBackendError as error:
            raise CommandError("unknown", str(error)) from None
        except ValueError as error:
            raise CommandError("invalid", str(error)) from None
        self._refuse_during_hand_over()  # it may have come to the file too late
        return status

    def _refuse_during_hand_over(self) -> None:
        """What is set now, the next gateway may not see."""
        if self._board.flag(cells.FLAG_HANDING_OVER):
            raise CommandError("unavailable", "a new gateway is taking over, or has done so: ask once more")

    async def probe(self, key: str) -> BackendStatus:
        """Check a backend's health at once. Raises CommandError."""
        try:
            return await self._backends.probe_now(key)
        except UnknownBackendError as error:
            raise CommandError("unknown", str(error)) from None
        except NotCheckedError as error:
            raise CommandError("refused", str(error)) from None

    # --- client connections -----------------------------------------------------------------------------------------

    async def connections(self, wanted: Wanted, sort: Sort, limit: int, worker: int | None = None) -> Connections:
        """Those that fit, the first of them in this order. Raises CommandError."""
        try:
            return await self._clients.look(wanted, sort, limit, worker)
        except NoWorkerError as error:
            raise CommandError("unknown", str(error)) from None
        except ValueError as error:
            raise CommandError("invalid", str(error)) from None

    async def close_connections(
        self, wanted: Wanted, *, gently: bool = False, worker: int | None = None
    ) -> ClosedConnections:
        """Close all that fit. Raises CommandError."""
        try:
            return await self._clients.close(wanted, gently=gently, worker=worker)
        except NoWorkerError as error:
            raise CommandError("unknown", str(error)) from None
        except ValueError as error:
            raise CommandError("invalid", str(error)) from None

    async def close_connection(self, given: str, *, gently: bool = False) -> Connection:
        """Close one, by its id. Raises CommandError."""
        try:
            return await self._clients.close_one(given, gently=gently)
        except (NoConnectionError, NoWorkerError) as error:
            raise CommandError("unknown", str(error)) from None
        except ValueError as error:
            raise CommandError("invalid", str(error)) from None
        except SilentError as error:
            raise CommandError("timeout", str(error)) from None

    def pools(self) -> list[Pool]:
        """Connections to backends, by worker."""
        return self._pools.list()

    # --- cache ------------------------------------------------------------------------------------------------------

    def cache(self) -> CacheStatus:
        """What is in the cache. Raises CommandError."""
        try:
            return self._caches.status()
        except NoCacheError as error:
            raise CommandError("unavailable", str(error)) from None

    async def purge(self, request: PurgeRequest) -> Purged:
        """Throw responses out of the cache, for all workers at once. Raises CommandError."""
        try:
            return await self._caches.purge(request)
        except NoCacheError as error:
            raise CommandError("unavailable", str(error)) from None
        except TimeoutError as error:
            raise CommandError("timeout", str(error)) from None
        except ValueError as error:
            raise CommandError("invalid", str(error)) from None

    # --- limits -----------------------------------------------------------------------------------------------------

    def limits(self) -> LimitsStatus:
        """What rate limits did."""
        return self._limits.status()

    def bans(self) -> list[BanStatus]:
        """Bans of addresses in force."""
        return self._bans.list()

    def lift_ban(self, address: str) -> Lifted:
        """Forget the bans of an address. Raises CommandError."""
        try:
            lifted = self._bans.lift(address)
        except ValueError:
            raise CommandError("invalid", f"{address!r} is no address") from None
        if not lifted:
            raise CommandError("unknown", f"{address} is not banned")
        return Lifted(address, lifted)


async def _answered(answer: Awaitable[_Result]) -> _Result:
    try:
        return await answer
    except TimeoutError:
        raise CommandError("timeout", "the supervisor did not answer in time; its log may say why") from None
