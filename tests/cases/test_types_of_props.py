"""Values of a prop keep their class and rules: in place, in a worker, and in stored params of older releases."""

import collections
import datetime as dt
import enum
import io
import json
import re
import types
import typing as tp
from collections.abc import (
    Callable,
    Collection,
    Generator,
    Iterable,
    Iterator,
    Mapping,
    MutableMapping,
    MutableSequence,
    MutableSet,
    Sequence,
)
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypedDict
from zoneinfo import ZoneInfo

import attrs
import pydantic
import pytest
from labels import label

from dexpy import NotSerializable, Operation, PropsError, prop, records, register_type
from dexpy.codec.codecs import codec_of
from dexpy.errors import DeclarationError, ResultTypeError
from dexpy.testing import Isolated, isolated


class Op(Operation):
    record = False

    def perform(self) -> None: ...


def refused(action: Callable[[], object], kind: type[Exception] = DeclarationError) -> str:
    with pytest.raises(kind) as caught:
        action()
    return str(caught.value)


def taking(annotation: Any, **body: Any) -> Any:
    return type("Takes", (Op,), {"__annotations__": {"item": annotation}, "__module__": __name__, **body})


@pytest.fixture
def isolated_runtime() -> Iterator[Isolated]:
    with isolated() as runtime:
        yield runtime


# ----------------------------------------------------------------------------- p9: rules of the user's


class Colour(enum.Enum):
    RED = "red"
    ROUGE = "red"  # noqa: PIE796

    @classmethod
    def _missing_(cls, value: object) -> "Colour | None":
        if value == "raise":
            raise RuntimeError("a rule that raises")
        return cls.RED if value in ("crimson", 1) else None


class Corner(enum.Enum):
    TOP = (0, 1)
    UPPER = (0, 1)  # noqa: PIE796
    LOW = (0, 0)

    @classmethod
    def _missing_(cls, value: object) -> "Corner | None":
        return cls.LOW if value == "BOTTOM" else None


class Level(enum.IntEnum):
    LOW = 1

    @classmethod
    def _missing_(cls, value: object) -> "Level | None":
        return cls.LOW if value in (0, "low") else None


class Size(enum.StrEnum):
    SMALL = "s"

    @classmethod
    def _missing_(cls, value: object) -> "Size | None":
        return cls.SMALL if isinstance(value, str) and value.lower() == "s" else None


class Rights(enum.Flag):
    READ = 1
    WRITE = 2

    @classmethod
    def _missing_(cls, value: object) -> Any:
        return cls.READ if value == 64 else super()._missing_(value)


class Coded(enum.Enum):
    """An enum with a former value in its value map."""

    OPEN = "open"
    SHUT = "shut"


Coded._value2member_map_["closed"] = Coded.SHUT


@attrs.frozen
class Amount:
    value: Decimal = attrs.field(
        converter=lambda value: Decimal(value.replace(",", ".")) if isinstance(value, str) else value
    )


class Share(Fraction):
    """A type with a registered JSON form."""


register_type(Share, to_json=str, from_json=lambda text: Share(text.replace(":", "/")))

RULES: list[tuple[Any, Any, Any]] = [
    (Colour, "crimson", Colour.RED),
    (Colour, 1, Colour.RED),
    (Corner, "BOTTOM", Corner.LOW),
    (Corner, "UPPER", Corner.TOP),
    (Level, 0, Level.LOW),
    (Level, "low", Level.LOW),
    (Size, "S", Size.SMALL),
    (Rights, 64, Rights.READ),
    (Rights, 3, Rights.READ | Rights.WRITE),
    (Coded, "closed", Coded.SHUT),
    (Literal[Colour.RED], "crimson", Colour.RED),
    (Amount, {"value": "1,5"}, Amount(Decimal("1.5"))),
    (Share, "1:3", Share(1, 3)),
]
AROUND: dict[str, tuple[Callable[[Any], Any], Callable[[Any], Any]]] = {
    "alone": (lambda kind: kind, lambda value: value),
    "or None": (lambda kind: kind | None if isinstance(kind, type) else tp.Optional[kind], lambda value: value),  # noqa: UP045
    "listed": (lambda kind: list[kind], lambda value: [value]),
    "in a dict": (lambda kind: dict[str, kind], lambda value: {"k": value}),
    "in a tuple": (lambda kind: tuple[int, kind], lambda value: (1, value)),
}


