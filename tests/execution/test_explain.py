"""`explain`: what a call would do, reported by each middleware and policy, without effects."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import attrs
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import dexpy
from dexpy import (
    Async,
    Call,
    Err,
    Error,
    Explanation,
    Insert,
    Middleware,
    Ok,
    Operation,
    OptRef,
    PropsError,
    Recording,
    Ref,
    Remove,
    Retry,
    after,
    around,
    before,
    guard,
    prop,
    records,
)
from dexpy.configuration.settings import Settings
from dexpy.errors import RefNotFound
from dexpy.runtime import Runtime, install
from dexpy.testing import Isolated


class Base(DeclarativeBase):
    pass


class Account(Base):
    __tablename__ = "explain_accounts"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(sa.String(40))
    balance: Mapped[int]


@pytest.fixture
def accounts(engine: sa.Engine) -> Generator[None]:
    """Create an account with id 1 and balance 10."""
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(Account).values(id=1, name="Ann", balance=10))
    yield
    Base.metadata.drop_all(engine)


def queue_of(operation: Any) -> str:
    return "rich" if operation.account.balance > 5 else "poor"


class Declined(Exception):
    """The bank declined."""


class Withdraw(Operation):
    """Take money out.

    At the counter.
    """

    account: Ref[Account] = prop(lock=True)
    amount: int = prop(ge=1)
    pin: str = prop(default="0000", sensitive=True)
    note: str | None = None

    async_ = Async(queue=queue_of, priority=3, in_=timedelta(minutes=1), expires_in=3600)
    retry_on = (
        Retry(ConnectionError, TimeoutError, attempts=3, wait="exponentially_longer"),
        Retry("busy", attempts=None, wait=timedelta(seconds=5)),
    )
    discard_on = (KeyError,)
    rescue_from = {Declined: "declined", OSError: Declined}
    errors = {"declined", "busy"}
    timeout = 30

    @guard("Not so much money is there")
    def too_little(self) -> bool:
        return bool(self.account.balance < self.amount)

    @guard("It has to be a multiple of ten", requires="too_little")
    def odd_amount(self) -> bool:
        return self.amount % 10 != 0

    @before
    def count(self) -> None:
        raise AssertionError("a callback ran")

    @around
    def time(self, proceed: Callable[[], None]) -> None:
        raise AssertionError("a callback ran")

    @after
    def notify(self) -> None: ...

    def perform(self) -> int:
        raise AssertionError("it ran")


@pytest.mark.usefixtures("isolated_runtime", "accounts")
def test_the_report_has_every_fact_of_a_call() -> None:
    explanation = Withdraw.explain(account=1, amount=10)
    assert explanation.operation == Withdraw.contract.name
    assert explanation.description == "Take money out."
    assert explanation.error is None
    assert explanation.callable
    assert explanation.props == {"account": 1, "amount": 10, "pin": "<sensitive>", "note": None}
    assert explanation.guards == {
        "too_little": {"status": "passed", "message": "Not so much money is there"},
        "odd_amount": {"status": "passed", "message": "It has to be a multiple of ten"},
    }
    assert explanation.record == {"enabled": True, "params": True, "result": True}
    assert explanation.transaction == {"enabled": True, "effects": "exactly once"}
    assert explanation.background == {
        "job": "RecordJob",
        "queue": "rich",
        "priority": 3,
        "in": 60.0,
        "expires_in": 3600,
        "retry_on": [
            {"causes": ["ConnectionError", "TimeoutError"], "attempts": 3, "wait": "exponentially_longer"},
            {"causes": ["busy"], "attempts": None, "wait": 5.0},
        ],
        "discard_on": ["KeyError"],
        "timeout": 30.0,
        "max_lost": 3,
    }
    assert explanation.rescue_from == {f"{__name__}.Declined": "declined", "OSError": f"{__name__}.Declined"}
    assert explanation.callbacks == {"before": 1, "after": 1, "around": 1}


@pytest.mark.usefixtures("isolated_runtime", "accounts")
def test_each_guard_shows_whether_it_passed_refused_or_was_skipped() -> None:
    explanation = Withdraw.explain(account=1, amount=15)
    assert [answer["status"] for answer in explanation.guards.values()] == ["refused", "skipped"]
    assert not explanation.callable
    assert [answer["status"] for answer in Withdraw.explain(account=1, amount=5).guards.values()] == [
        "passed",
        "refused",
    ]


def test_the_pipeline_is_listed_in_order_with_inactive_middleware_marked(isolated_runtime: Isolated) -> None:
    explanation = Bare.explain()
    assert list(explanation.pipeline) == [
        "trace",
        "result",
        "once",
        "lock",
        "record",
        "rescue",
        "transaction",
        "refs",
        "guard",
        "callbacks",
        "perform",
    ]
    active = [name for name, is_active in explanation.pipeline.items() if is_active]
    assert active == ["trace", "result", "record", "transaction", "perform"]
    assert (explanation.once, explanation.lock, explanation.unique, explanation.rescue_from, explanation.callbacks) == (
        None,
    ) * 5
    assert explanation.guards == {}


class Bare(Operation):
    def perform(self) -> None:
        raise AssertionError("it ran")


class Unrecorded(Operation):
    record = False
    transaction = False

    def perform(self) -> None: ...


class WithoutParams(Operation):
    record = Recording(params=False)

    def perform(self) -> None: ...


def test_a_run_without_a_record_or_a_transaction_is_reported(isolated_runtime: Isolated) -> None:
    explanation = Unrecorded.explain()
    assert explanation.record == {"enabled": False}
    assert explanation.transaction == {"enabled": False, "effects": "at least once"}
    assert explanation.background is not None
    assert explanation.background["job"] == "DirectJob"
    assert WithoutParams.explain().record == {"enabled": True, "params": False, "result": True}


@pytest.mark.usefixtures("isolated_runtime", "accounts")
def test_invalid_props_return_a_partial_report() -> None:
    explanation = Withdraw.explain(account=1, amount=0, pin=7)
    assert not explanation.callable
    assert explanation.error is not None
    assert "amount: expected a value >= 1, got int 0" in explanation.error
    assert "pin: expected str, got <sensitive>" in explanation.error
    assert explanation.props == {"account": 1, "note": None}
    assert explanation.guards == {}
    assert explanation.background == {"unknown": "it depends on the props"}
    assert explanation.record == {"enabled": True, "params": True, "result": True}
    assert Withdraw.explain().error is not None
    assert "other: unknown prop; expected one of" in str(Withdraw.explain(account=1, amount=1, other=2).error)


@pytest.mark.usefixtures("isolated_runtime", "accounts")
def test_a_row_that_was_never_flushed_is_reported_as_an_invalid_prop() -> None:
    explanation = Withdraw.explain(account=Account(id=2, name="Bob", balance=1), amount=1)
    assert not explanation.callable
    assert "has no primary key yet. Call session.flush()" in str(explanation.error)


@pytest.mark.usefixtures("isolated_runtime", "accounts")
def test_errors_that_are_not_about_props_are_raised() -> None:
    with pytest.raises(RefNotFound):
        Withdraw.explain(account=7, amount=1)
    with pytest.raises(ZeroDivisionError):
        Broken.explain()
    with pytest.raises(PropsError, match="Withdraw: 2 invalid props"):
        Confused.explain()


class Broken(Operation):
    @guard("Never")
    def never(self) -> bool:
        return bool(1 / 0)

    def perform(self) -> None: ...


class Confused(Operation):
    @guard("Never")
    def never(self) -> bool:
        Withdraw(amount=0)
        return False

    def perform(self) -> None: ...


class Meddler(Operation):
    """Has a guard that writes, enqueues and calls."""

    account: OptRef[Account] = prop(default=None)

    @guard("Never")
    def meddles(self) -> bool:
        self.session.execute(sa.update(Account).values(balance=0))
        Bare().async_().call()
        Unrecorded().async_().call()
        Fine().call()
        Fails().safe.call()
        return False

    def perform(self) -> None: ...


class LooseMeddler(Operation):
    """Has the same guard, and no transaction of its own."""

    transaction = False

    @guard("Never")
    def meddles(self) -> bool:
        with self.transaction() as session:
            session.execute(sa.update(Account).values(balance=0))
        Bare().async_().call()
        Unrecorded().async_().call()
        Fine().call()
        Fails().safe.call()
        return False

    def perform(self) -> None: ...


class Fine(Operation):
    def perform(self) -> int:
        return 1


class Fails(Operation):
    def perform(self) -> int:
        raise Error("no")


@pytest.mark.parametrize("cls", [Meddler, LooseMeddler])
@pytest.mark.parametrize("ask", ["explain", "callable"])
@pytest.mark.usefixtures("accounts")
def test_writes_of_a_guard_are_rolled_back(
    isolated_runtime: Isolated, engine: sa.Engine, cls: type[Operation], ask: str
) -> None:
    getattr(cls, ask)()
    with engine.connect() as connection:
        assert connection.scalar(sa.select(Account.balance)) == 10
    assert records.all().count() == 0
    assert isolated_runtime.run_pending() == []


@pytest.mark.parametrize("ask", ["explain", "callable"])
@pytest.mark.usefixtures("isolated_runtime", "accounts")
def test_a_dry_run_waits_for_no_lock_on_a_row_that_a_run_would_lock(engine: sa.Engine, ask: str) -> None:
    with engine.connect() as other, ThreadPoolExecutor(1) as threads:
        if engine.dialect.name == "sqlite":
            other.exec_driver_sql("BEGIN IMMEDIATE")
        else:
            other.execute(sa.select(Account).with_for_update())
        dry_run = threads.submit(getattr(Withdraw, ask), account=1, amount=10)
        try:
            dry_run.result(4)
        finally:
            other.rollback()


@pytest.mark.usefixtures("accounts")
def test_the_current_session_is_unchanged(isolated_runtime: Isolated) -> None:
    with isolated_runtime.runtime.store.new_session() as session, session.begin():
        session.execute(sa.update(Account).values(balance=500))
        with dexpy.session(session):
            assert Withdraw.explain(account=1, amount=400).callable, (
                "the dry run reads the changes of the current transaction"
            )
            assert session.scalar(sa.select(Account.balance)) == 500
    assert not Withdraw.explain(account=1, amount=600).callable
    assert Withdraw.explain(account=1, amount=400).callable


@pytest.mark.usefixtures("isolated_runtime", "accounts")
def test_the_report_is_frozen_plain_json_and_readable() -> None:
    explanation = Withdraw.explain(account=1, amount=15)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        explanation.callable = True  # type: ignore[misc]
    data = explanation.to_dict()
    assert json.loads(json.dumps(data)) == data
    assert list(data)[:2] == ["operation", "callable"]
    text = str(explanation)
    assert text.startswith(f"{explanation.operation}: not callable\n  Take money out.\n")
    assert "    too_little: status refused, message Not so much money is there" in text
    assert "    pin: <sensitive>" in text
    assert "(once) > (lock) > record > rescue > transaction > refs > guard > callbacks > perform" in text


SECRET = "hunter2hunter2"


@pytest.mark.usefixtures("isolated_runtime", "accounts")
def test_a_report_contains_no_secret() -> None:
    for report in (Withdraw.explain(account=1, amount=10, pin=SECRET), Talkative.explain(pin=SECRET, number=0)):
        assert SECRET not in str(report) + repr(report) + json.dumps(report.to_dict())


def say_it(call: Call) -> Mapping[str, Any]:
    return {"pin": call.operation.pin, "nested": [{"x": f"it is {call.operation.pin}"}]}


def fail(call: Call) -> Mapping[str, Any]:
    raise ValueError(f"cannot tell {call.operation.pin}")


def pass_on(call: Call, proceed: Callable[[Call], Ok[Any] | Err]) -> Ok[Any] | Err:
    raise AssertionError("a step ran")


class Talkative(Operation):
    pin: str = prop(sensitive=True)
    number: int = 1
    async_ = Async(queue=lambda operation: f"q{operation.pin}")
    pipeline = (
        Insert(Middleware("says", pass_on, explain=say_it), after="trace"),
        Insert(Middleware("fails", pass_on, explain=fail), after="says"),
        Insert(Middleware("mute", pass_on), after="says"),
        Insert(
            Middleware("stops", pass_on, explain=lambda call: {"callable": call.operation.number > 0}), before="perform"
        ),
        Remove("result"),
    )

    def perform(self) -> None: ...


def test_the_explain_of_a_middleware_is_shown_and_its_failure_is_reported(
    isolated_runtime: Isolated,
) -> None:
    explanation = Talkative.explain(pin=SECRET)
    assert explanation.extras == {
        "says": {"pin": "<sensitive>", "nested": [{"x": "it is <sensitive>"}]},
        "fails": {"failed": "ValueError: cannot tell <sensitive>"},
        "stops": {"callable": True},
    }
    assert explanation.callable
    assert not Talkative.explain(pin=SECRET, number=0).callable
    assert Talkative.explain(pin=1).extras == {}, "without an operation no middleware explains itself"
    assert list(explanation.pipeline)[:5] == ["trace", "says", "mute", "fails", "result"]
    assert explanation.pipeline["says"]
    assert not explanation.pipeline["result"]


class Greeting(Operation):
    tenant: str = prop(context="current_tenant")
    locale: str = prop(context=True, default="en")

    def perform(self) -> None: ...


def test_the_source_of_each_ambient_value_is_shown(isolated_runtime: Isolated) -> None:
    assert Greeting.explain().context == {"tenant": "missing", "locale": "default"}
    assert not Greeting.explain().callable
    with dexpy.context(current_tenant="acme", locale="de"):
        explanation = Greeting.explain(locale="fr")
        assert explanation.context == {"tenant": "ambient", "locale": "explicit"}
        assert explanation.props == {"tenant": "acme", "locale": "fr"}
        assert explanation.callable


def test_a_report_is_an_explanation(isolated_runtime: Isolated) -> None:
    assert type(Bare.explain()) is Explanation


class Loose(Operation):
    transaction = False
    account: Ref[Account]

    @guard("Nothing is left")
    def empty(self) -> bool:
        with self.transaction() as session:
            session.execute(sa.update(Account).values(balance=self.account.balance - 10))
            session.flush()
            session.refresh(self.account)
        return self.account.balance == 0

    def perform(self) -> None: ...


@pytest.mark.usefixtures("isolated_runtime", "accounts")
def test_a_dry_run_of_a_class_without_a_transaction_loads_rows_and_stores_nothing(engine: sa.Engine) -> None:
    assert Loose.explain(account=1).guards["empty"]["status"] == "refused"
    assert not Loose.is_callable(account=1)
    with engine.connect() as connection:
        assert connection.scalar(sa.select(Account.balance)) == 10


def test_explain_without_a_configuration_creates_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = install(None)
    try:
        assert Greeting.explain(tenant="a").callable
        assert Bare.is_callable()
    finally:
        install(before)
    assert list(tmp_path.iterdir()) == []


def test_explain_shows_that_a_runtime_without_a_database_records_nothing(tmp_path: Path) -> None:
    before = install(Runtime(Settings(broker="redis://localhost:1/0", home=tmp_path)))
    try:
        explanation = Bare.explain()
    finally:
        install(before)
    assert explanation.record == {"enabled": False}
    assert explanation.background is not None
    assert explanation.background["job"] == "DirectJob"


def test_the_explanation_of_a_middleware_is_printed_once(isolated_runtime: Isolated) -> None:
    text = str(Talkative.explain(pin=SECRET))
    assert text.count("ValueError") == 1
    assert "extras" not in text
