"""The declarations of a class body take effect, or are refused when the class is declared or first used."""

import dataclasses
import enum
import sys
import typing as tp
from collections.abc import Callable, Iterator
from dataclasses import InitVar, dataclass
from datetime import date
from decimal import Decimal
from typing import Annotated, Any, ClassVar, Final, Generic, NotRequired, ParamSpec, TypedDict, TypeVar

import annotated_types
import attrs
import pydantic
import pytest
import typing_extensions as te
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from dexpy import Async, Lock, Operation, OptRef, PropsError, Ref, Refs, Retry, prop
from dexpy.errors import DeclarationError
from dexpy.testing import Isolated, isolated

T = TypeVar("T")
U = TypeVar("U")
P = ParamSpec("P")


@pytest.fixture
def isolated_runtime() -> Iterator[Isolated]:
    with isolated() as runtime:
        yield runtime


class Op(Operation):
    record = False

    def perform(self) -> None: ...


def refused(action: Callable[[], object], kind: type[Exception] = DeclarationError) -> str:
    with pytest.raises(kind) as caught:
        action()
    return str(caught.value)


def in_worker(isolated_runtime: Isolated, operation: Any) -> Any:
    ticket = operation.async_().call()
    isolated_runtime.run_pending()
    return ticket.result(1)


# ------------------------------------------------------------------------------------------ p2: generics


class Keep(Operation, Generic[T]):
    item: T

    def perform(self) -> T:
        return self.item


class KeepDate(Keep[date]): ...


class KeepAgain(KeepDate): ...


class Store(Keep[list[U]], Generic[U]):
    more: dict[str, U] = prop(factory=dict)


class StoreDate(Store[date]): ...


@attrs.frozen
class Page(Generic[T]):
    items: list[T]


@dataclass
class Pair(Generic[T, U]):
    one: T
    other: U


class Entry(TypedDict, Generic[T]):
    value: T


class Dated(Entry[date]):
    note: str


class Sheet(pydantic.BaseModel, Generic[T]):
    rows: list[T]


@pytest.mark.parametrize("cls", [KeepDate, KeepAgain])
def test_p2_a_subclass_binds_the_type_variable_of_its_base(isolated_runtime: Isolated, cls: Any) -> None:
    assert "item: expected date, got str" in refused(lambda: cls(item="31 January"), PropsError)
    assert cls.parse({"item": "2026-01-31"}).item == date(2026, 1, 31)
    assert cls.contract.to_dict()["params"]["item"]["type"] == "date"
    assert cls.contract.to_dict()["success"] == "date"
    assert in_worker(isolated_runtime, cls(item=date(2026, 1, 31))) == date(2026, 1, 31)


def test_p2_variables_over_several_levels_and_inside_of_other_types(isolated_runtime: Isolated) -> None:
    operation = StoreDate.parse({"item": ["2026-01-31"], "more": {"a": "2026-02-01"}})
    assert operation.item == [date(2026, 1, 31)]
    assert operation.more == {"a": date(2026, 2, 1)}
    assert in_worker(isolated_runtime, operation) == [date(2026, 1, 31)]
    assert "item[0]: expected date" in refused(lambda: StoreDate(item=["x"]), PropsError)


GENERIC_VALUES: list[tuple[Any, Any, Any]] = [
    (Page[date], Page([date(2026, 1, 31)]), Page(["x"])),
    (Pair[date, int], Pair(date(2026, 1, 31), 1), Pair(1, 1)),
    (Entry[date], {"value": date(2026, 1, 31)}, {"value": 1}),
    (Dated, {"value": date(2026, 1, 31), "note": "a"}, {"value": 1, "note": "a"}),
    (tuple[Page[Pair[date, date]], ...], (Page([Pair(date.min, date.max)]),), (Page([Pair(1, 2)]),)),
    (date | None, None, 7),
]


