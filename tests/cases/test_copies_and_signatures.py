"""Copies of operations, keys of references outside of a run, signatures, and refused assignments."""

from __future__ import annotations

import copy
import functools
import inspect
import pydoc
from datetime import date
from typing import Annotated, Any

import attrs
import pytest
import sqlalchemy as sa
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

from dexpy import DexpyError, Operation, OptRef, PropsError, Ref, Refs, enqueue_all, prop
from dexpy.errors import FrozenOperation, NotRunning
from dexpy.policies.once import KEY_ATTRIBUTE


class Base(DeclarativeBase): ...


class Account(Base):
    __tablename__ = "copied_accounts"
    id: Mapped[int] = mapped_column(primary_key=True)


class Show(Operation):
    account: Ref[Account]
    other: OptRef[Account] = None
    more: Refs[Account] = prop(factory=list)
    amount: int = 0
    tags: list[str] = prop(factory=list)
    card: str = prop(default="4111", sensitive=True)

    @functools.cached_property
    def doubled(self) -> int:
        return self.amount * 2

    def perform(self) -> int:
        return self.amount


class Add(Operation):
    a: int
    b: int = 1

    def perform(self) -> int:
        return self.a + self.b


# --------------------------------------------------------------------------------------- p20


def test_p20_a_copy_with_another_prop_keeps_its_explicit_key() -> None:
    show = Show(account=1, more=[2, 3], tags=["a"])
    again = show.replace(amount=5)
    assert again == Show(account=1, more=[2, 3], tags=["a"], amount=5)
    assert show.amount == 0
    assert again.tags is not show.tags
    assert Show.account.key_of(again) == 1
    assert show.replace(account=7) == Show(account=7, more=[2, 3], tags=["a"])


def test_p20_replace_checks_as_the_constructor_does() -> None:
    with pytest.raises(PropsError, match="amount"):
        Show(account=1).replace(amount="x")
    with pytest.raises(PropsError, match="Did you mean 'amount'"):
        Show(account=1).replace(amuont=5)


def test_p20_replace_drops_cached_properties_and_keeps_a_key_of_once() -> None:
    show = Show(account=1, amount=2).once("k")
    assert show.doubled == 4
    again = show.replace(amount=5)
    assert again.doubled == 10
    assert vars(again)[KEY_ATTRIBUTE] == "k"


@pytest.mark.parametrize("make", [lambda op: attrs.evolve(op, amount=5), attrs.asdict, lambda op: op.account])
def test_p20_an_unsupported_copy_names_the_supported_one(make: Any) -> None:
    with pytest.raises(NotRunning, match=r"Show.account.key_of\(op\).*op.replace\(.*op.to_dict\(\)"):
        make(Show(account=1))


def test_p20_evolve_and_asdict_work_without_a_key() -> None:
    assert attrs.evolve(Add(a=1), b=5) == Add(a=1, b=5)
    assert attrs.asdict(Add(a=1)) == {"a": 1, "b": 1}


@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy])
def test_p20_copies_are_equal_and_run(way: Any) -> None:
    show = Show(account=1, tags=["a"])
    again = way(show)
    assert again == show
    assert (again.tags is show.tags) is (way is copy.copy)
    assert way(Add(a=1)).call() == 2


def test_p20_reference_keys_can_be_read_outside_of_a_run() -> None:
    engine = sa.create_engine("sqlite://")
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        account = Account(id=7)
        session.add(account)
        session.flush()
        show = Show(account=account, other=3, more=[account, 9])
        assert Show.account.key_of(show) == 7
        assert Show.other.key_of(show) == 3
        assert Show.more.key_of(show) == [7, 9]
        assert copy.deepcopy(show).account is account
    engine.dispose()
    assert Show.other.key_of(Show(account=1)) is None
    with pytest.raises(DexpyError, match="without a primary key. Call session.flush"):
        Show.account.key_of(Show(account=Account()))


def test_p20_to_dict_is_json_with_keys_and_without_secrets() -> None:
    class Report(Operation):
        day: date
        value: Any = None

        def perform(self) -> None: ...

    assert Show(account=1, more=[2]).to_dict() == {
        "account": 1,
        "other": None,
        "more": [2],
        "amount": 0,
        "tags": [],
        "card": "<sensitive>",
    }
    assert Report(day=date(2026, 1, 31), value=len).to_dict() == {"day": "2026-01-31", "value": repr(len)}


# --------------------------------------------------------------------------------------- p22


