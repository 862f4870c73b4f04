"""Whether an application's connection leads to the database of the records: asked, not read from its URL. On SQLite."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

import dexpy
from dexpy import Operation, records
from dexpy.database.engine import Database


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    opened = Database(f"sqlite:///{tmp_path / 'records.db'}")
    with opened.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE box (amount INTEGER)")
    yield opened
    opened.dispose()


def is_same(database: Database, url: str) -> bool:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        result = database.same_as(connection)
    engine.dispose()
    return result


def test_a_file_is_the_same_by_every_path_to_it(database: Database, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "link.db").symlink_to(tmp_path / "records.db")
    (tmp_path / "other way").symlink_to(tmp_path, target_is_directory=True)

    assert is_same(database, f"sqlite:///{tmp_path}/records.db")
    assert is_same(database, "sqlite:///records.db")
    assert is_same(database, f"sqlite:///{tmp_path}/folder/../records.db")
    assert is_same(database, f"sqlite:///{folder}/link.db")
    assert is_same(database, f"sqlite:///{tmp_path}/other way/records.db")
    assert is_same(database, f"sqlite:///file:{tmp_path}/records.db?uri=true&timeout=3")


def test_another_file_is_not_the_same_whatever_it_holds(database: Database, tmp_path: Path) -> None:
    database.dispose()
    shutil.copy(tmp_path / "records.db", tmp_path / "copy.db")
    (tmp_path / "backup").mkdir()
    shutil.copy(tmp_path / "records.db", tmp_path / "backup" / "records.db")

    assert not is_same(database, f"sqlite:///{tmp_path}/copy.db")
    assert not is_same(database, f"sqlite:///{tmp_path}/backup/records.db")
    assert not is_same(database, "sqlite://")


def test_a_file_under_a_second_name_is_not_the_same(database: Database, tmp_path: Path) -> None:
    os.link(tmp_path / "records.db", tmp_path / "second.db")

    assert not is_same(database, f"sqlite:///{tmp_path}/second.db")


def test_a_file_that_this_process_has_not_opened_yet_is_known(tmp_path: Path) -> None:
    for name in ("records.db", "other.db"):
        assert is_same(Database(f"sqlite:///{tmp_path}/records.db"), f"sqlite:///{tmp_path}/{name}") is (
            name == "records.db"
        )


def test_a_database_in_memory_is_that_of_its_own_engine_alone() -> None:
    database = Database("sqlite://")
    with database.begin() as connection:
        assert database.same_as(connection)
    assert not is_same(database, "sqlite://")
    database.dispose()


def test_the_comparison_waits_for_no_lock_and_leaves_the_transaction_unchanged(tmp_path: Path) -> None:
    # Not in WAL mode, where a connection of dexpy's own would have to wait for this transaction to end.
    engine = sa.create_engine(f"sqlite:///{tmp_path}/records.db")
    database = Database(engine.url)
    with engine.connect() as connection:
        connection.exec_driver_sql("CREATE TABLE box (amount INTEGER)")
        connection.exec_driver_sql("INSERT INTO box VALUES (1)")
        assert database.same_as(connection)
        assert connection.in_transaction()
        connection.rollback()
        assert connection.exec_driver_sql("SELECT count(*) FROM box").scalar() == 0
    engine.dispose()


def test_the_comparison_is_made_once_for_all_connections_of_an_engine(database: Database) -> None:
    engine = sa.create_engine(database.url)
    statements: list[str] = []
    sa.event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
    for bind in (engine, engine, engine.execution_options(isolation_level="SERIALIZABLE")):
        with bind.connect() as connection:
            assert database.same_as(connection)
    engine.dispose()

    assert statements == ["PRAGMA database_list"]


class Echo(Operation):
    def perform(self) -> None:
        assert self.session is not None


def test_a_session_with_another_path_to_the_file_stores_the_record_in_its_transaction(tmp_path: Path) -> None:
    (tmp_path / "way").symlink_to(tmp_path, target_is_directory=True)
    engine = sa.create_engine(f"sqlite:///{tmp_path}/way/app.db")
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path}/app.db")
    records.all().count()

    with Session(engine) as session:
        Echo().async_(session=session).call()
        session.rollback()
        assert records.all().count() == 0
        ticket = Echo().async_(session=session).call()
        session.commit()

    assert [record.id for record in records.pending()] == [ticket.id]
    runtime.close()
    engine.dispose()


def test_another_kind_of_database_is_distinguished_without_a_connection(tmp_path: Path) -> None:
    database = Database("postgresql+psycopg://user@127.0.0.1:1/nothing")
    engine = sa.create_engine(f"sqlite:///{tmp_path}/app.db")
    with sessionmaker(engine)() as session:
        assert not database.same_as(session.connection())
    engine.dispose()
