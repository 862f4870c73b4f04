"""`op.async_(...).call()`: its options, its transaction, and its run in a worker."""

from __future__ import annotations

import asyncio
import json
import logging
import threading
from collections.abc import Callable
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import dexpy
from dexpy import (
    Async,
    Err,
    Error,
    NotSerializable,
    Ok,
    Operation,
    OptRef,
    PropsError,
    Recording,
    Ref,
    Retry,
    guard,
    prop,
    records,
)
from dexpy.errors import (
    DeclarationError,
    NotCommitted,
    NotRecorded,
    OptionsError,
    RecordNotFound,
    ResultNotStored,
    RolledBack,
    SensitiveInTransit,
)
from dexpy.foundation.clock import clock
from dexpy.foundation.trace import current_frame
from dexpy.testing import Isolated, isolated

from .shop import Base, Customer, Shop
from .tables import attempts, messages, nothing_is_stored, row, rows, sql

WAIT_S = 5.0
ROUNDS = 12
"""Enough to detect a race."""
SECRET = "hunter2-Ω"

performed: list[Any] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    performed.clear()


class Note(Operation):
    """Records that it ran."""

    what: int = 0

    def perform(self) -> int:
        performed.append(self.what)
        return self.what


class ByClass(Note):
    """Declares a queue, a priority and a delay."""

    async_ = Async(queue="mailers", priority=5, in_=60)


class AtClass(Note):
    async_ = Async(at=datetime(2100, 1, 1, tzinfo=timezone.utc))


class Child(ByClass):
    """Overrides the queue and inherits the rest."""

    async_ = Async(queue="letters")


class Routed(Note):
    """Has a function for its queue."""

    async_ = Async(queue=lambda op: "even" if op.what % 2 == 0 else "odd")


class RoutedByRef(Operation):
    customer: Ref[Customer]
    async_ = Async(queue=lambda op: f"for_{op.customer.name}")

    def perform(self) -> None: ...


class Misrouted(Note):
    async_ = Async(queue=lambda op: f"no good {op.what}")


class AddCustomer(Operation):
    """Adds a customer."""

    name: str

    def perform(self) -> int:
        customer = Customer(name=self.name)
        self.session.add(customer)
        self.session.flush()
        return customer.id


class Spawn(Operation):
    """Enqueues another operation, and ends as its prop specifies."""

    end: str = "well"
    caught: bool = False

    def perform(self) -> str:
        ticket = AddCustomer(name="child").async_().call()
        if self.caught:
            failing = Spawn(end="error").safe.call()
            assert isinstance(failing, Err)
        if self.end == "error":
            raise Error("no")
        if self.end == "crash":
            raise ZeroDivisionError("crashed")
        return ticket.id


class SpawnApart(Spawn):
    transaction = False


class SpawnAsync(Operation):
    """Enqueues another operation from a coroutine."""

    fails: bool = False

    async def perform(self) -> str:
        ticket = await AddCustomer(name="child").async_().acall()
        await asyncio.sleep(0)
        if self.fails:
            raise Error("no")
        return ticket.id


class Untraceable(Note):
    record = False


class NoParams(Note):
    record = Recording(params=False)


class NoResult(Note):
    record = Recording(result=False)


class Login(Operation):
    password: str = prop(sensitive=True)

    def perform(self) -> str:
        performed.append(self.password)
        raise RuntimeError(f"cannot log in with {self.password}")


class LoginDirect(Login):
    record = False


class LoginNoParams(Login):
    record = Recording(params=False)


class Bounded(Operation):
    """Has props that may differ from the stored params of an earlier release."""

    count: int = prop(default=3, ge=1)
    day: date = date(2026, 1, 1)
    title: str = prop(default="none", aliases=("heading", "head"))
    token: str = prop(default="", sensitive=True, max_length=5)

    def perform(self) -> list[Any]:
        return [self.count, self.day.isoformat(), self.title]


class BadDefault(Operation):
    """Has a default factory that may fail."""

    count: int = 0
    computed: int = prop(factory=lambda: factory())

    def perform(self) -> int:
        return self.computed


def factory() -> int:
    if performed:
        raise LookupError("the shelf is empty")
    return 1


class Guarded(Operation):
    """Is refused by its guard."""

    open: bool = False

    @guard("It is closed")
    def closed(self) -> bool:
        return not self.open

    def perform(self) -> str:
        return "in"


class Odd(Operation):
    """Returns a value without a JSON form."""

    def perform(self) -> object:
        performed.append("odd")
        return threading.Lock()


class WrongResult(Operation):
    name: str

    def perform(self) -> int:
        self.session.add(Customer(name=self.name))
        return self.name  # type: ignore[return-value]


class ManyProps(Operation):
    customer: Ref[Customer]
    friend: OptRef[Customer] = None

    def perform(self) -> list[Any]:
        return [self.customer.name, self.friend and self.friend.name]


class Quit(Operation):
    """Raises a BaseException that is not an Exception."""

    direct: bool = False

    def perform(self) -> None:
        raise SystemExit(3)


class QuitDirect(Quit):
    record = Recording(params=False)


class Traced(Operation):
    def perform(self) -> dict[str, Any]:
        frame = current_frame()
        return {"trace": frame.trace_id, "actor": dict(frame.actor or {}), "run": self.run_id}


# --------------------------------------------------------------------------------------------------- options


def test_a_call_stores_a_pending_record_and_runs_nothing(isolated_runtime: Isolated) -> None:
    ticket = Note(what=1).async_().call()

    assert performed == []
    assert ticket.pending
    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["num_attempts"], stored["claim_token"], stored["send_count"]) == (
        "pending",
        0,
        0,
        1,
    )
    assert (stored["queue"], stored["priority"], stored["scheduled_at"]) == ("default", 0, None)
    assert stored["enqueued_at"] is not None
    assert len(messages(isolated_runtime)) == 1
    (run,) = isolated_runtime.run_pending()
    assert (run.id, run.outcome, performed) == (ticket.id, Ok(1), [1])
    assert messages(isolated_runtime) == []


def test_async_options_store_nothing_and_can_be_used_twice(isolated_runtime: Isolated) -> None:
    prepared = Note(what=1).async_(queue="a")
    assert nothing_is_stored(isolated_runtime)

    assert prepared.call().id != prepared.call().id
    assert len(isolated_runtime.run_pending()) == 2


def test_each_option_of_a_class_is_inherited_separately(isolated_runtime: Isolated) -> None:
    stored = row(isolated_runtime, Child().async_().call().id)

    assert (stored["queue"], stored["priority"]) == ("letters", 5)
    assert stored["scheduled_at"] is not None


