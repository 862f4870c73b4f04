"""Batches: what remains after an interruption, an inner block that fails, and an error of the database."""

from __future__ import annotations

from contextlib import suppress

import pytest
import sqlalchemy as sa
from apps import shop_statements
from apps.shop_statements import Fail, Report, Statement
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

import dexpy
from dexpy import Ticket, records
from dexpy.database.column_types import as_of
from dexpy.database.tables import batch_callbacks, batches
from dexpy.errors import DatabaseBusy, NotCommitted, RolledBack
from dexpy.foundation import failpoints
from dexpy.maintenance import relay
from dexpy.testing import Isolated


@pytest.fixture
def shop(isolated_runtime: Isolated, engine: sa.Engine) -> Isolated:
    """The runtime, with the tables of the shop."""
    shop_statements.create_tables(engine)
    return isolated_runtime


def test_an_interruption_after_the_commit_leaves_the_ticket_of_a_stored_batch(
    shop: Isolated, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(name: str) -> None:
        if name == "after_commit":
            raise KeyboardInterrupt

    monkeypatch.setattr(failpoints, "reached", interrupt)
    batch = dexpy.batch()
    inner = dexpy.batch(batch=batch)
    with pytest.raises(KeyboardInterrupt), batch:
        batch.add(Statement(customer=1))
        with inner:
            inner.add(Statement(customer=2))
    monkeypatch.setattr(failpoints, "reached", None)
    assert (batch.ticket.counts, inner.ticket.counts) == ({"pending": 1}, {"pending": 1})

    shop.run_pending()
    assert [ticket.outcome for ticket in batch.ticket.tickets()] == [dexpy.Ok(1)]
    assert batch.ticket.wait(1)
    assert inner.ticket.wait(1)


def test_an_inner_batch_whose_block_has_failed_accepts_no_runs(shop: Isolated) -> None:
    with dexpy.batch() as outer:
        outer.add(Statement(customer=1))
        inner = dexpy.batch(batch=outer)
        innermost = dexpy.batch(batch=inner)
        discarded = list[Ticket[int]]()
        with suppress(ZeroDivisionError), inner:
            discarded.append(inner.add(Statement(customer=2)))
            with innermost:
                discarded.append(innermost.add(Statement(customer=3)))
            _ = 1 / 0
        for failed in (inner, innermost):
            with pytest.raises(NotCommitted, match="stored at the end of its block, unless an exception ends it"):
                failed.add(Statement(customer=4))
        for ticket in discarded:
            with pytest.raises(RolledBack):
                ticket.wait(0.1)
    shop.run_pending()
    assert outer.ticket.reload().counts == {"done": 1}
    assert records.all().count() == 1


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
def test_an_error_of_the_application_s_engine_does_not_show_the_props_of_a_callback(
    shop: Isolated, engine: sa.Engine
) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql(
            "CREATE TRIGGER refuse BEFORE INSERT ON operation_batch_callbacks BEGIN SELECT RAISE(ABORT, 'refused'); END"
        )
    with Session(engine) as session:
        with (
            pytest.raises(DBAPIError) as raised,
            dexpy.batch(session=session, on_finish=Report(what="private note")),
        ):
            pass
        session.rollback()
    assert "refused" in str(raised.value)
    assert "private note" not in str(raised.value)


def test_the_props_of_an_enqueued_callback_remain_in_its_run_alone(shop: Isolated, engine: sa.Engine) -> None:
    with dexpy.batch(on_finish=Report(what="private note")) as batch:
        pass
    with engine.connect() as connection:
        assert connection.execute(sa.select(batch_callbacks.c.job)).scalars().all() == [{}]
    shop.run_pending()
    finish = batch.ticket.callback("finish")
    assert finish is not None
    assert records.get(finish.id).params == {"what": "private note"}


def test_a_cancelled_batch_runs_the_callback_of_an_inner_batch_that_it_cancels(shop: Isolated) -> None:
    with dexpy.batch(on_finish=Report(what="finish")) as outer:
        outer.add(Statement(customer=1))
        with dexpy.batch(batch=outer, on_finish=Report(what="finish")) as inner:
            inner.add(Statement(customer=2))
    assert outer.ticket.cancel().status == "running"
    shop.run_pending()
    for batch, num_ended in ((inner, 1), (outer, 2)):
        assert batch.ticket.reload().status == "cancelled"
        finish = batch.ticket.callback("finish")
        assert finish is not None
        assert finish.result(1) == num_ended


def test_one_cleanup_deletes_all_batches_that_ended_long_ago(
    shop: Isolated, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    with dexpy.batch() as recent:
        pass
    times = dict.fromkeys(("created_at", "updated_at", "finished_at"), as_of(-relay.BATCHES_KEPT_S - 60))
    with engine.begin() as connection:
        for number in range(2 * relay.BATCH + 1):
            values = {"id": f"bt_{number}", "status": "done", "trace_id": "tr_1", **times}
            connection.execute(sa.insert(batches).values(values))
    monkeypatch.setattr(relay, "CLEANUP_EVERY_S", 0)
    recorded = shop.runtime.services.recorded
    assert recorded is not None
    assert recorded.relay.run_once()
    assert [batch.id for batch in dexpy.batches.find()] == [recent.ticket.id]


def test_a_session_closes_the_batch_to_which_it_adds_runs_with_its_commit(shop: Isolated, engine: sa.Engine) -> None:
    with dexpy.batch(keep_open=True) as batch:
        pass
    for is_kept in (False, True):
        with Session(engine) as session, dexpy.session(session):
            batch.ticket.add(Statement(customer=1))
            assert batch.ticket.close().status == "running"
            if is_kept:
                session.commit()
        shop.run_pending()
        assert batch.ticket.reload().status == ("done" if is_kept else "open")
    assert batch.ticket.counts == {"done": 1}


def test_a_session_retries_a_run_of_the_batch_to_which_it_adds_runs(shop: Isolated, engine: sa.Engine) -> None:
    with dexpy.batch(keep_open=True) as batch:
        failed = batch.add(Fail(customer=1))
    shop.run_pending()
    with Session(engine) as session, dexpy.session(session):
        batch.ticket.add(Statement(customer=2))
        assert failed.reload().retry().status == "pending"
        session.rollback()
    assert failed.reload().status == "failed"
    with Session(engine) as session, dexpy.session(session):
        batch.ticket.add(Statement(customer=2))
        failed.retry()
        session.commit()
    assert batch.ticket.reload().counts == {"pending": 2}


def test_a_session_cannot_cancel_the_batch_to_which_it_adds_runs(shop: Isolated, engine: sa.Engine) -> None:
    with dexpy.batch() as outer:
        outer.add(Statement(customer=1), in_=60)
        with dexpy.batch(batch=outer) as inner:
            inner.add(Statement(customer=2), in_=60)
    with Session(engine) as session, dexpy.session(session):
        inner.ticket.add(Statement(customer=3))
        for batch in (inner, outer):
            with pytest.raises(DatabaseBusy, match="would wait for the transaction around it"):
                batch.ticket.cancel()
        session.commit()
        assert outer.ticket.cancel().counts == {"cancelled": 1}
    assert inner.ticket.reload().counts == {"cancelled": 2}
