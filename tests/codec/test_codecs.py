"""What a form takes, what it makes of it, and what it says when it refuses."""

import collections
import dataclasses
import doctest
import enum
import json
import typing
from collections.abc import Callable, Sequence
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from decimal import Decimal
from fractions import Fraction
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from typing import Annotated, Any, Generic, Literal, NewType, NotRequired, Optional, Required, TypedDict, TypeVar, Union
from uuid import UUID
from zoneinfo import ZoneInfo

import attrs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from typing_extensions import TypeAliasType

from dexpy.codec import codecs
from dexpy.codec import converters as hooks
from dexpy.codec.codecs import InvalidValue, codec_of, converter, plain_json, register_type
from dexpy.foundation.errors import DeclarationError, NotSerializable


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Size(enum.StrEnum):
    S = "s"
    M = "m"


class Perm(enum.Flag):
    READ = 1
    WRITE = 2
    RUN = 4


class Shape(enum.Enum):  # values that JSON does not have: it travels by name
    POINT = (0, 0)
    LINE = (0, 1)


@attrs.frozen
class Item:
    sku: str
    qty: int = attrs.field(default=1, validator=attrs.validators.ge(0))


@attrs.define
class Basket:
    items: list[Item]
    _secret: str = ""
    label: str | None = attrs.field(default=None, alias="title")
    total: int = attrs.field(init=False, default=0)


@dataclasses.dataclass(frozen=True)
class Point:
    x: float
    y: float = 0.0


@dataclasses.dataclass
class Node:
    name: str
    children: "list[Node]" = dataclasses.field(default_factory=list)
    parent: "Node | None" = None


class Address(TypedDict):
    street: str
    zip: NotRequired[str]


class Options(TypedDict, total=False):
    retries: int
    since: Required[date]


T = TypeVar("T")


@attrs.frozen
class Box(Generic[T]):
    content: T


@attrs.frozen
class DateBox(Box[date]):
    note: str = ""


UserId = NewType("UserId", int)


def refusal(action: Callable[[Any], Any], value: Any) -> str:
    with pytest.raises(InvalidValue) as caught:
        action(value)
    return str(caught.value)


def unserializable(annotation: Any, value: Any) -> NotSerializable:
    form = codec_of(annotation)
    with pytest.raises(NotSerializable) as caught:
        form.encode(form.check(value))
    return caught.value


def unserializable_now(annotation: Any, value: Any) -> str:
    with pytest.raises(NotSerializable) as caught:
        codec_of(annotation).encode(value)
    return str(caught.value)


def declined(annotation: Any) -> str:
    with pytest.raises(DeclarationError) as caught:
        codec_of(annotation)
    return str(caught.value)


def not_plain(value: Any) -> str:
    with pytest.raises(NotSerializable) as caught:
        plain_json(value)
    return str(caught.value)


def through_json(annotation: Any, value: Any) -> Any:
    form = codec_of(annotation)
    text = json.dumps(form.encode(form.check(value)), allow_nan=False)
    text.encode()
    return form.decode(json.loads(text))


# ------------------------------------------------------------------------- scalars at construction

SCALAR_VALUES: dict[Any, Any] = {
    int: 7,
    str: "7",
    bool: True,
    float: 7.5,
    None: None,
    bytes: b"7",
    date: date(2024, 1, 31),
    datetime: datetime(2024, 1, 31, 12),
    time: time(12, 30),
    timedelta: timedelta(seconds=7),
    Decimal: Decimal("7.50"),
    UUID: UUID(int=7),
    Color: Color.RED,
    Path: Path("a/b"),
}
CROSSINGS = [
    (wanted, actual)
    for wanted in SCALAR_VALUES
    for actual in SCALAR_VALUES
    if wanted is not actual and (wanted, actual) != (float, int)
]


@pytest.mark.parametrize("wanted", SCALAR_VALUES, ids=str)
def test_a_scalar_is_accepted_unchanged(wanted: Any) -> None:
    assert codec_of(wanted).check(SCALAR_VALUES[wanted]) is SCALAR_VALUES[wanted]


@pytest.mark.parametrize(("wanted", "actual"), CROSSINGS, ids=str)
def test_a_scalar_of_another_type_is_refused(wanted: Any, actual: Any) -> None:
    value, form = SCALAR_VALUES[actual], codec_of(wanted)
    shown = "None" if value is None else f"{type(value).__name__} {value!r}"
    assert refusal(form.check, value) == f": expected {form.label}, got {shown}"


def test_an_int_becomes_the_float_that_is_expected() -> None:
    checked = codec_of(float).check(3)
    assert (checked, type(checked)) == (3.0, float)


def test_an_int_that_no_float_can_hold_is_refused() -> None:
    assert refusal(codec_of(float).check, 10**400).startswith(
        ": expected float, or an int in the range of floats, got int 1"
    )


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int, Level.LOW, ": expected int, got Level <Level.LOW: 1>"),
        (str, Size.S, ": expected str, got Size <Size.S: 's'>"),
        (dict, collections.ChainMap(), ": expected dict, got ChainMap ChainMap({})"),
        (dict, collections.Counter("a"), ": expected dict, got Counter Counter({'a': 1})"),
        (list[int], (1,), ": expected list[int], got tuple (1,)"),
        (tuple[int, ...], [1], ": expected tuple[int, ...], got list [1]"),
        (set[int], frozenset({1}), ": expected set[int], got frozenset frozenset({1})"),
        (Level, 1, ": expected Level, got int 1"),
        (Item, {"sku": "a"}, ": expected Item, got dict {'sku': 'a'}"),
    ],
)
def test_subclasses_and_lookalikes_are_refused(annotation: Any, value: Any, message: str) -> None:
    assert refusal(codec_of(annotation).check, value) == message


def test_a_path_is_accepted_by_isinstance_and_a_pure_path_is_refused() -> None:
    assert codec_of(PurePath).check(Path("a")) == Path("a")
    assert refusal(codec_of(Path).check, PurePath("a")) == ": expected Path, got PurePosixPath PurePosixPath('a')"


def test_a_problem_cuts_long_values_and_survives_a_repr_that_raises() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    long = refusal(codec_of(int).check, "x" * 1000)
    assert long.removeprefix(": expected int, got str ") == f"'{'x' * 27}...{'x' * 28}'"
    assert len(refusal(codec_of(int).check, type("Long" * 100, (), {})())) == len(": expected int, got ") + 80
    assert refusal(codec_of(int).check, Rude()).startswith(": expected int, got Rude <Rude instance at 0x")
    assert refusal(codec_of(int).check, [10**5000]) == ": expected int, got list <no repr>"


