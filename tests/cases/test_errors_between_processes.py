"""Every exception of dexpy keeps its class, text and attributes through pickle, copy and a process pool."""

from __future__ import annotations

import concurrent.futures
import copy
import functools
import importlib
import multiprocessing
import pickle
import pkgutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from apps.pool import raise_it

import dexpy
from dexpy import Err, Error, Lock, NotSerializable, Ok, Once, Operation, PropsError, Retry, Unique
from dexpy.errors import Problem
from dexpy.foundation import errors
from dexpy.testing import isolated


class Carry(Operation):
    data: dict[str, Any]
    once = Once("data")
    unique = Unique("data", on_conflict="raise")
    errors = ("known",)

    def perform(self) -> int:
        raise Error("unknown") if self.data else ValueError


class DeclinedError(Error):
    """An exception of the application, with its own ``__init__`` and slots."""

    __slots__ = ("attempt",)

    def __init__(self, card: int, *, attempt: int) -> None:
        super().__init__("declined", f"card {card}", details={"card": card})
        self.card = card
        self.attempt = attempt


class AbsentError(DeclinedError, KeyError):
    """An exception of the application that is also a built-in exception."""


MADE: dict[type[BaseException], Callable[[], BaseException]] = {
    errors.PropsError: lambda: PropsError("Pay", [Problem(".amount", "int", "str 'x'"), Problem(".x", "y")]),
    errors.NotSerializable: lambda: NotSerializable("is a file", path=".items[3].file", owner="Pay"),
    errors.Undecodable: lambda: errors.Undecodable("Pay", [Problem(".amount", "int", "str 'x'")]),
    errors.MissingExtra: lambda: errors.MissingExtra("This", "psycopg", "postgres"),
    errors.EncryptorMissing: lambda: errors.EncryptorMissing("shop.Pay", "default"),
    errors.SchemaMissing: lambda: errors.SchemaMissing("sqlite", ["a table"]),
    errors.Error: lambda: Error("no_balance", "No", details={"missing": [1, {"a": None}]}, operation="shop.Pay"),
    errors.UndeclaredError: lambda: errors.UndeclaredError("Pay", "a", ["b", "c"]),
    errors.RefNotFound: lambda: errors.RefNotFound("Pay", "user", "User", (1, "a")),
    errors.StepError: lambda: errors.StepError("Pay", "book", "cannot be"),
    errors.InvalidTransition: lambda: errors.InvalidTransition("op_1", "retry", "done", "Why?"),
    errors.KeyBusy: lambda: errors.KeyBusy("shop.Pay", 1.5, "op_1"),
    errors.OnceConflict: lambda: errors.OnceConflict("shop.Pay", "op_1"),
    errors.BatchEnded: lambda: errors.BatchEnded("bt_1", "done"),
    errors.QueueFull: lambda: errors.QueueFull("mailers", 10, 10, 2, 1.5),
    errors.KeyTaken: lambda: errors.KeyTaken("op_1", "once", "op_2"),
    errors.NotUnique: lambda: errors.NotUnique("shop.Pay", "op_1"),
    errors.OperationFailed: lambda: errors.OperationFailed("op_1", "shop.Pay", "crash", "ValueError", "no"),
    errors.WaitTimeout: lambda: errors.WaitTimeout("op_1", "shop.Pay", 2.0, "running"),
    errors.LockLost: lambda: errors.LockLost("shop.Pay"),
    errors.DecryptionFailed: lambda: errors.DecryptionFailed("shop.Pay", "default", "no key"),
    errors.FrozenOperation: lambda: errors.FrozenOperation("Pay", "memo", "Keep it elsewhere."),
    DeclinedError: lambda: DeclinedError(7, attempt=2),
    AbsentError: lambda: AbsentError(7, attempt=2),
}
"""The functions that create exceptions with more arguments than a text."""


def classes() -> Iterator[type[BaseException]]:
    for module_info in pkgutil.walk_packages(dexpy.__path__, "dexpy."):
        if module_info.name == "dexpy.__main__":
            continue
        module = importlib.import_module(module_info.name)
        for value in vars(module).values():
            is_error = isinstance(value, type) and issubclass(value, BaseException)
            if is_error and value.__module__ in ("dexpy", module.__name__):
                yield value


ALL = sorted({*classes(), DeclinedError, AbsentError}, key=lambda cls: (cls.__module__, cls.__qualname__))


def made_of(cls: type[BaseException]) -> BaseException:
    if cls in MADE:
        return MADE[cls]()
    if cls.__name__ == "Misfit":
        return cls([Problem(".a", "int")])
    return cls("What is wrong; what to do.")


