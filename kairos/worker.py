"""One data-plane process put together: loop, listeners, channel to the supervisor, filter and handler tables.

Life: boot -> snapshot -> listen -> Ready; then Prepare/Commit as they come; Drain (or the end of the channel) closes
the listeners without losing what they took on, lets requests finish, and ends. On standby, while another gateway has
the listeners, it listens after Ready, when it is told to; ending before they are ours leaves them untouched.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import gc
import os
import resource
import signal
import sys
import time
from functools import partial
from typing import TYPE_CHECKING

import uvloop

from kairos._speedups.cells import H_TAIL, W_BEAT_AT_US, W_LAG_US, W_PID, W_REVISION, W_SHED_LEVEL, W_STARTED_AT
from kairos._speedups.tls import use_ticket_keys
from kairos.channel import (
    EXIT_BOOT,
    Abort,
    Ack,
    ChannelError,
    Commit,
    Decoder,
    Drain,
    Drained,
    Listen,
    Listening,
    Message,
    Nack,
    Prepare,
    Ready,
    Stop,
    encode,
)
from kairos.config.logged import logged
from kairos.proxy.client import ClientConnection
from kairos.proxy.desk import Desk
from kairos.proxy.exchange import Runtime
from kairos.proxy.listener import drain_listener
from kairos.proxy.shed import LoadShedder
from kairos.proxy.snapshot import Origins, Revision, Snapshot
from kairos.proxy.sockets import Listener, Sockets
from kairos.proxy.upstream.dial import use_resolver
from kairos.proxy.wire import Clock
from kairos.resolver import Resolver
from kairos.telemetry.accesslog import AccessLog, SaidRing
from kairos.telemetry.log import configure, get_logger, show_lines

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

    from kairos.channel import WorkerBoot
    from kairos.config.model import Config
    from kairos.scoreboard import Assignment

log = get_logger("worker")
SPARE_DESCRIPTORS = 64
"""Kept from clients for logs, channel, resolver and the listeners."""
POLL_S = 0.05
REASON = 4000
"""Characters of a refusal's reason: a message must fit the channel, which is written without waiting."""
GRACE = 0.25
HANDOVER_GRACE = 5.0
"""What connections that idle have for a last request; more when another gateway serves and nobody waits for the end."""
SLICE_S = 0.002
"""Of work on a revision at a time: requests wait for so long. Where they take long themselves it is half of that, up to
MOST_S, for a reload has to end in time."""
MOST_S = 0.02
KILL_S = 1.0
"""What connections that were cut may take to be counted and logged."""


def main(boot: WorkerBoot) -> None:
    """Run until drained. The exit code tells the supervisor how it went."""
    configure(boot.config.log, node=boot.config.storage.node)
    show_lines(SaidRing(boot.scoreboard, boot.slot).write)
    faulthandler.enable()  # for the SIGABRT of a supervisor that finds the loop stuck
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides, even when a terminal signals the group
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 50, 50)
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        sys.exit(runner.run(Worker(boot).run()))


