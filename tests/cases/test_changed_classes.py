"""Operation classes that tests and decorators change after their declaration."""

from __future__ import annotations

import abc
import copy
import functools
import pickle
import types
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar
from unittest import mock

import attrs
import pytest

from dexpy import (
    Async,
    Concurrency,
    Err,
    Error,
    Every,
    Insert,
    Lock,
    Middleware,
    Ok,
    Once,
    Operation,
    OperationFailed,
    Recording,
    Reset,
    Retry,
    Unique,
    after,
    around,
    before,
    guard,
    prop,
)
from dexpy.errors import DeclarationError
from dexpy.testing import isolated

T = TypeVar("T")
WAIT_S = 5
calls: list[str] = []


class Charge(Operation):
    """Charges an amount."""

    amount: int = 1

    @guard("Blocked")
    def blocked(self) -> bool:
        return False

    @guard("Frozen", requires="blocked")
    def frozen(self) -> bool:
        return False

    @before
    def audit(self) -> None:
        calls.append("audit")

    def fee(self) -> int:
        return 0

    def perform(self) -> int:
        return self.amount + self.fee()


class ChargeTwice(Charge):
    def perform(self) -> int:
        return 2 * super().perform()


class Inherits(Charge): ...


class Fetch(Operation):
    amount: int = 1

    async def perform(self) -> int:
        return self.amount


class Fails(Operation):
    retry_on = (Retry(ConnectionError, attempts=3, wait=0),)

    def perform(self) -> None:
        calls.append("perform")
        raise ConnectionError("gone")


@pytest.fixture(autouse=True)
def no_calls() -> None:
    calls.clear()


def in_place(operation: Any) -> Any:
    return operation.safe.call()


def in_background(operation: Any) -> Any:
    with isolated() as isolated_runtime:
        ticket = operation.async_().call()
        isolated_runtime.run_pending()
        return ticket.wait(WAIT_S)


everywhere = pytest.mark.parametrize("run", [in_place, in_background])


@everywhere
@pytest.mark.parametrize("cls", [Charge, Inherits, Fetch])
@pytest.mark.parametrize("options", [{}, {"autospec": True}])
@pytest.mark.parametrize("is_used", [False, True])
def test_p19_a_patched_perform_is_called_and_restored_afterwards(
    run: Callable[[Any], Any], cls: Any, options: dict[str, Any], is_used: bool
) -> None:
    fresh: Any = types.new_class("Fresh", (cls,), {}, lambda body: body.update(__module__=__name__))
    cls = cls if is_used else fresh
    with mock.patch.object(cls, "perform", return_value=7, **options):
        assert run(cls()) == Ok(7)
    assert run(cls()) == Ok(1)
    assert "perform" not in vars(fresh)


