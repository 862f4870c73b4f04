"""`rescue_from` maps exceptions to outcomes; `on_error` observes exceptions."""

from __future__ import annotations

from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError

from dexpy import Err, Error, Ok, Operation, records
from dexpy.errors import ResultTypeError

from .shop import Customer, Deferred, Shop

handled: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_seen() -> None:
    handled.clear()


class CardError(Exception):
    """An exception of a library."""


class StolenCard(CardError):
    """A more specific exception of the library."""


class PaymentFailed(Exception):
    """An exception of the application."""


class Pay(Operation):
    """Raises the exception that its prop names."""

    raises: str = ""

    def perform(self) -> str:
        if self.raises:
            raise {kind.__name__: kind for kind in (CardError, StolenCard, ValueError, KeyError, LookupError)}[
                self.raises
            ]("4711")
        return "paid"


class Coded(Pay):
    rescue_from = {CardError: "card_declined"}
    errors = {"other": None}


class Described(Coded):
    errors = {"card_declined": "The bank says no"}


class Mapped(Pay):
    rescue_from = {CardError: PaymentFailed}


def on_card_error(operation: Pay, error: Exception) -> str:
    if "raise" in operation.raises.lower():
        raise error
    return f"handled {type(error).__name__} of {operation.raises}"


class Handled(Pay):
    rescue_from = {CardError: on_card_error, ValueError: lambda _operation, error: _refuse(error)}


def _refuse(error: Exception) -> None:
    raise Error("refused", str(error))


# ------------------------------------------------------------------------------------------ codes, classes, functions


def test_a_rescue_code_makes_an_exception_a_business_error() -> None:
    assert Coded(raises="CardError").safe.call() == Err("card_declined", "card_declined")
    assert Described(raises="StolenCard").safe.call() == Err("card_declined", "The bank says no")
    assert Coded().call() == "paid"
    assert "card_declined" in Coded.contract.errors


def test_a_rescue_class_is_raised_with_the_exception_as_its_cause() -> None:
    with pytest.raises(PaymentFailed, match="^4711$") as caught:
        Mapped(raises="CardError").safe.call()
    assert isinstance(caught.value.__cause__, CardError)


def test_a_rescue_function_decides_the_outcome() -> None:
    assert Handled(raises="StolenCard").safe.call() == Ok("handled StolenCard of StolenCard")
    assert Handled(raises="ValueError").safe.call() == Err("refused", "4711")


def test_a_rescue_function_may_reraise_the_exception() -> None:
    class Again(Pay):
        rescue_from = {CardError: lambda _operation, error: _again(error)}

    with pytest.raises(StolenCard):
        Again(raises="StolenCard").call()


def _again(error: Exception) -> None:
    raise error


def test_the_value_of_a_rescue_function_is_checked_like_a_result() -> None:
    class Wrong(Pay):
        rescue_from = {CardError: lambda _operation, _error: 7}

    with pytest.raises(ResultTypeError, match="expected to return str"):
        Wrong(raises="CardError").call()


def test_an_exception_without_a_rule_is_raised_unchanged() -> None:
    with pytest.raises(ValueError, match="4711"):
        Coded(raises="ValueError").call()


def test_a_business_error_is_never_rescued() -> None:
    class Refuses(Operation):
        rescue_from = {Exception: "anything"}

        def perform(self) -> None:
            raise Error("mine")

    assert Refuses().safe.call() == Err("mine", "mine")


# ------------------------------------------------------------------------------------------- precedence


class First(Pay):
    rescue_from = {LookupError: "far_lookup", CardError: "far_card", KeyError: "far_key"}


class Nearer(First):
    rescue_from = {LookupError: "near_lookup", Exception: "near_any"}


@pytest.mark.parametrize(
    ("raises", "code"),
    [
        ("KeyError", "far_key"),  # the most specific class, although a base class declares it
        ("LookupError", "near_lookup"),  # the declaration nearest to the operation
        ("StolenCard", "far_card"),
        ("ValueError", "near_any"),
    ],
)
def test_the_rule_for_the_most_specific_class_applies_then_the_nearest_declaration(raises: str, code: str) -> None:
    outcome = Nearer(raises=raises).safe.call()
    assert isinstance(outcome, Err)
    assert outcome.code == code