def test_each_option_of_the_call_overrides_that_of_the_class(isolated_runtime: Isolated) -> None:
    stored = row(isolated_runtime, ByClass().async_(priority=-3).call().id)

    assert (stored["queue"], stored["priority"]) == ("mailers", -3)
    assert messages(isolated_runtime)[0]["priority"] == -3


@pytest.mark.parametrize("operation", [ByClass(), AtClass()], ids=["in_ of the class", "at of the class"])
@pytest.mark.parametrize("timing", ["in_", "at"])
def test_runtime_timing_of_either_kind_replaces_class_timing_of_either_kind(
    isolated_runtime: Isolated, operation: Note, timing: str
) -> None:
    options: dict[str, Any] = {
        "in_": {"in_": 600},
        "at": {"at": clock.now() + timedelta(seconds=600)},
    }[timing]
    operation.async_(**options).call()

    isolated_runtime.advance(599)
    assert isolated_runtime.run_pending() == []
    isolated_runtime.advance(2)
    assert len(isolated_runtime.run_pending()) == 1


@pytest.mark.parametrize("delay", [0, 0.0, timedelta(0)])
def test_a_delay_of_zero_overrides_the_delay_of_the_class(isolated_runtime: Isolated, delay: Any) -> None:
    ByClass().async_(in_=delay).call()

    assert len(isolated_runtime.run_pending()) == 1


def test_a_delay_waits_in_the_table_until_it_is_due(isolated_runtime: Isolated) -> None:
    ticket = Note(what=1).async_(in_=timedelta(days=400)).call()

    assert isolated_runtime.run_pending() == []
    isolated_runtime.advance(timedelta(days=400, seconds=-5))
    assert isolated_runtime.run_pending() == []
    isolated_runtime.advance(6)
    assert [each.id for each in isolated_runtime.run_pending()] == [ticket.id]


def test_a_datetime_in_any_zone_is_accepted(isolated_runtime: Isolated) -> None:
    from zoneinfo import ZoneInfo

    at = datetime(2100, 3, 28, 12, 0, 0, 123456, tzinfo=ZoneInfo("Asia/Kathmandu"))

    ticket = Note().async_(at=at).call()

    assert row(isolated_runtime, ticket.id)["scheduled_at"] == "2100-03-28 06:15:00.123456"
    assert ticket.scheduled_at == ticket.reload().scheduled_at == at


