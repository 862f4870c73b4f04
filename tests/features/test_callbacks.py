"""Callbacks: before, after and around `perform`, inside the transaction."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from dexpy import Err, Error, Ok, Operation, Ref, after, around, before, guard
from dexpy.errors import DeclarationError

from .shop import Customer, Shop

performed: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    performed.clear()


class Base(Operation):
    """Has one callback of each kind."""

    fails: str = ""

    def step(self, name: str) -> None:
        performed.append(name)
        if self.fails == name:
            raise Error("stopped", f"in {name}")

    @around
    def outer(self, proceed: Callable[[], None]) -> None:
        self.step("outer in")
        proceed()
        self.step("outer out")

    @before
    def first(self) -> None:
        self.step("before")

    @after
    def last(self) -> None:
        self.step("after")

    def perform(self) -> str:
        self.step("perform")
        return "done"


class Sub(Base):
    """Adds a callback of each kind."""

    @around
    def inner(self, proceed: Callable[[], None]) -> None:
        self.step("inner in")
        proceed()
        self.step("inner out")

    @before
    def second(self) -> None:
        self.step("second before")

    @after
    def very_last(self) -> None:
        self.step("second after")


ORDER = [
    "outer in", "inner in", "before", "second before", "perform", "after", "second after", "inner out", "outer out",
]  # fmt: skip


def test_callbacks_run_in_order_and_those_of_the_base_first() -> None:
    assert Base().call() == "done"
    assert performed == ["outer in", "before", "perform", "after", "outer out"]
    performed.clear()
    assert Sub().call() == "done"
    assert performed == ORDER


@pytest.mark.parametrize("name", ORDER)
def test_an_error_in_a_callback_ends_the_run(shop: Shop, name: str) -> None:
    class Writes(Sub):
        @before
        def write(self) -> None:
            self.session.add(Customer(name=name))

    assert Writes(fails=name).safe.call() == Err("stopped", f"in {name}")
    assert performed == ORDER[: ORDER.index(name) + 1]
    assert shop.names() == []


def test_an_error_of_perform_propagates_through_around_callbacks_like_an_exception() -> None:
    class Tidy(Operation):
        @around
        def tidy(self, proceed: Callable[[], None]) -> None:
            try:
                proceed()
            except Exception:
                performed.append("not for a business error")
            finally:
                performed.append("tidied")

        @after
        def skipped(self) -> None:
            performed.append("after")

        def perform(self) -> None:
            raise Error("no")

    assert Tidy().safe.call() == Err("no", "no")
    assert performed == ["tidied"]


def test_an_error_is_the_outcome_even_if_an_around_callback_swallows_it() -> None:
    class Greedy(Operation):
        @around
        def swallow(self, proceed: Callable[[], None]) -> None:
            try:
                proceed()
            except BaseException:
                performed.append("swallowed")

        def perform(self) -> None:
            raise Error("no")

    assert Greedy().safe.call() == Err("no", "no")


def test_a_crash_propagates_through_around_callbacks() -> None:
    class Watches(Operation):
        @around
        def watch(self, proceed: Callable[[], None]) -> None:
            try:
                proceed()
            except ZeroDivisionError:
                performed.append("seen")
                raise

        def perform(self) -> float:
            return 1 / 0

    with pytest.raises(ZeroDivisionError):
        Watches().call()
    assert performed == ["seen"]


def test_an_around_that_swallows_a_crash_without_a_result_is_refused() -> None:
    class Swallows(Operation):
        @around
        def swallow(self, proceed: Callable[[], None]) -> None:
            try:
                proceed()
            except ZeroDivisionError:
                pass

        def perform(self) -> float:
            return 1 / 0

    with pytest.raises(DeclarationError) as caught:
        Swallows().call()
    assert str(caught.value).endswith(
        "Swallows.swallow: this around callback suppressed the exception of proceed(), so the run has no result. "
        "Re-raise it, or raise an Error; to map exceptions, declare rescue_from."
    )


@pytest.mark.parametrize("crashes", [True, False])
def test_an_around_may_call_proceed_only_once(crashes: bool) -> None:
    class Twice(Operation):
        @around
        def again(self, proceed: Callable[[], None]) -> None:
            try:
                proceed()
            except ZeroDivisionError:
                performed.append("again")
            proceed()

        def perform(self) -> float:
            performed.append("perform")
            return 1 / (0 if crashes else 1)

    with pytest.raises(DeclarationError, match=r"Twice\.again: called proceed\(\) twice\. Call it once"):
        Twice().call()
    assert performed.count("perform") == 1


def test_an_around_that_never_calls_proceed_is_refused_with_the_fix() -> None:
    class Never(Operation):
        @around
        def forgets(self, proceed: Callable[[], None]) -> None: ...

        def perform(self) -> None: ...

    with pytest.raises(DeclarationError) as caught:
        Never().call()
    assert str(caught.value).endswith(
        "Never.forgets: this around callback did not call proceed(). Call it once, or raise an Error to refuse the run."
    )


def test_callbacks_run_after_the_guards_and_see_the_rows_and_the_transaction(shop: Shop) -> None:
    shop.add(Customer(id=1, name="ann"))

    class Counted(Operation):
        customer: Ref[Customer]

        @guard("never")
        def threat(self) -> bool:
            performed.append("guard")
            return False

        @before
        def count(self) -> None:
            performed.append(f"before {self.customer.name}")
            self.customer.balance += 1

        @after
        def crash(self) -> None:
            self.session.flush()
            if self.customer.balance > 1:
                raise ZeroDivisionError

        def perform(self) -> int:
            return self.customer.balance

    assert Counted(customer=1).call() == 1
    assert performed == ["guard", "before ann"]
    with pytest.raises(ZeroDivisionError):
        Counted(customer=1).call()
    assert shop.balance() == 1


def test_an_override_counts_as_the_subclass_has_it() -> None:
    class Quiet(Base):
        def first(self) -> None:
            performed.append("never called")

        @before
        def last(self) -> None:
            performed.append("was after")

    assert Quiet().safe.call() == Ok("done")
    assert performed == ["outer in", "was after", "perform", "outer out"]


def test_a_callback_with_a_reserved_name_or_a_coroutine_is_refused() -> None:
    with pytest.raises(DeclarationError, match="a callback cannot have the reserved name 'record'"):

        class Wrong(Operation):
            @before
            def record(self) -> None: ...  # type: ignore[override]

    with pytest.raises(DeclarationError, match=r"@after .*Late\.late: expected a plain method, got an `async def`"):

        class Late(Operation):
            @after
            async def late(self) -> None: ...