class Sum(Operation):
    n: int
    how: str

    @functools.cached_property
    def doubled(self) -> int:
        return self.n * 2

    def perform(self) -> int:
        if self.how == "memo":
            self.memo = 1
        elif self.how == "private":
            self._memo = 1
        elif self.how == "prop":
            self.n = 2  # type: ignore[misc]
        elif self.how == "augmented":
            self.n += 1  # type: ignore[misc]
        elif self.how == "delete":
            del self.n
        elif self.how == "policy":
            self.timeout = 5  # type: ignore[misc]
        elif self.how == "method":
            self.perform = len  # type: ignore[method-assign,assignment]
        elif self.how == "cached":
            self.doubled = 5  # type: ignore[misc]
        return self.doubled


@pytest.mark.parametrize(
    ("how", "name", "advice"),
    [
        ("memo", "memo", r"local variable, or write memo as a functools.cached_property"),
        ("private", "_memo", r"local variable, or write _memo as a functools.cached_property"),
        ("prop", "n", r"op.replace\(n=...\)"),
        ("augmented", "n", r"op.replace\(n=...\)"),
        ("delete", "n", r"op.replace\(n=...\)"),
        ("policy", "timeout", "Declare it in the class"),
        ("method", "perform", "Declare it in the class"),
        ("cached", "doubled", "computed at its first use"),
    ],
)
def test_p22_setting_an_attribute_is_refused_with_its_name_and_the_fix(how: str, name: str, advice: str) -> None:
    with pytest.raises(
        FrozenOperation, match=rf"^Sum\.{name}: operations are frozen; attributes cannot change.*{advice}"
    ) as caught:
        Sum(n=1, how=how).call()
    assert isinstance(caught.value, attrs.exceptions.FrozenInstanceError)
    assert (caught.value.operation, caught.value.attribute) == ("Sum", name)


def test_p22_a_cached_property_works() -> None:
    assert Sum(n=2, how="").call() == 4


# --------------------------------------------------------------------------------------- p14


class Later(Add):
    c: Annotated[list[int], "numbers"] = prop(factory=list)
    user: str = prop(context="user")
    at: Missing  # type: ignore[name-defined]  # noqa: F821


class Wide(Add):
    account: Ref[Account]
    items: list[int] = prop(factory=list)


def test_p14_the_signature_shows_the_props() -> None:
    assert str(inspect.signature(Add)) == "(*, a: int, b: int = 1)"
    parameters = inspect.signature(Wide).parameters
    assert list(parameters) == ["a", "b", "account", "items"]
    assert parameters["account"].annotation == Ref[Account]
    assert parameters["items"].annotation == list[int]
    assert repr(parameters["items"].default) == "<factory>"
    assert {one.kind for one in parameters.values()} == {inspect.Parameter.KEYWORD_ONLY}
    assert inspect.signature(Wide).bind(a=1, account=2).arguments == {"a": 1, "account": 2}
    assert "Add(*, a: int, b: int = 1)" in pydoc.plain(pydoc.render_doc(Add))


def test_p14_a_type_that_is_not_defined_yet_keeps_its_text() -> None:
    parameters = inspect.signature(Later).parameters
    assert list(parameters) == ["a", "b", "c", "user", "at"]
    assert parameters["at"].annotation == "Missing"
    assert parameters["user"].default is ...


@settings(max_examples=20)
@given(st.builds(Add))
def test_p14_hypothesis_builds_operations(add: Add) -> None:
    assert add.call() == add.a + add.b


@settings(max_examples=20)
@given(st.builds(Wide, account=st.integers(1, 5), items=...))
def test_p14_hypothesis_builds_inherited_props_and_factories(wide: Wide) -> None:
    assert all(type(item) is int for item in wide.items)


def test_p14_the_signature_of_async_shows_its_options() -> None:
    parameters = inspect.signature(Add(a=1).async_).parameters
    assert list(parameters) == ["queue", "in_", "at", "priority", "expires_in", "idempotence_token", "session", "batch"]


def test_p14_functions_that_accept_props_show_them_in_their_signatures() -> None:
    for method in (Add.callable, Add.is_callable, Add.explain, Add(a=1).explain):
        parameters = inspect.signature(method).parameters
        assert list(parameters) == ["a", "b"]
        assert (parameters["a"].annotation, parameters["b"].default) == (int, 1)
    assert list(inspect.signature(Operation.explain).parameters) == ["props"]
    assert "a: int, b: int = 1" in pydoc.render_doc(Add.explain, renderer=pydoc.plaintext)


def test_p14_an_override_of_explain_can_call_that_of_the_base() -> None:
    class Told(Add):
        @classmethod
        def explain(cls, **props: Any) -> Any:
            return super().explain(**props)

    assert Told.explain(a=1).callable


def test_p14_the_signature_of_enqueue_all_shows_its_options() -> None:
    parameters = inspect.signature(enqueue_all).parameters
    assert list(parameters) == ["operations", "queue", "in_", "at", "priority", "expires_in", "session", "batch"]
