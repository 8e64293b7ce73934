"""How long the audit log is kept: what goes, what shows that it went by the rule, and what it does not excuse."""

import asyncio
import contextlib
import json

import pytest
from sqlalchemy import delete, select, update

from kairos.config.admin import AdminAudit
from kairos.control.access import audit as module
from kairos.control.access.audit import Audit, Search
from kairos.control.access.permissions import ALL
from kairos.control.access.principal import Principal
from kairos.control.access.retention import DAY_S, Old, due
from kairos.storage import schema
from kairos.storage.database import Database, UnavailableError

ANN = Principal("ann", "session", ALL)
DAYS = AdminAudit(days=10, entries=0)
DAY = 1_000 * DAY_S


class Clock:
    now = DAY

    def __call__(self):
        return self.now


@contextlib.asynccontextmanager
async def opened(url, clock, kept=DAYS, node="one"):
    database = Database(url)
    await database.start()
    audit = Audit(database, node, clock, kept)
    audit.start()
    yield audit, database
    await audit.close()
    await database.close()


async def filled(audit, clock, days=20):
    """Two entries a day; the clock stands at the last of the days."""
    for _ in range(days):
        for number in range(2):
            audit.record(ANN, "a", str(number))
        await audit.flush()
        clock.now += DAY_S


async def change(database, *statements):
    async with database.write() as connection:
        for statement in statements:
            await connection.execute(statement)


# --- the rule ---


def old(*times):
    return [Old(number + 1, time, "") for number, time in enumerate(times)]


def test_what_is_due():
    now = 100 * DAY_S + 5
    assert due([], 0, DAYS, now) is None
    assert due(old(90 * DAY_S, 90 * DAY_S), 2, DAYS, now) is None
    assert due(old(89 * DAY_S, 90 * DAY_S - 1, 90 * DAY_S), 3, DAYS, now).number == 2
    assert due(old(1.0, 95 * DAY_S, 1.0), 3, DAYS, now).number == 1  # a clock that went wrong leaves no gap
    assert due(old(1.0, 2.0), 2, AdminAudit(days=0, entries=0), now) is None


def test_what_is_too_much():
    kept = AdminAudit(days=0, entries=200)
    assert due(old(*range(50)), 200, kept, 0.0) is None
    assert due(old(*range(50)), 201, kept, 0.0).number == 4  # and a hundredth more
    assert due(old(*range(50)), 1000, kept, 0.0).number == 50  # all of a batch


# --- on both databases ---


def test_what_was_kept_long_enough_goes_and_the_chain_stays_whole(url, monkeypatch):
    monkeypatch.setattr(module, "PRUNE_BATCH", 7)
    clock = Clock()

    async def main():
        async with opened(url, clock) as (audit, _):
            await filled(audit, clock)
            before = await audit.search(Search(), limit=100)
            assert (await audit.prune(), await audit.prune()) == (20, 0)
            first = await audit.verify()
            audit.record(ANN, "later")
            await audit.flush()
            left = await audit.search(Search(), limit=100)
            clock.now += 5 * DAY_S
            assert await audit.prune() == 10
            return before, first, left, await audit.verify()

    before, first, left, second = asyncio.run(main())
    assert (first.intact, first.pruned, first.entries) == (True, 20, 23)  # three batches, an entry about each
    assert [one.number for one in left][-1] == 21
    told = next(one for one in left if one.action == "audit.prune")
    known = {one.number: one.hash for one in before}
    assert told.actor == "kairos"
    assert (told.detail["through"], told.detail["hash"], told.detail["intact"]) == (20, known[20], True)
    assert (second.intact, second.pruned) == (True, 30)


def test_the_newest_stay_however_old_the_others_are(url):
    clock = Clock()

    async def main():
        async with opened(url, clock, AdminAudit(days=0, entries=10)) as (audit, _):
            await filled(audit, clock)
            gone = await audit.prune()
            return gone, await audit.verify()

    gone, verdict = asyncio.run(main())
    assert gone == 31
    assert (verdict.intact, verdict.entries) == (True, 10)