@pytest.mark.parametrize(("argument", "value", "wrong"), GENERIC_VALUES, ids=lambda value: str(value)[:40])
def test_p2_a_generic_class_is_an_argument_and_an_annotation(argument: Any, value: Any, wrong: Any) -> None:
    class Bound(Keep[argument]): ...  # type: ignore[valid-type, misc]

    class Annotates(Op):
        item: argument  # type: ignore[valid-type]

    class ByVariable(Op, Generic[T]):
        item: dict[str, T]

    class Filled(ByVariable[argument]): ...  # type: ignore[valid-type, misc]

    for cls in (Bound, Annotates):
        assert cls(item=value).item == value
        refused(lambda cls=cls: cls(item=wrong), PropsError)  # type: ignore[misc]
        form = cls.contract.props[0].codec
        assert form.decode(form.encode(value)) == value
    assert Filled(item={"a": value}).item == {"a": value}
    assert "item['a']" in refused(lambda: Filled(item={"a": wrong}), PropsError)


def test_p2_a_type_variable_can_have_a_different_type_in_each_base() -> None:
    class Left(Operation, Generic[T]):
        left: T

    class Right(Operation, Generic[T]):
        right: T

    class Both(Left[int], Right[str]):
        def perform(self) -> None: ...

    class Plain(Op): ...

    class Behind(Plain, Both): ...

    for cls in (Both, Behind):
        assert cls(left=1, right="a").left == 1
        assert len(refused(lambda cls=cls: cls(left="a", right=1), PropsError).splitlines()) == 3  # type: ignore[misc]


def test_p2_a_type_variable_without_an_argument_uses_its_default_its_constraints_or_its_bound() -> None:
    bound, one_of = TypeVar("bound", bound=Decimal), TypeVar("one_of", int, str)  # type: ignore[misc]
    late = TypeVar("late", bound="Colour")  # type: ignore[misc]
    default = te.TypeVar("default", default=date)  # type: ignore[misc]

    class Loose(Op, Generic[bound, one_of, late, default]):  # type: ignore[misc, valid-type]
        a: bound  # type: ignore[valid-type]
        b: one_of  # type: ignore[valid-type]
        c: default  # type: ignore[valid-type]
        d: late  # type: ignore[valid-type]

    Loose(a=Decimal(1), b="x", c=date.min, d=Colour.RED)
    message = refused(lambda: Loose(a=1, b=1.5, c=1, d=1), PropsError)
    assert [line.split(",")[0].strip() for line in message.splitlines()[1:]] == [
        "a: expected Decimal",
        "b: expected int or str",
        "c: expected date",
        "d: expected Colour",
    ]


def test_p2_a_default_of_a_type_variable_replaces_a_missing_argument() -> None:
    one, other = te.TypeVar("one"), te.TypeVar("other", default=date)  # type: ignore[misc]

    class Two(Op, Generic[one, other]):  # type: ignore[misc, valid-type]
        a: one  # type: ignore[valid-type]
        b: other  # type: ignore[valid-type]

    class Filled(Two[int]): ...  # type: ignore[type-arg, misc]

    assert Filled(a=1, b=date.min).b == date.min
    assert "b: expected date" in refused(lambda: Filled(a=1, b=1), PropsError)


def test_p2_a_pydantic_model_is_generic_too() -> None:
    class Rows(Op, Generic[T]):
        sheet: Sheet[T]

    class Dates(Rows[date]): ...

    assert Dates.parse({"sheet": {"rows": ["2026-01-31"]}}).sheet.rows == [date(2026, 1, 31)]
    assert "sheet.rows[0]" in refused(lambda: Dates.parse({"sheet": {"rows": ["x"]}}), PropsError)


def test_p2_a_parameter_specification_is_refused_as_a_type() -> None:
    class Odd(Op, Generic[P]):
        item: P  # type: ignore[valid-type]

    assert "Odd.item: P: expected a type, got a ParamSpec" in refused(lambda: Odd(item=1))


def test_p2_self_is_the_subclass_that_is_constructed() -> None:
    class Node(Op):
        parent: tp.Self | None = None

    class Leaf(Node): ...

    assert Leaf(parent=Leaf()).parent == Leaf()
    assert "parent: expected Leaf" in refused(lambda: Leaf(parent=Node()), PropsError)


class Model(DeclarativeBase): ...


class User(Model):
    __tablename__ = "declared_users"
    id: Mapped[int] = mapped_column(primary_key=True)


M = TypeVar("M", bound=Model)


