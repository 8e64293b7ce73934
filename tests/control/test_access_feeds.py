"""Feeds of people who may not watch any more: over WebSocket and as event streams, on a real port."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import pytest
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from kairos.config.admin import Admin, AdminSessions
from kairos.control.api import lasting, listeners
from kairos.control.api.listeners import Server
from kairos.control.events import EventBus
from kairos.control.history.history import History
from kairos.control.tail import Tail
from kairos.scoreboard import Capacity, Scoreboard
from kairos.storage.database import Database
from tests.control.access_app import served

SOCKETS = ["/ws/metrics", "/ws/admin/metrics", "/api/events", "/api/tail", "/api/logs/tail"]
STREAMS = ["/api/events/metrics", "/api/events", "/api/tail", "/api/logs/tail"]
PATIENCE = 20.0


class Feeds:
    """The admin API on a port, whose feeds are looked at all the time."""

    def __init__(self, s, port):
        self.s = s
        self.at = f"127.0.0.1:{port}"

    async def socket(self, client, path):
        """It is open and heard."""
        made = await connect(f"ws://{self.at}{path}", additional_headers=self._headers(client), proxy=None)
        return made

    async def stream(self, client, path):
        host, _, port = self.at.partition(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        lines = [f"GET {path} HTTP/1.1", f"Host: {self.at}", *(f"{k}: {v}" for k, v in self._headers(client).items())]
        writer.write("\r\n".join([*lines, "", ""]).encode())
        head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), PATIENCE)
        assert head.startswith(b"HTTP/1.1 200 "), head
        return reader, writer

    def _headers(self, client):
        if "authorization" in client.headers:
            return {"Authorization": client.headers["authorization"]}
        return {"Cookie": f"kairos_session={client.cookies['kairos_session']}"}

    async def opened(self, client):
        return [await self.socket(client, path) for path in SOCKETS], [
            await self.stream(client, path) for path in STREAMS
        ]


@contextlib.asynccontextmanager
async def feeds(tmp_path, admin=Admin()):  # noqa: B008
    board = Scoreboard(Capacity(1, 1, 1, 1))
    history = History(board, Database("sqlite://"), "one")
    more = {"events": EventBus(), "tail": Tail(board), "history": history}
    async with served(f"sqlite:///{tmp_path / 'kairos.db'}", admin, **more) as s:
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        server = Server(s.app, "remote", listener)
        server.start()
        try:
            yield Feeds(s, listener.getsockname()[1])
        finally:
            await server.close()


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(lasting, "AGAIN_S", 0.02)
    monkeypatch.setattr(listeners, "PATIENCE_S", 0)


async def code_of(made):
    """That it is closed with."""
    with contextlib.suppress(ConnectionClosed):
        async with asyncio.timeout(PATIENCE):
            while True:
                await made.recv()
    return made.close_code


async def whole(stream):
    reader, writer = stream
    data = await asyncio.wait_for(reader.read(), PATIENCE) if reader.at_eof() else await until_end(reader)
    writer.close()
    return data


async def until_end(reader):
    """The last piece of a chunked body: the stream ended, and was not cut off."""
    return await asyncio.wait_for(reader.readuntil(b"0\r\n\r\n"), PATIENCE)


async def ends(opened):
    sockets, streams = opened
    codes = [await code_of(one) for one in sockets]
    for stream in streams:
        assert (await whole(stream)).endswith(b"0\r\n\r\n")
    return codes


async def disable(s, _client):
    assert (await s.client("local").patch("/api/users/ann", json={"disabled": True})).status_code == 200


async def remove(s, _client):
    assert (await s.client("local").delete("/api/users/ann")).status_code == 204


async def log_out(s, client):
    assert (await client.post("/api/logout")).status_code < 300


async def end_sessions(s, _client):
    assert (await s.client("local").delete("/api/users/ann/sessions")).status_code == 204


async def take_role(s, _client):
    assert (await s.client("local").patch("/api/users/ann", json={"roles": []})).status_code == 200


@pytest.mark.parametrize(
    ("act", "code"),
    [(disable, 4401), (remove, 4401), (log_out, 4401), (end_sessions, 4401), (take_role, 4403)],
    ids=["disabled", "removed", "logout", "ended", "role"],
)
def test_feeds_of_a_session_end_with_it(tmp_path, quick, act, code):
    async def main():
        async with feeds(tmp_path) as f:
            await f.s.add("ann", "operator")
            client = await f.s.logged_in("ann")
            opened = await f.opened(client)
            await act(f.s, client)
            return await ends(opened)

    assert asyncio.run(main()) == [code] * len(SOCKETS)


def test_feeds_of_a_token_end_when_it_is_revoked(tmp_path, quick):
    async def main():
        async with feeds(tmp_path) as f:
            await f.s.add("ann", "operator")
            token = await f.s.with_token("ann")
            opened = await f.opened(token)
            local = f.s.client("local")
            (info,) = (await local.get("/api/users/ann/tokens")).json()
            assert (await local.delete(f"/api/users/ann/tokens/{info['id']}")).status_code == 204
            return await ends(opened)

    assert asyncio.run(main()) == [4401] * len(SOCKETS)


def test_to_be_watched_keeps_no_session_alive(tmp_path, quick):
    async def main():
        async with feeds(tmp_path, Admin(sessions=AdminSessions(idle=100.0))) as f:
            now = [1000.0]
            f.s.access.logins._clock = lambda: now[0]
            await f.s.add("ann", "operator")
            opened = await f.opened(await f.s.logged_in("ann"))
            for _ in range(4):
                now[0] += 30.0
                await asyncio.sleep(0.05)  # while it is looked at
            return await ends(opened)

    assert asyncio.run(main()) == [4401] * len(SOCKETS)


def test_others_go_on_and_so_do_all_while_the_database_is_away(tmp_path, quick):
    async def main():
        async with feeds(tmp_path) as f:
            await f.s.add("ann", "operator")
            await f.s.add("bob", "operator")
            anns, bobs = [await f.opened(await f.s.logged_in(name)) for name in ("ann", "bob")]
            await disable(f.s, None)
            await ends(anns)
            works, f.s.access.logins._database = f.s.access.logins._database, Database("sqlite:////no/such/folder/x")
            f.s.access.logins._database.ready.set()
            sockets, streams = bobs
            await asyncio.sleep(0.1)  # while it is looked at
            open_ = [one.close_code for one in sockets] + [reader.at_eof() for reader, _ in streams]
            f.s.access.logins._database = works
            for one in sockets:
                await one.close()
            for _, writer in streams:
                writer.close()
            return open_

    assert asyncio.run(main()) == [None] * len(SOCKETS) + [False] * len(STREAMS)


def test_who_watches_without_a_right_to_is_refused_and_recorded(tmp_path, quick):
    async def main():
        async with feeds(tmp_path) as f:
            await f.s.add("ann", "viewer")
            client = await f.s.logged_in("ann")
            for path in ("/api/tail", "/api/logs/tail"):
                with pytest.raises(InvalidStatus) as refused:
                    await f.socket(client, path)
                assert refused.value.response.status_code == 403
            async with asyncio.timeout(PATIENCE):
                while len(found := await f.s.entries(outcome="refused")) < 2:  # written after the answer
                    await asyncio.sleep(0.01)
            return [(one.actor, one.target, one.outcome) for one in found]

    assert asyncio.run(main()) == [("ann", "/api/tail", "refused"), ("ann", "/api/logs/tail", "refused")]