def pruned_to(number, hash_):
    note = json.dumps({"number": number, "hash": hash_})
    return update(schema.settings).where(schema.settings.c.key == module.PRUNED).values(value=note)


FORGERIES = {
    "more": lambda rows: (delete(schema.audit).where(schema.audit.c.number <= 25), pruned_to(25, rows[25]["hash"])),
    "no note": lambda _: (delete(schema.settings).where(schema.settings.c.key == module.PRUNED),),
    "its entry": lambda rows: (
        delete(schema.audit).where(schema.audit.c.action == "audit.prune"),
        update(schema.settings).where(schema.settings.c.key == module.HEAD).values(
            value=json.dumps({"number": 40, "hash": rows[40]["hash"]})
        ),
    ),
    "another hash": lambda _: (pruned_to(20, "0" * 64),),
    "only gone": lambda _: (delete(schema.audit).where(schema.audit.c.number <= 25),),
}  # fmt: skip


@pytest.mark.parametrize("how", FORGERIES)
def test_what_somebody_cut_off_is_no_retention(url, how):
    clock = Clock()

    async def main():
        async with opened(url, clock) as (audit, database):
            await filled(audit, clock)
            await audit.prune()
            async with database.read() as connection:
                rows = {row["number"]: row for row in (await connection.execute(select(schema.audit))).mappings()}
            await change(database, *FORGERIES[how](rows))
            return await audit.verify()

    verdict = asyncio.run(main())
    assert not verdict.intact
    assert verdict.reason


def test_a_fault_in_what_goes_is_remembered(url):
    clock = Clock()

    async def main():
        async with opened(url, clock) as (audit, database):
            await filled(audit, clock)
            await change(database, update(schema.audit).where(schema.audit.c.number == 5).values(actor="bob"))
            await audit.prune()
            (entry,) = await audit.search(Search(action="audit.prune"))
            return entry.detail, await audit.verify()

    detail, verdict = asyncio.run(main())
    assert (detail["intact"], detail["reason"]) == (False, "5: was changed")
    assert verdict.intact  # what is left is


def test_nodes_prune_one_chain_while_all_write_and_one_verifies(url, monkeypatch):
    monkeypatch.setattr(module, "PRUNE_BATCH", 3)
    monkeypatch.setattr(module, "PAGE", 4)
    clock = Clock()

    async def main():
        async with opened(url, clock) as (one, _), opened(url, clock, node="two") as (two, _):
            await filled(one, clock)
            for number in range(30):
                (one, two)[number % 2].record(ANN, "now", str(number))
            *gone, verdict = await asyncio.gather(one.prune(), two.prune(), one.verify())
            await asyncio.gather(one.flush(20), two.flush(20))
            return sum(gone), verdict, await two.verify()

    gone, during, after = asyncio.run(main())
    assert gone == 20
    assert during.intact
    assert (after.intact, after.pruned, after.number - after.pruned) == (True, 20, after.entries)


def test_it_happens_by_itself_and_follows_the_configuration(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FIRST_PRUNE_S", 0.0)
    monkeypatch.setattr(module, "PRUNE_EVERY_S", 0.01)
    clock = Clock()

    async def main():
        async with opened(f"sqlite:///{tmp_path / 'kairos.db'}", clock, AdminAudit()) as (audit, _):
            await filled(audit, clock)
            assert (await audit.verify()).pruned == 0
            audit.apply(DAYS)
            async with asyncio.timeout(20):
                while (await audit.verify()).pruned < 20:
                    await asyncio.sleep(0.01)

    asyncio.run(main())


def test_a_database_that_is_away_is_tried_again(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "FIRST_PRUNE_S", 0.0)
    monkeypatch.setattr(module, "PRUNE_EVERY_S", 0.01)

    async def main():
        async with opened(f"sqlite:///{tmp_path / 'kairos.db'}", Clock()) as (audit, _):
            tries = []

            async def fails():
                tries.append(1)
                raise UnavailableError("away") if len(tries) == 1 else RuntimeError("broken")

            audit.prune = fails
            async with asyncio.timeout(20):
                while len(tries) < 3:
                    await asyncio.sleep(0.01)

    asyncio.run(main())