class OfRows(Operation, Generic[M]):
    one: Ref[M]
    maybe: OptRef[M] = prop(default=None)
    many: Refs[M] = prop(factory=list)

    def perform(self) -> None: ...


class OfUsers(OfRows[User]): ...


def test_p2_references_use_the_model_that_a_subclass_names() -> None:
    operation = OfUsers(one=1, maybe=2, many=[3, 4])
    assert repr(operation) == "OfUsers(one=1, maybe=2, many=[3, 4])"
    assert OfUsers.contract.to_dict()["params"]["many"]["type"] == "Refs[User]"
    assert "one: expected a User or its key" in refused(lambda: OfUsers(one="x"), PropsError)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="needs the syntax of Python 3.12")
@pytest.mark.parametrize("future", ["", "from __future__ import annotations\n"], ids=["values", "text"])
def test_p2_type_parameters_in_the_syntax_of_python_3_12(future: str) -> None:
    names: dict[str, Any] = {"__name__": "declared_elsewhere"}
    source = """
from datetime import date
from dexpy import Operation
type Many[X] = list[X]
class Keep[T](Operation):
    item: T
    many: Many[T]
    def perform(self) -> T:
        return self.item
class KeepDate(Keep[date]): ...
"""
    exec(future + source, names)  # noqa: S102
    cls = names["KeepDate"]
    assert cls.parse({"item": "2026-01-31", "many": ["2026-01-31"]}).many == [date(2026, 1, 31)]
    assert cls.contract.to_dict()["success"] == "date"
    assert "item: expected date" in refused(lambda: cls(item="x", many=[]), PropsError)


# ------------------------------------------------------------------------------------- p3: attrs' idioms

FIELDS: dict[str, Callable[[], Any]] = {
    "validator": lambda: attrs.field(validator=attrs.validators.ge(1)),
    "validators": lambda: attrs.field(default=1, validator=[attrs.validators.ge(1), attrs.validators.lt(9)]),
    "converter": lambda: attrs.field(converter=int),
    "repr": lambda: attrs.field(repr=False),
    "repr of its own": lambda: attrs.field(repr=str),
    "eq": lambda: attrs.field(eq=False),
    "order": lambda: attrs.field(order=False),
    "hash": lambda: attrs.field(hash=False),
    "init": lambda: attrs.field(default=1, init=False),
    "alias": lambda: attrs.field(alias="number"),
    "on_setattr": lambda: attrs.field(on_setattr=attrs.setters.frozen),
    "takes_self": lambda: attrs.field(default=attrs.Factory(lambda self: 1, takes_self=True)),
    "old spelling": lambda: attrs.field(default=1, validator=attrs.validators.instance_of(int)),
    "dataclasses": lambda: dataclasses.field(default=1),
    "pydantic": lambda: pydantic.Field(gt=0),
}


@pytest.mark.parametrize("name", FIELDS)
def test_p3_rules_of_other_libraries_that_dexpy_does_not_apply_are_refused(name: str) -> None:
    def declare() -> None:
        class Pay(Op):
            amount: int = FIELDS[name]()

    message = refused(declare)
    assert "Pay.amount: " in message
    assert "Remove" in message or "Write" in message or "Declare" in message or "Rename" in message


def test_p3_decorators_of_a_field_are_refused() -> None:
    def validated() -> None:
        class Pay(Op):
            amount: int = prop(ge=0)

            @amount.validator
            def check(self, attribute: Any, value: int) -> None: ...

    def defaulted() -> None:
        class Pay(Op):
            amount: int = attrs.field()

            @amount.default
            def one(self) -> int:
                return 1

    assert "Pay.amount: attrs' validator would be ignored" in refused(validated)
    assert "Pay.amount: a default that depends on self would be ignored" in refused(defaulted)


def test_p3_rules_that_attrs_and_dexpy_share_are_in_force() -> None:
    class Pay(Op):
        amount: int = attrs.field(default=3, kw_only=True, metadata={"unit": "EUR"})
        items: list[int] = attrs.field(factory=list)
        more: list[int] = attrs.Factory(list)  # type: ignore[assignment]

    assert (Pay().amount, Pay().items, Pay().more) == (3, [], [])
    assert attrs.fields(Pay).amount.metadata["unit"] == "EUR"


