"""The keys of Once, Unique, Lock and Concurrency: names of props, templates, functions and groups."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import pytest
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column

import dexpy
from dexpy import Concurrency, Err, Lock, Ok, Once, Operation, Ref, Unique, defer, deferrable, enqueue_all, records
from dexpy.declaration.key_digests import concurrency_key, lock_key, once_keys, unique_keys
from dexpy.errors import DeclarationError, OptionsError, RefNotFound
from dexpy.testing import isolated


class Hold(Operation):
    """Holds its lock until a test releases it."""

    account: int
    currency: str = "EUR"
    hold: bool = False
    record = False

    def perform(self) -> int:
        if self.hold:
            inside.set()
            assert leave.wait(10)
        return self.account


inside, leave = threading.Event(), threading.Event()


def while_held(holder: Operation, ask: Callable[[], Any]) -> Any:
    inside.clear()
    leave.clear()
    with isolated():
        thread = threading.Thread(target=holder.call)
        thread.start()
        assert inside.wait(10)
        try:
            return ask()
        finally:
            leave.set()
            thread.join()


class Transfer(Hold):
    lock = Lock("account", timeout=0)


class TransferBack(Transfer):
    """Inherits the lock; its key has the name of this class."""


class TransferIn(Hold):
    lock = Lock("account", "currency", timeout=0)


class Templated(Hold):
    lock = Lock(template="account:{account}", timeout=0)


class TemplatedToo(Hold):
    lock = Lock(template="account:{account}", timeout=0)


class Grouped(Hold):
    lock = Lock("account", group="accounts", timeout=0)


class GroupedToo(Hold):
    lock = Lock("account", group="accounts", timeout=0)


class Computed(Hold):
    lock = Lock(lambda op: ("account", op.account), timeout=0)


class Whole(Hold):
    lock = Lock(timeout=0)


class Texted(Hold):
    lock = Lock(template="bank", timeout=0)


@pytest.mark.parametrize(
    ("holder", "other", "is_free"),
    [
        (Transfer(account=1, hold=True), Transfer(account=2), True),
        (Transfer(account=1, hold=True), Transfer(account=1), False),
        (Transfer(account=1, hold=True), TransferBack(account=1), True),
        (TransferBack(account=1, hold=True), TransferBack(account=1), False),
        (TransferIn(account=1, hold=True), TransferIn(account=1, currency="USD"), True),
        (TransferIn(account=1, hold=True), TransferIn(account=1), False),
        (Templated(account=1, hold=True), TemplatedToo(account=1), False),
        (Templated(account=1, hold=True), TemplatedToo(account=2), True),
        (Grouped(account=1, hold=True), GroupedToo(account=1), False),
        (Grouped(account=1, hold=True), GroupedToo(account=2), True),
        (Computed(account=1, hold=True), Computed(account=1), False),
        (Computed(account=1, hold=True), Computed(account=2), True),
        (Whole(account=1, hold=True), Whole(account=2), False),
        (Texted(account=1, hold=True), Texted(account=2), False),
    ],
    ids=repr,
)
def test_p24_a_lock_excludes_only_runs_with_its_key(holder: Hold, other: Hold, is_free: bool) -> None:
    answer = while_held(holder, other.safe.call)
    assert isinstance(answer, Ok if is_free else Err)
    if isinstance(answer, Err):
        assert answer.code == "lock_timeout"


def test_p24_the_key_is_shown_with_the_names_of_its_props() -> None:
    with isolated():
        shown = TransferIn.explain(account=1, currency="a=b, c").lock
    assert shown is not None
    assert shown["key"].endswith('TransferIn(account=1, currency="a=b, c")')


POLICIES: dict[str, Callable[..., Any]] = {
    "once": Once,
    "unique": Unique,
    "lock": Lock,
    "concurrency": lambda *by, **options: Concurrency(1, *by, **options),
}


def declare(name: str, *by: Any, base: type = Operation, **options: Any) -> type[Any]:
    annotations = {} if base is not Operation else {"account": int, "order": str}
    body = {"__annotations__": annotations, name: POLICIES[name](*by, **options), "perform": lambda self: None}
    return type("Declared", (base,), body)


def keys_of(name: str, operation: Any) -> tuple[str, ...]:
    contract = operation.contract
    if name == "once":
        return once_keys(operation, contract)
    if name == "unique":
        return unique_keys(operation, contract)
    if name == "lock":
        return (lock_key(operation, contract),)
    return (concurrency_key(operation, contract),)


@pytest.mark.parametrize("name", POLICIES)
def test_p24_a_name_that_is_not_a_prop_is_refused_with_a_suggestion(name: str) -> None:
    with pytest.raises(DeclarationError, match=r"unknown prop 'acount'; .*Did you mean 'account'\?"):
        declare(name, "acount")
    with pytest.raises(DeclarationError, match=r"unknown prop 'acount'; .*Did you mean 'account'\?"):
        declare(name, template="{acount}")
    with pytest.raises(DeclarationError, match="the prop 'account' is repeated"):
        declare(name, "account", "account")
    with pytest.raises(DeclarationError, match="got both"):
        declare(name, "account", template="{account}")
    with pytest.raises(DeclarationError, match="invalid template|names of props in braces"):
        declare(name, template="a:{")
    with pytest.raises(DeclarationError, match="expected a name"):
        declare(name, "account", group="")


def test_p24_a_text_that_is_meant_as_a_template_is_refused_with_the_fix() -> None:
    with pytest.raises(DeclarationError, match=r"write Lock\(template='bank'\)"):
        declare("lock", "bank")


@pytest.mark.parametrize("name", POLICIES)
def test_p24_names_templates_and_groups_mean_the_same_in_every_policy(name: str) -> None:
    for by, options in ((("account",), {}), ((), {"template": "a:{account}"}), ((lambda op: op.account,), {})):
        cls = declare(name, *by, **options)
        assert keys_of(name, cls(account=1, order="a")) == keys_of(name, cls(account=1, order="b"))
        assert keys_of(name, cls(account=1, order="a")) != keys_of(name, cls(account=2, order="a"))
        inherited = type("Inherited", (cls,), {"__annotations__": {"more": int}})
        assert keys_of(name, inherited(account=1, order="a", more=1)) == keys_of(
            name, inherited(account=1, order="b", more=2)
        )
    pair = declare(name, "account", "order")
    assert keys_of(name, pair(account=1, order="a")) != keys_of(name, pair(account=1, order="b"))
    grouped = [declare(name, "account", group="g") for _ in range(2)]
    other = type(
        "Other", (Operation,), {"__annotations__": {"account": int}, name: POLICIES[name]("account", group="g")}
    )
    assert keys_of(name, grouped[0](account=1, order="a")) == keys_of(name, other(account=1))


# ------------------------------------------------------------------------ functions that return keys

NO_KEYS: dict[str, Any] = {
    "None": None,
    "empty text": "",
    "empty tuple": (),
    "empty list": [],
    "empty dict": {},
    "empty bytes": b"",
    "bytes": b"a",
    "NaN": float("nan"),
    "infinite": [float("inf")],
    "a set": {1, 2},
    "an object": object(),
    "a nested object": ("a", [object()]),
    "keys that are no text": {1: "a"},
    "mixed keys": {1: "a", "1": "b"},
    "surrogate": "a" + chr(0xD800),
    "NUL": "a\0",
    "nested NUL": [{"a": "\0"}],
    "too long a number": 10**5000,
}


class Sent(Operation):
    value: Any = None

    def perform(self) -> None: ...


def key_of(operation: Any) -> Any:
    return NO_KEYS[operation.value]


class SentOnce(Sent):
    once = Once(key_of)


class SentUnique(Sent):
    unique = Unique(key_of)


class SentLocked(Sent):
    lock = Lock(key_of)


class SentLimited(Sent):
    concurrency = Concurrency(1, key_of)


CLASSES: list[type[Sent]] = [SentOnce, SentUnique, SentLocked, SentLimited]


@deferrable(once=Once(key_of), name="keys.later_once")
def later_once(value: str) -> None: ...


@deferrable(lock=Lock(key_of), name="keys.later_locked")
def later_locked(value: str) -> None: ...


@pytest.mark.parametrize("value", NO_KEYS)
def test_l11_a_value_without_a_canonical_form_is_refused_by_every_kind_of_call(value: str) -> None:
    with isolated() as isolated_runtime:
        for cls in CLASSES:
            operation = cls(value=value)
            with pytest.raises(OptionsError, match="its function returned"):
                operation.async_().call()
            with pytest.raises(OptionsError, match="its function returned"):
                asyncio.run(operation.async_().acall())
            with pytest.raises(OptionsError, match="its function returned"):
                enqueue_all([Sent(), operation])
            with pytest.raises(OptionsError, match="its function returned"):
                cls.explain(value=value)
            with pytest.raises(OptionsError, match="its function returned"):
                operation.call()
            with pytest.raises(OptionsError, match="its function returned"):
                operation.safe.call()
            with pytest.raises(OptionsError, match="its function returned"):
                asyncio.run(operation.acall())
        for target in (later_once, later_locked):
            with pytest.raises(OptionsError, match="its function returned"):
                defer(target, value=value)
        assert records.where(status=("pending", "done")).count() == 0
        assert isolated_runtime.run_pending() == []


KEYS: dict[str, Any] = {
    "text": "a",
    "long": "x" * 100_000,
    "zero": 0,
    "false": False,
    "nested": ("a", (1, [None, {"b": 1.5}])),
    "blank": " ",
}


@pytest.mark.parametrize("value", KEYS)
def test_l11_a_value_with_a_canonical_form_is_a_key_in_all_four_policies(
    value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(NO_KEYS, value, KEYS[value])
    with isolated() as isolated_runtime:
        for cls in CLASSES:
            assert cls.explain(value=value).callable
            cls(value=value).call()
            cls(value=value).async_().call()
        isolated_runtime.run_pending()
        assert {record.status for record in records.all()} == {"done"}


SAME: list[tuple[Any, Any, bool]] = [
    (1, 1.0, True),
    (0.0, -0.0, True),
    ((1, 2), [1, 2], True),
    ({"a": 1, "b": 2}, {"b": 2.0, "a": 1}, True),
    (True, 1, False),
    ("1", 1, False),
    (("a", "b"), "ab", False),
    (("a",), "a", False),
    ((("a",), "b"), ("a", ("b",)), False),
]


@pytest.mark.parametrize(("one", "other", "is_same"), SAME)
@pytest.mark.parametrize("name", POLICIES)
def test_l11_equal_results_of_functions_are_one_key(name: str, one: Any, other: Any, is_same: bool) -> None:
    cls = declare(name, lambda op: one if op.account == 1 else other)
    keys = keys_of(name, cls(account=1, order="")), keys_of(name, cls(account=2, order=""))
    assert (keys[0] == keys[1]) is is_same


@pytest.mark.parametrize("key", ["", "a\0", chr(0xD800), b"a", 7, (), True])
def test_l11_an_explicit_key_follows_the_same_rule(key: Any) -> None:
    with isolated():
        with pytest.raises(OptionsError):
            Sent().once(key)
        with pytest.raises(OptionsError):
            Sent.clear_once(key)
        with pytest.raises(OptionsError):
            Sent().async_(idempotence_token=key)
        with pytest.raises(OptionsError):
            defer.with_options(idempotence_token=key)(later_locked, value="text")
        assert records.all().count() == 0


class Base(DeclarativeBase): ...


class Shop(Base):
    __tablename__ = "shops"
    id: Mapped[int] = mapped_column(primary_key=True)
    region: Mapped[str]


class OpenUnique(Operation):
    shop: Ref[Shop]
    unique = Unique(lambda operation: operation.shop.region)
    rescue_from = {RefNotFound: "closed"}
    errors = {"closed": "The shop is closed"}

    def perform(self) -> str:
        return self.shop.region


class OpenLimited(OpenUnique):
    unique = Unique.never()
    concurrency = Concurrency(1, lambda operation: operation.shop.region)


@pytest.mark.parametrize("cls", [OpenUnique, OpenLimited])
@pytest.mark.parametrize("in_session", [False, True])
def test_l11_a_function_that_reads_a_row_follows_the_same_rule_in_place(
    cls: type[OpenUnique], in_session: bool
) -> None:
    with isolated() as isolated_runtime:
        engine = isolated_runtime.runtime.store.database.engine
        Base.metadata.create_all(engine)
        with Session(engine) as session:
            session.add_all([Shop(id=1, region="north"), Shop(id=2, region="")])
            session.commit()
            with dexpy.session(session) if in_session else nullcontext():
                assert cls(shop=1).call() == "north"
                with pytest.raises(OptionsError, match="its function returned ''"):
                    cls(shop=2).call()
                assert getattr(cls(shop=3).safe.call(), "code", None) == "closed"
