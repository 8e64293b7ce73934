"""The control process: serves /metrics to the workers, writes their access log, follows the supervisor's messages.

It carries no traffic: when it dies the workers go on, and the next one takes up the rings where they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from typing import TYPE_CHECKING

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
    Message,
    Nack,
    Prepare,
    Ready,
    ReopenLogs,
    Stop,
    WorkerBoot,
    encode,
)
from kairos.control.http import Responder
from kairos.control.logwriter import STDOUT, LogWriter, open_log
from kairos.telemetry.log import configure, get_logger
from kairos.telemetry.prometheus import GatewayCollector

if TYPE_CHECKING:
    import socket

    from kairos.config.model import Config

METRICS_PATH = "/metrics"
STOP_TIMEOUT = 1.0  # seconds for the last lines when told to stop; the supervisor kills after two
ORPHAN_CHECK = 0.2  # seconds between two looks for workers that outlive the supervisor

log = get_logger("control")


def main(boot: WorkerBoot) -> None:
    """Run until the supervisor says otherwise, or is gone."""
    configure(boot.log_level)
    uvloop.run(Control(boot).run())


class Control:
    """What the process holds between two messages."""

    def __init__(self, boot: WorkerBoot) -> None:
        self._boot = boot
        self._config = boot.config
        self._prepared: Prepare | None = None
        self._collector = GatewayCollector(boot.scoreboard, boot.series, per_route=boot.config.metrics.per_route)
        self._log = LogWriter(boot.scoreboard, _log_path(boot.config))

    async def run(self) -> None:
        """Serve and obey; returns once the last lines are written."""
        reader, self._channel = await asyncio.open_unix_connection(sock=self._boot.channel)
        servers = [await self._serve(listener) for listener in self._boot.listeners]
        self._log.start()
        self._say(Ready(os.getpid()))
        patience = await self._obey(reader)
        for server in servers:
            server.close()
        await asyncio.to_thread(self._log.stop, patience)
        self._say(Drained())
        self._channel.close()
        with contextlib.suppress(ConnectionError):  # nobody is there to hear it
            await self._channel.wait_closed()

    async def _serve(self, listener: socket.socket) -> asyncio.Server:
        answers = {METRICS_PATH: self._collector.expose}
        loop = asyncio.get_running_loop()
        return await loop.create_unix_server(lambda: Responder(answers), sock=listener)

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
            case Abort(revision) if self._prepared is not None and self._prepared.revision == revision:
                self._prepared = None
            case ReopenLogs():
                self._log.reopen()

    def _prepare(self, message: Prepare) -> None:
        """Only the log file can be wrong here: the rest of a configuration is the workers' to judge."""
        path = _log_path(message.config)
        try:
            os.close(open_log(path))
        except OSError as error:
            problem = f"access_log.file: cannot open {path!r}: {error.strerror}"
            return self._say(Nack(message.revision, [problem]))
        self._prepared = message
        self._say(Ack(message.revision))

    def _commit(self, prepared: Prepare) -> None:
        self._config, self._prepared = prepared.config, None
        self._collector.assignment = prepared.series
        self._collector.per_route = prepared.config.metrics.per_route
        self._log.switch(_log_path(prepared.config))

    def _say(self, message: FromChild) -> None:
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


def _log_path(config: Config) -> str:
    spec = config.access_log
    return spec.file if spec.format != "off" else STDOUT


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
