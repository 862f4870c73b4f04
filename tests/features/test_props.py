"""Props are typed, strictly checked and immutable; one error lists all problems."""

import copy
import dataclasses
import enum
import pickle
import re
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypedDict
from uuid import UUID

import attrs
import pytest

import dexpy
from dexpy import DexpyError, Error, Operation, OptRef, PropsError, Ref, Refs, prop
from dexpy.declaration.class_definition import RATE, RESERVED
from dexpy.errors import DeclarationError, Problem
from dexpy.testing import Isolated

from . import postponed
from .shop import Country, Customer, Device, Line


class Color(enum.Enum):
    RED = "red"
    BLUE = "blue"


@attrs.define
class Item:
    sku: str
    tags: list[str] = attrs.field(factory=list)


@dataclasses.dataclass
class Card:
    number: str


class Address(TypedDict):
    street: str


class Pair(NamedTuple):
    a: int
    b: int


class Op(Operation):
    """The base of the operations of this file; returns its props."""

    def perform(self) -> Any:
        return {name: value for name, value in vars(self).items() if not name.startswith("_")}


class Pay(Op):
    amount: Decimal = prop(ge=0, desc="in euros")
    day: date
    note: str | None = None
    color: Color = Color.RED
    items: list[Item] = prop(factory=list)


class Bounded(Op):
    at_least: int = prop(default=1, ge=1)
    above: float = prop(default=0.5, gt=0)
    at_most: Decimal = prop(default=Decimal(1), le=10)
    below: timedelta = prop(default=timedelta(0), lt=timedelta(days=1))
    long: str = prop(default="abc", min_length=2)
    short: list[int] = prop(factory=list, max_length=2)
    code: str = prop(default="AB-1", pattern=r"[A-Z]{2}-\d+")
    size: str = prop(default="S", choices=("S", "M"))
    maybe: int | None = prop(default=None, ge=5)


class Empty(Op):
    pass


class MadeToday(Op):
    day: date = prop(factory=lambda: "today")


class Secret(Op):
    name: str
    pin: int = prop(sensitive=True, ge=1000, choices=(1234, 4711), default=1234)
    keys: dict[str, int] = prop(sensitive=True, factory=dict)


class Greeting(Op):
    name: str


class Owned(Op):
    customer: Ref[Customer]
    other: OptRef[Customer] = prop(default=None)
    friends: Refs[Customer] = prop(factory=list)


def refusal(make: Callable[[], object]) -> str:
    with pytest.raises(PropsError) as caught:
        make()
    return str(caught.value)


def wrong_class(declare: Callable[[], object]) -> str:
    with pytest.raises(DeclarationError) as caught:
        declare()
    return str(caught.value)


# ------------------------------------------------------------------------------------ all problems at once


def test_every_problem_of_an_input_is_in_one_error() -> None:
    assert refusal(lambda: Pay(amount="1", note=7, items=[Item("a"), {"sku": 1}], colour="red")) == (
        "Pay: 5 invalid props\n"
        "  amount: expected Decimal, got str '1'\n"
        "  day: missing; expected date\n"
        "  note: expected str or None, got int 7\n"
        "  items[1]: expected Item, got dict {'sku': 1}\n"
        "  colour: unknown prop; expected one of 'amount', 'color', 'day', 'items', 'note'. Did you mean 'color'?"
    )


def test_a_props_error_is_a_type_error_and_a_value_error_and_carries_its_facts() -> None:
    with pytest.raises(PropsError) as caught:
        Pay(amount=Decimal(-1), day=date(2026, 1, 31))
    error = caught.value
    assert isinstance(error, TypeError)
    assert isinstance(error, ValueError)
    assert isinstance(error, DexpyError)
    assert error.operation == "Pay"
    assert error.problems == (Problem(".amount", "a value >= 0", "Decimal Decimal('-1')"),)
    assert str(error) == ("Pay: 1 invalid prop\n  amount: expected a value >= 0, got Decimal Decimal('-1')")


def test_positional_arguments_are_refused_with_the_fix() -> None:
    assert refusal(lambda: Pay(3)) == ("Pay: expected keyword arguments only. Write Pay(amount=..., day=...).")