HOOKS = ["__init__", "__new__", "__post_init__", "__attrs_post_init__", "__attrs_pre_init__", "__setattr__"]


@pytest.mark.parametrize("hook", HOOKS)
@pytest.mark.parametrize("place", ["own", "mixin before", "mixin after", "base"])
def test_p3_a_construction_hook_is_refused_in_a_class_its_bases_and_mixins(hook: str, place: str) -> None:
    def method(self: Any, *arguments: Any, **named: Any) -> None: ...

    def declare() -> None:
        mixin = type("Mixin", (), {hook: method})
        if place == "own":
            type("Pay", (Op,), {hook: method})
        elif place == "base":
            type("Pay", (type("Base", (Op, mixin), {}),), {})
        else:
            type("Pay", (mixin, Op) if place == "mixin before" else (Op, mixin), {})

    assert f"{hook} would be ignored" in refused(declare)


def test_p3_slots_are_refused() -> None:
    def declare() -> None:
        class Pay(Op):
            __slots__ = ("amount",)
            amount: int

    assert "__slots__ is not supported" in refused(declare)


DECORATORS: dict[str, Callable[[Any], Any]] = {
    "attrs.define": attrs.define,
    "attrs.define without slots": attrs.define(slots=False),
    "attrs.frozen": attrs.frozen,
    "attrs.define without init": attrs.define(slots=False, init=False),
    "dataclass": dataclass,
    "dataclass with slots": dataclass(slots=True),
    "dataclass without init": dataclass(init=False),
}


@pytest.mark.parametrize("name", DECORATORS)
def test_p3_a_decorator_that_returns_another_class_is_refused(name: str) -> None:
    def use() -> None:
        class Pay(Op):
            amount: int

        DECORATORS[name](Pay)(amount=1)

    assert "Remove the decorator" in refused(use)


def test_p3_protocols_and_abstract_bases_work() -> None:
    import abc

    class Named(tp.Protocol):
        def title(self) -> str: ...

    class Base(Op, abc.ABC): ...

    class Titled(Base, Named):
        amount: int

        def title(self) -> str:
            return "t"

    assert Titled(amount=1).title() == "t"


# ----------------------------------------------------------------------------------------- p4: Annotated

Positive = Annotated[int, prop(gt=0)]
Secret = Annotated[str, prop(sensitive=True)]


def test_p4_a_prop_in_annotated_is_in_force() -> None:
    class Pay(Op):
        amount: Positive
        maybe: Positive | None = None
        code: Annotated[str, "other metadata", prop(pattern="[A-Z]+", desc="Of the bank")] = "A"
        listed: Annotated[int, prop(choices=(1, 2), default=2)]

    assert Pay(amount=1).listed == 2  # type: ignore[call-arg]
    message = refused(lambda: Pay(amount=-5, maybe=0, code="a", listed=3), PropsError)
    assert len(message.splitlines()) == 5
    schema = Pay.contract.to_json_schema("params")
    assert schema["properties"]["amount"] == {"type": "integer", "exclusiveMinimum": 0}
    assert schema["properties"]["code"]["description"] == "Of the bank"
    assert schema["required"] == ["amount"]


def test_p4_a_secret_in_annotated_is_shown_nowhere(isolated_runtime: Isolated) -> None:
    class Card(Operation):
        token: Secret
        maybe: Secret | None = None
        inside: list[Secret] = prop(factory=list)
        deep: dict[str, Holder] = prop(factory=dict)

        def perform(self) -> None:
            raise ValueError(f"no {self.token} {self.maybe} {self.inside} {self.deep['a'].key}")

    operation = Card(token="tok-1111", maybe="tok-2222", inside=["tok-3333"], deep={"a": Holder(key="tok-4444")})
    shown = repr(operation) + refused(lambda: Card(token=b"tok-1111", inside=[b"tok-3333"]), PropsError)  # type: ignore
    assert "tok-" not in shown
    assert [Card.contract.to_json_schema()["properties"][name].get("writeOnly") for name in vars(operation)] == [
        True
    ] * 4


