"""References: a prop accepts an instance or a key, and is an instance inside a run."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any
from uuid import UUID, uuid4

import pytest

import dexpy
from dexpy import Operation, OptRef, PropsError, Ref, Refs, guard, prop, records, register_model_loader
from dexpy.errors import DeclarationError, NotRunning, RefNotFound

from .shop import Country, Customer, Device, Line, Shop

performed: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_ran() -> None:
    performed.clear()


class Touch(Operation):
    """Records that its guard and `perform` ran."""

    customer: Ref[Customer]
    other: OptRef[Customer] = prop(default=None)
    friends: Refs[Customer] = prop(factory=list)

    @guard("never")
    def unwanted(self) -> bool:
        performed.append(f"guard {self.customer.name}")
        return False

    def perform(self) -> list[str | None]:
        performed.append("perform")
        other = self.other.name if self.other is not None else None
        return [self.customer.name, other, *(friend.name for friend in self.friends)]


class Look(Operation):
    """Returns the referenced instance."""

    customer: Ref[Customer]

    def perform(self) -> Any:
        return self.customer


class Add(Operation):
    """Reads a locked row, waits, and writes it."""

    customer: Ref[Customer] = prop(lock=True)
    amount: int

    def perform(self) -> int:
        before = self.customer.balance
        barrier.wait_a_little()
        self.customer.balance = before + self.amount
        return self.customer.balance


class Barrier:
    """Lets another thread run between the read and the write."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def wait_a_little(self) -> None:
        self.event.wait(0.002)


barrier = Barrier()


class Kinds(Operation):
    """Has references to models with every kind of key."""

    country: Ref[Country]
    device: Ref[Device]
    line: Ref[Line]
    lines: Refs[Line] = prop(factory=list)

    def perform(self) -> tuple[str, UUID, str, list[str]]:
        return self.country.code, self.device.id, self.line.text, [line.text for line in self.lines]


@pytest.fixture
def filled(shop: Shop) -> Shop:
    """A shop with three customers."""
    shop.add(Customer(id=1, name="ann"), Customer(id=2, name="bob"), Customer(id=3, name="cid"))
    return shop


def customer_of(shop: Shop, key: int) -> Customer:
    """Return a customer that is detached from another session."""
    with shop.session() as session:
        return session.get_one(Customer, key)


# -------------------------------------------------------------------------------------------- keys and instances


def test_a_reference_given_by_key_is_an_instance_in_guards_and_in_perform(filled: Shop) -> None:
    assert Touch(customer=1, other=2, friends=[3, 1, 3]).call() == ["ann", "bob", "cid", "ann", "cid"]
    assert performed == ["guard ann", "perform"]


def test_an_instance_is_accepted_and_equals_its_key(filled: Shop) -> None:
    ann, bob = customer_of(filled, 1), customer_of(filled, 2)
    operation = Touch(customer=ann, other=bob, friends=[ann])
    assert operation.customer is ann
    assert operation.friends == [ann]
    assert operation.call() == ["ann", "bob", "ann"]
    assert records.all().first().params == {"customer": 1, "other": 2, "friends": [1]}  # type: ignore[union-attr]


def test_the_rows_of_one_model_are_loaded_by_one_query(filled: Shop) -> None:
    with filled.statements() as statements:
        Touch(customer=1, other=2, friends=[3, 1]).call()
    assert len(statements) == 1


def test_an_operation_without_references_to_load_makes_no_query(filled: Shop) -> None:
    class NoReferences(Operation):
        other: OptRef[Customer] = prop(default=None)
        friends: Refs[Customer] = prop(factory=list)

        def perform(self) -> tuple[Customer | None, list[Customer]]:
            return self.other, self.friends

    with filled.statements() as statements:
        assert NoReferences().call() == (None, [])
    assert statements == []


