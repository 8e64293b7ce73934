"""A gateway whose workers answer one-line questions: the real arbiter with the smallest honest worker.

Run as a program by the tests. Questions: `pid`, `gateway` (its supervisor), `revision`, `fds`, `name`, `orphan`,
`reopened`, `hang`, `words` (what the page says of the backend); a line that ends in no newline keeps the connection
open, which is what a drain waits for. Routes of the configuration steer misbehaviour: `/nack`, `/mute` and `/die` say
how `Prepare` is answered, TINY_BOOT how a boot ends (`exit:3`, `raise`, `hang`; `hang:1` only that of worker 1),
TINY_LISTEN what follows on `Listen` (`hang:0`: worker 0 does not accept; `mute:0`: it does, and does not say so;
`wait:0`: it does when there is a file `accept`). TINY_LIMIT, `HANG_TIMEOUT=3`,
stands in for one of the long time limits of the supervisor,
TINY_STATE names the state folder.
"""

from __future__ import annotations

import asyncio
import contextlib
import faulthandler
import os
import signal
import sys
import time

from kairos._speedups.cells import SU_FORCED, SU_OUT, SU_WEIGHT, W_BEAT_AT_US
from kairos.channel import (
    Abort,
    Ack,
    Commit,
    Decoder,
    Drain,
    Drained,
    Listen,
    Listening,
    Nack,
    Prepare,
    Ready,
    ReopenLogs,
    Stop,
    WorkerBoot,
    encode,
)
from kairos.config.log import Log
from kairos.config.problems import ConfigError
from kairos.proxy.listener import accept_waiting, drain_listener
from kairos.supervisor import arbiter, plan
from kairos.supervisor.arbiter import Arbiter, Options
from kairos.supervisor.sockets import ListenError
from kairos.telemetry.log import configure


