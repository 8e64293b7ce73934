"""Names of upstreams over a real name server: kept for their TTL, asked again after it, never lost to an outage."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator

import pytest

from kairos.resolver import BELIEVED_AFTER, MIN_TTL, RETRY_AFTER, Resolver
from tests.support.dns import SERVFAIL, NameServer
from tests.support.gateway import route
from tests.support.inprocess import Chain, in_process
from tests.support.net import Peer, origin, status_of

NAME = "shop.test"


@pytest.fixture
def server() -> Iterator[NameServer]:
    with NameServer({NAME: ["192.0.2.1"]}) as made:
        yield made


class Clocked:
    """A Resolver whose time the test turns on."""

    def __init__(self, server: NameServer) -> None:
        self.now = 1000.0
        self.resolver = Resolver([server.address], clock=lambda: self.now)

    async def ask(self, name: str = NAME) -> list[str]:
        return sorted(await self.resolver.resolve(name))


def resolving(server: NameServer, trace: Callable[[Clocked], Awaitable[None]]) -> None:
    async def run() -> None:
        it = Clocked(server)
        try:
            await trace(it)
        finally:
            await it.resolver.close()

    asyncio.run(run())


def test_a_name_is_asked_for_once_while_its_ttl_lasts(server: NameServer) -> None:
    async def trace(it: Clocked) -> None:
        assert await it.ask() == ["192.0.2.1"]
        server.records[NAME] = ["192.0.2.9"]
        it.now += server.ttl - 1
        assert await it.ask() == ["192.0.2.1"]
        assert server.asked[NAME] == 1

    resolving(server, trace)


def test_a_name_whose_ttl_is_over_is_asked_for_again(server: NameServer) -> None:
    server.ttl = 0  # c-ares keeps answers of its own for their TTL, by a clock no test can turn

    async def trace(it: Clocked) -> None:
        assert await it.ask() == ["192.0.2.1"]
        server.records[NAME] = ["192.0.2.9"]
        assert await it.ask() == ["192.0.2.1"], "a TTL of nought counts as MIN_TTL"
        it.now += MIN_TTL
        assert await it.ask() == ["192.0.2.9"]
        assert server.asked[NAME] == 2

    resolving(server, trace)


def test_many_who_want_one_name_ask_once(server: NameServer) -> None:
    async def trace(it: Clocked) -> None:
        answers = await asyncio.gather(*(it.ask() for _ in range(50)))
        assert answers == [["192.0.2.1"]] * 50
        assert server.asked[NAME] == 1

    resolving(server, trace)


def test_a_waiter_that_gives_up_does_not_take_the_answer_from_the_others(server: NameServer) -> None:
    async def trace(it: Clocked) -> None:
        first, second = asyncio.ensure_future(it.ask()), asyncio.ensure_future(it.ask())
        await asyncio.sleep(0)
        first.cancel()
        assert await second == ["192.0.2.1"]

    resolving(server, trace)


def test_a_name_that_does_not_exist_has_no_address_and_is_not_asked_for_at_each_turn(server: NameServer) -> None:
    async def trace(it: Clocked) -> None:
        assert await it.ask("nowhere.test") == []
        assert await it.ask("nowhere.test") == []
        assert server.asked["nowhere.test"] == 1
        server.records["nowhere.test"] = ["192.0.2.3"]
        it.now += RETRY_AFTER
        assert await it.ask("nowhere.test") == ["192.0.2.3"]

    resolving(server, trace)


def test_a_name_that_exists_no_more_loses_its_addresses_when_that_goes_on(server: NameServer) -> None:
    server.ttl = 0

    async def trace(it: Clocked) -> None:
        assert await it.ask() == ["192.0.2.1"]
        del server.records[NAME]
        it.now += MIN_TTL
        assert await it.ask() == ["192.0.2.1"], "servers in trouble deny names that exist"
        it.now += BELIEVED_AFTER
        assert await it.ask() == []

    resolving(server, trace)


@pytest.mark.parametrize("outage", ["gone", "failing"])
def test_while_the_server_cannot_answer_what_was_known_stays_good(server: NameServer, outage: str) -> None:
    server.ttl = 0

    async def trace(it: Clocked) -> None:
        assert await it.ask() == ["192.0.2.1"]
        if outage == "gone":
            server.close()
        else:
            server.code = SERVFAIL
        it.now += MIN_TTL
        assert await it.ask() == ["192.0.2.1"]
        asked = server.asked[NAME]
        assert await it.ask() == ["192.0.2.1"]
        assert server.asked[NAME] == asked, "not asked again at once"
        if outage == "failing":
            server.code = None
            server.records[NAME] = ["192.0.2.9"]
            it.now += RETRY_AFTER
            assert await it.ask() == ["192.0.2.9"]

    resolving(server, trace)


def test_nobody_waits_long_for_a_silent_server_while_addresses_are_known(server: NameServer) -> None:
    server.ttl = 0

    async def trace(it: Clocked) -> None:
        assert await it.ask() == ["192.0.2.1"]
        server.silent = True
        it.now += MIN_TTL
        async with asyncio.timeout(1):
            assert await it.ask() == ["192.0.2.1"]
            asked = server.asked[NAME]
            assert await it.ask() == ["192.0.2.1"]
        assert server.asked[NAME] == asked, "not asked again at once"

    resolving(server, trace)


def test_several_addresses_take_turns(server: NameServer) -> None:
    server.records[NAME] = ["192.0.2.1", "192.0.2.2", "192.0.2.3"]

    async def trace(it: Clocked) -> None:
        firsts = [(await it.resolver.resolve(NAME))[0] for _ in range(6)]
        assert sorted(firsts) == sorted(server.records[NAME] * 2)
        assert await it.ask() == server.records[NAME]

    resolving(server, trace)


def test_both_families_are_found(server: NameServer) -> None:
    server.records[NAME] = ["192.0.2.1", "2001:db8::1"]

    async def trace(it: Clocked) -> None:
        assert await it.ask() == ["192.0.2.1", "2001:db8::1"]

    resolving(server, trace)


@pytest.mark.parametrize("literal", ["192.0.2.7", "2001:db8::7"])
def test_an_address_is_not_asked_for(server: NameServer, literal: str) -> None:
    async def trace(it: Clocked) -> None:
        assert await it.ask(literal) == [literal]

    resolving(server, trace)
    assert not server.asked


# -- through the data plane -------------------------------------------------------------------------------------------


def ok(peer: Peer) -> None:
    while True:
        head = peer.receive_head()
        host = head.split(b"Host: ")[1].split(b"\r\n")[0]
        peer.send(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(host) + host)


def test_a_backend_is_named_and_its_name_is_its_host(server: NameServer) -> None:
    server.records[NAME] = ["127.0.0.1"]
    with (
        origin(ok) as o,
        in_process(Chain("/a", route("/a", f"http://{NAME}:{o.port}")), nameservers=[server.address]) as served,
    ):
        assert served.get("/a")[1] == f"{NAME}:{o.port}".encode()


def test_a_dead_address_is_passed_over(server: NameServer) -> None:
    server.records[NAME] = ["127.0.0.1", "127.0.0.2", "127.0.0.3"]  # nobody listens on the first two
    with (
        origin(ok, address=("127.0.0.3", 0)) as o,
        in_process(
            Chain("/a", route("/a", f"http://{NAME}:{o.port}")),
            nameservers=[server.address],
            keepalive={"connections": 0},
        ) as served,
    ):
        for _ in range(6):
            assert status_of(served.get("/a")[0]) == 200


def test_a_silent_address_does_not_use_up_the_others_time(server: NameServer) -> None:
    """Its listen queue is full, so that the kernel drops what comes: a connect hangs."""
    server.records[NAME] = ["127.0.0.2", "127.0.0.3"]
    with origin(ok, address=("127.0.0.3", 0)) as o, socket.socket() as silent:
        silent.bind(("127.0.0.2", o.port))
        silent.listen(0)
        fillers = []
        for _ in range(4):
            filler = socket.socket()
            filler.setblocking(False)
            filler.connect_ex(("127.0.0.2", o.port))
            fillers.append(filler)
        chain = Chain("/a", route("/a", f"http://{NAME}:{o.port}"))
        config = {"timeouts": {"connect": 1.0}, "keepalive": {"connections": 0}}
        with in_process(chain, nameservers=[server.address], **config) as served:
            for _ in range(2):
                assert status_of(served.get("/a")[0]) == 200
        for filler in fillers:
            filler.close()


def test_a_backend_without_address_is_a_bad_gateway_that_names_nobody(server: NameServer) -> None:
    with in_process(Chain("/a", route("/a", "http://gone.test:80")), nameservers=[server.address]) as served:
        head, body = served.get("/a")
        assert status_of(head) == 502
        assert b'"code":"resolve_failed"' in body
        assert b"gone.test" not in head + body
        line = served.wait_access(path="/a")
        assert (line["flag"], line["detail"], line["upstream"]) == ("DF", "resolve_failed", "http://gone.test:80")


def test_a_backend_that_moves_is_followed(server: NameServer) -> None:
    server.ttl = 0
    server.records[NAME] = ["127.0.0.2"]

    def says(word: bytes) -> Callable[[Peer], None]:
        def script(peer: Peer) -> None:
            peer.receive_head()
            peer.send(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 3\r\n\r\n" + word)

        return script

    with (
        origin(says(b"old"), address=("127.0.0.2", 0)) as old,
        origin(says(b"new"), address=("127.0.0.3", old.port)),
        in_process(Chain("/a", route("/a", f"http://{NAME}:{old.port}")), nameservers=[server.address]) as served,
    ):
        assert served.get("/a")[1] == b"old"
        server.records[NAME] = ["127.0.0.3"]
        served.run(lambda: asyncio.sleep(MIN_TTL))
        assert served.get("/a")[1] == b"new"
