"""The first enqueue of any kind creates the tables that it needs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import servers
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

import dexpy
from dexpy import Operation, enqueue_all
from dexpy.errors import DatabaseUnavailable
from dexpy.foundation.errors import SchemaMissing
from dexpy.runtime import Runtime

pytestmark = pytest.mark.servers


class Ping(Operation, name="first.ping"):
    record = False

    def perform(self) -> None: ...


class Note(Operation, name="first.note"):
    def perform(self) -> None: ...


@pytest.fixture(params=["postgresql", "mariadb"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[str]:
    with servers.database(request.param, tmp_path) as database_url:
        yield database_url


@pytest.fixture
def broker() -> Generator[str]:
    with servers.broker("redis") as url:
        yield str(url)


async def _together() -> None:
    await asyncio.gather(*(Ping().async_().acall() for _ in range(5)))


def _in_threads(_: Runtime) -> None:
    raised: list[BaseException] = []

    def send() -> None:
        try:
            Ping().async_().call()
        except BaseException as error:
            raised.append(error)

    threads = [threading.Thread(target=send) for _ in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if raised:
        raise raised[0]


def _in_a_session(runtime: Runtime) -> None:
    with Session(runtime.store.database.engine) as session, session.begin(), dexpy.session(session):
        session.execute(sa.text("SELECT 1"))
        Ping().async_().call()


WAYS: dict[str, Callable[[Runtime], Any]] = {
    "one": lambda _: Ping().async_().call(),
    "another queue": lambda _: Ping().async_(queue="urgent").call(),
    "soon": lambda _: Ping().async_(in_=1).call(),
    "later": lambda _: Ping().async_(in_=timedelta(hours=1)).call(),
    "many": lambda _: enqueue_all([Ping(), Ping()]),
    "mixed": lambda _: enqueue_all([Ping(), Note()]),
    "asyncio": lambda _: asyncio.run(_together()),
    "threads": _in_threads,
    "in a session": _in_a_session,
}


@pytest.mark.parametrize("way", WAYS)
def test_d10_the_first_enqueue_creates_the_tables(url: str, broker: str, way: str) -> None:
    runtime = dexpy.configure(database=url, broker=broker, create_tables=True)
    try:
        WAYS[way](runtime)
        with runtime.store.begin() as connection:
            names = set(connection.execute(sa.text("SELECT name FROM operation_queues")).scalars())
        assert names == {"urgent"} if way == "another queue" else way == "later" or names == {"default"}
    finally:
        runtime.close()


@pytest.mark.parametrize("way", WAYS)
def test_d10_without_create_tables_the_missing_tables_are_named(url: str, broker: str, way: str) -> None:
    runtime = dexpy.configure(database=url, broker=broker)
    try:
        with pytest.raises(DatabaseUnavailable, match="no table operation_queues") as refused:
            WAYS[way](runtime)
        assert isinstance(refused.value, SchemaMissing)
        assert "Run: dexpy db init --app MODULE" in str(refused.value)
    finally:
        runtime.close()


def test_d10_the_tables_of_a_database_that_is_only_a_broker_are_created_too(url: str) -> None:
    runtime = dexpy.configure(broker=url, create_tables=True)
    try:
        assert Ping().async_().call()
    finally:
        runtime.close()


def test_d10_an_enqueue_in_a_session_of_the_application_creates_the_tables_too(url: str, broker: str) -> None:
    engine = sa.create_engine(url)
    runtime = dexpy.configure(session_factory=sessionmaker(engine), broker=broker, create_tables=True)
    try:
        with Session(engine) as session, session.begin():
            Ping().async_(session=session).call()
            Note().async_(session=session).call()
    finally:
        runtime.close()
        engine.dispose()