def test_a_datetime_in_the_past_is_due_at_once(isolated_runtime: Isolated) -> None:
    Note().async_(at=datetime(1999, 1, 1, tzinfo=timezone.utc)).call()

    assert len(isolated_runtime.run_pending()) == 1


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "both timings": (
        {"in_": 1, "at": datetime(2100, 1, 1, tzinfo=timezone.utc)},
        r"expected in_ \(a delay\) or at \(a datetime\), got both",
    ),
    "a negative delay": ({"in_": -1}, "in_=-1: expected a finite delay of 0 or more seconds"),
    "a negative timedelta": ({"in_": timedelta(seconds=-1)}, "0 or more seconds"),
    "a delay without end": ({"in_": float("inf")}, "finite delay"),
    "a delay that is no number": ({"in_": float("nan")}, "0 or more seconds"),
    "a delay as text": ({"in_": "5"}, r"in_='5': expected seconds or a timedelta"),
    "a delay as bool": ({"in_": True}, "in_=True: expected seconds"),
    "a naive moment": ({"at": datetime(2100, 1, 1)}, r"expected an aware datetime, got a naive one\. Pass a time zone"),
    "a date": ({"at": date(2100, 1, 1)}, "expected an aware datetime"),
    "a moment as text": ({"at": "2100-01-01"}, "expected an aware datetime"),
    "an unknown option": (
        {"que": "mailers"},
        r"unknown option 'que'; expected one of 'at', 'batch', 'expires_in', .*mean 'queue'",
    ),
    "delay": ({"delay": 5}, "unknown option 'delay'"),
    "a queue with a blank": ({"queue": "no good"}, r"invalid queue name 'no good'; use 1 to 64"),
    "an empty queue": ({"queue": ""}, "invalid queue name"),
    "a queue that is too long": ({"queue": "q" * 65}, "invalid queue name"),
    "a queue that is no text": ({"queue": 7}, "invalid queue name 7"),
    "a queue of Dramatiq's": ({"queue": "mailers.DQ"}, r"Dramatiq reserves \.DQ and \.XQ"),
    "a priority that is no int": ({"priority": 1.5}, r"priority=1\.5: expected an int of 32 bits; higher runs sooner"),
    "a priority out of range": ({"priority": 2**31}, "expected an int"),
    "a session that is none": ({"session": "s"}, "expected a SQLAlchemy Session, got str"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_invalid_options_are_refused_at_the_call(isolated_runtime: Isolated, case: str) -> None:
    options, message = REFUSED[case]

    with pytest.raises(OptionsError, match=message) as refused:
        Note().async_(**options)

    assert isinstance(refused.value, TypeError)
    assert isinstance(refused.value, ValueError)
    assert str(refused.value).startswith("Note.async_(...)")
    assert nothing_is_stored(isolated_runtime)


def test_options_are_keyword_only(isolated_runtime: Isolated) -> None:
    with pytest.raises(OptionsError, match=r"by name, for example async_\(queue='mailers'\)"):
        Note().async_("mailers")  # type: ignore[call-arg]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"in_": 1, "at": datetime(2100, 1, 1, tzinfo=timezone.utc)}, "got both"),
        ({"in_": -1}, "0 or more seconds"),
        ({"at": datetime(2100, 1, 1)}, "naive"),
        ({"queue": "no good"}, "invalid queue name"),
        ({"priority": "high"}, "expected an int"),
    ],
)
def test_a_class_with_invalid_options_is_refused_at_its_declaration(options: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        type("Refused", (Note,), {"async_": Async(**options), "__module__": __name__})


@pytest.mark.parametrize(
    ("ask", "hint"),
    [
        (lambda op: op.async_.call(), r"Write async_\(\)\.call\(\)"),
        (lambda op: op.async_.acall(), r"Write async_\(\)\.call\(\)"),
        (lambda op: op.async_.safe, r"ticket\.wait"),
        (lambda op: op.async_().safe, r"Use the ticket: ticket\.wait"),
        (lambda op: op.safe.async_, r"use its ticket: ticket\.wait"),
    ],
    ids=["async_.call", "async_.acall", "async_.safe", "async_().safe", "safe.async_"],
)
def test_an_unknown_attribute_is_refused_with_the_fix(
    isolated_runtime: Isolated, ask: Callable[[Any], Any], hint: str
) -> None:
    with pytest.raises(OptionsError, match=hint):
        ask(Note())
    assert nothing_is_stored(isolated_runtime)


def test_a_local_class_is_refused_at_enqueue_and_works_as_a_call(isolated_runtime: Isolated) -> None:
    class Local(Operation):
        def perform(self) -> int:
            return 1

    assert Local().call() == 1
    num_rows = len(rows(isolated_runtime))
    with pytest.raises(DeclarationError, match=r"declared inside a function\. Move it to the top of a module"):
        Local().async_().call()
    assert (len(rows(isolated_runtime)), messages(isolated_runtime)) == (num_rows, [])


def test_a_queue_may_be_a_function_of_the_operation(isolated_runtime: Isolated) -> None:
    assert row(isolated_runtime, Routed(what=2).async_().call().id)["queue"] == "even"
    assert row(isolated_runtime, Routed(what=3).async_().call().id)["queue"] == "odd"
    assert row(isolated_runtime, Note(what=3).async_(queue=lambda op: f"q{op.what}").call().id)["queue"] == "q3"
    assert [message["queue"] for message in messages(isolated_runtime)] == ["even", "odd", "q3"]


def test_a_queue_function_with_an_invalid_result_is_refused_and_nothing_is_stored(isolated_runtime: Isolated) -> None:
    with pytest.raises(OptionsError, match=r"Misrouted\.async_ \(its queue function\): invalid queue name 'no good 7'"):
        Misrouted(what=7).async_().call()
    assert nothing_is_stored(isolated_runtime)


def test_a_higher_priority_runs_sooner_and_equal_ones_run_in_order(isolated_runtime: Isolated) -> None:
    for what, priority in [(1, 0), (2, 10), (3, -10), (4, 10), (5, None)]:
        Note(what=what).async_(**({} if priority is None else {"priority": priority})).call()

    isolated_runtime.run_pending()
    assert performed == [2, 4, 1, 5, 3]


# --------------------------------------------------------------------------------------------------- the session


def test_a_session_that_is_rolled_back_leaves_no_row_and_no_message(isolated_runtime: Isolated, shop: Shop) -> None:
    with shop.session() as session:
        session.add(Customer(name="Ada"))
        ticket = Note().async_(session=session).call()
        assert ticket.pending
        session.rollback()

    assert nothing_is_stored(isolated_runtime)
    assert shop.names() == []
    with pytest.raises(RolledBack, match="was rolled back, so it will not run"):
        ticket.wait(1)


def test_a_commit_stores_record_message_and_the_rows_of_the_application(isolated_runtime: Isolated, shop: Shop) -> None:
    with shop.session() as session:
        session.add(Customer(name="Ada"))
        ticket = Note(what=4).async_(session=session).call()
        assert nothing_is_stored(isolated_runtime), "other connections do not see it before the commit"
        session.commit()

    assert shop.names() == ["Ada"]
    isolated_runtime.run_pending()
    assert ticket.result(WAIT_S) == 4


def test_a_session_that_is_closed_without_a_commit_is_rolled_back(isolated_runtime: Isolated, shop: Shop) -> None:
    with shop.session() as session:
        ticket = Note().async_(session=session).call()

    assert nothing_is_stored(isolated_runtime)
    with pytest.raises(RolledBack):
        ticket.reload()


def test_the_current_session_is_joined_implicitly(isolated_runtime: Isolated, shop: Shop) -> None:
    with shop.session() as session, dexpy.session(session):
        ticket = Note().async_().call()
        assert nothing_is_stored(isolated_runtime)
        session.commit()

    assert [each.id for each in isolated_runtime.run_pending()] == [ticket.id]


def test_a_session_of_the_call_precedes_the_current_one(isolated_runtime: Isolated, shop: Shop) -> None:
    with shop.session() as current, shop.session() as named, dexpy.session(current):
        ticket = Note().async_(session=named).call()
        named.commit()
        assert row(isolated_runtime, ticket.id)["status"] == "pending"


def test_a_scoped_session_is_accepted(isolated_runtime: Isolated, shop: Shop) -> None:
    registry = scoped_session(sessionmaker(shop.engine))

    ticket = Note().async_(session=registry).call()  # type: ignore[arg-type]
    assert nothing_is_stored(isolated_runtime)
    registry.commit()
    registry.remove()

    assert row(isolated_runtime, ticket.id)["status"] == "pending"


def test_the_ticket_reports_the_end_of_the_transaction(isolated_runtime: Isolated, shop: Shop) -> None:
    with shop.session() as session:
        ticket = Note(what=3).async_(session=session).call()
        for ask in (lambda: ticket.wait(1), lambda: ticket.result(1), ticket.reload, ticket.expire, ticket.cancel):
            with pytest.raises(NotCommitted, match=r"still open.*Commit before you wait"):
                ask()
        assert ticket.outcome is None
        session.commit()

    assert ticket.reload().pending
    isolated_runtime.run_pending()
    assert ticket.wait(WAIT_S) == Ok(3)


def test_a_savepoint_that_is_rolled_back_drops_only_its_own_enqueues(isolated_runtime: Isolated, shop: Shop) -> None:
    with shop.session() as session:
        committed = Note(what=1).async_(session=session).call()
        savepoint = session.begin_nested()
        dropped = Note(what=2).async_(session=session).call()
        with session.begin_nested():
            inner = Note(what=3).async_(session=session).call()
        savepoint.rollback()
        with session.begin_nested():
            released = Note(what=4).async_(session=session).call()
        session.commit()

    assert {each["id"] for each in rows(isolated_runtime)} == {committed.id, released.id}
    isolated_runtime.run_pending()
    assert sorted(performed) == [1, 4]
    for ticket in (dropped, inner):
        with pytest.raises(RolledBack):
            ticket.reload()


def test_releasing_a_savepoint_publishes_nothing(isolated_runtime: Isolated, shop: Shop) -> None:
    with shop.session() as session:
        with session.begin_nested():
            ticket = Note().async_(session=session).call()
        with pytest.raises(NotCommitted):
            ticket.reload()
        session.rollback()

    assert nothing_is_stored(isolated_runtime)
    with pytest.raises(RolledBack):
        ticket.reload()


def test_a_session_can_be_used_again_after_its_commit(isolated_runtime: Isolated, shop: Shop) -> None:
    with shop.session() as session:
        first = Note(what=1).async_(session=session).call()
        session.commit()
        second = Note(what=2).async_(session=session).call()
        session.rollback()
        third = Note(what=3).async_(session=session).call()
        session.commit()

    assert {each["id"] for each in rows(isolated_runtime)} == {first.id, third.id}
    with pytest.raises(RolledBack):
        second.reload()


def test_a_session_on_another_engine_for_the_same_file_is_joined(isolated_runtime: Isolated) -> None:
    engine = sa.create_engine(isolated_runtime.runtime.database_url)
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Customer(name="Ada"))
        discarded = Note().async_(session=session).call()
        session.rollback()
        session.add(Customer(name="Ben"))
        ticket = Note().async_(session=session).call()
        session.commit()
    engine.dispose()

    assert [each["id"] for each in rows(isolated_runtime)] == [ticket.id]
    assert [each["name"] for each in sql(isolated_runtime, "SELECT name FROM customers")] == ["Ben"]
    with pytest.raises(RolledBack):
        discarded.reload()


