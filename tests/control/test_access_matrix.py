"""Every endpoint of the admin API and every kind of caller: who is let in follows from the permission it names.

New endpoints are covered by themselves. Handlers that are let in find nothing behind them: whatever they then answer,
it is neither 401 nor 403.
"""

import asyncio
import re

import pytest
from litestar.handlers import HTTPRouteHandler, WebsocketRouteHandler

from kairos.control.access.permissions import ROLES
from kairos.control.api.app import all_handlers
from kairos.control.api.guards import permission_of
from tests.control.access_app import served

NARROW = "audit:read"
SAMPLES = {"int": "1", "str": "nobody"}
DENIED_BY_THEMSELVES = {("POST", "/api/me/tokens"), ("POST", "/api/me/password")}
"""Only for sessions, tokens get 403; and a session that logs out is gone."""
ENDING = {("POST", "/api/logout"), ("POST", "/api/me/password")}


def endpoints():
    for handler in all_handlers():
        if isinstance(handler, HTTPRouteHandler):
            for path in handler.paths:
                for method in handler.http_methods - {"OPTIONS", "HEAD"}:
                    yield method, path, permission_of(handler)


def sockets():
    for handler in all_handlers():
        if isinstance(handler, WebsocketRouteHandler):
            for path in handler.paths:
                yield path, permission_of(handler)


ENDPOINTS = sorted(endpoints(), key=str)
SOCKETS = sorted(sockets())


def concrete(path):
    return re.sub(r"\{\w+:(\w+)\}", lambda found: SAMPLES.get(found[1], "1"), path)


async def status_of(client, method, path):
    """The rest of the answer may never end: nobody waits for it."""
    body = {} if method in ("GET", "DELETE") else {"json": {"no such field": 1}}
    request = client.build_request(method, concrete(path), **body)
    async with asyncio.timeout(25):
        return await client.app_status(request)


async def wrong_answers(client, permissions):
    """Those that do not follow from what the caller may do; None: nobody."""
    found = []
    for method, path, needed in ENDPOINTS:
        if (method, path) in ENDING:
            continue
        status = await status_of(client, method, path)
        if needed is None:
            expected = status not in (403,)
        elif permissions is None:
            expected = status == 401
        elif needed in permissions:
            expected = status not in (401, 403) or (method, path) in DENIED_BY_THEMSELVES
        else:
            expected = status == 403
        if not expected:
            found.append((method, path, needed, status))
    return found + await wrong_sockets(client, permissions)


ELSEWHERE = [
    ("Origin", "https://evil.test", 4403), ("Origin", "null", 4403), ("Origin", "http://127.0.0.1", 4403),
    ("Host", "evil.test", 4421),
]  # fmt: skip


async def wrong_sockets(client, permissions):
    """Those that are let in though they may not, or not though they may, or from a page of another site."""
    found = []
    for path, needed in SOCKETS:
        code = await client.socket_code(path)
        denied = {4401} if permissions is None else {4403} if needed not in permissions else ()
        if code not in denied if denied else code in (4401, 4403):
            found.append((path, needed, code))
        for name, value, refused in ELSEWHERE:
            if (code := await client.socket_code(path, **{name: value})) != refused:
                found.append((path, value, code))
    return found


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    return f"sqlite:///{tmp_path_factory.mktemp('matrix') / 'kairos.db'}"


def test_there_are_endpoints_of_all_kinds():
    assert len(ENDPOINTS) > 30
    assert {path for path, _ in SOCKETS} == {
        "/ws/metrics", "/ws/admin/metrics", "/api/events", "/api/tail", "/api/logs/tail",
    }  # fmt: skip
    assert {needed for _, _, needed in ENDPOINTS} >= {None, "self", "users:write", "audit:read", "status:read"}


@pytest.mark.parametrize("role", sorted(ROLES))
def test_by_role_with_a_session_and_with_a_token(tmp_path, role):
    async def main():
        async with served(f"sqlite:///{tmp_path / 'kairos.db'}") as s:
            await s.add("somebody", role)
            session = await wrong_answers(await s.logged_in("somebody"), ROLES[role])
            token = await wrong_answers(await s.with_token("somebody"), ROLES[role])
            return session, token

    assert asyncio.run(main()) == ([], [])


def test_nobody_and_wrong_credentials(tmp_path):
    async def main():
        async with served(f"sqlite:///{tmp_path / 'kairos.db'}") as s:
            stale = s.client()
            stale.cookies["kairos_session"] = "x" * 43
            return await wrong_answers(s.client(), None), await wrong_answers(stale, None)

    assert asyncio.run(main()) == ([], [])


def test_a_token_with_one_scope(tmp_path):
    async def main():
        async with served(f"sqlite:///{tmp_path / 'kairos.db'}") as s:
            await s.add("somebody", "admin")
            return await wrong_answers(await s.with_token("somebody", NARROW), {NARROW})

    assert asyncio.run(main()) == []


def test_a_custom_role(tmp_path):
    async def main():
        async with served(f"sqlite:///{tmp_path / 'kairos.db'}") as s:
            local = s.client("local")
            made = await local.put("/api/roles/auditor", json={"permissions": ["audit:read", "users:read"]})
            assert made.status_code == 200
            await s.add("somebody", "auditor")
            return await wrong_answers(await s.logged_in("somebody"), {"audit:read", "users:read", "self"})

    assert asyncio.run(main()) == []


def test_who_has_to_change_the_password_can_do_nothing_else(tmp_path):
    async def main():
        async with served(f"sqlite:///{tmp_path / 'kairos.db'}") as s:
            local = s.client("local")
            made = await local.post("/api/users", json={"name": "somebody", "roles": ["admin"]})
            client = await s.logged_in("somebody", made.json()["one_time_password"])
            return await wrong_answers(client, {"self"})

    assert asyncio.run(main()) == []