def test_text_uuid_and_composite_keys_load_their_rows(shop: Shop) -> None:
    number = uuid4()
    rows = [Line(order=1, number=n, text=f"line {n}") for n in range(1, 4)]
    shop.add(Country(code="de"), Device(id=number), *rows)
    operation = Kinds(country="de", device=number, line=(1, 2), lines=[(1, 3), (1, 1)])
    assert operation.call() == ("de", number, "line 2", ["line 3", "line 1"])
    assert Kinds.parse(records.all().first().params).call() == operation.call()  # type: ignore[union-attr]
    with shop.session() as session:
        line, device = session.get_one(Line, (1, 2)), session.get_one(Device, number)
    assert Kinds(country="de", device=device, line=line, lines=[(1, 3), (1, 1)]) == operation


def test_many_composite_keys_are_loaded_by_one_query(shop: Shop) -> None:
    class Count(Operation):
        lines: Refs[Line]

        def perform(self) -> int:
            return len({line.number for line in self.lines})

    shop.add(*(Line(order=1, number=n) for n in range(3000)))
    with shop.statements() as statements:
        assert Count(lines=[(1, n) for n in range(3000)]).call() == 3000
    assert len(statements) == 1


def test_a_reference_given_by_key_cannot_be_read_outside_of_a_run(filled: Shop) -> None:
    operation = Touch(customer=1, other=2, friends=[customer_of(filled, 1), 3])
    expected = "the row of the key {} is loaded inside a run only. Read it in perform, a guard or a callback, or pass "
    for name, key in (("customer", 1), ("other", 2), ("friends", 3)):
        with pytest.raises(NotRunning) as caught:
            getattr(operation, name)
        outside = (
            f" Outside of a run, use Touch.{name}.key_of(op) for its key, op.replace(...) for a copy with other props, "
            "or op.to_dict() for all props as JSON."
        )
        assert str(caught.value) == f"Touch.{name}: " + expected.format(key) + "the instance." + outside
    operation.call()
    with pytest.raises(NotRunning):
        _ = operation.customer


# ------------------------------------------------------------------------------------------- missing rows


@pytest.mark.parametrize(
    ("props", "prop_name", "key"),
    [
        ({"customer": 9}, "customer", 9),
        ({"customer": 1, "other": 9}, "other", 9),
        ({"customer": 1, "friends": [2, 9]}, "friends", 9),
    ],
)
def test_a_missing_row_ends_the_run_before_guards_and_perform(
    filled: Shop, props: dict[str, Any], prop_name: str, key: int
) -> None:
    with pytest.raises(RefNotFound) as caught:
        Touch(**props).call()
    error = caught.value
    assert isinstance(error, LookupError)
    assert (error.operation, error.prop, error.model, error.key) == ("Touch", prop_name, "Customer", key)
    assert str(error) == f"Touch.{prop_name}: no Customer with the key {key} exists."
    assert performed == []
    record = records.all().first()
    assert record is not None
    assert (record.status, record.failure, record.error) == ("failed", "crash", "dexpy.errors.RefNotFound")


def test_safe_does_not_hide_a_missing_row(filled: Shop) -> None:
    with pytest.raises(RefNotFound):
        Touch(customer=9).safe.call()


def test_the_row_of_a_detached_instance_may_be_missing_too(filled: Shop) -> None:
    ann = customer_of(filled, 1)
    with filled.session() as session:
        session.delete(session.get_one(Customer, 1))
        session.commit()
    with pytest.raises(RefNotFound, match="customer: no Customer with the key 1 exists"):
        Look(customer=ann).call()
    with pytest.raises(RefNotFound, match="customer: no Customer with the key 1 exists"):
        Touch(customer=ann, other=2).call()


def test_a_missing_row_rolls_back_a_nested_run_only(filled: Shop) -> None:
    class Outer(Operation):
        def perform(self) -> str:
            self.session.add(Customer(id=4, name="dan"))
            try:
                Touch(customer=9).call()
            except RefNotFound:
                return "went on"
            return "not reached"

    assert Outer().call() == "went on"
    assert "dan" in filled.names()