# ------------------------------------------------------------------------------------ scalars as JSON


@pytest.mark.parametrize(
    ("annotation", "value", "expected"),
    [
        (datetime, datetime(2024, 1, 31, 12, tzinfo=UTC), "2024-01-31T12:00:00.000000+00:00"),
        (datetime, datetime(1, 1, 1), "0001-01-01T00:00:00.000000"),
        (time, time(9, 5, tzinfo=timezone(timedelta(hours=2))), "09:05:00.000000+02:00"),
        (date, date(9999, 12, 31), "9999-12-31"),
        (timedelta, timedelta(days=-1, microseconds=1), -86399999999),
        (timedelta, timedelta.max, 86399999999999999999),
        (Decimal, Decimal("1E+3"), "1E+3"),
        (Decimal, Decimal("0.10"), "0.10"),
        (UUID, UUID(int=1), "00000000-0000-0000-0000-000000000001"),
        (bytes, b"\xff\x00", "/wA="),
        (Path, Path("a/b"), "a/b"),
        (Color, Color.RED, "red"),
        (Level, Level.HIGH, 2),
        (Perm, Perm.READ | Perm.RUN, 5),
        (Shape, Shape.LINE, "LINE"),
        (set[int], {3, 20, 1}, [1, 20, 3]),  # by their JSON text
        (frozenset[str], frozenset({"b", "a"}), ["a", "b"]),
        (tuple[int, str], (1, "a"), [1, "a"]),
        (Point, Point(1.0), {"x": 1.0, "y": 0.0}),
    ],
)
def test_each_value_has_the_expected_json(annotation: Any, value: Any, expected: Any) -> None:
    encoded = codec_of(annotation).encode(value)
    assert (encoded, type(encoded)) == (expected, type(expected))


@pytest.mark.parametrize(
    ("annotation", "kinds"),
    [
        (int, {"integer"}),
        (float, {"number"}),
        (timedelta, {"integer"}),
        (Decimal, {"string"}),
        (Level, {"integer"}),
        (Literal["a", 1, None], {"string", "integer", "null"}),
        (set[int], {"array"}),
        (Item, {"object"}),
        (date | None, {"string", "null"}),
        (Callable[[int], str], set()),
        (Any, {"null", "boolean", "integer", "number", "string", "array", "object"}),
    ],
)
def test_a_codec_knows_its_json_kinds(annotation: Any, kinds: set[str]) -> None:
    assert codec_of(annotation).kinds == kinds


class Dateless(tzinfo):
    def utcoffset(self, when: datetime | None) -> timedelta | None:
        return None


TOO_LONG = "has more than 4300 digits, which Python does not convert to or from text"
NOT_FINITE = "is NaN or infinite, which JSON does not support: use None"
NO_OFFSET = "has a time zone without an offset, which JSON does not preserve: use a fixed offset"


@pytest.mark.parametrize(
    ("annotation", "value", "reason"),
    [
        (float, float("nan"), NOT_FINITE),
        (float, float("-inf"), NOT_FINITE),
        (Decimal, Decimal("NaN"), NOT_FINITE),
        (Decimal, Decimal("-Infinity"), NOT_FINITE),
        (str, "secret\0", "has a NUL character, which databases refuse in text: remove it, or use bytes"),
        (str, "\ud800", "has a lone surrogate, which is invalid in Unicode text: decode it differently, or use bytes"),
        pytest.param(int, 10**4300, TOO_LONG, id="long int"),
        pytest.param(int, -(10**4300), TOO_LONG, id="long negative int"),
        (time, time(12, tzinfo=ZoneInfo("Europe/Madrid")), NO_OFFSET),
        (datetime, datetime(2024, 1, 1, tzinfo=Dateless()), NO_OFFSET),
        (Path, Path("a\0"), "has a NUL character, which databases refuse in text: remove it, or use bytes"),
        (PurePath, PureWindowsPath("a"), "is of type PureWindowsPath, but would be restored as PurePosixPath"),
        (PurePath, Path("a"), "is of type PosixPath, but would be restored as PurePosixPath"),
    ],
)
def test_a_value_that_would_not_round_trip_is_not_serializable(annotation: Any, value: Any, reason: str) -> None:
    error = unserializable(annotation, value)
    assert (error.reason, error.path) == (reason, "")
    nested = unserializable(dict[str, list[annotation]], {"k": [value]})
    assert (nested.reason, nested.path) == (reason, "['k'][0]")
    assert "secret" not in str(nested)


def test_the_longest_int_round_trips() -> None:
    assert through_json(int, 10**4300 - 1) == 10**4300 - 1


def test_a_changed_value_is_refused_by_its_type() -> None:
    assert unserializable_now(list[int], ["a"]) == "[0] is of type str, but int is declared"
    assert unserializable_now(list[date], [datetime(2024, 1, 1)]) == "[0] is of type datetime, but date is declared"
    assert unserializable_now(tuple[int, str], (1,)) == "the value is of type tuple, but tuple[int, str] is declared"
    assert unserializable_now(Literal["a", 1], True) == "the value is of type bool, but Literal['a', 1] is declared"
    assert unserializable_now(int | None, "a") == "the value is of type str, but int | None is declared"
    assert (
        unserializable_now(Address, {"street": "a", "x": 1}) == "the value does not have the keys that Address declares"
    )
    assert unserializable_now(Color, "red") == "the value is of type str, but Color is declared"
    assert unserializable_now(Item, Point(1.0)) == "the value is of type Point, but Item is declared"


def test_a_zone_keeps_its_offset_but_not_its_name() -> None:
    moment = datetime(2024, 7, 1, 12, tzinfo=ZoneInfo("Europe/Madrid"))
    back = through_json(datetime, moment)
    assert back == moment
    assert back.utcoffset() == timedelta(hours=2)
    assert type(back.tzinfo) is timezone


def test_naive_and_aware_datetimes_stay_distinct() -> None:
    assert through_json(datetime, datetime(2024, 1, 1)).tzinfo is None
    assert through_json(datetime, datetime(2024, 1, 1, tzinfo=UTC)).utcoffset() == timedelta(0)
    assert through_json(time, time(1)).tzinfo is None


# ----------------------------------------------------------------------------- decode and parse


