"""`dexpy.testing`: an isolated runtime that runs due records in this thread, and a clock that tests advance."""

from __future__ import annotations

import threading
import time
from collections.abc import Generator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

import dexpy
from dexpy import Error, Every, Ok, Operation, Recurring, Retry, records, recurring
from dexpy.errors import OptionsError
from dexpy.foundation.clock import clock
from dexpy.testing import Isolated, isolated
from dexpy.worker.periodic import PeriodicTasks

from .shop import Base, Customer
from .tables import messages

performed: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    performed.clear()


class Note(Operation):
    what: int = 0

    def perform(self) -> int:
        performed.append((self.what, threading.get_ident()))
        return self.what


class Chain(Operation):
    """Enqueues the next operation of the chain."""

    remaining: int

    def perform(self) -> None:
        performed.append(self.remaining)
        if self.remaining:
            Chain(remaining=self.remaining - 1).async_().call()


class ForEver(Operation):
    def perform(self) -> None:
        ForEver().async_().call()


class Fails(Operation):
    kind: str = "error"
    retry_on = (Retry(ConnectionError, attempts=2, wait=60, jitter=0),)

    def perform(self) -> None:
        performed.append(self.kind)
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


def test_a_runtime_is_in_force_only_inside_the_block() -> None:
    before = dexpy.current_runtime()
    with isolated() as isolated_runtime:
        assert dexpy.current_runtime() is isolated_runtime.runtime
        file = isolated_runtime.runtime.store.database.path
        Note().async_().call()
        assert file is not None
        assert Path(file).exists()

    assert dexpy.current_runtime() is before
    assert not Path(file).exists()


def test_two_blocks_are_isolated_from_each_other() -> None:
    with isolated() as outer:
        Note(what=1).async_().call()
        with isolated() as inner:
            assert inner.run_pending() == []
            assert records.all().count() == 0
        assert dexpy.current_runtime() is outer.runtime
        assert len(outer.run_pending()) == 1


def test_the_block_restores_the_runtime_after_an_exception() -> None:
    before = dexpy.current_runtime()

    with pytest.raises(ZeroDivisionError), isolated() as isolated_runtime:
        isolated_runtime.advance(1000)
        raise ZeroDivisionError

    assert dexpy.current_runtime() is before
    assert abs(clock.timestamp() - time.time()) < 1


def test_pending_runs_start_only_in_run_pending(isolated_runtime: Isolated) -> None:
    Note().async_().call()

    assert performed == []


def test_due_runs_run_in_this_thread_and_their_tickets_are_returned_in_order(isolated_runtime: Isolated) -> None:
    enqueued = [Note(what=what).async_().call() for what in range(3)]

    tickets = isolated_runtime.run_pending()

    assert [ticket.id for ticket in tickets] == [ticket.id for ticket in enqueued]
    assert [ticket.outcome for ticket in tickets] == [Ok(0), Ok(1), Ok(2)]
    assert performed == [(what, threading.get_ident()) for what in range(3)]
    assert isolated_runtime.run_pending() == []


def test_only_the_named_queues_are_served(isolated_runtime: Isolated) -> None:
    Note(what=1).async_(queue="a").call()
    Note(what=2).async_(queue="b").call()
    Note(what=3).async_(queue="c").call()

    isolated_runtime.run_pending(["a", "c"])
    assert [what for what, _ in performed] == [1, 3]
    isolated_runtime.run_pending()
    assert [what for what, _ in performed] == [1, 3, 2]


def test_runs_enqueued_meanwhile_run_too(isolated_runtime: Isolated) -> None:
    Chain(remaining=3).async_().call()

    assert len(isolated_runtime.run_pending()) == 4
    assert performed == [3, 2, 1, 0]


