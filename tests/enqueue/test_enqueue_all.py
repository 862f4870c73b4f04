"""`enqueue_all` enqueues many operations in one transaction."""

from __future__ import annotations

import asyncio
import datetime as dt
import time
from collections.abc import Callable
from datetime import timedelta
from typing import Any, cast

import pytest
import sqlalchemy as sa
from harness.workers import eventually
from sqlalchemy import event
from sqlalchemy.orm import Session

import dexpy
from dexpy import (
    Async,
    Concurrency,
    NotSerializable,
    Once,
    Operation,
    Recording,
    Ticket,
    Unique,
    enqueue_all,
    prop,
    records,
)
from dexpy.errors import DeclarationError, OnceConflict, OptionsError
from dexpy.testing import Isolated

MANY = 40
WAIT_S = 20.0


class Greet(Operation):
    """Returns a greeting."""

    name: str

    def perform(self) -> str:
        return f"Hello {self.name}"


class Count(Operation):
    """Has a queue and a priority."""

    number: int
    async_ = Async(queue="counts", priority=3)

    def perform(self) -> int:
        return self.number


class Direct(Operation):
    """Has no record before its end."""

    number: int
    record = Recording(params=False)

    def perform(self) -> int:
        return self.number


class Charge(Operation):
    """Has an idempotency key for each order."""

    order: int
    amount: int = 1
    once = Once("order")

    def perform(self) -> int:
        return self.amount


class Reindex(Operation):
    """Is unique for each shop."""

    shop: int
    unique = Unique("shop")

    def perform(self) -> int:
        return self.shop


class Narrow(Operation):
    """Has a concurrency limit of two."""

    number: int
    concurrency = Concurrency(2)

    def perform(self) -> int:
        return self.number


class Anything(Operation):
    """Has props that may have no JSON form or be secret."""

    what: Any = None
    secret: str = prop(default="", sensitive=True)

    def perform(self) -> None: ...


def stored() -> int:
    return records.all().count()


def queued(isolated_runtime: Isolated, engine: sa.Engine) -> int:
    with engine.connect() as connection:
        return int(connection.execute(sa.text("SELECT count(*) FROM dexpy_messages")).scalar_one())


# ------------------------------------------------------------------------------------------------- valid batches


def test_all_operations_run_and_the_tickets_are_in_order(isolated_runtime: Isolated) -> None:
    tickets = enqueue_all([Greet(name="Ada"), Count(number=2), Greet(name="Ben")])

    assert all(ticket.pending for ticket in tickets)
    assert len(isolated_runtime.run_pending()) == 3
    assert [ticket.result(5) for ticket in tickets] == ["Hello Ada", 2, "Hello Ben"]
    assert [records.get(ticket.id).queue for ticket in tickets] == ["default", "counts", "default"]
    assert [records.get(ticket.id).priority for ticket in tickets] == [0, 3, 0]


def test_options_of_the_call_apply_to_all_operations(isolated_runtime: Isolated) -> None:
    tickets = enqueue_all(
        (Count(number=number) for number in range(3)), queue="late", in_=1, priority=7, expires_in=timedelta(minutes=5)
    )
    rows = [records.get(ticket.id) for ticket in tickets]
    assert {(row.queue, row.priority) for row in rows} == {("late", 7)}
    assert isolated_runtime.run_pending() == [], "the runs are due in a second, by the database's clock"
    eventually(
        lambda: isolated_runtime.run_pending() or all(ticket.reload().done for ticket in tickets),
        "all runs are done after their delay",
        WAIT_S,
    )
    assert [ticket.result(WAIT_S) for ticket in tickets] == [0, 1, 2]

    at = dt.datetime.now(dt.timezone.utc) + timedelta(hours=2)
    moments = enqueue_all([Greet(name="Cy"), Greet(name="Di")], at=at)
    assert {records.get(ticket.id).scheduled_at for ticket in moments} == {at}


def test_all_operations_of_a_batch_expire(isolated_runtime: Isolated) -> None:
    late = enqueue_all([Greet(name="Dee"), Greet(name="Eve")], expires_in=0.2)
    time.sleep(0.3)
    isolated_runtime.run_pending()
    assert [ticket.reload().status for ticket in late] == ["expired", "expired"]


