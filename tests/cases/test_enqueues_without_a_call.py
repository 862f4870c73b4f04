"""``async_()`` without ``call()`` warns, like a coroutine that was never awaited."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Callable
from typing import Any

import pytest

from dexpy import Operation, enqueue_all, records
from dexpy.errors import OptionsError
from dexpy.testing import Isolated


class Ship(Operation, name="uncalled.ship"):
    order: int

    def perform(self) -> int:
        return self.order


def warned(do: Callable[[], Any]) -> list[str]:
    with warnings.catch_warnings(record=True) as caught_warnings:
        warnings.simplefilter("always")
        do()
        gc.collect()
    return [str(each.message) for each in caught_warnings if each.category is RuntimeWarning]


SAID = "Ship(...).async_(...) was never called: nothing was stored or sent. Write Ship(...).async_(...).call()"


@pytest.mark.parametrize(
    "forget",
    [
        lambda: Ship(order=1).async_(),
        lambda: Ship(order=1).async_(queue="mail", in_=5),
        lambda: [Ship(order=1).async_()],
        lambda: Ship(order=1).async_().call,
    ],
)
def test_async_without_a_call_warns_when_it_is_collected(isolated_runtime: Isolated, forget: Callable[[], Any]) -> None:
    assert warned(forget) == [SAID]
    assert records.all().count() == 0


def test_async_that_was_called_does_not_warn(isolated_runtime: Isolated) -> None:
    def asynchronously() -> None:
        asyncio.run(Ship(order=1).async_().acall())

    def twice() -> None:
        prepared = Ship(order=1).async_(queue="a")
        prepared.call()
        prepared.call()

    assert warned(lambda: Ship(order=1).async_().call()) == []
    assert warned(asynchronously) == []
    assert warned(twice) == []
    assert records.all().count() == 4


def test_async_that_is_refused_does_not_warn_as_well(isolated_runtime: Isolated) -> None:
    def refused(options: dict[str, Any]) -> None:
        with pytest.raises(OptionsError):
            Ship(order=1).async_(**options)

    def asks_for_safe() -> None:
        with pytest.raises(OptionsError):
            Ship(order=1).async_().safe  # type: ignore[attr-defined]  # noqa: B018 - refused when it is read

    assert warned(lambda: refused({"queue": "no name at all"})) == []
    assert warned(lambda: refused({"unknown": 1})) == []
    assert warned(asks_for_safe) == []


def test_async_passed_to_enqueue_all_is_refused_and_warns(isolated_runtime: Isolated) -> None:
    def hand_in() -> None:
        with pytest.raises(OptionsError):
            enqueue_all([Ship(order=1).async_()])  # type: ignore[list-item]

    assert warned(hand_in) == [SAID]


def test_async_of_a_class_warns_no_props(isolated_runtime: Isolated) -> None:
    class Pay(Operation):
        card: str

        def perform(self) -> None: ...

    (message,) = warned(lambda: Pay(card="4111").async_())
    assert "4111" not in message