@pytest.mark.parametrize(
    ("annotation", "text", "value"),
    [
        (date, "2024-01-31", date(2024, 1, 31)),
        (datetime, "2024-01-31T12:00", datetime(2024, 1, 31, 12)),
        (time, "12:30-00:00:00.5", time(12, 30, tzinfo=timezone(timedelta(seconds=-0.5)))),
        (datetime, "2024-01-31T12:00:00.123Z", datetime(2024, 1, 31, 12, 0, 0, 123000, UTC)),
        (time, "12:30", time(12, 30)),
        (timedelta, 1_500_000, timedelta(seconds=1.5)),
        (timedelta, "PT1H30M", timedelta(hours=1, minutes=30)),
        (timedelta, "-P1DT0.5S", -timedelta(days=1, milliseconds=500)),
        (timedelta, "P2W", timedelta(weeks=2)),
        (Decimal, "0.10", Decimal("0.10")),
        (Decimal, 10, Decimal(10)),
        (UUID, "{00000000-0000-0000-0000-000000000001}"[1:-1].upper(), UUID(int=1)),
        (UUID, "0" * 31 + "1", UUID(int=1)),
        (bytes, "YQ==", b"a"),
        (Path, "a/b", Path("a/b")),
        (Color, "red", Color.RED),
        (Shape, "LINE", Shape.LINE),
        (Perm, 3, Perm.READ | Perm.WRITE),
        (Literal["a", Color.RED], "red", Color.RED),
        (tuple[int, ...], [1, 2], (1, 2)),
        (tuple[date, int], ["2024-01-31", 1], (date(2024, 1, 31), 1)),
        (set[date], ["2024-01-31"], {date(2024, 1, 31)}),
        (frozenset, [1], frozenset({1})),
        (float, 1, 1.0),
        (Item, {"sku": "a"}, Item("a")),
        (Options, {"since": "2024-01-31"}, {"since": date(2024, 1, 31)}),
        (dict[date, int], {"2024-01-31": 1}, {date(2024, 1, 31): 1}),
    ],
)
def test_parse_accepts_external_json_and_the_value_itself(annotation: Any, text: Any, value: Any) -> None:
    parsed = codec_of(annotation).parse(text)
    assert (parsed, type(parsed)) == (value, type(value))
    assert codec_of(annotation).parse(value) == value


@pytest.mark.parametrize(
    ("annotation", "value", "message"),
    [
        (int, "1", ": expected int, got str '1'"),
        (int, 1.0, ": expected int, got float 1.0"),
        (int, True, ": expected int, got bool True"),
        (bool, 1, ": expected bool, got int 1"),
        (str, 1, ": expected str, got int 1"),
        (Decimal, 1.5, ": expected Decimal, as text or int, got float 1.5"),
        (Decimal, " 1", ": expected Decimal, as text or int, got str ' 1'"),
        (Decimal, "NaN", ": expected Decimal, as text or int, got str 'NaN'"),
        (Decimal, "1e9999999999999999999", ": expected Decimal, as text or int, got str '1e9999999999999999999'"),
        (date, "20240131", ": expected ISO date text, got str '20240131'"),
        (date, "2024-02-31", ": expected ISO date text, got str '2024-02-31'"),
        (date, "2024-01-31T00:00:00", ": expected ISO date text, got str '2024-01-31T00:00:00'"),
        (date, datetime(2024, 1, 1), ": expected ISO date text, got datetime datetime.datetime(2024, 1, 1, 0, 0)"),
        (datetime, "2024-01-31", ": expected ISO datetime text, got str '2024-01-31'"),
        (datetime, "2024-01-31 12:00", ": expected ISO datetime text, got str '2024-01-31 12:00'"),
        (
            datetime,
            "2024-01-31T12:00:00.1234567",
            ": expected ISO datetime text, got str '2024-01-31T12:00:00.1234567'",
        ),
        (datetime, 1700000000, ": expected ISO datetime text, got int 1700000000"),
        (time, "12", ": expected ISO time text, got str '12'"),
        (timedelta, 1.5, ": expected timedelta, as an int of microseconds, got float 1.5"),
        (timedelta, 10**30, f": expected timedelta, as an int of microseconds, got int {10**30}"),
        (
            timedelta,
            "P1Y",
            ": expected timedelta, as an int of microseconds or ISO text such as 'PT1H30M', got str 'P1Y'",
        ),
        (
            timedelta,
            "PT",
            ": expected timedelta, as an int of microseconds or ISO text such as 'PT1H30M', got str 'PT'",
        ),
        (UUID, "1", ": expected UUID text, got str '1'"),
        (bytes, "a", ": expected bytes, as base64 text, got str 'a'"),
        (bytes, "YQ==é", ": expected bytes, as base64 text, got str 'YQ==é'"),
        (Path, 1, ": expected Path text, got int 1"),
        (Color, "green", ": expected one of 'red', 'blue', got str 'green'"),
        (Color, ["red"], ": expected one of 'red', 'blue', got list ['red']"),
        (Level, True, ": expected one of 1, 2, got bool True"),
        (Shape, "CUBE", ": expected one of 'POINT', 'LINE', got str 'CUBE'"),
        (Perm, 8, ": expected a combination of 1, 2, 4, got int 8"),
        (Literal["a", 1], True, ": expected one of 'a', 1, got bool True"),
        (Literal["a", Color.RED], Color.BLUE, ": expected one of 'a', 'red', got Color <Color.BLUE: 'blue'>"),
        (Literal["a"], ["a"], ": expected 'a', got list ['a']"),
        (list[int], (1,), ": expected list[int], got tuple (1,)"),
        (Item, [], ": expected object for Item, got list []"),
    ],
)
def test_parse_is_lenient_but_never_guesses(annotation: Any, value: Any, message: str) -> None:
    assert refusal(codec_of(annotation).parse, value) == message


def test_decode_accepts_stored_json_only() -> None:
    assert (
        refusal(codec_of(date).decode, date(2024, 1, 1))
        == ": expected ISO date text, got date datetime.date(2024, 1, 1)"
    )
    assert refusal(codec_of(set[int]).decode, {1}) == ": expected set[int], got set {1}"
    assert (
        refusal(codec_of(timedelta).decode, "PT1H") == ": expected timedelta, as an int of microseconds, got str 'PT1H'"
    )
    assert refusal(codec_of(Item).decode, Item("a")) == ": expected object for Item, got Item Item(sku='a', qty=1)"


# -------------------------------------------------------------------------------------- literals


@pytest.mark.parametrize("value", [True, 1.0, "1", None, [1], Level.LOW])
def test_a_literal_is_matched_by_type_and_value(value: Any) -> None:
    assert refusal(codec_of(Literal[1, 2]).check, value).startswith(": expected one of 1, 2, got ")