def test_many_operations_are_stored_by_one_statement_and_their_messages_too(isolated_runtime: Isolated) -> None:
    enqueue_all([Greet(name="warm"), Greet(name="up")])
    statements: list[tuple[str, int]] = []

    def note(_c: Any, _cursor: Any, statement: str, parameters: Any, _context: Any, many: bool) -> None:
        if statement.startswith("INSERT"):
            statements.append((statement.split()[2].rpartition(".")[2], len(parameters) if many else 1))

    event.listen(isolated_runtime.runtime.store.database.engine, "before_cursor_execute", note)
    tickets = enqueue_all([Greet(name=str(number)) for number in range(MANY)])
    event.remove(isolated_runtime.runtime.store.database.engine, "before_cursor_execute", note)

    assert statements == [("operation_records", MANY), ("dexpy_messages", MANY)]
    assert len({ticket.id for ticket in tickets}) == MANY
    isolated_runtime.run_pending()
    assert [ticket.result(5) for ticket in tickets] == [f"Hello {number}" for number in range(MANY)]


def test_a_row_of_a_batch_equals_the_row_of_a_single_enqueue(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    with dexpy.trace(actor={"type": "user", "id": 7}, trace_id="req-1"):
        alone = Greet(name="x").async_(in_=30, expires_in=300).call()
        (one, _) = enqueue_all([Greet(name="x"), Greet(name="y")], in_=30, expires_in=300)
    with engine.connect() as connection:
        query = sa.text("SELECT * FROM operation_records WHERE id IN (:a, :b)")
        stored_rows = {
            row["id"]: dict(row) for row in connection.execute(query, {"a": alone.id, "b": one.id}).mappings()
        }
    differing = {"id", "trace", "scheduled_at", "expires_at", "enqueued_at", "created_at", "updated_at"}
    first, second = ({k: v for k, v in stored_rows[i].items() if k not in differing} for i in (alone.id, one.id))
    assert first == second
    moments = {name: (stored_rows[alone.id][name], stored_rows[one.id][name]) for name in differing - {"id", "trace"}}
    for name, both in moments.items():
        assert [type(value) for value in both] == [type(both[0])] * 2, name
        assert None not in both, name


def test_an_empty_batch_makes_no_query(isolated_runtime: Isolated) -> None:
    assert enqueue_all([]) == []
    assert stored() == 0


def test_direct_runs_can_be_part_of_a_batch(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    tickets = enqueue_all([Greet(name="Ada"), Direct(number=1), Direct(number=2)])
    assert [ticket.recorded for ticket in tickets] == [True, False, False]
    assert queued(isolated_runtime, engine) == 3
    assert len(isolated_runtime.run_pending()) == 3


# -------------------------------------------------------------------------------------------------- refused batches


BAD: dict[str, tuple[Callable[[], Any], type[Exception], str]] = {
    "a prop that cannot travel": (lambda: Anything(what=object()), NotSerializable, "what"),
    "a class that no worker finds": (lambda: local_operation(), DeclarationError, "declared inside a function"),
}


def local_operation() -> Operation:
    class Local(Operation):
        def perform(self) -> None: ...

    return Local()


@pytest.mark.parametrize("bad", BAD)
def test_one_invalid_operation_is_named_and_nothing_is_stored(
    isolated_runtime: Isolated, engine: sa.Engine, bad: str
) -> None:
    make, kind, expected = BAD[bad]
    with pytest.raises(kind, match=expected) as raised:
        enqueue_all([Greet(name="Ada"), make(), Charge(order=1)])
    assert raised.value.__notes__ == ["enqueue_all: item 2 of 3; nothing was stored or sent."]
    assert stored() == 0
    assert queued(isolated_runtime, engine) == 0
    assert not Charge(order=1).async_().call().duplicate, "the key of the third operation is free"


def test_a_conflict_in_the_middle_of_a_batch_stores_nothing(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    Charge(order=7, amount=1).async_().call()
    with pytest.raises(OnceConflict):
        enqueue_all([Greet(name="Ada"), Charge(order=6), Charge(order=7, amount=2), Charge(order=8)])
    assert stored() == 1
    assert queued(isolated_runtime, engine) == 1
    assert [ticket.duplicate for ticket in enqueue_all([Charge(order=6), Charge(order=8)])] == [False, False]


def test_a_database_error_in_the_middle_of_a_batch_stores_nothing(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    def fail(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        if statement.startswith("INSERT INTO") and "dexpy_messages" in statement.split()[2]:
            raise RuntimeError("no more")

    event.listen(isolated_runtime.runtime.store.database.engine, "before_cursor_execute", fail)
    with pytest.raises(RuntimeError, match="no more"):
        enqueue_all([Greet(name="Ada"), Charge(order=1), Greet(name="Ben")])
    event.remove(isolated_runtime.runtime.store.database.engine, "before_cursor_execute", fail)
    assert stored() == 0
    assert queued(isolated_runtime, engine) == 0


REFUSALS: dict[str, tuple[Callable[[], Any], str]] = {
    "a class": (
        lambda: enqueue_all(cast("Any", [Greet])),
        r"item 1: expected an operation, got <class .*Greet'>\. Pass instances without",
    ),
    "an enqueue": (
        lambda: enqueue_all(cast("Any", [Greet(name="Ada").async_()])),
        "item 1: expected an operation, got Enqueue",
    ),
    "one alone": (
        lambda: enqueue_all(cast("Any", Greet(name="Ada"))),
        r"got one operation\. Write: enqueue_all\(\[op\]\)",
    ),
    "an unknown option": (lambda: enqueue_all([Greet(name="Ada")], quue="x"), "Did you mean 'queue'"),  # type: ignore[call-overload]
    "both moments": (
        lambda: enqueue_all([Greet(name="Ada")], in_=3, at=dt.datetime.now(dt.timezone.utc)),
        "expected in_ \\(a delay\\) or at \\(a datetime\\), got both",
    ),
    "no session": (lambda: enqueue_all([Greet(name="Ada")], session=cast("Any", "s")), "expected a SQLAlchemy Session"),
}


@pytest.mark.filterwarnings("ignore:.*was never called:RuntimeWarning")
@pytest.mark.parametrize("refusal", REFUSALS)
def test_invalid_arguments_are_refused(isolated_runtime: Isolated, refusal: str) -> None:
    call, expected = REFUSALS[refusal]
    with pytest.raises(OptionsError, match=expected):
        call()
    assert stored() == 0


def test_an_async_session_is_refused_with_the_fix(isolated_runtime: Isolated) -> None:
    from sqlalchemy.ext.asyncio import AsyncSession

    with pytest.raises(OptionsError, match="await session.run_sync"):
        enqueue_all([Greet(name="Ada")], session=cast("Any", AsyncSession()))


# ----------------------------------------------------------------------------------------------- in a transaction


def test_a_batch_belongs_to_the_callers_transaction(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    with Session(engine) as session:
        dropped = enqueue_all([Greet(name="Ada"), Charge(order=1), Direct(number=1)], session=session)
        session.rollback()
        assert stored() == 0
        with pytest.raises(dexpy.errors.RolledBack):
            dropped[0].reload()
        tickets = enqueue_all([Greet(name="Ada"), Charge(order=1), Direct(number=1)], session=session)
        assert stored() == 0, "the batch is not committed yet"
        session.commit()
    assert stored() == 2
    assert not any(ticket.duplicate for ticket in tickets)
    assert len(isolated_runtime.run_pending()) == 3


def test_a_batch_joins_the_current_session_and_a_savepoint(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    with Session(engine) as session, dexpy.session(session):
        with session.begin_nested() as savepoint:
            enqueue_all([Greet(name="gone"), Greet(name="gone too")])
            savepoint.rollback()
        enqueue_all([Greet(name="Ada"), Greet(name="Ben")])
        session.commit()
    assert sorted(ticket.result(5) for ticket in isolated_runtime.run_pending()) == ["Hello Ada", "Hello Ben"]


# MariaDB's driver has no asyncio.
@pytest.mark.parametrize(
    "database_url", ["sqlite", pytest.param("postgresql", marks=pytest.mark.servers)], indirect=True
)
def test_an_async_session_enqueues_a_batch_through_run_sync(isolated_runtime: Isolated, database_url: str) -> None:
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    async def enqueue() -> list[Ticket[str]]:
        engine = create_async_engine(database_url.replace("sqlite://", "sqlite+aiosqlite://"))
        async with AsyncSession(engine) as session:
            tickets: list[Ticket[str]] = await session.run_sync(
                lambda sync: enqueue_all([Greet(name="Ada"), Greet(name="Ben")], session=sync)
            )
            await session.commit()
        await engine.dispose()
        return tickets

    tickets = asyncio.run(enqueue())
    isolated_runtime.run_pending()
    assert [ticket.result(5) for ticket in tickets] == ["Hello Ada", "Hello Ben"]


# -------------------------------------------------------------------------------------- with other policies


def test_an_existing_key_returns_the_ticket_of_the_earlier_run(isolated_runtime: Isolated) -> None:
    first = Charge(order=1).async_().call()
    tickets = enqueue_all([Charge(order=2), Charge(order=1), Charge(order=2), Reindex(shop=1), Reindex(shop=1)])

    assert [ticket.duplicate for ticket in tickets] == [False, True, True, False, True]
    assert tickets[1].id == first.id
    assert tickets[2].id == tickets[0].id
    assert tickets[4].id == tickets[3].id
    assert len(isolated_runtime.run_pending()) == 3


def test_a_concurrency_limit_applies_to_the_runs_of_a_batch(isolated_runtime: Isolated) -> None:
    tickets = enqueue_all([Narrow(number=number) for number in range(7)])
    isolated_runtime.run_pending()
    assert [ticket.result(5) for ticket in tickets] == list(range(7))
