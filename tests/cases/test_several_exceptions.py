"""A tuple of exception classes is accepted wherever a class is accepted, as in ``except (A, B)``."""

from __future__ import annotations

from typing import Any

import pytest

from dexpy import Err, Error, Operation, Reset, Retry
from dexpy.errors import DeclarationError
from dexpy.testing import isolated


class Unavailable(Exception): ...


class Net(Operation):
    kind: str
    rescue_from = {
        (TimeoutError, (ConnectionError, ArithmeticError)): Unavailable,
        ZeroDivisionError: "divided",
        (KeyError, ValueError): lambda operation, error: type(error).__name__,
    }
    retry_on = (Retry((Unavailable, (LookupError, "busy")), attempts=2, wait=0),)
    discard_on = ((MemoryError, (BufferError, "gone")), EOFError)

    def perform(self) -> Any:
        if self.kind in ("busy", "gone"):
            raise Error(self.kind)
        raise getattr(__import__("builtins"), self.kind)("why")


class Child(Net):
    rescue_from = {(ConnectionResetError, TimeoutError): "reset"}
    discard_on = (Reset(), (EOFError, BufferError))


@pytest.mark.parametrize("kind", ["TimeoutError", "ConnectionError", "BrokenPipeError", "OverflowError"])
def test_p25_each_class_of_a_tuple_is_rescued(kind: str) -> None:
    with pytest.raises(Unavailable, match="why"):
        Net(kind=kind).call()


def test_p25_the_precedence_of_rules_is_unchanged() -> None:
    assert isinstance(Net(kind="ZeroDivisionError").safe.call(), Err)
    assert Net(kind="KeyError").call() == "KeyError"
    for kind in ("ConnectionResetError", "TimeoutError"):
        assert Child(kind=kind).safe.call() == Err("reset", "reset")
    with pytest.raises(Unavailable):
        Child(kind="ConnectionError").call()


@pytest.mark.parametrize(
    ("kind", "attempts", "failure"),
    [
        ("TimeoutError", 2, "crash"),
        ("IndexError", 2, "crash"),
        ("busy", 2, "business"),
        ("MemoryError", 1, "discarded"),
        ("BufferError", 1, "discarded"),
        ("gone", 1, "discarded"),
        ("EOFError", 1, "discarded"),
        ("RuntimeError", 1, "crash"),
    ],
)
def test_p25_tuples_in_retry_and_discard_on_act_in_a_worker(kind: str, attempts: int, failure: str) -> None:
    with isolated() as isolated_runtime:
        ticket = Net(kind=kind).async_().call()
        assert len(isolated_runtime.run_pending()) == attempts
        assert (ticket.reload().status, ticket.failure) == ("failed", failure)


def test_p25_contract_and_explain_list_the_classes_one_by_one() -> None:
    assert [rule.cause for rule in Net.contract.rescues] == [
        TimeoutError,
        ConnectionError,
        ArithmeticError,
        ZeroDivisionError,
        KeyError,
        ValueError,
    ]
    assert Net.retry_on[0].causes == (Unavailable, LookupError, "busy")
    with isolated():
        report = Net.explain(kind="x")
    assert report.background is not None
    assert report.background["discard_on"] == [
        "MemoryError",
        "BufferError",
        "gone",
        "EOFError",
    ]
    assert report.rescue_from is not None
    assert {"TimeoutError", "ConnectionError", "ArithmeticError"} <= set(report.rescue_from)


WRONG: dict[str, tuple[dict[str, Any], str]] = {
    "text in rescue_from": ({"rescue_from": {(KeyError, "busy"): "x"}}, r"got 'busy' in .*KeyError"),
    "number": ({"rescue_from": {(KeyError, (7,)): "x"}}, "expected exception classes, got 7 in"),
    "nothing": ({"rescue_from": {(): "x"}}, r"expected exception classes, got \(\)"),
    "base": ({"rescue_from": {(KeyError, KeyboardInterrupt): "x"}}, "got <class 'KeyboardInterrupt'> in"),
    "business": ({"rescue_from": {(KeyError, Error): "x"}}, "Error is a business error, which is never rescued"),
    "answer": ({"rescue_from": {(KeyError, ValueError): 7}}, r"rescue_from\[KeyError\]: .* got 7\."),
    "discard_on": (
        {"discard_on": ((KeyError, 7),)},
        r"discard_on: expected exception classes, codes and Reset\(\), got 7 in \(<class 'KeyError'>",
    ),
    "reset inside": ({"discard_on": ((KeyError, Reset()),)}, "got Reset.. in"),
    "nothing to discard": ({"discard_on": ((),)}, r"discard_on: expected .*, got \(\)"),
    "both": (
        {"discard_on": ((KeyError, EOFError),), "retry_on": (Retry((EOFError,)),)},
        "EOFError is in both retry_on and discard_on",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_p25_a_member_of_a_tuple_that_is_not_an_exception_class_is_refused_by_name(case: str) -> None:
    body, match = WRONG[case]
    with pytest.raises(DeclarationError, match=match):
        type("Wrong", (Operation,), {**body, "perform": lambda self: None})


@pytest.mark.parametrize("causes", [(), ((),), ((KeyError, 7),), ((KeyError, ""),), ((KeyError, SystemExit),)])
def test_p25_retry_refuses_a_member_of_a_tuple_that_is_not_an_exception_class(causes: Any) -> None:
    with pytest.raises(
        DeclarationError, match="expected exception classes or error codes|expected subclasses of Exception"
    ):
        Retry(*causes)