def test_an_unknown_prop_is_named_without_its_value() -> None:
    assert refusal(lambda: Secret(name="a", pni=4711)) == (
        "Secret: 1 invalid prop\n  pni: unknown prop; expected one of 'keys', 'name', 'pin'. Did you mean 'pin'?"
    )


def test_an_operation_without_props_refuses_all_arguments() -> None:
    assert refusal(lambda: Empty(a=1)) == ("Empty: 1 invalid prop\n  a: unknown prop; the operation has no props")
    assert refusal(lambda: Empty(1)) == "Empty: expected no arguments, because it has no props. Write Empty()."


def test_a_long_value_is_shortened_in_the_message() -> None:
    assert len(refusal(lambda: Pay(amount="x" * 100_000, day=date(2026, 1, 1)))) < 250
    assert len(refusal(lambda: Bounded(short=list(range(100_000))))) < 250


def test_a_value_whose_repr_raises_is_refused_like_any_other() -> None:
    class Rude:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    assert "note: expected str or None, got Rude" in refusal(lambda: Pay(amount=Decimal(1), day=date.min, note=Rude()))


# ------------------------------------------------------------------------------------------- constraints


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"at_least": 0}, "at_least: expected a value >= 1, got int 0"),
        ({"above": 0}, "above: expected a value > 0, got float 0.0"),
        ({"above": float("nan")}, "above: expected a value > 0, got float nan"),
        ({"at_most": Decimal("10.01")}, "at_most: expected a value <= 10, got Decimal Decimal('10.01')"),
        (
            {"below": timedelta(days=1)},
            "below: expected a value < datetime.timedelta(days=1), got timedelta datetime.timedelta(days=1)",
        ),
        ({"long": "a"}, "long: expected a length of at least 2, got str 'a'"),
        ({"short": [1, 2, 3]}, "short: expected a length of at most 2, got list [1, 2, 3]"),
        ({"code": "AB-1x"}, r"code: expected text that matches '[A-Z]{2}-\\d+' as a whole, got str 'AB-1x'"),
        ({"size": "L"}, "size: expected one of 'S', 'M', got str 'L'"),
        ({"maybe": 4}, "maybe: expected a value >= 5, got int 4"),
    ],
)
def test_a_value_out_of_bounds_is_refused_with_the_bound(values: dict[str, Any], expected: str) -> None:
    assert refusal(lambda: Bounded(**values)) == f"Bounded: 1 invalid prop\n  {expected}"


def test_values_within_bounds_are_accepted_and_none_is_not_checked_against_them() -> None:
    bounded = Bounded(
        at_least=1, above=0.1, at_most=Decimal(10), below=timedelta(hours=23), long="ab", short=[1, 2],
        code="ZZ-99", size="M", maybe=None,
    )  # fmt: skip
    assert bounded.call()["at_most"] == Decimal(10)
    assert Bounded(maybe=5).maybe == 5


def test_a_decimal_that_is_not_a_number_is_out_of_bounds() -> None:
    assert "amount: expected a value >= 0, got Decimal Decimal('NaN')" in refusal(
        lambda: Pay(amount=Decimal("NaN"), day=date.min)
    )


def test_a_naive_datetime_is_refused_by_an_aware_bound() -> None:
    class Plan(Op):
        at: datetime = prop(ge=datetime(2026, 1, 1, tzinfo=UTC))

    assert Plan(at=datetime(2026, 1, 1, tzinfo=UTC)).at.year == 2026
    assert (
        "at: expected a value >= datetime.datetime(2026, 1, 1, 0, 0, tzinfo=datetime.timezone.utc), "
        "got datetime datetime.datetime(2026, 1, 1, 0, 0)"
    ) in refusal(lambda: Plan(at=datetime(2026, 1, 1)))


def test_a_bound_of_another_type_is_refused_at_the_declaration() -> None:
    class Odd(Op):
        count: int = prop(min_length=3)

    assert wrong_class(lambda: Odd(count=1)).endswith(
        "Odd.count: prop(min_length=3) does not fit its type int. Change one of them."
    )


def test_the_description_of_a_prop_is_in_its_metadata() -> None:
    assert attrs.fields(Pay).amount.metadata["dexpy"].desc == "in euros"


# ---------------------------------------------------------------------------------- defaults and factories


