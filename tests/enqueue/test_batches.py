"""Batches: what is stored, when a batch ends, and which callbacks are enqueued, on each database."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from apps import shop_statements
from apps.models import Effect
from apps.shop_statements import AddMore, Fail, Report, Statement
from sqlalchemy.orm import Session

import dexpy
from dexpy import Async, BatchTicket, Once, Operation, Recording, batches, enqueue_all, records
from dexpy.database.tables import batch_callbacks
from dexpy.database.tables import batches as batches_table
from dexpy.database.tables import records as records_table
from dexpy.errors import BatchEnded, BatchNotFound, NotCommitted, NotRecorded, OptionsError, RolledBack
from dexpy.testing import Isolated

ALL: Any = {
    "on_finish": Report(what="finish"),
    "on_success": Report(what="success"),
    "on_failure": Report(what="failure"),
}


class Keyed(Operation, name="batches.keyed"):
    month: int
    once = Once("month")

    def perform(self) -> int:
        return self.month


class Unrecorded(Operation, name="batches.unrecorded"):
    record = Recording(params=False)

    def perform(self) -> None: ...


class Later(Operation, name="batches.later"):
    async_ = Async(queue="reports", priority=7, in_=60, expires_in=120)

    def perform(self) -> str:
        return "later"


@dexpy.deferrable(name="batches.double")
def double(number: int) -> int:
    return 2 * number


ON_SERVERS = [
    pytest.param("postgresql", marks=pytest.mark.servers),
    pytest.param("mariadb", marks=pytest.mark.servers),
]
"""SQLite has one write lock, so that no batch ends while another transaction writes."""


@pytest.fixture
def shop(isolated_runtime: Isolated, engine: sa.Engine) -> Isolated:
    """The runtime, with the tables of the shop."""
    shop_statements.create_tables(engine)
    return isolated_runtime


def reports(engine: sa.Engine) -> Counter[str]:
    """Return the notes of the callbacks."""
    with engine.connect() as connection:
        what = connection.execute(sa.text("SELECT what FROM effects")).scalars()
        return Counter(text for text in what if text.partition(" ")[0] in ("finish", "success", "failure"))


def repair(engine: sa.Engine, customer: int) -> None:
    with Session(engine) as session:
        session.add(Effect(what=f"repair {customer}", run=""))
        session.commit()


def test_the_callbacks_of_a_batch_run_once_after_all_of_its_runs(shop: Isolated, engine: sa.Engine) -> None:
    with dexpy.batch(name="statements", **ALL) as batch:
        first = batch.add(Statement(customer=1))
        second = Statement(customer=2).async_(batch=batch, priority=3).call()
        rest = enqueue_all([Statement(customer=3), Statement(customer=4)], batch=batch)
    ticket = batch.ticket
    assert (ticket.status, ticket.counts, ticket.progress.fraction) == ("running", {"pending": 4}, 0.0)
    shop.run_pending()

    assert ticket.wait(1)
    assert (ticket.status, ticket.name, ticket.counts) == ("done", "statements", {"done": 4})
    assert ticket.finished_at is not None
    assert (ticket.progress.done, ticket.progress.total) == (4, 4)
    assert reports(engine) == {"finish done 4 of 4": 1, "success done 4 of 4": 1}
    assert [each.id for each in ticket.tickets()] == sorted(each.id for each in (first, second, *rest))
    assert [each.outcome.value for each in ticket.tickets() if isinstance(each.outcome, dexpy.Ok)]
    assert records.where(batch=ticket.id).count() == ticket.runs.done().count() == 4
    success = ticket.callback("success")
    assert success is not None
    assert success.result(1) == 4
    assert ticket.callback("failure") is None
    assert [each.id for each in batches.find(name="statements", status="done")] == [ticket.id]
    assert batches.get(ticket.id).to_dict() == ticket.to_dict()


def test_a_failed_run_enqueues_the_callback_for_it_at_once_and_a_repair_that_for_success(
    shop: Isolated, engine: sa.Engine
) -> None:
    with dexpy.batch(**ALL) as batch:
        batch.add(Fail(customer=7), priority=9)
        batch.add(Statement(customer=1), in_=3600)
    shop.run_pending()
    assert reports(engine) == {"failure running 1 of 2": 1}
    shop.advance(3600)
    shop.run_pending()
    assert batch.ticket.reload().status == "failed"
    assert batch.ticket.counts == {"done": 1, "failed": 1}
    assert reports(engine) == {"failure running 1 of 2": 1, "finish failed 2 of 2": 1}

    repair(engine, 7)
    assert batch.ticket.retry_failed() == 1
    assert (batch.ticket.status, batch.ticket.finished_at) == ("running", None)
    shop.run_pending()

    assert batch.ticket.reload().status == "done"
    assert reports(engine) == {"failure running 1 of 2": 1, "finish failed 2 of 2": 1, "success done 2 of 2": 1}


def test_an_empty_batch_ends_at_once(shop: Isolated, engine: sa.Engine) -> None:
    with dexpy.batch(**ALL) as batch:
        pass
    assert batch.ticket.reload().status == "done"
    shop.run_pending()
    assert reports(engine) == {"finish done 0 of 0": 1, "success done 0 of 0": 1}


def test_an_exception_in_the_block_stores_nothing(shop: Isolated, engine: sa.Engine) -> None:
    with pytest.raises(ZeroDivisionError), dexpy.batch(**ALL) as batch:
        ticket = batch.add(Statement(customer=1))
        with pytest.raises(NotCommitted):
            ticket.wait(0.1)
        _ = 1 / 0
    with pytest.raises(RolledBack):
        ticket.wait(0.1)
    with pytest.raises(NotCommitted, match="stored at the end of its block"):
        _ = batch.ticket
    with pytest.raises(NotCommitted):
        batch.add(Statement(customer=2))
    assert (records.all().count(), batches.find(), rows(engine, batch_callbacks)) == (0, [], 0)


def rows(engine: sa.Engine, table: sa.Table) -> int:
    with engine.connect() as connection:
        return connection.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()


def test_a_batch_is_rolled_back_with_the_transaction_of_its_caller(shop: Isolated, engine: sa.Engine) -> None:
    with Session(engine) as session:
        with dexpy.session(session), dexpy.batch(**ALL) as batch:
            batch.add(Statement(customer=1))
        with pytest.raises(NotCommitted):
            batch.ticket.wait(0.1)
        session.rollback()
    with pytest.raises(RolledBack):
        batch.ticket.wait(0.1)
    assert rows(engine, batches_table) == rows(engine, batch_callbacks) == rows(engine, records_table) == 0

    with Session(engine) as session:
        with dexpy.batch(session=session, **ALL) as batch:
            batch.add_all(Statement(customer=number) for number in range(3))
        session.commit()
    shop.run_pending()
    assert batch.ticket.wait(1)
    assert reports(engine) == {"finish done 3 of 3": 1, "success done 3 of 3": 1}


def test_a_failed_batch_leaves_nothing_in_the_transaction_that_it_joined(shop: Isolated, engine: sa.Engine) -> None:
    with Session(engine) as session:
        with pytest.raises(BatchEnded), dexpy.batch(session=session, batch=ended_batch(), **ALL) as batch:
            batch.add(Statement(customer=1))
        session.commit()
    assert (records.where(operation=Statement).count(), rows(engine, batch_callbacks)) == (0, 0)


def ended_batch() -> BatchTicket:
    with dexpy.batch() as batch:
        pass
    return batch.ticket


def test_a_run_adds_runs_to_its_own_batch(shop: Isolated, engine: sa.Engine) -> None:
    with dexpy.batch(**ALL) as batch:
        batch.add(AddMore(customer=10, count=3))
    shop.run_pending()
    assert batch.ticket.reload().counts == {"done": 4}
    assert reports(engine) == {"finish done 4 of 4": 1, "success done 4 of 4": 1}
    with pytest.raises(BatchEnded, match=r"the batch is done and accepts no further runs\. Add runs before"):
        batch.ticket.add(Statement(customer=99))
    with pytest.raises(BatchEnded):
        enqueue_all([Statement(customer=99)], batch=batch)
    assert batch.ticket.runs.count() == 4


def test_an_open_batch_accepts_runs_until_it_is_closed(shop: Isolated, engine: sa.Engine) -> None:
    with dexpy.batch(keep_open=True, **ALL) as batch:
        batch.add(Statement(customer=1))
    shop.run_pending()
    ticket = batches.get(batch.ticket.id)
    assert (ticket.status, ticket.counts) == ("open", {"done": 1})
    ticket.add(Statement(customer=2))
    shop.run_pending()
    assert not reports(engine)

    assert ticket.close().status == "done"
    assert ticket.close().status == "done"

    shop.run_pending()
    assert reports(engine) == {"finish done 2 of 2": 1, "success done 2 of 2": 1}


def test_a_cancelled_batch_ends_when_its_runs_are_cancelled(shop: Isolated, engine: sa.Engine) -> None:
    with dexpy.batch(**ALL) as batch:
        batch.add_all(Statement(customer=number) for number in range(250))
        with dexpy.batch(batch=batch) as inner:
            inner.add(Statement(customer=250))
    ticket = batch.ticket.cancel()
    assert (inner.ticket.reload().status, inner.ticket.runs.count()) == ("cancelled", 1)
    assert (ticket.status, ticket.counts) == ("cancelled", {"cancelled": 250})
    with pytest.raises(BatchEnded, match="cancelled"):
        ticket.add(Statement(customer=1))
    shop.run_pending()
    assert reports(engine) == {"finish cancelled 250 of 250": 1}
    assert ticket.runs.first().error_message == "Cancelled with its batch."  # type: ignore[union-attr]


def test_each_end_by_a_person_or_a_clock_counts(shop: Isolated, engine: sa.Engine) -> None:
    with dexpy.batch(**ALL) as batch:
        cancelled, failed, expired = batch.add_all(Statement(customer=number) for number in range(3))
        batch.add(Statement(customer=9), in_=60, expires_in=90)
    cancelled.cancel()
    failed.fail("not wanted")
    expired.expire()
    assert batch.ticket.reload().status == "running"
    shop.advance(100)
    shop.run_pending()
    relay = shop.runtime.services.recorded
    assert relay is not None
    assert relay.relay.run_once()
    shop.run_pending()
    assert batch.ticket.reload().counts == {"cancelled": 1, "failed": 1, "expired": 2}
    assert set(reports(engine)) == {"failure running 3 of 4", "finish failed 4 of 4"}


def test_an_inner_batch_belongs_to_the_batch_around_it(shop: Isolated, engine: sa.Engine) -> None:
    with dexpy.batch(on_finish=Report(what="finish"), on_success=Report(what="success")) as outer:
        outer.add(Statement(customer=1))
    with dexpy.batch(batch=outer.ticket, on_success=Report(what="success"), on_failure=Report(what="failure")) as inner:
        inner.add(Statement(customer=2), in_=60)
    shop.run_pending()
    assert (outer.ticket.reload().status, inner.ticket.batch_id) == ("running", outer.ticket.id)
    shop.advance(61)
    shop.run_pending()
    assert (outer.ticket.reload().status, inner.ticket.reload().status) == ("done", "done")
    # The callback of the inner batch is a run of the outer one.
    assert reports(engine) == {"success done 1 of 1": 1, "finish done 2 of 2": 1, "success done 2 of 2": 1}


def test_a_retry_in_an_inner_batch_reopens_the_batch_around_it(shop: Isolated, engine: sa.Engine) -> None:
    with dexpy.batch(on_success=Report(what="success")) as outer:
        pass_through = outer.add(Statement(customer=1), in_=5)
        with dexpy.batch(batch=outer) as inner, dexpy.batch(batch=inner):
            inner.add(Fail(customer=8))
        with pytest.raises(NotCommitted):
            _ = inner.ticket
    shop.advance(6)
    shop.run_pending()
    assert pass_through.reload().done
    assert (outer.ticket.reload().status, inner.ticket.reload().status) == ("failed", "failed")
    repair(engine, 8)
    inner.ticket.retry_failed()
    assert outer.ticket.reload().status == "running"
    shop.run_pending()
    assert (outer.ticket.reload().status, inner.ticket.reload().status) == ("done", "done")
    assert reports(engine) == {"success done 1 of 1": 1}


def test_the_options_of_a_callback_count_from_its_batch_s_end(shop: Isolated) -> None:
    with dexpy.batch(on_finish=Later()) as batch:
        batch.add(Statement(customer=1), in_=1000)
    shop.advance(1001)
    shop.run_pending()
    callback = batch.ticket.callback("finish")
    assert callback is not None
    record = records.get(callback.id)
    assert (record.queue, record.priority, record.status) == ("reports", 7, "pending")
    shop.advance(61)
    shop.run_pending()
    assert callback.result(1) == "later"


def test_a_callback_whose_key_another_run_has_is_not_run_again(shop: Isolated) -> None:
    first = Keyed(month=7).async_().call()
    tickets = []
    for month in (7, 8):
        with dexpy.batch(on_success=Keyed(month=month)) as batch:
            duplicate = batch.add(Keyed(month=7))
        assert duplicate.duplicate
        assert batch.ticket.reload().counts == {}, "a duplicate belongs to no batch"
        tickets.append(batch.ticket)
    shop.run_pending()
    callbacks = [ticket.callback("success") for ticket in tickets]
    assert [each.result(1) for each in callbacks if each is not None] == [7, 8]
    assert callbacks[0] is not None
    assert callbacks[0].id == first.id
    assert records.where(operation=Keyed).count() == 2


def test_a_deferred_call_belongs_to_a_batch(shop: Isolated, engine: sa.Engine) -> None:
    with dexpy.batch(**ALL) as batch:
        dexpy.defer.with_options(batch=batch)(double, 4)
    shop.run_pending()
    assert [ticket.outcome for ticket in batch.ticket.tickets()] == [dexpy.Ok(8)]
    assert reports(engine) == {"finish done 1 of 1": 1, "success done 1 of 1": 1}


@pytest.mark.parametrize("database_url", ON_SERVERS, indirect=True)
def test_a_batch_does_not_end_while_an_open_transaction_adds_a_run(shop: Isolated, engine: sa.Engine) -> None:
    with dexpy.batch(**ALL) as batch:
        batch.add(Statement(customer=1))
    with Session(engine) as session, Session(engine) as other:
        Statement(customer=2).async_(batch=batch, session=session).call()
        # Those who add runs do not wait for each other.
        Statement(customer=3).async_(batch=batch, session=other).call()
        shop.run_pending()
        assert batch.ticket.reload().counts == {"done": 1}
        assert batch.ticket.status == "running"
        session.commit()
        other.rollback()
    shop.run_pending()
    assert batch.ticket.reload().counts == {"done": 2}
    assert reports(engine) == {"finish done 2 of 2": 1, "success done 2 of 2": 1}


def test_only_a_run_of_a_batch_executes_a_statement_more(shop: Isolated) -> None:
    statements: list[str] = []
    database = shop.runtime.store.database.engine
    sa.event.listen(database, "before_cursor_execute", lambda *arguments: statements.append(arguments[2]))

    def statements_of_a_run() -> list[str]:
        statements.clear()
        shop.run_pending()
        return [statement for statement in statements if not statement.startswith(("SAVEPOINT", "RELEASE"))]

    for month in (0, 1):
        # The first run fills caches.
        Keyed(month=month).async_().call()
        alone = statements_of_a_run()
    with dexpy.batch() as batch:
        batch.add(Keyed(month=2))
        batch.add(Keyed(month=3), in_=3600)
    grouped = statements_of_a_run()

    assert len(grouped) == len(alone) + 1
    assert not any("operation_batches" in statement for statement in alone)


def test_pruning_keeps_the_runs_of_a_batch_until_it_has_ended_long_ago(shop: Isolated) -> None:
    with dexpy.batch() as batch:
        batch.add(Statement(customer=1))
        batch.add(Statement(customer=2), in_=timedelta(days=40))
    shop.run_pending()
    shop.advance(timedelta(days=35))
    assert records.prune(older_than=timedelta(days=30)) == 0
    shop.advance(timedelta(days=6))
    shop.run_pending()
    assert batch.ticket.reload().status == "done"
    assert records.prune(older_than=timedelta(days=30)) == 0
    shop.advance(timedelta(days=31))
    assert records.prune(older_than=timedelta(days=30)) == 2
    with pytest.raises(BatchNotFound):
        batch.ticket.reload()
    assert batches.find() == []


def test_an_awaited_batch_is_stored_without_blocking_the_loop(shop: Isolated, engine: sa.Engine) -> None:
    async def enqueue() -> BatchTicket:
        async with dexpy.batch(**ALL) as batch:
            await Statement(customer=1).async_(batch=batch).acall()
        return batch.ticket

    ticket = asyncio.run(enqueue())
    shop.run_pending()
    assert ticket.reload().status == "done"
    assert reports(engine) == {"finish done 1 of 1": 1, "success done 1 of 1": 1}


def test_what_a_batch_cannot_do_is_one_clear_error(shop: Isolated) -> None:
    with pytest.raises(NotRecorded, match=r"Unrecorded: a run of a batch requires a record"), dexpy.batch() as batch:
        batch.add(Unrecorded())
    with pytest.raises(NotRecorded, match="on_finish of a batch requires"), dexpy.batch(on_finish=Unrecorded()):
        pass
    with pytest.raises(OptionsError, match=r"expected an operation, got 3"), dexpy.batch() as batch:
        batch.add_all([3])  # type: ignore[list-item]
    with pytest.raises(OptionsError, match=r"expected the batch of `with dexpy\.batch"):
        Statement(customer=1).async_(batch="bt_1")  # type: ignore[call-overload]
    with pytest.raises(OptionsError, match=r"name: expected a str of 1 to 255"):
        dexpy.batch(name="")
    with pytest.raises(OptionsError, match="on_success"):
        dexpy.batch(on_success=Statement)  # type: ignore[arg-type]
    with pytest.raises(OptionsError, match="has no block"):
        dexpy.batch().add(Statement(customer=1))
    with pytest.raises(BatchNotFound, match="No batch has the id 'bt_nothing'"):
        batches.get("bt_nothing")
    with pytest.raises(dexpy.errors.NotRunning):
        batches.current()
    assert (records.all().count(), batches.find()) == (0, [])
