"""`op.safe.call()` returns `Ok` or `Err`; crashes still raise."""

from __future__ import annotations

import asyncio
from typing import Any

import attrs
import pytest

from dexpy import Err, Error, Ok, Operation
from dexpy.errors import OptionsError


class Divide(Operation):
    """Divides two numbers."""

    a: int
    b: int

    def perform(self) -> float:
        if self.b == 0:
            raise Error("by_zero", "Nothing can be divided by 0", details={"a": self.a})
        if self.b < 0:
            raise ArithmeticError("a crash")
        return self.a / self.b


class Later(Operation):
    """Divides two numbers in a coroutine."""

    b: int

    async def perform(self) -> float:
        await asyncio.sleep(0)
        return Divide(a=1, b=self.b).call()


def describe(outcome: Ok[float] | Err) -> str:
    match outcome:
        case Ok(value):
            return f"{value}"
        case Err("by_zero", message, {"a": a}):
            return f"{message}: {a}"
        case Err(code):
            return code


def test_safe_call_returns_ok_with_the_value_or_err_with_code_message_and_details() -> None:
    assert Divide(a=1, b=2).safe.call() == Ok(0.5)
    assert Divide(a=1, b=0).safe.call() == Err("by_zero", "Nothing can be divided by 0", {"a": 1})


def test_match_works_on_both() -> None:
    assert describe(Divide(a=1, b=2).safe.call()) == "0.5"
    assert describe(Divide(a=1, b=0).safe.call()) == "Nothing can be divided by 0: 1"
    assert describe(Err("other", "x")) == "other"


def test_crashes_still_raise() -> None:
    with pytest.raises(ArithmeticError, match="a crash"):
        Divide(a=1, b=-1).safe.call()


def test_safe_acall_returns_the_same_outcomes() -> None:
    async def both() -> list[str]:
        return [
            describe(await Divide(a=1, b=2).safe.acall()),
            describe(await Divide(a=1, b=0).safe.acall()),
            describe(await Later(b=0).safe.acall()),
        ]

    assert asyncio.run(both()) == ["0.5", "Nothing can be divided by 0: 1", "Nothing can be divided by 0: 1"]
    assert describe(Later(b=2).safe.call()) == "0.5"


def test_outcomes_cannot_be_changed() -> None:
    outcome: Any = Ok(1)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        outcome.value = 2


def test_combining_safe_and_async_is_refused_with_the_fix() -> None:
    operation: Any = Divide(a=1, b=2)
    hint = "ticket.wait(timeout)"
    for wrong in (
        lambda: operation.safe.async_(),
        lambda: operation.safe.async_,
        lambda: operation.async_().safe,
        lambda: operation.async_.safe,
    ):
        with pytest.raises(OptionsError) as caught:
            wrong()
        assert hint in str(caught.value)
        assert "Divide" in str(caught.value)
    with pytest.raises(OptionsError, match=r"Divide\.async_: parentheses are missing\. Write async_\(\)\.call\(\)\."):
        operation.async_.call()
