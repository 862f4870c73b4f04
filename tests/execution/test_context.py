"""Ambient values: a prop has its explicit value, else the ambient one, else its default; some reach the workers."""

from __future__ import annotations

import asyncio
import json
import math
import threading
from datetime import date
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

import dexpy
from dexpy import (
    NotSerializable,
    Operation,
    OptRef,
    Propagate,
    PropsError,
    Retry,
    context,
    current_context,
    prop,
    records,
)
from dexpy.errors import DeclarationError, SensitiveInTransit
from dexpy.foundation import context as ambient
from dexpy.testing import Isolated


class Greet(Operation):
    tenant: str | None = prop(context="current_tenant", default="public")
    locale: str = prop(context=True, default="en")

    def perform(self) -> str:
        return f"{self.tenant} {self.locale}"


class Strict(Operation):
    tenant: str = prop(context="current_tenant", default=...)

    def perform(self) -> str:
        return self.tenant


def test_explicit_values_precede_ambient_values_and_ambient_values_precede_defaults() -> None:
    assert Greet().call() == "public en"
    with context(current_tenant="acme", locale="de"):
        assert Greet().call() == "acme de"
        assert Greet(tenant="other", locale="fr").call() == "other fr"
    assert Greet().call() == "public en"


def test_an_ambient_none_counts_as_a_value() -> None:
    with context(current_tenant=None):
        assert Greet().tenant is None
        assert Greet(tenant="x").tenant == "x"


def test_names_without_a_prop_are_ignored() -> None:
    with context(anything=object()):
        assert Greet().call() == "public en"


def test_nested_blocks_restore_the_outer_context() -> None:
    assert dict(current_context()) == {}
    with context(current_tenant="a", locale="de"):
        with context(current_tenant="b"):
            assert dict(current_context()) == {"current_tenant": "b", "locale": "de"}
            assert Greet().call() == "b de"
        with pytest.raises(ZeroDivisionError), context(locale="fr"):
            raise ZeroDivisionError
        assert Greet().call() == "a de"
    assert dict(current_context()) == {}


def test_an_ambient_value_is_read_when_the_operation_is_constructed() -> None:
    with context(current_tenant="a"):
        operation = Greet()
    with context(current_tenant="b"):
        assert operation.call() == "a en"


def test_a_prop_without_a_default_must_be_passed_or_in_the_context() -> None:
    with pytest.raises(PropsError, match="tenant: missing; expected str"):
        Strict()
    with context(current_tenant="acme"):
        assert Strict().call() == "acme"


def test_an_ambient_value_is_checked_like_any_other_and_named() -> None:
    with context(current_tenant=3), pytest.raises(PropsError) as refused:
        Strict()
    assert "tenant: expected str as the context value 'current_tenant', got int 3" in str(refused.value)


class Listed(Operation):
    tags: list[str] = prop(context=True, factory=list)

    def perform(self) -> None:
        self.tags.append("mine")


def test_changes_of_a_run_to_its_values_do_not_reach_the_context() -> None:
    tags = ["a"]
    with context(tags=tags):
        Listed().call()
    assert tags == ["a"]


def test_parse_uses_ambient_values_for_missing_keys() -> None:
    with pytest.raises(PropsError, match="missing; expected"):
        Strict.parse({})
    with context(current_tenant="acme"):
        assert Strict.parse({}).tenant == "acme"
        assert Strict.parse({"tenant": "given"}).tenant == "given"
        assert Greet.parse({"tenant": None}).tenant is None


class Outer(Operation):
    def perform(self) -> str:
        return Greet().call()


class AsyncOuter(Operation):
    async def perform(self) -> list[str]:
        return await asyncio.gather(*(self._greet(number) for number in range(3)), Greet().acall())

    async def _greet(self, number: int) -> str:
        with context(current_tenant=str(number)):
            await asyncio.sleep(0)
            return await Greet().acall()


def test_nested_runs_see_the_context_of_the_outermost_run() -> None:
    with context(current_tenant="acme"):
        assert Outer().call() == "acme en"


def test_coroutines_and_their_threads_have_separate_contexts() -> None:
    async def main() -> list[str]:
        with context(current_tenant="acme", locale="de"):
            assert await Outer().acall() == "acme de"
            return await AsyncOuter().acall()

    assert asyncio.run(main()) == ["0 de", "1 de", "2 de", "acme de"]


