"""The contract as data: `to_dict`, JSON Schema of each section, and `dexpy.export`."""

from __future__ import annotations

import dataclasses
import enum
import json
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Literal, NotRequired, TypedDict
from uuid import UUID

import attrs
import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import dexpy
from dexpy import Operation, OptRef, PropsError, Ref, Refs, guard, prop
from dexpy.declaration import registry
from dexpy.errors import OptionsError


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "export_customers"
    id: Mapped[int] = mapped_column(primary_key=True)


class Seat(Base):
    __tablename__ = "export_seats"
    row: Mapped[str] = mapped_column(sa.String(2), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Level(enum.IntEnum):
    LOW = 1
    HIGH = 2


class Rights(enum.Flag):
    READ = 1
    WRITE = 2


class Corner(enum.Enum):
    ORIGIN = (0, 0)


@attrs.frozen
class Item:
    sku: str
    count: int = 1
    inside: list[Item] = attrs.field(factory=list["Item"])


@dataclasses.dataclass(frozen=True)
class Circle:
    radius: float


@dataclasses.dataclass(frozen=True)
class Square:
    side: float


class Address(TypedDict):
    street: str
    zip: NotRequired[str]


class Everything(Operation):
    """Has a prop of every type that goes through JSON."""

    whole: int = prop(ge=0, lt=100, desc="How many")
    share: float = prop(gt=0.0, le=1.0)
    text: str = prop(min_length=1, max_length=5)
    code: str = prop(pattern=r"[a-z]{2}[0-9]*")
    yes: bool
    data: bytes = prop(max_length=4)
    amount: Decimal = prop(ge=Decimal("0.5"))
    key: UUID
    day: date
    moment: datetime
    hour: time
    wait: timedelta = prop(ge=timedelta(0))
    file: Path
    color: Color
    level: Level = prop(choices=(Level.HIGH,))
    rights: Rights
    corner: Corner
    word: Literal["a", 1, None]
    size: str = prop(choices=("s", "m"))
    maybe: int | None = prop(ge=0)
    either: int | str
    form: Circle | Square
    item: Item
    address: Address
    items: list[Item] = prop(max_length=2)
    days: dict[date, int]
    counts: dict[str, Decimal]
    tags: set[str] = prop(min_length=1, max_length=2)
    pair: tuple[int, str]
    many: tuple[int, ...]
    anything: Any

    def perform(self) -> None: ...


CASES: dict[str, tuple[list[Any], list[Any]]] = {
    "whole": ([0, 99], [-1, 100, 1.5, "1", True, None]),
    "share": ([1, 0.5], [0, 1.1, "1", False]),
    "text": (["a", "äöüßé"], ["", "abcdef", 1]),
    "code": (["ab", "ab12"], ["a", "ab1x", "AB"]),
    "yes": ([True], [1, "true"]),
    "data": (["", "AAE=", "AAECAw=="], [1, "AAECAwQFBgc="]),
    "amount": (["0.5", "1e3", "+2.", 1], [".", "x", 1.5, "NaN", 0]),
    "key": (["6ba7b810-9dad-11d1-80b4-00c04fd430c8", "6ba7b8109dad11d180b400c04fd430c8"], ["6ba7b810", 1]),
    "day": (["2026-11-21"], ["2026-11-21T00:00", "21.11.2026", 1]),
    "moment": (["2026-11-21T10:00", "2026-11-21T10:00:00.5+01:00", "2026-11-21T10:00:00Z"], ["2026-11-21", 1]),
    "hour": (["10:00", "10:00:00.123456"], ["10", 1]),
    "wait": ([0, "PT1H30M", "P1DT0.5S"], [-1, "1 hour", 1.5]),
    "file": (["a/b", ""], [1, None]),
    "color": (["red"], ["RED", 1, "green"]),
    "level": ([2], [1, 3, "HIGH"]),
    "rights": ([1, 3], ["READ", 1.5]),
    "corner": (["ORIGIN"], [[0, 0], "x"]),
    "word": (["a", 1, None], ["b", 2]),
    "size": (["s"], ["l", ""]),
    "maybe": ([None, 3], [-1, "3"]),
    "either": ([1, "1"], [1.5, None, []]),
    "form": ([{"$type": "Circle", "radius": 1}], [{"radius": 1}, {"$type": "Square", "radius": 1}, {"$type": "Item"}]),
    "item": (
        [{"sku": "a"}, {"sku": "a", "count": 2, "inside": [{"sku": "b"}]}],
        [{}, {"sku": 1}, {"sku": "a", "colour": 1}, {"sku": "a", "inside": [{}]}],
    ),
    "address": ([{"street": "x"}, {"street": "x", "zip": "1"}], [{}, {"street": "x", "town": "y"}]),
    "items": ([[], [{"sku": "a"}]], [[1], [{"sku": "a"}] * 3, {}]),
    "days": ([{}, {"2026-11-21": 1}], [{"x": 1}, {"2026-11-21": "1"}, []]),
    "counts": ([{"a": "1.5"}], [{"a": 1.5}]),
    "tags": ([["a"], ["a", "a", "a"]], [[], [1]]),
    "pair": ([[1, "a"]], [[1], [1, "a", 2], ["a", 1]]),
    "many": ([[], [1, 2]], [["a"], 1]),
    "anything": ([None, {"a": [1]}], []),
}
GOOD = {name: good[0] for name, (good, _) in CASES.items()}


def validator(schema: dict[str, Any]) -> Draft202012Validator:
    Draft202012Validator.check_schema(schema)
    json.dumps(schema, allow_nan=False)
    return Draft202012Validator(schema)


def parses(cls: type[Operation], data: dict[str, Any]) -> bool:
    try:
        cls.parse(data)
    except PropsError:
        return False
    return True


PARAMS = validator(Everything.contract.to_json_schema())


def test_each_type_has_a_case() -> None:
    assert list(CASES) == [one.name for one in Everything.contract.props]


@pytest.mark.parametrize("name", CASES)
def test_the_schema_accepts_and_refuses_the_same_input_as_parse(name: str) -> None:
    good, bad = CASES[name]
    for value in good:
        assert parses(Everything, {**GOOD, name: value}), value
        assert PARAMS.is_valid({**GOOD, name: value}), value
    for value in bad:
        assert not parses(Everything, {**GOOD, name: value}), value
        assert not PARAMS.is_valid({**GOOD, name: value}), value


@pytest.mark.parametrize("name", sorted(CASES.keys() - {"days"}))  # its keys are no str, so that it does not travel
def test_the_json_of_an_operation_is_valid_against_its_schema(name: str) -> None:
    for value in CASES[name][0]:
        operation = Everything.parse({**GOOD, name: value})
        encoded = {one.name: one.codec.encode(getattr(operation, one.name)) for one in Everything.contract.props}
        assert PARAMS.is_valid(encoded)


def test_unknown_keys_and_missing_ones_are_refused_by_both() -> None:
    for data in ({**GOOD, "other": 1}, {name: value for name, value in GOOD.items() if name != "whole"}):
        assert not parses(Everything, data)
        assert not PARAMS.is_valid(data)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-200, 200)
    | st.floats(-2, 2)
    | st.text(max_size=6)
    | st.sampled_from([value for good, bad in CASES.values() for value in good + bad])
    | st.from_regex(r"\A[+-]?[0-9]{0,3}[.]?[0-9]{0,3}([eE][+-]?[0-9])?\Z")
    | st.dates().map(date.isoformat)
    | st.datetimes(timezones=st.none() | st.timezones()).map(datetime.isoformat)
    | st.times().map(time.isoformat)
    | st.uuids().map(str)
    | st.from_regex(r"\A[+-]?P([0-9]W)?([0-9]D)?(T([0-9]H)?([0-9]M)?([0-9]([.][0-9]{1,3})?S)?)?\Z"),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | st.just("sku"), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=600, deadline=None, suppress_health_check=list(HealthCheck))
