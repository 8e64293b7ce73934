"""Settings for all tests, and the servers that many of them share."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog
from hypothesis import HealthCheck, settings

from kairos.telemetry import log
from tests.support.postgres import PostgresServer, postgres_server

# How fast a machine is just now says nothing about the code.
settings.register_profile("kairos", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("kairos")


@pytest.fixture(autouse=True)
def log_as_before() -> Iterator[None]:
    """What a test, or a command that runs in its process, set of the log is gone afterwards."""
    table, first, write, shown = log._levels, log._first, log._write, log._shown
    levels = list(table._levels) if isinstance(table, log._OwnTable) else []
    configured = structlog.get_config()
    yield
    log._levels, log._first, log._write, log._shown = table, first, write, shown
    if isinstance(table, log._OwnTable):
        table._levels = levels
    structlog.configure(**configured)


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A real PostgreSQL for all tests of this process: leave it running. Databases are `postgres.database()`."""
    with postgres_server() as server:
        yield server


@pytest.fixture
def postgres_url(postgres: PostgresServer) -> str:
    """The URL of an empty database of this test's own."""
    return postgres.database()


@pytest.fixture
def here(tmp_path: Path) -> str:
    """The URL of an embedded database that is not there yet."""
    return f"sqlite:///{tmp_path / 'kairos.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest) -> str:
    """Of a database of either kind, empty and this test's own."""
    own: str = request.getfixturevalue("postgres_url" if request.param == "postgresql" else "here")
    return own