def test_an_enqueue_in_a_session_on_another_database_is_stored_after_its_commit_only(
    isolated_runtime: Isolated, tmp_path: Any
) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/other.db")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add(Customer(name="Ada"))
        discarded = Note(what=1).async_(session=session).call()
        assert nothing_is_stored(isolated_runtime)
        session.rollback()
        session.add(Customer(name="Ben"))
        ticket = Note(what=2).async_(session=session).call()
        with pytest.raises(NotCommitted):
            ticket.reload()
        session.commit()
        assert [each["id"] for each in rows(isolated_runtime)] == [ticket.id]
    engine.dispose()

    with pytest.raises(RolledBack):
        discarded.reload()
    isolated_runtime.run_pending()
    assert ticket.result(WAIT_S) == 2


def test_a_direct_job_is_published_in_the_transaction_too(isolated_runtime: Isolated, shop: Shop) -> None:
    with shop.session() as session, dexpy.session(session):
        Untraceable(what=1).async_().call()
        session.rollback()
        Untraceable(what=2).async_().call()
        assert messages(isolated_runtime) == []
        session.commit()

    isolated_runtime.run_pending()
    assert performed == [2]


def test_tables_created_in_a_transaction_that_is_rolled_back_are_created_again(tmp_path: Any) -> None:
    with isolated(database=f"sqlite:///{tmp_path}/fresh.db") as isolated_runtime:
        engine = sa.create_engine(isolated_runtime.runtime.database_url)
        with Session(engine) as session:
            Note().async_(session=session).call()
            Note().async_(session=session).call()
            session.rollback()
        with Session(engine) as session:
            Note(what=2).async_(session=session).call()
            session.commit()
        engine.dispose()

        isolated_runtime.run_pending()
        assert performed == [2]


def test_a_value_without_a_json_form_leaves_the_session_unchanged(isolated_runtime: Isolated, shop: Shop) -> None:
    with shop.session() as session:
        session.add(Customer(name="Ada"))
        with pytest.raises(NotSerializable, match=r"Opaque: payload "):
            Opaque(payload=threading.Lock()).async_(session=session).call()
        session.commit()

    assert shop.names() == ["Ada"]
    assert nothing_is_stored(isolated_runtime)


class Opaque(Operation):
    payload: object

    def perform(self) -> None: ...


# ------------------------------------------------------------------------------------------------ enqueues inside a run


@pytest.mark.parametrize("end", ["well", "error", "crash"])
@pytest.mark.parametrize("background", [False, True], ids=["call", "job"])
def test_a_child_that_is_enqueued_in_a_run_commits_and_rolls_back_with_it(
    isolated_runtime: Isolated, shop: Shop, end: str, background: bool
) -> None:
    if background:
        Spawn(end=end).async_().call()
    else:
        try:
            Spawn(end=end).call()
        except (Error, ZeroDivisionError):
            assert end != "well"

    isolated_runtime.run_pending()
    assert shop.names() == (["child"] if end == "well" else [])
    assert records.where(operation=AddCustomer).count() == (1 if end == "well" else 0)


def test_a_child_of_an_inner_run_that_was_rolled_back_is_not_enqueued(isolated_runtime: Isolated, shop: Shop) -> None:
    Spawn(caught=True).async_().call()

    isolated_runtime.run_pending()
    assert records.where(operation=AddCustomer).count() == 1
    assert shop.names() == ["child"]


def test_a_child_has_the_id_of_its_parent_and_the_same_trace(isolated_runtime: Isolated, shop: Shop) -> None:
    with dexpy.trace(actor={"type": "user", "id": 9}, trace_id="req-9"):
        parent = Spawn().async_().call()

    isolated_runtime.run_pending()
    child = row(isolated_runtime, parent.result(WAIT_S))
    assert (child["parent_id"], child["trace_id"]) == (parent.id, "req-9")
    assert (child["actor_type"], child["actor_id"]) == ("user", "9")
    assert row(isolated_runtime, parent.id)["parent_id"] is None


def test_without_a_transaction_around_perform_a_child_is_enqueued_at_once(
    isolated_runtime: Isolated, shop: Shop
) -> None:
    SpawnApart(end="error").async_().call()

    isolated_runtime.run_pending()
    assert shop.names() == ["child"]


def test_a_run_without_a_transaction_ends_like_any_other(isolated_runtime: Isolated, shop: Shop) -> None:
    done, failed, crashed = (SpawnApart(end=end).async_().call() for end in ("well", "error", "crash"))

    isolated_runtime.run_pending()
    ends = [
        (row(isolated_runtime, each.id)["status"], row(isolated_runtime, each.id)["failure"])
        for each in (done, failed, crashed)
    ]
    assert ends == [("done", None), ("failed", "business"), ("failed", "crash")]
    assert row(isolated_runtime, done.result(WAIT_S))["parent_id"] == done.id


@pytest.mark.parametrize("end", ["well", "error", "crash"])
def test_the_end_of_a_run_on_another_database_is_recorded(tmp_path: Path, end: str) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/other.db")
    Base.metadata.create_all(engine)
    with isolated(session_factory=sessionmaker(engine)) as isolated_runtime:
        ticket = AddThere(name="Ada", end=end).async_().call()
        isolated_runtime.run_pending()

        assert row(isolated_runtime, ticket.id)["status"] == ("done" if end == "well" else "failed")
        with Session(engine) as session:
            assert list(session.scalars(sa.select(Customer.name))) == (["Ada"] if end == "well" else [])
    engine.dispose()


class AddThere(AddCustomer):
    end: str

    def perform(self) -> int:
        key = super().perform()
        if self.end == "error":
            raise Error("no")
        if self.end == "crash":
            raise ZeroDivisionError
        return key