def test_an_operation_that_enqueues_itself_endlessly_is_stopped(
    isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dexpy.testing.MAX_RUNS", 20)
    ForEver().async_().call()

    with pytest.raises(RuntimeError, match=r"run_pending\(\): stopped after 20 runs; an operation may enqueue itself"):
        isolated_runtime.run_pending()


@pytest.mark.parametrize("by", [60, 60.0, timedelta(minutes=1)])
def test_the_clock_is_moved_by_seconds_or_a_timedelta(isolated_runtime: Isolated, by: Any) -> None:
    Note().async_(in_=60).call()
    assert isolated_runtime.run_pending() == []

    isolated_runtime.advance(by)
    assert len(isolated_runtime.run_pending()) == 1


def test_a_retry_waits_until_the_clock_is_moved_and_counts_as_one_more_run(isolated_runtime: Isolated) -> None:
    enqueued = Fails(kind="crash").async_().call()

    assert [ticket.status for ticket in isolated_runtime.run_pending()] == ["pending"]
    assert isolated_runtime.run_pending() == []
    isolated_runtime.advance(61)
    assert [(ticket.id, ticket.status) for ticket in isolated_runtime.run_pending()] == [(enqueued.id, "failed")]
    assert performed == ["crash", "crash"]


def test_a_failed_run_raises_nothing_in_run_pending(isolated_runtime: Isolated) -> None:
    Fails().async_().call()

    (ticket,) = isolated_runtime.run_pending()
    assert (ticket.status, ticket.failure) == ("failed", "business")


def test_an_interrupt_is_raised(isolated_runtime: Isolated) -> None:
    Fails(kind="interrupt").async_().call()

    with pytest.raises(KeyboardInterrupt):
        isolated_runtime.run_pending()
    assert isolated_runtime.run_pending() == []


def test_params_are_encoded_and_decoded_as_in_production(isolated_runtime: Isolated) -> None:
    ticket = Exact(items=[(1, "a"), (2, "b")]).async_().call()
    assert messages(isolated_runtime)[0]["message"]["kwargs"]["record_id"] == ticket.id
    isolated_runtime.run_pending()

    assert ticket.result(1) == "[(1, 'a'), (2, 'b')]"


def test_sessions_come_from_the_session_factory_of_the_application(tmp_path: Path) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/app.db")
    Base.metadata.create_all(engine)
    collected: list[Session] = []

    def factory() -> Session:
        collected.append(Session(engine))
        return collected[-1]

    with isolated(database=f"sqlite:///{tmp_path}/app.db", session_factory=factory) as isolated_runtime:
        ticket = Add(name="Ada").async_().call()
        isolated_runtime.run_pending()
        assert ticket.reload().done
        with Session(engine) as session:
            assert session.scalars(sa.select(Customer.name)).all() == ["Ada"]
    assert len(collected) == 1
    engine.dispose()


def test_a_database_of_the_test_is_used_and_kept(tmp_path: Path) -> None:
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
        isolated(database=f"sqlite:///{tmp_path}/app.db", session_factory=sessions) as isolated_runtime,
    ):
        with sessions() as session:
            session.add(Customer(name="Ada"))
            Add(name="Ben").async_(session=session).call()
            session.commit()
        isolated_runtime.run_pending()
        with sessions() as session:
            assert sorted(session.scalars(sa.select(Customer.name))) == ["Ada", "Ben"]
        assert [record.status for record in records.all()] == ["done"]


class Unrecorded(Operation, name="kit.unrecorded"):
    record = False

    def perform(self) -> None: ...


def change_messages(isolated_runtime: Isolated, before: str, after: str) -> None:
    with isolated_runtime.runtime.store.database.engine.begin() as connection:
        connection.execute(
            sa.text("UPDATE dexpy_messages SET payload = replace(payload, :a, :b)"), {"a": before, "b": after}
        )


def dead(isolated_runtime: Isolated) -> int:
    with isolated_runtime.runtime.store.database.engine.begin() as connection:
        return int(connection.execute(sa.text("SELECT count(*) FROM dexpy_messages WHERE dead")).scalar_one())


