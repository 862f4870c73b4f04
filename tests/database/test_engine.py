"""The engine of the records: what the SQLite recipe promises, and who gets which engine."""

from __future__ import annotations

import itertools
import os
import signal
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy import exc

from dexpy.database.dialects import dialect_of
from dexpy.database.engine import Database
from dexpy.database.sqlite import is_write
from dexpy.foundation.errors import ConfigurationError, DatabaseUnavailable, MissingExtra

fork_with_threads = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    database = Database(f"sqlite:///{tmp_path}/records.db")
    with database.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE box (id INTEGER PRIMARY KEY, amount INTEGER, note TEXT)")
    yield database
    database.dispose()


@pytest.fixture
def other_connection(database: Database) -> Iterator[sa.Connection]:
    """Another connection, which does not wait for a lock."""
    other = Database(database.url)
    with closing(other.connect()) as connection:
        connection.exec_driver_sql("PRAGMA busy_timeout = 0")
        connection.rollback()
        yield connection
    other.dispose()


def add(connection: sa.Connection, amount: int, note: str = "") -> None:
    connection.execute(sa.text("INSERT INTO box (amount, note) VALUES (:a, :n)"), {"a": amount, "n": note})


def amounts(connection: sa.Connection) -> list[int]:
    return list(connection.execute(sa.text("SELECT amount FROM box ORDER BY id")).scalars())


def in_a_fork(work: Callable[[], None]) -> int:
    """Run something in a forked child; its exit status, which is a signal's number after ten seconds."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.alarm(10)
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_commits_are_synced_to_disk(database: Database) -> None:
    """Each connection of the engine waits for the disk at its commits: SQLite's FULL is 2."""
    with database.connect() as one, database.connect() as other:
        for connection in (one, other):
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar_one() == 2
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar_one() == "wal"


# Reads and writes


def test_a_transaction_that_only_reads_blocks_no_writer(database: Database, other_connection: sa.Connection) -> None:
    with database.begin() as reader:
        assert amounts(reader) == []
        add(other_connection, 1)
        other_connection.commit()
        assert amounts(reader) == [1], "a read sees what is committed, whenever its transaction began"


def test_the_first_write_acquires_the_write_lock(database: Database, other_connection: sa.Connection) -> None:
    with database.begin() as writer:
        assert amounts(writer) == []
        writer.execute(sa.text("UPDATE box SET amount = 0 WHERE id = 99"))
        with pytest.raises(exc.OperationalError, match="locked"):
            add(other_connection, 1)
        other_connection.rollback()
    add(other_connection, 2)
    other_connection.commit()
    assert amounts(other_connection) == [2]


def test_a_transaction_that_has_read_can_still_write_after_another_wrote(
    database: Database, other_connection: sa.Connection
) -> None:
    with database.begin() as connection:
        assert amounts(connection) == []
        add(other_connection, 1)
        other_connection.commit()
        add(connection, 2)
    with database.begin() as connection:
        assert amounts(connection) == [1, 2]


def test_a_transaction_with_an_unfinished_select_can_write(database: Database, other_connection: sa.Connection) -> None:
    with database.begin() as connection:
        for amount in range(500):
            add(connection, amount, "x" * 1000)
    with database.begin() as connection:
        rows = connection.execute(sa.text("SELECT id FROM box ORDER BY id"))
        assert next(rows).id == 1
        other_connection.execute(sa.text("UPDATE box SET note = 'theirs' WHERE id = 500"))
        other_connection.commit()
        connection.execute(sa.text("UPDATE box SET note = 'mine' WHERE id = 1"))
        assert len(rows.all()) == 499


def test_a_rolled_back_transaction_leaves_nothing_and_frees_the_lock(
    database: Database, other_connection: sa.Connection
) -> None:
    with pytest.raises(ZeroDivisionError), database.begin() as connection:
        add(connection, 1)
        _ = 1 / 0
    add(other_connection, 2)
    other_connection.commit()
    assert amounts(other_connection) == [2]


class Interrupted(BaseException):
    """As Dramatiq's time limit is: raised in a thread, anywhere."""


