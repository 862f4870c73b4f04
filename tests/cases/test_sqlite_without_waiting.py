"""A thread that holds a transaction on a SQLite file does not wait for itself in any function of dexpy."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, sessionmaker

import dexpy
from dexpy import Lock, Once, Operation, Unique, enqueue_all, records
from dexpy.database import schema
from dexpy.database.engine import Database
from dexpy.errors import DatabaseBusy, DatabaseUnavailable
from dexpy.foundation.errors import SchemaMissing

SOON_S = 5.0
"""Much less than the 30 seconds of a writer's wait, and enough for a busy machine."""


class Base(DeclarativeBase): ...


class Account(Base):
    __tablename__ = "accounts"
    id: Mapped[int] = mapped_column(primary_key=True)


class Open(Operation, name="cases.open"):
    def perform(self) -> int:
        account = Account()
        self.session.add(account)
        self.session.flush()
        return account.id


class OpenOnce(Open, name="cases.open_once"):
    number: int = 1
    once = Once("number")


class OpenUnique(Open, name="cases.open_unique"):
    number: int = 1
    unique = Unique("number")


class OpenLocked(Open, name="cases.open_locked"):
    lock = Lock()


class Ping(Operation, name="cases.ping_on_sqlite"):
    record = False

    def perform(self) -> None: ...


@pytest.fixture
def factory(tmp_path: Path) -> Generator[sessionmaker[Session]]:
    """A session factory on a file that is not in WAL mode and has no tables of dexpy."""
    engine = sa.create_engine(f"sqlite:///{tmp_path}/shop.db", connect_args={"timeout": SOON_S})
    Base.metadata.create_all(engine)
    runtime = dexpy.configure(session_factory=sessionmaker(engine))
    yield runtime.session_factory  # type: ignore[misc]
    runtime.close()
    engine.dispose()


@pytest.fixture(autouse=True)
def _soon() -> Generator[None]:
    start = time.monotonic()
    yield
    assert time.monotonic() - start < SOON_S


def test_d13_a_first_run_that_has_written_is_committed_at_once(factory: sessionmaker[Session]) -> None:
    assert Open().call() == 1
    assert Open().call() == 2
    with factory() as session:
        assert session.query(Account).count() == 2
    assert records.all().count() == 2


WAYS: dict[str, tuple[Callable[[Session], Any], int]] = {
    "call": (lambda _: Open().call(), 1),
    "call with a key": (lambda _: OpenOnce().call(), 1),
    "call with a lock": (lambda _: OpenLocked().call(), 1),
    "enqueue": (lambda _: Open().async_().call(), 1),
    "enqueue in the session": (lambda session: Open().async_(session=session).call(), 1),
    "enqueue in the connection": (lambda session: Open().async_(session=session.connection()).call(), 1),
    "enqueue with a key": (lambda _: OpenOnce().async_().call(), 1),
    "enqueue a unique one": (lambda _: OpenUnique().async_().call(), 1),
    "enqueue without a record": (lambda _: Ping().async_().call(), 0),
    "enqueue all": (lambda _: enqueue_all([Open(), OpenUnique(), OpenOnce()]), 3),
    "enqueue later": (lambda _: Open().async_(in_=60).call(), 1),
    "ask the records": (lambda _: list(records.all()), 0),
    "get a record that is not there": (lambda _: _missing(), 0),
    "explain": (lambda _: Open.explain(), 0),
    "ask the guards": (lambda _: Open.callable(), 0),
    "clear a key": (lambda _: OpenOnce.clear_once(number=1), 0),
}


def _missing() -> None:
    with pytest.raises(dexpy.errors.RecordNotFound):
        records.get("op_nothing")


@pytest.mark.parametrize(
    ("way", "is_first"),
    [
        *((way, True) for way in WAYS),
        *((way, False) for way in ("call", "call with a key", "enqueue", "enqueue all", "ask the records")),
    ],
)
def test_d13_every_entry_point_works_while_the_session_has_written(
    factory: sessionmaker[Session], way: str, is_first: bool
) -> None:
    do, stored = WAYS[way]
    if not is_first:
        # As if an earlier process created the tables: the runtime of this one has not opened the file yet.
        with factory() as session, session.begin():
            schema.create(session.connection())
    with factory() as session, session.begin():
        session.add(Account(id=100))
        session.flush()
        with dexpy.session(session):
            do(session)

    assert records.all().count() == stored


@pytest.mark.parametrize("way", ["call", "enqueue", "enqueue all"])
def test_d13_tables_created_in_a_rolled_back_transaction_are_created_again(
    factory: sessionmaker[Session], way: str
) -> None:
    do, stored = WAYS[way]
    for ends in ("rollback", "rollback", "commit"):
        with factory() as session, dexpy.session(session):
            session.add(Account(id=100))
            session.flush()
            do(session)
            do(session) if way == "call" else None
            getattr(session, ends)()

    assert records.all().count() == (2 if way == "call" else stored)


def test_d13_a_first_awaited_run_is_committed_at_once_too(factory: sessionmaker[Session]) -> None:
    async def main() -> list[int]:
        return [await Open().acall() for _ in range(3)]

    assert asyncio.run(main()) == [1, 2, 3]


def test_d13_the_file_is_switched_to_wal_with_a_later_use(factory: sessionmaker[Session]) -> None:
    with factory() as session, session.begin():
        session.add(Account())
        session.flush()
        assert list(records.all()) == []
        assert session.connection().exec_driver_sql("PRAGMA journal_mode").scalar() == "delete"

    Open().async_().call()

    with sqlite3.connect("shop.db") as plain:
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_d13_the_advice_fits_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "text.db").write_text("This is a text of some length, and no database at all. " * 100)
    (tmp_path / "folder.db").mkdir()
    for name, advice in (
        ("text.db", "Check that it is a SQLite file; "),
        ("folder.db", "The path is a folder."),
        ("nowhere/app.db", f"The folder {tmp_path / 'nowhere'} does not exist."),
    ):
        with pytest.raises(DatabaseUnavailable, match=advice) as refused, Database(f"sqlite:///{name}").begin():
            pass
        assert "writable" not in str(refused.value)
        assert "may write to" not in str(refused.value)


def test_d13_a_lock_that_is_held_is_reported_as_a_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dexpy.database.sqlite.BUSY_TIMEOUT_S", 0.1)
    with sqlite3.connect("held.db", isolation_level=None) as holder:
        holder.execute("CREATE TABLE box (id INTEGER)")
        holder.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DatabaseBusy) as refused:
            dexpy.configure(database="sqlite:///held.db").store.prepare()
        holder.execute("ROLLBACK")

    assert "held SQLite's only write lock" in str(refused.value)
    assert "with dexpy.session(session):" in str(refused.value)
    assert "folder" not in str(refused.value)


def test_d11_a_column_that_is_missing_is_reported_at_the_first_use(factory: sessionmaker[Session]) -> None:
    with factory() as session, session.begin():
        schema.create(session.connection())
        session.connection().exec_driver_sql("ALTER TABLE operation_queues DROP COLUMN created_at")

    for use in (Open().call, Open().async_().call, records.all().count):
        with pytest.raises(SchemaMissing, match="table operation_queues lacks created_at") as refused:
            use()
        assert "Run: dexpy db init" not in str(refused.value)