def test_a_factory_is_called_for_each_operation() -> None:
    one, other = Bounded(), Bounded()
    assert one.short == other.short == []
    assert one.short is not other.short


def test_the_value_of_a_factory_is_checked_too() -> None:
    assert wrong_class(MadeToday) == (
        "MadeToday.day: invalid factory: day: expected date, got str 'today'. Change the factory or the type."
    )


def test_a_default_and_a_factory_together_are_refused() -> None:
    assert (
        wrong_class(lambda: prop(default=1, factory=int)) == "prop(default=, factory=): expected one of them, got both."
    )


def test_a_factory_that_cannot_be_called_is_refused() -> None:
    assert wrong_class(lambda: prop(factory=[])) == "prop(factory=[]): expected a function without arguments."  # type: ignore[arg-type]


def test_an_invalid_regular_expression_is_refused_as_a_pattern() -> None:
    assert wrong_class(lambda: prop(pattern="[")).startswith("prop(pattern='['): invalid regular expression: ")


def test_a_single_text_as_aliases_or_choices_is_refused() -> None:
    assert wrong_class(lambda: prop(aliases="old")) == (
        "prop(aliases='old'): expected a tuple of names. Write aliases=('old',)."
    )
    assert wrong_class(lambda: prop(choices="SM")) == (
        "prop(choices='SM'): expected a tuple of values. Write choices=('SM',)."
    )


@pytest.mark.parametrize("default", [[], {}, set()])
def test_a_mutable_default_is_refused_with_the_fix(default: Any) -> None:
    kind = type(default).__name__
    assert wrong_class(lambda: prop(default=default)) == (
        f"prop(default={default!r}) would be shared by all operations. Write prop(factory={kind}), or pass a lambda."
    )

    def declare() -> None:
        class Shared(Op):
            items: list[int] = default

    assert wrong_class(declare) == (
        f"{test_a_mutable_default_is_refused_with_the_fix.__qualname__}.<locals>.declare.<locals>.Shared.items: "
        f"the default {default!r} would be shared by all operations. Write prop(factory={kind}), or pass a lambda."
    )


def test_a_default_of_the_wrong_type_is_refused_at_the_first_use() -> None:
    class Wrong(Op):
        count: int = "3"  # type: ignore[assignment]

    class TooSmall(Op):
        count: int = prop(default=0, ge=1)

    assert wrong_class(Wrong).endswith(
        "Wrong.count: invalid default: count: expected int, got str '3'. Change the default or the type."
    )
    assert wrong_class(TooSmall).endswith(
        "TooSmall.count: invalid default: count: expected a value >= 1, got int 0. Change the default or the type."
    )


def test_an_unannotated_prop_is_refused_and_named() -> None:
    def declare() -> None:
        class Untyped(Op):
            amount: int
            note = prop(default="")

    assert wrong_class(declare).endswith("Untyped: prop() without a type: note. Write note: int = prop(...).")


# ----------------------------------------------------------------------------------------------- strictness


class Strict(Op):
    i: int = 0
    f: float = 0.0
    b: bool = False
    s: str = ""
    y: bytes = b""
    d: date = date.min
    dt: datetime = datetime.min
    t: time = time.min
    td: timedelta = timedelta()
    n: Decimal = Decimal()
    u: UUID = UUID(int=0)
    e: Color = Color.RED
    lit: Literal["a", 1] = "a"
    p: Path = Path()
    li: list[int] = prop(factory=list)
    tu: tuple[int, ...] = ()
    pair: tuple[int, str] = (1, "a")
    se: set[int] = prop(factory=set)
    fs: frozenset[int] = frozenset()
    di: dict[str, int] = prop(factory=dict)
    it: Item | None = None
    ad: Address | None = None
    un: int | str | None = None
    an: Annotated[int, "metadata"] = 0


class SubInt(int):
    pass