@everywhere
def test_p19_a_coroutine_may_replace_a_plain_perform_and_a_plain_one_a_coroutine(
    run: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    async def later(self: Any) -> int:
        return 5

    monkeypatch.setattr(Charge, "perform", later)
    monkeypatch.setattr(Fetch, "perform", lambda self: 6)
    assert run(Charge()) == Ok(5)
    assert run(Inherits()) == Ok(5)
    assert run(Fetch()) == Ok(6)
    monkeypatch.undo()
    assert (run(Charge()), run(Fetch())) == (Ok(1), Ok(1))


def test_p19_the_result_is_checked_by_the_annotation_of_the_replaced_perform(monkeypatch: pytest.MonkeyPatch) -> None:
    assert Charge().call() == 1

    def text(self: Any) -> str:
        return "text"

    monkeypatch.setattr(Charge, "perform", text)
    assert Charge().call() == "text"
    assert Charge.contract.to_dict()["success"] != ChargeTwice.contract.to_dict()["success"]


@everywhere
def test_p19_a_guard_that_is_replaced_by_a_mock_is_still_a_guard(run: Callable[[Any], Any]) -> None:
    for patched in (Charge, Inherits):
        with mock.patch.object(patched, "blocked", return_value=True) as blocked:
            refusal = run(Inherits())
            assert isinstance(refusal, Err)
            assert (refusal.code, refusal.message) == ("blocked", "Blocked")
            assert blocked.called
        assert run(Inherits()) == Ok(1)


@everywhere
def test_p19_a_callback_that_is_replaced_added_or_deleted_is_in_force(
    run: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Charge, "audit", lambda self: calls.append("other"))
    run(Inherits())
    assert calls == ["other"]

    monkeypatch.setattr(Charge, "told", after(lambda self: calls.append("after")), raising=False)
    calls.clear()
    run(Inherits())
    assert calls == ["other", "after"]

    monkeypatch.delattr(Charge, "audit")
    calls.clear()
    run(Inherits())
    assert calls == ["after"]

    monkeypatch.undo()
    calls.clear()
    run(Inherits())
    assert calls == ["audit"]


def test_p19_a_guard_that_is_deleted_and_set_again_keeps_its_position(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(Charge, "frozen")
    monkeypatch.delattr(Charge, "blocked")
    assert not Charge.contract.guards
    monkeypatch.undo()
    assert [one.code for one in Charge.contract.guards] == ["blocked", "frozen"]
    assert [one.code for one in Inherits.contract.guards] == ["blocked", "frozen"]


def test_p19_deleting_a_guard_that_another_guard_requires_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeclarationError, match="unknown guard 'blocked' in requires"):
        monkeypatch.delattr(Charge, "blocked")
    assert Inherits().call() == 1


def test_p19_a_patched_override_without_its_decorator_is_not_a_hook() -> None:
    class Silent(Charge):
        def audit(self) -> None: ...

    with mock.patch.object(Silent, "audit") as audit:
        Silent().call()
    assert not audit.called
    with mock.patch.object(Charge, "audit") as audit:
        Silent().call()
        Inherits().call()
    assert audit.call_count == 1


def test_p19_a_hook_that_is_set_on_operation_runs_for_all_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Operation, "counted", before(lambda self: calls.append("all")), raising=False)
    Fetch().call()
    with mock.patch.object(Operation, "counted") as counted:
        Fetch().call()
    assert (calls, counted.call_count) == (["all"], 1)
    monkeypatch.undo()
    Fetch().call()
    assert calls == ["all"]


@everywhere
def test_p19_a_patched_on_error_receives_the_exception(run: Callable[[Any], Any]) -> None:
    with mock.patch.object(Fails, "retry_on", ()), mock.patch.object(Fails, "on_error") as on_error:
        with pytest.raises((ConnectionError, OperationFailed)):
            run(Fails())
        assert on_error.call_count == 1
    assert not Fails.contract.observers


@pytest.mark.parametrize("base", [Fails, Operation])
def test_p19_patched_retry_rules_are_in_force_in_the_background(base: Any) -> None:
    class Again(Fails, name=f"changed.again.{base.__name__}"): ...

    with mock.patch.object(Fails, "retry_on", (Reset(),)), mock.patch.object(base, "discard_on", (ConnectionError,)):
        assert Fails.contract.rule_for(ConnectionError()).answer is None
        assert Again.contract.rule_for(ConnectionError()).answer is None
        with isolated() as isolated_runtime:
            Fails().async_().call()
            isolated_runtime.run_pending()
            assert calls == ["perform"]
    calls.clear()
    with isolated() as isolated_runtime:
        Fails().async_().call()
        isolated_runtime.run_pending()
    assert calls == 3 * ["perform"]
    assert Again.contract.rule_for(ConnectionError()).answer.attempts == 3


def step_run(call: Any, proceed: Any) -> Any:
    calls.append("step")
    return proceed(call)


