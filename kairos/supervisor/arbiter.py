"""The process that forks: it does what `plan` decides and reports to it what happens. It serves no traffic.

- No event loop, no thread: one `select` over the children's channels and the signal pipe. Signal handlers do nothing;
  the interpreter writes the number to the pipe and the loop reads it.
- A turn is: messages, the dead, signals, what is due. The clock is the monotonic one.
- Children are forked, not executed: the code is loaded once and its pages are shared. A child first lets go of all that
  is not its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import hashlib
import os
import resource
import selectors
import signal
import socket
import sys
import time
import traceback
from dataclasses import dataclass
from dataclasses import replace as replace_fields
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from msgspec.structs import replace

from kairos import __version__
from kairos._speedups import cells
from kairos.channel import (
    EXIT_LOAD,
    OVERTAKEN,
    Ack,
    ChannelError,
    ControlBoot,
    Decoder,
    Listening,
    Nack,
    Prepare,
    Ready,
    ReloadRequest,
    ReloadResult,
    Settled,
    UpgradeRequest,
    WorkerBoot,
    encode,
)
from kairos.config.certificates import CertificateError, completed
from kairos.config.compose import composed, document_of, follows, shared_part
from kairos.config.files import digest
from kairos.config.listeners import ServerTls
from kairos.config.load import judged, load, loads
from kairos.config.problems import ConfigError, Problem
from kairos.config.serving import every_route
from kairos.config.text import ConfigText
from kairos.scoreboard import Scoreboard, Series, limit_labels
from kairos.storage.revisions import DamagedError
from kairos.supervisor import plan
from kairos.supervisor.notify import Notifier, inherited_sockets
from kairos.supervisor.plan import CONTROL, Phase, Plan, Revision
from kairos.supervisor.sockets import Asked, ControlSocket, ListenError, Listeners
from kairos.supervisor.state import GatewayState
from kairos.supervisor.upgrade import Accepting, Booted, Command, Failed, Go, Gone, Heir, Predecessor, Serving
from kairos.telemetry.accesslog import SaidRing
from kairos.telemetry.log import configure, get_logger, open_log, share_levels, show_lines, write_levels

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, MutableMapping

    from kairos.channel import Message
    from kairos.config.load import Loaded
    from kairos.config.log import Level
    from kairos.config.model import Config
    from kairos.scoreboard import Assignment

    Entry = Callable[[WorkerBoot], None]

EXIT_CRASH = 1
NAME, NAME_UPGRADING, NAME_REPLACED = "kairos-gateway", "kairos-upgrade", "kairos-old"
"""Of the supervisor, as `ps` shows it and `kairos-gateway upgrade --pid` reads it."""
SPARE_WORKERS = 4
"""Rows kept free on the scoreboard for TTIN and for reloads that ask for more workers."""
MAX_DESCRIPTORS = 1 << 20
_HANDLED = (
    signal.SIGTERM, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2,
    signal.SIGTTIN, signal.SIGTTOU, signal.SIGCHLD,
)  # fmt: skip
_CHILD_DIED = bytes([signal.SIGCHLD])
"""Only wakes the loop: the dead are looked for in every turn."""
_READ = 1 << 16
LOOK_S = 5.0
"""Between two looks whether the workers' loops go round."""
_PR_SET_NAME = 15