def test_literals_of_equal_values_and_different_types_have_codecs_of_their_own() -> None:
    assert codec_of(Literal[1]).check(1) == 1
    assert codec_of(Literal[True]).check(True) is True
    assert refusal(codec_of(Literal[True]).check, 1) == ": expected True, got int 1"


def test_a_literal_with_one_json_for_two_values_is_refused() -> None:
    message = declined(Literal["red", Color.RED])
    assert message == "Literal['red', Color.RED]: two values have the same JSON. Remove one of them."


# ----------------------------------------------------------------------------- containers and paths


def test_all_problems_of_a_value_are_reported_at_once_with_their_paths() -> None:
    value: Any = {"a": [Point(1.0), Point("1"), Point(1.0, "2")], "b": [], 3: [4]}  # type: ignore[arg-type]
    assert refusal(codec_of(dict[str, list[Point]]).check, value).split("; ") == [
        "['a'][1].x: expected float, got str '1'",
        "['a'][2].y: expected float, got str '2'",
        "[3]: expected str as a key, got int 3",
        "[3][0]: expected Point, got int 4",
    ]


def test_an_invalid_key_does_not_hide_the_problem_of_its_value() -> None:
    assert refusal(codec_of(dict[str, int]).check, {1: "a", "b": "c"}) == (
        "[1]: expected str as a key, got int 1; [1]: expected int, got str 'a'; ['b']: expected int, got str 'c'"
    )


def test_an_element_of_a_set_has_no_index() -> None:
    assert refusal(codec_of(set[int]).check, {"a"}) == "[*]: expected int, got str 'a'"
    assert refusal(codec_of(set[int]).parse, [1, "a"]) == "[1]: expected int, got str 'a'"
    assert unserializable(set[float], {float("nan")}).path == "[*]"


def test_each_element_of_a_tuple_has_its_codec() -> None:
    form = codec_of(tuple[int, str])
    assert form.check((1, "a")) == (1, "a")
    assert refusal(form.check, ("a", 1)) == "[0]: expected int, got str 'a'; [1]: expected str, got int 1"
    assert refusal(form.check, (1,)) == ": expected tuple[int, str] with 2 items, got tuple (1,)"
    assert refusal(codec_of(tuple[()]).check, (1,)) == ": expected tuple with 0 items, got tuple (1,)"
    assert unserializable(tuple[int, float], (1, float("nan"))).path == "[1]"


def test_deep_problems_are_searched_for_once_and_not_once_more_at_each_level() -> None:
    annotation: Any = int
    value: Any = "x"
    for _ in range(60):
        annotation, value = list[annotation], [value]
    assert refusal(codec_of(annotation).check, value) == "[0]" * 60 + ": expected int, got str 'x'"


def test_containers_are_copied_from_the_caller() -> None:
    mine: dict[str, list[int]] = {"a": [1]}
    checked = codec_of(dict[str, list[int]]).check(mine)
    bare, untyped = codec_of(dict).check(mine), codec_of(Any).check(mine)
    mine["a"].append(2)
    mine["b"] = []
    assert checked == bare == untyped == {"a": [1]}
    mine_too = {1}
    assert codec_of(set[int]).check(mine_too) is not mine_too


@pytest.mark.parametrize(
    ("annotation", "mutable"),
    [
        (int, False),
        (tuple[int, ...], False),
        (frozenset[str], False),
        (Item, False),
        (Point, False),
        (list[int] | None, True),
        (tuple[list[int], ...], True),
        (Basket, True),
        (Node, True),
        (Box[int], False),
        (Box[set[int]], True),
        (Address, True),
        (Any, True),
    ],
)
def test_a_codec_knows_whether_its_values_can_be_changed(annotation: Any, mutable: bool) -> None:
    assert codec_of(annotation).mutable is mutable


def test_keys_that_are_not_str_are_refused_only_on_the_way_to_json() -> None:
    assert codec_of(dict[int, str]).check({1: "a"}) == {1: "a"}
    assert through_json(dict[int, str], {}) == {}
    error = unserializable(list[dict[int, str]], [{}, {1: "a"}])
    assert error.path == "[1]"
    assert error.reason == (
        "has a key of type int, but JSON keys are str: convert the keys to str, or use a list of pairs"
    )


def test_dict_keys_are_checked_like_any_text() -> None:
    error = unserializable(dict[str, int], {"a\0": 1})
    assert error.path == ""
    assert error.reason.startswith("has a key that has a NUL character")


def test_an_unhashable_element_of_a_set_is_reported_as_a_problem() -> None:
    assert refusal(codec_of(set[Any]).parse, [[1]]) == ": expected set[Any] of hashable elements, got list [[1]]"


@pytest.mark.parametrize(
    ("annotation", "value"),
    [
        (typing.List[int], [1]),  # noqa: UP006
        (typing.List, [1, "a"]),  # noqa: UP006
        (typing.Dict[str, int], {"a": 1}),  # noqa: UP006
        (typing.Tuple[int, ...], (1,)),  # noqa: UP006
        (typing.Tuple, (1, "a")),  # noqa: UP006
        (typing.Set[int], {1}),  # noqa: UP006
        (typing.FrozenSet[int], frozenset({1})),  # noqa: UP006
        (Optional[int], None),  # noqa: UP045
        (tuple, (1, "a")),
        (tuple[()], ()),
        (set, {1, "a"}),
        (list, [{"a": None}]),
        (object, [1.5]),
    ],
)
def test_bare_and_typing_containers_round_trip_through_json(annotation: Any, value: Any) -> None:
    back = through_json(annotation, value)
    assert (back, type(back)) == (value, type(value))


# ----------------------------------------------------------------------------------- plain JSON


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (
            {"a": [(1,)]},
            "['a'][0] is of type tuple, but without a declared type only plain JSON is supported: "
            "give the prop a type such as dict[str, tuple[int, ...]]",
        ),
        (
            [Decimal(1)],
            "[0] is of type Decimal, but without a declared type only plain JSON is supported: "
            "give the prop a type such as dict[str, Decimal]",
        ),
        (
            {"k": date(2024, 1, 1)},
            "['k'] is of type date, but without a declared type only plain JSON is supported: "
            "give the prop a type such as dict[str, date]",
        ),
        (
            Item("a"),
            "the value is of type Item, but without a declared type only plain JSON is supported: "
            "give the prop a type such as dict[str, Item]",
        ),
        (
            {"k": {1: 2}},
            "['k'] has a key of type int, but JSON keys are str: convert the keys to str, or use a list of pairs",
        ),
        ([float("nan")], f"[0] {NOT_FINITE}"),
        (
            [collections.Counter("a")],
            "[0] is of type Counter, which JSON does not preserve: use a dict",
        ),
        (
            [object()],
            "[0] is of type object, which has no JSON form: pass an id or a path, "
            "or give the prop a type that is registered with dexpy.register_type",
        ),
    ],
)
def test_untyped_values_are_checked_strictly(value: Any, message: str) -> None:
    assert not_plain(value) == message
    assert str(unserializable(Any, value)) == message
    assert str(unserializable(list, [value])).startswith("[0]")


