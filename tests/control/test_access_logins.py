"""Logging in: passwords, guessing, sessions and their CSRF tokens, personal tokens, what ends them."""

import asyncio

import pytest
from argon2 import PasswordHasher
from sqlalchemy import select, update

from kairos.config.admin import Admin, AdminSessions, AdminTokens
from kairos.control.access import logins as module
from kairos.control.access.passwords import Passwords, accepted, objections, one_time
from kairos.control.commands import CommandError
from kairos.storage import schema
from tests.control.access_app import FAST, PASSWORD, served

NEW = "another long one"


def test_a_session_from_login_to_logout(url):
    async def main():
        async with served(url) as s:
            await s.add("ann", "viewer")
            client = await s.logged_in("ANN ")
            cookie = client.cookies["kairos_session"]
            me = (await client.get("/api/me")).json()
            assert (me["name"], me["method"], me["csrf"]) == ("ann", "session", client.headers["X-CSRF-Token"])
            (session,) = (await client.get("/api/me/sessions")).json()
            assert (session["current"], session["address"]) == (True, "192.0.2.9")
            out = await client.post("/api/logout")
            assert (out.status_code, "Max-Age=0" in out.headers["set-cookie"]) == (200, True)
            assert out.json() == {"location": None}
            client.cookies["kairos_session"] = cookie
            assert (await client.get("/api/me")).status_code == 401
            return [(one.actor, one.action, one.outcome) for one in await s.entries()]

    assert asyncio.run(main()) == [("ann", "login", "done"), ("ann", "logout", "done"), ("", "me.show", "refused")]


def test_the_cookie(here):
    async def main():
        async with served(here) as s:
            await s.add("ann", "viewer")
            words = {"json": {"name": "ann", "password": PASSWORD}}
            plain = await s.client().post("/api/login", **words)
            secure = await s.client(base="https://127.0.0.1:5901").post("/api/login", **words)
            async with s.database.read() as connection:
                stored = (await connection.scalars(select(schema.sessions.c.id_hash))).all()
            first, second = (answer.headers.get_list("set-cookie")[0] for answer in (plain, secure))
            return first, second, stored

    plain, secure, stored = asyncio.run(main())
    assert plain.startswith("kairos_session=")
    assert {part.strip() for part in plain.split(";")[1:]} == {
        "HttpOnly", "Path=/", "SameSite=strict", "Max-Age=43200",
    }  # fmt: skip
    assert secure.startswith("__Host-kairos_session=")
    assert "Secure" in secure
    assert len(plain.split("=")[1].split(";")[0]) == 43  # 256 bits
    assert all(len(one) == 64 and one not in plain + secure for one in stored)


@pytest.mark.parametrize(
    ("name", "password"), [("ann", "wrong password"), ("nobody", PASSWORD), ("", ""), ("ann", ""), ("a\0", "b\0")]
)
def test_a_wrong_login_says_only_that(here, name, password):
    async def main():
        async with served(here) as s:
            await s.add("ann", "viewer")
            answer = await s.client().post("/api/login", json={"name": name, "password": password})
            (entry,) = await s.entries()
            return answer, entry

    answer, entry = asyncio.run(main())
    assert (answer.status_code, answer.json()["detail"]) == (401, "name or password is wrong")
    assert "set-cookie" not in answer.headers
    assert (entry.action, entry.outcome, entry.detail) == ("login", "refused", {"status": 401})


def test_a_disabled_user_cannot_log_in_and_loses_everything(here):
    async def main():
        async with served(here) as s:
            await s.add("ann", "viewer")
            session, token = await s.logged_in("ann"), await s.with_token("ann")
            local = s.client("local")
            assert (await local.patch("/api/users/ann", json={"disabled": True})).status_code == 200
            answers = [await session.get("/api/me"), await token.get("/api/me")]
            answers.append(await s.client().post("/api/login", json={"name": "ann", "password": PASSWORD}))
            return [answer.status_code for answer in answers]

    assert asyncio.run(main()) == [401, 401, 401]


