"""A run ends with any error, code, details or exception class; what cannot be stored is left out."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, StrEnum
from fractions import Fraction
from pathlib import Path, PurePosixPath
from typing import Any
from uuid import UUID

import attrs
import pytest
import servers

import dexpy
from dexpy import Error, Operation, Ticket, records
from dexpy.errors import OptionsError
from dexpy.foundation.error_details import MAX_VALUES, to_json
from dexpy.foundation.redaction import Redactor, class_path, frames_of, message_of
from dexpy.foundation.safe_text import storable, text_of
from dexpy.runtime import install
from dexpy.testing import Isolated, isolated

Ended = Callable[[Operation], Ticket[Any]]

script: dict[str, Any] = {}
"""What the operations of this file raise or return, which may have no JSON form."""


class Refuse(Operation):
    def perform(self) -> None:
        script["runs"] = script.get("runs", 0) + 1
        raise Error(script.get("code", "refused"), script.get("message"), details=script.get("details"))


class Crash(Operation):
    def perform(self) -> None:
        script["runs"] = script.get("runs", 0) + 1
        raise script["error"]


@pytest.fixture(scope="module")
def shared() -> Iterator[Isolated]:
    with isolated() as runtime:
        yield runtime


@pytest.fixture
def isolated_runtime(shared: Isolated) -> Isolated:
    install(shared.runtime)
    return shared


@pytest.fixture
def ended(isolated_runtime: Isolated) -> Iterator[Callable[[Operation], Ticket[Any]]]:
    """A function that runs an operation in the background, and returns its ticket after one call of `perform`."""

    def run(operation: Operation) -> Ticket[Any]:
        ticket = operation.async_().call()
        isolated_runtime.run_pending()
        ticket.reload()
        script["error_column"] = records.get(ticket.id).error
        assert script["runs"] == 1
        assert ticket.completed_at is not None
        return ticket

    script.clear()
    yield run
    script.clear()


class Hostile:
    """A value whose usual methods raise."""

    def _no(self, *_: Any) -> Any:
        raise RuntimeError("no")

    __str__ = __repr__ = __hash__ = __eq__ = __iter__ = __len__ = __bool__ = _no  # type: ignore[assignment]


class HostileText(str):
    __str__ = __repr__ = __len__ = replace = encode = __eq__ = Hostile._no  # type: ignore[assignment]
    __hash__ = str.__hash__


class StrBut(str):
    """A str with its own `__str__`, as enums have."""

    def __str__(self) -> str:
        raise RuntimeError("no")


class HostileInt(int):
    __str__ = __repr__ = __sub__ = __index__ = __int__ = __eq__ = Hostile._no  # type: ignore[assignment]
    __hash__ = int.__hash__


class HostileFloat(float):
    __str__ = __repr__ = __sub__ = __float__ = Hostile._no  # type: ignore[assignment]


class HostileDict(dict[str, int]):
    items = keys = values = __iter__ = __getitem__ = __len__ = Hostile._no  # type: ignore[assignment]


class HostileList(list[int]):
    __iter__ = __len__ = __getitem__ = Hostile._no  # type: ignore[assignment]


class Leaves:
    def __str__(self) -> str:
        raise SystemExit(3)


class EndlessMapping(Mapping[str, int]):
    def __getitem__(self, key: str) -> int:
        return 1

    def __iter__(self) -> Iterator[str]:
        number = 0
        while True:
            number += 1
            yield str(number)

    def __len__(self) -> int:
        return 1


def nested(levels: int) -> Any:
    """Return nested dicts with this number of levels."""
    value: Any = 1
    for _ in range(levels):
        value = {"a": value}
    return value


def holding_itself() -> dict[str, Any]:
    """Return a dict that contains itself twice."""
    value: dict[str, Any] = {"kept": 1}
    value["again"] = [value, value]
    return value


def doubled(levels: int) -> Any:
    """Return a value with two to the power of *levels* leaves, in little memory."""
    value: Any = 1
    for _ in range(levels):
        value = [value, value]
    return value


HARD = {
    "depth": lambda: nested(600),
    "more_depth": lambda: nested(100_000),
    "cycle": holding_itself,
    "digits": lambda: 10**5000,
    "nan": lambda: float("nan"),
    "surrogate": lambda: chr(0xD800),
    "nul": lambda: "a\0b",
    "hostile": Hostile,
    "text": lambda: HostileText("abc"),
    "int": lambda: HostileInt(3),
    "float": lambda: HostileFloat(3.5),
    "dict": lambda: HostileDict(a=1),
    "list": lambda: HostileList([1]),
    "exit": Leaves,
    "keys": lambda: {Leaves(): 1, (1, Leaves()): 2, None: 3, 1.5: 4},
    "class": lambda: type("x" * 300, (), {})(),
}


@pytest.mark.parametrize("hard", list(HARD))
def test_n1_details_without_a_json_form_end_the_run_as_a_business_failure(hard: str, ended: Ended) -> None:
    script["details"] = {"body": HARD[hard](), "kept": 7}

    ticket = ended(Refuse())

    assert (ticket.status, ticket.failure) == ("failed", "business")
    assert ticket.outcome is not None
    assert isinstance(ticket.outcome, dexpy.Err)
    assert ticket.outcome.code == "refused"
    assert ticket.outcome.details["kept"] == 7


def test_n1_details_from_deeply_nested_json_end_the_run_at_once(ended: Ended) -> None:
    script.update(code="bad_body", details={"body": json.loads('{"a":' * 600 + "1" + "}" * 600)})

    ticket = ended(Refuse())

    assert isinstance(ticket.outcome, dexpy.Err)
    assert ticket.outcome.code == "bad_body"
    assert "nested too deeply" in json.dumps(ticket.outcome.details)


def test_n1_an_endless_or_oversized_value_is_shortened() -> None:
    assert len(to_json(EndlessMapping(), str)) <= MAX_VALUES + 1
    assert "<too many values>" in json.dumps(to_json(doubled(25), str))


def test_n1_details_whose_own_methods_raise_end_the_run_as_a_business_failure(ended: Ended) -> None:
    for details in (HostileDict(a=1), type("Odd", (EndlessMapping,), {"__iter__": no})()):
        script.clear()
        script["details"] = details

        assert ended(Refuse()).failure == "business"


@pytest.mark.parametrize("value", ["abc", 3, 3.5, True, None])
def test_n1_a_subclass_that_overrides_its_methods_keeps_its_value(value: Any) -> None:
    kinds: dict[type, Any] = {str: HostileText, int: HostileInt, float: HostileFloat}
    kind = kinds.get(type(value))

    assert to_json(value if kind is None else kind(value), text_of) == value


def test_n2_a_key_that_cannot_be_text_ends_the_run_as_a_business_failure(ended: Ended) -> None:
    script.update(code="bad", details={Leaves(): 2, "kept": 3})

    ticket = ended(Refuse())

    assert isinstance(ticket.outcome, dexpy.Err)
    assert (ticket.outcome.code, ticket.outcome.details) == ("bad", {"<Leaves>": 2, "kept": 3})


@pytest.mark.parametrize("code", ["declined " + chr(0xD800), "nul\0", "x" * 400, "ü" * 300], ids=range(4))
@pytest.mark.parametrize("kind", [str, StrBut])
def test_n3_a_code_that_no_column_accepts_is_stored_sanitized(code: str, kind: type[str], ended: Ended) -> None:
    script["code"] = kind(code)

    ticket = ended(Refuse())

    assert (ticket.status, ticket.failure) == ("failed", "business")
    assert script["error_column"] == storable(str.__str__(code), 255)


@pytest.mark.parametrize(
    "kind", ["sqlite", *(pytest.param(name, marks=pytest.mark.servers) for name in ("postgresql", "mariadb"))]
)
def test_p1_a_code_that_no_column_accepts_ends_the_run_at_once(kind: str, tmp_path: Path) -> None:
    with servers.database(kind, tmp_path) as url, isolated(database=url) as isolated_runtime:
        for code in ("declined " + chr(0xD800), "declined \0"):
            script.clear()
            script["code"] = code
            ticket = Refuse().async_().call()
            isolated_runtime.run_pending()

            assert (ticket.reload().status, ticket.failure, script["runs"]) == ("failed", "business", 1)
            with pytest.raises(Error):
                Refuse().call()
        assert [record.status for record in records.all()] == ["failed"] * 4


TEXTS: dict[str, Any] = {
    "hostile": Hostile,
    "subclass": lambda: HostileText("shy"),
    "surrogate": lambda: "a\0b" + chr(0xDFFF),
    "long": lambda: "x" * 100_000,
    "number": lambda: 3,
}


@pytest.mark.parametrize("text", list(TEXTS))
def test_n3_a_message_that_is_not_text_is_stored_as_text(text: str, ended: Ended) -> None:
    script["message"] = TEXTS[text]()

    ticket = ended(Refuse())

    assert (ticket.status, ticket.failure, script["error_column"]) == ("failed", "business", "refused")


def made_at_run_time(name: str, module: Any = "shop", **body: Any) -> BaseException:
    """Return an exception of a new class with this qualified name."""
    kind: Any = type("Made", (Exception,), {"__module__": module, **body})
    kind.__qualname__ = name
    error: BaseException = kind("said")
    return error


def no(*_: Any) -> Any:
    """A method that raises."""
    raise RuntimeError("no")


CRASHES = {
    "surrogate": lambda: made_at_run_time("Bad" + chr(0xD800)),
    "nul": lambda: made_at_run_time("Bad\0"),
    "long": lambda: made_at_run_time("x" * 1000),
    "module": lambda: made_at_run_time("Bad", module=Hostile()),
    "text": lambda: made_at_run_time("Bad", __str__=no, __repr__=no),
    "exits": lambda: made_at_run_time("Bad", __str__=Leaves.__str__),
    "class": lambda: made_at_run_time("Bad", __class__=property(no)),
    "attributes": lambda: made_at_run_time("Bad", __getattribute__=no),
    "traceback": lambda: made_at_run_time("Bad", __traceback__=property(no)),
    "hash": lambda: made_at_run_time("Bad", __hash__=no, __eq__=no, __bool__=no),
    "base": lambda: type("Stop", (BaseException,), {"__str__": no})(),
    "group": lambda: BaseExceptionGroup("many", [ValueError("\0"), SystemExit(1)]),
    "memory": MemoryError,
    "recursion": RecursionError,
    "exit": lambda: SystemExit("bye" + chr(0xD800)),
}


@pytest.mark.parametrize("hostile", list(CRASHES))
def test_n3_an_exception_of_any_class_ends_the_run_as_a_crash(hostile: str, ended: Ended) -> None:
    script["error"] = CRASHES[hostile]()

    ticket = ended(Crash())

    assert (ticket.status, ticket.failure) == ("failed", "crash")
    assert 0 < len(script["error_column"]) <= 255


@pytest.mark.parametrize("hostile", list(CRASHES))
def test_n3_an_exception_always_has_a_text(hostile: str) -> None:
    error = CRASHES[hostile]()

    assert type(message_of(error)) is str
    for text in (class_path(error), frames_of(error), Redactor().of(error)):
        assert type(text) is str
        assert storable(text) == text


@pytest.mark.usefixtures("isolated_runtime")
def test_n3_a_call_in_place_with_an_invalid_code_leaves_its_record() -> None:
    script["code"] = "declined in place " + chr(0xD800)
    with pytest.raises(Error):
        Refuse().call()

    assert "declined in place \\ud800" in [record.error for record in records.all()]


def test_n3_a_failing_redactor_of_the_application_hides_the_text() -> None:
    def leaves(_text: str) -> str:
        raise SystemExit(3)

    wrong: list[Any] = [no, leaves, len]
    for custom in wrong:
        assert Redactor(custom=custom)("secret") == "<sensitive>"


@pytest.mark.parametrize(
    "trace",
    [
        {"trace_id": "t" + chr(0xD800)},
        {"trace_id": "t\0"},
        {"actor": {"type": "user" + chr(0xD800)}},
        {"actor": {"type": "user", "id": "\0"}},
        {"actor": {"type": "user", "name" + chr(0xDFFF): 1}},
        {"actor": {"type": "user", "body": nested(600)}},
        {"actor": {"type": "user", "body": nested(40)}},
        {"actor": {"type": "user", "body": 10**5000}},
        {"actor": {"type": "user", "body": "x" * 100_000}},
        {"actor": {"type": "user", "body": holding_itself()}},
        {"actor": EndlessMapping.__new__(type("Odd", (EndlessMapping,), {"__iter__": no}))},
    ],
    ids=range(11),
)
def test_n3_a_trace_that_no_column_accepts_is_refused(trace: Any, isolated_runtime: Isolated) -> None:
    with pytest.raises(OptionsError), dexpy.trace(**trace):
        Refuse().async_().call()

    assert isolated_runtime.run_pending() == []


@pytest.mark.parametrize("text", list(TEXTS))
@pytest.mark.usefixtures("isolated_runtime")
def test_n3_a_reason_is_stored_sanitized(text: str) -> None:
    ticket = Refuse().async_().call()

    assert ticket.fail(TEXTS[text]()).failure == "discarded"


class Color(Enum):
    RED = "red"


class Size(StrEnum):
    BIG = "big"


@attrs.frozen
class Money:
    amount: Decimal


READABLE = {
    "decimal": (Decimal("1.5"), "1.5"),
    "date": (date(2026, 1, 31), "2026-01-31"),
    "moment": (datetime(2026, 1, 31, 12, tzinfo=timezone.utc), "2026-01-31T12:00:00+00:00"),
    "time": (time(12, 30), "12:30:00"),
    "duration": (timedelta(hours=1), "1:00:00"),
    "uuid": (UUID(int=1), str(UUID(int=1))),
    "enum": (Color.RED, "red"),
    "text_enum": (Size.BIG, "big"),
    "path": (PurePosixPath("/a/b"), "/a/b"),
    "bytes": (b"abc", "YWJj"),
    "class": (Money(Decimal("2.50")), {"amount": "2.50"}),
    "list": ([Decimal("1.5"), (Color.RED,)], ["1.5", ["red"]]),
    "key": ({Decimal("1.5"): 1, Color.RED: 2}, {"1.5": 1, "red": 2}),
}


@pytest.mark.parametrize("kind", list(READABLE))
def test_p18_details_keep_the_text_of_every_type_of_a_prop(kind: str, ended: Ended) -> None:
    value, stored = READABLE[kind]
    script["details"] = {"value": value}

    ticket = ended(Refuse())

    assert isinstance(ticket.outcome, dexpy.Err)
    assert ticket.outcome.details == {"value": stored}


def test_p18_details_keep_a_type_that_the_application_has_registered(ended: Ended) -> None:
    dexpy.register_type(Fraction, to_json=str, from_json=Fraction)
    script["details"] = {"value": Fraction(1, 3), "other": object()}

    ticket = ended(Refuse())

    assert isinstance(ticket.outcome, dexpy.Err)
    assert ticket.outcome.details == {"value": "1/3", "other": "<object>"}


@pytest.mark.parametrize("secret", [datetime(2026, 1, 31, 12), Color.RED, timedelta(hours=1), UUID(int=5), b"abcdef"])
def test_p18_a_sensitive_value_is_redacted_from_details_in_its_written_form(secret: Any) -> None:
    assert "sensitive" in str(to_json({"value": secret}, Redactor().knowing([secret])))
