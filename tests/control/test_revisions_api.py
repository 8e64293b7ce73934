"""The history of the configuration over the admin API: whose doing each revision was, what it changed, the way back."""

import asyncio
import json
import signal

import pytest

from kairos.config.text import ConfigText
from kairos.control.ledger import Filter, Ledger
from kairos.storage.database import Database
from kairos.storage.revisions import Revisions
from tests.support.gateway import gateway, route

NOWHERE = "http://127.0.0.1:9"
SECRET = "0123456789abcdef0123456789abcdef"


def new_route(path):
    return {"external_path": path, "internal_path": path, "methods": ["GET"], "backends": [{"host": NOWHERE}]}


@pytest.fixture(scope="module")
def g():
    with gateway({"routers": [route("/kept", NOWHERE)], "jwt": {"secret": SECRET}}) as made:
        yield made


def ask(g, method, path, body=b"", status=200):
    found, answer = g.admin(method, path, body)
    assert found == status, answer
    return answer


def test_each_change_has_its_number_author_message_and_diff(g):
    made = ask(g, "POST", "/api/routes?message=for+the+shop", new_route("/shop"), 201)
    newest = ask(g, "GET", "/api/revisions?limit=1")[0]
    assert (newest["number"], newest["author"], newest["origin"], newest["message"]) == (
        made["revision"], "local", "api", "for the shop",
    )  # fmt: skip
    shown = ask(g, "GET", f"/api/revisions/{made['revision']}")
    assert shown["revision"] == newest
    assert [(change["op"], change["route"]) for change in shown["diff"]] == [("add", "GET /shop")]
    assert SECRET not in json.dumps(shown)


def test_reloads_are_revisions_too(g):
    before = ask(g, "GET", "/api/revisions?limit=1")[0]
    g.config_path.write_text(g.config_path.read_text() + "\n")
    g.signal(signal.SIGHUP)

    def newest_written():
        found = ask(g, "GET", "/api/revisions?limit=1")[0]
        return found if found["number"] > before["number"] and found["parent"] is not None else None

    g.wait(newest_written, "the revision, in the database")
    newest = newest_written()
    assert (newest["origin"], newest["author"], newest["parent"]) == ("signal", "", before["number"])


def test_one_call_goes_back(g):
    before = ask(g, "GET", "/api/config/status")
    made = ask(g, "POST", "/api/routes", new_route("/mistake"), 201)
    back = ask(g, "POST", f"/api/revisions/{before['revision']}/rollback")
    assert back["revision"] > made["revision"]
    assert back["etag"] == before["etag"] == ask(g, "GET", "/api/config/status")["etag"]
    assert [change["op"] for change in back["diff"]] == ["remove"]
    newest = ask(g, "GET", "/api/revisions?limit=1")[0]
    assert (newest["origin"], newest["message"]) == ("rollback", f"back to revision {before['revision']}")
    assert b" 404 " in g.get("/mistake")[0]


def test_two_revisions_are_compared(g):
    first = ask(g, "GET", "/api/config/status")["revision"]
    last = ask(g, "POST", "/api/routes", new_route("/compared"), 201)["revision"]
    forth = ask(g, "GET", f"/api/revisions/{last}/diff?against={first}")
    assert [(change["op"], change["route"]) for change in forth["diff"]] == [("add", "GET /compared")]
    assert f"+++ revision {last}" in forth["text_diff"]
    assert ask(g, "GET", f"/api/revisions/{first}/diff")["after"] == last


def test_pages_and_filters(g):
    ask(g, "POST", "/api/routes", new_route("/paged"), 201)
    every = ask(g, "GET", "/api/revisions")
    assert [one["number"] for one in every] == sorted((one["number"] for one in every), reverse=True)
    assert ask(g, "GET", f"/api/revisions?limit=1&before={every[0]['number']}") == every[1:2]
    assert ask(g, "GET", "/api/revisions?author=local") == [one for one in every if one["author"] == "local"]
    assert ask(g, "GET", "/api/revisions?origin=start") == [one for one in every if one["origin"] == "start"] != []
    assert ask(g, "GET", f"/api/revisions?until={every[-1]['time']}") == []
    assert ask(g, "GET", "/api/config/history") == every


@pytest.mark.parametrize("path", ["/api/revisions/9999", "/api/revisions/9999/diff", "/api/revisions/9999/rollback"])
def test_what_is_not_kept(g, path):
    ask(g, "POST" if path.endswith("rollback") else "GET", path, status=404)


# --- the ledger alone -----------------------------------------------------------------------------------------------


def text(number):
    config = {"routers": [new_route(f"/{number}")]}
    return ConfigText(json.dumps(config).encode(), "json", "config.json", "api", "ann", f"change {number}", "older")


async def numbers(ledger):
    return [one.number for one in await ledger.page(Filter())]


def test_a_database_that_comes_late_gets_everything(tmp_path):
    async def trace():
        database = Database.in_folder(tmp_path)
        ledger = Ledger(database, "a")
        ledger.note(1, text(1))
        ledger.note(2, text(2))
        assert "not in the history yet" in await ledger.recorded(2)
        assert await numbers(ledger) == [2, 1], "shown all the same"
        await database.start()
        ledger.start()
        assert await ledger.recorded(2) == ""
        assert await numbers(ledger) == [2, 1]
        await ledger.close()
        await database.close()

    asyncio.run(trace())


def test_what_the_state_folder_kept_is_taken_up(tmp_path):
    kept = Revisions(tmp_path / "revisions")
    for number in (3, 5):
        kept.add(number, text(number), time=number * 1e9, version="1")

    async def trace():
        database = Database.in_folder(tmp_path)
        await database.start()
        ledger = Ledger(database, "a", kept)
        ledger.note(6, text(6))
        ledger.start()
        assert await ledger.recorded(6) == ""
        found = await ledger.page(Filter())
        assert [(one.number, one.parent, one.author, one.message) for one in found] == [
            (6, 5, "ann", "change 6"), (5, 3, "ann", "change 5"), (3, None, "ann", "change 3"),
        ]  # fmt: skip
        await ledger.close()
        await database.close()

    asyncio.run(trace())


def test_a_number_that_another_text_has_gives_way(tmp_path):
    async def trace():
        database = Database.in_folder(tmp_path)
        await database.start()
        ledger = Ledger(database, "a")
        ledger.start()
        for number, content in ((1, 1), (2, 2), (2, 3)):
            ledger.note(number, text(content))
        assert await ledger.recorded(2) == ""
        assert await numbers(ledger) == [3, 2, 1]
        assert ledger.highest == 3
        await ledger.close()
        await database.close()

    asyncio.run(trace())
