"""Guards: a method that returns a true value refuses the run."""

from __future__ import annotations

from typing import Any

import pytest
import sqlalchemy as sa

import dexpy
from dexpy import Err, Error, Ok, Operation, PropsError, Ref, guard, records
from dexpy.errors import DeclarationError
from dexpy.testing import Isolated

from .shop import Customer, Shop

performed: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    performed.clear()


class Withdraw(Operation):
    """Has guards of every kind."""

    amount: int
    balance: int = 100
    frozen: bool = False

    @guard("The amount must be positive")
    def not_positive(self) -> bool:
        performed.append("not_positive")
        return self.amount <= 0

    @guard()
    def account_frozen(self) -> bool:
        performed.append("account_frozen")
        return self.frozen

    @guard("The balance is too small", requires=("not_positive", "account_frozen"))
    def too_much(self) -> bool:
        performed.append("too_much")
        return self.amount > self.balance

    @guard("Never told alone", requires="too_much")
    def last(self) -> bool:
        performed.append("last")
        return True

    def perform(self) -> int:
        performed.append("perform")
        return self.balance - self.amount


class Careful(Withdraw):
    """Adds a guard, and disables one by overriding it."""

    @guard("Only small amounts")
    def not_small(self) -> str | None:
        performed.append("not_small")
        return "yes" if self.amount > 10 else None

    def last(self) -> bool:
        return True


class Spend(Operation):
    """Has a guard that reads a row."""

    customer: Ref[Customer]
    amount: int

    @guard("The customer has too little")
    def too_little(self) -> bool:
        return self.customer.balance < self.amount

    def perform(self) -> None:
        self.customer.balance -= self.amount


def test_a_guard_that_returns_a_true_value_refuses_the_run_with_its_name_as_the_code() -> None:
    outcome = Careful(amount=50).safe.call()
    assert outcome == Err(
        "not_small", "Only small amounts",
        {"guards": [{"guard": "not_small", "message": "Only small amounts"}]}, rejected=True,
    )  # fmt: skip
    assert "perform" not in performed


def test_every_refusal_is_reported_and_a_guard_that_requires_a_refusing_one_is_skipped() -> None:
    with pytest.raises(Error) as caught:
        Withdraw(amount=0, frozen=True).call()
    error = caught.value
    assert (error.code, error.message) == ("not_positive", "The amount must be positive")
    assert error.details == {
        "guards": [
            {"guard": "not_positive", "message": "The amount must be positive"},
            {"guard": "account_frozen", "message": "account_frozen"},
        ]
    }
    assert error.operation == Withdraw.contract.name
    assert performed == ["not_positive", "account_frozen"]


def test_a_guard_that_requires_a_skipped_guard_is_skipped_too() -> None:
    outcome = Withdraw(amount=500).safe.call()
    assert isinstance(outcome, Err)
    assert [guard["guard"] for guard in outcome.details["guards"]] == ["too_much"]
    assert performed == ["not_positive", "account_frozen", "too_much"]


def test_guards_of_the_base_run_first_and_an_override_without_the_decorator_disables_one() -> None:
    assert Careful(amount=5).call() == 95
    assert performed == ["not_positive", "account_frozen", "too_much", "not_small", "perform"]


def test_guards_see_the_rows_and_a_refusal_leaves_no_effects_and_a_rejected_row(shop: Shop) -> None:
    shop.add(Customer(id=1, name="ann", balance=5))
    assert Spend(customer=1, amount=4).safe.call() == Ok(None)
    refused = Spend(customer=1, amount=4).safe.call()
    assert isinstance(refused, Err)
    assert refused.rejected
    assert shop.balance() == 1
    record = records.all().newest_first().first()
    assert record is not None
    assert (record.status, record.failure, record.error) == ("failed", "rejected", "too_little")
    assert record.error_message == "The customer has too little"
    assert record.error_details == refused.details


def test_writes_of_a_guard_are_rolled_back_by_a_refusal(shop: Shop) -> None:
    class Nosy(Operation):
        @guard("always")
        def always(self) -> bool:
            self.session.add(Customer(name="trace"))
            self.session.flush()
            return True

        def perform(self) -> None: ...

    assert isinstance(Nosy().safe.call(), Err)
    assert shop.names() == []


def test_a_guard_that_raises_an_error_is_refused_with_how_guards_work() -> None:
    class Confused(Operation):
        @guard("x")
        def threat(self) -> bool:
            raise Error("threat")

        def perform(self) -> None: ...

    with pytest.raises(DeclarationError) as caught:
        Confused().call()
    assert str(caught.value).endswith(
        "Confused.threat: this guard raised Error('threat'). "
        "Return a true value to refuse the run; the name of the guard is the error code."
    )