def test_writes_of_a_session_show_its_token(here):
    async def main():
        async with served(here) as s:
            await s.add("root", "admin")
            client, other = await s.logged_in("root"), await s.logged_in("root")
            right = client.headers["X-CSRF-Token"]
            statuses = []
            for given in ("", "x", other.headers["X-CSRF-Token"], right):
                client.headers["X-CSRF-Token"] = given
                answer = await client.post("/api/me/tokens", json={"name": "t"})
                statuses.append(answer.status_code)
            client.headers["X-CSRF-Token"] = ""
            assert (await client.get("/api/users")).status_code == 200
            token = await s.with_token("root")
            assert (await token.patch("/api/users/root", json={"email": "r@example.com"})).status_code == 200
            return statuses, [(one.action, one.outcome) for one in await s.entries(action="token.", outcome="refused")]

    statuses, refused = asyncio.run(main())
    assert statuses == [403, 403, 403, 201]
    assert len(refused) == 3


def test_sessions_end_when_idle_and_after_their_lifetime(url):
    async def main():
        async with served(url, Admin(sessions=AdminSessions(idle=100.0, lifetime=250.0))) as s:
            await s.add("ann", "viewer")
            now = [1000.0]
            s.access.logins._clock = lambda: now[0]
            client = await s.logged_in("ann")
            statuses = []
            for step in (90, 90, 60, 20):
                now[0] += step
                statuses.append((await client.get("/api/me")).status_code)
                await asyncio.gather(*s.access.logins._touching.values())
            idle = await s.logged_in("ann")
            now[0] += 101
            statuses.append((await idle.get("/api/me")).status_code)
            return statuses

    assert asyncio.run(main()) == [200, 200, 200, 401, 401]


def test_a_login_takes_the_place_of_the_session_it_comes_with(here):
    async def main():
        async with served(here) as s:
            await s.add("ann", "viewer")
            client = await s.logged_in("ann")
            old = client.cookies["kairos_session"]
            await client.post("/api/login", json={"name": "ann", "password": PASSWORD})
            assert client.cookies["kairos_session"] != old
            client.cookies["kairos_session"] = old
            return (await client.get("/api/me")).status_code

    assert asyncio.run(main()) == 401


def test_another_password_ends_other_sessions(url):
    async def main():
        async with served(url) as s:
            await s.add("ann", "viewer")
            client, other, token = await s.logged_in("ann"), await s.logged_in("ann"), await s.with_token("ann")
            words = {"current_password": PASSWORD, "new_password": NEW}
            wrong = await client.post("/api/me/password", json={**words, "current_password": "x"})
            short = await client.post("/api/me/password", json={**words, "new_password": "short"})
            by_token = await token.post("/api/me/password", json=words)
            done = await client.post("/api/me/password", json=words)
            statuses = [answer.status_code for answer in (wrong, short, by_token, done)]
            after = [(await one.get("/api/me")).status_code for one in (client, other, token)]
            assert (await s.client().post("/api/login", json={"name": "ann", "password": PASSWORD})).status_code == 401
            client.headers["X-CSRF-Token"] = done.json()["csrf"]
            words = {"current_password": NEW, "new_password": PASSWORD, "end_tokens": True}
            assert (await client.post("/api/me/password", json=words)).status_code == 200
            assert (await token.get("/api/me")).status_code == 401
            shown = str([one.detail for one in await s.entries()])
            assert PASSWORD not in shown
            assert NEW not in shown
            return statuses, after

    assert asyncio.run(main()) == ([401, 422, 403, 200], [200, 401, 200])