# ------------------------------------------------------------------------------- instances and their sessions


def test_an_instance_that_was_never_flushed_is_refused_with_the_fix(filled: Shop) -> None:
    with pytest.raises(PropsError) as caught:
        Touch(customer=Customer(name="new")).call()
    assert str(caught.value) == (
        "Touch: 1 invalid prop\n"
        "  customer: this Customer has no primary key yet. Call session.flush() before passing it."
    )
    assert performed == []
    with filled.session() as session, dexpy.session(session):
        pending = Customer(name="new")
        session.add(pending)
        with pytest.raises(PropsError, match=r"no primary key yet\. Call session\.flush\(\)"):
            Touch(customer=pending).call()
        session.flush()
        assert Touch(customer=pending).call() == ["new", None]


def test_an_instance_of_another_session_is_reloaded(filled: Shop) -> None:
    with filled.session() as other:
        stale = other.get_one(Customer, 1)
        with filled.session() as writer:
            writer.get_one(Customer, 1).name = "anna"
            writer.commit()
        fresh = Look(customer=stale).call()
        assert fresh is not stale
        assert (fresh.name, stale.name) == ("anna", "ann")


def test_an_instance_of_the_runs_session_is_used_without_a_query(filled: Shop) -> None:
    with filled.session() as session, dexpy.session(session):
        mine = session.get_one(Customer, 1)
        mine.name = "changed, not flushed"
        with filled.statements() as statements:
            assert Look(customer=mine).call() is mine
        assert not any(statement.startswith("SELECT") for statement in statements)
        assert Look(customer=1).call() is mine
        assert Touch(customer=mine, other=2, friends=[mine, 3]).call() == [mine.name, "bob", mine.name, "cid"]
        session.rollback()


def test_a_nested_run_gets_the_same_instances_as_the_outer_run(filled: Shop) -> None:
    class Outer(Operation):
        customer: Ref[Customer]

        def perform(self) -> bool:
            return Look(customer=self.customer).call() is self.customer and Look(customer=1).call() is self.customer

    assert Outer(customer=1).call()


def test_rows_stay_readable_after_the_call_and_without_a_transaction(filled: Shop) -> None:
    class Apart(Operation):
        customer: Ref[Customer]
        transaction = False

        def perform(self) -> Any:
            assert self.customer.name == "ann"
            with self.transaction():
                self.customer.name = "anna"
            with self.transaction():
                self.customer.balance = 5
            return self.customer

    assert Look(customer=1).call().name == "ann"
    assert Apart(customer=1).call().name == "anna"
    assert filled.names() == ["anna", "bob", "cid"]
    assert filled.balance() == 5


# ------------------------------------------------------------------------------------------------- locks


def test_a_locked_reference_loses_no_update(filled: Shop) -> None:
    failures: list[BaseException] = []

    def work() -> None:
        try:
            for _ in range(10):
                Add(customer=1, amount=1).call()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert failures == []
    assert filled.balance() == 20


def test_a_locked_reference_reloads_the_row_even_if_the_session_has_it(filled: Shop) -> None:
    with filled.session() as session, dexpy.session(session):
        mine = session.get_one(Customer, 1)
        with filled.session() as writer:
            writer.get_one(Customer, 1).balance = 7
            writer.commit()
        assert Add(customer=mine, amount=1).call() == 8
        session.commit()
    assert filled.balance() == 8


def test_a_prop_that_is_not_a_reference_cannot_be_locked() -> None:
    class Wrong(Operation):
        amount: int = prop(lock=True)

        def perform(self) -> None: ...

    with pytest.raises(DeclarationError, match=r"Wrong\.amount: prop\(lock=True\) is only for references"):
        Wrong(amount=1)


# ------------------------------------------------------------------------------- invalid declarations


