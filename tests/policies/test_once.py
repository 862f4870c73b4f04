"""`Once`: the result of the first run with a key is replayed; docs/reference/once.md."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

import dexpy
from dexpy import Err, Error, Lock, Ok, Once, Operation, OperationFailed, Recording, Retry, guard, records
from dexpy.database.tables import records as table
from dexpy.declaration.key_digests import once_keys
from dexpy.errors import DeclarationError, KeyBusy, KeyTaken, OnceConflict, OptionsError
from dexpy.foundation import failpoints
from dexpy.testing import Isolated, isolated

runs: list[Any] = []
"""The props of the runs, in order."""
gates: dict[str, threading.Event] = {}
"""The events that runs wait for, by name."""
refused: set[int] = set()
"""Orders that the guard refuses."""


@pytest.fixture(autouse=True)
def _nothing_has_run() -> None:
    runs.clear()
    gates.clear()
    refused.clear()


@dataclass
class Receipt:
    number: int
    total: Decimal
    day: date


class Charge(Operation, name="once.charge"):
    order: int
    amount: Decimal = Decimal(10)
    once = Once("order")

    def perform(self) -> Receipt:
        runs.append(self.order)
        return Receipt(len(runs), self.amount, date(2026, 11, 21))


class Refuse(Operation, name="once.refuse"):
    order: int
    once = Once("order")
    errors = {"no_balance"}

    def perform(self) -> int:
        runs.append(self.order)
        raise Error("no_balance", "Nothing to send", details={"order": self.order})


class Crash(Operation, name="once.crash"):
    order: int
    once = Once("order")

    def perform(self) -> int:
        runs.append(self.order)
        if len(runs) == 1:
            raise RuntimeError("the first time only")
        return len(runs)


class Guarded(Operation, name="once.guarded"):
    order: int
    once = Once()

    @guard("refused")
    def is_refused(self) -> bool:
        return self.order in refused

    def perform(self) -> int:
        runs.append(self.order)
        return len(runs)


class Slow(Operation, name="once.slow"):
    order: int
    fails: str = ""
    once = Once("order", wait=10)

    def perform(self) -> int:
        runs.append(self.order)
        gates["begun"].set()
        assert gates["go"].wait(20)
        if self.fails == "crash" and len(runs) == 1:
            raise RuntimeError("crash")
        if self.fails == "error":
            raise Error("declined", "Not today")
        return len(runs)


class Locked(Slow, name="once.locked"):
    lock = Lock(timeout=0.1)


class Impatient(Slow, name="once.impatient"):
    once = Once("order", wait=0.2)


class Short(Operation, name="once.short"):
    order: int
    once = Once("order", expires_in=timedelta(hours=1))

    def perform(self) -> int:
        runs.append(self.order)
        return len(runs)


class Plain(Operation, name="once.plain"):
    order: int

    def perform(self) -> int:
        runs.append(self.order)
        return len(runs)


class Retried(Operation, name="once.retried"):
    order: int
    once = Once("order")
    retry_on = (Retry(ConnectionError, attempts=3, wait=60),)

    def perform(self) -> int:
        runs.append(self.order)
        if len(runs) == 1:
            raise ConnectionError
        return len(runs)


def rows(engine: sa.Engine) -> list[Any]:
    with engine.connect() as connection:
        return list(connection.execute(sa.select(table).order_by(table.c.id)).all())


def at_once(*actions: Callable[[], Any]) -> list[Any]:
    """Run actions concurrently, each in its own thread, and return their results or exceptions."""
    answers: list[Any] = [None] * len(actions)

    def do(number: int) -> None:
        try:
            answers[number] = actions[number]()
        except Exception as error:
            answers[number] = error

    threads = [threading.Thread(target=do, args=(number,)) for number in range(len(actions))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    return answers


# -------------------------------------------------------------------- in place


def test_a_second_call_returns_the_result_of_the_first_with_its_types(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    first, second = Charge(order=7).call(), Charge(order=7).call()
    assert first == second == Receipt(1, Decimal(10), date(2026, 11, 21))
    assert runs == [7]
    (row,) = rows(engine)
    assert (row.status, row.once_key) == ("done", once_keys(Charge(order=7), Charge.contract)[0])
    assert row.claimed_by is None
    assert Charge(order=8).call().number == 2


def test_a_business_error_is_replayed_with_its_code_message_and_details(isolated_runtime: Isolated) -> None:
    for _ in range(2):
        with pytest.raises(Error) as raised:
            Refuse(order=1).call()
        assert (raised.value.code, raised.value.message, raised.value.details) == (
            "no_balance",
            "Nothing to send",
            {"order": 1},
        )
    assert runs == [1]


def test_safe_returns_the_replay_as_a_value(isolated_runtime: Isolated) -> None:
    assert Charge(order=1).safe.call() == Charge(order=1).safe.call() == Ok(Receipt(1, Decimal(10), date(2026, 11, 21)))
    first, again = Refuse(order=1).safe.call(), Refuse(order=1).safe.call()
    assert isinstance(again, Err)
    assert first == again == Err("no_balance", "Nothing to send", {"order": 1})


def test_a_crash_releases_the_key_and_keeps_its_row(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    with pytest.raises(RuntimeError):
        Crash(order=1).call()
    assert Crash(order=1).call() == 2
    assert Crash(order=1).call() == 2
    assert [(row.status, row.once_key is None) for row in rows(engine)] == [("failed", True), ("done", False)]


def test_a_refusal_by_a_guard_is_not_replayed_and_a_replay_runs_no_guard(isolated_runtime: Isolated) -> None:
    refused.add(1)
    assert Guarded(order=1).safe.call() == Err(
        "is_refused", "refused", {"guards": [{"guard": "is_refused", "message": "refused"}]}, rejected=True
    )
    refused.clear()
    assert Guarded(order=1).call() == 1
    refused.add(1)
    assert Guarded(order=1).call() == 1


@pytest.fixture
def _goes_on_when_another_call_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the first run of `Slow` continue when a second call finds its key busy."""
    monkeypatch.setattr(failpoints, "reached", lambda point: gates["go"].set() if point == "once_key_busy" else None)