def test_plain_json_is_returned_as_an_equal_copy() -> None:
    value: dict[str, Any] = {"a": [1, 1.5, None, True, "é", {}]}
    walked = plain_json(value)
    assert walked == value
    assert walked["a"] is not value["a"]


def test_a_value_that_contains_itself_is_refused_with_a_message() -> None:
    endless: list[Any] = []
    endless.append(endless)
    assert not_plain(endless) == "the value is nested too deeply, or contains itself"
    assert unserializable_now(Any, endless) == "the value is nested too deeply, or contains itself"
    wanted = ": nested too deeply, or contains itself"
    assert refusal(codec_of(list).check, endless) == wanted
    node = Node("a")
    node.parent = node
    assert refusal(codec_of(Node).check, node) == wanted


# --------------------------------------------------------------------------------------- unions


@pytest.mark.parametrize("value", [1, 1.0, "a", None, [1], {"a": 1}, True, -0.0])
def test_members_of_different_json_kinds_are_distinguished(value: Any) -> None:
    back = through_json(int | float | str | list[int] | dict[str, int] | bool | None, value)
    assert (repr(back), type(back)) == (repr(value), type(value))


def test_a_union_names_the_types_of_all_its_members() -> None:
    form = codec_of(Union[int, str, None])  # noqa: UP007
    assert form.label == "int | str | None"
    assert refusal(form.check, 1.5) == ": expected int or str or None, got float 1.5"
    assert refusal(form.parse, []) == ": expected int or str or None, got list []"


def test_a_union_reports_the_problem_of_the_matching_member() -> None:
    assert refusal(codec_of(date | None).parse, "x") == ": expected ISO date text or None, got str 'x'"
    assert refusal(codec_of(list[int] | None).check, ["a"]) == "[0]: expected int, got str 'a'"
    assert refusal(codec_of(Literal["a", "b"] | None).check, "c") == ": expected one of 'a', 'b' or None, got str 'c'"


@pytest.mark.parametrize("annotation", [Path | None, Fraction | None, Path | int | None])
def test_a_union_accepts_a_type_checked_by_isinstance(annotation: Any) -> None:
    register_type(Fraction, to_json=str, from_json=Fraction)
    value = Fraction(1, 3) if "Fraction" in codec_of(annotation).label else Path("a")
    assert through_json(annotation, value) == value
    assert through_json(annotation, None) is None
    assert refusal(codec_of(annotation).check, b"").startswith(": expected ")


def test_a_nested_class_may_hold_an_int_in_its_float() -> None:
    assert codec_of(float | None).encode(1) == 1.0
    assert through_json(Point | None, Point(1)) == Point(1.0)


@pytest.mark.parametrize(
    ("annotation", "names", "kind"),
    [
        (date | str, "date and str", "string"),
        (Decimal | str | None, "Decimal and str", "string"),
        (dict[str, int] | Item, "dict[str, int] and Item", "object"),
        (Address | Options, "Address and Options", "object"),
        (Address | Item, "Address and Item", "object"),
        (float | timedelta, "timedelta and float", "number"),
        (Literal["a"] | Color, "Literal['a'] and Color", "string"),
        (list[int] | set[int], "list[int] and set[int]", "array"),
        (Any | int, "Any and int", "number"),
    ],
)
def test_members_that_are_equal_in_json_are_refused(annotation: Any, names: str, kind: str) -> None:
    message = declined(annotation)
    assert message == (
        f"{form_label(annotation)}: ambiguous union; {names} are both stored as a JSON {kind}. "
        "Use one type, or wrap one of them in a class (attrs or dataclass)."
    )


def form_label(annotation: Any) -> str:
    return codecs.label_of(annotation)


def test_an_ambiguous_union_deep_inside_is_refused_every_time() -> None:
    @attrs.define
    class Deep:
        bad: list[date | str]
        more: "list[Deep]"

    for annotation in (Deep, list[Deep], Deep, dict[str, Deep]):
        assert "date and str" in declined(annotation)


def test_classes_of_one_union_carry_their_name() -> None:
    form = codec_of(Item | Point | None)
    assert form.encode(Item("a")) == {"$type": "Item", "sku": "a", "qty": 1}
    assert through_json(Item | Point | None, Point(1.5)) == Point(1.5)
    assert through_json(Item | Point | None, None) is None
    assert form.parse({"$type": "Point", "x": 1}) == Point(1.0)
    assert form.parse(Item("a")) == Item("a")
    assert codec_of(Item | None).encode(Item("a")) == {"sku": "a", "qty": 1}


def test_a_union_of_classes_requires_the_name_of_a_class() -> None:
    form = codec_of(Item | Point)
    wanted = "object whose '$type' is one of 'Item', 'Point'"
    assert refusal(form.decode, {"sku": "a"}) == f": expected {wanted}, got dict {{'sku': 'a'}}"
    assert refusal(form.parse, {"$type": "X"}) == f": expected {wanted}, got dict {{'$type': 'X'}}"
    assert refusal(form.parse, {"$type": ["X"]}) == f": expected {wanted}, got dict {{'$type': ['X']}}"
    assert refusal(form.parse, {"$type": "Item", "sku": 1}) == ".sku: expected str, got int 1".lstrip(".")


def test_two_classes_of_one_name_are_refused() -> None:
    other = attrs.make_class("Item", {"a": attrs.field(type=int)})
    assert declined(Item | other) == (
        "Item | Item: ambiguous union; the classes Item and Item have the same name, which identifies them in JSON. "
        "Rename one of them."
    )


# -------------------------------------------------------------------------------------- classes


def test_an_instance_that_could_be_changed_is_copied_and_its_fields_are_checked() -> None:
    basket, item = Basket([Item("a")], "s", title="t"), Item("a")
    checked = codec_of(Basket).check(basket)
    assert checked == basket
    assert checked is not basket
    assert checked.items is not basket.items
    assert codec_of(Item).check(item) is item
    basket.items.append(Item(7))  # type: ignore[arg-type]
    assert refusal(codec_of(Basket).check, basket) == "items[1].sku: expected str, got int 7"


