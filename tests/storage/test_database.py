"""The control process's database, embedded and PostgreSQL: made, brought up to date, all or nothing, gone and back."""

import asyncio
import contextlib
import sqlite3
import stat
import time

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import func, insert, select, text
from sqlalchemy.exc import IntegrityError

from kairos.storage import database as module
from kairos.storage.database import Database, UnavailableError
from kairos.storage.schema import metadata, settings


async def opened(url):
    database = Database(url)
    await database.start()
    return database


def test_the_migrations_make_what_the_schema_says(url):
    async def main():
        database = await opened(url)
        async with database.read() as connection:
            found = await connection.run_sync(lambda c: compare_metadata(MigrationContext.configure(c), metadata))
        await database.close()
        return found

    assert asyncio.run(main()) == []


def test_a_second_start_finds_everything_there(url):
    async def main():
        first = await opened(url)
        async with first.write() as connection:
            await connection.execute(insert(settings).values(key="a", value="1"))
        await first.close()
        second = await opened(url)
        async with second.read() as connection:
            rows = (await connection.execute(select(settings.c.key, settings.c.value))).all()
        await second.close()
        return [tuple(row) for row in rows]

    assert asyncio.run(main()) == [("a", "1")]


def test_nodes_that_start_at_once_migrate_once(url):
    async def main():
        databases = [Database(url) for _ in range(4)]
        await asyncio.gather(*(database.start() for database in databases))
        for database in databases:
            await database.close()

    asyncio.run(main())


def test_a_new_file_to_which_another_process_writes_is_waited_for(tmp_path):
    """SQLite does not wait by itself where the journal's mode changes."""
    with contextlib.closing(sqlite3.connect(tmp_path / "kairos.db", isolation_level=None)) as other:
        other.execute("CREATE TABLE of_others (id)")
        other.execute("BEGIN IMMEDIATE")

        async def main():
            database = Database.in_folder(tmp_path)
            starting = asyncio.create_task(database.start())
            await asyncio.sleep(0.3)
            other.execute("COMMIT")
            await starting
            await database.close()

        asyncio.run(main())
        other.execute("SELECT * FROM settings")  # for it to look at the file
        assert other.execute("PRAGMA journal_mode").fetchall() == [("wal",)]


def test_a_write_that_fails_leaves_nothing(url):
    async def main():
        database = await opened(url)
        with pytest.raises(IntegrityError):
            await _write_twice(database)
        async with database.read() as connection:
            count = await connection.scalar(select(func.count()).select_from(settings))
        await database.close()
        return count

    assert asyncio.run(main()) == 0


async def _write_twice(database):
    async with database.write() as connection:
        for _ in range(2):
            await connection.execute(insert(settings).values(key="a", value="1"))


def test_many_writers_at_once_all_write(url):
    async def main():
        database = await opened(url)

        async def one(number):
            async with database.write() as connection:
                await connection.execute(insert(settings).values(key=str(number), value="1"))

        await asyncio.gather(*map(one, range(50)))
        async with database.read() as connection:
            count = await connection.scalar(select(func.count()).select_from(settings))
        await database.close()
        return count

    assert asyncio.run(main()) == 50


def test_only_this_user_reads_the_embedded_one(tmp_path):
    asyncio.run(_open_and_close(f"sqlite:///{tmp_path / 'kairos.db'}"))
    assert stat.S_IMODE((tmp_path / "kairos.db").stat().st_mode) == 0o600


async def _open_and_close(url):
    await (await opened(url)).close()


def test_a_locked_one_is_unavailable(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "BUSY_S", 0.05)
    path = tmp_path / "kairos.db"

    async def write(database):
        async with database.write() as connection:
            await connection.execute(insert(settings).values(key="a", value="1"))

    async def main():
        database = await opened(f"sqlite:///{path}")
        holder = sqlite3.connect(path, isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(UnavailableError, match="locked"):
            await write(database)
        holder.rollback()
        holder.close()
        await write(database)
        await database.close()

    asyncio.run(main())


def test_one_that_was_not_started_is_unavailable(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "READY_S", 0.05)

    async def main():
        with pytest.raises(UnavailableError, match="not reached yet"):
            async with Database(f"sqlite:///{tmp_path / 'kairos.db'}").read():
                pass

    asyncio.run(main())


def test_a_server_that_is_gone_is_unavailable_and_comes_back(postgres):
    async def main():
        database = await opened(postgres.database())
        postgres.kill()
        with pytest.raises(UnavailableError):
            async with database.read() as connection:
                await connection.execute(text("SELECT 1"))
        postgres.start()
        deadline = time.monotonic() + 25
        while True:
            try:
                async with database.read() as connection:
                    assert await connection.scalar(text("SELECT 1")) == 1
                break
            except UnavailableError:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.05)
        await database.close()

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "what"), [("mysql://a/b", "mysql is none"), ("no url", "not the URL"), ("", "not the URL")]
)
def test_what_is_no_database_is_refused(url, what):
    with pytest.raises(ValueError, match=what):
        Database(url)


def test_a_password_is_not_shown():
    assert "secret" not in Database("postgresql://kairos:secret@db.test/kairos").shown
