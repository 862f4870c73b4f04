"""Edge cases of transactions: their end, joined sessions, hooks, and SQLite's only write lock."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import dexpy
from dexpy import Error, Operation, records
from dexpy.database import sqlite
from dexpy.errors import TransactionOwned
from dexpy.testing import isolated

from .ledger import Crash, Entry, Quiet, Refuse, Write, lines, only, statuses
from .shop import Base, Shop

SOON_S = 10
"""Shorter than SQLite's wait for a lock, in seconds, so that a run that waits for its own lock is detected."""


class Do(Operation):
    """Calls a function with itself."""

    what: Any

    def perform(self) -> Any:
        return self.what(self)


class Apart(Do):
    """Calls a function outside of a transaction."""

    transaction = False


@pytest.fixture(autouse=True)
def _nothing_waits_for_a_lock() -> Any:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < SOON_S


# ------------------------------------------------------------------------------------------- the end of transactions


def test_a_failed_flush_before_a_nested_run_leaves_the_callers_session_unchanged(shop: Shop) -> None:
    shop.add(Entry(text="there"))
    with shop.session() as session, dexpy.session(session):
        session.add(Entry(text="kept"))
        session.flush()
        savepoint = session.begin_nested()
        session.add(Entry(text="there"))
        with pytest.raises(IntegrityError):
            Write(text="a").call()
        savepoint.rollback()
        session.commit()
    assert lines(shop) == ["kept", "there"]
    assert statuses() == {"Write": ("failed", "crash")}


def test_the_outer_run_continues_after_a_nested_run_fails_at_its_flush(shop: Shop) -> None:
    shop.add(Entry(text="there"))

    def work(op: Do) -> str:
        op.session.add(Entry(text="outer"))
        with pytest.raises(IntegrityError):
            Write(text="there").call()
        op.session.add(Entry(text="after"))
        return "went on"

    assert Do(what=work).call() == "went on"
    assert lines(shop) == ["after", "outer", "there"]


@pytest.mark.parametrize("end", ["commit", "rollback", "close"])
def test_ending_the_transaction_by_the_transaction_object_is_detected(shop: Shop, end: str) -> None:
    def work(op: Do) -> None:
        op.session.add(Entry(text="a"))
        transaction: Any = op.session.get_transaction()
        getattr(transaction, end)()

    with pytest.raises(TransactionOwned, match="the transaction of the run was ended inside it"):
        Do(what=work).call()
    assert statuses() == {"Do": ("failed", "crash")}


def test_a_keyboard_interrupt_rolls_back(shop: Shop) -> None:
    def work(op: Do) -> None:
        op.session.add(Entry(text="a"))
        op.session.flush()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Do(what=work).call()
    assert lines(shop) == []
    assert records.done().count() == 0
    assert Write(text="b").call() == "b"


def test_the_guard_of_a_joined_session_is_removed_after_success_error_and_crash(shop: Shop) -> None:
    with shop.session() as session, dexpy.session(session):
        Write(text="a").call()
        Refuse(text="b").safe.call()
        with pytest.raises(RuntimeError):
            Crash(text="c").call()
        session.commit()
        with session.begin():
            session.add(Entry(text="d"))
    assert lines(shop) == ["a", "d"]


def test_the_guard_of_a_joined_session_stays_until_the_outermost_run_ends(shop: Shop) -> None:
    def work(op: Do) -> None:
        Write(text="a").call()
        with pytest.raises(TransactionOwned):
            op.session.commit()

    with shop.session() as session, dexpy.session(session):
        Do(what=work).call()
        session.commit()
    assert lines(shop) == ["a"]


def test_a_scoped_session_as_a_factory_gives_each_run_a_separate_session(shop: Shop) -> None:
    scoped = scoped_session(shop.sessions)
    with isolated(database=str(shop.engine.url), session_factory=scoped):
        mine = scoped()
        mine.add(Entry(text="mine"))
        assert Write(text="a").call() == "a"
        assert lines(shop) == ["a"]
        mine.rollback()
    scoped.remove()
    assert lines(shop) == ["a"]