def test_the_instance_of_a_subclass_is_refused() -> None:
    assert refusal(codec_of(Box[date]).check, DateBox(date(2024, 1, 1))).startswith(
        ": expected Box[date], got DateBox "
    )


def test_a_class_is_json_by_the_names_of_its_arguments() -> None:
    basket = Basket([Item("a")], "s", title="t")
    encoded = codec_of(Basket).encode(basket)
    assert encoded == {"items": [{"sku": "a", "qty": 1}], "secret": "s", "title": "t"}
    assert codec_of(Basket).decode(encoded) == basket


def test_stored_keys_may_be_added_and_removed() -> None:
    assert codec_of(Item).decode({"sku": "a", "gone": 1}) == Item("a", 1)
    assert codec_of(Options).decode({"since": "2024-01-01", "gone": 1}) == {"since": date(2024, 1, 1)}


def test_unknown_external_keys_are_refused() -> None:
    form = codec_of(list[Item])
    assert refusal(form.parse, [{"sku": "a", "zzz": 1}]) == "[0]: expected only the keys 'qty', 'sku', got 'zzz'"
    assert (
        refusal(codec_of(Address).parse, {"street": "a", "x": 1}) == ": expected only the keys 'street', 'zip', got 'x'"
    )


def test_a_key_that_is_missing_and_has_no_default_is_a_problem() -> None:
    assert refusal(codec_of(Item).decode, {}) == "sku: missing; expected str"
    assert refusal(codec_of(Options).check, {}) == "['since']: missing; expected date"


def test_validators_run_when_an_instance_is_built_again() -> None:
    message = refusal(codec_of(list[Item]).parse, [{"sku": "a", "qty": -1}])
    assert message == "[0]: Item refuses the values: ValueError: 'qty' must be >= 0: -1"


def test_an_exception_of_post_init_is_reported_as_a_problem() -> None:
    @dataclasses.dataclass
    class Fussy:
        a: int

        def __post_init__(self) -> None:
            raise KeyError("a")

    assert refusal(codec_of(Fussy).parse, {"a": 1}) == ": Fussy refuses the values: KeyError: a"


def test_attrs_converters_run_when_an_instance_is_built_again() -> None:
    @attrs.frozen
    class Tags:
        names: tuple[str, ...] = attrs.field(converter=tuple)

    assert codec_of(Tags).decode({"names": ["a"]}) == Tags(("a",))


def test_a_recursive_tree_round_trips_through_json() -> None:
    tree = Node("root", [Node("a", [Node("b")])], parent=Node("above"))
    assert through_json(Node, tree) == tree
    tree.children[0].children[0].name = 1  # type: ignore[assignment]
    assert refusal(codec_of(Node).check, tree) == "children[0].children[0].name: expected str, got int 1"


def test_a_class_inside_of_a_function_may_refer_to_itself() -> None:
    @attrs.define
    class Local:
        rest: "Local | None" = None

    assert through_json(Local, Local(Local())) == Local(Local())


def test_generic_classes_check_their_type_arguments() -> None:
    assert through_json(Box[date], Box(date(2024, 1, 1))) == Box(date(2024, 1, 1))
    assert through_json(DateBox, DateBox(date(2024, 1, 1))) == DateBox(date(2024, 1, 1))
    assert refusal(codec_of(Box[int]).check, Box("a")) == "content: expected int, got str 'a'"
    assert unserializable(Box, Box(date(2024, 1, 1))).path == ".content"


def test_a_typed_dict_is_a_copied_dict_with_known_keys() -> None:
    mine: Address = {"street": "a"}
    checked = codec_of(Address).check(mine)
    assert checked == mine
    assert checked is not mine
    assert refusal(codec_of(Address).check, {"street": 1, "x": 1}) == (
        "['street']: expected str, got int 1; : expected only the keys 'street', 'zip', got 'x'"
    )


def test_a_class_that_its_fields_cannot_build_has_no_json_form() -> None:
    @dataclasses.dataclass
    class Seeded:
        seed: dataclasses.InitVar[int]
        a: int = 0

    assert codec_of(Seeded).kinds == frozenset()
    assert unserializable(Seeded, Seeded(1)).reason.startswith("is declared as Seeded, which has no JSON form")


def test_a_name_that_does_not_exist_at_run_time_is_named() -> None:
    @attrs.define
    class Lost:
        model: "Customer"  # type: ignore[name-defined]  # noqa: F821

    assert declined(Lost) == (
        "test_a_name_that_does_not_exist_at_run_time_is_named.<locals>.Lost.model: undefined name 'Customer' in "
        "the type 'Customer'; it is neither in the class nor in its module. Move 'Customer' out of the function, or "
        "out of `if TYPE_CHECKING:`; an annotation as text does not see local names."
    )


# ------------------------------------------------------------------- wrappers, opaque types, oddities


@pytest.mark.parametrize(
    "annotation",
    [
        UserId,
        Annotated[int, "meta"],
        Annotated[int, ["unhashable"]],
        TypeAliasType("Alias", int),
        TypeAliasType("Generic", T, type_params=(T,))[int],
        TypeVar("Bound", bound=int),
    ],
    ids=repr,
)
def test_wrapped_annotations_behave_like_the_wrapped_type(annotation: Any) -> None:
    assert refusal(codec_of(annotation).check, "a") == ": expected int, got str 'a'"
    assert through_json(list[annotation], [1]) == [1]


@pytest.mark.parametrize(
    ("annotation", "label"),
    [
        (dict[str, list[date]], "dict[str, list[date]]"),
        (tuple[int, ...], "tuple[int, ...]"),
        (Literal["a", 1], "Literal['a', 1]"),
        (TypeAliasType("Alias", list[int]), "Alias"),
        (Callable[[int], str], "Callable[[int], str]"),
        (typing.IO[bytes], "IO[bytes]"),
        (Sequence[int], "Sequence[int]"),
        (None, "None"),
        (Any, "Any"),
        (typing.Dict, "dict"),  # noqa: UP006
    ],
)
def test_a_codec_has_a_short_label(annotation: Any, label: str) -> None:
    assert codec_of(annotation).label.replace("Dict", "dict") == label


@pytest.mark.parametrize(
    ("annotation", "value", "reason"),
    [
        (
            Callable[[int], str],
            str,
            "is declared as Callable[[int], str], which has no JSON form: "
            "pass an id or a path, or register a form with dexpy.register_type",
        ),
        (
            complex,
            1j,
            "is declared as complex, which has no JSON form: "
            "pass an id or a path, or register a form with dexpy.register_type",
        ),
        (
            Callable[[], int] | None,
            int,
            "is declared as Callable[[], int], which has no JSON form: "
            "pass an id or a path, or register a form with dexpy.register_type",
        ),
    ],
)
def test_an_opaque_value_is_accepted_and_has_no_json_form(annotation: Any, value: Any, reason: str) -> None:
    form = codec_of(annotation)
    assert form.check(value) is value
    assert form.parse(value) is value
    assert unserializable(annotation, value).reason == reason