def test_another_thread_has_no_context() -> None:
    results: list[str] = []
    with context(current_tenant="acme"):
        thread = threading.Thread(target=lambda: results.append(Greet().call()))
        thread.start()
        thread.join()
    assert results == ["public en"]


def test_an_ambient_value_of_a_prop_is_stored_with_the_params(isolated_runtime: Isolated) -> None:
    with context(current_tenant="acme", locale="de"):
        ticket = Greet().async_().call()
    assert records.get(ticket.id).params == {"tenant": "acme", "locale": "de"}
    with context(current_tenant="of the worker", locale="fr"):
        isolated_runtime.run_pending()
    assert ticket.reload().result(1) == "acme de"


def test_ambient_values_of_a_worker_do_not_reach_a_stored_run(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    with context(current_tenant="acme"):
        old, older = Greet().async_().call(), Strict().async_().call()
    with engine.begin() as connection:
        # As if the records were stored before the class had this prop.
        connection.execute(sa.update(records.table).values(params={}))
    with context(current_tenant="of the worker"):
        isolated_runtime.run_pending()
    assert old.reload().result(1) == "public en"
    assert older.reload().failure == "undecodable"


class Nested(Operation):
    """Has no props; the operations that it calls or enqueues take ambient values."""

    def perform(self) -> str:
        Greet().async_().call()
        return f"{Greet().call()} {sorted(current_context())}"


class DirectNested(Nested):
    record = False


class Deep(Operation):
    def perform(self) -> None:
        Nested().async_().call()


@pytest.mark.parametrize("cls", [Nested, DirectNested, Deep])
def test_propagated_values_reach_the_worker_and_the_runs_it_enqueues(
    isolated_runtime: Isolated, cls: type[Operation]
) -> None:
    with dexpy.trace(trace_id="req-1"), context(current_tenant="acme", locale=Propagate("de")):
        cls().async_().call()
    isolated_runtime.run_pending()
    results = {record.operation.rpartition(".")[2]: record.result for record in records.where(trace="req-1")}
    assert results["Greet"] == "public de"
    if cls is not DirectNested:
        assert results["Nested"] == "public de ['locale']"
    assert dict(current_context()) == {}


def test_propagated_values_are_stored_beside_the_trace_and_not_in_the_params(isolated_runtime: Isolated) -> None:
    with context(locale=Propagate({"lang": "de"}), current_tenant="acme"):
        marked = Nested().async_().call()
    with context(current_tenant="acme"):
        bare = Nested().async_().call()
    assert records.get(marked.id).params == {}
    assert records.get(marked.id).trace["context"] == {"locale": {"lang": "de"}}
    assert "context" not in records.get(bare.id).trace


def test_a_plain_value_over_a_propagated_one_is_not_propagated(isolated_runtime: Isolated) -> None:
    with context(locale=Propagate("de"), zone=Propagate("CET")), context(locale="fr"):
        ticket = Nested().async_().call()
        assert Greet().locale == "fr"
    assert records.get(ticket.id).trace["context"] == {"zone": "CET"}


class Flaky(Operation):
    retry_on = (Retry(ConnectionError, attempts=2, wait=0),)

    def perform(self) -> str:
        if records.get(self.run_id).num_attempts < 2:
            raise ConnectionError
        return Greet().call()


def test_every_attempt_has_the_propagated_values(isolated_runtime: Isolated) -> None:
    with context(locale=Propagate("de")):
        ticket = Flaky().async_().call()
    isolated_runtime.run_pending()
    assert ticket.reload().result(1) == "public de"


def test_propagated_values_are_copied(isolated_runtime: Isolated) -> None:
    value = {"lang": ["de"]}
    with context(locale=Propagate(value)):
        value["lang"].append("fr")
        assert current_context()["locale"] == {"lang": ["de"]}


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (date(2026, 11, 21), "locale is of type date, but only plain JSON is propagated"),
        ({"a": [1, {2}]}, r"locale\['a'\]\[1\] is of type set"),
        ({"a": math.nan}, r"locale\['a'\] is NaN or infinite"),
        ({1: 2}, "locale has a key of type int"),
        ({0: 2}, "locale has a key of type int"),
        (("a",), "locale is of type tuple"),
        ("a\0", "locale has a NUL"),
        (["\ud800"], r"locale\[0\] has a NUL character or a lone surrogate"),
    ],
)
def test_a_propagated_value_that_is_not_plain_json_is_refused_at_the_block_with_its_path(
    value: Any, expected: str
) -> None:
    with pytest.raises(NotSerializable, match=expected), context(locale=Propagate(value)):
        raise AssertionError("the block was entered")
    assert dict(current_context()) == {}