class SubStr(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("name", "value", "wanted"),
    [
        ("i", "1", "int"),
        ("i", True, "int"),
        ("i", 1.0, "int"),
        ("i", SubInt(1), "int"),
        ("f", "1.0", "float"),
        ("f", True, "float"),
        ("f", Decimal(1), "float"),
        ("b", 1, "bool"),
        ("b", "true", "bool"),
        ("s", b"a", "str"),
        ("s", 1, "str"),
        ("s", SubStr("a"), "str"),
        ("y", "a", "bytes"),
        ("y", bytearray(b"a"), "bytes"),
        ("d", datetime(2026, 1, 1), "date"),
        ("d", "2026-01-01", "date"),
        ("dt", date(2026, 1, 1), "datetime"),
        ("t", "10:00", "time"),
        ("td", 5, "timedelta"),
        ("n", 1, "Decimal"),
        ("n", 1.5, "Decimal"),
        ("n", "1", "Decimal"),
        ("u", str(UUID(int=0)), "UUID"),
        ("e", "red", "Color"),
        ("lit", "b", "one of 'a', 1"),
        ("lit", True, "one of 'a', 1"),
        ("p", "/tmp", "Path"),
        ("li", (1,), "list[int]"),
        ("li", {1}, "list[int]"),
        ("tu", [1], "tuple[int, ...]"),
        ("se", [1], "set[int]"),
        ("fs", {1}, "frozenset[int]"),
        ("di", [("a", 1)], "dict[str, int]"),
        ("pair", Pair(1, 2), "tuple[int, str]"),
        ("it", {"sku": "a"}, "Item or None"),
        ("ad", {"sku": "a"}, None),
        ("un", 1.5, "int or str or None"),
        ("un", True, "int or str or None"),
        ("an", "1", "int"),
    ],
)
def test_a_value_of_another_type_is_refused(name: str, value: object, wanted: str | None) -> None:
    lines = refusal(lambda: Strict(**{name: value})).splitlines()[1:]
    if wanted is None:
        assert lines
    else:
        assert len(lines) == 1
        assert lines[0].startswith(f"  {name}: expected {wanted}, got {type(value).__name__} ")


def test_an_int_is_converted_to_an_expected_float() -> None:
    operation = Strict(f=3)
    assert operation.f == 3.0
    assert type(operation.f) is float


def test_a_path_inside_a_value_is_named() -> None:
    message = refusal(
        lambda: Strict(li=[1, "2", 3.0], di={"a": "x"}, pair=(1, 2), it=Item(sku=3), ad={"street": 1})  # type: ignore[arg-type]
    )
    assert message.splitlines()[1:] == [
        "  li[1]: expected int, got str '2'",
        "  li[2]: expected int, got float 3.0",
        "  pair[1]: expected str, got int 2",
        "  di['a']: expected int, got str 'x'",
        "  it.sku: expected str, got int 3",
        "  ad['street']: expected str, got int 1",
    ]


def test_a_union_of_types_with_the_same_json_form_is_refused_naming_both() -> None:
    class Either(Op):
        when: date | str

    assert wrong_class(lambda: Either(when="a")).endswith(
        "Either.when: date | str: ambiguous union; date and str are both stored as a JSON string. "
        "Use one type, or wrap one of them in a class (attrs or dataclass)."
    )


# ---------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", sorted(RESERVED))
def test_a_reserved_name_is_refused_with_the_list(name: str) -> None:
    def declare() -> None:
        type("Taken", (Op,), {"__annotations__": {name: int}, "__module__": "nowhere"})

    assert wrong_class(declare) == (
        f"Taken.{name}: a prop cannot have the reserved name {name!r}. "
        f"Choose another name; the reserved ones are {', '.join(map(repr, sorted(RESERVED)))}."
    )


def test_every_public_name_of_an_operation_is_reserved() -> None:
    public = {name for name in dir(Operation) if not name.startswith("_")}
    assert public - {RATE} <= RESERVED, "a prop may be an exchange rate"


FREE = """
    name id status queue priority trace tags result params error date type count index progress note cls
    operation call_id state version keys values items owner given positional
""".split()


@pytest.mark.parametrize("name", FREE)
def test_a_name_that_is_not_reserved_can_be_a_prop(isolated_runtime: Isolated, name: str) -> None:
    cls: Any = type("Free", (Op,), {"__annotations__": {name: int}, "__module__": "nowhere"})
    operation = cls(**{name: 7})
    assert getattr(operation, name) == 7
    assert operation == cls.parse({name: 7})
    assert repr(operation) == f"Free({name}=7)"
    assert operation.call() == {name: 7}
    assert dexpy.records.all().first().params == {name: 7}  # type: ignore[union-attr]


