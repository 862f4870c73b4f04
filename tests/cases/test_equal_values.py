"""Equal values have equal keys and different values have different keys, in every policy."""

from __future__ import annotations

import contextlib
import dataclasses
import enum
import threading
from collections.abc import Callable
from datetime import date, datetime, time, timedelta, timezone
from decimal import Decimal
from pathlib import Path, PureWindowsPath
from typing import Any, TypedDict
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from dexpy import Concurrency, Lock, Once, Operation, Ref, Refs, Unique, register_type
from dexpy.codec.codecs import codec_of
from dexpy.declaration.key_digests import concurrency_key, lock_key, once_keys, unique_keys
from dexpy.errors import OnceConflict
from dexpy.testing import isolated

HOUR = timedelta(hours=1)
EAST = timezone(2 * HOUR)
BERLIN = ZoneInfo("Europe/Berlin")
NOON = datetime(2026, 6, 1, 12, tzinfo=timezone.utc)


class Base(DeclarativeBase): ...


class Account(Base):
    __tablename__ = "equal_accounts"
    id: Mapped[Decimal] = mapped_column(sa.Numeric, primary_key=True)


class Color(enum.Enum):
    RED = "red"
    ROSSO = "red"  # noqa: PIE796 - an alias, which is the same member
    BLUE = "blue"


@attrs.frozen
class Money:
    amount: Decimal
    note: str = attrs.field(default="", eq=False)
    currency: str = attrs.field(default="EUR", eq=str.lower)


@dataclasses.dataclass
class Line:
    price: Decimal
    seen_at: datetime | None = dataclasses.field(default=None, compare=False)


class Box(TypedDict):
    sizes: list[Decimal]


@attrs.frozen
class Circle:
    r: float


@attrs.frozen
class Square:
    r: float


class Grams:
    def __init__(self, of: float) -> None:
        self.of = of


register_type(Grams, to_json=lambda grams: {"of": grams.of}, from_json=lambda data: Grams(data["of"]))

EQUAL: list[tuple[Any, Any, Any]] = [
    (Decimal, Decimal(10), Decimal("10.00")),
    (Decimal, Decimal("1E+1"), Decimal("10")),
    (Decimal, Decimal("-0"), Decimal("0.000")),
    (Decimal, Decimal("0.50"), Decimal("0.5")),
    (Decimal, Decimal("1.10"), Decimal("1.1")),
    (Decimal, Decimal("1E+999999"), Decimal("10E+999998")),
    (Decimal, Decimal("1" + "0" * 40 + ".10"), Decimal("1" + "0" * 40 + ".1")),
    (Decimal | None, Decimal(1), Decimal("1.0")),
    (int | Decimal, 10, Decimal("10.0")),
    (int | float, 1, 1.0),
    (float, 1, 1.0),
    (float, -0.0, 0.0),
    (float, 1e22, 10**22),
    (datetime, NOON, NOON.astimezone(EAST)),
    (datetime, NOON, NOON.astimezone(BERLIN)),
    (datetime, datetime.min.replace(tzinfo=EAST), datetime.min.replace(tzinfo=ZoneInfo("Etc/GMT-2"))),
    (datetime, datetime(2026, 10, 25, 2, 30, fold=1), datetime(2026, 10, 25, 2, 30)),
    (time, time(12, tzinfo=timezone.utc), time(14, tzinfo=EAST)),
    (timedelta, timedelta(days=1), timedelta(hours=24)),
    (UUID, UUID(int=7), UUID("{00000000-0000-0000-0000-000000000007}")),
    (Color, Color.RED, Color.ROSSO),
    (Path, Path("a/b"), Path("a//b/.")),
    (PureWindowsPath, PureWindowsPath("C:/A"), PureWindowsPath("c:/a")),
    (set[Decimal], {Decimal(1), Decimal("2.0")}, {Decimal("2"), Decimal("1.00")}),
    (frozenset[str], frozenset("abc"), frozenset("cba")),
    (list[Decimal], [Decimal("1.0")], [Decimal(1)]),
    (tuple[datetime, ...], (NOON,), (NOON.astimezone(EAST),)),
    (tuple[int, Decimal], (1, Decimal("1.0")), (1, Decimal(1))),
    (dict[str, Decimal], {"a": Decimal("1.0"), "b": Decimal(2)}, {"b": Decimal("2.0"), "a": Decimal(1)}),
    (dict[str, Any], {"a": 1, "b": [1.0]}, {"b": [1], "a": 1.0}),
    (Money, Money(Decimal("1.0"), "a", "eur"), Money(Decimal(1), "b", "EUR")),
    (Line, Line(Decimal("1.0"), NOON), Line(Decimal(1))),
    (Box, {"sizes": [Decimal("1.0")]}, {"sizes": [Decimal(1)]}),
    (list[Money | None], [None, Money(Decimal("1.0"))], [None, Money(Decimal(1))]),
    (Grams, Grams(1), Grams(1.0)),
    (Ref[Account], Decimal("1.0"), Decimal(1)),
    (Refs[Account], [Decimal("1.0")], [Decimal(1)]),
]

