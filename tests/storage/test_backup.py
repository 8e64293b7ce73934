"""Backups: everything comes back, from one kind of database into the other too; what is damaged changes nothing."""

import asyncio
import io
import tarfile

import pytest
from sqlalchemy import insert, select

from kairos.storage.backup import Backup, BackupError, write_backup
from kairos.storage.database import Database
from kairos.storage.schema import revisions, settings, user_roles, users

REVISION = {
    "number": 3, "parent": None, "time": 1.5, "author": "ann", "origin": "api", "message": "first", "node": "a",
    "format": "json", "name": "config.json", "text": b'{"routers": []}\xff', "sha256": "0" * 64, "diff": "[]",
    "version": "1",
}  # fmt: skip


@pytest.fixture
def places(tmp_path, postgres):
    return {
        "sqlite": f"sqlite:///{tmp_path / 'one.db'}",
        "other": f"sqlite:///{tmp_path / 'two.db'}",
        "postgresql": postgres.database(),
    }


async def saved(url):
    database = Database(url)
    await database.start()
    async with database.write() as connection:
        await connection.execute(insert(revisions).values(**REVISION))
        await connection.execute(insert(settings), [{"key": f"key-{n}", "value": "1"} for n in range(1200)])
    out = io.BytesIO()
    async with database.read() as connection:
        counts = await connection.run_sync(lambda c: write_backup(out, c, {"config.json": b"{}"}, version="1"))
    await database.close()
    return out.getvalue(), counts


async def restored(url, data):
    database = Database(url)
    await database.start()
    try:
        async with database.write() as connection:
            await connection.execute(insert(settings).values(key="mine", value="2"))
        async with database.write() as connection:
            await connection.run_sync(Backup(io.BytesIO(data)).restore)
    finally:
        async with database.read() as connection:
            rows = (await connection.execute(select(settings.c.key))).scalars().all()
            row = (await connection.execute(select(revisions))).mappings().first()
        await database.close()
        restored.found = (len(rows), dict(row) if row else None)
    return restored.found


@pytest.mark.parametrize(
    ("source", "target"), [("sqlite", "other"), ("sqlite", "postgresql"), ("postgresql", "sqlite")]
)
def test_everything_comes_back(places, source, target):
    data, counts = asyncio.run(saved(places[source]))
    assert (counts["revisions"], counts["settings"], counts["users"]) == (1, 1200, 0)
    assert asyncio.run(restored(places[target], data)) == (1200, REVISION)
    assert Backup(io.BytesIO(data)).files() == {"config.json": b"{}"}


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
def test_rows_that_refer_to_others_come_back_and_new_ones_get_the_next_number(places, kind):
    async def main():
        database = Database(places[kind])
        await database.start()
        user = {"name": "ann", "password_hash": None, "created_at": 1.0, "password_changed_at": 1.0}
        async with database.write() as connection:
            await connection.execute(insert(users).values(id=7, **user))
            roles = user_roles.c.role.foreign_keys
            target = next(iter(roles)).column.table
            await connection.execute(insert(target).values(name="viewer", permissions="[]"))
            await connection.execute(insert(user_roles).values(user_id=7, role="viewer"))
        out = io.BytesIO()
        async with database.read() as connection:
            await connection.run_sync(lambda c: write_backup(out, c, {}, version="1"))
        async with database.write() as connection:
            await connection.run_sync(Backup(io.BytesIO(out.getvalue())).restore)
        async with database.write() as connection:
            rows = (await connection.execute(select(user_roles))).all()
            new = await connection.execute(insert(users).values(**user | {"name": "bob"}))
        await database.close()
        return [tuple(row) for row in rows], new.inserted_primary_key[0]

    assert asyncio.run(main()) == ([(7, "viewer")], 8)


@pytest.mark.parametrize("damage", ["cut", "text", "missing"])
def test_a_damaged_one_changes_nothing(places, damage):
    data, _ = asyncio.run(saved(places["sqlite"]))
    broken = {"cut": data[: len(data) // 2], "text": b"hello", "missing": without(data, "tables/settings.jsonl")}[
        damage
    ]
    with pytest.raises(BackupError):
        asyncio.run(restored(places["other"], broken))
    assert restored.found == (1, None)


def without(data, name):
    out = io.BytesIO()
    with tarfile.open(fileobj=io.BytesIO(data)) as old, tarfile.open(fileobj=out, mode="w:gz") as new:
        for member in old:
            if member.name != name:
                new.addfile(member, old.extractfile(member))
    return out.getvalue()