class TinyWorker:
    def __init__(self, boot: WorkerBoot) -> None:
        self.boot = boot
        self.revision = boot.revision
        self.prepared = None
        self.reopened = 0
        self.tasks: set[asyncio.Task] = set()
        self.ended = asyncio.Event()
        self.listening = []
        self.borrowed = boot.standby

    async def run(self) -> None:
        if not self.boot.standby:
            self.listen()
        if self.boot.kind == "worker":
            self.beat()
        asyncio.get_running_loop().add_reader(self.boot.channel, self.obey)
        self.say(Ready(os.getpid()))
        await self.ended.wait()

    def listen(self) -> None:
        self.listening = self.boot.listeners
        for listener in self.listening:
            asyncio.get_running_loop().add_reader(listener, self.accept, listener)

    def beat(self) -> None:
        board = self.boot.scoreboard
        board.page.set(board.worker_block(self.boot.slot) + W_BEAT_AT_US, time.monotonic_ns() // 1000)
        asyncio.get_running_loop().call_later(0.1, self.beat)

    def accept(self, listener) -> None:
        for connection in accept_waiting(listener):
            self.serve(connection)

    def serve(self, connection) -> None:
        task = asyncio.ensure_future(self.talk(connection))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)

    async def talk(self, connection) -> None:
        loop = asyncio.get_running_loop()
        with connection, contextlib.suppress(ConnectionError):
            while data := await loop.sock_recv(connection, 1024):
                if data.endswith(b"\n"):
                    await loop.sock_sendall(connection, self.answer(data.decode().strip()).encode() + b"\n")

    def answer(self, question: str) -> str:
        match question:
            case "pid":
                return f"{os.getpid()}"
            case "gateway":
                return f"{os.getppid()}"
            case "hang":
                time.sleep(600)
            case "revision":
                return f"{self.revision}"
            case "reopened":
                return f"{self.reopened}"
            case "name":
                with open("/proc/self/comm", encoding="ascii") as comm:
                    return comm.read().strip()
            case "fds":
                return " ".join(sorted(os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")[:-1]))
            case "words":
                board = self.boot.scoreboard
                block = board.shared_upstream(self.boot.series.upstream("http://127.0.0.1:9"))
                return " ".join(str(board.page.get(block + word)) for word in (SU_OUT, SU_FORCED, SU_WEIGHT))
            case "orphan":
                return f"{orphan()}"
        return "?"

    def say(self, message) -> None:
        with contextlib.suppress(BrokenPipeError):
            self.boot.channel.sendall(encode(message))

    decoder = Decoder()

    def obey(self) -> None:
        data = self.boot.channel.recv(1 << 16)
        for message in self.decoder.receive(data) if data else [Drain(5.0)]:
            match message:
                case Prepare():
                    self.prepare(message)
                case Commit(revision) if self.prepared == revision:
                    self.revision = revision
                case Abort():
                    self.prepared = None
                case Listen(borrowed):
                    self.borrowed = borrowed
                    self.listen_or_not()
                case Drain(deadline, handed_over):
                    asyncio.get_running_loop().remove_reader(self.boot.channel)
                    self.draining = asyncio.ensure_future(self.drain(deadline, handed_over))
                case ReopenLogs():
                    self.reopened += 1
                case Stop():
                    self.ended.set()

    def listen_or_not(self) -> None:
        what, _, slot = os.environ.get("TINY_LISTEN", ":").partition(":")
        misbehaves = slot == str(self.boot.slot)
        if misbehaves and what == "wait" and not os.path.exists("accept"):
            asyncio.get_running_loop().call_later(0.01, self.listen_or_not)
            return
        if not self.listening and not (misbehaves and what == "hang"):
            self.listen()
        if not misbehaves or what == "wait":
            self.say(Listening())

    def prepare(self, message: Prepare) -> None:
        paths = {route.external_path for route in message.config.routers}
        if "/die" in paths and self.boot.slot == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        if "/nack" in paths and self.boot.slot == 0:
            self.say(Nack(message.revision, ["no room for /nack"]))
        elif "/mute" not in paths:
            self.prepared = message.revision
            self.say(Ack(message.revision))

    async def drain(self, deadline: float, handed_over: bool) -> None:
        loop = asyncio.get_running_loop()
        for listener in self.listening:
            loop.remove_reader(listener)
            if handed_over or self.borrowed:
                listener.close()
                continue
            async for connection in drain_listener(listener, shared=self.boot.shares(listener)):
                self.serve(connection)
        loop.add_reader(self.boot.channel, self.obey)
        if self.tasks:
            await asyncio.wait(self.tasks, timeout=deadline)
        self.say(Drained())
        self.ended.set()


def orphan() -> int:
    """The pid of a grandchild whose parent is gone before it: it falls to the next subreaper."""
    read, write = os.pipe()
    if child := os.fork():
        os.close(write)
        os.waitpid(child, 0)
        with os.fdopen(read) as pipe:
            return int(pipe.read())
    if grandchild := os.fork():
        os.write(write, str(grandchild).encode())
        os._exit(0)
    os.close(read)
    os.close(write)
    os._exit(7)


def worker(boot: WorkerBoot) -> None:
    faulthandler.enable()
    match os.environ.get("TINY_BOOT", "").split(":"):
        case ["exit", code]:
            sys.exit(int(code))
        case ["raise"]:
            raise RuntimeError("no library for this")
        case ["kill"]:
            os.kill(os.getpid(), signal.SIGKILL)
        case ["once", path]:
            with contextlib.suppress(FileExistsError), open(path, "x", encoding="ascii"):  # another worker was first
                os.kill(os.getpid(), signal.SIGKILL)
        case ["hang"]:
            time.sleep(600)
        case ["hang", slot] if int(slot) == boot.slot:
            time.sleep(600)
    asyncio.run(TinyWorker(boot).run())


def main() -> int:
    configure(Log(level="debug"))
    if limit := os.environ.get("TINY_LIMIT"):
        name, seconds = limit.split("=")
        setattr(plan, name, float(seconds))
        arbiter.LOOK_S = float(seconds) / 4
    options = Options(sys.argv[1], insecure_dev=True, log_level="debug", state_dir=os.environ.get("TINY_STATE"))
    try:
        made = Arbiter(options, entry=worker, control_entry=worker if "TINY_CONTROL" in os.environ else None)
    except (ConfigError, ListenError) as error:
        print(error, file=sys.stderr)
        return 2
    return made.run()


if __name__ == "__main__":
    sys.exit(main())