@pytest.mark.parametrize(("kind", "former", "value"), RULES, ids=label)
@pytest.mark.parametrize("around", AROUND)
def test_p9_a_type_reads_by_its_own_rule(kind: Any, former: Any, value: Any, around: str) -> None:
    annotate, wrap = AROUND[around]
    cls, stored = taking(annotate(kind)), json.loads(json.dumps(wrap(former)))
    assert cls.parse({"item": stored}).item == wrap(value)
    assert cls.contract.props[0].codec.decode(stored) == wrap(value)
    from jsonschema import Draft202012Validator

    assert Draft202012Validator(cls.contract.to_json_schema()).is_valid({"item": stored})


def test_p9_a_stored_run_is_read_by_the_rules_of_the_new_release(isolated_runtime: Isolated) -> None:
    def release(**annotations: Any) -> Any:
        def perform(self: Any) -> list[str]:
            return [type(getattr(self, name)).__name__ for name in annotations]

        body = {"__annotations__": annotations, "__module__": __name__, "perform": perform}
        return types.new_class("Draw", (Operation,), {"name": "drawing.draw"}, lambda space: space.update(body))

    before = release(colour=str, corner=str, amount=dict, share=str)
    ticket = before(colour="crimson", corner="UPPER", amount={"value": "1,5"}, share="1:3").async_().call()
    release(colour=Colour, corner=Corner, amount=Amount, share=Share)
    isolated_runtime.run_pending()
    assert ticket.result(1) == ["Colour", "Corner", "Amount", "Share"]


@pytest.mark.parametrize("value", ["raise", "unknown", 7, 1.5, None])
def test_p9_a_value_that_no_rule_reads_is_refused(value: Any) -> None:
    assert "item: expected 'red'" in refused(lambda: taking(Colour).parse({"item": value}), PropsError)
    refused(lambda: taking(Amount).parse({"item": {"value": [value]}}), PropsError)


def test_p9_at_construction_the_member_itself_is_expected() -> None:
    assert "item: expected Colour, got str 'red'" in refused(lambda: taking(Colour)(item="red"), PropsError)


# -------------------------------------------------------------------------------- p15: abstract containers

ABSTRACT: list[tuple[Any, list[Any], Any, Any]] = [
    (Sequence[date], [[date.min], (date.min,)], (date.min,), ["x"]),
    (tp.Sequence[date], [[date.min]], (date.min,), "x"),
    (Iterable[int], [[1], (1,)], (1,), {1}),
    (Collection[int], [[1]], (1,), iter([1])),
    (AbstractSet[int], [{1}, frozenset({1})], frozenset({1}), [1]),
    (MutableSequence[int], [[1]], [1], (1,)),
    (MutableSet[int], [{1}], {1}, frozenset({1})),
    (Mapping[str, date], [{"a": date.min}], {"a": date.min}, {"a": 1}),
    (MutableMapping[str, int], [{"a": 1}], {"a": 1}, types.MappingProxyType({"a": 1})),
]


@pytest.mark.parametrize(("annotation", "values", "expected", "wrong"), ABSTRACT, ids=label)
def test_p15_an_abstract_container_is_one_class_in_place_and_in_a_worker(
    annotation: Any, values: list[Any], expected: Any, wrong: Any
) -> None:
    cls = taking(annotation)
    for value in values:
        operation = cls(item=value)
        assert operation.item == expected
        assert type(operation.item) is type(expected)
        form = cls.contract.props[0].codec
        back = form.decode(json.loads(json.dumps(form.encode(operation.item))))
        assert back == expected
        assert type(back) is type(expected)
        assert cls.parse({"item": form.encode(operation.item)}).item == expected
    refused(lambda: cls(item=wrong), PropsError)