@attrs.frozen
class Holder:
    key: str = prop(sensitive=True)
    size: int = prop(default=1, le=3)


@attrs.define
class Holding:
    amounts: list[Annotated[int, prop(gt=0)]]
    holder: Holder | None = None


class Amounts(TypedDict):
    amount: Annotated[int, prop(gt=0)]


@dataclass
class Numbered:
    amount: Annotated[int, prop(gt=0)]


DEEP: list[tuple[Any, Any, Any, str]] = [
    (list[Positive], [1], [1, 0], "item[1]: expected a value > 0, got int 0"),
    (dict[str, Positive], {"a": 1}, {"a": 0}, "item['a']: expected a value > 0"),
    (dict[Annotated[str, prop(pattern="[a-z]")], int], {"a": 1}, {"A": 1}, "item['A']: expected text that matches"),
    (tuple[int, Positive], (0, 1), (0, 0), "item[1]: expected a value > 0"),
    (set[Positive], {1}, {0}, "item[*]: expected a value > 0"),
    (Positive | str | None, 1, 0, "item: expected a value > 0"),
    (Holder, Holder(key="a"), Holder(key="a", size=4), "item.size: expected a value <= 3"),
    (Holding, Holding([1]), Holding([0], Holder(key="a", size=9)), "item.amounts[0]: expected a value > 0"),
    (Amounts, {"amount": 1}, {"amount": 0}, "item['amount']: expected a value > 0"),
    (Numbered, Numbered(1), Numbered(0), "item.amount: expected a value > 0"),
    (
        Annotated[list[Annotated[int, prop(gt=0)]], prop(max_length=1)],
        [1],
        [1, 1],
        "item: expected a length of at most 1",
    ),
    (tp.NewType("Count", Positive), 1, 0, "item: expected a value > 0"),  # type: ignore[valid-newtype]
    (te.TypeAliasType("Count", Positive), 1, 0, "item: expected a value > 0"),
    (Annotated[int, annotated_types.Gt(0), annotated_types.doc("n")], 1, 0, "item: expected a value > 0"),
    (list[Annotated[str, annotated_types.Len(1, 2)]], ["a"], [""], "item[0]: expected a length of at least 1"),
    (Annotated[int, annotated_types.Interval(ge=1, le=2)], 1, 3, "item: expected a value <= 2"),
]


@pytest.mark.parametrize(("annotation", "right", "wrong", "expected"), DEEP, ids=lambda value: str(value)[:40])
def test_p4_constraints_inside_of_a_type_are_in_force(annotation: Any, right: Any, wrong: Any, expected: str) -> None:
    class Takes(Op):
        item: annotation  # type: ignore[valid-type]

    assert Takes(item=right).item == right
    secret = "<sensitive>" if annotation in (Holder, Holding) else ""
    message = refused(lambda: Takes(item=wrong), PropsError)
    assert (expected in message) if not secret else ("item: " in message and secret in message)
    form = Takes.contract.props[0].codec
    assert form.decode(form.encode(right)) == right
    from jsonschema import Draft202012Validator

    schema = Draft202012Validator(Takes.contract.to_json_schema())
    assert schema.is_valid({"item": form.encode(right)})


def test_p4_a_result_is_checked_against_its_constraints() -> None:
    class Count(Operation):
        record = False

        def perform(self) -> Annotated[int, prop(gt=0)]:
            return 0

    from dexpy.errors import ResultTypeError

    assert "result: expected a value > 0" in refused(lambda: Count().call(), ResultTypeError)


@pytest.mark.parametrize(
    "option",
    [
        {"default": 1},
        {"context": "user"},
        {"context": True},
        {"lock": True},
        {"aliases": ("old",)},
        {"encrypted": True},
    ],
)
def test_p4_options_of_a_whole_prop_are_refused_inside_of_a_type(option: dict[str, Any]) -> None:
    class Odd(Op):
        items: list[Annotated[str, prop(**option)]]

    message = refused(lambda: Odd(items=[]))
    assert f"Odd.items: prop({next(iter(option))}=...): valid for a whole prop only" in message