@dataclass(frozen=True, slots=True)
class Options:
    """What was given on the command line or in the environment; None leaves it to the file."""

    config_path: str
    insecure_dev: bool = False
    host: str | None = None
    port: int | None = None
    tls_port: int | None = None
    self_signed: bool = False
    """Serve HTTPS with a certificate made here, as server.tls.self_signed does."""
    workers: int | None = None
    admin_host: str | None = None
    admin_port: int | None = None
    log_level: Level | None = None
    state_dir: str | None = None
    """None: nothing is kept, and no command reaches the gateway."""
    last_good: bool = False
    """Where the file cannot be used at start, use the newest revision that was kept."""

    def load(self) -> Loaded:
        """The file with the overrides on top, judged as a whole. Raises ConfigError."""
        return self._judged(load(self.config_path))

    def load_text(self, text: ConfigText) -> Loaded:
        """The same of a text that was kept; what its references name is looked up beside the file."""
        return self._judged(loads(text.data, text.format, text.name, folder=Path(self.config_path).parent))

    def _judged(self, loaded: Loaded) -> Loaded:
        server = loaded.config.server
        server = replace(
            server,
            host=server.host if self.host is None else self.host,
            port=server.port if self.port is None else self.port,
            tls=self._tls(server.tls),
            workers=self.workers or server.workers or cores(),
        )
        admin = loaded.config.admin
        admin = replace(
            admin,
            host=admin.host if self.admin_host is None else self.admin_host,
            port=admin.port if self.admin_port is None else self.admin_port,
        )
        log = loaded.config.log
        log = replace(log, level=self.log_level or log.level)
        overridden = replace(loaded.config, server=server, admin=admin, log=log)
        return judged(replace_fields(loaded, config=overridden), insecure_dev=self.insecure_dev)

    def _tls(self, tls: ServerTls | None) -> ServerTls | None:
        if self.self_signed:
            tls = replace(tls or ServerTls(), self_signed=True)
        return tls if tls is None or self.tls_port is None else replace(tls, port=self.tls_port)