def test_p15_a_sequence_prop_accepts_an_immutable_default() -> None:
    class Tagged(Op):
        tags: Sequence[str] = ()

    assert Tagged(tags=["a"]).tags == ("a",)
    assert Tagged().tags == ()


class Pair(NamedTuple):
    day: date
    note: str = ""


def test_p15_a_named_tuple_is_stored_as_an_object() -> None:
    cls = taking(Pair)
    form = cls.contract.props[0].codec
    assert form.encode(Pair(date.min)) == {"day": "0001-01-01", "note": ""}
    back = cls.parse({"item": {"day": "0001-01-01"}}).item
    assert back == Pair(date.min)
    assert type(back) is Pair
    assert "item.day: expected date" in refused(lambda: cls(item=Pair("x")), PropsError)  # type: ignore[arg-type]


# ---------------------------------------------------------------------- p16: two classes of one name


def other(name: str, module: str = "shop.other", **body: Any) -> Any:
    return type(name, (), {"__module__": module, "__qualname__": name, **body})


class Item:
    """A class; another class of another module has the same name."""


@attrs.frozen
class Line:
    sku: str


@dataclass
class Row:
    sku: str


class Doc(pydantic.BaseModel):
    sku: str


def again(cls: Any) -> Any:
    """Declare the class again, as a reload of its module does."""
    if issubclass(cls, enum.Enum):
        return enum.Enum(cls.__name__, {"RED": "red"}, module=cls.__module__, qualname=cls.__qualname__)
    if attrs.has(cls):
        return attrs.make_class(cls.__name__, ["sku"], class_body={"__module__": cls.__module__})
    return other(cls.__name__, cls.__module__)


@pytest.mark.parametrize("cls", [Item, Line, Row, Doc, Colour])
@pytest.mark.parametrize("module", ["shop.other", "__main__"])
@pytest.mark.parametrize("around", AROUND)
def test_p16_a_class_of_the_same_name_is_distinguished_from_the_other(cls: Any, module: str, around: str) -> None:
    annotate, wrap = AROUND[around]
    value = other(cls.__name__, module)()
    message = refused(lambda: taking(annotate(cls))(item=wrap(value)), PropsError)
    assert f"{cls.__name__} of {__name__} (the value is of {module})" in message or (
        f"of {__name__} (the value is of {module})" in message
    )


@pytest.mark.parametrize("cls", [Item, Colour, Line])
def test_p16_the_error_about_a_class_of_an_earlier_load_of_its_module_names_the_reload(cls: Any) -> None:
    fresh = again(cls)
    value = fresh.RED if cls is Colour else fresh("a") if cls is Line else fresh()
    assert "earlier load of the module" in refused(lambda: taking(cls)(item=value), PropsError)


def test_p16_a_result_of_another_class_of_the_same_name_is_refused() -> None:
    class Gives(Operation):
        def perform(self) -> Line:
            return other("Line")()  # type: ignore[no-any-return]

    assert "(the value is of shop.other)" in refused(lambda: Gives().call(), ResultTypeError)


# ------------------------------------------------------------------------------ p21: classes that change


class Text(str): ...


class Number(int): ...


class Names(dict[str, int]): ...


class Numbers(list[int]): ...


class Moment(datetime): ...


class Money(Decimal): ...


@attrs.define
class Base:
    a: int


@attrs.define
class Derived(Base):
    b: int = 0


@dataclass
class Plain:
    a: int


class DerivedPlain(Plain): ...


class Half(Share): ...


class DerivedDoc(Doc):
    more: int = 0


