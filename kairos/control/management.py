"""What people manage the gateway with, put together: the database, the admin API and its listeners.

Loaded after the fork and only when it is wanted: at the start where `admin.enabled` is on, else with the first
connection to the socket in the state folder. Traffic needs none of it; while the database does not work, or the port is
taken, that is said once and tried again.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
from typing import TYPE_CHECKING, Any, NamedTuple

from kairos.config.serving import ADMIN_SUFFIX
from kairos.control.access.access import Access
from kairos.control.access.audit import Audit
from kairos.control.api.app import all_handlers, make_app, wanted
from kairos.control.api.credentials import authenticators
from kairos.control.api.listeners import Server
from kairos.control.history.history import History
from kairos.control.ledger import Ledger
from kairos.control.nodes import Follower, Reporter, SharedSource, summary
from kairos.storage.database import Database, UnavailableError
from kairos.storage.revisions import Revisions
from kairos.storage.state import REVISIONS
from kairos.telemetry.log import adopt, get_logger

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from kairos.config.admin import Admin
    from kairos.config.model import Config
    from kairos.config.text import ConfigText
    from kairos.control.changes import Changes
    from kairos.control.commands import Commands
    from kairos.control.events import EventBus
    from kairos.control.loglevels import LogLevels
    from kairos.control.requests import Requests
    from kairos.control.source import InUse
    from kairos.control.tail import Tail
    from kairos.scoreboard import Assignment, Scoreboard
    from kairos.telemetry.prometheus import GatewayCollector

RETRY_S = 2.0
HAND_OVER_S = 0.2  # between two tries while the gateway before us may still hold the port
BACKLOG = 128
LAST_ANSWER_S = 5.0  # for what was asked on the gateway's port when it was switched off there
LAST_SAMPLE_S = 0.5  # at the end, for what the metrics came to

LIBRARIES = {"uvicorn": "api", "litestar": "api", "sqlalchemy": "storage", "alembic": "storage"}
"""Those whose troubles are in our log, and as whose."""

log = get_logger("management")


class Seen(NamedTuple):
    """What the control process keeps for those who watch, whether they come or not."""

    events: EventBus
    tail: Tail
    log_levels: LogLevels


class Management:
    """`start` on the loop, `apply` each configuration that comes into use, then `close`."""

    def __init__(
        self,
        commands: Commands,
        config: Config,
        folder: Path | None,
        local: socket.socket | None,
        board: Scoreboard,
        collector: GatewayCollector,
        seen: Seen,
        changes: Changes | None = None,
        control_path: str = "",
    ) -> None:
        for library, component in LIBRARIES.items():
            adopt(library, component)
        self._local = local
        self._changes = changes
        self.database = Database(config.storage.url) if config.storage.url else _embedded(folder)
        self.history = History(board, self.database, node_name(config))
        self.audit = Audit(self.database, node_name(config), kept=config.admin.audit)
        node = node_name(config)
        self._follower: Follower | None = None
        if config.storage.source == "database" and changes is not None:
            changes.keep_in(self._follow(node))
        self._reporter = Reporter(self.database, node, lambda: summary(commands), self._follower)
        self.access = Access(self.database, config.admin)
        self._ledger = Ledger(self.database, node, Revisions(folder / REVISIONS) if folder else None)
        if changes is not None:
            changes.recorder = self._ledger
            self._ledger.note(changes.number, changes.text)
        things: dict[str, Any] = {"reporter": self._reporter, "changes": changes, "ledger": self._ledger}
        things["collector"] = collector
        things |= self.access.things()
        things |= {"commands": commands, "database": self.database, "history": self.history, "audit": self.audit}
        things |= {"events": seen.events, "tail": seen.tail, "log_levels": seen.log_levels}
        assert not (missing := wanted(all_handlers()) - things.keys()), f"nobody gives {missing}"
        self.app = make_app(things, authenticators(self.access.logins))
        self._servers: list[Server] = []
        self._port = AdminPort(self)
        self._gateway = GatewayPort(self, f"{control_path}{ADMIN_SUFFIX}" if control_path else "")
        self._tasks: set[asyncio.Task[None]] = set()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        """Beside everything else, until it ends or we do."""
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _follow(self, node: str) -> Callable[[InUse, Requests], SharedSource]:
        def source(in_use: InUse, requests: Requests) -> SharedSource:
            self._follower = Follower(self.database, in_use, requests, node)
            return SharedSource(self._follower, in_use, self.database)

        return source

    @property
    def busy(self) -> bool:
        """Whether a change of the configuration is being made."""
        return self._changes is not None and self._changes.busy

    def note(self, number: int, text: ConfigText) -> None:
        """A revision is in use."""
        self._ledger.note(number, text)

    def start(self) -> None:
        """What can be done at once; the rest as soon as it can."""
        if self._local is not None:
            server = Server(self.app, "local", self._local)
            server.start()
            self._servers.append(server)
        self._do(self._open_database())

    def apply(self, config: Config, series: Assignment) -> None:
        """A configuration is in use."""
        self.access.apply(config.admin)
        self.audit.apply(config.admin.audit)
        if self.database.started:
            self._do(self._prepare_access())
        self._port.apply(config.admin)
        self._gateway.apply(config.admin)
        self.history.apply(config, series)

    async def step_down(self) -> None:
        """Another gateway serves: the port is its, the socket in the state folder has taken another name."""
        self.history.step_down()
        await asyncio.gather(self._port.close(), self._leave())

    async def close(self) -> None:
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(
            self._port.close(), self._gateway.close(), self._leave(), *(server.close() for server in self._servers)
        )
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.history.close(LAST_SAMPLE_S)
        await self.access.close()
        await asyncio.gather(self.audit.close(), self._ledger.close())
        await self.database.close()

    async def _prepare_access(self) -> None:
        with contextlib.suppress(UnavailableError):  # the next configuration, or start, tries again
            await self.access.prepare(url_of(self.access.admin))

    async def _leave(self) -> None:
        """Other nodes are followed by the next one, or by nobody."""
        await self._reporter.close()
        if self._follower is not None:
            await self._follower.close()

    async def _open_database(self) -> None:
        told = False
        while True:
            try:
                await self.database.start()
                await self.access.prepare(url_of(self.access.admin))
                break
            except UnavailableError as error:
                if not told:
                    log.error("no database; trying again", url=self.database.shown, error=str(error))
                told = True
                await asyncio.sleep(RETRY_S)
        self.audit.start()
        self._reporter.start()
        if self._follower is not None:
            self._follower.start()
        self._ledger.start()
        if told:
            log.info("the database works", url=self.database.shown)


class GatewayPort:
    """Where workers pass on what comes for the admin API on the gateway's port, while that is wanted."""

    def __init__(self, management: Management, path: str) -> None:
        self._management = management
        self._path = path
        self._server: Server | None = None
        self._leaving: set[asyncio.Task[None]] = set()

    def apply(self, admin: Admin) -> None:
        if not self._path or admin.on_gateway == (self._server is not None):
            return
        if admin.on_gateway:
            self._open()
        else:
            self._leave()

    def _open(self) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._unlink()  # of the control process before; the folder is this user's alone
            listener.bind(self._path)
            listener.listen(BACKLOG)
        except OSError as error:
            listener.close()
            return log.error("the admin API is not on the gateway's port", error=error.strerror)
        listener.setblocking(False)
        self._server = Server(self._management.app, "gateway", listener)
        return self._server.start()

    def _leave(self) -> None:
        """Nobody finds it any more; the request that switched it off still has its answer."""
        self._unlink()
        server, self._server = self._server, None
        if server is not None:
            task = asyncio.create_task(self._close(server, LAST_ANSWER_S))
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    async def _close(self, server: Server, patience: float) -> None:
        try:
            await asyncio.sleep(patience)
        finally:
            await server.close()

    def _unlink(self) -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(self._path)

    async def close(self) -> None:
        leaving = list(self._leaving)
        for task in leaving:
            task.cancel()
        await asyncio.gather(*leaving, return_exceptions=True)
        if self._server is not None:
            await self._server.close()


