"""The audit log: its chain, two nodes on one database, a database that goes away, and what the API writes into it."""

import asyncio
import contextlib
import csv
import io
import itertools
import json
from unittest.mock import Mock

import httpx
import pytest
from sqlalchemy import delete, update

from kairos.control.access import audit as module
from kairos.control.access.audit import Audit, Search
from kairos.control.access.permissions import ALL
from kairos.control.access.principal import NOBODY, Principal
from kairos.control.api import recording
from kairos.control.api.app import all_handlers, make_app, wanted
from kairos.storage import schema
from kairos.storage.database import Database, UnavailableError
from tests.control import access_app

ANN = Principal("ann", "session", ALL)


@contextlib.asynccontextmanager
async def opened(url, node="one"):
    database = Database(url)
    await database.start()
    audit = Audit(database, node)
    audit.start()
    yield audit, database
    await audit.close()
    await database.close()


async def change(database, statement):
    async with database.write() as connection:
        await connection.execute(statement)


def test_what_is_recorded_is_found_in_order_and_whole(url):
    async def main():
        async with opened(url) as (audit, _):
            for number in range(5):
                audit.record(ANN, "backend.change", f"b{number}", "done", {"weight": number}, address="192.0.2.1")
            await audit.flush()
            return await audit.search(Search()), await audit.verify()

    found, verdict = asyncio.run(main())
    assert [(one.number, one.target, one.detail) for one in found] == [
        (number, f"b{number - 1}", {"weight": number - 1}) for number in (5, 4, 3, 2, 1)
    ]
    assert (verdict.intact, verdict.entries, verdict.hash) == (True, 5, found[0].hash)
    assert found[0].previous == found[1].hash
    assert (found[0].actor, found[0].method, found[0].node, found[0].address) == ("ann", "session", "one", "192.0.2.1")


TAMPERINGS = {
    "changed": (lambda: update(schema.audit).where(schema.audit.c.number == 2).values(actor="bob"), 2, "was changed"),
    "removed": (lambda: delete(schema.audit).where(schema.audit.c.number == 2), 2, "an entry is missing"),
    "first": (lambda: delete(schema.audit).where(schema.audit.c.number == 1), 1, "an entry is missing"),
    "last": (lambda: delete(schema.audit).where(schema.audit.c.number == 4), 4, "the newest entries are missing"),
    "all": (lambda: delete(schema.audit), 1, "the newest entries are missing"),
}


@pytest.mark.parametrize("how", TAMPERINGS)
def test_what_somebody_did_to_it_shows(url, how):
    statement, place, reason = TAMPERINGS[how]

    async def main():
        async with opened(url) as (audit, database):
            for _ in range(4):
                audit.record(ANN, "a")
            await audit.flush()
            await change(database, statement())
            first = await audit.verify()
            audit.record(ANN, "later")
            await audit.flush()
            return first, await audit.verify()

    for verdict in asyncio.run(main()):
        assert not verdict.intact
        assert verdict.broken_at == place
        assert verdict.reason in (reason, "an entry is missing")


def test_an_anchor_of_ones_own(url):
    async def main():
        async with opened(url) as (audit, database):
            audit.record(ANN, "a")
            await audit.flush()
            anchor = schema.settings.c.key == "audit.anchor"
            await change(database, update(schema.settings).where(anchor).values(value='"0"'))
            return await audit.verify()

    assert asyncio.run(main()).reason == "does not follow the entry before it"


def test_an_empty_one_is_whole(url):
    async def main():
        async with opened(url) as (audit, _):
            return await audit.verify(), await audit.search(Search())

    verdict, found = asyncio.run(main())
    assert (verdict.intact, verdict.entries, found) == (True, 0, [])


def test_two_nodes_write_one_chain(url, monkeypatch):
    monkeypatch.setattr(module, "BATCH", 3)

    async def main():
        async with opened(url) as (first, _), opened(url, "two") as (second, _):
            for number in range(40):
                for audit in (first, second):
                    audit.record(ANN, "a", str(number))
            await asyncio.gather(first.flush(20), second.flush(20))
            return await first.verify(), await second.search(Search(), limit=100)

    verdict, found = asyncio.run(main())
    assert (verdict.intact, verdict.entries) == (True, 80)
    for node in ("one", "two"):
        assert [one.target for one in reversed(found) if one.node == node] == [str(number) for number in range(40)]


def test_entries_wait_for_a_database_that_is_away(postgres, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0.02)

    async def main():
        async with opened(postgres.database()) as (audit, _):
            audit.record(ANN, "before")
            await audit.flush()
            postgres.kill()
            audit.record(ANN, "meanwhile")
            with pytest.raises(TimeoutError):
                await audit.flush(0.1)
            assert audit.waiting == 1
            postgres.start()
            await audit.flush(20)
            return [one.action for one in await audit.search(Search())], await audit.verify()

    actions, verdict = asyncio.run(main())
    assert actions == ["meanwhile", "before"]
    assert verdict.intact


