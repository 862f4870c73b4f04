"""Text annotations are resolved by the scopes of Python; an error names the annotation that cannot be resolved."""

# ruff: noqa: F821, N802 - names that are not there are what is tried

from __future__ import annotations

import typing as tp
from dataclasses import dataclass
from datetime import date
from enum import Enum
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self, TypedDict
from typing import ClassVar as PerClass

import attrs
import pydantic
import pytest
import typing_extensions as te

from dexpy import Err, Error, Operation, PropsError, prop
from dexpy.errors import DeclarationError

if TYPE_CHECKING:
    from decimal import Decimal as Money


class Op(Operation):
    record = False

    def perform(self) -> None: ...


def refused(action: tp.Callable[[], object], kind: type[Exception] = DeclarationError) -> str:
    with pytest.raises(kind) as caught:
        action()
    return str(caught.value)


class Colour(Enum):
    """A class of the module, which a class of the same name in a class body hides."""

    GREEN = "green"


class Paint(Operation):
    class Colour(Enum):
        RED = "red"

    Names = dict[str, Colour]

    colour: Colour
    names: Names = prop(factory=dict)
    inside: list[Colour | None] = prop(factory=list)

    def perform(self) -> dict[str, Colour]:
        return {"a": self.colour}


class Repaint(Paint):
    again: Paint.Colour


def test_p4_a_prop_in_annotated_is_in_force_as_text() -> None:
    class Pay(Op):
        amount: Annotated[int, prop(gt=0)]
        token: Annotated[str, prop(sensitive=True)] | None = None
        late: Annotated[Later, prop(default=date.min)]

    class Later: ...

    globals()["Later"] = date
    operation = Pay(amount=1, token="s3cret")
    assert "s3cret" not in repr(operation)
    assert operation.late == date.min
    assert "amount: expected a value > 0" in refused(lambda: Pay(amount=-1), PropsError)


def test_p5_a_class_variable_is_recognised_by_its_annotation() -> None:
    class Send(Op):
        a: tp.ClassVar[int] = 5
        b: te.ClassVar = 6
        c: PerClass[Money] = 7
        d: Annotated[tp.ClassVar[int], "unit"] = 8
        to: str

    assert Send(to="x").a == 5
    assert [field.name for field in Send.contract.props] == ["to"]
    assert "a: unknown prop; expected one of" in refused(lambda: Send(to="x", a=6), PropsError)


def test_p6_a_class_declared_inside_of_the_operation_is_found() -> None:
    operation = Paint(colour=Paint.Colour.RED, names={"a": Paint.Colour.RED}, inside=[None, Paint.Colour.RED])
    assert operation.call() == {"a": Paint.Colour.RED}
    assert Repaint(colour=Paint.Colour.RED, again=Paint.Colour.RED).call() == {"a": Paint.Colour.RED}
    assert Paint.parse({"colour": "red"}).colour is Paint.Colour.RED
    assert "colour: expected Colour of" in refused(lambda: Paint(colour=Colour.GREEN), PropsError)
    assert Paint.contract.to_dict()["success"] == "dict[str, Colour]"


def test_p6_a_prop_may_have_the_name_of_its_type() -> None:
    class Plan(Op):
        date: date | None = None
        list: list[int] = prop(factory=list)

        def Enum(self) -> None: ...

    assert Plan(date=date(2026, 1, 1), list=[1]).list == [1]
    assert "date: expected date or None" in refused(lambda: Plan(date="x"), PropsError)


def test_p6_a_class_of_a_function_is_found_in_the_operation_and_nowhere_else() -> None:
    class Local: ...

    class Inside(Op):
        class Own(Enum):
            A = 1

        choice: Own

    class Outside(Op):
        value: Local

    class Returns(Operation):
        def perform(self) -> Local: ...

    assert Inside(choice=Inside.Own.A).choice is Inside.Own.A
    for message in (refused(lambda: Outside(value=Local())), refused(lambda: Returns().call())):
        assert "undefined name 'Local' in the type 'Local'; it is neither in the class nor in its module" in message
        assert "Move 'Local' out of the function" in message
        assert message.split(":")[0].endswith(("Outside.value", "Returns.perform"))


def test_p6_a_decorated_perform_is_read_where_it_was_written() -> None:
    class Twice(Operation):
        class Kind(Enum):
            A = "a"

        @te.override
        def perform(self) -> Kind:
            return self.Kind.A

    assert Twice().call() is Twice.Kind.A


# --------------------------------------------------------------------------- p7: classes about themselves


@attrs.define
class Tree:
    name: str
    children: list[Tree] = attrs.field(factory=list)
    parent: Tree | None = None
    other: Self | None = None


@dataclass
class Chain:
    day: date
    next: Chain | None = None
    by_name: dict[str, Chain] | None = None
    selves: tuple[Self, ...] = ()


class Folder(TypedDict):
    day: date
    folders: te.NotRequired[list[Folder]]


class Model(pydantic.BaseModel):
    day: date
    children: list[Model] = []
    other: Self | None = None


class Left(NamedTuple):
    day: date
    right: Right | None = None


@attrs.frozen
class Right:
    lefts: list[Left]


class Grow(Op):
    @attrs.define
    class Node:
        day: date
        nodes: list[Node] = attrs.field(factory=list)
        other: Leaf | None = None

    @dataclass
    class Leaf:
        of: Grow.Node | None = None
        near: Node | None = None

    node: Node


