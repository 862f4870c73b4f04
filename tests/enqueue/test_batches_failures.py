"""Batches: what remains after an interruption, an inner block that fails, and an error of the database."""

from __future__ import annotations

from contextlib import suppress

import pytest
import sqlalchemy as sa
from apps import shop_statements
from apps.shop_statements import Report, Statement
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

import dexpy
from dexpy import Ticket, records
from dexpy.database.tables import batch_callbacks
from dexpy.errors import NotCommitted, RolledBack
from dexpy.foundation import failpoints
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