class _Failing(Database):
    """Fails after the commit: the writer cannot know that it worked."""

    failing = True

    @contextlib.asynccontextmanager
    async def write(self):
        async with super().write() as connection:
            yield connection
        if self.failing:
            self.failing = False
            raise UnavailableError("gone just then")


def test_a_write_whose_end_nobody_saw_is_not_done_twice(url, monkeypatch):
    monkeypatch.setattr(module, "RETRY_S", 0.0)

    async def main():
        database = _Failing(url)
        database.failing = False
        await database.start()
        database.failing = True
        audit = Audit(database, "one")
        audit.record(ANN, "once")
        audit.start()
        await audit.flush()
        audit.record(ANN, "then")
        await audit.close()
        found, verdict = await audit.search(Search()), await audit.verify()
        await database.close()
        return [one.action for one in found], verdict.intact

    assert asyncio.run(main()) == (["then", "once"], True)


def test_what_found_no_room_is_said(url, monkeypatch):
    monkeypatch.setattr(module, "ROOM", 3)

    async def main():
        database = Database(url)
        await database.start()
        audit = Audit(database, "one")
        for number in range(10):
            audit.record(ANN, "a", str(number))
        audit.start()
        await audit.flush()
        found, verdict = await audit.search(Search()), await audit.verify()
        await audit.close()
        await database.close()
        return found, verdict

    found, verdict = asyncio.run(main())
    assert [one.target for one in found] == ["", "2", "1", "0"]
    assert (found[0].action, found[0].detail["entries"], verdict.intact) == ("audit.lost", 7, True)


SEARCHES = [
    ({"actor": "bob"}, ["3"]),
    ({"action": "backend."}, ["3", "2", "1"]),
    ({"action": "backend.probe"}, ["2"]),
    ({"outcome": "refused"}, ["2"]),
    ({"target": "3"}, ["3"]),
    ({"text": "100%_SURE"}, ["1"]),
    ({"text": "%"}, ["1"]),
    ({"text": "192.0.2.7"}, ["3"]),
    ({"since": 1002.0, "until": 1003.0}, ["2"]),
    ({"actor": "nobody"}, []),
]


def test_searches(url):
    async def main():
        async with opened(url) as (audit, _):
            audit._clock = map(float, itertools.count(1001)).__next__
            audit.record(ANN, "backend.change", "1", detail={"message": "I am 100%_sure"})
            audit.record(ANN, "backend.probe", "2", "refused")
            audit.record(Principal("bob", "token", ALL), "backend.change", "3", address="192.0.2.7")
            audit.record(ANN, "config.change", "4", "failed")
            await audit.flush()
            return [[one.target for one in await audit.search(Search(**words))] for words, _ in SEARCHES]

    assert asyncio.run(main()) == [expected for _, expected in SEARCHES]


def test_pages_and_pieces_have_everything_once(url, monkeypatch):
    monkeypatch.setattr(module, "PAGE", 4)

    async def main():
        async with opened(url) as (audit, _):
            for number in range(10):
                audit.record(ANN, "a", str(number))
            await audit.flush()
            first = await audit.search(Search(), limit=6)
            rest = await audit.search(Search(), before=first[-1].number, limit=6)
            pieces = [[one.target for one in piece] async for piece in audit.export(Search())]
            return [one.number for one in first + rest], pieces, await audit.verify()

    numbers, pieces, verdict = asyncio.run(main())
    assert numbers == list(range(10, 0, -1))
    assert pieces == [["0", "1", "2", "3"], ["4", "5", "6", "7"], ["8", "9"]]
    assert (verdict.intact, verdict.entries) == (True, 10)


def test_secrets_and_what_no_database_stores(url):
    detail = {
        "password": "hunter2hunter2", "token": "kairos_x", "headers": {"Authorization": "Bearer abc", "X-Ok": "1"},
        "url": "postgresql://kairos:pw@db/x", "nul": "a\0b", "deep": [{"client_secret": "s3cret"}], "half": "\ud800",
    }  # fmt: skip

    async def main():
        async with opened(url) as (audit, _):
            audit.record(Principal("a\0\ud800", "none", frozenset()), "x" * 300, "t" * 9999, detail=detail)
            audit.record(ANN, "long", detail={"text": "x" * 99_999})
            await audit.flush()
            assert (await audit.verify()).intact
            return await audit.search(Search())

    long, odd = asyncio.run(main())
    assert len(odd.action) == 100
    shown = json.dumps(odd.detail)
    for secret in ("hunter2", "kairos_x", "abc", ":pw@", "s3cret"):
        assert secret not in shown
    assert odd.detail["headers"]["X-Ok"] == "1"
    assert long.detail == {"left_out": "100011 characters", "keys": ["text"]}


