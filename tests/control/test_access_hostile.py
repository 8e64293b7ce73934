"""The whole admin API under random documents made from its own description: nothing breaks; and clients that dawdle."""

import asyncio
import socket

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings

from kairos.config.admin import Admin
from kairos.control.api import listeners
from kairos.control.api.listeners import Server
from tests.control.access_app import served

# They stop the test's app, or end in the stand-ins of what this app does not have.
OURS = ("/api/audit/", "/api/users/", "/api/roles/", "/api/permissions/", "/api/me/", "/api/login/", "/api/logout/")


def test_no_document_breaks_it(tmp_path):
    runner = asyncio.Runner()
    context = served(f"sqlite:///{tmp_path / 'kairos.db'}", Admin())
    s = runner.run(context.__aenter__())
    try:
        schema = schemathesis.openapi.from_dict(s.app.openapi_schema.to_schema())
        broken = []
        for result in schema.get_all_operations():
            operation = result.ok()
            if (operation.path + "/").startswith(OURS):
                broken += tried(runner, s, operation)
        assert broken == []
    finally:
        runner.run(context.__aexit__(None, None, None))
        runner.close()


def tried(runner, s, operation):
    found = []

    @given(case=operation.as_strategy())
    @settings(
        max_examples=6, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    def one(case):
        answer = runner.run(sent(s, case))
        if answer.status_code >= 500:
            found.append((operation.label, answer.status_code, str(case.body)[:200], case.query))

    one()
    return found


async def sent(s, case):
    words = case.as_transport_kwargs(base_url="http://127.0.0.1:5901")
    words = {
        key: words[key] for key in ("method", "url", "headers", "params", "json", "data") if words.get(key) is not None
    }
    if isinstance(words.get("data"), bytes | str):
        words["content"] = words.pop("data")
    async with s.client("local") as client:
        return await client.request(**words)


# --- clients that dawdle ---


async def body_reader(scope, receive, send):
    while (message := await receive())["type"] == "http.request" and message.get("more_body"):
        pass
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"0")]})
    await send({"type": "http.response.body", "body": b""})


def talk(*pieces):
    """What comes back until the server ends the connection."""

    async def main():
        listener = socket.create_server(("127.0.0.1", 0))
        listener.setblocking(False)
        server = Server(body_reader, "remote", listener)
        server.start()
        try:
            reader, writer = await asyncio.open_connection(*listener.getsockname())
            for piece in pieces:
                writer.write(piece)
            async with asyncio.timeout(25):
                got = await reader.read()
            writer.close()
            return got
        finally:
            await server.close()

    return asyncio.run(main())


@pytest.fixture
def quick(monkeypatch):
    for name in ("HEAD_S", "BODY_S"):
        monkeypatch.setattr(listeners, name, 0.1)


def test_a_head_that_does_not_end(quick):
    assert talk(b"GET / HTTP/1.1\r\nHost: x\r\nX-Slow: ") == b""


def test_nothing_at_all(quick):
    assert talk() == b""


def test_a_body_that_does_not_end(quick):
    got = talk(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc")
    assert got.startswith(b"HTTP/1.1 408 ")
    assert got.count(b"HTTP/1.1") == 1


def test_a_connection_that_is_idle_after_an_answer(quick):
    got = talk(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert got.startswith(b"HTTP/1.1 200 ")