def test_a_coroutine_enqueues_with_acall_in_the_transaction_of_its_run(isolated_runtime: Isolated, shop: Shop) -> None:
    ticket = SpawnAsync().async_().call()
    SpawnAsync(fails=True).async_().call()

    isolated_runtime.run_pending()
    assert row(isolated_runtime, ticket.result(WAIT_S))["parent_id"] == ticket.id
    assert records.where(operation=AddCustomer).count() == 1
    assert shop.names() == ["child"]


def test_acall_enqueues_from_asyncio_without_blocking_the_loop(isolated_runtime: Isolated) -> None:
    async def send() -> list[str]:
        tickets = await asyncio.gather(*(Note(what=what).async_().acall() for what in range(5)))
        return [ticket.id for ticket in tickets]

    ids = asyncio.run(send())

    assert {each["id"] for each in rows(isolated_runtime)} == set(ids)
    isolated_runtime.run_pending()
    assert sorted(performed) == [0, 1, 2, 3, 4]


def test_acall_joins_the_current_session(isolated_runtime: Isolated, shop: Shop) -> None:
    async def send(session: Session) -> None:
        with dexpy.session(session):
            await Note(what=1).async_().acall()

    with shop.session() as session:
        asyncio.run(send(session))
        assert nothing_is_stored(isolated_runtime)
        session.commit()
    assert len(rows(isolated_runtime)) == 1


# ------------------------------------------------------------------------------------------------- in the worker


def test_the_worker_builds_the_operation_with_its_references(isolated_runtime: Isolated, shop: Shop) -> None:
    shop.add(Customer(id=1, name="Ada"), Customer(id=2, name="Ben"))

    ticket = ManyProps(customer=1, friend=2).async_().call()
    isolated_runtime.run_pending()

    assert ticket.result(WAIT_S) == ["Ada", "Ben"]


def test_a_reference_is_loaded_by_the_worker_and_not_at_the_enqueue(isolated_runtime: Isolated, shop: Shop) -> None:
    shop.add(Customer(id=1, name="Ada"))
    with shop.statements() as statements:
        ticket = ManyProps(customer=1).async_().call()
    assert statements == []
    with shop.session() as session:
        session.get_one(Customer, 1).name = "Eve"
        session.commit()

    isolated_runtime.run_pending()
    assert ticket.result(WAIT_S)[0] == "Eve"


def test_a_run_has_the_trace_and_actor_of_its_enqueue(isolated_runtime: Isolated) -> None:
    with dexpy.trace(actor={"type": "user", "id": 9, "name": "Ada"}, trace_id="req-9"):
        ticket = Traced().async_().call()

    isolated_runtime.run_pending()
    assert ticket.result(WAIT_S) == {
        "trace": "req-9",
        "actor": {"type": "user", "id": 9, "name": "Ada"},
        "run": ticket.id,
    }


def test_a_run_has_no_context_of_the_thread_that_consumes_its_message(isolated_runtime: Isolated, shop: Shop) -> None:
    AddCustomer(name="Ada").async_().call()
    with shop.session() as session, dexpy.session(session), dexpy.trace(trace_id="feeder"):
        isolated_runtime.run_pending()
        session.rollback()

    assert shop.names() == ["Ada"]
    assert rows(isolated_runtime)[0]["trace_id"] != "feeder"


def test_a_guard_runs_in_the_worker_and_its_refusal_finishes_the_row(isolated_runtime: Isolated) -> None:
    ticket = Guarded().async_().call()
    isolated_runtime.run_pending()

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["failure"], stored["error"]) == ("failed", "rejected", "closed")
    outcome = ticket.wait(WAIT_S)
    assert isinstance(outcome, Err)
    assert (outcome.code, outcome.message, outcome.rejected) == ("closed", "It is closed", True)


def test_a_result_without_a_json_form_keeps_the_effects_and_is_done(isolated_runtime: Isolated) -> None:
    ticket = Odd().async_().call()
    isolated_runtime.run_pending()

    assert performed == ["odd"]
    assert row(isolated_runtime, ticket.id)["status"] == "done"
    assert "lock" in str(records.get(ticket.id).result_error)
    assert ticket.reload().outcome is None
    for ask in (ticket.wait, ticket.result):
        with pytest.raises(ResultNotStored, match="done, but the result was not stored"):
            ask(WAIT_S)


def test_a_result_of_the_wrong_type_is_a_crash_without_effects(isolated_runtime: Isolated, shop: Shop) -> None:
    ticket = WrongResult(name="Ada").async_().call()
    isolated_runtime.run_pending()

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["failure"], stored["error"]) == ("failed", "crash", "dexpy.errors.ResultTypeError")
    assert shop.names() == []


def test_a_record_without_result_stores_none(isolated_runtime: Isolated) -> None:
    ticket = NoResult(what=1).async_().call()
    isolated_runtime.run_pending()

    assert (row(isolated_runtime, ticket.id)["status"], row(isolated_runtime, ticket.id)["result"]) == ("done", None)
    with pytest.raises(ResultNotStored, match=r"Recording\(result=False\)"):
        ticket.result(WAIT_S)


def test_a_result_of_none_differs_from_no_result(isolated_runtime: Isolated) -> None:
    ticket = Nothing().async_().call()
    isolated_runtime.run_pending()

    assert ticket.wait(WAIT_S) == Ok(None)
    assert json.loads(row(isolated_runtime, ticket.id)["result"]) == {"value": None}


class Nothing(Operation):
    def perform(self) -> None: ...


def test_a_message_that_is_delivered_twice_is_run_once(isolated_runtime: Isolated) -> None:
    ticket = Note(what=1).async_().call()
    columns = "queue, priority, due_at, message_id, payload, dead, created_at"
    sql(isolated_runtime, f"INSERT INTO dexpy_messages ({columns}) SELECT {columns} FROM dexpy_messages")

    isolated_runtime.run_pending()

    assert performed == [1]
    assert (row(isolated_runtime, ticket.id)["status"], row(isolated_runtime, ticket.id)["num_attempts"]) == ("done", 1)
    assert messages(isolated_runtime) == []


