"""`Database.autocommit`: a statement is committed at once, and the connection returns to the pool unchanged."""

from __future__ import annotations

import os
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import servers
import sqlalchemy as sa

from dexpy.database.engine import Database

LEVELS = [None, "REPEATABLE READ", "SERIALIZABLE"]


@pytest.fixture
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    with servers.database(request.param, tmp_path) as database_url:
        yield database_url


def on(*kinds: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("url", kinds, indirect=True)


def open_with_one_connection(url: str, level: str | None) -> tuple[Database, sa.Engine]:
    """Return a database with a pool of one connection and a table, and a separate engine to read the table."""
    options = {} if level is None else {"isolation_level": level}
    database = Database(url, engine=sa.create_engine(url, pool_size=1, max_overflow=0, **options))
    with database.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE numbers (number INTEGER)")
    return database, sa.create_engine(url, poolclass=sa.NullPool)


def numbers(engine: sa.Engine) -> list[int]:
    with engine.connect() as connection:
        return list(connection.exec_driver_sql("SELECT number FROM numbers ORDER BY number").scalars())


@on("postgresql")
@pytest.mark.parametrize("level", LEVELS)
def test_on_postgresql_the_block_has_no_transaction_and_the_isolation_level_is_restored(
    url: str, level: str | None
) -> None:
    database, outside = open_with_one_connection(url, level)
    with database.connect() as connection:
        before = connection.get_isolation_level()
        session = connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()

    with database.autocommit() as connection:
        connection.exec_driver_sql("INSERT INTO numbers VALUES (1)")
        assert numbers(outside) == [1], "committed within the block"

    with pytest.raises(ZeroDivisionError), database.begin() as connection:
        assert connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one() == session
        assert connection.get_isolation_level() == before
        connection.exec_driver_sql("INSERT INTO numbers VALUES (2)")
        raise ZeroDivisionError
    assert numbers(outside) == [1]
    database.engine.dispose()


@on("postgresql")
def test_a_statement_on_postgresql_is_one_round_trip(url: str, tmp_path: Path) -> None:
    database, _ = open_with_one_connection(url, None)
    file = (tmp_path / "said").open("w+")
    with database.connect() as connection:
        line = connection.connection.driver_connection.pgconn

    def count_round_trips(block: Callable[[], AbstractContextManager[sa.Connection]]) -> int:
        """Return how often a block waited for the server."""
        offset = os.path.getsize(file.name)
        line.trace(file.fileno())
        with block() as connection:
            connection.exec_driver_sql("INSERT INTO numbers VALUES (1)")
        line.untrace()
        file.seek(offset)
        return sum(entry.split("\t")[1:4:2] in (["F", "Sync"], ["F", "Query"]) for entry in file)

    assert count_round_trips(database.autocommit) == 1
    assert count_round_trips(database.begin) > 1
    file.close()
    database.engine.dispose()


@on("postgresql")
def test_the_isolation_level_is_restored_after_a_failure(url: str) -> None:
    database, outside = open_with_one_connection(url, None)

    with pytest.raises(sa.exc.ProgrammingError), database.autocommit() as connection:
        connection.exec_driver_sql("INSERT INTO numbers VALUES (1)")
        connection.exec_driver_sql("INSERT INTO nowhere VALUES (1)")

    assert numbers(outside) == [1]
    with pytest.raises(ZeroDivisionError), database.begin() as connection:
        connection.exec_driver_sql("INSERT INTO numbers VALUES (2)")
        raise ZeroDivisionError
    assert numbers(outside) == [1]
    database.engine.dispose()


@on("sqlite", "mariadb")
def test_on_other_databases_the_block_is_a_transaction(url: str) -> None:
    database, outside = open_with_one_connection(url, None)

    with database.autocommit() as connection:
        connection.exec_driver_sql("INSERT INTO numbers VALUES (1)")
    with pytest.raises(ZeroDivisionError), database.autocommit() as connection:
        connection.exec_driver_sql("INSERT INTO numbers VALUES (2)")
        raise ZeroDivisionError

    assert numbers(outside) == [1]
    database.engine.dispose()
