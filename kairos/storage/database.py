"""The control process's database: SQLite in the state folder, or PostgreSQL by URL; brought up to date at the start.

    async with database.read() as connection: ...       no transaction of its own
    async with database.write() as connection: ...      one transaction; commits at the end, or not at all

Whatever keeps it from working (locked, full, gone) is an `UnavailableError` that says so; nothing else of the gateway
waits for it. With SQLite one writer at a time is let in: the others wait here and not in the database.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from alembic.config import Config as AlembicConfig
from alembic.runtime.environment import EnvironmentContext
from alembic.script import ScriptDirectory
from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, OperationalError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import await_only

from kairos.storage.schema import metadata

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from sqlalchemy.engine import URL, Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

DATABASE = "kairos.db"
MIGRATIONS = Path(__file__).with_name("migrations")
BUSY_S = 5.0
CONNECT_S = 5.0
STATEMENT_S = 15.0
READY_S = 3.0
SWITCH_S = 0.02
_MIGRATION_LOCK = 0x6B6169726F73  # of PostgreSQL's advisory locks: one node migrates, the others wait for it


class UnavailableError(Exception):
    """The database does not work now; the text says why."""


class Database:
    """`start`, then use it, then `close`."""

    def __init__(self, url: str) -> None:
        """Of SQLAlchemy's form, or `postgresql://…`. Raises ValueError."""
        self._url = _with_driver(url)
        self._engine = _engine(self._url)
        self._writing = asyncio.Lock()
        self.ready = asyncio.Event()
        """Set once it is up to date."""

    @classmethod
    def in_folder(cls, folder: Path) -> Database:
        """The embedded one."""
        return cls(f"sqlite:///{folder / DATABASE}")

    @property
    def started(self) -> bool:
        """Whether it is up to date."""
        return self.ready.is_set()

    @property
    def shared(self) -> bool:
        """Whether other nodes may use it."""
        return not self._embedded

    @property
    def engine(self) -> AsyncEngine:
        return self._engine

    @property
    def dialect(self) -> str:
        return self._url.get_backend_name()

    @property
    def shown(self) -> str:
        """Without the password."""
        return self._url.render_as_string(hide_password=True)

    @property
    def _embedded(self) -> bool:
        return self.dialect == "sqlite"

    async def start(self) -> None:
        """Make what is not there and bring it up to date. Raises UnavailableError; may be tried again."""
        if self._embedded and self._url.database:
            _private(Path(self._url.database))
        async with self._transaction() as connection:
            if not self._embedded:
                await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _MIGRATION_LOCK})
            await connection.run_sync(migrate)
        self.ready.set()

    async def close(self) -> None:
        await self._engine.dispose()

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """Raises UnavailableError."""
        await self._reached()
        with _explained():
            async with self._engine.connect() as connection:
                yield connection

    @contextlib.asynccontextmanager
    async def write(self) -> AsyncIterator[AsyncConnection]:
        """All or nothing. Raises UnavailableError."""
        await self._reached()
        async with self._transaction() as connection:
            yield connection

    async def _reached(self) -> None:
        """A moment after the start it may still be brought up to date: who asks then waits."""
        if not self.started:
            try:
                await asyncio.wait_for(self.ready.wait(), READY_S)
            except TimeoutError:
                raise UnavailableError("the database was not reached yet; it is tried again") from None

    @contextlib.asynccontextmanager
    async def _transaction(self) -> AsyncIterator[AsyncConnection]:
        async with self._writing if self._embedded else contextlib.nullcontext():
            with _explained():
                async with self._engine.execution_options(writes=True).begin() as connection:
                    yield connection

    async def listen(self, channel: str, heard: Callable[[], None]) -> None:
        """Call `heard` for every notification, until the connection is lost. PostgreSQL's. Raises UnavailableError."""
        import asyncpg

        lost: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        plain = self._url.set(drivername="postgresql").render_as_string(hide_password=False)
        with _explained():
            try:
                connection = await asyncpg.connect(plain, timeout=CONNECT_S)
            except asyncpg.PostgresError as error:
                raise UnavailableError(f"the database does not work: {error}") from error
            connection.add_termination_listener(lambda _: _settle(lost))
            await connection.add_listener(channel, lambda *_: heard())
            heard()  # what was said before
            try:
                await lost
            finally:
                connection.terminate()


def migrate(connection: Connection, revision: str = "head") -> None:
    """Within the transaction of `connection`."""
    config = AlembicConfig()
    config.set_main_option("script_location", str(MIGRATIONS))
    script = ScriptDirectory.from_config(config)

    def upgrade(current: Any, _context: Any) -> Any:
        return script._upgrade_revs(revision, current)

    with EnvironmentContext(config, script, fn=upgrade, destination_rev=revision) as environment:
        environment.configure(connection=connection, target_metadata=metadata, render_as_batch=True)
        environment.run_migrations()


def _settle(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _with_driver(given: str) -> URL:
    try:
        url = make_url(given)
    except ArgumentError as error:
        raise ValueError("not the URL of a database, such as postgresql://user:password@host/database") from error
    drivers = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}
    name = url.get_backend_name()
    if name not in drivers:
        raise ValueError(f"{name} is none of sqlite and postgresql")
    return url.set(drivername=drivers[name])


def _engine(url: URL) -> AsyncEngine:
    if url.get_backend_name() == "sqlite":
        pool: dict[str, Any] = {"pool_size": 4, "max_overflow": 4} if url.database else {}  # in memory there is but one
        engine = create_async_engine(url, connect_args={"timeout": BUSY_S}, **pool)
        event.listen(engine.sync_engine, "connect", _prepare_sqlite)
        event.listen(engine.sync_engine, "begin", _begin)
        return engine
    server = {"application_name": "kairos", "statement_timeout": f"{int(STATEMENT_S * 1000)}"}
    options = {"timeout": CONNECT_S, "command_timeout": STATEMENT_S, "server_settings": server}
    return create_async_engine(url, connect_args=options, pool_size=4, max_overflow=4, pool_pre_ping=True)


def _prepare_sqlite(connection: Any, _record: object) -> None:
    connection.isolation_level = None  # transactions are begun below, not by the driver
    cursor = connection.cursor()
    _into_wal(cursor)
    for pragma in ("synchronous=NORMAL", "foreign_keys=ON", "journal_size_limit=16777216"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _into_wal(cursor: Any) -> None:
    """A new file is switched once, for which SQLite does not wait while another connection of it is about to write."""
    give_up = time.monotonic() + BUSY_S
    while True:
        try:
            cursor.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            await_only(asyncio.sleep(SWITCH_S))
        else:
            return


def _begin(connection: Connection) -> None:
    connection.exec_driver_sql("BEGIN IMMEDIATE" if connection.get_execution_options().get("writes") else "BEGIN")


def _private(path: Path) -> None:
    """Only this user reads it: there are secrets in it."""
    with contextlib.suppress(OSError):
        path.touch(mode=0o600, exist_ok=True)


@contextlib.contextmanager
def _explained() -> Any:
    try:
        yield
    except (OperationalError, InterfaceError, PoolTimeoutError, OSError, TimeoutError) as error:
        raise UnavailableError(_reason(error)) from error
    except DBAPIError as error:
        if error.connection_invalidated:
            raise UnavailableError(_reason(error)) from error
        raise


def _reason(error: SQLAlchemyError | OSError) -> str:
    cause = getattr(error, "orig", None) or error
    return f"the database does not work: {str(cause).splitlines()[0] if str(cause) else type(cause).__name__}"