def test_a_name_with_an_underscore_is_refused_and_a_class_variable_is_not_a_prop() -> None:
    def declare() -> None:
        class Hidden(Op):
            _cache: int = 0

    assert wrong_class(declare).endswith(
        "Hidden._cache: invalid name of a prop; names must not begin with an underscore. Write 'cache', or "
        "ClassVar[...] for an attribute that is not a prop."
    )

    class Shown(Op):
        _cache: ClassVar[dict[str, int]] = {}
        other: ClassVar[int] = 3

    assert Shown().call() == {}
    assert attrs.fields(Shown) == ()


# ----------------------------------------------------------------------------- immutability, equality, repr


def test_an_operation_cannot_be_changed() -> None:
    operation = Owned(customer=3)
    for name in ("customer", "other", "new"):
        with pytest.raises(attrs.exceptions.FrozenInstanceError):
            setattr(operation, name, 4)
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        del operation.other  # type: ignore[misc]
    assert operation == Owned(customer=3)


def test_operations_are_equal_by_class_and_props() -> None:
    one = Bounded(at_least=2, short=[1])
    assert one == Bounded(at_least=2, short=[1])
    assert one != Bounded(at_least=2, short=[2])
    assert one != "Bounded"

    class Sub(Bounded):
        pass

    assert Sub(at_least=2, short=[1]) != one


def test_operations_with_hashable_props_can_be_in_a_set_and_others_raise_the_reason() -> None:
    assert len({Greeting(name="a"), Greeting(name="a"), Greeting(name="b")}) == 2
    assert len({Owned(customer=1), Owned(customer=1), Owned(customer=2)}) == 2
    with pytest.raises(TypeError, match="unhashable type: 'list'"):
        hash(Bounded())


def test_references_are_compared_by_key_without_a_load() -> None:
    detached = Customer(id=3, name="gone")
    from sqlalchemy.orm import make_transient_to_detached

    make_transient_to_detached(detached)
    by_key, by_instance = Owned(customer=3, friends=[1, 2]), Owned(customer=detached, friends=[1, 2])
    assert by_key == by_instance
    assert hash(by_key) == hash(by_instance)
    assert by_key != Owned(customer=4, friends=[1, 2])
    assert by_key != Owned(customer=3, other=5, friends=[1, 2])
    assert repr(by_key) == repr(by_instance) == "Owned(customer=3, other=None, friends=[1, 2])"


def test_an_instance_without_a_primary_key_equals_only_itself_and_its_repr_shows_it() -> None:
    new = Customer(name="new")
    assert Owned(customer=new) == Owned(customer=new)
    assert Owned(customer=new) != Owned(customer=Customer(name="new"))
    assert repr(Owned(customer=new)) == "Owned(customer=<Customer without a key>, other=None, friends=[])"


def test_an_operation_can_be_copied_and_pickled() -> None:
    operation = Pay(amount=Decimal("1.50"), day=date(2026, 1, 1))
    assert copy.copy(operation) == operation
    assert copy.deepcopy(operation) == operation
    assert pickle.loads(pickle.dumps(operation)) == operation  # noqa: S301 - our own bytes
    assert pickle.loads(pickle.dumps(Owned(customer=3))) == Owned(customer=3)  # noqa: S301


def test_attrs_fields_lists_the_props() -> None:
    assert [field.name for field in attrs.fields(Pay)] == ["amount", "day", "note", "color", "items"]
    assert attrs.has(Pay)


# -------------------------------------------------------------------------------------------- mutable values


def test_changing_a_list_after_construction_does_not_change_the_operation() -> None:
    initial, inner = [1], {"a": [1]}

    class Holds(Op):
        numbers: list[int]
        plain: dict[str, list[int]]
        anything: Any

    operation = Holds(numbers=initial, plain=inner, anything=inner)
    initial.append(2)
    inner["a"].append(2)
    assert operation.numbers == [1]
    assert operation.plain == {"a": [1]}
    assert operation.anything == {"a": [1]}


class Changes(Operation):
    numbers: list[int]
    item: Item

    def perform(self) -> tuple[int, int]:
        self.numbers.append(1)
        self.item.tags.append("seen")
        return len(self.numbers), len(self.item.tags)