Point = collections.namedtuple("Point", "x y")
CHANGING: list[tuple[Any, Any]] = [
    (str, Text("a")),
    (str, Size.SMALL),
    (int, Number(1)),
    (int, True),
    (int, Level.LOW),
    (float, type("Real", (float,), {})(1.5)),
    (bytes, bytearray(b"a")),
    (datetime, Moment(2026, 1, 1)),
    (date, datetime(2026, 1, 1)),
    (Decimal, Money(1)),
    (list, Numbers([1])),
    (list[int], Numbers([1])),
    (list[int], (1,)),
    (dict[str, int], Names(a=1)),
    (dict[str, int], collections.OrderedDict(a=1)),
    (dict[str, int], collections.defaultdict(int, a=1)),
    (Mapping[str, int], collections.Counter(a=1)),
    (tuple[int, ...], Point(1, 2)),
    (Sequence[int], Point(1, 2)),
    (Sequence[int], range(3)),
    (set[int], frozenset({1})),
    (Base, Derived(1)),
    (Plain, DerivedPlain(1)),
    (Doc, DerivedDoc(sku="a")),
    (Share, Half(1, 2)),
    (Path, type("Place", (type(Path()),), {})("a")),
    (Any, Text("a")),
    (Any, (1, 2)),
    (Any, Level.LOW),
    (dict, {"k": Text("a")}),
    (dict, {1: "a"}),
    (dict, {True: "a"}),
    (dict[int, str], {1: "a"}),
    (dict[Size, str], {Size.SMALL: "a"}),
    (list, [Names()]),
    (object, Point(1, 2)),
]


@pytest.mark.parametrize(("annotation", "value"), CHANGING, ids=label)
def test_p21_a_value_that_would_be_read_as_another_class_is_refused(annotation: Any, value: Any) -> None:
    class Takes(Operation):
        item: annotation

        def perform(self) -> None: ...

    with pytest.raises((PropsError, NotSerializable)) as caught:
        operation = Takes(item=value)
        operation.contract.props[0].codec.encode(operation.item)
    assert "item" in str(caught.value) or "is of type" in str(caught.value) or "key" in str(caught.value)


# ------------------------------------------------------------------------- p23: types without a JSON form


class Readable(tp.Protocol):
    limit: int

    def read(self) -> bytes: ...


class Reader:
    limit = 1

    def read(self) -> bytes:
        return b""


@tp.runtime_checkable
class Closable(tp.Protocol):
    def close(self) -> None: ...


def generated() -> Iterator[int]:
    yield 1


OPAQUE: list[tuple[Any, Any, Any]] = [
    (tp.IO[bytes], io.BytesIO(), 7),
    (tp.TextIO, io.StringIO(), "path"),
    (tp.BinaryIO, io.BytesIO(), object()),
    (Readable, Reader(), object()),
    (Closable, io.BytesIO(), 7),
    (Callable[[int], str], str, 7),
    (Callable, str, 7),
    (Iterator[int], iter([1]), [1]),
    (Generator[int, None, None], generated(), [1]),
    (type[Base], Derived, int),
    (type, int, 7),
    (Item, Item(), 7),
    (complex, 1j, 1),
    (types.ModuleType, json, 7),
    (tuple[int, *tuple[str, ...]], (1, "a"), [1]),
    (collections.deque[int], collections.deque([1]), [1]),
    (io.TextIOBase, io.StringIO(), io.BytesIO()),
]


@pytest.mark.parametrize(("annotation", "right", "wrong"), OPAQUE, ids=label)
def test_p23_a_type_without_a_json_form_is_checked_in_place(annotation: Any, right: Any, wrong: Any) -> None:
    for around in ("alone", "listed", "in a dict"):
        annotate, wrap = AROUND[around]
        cls = taking(annotate(annotation))
        operation = cls(item=wrap(right))
        assert "item" in refused(lambda cls=cls, wrap=wrap: cls(item=wrap(wrong)), PropsError)
        with pytest.raises(NotSerializable, match="no JSON form"):
            cls.contract.props[0].codec.encode(operation.item)


@pytest.mark.parametrize("annotation", [tp.Never, tp.NoReturn, tp.TypeGuard[int], 5, "tp.Never"], ids=label)
def test_p23_an_annotation_that_is_not_a_type_is_refused_at_the_class(annotation: Any) -> None:
    assert "Takes.item: " in refused(lambda: taking(annotation)(item=1))