def test_one_session_of_several_is_ended(here):
    async def main():
        async with served(here) as s:
            await s.add("ann", "viewer")
            await s.add("bob", "viewer")
            client, other, bob = await s.logged_in("ann"), await s.logged_in("ann"), await s.logged_in("bob")
            (bobs,) = (await bob.get("/api/me/sessions")).json()
            listed = (await client.get("/api/me/sessions")).json()
            (id_,) = [one["id"] for one in listed if not one["current"]]
            statuses = [
                (await client.delete(f"/api/me/sessions/{one}")).status_code
                for one in (bobs["id"], "", "%25", id_, id_)
            ]  # fmt: skip
            return statuses, (await other.get("/api/me")).status_code, (await bob.get("/api/me")).status_code

    assert asyncio.run(main()) == ([404, 405, 404, 204, 404], 401, 200)


def test_tokens(url):
    async def main():
        async with served(url) as s:
            await s.add("ann", "operator")
            client = await s.logged_in("ann")
            made = (
                await client.post("/api/me/tokens", json={"name": "ci", "scopes": ["status:read"], "days": 1})
            ).json()
            token = s.client()
            token.headers["Authorization"] = f"Bearer {made['token']}"
            me = (await token.get("/api/me")).json()["detail"]
            listed = await client.get("/api/me/tokens")
            assert made["token"].startswith(f"kairos_{made['info']['id']}_")
            assert made["token"].rpartition("_")[2] not in listed.text
            statuses = [(await token.get(path)).status_code for path in ("/api/me", "/api/me/tokens", "/api/users")]
            await asyncio.gather(*s.access.logins._touching.values())
            (info,) = (await client.get("/api/me/tokens")).json()
            assert (info["name"], info["used_from"], info["used_at"] is not None) == ("ci", "192.0.2.9", True)
            assert (await client.delete(f"/api/me/tokens/{info['id']}")).status_code == 204
            assert (await token.get("/api/status")).status_code == 401
            return me, statuses

    me, statuses = asyncio.run(main())
    assert "needs self" in me
    assert statuses == [403, 403, 403]


def test_tokens_that_are_none(here):
    async def main():
        async with served(here) as s:
            await s.add("ann", "viewer")
            good = (await s.with_token("ann")).headers["Authorization"]
            statuses = []
            for given in (
                f"{good}x",
                good[:-1],
                "Bearer kairos_",
                "Bearer x",
                "Basic YTpi",
                "Bearer kairos_a\u00e9_b",
                "x",
            ):
                headers = {"Authorization": given.encode("latin-1")}
                statuses.append((await s.client().get("/api/me", headers=headers)).status_code)
            return statuses, (await s.client().get("/api/me", headers={"Authorization": good})).status_code

    assert asyncio.run(main()) == ([401] * 7, 200)


def test_a_token_expires_and_follows_its_user(here):
    async def main():
        async with served(here) as s:
            await s.add("root", "admin")
            await s.add("ann", "editor")
            token = await s.with_token("ann", "config:write", "self")
            before = (await token.get("/api/me")).json()["permissions"]
            await s.client("local").patch("/api/users/ann", json={"roles": ["viewer"]})
            after = (await token.get("/api/me")).json()["permissions"]
            now = s.access.logins._clock() + 91 * 86_400
            s.access.logins._clock = lambda: now
            return before, after, (await token.get("/api/me")).status_code

    assert asyncio.run(main()) == (["config:write", "self"], ["self"], 401)


def test_who_may_make_which_token(here):
    async def main():
        async with served(here, Admin(tokens=AdminTokens(days=10, max_days=20))) as s:
            await s.add("ann", "viewer")
            client, token = await s.logged_in("ann"), await s.with_token("ann")
            asked = [
                {"name": "t", "scopes": ["users:write"]}, {"name": "t", "days": 21}, {"name": "t", "days": 0},
                {"name": ""}, {"name": "t", "scopes": ["no:such"]}, {"name": "t", "days": 20},
            ]  # fmt: skip
            statuses = [(await client.post("/api/me/tokens", json=one)).status_code for one in asked]
            by_token = (await token.post("/api/me/tokens", json={"name": "t"})).status_code
            made = (await client.post("/api/me/tokens", json={"name": "t"})).json()["info"]
            return statuses, by_token, round((made["expires_at"] - made["created_at"]) / 86_400)

    assert asyncio.run(main()) == ([403, 422, 422, 422, 422, 201], 403, 10)