class AdminPort:
    """The TCP listener as configured: opened, moved, closed; opened anew with a certificate that was renewed."""

    def __init__(self, management: Management) -> None:
        self._management = management
        self._place: tuple[object, ...] = ()
        self._server: Server | None = None
        self._task: asyncio.Task[None] | None = None

    def apply(self, admin: Admin) -> None:
        place = _place(admin)
        if place == self._place:
            return
        self._place = place
        self._task = asyncio.create_task(self._change(admin, self._task))

    async def close(self) -> None:
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task
        await self._stop()

    async def _change(self, admin: Admin, before: asyncio.Task[None] | None) -> None:
        if before is not None:
            before.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await before
        await self._stop()
        if admin.enabled:
            listener = await self._listen(admin)
            self._server = Server(self._management.app, "remote", listener, admin.tls)
            self._server.start()
            self._say(admin, listener)

    async def _stop(self) -> None:
        if self._server is not None:
            await self._server.close()
            self._server = None

    async def _listen(self, admin: Admin) -> socket.socket:
        tries = 0
        while True:
            try:
                return _bound(admin.host, admin.port)
            except OSError as error:
                tries += 1
                if tries == 5:
                    where = f"{admin.host}:{admin.port}"
                    advice = "give admin.port another, or set admin.enabled to false"
                    log.error("no admin port; trying again", address=where, error=error.strerror, advice=advice)
                await asyncio.sleep(HAND_OVER_S if tries < 5 else RETRY_S)

    def _say(self, admin: Admin, listener: socket.socket) -> None:
        scheme = "https" if admin.tls else "http"
        host, port = listener.getsockname()[:2]
        log.info("admin API ready", url=f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}")


def _place(admin: Admin) -> tuple[object, ...]:
    """What the listener depends on: with TLS, also what its files are now."""
    files = (admin.tls.cert_file, admin.tls.key_file) if admin.tls is not None else ()
    return admin.enabled, admin.host, admin.port, admin.tls, *(_changed_at(file) for file in files if file)


def _changed_at(file: str) -> int:
    with contextlib.suppress(OSError):
        return os.stat(file).st_mtime_ns
    return 0


def url_of(admin: Admin, port: int | None = None) -> str:
    """Where people find it."""
    host = f"[{admin.host}]" if ":" in admin.host else admin.host
    return f"{'https' if admin.tls else 'http'}://{host}:{admin.port if port is None else port}"


def _bound(host: str, port: int) -> socket.socket:
    family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)[0]
    listener = socket.socket(family, kind)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen(BACKLOG)
        listener.setblocking(False)
    except OSError:
        listener.close()
        raise
    return listener


def node_name(config: Config) -> str:
    """Of this gateway, among those that share a database."""
    return config.storage.node or socket.gethostname()


def _embedded(folder: Path | None) -> Database:
    return Database.in_folder(folder) if folder is not None else Database("sqlite://")