POLICIES: dict[str, tuple[Any, Callable[[Any], Any]]] = {
    "async_": (Async(queue="other"), lambda contract: contract.options.queue),
    "retry_on": ((Retry(OSError, attempts=2),), lambda contract: contract.rules),
    "discard_on": ((KeyError,), lambda contract: contract.rules),
    "rescue_from": ({KeyError: "missing"}, lambda contract: contract.rescues),
    "errors": ({"no_balance"}, lambda contract: contract.declared_errors),
    "max_lost": (9, lambda contract: contract.loss_limit),
    "timeout": (5, lambda contract: contract.timeout_s),
    "pipeline": ((Insert(Middleware("count", step_run), before="guard"),), lambda contract: contract.pipeline_edits),
    "once": (Once("amount"), lambda contract: contract.once),
    "unique": (Unique("amount"), lambda contract: contract.unique),
    "lock": (Lock(template="charge:{amount}"), lambda contract: contract.lock),
    "concurrency": (Concurrency(2), lambda contract: contract.concurrency),
    "record": (Recording(result=False), lambda contract: contract.record),
    "encrypt": (True, lambda contract: contract.encryptor),
    "transaction": (False, lambda contract: contract.transactional),
    "schedule": (Every("hour"), lambda contract: contract.recurring),
    "__doc__": ("Another description.", lambda contract: contract.description),
}

NOT_INHERITED = ("schedule", "__doc__")


@pytest.mark.parametrize("name", POLICIES)
def test_p19_a_policy_that_is_set_is_in_the_contracts_of_the_class_and_its_subclasses(name: str) -> None:
    class Pay(Operation):
        """Pays."""

        amount: int = 1

        def perform(self) -> int:
            return self.amount

    class PayMore(Pay):
        """Pays."""

    value, read_policy = POLICIES[name]
    assert Pay().call() == 1
    earlier = {cls: read_policy(cls.contract) for cls in (Pay, PayMore)}
    with mock.patch.object(Pay, name, value):
        assert read_policy(Pay.contract) != earlier[Pay]
        assert (read_policy(PayMore.contract) != earlier[PayMore]) == (name not in NOT_INHERITED)
    for cls in earlier:
        assert read_policy(cls.contract) == earlier[cls]
    setattr(Pay, name, value)
    assert read_policy(Pay.contract) != earlier[Pay]