@given(name=st.sampled_from(list(CASES)), value=json_values)
def test_the_schema_accepts_all_generated_input_that_parse_accepts(name: str, value: Any) -> None:
    if parses(Everything, {**GOOD, name: value}):
        assert PARAMS.is_valid({**GOOD, name: value})


class Refers(Operation):
    customer: Ref[Customer]
    seat: OptRef[Seat]
    others: Refs[Customer] = prop(desc="Who else comes")

    def perform(self) -> None: ...


def test_the_schema_of_a_reference_is_its_key_with_the_name_of_its_model() -> None:
    schema = Refers.contract.to_json_schema()
    check = validator(schema)
    assert schema["properties"]["customer"] == {
        "type": "integer",
        "title": "Customer",
        "description": "The key of a Customer.",
    }
    assert schema["properties"]["others"]["description"] == "Who else comes"
    good: dict[str, Any] = {"customer": 1, "seat": ["A", 1], "others": [1, 2]}
    for data in (good, {**good, "seat": None}):
        assert parses(Refers, data)
        assert check.is_valid(data)
    for data in ({**good, "customer": "1"}, {**good, "seat": ["A"]}, {**good, "others": 1}, {**good, "customer": None}):
        assert not parses(Refers, data)
        assert not check.is_valid(data)


class Told(Operation, name="export.told", aliases=("export.Old",)):
    """Says everything about itself.

    And more below.
    """

    account: int = prop(ge=1, desc="Whose")
    amount: Decimal = prop(default=Decimal("1.50"))
    day: date = date(2026, 11, 21)
    tags: list[str] = prop(factory=list)
    token: str = prop(default="s3cret", sensitive=True)
    tenant: str = prop(context="current_tenant", max_length=40)
    errors = {"no_balance": "Nothing is left"}
    rescue_from = {ConnectionError: "unreachable"}

    @guard("The account must be open")
    def closed(self) -> bool:
        return False

    @guard(requires="closed")
    def empty(self) -> bool:
        return False

    def perform(self) -> dict[str, Item | None]:
        return {}


