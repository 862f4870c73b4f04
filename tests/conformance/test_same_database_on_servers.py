"""Servers detect by a nonce whether a connection of the application leads to the database of the records."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import servers
import sqlalchemy as sa
from apps.shop import Customer, Greet, ReadIsolationLevel
from harness.pairs import Pair, open_pair
from harness.proxy import Proxy
from sqlalchemy.orm import Session, sessionmaker

import dexpy
from dexpy import records
from dexpy.database.engine import Database
from dexpy.database.tables import records as table
from dexpy.runtime import install

SERVERS = ["postgresql", "mariadb"]
LOCKS = (
    "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database"
    " WHERE locktype = 'advisory' AND datname = current_database()"
)


@pytest.fixture(params=SERVERS)
def pair(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Pair]:
    with open_pair(f"{request.param}+sql", tmp_path) as opened:
        opened.configure()
        yield opened
        opened.end()
        install(None)


def other(url: str, **parts: Any) -> str:
    return sa.make_url(url).set(**parts).render_as_string(hide_password=False)


def is_same(pair: Pair, url: str) -> bool:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    database = Database(pair.url)
    with engine.connect() as connection:
        result = database.same_as(connection)
    database.dispose()
    return result


@contextlib.contextmanager
def by_another_port(pair: Pair) -> Generator[str]:
    """Yield the URL of the pair's database behind a proxy."""
    proxy = Proxy(pair.url)
    try:
        yield proxy.url
    finally:
        proxy.end()


def options_of(url: str) -> dict[str, str]:
    return {"application_name": "other"} if url.startswith("postgresql") else {"charset": "utf8mb4"}


def test_one_database_by_two_urls_is_the_same(pair: Pair) -> None:
    assert is_same(pair, pair.url)
    assert is_same(pair, other(pair.url, query=options_of(pair.url)))
    with by_another_port(pair) as url:
        assert is_same(pair, url)
        assert is_same(pair, other(url, host="localhost"))


def test_two_databases_of_one_server_are_not_the_same(pair: Pair, tmp_path: Path) -> None:
    kind = "postgresql" if pair.url.startswith("postgresql") else "mariadb"
    with servers.database(kind, tmp_path) as url:
        assert not is_same(pair, url)
    if kind == "mariadb":
        assert not is_same(pair, other(pair.url, database=""))


@pytest.mark.parametrize("pair", ["postgresql"], indirect=True)
def test_a_schema_without_the_tables_is_not_the_same_database(pair: Pair) -> None:
    pair.change("CREATE SCHEMA elsewhere")

    assert not is_same(pair, other(pair.url, query={"options": "-csearch_path=elsewhere"}))


def test_the_comparison_leaves_no_rows_and_ends_no_transaction(pair: Pair) -> None:
    with by_another_port(pair) as url:
        engine = sa.create_engine(url, poolclass=sa.NullPool)
        database = Database(pair.url)
        with Session(engine) as session:
            session.add(Customer(id=99, name="Dee"))
            session.flush()
            transaction = session.get_transaction()
            assert database.same_as(session.connection())
            assert session.get_transaction() is transaction
            if pair.url.startswith("postgresql"):
                assert pair.sql(LOCKS) == [(0,)]
            session.rollback()
        assert pair.sql("SELECT count(*) FROM customers WHERE name = 'Dee'") == [(0,)]
        database.dispose()
        engine.dispose()


def test_a_session_with_another_url_stores_the_record_in_its_transaction(pair: Pair) -> None:
    with by_another_port(pair) as url:
        engine = sa.create_engine(url)
        with Session(engine) as session:
            Greet(name="rolled back").async_(session=session).call()
            session.rollback()
            assert records.all().count() == 0
            ticket = Greet(name="kept").async_(session=session).call()
            assert records.all().count() == 0
            session.commit()
        assert [record.id for record in records.pending()] == [ticket.id]
        engine.dispose()


@pytest.mark.parametrize("pair", ["postgresql"], indirect=True)
def test_an_async_session_with_another_url_stores_the_record_in_its_transaction(pair: Pair) -> None:
    pytest.importorskip("greenlet")
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    async def main(url: str) -> str:
        engine = create_async_engine(url, poolclass=sa.NullPool)
        async with AsyncSession(engine) as session:
            ticket = await Greet(name="kept").async_(session=session).acall()
            assert records.all().count() == 0
            await session.commit()
        await engine.dispose()
        return ticket.id

    with by_another_port(pair) as url:
        id = asyncio.run(main(url))

    assert [record.id for record in records.pending()] == [id]


def test_the_record_of_a_session_on_another_database_is_stored_after_its_commit(pair: Pair, tmp_path: Path) -> None:
    kind = "postgresql" if pair.url.startswith("postgresql") else "mariadb"
    with servers.database(kind, tmp_path) as url:
        engine = sa.create_engine(url)
        with engine.begin() as connection:
            Customer.__table__.create(connection)
        with Session(engine) as session:
            session.add(Customer(name="Dee"))
            ticket = Greet(name="kept").async_(session=session).call()
            session.commit()
        assert pair.sql(sa.select(table.c.id)) == [(ticket.id,)]
        engine.dispose()


def test_an_unavailable_records_database_breaks_no_call_on_another_database(pair: Pair, tmp_path: Path) -> None:
    kind = "postgresql" if pair.url.startswith("postgresql") else "mariadb"
    proxy = Proxy(pair.url, open=False)
    with servers.database(kind, tmp_path) as url:
        engine = sa.create_engine(url)
        runtime = dexpy.configure(database=proxy.url, session_factory=sessionmaker(engine))

        assert ReadIsolationLevel().call()

        runtime.close()
        engine.dispose()
    proxy.end()