def test_a_message_that_is_delivered_to_many_threads_at_once_is_run_once(isolated_runtime: Isolated) -> None:
    ticket = Note(what=1).async_().call()
    actor: Any = isolated_runtime.runtime.broker.get_actor("dexpy.RecordJob")
    kwargs = messages(isolated_runtime)[0]["message"]["kwargs"]
    gate = threading.Barrier(8)

    def deliver() -> None:
        gate.wait()
        actor(**kwargs)

    for _ in range(ROUNDS):
        threads = [threading.Thread(target=deliver) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert performed == [1]
        assert row(isolated_runtime, ticket.id)["num_attempts"] == 1
        performed.clear()
        sql(isolated_runtime, "UPDATE operation_records SET status = 'pending', num_attempts = 0, completed_at = NULL")


class Robbed(Operation):
    """Loses its claim while it runs."""

    transaction_of: str = "whole"

    def perform(self) -> None:
        rob(self.run_id)
        self.session.add(Customer(name="late"))
        self.session.flush()
        AddCustomer(name="child").async_().call()
        self.after_commit(lambda: performed.append("committed"))


claim_thefts: list[Callable[[str], None]] = []


def rob(id: str) -> None:
    claim_thefts[-1](id)


def test_a_run_that_lost_its_claim_commits_nothing_and_leaves_the_row_unchanged(
    isolated_runtime: Isolated, shop: Shop, caplog: pytest.LogCaptureFixture
) -> None:
    new_owner = "UPDATE operation_records SET claim_token = 2, claimed_by = 'another' WHERE id = ?"
    claim_thefts.append(lambda id: sql(isolated_runtime, new_owner, id) and None)
    ticket = Robbed().async_().call()

    isolated_runtime.run_pending()

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["claim_token"], stored["claimed_by"]) == ("running", 2, "another")
    assert (shop.names(), performed) == ([], [])
    assert records.where(operation=AddCustomer).count() == 0
    assert attempts(isolated_runtime, ticket.id) == []
    assert messages(isolated_runtime) == []
    assert f"claim.lost operation={__name__}.Robbed run_id={ticket.id}" in caplog.text


def test_an_early_message_is_republished_for_its_due_time(isolated_runtime: Isolated) -> None:
    ticket = Note(what=1).async_(in_=60).call()
    sql(isolated_runtime, "UPDATE dexpy_messages SET due_at = created_at")

    isolated_runtime.run_pending()
    assert (performed, row(isolated_runtime, ticket.id)["num_attempts"]) == ([], 0)
    isolated_runtime.advance(61)
    isolated_runtime.run_pending()
    assert performed == [1]


def test_a_message_of_a_deleted_record_is_acknowledged_and_logged(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture
) -> None:
    ticket = Note(what=1).async_().call()
    sql(isolated_runtime, "DELETE FROM operation_records")

    isolated_runtime.run_pending()

    assert (performed, messages(isolated_runtime)) == ([], [])
    assert f"record.not_found operation={__name__}.Note run_id={ticket.id}" in caplog.text


def test_sys_exit_in_a_run_ends_only_the_run(isolated_runtime: Isolated) -> None:
    ticket = Quit().async_().call()
    isolated_runtime.run_pending()

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["failure"], stored["error"]) == ("failed", "crash", "SystemExit")


def test_sys_exit_in_a_direct_job_is_recorded(isolated_runtime: Isolated) -> None:
    ticket = QuitDirect().async_().call()
    isolated_runtime.run_pending()

    assert (row(isolated_runtime, ticket.id)["status"], row(isolated_runtime, ticket.id)["error"]) == (
        "failed",
        "SystemExit",
    )


# ------------------------------------------------------------------------------- stored params of earlier releases


def stored_as(isolated_runtime: Isolated, ticket: Any, params: dict[str, Any]) -> None:
    sql(isolated_runtime, "UPDATE operation_records SET params = ? WHERE id = ?", json.dumps(params), ticket.id)


def test_a_missing_key_uses_the_default(isolated_runtime: Isolated) -> None:
    ticket = Bounded(count=9).async_().call()
    stored_as(isolated_runtime, ticket, {"day": "2026-02-02"})
    isolated_runtime.run_pending()

    assert ticket.result(WAIT_S) == [3, "2026-02-02", "none"]


@pytest.mark.parametrize("key", ["title", "heading", "head"])
def test_an_earlier_name_of_a_prop_is_accepted(isolated_runtime: Isolated, key: str) -> None:
    ticket = Bounded().async_().call()
    stored_as(isolated_runtime, ticket, {key: "News"})
    isolated_runtime.run_pending()

    assert ticket.result(WAIT_S)[2] == "News"


def test_a_key_of_a_removed_prop_is_ignored_and_logged(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture
) -> None:
    ticket = Bounded().async_().call()
    stored_as(isolated_runtime, ticket, {"count": 4, "colour": SECRET})
    with caplog.at_level(logging.INFO, "dexpy"):
        isolated_runtime.run_pending()

    assert ticket.result(WAIT_S)[0] == 4
    assert f"params.ignored operation={__name__}.Bounded run_id={ticket.id} keys=colour" in caplog.text
    assert SECRET not in caplog.text


@pytest.mark.parametrize(
    ("params", "problem"),
    [
        ({"count": SECRET}, "count: expected int"),
        ({"day": SECRET}, "day: expected"),
        ({"count": 0, "title": 7}, "title: expected str"),
        ({"count": -5}, "count: expected a value >= 1"),
        ({"token": SECRET}, "token: expected a length of at most 5"),
        ([SECRET], "expected a JSON object"),
    ],
    ids=lambda value: "" if isinstance(value, str) else json.dumps(value),
)
def test_params_that_no_longer_match_fail_the_run_without_showing_values(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture, params: Any, problem: str
) -> None:
    ticket = Bounded().async_().call()
    stored_as(isolated_runtime, ticket, params)
    isolated_runtime.run_pending()

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["failure"], stored["error"]) == (
        "failed",
        "undecodable",
        "dexpy.errors.Undecodable",
    )
    assert problem in stored["error_message"]
    assert stored["completed_at"] is not None
    for text in (stored["error_message"], str(attempts(isolated_runtime, ticket.id)), caplog.text):
        assert SECRET not in text
    assert f"run.failed operation={__name__}.Bounded run_id={ticket.id}" in caplog.text
    with pytest.raises(dexpy.OperationFailed) as failed:
        ticket.result(WAIT_S)
    assert failed.value.failure == "undecodable"


def test_a_run_that_failed_as_undecodable_can_be_retried_when_its_row_is_fixed(isolated_runtime: Isolated) -> None:
    ticket = Bounded().async_().call()
    stored_as(isolated_runtime, ticket, {"count": "nine"})
    isolated_runtime.run_pending()
    stored_as(isolated_runtime, ticket, {"count": 9})

    ticket.retry()
    isolated_runtime.run_pending()

    assert ticket.result(WAIT_S)[0] == 9


def test_params_of_a_message_that_no_longer_match_leave_a_row_if_runs_are_recorded(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture
) -> None:
    ticket = PlainDirect(count=1).async_().call()
    payload = messages(isolated_runtime)[0]["message"]
    payload["kwargs"]["params"] = {"count": SECRET}
    sql(isolated_runtime, "UPDATE dexpy_messages SET payload = ?", json.dumps(payload))

    isolated_runtime.run_pending()

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["failure"], stored["params"]) == ("failed", "undecodable", None)
    assert f"run.failed operation={__name__}.PlainDirect run_id={ticket.id}" in caplog.text
    assert SECRET not in caplog.text + str(stored)
    assert messages(isolated_runtime) == []


