"""Users and roles: what can be changed, by whom, and what nobody can take away."""

import asyncio

import pytest

from kairos.control.access.accounts import UserChange
from kairos.control.access.first import FILE, VARIABLE, banner, first_account
from kairos.control.access.principal import LOCAL
from kairos.control.commands import CommandError
from tests.control.access_app import PASSWORD, served


def statuses(answers):
    return [answer.status_code for answer in answers]


def test_a_user_from_beginning_to_end(url):
    async def main():
        async with served(url) as s:
            await s.add("chief", "admin")
            chief = await s.logged_in("chief")
            made = (
                await chief.post("/api/users", json={"name": "ann", "roles": ["viewer"], "email": "a@x.test"})
            ).json()
            assert (made["user"]["must_change"], made["user"]["email"]) == (True, "a@x.test")
            ann = await s.logged_in("ann", made["one_time_password"])
            words = {"current_password": made["one_time_password"], "new_password": PASSWORD}
            assert (await ann.get("/api/backends")).status_code == 403
            assert (await ann.post("/api/me/password", json=words)).status_code == 200
            assert (await ann.get("/api/me")).json()["must_change"] is False
            changed = await chief.patch("/api/users/ann", json={"roles": ["operator", "viewer"], "display_name": "Ann"})
            assert (changed.json()["roles"], changed.json()["display_name"]) == (["operator", "viewer"], "Ann")
            reset = (await chief.post("/api/users/ann/password", json={})).json()
            assert (await ann.get("/api/me")).status_code == 401
            again = await s.logged_in("ann", reset["one_time_password"])
            assert (await chief.delete("/api/users/ann/sessions")).status_code == 204
            assert (await again.get("/api/me")).status_code == 401
            assert (await chief.delete("/api/users/ann")).status_code == 204
            assert (await chief.get("/api/users/ann")).status_code == 404
            assert [one["name"] for one in (await chief.get("/api/users")).json()] == ["chief"]
            shown = str(await s.entries())
            assert made["one_time_password"] not in shown
            assert reset["one_time_password"] not in shown
            assert "$argon2" not in str((await chief.get("/api/users")).text)
            return [(one.action, one.target) for one in await s.entries(actor="chief")]

    assert asyncio.run(main()) == [
        ("login", "chief"), ("user.add", "ann"), ("user.change", "ann"), ("user.password", "ann"),
        ("session.end", "ann"), ("user.remove", "ann"),
    ]  # fmt: skip


def test_what_is_no_user(here):
    asked = [
        {"name": "Ann", "roles": []}, {"name": "", "roles": []}, {"name": "a/b", "roles": []},
        {"name": "a" * 101, "roles": []}, {"name": "a", "roles": ["nobody"]},
        {"name": "a", "roles": [], "password": "x"},
        {"name": "a", "roles": [], "display_name": "x" * 201}, {"name": "a", "roles": [], "email": "a\nb"},
        {"name": "a"}, {"name": "a", "roles": [], "chief": True},
    ]  # fmt: skip

    async def main():
        async with served(here) as s:
            local = s.client("local")
            wrong = [await local.post("/api/users", json=one) for one in asked]
            await s.add("taken", "viewer")
            twice = await local.post("/api/users", json={"name": "taken", "roles": []})
            return statuses(wrong), twice.status_code

    assert asyncio.run(main()) == ([422] * len(asked), 409)


def test_one_administrator_is_always_left(url):
    async def main():
        async with served(url) as s:
            await s.add("chief", "admin")
            await s.add("ann", "viewer")
            chief = await s.logged_in("chief")
            refused = statuses(
                [
                    await chief.delete("/api/users/chief"),
                    await chief.patch("/api/users/chief", json={"disabled": True}),
                    await chief.patch("/api/users/chief", json={"roles": ["viewer"]}),
                    await s.client("local").delete("/api/users/chief"),
                ]
            )
            assert (await chief.get("/api/users/chief")).json()["roles"] == ["admin"]
            await chief.patch("/api/users/ann", json={"roles": ["admin"]})
            return refused, (await chief.delete("/api/users/chief")).status_code

    assert asyncio.run(main()) == ([409] * 4, 204)


def test_two_administrators_cannot_remove_each_other_at_once(url):
    async def main():
        async with served(url) as s:
            await s.add("one", "admin")
            await s.add("two", "admin")
            change = UserChange(disabled=True)
            tasks = [s.access.accounts.change(name, change, LOCAL) for name in ("one", "two")]
            done = await asyncio.gather(*tasks, return_exceptions=True)
            return sum(isinstance(one, CommandError) for one in done)

    assert asyncio.run(main()) == 1


