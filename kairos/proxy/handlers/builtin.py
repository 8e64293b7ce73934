"""What the gateway answers itself: health endpoints, and the errors that end a chain."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import orjson

from kairos import __version__
from kairos._speedups.cells import FLAG_DRAINING, FLAG_READY
from kairos.config.serving import ALIASES, HEALTH, LIVE, READY
from kairos.proxy.exchange import Exchange, Handler, Response

if TYPE_CHECKING:
    from kairos.proxy.snapshot import Snapshot
    from kairos.scoreboard import Scoreboard

_JSON = [(b"Content-Type", b"application/json"), (b"Cache-Control", b"no-store")]


def endpoints(snapshot: Snapshot, scoreboard: Scoreboard) -> dict[str, Handler]:
    """The health endpoints by path."""
    if not snapshot.config.health.enabled:
        return {}
    served: dict[str, Handler] = {HEALTH: Health(scoreboard), READY: Ready(snapshot, scoreboard), LIVE: Live()}
    return served | {alias: served[path] for alias, path in ALIASES.items()}


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


class _Static(Handler):
    """Answers with a small JSON object."""

    def handle(self, x: Exchange) -> None:
        status, members = self.state()
        headers = [*_JSON, (b"Retry-After", b"1")] if status == 503 else _JSON
        x.answer(Response(status, orjson.dumps(members | {"timestamp": _now()}), headers))

    def state(self) -> tuple[int, dict[str, object]]:
        raise NotImplementedError


class Health(_Static):
    """/health: the process answers."""

    def __init__(self, scoreboard: Scoreboard) -> None:
        self._scoreboard = scoreboard

    def state(self) -> tuple[int, dict[str, object]]:
        uptime = int(time.time() - self._scoreboard.started_at)
        return 200, {"status": "healthy", "version": __version__, "uptime": uptime}


class Live(_Static):
    """/live: the worker's loop turns."""

    def state(self) -> tuple[int, dict[str, object]]:
        return 200, {"status": "alive"}


class Ready(_Static):
    """/ready: traffic may be sent here. Fails before the listeners close and, by choice, without live backends."""

    def __init__(self, snapshot: Snapshot, scoreboard: Scoreboard) -> None:
        self._snapshot = snapshot
        self._scoreboard = scoreboard

    def state(self) -> tuple[int, dict[str, object]]:
        if self._scoreboard.flag(FLAG_DRAINING) or not self._scoreboard.flag(FLAG_READY):
            return 503, {"status": "draining"}
        if self._snapshot.config.health.require_backends:
            dead = [plan.name for plan in self._snapshot.routed if plan.targets and not plan.live_targets()]
            if dead:
                return 503, {"status": "no live backend", "routes": dead}
        return 200, {"status": "ready"}


class NotFound(Handler):
    """Ends requests that no route takes; reached through the error table only."""

    def handle(self, x: Exchange) -> None:
        x.fail_as("route_not_found")


class NotServed(Handler):
    """A protocol that this version loads but does not serve."""

    def handle(self, x: Exchange) -> None:
        x.fail_as("not_served")