def test_an_opaque_type_is_checked_by_isinstance_where_possible() -> None:
    assert refusal(codec_of(complex).check, 1) == ": expected complex, got int 1"
    assert refusal(codec_of(complex).decode, 1) == ": expected no value, because complex has no JSON form, got int 1"
    with Path(__file__).open() as file:
        assert codec_of(typing.TextIO).check(file) is file
    assert codec_of(tuple[int, *tuple[str, ...]]).check((1, "a")) == (1, "a")


def test_a_subclass_of_a_scalar_does_not_get_its_codec() -> None:
    class Text(str):
        pass

    assert codec_of(Text).kinds == frozenset()
    assert codec_of(Text).check(Text("a")) == "a"
    assert refusal(codec_of(Text).check, "a") == ": expected Text, got str 'a'"


@pytest.mark.parametrize(
    ("annotation", "message"),
    [
        (5, "int 5 is not a type. Annotate with a class (int) or a typing form (list[int])."),
        ("int", "Annotation 'int': expected a type, got text. Pass the type itself."),
        (typing.List["Missing"], "Annotation 'Missing': expected a type, got text. Pass the type itself."),  # noqa: F821, UP006
    ],
)
def test_an_annotation_that_is_not_a_type_is_refused(annotation: Any, message: str) -> None:
    assert declined(annotation) == message


def test_a_codec_is_built_once() -> None:
    assert codec_of(list[int]) is codec_of(list[int])


def test_the_converter_underneath_structures_and_unstructures() -> None:
    converter_json = converter.unstructure({"a": date(2024, 1, 1)}, unstructure_as=dict[str, date])
    assert converter_json == {"a": "2024-01-01"}
    assert converter.structure(converter_json, dict[str, date]) == {"a": date(2024, 1, 1)}
    assert converter.structure(5, Annotated[UserId, "meta"]) == 5


# -------------------------------------------------------------------------------- registered types


@attrs.frozen(eq=True)
class Money:
    cents: int


class Odd:
    """Its JSON is what the test says."""

    def __init__(self, json: Any) -> None:
        self.json = json


def test_a_registered_type_round_trips_through_json() -> None:
    class Version:
        def __init__(self, text: str) -> None:
            self.parts = [int(part) for part in text.split(".")]

    before = codec_of(list[Version])
    assert before.kinds == {"array"}
    assert unserializable(list[Version], [Version("1")]).path == "[0]"
    register_type(Version, to_json=lambda version: ".".join(map(str, version.parts)), from_json=Version)
    form = codec_of(list[Version])
    assert form.encode([Version("1.2")]) == ["1.2"]
    assert form.decode(["1.2"])[0].parts == [1, 2]
    assert isinstance(form.parse([Version("1")])[0], Version)
    assert refusal(form.check, ["1.2"]) == "[0]: expected Version, got str '1.2'"
    assert refusal(form.parse, ["x"]) == "[0]: expected Version as JSON, got str 'x'"


def test_a_registered_codec_wins_over_the_fields_of_a_class() -> None:
    codec_of(Money | None)
    register_type(Money, to_json=lambda money: money.cents, from_json=Money)
    assert codec_of(list[Money | None]).encode([Money(5), None]) == [5, None]
    assert through_json(list[Money | None], [Money(5), None]) == [Money(5), None]


@pytest.mark.parametrize(
    ("json_value", "reason"),
    [
        ({"a": [Decimal(1)]}, "has no plain JSON form: in the result of to_json of Odd, ['a'][0] is of type Decimal"),
        (None, "has no JSON form: to_json of Odd returned None, which means no value"),
        ("\0", "has no plain JSON form: in the result of to_json of Odd, the value has a NUL character"),
    ],
)
def test_the_result_of_to_json_must_be_plain_json(json_value: Any, reason: str) -> None:
    register_type(Odd, to_json=lambda odd: odd.json, from_json=Odd)
    error = unserializable(list[Odd], [Odd(json_value)])
    assert error.path == "[0]"
    assert error.reason.startswith(reason)


