"""The behaviour that every pair of a database and a broker has, tested by the public API and real workers."""

from __future__ import annotations

import time
from collections import Counter
from datetime import date, datetime, timedelta, timezone
from datetime import time as clock_time
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import attrs
import pytest
import sqlalchemy as sa
from apps.shop import (
    Address,
    Color,
    Count,
    Customer,
    Deliver,
    DirectVisit,
    Echo,
    Everything,
    FlakyDirectGreeting,
    FlakyGreeting,
    Greet,
    GreetLoudly,
    Label,
    LoseClaim,
    Point,
    RecordedClick,
)
from harness.pairs import CapturedMessages, Pair
from harness.workers import eventually
from sqlalchemy.orm import Session

import dexpy
from dexpy import Err, Error, Ok, OperationFailed
from dexpy.database.tables import messages, records

WAIT_S = 20.0
"""A generous timeout in seconds, for busy machines."""
POLL_S = 0.03

EVERYTHING = Everything(
    text="Grüße, 世界 \U0001f600 'quoted' \\n",
    whole=-(2**70),
    broken=1e16,
    flag=True,
    nothing=None,
    raw=bytes(range(256)),
    moment=datetime(2026, 10, 25, 2, 30, 0, 123456, tzinfo=timezone(timedelta(hours=5, minutes=30))),
    naive=datetime(2026, 10, 25, 2, 30, 0, 1),
    day=date(2024, 2, 29),
    hour=clock_time(23, 59, 59, 999999),
    span=timedelta(days=-3, microseconds=7),
    amount=Decimal("-1.2300"),
    uuid=UUID(int=2**100),
    color=Color.BLUE,
    literal=1,
    path=Path("/tmp/a b"),
    maybe=None,
    either="7",
    items=[Decimal("1E+3"), Decimal("0.10")],
    distinct={3, 1, 2},
    frozen=frozenset({"b", "a"}),
    couple=(1, date(2026, 1, 1)),
    many=(UUID(int=1), UUID(int=2)),
    table={"käse": date(2026, 12, 31)},
    point=Point(x=1, y=Decimal("2.50")),
    shape=Label(text="x", since=date(2026, 1, 1)),
    label=Label(text=""),
    address=Address(street="Münsterplatz", floor=0),
    plain={"a": [1, 2.5, None, True, {"b": "c"}], "": 0},
    row=["x", {"y": -0.0}],
)


def send_all(operations: list[Any], **options: Any) -> list[Any]:
    return [operation.async_(**options).call() for operation in operations]


@pytest.fixture
def captured(pair: Pair) -> Any:
    """Yield the messages that this process publishes during a test."""
    broker = dexpy.current_runtime().broker
    capturing = CapturedMessages()
    broker.add_middleware(capturing)
    yield capturing.messages
    broker.middleware.remove(capturing)


# ------------------------------------------------------------------------------------------------------- outcomes


@pytest.mark.anywhere
def test_the_ticket_returns_the_result(pair: Pair) -> None:
    ticket = Greet(name="Ada").async_().call()

    assert ticket.result(WAIT_S, POLL_S) == "hello Ada"
    row = pair.row(ticket.id)
    assert (row["status"], row["num_attempts"], row["error"]) == ("done", 1, None)
    assert row["created_at"] <= row["started_at"] <= row["completed_at"]
    assert pair.effects_of(ticket.id) == ["greet Ada"]


def test_a_business_error_reaches_the_ticket_as_such(pair: Pair) -> None:
    ticket = Greet(name="").async_().call()

    outcome = ticket.wait(WAIT_S, POLL_S)
    assert outcome == Err("no_name", "No name to greet", {"asked": 1})
    with pytest.raises(Error, match="No name to greet"):
        ticket.result(WAIT_S)
    assert (ticket.status, ticket.failure) == ("failed", "business")