@pytest.mark.usefixtures("_goes_on_when_another_call_waits")
def test_another_call_waits_for_the_one_that_runs_and_gets_its_result(isolated_runtime: Isolated) -> None:
    gates.update(begun=threading.Event(), go=threading.Event())

    def second() -> int:
        assert gates["begun"].wait(10)
        return Slow(order=1).call()

    assert at_once(lambda: Slow(order=1).call(), second) == [1, 1]
    assert runs == [1]


@pytest.mark.usefixtures("_goes_on_when_another_call_waits")
def test_a_waiting_call_gets_the_error_too(isolated_runtime: Isolated) -> None:
    gates.update(begun=threading.Event(), go=threading.Event())

    def second() -> int:
        assert gates["begun"].wait(10)
        return Slow(order=1, fails="error").call()

    answers = at_once(lambda: Slow(order=1, fails="error").call(), second)
    assert [(error.code, error.message) for error in answers] == [("declined", "Not today")] * 2
    assert runs == [1]


@pytest.mark.usefixtures("_goes_on_when_another_call_waits")
def test_a_waiting_call_runs_when_the_first_one_crashes(isolated_runtime: Isolated) -> None:
    gates.update(begun=threading.Event(), go=threading.Event())

    def second() -> int:
        assert gates["begun"].wait(10)
        return Slow(order=1, fails="crash").call()

    crash, value = at_once(lambda: Slow(order=1, fails="crash").call(), second)
    assert (str(crash), value, runs) == ("crash", 2, [1, 1])