# ------------------------------------------------------------------------------------------ p26: advice


def test_p26_advice_names_the_annotation_to_change(isolated_runtime: Isolated) -> None:
    class Prop(Operation):
        data: dict  # type: ignore[type-arg]

        def perform(self) -> None: ...

    class Result(Operation):
        def perform(self) -> dict:  # type: ignore[type-arg]
            return {"a": Decimal(1)}

    class Untyped(Operation):
        def perform(self):  # type: ignore[no-untyped-def]
            return {"a": Decimal(1)}

    class File(Operation):
        def perform(self) -> complex:
            return 1j

    advice = refused(
        lambda: Prop(data={"a": Decimal(1)}).contract.props[0].codec.encode({"a": Decimal(1)}), NotSerializable
    )
    assert "give the prop a type such as dict[str, Decimal]" in advice
    for cls in (Result, Untyped, File):
        cls().call()
    messages = {record.operation.rpartition(".")[2]: str(record.result_error) for record in records.where()}
    assert re.search(r"give the return annotation of \S*Result\.perform a type such as dict", messages["Result"])
    assert re.search(r"return annotation of \S*Untyped\.perform", messages["Untyped"])
    assert "return an id or a path" in messages["File"]


@attrs.frozen
class Holder:
    data: dict  # type: ignore[type-arg]


class Held(TypedDict):
    data: dict  # type: ignore[type-arg]


@pytest.mark.parametrize(
    ("annotation", "value", "subject"),
    [
        (Holder, Holder({"a": Decimal(1)}), "give the field Holder.data a type"),
        (list[Held], [{"data": {"a": Decimal(1)}}], "give the key Held['data'] a type"),
        (dict, {"a": Decimal(1)}, "give the prop a type"),
    ],
)
def test_p26_advice_names_the_field_inside_of_a_prop(annotation: Any, value: Any, subject: str) -> None:
    assert subject in refused(lambda: codec_of(annotation).encode(value), NotSerializable)


def test_p26_advice_on_a_step_names_the_step(isolated_runtime: Isolated) -> None:
    from dexpy.errors import StepError

    class Ship(Operation, name="shipping.ship"):
        def perform(self) -> None:
            self.step(self.weigh)

        def weigh(self):  # type: ignore[no-untyped-def]
            return {"a": Decimal(1)}

    with pytest.raises(StepError, match=r"the return annotation of the step .*Ship\.weigh a type such as"):
        Ship().call()


# ------------------------------------------------------------------------------------ zones, for the page


def test_p15_a_zone_becomes_the_offset_at_its_datetime() -> None:
    berlin = datetime(2026, 1, 31, 8, tzinfo=ZoneInfo("Europe/Berlin"))
    form = codec_of(datetime)
    back = form.decode(form.encode(form.check(berlin)))
    assert back == berlin
    assert back.tzinfo == dt.timezone(dt.timedelta(hours=1))


# ---------------------------------------------------------------------------------------------- pydantic


class Order(pydantic.BaseModel):
    sku: str = pydantic.Field(min_length=2)
    quantity: int = pydantic.Field(gt=0, alias="qty")
    day: date | None = None

    @pydantic.field_validator("sku")
    @classmethod
    def known(cls, value: str) -> str:
        if value == "none":
            raise ValueError("unknown sku")
        return value


class Masked(pydantic.BaseModel):
    token: pydantic.SecretStr


class Roots(pydantic.RootModel[list[int]]): ...


class Buy(Operation):
    order: Order
    more: list[Order] = prop(factory=list)
    either: Order | Doc | None = None

    def perform(self) -> dict[str, Order]:
        return {"first": self.order}


def test_p21_a_pydantic_model_is_a_prop_and_a_result(isolated_runtime: Isolated) -> None:
    order = {"sku": "ab", "qty": 1, "day": "2026-01-31"}
    operation = Buy.parse({"order": order, "more": [order], "either": {"$type": "Doc", "sku": "x"}})
    assert operation.more[0].day == date(2026, 1, 31)
    assert type(operation.either) is Doc
    ticket = operation.async_().call()
    isolated_runtime.run_pending()
    assert ticket.result(1) == {"first": operation.order}
    assert operation.call() == {"first": operation.order}
    assert records.get(ticket.id).params["order"] == order