def test_a_password_is_hashed_anew_when_parameters_change(here):
    async def main():
        async with served(here) as s:
            await s.add("ann", "viewer")
            old = PasswordHasher(time_cost=2, memory_cost=8, parallelism=1).hash(PASSWORD)
            async with s.database.write() as connection:
                await connection.execute(update(schema.users).values(password_hash=old))
            await s.logged_in("ann")
            async with s.database.read() as connection:
                return await connection.scalar(select(schema.users.c.password_hash))

    assert not FAST.check_needs_rehash(asyncio.run(main()))


@pytest.mark.parametrize(
    ("password", "name", "objection"),
    [
        ("short", "", "at least 12 characters"),
        ("x" * 1025, "", "at most 1024 characters"),
        ("PasswordPassword", "", "not one that everybody tries first"),
        ("aaaaaaaaaaaaaaaa", "", "not one that everybody tries first"),
        ("christopher-2024", "christopher", "not the name"),
    ],
)
def test_what_is_no_password(password, name, objection):
    assert objection in objections(password, name)
    with pytest.raises(CommandError, match=objection):
        accepted(password, name)


def test_what_is_one():
    assert objections("tr0ub4dor and 3", "ann") == []
    assert objections(one_time(), "admin") == []
    assert one_time() != one_time()


def test_passwords_wait_for_two_threads_and_not_for_ever():
    class Slow(PasswordHasher):
        def hash(self, password, *, salt=None):
            release.wait(25)
            return super().hash(password, salt=salt)

    import threading

    release = threading.Event()

    async def main():
        passwords = Passwords(Slow(time_cost=1, memory_cost=8, parallelism=1))
        waiting = [asyncio.create_task(passwords.hash("x")) for _ in range(32)]
        await asyncio.sleep(0)
        with pytest.raises(CommandError, match="try again"):
            await passwords.hash("x")
        release.set()
        done = await asyncio.gather(*waiting)
        assert await passwords.hash("x")
        passwords.close()
        return len(done)

    assert asyncio.run(main()) == 32


def test_the_same_password_from_another_keyboard():
    async def main():
        passwords = Passwords(FAST)
        stored = await passwords.hash("Zoe\u0308 und zwei andere")
        right = await passwords.verify("Zo\u00eb und zwei andere", stored), await passwords.verify("x", None)
        passwords.close()
        return right

    assert asyncio.run(main()) == (True, False)


def test_a_user_has_so_many_sessions(here, monkeypatch):
    monkeypatch.setattr(module, "MAX_SESSIONS", 3)

    async def main():
        async with served(here) as s:
            await s.add("ann", "viewer")
            clients = [await s.logged_in("ann") for _ in range(5)]
            return [(await client.get("/api/me")).status_code for client in clients]

    assert asyncio.run(main()) == [401, 401, 200, 200, 200]


def test_a_database_that_is_away_is_not_a_wrong_password(here):
    async def main():
        async with served(here) as s:
            await s.add("ann", "viewer")
            client = await s.logged_in("ann")
            s.access.logins._database = type(s.database)("sqlite:////no/such/folder/kairos.db")
            answers = [await client.get("/api/me")]
            answers.append(await s.client().post("/api/login", json={"name": "ann", "password": PASSWORD}))
            answers.append(await s.client("local").get("/api/me"))
            return [(answer.status_code, answer.headers.get("retry-after")) for answer in answers]

    assert asyncio.run(main()) == [(503, "5"), (503, "5"), (200, None)]
