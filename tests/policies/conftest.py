"""Fixtures of the policy tests: each test runs on SQLite, PostgreSQL and MariaDB; with real workers where it says so.

On SQLite a test is for every machine; the others carry the mark ``servers``.
"""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import ExitStack
from pathlib import Path

import pytest

sys.path.append(str(Path(__file__).parents[1]))
sys.path.append(str(Path(__file__).parents[1] / "conformance"))
sys.path.append(str(Path(__file__).parents[1] / "journeys"))

import sqlalchemy as sa
from crew import Crew, opened
from rooms import Rooms, furnish

from dexpy.runtime import install
from dexpy.testing import Isolated, isolated

DATABASES = [
    pytest.param("sqlite"),
    pytest.param("postgresql", marks=pytest.mark.servers),
    pytest.param("mariadb", marks=pytest.mark.servers),
]
PAIRS = [
    pytest.param("sqlite+sql"),
    pytest.param("postgresql+redis", marks=pytest.mark.servers),
    # Once more with real workers, and the longest: not at every change.
    pytest.param("mariadb+sql", marks=[pytest.mark.servers, pytest.mark.wide]),
    pytest.param("postgresql+rabbitmq", marks=[pytest.mark.servers, pytest.mark.wide]),
]


@pytest.fixture(scope="session")
def rooms(tmp_path_factory: pytest.TempPathFactory) -> Generator[Rooms]:
    """The databases on servers that the tests of this process use in turn."""
    with ExitStack() as stack:
        yield Rooms(stack, tmp_path_factory.mktemp("rooms"))


@pytest.fixture(params=DATABASES)
def database_url(request: pytest.FixtureRequest, tmp_path: Path, rooms: Rooms) -> Generator[str]:
    """An empty database with dexpy's tables, of each kind in turn."""
    if request.param == "sqlite":
        url = f"sqlite:///{tmp_path / 'records.db'}"
        furnish(url)
        yield url
        return
    with rooms.room(request.param) as url:
        yield url


@pytest.fixture
def test(database_url: str) -> Generator[Isolated]:
    """A runtime on that database, whose queue is in it too; `run_pending` is its worker."""
    with isolated(database=database_url) as found:
        yield found


@pytest.fixture
def engine(database_url: str) -> Generator[sa.Engine]:
    """To look at that database, and to change it, past dexpy."""
    made = sa.create_engine(database_url, poolclass=sa.NullPool)
    yield made
    made.dispose()


@pytest.fixture(params=PAIRS)
def crew(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Crew]:
    """A database and a broker, configured in this process; the test starts the workers, which rescue within 5 s."""
    with opened(request.param, tmp_path, request.module.APPLICATION) as found:
        found.configure()
        yield found
    install(None)
