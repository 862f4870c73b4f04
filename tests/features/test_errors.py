"""Business errors: declared codes, their descriptions, and errors of nested runs."""

from __future__ import annotations

from typing import Any

import pytest

from dexpy import Err, Error, Ok, Operation, records
from dexpy.errors import UndeclaredError
from dexpy.testing import Isolated


class Charge(Operation):
    """Declares error codes."""

    code: str = ""
    message: str | None = None
    errors = {"no_balance": "There is nothing to charge", "card_declined": None}

    def perform(self) -> str:
        if self.code:
            raise Error(self.code, self.message, details={"attempt": 1})
        return "charged"


class ChargeAgain(Charge):
    """Adds a code, and overrides a description."""

    errors = {"too_late": "It is too late", "card_declined": "The bank says no"}


class Open(Operation):
    """Declares no codes, so it may raise any."""

    def perform(self) -> None:
        raise Error("whatever")


class Order(Operation):
    """Calls another operation."""

    inner: str
    catches: bool = False
    errors = {"order_failed"}

    def perform(self) -> str:
        try:
            return Charge(code=self.inner).call()
        except Error as error:
            if self.catches:
                raise Error("order_failed", f"because of {error.code}") from error
            raise


def test_a_declared_code_ends_the_run_as_a_business_error() -> None:
    with pytest.raises(Error) as caught:
        Charge(code="no_balance", message="Nothing").call()
    error = caught.value
    assert (error.code, error.message, error.details) == ("no_balance", "Nothing", {"attempt": 1})
    assert error.operation == "features.test_errors.Charge"
    assert str(error) == "no_balance: Nothing"


def test_the_description_of_a_code_is_its_message() -> None:
    assert Charge(code="no_balance").safe.call() == Err("no_balance", "There is nothing to charge", {"attempt": 1})
    assert Charge(code="card_declined").safe.call() == Err("card_declined", "card_declined", {"attempt": 1})


def test_a_subclass_adds_codes_and_overrides_descriptions() -> None:
    assert ChargeAgain(code="card_declined").safe.call() == Err("card_declined", "The bank says no", {"attempt": 1})
    assert ChargeAgain(code="too_late").safe.call() == Err("too_late", "It is too late", {"attempt": 1})
    assert ChargeAgain(code="no_balance").safe.call() == Err("no_balance", "There is nothing to charge", {"attempt": 1})
    with pytest.raises(UndeclaredError):
        Charge(code="too_late").call()


def test_an_undeclared_code_is_a_crash_with_the_fix_in_its_message(isolated_runtime: Isolated) -> None:
    with pytest.raises(UndeclaredError) as caught:
        Charge(code="no_balanc").safe.call()
    error = caught.value
    assert str(error) == (
        "Charge: undeclared error code 'no_balanc'; expected one of 'card_declined', 'no_balance'. "
        "Did you mean 'no_balance'? Add 'no_balanc' to the errors of the class, or raise a declared code."
    )
    assert (error.operation, error.code, error.declared) == ("Charge", "no_balanc", ("card_declined", "no_balance"))
    assert isinstance(error.__cause__, Error)
    assert not isinstance(error, Error)
    record = records.all().first()
    assert record is not None
    assert (record.status, record.failure, record.error) == ("failed", "crash", "dexpy.errors.UndeclaredError")


def test_a_class_without_declared_codes_may_raise_any_code() -> None:
    assert Open().safe.call() == Err("whatever", "whatever")


def test_the_details_and_the_code_are_in_the_record(isolated_runtime: Isolated) -> None:
    Charge(code="no_balance").safe.call()
    record = records.all().first()
    assert record is not None
    assert (record.status, record.failure, record.error) == ("failed", "business", "no_balance")
    assert (record.error_message, record.error_details) == ("There is nothing to charge", {"attempt": 1})


def test_an_error_of_a_nested_run_keeps_its_code_and_its_operation(isolated_runtime: Isolated) -> None:
    with pytest.raises(Error) as caught:
        Order(inner="no_balance").call()
    error = caught.value
    assert (error.code, error.message) == ("no_balance", "There is nothing to charge")
    assert error.details == {"attempt": 1}
    assert error.operation == "features.test_errors.Charge"
    outcome = Order(inner="no_balance").safe.call()
    assert isinstance(outcome, Err)
    assert outcome.operation == "features.test_errors.Charge"
    assert {record.error for record in records.all()} == {"no_balance"}


def test_an_error_that_the_outer_run_raises_itself_is_checked_for_the_outer_class() -> None:
    assert Order(inner="no_balance", catches=True).safe.call() == Err("order_failed", "because of no_balance")
    assert Order(inner="").safe.call() == Ok("charged")


def test_an_undeclared_code_of_a_nested_run_is_a_crash_of_both() -> None:
    with pytest.raises(UndeclaredError, match="Charge: undeclared error code 'nonsense'"):
        Order(inner="nonsense", catches=True).call()


def test_an_error_through_three_runs_names_the_one_that_raised_it() -> None:
    class Outermost(Operation):
        errors = {"none"}

        def perform(self) -> str:
            return Order(inner="no_balance").call()

    outcome = Outermost().safe.call()
    assert isinstance(outcome, Err)
    assert (outcome.code, outcome.operation) == ("no_balance", "features.test_errors.Charge")


def test_a_nested_run_of_the_same_class_is_checked_too() -> None:
    class Twice(Operation):
        depth: int = 0
        errors = {"bottom"}

        def perform(self) -> None:
            if self.depth:
                Twice(depth=self.depth - 1).call()
            raise Error("bottom")

    assert Twice(depth=2).safe.call() == Err("bottom", "bottom")


@pytest.mark.parametrize("code", ["", None, 3])
def test_an_error_requires_a_code(code: Any) -> None:
    with pytest.raises(TypeError, match=r"Error\(code, \.\.\.\): expected a non-empty str, got "):
        Error(code)


def test_the_caller_cannot_change_the_details_of_an_error_afterwards() -> None:
    details = {"a": 1}
    error = Error("x", details=details)
    details["a"] = 2
    assert error.details == {"a": 1}