DIFFERENT: list[tuple[Any, Any, Any]] = [
    (Decimal, Decimal("0.1"), Decimal.from_float(0.1)),
    (Decimal, Decimal("1E+999999"), Decimal("1E+999998")),
    (Decimal, Decimal("1" + "0" * 40 + ".1"), Decimal("1" + "0" * 40 + ".2")),
    (Decimal, Decimal(10), Decimal(-10)),
    (float, 0.1, 0.1 + 1e-17 * 2),
    (dict[str, Any], {"a": True}, {"a": 1}),
    (dict[str, Any], {"a": "1"}, {"a": 1}),
    (dict[str, Any], {"a": None}, {}),
    (int | str, 1, "1"),
    (str, "a", "a "),
    (bytes, b"a", b"A"),
    (datetime, NOON, NOON.replace(tzinfo=None)),
    (datetime, NOON, NOON + timedelta(microseconds=1)),
    (datetime, datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN), datetime(2026, 10, 25, 2, 30, tzinfo=BERLIN, fold=1)),
    (time, time(0, 30, tzinfo=timezone(HOUR)), time(23, 30, tzinfo=timezone.utc)),
    (time, time(12), time(12, tzinfo=timezone.utc)),
    (Color, Color.RED, Color.BLUE),
    (list[int], [1, 2], [2, 1]),
    (list[list[int]], [[1], [2]], [[1, 2]]),
    (Circle | Square, Circle(1.0), Square(1.0)),
    (Path, Path("a"), Path("A")),
    (Ref[Account], Decimal(1), Decimal(10)),
    (Refs[Account], [Decimal(1), Decimal(2)], [Decimal(2), Decimal(1)]),
]


def operation_of(kind: Any) -> type[Any]:
    body = {
        "__annotations__": {"value": kind},
        "once": Once("value"),
        "unique": Unique("value"),
        "concurrency": Concurrency(1, "value"),
        "lock": Lock("value"),
        "perform": lambda self: None,
    }
    return type("Keyed", (Operation,), body)


def keys_of(operation: Any) -> tuple[str, ...]:
    contract = operation.contract
    return (
        *once_keys(operation, contract),
        *unique_keys(operation, contract),
        concurrency_key(operation, contract),
        lock_key(operation, contract),
    )


@pytest.mark.parametrize("pair", EQUAL, ids=lambda pair: getattr(pair[0], "__name__", str(pair[0])))
def test_p12_equal_values_have_equal_keys_in_every_policy(pair: tuple[Any, Any, Any]) -> None:
    kind, one, other = pair
    cls = operation_of(kind)
    a, b = cls(value=one), cls(value=other)
    assert keys_of(a) == keys_of(b)
    assert a == b
    with contextlib.suppress(TypeError):  # operations with lists or dicts are not hashable
        assert hash(a) == hash(b)


@pytest.mark.parametrize("pair", DIFFERENT, ids=lambda pair: getattr(pair[0], "__name__", str(pair[0])))
def test_p12_different_values_have_different_keys_in_every_policy(pair: tuple[Any, Any, Any]) -> None:
    kind, one, other = pair
    cls = operation_of(kind)
    a, b = cls(value=one), cls(value=other)
    assert not set(keys_of(a)) & set(keys_of(b))
    assert a != b