def cores() -> int:
    """Processors this process may use: its affinity, and in a container the CPU quota."""
    allowed = len(os.sched_getaffinity(0))
    with contextlib.suppress(OSError, ValueError), open("/sys/fs/cgroup/cpu.max", encoding="ascii") as file:
        quota, period = map(int, file.read().split())  # "max" means no quota and is no number
        allowed = min(allowed, max(1, -(-quota // period)))
    return allowed


@dataclass(frozen=True)
class _Version:
    """A configuration with its number and its indices."""

    number: int
    config: Config
    series: Assignment
    text: ConfigText
    digest: str
    """See `config.files.digest`."""

    @property
    def revision(self) -> Revision:
        server = self.config.server
        return Revision(self.number, server.workers or cores(), server.drain_delay, server.drain_timeout)

    @cached_property
    def prepare(self) -> bytes:
        """The same frame goes to every child: encoded once."""
        return encode(Prepare(self.number, self.config, self.series))

    @property
    def prepare_control(self) -> bytes:
        """With the text, which control keeps."""
        return encode(Prepare(self.number, self.config, self.series, self.text))


class _Peer:
    """A child's end of the line: its channel, read and written without waiting."""

    def __init__(self, slot: int, pid: int, channel: socket.socket) -> None:
        self.slot = slot
        self.pid = pid
        self.channel = channel
        self._decoder = Decoder()
        self._unsent = bytearray()

    def receive(self) -> list[Message] | None:
        """What has arrived, oldest first; None at the end of the stream. Raises ChannelError."""
        try:
            data = self.channel.recv(_READ)
        except BlockingIOError:
            return []
        except ConnectionError:
            return None
        return self._decoder.receive(data) if data else None

    def send(self, frame: bytes) -> None:
        """Write what fits, keep the rest."""
        self._unsent += frame
        self.flush()

    def flush(self) -> None:
        try:
            while self._unsent:
                del self._unsent[: self.channel.send(self._unsent)]
        except BlockingIOError:
            pass
        except ConnectionError:
            self._unsent.clear()  # it is dying; that will be reaped

    @property
    def interest(self) -> int:
        return selectors.EVENT_READ | (selectors.EVENT_WRITE if self._unsent else 0)


class Arbiter:
    """One gateway, from the first load to the last child's end."""

    def __init__(
        self,
        options: Options,
        *,
        entry: Entry,
        control_entry: Entry | None = None,
        environ: MutableMapping[str, str] = os.environ,
    ) -> None:
        self._command = Command()
        self._environ = environ
        self._options = options
        self._entry = entry
        self._control_entry = control_entry
        self._log = get_logger("supervisor")
        self._began = time.monotonic()
        self._exit_code: int | None = None
        self._peers: dict[int, _Peer] = {}
        self._heir: Heir | None = None
        self._old = Predecessor.of(environ)
        self._state = self._claim_state()
        try:
            loaded = self._load_first()
            config = loaded.config
            self._listeners = self._open_listeners(config)
        except (ConfigError, ListenError) as error:
            if self._old is not None:
                self._old.refuse(str(error))
            raise
        self._control = ControlSocket(wanted=control_entry is not None)
        if control_entry is not None:
            self._state.listen()
        self._notifier = Notifier(environ, silent=self._old is not None)
        self._scoreboard = _scoreboard(config)
        share_levels(self._scoreboard.page, self._scoreboard.levels)
        write_levels(config.log)
        show_lines(SaidRing(self._scoreboard, -1).write)
        self._series = Series(self._scoreboard)
        self._numbers = self._last_number(loaded)
        self._current = self._version(loaded, "start")
        self._pending: _Version | None = None
        self._scoreboard.page.set(cells.H_REVISION, self._current.number)
        self._state.apply_overrides(self._scoreboard, self._current.series)
        self._plan = Plan(
            self._current.revision,
            control=control_entry is not None,
            max_workers=self._scoreboard.capacity.workers,
            borrowed=len(self._listeners.taken),
            stays=os.getpid() == 1,
        )
        self._served = False
        self._look_at = time.monotonic() + LOOK_S
        self._selector = selectors.DefaultSelector()
        self._wakeup, self._wakeup_write = socket.socketpair()

    def _claim_state(self) -> GatewayState:
        inherited = self._old.lock if self._old is not None else None
        state = GatewayState(self._options.state_dir, inherited)
        if inherited is not None and state.lock != inherited:
            os.close(inherited)  # another folder is named now
        return state

    def _open_listeners(self, config: Config) -> Listeners:
        """What cannot listen is found before anything is forked."""
        workers = config.server.workers or cores()
        given = inherited_sockets(self._environ)
        if self._old is None:
            listeners = Listeners.open(config.server, given)
        else:
            listeners = Listeners.adopt(self._old.estate, workers)
            self._warn_of_restart(config, listeners.asked)
        for slot in range(workers):
            listeners.of_slot(slot)
        return listeners

    def run(self) -> int:
        """Supervise until the plan halts; the exit code of the gateway."""
        _raise_descriptor_limit()
        _name_process(NAME)
        self._catch_signals()
        self._selector.register(self._wakeup, selectors.EVENT_READ)
        if self._old is not None:
            self._selector.register(self._old.line.socket, selectors.EVENT_READ, self._hear_old)
        self._do(self._plan.start(time.monotonic()))
        while self._exit_code is None:
            self._turn()
        self._close()
        return self._exit_code

    def _catch_signals(self) -> None:
        for end in (self._wakeup, self._wakeup_write):
            end.setblocking(False)
        signal.set_wakeup_fd(self._wakeup_write.fileno(), warn_on_full_buffer=False)
        for signum in _HANDLED:
            signal.signal(signum, _noted)

    def _turn(self) -> None:
        wake_at = min(self._plan.next_due(), self._notifier.next_beat(), self._look_at if self._peers else float("inf"))
        timeout = None if wake_at == float("inf") else max(0.0, wake_at - time.monotonic())
        for key, events in self._selector.select(timeout):
            if isinstance(key.data, _Peer):
                self._serve(key.data, events)
            elif key.data is not None:
                key.data()
        signals = self._take_signals()
        self._reap()
        for signum in signals.replace(_CHILD_DIED, b""):
            self._do(self._plan.signalled(signum, time.monotonic()))
        self._look()
        self._do(self._plan.tick(time.monotonic()))
        self._notifier.beat(time.monotonic())

    # --- what happens ---------------------------------------------------------------------------------------------

    def _take_signals(self) -> bytes:
        """Signal numbers in the order of their coming, one byte each."""
        try:
            return self._wakeup.recv(_READ)
        except BlockingIOError:
            return b""

    def _serve(self, peer: _Peer, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            peer.flush()
            self._selector.modify(peer.channel, peer.interest, peer)
        if events & selectors.EVENT_READ:
            self._hear(peer)

    def _hear(self, peer: _Peer) -> bool:
        """Pass on what a child says; False when it has no more to say for now."""
        try:
            messages = peer.receive()
        except ChannelError as error:
            self._log.error("a child talks nonsense; killing it", child=peer.pid, error=str(error))
            _kill(peer.pid, signal.SIGKILL)
            messages = None
        if messages is None:
            self._hang_up(peer)
            return False
        for message in messages:
            self._do(self._heard(peer.pid, message, time.monotonic()))
        return bool(messages)

    def _heard(self, pid: int, message: Message, now: float) -> list[plan.Action]:
        match message:
            case Ready():
                return self._plan.ready(pid, now)
            case Ack(revision):
                return self._plan.acked(pid, revision, now)
            case Nack(revision, problems):
                return self._plan.nacked(pid, revision, problems, now)
            case ReloadRequest():
                return self._plan.reload_asked(message, now)
            case Listening():
                return self._plan.listening(pid, now)
            case Settled(revision):
                self._settle(revision)
            case UpgradeRequest(id_):
                return self._plan.upgrade_asked(id_, now)
        return []  # Drained: the exit that follows says the same

    def _hang_up(self, peer: _Peer) -> None:
        if peer.channel.fileno() >= 0:
            self._selector.unregister(peer.channel)
            peer.channel.close()

    def _reap(self) -> None:
        """All that died, children of ours or orphans that fell to us as PID 1."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return self._do(self._plan.childless(time.monotonic()))
            if pid == 0:
                return
            self._bury(pid)
            self._do(self._plan.exited(pid, os.waitstatus_to_exitcode(status), time.monotonic()))

    def _bury(self, pid: int) -> None:
        """Hear a dead child's last words, then forget it."""
        if self._heir is not None and pid == self._heir.pid:
            return self._hear_heir()
        peer = next((peer for peer in self._peers.values() if peer.pid == pid), None)
        if peer is None:
            return
        while peer.channel.fileno() >= 0 and self._hear(peer):
            pass
        self._hang_up(peer)
        del self._peers[peer.slot]
        if peer.slot != CONTROL:
            self._scoreboard.zero_gauges(peer.slot, self._current.series)

    def _look(self) -> None:
        """Whether the workers' loops go round."""
        now = time.monotonic()
        if now < self._look_at:
            return
        self._look_at = now + LOOK_S
        board = self._scoreboard
        for slot in [slot for slot in self._peers if slot != CONTROL]:
            beat = board.page.get(board.worker_block(slot) + cells.W_BEAT_AT_US)
            self._do(self._plan.beat(slot, now - beat / 1e6, now))

    # --- what is done ---------------------------------------------------------------------------------------------

    def _do(self, actions: Iterable[plan.Action]) -> None:
        for action in actions:
            self._do(self._act(action))

    def _act(self, action: plan.Action) -> list[plan.Action]:
        """Carry out one decision; what comes of it may bring further ones."""
        match action:
            case plan.Spawn(slot):
                return self._spawn(slot)
            case plan.Load():
                return self._load(action)
            case plan.Send(slot, message):
                self._send(slot, encode(message))
            case plan.SendPrepare(slot, revision):
                version = self._of_number(revision)
                self._send(slot, version.prepare_control if slot == CONTROL else version.prepare)
            case plan.Signal(pid, signum):
                _kill(pid, signum)
            case plan.Adopt(revision):
                self._current, self._pending = self._of_number(revision), None
                self._scoreboard.page.set(cells.H_REVISION, revision)
                configure(self._current.config.log, node=self._current.config.storage.node)
            case plan.Discard():
                self._pending = None
            case plan.Report(asked, problems, unchanged):
                self._report_reload(asked, list(problems), unchanged=unchanged)
            case plan.StartHeir(slots):
                return self._start_heir(slots)
            case plan.LetAccept():
                self._let_accept()
            case plan.HandOver(pid):
                self._hand_over(pid)
            case plan.GiveUpHeir():
                self._scoreboard.page.add(cells.H_UPGRADES_FAILED, 1)
                self._scoreboard.set_flag(cells.FLAG_HANDING_OVER, on=False)
                self._hang_up_heir()
            case plan.SayAccepting():
                assert self._old is not None
                self._old.accepting()
            case plan.GiveBack():
                self._listeners.hand_over()
            case plan.Retire(slot):
                self._listeners.retire(slot)
                self._control.retire(slot)
            case plan.Unlisten():
                self._listeners.give_up_shared()
            case plan.Announce(phase):
                self._announce(phase)
            case plan.Log(level, event, fields):
                getattr(self._log, level)(event, **fields)
            case plan.Halt(code):
                self._exit_code = code
        return []

    def _send(self, slot: int, frame: bytes) -> None:
        peer = self._peers.get(slot)
        if peer is not None and peer.channel.fileno() >= 0:
            peer.send(frame)
            self._selector.modify(peer.channel, peer.interest, peer)

    def _announce(self, phase: Phase) -> None:
        match phase:
            case Phase.STANDBY:
                assert self._old is not None
                self._old.booted(self._listeners.taken)
            case Phase.TAKING:
                self._scoreboard.set_flag(cells.FLAG_READY, on=True)
            case Phase.UPGRADING:
                _name_process(NAME_UPGRADING)
            case Phase.RUNNING:
                _name_process(NAME)
                if not self._served:
                    self._served = True
                    self._log.info(self._start_line())
                    self._state.publish()
                self._scoreboard.set_flag(cells.FLAG_READY, on=True)
                self._notifier.ready(f"serving on {' '.join(self._listeners.describe())}")
            case Phase.RELOADING:
                self._notifier.reloading()
            case Phase.DRAINING | Phase.STOPPING:
                self._scoreboard.set_flag(cells.FLAG_READY, on=False)
                self._scoreboard.set_flag(cells.FLAG_DRAINING, on=True)
                self._notifier.stopping(phase.value)

    def _start_line(self) -> str:
        took = time.monotonic() - self._began
        workers = self._current.revision.workers
        where = ", ".join(self._listeners.describe())
        plural = "" if workers == 1 else "s"
        return f"kairos {__version__} is ready on {where} with {workers} worker{plural} after {took:.2f} s"

    # --- configurations -------------------------------------------------------------------------------------------

    def _load_first(self) -> Loaded:
        """The file; where that is bad and it was allowed, what was in use last."""
        try:
            loaded = self._load_file(self._kept(), "start")
        except ConfigError as error:
            if not self._options.last_good:
                raise
            loaded = self._last_good(error)
        _begin_log(loaded.config)
        self._report(loaded.problems)
        return self._with_certificates(loaded)

    def _load_file(self, before: ConfigText | None, reason: str) -> Loaded:
        """The file; of a node whose configuration is a database's, what was in use before with what the file says of
        this machine. Raises ConfigError."""
        loaded = self._options.load()
        if loaded.config.storage.source == "file" or before is None or not follows(before):
            return loaded
        local = ConfigText(loaded.source.data, loaded.source.format, loaded.source.name, reason)
        return self._options.load_text(composed(local, shared_part(document_of(before)), reason))

    def _kept(self) -> ConfigText | None:
        """What was in use when the gateway ended last."""
        revisions = self._state.revisions
        stored = revisions.newest() if revisions is not None else None
        if revisions is None or stored is None:
            return None
        with contextlib.suppress(OSError, DamagedError):
            return revisions.text(stored)
        return None

    def _with_certificates(self, loaded: Loaded) -> Loaded:
        """What certificates say of themselves is read here, once, and workers are told; a missing one of our own is
        made. Raises ConfigError."""
        server = loaded.config.server
        if server.tls is None:
            return loaded
        try:
            tls = completed(server.tls, self._state.folder, time.time())
        except CertificateError as error:
            raise ConfigError([Problem("error", ("server", "tls", "self_signed"), str(error))]) from error
        return replace_fields(loaded, config=replace(loaded.config, server=replace(server, tls=tls)))

    def _last_good(self, refused: ConfigError) -> Loaded:
        revisions = self._state.revisions
        stored = revisions.newest() if revisions is not None else None
        if revisions is None or stored is None:
            raise refused
        try:
            loaded = self._options.load_text(revisions.text(stored))
        except (ConfigError, OSError, DamagedError) as error:
            self._log.error("the last good revision cannot be used either", revision=stored.number, reason=str(error))
            raise refused from error
        problems = [str(problem) for problem in refused.problems]
        text = f"{self._options.config_path} cannot be used: starting with revision {stored.number}, the last good one"
        self._log.warning(text, revision=stored.number, problems=problems)
        return loaded

    def _last_number(self, first: Loaded) -> int:
        """Revisions are numbered on from the newest kept one; the same text keeps its number."""
        newest = self._state.revisions.newest() if self._state.revisions is not None else None
        if newest is None:
            return 0
        same = hashlib.sha256(first.source.data).hexdigest() == newest.sha256
        return newest.number - 1 if same else newest.number

    def _version(self, loaded: Loaded, reason: str, author: str = "", text: ConfigText | None = None) -> _Version:
        self._numbers += 1
        series = self._series.assign(every_route(loaded.config), limit_labels(loaded.config))
        if series.full:
            self._log.warning("more routes and upstreams than the counters have room for; a restart makes room")
        text = text or ConfigText(loaded.source.data, loaded.source.format, loaded.source.name, reason, author)
        return _Version(self._numbers, loaded.config, series, text, digest(loaded))

    def _of_number(self, number: int) -> _Version:
        if self._pending is not None and self._pending.number == number:
            return self._pending
        return self._current

    def _load(self, wanted: plan.Load) -> list[plan.Action]:
        if wanted.text is not None and wanted.text.replaces != self._current.text.sha256:
            return self._plan.load_failed([OVERTAKEN], time.monotonic())
        try:
            if wanted.text is None:
                loaded = self._load_file(self._current.text, wanted.reason)
            else:
                loaded = self._options.load_text(wanted.text)
            loaded = self._with_certificates(loaded)
        except ConfigError as error:
            return self._plan.load_failed([str(problem) for problem in error.problems], time.monotonic())
        except Exception as error:  # whatever a file does to the loader, the gateway goes on with what it has
            return self._plan.load_failed([f"{type(error).__name__}: {error}"], time.monotonic())
        if wanted.text is None and not self._is_news(loaded, always=not wanted.if_changed):
            return self._plan.unchanged(time.monotonic())
        self._report(loaded.problems)
        self._warn_of_restart(loaded.config, self._listeners.asked)
        self._numbers = max(self._numbers, wanted.above)
        self._pending = self._version(loaded, wanted.reason, wanted.author, wanted.text)
        return self._plan.loaded(self._pending.revision, time.monotonic())

    def _report_reload(self, asked: Iterable[int], problems: list[str], *, unchanged: bool) -> None:
        page = self._scoreboard.page
        if problems:
            page.add(cells.H_RELOADS_FAILED, 1)
        elif not unchanged:
            page.add(cells.H_RELOADS, 1)
            page.set(cells.H_RELOADED_AT, time.time_ns() // 1000)
        for id_ in asked:
            self._send(CONTROL, encode(ReloadResult(id_, self._current.number, problems, unchanged)))

    def _report(self, problems: Iterable[Problem]) -> None:
        for problem in problems:
            level = "warning" if problem.severity == "warning" else "debug"
            getattr(self._log, level)(str(problem))

    def _warn_of_restart(self, config: Config, asked: Asked) -> None:
        for name in asked.changes(Asked.of(config.server)):
            self._log.warning(f"server.{name} has changed: the listeners stay as they are until a restart")

    def _settle(self, revision: int) -> None:
        if self._current.number == revision:
            text = replace(self._current.text, replaces="")
            self._current = replace_fields(self._current, text=text)

    def _is_news(self, loaded: Loaded, *, always: bool) -> bool:
        """Whether a file says something else than what is in use, or what is about to take its place there."""
        old = self._current.text.replaces
        if old and hashlib.sha256(loaded.source.data).hexdigest() == old:
            return False
        return always or digest(loaded) != self._current.digest

    # --- upgrade --------------------------------------------------------------------------------------------------

    def _start_heir(self, slots: tuple[int, ...]) -> list[plan.Action]:
        first = self._old.first.socket.fileno() if self._old is not None and self._old.first is not None else None
        environ = {**self._environ, **self._notifier.for_successor()}
        sockets = self._listeners.estate(slots)
        try:
            self._heir = Heir.start(self._command, environ, sockets, lock=self._state.lock, first=first)
        except OSError as error:
            return self._plan.heir_failed(f"cannot fork: {error}", time.monotonic())
        self._selector.register(self._heir.line.socket, selectors.EVENT_READ, self._hear_heir)
        return self._plan.heir_started(self._heir.pid, time.monotonic())

    def _hear_heir(self) -> None:
        """What the new gateway says; after the upgrade, that it was replaced in its turn."""
        if self._heir is None:
            return
        messages = self._heir.line.receive()
        for message in messages or []:
            match message:
                case Booted(slots):
                    self._do(self._plan.heir_ready(slots, time.monotonic()))
                case Accepting() if _lives(self._heir.pid):  # it may have died since it said so
                    self._do(self._plan.heir_accepts(time.monotonic()))
                case Failed(problem):
                    self._do(self._plan.heir_failed(problem, time.monotonic()))
                case Serving(pid):
                    self._do(self._plan.heir_followed(pid))
        if messages is None:
            self._hang_up_heir()

    def _let_accept(self) -> None:
        self._scoreboard.set_flag(cells.FLAG_HANDING_OVER, on=True)  # first: what is written before, the heir reads
        assert self._heir is not None
        self._heir.line.send(Go())

    def _hand_over(self, pid: int) -> None:
        self._notifier.hand_over(pid)  # before it speaks itself: the manager listens to the main process only
        self._listeners.hand_over()
        assert self._heir is not None
        self._heir.line.send(Gone())
        _name_process(NAME_REPLACED)

    def _hang_up_heir(self) -> None:
        if self._heir is not None:
            self._selector.unregister(self._heir.line.socket)
            self._heir.line.close()
            self._heir = None

    def _hear_old(self) -> None:
        """What the gateway before us says: `Go`, then `Gone`, or by its end that nothing comes of it."""
        assert self._old is not None
        messages = self._old.line.receive()
        for message in messages or []:
            match message:
                case Go():
                    self._do(self._plan.told_to_go(time.monotonic()))
                case Gone():
                    self._succeed(self._old)
        if messages is None:
            self._selector.unregister(self._old.line.socket)
            self._do(self._plan.abandoned(time.monotonic()))

    def _succeed(self, old: Predecessor) -> None:
        self._selector.unregister(old.line.socket)
        self._listeners.take_over(old.estate)
        old.gone()
        self._notifier.silent = False
        self._do(self._plan.left(time.monotonic()))

    # --- forking --------------------------------------------------------------------------------------------------

    def _spawn(self, slot: int) -> list[plan.Action]:
        try:
            pid, channel = self._fork(slot)
        except (OSError, ListenError) as error:
            return self._plan.spawn_failed(slot, str(error), time.monotonic())
        if slot != CONTROL and self._plan.slots[slot].failures:
            self._scoreboard.page.add(cells.H_WORKER_RESTARTS, 1)
        self._peers[slot] = peer = _Peer(slot, pid, channel)
        self._selector.register(channel, peer.interest, peer)
        return self._plan.spawned(slot, pid, time.monotonic())

    def _fork(self, slot: int) -> tuple[int, socket.socket]:
        """The child's pid and our end of its channel. In the child this does not return."""
        ours, theirs = socket.socketpair()
        with theirs, contextlib.ExitStack() as undo:
            undo.callback(ours.close)
            ours.setblocking(False)
            theirs.setblocking(False)
            boot = self._boot(slot, theirs)
            # Until the child has its own handlers, a signal would land in the pipe it shares with us.
            unblocked = signal.pthread_sigmask(signal.SIG_BLOCK, _HANDLED)
            undo.callback(signal.pthread_sigmask, signal.SIG_SETMASK, unblocked)
            gc.freeze()  # a collection in the child would touch, and so copy, every page of ours
            undo.callback(gc.unfreeze)
            sys.stdout.flush()
            sys.stderr.flush()
            pid = os.fork()
            if pid == 0:
                self._become(boot, ours, unblocked)
            return pid, ours.dup()

    def _boot(self, slot: int, channel: socket.socket) -> WorkerBoot:
        control = slot == CONTROL
        return WorkerBoot(
            kind="control" if control else "worker",
            slot=slot,
            workers=self._current.revision.workers,
            revision=self._current.number,
            config=self._current.config,
            series=self._current.series,
            scoreboard=self._scoreboard,
            listeners=self._control.listeners if control else self._listeners.of_slot(slot),
            channel=channel,
            activated=self._listeners.activated,
            secure_ports=self._listeners.secure_ports,
            control_path=self._control.path,
            standby=self._plan.standby,
            control=self._boot_control() if control else None,
            line=None if control else self._control.line(slot),
        )

    def _boot_control(self) -> ControlBoot:
        options, state = self._options, self._state
        restarts = partial(_restarts, self._listeners.asked, self._scoreboard)
        return ControlBoot(
            options.config_path, self._current.text, options.load_text, state.folder, state.admin, restarts
        )

    def _become(self, boot: WorkerBoot, ours: socket.socket, unblocked: set[int | signal.Signals]) -> NoReturn:
        """The child's life. Whatever happens in it, it never returns into the supervisor's code."""
        code = EXIT_CRASH
        try:
            ours.close()
            self._let_go(boot)
            signal.pthread_sigmask(signal.SIG_SETMASK, unblocked)
            entry = self._entry if boot.kind == "worker" else self._control_entry
            assert entry is not None
            entry(boot)
            code = plan.EXIT_OK
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else plan.EXIT_OK if end.code is None else EXIT_CRASH
        except ConfigError as error:
            print(error, file=sys.stderr)
            code = EXIT_LOAD
        except BaseException:
            traceback.print_exc()
        finally:
            with contextlib.suppress(OSError, ValueError):
                sys.stdout.flush()
                sys.stderr.flush()
            os._exit(code)

    def _let_go(self, boot: WorkerBoot) -> None:
        """Close what belongs to the supervisor or to siblings, and stop listening to signals."""
        signal.set_wakeup_fd(-1)
        for signum in _HANDLED:
            signal.signal(signum, signal.SIG_IGN)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        self._selector.close()
        self._wakeup.close()
        self._wakeup_write.close()
        for peer in self._peers.values():
            peer.channel.close()
        self._control.keep_only(None if boot.kind == "control" else boot.slot)
        self._state.let_go(admin=boot.kind != "control")
        self._listeners.keep_only(None if boot.kind == "control" else boot.slot)
        self._notifier.close()
        self._close_lines()
        _name_process("kairos-control" if boot.kind == "control" else f"kairos-worker{boot.slot}")

    def _close(self) -> None:
        signal.set_wakeup_fd(-1)
        for signum in _HANDLED:  # one signal more must not spoil the exit code
            signal.signal(signum, signal.SIG_IGN)
        self._selector.close()
        self._wakeup.close()
        self._wakeup_write.close()
        self._listeners.close()
        self._control.close()
        self._state.close()
        self._notifier.close()
        self._close_lines()

    def _close_lines(self) -> None:
        if self._heir is not None:
            self._heir.line.close()
        if self._old is not None:
            self._old.close()


def _noted(_signum: int, _frame: object) -> None:
    """The number is in the wakeup pipe already."""


def _kill(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def _lives(child: int) -> bool:
    """Whether a child has not ended yet, reaped or not."""
    try:
        return os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _name_process(name: str) -> None:
    """What `ps` and `top` show for the thread; no more than 15 bytes of it."""
    ctypes.CDLL(None).prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def _raise_descriptor_limit() -> None:
    """Soft limits are often 1024, which is 500 proxied connections."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MAX_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MAX_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _begin_log(config: Config) -> None:
    """Log as configured. Raises ConfigError."""
    file = config.log.file
    if file != "-":
        try:
            os.close(open_log(file))
        except OSError as error:
            raise ConfigError([Problem("error", ("log", "file"), f"cannot open {file!r}: {error.strerror}")]) from error
    configure(config.log, node=config.storage.node)


def _restarts(asked: Asked, board: Scoreboard, config: Config) -> list[str]:
    """Keys that have another value than when the gateway was started, and that only a restart changes."""
    found = [f"server.{name}" for name in asked.changes(Asked.of(config.server))]
    if (config.server.workers or cores()) > board.capacity.workers:
        found.append("server.workers")
    return found


def _scoreboard(config: Config) -> Scoreboard:
    served = list(every_route(config))
    backends = sum(len(route.backends) for route in served)
    routes = len(served) + 1
    workers = (config.server.workers or cores()) + SPARE_WORKERS
    return Scoreboard.create(
        workers=workers,
        routes=routes,
        pairs=routes + backends,
        upstreams=backends + 1,
        keys=config.server.rate_limit_keys,
        cache_bytes=config.cache_storage.memory_bytes,
    )