def test_a_value_that_is_not_propagated_may_be_of_any_type() -> None:
    with context(user=object()):
        assert set(current_context()) == {"user"}


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forget the secret names that the classes of a test declare."""
    monkeypatch.setattr(ambient, "_secret_owners", {})


@pytest.mark.usefixtures("secrets")
def test_the_value_of_a_sensitive_prop_is_not_propagated(isolated_runtime: Isolated) -> None:
    class Pays(Operation):
        token: str = prop(context="api_token", sensitive=True)

        def perform(self) -> None: ...

    expected = r"context\(api_token=Propagate\(...\)\): .* sent unencrypted, but .*Pays.token is sensitive"
    with pytest.raises(SensitiveInTransit, match=expected) as refused, context(api_token=Propagate("hunter2")):
        raise AssertionError("the block was entered")
    assert "hunter2" not in str(refused.value)
    with context(api_token="hunter2"):
        assert "hunter2" not in repr(Pays())
        assert "hunter2" not in json.dumps(Pays.explain().to_dict())


@pytest.mark.usefixtures("secrets")
def test_the_value_of_an_encrypted_prop_is_not_propagated() -> None:
    class Sealed(Operation):
        encrypt = True
        account: str = prop(context=True)

    class Partly(Operation):
        iban: str = prop(context=True, encrypted=True)

    for name in ("account", "iban"):
        with pytest.raises(SensitiveInTransit, match=name), context(**{name: Propagate("DE00")}):
            raise AssertionError("the block was entered")


@pytest.mark.usefixtures("secrets")
def test_a_value_that_becomes_secret_inside_the_block_is_not_propagated_either(isolated_runtime: Isolated) -> None:
    with context(later=Propagate("hunter2")):

        class Pays(Operation):
            later: str = prop(context=True, sensitive=True)

            def perform(self) -> None: ...

        with pytest.raises(SensitiveInTransit):
            Greet().async_().call()
    assert records.all().count() == 0


@pytest.mark.usefixtures("secrets")
def test_a_stored_run_does_not_get_a_propagated_value_that_has_become_secret(isolated_runtime: Isolated) -> None:
    with context(later=Propagate("hunter2"), locale=Propagate("de")):
        ticket = Nested().async_().call()
    ambient.forbid_propagation("later", "Pays.later")
    isolated_runtime.run_pending()
    assert ticket.reload().result(1) == "public de ['locale']"


class Base(DeclarativeBase):
    pass


class User(Base):
    __tablename__ = "context_users"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str] = mapped_column(sa.String(40))


class Signs(Operation):
    user: OptRef[User] = prop(context="current_user", default=None)

    def perform(self) -> str:
        return self.user.name if self.user is not None else "anonymous"


def test_a_model_instance_can_be_ambient_and_is_propagated_by_its_key(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    Base.metadata.create_all(engine)
    try:
        with isolated_runtime.runtime.store.new_session() as session:
            ann = User(id=1, name="Ann")
            session.add(ann)
            session.commit()
            with context(current_user=ann):
                ticket = Signs().async_().call()
                assert Signs().call() == "Ann"
        assert records.get(ticket.id).params == {"user": 1}
        isolated_runtime.run_pending()
        assert ticket.reload().result(1) == "Ann"
    finally:
        Base.metadata.drop_all(engine)


def test_an_invalid_declaration_is_refused() -> None:
    for wrong in (3, "", ["a"]):
        with pytest.raises(DeclarationError, match="expected the name of a context value, or True"):
            prop(context=wrong)  # type: ignore[arg-type]


class Sub(Greet):
    def perform(self) -> str:
        return f"sub {self.tenant}"


def test_a_subclass_has_the_ambient_props_of_its_base() -> None:
    with context(current_tenant="acme"):
        assert Sub().call() == "sub acme"