def test_what_could_not_be_written_in_the_end_is_in_the_log(monkeypatch, tmp_path):
    said = []
    monkeypatch.setattr(module, "log", Mock(error=lambda event, **words: said.append((event, words.get("action")))))

    async def main():
        audit = Audit(Database(f"sqlite:///{tmp_path}/no/such/folder.db"), "one")
        audit.record(ANN, "last.words")
        audit.start()
        await audit.close(0.1)

    asyncio.run(main())
    assert ("an audit entry could not be kept", "last.words") in said


# --- what the API writes into it ---


class _Commands:
    """Nothing that the tests below call."""

    def cache(self):
        raise RuntimeError("broken")


@contextlib.asynccontextmanager
async def served(tmp_path, who, listener="remote"):
    async with opened(f"sqlite:///{tmp_path / 'kairos.db'}") as (audit, database):

        async def known(_connection):
            return who

        things = dict.fromkeys(wanted(all_handlers()))
        app = make_app({**things, "commands": _Commands(), "database": database, "audit": audit}, [known])

        async def marked(scope, receive, send):
            await app({**scope, "kairos_listener": listener}, receive, send)

        transport = httpx.ASGITransport(marked, raise_app_exceptions=False, client=("192.0.2.9", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://localhost") as client:
            yield client, audit


def asked(tmp_path, who, *requests, listener="remote"):
    """The entries after these requests, oldest first."""

    async def main():
        async with served(tmp_path, who, listener) as (client, audit):
            for method, path, words in requests:
                await client.request(method, path, **words)
            await audit.flush()
            return list(reversed(await audit.search(Search())))

    return asyncio.run(main())


def told(entry):
    return entry.action, entry.target, entry.outcome, entry.detail["status"]


def test_reading_is_not_recorded_but_writing_is(tmp_path):
    found = asked(
        tmp_path, ANN, ("GET", "/api/audit", {}), ("POST", "/api/cache/purge", {"json": {"token": "abc", "x": 1}})
    )
    (entry,) = found
    assert told(entry) == ("cache.purge", "/api/cache/purge", "failed", 422)
    assert entry.detail["body"] == {"token": "***", "x": 1}
    assert (entry.actor, entry.method, entry.address) == ("ann", "session", "192.0.2.9")


def test_who_may_not_is_recorded_reading_too(tmp_path):
    bob = Principal("bob", "token", frozenset({"self"}))
    found = asked(tmp_path, bob, ("GET", "/api/audit", {}), ("PATCH", "/api/backends/x", {"json": {}}))
    assert [told(one) for one in found] == [
        ("audit.search", "/api/audit", "refused", 403), ("backend.change", "x", "refused", 403),
    ]  # fmt: skip
    assert {one.actor for one in found} == {"bob"}


def test_who_is_unknown_is_recorded_with_credentials_or_when_writing(tmp_path):
    found = asked(
        tmp_path, None, ("GET", "/api/audit", {}), ("GET", "/api/audit", {"headers": {"Authorization": "Bearer x"}}),
        ("POST", "/api/reload", {}),
    )  # fmt: skip
    assert [told(one) for one in found] == [
        ("audit.search", "/api/audit", "refused", 401), ("gateway.reload", "/api/reload", "refused", 401),
    ]  # fmt: skip


def test_who_is_unknown_cannot_fill_it(tmp_path):
    found = asked(tmp_path, None, *[("POST", "/api/reload", {})] * 30)
    assert len(found) == recording.DAMPED


def test_what_was_damped_is_counted():
    now = [0.0]
    damper = recording.Damper(lambda: now[0])
    assert damper.ended() == []
    assert sum(damper.admits(NOBODY, f"2001:db8::{number:x}") for number in range(30)) == recording.DAMPED
    now[0] = recording.WINDOW_S
    assert damper.ended() == [("2001:db8::/64", 10)]
    assert damper.admits(NOBODY, "2001:db8::1")


def admitted(damper, now, who, addresses):
    """In ten minutes, with as many refusals a minute from each."""
    found = 0
    for _ in range(10):
        damper.ended()
        found += sum(damper.admits(who, address) for address in addresses for _ in range(20))
        now[0] += recording.WINDOW_S
    return found


def test_many_addresses_cannot_drive_older_entries_out_of_a_log_that_is_bounded():
    now = [0.0]
    damper = recording.Damper(lambda: now[0])
    found = admitted(damper, now, NOBODY, [f"192.0.{high}.{low}" for high in range(2) for low in range(250)])
    assert found == recording.BURST + 9 * recording.STEADY
    left_out = damper.ended()
    assert len(left_out) == recording.TOLD + 1
    assert sum(count for _, count in left_out) == 500 * 20 - recording.STEADY


def test_nor_can_a_user_by_what_they_may_not_do():
    now = [0.0]
    damper = recording.Damper(lambda: now[0])
    assert admitted(damper, now, ANN, ["192.0.2.1"] * 100) == 10 * recording.DAMPED_USER
    assert damper.ended() == [("user ann", 2000 - recording.DAMPED_USER)]


def test_a_login_that_succeeds_is_kept_however_many_fail(tmp_path):
    async def main():
        async with access_app.served(f"sqlite:///{tmp_path / 'kairos.db'}") as s:
            await s.add("ann", "viewer")
            for _ in range(30):
                await s.client().post("/api/reload")
            await s.logged_in("ann")
            return [one.outcome for one in await s.entries(action="login")]

    assert asyncio.run(main()) == ["done"]


def test_what_is_sent_with_a_password_is_not_kept_however_it_is_spelled(tmp_path):
    body = {"current_password": "hush", "new_pass": "hush"}
    (entry,) = asked(tmp_path, ANN, ("POST", "/api/me/password", {"json": body}))
    assert entry.detail["status"] in (400, 422)
    assert "hush" not in json.dumps(entry.detail)


@pytest.mark.parametrize(
    "name",
    ["one_time_password", "Password", "apiKey", "api_key", "X-Api-Key", "client-secret", "Authorization", "id_token"],
)
def test_secrets_by_the_names_they_go_by(tmp_path, name):
    (entry,) = asked(tmp_path, ANN, ("POST", "/api/cache/purge", {"json": {"set": {name: "hush"}, "urls": ["/x"]}}))
    assert entry.detail["body"] == {"set": {name: "***"}, "urls": ["/x"]}


def test_what_nobody_sends_is_not_kept(tmp_path):
    (entry,) = asked(tmp_path, None, ("POST", "/api/reload", {"json": {"filler": "x" * 4000}}))
    assert entry.detail == {"status": 401}


def test_a_failure_is_recorded_as_one(tmp_path):
    (entry,) = asked(tmp_path, ANN, ("POST", "/api/cache/purge", {"json": {"urls": ["/x"]}}))
    assert entry.outcome == "failed"


def test_the_local_administrator_and_request_ids(tmp_path):
    words = {"content": b"{" + b"x" * 9000, "headers": {"X-Request-Id": "r-1"}}
    (entry,) = asked(tmp_path, None, ("POST", "/api/cache/purge", words), listener="local")
    assert (entry.actor, entry.method, entry.address, entry.request_id) == ("local", "local", "local", "r-1")
    assert entry.detail["body"] == "too long to keep"


def test_the_answer_names_the_request(tmp_path):
    async def main():
        async with served(tmp_path, ANN) as (client, _):
            given = await client.get("/api/audit", headers={"X-Request-Id": "mine"})
            made = await client.get("/api/audit", headers={"X-Request-Id": "with space"})
            return given.headers["x-request-id"], made.headers["x-request-id"]

    given, made = asyncio.run(main())
    assert given == "mine"
    assert len(made) == 16


def test_search_export_and_verify_by_api(tmp_path):
    async def main():
        async with served(tmp_path, ANN) as (client, audit):
            audit.record(ANN, "a", "=1+1", detail={"x": "1,2"})
            audit.record(NOBODY, "b", "2", "refused")
            await audit.flush()
            found = [await client.get(path) for path in (
                "/api/audit?limit=1", "/api/audit?before=2", "/api/audit?outcome=refused&since=2020-01-01T00:00:00Z",
                "/api/audit/export", "/api/audit/export?format=csv&actor=ann", "/api/audit/verify",
                "/api/audit?outcome=x",
            )]  # fmt: skip
            return found

    page, older, refused, lines, table, verdict, wrong = asyncio.run(main())
    assert ([one["action"] for one in page.json()["entries"]], page.json()["next"]) == (["b"], 2)
    assert ([one["action"] for one in older.json()["entries"]], older.json()["next"]) == (["a"], None)
    assert [one["action"] for one in refused.json()["entries"]] == ["b"]
    assert [json.loads(line)["action"] for line in lines.text.splitlines()] == ["a", "b"]
    assert lines.headers["content-disposition"].endswith('"kairos-audit.jsonl"')
    rows = list(csv.DictReader(io.StringIO(table.text)))
    assert [(row["target"], json.loads(row["detail"])) for row in rows] == [("'=1+1", {"x": "1,2"})]
    assert verdict.json()["intact"] is True
    assert wrong.status_code in (400, 422)
