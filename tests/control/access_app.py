"""The admin API in this process, for tests of who may use it: an app on a database of its own, with users made fast."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from typing import Any

import httpx
from argon2 import PasswordHasher

from kairos.config.admin import Admin
from kairos.control.access.access import Access
from kairos.control.access.accounts import NewUser
from kairos.control.access.audit import Audit, Search
from kairos.control.access.passwords import Passwords
from kairos.control.access.principal import LOCAL
from kairos.control.api.app import all_handlers, make_app, wanted
from kairos.control.api.credentials import authenticators
from kairos.storage.database import Database

PASSWORD = "a long enough one"
FAST = PasswordHasher(time_cost=1, memory_cost=8, parallelism=1)
HOST = "http://127.0.0.1:5901"


class Anything:
    """Stands for what these tests do not use."""


class Client(httpx.AsyncClient):
    """Also asks only for the status of an answer."""

    def __init__(self, *, app: Any, **words: Any) -> None:
        super().__init__(**words)
        self._app = app

    async def socket_code(self, path: str, **headers: str) -> int:
        """What a WebSocket is answered: 101, or the code it is closed with."""
        request = self.build_request("GET", path, headers=headers)
        code = asyncio.get_running_loop().create_future()
        told = iter(({"type": "websocket.connect"}, {"type": "websocket.disconnect", "code": 1000}))

        async def receive():
            return next(told)

        async def send(message):
            if not code.done():
                code.set_result(101 if message["type"] == "websocket.accept" else message["code"])

        scope = {
            "type": "websocket", "asgi": {"version": "3.0"}, "http_version": "1.1", "subprotocols": [], "scheme": "ws",
            "headers": [(name.lower(), value) for name, value in request.headers.raw], "extensions": {},
            "path": request.url.path, "raw_path": request.url.raw_path, "query_string": request.url.query,
            "server": ("127.0.0.1", 5901), "client": ("192.0.2.9", 1), "root_path": "",
        }  # fmt: skip
        async with asyncio.timeout(10):
            await asyncio.gather(self._app(scope, receive, send), return_exceptions=True)
        return await code

    async def app_status(self, request: httpx.Request) -> int:
        """Of an answer that may never end."""
        status = asyncio.get_running_loop().create_future()

        async def receive():
            return {"type": "http.request", "body": request.content, "more_body": False}

        async def send(message):
            if message["type"] == "http.response.start" and not status.done():
                status.set_result(message["status"])

        scope = {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": request.method,
            "headers": [(name.lower(), value) for name, value in request.headers.raw], "scheme": "http",
            "path": request.url.path, "raw_path": request.url.raw_path, "query_string": request.url.query,
            "server": ("127.0.0.1", 5901), "client": ("192.0.2.9", 1), "root_path": "",
        }  # fmt: skip
        task = asyncio.create_task(self._app(scope, receive, send))
        await asyncio.wait({task, status}, return_when=asyncio.FIRST_COMPLETED)
        if not status.done():
            await asyncio.wait({task}, timeout=5)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return await status


class Served:
    """The app, and how to speak to it. `more`: things that handlers ask for, in place of what stands for them."""

    def __init__(self, url: str, admin: Admin, more: Mapping[str, Any] = {}) -> None:
        self.database = Database(url)
        self.audit = Audit(self.database, "one")
        self.access = Access(self.database, admin, Passwords(FAST))
        things: dict[str, Any] = dict.fromkeys(wanted(all_handlers()), Anything())
        things |= {"database": self.database, "audit": self.audit, **self.access.things(), **more}
        self.app = make_app(things, authenticators(self.access.logins))

    def client(self, kind: str = "remote", address: str = "192.0.2.9", base: str = HOST) -> Client:
        async def marked(scope, receive, send):
            await self.app({**scope, "kairos_listener": kind}, receive, send)

        transport = httpx.ASGITransport(marked, raise_app_exceptions=False, client=(address, 1))
        return Client(transport=transport, base_url=base, app=marked)

    async def add(self, name: str, *roles: str, password: str = PASSWORD) -> None:
        await self.access.accounts.add(NewUser(name, list(roles), password), LOCAL)

    async def logged_in(self, name: str, password: str = PASSWORD, **words: str) -> Client:
        """A client with the session's cookie, whose writes show its token."""
        client = self.client(**words)
        answer = await client.post("/api/login", json={"name": name, "password": password})
        assert answer.status_code == 200, answer.text
        client.headers["X-CSRF-Token"] = answer.json()["csrf"]
        return client

    async def with_token(self, name: str, *scopes: str) -> Client:
        local = self.client("local")
        made = await local.post(f"/api/users/{name}/tokens", json={"name": "t", "scopes": list(scopes) or None})
        assert made.status_code == 201, made.text
        client = self.client()
        client.headers["Authorization"] = f"Bearer {made.json()['token']}"
        return client

    async def entries(self, **words: str) -> list[Any]:
        """Of the audit log, oldest first."""
        await self.audit.flush()
        return list(reversed(await self.audit.search(Search(**words), limit=500)))


@contextlib.asynccontextmanager
async def served(url: str, admin: Admin = Admin(), **more: Any) -> AsyncIterator[Served]:  # noqa: B008
    made = Served(url, admin, more)
    await made.database.start()
    made.audit.start()
    await made.access.accounts.keep_roles()
    try:
        yield made
    finally:
        await made.access.close()
        await made.audit.close()
        await made.database.close()
