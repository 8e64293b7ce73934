"""A worker takes up revisions: beside the requests it serves, in the order it is told, leaving nothing of the old."""

import asyncio
import gc
import socket
import weakref

import pytest
import uvloop

from kairos._speedups import cells
from kairos.channel import Abort, Ack, Commit, Prepare, Ready, encode
from kairos.config.serving import every_route
from kairos.scoreboard import Scoreboard, Series, limit_labels
from tests.supervisor.test_standby import PATIENCE, Supervisor
from tests.support.inprocess import checked

MANY = 1500


class Gateway:
    """A supervisor with one worker and configurations for it."""

    def __init__(self, listening):
        self.board = Scoreboard.create(workers=1, routes=MANY, pairs=2 * MANY, upstreams=16)
        self.series = Series(self.board)
        self.supervisor = Supervisor(listening, self.board)

    def prepare(self, number, routes):
        config = checked({"routers": routes})
        series = self.series.assign(every_route(config), limit_labels(config))
        return Prepare(number, config, series)

    async def says(self, *messages):
        frames = b"".join(map(encode, messages))
        await asyncio.get_running_loop().sock_sendall(self.supervisor.channel, frames)

    async def hears(self):
        return await self.supervisor.hears()

    @property
    def serving(self):
        return self.board.page.get(self.board.worker_block(0) + cells.W_REVISION)

    async def until(self, condition):
        async with asyncio.timeout(PATIENCE):
            while not condition():
                await asyncio.sleep(0.001)


def play(trace):
    async def run():
        with socket.create_server(("127.0.0.1", 0)) as listening:
            listening.setblocking(False)
            gateway = Gateway(listening)
            try:
                assert isinstance(await gateway.hears(), Ready)
                await trace(gateway)
            finally:
                gateway.supervisor.channel.close()
                await gateway.supervisor.ended()

    uvloop.run(run())


def routes(count, **members):
    backends = [{"host": "http://127.0.0.1", "port": 9}, {"host": "http://127.0.0.1", "port": 10}]
    base = {"internal_path": "/", "methods": ["GET"], "backends": backends, **members}
    return [{"external_path": f"/{number}/{{id}}", **base} for number in range(count)]


def test_others_have_many_turns_while_a_large_revision_is_prepared():
    turns = 0

    async def turn():
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async def trace(gateway):
        await gateway.says(gateway.prepare(2, routes(MANY)))
        turning = asyncio.create_task(turn())
        assert await gateway.hears() == Ack(2)
        assert turns > 30
        turning.cancel()

    play(trace)


def test_what_is_taken_back_while_it_is_prepared_is_not_acknowledged():
    async def trace(gateway):
        await gateway.says(gateway.prepare(2, routes(MANY)), Abort(2), gateway.prepare(3, routes(1)))
        assert await gateway.hears() == Ack(3)
        await gateway.says(Abort(3), Commit(3))  # nobody says that
        await gateway.says(gateway.prepare(4, routes(2)))
        assert await gateway.hears() == Ack(4)
        assert gateway.serving == 1
        await gateway.says(Commit(4))
        await gateway.until(lambda: gateway.serving == 4)

    play(trace)


def test_who_was_not_there_for_the_vote_serves_as_soon_as_it_can():
    async def trace(gateway):
        await gateway.says(gateway.prepare(2, routes(50)), Commit(2))
        assert await gateway.hears() == Ack(2)
        assert gateway.serving == 2

    play(trace)


VARIANTS = {"variants": [{"name": "new", "weight": 1, "backends": [{"host": "http://127.0.0.1", "port": 11}]}]}


@pytest.mark.parametrize(
    "members",
    [
        {},
        {"hedge": {}},
        {"split": VARIANTS},
        {"cache": {}, "compression": {}, "cors": {"allowed_origins": ["https://a.test"]}},
        {"load_balancing_strategy": "ewma", "queue": {}, "retry": {}},
    ],
    ids=["plain", "hedged", "split", "filtered", "balanced"],
)
def test_nothing_is_left_of_a_revision_that_was_replaced_or_taken_back(members):
    """The collector is a worker's own affair: its thresholds are so high that it never comes by itself."""

    async def trace(gateway):
        gone = []
        for number in range(2, 6):
            await gateway.says(gateway.prepare(number, routes(20, **members)))
            assert await gateway.hears() == Ack(number)
            gone += [weakref.ref(gateway.supervisor.parts._runtime.snapshot)]
            if number == 4:
                gone += [weakref.ref(gateway.supervisor.parts._prepared)]
                await gateway.says(Abort(number))
            else:
                await gateway.says(Commit(number))
                await gateway.until(lambda number=number: gateway.serving == number)
        await gateway.until(lambda: [ref() for ref in gone] == [None] * len(gone))

    gc.disable()
    try:
        play(trace)
    finally:
        gc.enable()