def test_of_two_equally_specific_classes_the_later_declaration_applies() -> None:
    class Left(Exception): ...

    class Right(Exception): ...

    class Both(Left, Right): ...

    class Chooses(Operation):
        rescue_from = {Right: "right", Left: "left"}

        def perform(self) -> None:
            raise Both

    outcome = Chooses().safe.call()
    assert isinstance(outcome, Err)
    assert outcome.code == "left"


# ------------------------------------------------------------------------------------------- flush and commit


class AddCustomer(Operation):
    """Violates a constraint at the flush, if the name is taken."""

    name: str
    rescue_from = {IntegrityError: "name_taken"}

    def perform(self) -> None:
        self.session.add(Customer(name=self.name))


class AddDeferred(Operation):
    """Violates a constraint that is only checked at the commit."""

    answer: str = "code"
    rescue_from = {IntegrityError: lambda operation, _error: operation.decide()}

    def decide(self) -> str:
        if self.answer == "code":
            raise Error("no_such_customer")
        return self.answer

    def perform(self) -> str:
        self.session.add(Deferred(customer_id=99))
        return "added"


def test_an_integrity_error_at_the_flush_is_mapped(shop: Shop) -> None:
    assert AddCustomer(name="ann").safe.call() == Ok(None)
    assert AddCustomer(name="ann").safe.call() == Err("name_taken", "name_taken")
    assert shop.names() == ["ann"]
    assert [(record.status, record.error) for record in records.all()] == [("done", None), ("failed", "name_taken")]


def test_an_integrity_error_at_the_commit_is_mapped_and_recorded_once(shop: Shop) -> None:
    assert AddDeferred().safe.call() == Err("no_such_customer", "no_such_customer")
    assert [(record.status, record.failure, record.error) for record in records.all()] == [
        ("failed", "business", "no_such_customer")
    ]


def test_the_result_of_a_rescue_function_for_a_failed_commit_is_recorded(shop: Shop) -> None:
    assert AddDeferred(answer="never mind").call() == "never mind"
    assert [(record.status, record.result) for record in records.all()] == [("done", "never mind")]


def test_a_failed_commit_of_a_background_run_that_is_rescued_decides_its_end(shop: Shop) -> None:
    ticket = AddDeferred(answer="never mind").async_().call()
    shop.isolated_runtime.run_pending()
    assert ticket.reload().status == "done"
    assert ticket.result(1) == "never mind"


# --------------------------------------------------------------------------------------------------- on_error


class Watched(Coded):
    def on_error(self, error: Exception) -> None:
        handled.append(f"{type(error).__name__} of {self.raises}")


class Shadowing(Coded):
    def on_error(self, error: Exception) -> None:
        raise PaymentFailed("from on_error")


def test_on_error_is_called_for_every_exception_and_does_not_change_the_outcome() -> None:
    assert Watched(raises="CardError").safe.call() == Err("card_declined", "card_declined")
    with pytest.raises(ValueError, match="4711"):
        Watched(raises="ValueError").call()
    assert handled == ["CardError of CardError", "ValueError of ValueError"]


def test_on_error_cannot_shadow_a_rule_or_the_exception(caplog: pytest.LogCaptureFixture) -> None:
    assert Shadowing(raises="CardError").safe.call() == Err("card_declined", "card_declined")
    with pytest.raises(ValueError, match="4711"):
        Shadowing(raises="ValueError").call()
    assert [line for line in caplog.messages if line.startswith("on_error.failed")]


def test_on_error_is_not_called_for_business_errors() -> None:
    class Refuses(Watched):
        def perform(self) -> str:
            raise Error("other")

    assert Refuses().safe.call() == Err("other", "other")
    assert handled == []


def test_on_error_runs_after_the_rollback(shop: Shop) -> None:
    class Adds(Operation):
        def perform(self) -> None:
            self.session.add(Customer(name="ann"))
            self.session.flush()
            raise ZeroDivisionError

        def on_error(self, error: Exception) -> None:
            handled.extend(shop.names())
            handled.append("asked")

    with pytest.raises(ZeroDivisionError):
        Adds().call()
    assert handled == ["asked"]


def test_an_exception_of_a_nested_run_is_rescued_by_the_outer_one(shop: Shop) -> None:
    class Outer(Operation):
        rescue_from = {IntegrityError: "inner_failed"}

        def perform(self) -> None:
            self.session.add(Customer(name="outer"))
            Inner().call()

    class Inner(Operation):
        def perform(self) -> Any:
            self.session.add(Customer(name="outer"))

    assert Outer().safe.call() == Err("inner_failed", "inner_failed")
    assert shop.names() == []