@pytest.mark.anywhere
def test_a_retry_after_a_crash_succeeds(pair: Pair, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    ticket = FlakyGreeting(ledger=str(ledger), failures=2).async_().call()

    assert ticket.result(WAIT_S, POLL_S) == 3
    assert pair.row(ticket.id)["num_attempts"] == 3
    assert pair.effects_of(ticket.id) == ["stumble"], "the writes of the first two attempts were rolled back"
    attempts = pair.sql(
        "SELECT number, failure FROM operation_attempts WHERE record_id = :id ORDER BY number", id=ticket.id
    )
    assert attempts == [(1, "crash"), (2, "crash")]


def test_a_crash_with_no_attempt_left_is_a_failure(pair: Pair, tmp_path: Path) -> None:
    ticket = FlakyGreeting(ledger=str(tmp_path / "ledger"), failures=9).async_().call()

    with pytest.raises(OperationFailed, match="failed in run 3"):
        ticket.result(WAIT_S, POLL_S)
    row = pair.row(ticket.id)
    assert (row["status"], row["failure"], row["num_attempts"]) == ("failed", "crash", 3)
    assert pair.effects_of(ticket.id) == []


@pytest.mark.anywhere
def test_a_retry_of_a_direct_job_succeeds(pair: Pair, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    FlakyDirectGreeting(ledger=str(ledger), failures=2).async_().call()

    eventually(
        lambda: ledger.exists() and len(ledger.read_text().split()) == 3,
        "the job runs three times",
        WAIT_S,
        pair.output,
    )
    run_ids = set(ledger.read_text().split())
    assert len(run_ids) == 1
    eventually(lambda: pair.effects_of(*run_ids) == ["stumble"], "the third attempt succeeds", WAIT_S, pair.output)


# ------------------------------------------------------------------------------------------- delays and queues


@pytest.mark.anywhere
def test_a_delay_and_a_due_time_are_respected(pair: Pair) -> None:
    enqueued_at = time.time()
    moment = datetime.now(timezone.utc) + timedelta(seconds=1.0)
    delayed = Greet(name="in").async_(in_=1.0).call()
    appointed = Greet(name="at").async_(at=moment).call()
    meanwhile = Greet(name="now").async_().call()

    assert meanwhile.result(WAIT_S, POLL_S)
    for ticket in (delayed, appointed):
        ticket.result(WAIT_S, POLL_S)
        began = pair.row(ticket.id)["started_at"].timestamp()
        # The database's clock may differ slightly from `time.time`.
        assert 0.99 <= began - enqueued_at < 10


def test_the_queue_of_a_class_and_one_that_no_class_names_are_served(pair: Pair) -> None:
    name = f"urgent_{time.time_ns()}"
    enqueued_at = time.monotonic()

    named = GreetLoudly(name="a").async_().call()
    new = Greet(name="b").async_(queue=name).call()

    assert new.result(WAIT_S, POLL_S)
    assert time.monotonic() - enqueued_at < 5
    assert named.result(WAIT_S, POLL_S)
    assert [pair.row(ticket.id)["queue"] for ticket in (named, new)] == ["loud", name]


def test_a_higher_priority_runs_sooner(pair: Pair) -> None:
    later = datetime.now(timezone.utc) + timedelta(hours=1)
    calm = send_all([Count(number=n, seconds=0.05) for n in range(20)], at=later, queue="ranked")
    urgent = send_all([Count(number=n, seconds=0.05) for n in range(20, 40)], at=later, queue="ranked", priority=9)
    ids = [ticket.id for ticket in calm + urgent]

    now = datetime.now(timezone.utc)
    with pair.engine.begin() as connection:
        connection.execute(sa.update(records).where(records.c.id.in_(ids)).values(scheduled_at=now))
        connection.execute(sa.update(messages).where(messages.c.queue == "ranked").values(due_at=now))

    for ticket in calm + urgent:
        ticket.wait(WAIT_S, POLL_S)
    order = sorted(ids, key=lambda id: pair.row(id)["started_at"])
    places = {id: place for place, id in enumerate(order)}
    mean = [sum(places[ticket.id] for ticket in tickets) / 20 for tickets in (urgent, calm)]
    assert mean[0] + 5 < mean[1], mean


# ------------------------------------------------------------------------------------------------------- messages


@pytest.mark.anywhere
def test_the_message_of_a_recorded_operation_holds_only_its_id(pair: Pair, captured: list[Any]) -> None:
    with dexpy.trace(trace_id="tr_conformance"):
        ticket = Greet(name="secret name").async_().call()

    (message,) = captured
    assert (message.actor_name, message.args, message.queue_name) == ("dexpy.RecordJob", (), "default")
    assert message.kwargs == {
        "class_name": "apps.shop.Greet",
        "record_id": ticket.id,
        "trace": {"id": "tr_conformance"},
    }
    assert message.options["dexpy"] == {"v": 1}
    assert b"secret name" not in message.encode()
    assert pair.row(ticket.id)["params"] == {"name": "secret name"}
    ticket.result(WAIT_S, POLL_S)


@pytest.mark.parametrize(
    "operation", [DirectVisit(page="/a"), RecordedClick(page="/b")], ids=["no record", "no params"]
)
def test_the_message_of_an_operation_without_recorded_params_holds_them(
    pair: Pair, captured: list[Any], operation: Any
) -> None:
    ticket = operation.async_().call()

    (message,) = captured
    assert (message.actor_name, message.args) == ("dexpy.DirectJob", ())
    assert set(message.kwargs) == {"class_name", "params", "trace"}
    assert message.kwargs["params"] == {"page": operation.page}
    assert not ticket.recorded
    eventually(lambda: pair.effects_of(ticket.id), "the job runs", WAIT_S, pair.output)
    rows = pair.sql(sa.select(records.c.status, records.c.params).where(records.c.id == ticket.id))
    assert rows == ([] if type(operation) is DirectVisit else [("done", None)])


def test_a_direct_job_with_a_long_delay_waits_in_the_database(pair: Pair) -> None:
    ticket = DirectVisit(page="/later").async_(in_=3600).call()

    (waiting,) = pair.sql(sa.select(messages).where(messages.c.payload.contains(ticket.id)))
    assert 3500 < (waiting.due_at - datetime.now(timezone.utc)).total_seconds() <= 3601
    assert pair.effects_of(ticket.id) == []

    now = datetime.now(timezone.utc)
    pair.change(sa.update(messages).where(messages.c.id == waiting.id).values(due_at=now))

    eventually(lambda: pair.effects_of(ticket.id), "the job runs", WAIT_S, pair.output)
    query = sa.select(messages).where(messages.c.id == waiting.id)
    eventually(lambda: not pair.sql(query), "its row is deleted", WAIT_S, pair.output)


def test_every_type_round_trips_through_params_and_result(pair: Pair) -> None:
    alone = {field.name: getattr(EVERYTHING, field.name) for field in attrs.fields(Everything)}

    ticket = Echo(value=EVERYTHING, **alone).async_().call()

    result = ticket.result(WAIT_S, POLL_S)
    for field in attrs.fields(Everything):
        expected, actual = getattr(EVERYTHING, field.name), getattr(result, field.name)
        assert type(actual) is type(expected)
        assert repr(actual) == repr(expected) or (isinstance(expected, (set, frozenset)) and actual == expected), (
            field.name
        )
    assert result.moment.utcoffset() == EVERYTHING.moment.utcoffset()


def test_the_worker_loads_refs(pair: Pair) -> None:
    with Session(pair.engine) as session:
        ada = session.get_one(Customer, 1)
        ticket = Deliver(
            customer=ada, friends=[2, 3], package=("Ulm", 3), device=UUID(int=7)
        ).async_().call()  # fmt: skip

    assert ticket.result(WAIT_S, POLL_S) == ["Ada", "None", "Ben,Cy", "Ulm/3", str(UUID(int=7))]
    missing = Deliver(customer=404).async_().call()
    with pytest.raises(OperationFailed):
        missing.result(WAIT_S, POLL_S)
    assert missing.failure == "discarded"


# ------------------------------------------------------------------------------------------------- transactions


@pytest.mark.anywhere
def test_an_enqueue_in_a_session_runs_after_its_commit_and_never_after_a_rollback(pair: Pair) -> None:
    with Session(pair.engine) as session:
        with dexpy.session(session):
            rolled_back = Greet(name="rolled back").async_().call()
            visit = DirectVisit(page="/rolled-back").async_().call()
        session.rollback()

        with dexpy.session(session):
            committed = Greet(name="kept").async_().call()
            with session.begin_nested() as savepoint:
                dropped = Greet(name="dropped").async_().call()
                savepoint.rollback()
        time.sleep(0.3)
        assert pair.sql(sa.select(records.c.id).where(records.c.id == committed.id)) == []
        session.commit()

    assert committed.result(WAIT_S, POLL_S) == "hello kept"
    for ticket in (rolled_back, dropped, visit):
        assert pair.sql(sa.select(records.c.id).where(records.c.id == ticket.id)) == []
        assert pair.sql(sa.select(messages.c.id).where(messages.c.payload.contains(ticket.id))) == []
        assert pair.effects_of(ticket.id) == []


def test_the_effects_of_a_run_and_its_status_are_written_in_one_transaction(pair: Pair) -> None:
    ticket = Greet(name="once").async_().call()
    ticket.result(WAIT_S, POLL_S)
    if pair.engine.dialect.name == "postgresql":
        effect = pair.sql("SELECT xmin::text FROM effects WHERE run = :id", id=ticket.id)
        assert effect == pair.sql("SELECT xmin::text FROM operation_records WHERE id = :id", id=ticket.id)

    lost = LoseClaim().async_().call()

    eventually(lambda: any(lost.id in line for worker in pair.workers for line in worker.lines("claim.lost")),
               "the lost claim is logged", WAIT_S, pair.output)  # fmt: skip
    assert pair.effects_of(lost.id) == []
    # The row belongs to the claim of the other worker, which does not run it: it is recovered, and lost again.
    assert pair.status(lost.id) in ("running", "pending", "failed")
    pair.change(sa.delete(records).where(records.c.id == lost.id))


# -------------------------------------------------------------------------------------------- actions on tickets


def test_a_ticket_retries_a_failed_run(pair: Pair, tmp_path: Path) -> None:
    ledger = tmp_path / "ledger"
    ticket = FlakyGreeting(ledger=str(ledger), failures=4).async_().call()
    with pytest.raises(OperationFailed):
        ticket.result(WAIT_S, POLL_S)

    ticket.retry()

    assert ticket.result(WAIT_S, POLL_S) == 5
    assert pair.row(ticket.id)["num_attempts"] == 2
    assert len(pair.sql("SELECT 1 FROM operation_attempts WHERE record_id = :id", id=ticket.id)) == 4


def test_a_ticket_reschedules_and_cancels_a_run(pair: Pair) -> None:
    moved = Greet(name="moved").async_(in_=3600).call()
    off = Greet(name="off").async_(in_=3600).call()

    moved.reschedule(at=datetime.now(timezone.utc) + timedelta(seconds=0.5))
    off.expire()

    assert moved.result(WAIT_S, POLL_S) == "hello moved"
    row = pair.row(off.id)
    assert (row["status"], row["failure"]) == ("expired", "expired")
    with pytest.raises(dexpy.errors.InvalidTransition):
        off.expire()
    assert off.retry().wait(WAIT_S, POLL_S) == Ok("hello off")


# ----------------------------------------------------------------------------------------------------- exactly once


@pytest.mark.anywhere
def test_two_hundred_operations_on_two_processes_run_exactly_once_each(pair: Pair) -> None:
    tickets = send_all([Count(number=number) for number in range(1000, 1200)])
    ids = [ticket.id for ticket in tickets]
    unfinished = sa.select(sa.func.count()).where(records.c.id.in_(ids), records.c.status != "done")

    eventually(lambda: pair.sql(unfinished) == [(0,)], "all operations are done", 40, pair.output)

    effects = pair.sql("SELECT what, run, pid FROM effects WHERE what LIKE 'count 1___'")
    assert Counter(row.what for row in effects) == Counter(f"count {number}" for number in range(1000, 1200))
    assert Counter(row.run for row in effects) == Counter(ids)
    assert {row.pid for row in effects} == set(pair.workers[0].children()), "both processes took part"
    attempts = pair.sql(sa.select(sa.func.max(records.c.num_attempts)).where(records.c.id.in_(ids)))
    assert attempts == [(1,)]