class PlainDirect(Operation):
    count: int
    record = Recording(params=False)

    def perform(self) -> int:
        return self.count


def test_a_default_that_fails_in_the_worker_ends_the_row(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture
) -> None:
    ticket = BadDefault().async_().call()
    stored_as(isolated_runtime, ticket, {"count": 1})
    performed.append("from now on the factory fails")
    isolated_runtime.run_pending()

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["failure"], stored["error"]) == ("failed", "crash", "LookupError")
    assert "the shelf is empty" in stored["error_message"]
    assert f"run.failed operation={__name__}.BadDefault run_id={ticket.id}" in caplog.text


class Verbose(Operation):
    retry_on = (Retry(ConnectionError, attempts=2, wait=0),)
    broken: bool = False

    def perform(self) -> None:
        raise ValueError("unspeakable") if self.broken else ConnectionError("unspeakable")


@pytest.mark.parametrize(("broken", "attempted"), [(True, 1), (False, 2)])
def test_a_failure_that_the_database_refuses_is_written_in_a_shorter_form(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture, broken: bool, attempted: int
) -> None:
    ticket = Verbose(broken=broken).async_().call()
    sql(
        isolated_runtime,
        "CREATE TRIGGER picky BEFORE UPDATE ON operation_records WHEN NEW.error_message LIKE '%unspeakable%' "
        "BEGIN SELECT RAISE(ABORT, 'no such words'); END",
    )
    for _ in range(attempted):
        isolated_runtime.run_pending()

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["failure"], stored["num_attempts"]) == ("failed", "crash", attempted)
    assert stored["error"] == ("ValueError" if broken else "ConnectionError")
    assert "See the log of the worker" in stored["error_message"]
    assert len(attempts(isolated_runtime, ticket.id)) == attempted
    assert caplog.text.count("run.end_not_written") == attempted


# -------------------------------------------------------------------------------------------------- unknown class


def test_an_unknown_operation_is_rescheduled_without_an_attempt_and_warned_of_once(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture
) -> None:
    tickets = [Note(what=what).async_(priority=3).call() for what in range(2)]
    sql(isolated_runtime, "UPDATE dexpy_messages SET payload = replace(payload, '.Note', '.Gone')")
    sql(isolated_runtime, "UPDATE operation_records SET operation = replace(operation, '.Note', '.Gone')")

    assert len(isolated_runtime.run_pending()) == 2
    assert isolated_runtime.run_pending() == []
    for ticket in tickets:
        assert (row(isolated_runtime, ticket.id)["status"], row(isolated_runtime, ticket.id)["num_attempts"]) == (
            "pending",
            0,
        )
    assert caplog.text.count("message.deferred") == 1
    assert [message["priority"] for message in messages(isolated_runtime)] == [3, 3]

    waits: list[float] = []
    for _ in range(6):
        before = clock.now()
        due = datetime.fromisoformat(messages(isolated_runtime)[0]["due_at"]).replace(tzinfo=timezone.utc)
        waits.append(round((due - before).total_seconds()))
        isolated_runtime.advance(waits[-1] + 1)
        isolated_runtime.run_pending()
    assert waits == [30, 60, 120, 240, 480, 600]
    assert caplog.text.count("message.deferred") == 1

    sql(isolated_runtime, "UPDATE operation_records SET operation = replace(operation, '.Gone', '.Note')")
    isolated_runtime.advance(601)
    isolated_runtime.run_pending()
    assert sorted(performed) == [0, 1]


def test_an_unknown_direct_job_is_rescheduled_with_its_params(isolated_runtime: Isolated) -> None:
    Untraceable(what=7).async_(queue="counters", priority=2).call()
    sql(isolated_runtime, "UPDATE dexpy_messages SET payload = replace(payload, '.Untraceable', '.Gone')")
    isolated_runtime.run_pending()
    (message,) = messages(isolated_runtime)
    assert (message["queue"], message["priority"]) == ("counters", 2)

    sql(isolated_runtime, "UPDATE dexpy_messages SET payload = replace(payload, '.Gone', '.Untraceable')")
    isolated_runtime.advance(31)
    isolated_runtime.run_pending()
    assert performed == [7]


def hours_pass(isolated_runtime: Isolated, hours: int) -> None:
    for _ in range(hours):
        isolated_runtime.advance(3600)
        isolated_runtime.run_pending()


def test_a_direct_job_that_stays_unknown_for_a_day_is_dead_lettered(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture
) -> None:
    Untraceable(what=7).async_().call()
    sql(isolated_runtime, "UPDATE dexpy_messages SET payload = replace(payload, '.Untraceable', '.Gone')")

    for hours in range(23):
        isolated_runtime.advance(3600)
        isolated_runtime.run_pending()
        assert len(messages(isolated_runtime)) == 1, f"checked for {hours} hours"
    assert "dead=True" not in caplog.text
    with pytest.warns(RuntimeWarning, match="its class is not declared in this process"):
        hours_pass(isolated_runtime, 2)

    assert [message["dead"] for message in messages(isolated_runtime)] == [1], "the dead message is kept"
    assert "dead=True" in caplog.text


def test_a_message_makes_a_worker_run_nothing_that_is_not_declared(isolated_runtime: Isolated) -> None:
    Note().async_().call()
    sql(isolated_runtime, f"UPDATE dexpy_messages SET payload = replace(payload, '{__name__}.Note', 'os.system')")
    sql(isolated_runtime, "UPDATE operation_records SET operation = 'os.system'")

    isolated_runtime.run_pending()
    assert rows(isolated_runtime)[0]["status"] == "pending"


def test_the_record_and_not_its_message_decides_which_class_runs(isolated_runtime: Isolated) -> None:
    Note(what=5).async_().call()
    sql(isolated_runtime, f"UPDATE dexpy_messages SET payload = replace(payload, '{__name__}.Note', 'os.system')")

    isolated_runtime.run_pending()
    assert (performed, rows(isolated_runtime)[0]["status"], rows(isolated_runtime)[0]["operation"]) == (
        [5],
        "done",
        f"{__name__}.Note",
    )


class Renamed(Note, name="notes.take", aliases=("notes.old",)):
    """Had another name before."""


