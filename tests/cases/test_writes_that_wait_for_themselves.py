"""SQLite: a write inside a transaction that holds the write lock joins it, or is refused at once."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import dexpy
from dexpy import Once, Operation, Ticket, records
from dexpy.errors import DatabaseBusy
from dexpy.testing import Isolated

AT_ONCE_S = 5.0


class Job(Operation):
    fails: bool = False

    def perform(self) -> int:
        if self.fails:
            raise ValueError("as asked")
        return 1


class JobOnce(Operation):
    n: int = 0
    once = Once("n")

    def perform(self) -> int:
        return 1


class Silent(Job):
    record = False


LATER = datetime(2100, 1, 1, tzinfo=timezone.utc)


@contextmanager
def at_once() -> Generator[None]:
    began = time.monotonic()
    yield
    assert time.monotonic() - began < AT_ONCE_S


@contextmanager
def writing(isolated_runtime: Isolated) -> Generator[Session]:
    """Open a current session on another engine that has written."""
    engine = sa.create_engine(isolated_runtime.runtime.store.database.url)  # type: ignore[union-attr]
    with Session(engine) as session, dexpy.session(session):
        session.execute(sa.text("CREATE TABLE IF NOT EXISTS orders (n INTEGER)"))
        session.execute(sa.text("INSERT INTO orders VALUES (1)"))
        yield session
    engine.dispose()


def failed(isolated_runtime: Isolated) -> Ticket[Any]:
    ticket = Job(fails=True).async_().call()
    isolated_runtime.run_pending()
    return ticket.reload()


Verb = Callable[[Ticket[Any]], Any]
VERBS: list[tuple[str, Verb, str]] = [
    ("cancel", lambda ticket: ticket.cancel(), "cancelled"),
    ("expire", lambda ticket: ticket.expire(), "expired"),
    ("fail", lambda ticket: ticket.fail("no need"), "failed"),
    ("reschedule", lambda ticket: ticket.reschedule(at=LATER), "pending"),
    ("retry", lambda ticket: ticket.retry(), "pending"),
]
verbs = pytest.mark.parametrize(("name", "verb", "after"), VERBS, ids=[name for name, _, _ in VERBS])


@verbs
def test_l5_an_action_joins_the_current_transaction_that_has_written(
    name: str, verb: Verb, after: str, isolated_runtime: Isolated
) -> None:
    ticket = failed(isolated_runtime) if name == "retry" else Job().async_().call()
    before = ticket.reload().status
    with at_once(), writing(isolated_runtime) as session:
        assert verb(ticket).status == after
        assert Ticket.get(ticket.id).status == before, "other connections read the earlier status until the commit"
        session.rollback()
    assert ticket.reload().status == before
    assert ticket.scheduled_at != LATER
    with at_once(), writing(isolated_runtime) as session:
        with session.begin_nested():
            verb(ticket)
        session.commit()
    assert ticket.reload().status == after
    if name == "reschedule":
        assert ticket.scheduled_at == LATER
    if name == "retry":
        assert len(isolated_runtime.run_pending()) == 1


@verbs
def test_l5_an_action_joins_the_transaction_of_a_run_that_has_written(
    name: str, verb: Verb, after: str, isolated_runtime: Isolated
) -> None:
    ticket = failed(isolated_runtime) if name == "retry" else Job().async_(in_=60).call()

    class Writes(Operation):
        def perform(self) -> int:
            self.session.execute(sa.text("CREATE TABLE written (n INTEGER)"))
            verb(ticket)
            return 1

    with at_once():
        assert Writes().call() == 1
    assert ticket.reload().status == after


def test_l5_an_action_that_the_status_does_not_allow_is_refused_and_the_transaction_continues(
    isolated_runtime: Isolated,
) -> None:
    ticket = Job().async_().call()
    with at_once(), writing(isolated_runtime) as session:
        ticket.cancel()
        for verb in (ticket.cancel, ticket.expire, lambda: ticket.fail("again")):
            with pytest.raises(dexpy.errors.InvalidTransition):
                verb()
        assert ticket.retry().pending
        session.commit()
        assert session.execute(sa.text("SELECT count(*) FROM orders")).scalar() == 1
    assert ticket.reload().pending


REFUSED: list[tuple[str, Verb]] = [
    ("prune", lambda _ticket: records.prune(older_than=timedelta(0))),
    ("perform", lambda ticket: ticket.perform()),
]


@pytest.mark.parametrize(("name", "verb"), REFUSED, ids=[name for name, _ in REFUSED])
def test_l5_calls_that_need_a_separate_transaction_are_refused_with_the_reason(
    name: str, verb: Verb, isolated_runtime: Isolated
) -> None:
    Job().call()
    ticket = Job().async_().call()
    with at_once(), writing(isolated_runtime) as session:
        with pytest.raises(DatabaseBusy, match="would wait for the transaction around it"):
            verb(ticket)
        session.commit()
    assert ticket.reload().status == "pending"

    class Writes(Operation):
        def perform(self) -> None:
            self.session.execute(sa.text("CREATE TABLE written (n INTEGER)"))
            verb(ticket)

    with at_once(), pytest.raises(DatabaseBusy, match="would wait for the transaction around it"):
        Writes().call()
    verb(ticket)


def test_l5_other_calls_do_not_wait(isolated_runtime: Isolated) -> None:
    JobOnce().call()
    ticket = Job().async_().call()
    with at_once(), writing(isolated_runtime) as session:
        assert records.all().count() == 2
        assert ticket.reload().pending
        Job().async_().call()
        dexpy.enqueue_all([Job(), Job()])
        Silent().async_().call()
        JobOnce.clear_once(n=0)
        assert JobOnce().call() == 1
        assert Job().call() == 1
        session.commit()
    assert records.pending().count() == 4


class Reports(Operation):
    ticket: str

    def perform(self) -> int:
        self.session.execute(sa.text("CREATE TABLE IF NOT EXISTS written (n INTEGER)"))
        self.report_progress(1, 2)
        Ticket.get(self.ticket).cancel()
        self.after_commit(lambda: Job().async_().call() and None)
        return 1


def test_l5_a_background_run_that_has_written_does_not_wait_for_itself(isolated_runtime: Isolated) -> None:
    other = Job().async_(in_=60).call()
    ticket = Reports(ticket=other.id).async_().call()
    with at_once():
        isolated_runtime.run_pending()
    assert ticket.reload().done
    assert other.reload().failure == "cancelled"


class CancelsItself(Operation):
    def perform(self) -> int:
        self.session.execute(sa.text("CREATE TABLE IF NOT EXISTS written (n INTEGER)"))
        Ticket.get(self.run_id).cancel()
        return 1


def test_l5_a_run_that_cancels_itself_does_not_wait(isolated_runtime: Isolated) -> None:
    ticket = CancelsItself().async_().call()
    with at_once():
        isolated_runtime.run_pending()
    assert ticket.reload().terminal


def test_l5_a_coroutine_is_refused_a_write_that_waits_for_its_own_commit(isolated_runtime: Isolated) -> None:
    ticket = Job().async_().call()

    class Writes(Operation):
        async def perform(self) -> None:
            await self.in_session(lambda session: session.execute(sa.text("CREATE TABLE written (n INTEGER)")))
            await asyncio.to_thread(ticket.cancel)

    with at_once(), pytest.raises(DatabaseBusy, match="would wait for the transaction around it"):
        asyncio.run(Writes().acall())
    assert ticket.reload().pending


def test_l5_a_session_that_has_not_written_blocks_no_other_session(isolated_runtime: Isolated) -> None:
    ticket = Job().async_().call()
    engine = sa.create_engine(isolated_runtime.runtime.store.database.url)  # type: ignore[union-attr]
    with at_once(), Session(engine) as session, dexpy.session(session):
        session.execute(sa.text("SELECT 1")).all()
        ticket.cancel()
        assert Ticket.get(ticket.id).cancelled, "the cancellation is committed at once"
        session.rollback()
    assert ticket.reload().cancelled
    engine.dispose()


def test_l5_a_write_waits_for_a_connection_that_another_thread_uses_now(
    isolated_runtime: Isolated,
) -> None:
    database = isolated_runtime.runtime.store.database  # type: ignore[union-attr]
    create_table = sa.text("CREATE TABLE IF NOT EXISTS orders (n INTEGER)")
    with database.begin() as connection:
        connection.execute(create_table)
        mine = connection.connection.driver_connection
    has_written, may_end = threading.Event(), threading.Event()

    def write() -> object:
        with database.begin() as connection:
            connection.execute(sa.text("INSERT INTO orders VALUES (1)"))
            has_written.set()
            assert may_end.wait(AT_ONCE_S)
            return connection.connection.driver_connection

    with ThreadPoolExecutor() as threads:
        used = threads.submit(write)
        assert has_written.wait(AT_ONCE_S)
        threading.Timer(0.2, may_end.set).start()
        with database.begin() as connection:
            connection.execute(sa.text("INSERT INTO orders VALUES (2)"))
        assert used.result() is mine, "the other thread has got the same connection from the pool"


@contextmanager
def own_session(engine: sa.Engine) -> Generator[sa.Connection]:
    with Session(engine) as session:
        yield session.connection()


@contextmanager
def own_connection(engine: sa.Engine) -> Generator[sa.Connection]:
    with engine.connect() as connection:
        yield connection


WRITES: list[tuple[str, Verb]] = [
    *((name, verb) for name, verb, _ in VERBS if name != "retry"),
    ("enqueue", lambda _ticket: Job().async_().call()),
    ("enqueue_all", lambda _ticket: dexpy.enqueue_all([Job(), Job()])),
    ("once", lambda _ticket: JobOnce(n=2).call()),
    ("perform", lambda ticket: ticket.perform()),
]


@pytest.mark.parametrize(("name", "verb"), WRITES, ids=[name for name, _ in WRITES])
@pytest.mark.parametrize("kind", [own_session, own_connection])
def test_l5_a_write_beside_a_session_that_is_not_current_is_refused_at_once(
    kind: Any, name: str, verb: Verb, isolated_runtime: Isolated
) -> None:
    ticket = Job().async_().call()
    engine = sa.create_engine(isolated_runtime.runtime.store.database.url)  # type: ignore[union-attr]
    with at_once(), kind(engine) as connection:
        connection.execute(sa.text("CREATE TABLE orders (n INTEGER)"))
        connection.execute(sa.text("INSERT INTO orders VALUES (1)"))
        with pytest.raises(DatabaseBusy, match="for a transaction of the same thread") as caught:
            verb(ticket)
        assert not caught.value.may_end
        connection.commit()
    assert ticket.reload().pending
    verb(ticket)
    engine.dispose()


def test_l5_a_call_in_place_beside_such_a_session_returns_at_once(isolated_runtime: Isolated) -> None:
    engine = sa.create_engine(isolated_runtime.runtime.store.database.url)  # type: ignore[union-attr]
    with at_once(), own_connection(engine) as connection:
        connection.execute(sa.text("CREATE TABLE orders (n INTEGER)"))
        connection.execute(sa.text("INSERT INTO orders VALUES (1)"))
        assert Job().call() == 1
    engine.dispose()


def test_l5_a_write_waits_for_the_transaction_of_another_thread(isolated_runtime: Isolated) -> None:
    ticket = Job().async_().call()
    engine = sa.create_engine(isolated_runtime.runtime.store.database.url)  # type: ignore[union-attr]
    has_written = threading.Event()

    def write() -> None:
        with own_session(engine) as connection:
            connection.execute(sa.text("CREATE TABLE orders (n INTEGER)"))
            connection.execute(sa.text("INSERT INTO orders VALUES (1)"))
            has_written.set()
            time.sleep(0.5)
            connection.commit()

    writer = threading.Thread(target=write)
    writer.start()
    assert has_written.wait(10)
    with own_session(engine) as reading:
        reading.execute(sa.text("SELECT 1")).all()
        assert ticket.cancel().cancelled
    writer.join()
    engine.dispose()