class Maybe(Operation):
    customer: Ref[Customer] | None = None  # type: ignore[assignment]

    def perform(self) -> None: ...


class Listed(Operation):
    customers: list[Ref[Customer]]

    def perform(self) -> None: ...


class Bare(Operation):
    customer: Ref  # type: ignore[type-arg]

    def perform(self) -> None: ...


@pytest.mark.parametrize(("cls", "where"), [(Maybe, "Maybe.customer"), (Listed, "Listed.customers")])
def test_a_reference_inside_another_type_is_refused_with_the_right_name(cls: Any, where: str) -> None:
    with pytest.raises(DeclarationError) as caught:
        cls()
    assert str(caught.value) == (
        f"{where}: Ref[...] is not supported inside another type. "
        "Write OptRef[Customer] for an optional reference, Refs[Customer] for a list."
    )


def test_a_reference_without_a_model_is_refused() -> None:
    with pytest.raises(DeclarationError, match=r"Bare\.customer: Ref expects one model\. Write Ref\[Customer\]\."):
        Bare(customer=1)


# --------------------------------------------------------------------------------------------- other models


class Page:
    """A model outside of SQLAlchemy."""

    def __init__(self, slug: str | UUID | tuple[str, int] | None, text: str = "") -> None:
        self.slug = slug
        self.text = text


class Draft(Page):
    """A subclass of the model."""


class Unmapped:
    """A class without a loader."""


PAGES: dict[Any, Page] = {}
load_calls: list[tuple[type, list[Any]]] = []


def load_pages(model: type, keys: Any) -> Iterator[Page]:
    load_calls.append((model, list(keys)))
    return (PAGES[key] for key in keys if key in PAGES)


class Publish(Operation):
    page: Ref[Page]
    others: Refs[Page] = prop(factory=list)
    draft: OptRef[Draft] = prop(default=None)

    def perform(self) -> list[str]:
        return [self.page.text, *(other.text for other in self.others), self.draft.text if self.draft else ""]


def test_a_registered_loader_loads_plain_classes_and_their_subclasses(shop: Shop) -> None:
    register_model_loader(Page, load=load_pages, key=lambda page: page.slug)
    number = UUID(int=3)
    PAGES.update({"a": Page("a", "A"), number: Page(number, "B"), ("c", 1): Draft(("c", 1), "C")})
    load_calls.clear()
    operation = Publish(page="a", others=[number, "a"], draft=("c", 1))
    assert operation.call() == ["A", "B", "A", "C"]
    assert sorted(load_calls, key=str) == [(Draft, [("c", 1)]), (Page, ["a", number])]
    record = records.all().first()
    assert record is not None
    assert Publish.parse(record.params) == operation
    assert Publish(page=PAGES["a"], others=[number, "a"], draft=("c", 1)) == operation
    with pytest.raises(RefNotFound, match="page: no Page with the key 'gone' exists"):
        Publish(page="gone").call()
    with pytest.raises(PropsError, match=r"no primary key yet\. Call session\.flush\(\)"):
        Publish(page=Page(None)).call()
    with pytest.raises(PropsError) as caught:
        Publish(page=1.5, others=[None])
    assert str(caught.value).splitlines()[1:] == [
        "  page: expected a Page or its key (int, str, UUID, date, datetime, time, Decimal or bytes, "
        "or a tuple of them), got float 1.5",
        "  others[0]: expected a Page or its key, got None",
    ]


def test_a_model_without_a_loader_is_refused_with_both_fixes() -> None:
    class Lost(Operation):
        unmapped: Ref[Unmapped]

        def perform(self) -> None: ...

    with pytest.raises(DeclarationError) as caught:
        Lost(unmapped=1)
    assert str(caught.value) == (
        "Ref[Unmapped]: expected a mapped class of SQLAlchemy, or a model with a registered loader. "
        "Map it, or call dexpy.register_model_loader(base, load=, key=)."
    )