DAY = date(2026, 1, 31)
SELVES: list[tuple[Any, Any, Any, str]] = [
    (
        Tree,
        Tree("a", [Tree("b", parent=Tree("c"))], other=Tree("d")),
        Tree("a", [Tree("b", [7])]),
        ".children[0].children[0]",
    ),
    (
        Chain,
        Chain(DAY, Chain(DAY), {"a": Chain(DAY)}, (Chain(DAY),)),
        Chain(DAY, Chain(DAY, Chain(1))),
        ".next.next.day",
    ),
    (Chain, Chain(DAY), Chain(DAY, selves=(Chain(1),)), ".selves[0].day"),
    (Folder, {"day": DAY, "folders": [{"day": DAY}]}, {"day": DAY, "folders": [{"day": 1}]}, "['folders'][0]['day']"),
    (Left, Left(DAY, Right([Left(DAY)])), Left(DAY, Right([Left(1)])), ".right.lefts[0].day"),
    (
        Grow.Node,
        Grow.Node(DAY, [Grow.Node(DAY)], Grow.Leaf(Grow.Node(DAY), Grow.Node(DAY))),
        Grow.Node(DAY, [Grow.Node(1)]),
        ".nodes[0].day",
    ),
]


@pytest.mark.parametrize(("annotation", "right", "wrong", "path"), SELVES, ids=lambda value: str(value)[:20])
@pytest.mark.parametrize("wrapped", [False, True])
def test_p7_a_recursive_class_is_checked_and_converted(
    annotation: Any, right: Any, wrong: Any, path: str, wrapped: bool
) -> None:
    if wrapped:
        annotation, right, wrong, path = dict[str, annotation], {"k": right}, {"k": wrong}, f"['k']{path}"  # type: ignore

    cls = type("Takes", (Op,), {"__annotations__": {"item": annotation}, "__module__": __name__})
    assert cls(item=right).item == right
    assert f"item{path}: expected" in refused(lambda: cls(item=wrong), PropsError)
    form = cls.contract.props[0].codec
    assert form.decode(form.encode(right)) == right
    assert cls.parse({"item": form.encode(right)}).item == right
    assert cls.contract.to_json_schema()["$defs"]


def test_p7_a_recursive_pydantic_model_is_checked_and_converted() -> None:
    class Takes(Op):
        item: Model

    operation = Takes.parse({"item": {"day": "2026-01-31", "children": [{"day": "2026-01-31"}]}})
    assert operation.item == Model(day=DAY, children=[Model(day=DAY)])
    assert "item.children[0].day" in refused(
        lambda: Takes.parse({"item": {"day": "2026-01-31", "children": [{"day": 1}]}}), PropsError
    )


Held = tp.TypeVar("Held")


class Hold(Op, tp.Generic[Held]):
    item: Held
    many: dict[str, list[Held]] = prop(factory=dict)


class HoldDate(Hold["date"]): ...


class HoldLost(Hold["Missing"]): ...


def test_p2_a_type_that_is_text_stands_for_a_variable() -> None:
    assert HoldDate(item=DAY, many={"a": [DAY]}).item == DAY
    assert "many['a'][0]: expected date" in refused(lambda: HoldDate(item=DAY, many={"a": [1]}), PropsError)
    assert "'Missing'" in refused(lambda: HoldLost(item=1))


def test_p6_a_perform_that_only_raises_has_no_result() -> None:
    class Refuse(Operation):
        def perform(self) -> tp.NoReturn:
            raise Error("never")

    assert isinstance(Refuse().safe.call(), Err)
    assert Refuse.contract.to_dict()["success"] == "None"


# ------------------------------------------------------------------------ p13: what cannot be resolved


@attrs.define
class Lost:
    model: Missing


class LostKeys(TypedDict):
    model: Missing


Alias = te.TypeAliasType("Alias", "list[Missing]")
Typed = tp.NewType("Typed", "Missing")  # type: ignore[valid-newtype]
Bound = tp.TypeVar("Bound", bound="Missing")
UNRESOLVED = [
    ("Missing", "Missing"),
    ("list[Missing]", "Missing"),
    ("tp.Missing", "Missing"),
    ("list[", "list["),
    ("1 / 0", "1 / 0"),
    ("Lost", "Missing"),
    ("dict[str, LostKeys]", "Missing"),
    ("Alias", "Missing"),
    ("Typed", "Missing"),
    ("Bound", "Missing"),
    ("Money | None", "Money"),
    ("date | str", "date"),
    ("5", "5"),
    ("list[tp.Never]", "Never"),
    ("list[int, str]", "list[int, str]"),
    ("dict[str]", "dict[str]"),
    ("{'a': int}", "unhashable"),
    ("[int]", "unhashable"),
    ("tp.Protocol", "Protocol"),
    ("Loop", "Loop"),
]
Loop = te.TypeAliasType("Loop", "Loop")


@pytest.mark.parametrize(("annotation", "name"), UNRESOLVED)
def test_p13_an_unresolvable_annotation_is_named_with_its_location(annotation: str, name: str) -> None:
    takes = type("Takes", (Op,), {"__annotations__": {"item": annotation}, "__module__": __name__})

    def perform(self: Any) -> None: ...

    perform.__annotations__ = {"return": annotation}
    gives = type("Gives", (Operation,), {"perform": perform, "__module__": __name__})
    for message, where in (
        (refused(lambda: takes(item=1)), "Takes.item: "),
        (refused(lambda: gives().call()), "Gives.perform: "),
    ):
        assert message.startswith(where)
        assert name in message