@pytest.mark.parametrize(
    ("before", "after", "reason"),
    [
        ("kit.unrecorded", "kit.recorded", "its class is recorded"),
        ('"params":{}', '"params":[]', "params: expected an object"),
        ("{", "", "message"),
    ],
    ids=["another class", "another form", "no JSON"],
)
def test_a_dead_lettered_message_warns_with_the_reason(
    isolated_runtime: Isolated, before: str, after: str, reason: str
) -> None:
    Unrecorded().async_().call()
    change_messages(isolated_runtime, before, after)
    with pytest.warns(RuntimeWarning, match=f"is dead: .*{reason}"):
        isolated_runtime.run_pending()

    assert dead(isolated_runtime) == 1
    Unrecorded().async_().call()
    assert len(isolated_runtime.run_pending()) == 1


def test_a_message_of_a_class_that_stays_unknown_warns_with_the_reason(isolated_runtime: Isolated) -> None:
    Unrecorded().async_().call()
    change_messages(isolated_runtime, "kit.unrecorded", "kit.removed")
    isolated_runtime.run_pending()
    isolated_runtime.advance(timedelta(days=2))
    with pytest.warns(RuntimeWarning, match="the message of kit.removed is dead: its class is not declared"):
        isolated_runtime.run_pending()

    assert dead(isolated_runtime) == 1


class Recorded(Operation, name="kit.recorded"):
    def perform(self) -> None: ...


class CloseDay(Operation):
    """Notes its tick and the time."""

    schedule = Recurring(Every("day at 11pm"), key="testing.close_day")
    times: ClassVar[list[tuple[datetime | None, datetime]]] = []

    def perform(self) -> None:
        self.times.append((self.scheduled_for, clock.now()))
        Note(what=1).async_(in_=timedelta(hours=2)).call()


def test_run_for_runs_ticks_and_delayed_operations_with_the_clock_at_their_times(isolated_runtime: Isolated) -> None:
    CloseDay.times.clear()
    began = clock.now()
    retried = Fails(kind="connection").async_(in_=timedelta(hours=1)).call()

    tickets = isolated_runtime.run_for(timedelta(days=3), recurring=["testing.close_day"])

    operations = [ticket.operation.rpartition(".")[2] for ticket in tickets]
    assert (operations.count("CloseDay"), operations.count("Fails")) == (3, 2)
    assert retried.reload().status == "failed"
    for tick, ran_at in CloseDay.times:
        assert tick is not None
        assert (tick.hour, tick.minute) == (23, 0)
        assert timedelta(0) <= ran_at - tick < timedelta(seconds=30)
    assert len({tick for tick, _ in CloseDay.times}) == 3
    assert timedelta(days=3) <= clock.now() - began < timedelta(days=3, minutes=1)
    assert recurring.get("testing.close_day").missed_count == 0


def test_run_for_refuses_an_unknown_key_and_registers_only_those_that_it_names(isolated_runtime: Isolated) -> None:
    with pytest.raises(OptionsError, match=r"'testing.close_dya'.*Did you mean 'testing.close_day'"):
        isolated_runtime.run_for(60, recurring=["testing.close_dya"])
    isolated_runtime.run_for(60, recurring=[])
    assert recurring.all() == []


def test_run_for_ends_with_an_operation_that_enqueues_itself_without_end(
    isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dexpy.testing.MAX_RUNS", 20)
    recurring.add("each second", Note(what=2), Every("second"))
    with pytest.raises(RuntimeError, match="run_for.*Choose a shorter time"):
        isolated_runtime.run_for(60, recurring=[])


@pytest.mark.parametrize("skips", [True, False])
def test_a_worker_of_a_process_that_skips_recurring_tasks_registers_and_enqueues_none(
    isolated_runtime: Isolated, tmp_path: Path, skips: bool
) -> None:
    configured = dexpy.configure(database=f"sqlite:///{tmp_path / 'app.db'}", skip_recurring=skips)
    runtimes = [configured] if not skips else [configured, isolated_runtime.runtime]
    try:
        for runtime in runtimes:
            (periodic,) = (each for each in runtime.broker.middleware if isinstance(each, PeriodicTasks))
            assert ("recurring" in {task.name for task in periodic.tasks}) == (not skips)
    finally:
        configured.close()