def facts_of(error: BaseException) -> Any:
    state: Any = error.__getstate__()
    return type(error), str(error), repr(error), error.args, state, error.__suppress_context__


def pickled(value: Any, protocol: int | None = None) -> Any:
    return pickle.loads(pickle.dumps(value, protocol))  # noqa: S301 - of this very process


WAYS: dict[str, Callable[[Any], Any]] = {
    **{f"pickle {n}": functools.partial(pickled, protocol=n) for n in range(6)},
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("cls", ALL, ids=lambda cls: cls.__name__)
def test_p8_class_text_and_attributes_are_the_same(cls: type[BaseException]) -> None:
    error = made_of(cls)
    error.add_note("It is number 3 of 7.")
    for name, way in WAYS.items():
        again = way(error)
        assert again is not error
        assert facts_of(again) == facts_of(error), name
        # The message of an ImportError is not in the `__dict__` of the instance.
        assert getattr(again, "msg", None) == getattr(error, "msg", None)


def test_p8_every_exception_class_of_the_package_is_tested() -> None:
    public = {value for value in vars(dexpy).values() if isinstance(value, type) and issubclass(value, BaseException)}
    assert public <= set(ALL)
    assert len(ALL) > 45


@pytest.mark.parametrize("way", WAYS)
def test_p8_a_picklable_cause_is_pickled_too(way: str) -> None:
    try:
        try:
            raise errors.KeyBusy("shop.Pay", 1.0) from ValueError("below")
        except errors.KeyBusy as busy:
            raise errors.LockLost("shop.Pay") from busy
    except errors.LockLost as error:
        again = WAYS[way](error)
    assert isinstance(again.__cause__, errors.KeyBusy)
    assert isinstance(again.__cause__.__cause__, ValueError)
    assert again.__suppress_context__


def test_p8_a_cause_that_does_not_pickle_is_left_out() -> None:
    class Local(Exception): ...

    error = PropsError("Pay", (), advice="no.")
    error.__cause__ = Local()
    again = pickled(error)
    assert (str(again), again.__cause__) == (str(error), None)
    assert copy.copy(error).__cause__ is error.__cause__


def raised() -> Iterator[BaseException]:
    """Return errors that dexpy raises."""
    makers: list[Callable[[], Any]] = [
        lambda: Carry(data=7),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        lambda: Carry(data={"thing": object()}).async_().call(),
        lambda: Carry(data={"a": 1}).call(),
        lambda: (Carry(data={"b": 1}).once(None).async_().call(), Carry(data={"b": 1}).once(None).async_().call()),
        lambda: Lock(backend="x"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        lambda: Retry(),
        lambda: Carry(data={}).async_(priority="x"),  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]
        lambda: Carry(data={}).session,
    ]
    for make in makers:
        with pytest.raises(dexpy.DexpyError) as caught:
            make()
        yield caught.value


def test_p8_exceptions_of_operations_can_be_pickled() -> None:
    with isolated():
        errors = list(raised())
    for error in errors:
        assert facts_of(pickled(error)) == facts_of(error)
    assert {type(error).__name__ for error in errors} >= {
        "PropsError",
        "NotSerializable",
        "NotUnique",
        "UndeclaredError",
        "NotRunning",
    }


def test_p8_a_process_pool_raises_them_in_its_caller_and_continues() -> None:
    errors = [made_of(cls) for cls in ALL if issubclass(cls, dexpy.DexpyError) and cls.__module__ == "dexpy"]
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(1, mp_context=context) as pool:
        results = [pool.submit(raise_it, error) for error in errors]
        for error, result in zip(errors, results, strict=True):
            raised = result.exception(timeout=60)
            assert (type(raised), str(raised)) == (type(error), str(error))


class Plain(Operation):
    amount: int
    tags: list[str]

    def perform(self) -> int:
        return self.amount


@pytest.mark.parametrize("way", WAYS)
def test_p8_outcomes_operations_and_policies_can_be_pickled(way: str) -> None:
    keyed = Plain(amount=1, tags=["a"]).once("k")
    for value in (Ok([1]), Err("a", "b", {"c": 1}, operation="d", rejected=True), Plain(amount=1, tags=[]), keyed):
        assert WAYS[way](value) == value
    for policy in (Retry(LookupError), Once("a"), Unique("a"), Lock(template="a:{a}"), dexpy.Concurrency(1, "a")):
        assert WAYS[way](policy) == policy