def test_a_session_with_a_bind_for_each_model_can_be_joined(shop: Shop) -> None:
    with Session(binds={Base: shop.engine}) as session, dexpy.session(session):
        Write(text="a").call()
        session.commit()
    assert lines(shop) == ["a"]
    assert statuses() == {"Write": ("done", None)}


def test_a_session_on_a_connection_in_an_outer_transaction_can_be_joined(shop: Shop) -> None:
    """Test suites use such sessions to roll everything back at the end."""
    shop.isolated_runtime.runtime.store.prepare()
    with shop.engine.connect() as connection:
        outer = connection.begin()
        with Session(connection, join_transaction_mode="create_savepoint") as session:
            with dexpy.session(session):
                Write(text="a").call()
            session.commit()
        outer.rollback()
    assert lines(shop) == []
    assert records.all().count() == 0


# ------------------------------------------------------------------------------------------- transaction = False


def test_a_block_that_joined_its_caller_is_recorded_as_rolled_back_with_it(shop: Shop) -> None:
    def inner(op: Apart) -> None:
        with op.transaction() as session:
            session.add(Entry(text="inner"))

    def work(op: Do) -> None:
        op.session.add(Entry(text="outer"))
        Apart(what=inner).call()
        raise Error("rolled_back")

    Do(what=work).safe.call()
    assert lines(shop) == []
    assert statuses() == {"Apart": ("failed", "discarded"), "Do": ("failed", "business")}


def test_a_failed_run_whose_block_was_rolled_back_keeps_its_own_failure(shop: Shop) -> None:
    def inner(op: Apart) -> None:
        with op.transaction() as session:
            session.add(Entry(text="inner"))
        raise RuntimeError("broken")

    def work(op: Do) -> None:
        op.session.add(Entry(text="outer"))
        Apart(what=inner).call()

    with pytest.raises(RuntimeError):
        Do(what=work).call()
    assert statuses() == {"Apart": ("failed", "crash"), "Do": ("failed", "crash")}


def test_nested_runs_between_the_blocks_are_independent(shop: Shop) -> None:
    def work(op: Apart) -> None:
        with op.transaction() as session:
            session.add(Entry(text="block"))
            Write(text="inside").call()
        Write(text="between").call()
        with op.transaction() as session:
            session.add(Entry(text="rolled back"))
            Write(text="rolled back too").call()
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError):
        Apart(what=work).call()
    assert lines(shop) == ["between", "block", "inside"]
    assert sorted((each.status, each.failure) for each in records.where(operation=Write)) == [
        ("done", None),
        ("done", None),
        ("failed", "discarded"),
    ]


def test_a_block_commits_before_the_next_statement(shop: Shop) -> None:
    def work(op: Apart) -> list[str]:
        with op.transaction() as session:
            session.add(Entry(text="a"))
        return lines(shop)

    assert Apart(what=work).call() == ["a"]


# ------------------------------------------------------------------------------------------- hooks


def test_a_hook_may_add_a_hook(shop: Shop) -> None:
    calls: list[str] = []

    def work(op: Do) -> None:
        op.session.add(Entry(text="a"))
        op.after_commit(lambda: op.after_commit(lambda: calls.append("second")))
        op.after_commit(lambda: calls.append("first"))

    Do(what=work).call()
    assert calls == ["first", "second"]


def test_hooks_of_a_rolled_back_savepoint_are_dropped_even_if_the_session_was_unused(shop: Shop) -> None:
    calls: list[str] = []

    def inner(op: Do) -> None:
        op.after_commit(lambda: calls.append("inner"))

    def work(op: Do) -> None:
        savepoint = op.session.begin_nested()
        Do(what=inner).call()
        savepoint.rollback()

    Do(what=work).call()
    assert calls == []


