"""Fixtures of tests on databases: each test runs on SQLite, PostgreSQL and MariaDB.

On SQLite a test runs on every machine; the others have the mark ``servers``.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa

from dexpy.runtime import install
from dexpy.testing import Isolated, isolated
from harness.policy_workers import PolicyPair, open_pair
from harness.reused_databases import ReusedDatabases, create_tables

DATABASES = [
    pytest.param("sqlite"),
    pytest.param("postgresql", marks=pytest.mark.servers),
    pytest.param("mariadb", marks=pytest.mark.servers),
]
PAIRS = [
    pytest.param("sqlite+sql"),
    pytest.param("postgresql+redis", marks=pytest.mark.servers),
    # The slowest pairs; the pairs above already test the same with real workers.
    pytest.param("mariadb+sql", marks=[pytest.mark.servers, pytest.mark.wide]),
    pytest.param("postgresql+rabbitmq", marks=[pytest.mark.servers, pytest.mark.wide]),
]


@pytest.fixture(scope="session")
def reused_databases(tmp_path_factory: pytest.TempPathFactory) -> Generator[ReusedDatabases]:
    """Yield the databases on servers that the tests of this process share, one test at a time."""
    with ExitStack() as stack:
        yield ReusedDatabases(stack, tmp_path_factory.mktemp("reused_databases"))


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path, reused_databases: ReusedDatabases) -> Generator[str]:
    """Yield the URL of an empty database with dexpy's tables; one for each kind of database."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'records.db'}"
        create_tables(url)
        yield url
        return
    with reused_databases.database(request.param) as url:
        yield url


@pytest.fixture
def isolated_runtime(database_url: str) -> Generator[Isolated]:
    """Yield a runtime with this database and the SQL broker; `run_pending` executes its runs."""
    with isolated(database=database_url) as runtime:
        yield runtime


@pytest.fixture
def engine(database_url: str) -> Generator[sa.Engine]:
    """Yield an engine that reads and changes this database without dexpy."""
    database_engine = sa.create_engine(database_url, poolclass=sa.NullPool)
    yield database_engine
    database_engine.dispose()


@pytest.fixture(params=PAIRS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[PolicyPair]:
    """Yield a database and a broker, configured in this process; workers of the test recover runs within 5 s."""
    with open_pair(request.param, tmp_path, request.module.APPLICATION) as policy_pair:
        policy_pair.configure()
        yield policy_pair
    install(None)