def test_the_contract_as_a_dict_is_plain_json() -> None:
    document = Told.contract.to_dict()
    assert json.loads(json.dumps(document)) == document
    assert document == {
        "name": "export.told",
        "aliases": ["export.Old"],
        "description": "Says everything about itself.",
        "params": {
            "account": {"type": "int", "required": True, "ge": 1, "description": "Whose"},
            "amount": {"type": "Decimal", "required": False, "default": "1.50"},
            "day": {"type": "date", "required": False, "default": "2026-11-21"},
            "tags": {"type": "list[str]", "required": False},
            "token": {"type": "str", "required": False, "sensitive": True},
            "tenant": {"type": "str", "required": False, "max_length": 40, "context": "current_tenant"},
        },
        "success": "dict[str, Item | None]",
        "errors": {
            "closed": "The account must be open",
            "empty": None,
            "unreachable": None,
            "no_balance": "Nothing is left",
        },
        "guards": [
            {"code": "closed", "message": "The account must be open", "requires": []},
            {"code": "empty", "message": "empty", "requires": ["closed"]},
        ],
    }


def test_defaults_descriptions_and_secrets_are_in_the_schema() -> None:
    schema = Told.contract.to_json_schema("params")
    assert (schema["title"], schema["description"]) == ("export.told", "Says everything about itself.")
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema["required"] == ["account"]
    assert schema["properties"]["account"] == {"type": "integer", "minimum": 1, "description": "Whose"}
    assert schema["properties"]["amount"]["default"] == "1.50"
    assert "default" not in schema["properties"]["tags"]
    assert schema["properties"]["token"] == {"type": "string", "writeOnly": True}
    assert "s3cret" not in json.dumps([schema, Told.contract.to_dict()])
    assert schema["properties"]["tenant"]["description"] == ("Default: the context value 'current_tenant'.")


def test_the_schema_of_success_accepts_stored_results() -> None:
    check = validator(Told.contract.to_json_schema("success"))
    form = Told.contract.success
    assert form is not None
    encoded = form.encode({"a": Item("x", 1, [Item("y")]), "b": None})
    assert check.is_valid(encoded)
    assert not check.is_valid({"a": {"sku": "x"}}), "what is written is complete"
    assert not check.is_valid([])


class Silent(Operation):
    def perform(self):  # type: ignore[no-untyped-def]
        return 1


def test_an_operation_without_a_return_annotation_may_return_anything() -> None:
    assert validator(Silent.contract.to_json_schema("success")).is_valid({"a": 1})
    assert Silent.contract.to_dict()["success"] is None


def test_the_schema_of_errors_names_every_code() -> None:
    check = validator(Told.contract.to_json_schema("errors"))
    for code in ("no_balance", "closed", "unreachable"):
        assert check.is_valid({"code": code, "message": "x", "details": {"n": 1}})
    assert not check.is_valid({"code": "other", "message": "x", "details": {}})
    anything = validator(Everything.contract.to_json_schema("errors"))
    assert anything.is_valid({"code": "any_code", "message": "x", "details": {}})


def test_all_sections_are_in_one_schema() -> None:
    check = validator(Told.contract.to_json_schema("full"))
    whole = {
        "params": {"account": 1},
        "success": {"a": {"sku": "x", "count": 1, "inside": []}},
        "errors": {"code": "closed", "message": "", "details": {}},
    }
    assert check.is_valid(whole)
    assert not check.is_valid({**whole, "success": {"a": {"sku": "x"}}})
    assert not check.is_valid({**whole, "params": {}})


def test_an_unknown_section_is_refused_with_the_known_ones() -> None:
    with pytest.raises(OptionsError, match="expected one of 'errors', 'full', 'params', 'success'.*Did you mean"):
        Told.contract.to_json_schema("param")  # type: ignore[arg-type]


def test_every_declared_operation_is_exported_by_name_in_order(monkeypatch: pytest.MonkeyPatch) -> None:
    # Other tests of this process declare classes that cannot work.
    mine = {name: cls for name, cls in registry._by_name.items() if cls.__module__ in (__name__, "dexpy.deferred")}
    monkeypatch.setattr(registry, "_by_name", mine)

    class Local(Operation):
        def perform(self) -> None: ...

    exported = dexpy.export()
    assert list(exported) == sorted(exported)
    assert len(exported) == 4
    assert exported["export.told"] == Told.contract.to_dict()
    assert "export.Old" not in exported
    assert not any(name.startswith("dexpy.") or "Local" in name for name in exported)
    schemas = dexpy.export("json_schema")
    assert schemas.keys() == exported.keys()
    for schema in schemas.values():
        validator(schema)


def test_an_unknown_format_of_export_is_refused() -> None:
    with pytest.raises(OptionsError, match=r"export\('yaml'\): expected 'dict' or 'json_schema'"):
        dexpy.export("yaml")  # type: ignore[arg-type]