def test_a_lock_timeout_releases_the_key(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    gates.update(begun=threading.Event(), go=threading.Event())

    def second() -> int:
        assert gates["begun"].wait(10)
        try:
            return Locked(order=2).call()
        finally:
            gates["go"].set()

    value, failed = at_once(lambda: Locked(order=1).call(), second)
    assert value == 1
    assert isinstance(failed, Exception)
    assert not isinstance(failed, KeyBusy)
    assert sorted(row.once_key is None for row in rows(engine)) == [False, True]
    assert Locked(order=2).call() == 2


def test_a_call_that_times_out_names_the_run_that_holds_the_key(isolated_runtime: Isolated) -> None:
    gates.update(begun=threading.Event(), go=threading.Event())

    def second() -> int:
        assert gates["begun"].wait(10)
        try:
            return Impatient(order=1).call()
        finally:
            gates["go"].set()

    value, busy = at_once(lambda: Impatient(order=1).call(), second)
    assert value == 1
    assert isinstance(busy, KeyBusy)
    assert isinstance(busy, TimeoutError)
    assert [record.id for record in records.all()] == [busy.id]
    assert str(busy) == (f"once.impatient: the run {busy.id} still holds the idempotency key after 0.2 s. Retry later.")


def test_one_of_many_concurrent_calls_runs(isolated_runtime: Isolated) -> None:
    answers = at_once(*[lambda: Charge(order=1).call()] * 6)
    assert answers == [Receipt(1, Decimal(10), date(2026, 11, 21))] * 6
    assert runs == [1]


def test_a_recursive_call_with_the_key_is_refused_at_once(isolated_runtime: Isolated) -> None:
    with pytest.raises(KeyBusy):
        Within(order=1).call()
    assert runs == [1]


class Within(Operation, name="once.within"):
    order: int
    once = Once()

    def perform(self) -> int:
        runs.append(self.order)
        return Within(order=self.order).call()


def test_the_key_with_other_params_is_a_conflict(isolated_runtime: Isolated) -> None:
    Charge(order=1).call()
    with pytest.raises(OnceConflict) as raised:
        Charge(order=1, amount=Decimal(11)).call()
    assert raised.value.operation == "once.charge"
    assert str(raised.value).startswith(
        f"once.charge: the run {raised.value.id} used the same idempotency key with other"
    )
    with pytest.raises(OnceConflict):
        Charge(order=1, amount=Decimal(11)).async_().call()


class Lenient(Charge, name="once.lenient"):
    once = Once("order", params="ignore")


def test_other_params_are_ignored_where_the_class_allows_it(isolated_runtime: Isolated) -> None:
    assert Lenient(order=1).call() == Lenient(order=1, amount=Decimal(11)).call()
    assert runs == [1]


def test_a_key_of_a_call_requires_no_declaration(isolated_runtime: Isolated) -> None:
    assert Plain(order=1).once("a").call() == 1
    assert Plain(order=1).once("a").call() == 1
    assert Plain(order=1).once("b").call() == 2
    assert Plain(order=1).call() == 3
    operation = Plain(order=1)
    assert operation.once("a") == operation
    assert operation.once("a") is not operation
    with pytest.raises(OnceConflict):
        Plain(order=2).once("a").call()


def test_once_none_disables_the_key_of_the_class_for_a_call(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    assert [Guarded(order=1).once(None).call() for _ in range(2)] == [1, 2]
    assert Guarded(order=1).call() == 3
    assert Guarded(order=1).once("x").once(None).call() == 4
    assert [row.once_key is None for row in rows(engine)] == [True, True, False, True]


def test_equal_keys_of_two_operations_are_independent(isolated_runtime: Isolated) -> None:
    assert Plain(order=1).once("a").call() == 1
    assert Guarded(order=1).once("a").call() == 2


class Derived(Guarded, name="once.derived"):
    pass


class Without(Guarded, name="once.without"):
    once = Once.never()


def test_a_subclass_inherits_the_declaration_and_has_separate_keys(isolated_runtime: Isolated) -> None:
    assert [Guarded(order=1).call(), Derived(order=1).call(), Derived(order=1).call()] == [1, 2, 2]
    assert [Without(order=1).call(), Without(order=1).call()] == [3, 4]


class ByFunction(Operation, name="once.by_function"):
    order: int
    note: str = ""
    once = Once(lambda op: f"order-{op.order}", params="ignore")

    def perform(self) -> int:
        runs.append(self.order)
        return len(runs)


class Keyless(ByFunction, name="once.keyless"):
    once = Once(lambda op: None)


def test_a_function_can_return_the_key(isolated_runtime: Isolated) -> None:
    assert ByFunction(order=1).call() == ByFunction(order=1, note="again").call() == 1
    assert ByFunction(order=5).once("order-1").call() == 1
    with pytest.raises(OptionsError, match=r"Keyless\.once: its function returned None; expected a str"):
        Keyless(order=1).call()


def test_an_expired_key_is_claimed_and_the_call_runs_again(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    assert [Short(order=1).call(), Short(order=1).call()] == [1, 1]
    with engine.begin() as connection:
        early = sa.update(table).values(once_expires_at=table.c.created_at)
        connection.execute(early)
    answers = at_once(*[lambda: Short(order=1).call()] * 3)
    assert answers == [2, 2, 2]
    old, new = rows(engine)
    assert (old.once_key, old.status) == (None, "done")
    assert new.once_key is not None


def test_a_running_run_keeps_its_key_after_the_expiry(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    first = Short(order=1).async_().call()
    with engine.begin() as connection:
        connection.execute(sa.update(table).values(once_expires_at=table.c.created_at))
    assert Short(order=1).async_().call().id == first.id
    isolated_runtime.run_pending()
    assert not Short(order=1).async_().call().duplicate


def test_a_key_is_cleared_by_its_props_or_by_its_text(isolated_runtime: Isolated) -> None:
    assert not Charge.clear_once(order=1)
    Charge(order=1).call()
    assert Charge.clear_once(order=1)
    assert not Charge.clear_once(order=1)
    assert Charge(order=1).call().number == 2
    Plain(order=1).once("a").call()
    assert Plain.clear_once(key="a")
    assert not Plain.clear_once("a")
    with pytest.raises(OptionsError, match=r"clear_once\(\.\.\.\): the class declares no once\."):
        Plain.clear_once(order=1)
    with pytest.raises(OptionsError, match=r"clear_once\(\.\.\.\): expected all props of the key; 'order' is"):
        Charge.clear_once()


def test_the_key_of_a_running_run_is_not_cleared(isolated_runtime: Isolated) -> None:
    ticket = Charge(order=1).async_().call()
    assert not Charge.clear_once(order=1)
    assert ticket.reload().pending


def test_once_works_from_asyncio(isolated_runtime: Isolated) -> None:
    async def both() -> list[Receipt]:
        return list(await asyncio.gather(Charge(order=1).acall(), Charge(order=1).acall()))

    first, second = asyncio.run(both())
    assert first == second
    assert runs == [1]


# -------------------------------------------------------------------- in the caller's transaction


def test_a_rollback_of_the_caller_frees_the_key(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    runtime_engine = isolated_runtime.runtime.store.database.engine
    with Session(runtime_engine) as session, dexpy.session(session):
        assert Charge(order=1).call().number == 1
        assert Charge(order=1).call().number == 1
        session.rollback()
    assert [row for row in rows(engine) if row.once_key] == []
    assert Charge(order=1).call().number == 2


class Entered(Charge, name="once.entered"):
    def perform(self) -> Receipt:
        self.session.execute(sa.text("SELECT 1"))
        return super().perform()


class Buys(Operation, name="once.buys"):
    order: int
    fails: bool = False

    def perform(self) -> int:
        number = Entered(order=self.order).call().number
        if self.fails:
            raise Error("sold_out", "Not today")
        return number


def test_a_rollback_of_the_caller_frees_the_key_where_the_effects_are_in_another_database(
    database_url: str, tmp_path: Path
) -> None:
    other = sa.create_engine(f"sqlite:///{tmp_path / 'effects.db'}")
    with isolated(database=database_url, session_factory=sessionmaker(other)):
        assert isinstance(Buys(order=1, fails=True).safe.call(), Err)
        # The effects were rolled back, so a replay would report effects that do not exist.
        assert [Buys(order=1).call(), Buys(order=1).call()] == [2, 2]
    other.dispose()
    assert runs == [1, 1]


def test_an_error_in_the_callers_transaction_keeps_its_key_with_the_commit(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    runtime_engine = isolated_runtime.runtime.store.database.engine
    with Session(runtime_engine) as session, dexpy.session(session):
        with pytest.raises(RuntimeError):
            Crash(order=1).call()
        assert isinstance(Refuse(order=1).safe.call(), Err)
        session.commit()
    stored = {row.operation: (row.status, row.failure, row.once_key is None) for row in rows(engine)}
    assert stored == {"once.refuse": ("failed", "business", False), "once.crash": ("failed", "crash", True)}
    assert isinstance(Refuse(order=1).safe.call(), Err)
    assert runs == [1, 1]


def test_a_failure_in_a_transaction_that_is_rolled_back_leaves_a_row_without_a_key(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    runtime_engine = isolated_runtime.runtime.store.database.engine
    with Session(runtime_engine) as session, dexpy.session(session):
        Refuse(order=1).safe.call()
        session.rollback()
    assert [(row.status, row.failure, row.once_key) for row in rows(engine)] == [("failed", "business", None)]


# -------------------------------------------------------------------- in the background


def test_a_second_enqueue_returns_the_ticket_of_the_first(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    first, second = Charge(order=1).async_().call(), Charge(order=1).async_().call()
    assert (first.duplicate, second.duplicate, first.id == second.id) == (False, True, True)
    assert len(isolated_runtime.run_pending()) == 1
    third = Charge(order=1).async_().call()
    assert (third.duplicate, third.status, third.outcome) == (
        True,
        "done",
        Ok(Receipt(1, Decimal(10), date(2026, 11, 21))),
    )
    assert (runs, len(rows(engine)), isolated_runtime.run_pending()) == ([1], 1, [])


def test_a_call_in_place_returns_the_result_of_the_background_run(isolated_runtime: Isolated) -> None:
    Charge(order=1).async_().call()
    isolated_runtime.run_pending()
    assert Charge(order=1).call().number == 1
    assert runs == [1]


def test_a_background_call_returns_the_result_of_the_call_in_place(isolated_runtime: Isolated) -> None:
    Charge(order=1).call()
    ticket = Charge(order=1).async_().call()
    assert (ticket.duplicate, ticket.result(1).number, isolated_runtime.run_pending()) == (True, 1, [])


def test_between_attempts_a_run_keeps_its_key_and_a_crash_frees_it(isolated_runtime: Isolated) -> None:
    first = Retried(order=1).async_().call()
    isolated_runtime.run_pending()
    assert Retried(order=1).async_().call().id == first.id
    Crash(order=1).async_().call()
    runs.clear()
    isolated_runtime.run_pending()
    assert not Crash(order=1).async_().call().duplicate


@pytest.mark.parametrize("end", ["cancel", "expire", "fail"])
def test_ending_a_run_before_its_start_releases_its_key(isolated_runtime: Isolated, end: str) -> None:
    ticket = Charge(order=1).async_().call()
    ticket.fail("by hand") if end == "fail" else getattr(ticket, end)()
    assert not Charge(order=1).async_().call().duplicate


def test_a_rolled_back_enqueue_frees_its_key(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    runtime_engine = isolated_runtime.runtime.store.database.engine
    with Session(runtime_engine) as session:
        first = Charge(order=1).async_(session=session).call()
        again = Charge(order=1).async_(session=session).call()
        assert (again.duplicate, again.id) == (True, first.id)
        session.rollback()
    with pytest.raises(dexpy.errors.RolledBack):
        first.reload()
    assert (rows(engine), Charge(order=1).async_().call().duplicate) == ([], False)


def test_the_callers_transaction_can_be_committed_after_a_duplicate(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    first = Charge(order=1).async_().call()
    with Session(isolated_runtime.runtime.store.database.engine) as session:
        second = Charge(order=1).async_(session=session).call()
        third = Charge(order=2).async_(session=session).call()
        session.rollback()
    assert second.reload().id == first.id
    assert not third.duplicate
    with Session(isolated_runtime.runtime.store.database.engine) as session:
        Charge(order=1).async_(session=session).call()
        Charge(order=2).async_(session=session).call()
        session.commit()
    assert len(rows(engine)) == 2


def test_a_key_committed_after_the_start_of_the_callers_transaction_is_found(isolated_runtime: Isolated) -> None:
    with Session(engine_of(isolated_runtime, "REPEATABLE READ")) as session:
        session.execute(sa.select(sa.func.count()).select_from(table)).scalar_one()
        first = Charge(order=1).async_().call()
        second = Charge(order=1).async_(session=session).call()
        assert (second.duplicate, second.id) == (True, first.id)
        if session.get_bind().dialect.name != "sqlite":
            third = Charge(order=2).async_(session=session).call()
            session.commit()
            assert third.reload().pending


def engine_of(isolated_runtime: Isolated, level: str) -> sa.Engine:
    """Return an engine with an isolation level; on SQLite, the engine as it is."""
    engine = isolated_runtime.runtime.store.database.engine
    return engine if engine.dialect.name == "sqlite" else engine.execution_options(isolation_level=level)


def test_two_open_transactions_with_one_key_wait_for_each_other(isolated_runtime: Isolated) -> None:
    runtime_engine = isolated_runtime.runtime.store.database.engine
    locked, go = threading.Event(), threading.Event()

    def first() -> dexpy.Ticket[Receipt]:
        with Session(runtime_engine) as session:
            ticket = Charge(order=1).async_(session=session).call()
            locked.set()
            assert go.wait(10)
            session.commit()
            return ticket

    def second() -> dexpy.Ticket[Receipt]:
        assert locked.wait(10)
        threading.Timer(0.3, go.set).start()
        with Session(runtime_engine) as session:
            ticket = Charge(order=1).async_(session=session).call()
            session.commit()
            return ticket

    one, two = at_once(first, second)
    assert (one.id == two.id, one.duplicate, two.duplicate) == (True, False, True)


def test_the_second_of_two_open_transactions_gets_the_key_if_the_first_rolls_back(
    isolated_runtime: Isolated,
) -> None:
    runtime_engine = isolated_runtime.runtime.store.database.engine
    locked, go = threading.Event(), threading.Event()

    def first() -> None:
        with Session(runtime_engine) as session:
            Charge(order=1).async_(session=session).call()
            locked.set()
            assert go.wait(10)
            session.rollback()

    def second() -> dexpy.Ticket[Receipt]:
        assert locked.wait(10)
        threading.Timer(0.3, go.set).start()
        return Charge(order=1).async_().call()

    _, ticket = at_once(first, second)
    assert (ticket.duplicate, ticket.reload().status) == (False, "pending")


class Hasty(Charge, name="once.hasty"):
    once = Once("order", wait=1)


@pytest.mark.parametrize("in_place", [True, False], ids=["in place", "in the background"])
def test_a_key_in_an_open_transaction_is_busy_for_other_transactions(
    isolated_runtime: Isolated, in_place: bool
) -> None:
    # The first call in place registers the process, which takes part of the wait.
    Hasty(order=2).call()
    with Session(isolated_runtime.runtime.store.database.engine) as session:
        Hasty(order=1).async_(session=session).call()
        session.flush()
        began = time.monotonic()
        (busy,) = at_once(Hasty(order=1).call if in_place else Hasty(order=1).async_().call)
        assert isinstance(busy, KeyBusy)
        assert (busy.id, busy.waited_s) == (None, 1)
        assert 0.9 <= time.monotonic() - began < 8
        session.rollback()
    assert not Hasty(order=1).async_().call().duplicate


def test_a_busy_key_leaves_the_callers_transaction_unchanged(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    runtime_engine = isolated_runtime.runtime.store.database.engine
    if runtime_engine.dialect.name == "sqlite":
        pytest.skip("SQLite has one writer at a time, so a second transaction cannot conflict")
    with Session(runtime_engine) as holder, Session(runtime_engine) as other:
        Hasty(order=1).async_(session=holder).call()
        Plain(order=1).async_(session=other).call()
        with pytest.raises(KeyBusy):
            Hasty(order=1).async_(session=other).call()
        other.commit()
        holder.rollback()
    assert [row.operation for row in rows(engine)] == ["once.plain"]


def test_a_connection_returns_to_its_pool_with_its_lock_timeout_restored(isolated_runtime: Isolated) -> None:
    runtime_engine = isolated_runtime.runtime.store.database.engine
    query = {
        "sqlite": "PRAGMA busy_timeout",
        "postgresql": "SHOW lock_timeout",
        "mysql": "SELECT @@innodb_lock_wait_timeout",
    }[runtime_engine.dialect.name]

    def patience(connection: sa.Connection) -> Any:
        return connection.exec_driver_sql(query).scalar_one()

    with runtime_engine.connect() as connection:
        usual = patience(connection)
    # Inserts with a new key and with a taken key, in separate transactions and in one of the caller.
    assert Hasty(order=1).call() == Hasty(order=1).call()
    assert Hasty(order=2).async_().call().id == Hasty(order=2).async_().call().id
    with ExitStack() as stack:
        pool: Any = runtime_engine.pool
        connections = [stack.enter_context(runtime_engine.connect()) for _ in range(pool.checkedin())]
        assert {patience(connection) for connection in connections} == {usual}
    with Session(runtime_engine) as session:
        for order in (1, 3):
            Hasty(order=order).async_(session=session).call()
            assert patience(session.connection()) == usual
        session.rollback()


def test_retry_claims_the_key_again_unless_another_run_holds_it(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    first = Charge(order=1).async_().call().cancel()
    second = Charge(order=1).async_().call()
    with pytest.raises(KeyTaken) as raised:
        first.retry()
    assert (raised.value.id, raised.value.kind, raised.value.holder) == (first.id, "once", second.id)
    assert first.reload().cancelled
    second.cancel()
    assert first.retry().pending
    assert Charge(order=1).async_().call().id == first.id


def test_retry_claims_the_key_of_an_expired_run(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    first = Short(order=1).async_().call().cancel()
    assert Short(order=1).call() == 1
    with pytest.raises(KeyTaken):
        first.retry()
    with engine.begin() as connection:
        finished = sa.update(table).where(table.c.status == "done")
        connection.execute(finished.values(once_expires_at=table.c.created_at))

    assert first.retry().pending
    assert Short(order=1).async_().call().id == first.id


class Robbed(Operation, name="once.robbed"):
    """Is recovered from an expired lease while it runs."""

    order: int
    once = Once("order")

    def perform(self) -> int:
        ended = {"status": "failed", "failure": "lost", "once_key": None, "claimed_by": None}
        engine = sa.create_engine(dexpy.current_runtime().store.database.url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            connection.execute(sa.update(table).where(table.c.id == self.run_id).values(ended))
        self.session.execute(sa.text("INSERT INTO robbed VALUES (1)"))
        return self.order


def test_a_call_in_place_whose_lease_expired_commits_nothing(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE robbed (number INTEGER)")
    with pytest.raises(OperationFailed, match="the lease of this process expired"):
        Robbed(order=1).call()
    with engine.connect() as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM robbed").scalar_one() == 0
    (row,) = rows(engine)
    assert (row.status, row.failure, row.result) == ("failed", "lost", None)


def test_a_lost_call_in_place_is_failed_and_its_key_is_free(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    Charge(order=1).call()
    with engine.begin() as connection:
        values = {"status": "running", "completed_at": None, "result": None, "claimed_by": "gone:1:x"}
        connection.execute(sa.update(table).values(**values))
    assert Charge(order=1).call().number == 2
    old, _ = rows(engine)
    assert (old.status, old.failure, old.once_key) == ("failed", "lost", None)
    assert old.error_message == "The process gone:1:x ended or froze during this synchronous call."
    assert dexpy.Ticket.get(old.id).failure == "lost"


# -------------------------------------------------------------------- refusals and reports


def declare(**attributes: Any) -> type[Operation]:
    return type("Broken", (Operation,), {"__annotations__": {"order": int}, "perform": lambda self: 1, **attributes})


REFUSED = [
    ({"once": "order"}, r"once: expected a Once\(\.\.\.\), got 'order'. Write once = Once"),
    ({"once": None}, r"once: expected a Once\(\.\.\.\), got None."),
    ({"record": False}, "an idempotency key requires a record, which record = False excludes."),
    ({"record": Recording(params=False)}, r"which Recording\(params=False\) excludes"),
    ({"record": Recording(result=False)}, r"which Recording\(result=False\) excludes"),
    ({"once": Once("odrer")}, "unknown prop 'odrer'; expected one of 'order'. Did you mean 'order'?"),
]


@pytest.mark.parametrize(("attributes", "message"), REFUSED)
def test_an_invalid_declaration_is_refused(attributes: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        declare(**{"once": Once("order"), **attributes})


ARGUMENTS: list[tuple[tuple[Any, ...], dict[str, Any], str]] = [
    (("a", "a"), {}, r"Once\(\.\.\.\): the prop 'a' is repeated"),
    ((1,), {}, "expected names of props, one function of the operation or template="),
    (("a", print), {}, "expected names of props, one function of the operation or template="),
    ((), {"expires_in": "1 h"}, "expires_in='1 h': expected seconds or a timedelta"),
    ((), {"expires_in": 0}, "expected more than 0 seconds, or None for never"),
    ((), {"params": "look"}, "expected 'check' or 'ignore'"),
    ((), {"wait": -1}, "wait=-1: expected a finite delay of 0 or more seconds"),
]


@pytest.mark.parametrize(("by", "kwargs", "message"), ARGUMENTS)
def test_an_invalid_argument_is_refused(by: tuple[Any, ...], kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(DeclarationError, match=message):
        Once(*by, **kwargs)


class Unrecorded(Operation, name="once.unrecorded"):
    record = False

    def perform(self) -> int:
        return 1


def test_a_key_without_a_record_is_refused_at_the_call() -> None:
    with pytest.raises(OptionsError, match=r"which record = False excludes\. Write record = True"):
        Unrecorded().once("a")
    with pytest.raises(OptionsError, match=r"once\(\.\.\.\): expected a non-empty str or None, got 7\."):
        Plain(order=1).once(7)  # type: ignore[arg-type]
    with isolated() as isolated_runtime:
        isolated_runtime.runtime.settings = isolated_runtime.runtime.settings.__class__()
        with pytest.raises(
            dexpy.ConfigurationError, match="an idempotency key requires a database, but none is configured"
        ):
            Charge(order=1).call()
        with pytest.raises(
            dexpy.ConfigurationError, match="an idempotency key requires a database, but none is configured"
        ):
            Plain(order=1).once("a").call()
        assert Charge(order=1).once(None).call().number == 1


def test_explain_shows_which_run_holds_the_key_and_changes_nothing(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    explanation = Charge.explain(order=1).once
    assert explanation is not None
    assert (explanation["active"], explanation["status"], explanation["expires_in"], len(explanation["key"])) == (
        True,
        "fresh",
        None,
        12,
    )
    ticket = Charge(order=1).async_().call()
    assert (Charge.explain(order=1).once or {})["status"] == "pending"
    assert (Charge.explain(order=1).once or {})["held_by"] == ticket.id
    isolated_runtime.run_pending()
    assert (Charge.explain(order=1).once or {})["status"] == "exists"
    assert (len(rows(engine)), runs, Plain.explain(order=1).once) == (1, [1], None)
