"""Refusing input costs time in proportion to its length; the error message is limited and can be printed."""

from __future__ import annotations

import time
from collections.abc import Callable
from enum import Enum
from typing import Any, Literal

import pytest

from dexpy import Operation, PropsError, defer, deferrable, prop
from dexpy.errors import OptionsError

MANY = 10_000
Size = Enum("Size", {f"size_{number}": f"value_{number}" for number in range(2000)})  # type: ignore[misc]
Choice = Literal[tuple(f"choice{number}" for number in range(500))]  # type: ignore[valid-type]


class FillForm(Operation, name="proportion.fill_form"):
    name: str = ""
    street: str = ""
    town: str = ""
    country: str = ""
    phone: str = ""
    number: int = 0
    size: Size = Size.size_1  # type: ignore[valid-type]
    items: list[int] = prop(factory=list)
    table: dict[str, int] = prop(factory=dict)
    choices: list[Choice] = prop(factory=list)  # type: ignore[valid-type]

    def perform(self) -> None: ...


@deferrable(name="proportion.fulfill")
def fulfill(order_number: int) -> None: ...


INPUTS: dict[str, Callable[[], Any]] = {
    "keys": lambda: FillForm.parse({str(number): 1 for number in range(MANY)}),
    "keys in place": lambda: FillForm(**{str(number): 1 for number in range(MANY)}),
    "keys that are no text": lambda: FillForm.parse(dict.fromkeys(range(MANY), 1)),  # type: ignore[arg-type]
    "a long key": lambda: FillForm.parse({"street" * 200_000: 1}),
    "long keys": lambda: FillForm.parse({"street" * 5_000 + str(number): 1 for number in range(50)}),
    "near misses": lambda: FillForm.parse({f"stree{number}": 1 for number in range(MANY)}),
    "elements": lambda: FillForm.parse({"items": ["x"] * MANY}),
    "elements in place": lambda: FillForm(items=["x"] * MANY),
    "entries": lambda: FillForm.parse({"table": {str(number): "x" for number in range(MANY)}}),
    "digits": lambda: FillForm.parse({"number": "1" * 10**6}),
    "a member of many": lambda: FillForm.parse({"size": "value" * 10_000}),
    "choices": lambda: FillForm.parse({"choices": ["choise"] * MANY}),
    "depth": lambda: FillForm.parse({"number": nested(50_000)}),
    "arguments": lambda: defer(fulfill, **{f"scheduled{number}": 1 for number in range(MANY)}),
    "arguments by position": lambda: defer(fulfill, *range(MANY)),
    "a long queue": lambda: FillForm().async_(queue="é" * 10**6),
    "a huge priority": lambda: FillForm().async_(priority=10**10_000),
    "a huge delay": lambda: FillForm().async_(in_=10**10_000),
    "options": lambda: FillForm().async_(**{f"queue{number}" * 100: 1 for number in range(MANY)}),
}


def nested(depth: int) -> Any:
    value: Any = 1
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize("case", INPUTS)
def test_s5_an_error_has_at_most_ten_thousand_characters_and_is_built_quickly(case: str) -> None:
    began = time.process_time()
    with pytest.raises((PropsError, OptionsError)) as refused:
        INPUTS[case]()

    # Generous for a busy machine; without limits several of these take minutes or megabytes.
    assert time.process_time() - began < 4
    assert len(str(refused.value)) < 10_000


def test_s5_the_message_has_the_number_of_omitted_problems() -> None:
    with pytest.raises(PropsError) as refused:
        FillForm.parse({"items": ["x"] * 5_000})

    assert "5000 invalid props" in str(refused.value)
    assert (len(refused.value.problems), refused.value.left_out) == (100, 4_900)
    assert str(refused.value).splitlines()[-1] == "  and 4900 more"


def test_s5_the_first_unknown_names_have_a_suggestion() -> None:
    with pytest.raises(PropsError, match="Did you mean 'street'") as refused:
        FillForm.parse({"stret": 1, "twon": 2})

    assert "Did you mean 'town'" in str(refused.value)


@pytest.mark.parametrize(
    "refuse",
    [
        lambda: FillForm.parse({"\ud800": 1}),
        lambda: FillForm(**{"\ud800": 1}),
        lambda: FillForm.parse({"table": {"\ud800": "x"}}),
        lambda: FillForm.parse({"number": "\ud800"}),
        lambda: FillForm.parse({"size": "\udfff"}),
        lambda: FillForm().async_(queue="\ud800"),
        lambda: FillForm().async_(**{"\ud800": 1}),
        lambda: defer(fulfill, **{"\ud800": 1}),
    ],
)
def test_s6_a_message_about_any_text_can_be_printed(refuse: Callable[[], Any]) -> None:
    with pytest.raises((PropsError, OptionsError)) as refused:
        refuse()

    for text in (str(refused.value), repr(refused.value)):
        text.encode()


def test_s6_the_repr_of_an_accepted_value_can_be_printed() -> None:
    repr(FillForm(name="\ud800")).encode()