@pytest.mark.parametrize("name", sorted({*POLICIES} - {"encrypt", "record", "__doc__"} | {"perform"}))
def test_p19_a_wrong_value_is_refused_when_it_is_set_and_changes_nothing(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Pay(Charge): ...

    with pytest.raises(DeclarationError, match=name):
        monkeypatch.setattr(Charge, name, 3.5j)
    assert Pay().call() == Charge().call() == 1
    monkeypatch.undo()
    assert Pay().call() == 1


def test_p19_a_wrong_value_in_a_patch_is_refused_and_restored() -> None:
    with pytest.raises(DeclarationError, match="timeout"), mock.patch.object(Inherits, "timeout", "soon"):
        pass
    assert Inherits().call() == 1


@everywhere
def test_p19_middleware_that_is_patched_in_runs_and_is_gone_afterwards(run: Callable[[Any], Any]) -> None:
    with mock.patch.object(Charge, "pipeline", (Insert(Middleware("count", step_run), before="guard"),)):
        assert run(ChargeTwice()) == Ok(2)
    assert calls == ["step", "audit"]
    run(ChargeTwice())
    assert calls == ["step", "audit", "audit"]


@everywhere
def test_p19_patched_errors_and_rescues_are_in_force(run: Callable[[Any], Any]) -> None:
    with (
        mock.patch.object(Fails, "retry_on", ()),
        mock.patch.object(Fails, "rescue_from", {ConnectionError: "offline"}),
        mock.patch.object(Fails, "errors", {"offline": "The network is away"}),
    ):
        refusal = run(Fails())
        assert (refusal.code, refusal.message) == ("offline", "The network is away")


@everywhere
def test_p19_helper_methods_and_other_attributes_can_be_set(
    run: Callable[[Any], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    earlier = Charge.contract
    monkeypatch.setattr(Charge, "fee", lambda self: 10)
    monkeypatch.setattr(Charge, "discount", 4, raising=False)
    assert run(ChargeTwice()) == Ok(22)
    assert Charge.contract is earlier  # the contract has none of these attributes, so it is not read again


def test_p19_a_mock_can_replace_policies_that_are_methods() -> None:
    for patched in (Charge, Operation):
        with mock.patch.object(patched, "async_") as async_:
            Charge().async_(in_=3).call()
            assert Charge().call() == 1
        async_.assert_called_once_with(in_=3)
        with mock.patch.object(patched, "once") as once:
            Charge().once("key")
        once.assert_called_once_with("key")
        with mock.patch.object(patched, "transaction") as transaction:
            assert Charge().call() == 1
            assert Charge.contract.transactional
            Charge().transaction()
        transaction.assert_called_once_with()
    with mock.patch.object(Charge, "call", return_value=9):
        assert Charge().call() == 9


def test_p19_setting_transaction_to_false_does_not_change_the_method_transaction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def in_blocks(self: Any) -> int:
        with self.transaction() as session:
            assert session is not None
        return 3

    with isolated():
        monkeypatch.setattr(Charge, "transaction", False)
        monkeypatch.setattr(Charge, "perform", in_blocks)
        assert Charge().call() == 3


@pytest.mark.parametrize("is_used", [False, True])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("amount", 5),
        ("amount", prop(default=5)),
        ("colour", prop(default="red")),
        ("name", "charge"),
        ("aliases", ("charge",)),
        ("contract", None),
        ("__name__", "Other"),
        ("__qualname__", "Other"),
        ("__module__", "other"),
        ("__annotations__", {"amount": str}),
        ("__bases__", (Operation,)),
        ("__slots__", ("amount",)),
        ("__init__", lambda self: None),
        ("__new__", lambda cls: None),
        ("__attrs_post_init__", lambda self: None),
        ("__post_init__", lambda self: None),
        ("__setattr__", lambda self, name, value: None),
        ("__dataclass_fields__", {}),
    ],
)
def test_p19_a_change_that_is_not_supported_is_refused_with_the_fix(name: str, value: Any, is_used: bool) -> None:
    class Pay(Operation):
        amount: int = 1

        def perform(self) -> int:
            return self.amount

    class PayMore(Pay): ...

    for cls in (Pay, PayMore):
        if is_used:
            cls().call()
        with pytest.raises(
            DeclarationError, match=rf"{cls.__name__}.*(Declare a subclass|Write a|Remove the decorator)"
        ):
            setattr(cls, name, value)
        assert cls().call() == 1
        assert cls.contract.props[0].type is int
        if name not in ("name", "colour", "aliases"):
            with pytest.raises(DeclarationError):
                delattr(cls, name)


def test_p19_annotations_cannot_be_changed_in_place() -> None:
    class Pay(Operation):
        amount: int = 1

        def perform(self) -> int:
            return self.amount

    for change in (
        lambda annotations: annotations.__setitem__("amount", str),
        lambda annotations: annotations.update(rate=int),
        lambda annotations: annotations.pop("amount"),
        lambda annotations: annotations.setdefault("rate", int),
        lambda annotations: annotations.clear(),
        lambda annotations: annotations.__ior__({"rate": int}),
    ):
        with pytest.raises(DeclarationError, match=r"Pay\.__annotations__.*subclass"):
            change(Pay.__annotations__)
    assert Pay.__annotations__ == {"amount": "int"}
    assert Pay().call() == 1


def test_p19_policies_cannot_be_changed_in_place() -> None:
    class Pay(Operation):
        errors = {"no_balance"}
        rescue_from = {KeyError: "no_balance"}
        retry_on = [Retry(OSError, attempts=2)]  # type: ignore[assignment]  # a list is taken too

        def perform(self) -> None: ...

    cls: Any = Pay
    with pytest.raises(AttributeError):
        cls.errors.add("other")
    with pytest.raises(TypeError):
        cls.rescue_from[OSError] = "other"
    with pytest.raises(TypeError):
        Operation.rescue_from[OSError] = "other"  # type: ignore[index]
    with pytest.raises(AttributeError):
        cls.retry_on.append(Retry(KeyError))
    cls.errors = changing = {"other"}
    changing.add("later")
    assert set(cls.contract.declared_errors) == set(cls.errors) == {"other"}


def test_p19_class_decorators_and_init_subclass_may_set_policies_and_hooks() -> None:
    def patient(cls: Any) -> Any:
        cls.retry_on = (Retry(OSError, attempts=7),)
        cls.timeout = 9
        cls.announced = before(lambda self: calls.append("announced"))
        return cls

    class Base(Operation):
        def __init_subclass__(cls, *, queue: str | None = None, **keywords: Any) -> None:
            super().__init_subclass__(**keywords)
            if queue is not None:
                cls.async_ = Async(queue=queue)

        def perform(self) -> int:
            return 1

    @patient
    class Pay(Base, queue="payments"): ...  # type: ignore[call-arg]

    assert (Pay.contract.options.queue, Pay.contract.timeout_s) == ("payments", 9)
    assert Pay.contract.rule_for(OSError()).answer.attempts == 7  # type: ignore[union-attr]
    Pay().call()
    assert calls == ["announced"]
    assert Base.contract.options.queue is None


def test_p19_a_base_that_is_not_an_operation_may_change_too(monkeypatch: pytest.MonkeyPatch) -> None:
    class Audited:
        timeout = 5
        revision = 0

        @around
        def watched(self, proceed: Callable[[], None]) -> None:
            calls.append("watched")
            proceed()

    class Pay(Audited, Operation):
        def perform(self) -> int:
            return 1

    Pay().call()
    earlier = Pay.contract
    Audited.revision = 1
    assert Pay.contract is earlier
    monkeypatch.setattr(Audited, "timeout", 7)
    assert Pay.contract.timeout_s == 7
    monkeypatch.setattr(Audited, "checked", guard("No")(lambda self: True), raising=False)
    assert Pay().safe.call() == Err("checked", "No", {"guards": [{"guard": "checked", "message": "No"}]}, rejected=True)
    monkeypatch.undo()
    calls.clear()
    with mock.patch.object(Audited, "watched", lambda self, proceed: proceed()):
        assert Pay().call() == 1
    assert calls == []
    monkeypatch.delattr(Audited, "watched")
    assert Pay().call() == 1
    monkeypatch.undo()
    Pay().call()
    assert (calls, Pay.contract.timeout_s) == (["watched"], 5)


def test_p19_a_change_between_enqueue_and_run_is_in_force_in_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    with isolated() as isolated_runtime:
        ticket = Inherits(amount=2).async_().call()
        monkeypatch.setattr(Charge, "perform", lambda self: 40 + self.amount)
        isolated_runtime.run_pending()
        assert ticket.result(WAIT_S) == 42


def test_p19_an_operation_from_before_the_change_runs_with_the_changed_class() -> None:
    operation = Charge(amount=3)
    with mock.patch.object(Charge, "errors", {"broken"}), mock.patch.object(Charge, "perform") as perform:
        perform.side_effect = Error("broken")
        assert operation.safe.call() == Err("broken", "broken")
    assert operation.call() == 3
    assert pickle.loads(pickle.dumps(operation)) == copy.deepcopy(operation) == operation  # noqa: S301 - our own


def test_p19_generic_abstract_and_protocol_mixins_work_beside_operations(monkeypatch: pytest.MonkeyPatch) -> None:
    class Priced(Protocol):
        def price(self) -> int: ...

    class Abstract(Operation, abc.ABC):
        @abc.abstractmethod
        def perform(self) -> int: ...

    class Keep(Priced, Abstract, Generic[T]):
        item: T

        def price(self) -> int:
            return 3

        def perform(self) -> int:
            return self.price()

    class KeepText(Keep[str]): ...

    assert KeepText(item="x").call() == 3
    with pytest.raises(TypeError, match="abstract"):
        Abstract()  # type: ignore[abstract]
    monkeypatch.setattr(Keep, "perform", lambda self: self.item)
    assert KeepText(item="x").call() == "x"
    cls: Any = type("Made", (Abstract,), {"perform": lambda self: 4})
    assert (cls().call(), cls.__module__) == (4, __name__)


def test_p19_wrappers_and_descriptors_set_afterwards_are_called() -> None:
    class Pay(Operation):
        def perform(self) -> int:
            return 1

    def doubled(method: Any) -> Any:
        @functools.wraps(method)
        def twice(self: Any) -> Any:
            return 2 * method(self)

        return twice

    cls: Any = Pay
    cls.perform = doubled(Pay.perform)
    assert Pay().call() == 2
    attrs.resolve_types(Pay)
    assert Pay().call() == 2
    del cls.perform
    with pytest.raises(DeclarationError, match="no perform"):
        Pay().call()