def test_nobody_gives_more_than_they_have(url):
    async def main():
        async with served(url) as s:
            await s.add("chief", "admin")
            await s.add("ed", "editor")
            local = s.client("local")
            permissions = ["users:read", "users:write", "status:read"]
            await local.put("/api/roles/helpdesk", json={"permissions": permissions})
            await local.put("/api/roles/looker", json={"permissions": ["status:read"]})
            await s.add("help", "helpdesk")
            h = await s.logged_in("help")
            refused = [
                await h.post("/api/users", json={"name": "x", "roles": ["admin"]}),
                await h.post("/api/users", json={"name": "x", "roles": ["viewer"]}),
                await h.patch("/api/users/help", json={"roles": ["helpdesk", "admin"]}),
                await h.post("/api/users/chief/password", json={}),
                await h.post("/api/users/ed/password", json={"password": PASSWORD}),
                await h.patch("/api/users/chief", json={"disabled": True}),
                await h.delete("/api/users/ed"),
                await h.delete("/api/users/ed/sessions"),
                await h.post("/api/users/chief/tokens", json={"name": "t", "scopes": ["status:read"]}),
                await h.put("/api/roles/mine", json={"permissions": ["config:write"]}),
                await h.put("/api/roles/helpdesk", json={"permissions": [*permissions, "audit:read"]}),
            ]
            allowed = [
                await h.post("/api/users", json={"name": "x", "roles": ["looker"]}),
                await h.post("/api/users/x/password", json={}),
                await h.post("/api/users/x/tokens", json={"name": "t"}),
                await h.put("/api/roles/mine", json={"permissions": ["users:read"]}),
                await h.delete("/api/users/x"),
            ]
            entries = await s.entries(outcome="refused")
            return statuses(refused), statuses(allowed), len(entries)

    assert asyncio.run(main()) == ([403] * 11, [201, 200, 201, 200, 204], 11)


def test_roles(url):
    async def main():
        async with served(url) as s:
            local = s.client("local")
            made = await local.put("/api/roles/ops", json={"permissions": ["backends:operate"], "description": "Ops"})
            assert made.json()["permissions"] == ["backends:operate", "self"]
            await s.add("ann", "ops")
            ann = await s.logged_in("ann")
            before = (await ann.get("/api/me")).json()["permissions"]
            await local.put("/api/roles/ops", json={"permissions": ["cache:purge"]})
            after = (await ann.get("/api/me")).json()["permissions"]
            held = await local.delete("/api/roles/ops")
            await local.patch("/api/users/ann", json={"roles": []})
            answers = [
                held, await local.delete("/api/roles/ops"), await local.delete("/api/roles/ops"),
                await local.delete("/api/roles/admin"), await local.put("/api/roles/viewer", json={"permissions": []}),
                await local.put("/api/roles/x", json={"permissions": ["no:such"]}),
                await local.put("/api/roles/Upper", json={"permissions": []}),
            ]  # fmt: skip
            names = [one["name"] for one in (await local.get("/api/roles")).json()]
            return before, after, statuses(answers), names

    before, after, answers, names = asyncio.run(main())
    assert (before, after) == (["backends:operate", "self"], ["cache:purge", "self"])
    assert answers == [409, 204, 404, 409, 409, 422, 422]
    assert names == ["admin", "editor", "operator", "viewer"]


# --- the first account ---


async def first(s, environ, capsys):
    await first_account(s.access.accounts, "https://gw.test:5901", environ)
    return capsys.readouterr().err


def test_a_first_account_is_made_once_with_a_password_for_one_login(url, capsys):
    async def main():
        async with served(url) as s:
            shown = await first(s, {}, capsys)
            again = await first(s, {}, capsys)
            password = shown.partition("password  ")[2].partition("\n")[0]
            client = await s.logged_in("admin", password)
            return shown, again, (await client.get("/api/me")).json()

    shown, again, me = asyncio.run(main())
    assert "https://gw.test:5901" in shown
    assert shown.count("admin") >= 2
    assert "password" not in again
    assert (me["name"], me["must_change"]) == ("admin", True)


def test_nodes_that_start_at_once_make_one_account(url, capsys):
    async def main():
        async with served(url) as one, served(url) as two:
            await asyncio.gather(*(first_account(s.access.accounts, "http://x", {}) for s in (one, two)))
            return len(await one.access.accounts.users())

    assert asyncio.run(main()) == 1
    assert capsys.readouterr().err.count("password  ") == 1


def test_the_first_password_from_the_environment(here, capsys, tmp_path):
    (tmp_path / "secret").write_text(PASSWORD + "\n")

    async def main():
        async with served(here) as s:
            shown = await first(s, {FILE: str(tmp_path / "secret")}, capsys)
            me = (await (await s.logged_in("admin")).get("/api/me")).json()
            return shown, me

    shown, me = asyncio.run(main())
    assert PASSWORD not in shown
    assert me["must_change"] is False


@pytest.mark.parametrize("environ", [{VARIABLE: "short"}, {FILE: "/no/such/file"}], ids=["short", "no file"])
def test_a_first_password_that_is_none_is_not_taken(here, capsys, environ):
    async def main():
        async with served(here) as s:
            return await first(s, environ, capsys)

    assert "password  " in asyncio.run(main())


def test_the_banner_shows_where_and_what():
    assert "http://127.0.0.1:5901" in banner("http://127.0.0.1:5901", "abc-def")
    assert "password  abc-def\n" in banner("", "abc-def")