def test_a_run_that_changes_a_mutable_prop_changes_neither_the_operation_nor_the_next_run() -> None:
    item = Item("a")
    operation = Changes(numbers=[], item=item)
    assert operation.call() == (1, 1)
    assert operation.call() == (1, 1)
    assert operation.numbers == []
    assert operation.item.tags == item.tags == []


def test_the_record_has_the_params_as_passed(isolated_runtime: Isolated) -> None:
    Changes(numbers=[], item=Item("a")).call()
    assert dexpy.records.all().first().params == {"numbers": [], "item": {"sku": "a", "tags": []}}  # type: ignore[union-attr]


def test_values_appended_to_a_list_of_an_operation_are_checked_before_it_runs() -> None:
    operation = Bounded(short=[1])
    operation.short.append("2")  # type: ignore[arg-type]
    assert refusal(operation.call) == "Bounded: 1 invalid prop\n  short[1]: expected int, got str '2'"


# ------------------------------------------------------------------------------------------------- renamed props


def test_stored_params_may_have_a_prop_under_an_earlier_name(isolated_runtime: Isolated) -> None:
    def declare(name: str, **body: Any) -> Any:
        return type("Migrated", (Op,), {"__annotations__": {name: int}, "__module__": "nowhere", **body})

    ticket = declare("amount")(amount=3).async_().call()
    new = declare("price", price=prop(aliases=("cost", "amount")))
    isolated_runtime.run_pending()
    assert ticket.result(1) == {"price": 3}
    assert refusal(lambda: new(amount=3)).splitlines()[1:] == [
        "  price: missing; expected int",
        "  amount: unknown prop; expected one of 'price'",
    ]


# --------------------------------------------------------------------------------------------- sensitive props


def test_a_sensitive_value_is_in_no_repr_and_in_no_error() -> None:
    assert repr(Secret(name="a", pin=4711, keys={"k-4711": 1})) == (
        "Secret(name='a', pin=<sensitive>, keys=<sensitive>)"
    )
    assert refusal(lambda: Secret(name="a", pin=999_111)) == (
        "Secret: 1 invalid prop\n  pin: expected one of its 2 declared choices, got <sensitive>"
    )
    assert refusal(lambda: Secret(name="a", pin="4711", keys={"k-4711": "v-4711"})) == (
        "Secret: 2 invalid props\n  pin: expected int, got <sensitive>\n  keys: expected int, got <sensitive>"
    )


def test_a_sensitive_value_is_in_no_error_of_parse() -> None:
    message = refusal(lambda: Secret.parse({"name": "a", "pin": "4711", "keys": {"k-4711": "v"}, "pni": "4711"}))
    assert message == (
        "Secret: 3 invalid props\n"
        "  pin: expected int, got <sensitive>\n"
        "  keys: expected int, got <sensitive>\n"
        "  pni: unknown prop; expected one of 'keys', 'name', 'pin'. Did you mean 'pin'?"
    )


class Leaks(Operation):
    number: int = prop(sensitive=True, default=471_199)
    raw: bytes = prop(sensitive=True, default=b"s3cret-bytes")
    card: Card = prop(sensitive=True, factory=lambda: Card("4444-1111"))
    day: date = prop(sensitive=True, default=date(1970, 5, 17))

    def perform(self) -> None:
        every = [self.number, self.raw.decode(), self.card.number, str(self.day), self.raw, self.card, self.day]
        raise Error("leaks", f"it is {every}", details={"is": every, str(self.number): {"n": self.number}, "free": 7})


