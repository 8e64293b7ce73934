"""Where a filter is built: its route, the policies in force there, and what the worker offers to filters.

Filters are built anew with each snapshot. What has to outlive one (caches, connections to other servers) is `kept`
under a key, which names everything that it must not outlive.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from kairos.proxy.detached import LIMIT, Fetched, fetch

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable

    from kairos.config.model import Config, Route, UpstreamTls
    from kairos.config.policies import Policies
    from kairos.proxy.exchange import Plan, Runtime
    from kairos.proxy.snapshot import Snapshot
    from kairos.scoreboard import Assignment, Scoreboard

_T = TypeVar("_T")


class ControlError(Exception):
    """The control process could not be asked, or answered with an error."""


class Services:
    """What a worker offers to the filters of a snapshot."""

    def __init__(self, runtime: Runtime, snapshot: Snapshot, board: Scoreboard, slot: int) -> None:
        self.runtime = runtime
        self.board = board
        self.slot = slot
        self._snapshot = snapshot

    @property
    def series(self) -> Assignment:
        """Where what is counted apart has its cells."""
        return self._snapshot.series

    def kept(self, key: tuple[Hashable, ...], make: Callable[[], _T]) -> _T:
        """What an earlier snapshot made under this key, else made now. It goes with the last snapshot that asked."""
        return self._snapshot.kept(key, make)

    def route_block(self, name: str) -> int:
        """Where this worker counts what happens on a route (R_* cells)."""
        return self._snapshot.route_block(name)

    def plan(self, url: str, *, timeout_s: float, tls: UpstreamTls | None = None) -> Plan:
        """A plan to ask the server of a URL (its path does not count) within so many seconds in all.

        Raises:
            OriginError: it is no http or https URL.
        """
        return self._snapshot.plan_for(url, timeout_s, tls)

    async def fetch(
        self,
        plan: Plan,
        method: str,
        target: bytes,
        headers: Iterable[tuple[bytes, bytes]] = (),
        body: bytes = b"",
        *,
        limit: int = LIMIT,
        client: bytes = b"unknown",
        secure: bool = False,
    ) -> Fetched:
        """Ask on a plan, this snapshot's or a route's own; what fails is told by `Fetched.failure`."""
        return await fetch(self.runtime, plan, method, target, headers, body, limit=limit, client=client, secure=secure)

    async def control(self, method: str, path: str, body: bytes = b"") -> Fetched:
        """Ask the control process for something that is done once for all workers.

        Raises:
            ControlError: there is none just now, or it does not give it.
        """
        plan = self._snapshot.control_plan
        if plan is None:
            raise ControlError("this worker has no control process")
        answer = await self.fetch(plan, method, path.encode("ascii"), body=body)
        if answer.failure is not None or answer.status >= 400:
            raise ControlError(f"{method} {path}: {answer.failure or answer.status}")
        return answer


@dataclass(frozen=True)
class Site:
    """One route, as a filter's build() gets it."""

    name: str
    """The route's name in logs and metrics."""
    route: Route
    policies: Policies
    """In force on the route, whoever set them; None where one is not set or turned off."""
    config: Config
    services: Services

    @property
    def board(self) -> Scoreboard:
        return self.services.board

    @property
    def slot(self) -> int:
        return self.services.slot

    def kept(self, key: tuple[Hashable, ...], make: Callable[[], _T]) -> _T:
        """See Services.kept."""
        return self.services.kept(key, make)