@pytest.mark.parametrize("at", ["INSERT", "SELECT"])
def test_an_interrupt_inside_a_statement_is_raised_unchanged_and_rolls_back(
    database: Database, other_connection: sa.Connection, at: str
) -> None:
    def interrupt(_connection: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith(at):
            raise Interrupted

    with pytest.raises(Interrupted), database.begin() as connection:
        connection.execute(sa.text("UPDATE box SET amount = 7"))
        connection.begin_nested()
        sa.event.listen(database.engine, "before_cursor_execute", interrupt)
        amounts(connection) if at == "SELECT" else add(connection, 1)
    sa.event.remove(database.engine, "before_cursor_execute", interrupt)
    add(other_connection, 2)
    other_connection.commit()
    with database.begin() as connection:
        assert amounts(connection) == [2]


@pytest.mark.parametrize(
    ("statement", "writes"),
    [
        ("SELECT 1", False),
        ("  select 1", False),
        ("PRAGMA table_info(box)", False),
        ("EXPLAIN QUERY PLAN DELETE FROM box", False),
        ("WITH a AS (SELECT 1) SELECT * FROM a", False),
        ("WITH a AS (SELECT 1 AS id) DELETE FROM box WHERE id IN (SELECT id FROM a)", True),
        ("INSERT INTO box DEFAULT VALUES", True),
        ("\n update box SET amount = 1", True),
        ("DELETE FROM box", True),
        ("REPLACE INTO box (id) VALUES (1)", True),
        ("CREATE TABLE other (id INTEGER)", True),
    ],
)
def test_a_statement_is_recognised_as_a_write_by_its_text(statement: str, writes: bool) -> None:
    assert is_write(statement) is writes


def test_eight_threads_do_not_overwrite_rows_read_under_the_write_lock(database: Database) -> None:
    with database.begin() as connection:
        add(connection, 0)
    failures: list[BaseException] = []

    def count_up() -> None:
        try:
            for _ in range(40):
                with database.begin() as connection:
                    dialect_of(connection).acquire_write_lock(connection)
                    amount = connection.execute(sa.text("SELECT amount FROM box")).scalar_one()
                    connection.execute(sa.text("UPDATE box SET amount = :a"), {"a": amount + 1})
        except BaseException as failure:
            failures.append(failure)

    threads = [threading.Thread(target=count_up) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    with database.begin() as connection:
        assert amounts(connection) == [320]


def test_the_write_lock_may_be_acquired_twice_or_after_a_write(database: Database) -> None:
    with database.begin() as connection:
        dialect_of(connection).acquire_write_lock(connection)
        dialect_of(connection).acquire_write_lock(connection)
        add(connection, 1)
        dialect_of(connection).acquire_write_lock(connection)
    with database.begin() as connection:
        assert amounts(connection) == [1]


# Savepoints


def test_a_savepoint_before_the_first_write_acquires_no_lock(
    database: Database, other_connection: sa.Connection
) -> None:
    with database.begin() as connection:
        with connection.begin_nested():
            assert amounts(connection) == []
            add(other_connection, 1)
            other_connection.commit()
            add(connection, 2)
        add(connection, 3)
    with database.begin() as connection:
        assert amounts(connection) == [1, 2, 3]


def _orders(length: int) -> Iterator[tuple[str, ...]]:
    """Every sequence of so many steps in which only an open savepoint is ended."""
    for steps in itertools.product(("open", "release", "rollback", "write"), repeat=length):
        depth, possible = 0, True
        for step in steps:
            depth += {"open": 1, "write": 0}.get(step, -1)
            possible = possible and depth >= 0
        if possible:
            yield steps


def test_savepoints_keep_their_meaning_in_every_order_of_opening_writing_releasing_and_rolling_back(
    database: Database,
) -> None:
    num_cases = 0
    for steps in _orders(6):
        with database.begin() as connection:
            connection.execute(sa.text("DELETE FROM box"))
        with database.begin() as connection:
            expected = follow(connection, steps)
        with database.begin() as connection:
            assert amounts(connection) == expected, steps
        num_cases += 1
    assert num_cases > 500


def follow(connection: sa.Connection, steps: tuple[str, ...]) -> list[int]:
    """Take these steps; what the table must hold afterwards, as it must after each of them."""
    expected: list[int] = []
    points: list[tuple[Any, list[int]]] = []
    for number, step in enumerate(steps):
        if step == "open":
            points.append((connection.begin_nested(), list(expected)))
        elif step == "write":
            add(connection, number)
            expected.append(number)
        else:
            point, before = points.pop()
            if step == "release":
                point.commit()
            else:
                point.rollback()
                expected = before
        assert amounts(connection) == expected, (steps, number)
    return expected


def test_deferred_savepoints_of_an_ended_transaction_do_not_reach_the_next_one(database: Database) -> None:
    for end in ("commit", "rollback"):
        with closing(database.connect()) as connection:
            transaction = connection.begin()
            connection.begin_nested()
            getattr(transaction, end)()
            with connection.begin():
                add(connection, 1)
            driver: Any = connection.connection.driver_connection
            assert not driver.in_transaction


# Engines


def test_a_process_has_one_engine(database: Database) -> None:
    assert database.engine is database.engine


def test_threads_that_start_concurrently_get_the_same_engine(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/other.db")
    start, engine_ids = threading.Barrier(8), set[int]()

    def observe() -> None:
        start.wait()
        engine_ids.add(id(database.engine))

    threads = [threading.Thread(target=observe) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    database.dispose()
    assert len(engine_ids) == 1


@fork_with_threads
def test_an_engine_is_not_shared_across_a_fork(database: Database) -> None:
    mine = database.engine
    with database.begin() as connection:
        add(connection, 1)

        def write_in_the_child() -> None:
            assert database.engine is not mine
            with database.begin() as connection:
                assert amounts(connection) == []

        assert in_a_fork(write_in_the_child) == 0
        add(connection, 2)

    def write_after_the_parent() -> None:
        with database.begin() as connection:
            add(connection, 3)

    assert in_a_fork(write_after_the_parent) == 0
    assert database.engine is mine
    with database.begin() as connection:
        assert amounts(connection) == [1, 2, 3]


@fork_with_threads
def test_a_fork_while_a_thread_makes_the_engine_leaves_the_child_able_to_make_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    database = Database(f"sqlite:///{tmp_path}/other.db")
    parent, making, go_on = os.getpid(), threading.Event(), threading.Event()
    make = database._create_engine

    def make_slowly() -> sa.Engine:
        if os.getpid() == parent:
            making.set()
            go_on.wait(20)
        return make()

    monkeypatch.setattr(database, "_create_engine", make_slowly)
    maker = threading.Thread(target=lambda: database.engine)
    maker.start()
    making.wait(10)
    try:
        assert in_a_fork(lambda: database.connect().close()) == 0
    finally:
        go_on.set()
        maker.join()
        database.dispose()


def test_an_engine_of_the_application_is_used_and_never_closed(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/own.db")
    database = Database(engine.url, engine=engine)
    assert database.engine is engine
    with database.begin() as connection:
        assert database.same_as(connection)
        connection.exec_driver_sql("CREATE TABLE box (id INTEGER)")
    database.dispose()
    assert database.engine is engine
    engine.dispose()


def test_a_file_with_a_writer_in_another_journal_mode_is_waited_for(tmp_path: Path) -> None:
    holder = sqlite3.connect(tmp_path / "records.db", isolation_level=None, check_same_thread=False)
    holder.execute("CREATE TABLE box (id INTEGER)")
    holder.execute("BEGIN IMMEDIATE")
    release = threading.Timer(0.2, holder.execute, ["COMMIT"])
    release.start()
    database = Database(f"sqlite:///{tmp_path}/records.db")
    with database.begin() as connection:
        assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
    release.join()
    holder.close()
    database.dispose()


# What cannot be opened


def test_a_file_in_a_missing_folder_is_an_unavailable_database(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path}/nowhere/records.db")
    with pytest.raises(DatabaseUnavailable, match=r"^Cannot open sqlite:///.*nowhere/records\.db: .*folder"):
        database.connect()
    database.dispose()


def test_a_file_that_is_not_a_database_is_an_unavailable_database(tmp_path: Path) -> None:
    (tmp_path / "records.db").write_bytes(b"no database at all" * 100)
    database = Database(f"sqlite:///{tmp_path}/records.db")
    with pytest.raises(DatabaseUnavailable, match="not a database"), database.begin():
        pass
    database.dispose()


def test_a_server_that_does_not_answer_is_reported_unavailable_without_its_password() -> None:
    database = Database("postgresql+psycopg://user:hush@127.0.0.1:1/name")
    with pytest.raises(DatabaseUnavailable) as caught:
        database.connect()
    assert "hush" not in str(caught.value)
    database.dispose()


@pytest.mark.parametrize("url", ["nonsense", "", "sqlite", "wrongbase://x"])
def test_an_invalid_url_is_a_configuration_error(url: str) -> None:
    with pytest.raises(ConfigurationError, match="sqlite://"):
        _ = Database(url).engine


def test_the_error_of_a_missing_driver_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    def create_engine(*_: Any, **__: Any) -> sa.Engine:
        raise ModuleNotFoundError("No module named 'psycopg'", name="psycopg")

    monkeypatch.setattr(sa, "create_engine", create_engine)
    with pytest.raises(MissingExtra, match=r'pip install "dexpy-operations\[postgres\]"'):
        _ = Database("postgresql+psycopg://user@host/name").engine