def test_a_sensitive_value_of_any_type_is_in_no_text_about_a_failure(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    Leaks().safe.call()
    record = dexpy.records.all().first()
    assert record is not None
    text = f"{record.error_message} {record.error_details} {caplog.text}"
    for secret in ("471199", "s3cret", "4444", "1970", "czNj"):
        assert secret not in text
    assert record.error_details["free"] == 7
    assert record.error_details["<sensitive>"] == {"n": "<sensitive>"}


def test_a_props_error_has_no_chained_exception() -> None:
    with pytest.raises(PropsError) as caught:
        Secret(name="a", pin="4711")
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


# ------------------------------------------------------------------------------------- inheritance and mixins


class WithLimit(Operation):
    limit: int = prop(default=10, ge=1)


class Paged(Operation):
    page: int = 1

    def offset(self) -> int:
        return self.page * 100


class Listing(WithLimit, Paged):
    query: str

    def perform(self) -> tuple[str, int, int]:
        return self.query, self.limit, self.offset()


class Narrow(Listing):
    limit: int = prop(default=3, le=5)


def test_props_are_inherited_from_every_base_and_a_subclass_may_redeclare_them() -> None:
    assert Listing(query="a").call() == ("a", 10, 100)
    assert Narrow(query="a", page=2).call() == ("a", 3, 200)
    assert "limit: expected a value <= 5, got int 6" in refusal(lambda: Narrow(query="a", limit=6))
    assert Narrow(query="a", limit=0).limit == 0
    assert Listing(query="a", limit=6).limit == 6


def test_a_subclass_may_redeclare_a_reference_with_another_type() -> None:
    class Plain(Owned):
        customer: int  # type: ignore[assignment]
        friends: list[int] = prop(factory=list)  # type: ignore[assignment]

    operation = Plain(customer=3, friends=[1])
    assert operation.customer == 3
    assert operation.friends == [1]


def test_an_attribute_without_a_type_cannot_replace_an_inherited_prop() -> None:
    def declare() -> None:
        class Smaller(WithLimit):
            limit = 3

    assert wrong_class(declare).endswith(
        "Smaller.limit: overrides a prop of WithLimit without a type, and would be ignored. "
        "Write limit: ... = ..., or choose another name."
    )

    def hide() -> None:
        class Hidden(WithLimit):
            def limit(self) -> int:  # type: ignore[override]
                return 3

    assert "Hidden.limit: overrides a prop of WithLimit" in wrong_class(hide)


class Mixin:
    page: int = prop(default=1)


def test_a_prop_of_a_plain_mixin_is_refused_with_the_fix() -> None:
    def declare() -> None:
        class Mixed(Mixin, Op):
            query: str

    assert wrong_class(declare).endswith(
        "Mixed: Mixin.page is a prop() outside of an Operation, and would be ignored. Write class Mixin(Operation)."
    )


def test_methods_of_a_plain_mixin_and_cached_properties_work() -> None:
    from functools import cached_property

    class Counting:
        @cached_property
        def total(self) -> int:
            return sum(self.numbers)  # type: ignore[attr-defined]

    class Sum(Counting, Operation):
        numbers: list[int]

        def perform(self) -> int:
            return self.total

    operation = Sum(numbers=[1, 2])
    assert operation.total == 3
    assert operation.call() == 3


# ------------------------------------------------------------------------------------- annotations that are text


def test_a_model_may_be_declared_below_the_operation() -> None:
    operation = postponed.Rename(page=3, aliased=4)
    assert repr(operation) == "Rename(page=3, parent=None, others=[], aliased=4, title=None)"
    assert [field.name for field in attrs.fields(postponed.Rename)] == ["page", "parent", "others", "aliased", "title"]
    with pytest.raises(dexpy.errors.NotRunning):
        _ = operation.page
    with pytest.raises(dexpy.errors.NotRunning):
        _ = operation.aliased
    page = postponed.Page(id=1, title="a")
    assert postponed.Rename(page=page, aliased=page).aliased is page


def test_a_prop_type_that_is_imported_only_for_type_checkers_raises_an_error_with_the_fix() -> None:
    assert wrong_class(lambda: postponed.Invisible(amount=1)) == (  # type: ignore[arg-type]
        "Invisible.amount: undefined name 'Decimal' in the type 'Decimal'; it does not exist at run time. "
        "Import it outside of `if TYPE_CHECKING:` and on module level "
        "(ruff's flake8-type-checking: runtime-evaluated-base-classes = ['dexpy.Operation'])."
    )


def test_a_result_type_that_is_imported_only_for_type_checkers_is_refused_before_perform_runs() -> None:
    assert wrong_class(postponed.InvisibleResult().call).startswith(
        "InvisibleResult.perform: undefined name 'Decimal' in the type 'Decimal'; it does not exist at run time. "
    )
    assert postponed.InvisibleResult.done == []


# ------------------------------------------------------------------------------------------------------ parse


def test_parse_accepts_external_json() -> None:
    operation = Strict.parse(
        {
            "d": "2026-11-21", "dt": "2026-11-21T10:00:00+01:00", "t": "10:00", "td": "PT1H", "n": "1.50",
            "u": "12345678-1234-5678-1234-567812345678", "e": "blue", "p": "/etc", "tu": [1], "se": [1, 1],
            "fs": [2], "pair": [1, "a"], "it": {"sku": "a"}, "y": "AAE=", "f": 1,
        }
    )  # fmt: skip
    assert operation.d == date(2026, 11, 21)
    assert operation.dt == datetime.fromisoformat("2026-11-21T10:00:00+01:00")
    assert (operation.t, operation.td, operation.n) == (time(10), timedelta(hours=1), Decimal("1.50"))
    assert operation.u == UUID("12345678-1234-5678-1234-567812345678")
    assert (operation.e, operation.p, operation.tu, operation.se, operation.fs) == (
        Color.BLUE,
        Path("/etc"),
        (1,),
        {1},
        frozenset({2}),
    )
    assert (operation.pair, operation.it, operation.y, operation.f) == ((1, "a"), Item("a"), b"\x00\x01", 1.0)
    assert Strict.parse({"n": 3}).n == Decimal(3)


@pytest.mark.parametrize(
    ("name", "value"), [("i", "1"), ("i", 1.0), ("f", "1"), ("b", "true"), ("b", 1), ("n", 1.5), ("e", "RED"), ("s", 1)]
)
def test_parse_does_not_convert_values_of_other_types(name: str, value: object) -> None:
    assert refusal(lambda: Strict.parse({name: value})).count("\n") == 1


def test_parse_accepts_ids_for_references() -> None:
    class Uses(Op):
        customer: Ref[Customer]
        country: OptRef[Country] = prop(default=None)
        device: OptRef[Device] = prop(default=None)
        line: OptRef[Line] = prop(default=None)
        friends: Refs[Customer] = prop(factory=list)

    number = UUID(int=7)
    data = {"customer": 3, "country": "de", "device": str(number), "line": [1, 2], "friends": [4, 5]}
    assert Uses.parse(data) == Uses(customer=3, country="de", device=number, line=(1, 2), friends=[4, 5])
    assert refusal(lambda: Uses.parse({"customer": "3", "device": "x", "line": [1], "friends": 4})).splitlines()[
        1:
    ] == [
        "  customer: expected a Customer or its key (int), got str '3'",
        "  device: expected a Device or its key (UUID text), got str 'x'",
        "  line: expected a Line or its key (a tuple of 2 values), got a tuple of 1",
        "  friends: expected a list for Refs[Customer], got int",
    ]


def test_parse_reports_all_problems_at_once_and_refuses_unknown_keys() -> None:
    assert refusal(lambda: Pay.parse({"amount": "-1", "colour": "red", "items": [{"sku": "a", "qty": 1}]})) == (
        "Pay: 4 invalid props\n"
        "  amount: expected a value >= 0, got Decimal Decimal('-1')\n"
        "  day: missing; expected date\n"
        "  items[0]: expected only the keys 'sku', 'tags', got 'qty'\n"
        "  colour: unknown prop; expected one of 'amount', 'color', 'day', 'items', 'note'. Did you mean 'color'?"
    )


@pytest.mark.parametrize("data", [[], None, "{}", 3])
def test_parse_requires_a_mapping(data: Any) -> None:
    assert refusal(lambda: Pay.parse(data)) == (f"Pay: parse() expected a mapping of props, got {type(data).__name__}.")


def test_a_wrong_value_for_a_reference_is_refused_with_the_expected_types() -> None:
    message = refusal(lambda: Owned(customer=Country(code="de"), other="3", friends=[1, "x", None]))  # type: ignore[list-item]
    assert re.sub(r"object at 0x\w+", "object at 0x", message).splitlines()[1:] == [
        "  customer: expected a Customer or its key (int), got Country <features.shop.Country object at 0x>",
        "  other: expected a Customer or its key (int), got str '3'",
        "  friends[1]: expected a Customer or its key (int), got str 'x'",
        "  friends[2]: expected a Customer or its key, got None",
    ]
    assert refusal(lambda: Owned(customer=None)).splitlines()[1:] == [
        "  customer: expected a Customer or its key, got None"
    ]
