"""Queries of `records`: each filter, their combination, pages and counts."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa

import dexpy
from dexpy import Async, Error, Operation, OptRef, Ref, Refs, prop, records
from dexpy.errors import OptionsError
from dexpy.foundation.clock import clock
from dexpy.records import Record
from dexpy.testing import Isolated

from .shop import Country, Customer, Line, Shop
from .tables import sql

AT = datetime(2100, 1, 1, tzinfo=timezone.utc)


class Color(Enum):
    RED = "red"
    BLUE = "blue"


class Send(Operation):
    """Ends as its prop specifies."""

    to: str = "Ada"
    ending: str = "well"

    def perform(self) -> str:
        if self.ending == "error":
            raise Error("no_balance", "Nothing to send")
        if self.ending == "crash":
            raise ConnectionError("down")
        return self.to


class Renamed(Send, name="sending.renamed", aliases=("sending.old",)):
    pass


class Inside(Operation):
    def perform(self) -> str:
        return Send(to="inner").call()


class Typed(Operation):
    number: int = 0
    share: float = 0.0
    flag: bool = False
    text: str = ""
    maybe: str | None = None
    amount: Decimal = Decimal(0)
    day: date = date(2026, 1, 1)
    color: Color = Color.RED
    key: UUID = UUID(int=0)
    tags: list[str] = prop(factory=list)

    def perform(self) -> None: ...


class Greet(Operation):
    customer: Ref[Customer]
    country: OptRef[Country] = None
    line: OptRef[Line] = None
    others: Refs[Customer] = prop(factory=list)

    def perform(self) -> None: ...


def send(isolated_runtime: Isolated, to: str = "Ada", ending: str = "well", **options: Any) -> str:
    """Enqueue a `Send`, and return the id of its run."""
    return Send(to=to, ending=ending).async_(**options).call().id


def ids(query: Any) -> list[str]:
    return [record.id for record in query]


# --------------------------------------------------------------------------------------------------- filters


def test_without_a_filter_every_record_is_found_in_order_of_creation(isolated_runtime: Isolated) -> None:
    sent_ids = [send(isolated_runtime, in_=3600) for _ in range(3)]

    assert ids(records.all()) == ids(records.where()) == sorted(sent_ids)
    assert ids(records.newest_first()) == sorted(sent_ids, reverse=True)
    assert ids(records.newest_first().oldest_first()) == sorted(sent_ids)


@pytest.mark.parametrize("operation", [Renamed, "sending.renamed"])
def test_records_are_filtered_by_operation_class_or_name(isolated_runtime: Isolated, operation: Any) -> None:
    send(isolated_runtime)
    mine = Renamed().async_().call().id

    assert ids(records.where(operation=operation)) == [mine]


def test_filtering_by_a_class_finds_records_under_its_earlier_names(isolated_runtime: Isolated) -> None:
    Renamed().async_().call()
    Renamed().async_().call()
    sql(
        isolated_runtime,
        "UPDATE operation_records SET operation = 'sending.old' WHERE id = (SELECT min(id) FROM operation_records)",
    )

    assert records.where(operation=Renamed).count() == 2
    assert records.where(operation="sending.old").count() == 1


def test_records_are_filtered_by_one_or_many_statuses(isolated_runtime: Isolated) -> None:
    done, failed = send(isolated_runtime), send(isolated_runtime, ending="error")
    isolated_runtime.run_pending()
    pending, expired = send(isolated_runtime, in_=60), send(isolated_runtime, in_=60)
    dexpy.Ticket.get(expired).expire()

    assert ids(records.where(status="done")) == ids(records.done()) == [done]
    assert ids(records.failed()) == [failed]
    assert ids(records.pending()) == [pending]
    assert ids(records.expired()) == [expired]
    assert ids(records.running()) == []
    assert set(ids(records.where(status=("done", "failed")))) == {done, failed}
    assert ids(records.where(status=[])) == []


def test_records_are_filtered_by_failure(isolated_runtime: Isolated) -> None:
    business, crash = send(isolated_runtime, ending="error"), send(isolated_runtime, ending="crash")
    send(isolated_runtime)
    isolated_runtime.run_pending()

    assert ids(records.where(failure="business")) == [business]
    assert set(ids(records.where(failure=["business", "crash"]))) == {business, crash}


def test_records_are_filtered_by_error_code_or_class(isolated_runtime: Isolated) -> None:
    business, crash = send(isolated_runtime, ending="error"), send(isolated_runtime, ending="crash")
    isolated_runtime.run_pending()

    assert ids(records.where(error="no_balance")) == [business]
    assert ids(records.where(error="ConnectionError")) == ids(records.where(error=ConnectionError)) == [crash]


def test_an_exception_of_dexpy_is_found_under_the_class_path_that_earlier_versions_stored(
    isolated_runtime: Isolated,
) -> None:
    late = send(isolated_runtime)
    for stored in ("dexpy.TimedOut", "dexpy.errors.TimedOut"):
        sql(isolated_runtime, f"UPDATE operation_records SET error = '{stored}'")
        assert ids(records.where(error=dexpy.TimedOut)) == ids(records.where(error="dexpy.errors.TimedOut")) == [late]


def test_records_are_filtered_by_queue(isolated_runtime: Isolated) -> None:
    mine = send(isolated_runtime, queue="mailers")
    send(isolated_runtime)

    assert ids(records.where(queue="mailers")) == [mine]


def test_records_are_filtered_by_creation_time_as_an_age_or_a_datetime(isolated_runtime: Isolated) -> None:
    old = send(isolated_runtime, in_=10**6)
    isolated_runtime.advance(3600)
    between = clock.now() - timedelta(minutes=30)
    new = send(isolated_runtime, in_=10**6)

    assert ids(records.where(since=timedelta(minutes=30))) == [new]
    assert ids(records.where(until=timedelta(minutes=30))) == [old]
    assert ids(records.where(since=between)) == [new]
    assert ids(records.where(until=between.astimezone(timezone(timedelta(hours=5))))) == [old]
    assert ids(records.where(since=timedelta(hours=2), until=timedelta(0))) == [old, new]
    query = records.where(since=timedelta(minutes=30))
    isolated_runtime.advance(3600)
    assert ids(query) == [], "an age counts from the time of the query"


def test_records_are_filtered_by_actor_and_by_trace(isolated_runtime: Isolated) -> None:
    with dexpy.trace(actor={"type": "user", "id": 7}, trace_id="req-7"):
        ada = send(isolated_runtime)
    with dexpy.trace(actor={"type": "user", "id": "8"}, trace_id="req-8"):
        ben = send(isolated_runtime)
    with dexpy.trace(actor={"type": "cron"}):
        cron = send(isolated_runtime)
    send(isolated_runtime)

    assert ids(records.where(actor="user")) == [ada, ben]
    assert ids(records.where(actor={"type": "user", "id": 7})) == [ada]
    assert ids(records.for_actor({"type": "user", "id": 8})) == [ben]
    assert ids(records.for_actor("cron")) == [cron]
    assert ids(records.for_trace("req-7")) == ids(records.where(trace="req-7")) == [ada]


def test_records_are_filtered_by_the_calling_run(isolated_runtime: Isolated) -> None:
    outer = Inside().async_().call().id
    isolated_runtime.run_pending()

    (inner,) = records.where(parent=outer)
    assert inner.operation.endswith(".Send")
    assert inner.trace_id == records.get(outer).trace_id


@pytest.mark.parametrize(
    "params",
    [
        {"number": 42},
        {"share": 0.5},
        {"flag": True},
        {"text": "a 'quoted' ☃ \" \\ %"},
        {"maybe": "there"},
        {"amount": Decimal("10.50")},
        {"day": date(2026, 2, 3)},
        {"color": Color.BLUE},
        {"key": UUID(int=7)},
        {"number": 42, "flag": True, "text": "x"},
    ],
    ids=lambda params: " ".join(params),
)
def test_records_are_filtered_by_params_of_any_type_of_the_class(
    isolated_runtime: Isolated, params: dict[str, Any]
) -> None:
    Typed().async_().call()
    mine = Typed(**params).async_().call().id

    assert ids(records.where(operation=Typed, params=params)) == [mine]


def test_records_are_filtered_by_a_param_of_none_or_false(isolated_runtime: Isolated) -> None:
    mine = Typed().async_().call().id
    Typed(maybe="x", flag=True).async_().call()

    assert ids(records.where(operation=Typed, params={"maybe": None})) == [mine]
    assert ids(records.where(operation=Typed, params={"flag": False})) == [mine]


def test_records_are_filtered_by_a_reference_as_key_or_instance(isolated_runtime: Isolated, shop: Shop) -> None:
    shop.add(Customer(id=1, name="Ada"), Customer(id=42, name="Ben"), Country(code="no"))
    Greet(customer=1).async_().call()
    mine = Greet(customer=42, country="no").async_().call().id

    assert ids(records.where(params={"customer": 42})) == [mine]
    assert ids(records.where(operation=Greet, params={"customer": 42})) == [mine]
    assert ids(records.where(operation=Greet, params={"country": "no"})) == [mine]
    assert ids(records.where(operation=Greet, params={"country": None})) != [mine]
    with shop.session() as session:
        ben = session.get_one(Customer, 42)
        assert ids(records.where(operation=Greet, params={"customer": ben})) == [mine]


def test_records_are_filtered_by_duration(isolated_runtime: Isolated) -> None:
    quick, slow = send(isolated_runtime), send(isolated_runtime)
    send(isolated_runtime, in_=10**6)
    isolated_runtime.run_pending()
    sql(
        isolated_runtime,
        "UPDATE operation_records SET completed_at = datetime(started_at, '+90 seconds') WHERE id = ?",
        slow,
    )

    assert ids(records.where(min_duration=timedelta(seconds=30))) == [slow]
    assert ids(records.where(max_duration=timedelta(seconds=30))) == [quick]
    assert ids(records.where(min_duration=30, max_duration=timedelta(minutes=2))) == [slow]
    assert records.get(quick).duration is not None


def test_records_are_filtered_by_attempts(isolated_runtime: Isolated) -> None:
    waiting = send(isolated_runtime, in_=10**6)
    done = send(isolated_runtime)
    isolated_runtime.run_pending()

    assert ids(records.where(min_attempts=1)) == [done]
    assert ids(records.where(max_attempts=0)) == [waiting]


def test_filters_are_combined_with_and(isolated_runtime: Isolated) -> None:
    mine = send(isolated_runtime, ending="error", queue="mailers")
    send(isolated_runtime, ending="error")
    send(isolated_runtime, queue="mailers")
    isolated_runtime.run_pending()

    assert ids(records.where(status="failed", queue="mailers", operation=Send)) == [mine]
    assert ids(records.failed().where(queue="mailers").where(operation=Send)) == [mine]
    assert ids(records.failed().done()) == []


@pytest.mark.parametrize(
    ("filters", "message"),
    [
        ({"status": "faild"}, r"where\(status=\): unknown status .*'done'.*mean 'failed'"),
        ({"status": ["done", "ready"]}, r"unknown status 'ready'"),
        ({"failure": "business_error"}, "unknown failure 'business_error'"),
        ({"operation": 7}, "expected an operation class or its name"),
        ({"operation": Customer}, "expected an operation class or its name"),
        ({"since": datetime(2026, 1, 1)}, "expected an aware datetime, got naive"),
        ({"until": date(2026, 1, 1)}, "expected an aware datetime, or a timedelta"),
        ({"since": "yesterday"}, "expected an aware datetime, or a timedelta"),
        ({"min_duration": "long"}, "expected seconds or a timedelta"),
        ({"operation": Greet, "params": {"costumer": 1}}, "unknown prop 'costumer'.*mean 'customer'"),
        ({"operation": Greet, "params": {"customer": "Ada"}}, "customer: expected"),
        ({"params": {"customer": object()}}, "expected text, a number, a boolean, None or a key, got object"),
        ({"operation": Typed, "params": {"tags": ["a"]}}, "got list"),
    ],
)
def test_an_invalid_filter_is_refused(isolated_runtime: Isolated, filters: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        records.where(**filters)


# ------------------------------------------------------------------------------------------------- composing


def test_a_query_is_immutable(isolated_runtime: Isolated) -> None:
    for _ in range(3):
        send(isolated_runtime, in_=60)
    base = records.where(operation=Send)

    base.failed()
    base.newest_first()
    base.limit(1)
    base.where(queue="unused")

    assert base.count() == len(list(base)) == 3
    assert ids(base) == sorted(ids(base))


def test_each_iteration_executes_the_query_again(isolated_runtime: Isolated) -> None:
    query = records.pending()
    assert query.count() == 0
    send(isolated_runtime, in_=60)
    assert (query.count(), len(list(query)), query.first() is not None) == (1, 1, True)


def test_first_returns_the_first_record_or_none(isolated_runtime: Isolated) -> None:
    assert records.all().first() is None
    sent_ids = [send(isolated_runtime, in_=60) for _ in range(3)]

    first, last = records.all().first(), records.newest_first().first()
    assert first is not None
    assert last is not None
    assert (first.id, last.id) == (min(sent_ids), max(sent_ids))


def test_count_counts_the_records_of_the_query(isolated_runtime: Isolated) -> None:
    for _ in range(5):
        send(isolated_runtime, in_=60)

    assert records.all().count() == 5
    assert records.newest_first().limit(2).count() == 2
    assert records.where(queue="unused").count() == 0


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2", None])
def test_a_limit_is_an_int_of_at_least_one(isolated_runtime: Isolated, count: Any) -> None:
    with pytest.raises(OptionsError, match="expected an int of at least 1"):
        records.all().limit(count)


def test_the_keyset_pages_of_the_docs_work(isolated_runtime: Isolated) -> None:
    mine = send(isolated_runtime, ending="error")
    send(isolated_runtime)
    isolated_runtime.run_pending()

    query = records.where(operation=Send, status="failed", since=timedelta(days=1)).newest_first().limit(20)
    assert ids(query) == [mine]


# ----------------------------------------------------------------------------------------------------- pages


@pytest.mark.parametrize("newest_first", [False, True])
def test_pages_show_each_record_once_and_in_order(isolated_runtime: Isolated, newest_first: bool) -> None:
    sent_ids = sorted((send(isolated_runtime, in_=60) for _ in range(7)), reverse=newest_first)
    query = records.newest_first() if newest_first else records.all()
    paged_ids: list[str] = []
    sizes: list[int] = []
    after: str | None = None
    while True:
        page = query.page(3, after=after)
        paged_ids += ids(page.records)
        sizes.append(len(page.records))
        if page.next is None:
            break
        after = page.next

    assert paged_ids == sent_ids
    assert sizes == [3, 3, 1]


def test_the_last_page_may_be_full(isolated_runtime: Isolated) -> None:
    for _ in range(4):
        send(isolated_runtime, in_=60)

    first = records.all().page(2)
    second = records.all().page(2, after=first.next)
    assert (len(second.records), second.next) == (2, None)
    assert records.where(queue="unused").page().records == ()


def test_new_records_do_not_shift_a_page(isolated_runtime: Isolated) -> None:
    sent_ids = sorted(send(isolated_runtime, in_=60) for _ in range(4))
    page = records.newest_first().page(2)
    isolated_runtime.advance(1)
    send(isolated_runtime, in_=60)

    assert ids(records.newest_first().page(2, after=page.next).records) == sent_ids[1::-1]


def test_pages_keep_the_filters(isolated_runtime: Isolated) -> None:
    mine = sorted(send(isolated_runtime, in_=60, queue="mailers") for _ in range(3))
    for _ in range(3):
        send(isolated_runtime, in_=60)

    page = records.where(queue="mailers").page(2)
    assert ids(page.records) + ids(records.where(queue="mailers").page(2, after=page.next).records) == mine


@pytest.mark.parametrize("size", [0, -1, 2.0, True])
def test_the_size_of_a_page_is_an_int_of_at_least_one(isolated_runtime: Isolated, size: Any) -> None:
    with pytest.raises(OptionsError, match="expected an int of at least 1"):
        records.all().page(size)


# ---------------------------------------------------------------------------------------- select, single records


def test_select_returns_the_underlying_sqlalchemy_select(isolated_runtime: Isolated) -> None:
    for to in ("Ada", "Ben", "Ada"):
        send(isolated_runtime, to=to, in_=60)
    select = records.where(operation=Send).select()

    assert isinstance(select, sa.Select)
    narrowed = select.where(records.table.c.params["to"].as_string() == "Ada")
    with isolated_runtime.runtime.store.database.connect() as connection:
        assert len(connection.execute(narrowed).all()) == 2
        grouped = sa.select(records.table.c.status, sa.func.count()).group_by(records.table.c.status)
        assert [tuple(each) for each in connection.execute(grouped)] == [("pending", 3)]


def test_a_record_has_the_columns_of_its_row(isolated_runtime: Isolated) -> None:
    with dexpy.trace(actor={"type": "user", "id": 7}, trace_id="req-7"):
        record_id = send(isolated_runtime, to="Ben", queue="mailers", priority=3)
    isolated_runtime.run_pending()

    record = records.get(record_id)
    assert isinstance(record, Record)
    assert (record.id, record.operation, record.status) == (record_id, f"{__name__}.Send", "done")
    assert (record.params, record.result, record.result_error) == ({"to": "Ben", "ending": "well"}, "Ben", None)
    assert (record.queue, record.priority, record.num_attempts) == ("mailers", 3, 1)
    assert (record.actor_type, record.actor_id, record.trace_id) == ("user", "7", "req-7")
    for moment in (record.created_at, record.started_at, record.completed_at, record.enqueued_at):
        assert moment is not None
        assert moment.utcoffset() == timedelta(0)
    assert record.duration is not None
    assert record.duration >= timedelta(0)
    assert repr(record) == f"<Record {__name__}.Send {record_id} done>"


def test_calls_are_recorded_beside_jobs(isolated_runtime: Isolated) -> None:
    Send().call()
    with pytest.raises(Error):
        Send(ending="error").call()

    assert [(each.status, each.error) for each in records.where(operation=Send)] == [
        ("done", None),
        ("failed", "no_balance"),
    ]


def test_attempts_are_shown_as_one_list(isolated_runtime: Isolated) -> None:
    done, failed, waiting = (
        send(isolated_runtime),
        send(isolated_runtime, ending="crash"),
        send(isolated_runtime, in_=60),
    )
    isolated_runtime.run_pending()
    with pytest.raises(ConnectionError):
        Send(ending="crash").call()
    latest = records.newest_first().first()
    assert latest is not None

    def shown(id: str) -> list[tuple[int, str | None, str | None]]:
        return [(each.number, each.failure, each.error) for each in records.attempts(id)]

    assert shown(done) == [(1, None, None)]
    assert shown(failed) == shown(latest.id) == [(1, "crash", "ConnectionError")]
    assert shown(waiting) == []
    (attempt,) = records.attempts(failed)
    assert attempt.worker is not None
    assert attempt.traceback is not None
    assert attempt.started_at is not None
    assert attempt.ended_at is not None


def test_ids_sort_by_creation_time(isolated_runtime: Isolated) -> None:
    sent_ids: list[str] = []
    for _ in range(3):
        sent_ids.append(send(isolated_runtime, in_=10**6))
        isolated_runtime.advance(1)

    assert sent_ids == sorted(sent_ids)


@pytest.mark.parametrize(
    "ask", [lambda: records.all().count(), lambda: list(records.failed()), lambda: records.all().page().records]
)
def test_a_new_database_has_no_records(isolated_runtime: Isolated, ask: Callable[[], Any]) -> None:
    assert not ask()


class Timed(Operation):
    async_ = Async(in_=60)

    def perform(self) -> None: ...


def test_a_record_has_the_due_time_of_its_run(isolated_runtime: Isolated) -> None:
    record = records.get(Timed().async_().call().id)

    assert record.scheduled_at is not None
    assert record.scheduled_at - record.created_at == pytest.approx(timedelta(seconds=60), abs=timedelta(seconds=0.1))