def test_a_to_json_that_raises_is_named_without_its_value() -> None:
    class Shy:
        pass

    def to_json(shy: Shy) -> Any:
        raise ValueError("secret")

    register_type(Shy, to_json=to_json, from_json=lambda json: Shy())
    error = unserializable(list[Shy], [Shy()])
    assert str(error) == "[0] has no JSON form: to_json of Shy raised ValueError"
    assert isinstance(error.__cause__, ValueError)


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (int, "register_type(int): the JSON form of a built-in type is fixed. Register your own class."),
        (list[int], "register_type: expected a class, got GenericAlias list[int]."),
        ("Money", "register_type: expected a class, got str 'Money'."),
    ],
)
def test_only_classes_that_dexpy_does_not_know_can_be_registered(cls: Any, message: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        register_type(cls, to_json=str, from_json=str)
    assert str(caught.value) == message


# ------------------------------------------------------------------------- round trips, by Hypothesis


def same(one: Any, other: Any) -> bool:
    """Same type, equal, same offset, same digits; all the way down."""
    if type(one) is not type(other):
        return False
    match one:
        case float():
            return one.hex() == other.hex()
        case datetime() | time():
            return one == other and one.utcoffset() == other.utcoffset()
        case Decimal():
            return one.as_tuple() == other.as_tuple()
        case list() | tuple():
            return len(one) == len(other) and all(map(same, one, other))
        case set() | frozenset():
            return one == other and sorted(map(repr, map(type, one))) == sorted(map(repr, map(type, other)))
        case dict():
            return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
        case Item() | Point() | Node() | Basket() | Box():
            return same(fields_of(one), fields_of(other))
    return bool(one == other)


def fields_of(instance: Any) -> dict[str, Any]:
    names = [
        field.name for field in (attrs.fields if attrs.has(type(instance)) else dataclasses.fields)(type(instance))
    ]
    return {name: getattr(instance, name) for name in names}


offsets = st.timedeltas(timedelta(hours=-23, minutes=-59), timedelta(hours=23, minutes=59)).map(timezone)
fine_offsets = [
    timedelta(0, -7200, 3),
    timedelta(microseconds=1),
    timedelta(microseconds=-1),
    timedelta(days=-1, microseconds=1),
]
zones = st.none() | offsets | st.sampled_from([UTC, *map(timezone, fine_offsets)])
texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0")) | st.sampled_from(["", "🙂", "é"])
ints = st.integers() | st.sampled_from([0, -1, 2**63, 10**4300 - 1, -(10**4300) + 1])
floats = st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([-0.0, 1e16, 5e-324, 1.0, 1.7e308])
decimals = st.decimals(allow_nan=False, allow_infinity=False) | st.sampled_from(
    [Decimal("-0"), Decimal("1E+3"), Decimal("0.10"), Decimal("0E-30"), Decimal("1E+999999")]
)
dates = st.dates() | st.sampled_from([date.min, date.max])
datetimes = st.builds(
    lambda moment, fold, zone: moment.replace(fold=fold, tzinfo=zone),
    st.datetimes() | st.sampled_from([datetime.min, datetime.max]),
    st.sampled_from([0, 1]),
    zones,
)
times = st.builds(lambda moment, zone: moment.replace(tzinfo=zone), st.times(), zones)
perms = st.lists(st.sampled_from(list(Perm))).map(lambda some: Perm(sum({perm.value for perm in some})))
items = st.builds(Item, texts, st.integers(0, 10))
plain = st.recursive(
    st.none() | st.booleans() | ints | floats | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=8,
)
nodes = st.recursive(
    st.builds(Node, texts),
    lambda inner: st.builds(Node, texts, st.lists(inner, max_size=3), st.none() | inner),
    max_leaves=6,
)

HASHABLE: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (int, ints),
    (float, floats),
    (str, texts),
    (bool, st.booleans()),
    (None, st.none()),
    (bytes, st.binary()),
    (date, dates),
    (datetime, datetimes),
    (time, times),
    (timedelta, st.timedeltas() | st.sampled_from([timedelta.min, timedelta.max, timedelta.resolution])),
    (Decimal, decimals),
    (UUID, st.uuids()),
    (Color, st.sampled_from(list(Color))),
    (Level, st.sampled_from(list(Level))),
    (Size, st.sampled_from(list(Size))),
    (Shape, st.sampled_from(list(Shape))),
    (Perm, perms),
    (
        Literal["a", 1, True, None, b"x", Level.LOW.value, Shape.LINE],
        st.sampled_from(["a", 1, True, None, b"x", Shape.LINE]),
    ),
    (Path, texts.map(Path)),
    (PurePosixPath, texts.map(PurePosixPath)),
    (Item, items),
    (int | float | str | bool | None, ints | floats | texts | st.booleans() | st.none()),
    (datetime | None, st.none() | datetimes),
]
OTHERS: list[tuple[Any, st.SearchStrategy[Any]]] = [
    (Any, plain),
    (dict, st.dictionaries(texts, plain, max_size=3)),
    (list, st.lists(plain, max_size=3)),
    (tuple, st.lists(plain, max_size=3).map(tuple)),
    (set, st.sets(st.integers() | texts | st.none(), max_size=3)),
    (Node, nodes),
    (Basket, st.builds(Basket, st.lists(items, max_size=2), texts, title=st.none() | texts)),
    (Box[Decimal], st.builds(Box, decimals)),
    (Item | Point | None, items | st.builds(Point, floats, floats) | st.none()),
    (Address, st.fixed_dictionaries({"street": texts}, optional={"zip": texts})),
    (Options, st.fixed_dictionaries({"since": dates}, optional={"retries": ints})),
    (list[int] | dict[str, date] | timedelta | None, st.lists(ints) | st.dictionaries(texts, dates) | st.timedeltas()),
]


@pytest.mark.parametrize(("annotation", "values"), HASHABLE + OTHERS, ids=lambda case: getattr(case, "__name__", None))
def test_a_value_round_trips_exactly(annotation: Any, values: st.SearchStrategy[Any]) -> None:
    @settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
    @given(values)
    def comes_back(value: Any) -> None:
        form = codec_of(annotation)
        assert same(through_json(annotation, value), value)
        assert same(form.parse(json.loads(json.dumps(form.encode(value)))), value)
        assert same(form.parse(value), value)

    comes_back()


def containers_of(case: tuple[Any, st.SearchStrategy[Any]]) -> st.SearchStrategy[tuple[Any, Any]]:
    """Annotations around one, with a value each."""
    annotation, values = case
    around: list[tuple[Any, st.SearchStrategy[Any]]] = [
        (list[annotation], st.lists(values, max_size=3)),
        (tuple[annotation, ...], st.lists(values, max_size=3).map(tuple)),
        (tuple[int, annotation], st.tuples(ints, values)),
        (dict[str, annotation], st.dictionaries(texts, values, max_size=3)),
        (list[dict[str, annotation]], st.lists(st.dictionaries(texts, values, max_size=2), max_size=2)),
        (Box[annotation], st.builds(Box, values)),
        (
            list[tuple[annotation, ...] | None],
            st.lists(st.lists(values, max_size=2).map(tuple) | st.none(), max_size=3),
        ),
    ]
    if case in HASHABLE:
        around += [
            (set[annotation], st.sets(values, max_size=3)),
            (frozenset[annotation], st.frozensets(values, max_size=3)),
            (set[tuple[annotation, int]], st.sets(st.tuples(values, ints), max_size=2)),
        ]
    return st.sampled_from(around).flatmap(lambda one: st.tuples(st.just(one[0]), one[1]))


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(HASHABLE + OTHERS).flatmap(containers_of))
def test_a_container_round_trips_exactly(case: tuple[Any, Any]) -> None:
    annotation, value = case
    assert same(through_json(annotation, value), value)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sets(st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts, max_size=6), st.randoms())
def test_equal_sets_have_one_json(values: set[Any], random: Any) -> None:
    shuffled = list(values)
    random.shuffle(shuffled)
    form = codec_of(set[int | float | str])
    assert json.dumps(form.encode(values)) == json.dumps(form.encode(set(shuffled)))


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(HASHABLE + OTHERS), plain)
def test_no_json_from_outside_crashes_a_codec(case: tuple[Any, Any], value: Any) -> None:
    form = codec_of(case[0])
    for convert in (form.decode, form.parse, form.check):
        try:
            checked = convert(value)
        except InvalidValue:
            continue  # refused, in words; anything else would end the test
        assert same(form.decode(form.encode(checked)), checked)


@pytest.mark.parametrize("module", [codecs, hooks], ids=lambda module: module.__name__)
def test_the_examples_in_the_docstrings_hold(module: Any) -> None:
    results = doctest.testmod(module)
    assert results.attempted > 0
    assert results.failed == 0