def test_a_hook_that_fails_does_not_fail_the_run_nor_its_row(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    def work(op: Do) -> int:
        op.session.add(Entry(text="a"))
        op.after_commit(lambda: Crash(text="b").call())
        return 3

    assert Do(what=work).call() == 3
    assert statuses() == {"Do": ("done", None), "Crash": ("failed", "crash")}
    assert "after_commit.failed" in caplog.text


# ------------------------------------------------------------------------------------------- SQLite's write lock


def test_a_run_that_only_reads_acquires_no_write_lock(shop: Shop) -> None:
    shop.add(Entry(text="there"))

    def work(op: Do) -> int:
        count = op.session.query(Entry).count()
        # This write in another connection would wait for a write lock of this one.
        shop.add(Entry(text="by another"))
        return count

    assert Do(what=work).call() == 1
    assert lines(shop) == ["by another", "there"]


def test_holding_the_write_lock_long_is_logged_with_the_operation(
    shop: Shop, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    shop.isolated_runtime.runtime.store.prepare()
    monkeypatch.setattr(sqlite, "LONG_LOCK_S", 0.01)

    def work(op: Do) -> str:
        op.session.add(Entry(text="a"))
        op.session.flush()
        threading.Event().wait(0.02)
        return op.run_id

    run_id = Do(what=work).call()
    (line,) = [text for text in caplog.messages if text.startswith("database.locked_long")]
    assert f"operation={Do.contract.name}" in line
    assert f"run_id={run_id}" in line
    assert "transaction = False" in line


def test_a_short_lock_is_not_logged(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    Write(text="a").call()
    assert "database.locked_long" not in caplog.text


def test_a_nested_run_on_another_database_is_recorded_after_the_outer_run_that_holds_the_lock(
    shop: Shop, tmp_path: Path
) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    Base.metadata.create_all(engine)
    other = sessionmaker(engine)

    def work(op: Do) -> None:
        op.session.add(Entry(text="here"))
        op.session.flush()
        with other() as session, dexpy.session(session):
            Write(text="there").call()
            Refuse(text="nowhere").safe.call()
            session.commit()
        with other() as session, dexpy.session(session):
            Quiet().call()

    Do(what=work).call()
    assert statuses() == {
        "Do": ("done", None),
        "Write": ("done", None),
        "Refuse": ("failed", "business"),
        "Quiet": ("done", None),
    }
    assert lines(shop) == ["here"]
    engine.dispose()


def test_a_hook_on_another_database_may_call_an_operation_while_the_outer_run_holds_the_lock(
    shop: Shop, tmp_path: Path
) -> None:
    """The record of that run is also written after the end of the outer run."""
    engine = sa.create_engine(f"sqlite:///{tmp_path / 'other.db'}")
    Base.metadata.create_all(engine)

    def work(op: Do) -> int:
        op.session.add(Entry(text="here"))
        op.session.flush()
        with Session(engine) as session:
            with dexpy.session(session):
                Do(what=lambda inner: inner.after_commit(lambda: calls.append("hook"))).call()
            session.commit()
        return len(calls)

    calls: list[str] = []
    assert Do(what=work).call() == 1
    engine.dispose()


def test_many_writers_wait_for_each_other_and_lose_nothing(shop: Shop) -> None:
    def work(number: int) -> Callable[[], None]:
        return lambda: [Write(text=f"{number} {each}").call() for each in range(10)] and None

    threads = [threading.Thread(target=work(number)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(SOON_S)
    assert len(lines(shop)) == 60
    assert only_done() == 60


def only_done() -> int:
    """Assert that all records are done, and return their number."""
    assert {each.status for each in records.all()} == {"done"}
    return records.all().count()


def test_only_one_row_is_written_when_the_outer_transaction_cannot_commit(shop: Shop) -> None:
    from .shop import Deferred

    def work(op: Do) -> None:
        Write(text="a").call()
        op.session.add(Deferred(id=1, customer_id=99))

    with pytest.raises(IntegrityError):
        Do(what=work).call()
    assert statuses() == {"Write": ("failed", "discarded"), "Do": ("failed", "crash")}
    assert only(Write).error == "dexpy.errors.RolledBack"