NUMBERS = st.one_of(
    st.integers(-50, 50), st.floats(allow_nan=False, allow_infinity=False), st.sampled_from([1e16, -0.0])
)
DECIMALS = st.decimals(allow_nan=False, allow_infinity=False, places=None) | st.sampled_from(
    [
        Decimal("1.0"),
        Decimal("1"),
        Decimal("1E2"),
        Decimal("100"),
        Decimal("0.1"),
        Decimal.from_float(0.1),
        Decimal("-0.0"),
    ]
)
MOMENTS = st.datetimes(
    datetime(2026, 1, 1), datetime(2026, 1, 1, 2), timezones=st.sampled_from([timezone.utc, EAST, timezone(-HOUR)])
).map(lambda at: at.replace(microsecond=0, second=0, minute=at.minute // 30 * 30))


@pytest.mark.parametrize("kind", [int | Decimal, int | float, Decimal, datetime, list[Decimal], dict[str, float]])
def test_p12_keys_are_equal_exactly_if_values_are_equal(kind: Any) -> None:
    form = codec_of(kind)
    strategies: dict[Any, st.SearchStrategy[Any]] = {
        int | Decimal: st.integers(-200, 200) | DECIMALS,
        int | float: NUMBERS,
        Decimal: DECIMALS,
        datetime: MOMENTS,
        list[Decimal]: st.lists(DECIMALS, max_size=2),
        dict[str, float]: st.dictionaries(st.sampled_from("ab"), NUMBERS.map(float), max_size=2),
    }

    @settings(max_examples=60, deadline=None)
    @given(strategies[kind], strategies[kind])
    def check(one: Any, other: Any) -> None:
        assert (form.key(one) == form.key(other)) == (one == other)

    check()


class Charge(Operation):
    order: int
    amount: Decimal
    once = Once()

    def perform(self) -> str:
        return str(self.amount)


class ChargeOrder(Charge):
    once = Once("order")


class Index(Operation):
    at: datetime
    unique = Unique("at")

    def perform(self) -> str:
        return self.at.isoformat()


@pytest.mark.parametrize("call", ["call", "async_"])
@pytest.mark.parametrize("cls", [Charge, ChargeOrder])
def test_p12_an_equal_request_replays_the_first_one(cls: type[Charge], call: str) -> None:
    one, other = cls(order=1, amount=Decimal(10)), cls(order=1, amount=Decimal("10.00"))
    with isolated() as isolated_runtime:
        if call == "call":
            assert (one.call(), other.call()) == ("10", "10")
        else:
            tickets = [one.async_().call(), other.async_().call()]
            assert [ticket.duplicate for ticket in tickets] == [False, True]
            isolated_runtime.run_pending()
        if cls is ChargeOrder:
            with pytest.raises(OnceConflict):
                cls(order=1, amount=Decimal("10.01")).call()
        assert cls.clear_once(**({"order": 1} if cls is ChargeOrder else {"order": 1, "amount": Decimal("10.0")}))


def test_p12_stored_values_stay_exact() -> None:
    with isolated() as isolated_runtime:
        first = Charge(order=1, amount=Decimal("10.00")).async_().call()
        moment = Index(at=NOON.astimezone(EAST)).async_().call()
        assert Index(at=NOON).async_().call().id == moment.id
        isolated_runtime.run_pending()
        assert first.result(1) == "10.00"
        assert moment.result(1) == "2026-06-01T14:00:00+02:00"


def test_p12_an_instance_and_its_key_are_the_same_reference() -> None:
    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        account = Account(id=Decimal(7))
        session.add(account)
        session.flush()
        cls = operation_of(Ref[Account])
        assert keys_of(cls(value=account)) == keys_of(cls(value=Decimal("7.0")))
        assert cls(value=account) == cls(value=Decimal(7))
    engine.dispose()


class Pay(Operation):
    amount: Decimal
    hold: threading.Event | None = None
    lock = Lock("amount", timeout=0)

    def perform(self) -> None:
        if self.hold is not None:
            inside.set()
            assert self.hold.wait(10)


inside = threading.Event()


def test_p12_equal_values_acquire_the_same_lock() -> None:
    with isolated():
        leave = threading.Event()
        run: Callable[[], object] = Pay(amount=Decimal("5.00"), hold=leave).call
        thread = threading.Thread(target=run)
        thread.start()
        assert inside.wait(10)
        same, other = Pay(amount=Decimal(5)).safe.call(), Pay(amount=Decimal("5.01")).safe.call()
        leave.set()
        thread.join()
    assert getattr(same, "code", None) == "lock_timeout"
    assert getattr(other, "code", None) is None


def test_p12_operations_with_values_without_json_compare_as_before() -> None:
    class Opaque(Operation):
        value: Any
        day: date

        def perform(self) -> None: ...

    opaque = object()
    assert Opaque(value=opaque, day=date(2026, 1, 1)) == Opaque(value=opaque, day=date(2026, 1, 1))
    assert Opaque(value=opaque, day=date(2026, 1, 1)) != Opaque(value=object(), day=date(2026, 1, 1))
    assert hash(Opaque(value=1, day=date(2026, 1, 1))) == hash(Opaque(value=1.0, day=date(2026, 1, 1)))
