"""Somebody with a login of their own who wants more: by forged requests, by tokens, by users and roles."""

import asyncio

import pytest

from kairos.control.access.permissions import ROLES
from tests.control.access_app import PASSWORD, served
from tests.control.test_access_matrix import ENDPOINTS, status_of

UNSAFE = [(method, path) for method, path, _ in ENDPOINTS if method != "GET"]


def test_every_unsafe_request_of_a_session_shows_its_token(here):
    """Logging in as somebody else included: that would be the attacker, who then sees what is typed."""

    async def main():
        async with served(here) as s:
            await s.add("chief", "admin")
            client = await s.logged_in("chief")
            del client.headers["X-CSRF-Token"]
            found = [(method, path, await status_of(client, method, path)) for method, path in UNSAFE]
            return [one for one in found if one[2] != 403], (await client.get("/api/me")).status_code

    assert len(UNSAFE) > 30
    assert asyncio.run(main()) == ([], 200)


def test_a_token_makes_nobody_who_may_more_than_the_token(here):
    async def main():
        async with served(here) as s:
            await s.add("chief", "admin")
            await s.add("eve", "viewer")
            token = await s.with_token("chief", "users:write", "users:read", "self")
            refused = [
                await token.post("/api/users", json={"name": "x", "roles": ["admin"], "password": PASSWORD}),
                await token.patch("/api/users/eve", json={"roles": ["admin"]}),
                await token.put("/api/roles/mine", json={"permissions": ["config:write"]}),
                await token.post("/api/users/chief/tokens", json={"name": "t"}),
                await token.post("/api/users/chief/tokens", json={"name": "t", "scopes": ["users:write"]}),
                await token.post("/api/users/chief/password", json={"password": PASSWORD}),
                await token.patch("/api/users/chief", json={"display_name": "me"}),
                await token.delete("/api/users/chief/sessions"),
                await token.post("/api/me/tokens", json={"name": "t", "scopes": ["users:read"]}),
                await token.post("/api/me/password", json={"current_password": PASSWORD, "new_password": "x" * 20}),
            ]
            return [answer.status_code for answer in refused]

    assert asyncio.run(main()) == [403] * 10


@pytest.mark.parametrize("role", sorted(set(ROLES) - {"admin"}))
def test_no_role_but_admin_touches_users_roles_or_others_tokens(here, role):
    async def main():
        async with served(here) as s:
            await s.add("chief", "admin")
            await s.add("eve", role)
            eve, roots = await s.logged_in("eve"), await s.logged_in("chief")
            (token,) = [(await roots.post("/api/me/tokens", json={"name": "t"})).json()["info"]["id"]]
            (session,) = [one["id"] for one in (await roots.get("/api/me/sessions")).json()]
            answers = [
                await eve.patch("/api/users/eve", json={"roles": ["admin"]}),
                await eve.put("/api/roles/mine", json={"permissions": ["users:write"]}),
                await eve.post("/api/me/tokens", json={"name": "t", "scopes": ["users:write"]}),
                await eve.get("/api/users"), await eve.get("/api/audit"), await eve.get("/api/backup"),
                await eve.delete(f"/api/me/tokens/{token}"), await eve.delete(f"/api/me/sessions/{session}"),
                await roots.get("/api/me"),
            ]  # fmt: skip
            return [answer.status_code for answer in answers]

    assert asyncio.run(main()) == [403, 403, 403, 403, 403, 403, 404, 404, 200]


def test_a_role_cannot_be_made_more_than_who_makes_it_in_steps(here):
    async def main():
        async with served(here) as s:
            local = s.client("local")
            mine = ["users:read", "users:write"]
            await local.put("/api/roles/desk", json={"permissions": mine})
            await s.add("eve", "desk")
            eve = await s.logged_in("eve")
            steps = [
                await eve.put("/api/roles/step", json={"permissions": mine}),
                await eve.post("/api/users", json={"name": "puppet", "roles": ["step"], "password": PASSWORD}),
                await eve.put("/api/roles/step", json={"permissions": [*mine, "audit:read"]}),
                await (await s.logged_in("puppet")).put(
                    "/api/roles/step", json={"permissions": [*mine, "backup:read"]}
                ),
                await eve.put("/api/roles/admin", json={"permissions": mine}),
                await eve.delete("/api/roles/viewer"),
            ]
            return [answer.status_code for answer in steps]

    assert asyncio.run(main()) == [200, 201, 403, 403, 409, 409]


def test_a_session_is_nobody_elses_to_choose(here):
    async def main():
        async with served(here) as s:
            await s.add("ann", "viewer")
            client = s.client()
            client.cookies["kairos_session"] = "chosen-by-somebody-else-0000000000000000000"
            await client.post("/api/login", json={"name": "ann", "password": PASSWORD})
            fixed = s.client()
            fixed.cookies["kairos_session"] = "chosen-by-somebody-else-0000000000000000000"
            return (await client.get("/api/me")).status_code, (await fixed.get("/api/me")).status_code

    assert asyncio.run(main()) == (200, 401)


def test_a_name_that_nobody_has_costs_a_password_too(here):
    """Whatever is asked of the hasher: as often, and of the same kind."""

    async def main():
        async with served(here) as s:
            await s.add("ann", "viewer")
            await s.add("off", "viewer")
            await s.client("local").patch("/api/users/off", json={"disabled": True})
            asked = []
            verify = s.access.logins._passwords._verify
            s.access.logins._passwords._verify = lambda word, stored: (
                asked.append(stored.split("$")[:4]) or verify(word, stored)
            )
            for number, name in enumerate(("ann", "nobody", "off")):
                await s.client(address=f"192.0.2.{number}").post("/api/login", json={"name": name, "password": "x"})
            return asked

    first, *others = asyncio.run(main())
    assert first[1] == "argon2id"
    assert others == [first] * 2