def test_p4_both_notations_work_together() -> None:
    class Pay(Op):
        amount: Annotated[int, prop(gt=0)] = prop(default=5, lt=10)

    assert Pay().amount == 5
    assert len(refused(lambda: [Pay(amount=10)], PropsError).splitlines()) == 2
    assert len(refused(lambda: [Pay(amount=0)], PropsError).splitlines()) == 2

    def twice() -> None:
        class Again(Op):
            amount: Annotated[int, prop(gt=0)] = prop(gt=10)

    assert "Again.amount: gt is declared twice, as 0 and as 10" in refused(twice)

    def two_defaults() -> None:
        class Again(Op):
            amount: Annotated[int, prop(default=1)] = 2

    assert "Again.amount: its default is declared twice" in refused(two_defaults)


def test_p4_a_reference_in_annotated_is_a_reference() -> None:
    class Show(Op):
        user: Annotated[Ref[User], prop(lock=True)]

    assert Show.contract.references[0].lock
    assert Show(user=1) == Show(user=1)


RULES = [annotated_types.MultipleOf(5), annotated_types.Predicate(str.isascii), pydantic.Field(gt=0), pydantic.Strict()]


@pytest.mark.parametrize("rule", RULES, ids=repr)
def test_p4_a_rule_of_another_library_that_dexpy_does_not_have_is_refused(rule: Any) -> None:
    def use() -> None:
        class Odd(Op):
            amount: Annotated[int, rule]

        Odd(amount=1)

    assert "Odd.amount: " in refused(use) or "Annotated[" in refused(use)

    class Inside(Op):
        amounts: list[Annotated[int, rule]]

    assert "Inside.amounts: Annotated[" in refused(lambda: Inside(amounts=[]))


def test_p4_metadata_of_other_libraries_is_ignored() -> None:
    class Pay(Op):
        amount: Annotated[int, ["no hash"], te.Doc("What is paid")]

    assert Pay(amount=1).amount == 1
    assert Pay.contract.to_dict()["params"]["amount"]["description"] == "What is paid"


# ----------------------------------------------------------------------------------- p5: class variables


def test_p5_a_class_variable_under_any_name_is_not_a_prop() -> None:
    class Send(Op):
        a: tp.ClassVar[int] = 1
        b: te.ClassVar[int] = 2
        c: "tp.ClassVar[int]" = 3
        d: "ClassVar" = 4
        to: str

    assert [field.name for field in Send.contract.props] == ["to"]
    assert Send(to="x").a == 1
    assert "a: unknown prop; expected one of" in refused(lambda: Send(to="x", a=6), PropsError)


@pytest.mark.parametrize(
    "annotation", [InitVar[int], InitVar, NotRequired[int], tp.Required[int], te.ReadOnly[int], Final]
)
def test_p5_a_qualifier_without_a_meaning_is_refused(annotation: Any) -> None:
    def declare() -> None:
        class Odd(Op):
            amount: annotation = 5

        Odd()

    assert "Odd.amount: " in refused(declare)


def test_p5_final_with_a_type_is_a_prop() -> None:
    class Pay(Op):
        amount: Final[int] = 5  # type: ignore[misc]

    assert Pay(amount=6).amount == 6


class Colour(enum.Enum):
    RED = "red"


# ------------------------------------------------------------------- p2 and p4: constraints in a type argument


class KeepOrNone(Operation, Generic[T]):
    item: T | None = None
    record = False

    def perform(self) -> None: ...


class KeepBelow(Operation, Generic[T]):
    item: Annotated[T, prop(lt=10)]
    record = False

    def perform(self) -> None: ...


Positive = Annotated[int, prop(gt=0)]
Hidden = Annotated[str, prop(sensitive=True)]


@pytest.mark.parametrize("base", [Keep, KeepOrNone, KeepBelow])
def test_p4_a_prop_in_a_type_argument_is_in_force(base: Any) -> None:
    class Argued(base[Positive]):  # type: ignore[misc]
        ...

    assert Argued(item=3).item == 3
    assert "item: expected a value > 0, got int -1" in refused(lambda: Argued(item=-1), PropsError)