def test_p21_a_pydantic_model_refuses_by_its_own_validation() -> None:
    message = refused(lambda: Buy.parse({"order": {"sku": "none", "qty": 0}, "more": [{"sku": "a"}]}), PropsError)
    assert "order.sku: Value error, unknown sku" in message
    assert "order.qty: Input should be greater than 0" in message
    assert "more[0].qty: Field required" in message
    assert "order: expected Order, got dict" in refused(lambda: Buy(order={"sku": "ab", "qty": 1}), PropsError)
    assert "order: expected object for Order" in refused(lambda: Buy.parse({"order": 7}), PropsError)


def test_p21_a_pydantic_model_that_does_not_round_trip_is_refused() -> None:
    small = Order(sku="ab", qty=1)
    small.quantity = 0
    for annotation, value in (
        (Masked, Masked(token="s3cret")),
        (Order, small),
        (Order, Order.model_construct(sku="ab")),
    ):
        form = codec_of(annotation)
        message = refused(lambda form=form, value=value: form.encode(form.check(value)), NotSerializable)  # type: ignore
        assert "s3cret" not in message


def test_p23_a_changed_pydantic_model_is_checked_in_place() -> None:
    broken, listed = Order(sku="ab", qty=1), Roots([1])
    broken.quantity = "many"  # type: ignore[assignment]
    listed.root.append("no")  # type: ignore[arg-type]
    assert "order: expected Order with valid values" in refused(lambda: Buy(order=broken), PropsError)
    assert "item: expected Roots with valid values" in refused(lambda: taking(Roots)(item=listed), PropsError)


class Aliased(pydantic.BaseModel):
    one: int = pydantic.Field(validation_alias=pydantic.AliasChoices("first", "un"))
    two: int = pydantic.Field(validation_alias="second", serialization_alias="deux")


def test_p9_a_model_is_read_by_its_aliases_and_stored_readably() -> None:
    cls = taking(Aliased)
    operation = cls.parse({"item": {"un": 1, "second": 2}})
    form = codec_of(Aliased)
    assert form.decode(form.encode(operation.item)) == operation.item
    assert form.decode({"first": 1, "second": 2}) == operation.item


def test_p21_a_model_is_copied_like_other_values_that_can_be_changed() -> None:
    order = Order(sku="ab", qty=1)
    operation = Buy(order=order)
    order.sku = "changed"
    assert operation.order.sku == "ab"


def test_p21_the_schema_accepts_what_a_pydantic_model_accepts() -> None:
    from jsonschema import Draft202012Validator

    schema = Buy.contract.to_json_schema("full")
    Draft202012Validator.check_schema(schema)
    params = Draft202012Validator(Buy.contract.to_json_schema("params"))
    assert params.is_valid({"order": {"sku": "ab", "qty": 1}, "either": {"$type": "Order", "sku": "ab", "qty": 1}})
    assert not params.is_valid({"order": 7})
    assert "qty" in json.dumps(Buy.contract.to_json_schema("params"))
    success = Draft202012Validator(Buy.contract.to_json_schema("success"))
    assert success.is_valid({"first": {"sku": "ab", "qty": 1, "day": None}})
    assert not success.is_valid({"first": {"sku": 1, "qty": 1}})


def test_p21_a_root_model_is_stored_as_its_root() -> None:
    cls = taking(Roots)
    assert cls.parse({"item": [1, 2]}).item == Roots([1, 2])
    form = codec_of(Roots)
    assert form.decode(form.encode(Roots([1]))) == Roots([1])


def test_p21_prop_in_a_pydantic_model_is_refused() -> None:
    class Odd(pydantic.BaseModel):
        amount: tp.Annotated[int, prop(gt=0)]

    assert "Odd.amount: prop() is not supported in a pydantic model" in refused(lambda: taking(Odd)(item=1))
