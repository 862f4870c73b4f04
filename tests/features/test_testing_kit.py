"""`dexpy.testing`: a runtime of one's own, what is due run in this thread, a clock that moves."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

import dexpy
from dexpy import Error, Ok, Operation, Retry, records
from dexpy.foundation.clock import clock
from dexpy.testing import Isolated, isolated

from .shop import Base, Customer
from .tables import messages

ran: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    ran.clear()


class Note(Operation):
    what: int = 0

    def perform(self) -> int:
        ran.append((self.what, threading.get_ident()))
        return self.what


class Chain(Operation):
    """Sends the next one."""

    left: int

    def perform(self) -> None:
        ran.append(self.left)
        if self.left:
            Chain(left=self.left - 1).async_().call()


class ForEver(Operation):
    def perform(self) -> None:
        ForEver().async_().call()


class Fails(Operation):
    kind: str = "error"
    retry_on = (Retry(ConnectionError, attempts=2, wait=60, jitter=0),)

    def perform(self) -> None:
        ran.append(self.kind)
        if self.kind == "error":
            raise Error("no")
        if self.kind == "interrupt":
            raise KeyboardInterrupt
        raise ConnectionError("down")


class Exact(Operation):
    items: list[tuple[int, str]]

    def perform(self) -> str:
        return repr(self.items)


class Add(Operation):
    name: str

    def perform(self) -> None:
        self.session.add(Customer(name=self.name))


def test_a_runtime_is_in_force_inside_the_block_and_gone_after_it() -> None:
    before = dexpy.current_runtime()
    with isolated() as test:
        assert dexpy.current_runtime() is test.runtime
        file = test.runtime.store.database.path
        Note().async_().call()
        assert file is not None
        assert Path(file).exists()

    assert dexpy.current_runtime() is before
    assert not Path(file).exists()


def test_two_blocks_know_nothing_of_each_other() -> None:
    with isolated() as outer:
        Note(what=1).async_().call()
        with isolated() as inner:
            assert inner.run_pending() == []
            assert records.all().count() == 0
        assert dexpy.current_runtime() is outer.runtime
        assert len(outer.run_pending()) == 1


def test_the_block_is_left_as_it_was_found_after_an_exception() -> None:
    before = dexpy.current_runtime()

    with pytest.raises(ZeroDivisionError), isolated() as test:
        test.advance(1000)
        raise ZeroDivisionError

    assert dexpy.current_runtime() is before
    assert abs(clock.timestamp() - time.time()) < 1


def test_nothing_runs_by_itself(test: Isolated) -> None:
    Note().async_().call()

    assert ran == []


def test_what_is_due_runs_in_this_thread_and_its_tickets_are_given_in_order(test: Isolated) -> None:
    sent = [Note(what=what).async_().call() for what in range(3)]

    tickets = test.run_pending()

    assert [ticket.id for ticket in tickets] == [ticket.id for ticket in sent]
    assert [ticket.outcome for ticket in tickets] == [Ok(0), Ok(1), Ok(2)]
    assert ran == [(what, threading.get_ident()) for what in range(3)]
    assert test.run_pending() == []


def test_only_the_queues_that_are_named_are_served(test: Isolated) -> None:
    Note(what=1).async_(queue="a").call()
    Note(what=2).async_(queue="b").call()
    Note(what=3).async_(queue="c").call()

    test.run_pending(["a", "c"])
    assert [what for what, _ in ran] == [1, 3]
    test.run_pending()
    assert [what for what, _ in ran] == [1, 3, 2]


def test_what_is_sent_meanwhile_runs_too(test: Isolated) -> None:
    Chain(left=3).async_().call()

    assert len(test.run_pending()) == 4
    assert ran == [3, 2, 1, 0]


def test_what_sends_itself_for_ever_is_stopped(test: Isolated, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dexpy.testing.MANY", 20)
    ForEver().async_().call()

    with pytest.raises(RuntimeError, match=r"20 runs in one run_pending\(\): does an operation send itself for ever\?"):
        test.run_pending()


@pytest.mark.parametrize("by", [60, 60.0, timedelta(minutes=1)])
def test_the_clock_is_moved_by_seconds_or_a_timedelta(test: Isolated, by: Any) -> None:
    Note().async_(in_=60).call()
    assert test.run_pending() == []

    test.advance(by)
    assert len(test.run_pending()) == 1


def test_a_retry_waits_until_the_clock_is_moved_and_counts_as_one_more_run(test: Isolated) -> None:
    sent = Fails(kind="crash").async_().call()

    assert [ticket.status for ticket in test.run_pending()] == ["pending"]
    assert test.run_pending() == []
    test.advance(61)
    assert [(ticket.id, ticket.status) for ticket in test.run_pending()] == [(sent.id, "failed")]
    assert ran == ["crash", "crash"]


def test_a_failed_run_is_no_exception_to_whoever_runs_it(test: Isolated) -> None:
    Fails().async_().call()

    (ticket,) = test.run_pending()
    assert (ticket.status, ticket.failure) == ("failed", "business")


def test_an_interrupt_gets_through(test: Isolated) -> None:
    Fails(kind="interrupt").async_().call()

    with pytest.raises(KeyboardInterrupt):
        test.run_pending()
    assert test.run_pending() == []


def test_params_go_through_the_real_encoder_and_decoder(test: Isolated) -> None:
    ticket = Exact(items=[(1, "a"), (2, "b")]).async_().call()
    assert messages(test)[0]["message"]["kwargs"]["record_id"] == ticket.id
    test.run_pending()

    assert ticket.result(1) == "[(1, 'a'), (2, 'b')]"


def test_a_session_factory_of_the_application_makes_the_sessions(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/app.db")
    Base.metadata.create_all(engine)
    made: list[Session] = []

    def factory() -> Session:
        made.append(Session(engine))
        return made[-1]

    with isolated(database=f"sqlite:///{tmp_path}/app.db", session_factory=factory) as test:
        ticket = Add(name="Ada").async_().call()
        test.run_pending()
        assert ticket.reload().done
        with Session(engine) as session:
            assert session.scalars(sa.select(Customer.name)).all() == ["Ada"]
    assert len(made) == 1
    engine.dispose()


def test_a_database_of_one_s_own_is_used_and_left(tmp_path: Path) -> None:
    file = tmp_path / "mine.db"
    with isolated(database=f"sqlite:///{file}"):
        Note().async_().call()

    assert file.exists()


@contextmanager
def application(tmp_path: Path) -> Generator[sessionmaker[Session]]:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/app.db")
    Base.metadata.create_all(engine)
    yield sessionmaker(engine)
    engine.dispose()


def test_records_and_application_share_a_transaction_with_a_session_factory(tmp_path: Path) -> None:
    with (
        application(tmp_path) as sessions,
        isolated(database=f"sqlite:///{tmp_path}/app.db", session_factory=sessions) as test,
    ):
        with sessions() as session:
            session.add(Customer(name="Ada"))
            Add(name="Ben").async_(session=session).call()
            session.commit()
        test.run_pending()
        with sessions() as session:
            assert sorted(session.scalars(sa.select(Customer.name))) == ["Ada", "Ben"]
        assert [record.status for record in records.all()] == ["done"]