def test_an_alias_finds_the_class_by_its_earlier_name(isolated_runtime: Isolated) -> None:
    ticket = Renamed(what=5).async_().call()
    assert row(isolated_runtime, ticket.id)["operation"] == "notes.take"
    sql(isolated_runtime, "UPDATE dexpy_messages SET payload = replace(payload, 'notes.take', 'notes.old')")
    sql(isolated_runtime, "UPDATE operation_records SET operation = 'notes.old'")

    isolated_runtime.run_pending()
    assert ticket.result(WAIT_S) == 5
    assert records.where(operation=Renamed).count() == 1


class Doubled(Note):
    def perform(self) -> int:
        return 2 * super().perform()


def test_a_row_whose_operation_was_renamed_in_the_database_runs_the_new_class(isolated_runtime: Isolated) -> None:
    ticket = Note(what=5).async_().call()
    sql(isolated_runtime, f"UPDATE operation_records SET operation = '{__name__}.Doubled'")

    isolated_runtime.run_pending()
    assert ticket.result(WAIT_S) == 10


# ---------------------------------------------------------------------------------------------------- direct jobs


def test_without_a_record_the_message_has_the_params(isolated_runtime: Isolated) -> None:
    ticket = Untraceable(what=6).async_().call()

    kwargs = messages(isolated_runtime)[0]["message"]["kwargs"]
    assert set(kwargs) == {"class_name", "params", "trace"}
    assert (kwargs["class_name"], kwargs["params"]) == (f"{__name__}.Untraceable", {"what": 6})
    (run,) = isolated_runtime.run_pending()
    assert (run.id, run.recorded, performed) == (ticket.id, False, [6])
    assert rows(isolated_runtime) == []


def test_a_ticket_without_a_record_raises_with_the_fix(isolated_runtime: Isolated) -> None:
    ticket = Untraceable().async_().call()

    assert (bool(ticket), ticket.recorded, ticket.outcome) == (True, False, None)
    assert ticket.to_dict()["id"] == ticket.id
    asks: list[Callable[[], Any]] = [
        lambda: ticket.status,
        lambda: ticket.done,
        lambda: ticket.failure,
        lambda: ticket.wait(1),
        lambda: ticket.result(1),
        ticket.reload,
        ticket.expire,
        ticket.cancel,
        ticket.retry,
        lambda: ticket.fail("no"),
        lambda: ticket.reschedule(at=datetime(2100, 1, 1, tzinfo=timezone.utc)),
    ]
    for ask in asks:
        with pytest.raises(
            NotRecorded, match=r"the run is not recorded\. Set dexpy\.configure\(database=\.\.\.\), and record = True"
        ):
            ask()


def test_a_record_without_params_is_written_once_at_the_end_of_the_run(isolated_runtime: Isolated) -> None:
    ticket = NoParams(what=8).async_(queue="counters").call()
    assert rows(isolated_runtime) == []
    with pytest.raises(RecordNotFound):
        records.get(ticket.id)

    isolated_runtime.run_pending()

    stored = row(isolated_runtime, ticket.id)
    assert (stored["status"], stored["params"], json.loads(stored["result"])) == ("done", None, {"value": 8})
    assert (stored["num_attempts"], stored["completed_at"] is not None) == (1, True)


def test_a_broker_without_a_database_runs_everything_as_direct_jobs(tmp_path: Any, monkeypatch: Any) -> None:
    from dexpy.configuration.settings import Settings
    from dexpy.runtime import Runtime, install

    monkeypatch.chdir(tmp_path)
    runtime = Runtime(Settings(broker=f"sqlite:///{tmp_path}/queue.db", home=tmp_path))
    install(runtime)
    runtime.start()
    isolated_runtime = Isolated(runtime)

    ticket = Note(what=2).async_().call()
    assert not ticket.recorded
    isolated_runtime.run_pending()

    assert performed == [2]
    assert not (tmp_path / "dexpy.db").exists(), "nothing is recorded, so no file is created"
    runtime.close()
    install(None)


@pytest.mark.parametrize("operation", [LoginDirect, LoginNoParams])
def test_a_sensitive_prop_is_not_published_in_plain_text(isolated_runtime: Isolated, operation: type[Login]) -> None:
    with pytest.raises(
        SensitiveInTransit, match="'password' would be sent to the broker in plain text.*Turn recording on"
    ) as refused:
        operation(password=SECRET).async_().call()

    assert SECRET not in str(refused.value)
    assert nothing_is_stored(isolated_runtime)


# --------------------------------------------------------------------------------------------------- the log


def test_the_events_of_a_run_are_logged_at_four_levels_with_its_id(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture
) -> None:
    done, refused, crashed = (
        Note(what=1).async_().call(),
        Guarded().async_().call(),
        Login(password="x" * 9).async_().call(),
    )
    with caplog.at_level(logging.DEBUG, "dexpy"):
        isolated_runtime.run_pending()

    def lines(id: str) -> list[tuple[str, str]]:
        entries = [(each.levelname, each.getMessage()) for each in caplog.records if each.name.startswith("dexpy.")]
        return [(level, text.split()[0]) for level, text in entries if f"run_id={id}" in text]

    assert lines(done.id) == [("DEBUG", "run.started"), ("INFO", "run.succeeded")]
    assert lines(refused.id) == [("DEBUG", "run.started"), ("WARNING", "run.rejected")]
    assert lines(crashed.id) == [("DEBUG", "run.started"), ("ERROR", "run.failed")]


def test_a_secret_is_in_no_log_no_error_column_and_no_message(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG):
        ticket = Login(password=SECRET).async_().call()
        stored_messages = messages(isolated_runtime)
        isolated_runtime.run_pending()
        assert performed == [SECRET]
        with pytest.raises(dexpy.OperationFailed) as failed:
            ticket.result(WAIT_S)

    stored = row(isolated_runtime, ticket.id)
    assert stored["error_message"] == "cannot log in with <sensitive>"
    stored.pop("params")
    for text in (
        caplog.text,
        str(stored_messages),
        str(stored),
        str(attempts(isolated_runtime, ticket.id)),
        str(failed.value),
        repr(ticket),
    ):
        assert SECRET not in text
    assert SECRET not in json.dumps(ticket.to_dict())
    assert "cannot log in" not in json.dumps(ticket.to_dict())


def test_an_invalid_prop_is_refused_before_anything_is_stored(isolated_runtime: Isolated) -> None:
    with pytest.raises(PropsError):
        Note(what="1").async_().call()  # type: ignore[arg-type]
    assert nothing_is_stored(isolated_runtime)


def test_a_queue_function_may_read_a_reference(isolated_runtime: Isolated, shop: Shop) -> None:
    shop.add(Customer(id=1, name="Ada"))

    assert row(isolated_runtime, RoutedByRef(customer=1).async_().call().id)["queue"] == "for_Ada"
