"""Custom middleware: classes insert, place and remove it by name."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeAlias

import pytest
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, with_loader_criteria

from dexpy import (
    Call,
    Err,
    Error,
    Insert,
    Middleware,
    Ok,
    Operation,
    Propagate,
    Ref,
    Remove,
    Reset,
    Retry,
    after,
    context,
    current_context,
    guard,
    records,
)
from dexpy.errors import DeclarationError, ResultTypeError, UndeclaredError
from dexpy.testing import Isolated

Outcome: TypeAlias = Ok[Any] | Err
Proceed: TypeAlias = Callable[[Call], Outcome]

calls: list[str] = []


@pytest.fixture(autouse=True)
def _nothing_went() -> None:
    calls.clear()


def noting(name: str) -> Middleware:
    """Return a middleware that records when it is entered and left."""

    def run(call: Call, proceed: Proceed) -> Outcome:
        calls.append(f"{name} in")
        outcome = proceed(call)
        calls.append(f"{name} out")
        return outcome

    return Middleware(name, run)


class Base(Operation):
    pipeline = (Insert(noting("a"), after="trace"), Insert(noting("b"), before="perform"))

    def perform(self) -> int:
        calls.append("perform")
        return 1


class Sub(Base):
    pipeline = (Insert(noting("c"), before="b"), Insert(noting("d"), after="a"))


class Anew(Base):
    pipeline = (Reset(), Insert(noting("e"), before="trace"))


class Plain(Operation):
    def perform(self) -> int:
        return 1


def order(cls: type[Operation]) -> str:
    return " > ".join(cls.explain().pipeline)


def test_middleware_is_inserted_by_name_and_a_subclass_adds_to_its_base() -> None:
    assert Base().call() == 1
    assert calls == ["a in", "b in", "perform", "b out", "a out"]
    calls.clear()
    Sub().call()
    assert calls == ["a in", "d in", "c in", "b in", "perform", "b out", "c out", "d out", "a out"]
    assert order(Base).startswith("trace > a > result")
    assert order(Sub).startswith("trace > a > d > result")
    assert order(Sub).endswith("callbacks > c > b > perform")


def test_a_subclass_can_reset_the_middleware_of_its_base() -> None:
    Anew().call()
    assert calls == ["e in", "perform", "e out"]
    assert order(Anew).startswith("e > trace > result")


def test_other_classes_do_not_have_the_middleware() -> None:
    assert order(Plain).startswith("trace > result")
    Plain().call()
    assert calls == []


class Watched(Operation):
    @guard("Never")
    def refuses(self) -> bool:
        return True

    @after
    def notify(self) -> None:
        calls.append("after")

    def perform(self) -> int:
        return 1


class Unguarded(Watched):
    pipeline = (Remove("guard"), Remove("callbacks"), Remove("result"))


class Replaced(Unguarded):
    pipeline = (Insert(noting("result"), after="callbacks"),)


def test_a_middleware_that_is_removed_does_nothing_and_shows_as_inactive() -> None:
    assert isinstance(Watched().safe.call(), Err)
    assert Unguarded().call() == 1
    assert calls == []
    assert Unguarded.is_callable()
    explanation = Unguarded.explain()
    assert [name for name in ("guard", "callbacks", "result") if not explanation.pipeline[name]] == [
        "guard",
        "callbacks",
        "result",
    ]
    assert (explanation.guards, explanation.callbacks) == ({}, None)
    assert order(Unguarded) == order(Plain)


def test_the_name_of_a_removed_middleware_can_be_reused() -> None:
    Replaced().call()
    assert calls == ["result in", "result out"]
    assert order(Replaced).endswith("callbacks > result > perform")


def test_the_same_middleware_runs_in_a_worker(isolated_runtime: Isolated) -> None:
    ticket = Sub().async_().call()
    isolated_runtime.run_pending()
    assert ticket.reload().result(1) == 1
    assert calls[0] == "a in"


class Awaited(Base):
    async def perform(self) -> int:  # type: ignore[override]
        await asyncio.sleep(0)
        return 2


def test_the_same_middleware_runs_around_a_coroutine() -> None:
    assert asyncio.run(Awaited().acall()) == 2
    assert calls == ["a in", "b in", "b out", "a out"]


def test_a_middleware_is_skipped_for_a_class_that_does_not_need_it() -> None:
    step = Middleware("mine", noting("mine").run, needed=lambda contract: bool(contract.guards))

    class Placed(Operation):
        pipeline = (Insert(step, before="guard"),)

        def perform(self) -> int:
            return 1

    class Guarded(Placed):
        @guard("Never")
        def never(self) -> bool:
            return False

    assert (Placed.explain().pipeline["mine"], Guarded.explain().pipeline["mine"]) == (False, True)
    Placed().call()
    assert calls == []
    Guarded().call()
    assert calls == ["mine in", "mine out"]


# ----------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("entries", "expected"),
    [
        (
            (Insert(noting("x"), after="tracing"),),
            r"unknown middleware 'tracing'; expected one of trace > .*Did you mean",
        ),
        ((Remove("gard"),), r"Wrong.pipeline: unknown middleware 'gard'.*Did you mean 'guard'"),
        ((Insert(noting("x")),), r"Insert\('x'\): expected before= or after= .*, got neither"),
        (
            (Insert(noting("x"), before="trace", after="trace"),),
            r"Insert\('x'\): expected before= or after= .*, got both",
        ),
        ((Insert(noting("x"), after="perform"),), r"perform is innermost. Write before='perform'"),
        ((Insert(noting("guard"), after="trace"),), r"Insert\('guard'\): the pipeline already has .*Remove it first"),
        ((Insert(noting("perform"), after="trace"),), r"Insert\('perform'\): the pipeline already has"),
        ((Insert(noting("x"), after="trace"),) * 2, r"Insert\('x'\): the pipeline already has"),
        ((Remove("perform"),), r"Remove\('perform'\): perform is required: the operation would do nothing"),
        ((Remove("record"),), r"the record of a background run would stay running. Write record = False"),
        ((Remove("transaction"),), r"effects would never be committed. Write transaction = False"),
        ((Remove("once"),), r"the declared key would not be claimed"),
        ((Remove("lock"),), r"the declared lock would not be acquired"),
        ((Remove("trace"),), r"self.session, run_id and nested runs depend on it"),
        ((Remove("refs"),), r"perform would get a key instead of a row"),
        ((noting("x"),), r"Wrong.pipeline: expected .*Insert.*, got Middleware"),
        ((Insert("x", after="trace"),), r"Wrong.pipeline: expected .*, got Insert"),  # type: ignore[arg-type]
        (Remove("guard"), r"Wrong.pipeline: expected a tuple, got Remove.* needs a comma: pipeline = \(...,\)"),
    ],
)
def test_an_invalid_placement_is_refused_at_the_class(entries: Any, expected: str) -> None:
    with pytest.raises(DeclarationError, match=expected):

        class Wrong(Operation):
            pipeline = entries


def outcome_of(run: Callable[[Call, Proceed], Any], after: str = "transaction", **rest: Any) -> type[Operation]:
    class Made(Operation):
        pipeline = (Insert(Middleware("mine", run), after=after),)
        errors = {"no_tenant"}

        def perform(self) -> int:
            return 1

    return Made


def test_a_middleware_that_returns_no_outcome_is_refused_with_the_fix() -> None:
    def forgets(call: Call, proceed: Proceed) -> None:
        proceed(call)

    with pytest.raises(
        DeclarationError, match="Middleware 'mine': expected an Ok or Err, got NoneType. Return what proceed"
    ):
        outcome_of(forgets)().call()


def test_a_middleware_may_call_proceed_only_once() -> None:
    def twice(call: Call, proceed: Proceed) -> Outcome:
        proceed(call)
        return proceed(call)

    with pytest.raises(DeclarationError, match="Middleware 'mine': called proceed twice"):
        outcome_of(twice)().call()


def test_a_middleware_may_end_the_run_with_an_outcome_that_the_class_declares() -> None:
    assert outcome_of(lambda call, proceed: Err("no_tenant", "Who?"))().safe.call() == Err("no_tenant", "Who?")
    assert outcome_of(lambda call, proceed: Ok(7))().call() == 7
    with pytest.raises(UndeclaredError):
        outcome_of(lambda call, proceed: Err("other", "x"))().call()
    with pytest.raises(ResultTypeError):
        outcome_of(lambda call, proceed: Ok("7"))().call()

    def refuses(call: Call, proceed: Proceed) -> Outcome:
        raise Error("no_tenant", "Who?")

    assert outcome_of(refuses)().safe.call() == Err("no_tenant", "Who?")


def test_an_error_after_the_commit_does_not_fail_the_run() -> None:
    def spoils(call: Call, proceed: Proceed) -> Outcome:
        proceed(call)
        return Err("no_tenant", "Too late")

    assert isinstance(outcome_of(spoils)().safe.call(), Err), "inside of the transaction the Err rolls it back"
    with pytest.raises(
        DeclarationError, match="returned an Err for an Ok whose effects are already committed. Place it inside"
    ):
        outcome_of(spoils, after="trace")().call()


def test_the_session_is_available_only_inside_of_the_transaction(isolated_runtime: Isolated) -> None:
    def asks(call: Call, proceed: Proceed) -> Outcome:
        call.session.execute(sa.select(1))
        return proceed(call)

    assert outcome_of(asks)().call() == 1


# ------------------------------------------------------------------------ the two examples of the how-to page


class Metrics:
    """Counts the ends of runs by operation and status."""

    def __init__(self) -> None:
        self.ended: Counter[tuple[str, str]] = Counter()

    def run(self, call: Call, proceed: Proceed) -> Outcome:
        try:
            outcome = proceed(call)
        except BaseException:
            self.ended[call.contract.cls.__name__, "crashed"] += 1
            raise
        self.ended[call.contract.cls.__name__, "done" if isinstance(outcome, Ok) else outcome.code] += 1
        return outcome


metrics = Metrics()


class Counted(Operation):
    pipeline = (Insert(Middleware("metrics", metrics.run), after="trace"),)
    retry_on = (Retry(ConnectionError, attempts=3, wait=0),)
    how: str = "done"

    def perform(self) -> int:
        if self.how == "crashed":
            raise ConnectionError
        if self.how != "done":
            raise Error(self.how)
        return 1


def test_a_metrics_middleware_counts_every_end_of_every_attempt(isolated_runtime: Isolated) -> None:
    metrics.ended.clear()
    Counted().call()
    Counted(how="refused").safe.call()
    with pytest.raises(ConnectionError):
        Counted(how="crashed").call()
    Counted(how="crashed").async_().call()
    Counted.explain()
    Counted.callable()
    isolated_runtime.run_pending()
    assert metrics.ended == {("Counted", "done"): 1, ("Counted", "refused"): 1, ("Counted", "crashed"): 4}


class Rows(DeclarativeBase):
    pass


class Note(Rows):
    __tablename__ = "step_notes"
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    tenant: Mapped[str] = mapped_column(sa.String(20))


@event.listens_for(Session, "do_orm_execute")
def _only_the_tenants_rows(state: Any) -> None:
    tenant = state.session.info.get("tenant")
    if tenant is not None:
        state.statement = state.statement.options(
            with_loader_criteria(Note, Note.tenant == tenant, track_closure_variables=False)
        )


def in_tenant(call: Call, proceed: Proceed) -> Outcome:
    """Restrict the queries of a run to the rows of one tenant."""
    tenant = current_context().get("tenant")
    if tenant is None:
        raise Error("no_tenant", "No tenant in the context")
    call.session.info["tenant"] = tenant
    try:
        return proceed(call)
    finally:
        call.session.info.pop("tenant", None)


TENANT = Middleware(
    "tenant", in_tenant, explain=lambda call: {"tenant": current_context().get("tenant")}, in_dry_run=True
)


class ReadNote(Operation):
    note: Ref[Note]
    pipeline = (Insert(TENANT, after="transaction"),)
    errors = {"no_tenant"}

    @guard("There are too many notes")
    def too_many(self) -> bool:
        return self.session.scalar(sa.select(sa.func.count()).select_from(Note)) != 1

    def perform(self) -> str:
        return self.note.tenant


@pytest.fixture
def notes(engine: sa.Engine) -> Any:
    """Insert note 1 of acme and note 2 of bolt."""
    Rows.metadata.create_all(engine)
    with engine.begin() as connection:
        connection.execute(sa.insert(Note), [{"id": 1, "tenant": "acme"}, {"id": 2, "tenant": "bolt"}])
    yield
    Rows.metadata.drop_all(engine)


@pytest.mark.usefixtures("notes")
def test_a_tenant_middleware_is_around_refs_and_guards_in_place_in_workers_and_in_dry_runs(
    isolated_runtime: Isolated,
) -> None:
    with context(tenant=Propagate("acme")):
        assert ReadNote(note=1).call() == "acme"
        assert ReadNote.is_callable(note=1)
        explanation = ReadNote.explain(note=1)
        assert explanation.callable
        assert explanation.extras == {"tenant": {"tenant": "acme"}}
        ticket, wrong = ReadNote(note=1).async_().call(), ReadNote(note=2).async_().call()
    assert ReadNote(note=1).safe.call() == Err("no_tenant", "No tenant in the context")
    assert not ReadNote.is_callable(note=1)
    explanation = ReadNote.explain(note=1)
    assert (explanation.callable, explanation.error) == (False, "No tenant in the context")
    isolated_runtime.run_pending()
    assert ticket.reload().result(1) == "acme"
    assert (wrong.reload().failure, records.get(wrong.id).error) == ("discarded", "dexpy.errors.RefNotFound")


def in_schema(call: Call, proceed: Proceed) -> Outcome:
    """Let a run use the PostgreSQL schema of one tenant."""
    # The schema precedes the others, which are kept for the run's record in the same transaction.
    path = "SELECT set_config('search_path', quote_ident(:schema) || ',' || current_setting('search_path'), true)"
    call.session.execute(sa.text(path), {"schema": current_context()["tenant"]})
    return proceed(call)


class WhichSchema(Operation):
    pipeline = (Insert(Middleware("tenant", in_schema, in_dry_run=True), after="transaction"),)

    def perform(self) -> str:
        return str(self.session.scalar(sa.text("SELECT current_schema()")))


class WhichSchemaAfterwards(Operation):
    def perform(self) -> str:
        return str(self.session.scalar(sa.text("SELECT current_schema()")))


@pytest.mark.parametrize("database_url", [pytest.param("postgresql", marks=pytest.mark.servers)], indirect=True)
def test_a_tenant_middleware_sets_the_search_path_for_its_transaction_only(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    with engine.begin() as connection:
        connection.execute(sa.text("CREATE SCHEMA acme"))
    with context(tenant=Propagate("acme")):
        assert WhichSchema().call() == "acme"
        ticket = WhichSchema().async_().call()
    isolated_runtime.run_pending()
    assert ticket.reload().result(1) == "acme"
    assert WhichSchemaAfterwards().call() == "public"
