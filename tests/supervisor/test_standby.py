"""A worker of a new gateway and the listeners of another: it accepts from them and leaves them whole."""

import asyncio
import contextlib
import os
import socket

import pytest
import uvloop

from kairos.channel import Decoder, Drain, Listen, Listening, Ready, WorkerBoot, encode
from kairos.config.model import Config
from kairos.scoreboard import Capacity, Scoreboard, Series
from kairos.worker import Worker

PATIENCE = 25.0


class Supervisor:
    """The other end of a worker on standby, and the old gateway's copy of its listener."""

    def __init__(self, listening, board=None):
        self.listening = listening
        self.address = listening.getsockname()
        self.channel, self.theirs = socket.socketpair()
        for end in (self.channel, self.theirs):
            end.setblocking(False)
        board = board or Scoreboard(Capacity(workers=1, routes=2, pairs=2, upstreams=2))
        self.copy = listening.dup()
        boot = WorkerBoot(
            kind="worker", slot=0, workers=1, revision=1, config=Config(routers=[]), series=Series(board).assign([]),
            scoreboard=board, listeners=[self.copy], channel=self.theirs, activated=False, control_path="",
            standby=True,
        )  # fmt: skip
        self.decoder = Decoder()
        self.parts = Worker(boot)
        self.worker = asyncio.create_task(self.parts.run())

    async def hears(self):
        """The next thing the worker says."""
        while True:
            data = await asyncio.wait_for(asyncio.get_running_loop().sock_recv(self.channel, 4096), PATIENCE)
            for message in self.decoder.receive(data):
                return message

    def says(self, *messages):
        for message in messages:
            self.channel.send(encode(message))

    async def ended(self):
        assert await asyncio.wait_for(self.worker, PATIENCE) == 0
        asyncio.get_running_loop().remove_reader(self.theirs)
        for end in (self.channel, self.theirs, self.copy):
            end.close()


async def reached(address):
    """Who answers a new client: the worker with HTTP; None when nobody accepts."""
    reader, writer = await asyncio.open_connection(*address)
    with contextlib.closing(writer):
        writer.write(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
        return (await asyncio.wait_for(reader.read(), PATIENCE)).split(b" ")[0]


def standby(trace):
    """Run a trace with a supervisor whose worker is ready."""

    async def run():
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            supervisor = Supervisor(listening)
            assert await supervisor.hears() == Ready(os.getpid())
            await trace(supervisor)

    uvloop.run(run())


@pytest.mark.parametrize("end", ["gone", "drain"])
def test_borrowed_listeners_are_left_as_they_were(end):
    async def trace(supervisor):
        supervisor.says(Listen(borrowed=True))
        assert await supervisor.hears() == Listening()
        assert await reached(supervisor.address) == b"HTTP/1.1"
        if end == "drain":
            supervisor.says(Drain(5.0))
        else:
            supervisor.channel.close()
        await supervisor.ended()
        client = socket.create_connection(supervisor.address, PATIENCE)  # a SYN that is dropped would be repeated
        with client, (await asyncio.get_running_loop().sock_accept(supervisor.listening))[0]:
            pass

    standby(trace)


def test_listeners_that_are_its_own_by_then_are_closed():
    async def trace(supervisor):
        supervisor.says(Listen(borrowed=True), Listen())
        assert await supervisor.hears() == Listening()
        supervisor.channel.close()
        await supervisor.ended()
        with pytest.raises(ConnectionRefusedError):
            await reached(supervisor.address)

    standby(trace)