def client_limit(config: Config) -> int:
    """Client connections this process can take: two descriptors each by default, for a request has an upstream too."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    possible = max(1, soft - SPARE_DESCRIPTORS)
    wanted = config.limits.connections or max(1, possible // 2)
    if wanted > possible:
        log.warning("limits.connections is cut to what RLIMIT_NOFILE allows", wanted=wanted, possible=possible)
    return min(wanted, possible)


class Worker:
    """The process's parts and what the supervisor's messages do to them."""

    def __init__(self, boot: WorkerBoot) -> None:
        self._boot = boot
        self._prepared: Snapshot | None = None
        self._preparing: asyncio.Task[None] | None = None
        self._awaited = 0
        """A revision that is to be served as soon as it is prepared."""
        self._clearing: set[asyncio.Task[None]] = set()
        self._decoder = Decoder()
        self._sockets: Sockets
        self._listeners: list[tuple[Listener, socket.socket]] = []
        self._over: asyncio.Event
        self._code = 0
        self._borrowed = boot.standby
        """The listeners are another gateway's."""
        self._watched = False
        """Somebody watches requests as they end."""
        self._draining: asyncio.Task[None] | None = None
        self._desk: Desk | None = None

    async def run(self) -> int:
        """Serve; 0 when drained, EXIT_BOOT when it could not start."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(_report)
        self._over = asyncio.Event()
        boot = self._boot
        self._resolver = Resolver()
        use_resolver(self._resolver)
        try:
            self._start(loop)
        except Exception:
            log.exception("could not start", slot=boot.slot)
            return EXIT_BOOT
        if not boot.standby:
            self._listen()
        loop.add_reader(boot.channel, self._hear)
        self._say(Ready(os.getpid()))
        await self._over.wait()
        if self._desk is not None:
            self._desk.close()
        self._clock.stop()
        self._sockets.close()
        await self._origins.close()
        await self._resolver.close()
        return self._code

    def _start(self, loop: asyncio.AbstractEventLoop) -> None:
        boot, board = self._boot, self._boot.scoreboard
        self._clock = Clock(loop)
        self._sockets = Sockets(loop)
        use_ticket_keys(board.page, board.ticket_ring)
        seed = int.from_bytes(os.urandom(8), "little")
        self._runtime = Runtime(self._clock, board, boot.slot, self._access_log(boot.config), seed)
        self._origins = Origins(self._runtime, board, boot.slot)
        self._shedder = LoadShedder()
        self._serve(self._compile(boot.revision, boot.config, boot.series))
        if boot.line is not None:
            self._desk = Desk(self._runtime, boot.slot, boot.line)
            self._desk.open()
        block = board.worker_block(boot.slot)
        board.page.set(block + W_PID, os.getpid())
        board.page.set(block + W_STARTED_AT, time.time_ns() // 1000)
        self._clock.chores.extend([self._judge_load, self._look_for_watchers])
        self._clock.start()

    def _judge_load(self) -> None:
        """Once a second: say that the loop turns, and how well it keeps up."""
        board, lag_us = self._boot.scoreboard, self._clock.lag_us
        level = self._shedder.judge(lag_us)
        if bool(level) != bool(self._runtime.shed_level):
            log.warning("sheds load" if level else "sheds no more load", lag_ms=lag_us // 1000)
        self._runtime.shed_level = level
        block = board.worker_block(self._boot.slot)
        board.page.set(block + W_BEAT_AT_US, time.monotonic_ns() // 1000)
        board.page.set(block + W_LAG_US, lag_us)
        board.page.set(block + W_SHED_LEVEL, level)

    def _compile(self, revision: int, config: Config, series: Assignment, *, at_once: bool = True) -> Snapshot:
        made = Revision(revision, config, series, self._boot.control_path or None)
        return Snapshot(made, self._origins, self._boot.scoreboard, self._boot.slot, at_once=at_once)

    def _look_for_watchers(self) -> None:
        """Once a second, so that a request pays nothing for watchers that are not there."""
        watched = bool(self._boot.scoreboard.page.get(H_TAIL))
        if watched != self._watched:
            self._watched = watched
            self._runtime.switch_log(self._access_log(self._runtime.snapshot.config))

    def _access_log(self, config: Config) -> AccessLog | None:
        """What writes the lines: for the log, and for watchers where the log has not all of them as JSON."""
        board, slot, spec = self._boot.scoreboard, self._boot.slot, logged(config)
        tail = AccessLog(board, slot, spec, tail=True) if self._watched and not spec.complete else None
        return tail if spec.format == "off" else AccessLog(board, slot, spec, also=tail)

    def _serve(self, snapshot: Snapshot) -> None:
        """Put a snapshot in force."""
        self._runtime.serve(snapshot)
        self._runtime.max_connections = client_limit(snapshot.config)
        self._runtime.switch_log(self._access_log(snapshot.config))
        self._origins.settle(snapshot)
        priorities = [route.priority for route in snapshot.config.routers]
        self._shedder.configure(snapshot.config.load_shedding, min(priorities, default=0))
        board = self._boot.scoreboard
        board.page.set(board.worker_block(self._boot.slot) + W_REVISION, snapshot.revision)

    def _listen(self) -> None:
        backlog = self._boot.config.server.backlog
        for sock in self._boot.listeners:
            self._listeners.append((self._sockets.listen(sock, backlog, self._factory(sock)), sock))

    def _listen_at_last(self) -> None:
        """After standby. A worker that cannot is of no use, and is replaced."""
        try:
            self._listen()
        except OSError:
            log.exception("cannot listen", slot=self._boot.slot)
            self._code = EXIT_BOOT
            self._over.set()
        else:
            self._say(Listening())

    def _factory(self, sock: socket.socket) -> partial[ClientConnection]:
        """What makes a connection from this listener."""
        return partial(ClientConnection, self._runtime, self._boot.secures(sock))

    # -- the channel ---------------------------------------------------------------------------------------------------

    def _hear(self) -> None:
        """What the supervisor says; the end of the stream means it is gone."""
        try:
            data = self._boot.channel.recv(1 << 16)
            messages = self._decoder.receive(data) if data else [Drain(self._boot.config.server.drain_timeout)]
        except BlockingIOError:
            return
        except (OSError, ChannelError):
            data, messages = b"", [Drain(self._boot.config.server.drain_timeout)]
        if not data:
            asyncio.get_running_loop().remove_reader(self._boot.channel)
        for message in messages:
            self._obey(message)

    def _obey(self, message: Message) -> None:
        match message:
            case Prepare():
                self._forget_prepared()
                self._preparing = asyncio.get_running_loop().create_task(self._prepare(message))
            case Commit(revision):
                self._awaited = revision
                self._serve_prepared()
            case Abort():
                self._forget_prepared()
            case Listen(borrowed):
                self._borrowed = borrowed
                if not self._listeners:
                    self._listen_at_last()
            case Drain(deadline_s, handed_over):
                if self._draining is None:
                    self._draining = asyncio.get_running_loop().create_task(
                        self._drain(deadline_s, handed_over=handed_over)
                    )
            case Stop():
                self._over.set()

    async def _prepare(self, message: Prepare) -> None:
        """Compile a revision beside the requests that are served meanwhile."""
        revision = message.revision
        try:
            snapshot = self._compile(revision, message.config, message.series, at_once=False)
            await _in_slices(snapshot.work)
        except Exception as error:  # whatever it is, the revision in force stays
            log.warning("revision refused", revision=revision, error=str(error))
            self._say(Nack(revision, [str(error)[:REASON]]))
        else:
            self._prepared = snapshot
            self._say(Ack(revision))
            self._serve_prepared()

    def _forget_prepared(self) -> None:
        if self._preparing is not None:
            self._preparing.cancel()
        if self._prepared is not None:
            self._clear(self._prepared)
        self._preparing = self._prepared = None

    def _serve_prepared(self) -> None:
        """Switch, once the revision is prepared and wanted."""
        snapshot, old = self._prepared, self._runtime.snapshot
        if snapshot is None or snapshot.revision != self._awaited:
            return
        self._prepared = None
        configure(snapshot.config.log, node=snapshot.config.storage.node)
        self._serve(snapshot)
        self._clear(old)

    def _clear(self, old: Snapshot) -> None:
        """Free what is not in force any more, in time."""
        clearing = asyncio.get_running_loop().create_task(_free(old))
        self._clearing.add(clearing)
        clearing.add_done_callback(self._clearing.discard)

    def _say(self, message: Message) -> None:
        with contextlib.suppress(OSError):
            self._boot.channel.send(encode(message))

    # -- the end -------------------------------------------------------------------------------------------------------

    async def _drain(self, deadline_s: float, *, handed_over: bool) -> None:
        """Listeners first, without losing a connection they took on; then what is under way."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + deadline_s
        self._runtime.draining = True
        handed_over |= self._borrowed
        if handed_over:
            self._leave_listeners()
            await asyncio.sleep(POLL_S)  # what was accepted just now is counted as a client in the next turns
        else:
            await asyncio.gather(*(self._close_listener(listener, sock) for listener, sock in self._listeners))
        await self._last_requests(min(HANDOVER_GRACE if handed_over else GRACE, deadline_s / 2))
        while (clients := self._runtime.clients) and loop.time() < deadline:
            for client in clients:
                client.drain()
            await asyncio.sleep(POLL_S)
        if clients:
            log.warning("drain deadline passed", connections_cut=len(clients))
        for client in clients:
            client.kill()
        killed = loop.time() + KILL_S
        while self._runtime.clients and loop.time() < killed:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(0.01)
        await asyncio.sleep(0)
        self._say(Drained())
        self._over.set()

    def _leave_listeners(self) -> None:
        """Close our copies: what waits there is accepted by the gateway that has them now."""
        for listener, sock in self._listeners:
            listener.close()
            sock.close()

    async def _last_requests(self, grace: float) -> None:
        """Connections that idle may have one more, answered with `Connection: close`: who is just asking is heard."""
        loop = asyncio.get_running_loop()
        ends = loop.time() + grace
        while self._runtime.clients and loop.time() < ends:  # noqa: ASYNC110 - nothing else tells
            await asyncio.sleep(POLL_S)

    async def _close_listener(self, listener: Listener, sock: socket.socket) -> None:
        listener.close()
        factory = self._factory(sock)
        async for connection in drain_listener(sock, shared=self._boot.shares(sock)):
            self._sockets.adopt(connection, factory)


async def _free(old: Snapshot) -> None:
    """Its parts are tied in circles, and the collector would not come by itself for days."""
    await _in_slices(old.dismantle())
    del old
    gc.collect()


async def _in_slices(steps: Iterator[None]) -> None:
    """Take all steps, with a turn of the loop for everybody else after each few milliseconds."""
    ends = time.monotonic() + SLICE_S  # the loop's own clock stands still within a turn
    for _ in steps:
        if (now := time.monotonic()) >= ends:
            await asyncio.sleep(0)
            back = time.monotonic()
            ends = back + min(max(SLICE_S, (back - now) / 2), MOST_S)


def _report(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """Exceptions nobody awaited: logged with their traceback, never fatal."""
    error = context.get("exception")
    log.error(str(context.get("message", "unhandled")), exc_info=error if isinstance(error, BaseException) else None)
