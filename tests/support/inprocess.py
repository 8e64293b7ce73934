"""A worker's data plane inside the test's process, for plans that no configuration can name: hand-made filters,
handlers, resolvers; or for a whole configuration, with the filters that its policies make.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from functools import partial
from typing import Any

import msgspec
import uvloop

from kairos._speedups.cells import R_EXTRA_ACTIVE, R_QUEUED, U_IN_FLIGHT
from kairos._speedups.tls import use_ticket_keys
from kairos.config.load import judged, loads
from kairos.config.logged import logged
from kairos.config.model import Config, Route
from kairos.config.serving import every_route
from kairos.proxy.client import ClientConnection
from kairos.proxy.exchange import Filter, Handler, Plan, Runtime
from kairos.proxy.snapshot import FORWARD, Origins, Revision, Snapshot, merged
from kairos.proxy.sockets import Sockets
from kairos.proxy.upstream.dial import use_resolver
from kairos.proxy.wire import Clock
from kairos.resolver import Resolver
from kairos.scoreboard import Assignment, Scoreboard, Series, limit_labels, route_key, upstream_key
from kairos.telemetry.accesslog import AccessLog, LogReader
from tests.support.net import Peer, connect

METHODS = ["GET", "HEAD", "POST", "PUT", "DELETE", "PATCH"]
Served = Handler | dict[str, Any] | Route
"""What ends a chain: a handler, or a route to forward on."""


class Chain:
    """A path, the filters on it and what ends it."""

    def __init__(self, path: str, end: Served, *filters: Filter) -> None:
        self.path = path
        self.end = end
        self.filters = list(filters)


class _HandMade(Snapshot):
    """A snapshot whose routes are chains."""

    def __init__(self, chains: Sequence[Chain], *parts: Any) -> None:
        self._chains = chains
        super().__init__(*parts)

    def _route_rows(self) -> Iterator[tuple[list[str], str, list[str], str, Any]]:
        for chain in self._chains:
            route = chain.end if isinstance(chain.end, Route) else None
            handler = FORWARD if route else chain.end
            name = route_key(route) if route else chain.path
            timeouts = merged(self.config.timeouts, route.timeouts if route else None)
            plan = self._plan(name, route, handler, chain.filters, timeouts)  # type: ignore[arg-type]
            yield [], chain.path, METHODS, "strict", plan


class InProcess:
    """Runs in a loop of its own, in a thread of its own; what the loop reported is in `reports`."""

    def __init__(
        self,
        chains: Sequence[Chain],
        config: Config,
        nameservers: list[str] | None = None,
        control_path: str | None = None,
    ) -> None:
        for chain in chains:
            if isinstance(chain.end, dict):
                chain.end = msgspec.convert(chain.end, Route)
        self.reports: list[BaseException] = []
        self._chains = chains
        self._config = config
        self._nameservers = nameservers
        self._control_path = control_path
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()
        assert self._ready.wait(25)

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(self._serve())

    async def _serve(self) -> None:
        self.loop = asyncio.get_running_loop()
        self.loop.set_exception_handler(self._report)
        self._over = asyncio.Event()
        self.board = Scoreboard.create(
            workers=1,
            routes=16,
            pairs=16,
            upstreams=16,
            keys=1024,
            cache_bytes=self._config.cache_storage.memory_bytes,
        )
        use_ticket_keys(self.board.page, self.board.ticket_ring)
        resolver = Resolver(self._nameservers)
        use_resolver(resolver)
        clock = Clock(self.loop)
        self.runtime = Runtime(clock, self.board, 0, AccessLog(self.board, 0, logged(self._config)), 1)
        self.origins = Origins(self.runtime, self.board, 0)
        routes = [chain.end for chain in self._chains if isinstance(chain.end, Route)]
        self._series = Series(self.board)
        series = self._series.assign([*routes, *every_route(self._config)], limit_labels(self._config))
        self._revision = Revision(1, self._config, series, self._control_path)
        snapshot = self._snapshot = self._prepared()
        self.runtime.serve(snapshot)
        self.origins.settle(snapshot)
        self._pools = {*snapshot.origins}
        self._log = LogReader(self.board)
        self._lines: list[dict[str, Any]] = []
        clock.start()
        sockets = self.sockets = Sockets(self.loop)
        listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(2 if snapshot.tls is not None else 1)]
        self.port, self.tls_port = (int(listening[at].getsockname()[1]) for at in (0, -1))
        listeners = [
            sockets.listen(sock, 100, partial(ClientConnection, self.runtime, at == 1))
            for at, sock in enumerate(listening)
        ]
        self._ready.set()
        await self._over.wait()
        for listener, sock in zip(listeners, listening, strict=True):
            listener.close()
            sock.close()
        for client in list(self.runtime.clients):
            client.kill()
        for pool in {*self._pools, *self._snapshot.origins}:
            pool.retire()
        while clock.count:  # connections that still say goodbye (TLS); a leaked one fails the test
            await asyncio.sleep(0.005)
        clock.stop()
        sockets.close()
        await self.origins.close()
        await resolver.close()

    def _prepared(self) -> Snapshot:
        if self._chains:
            return _HandMade(self._chains, self._revision, self.origins, self.board, 0)
        return Snapshot(self._revision, self.origins, self.board, 0)

    def configure(self, document: dict[str, Any]) -> None:
        """Serve another configuration from the next request on, as a reload does."""

        async def reload() -> None:
            self._config = checked(document)
            series = self._series.assign(every_route(self._config), limit_labels(self._config))
            self._revision = Revision(2, self._config, series, self._control_path)
            self._snapshot = self._prepared()
            self.runtime.serve(self._snapshot)
            self.origins.settle(self._snapshot)

        self.run(reload)

    def reload(self, *chains: Chain) -> None:
        """Serve other chains from the next request on. From within the loop only."""
        snapshot = _HandMade(chains, self._revision, self.origins, self.board, 0)
        self._pools.update(snapshot.origins)
        self.runtime.serve(snapshot)

    def reload_the_same(self) -> None:
        """Serve the same chains from the next request on."""

        async def reload() -> None:
            self.reload(*self._chains)

        self.run(reload)

    def _report(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        self.reports.append(context.get("exception") or RuntimeError(context["message"]))

    def connect(self) -> Peer:
        return connect(self.port)

    @property
    def plan(self) -> Plan:
        """Of the first route in force."""
        return self.runtime.snapshot.routed[0]

    @property
    def series(self) -> Assignment:
        return self._revision.series

    def route_cell(self, cell: int) -> int:
        """An R_* cell of the first route."""
        return self.board.page.get(self.board.route_block(0, self._revision.series.route(self.plan.name)) + cell)

    def worker_cell(self, cell: int) -> int:
        """A W_* cell."""
        return self.board.page.get(self.board.worker_block(0) + cell)

    def pair_cell(self, url: str, cell: int) -> int:
        """A P_* cell of the first route and an upstream."""
        return self.board.page.get(self.board.pair_block(0, self._revision.series.pair(self.plan.name, url)) + cell)

    def upstream_cell(self, url: str, cell: int) -> int:
        """A U_* cell."""
        return self.board.page.get(self.board.upstream_block(0, self._revision.series.upstream(url)) + cell)

    def wait(self, condition: Callable[[], bool], what: str) -> None:
        deadline = time.monotonic() + 25
        while not condition():
            assert time.monotonic() < deadline, f"no {what} within 25 s"
            time.sleep(0.005)

    def at_rest(self) -> bool:
        """Whether nothing is under way, waits or is counted as if it were."""
        keys = {
            upstream_key(backend)
            for chain in self._chains
            if isinstance(chain.end, Route)
            for backend in chain.end.backends
        }
        in_flight = [self.upstream_cell(key, U_IN_FLIGHT) for key in keys]
        return not any([*in_flight, self.route_cell(R_EXTRA_ACTIVE), self.route_cell(R_QUEUED)])

    def request(self, data: bytes) -> tuple[bytes, bytes]:
        """Send bytes on a new connection; head and body of the response."""
        with self.connect() as peer:
            peer.send(data)
            return peer.receive_response()

    def get(self, path: str, *lines: str) -> tuple[bytes, bytes]:
        return self.request("\r\n".join([f"GET {path} HTTP/1.1", "Host: test", *lines, "", ""]).encode())

    def access_lines(self) -> list[dict[str, Any]]:
        """The access log so far."""
        self._lines += [json.loads(line) for line in self._log.drain(0).splitlines()]
        return self._lines

    def wait_access(self, **members: Any) -> dict[str, Any]:
        """Until an access-log line has these members; that line."""
        deadline = time.monotonic() + 25
        while time.monotonic() < deadline:
            for line in self.access_lines():
                if members.items() <= line.items():
                    return line
            time.sleep(0.01)
        raise AssertionError(f"no line with {members} in {self._lines}")

    def run(self, work: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        """The outcome of a coroutine run in the loop."""
        return asyncio.run_coroutine_threadsafe(work(), self.loop).result(25)

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self._over.set)
        self._thread.join(25)
        assert not self._thread.is_alive(), f"connections are left open: {self.runtime.clients}"


@contextlib.contextmanager
def in_process(*chains: Chain, nameservers: list[str] | None = None, **config: Any) -> Iterator[InProcess]:
    """An InProcess for the length of a with block; `config` holds sections of the configuration."""
    yield from _until_closed(InProcess(chains, msgspec.convert({"routers": [], **config}, Config), nameservers))


@contextlib.contextmanager
def serving(document: dict[str, Any], control_path: str | None = None) -> Iterator[InProcess]:
    """An InProcess that serves a whole configuration; what it lacks of a file is filled in."""
    yield from _until_closed(InProcess([], checked(document), control_path=control_path))


def _until_closed(made: InProcess) -> Iterator[InProcess]:
    try:
        yield made
    finally:
        made.close()


def checked(document: dict[str, Any]) -> Config:
    """The configuration that a file with this content has; raises where it cannot be used."""
    return judged(loads(json.dumps(document).encode(), "json", "config.json")).config