def test_p4_a_type_argument_adds_to_the_options_of_the_prop() -> None:
    class Argued(KeepBelow[Positive]): ...

    assert "expected a value < 10" in refused(lambda: Argued(item=10), PropsError)

    class Twice(KeepBelow[Annotated[int, prop(lt=3)]]): ...

    assert "lt is declared twice" in refused(lambda: Twice(item=1))


def test_p4_a_secret_in_a_type_argument_is_not_shown() -> None:
    class Argued(KeepOrNone[Hidden]): ...

    assert "4711" not in repr(Argued(item="4711"))


def test_p4_other_objects_of_dexpy_and_attrs_in_annotated_are_refused() -> None:
    for marker in (Retry(ValueError), attrs.validators.ge(1)):
        body = {"__annotations__": {"item": Annotated[int, marker]}, "__module__": __name__}
        assert "Refused.item: Annotated[..., " in refused(lambda body=body: type("Refused", (Op,), body))  # type: ignore[misc]


# ------------------------------------------------------------------------------------ p3: hooks and decorators


def test_p3_decorators_of_pydantic_are_refused() -> None:
    for decorated in (
        pydantic.field_validator("item")(lambda cls, value: value),
        pydantic.computed_field(lambda self: 1),
        pydantic.model_validator(mode="after")(lambda self: self),
    ):
        body = {"__annotations__": {"item": int}, "check": decorated, "__module__": __name__}
        text = refused(lambda body=body: type("Refused", (Op,), body))  # type: ignore[misc]
        assert "Refused.check has a decorator of pydantic" in text


def test_p3_a_subclass_hook_that_does_not_call_super_is_named() -> None:
    class Base(Operation):
        def __init_subclass__(cls, **keywords: Any) -> None: ...

    class Sub(Base):
        item: int

        def perform(self) -> None: ...

    for use in (lambda: Sub(item=1), lambda: Sub.parse({"item": 1}), lambda: Sub.contract):
        text = refused(use)
        assert "Base.__init_subclass__ does not call super()" in text
        assert "super().__init_subclass__(**keywords)" in text
    assert "Operation is the base class of all operations" in refused(lambda: Operation.contract)


# -------------------------------------------------------------------------- p11: a plain annotation of a policy


class Annotates(Operation):
    item: int = 0
    retry_on: tuple[Retry, ...] = (Retry(ConnectionError),)
    timeout: float = 30
    record: bool = False
    lock: "Lock | None" = Lock("item")
    errors: set[str] = {"gone"}
    transaction: bool = False
    async_: Async = Async(queue="shop")

    def perform(self) -> None: ...


class Overrides(Annotates):
    retry_on = (Retry(TimeoutError), Retry(OSError))
    timeout: float = 5


def test_p11_a_plain_annotation_of_a_policy_makes_no_prop() -> None:
    assert [one.name for one in Overrides.contract.props] == ["item"]
    assert "timeout" in refused(lambda: Annotates(timeout=3), PropsError)  # type: ignore[call-arg]


def test_p11_the_value_of_an_annotated_policy_is_the_policy() -> None:
    contract = Annotates.contract
    assert (contract.timeout_s, contract.record, contract.transactional) == (30, None, False)
    assert (contract.lock, contract.options.queue) == (Annotates.lock, "shop")
    assert [rule.cause for rule in Overrides.contract.rules] == [ConnectionError, TimeoutError, OSError]
    assert Overrides.contract.timeout_s == 5


def test_p11_without_a_value_or_with_prop_the_name_is_reserved() -> None:
    for annotation, body in (
        (int, {}),
        (int, {"timeout": prop(default=3)}),
        (Annotated[int, prop(ge=1)], {"timeout": 3}),
    ):
        namespace = {"__annotations__": {"timeout": annotation}, "__module__": __name__, **body}
        assert "reserved name 'timeout'" in refused(lambda namespace=namespace: type("Taken", (Op,), namespace))  # type: ignore[misc]


def test_p11_a_value_that_is_not_a_policy_is_refused() -> None:
    namespace = {"__annotations__": {"lock": str}, "__module__": __name__, "lock": "door"}
    assert "Locked.lock: expected a Lock(...) or None, got 'door'" in refused(lambda: type("Locked", (Op,), namespace))
