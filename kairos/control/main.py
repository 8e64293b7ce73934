"""The control process: what is done once for all workers, put together, and the supervisor's messages followed.

It serves /metrics to the workers and commands to operators, writes the access log, checks backends, watches the
configuration file and keeps revisions. It carries no traffic: when it dies the workers go on, and the next one takes up
everything where it is: rings and verdicts in the shared page, revisions in the state folder, and a change of the file
that nobody saw by asking for a reload. In a gateway that was replaced it only writes the log and answers questions:
backends and files are another's to look after.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvloop

from kairos._speedups import cells
from kairos.channel import (
    Abort,
    Ack,
    ChannelError,
    Commit,
    Decoder,
    Drain,
    Drained,
    FromChild,
    Listen,
    Listening,
    Message,
    Nack,
    Prepare,
    Ready,
    ReloadResult,
    ReopenLogs,
    Stop,
    UpgradeResult,
    WorkerBoot,
    encode,
)
from kairos.config.certificates import ends_of
from kairos.config.files import policy_files, tls_files
from kairos.control import keysets
from kairos.control.backends import Backends
from kairos.control.bans import Bans
from kairos.control.caches import Caches
from kairos.control.commands import Commands
from kairos.control.connections import ClientConnections
from kairos.control.endings import EndedSessions
from kairos.control.events import (
    ConfigChanged,
    ControlStarted,
    EventBus,
    LogLevelsChanged,
    ReloadFailed,
    RevisionInUse,
    UpgradeEnded,
)
from kairos.control.health import HealthChecker
from kairos.control.http import Handler, Request, Responder, Response, Router
from kairos.control.keysets import KeySets
from kairos.control.limits import Limits
from kairos.control.loglevels import LogLevels
from kairos.control.logwriter import STDOUT, LogWriter
from kairos.control.oidc import Providers
from kairos.control.outlier import OutlierDetector
from kairos.control.pools import Pools
from kairos.control.requests import Requests
from kairos.control.revisions import Keeper
from kairos.control.rotation import Housekeeper
from kairos.control.source import FileSource, InUse
from kairos.control.tail import Tail
from kairos.control.tickets import TicketKeys
from kairos.control.transitions import Transitions
from kairos.control.watch import FileWatch
from kairos.storage.revisions import Revisions
from kairos.storage.state import BACKENDS, ENDINGS, REVISIONS
from kairos.telemetry import log as telemetry
from kairos.telemetry.log import adopt, configure, get_logger, show_lines
from kairos.telemetry.prometheus import GatewayCollector

if TYPE_CHECKING:
    import socket
    from collections.abc import Coroutine, Iterator

    from kairos.config.log import Level
    from kairos.config.model import Config
    from kairos.config.text import ConfigText
    from kairos.control.management import Management
    from kairos.scoreboard import Assignment

METRICS_PATH = "/metrics"
STOP_TIMEOUT = 1.0  # seconds for the last lines when told to stop; the supervisor kills after two
ORPHAN_CHECK = 0.2  # seconds between two looks for workers that outlive the supervisor

log = get_logger("control")


def main(boot: WorkerBoot) -> None:
    """Run until the supervisor says otherwise, or is gone."""
    configure(boot.config.log, node=boot.config.storage.node)
    adopt("asyncio", "control")
    uvloop.run(Control(boot).run())


class Control:
    """What the process holds between two messages."""

    def __init__(self, boot: WorkerBoot) -> None:
        self._boot = boot
        self._config = boot.config
        self._prepared: Prepare | None = None
        self._unkept: ConfigText | None = boot.control.text if boot.control else None
        """The first revision's text, until the gateway serves with it."""
        self._stepping_down: asyncio.Task[None] | None = None
        self._asking: set[asyncio.Task[None]] = set()
        self._collector = GatewayCollector(boot.scoreboard, boot.series, per_route=boot.config.metrics.per_route)
        self._collector.pids = {"control": os.getpid(), "supervisor": os.getppid()}
        self._tail = Tail(boot.scoreboard)
        show_lines(self._tail.program.add)
        self._events = EventBus()
        self._log = LogWriter(boot.scoreboard, _log_path(boot.config), boot.config.access_log, self._tail)
        self._housekeeper = Housekeeper()
        self._log.on_rotated = self._housekeeper.look
        self._rotate(allowed=not boot.standby)
        self._levels = LogLevels(boot.scoreboard)
        self._levels.on_change = self._tell_levels
        self._checker = HealthChecker(boot.scoreboard)
        self._outliers = OutlierDetector(boot.scoreboard)
        folder = Path(boot.control.state_dir) if boot.control and boot.control.state_dir else None
        self._folder = folder
        self._source = FileSource(boot.control.config_path) if boot.control else None
        self._in_use = InUse(boot.revision, boot.control.text, boot.config) if boot.control else None
        self._management: Management | None = None
        self._loading: asyncio.Task[None] | None = None
        self._backends = Backends(boot.scoreboard, self._checker, folder / BACKENDS if folder else None)
        self._key_sets = KeySets(boot.scoreboard, folder)
        self._providers = Providers()
        self._endings = EndedSessions(folder / ENDINGS if folder else None, self._ended)
        self._tickets = TicketKeys(boot.scoreboard)
        self._bans = Bans(boot.scoreboard)
        self._transitions = Transitions(boot.scoreboard, self._events, bans=self._bans, why_down=self._why_down)
        self._limits = Limits(boot.scoreboard)
        self._caches = Caches(boot.scoreboard)
        self._requests = Requests(self._say)
        revisions = Revisions(folder / REVISIONS) if folder else None
        self._keeper = Keeper(revisions) if revisions else None
        self._pools = Pools(boot.scoreboard)
        clients = ClientConnections(boot.scoreboard, boot.control_path)
        self._commands = Commands(
            boot, self._backends, self._requests, self._bans, self._limits, self._caches, clients, self._pools
        )
        self._watch = FileWatch(boot.control.config_path, self._reload_if_changed) if boot.control else None

    async def run(self) -> None:
        """Serve and obey; returns once the last lines are written."""
        reader, self._channel = await asyncio.open_unix_connection(sock=self._boot.channel)
        self._tail.start()
        self._log.start()
        self._tickets.start()
        self._apply(self._boot.config, self._boot.series)
        self._events.publish(ControlStarted(pid=os.getpid()))
        self._transitions.start()
        server = await self._serve()
        self._say(Ready(os.getpid()))
        if not self._boot.standby:
            await self._settle()
            self._manage_when_wanted()
        self._watch_or_not()
        patience = await self._obey(reader)
        server.close()
        await self._end(patience)
        self._say(Drained())
        self._channel.close()
        with contextlib.suppress(ConnectionError):  # nobody is there to hear it
            await self._channel.wait_closed()

    async def _serve(self) -> asyncio.Server:
        """What workers ask of this process."""
        own: dict[str, dict[str, Handler]] = {METRICS_PATH: {"GET": self._metrics}}
        own[keysets.PATH] = {"POST": self._key_sets.answer}
        (listener,) = self._boot.listeners
        return await _serve(listener, Router({**own, **self._providers.routes(), **self._endings.routes()}))

    def _manage_when_wanted(self) -> None:
        """At once where there is an admin port, else with the first command: it takes time and memory to load."""
        local = self._boot.control.admin if self._boot.control else None
        if self._config.admin.enabled or self._config.storage.url:
            self._load_management()
        elif local is not None and self._loading is None:
            asyncio.get_running_loop().add_reader(local.fileno(), self._load_management)

    def _load_management(self) -> None:
        local = self._boot.control.admin if self._boot.control else None
        if local is not None:
            asyncio.get_running_loop().remove_reader(local.fileno())
        if self._loading is None:
            self._loading = asyncio.create_task(self._start_or_say(local))

    async def _start_or_say(self, local: socket.socket | None) -> None:
        """Traffic is served without it."""
        try:
            await self._start_management(local)
        except Exception:
            log.exception("the gateway cannot be managed until it is started anew")

    async def _start_management(self, local: socket.socket | None) -> None:
        # In a thread, so that the log is written and backends are checked meanwhile.
        module = await asyncio.to_thread(importlib.import_module, "kairos.control.management")
        changes = self._changes(await asyncio.to_thread(importlib.import_module, "kairos.control.changes"))
        seen = module.Seen(self._events, self._tail, self._levels)
        board = self._boot.scoreboard
        self._management = module.Management(
            self._commands,
            self._config,
            self._folder,
            local,
            board,
            self._collector,
            seen,
            changes,
            self._boot.control_path,
        )
        self._collector.history = self._management.history.status
        self._management.start()
        self._management.apply(self._config, self._collector.assignment)

    def _ended(self) -> None:
        """Workers are to ask which sessions ended. The only writer of the cell."""
        page = self._boot.scoreboard.page
        page.set(cells.H_ENDED, page.get(cells.H_ENDED) + 1)

    async def _settle(self) -> None:
        """Finish a change of the file that a control process before this one had begun."""
        if self._source is None or self._in_use is None:
            return
        number, text = self._in_use.number, self._in_use.text
        await asyncio.to_thread(self._source.settle, text)
        if text.replaces:
            self._requests.settled(number)

    def _metrics(self, request: Request) -> Response:
        return Response(*self._collector.expose(request.accept))

    def _watch_or_not(self) -> None:
        """As configured."""
        if self._watch is not None:
            (self._watch.start if self._config.server.watch else self._watch.stop)()

    def _changes(self, module: Any) -> Any:
        boot = self._boot.control
        if boot is None or self._source is None or self._in_use is None:
            return None
        board = self._boot.scoreboard
        return module.Changes(self._source, self._in_use, self._requests, boot.judge, boot.restarts, board)

    def _reload_if_changed(self) -> None:
        self._do(self._ask_for_reload())

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        """Beside everything else."""
        task = asyncio.create_task(work)
        self._asking.add(task)
        task.add_done_callback(self._asking.discard)

    async def _ask_for_reload(self) -> None:
        with contextlib.suppress(TimeoutError):
            await self._requests.reload("file change", if_changed=True)

    async def _end(self, patience: float) -> None:
        """All at once: what one of them waits for is not to cost the others their time."""
        if self._watch is not None:
            self._watch.stop()
        if self._stepping_down is not None:
            await self._stepping_down
        endings = [self._outliers.close(), self._checker.close(), self._key_sets.close(), self._providers.close()]
        endings.append(self._endings.close())
        endings += [self._tickets.close(), self._transitions.close()]
        endings.append(self._end_management())
        endings.append(asyncio.to_thread(self._log.stop, patience))
        endings.append(asyncio.to_thread(self._housekeeper.stop, min(patience, STOP_TIMEOUT)))
        self._levels.close()
        endings.append(self._backends.close(min(patience, STOP_TIMEOUT)))
        if self._keeper is not None:
            endings.append(self._keeper.close(min(patience, STOP_TIMEOUT)))
        await asyncio.gather(*endings)

    async def _end_management(self) -> None:
        if self._loading is not None:
            await self._loading
        if self._management is not None:
            await self._management.close()

    async def _obey(self, reader: asyncio.StreamReader) -> float:
        """Act on messages until one ends the process; how many seconds the end may take."""
        decoder = Decoder()
        try:
            while data := await reader.read(1 << 16):
                for message in decoder.receive(data):
                    if isinstance(message, Drain):
                        return message.deadline_s
                    if isinstance(message, Stop):
                        return STOP_TIMEOUT
                    self._act(message)
        except (ConnectionError, ChannelError) as error:
            log.error("the supervisor cannot be understood", error=str(error))
        await self._outlive_workers()
        return STOP_TIMEOUT

    def _act(self, message: Message) -> None:
        match message:
            case Prepare():
                self._prepare(message)
            case Commit(revision) if self._prepared is not None and self._prepared.revision == revision:
                self._commit(self._prepared)
            case Commit(revision) if revision == self._boot.revision and self._unkept is not None:
                self._keep(revision, self._unkept)
            case ReloadResult():
                self._commands.note(message)
                self._requests.reloaded(message)
                self._tell_reload(message)
            case UpgradeResult():
                self._requests.upgraded(message)
                self._events.publish(UpgradeEnded(pid=message.pid, problem=message.problem))
                if message.pid:
                    self._stepping_down = asyncio.create_task(self._step_down())
            case Listen(borrowed=True):
                self._do(self._settle())
                self._backends.take_up()
                self._manage_when_wanted()
                self._rotate(allowed=True)
                self._endings.take_up()
                self._say(Listening())
            case Abort(revision) if self._prepared is not None and self._prepared.revision == revision:
                self._prepared = None
            case ReopenLogs():
                self._log.reopen()

    def _tell_revision(self, prepared: Prepare) -> None:
        text = prepared.text
        self._events.publish(RevisionInUse(revision=prepared.revision, reason=text.reason if text else ""))
        if text is not None and text.author:
            changed = ConfigChanged(revision=prepared.revision, author=text.author, message=text.message)
            self._events.publish(changed)

    def _tell_reload(self, result: ReloadResult) -> None:
        if result.problems:
            self._events.publish(ReloadFailed(revision=result.revision, problems=result.problems))

    def _tell_levels(self, levels: dict[str, Level], seconds: float | None) -> None:
        self._events.publish(LogLevelsChanged(levels=levels, seconds=seconds))

    def _why_down(self, key: str) -> str:
        status = self._checker.status(key)
        return status.last_reason if status is not None else ""

    def _rotate(self, *, allowed: bool) -> None:
        """Only one of two gateways rotates files."""
        self._log.may_rotate = allowed
        self._housekeeper.allow(allowed=allowed)

    async def _step_down(self) -> None:
        """Another gateway serves."""
        if self._watch is not None:
            self._watch.stop()
        self._key_sets.step_down()
        self._rotate(allowed=False)
        self._endings.step_down()
        await asyncio.gather(self._outliers.close(), self._checker.close())
        if self._management is not None:
            await self._management.step_down()

    def _prepare(self, message: Prepare) -> None:
        """Only the log files can be wrong here: the rest of a configuration is the workers' to judge."""
        if problems := list(_unopened(message.config)):
            return self._say(Nack(message.revision, problems))
        self._prepared = message
        self._backends.prepare(message.config, message.series)
        self._key_sets.prepare(message.config)
        self._say(Ack(message.revision))

    def _commit(self, prepared: Prepare) -> None:
        self._prepared = None
        self._tell_revision(prepared)
        self._collector.assignment = prepared.series
        self._collector.per_route = prepared.config.metrics.per_route
        configure(prepared.config.log, node=prepared.config.storage.node)
        self._log.switch(_log_path(prepared.config), prepared.config.access_log)
        self._apply(prepared.config, prepared.series)
        self._watch_or_not()
        self._manage_when_wanted()
        if prepared.text is not None:
            self._keep(prepared.revision, prepared.text)
            self._note_in_use(prepared.revision, prepared.text)

    def _note_in_use(self, revision: int, text: ConfigText) -> None:
        """Whoever makes a change here sees to the file as well; one that nobody makes was begun by a predecessor."""
        if self._in_use is not None:
            self._in_use.note(revision, text, self._config)
        if self._management is not None:
            self._management.note(revision, text)
        if text.replaces and not (self._management is not None and self._management.busy):
            self._do(self._settle())

    def _apply(self, config: Config, series: Assignment) -> None:
        """A configuration is in use from here on."""
        self._config = config
        self._checker.apply(config, series)
        self._outliers.apply(config, series)
        self._backends.apply(config, series)
        self._pools.apply(config, series)
        self._bans.apply(config)
        self._limits.apply(config, series)
        self._caches.apply(config)
        self._key_sets.apply(config)
        self._providers.apply(config)
        self._endings.apply(config)
        self._tickets.apply(config)
        self._collector.certificates = ends_of(config)
        if self._management is not None:
            self._management.apply(config, series)
        self._levels.apply(config.log)
        self._tail.apply(complete=config.access_log.complete)
        self._transitions.apply(config, series, self._collector.certificates)
        self._housekeeper.apply((config.log.file, config.log), (_log_path(config), config.access_log))
        if self._watch is not None:
            self._watch.look_beside([*tls_files(config), *policy_files(config)])

    def _keep(self, revision: int, text: ConfigText) -> None:
        self._unkept = None
        if self._keeper is not None:
            self._keeper.keep(revision, text)

    def _say(self, message: FromChild) -> None:
        """To the supervisor, unless it is gone: a transport that is closed raises."""
        if not self._channel.transport.is_closing():
            self._channel.write(encode(message))

    async def _outlive_workers(self) -> None:
        """The supervisor is gone: workers finish what they have, and their last lines are still to be written."""
        for _ in range(int(self._config.server.drain_timeout / ORPHAN_CHECK)):
            if not any(map(_alive, self._workers())):
                return
            await asyncio.sleep(ORPHAN_CHECK)

    def _workers(self) -> list[int]:
        board = self._boot.scoreboard
        pids = [board.page.get(board.worker_block(slot) + cells.W_PID) for slot in range(board.capacity.workers)]
        return [pid for pid in pids if pid]


async def _serve(listener: socket.socket, table: Router) -> asyncio.Server:
    # Its file is the supervisor's to remove, but from Python 3.13 on loops do it of their own accord.
    own: dict[str, Any] = {"sock": listener, "cleanup_socket": False}
    return await asyncio.get_running_loop().create_unix_server(lambda: Responder(table), **own)


def _log_path(config: Config) -> str:
    spec = config.access_log
    return spec.file if spec.format != "off" else STDOUT


def _unopened(config: Config) -> Iterator[str]:
    """What is wrong with the log files of a configuration."""
    files = {"access_log.file": _log_path(config), "log.file": config.log.file}
    for key, path in files.items():
        try:
            if path != STDOUT:
                os.close(telemetry.open_log(path))
        except OSError as error:
            yield f"{key}: cannot open {path!r}: {error.strerror}"


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