def test_an_exception_in_a_guard_is_a_crash_and_is_rescued_like_one() -> None:
    class Broken(Operation):
        @guard("x")
        def threat(self) -> bool:
            raise ZeroDivisionError

        def perform(self) -> None: ...

    class Healed(Broken):
        rescue_from = {ZeroDivisionError: "cannot_tell"}

    with pytest.raises(ZeroDivisionError):
        Broken().call()
    assert Healed().safe.call() == Err("cannot_tell", "cannot_tell")


def test_the_codes_and_messages_of_guards_count_as_declared_errors() -> None:
    class Strict(Careful):
        errors = {"other"}

        def perform(self) -> int:
            raise Error("not_positive")

    assert Strict(amount=1).safe.call() == Err("not_positive", "The amount must be positive")
    assert set(Strict.contract.errors) == {"other", "not_positive", "account_frozen", "too_much", "not_small"}


# --------------------------------------------------------------------------------- refused at the class statement


def refused(declare: Any) -> str:
    with pytest.raises(DeclarationError) as caught:
        declare()
    return str(caught.value)


def test_a_guard_may_only_require_guards_declared_before_it() -> None:
    def declare() -> None:
        class Wrong(Operation):
            @guard("a", requires=("secnd",))
            def first(self) -> bool:
                return False

            @guard("b")
            def second(self) -> bool:
                return False

    assert refused(declare).endswith(
        "Wrong.first: unknown guard 'secnd' in requires; expected guards declared before it: none."
    )

    def misspell() -> None:
        class Wrong(Withdraw):
            @guard("a", requires=("to_much",))
            def third(self) -> bool:
                return False

    assert refused(misspell).endswith(
        "declared before it: 'account_frozen', 'last', 'not_positive', 'too_much'. Did you mean 'too_much'?"
    )


def test_a_guard_without_parentheses_is_refused() -> None:
    def declare() -> None:
        class Wrong(Operation):
            @guard  # type: ignore[arg-type]
            def threat(self) -> bool:
                return False

    assert refused(declare) == '@guard: expected parentheses. Write @guard("The customer must be active").'


def test_a_guard_that_is_a_coroutine_or_a_property_is_refused() -> None:
    def is_async() -> None:
        class Wrong(Operation):
            @guard("x")
            async def threat(self) -> bool:
                return False

    assert refused(is_async).endswith(
        "Wrong.threat: expected a plain method, got an `async def`. Guards and callbacks run in the thread of the run; "
        "write `def`, and await in perform."
    )

    def is_property() -> None:
        class Wrong(Operation):
            @guard("x")
            @property
            def threat(self) -> bool:
                return False

    assert "@guard(...): expected a method, got <property object" in refused(is_property)


def test_a_guard_with_a_reserved_name_is_refused() -> None:
    def declare() -> None:
        class Wrong(Operation):
            @guard("x")
            def session(self) -> bool:  # type: ignore[override]
                return False

    assert "Wrong.session: a guard cannot have the reserved name 'session'. " in refused(declare)


def test_guards_run_inside_a_joined_session(shop: Shop) -> None:
    with shop.session() as session, dexpy.session(session):
        session.add(Customer(id=1, name="ann", balance=5))
        assert Spend(customer=1, amount=9).safe.call() == Err(
            "too_little", "The customer has too little",
            {"guards": [{"guard": "too_little", "message": "The customer has too little"}]}, rejected=True,
        )  # fmt: skip
        session.commit()
    assert shop.balance() == 5


class TestCallable:
    """`is_callable` and `callable`."""

    def test_every_refusal_is_reported_and_nothing_runs_or_is_stored(self, isolated_runtime: Isolated) -> None:
        performed: list[str] = []

        class Pay(Operation):
            amount: int

            @guard("Not positive")
            def not_positive(self) -> bool:
                self.session.execute(sa.text("CREATE TABLE left_behind (id INTEGER)"))
                return self.amount <= 0

            @guard("Too much")
            def too_much(self) -> bool:
                return self.amount < -10 or self.amount > 10

            def perform(self) -> None:
                performed.append("perform")

        refused = Pay.callable(amount=-11)

        assert isinstance(refused, Err)
        assert (refused.code, refused.message, refused.rejected) == ("not_positive", "Not positive", True)
        assert [one["guard"] for one in refused.details["guards"]] == ["not_positive", "too_much"]
        assert Pay.callable(amount=1) == Ok(None)
        assert (Pay.is_callable(amount=1), Pay.is_callable(amount=11)) == (True, False)
        assert performed == []
        assert dexpy.records.all().count() == 0
        assert "left_behind" not in sa.inspect(isolated_runtime.runtime.store.database.engine).get_table_names()

    def test_an_operation_without_guards_is_callable_without_a_query(self) -> None:
        class Free(Operation):
            def perform(self) -> None: ...

        assert Free.is_callable()

    def test_wrong_props_are_refused_as_in_a_call(self) -> None:
        class Pay(Operation):
            amount: int

            def perform(self) -> None: ...

        with pytest.raises(PropsError, match="amount: expected int, got str 'x'"):
            Pay.is_callable(amount="x")
