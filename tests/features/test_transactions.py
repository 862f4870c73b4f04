"""The transaction of a run: begun at the first use, ended by the run, and joined by nested runs."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import Session, scoped_session, sessionmaker

import dexpy
from dexpy import Err, Error, Operation, configure, records
from dexpy.errors import NotRunning, OptionsError, TransactionOwned
from dexpy.testing import Isolated, isolated

from .shop import Base, Customer, Deferred, Shop

hooks: list[str] = []


@pytest.fixture(autouse=True)
def _no_hooks() -> None:
    hooks.clear()


class Add(Operation):
    """Adds a customer, and ends as its prop specifies."""

    name: str
    end: str = "well"

    def perform(self) -> str:
        self.session.add(Customer(name=self.name))
        self.session.flush()
        if self.end == "error":
            raise Error("no")
        if self.end == "crash":
            raise ZeroDivisionError
        return self.name


class Do(Operation):
    """Calls a function with itself."""

    what: Callable[[Any], Any]
    record = False

    def perform(self) -> Any:
        return self.what(self)


class DoApart(Do):
    """Calls a function outside of a transaction."""

    transaction = False


def boom() -> None:
    raise ZeroDivisionError


# ---------------------------------------------------------------------------------------------- begin and end


def test_a_run_that_never_uses_its_session_opens_no_connection(shop: Shop) -> None:
    shop.isolated_runtime.runtime.store.prepare()
    checkouts: list[int] = []

    def note(*_: Any) -> None:
        checkouts.append(1)

    sa.event.listen(shop.engine, "checkout", note)
    try:
        assert Do(what=lambda _: 1).call() == 1
        assert checkouts == []
        Do(what=lambda op: op.session.execute(sa.select(1)).scalar()).call()
        assert len(checkouts) == 1
    finally:
        sa.event.remove(shop.engine, "checkout", note)


def test_ok_commits_and_an_error_or_a_crash_rolls_back(shop: Shop) -> None:
    assert Add(name="ann").call() == "ann"
    assert Add(name="bob", end="error").safe.call() == Err("no", "no")
    with pytest.raises(ZeroDivisionError):
        Add(name="cid", end="crash").call()
    assert shop.names() == ["ann"]


def test_a_run_has_one_session_that_is_closed_after_it(shop: Shop) -> None:
    sessions: list[Session] = []

    def observe(op: Do) -> bool:
        sessions.append(op.session)
        op.session.execute(sa.select(1))
        return op.session is op.session is dexpy.current_session()

    assert Do(what=observe).call()
    assert not sessions[0].in_transaction()


def test_rows_stay_readable_after_the_call(shop: Shop) -> None:
    class Make(Operation):
        def perform(self) -> Any:
            customer = Customer(name="ann")
            self.session.add(customer)
            return customer

    result = Make().call()
    assert (result.id, result.name, result.balance) == (1, "ann", 0)


def test_a_failed_flush_that_perform_swallows_fails_the_run(shop: Shop) -> None:
    shop.add(Customer(name="ann"))

    def swallow(op: Do) -> str:
        op.session.add(Customer(name="bob"))
        op.session.flush()
        op.session.add(Customer(name="ann"))
        try:
            op.session.flush()
        except IntegrityError:
            return "as if nothing had happened"
        return ""

    with pytest.raises(sa.exc.PendingRollbackError):
        Do(what=swallow).call()
    assert shop.names() == ["ann"]


def test_a_failed_part_in_a_savepoint_leaves_the_rest(shop: Shop) -> None:
    shop.add(Customer(name="ann"))

    def part(op: Do) -> str:
        op.session.add(Customer(name="bob"))
        try:
            with op.session.begin_nested():
                op.session.add(Customer(name="ann"))
        except IntegrityError:
            return "went on"
        return ""

    assert Do(what=part).call() == "went on"
    assert shop.names() == ["ann", "bob"]


# ------------------------------------------------------------------------------------------------- ownership


def with_begin(session: Session) -> None:
    with session.begin():
        session.execute(sa.select(1))


def with_session(session: Session) -> None:
    with session:
        session.execute(sa.select(1))


@pytest.mark.parametrize(
    ("method", "act"),
    [
        ("commit", lambda session: session.commit()),
        ("rollback", lambda session: session.rollback()),
        ("close", lambda session: session.close()),
        ("reset", lambda session: session.reset()),
        ("invalidate", lambda session: session.invalidate()),
        ("begin", lambda session: session.begin()),
        ("begin", with_begin),
        ("close", with_session),
    ],
)
@pytest.mark.parametrize("joined", [False, True])
def test_perform_cannot_end_the_transaction_of_its_run(
    shop: Shop, method: str, act: Callable[[Session], None], joined: bool
) -> None:
    def end(op: Do) -> None:
        op.session.add(Customer(name="ann"))
        act(op.session)

    with shop.session() as session:
        with pytest.raises(TransactionOwned) as caught:
            if joined:
                with dexpy.session(session):
                    Do(what=end).call()
            else:
                Do(what=end).call()
        assert str(caught.value) == (
            f"Do: session.{method}() was called inside a run; dexpy ends the transaction of a run. "
            "Raise an Error to roll back all of it; use `with self.session.begin_nested():` for a part."
        )
        session.commit()
    assert shop.names() == []


def test_a_transaction_that_was_ended_outside_of_the_run_is_detected(shop: Shop) -> None:
    def sneak(op: Do) -> None:
        transaction = op.session.get_transaction()
        op.session.add(Customer(name="ann"))
        transaction.commit()

    with pytest.raises(TransactionOwned, match="Do: the transaction of the run was ended inside it"):
        Do(what=sneak).call()


def test_a_joined_session_is_unrestricted_after_the_run(shop: Shop) -> None:
    with shop.session() as session:
        with dexpy.session(session):
            Add(name="ann").call()
            Add(name="bob", end="error").safe.call()
        session.commit()
        with session.begin():
            session.add(Customer(name="cid"))
        session.rollback()
    assert shop.names() == ["ann", "cid"]


def test_savepoints_are_allowed(shop: Shop) -> None:
    def parts(op: Do) -> None:
        savepoint = op.session.begin_nested()
        op.session.add(Customer(name="rolled back"))
        savepoint.rollback()
        savepoint = op.session.begin_nested()
        op.session.add(Customer(name="kept"))
        savepoint.commit()
        with op.session.begin(nested=True):
            op.session.add(Customer(name="kept too"))

    Do(what=parts).call()
    assert shop.names() == ["kept", "kept too"]


# ------------------------------------------------------------------------------------- outside of a transaction


def test_there_is_no_session_outside_of_a_run() -> None:
    operation = Add(name="ann")
    for use in (
        lambda: operation.session,
        lambda: operation.run_id,
        lambda: operation.after_commit(boom),
        lambda: operation.transaction(),
    ):
        with pytest.raises(NotRunning, match=r"Add\..*: available only during a run of this operation"):
            use()
    with pytest.raises(NotRunning, match=r"current_session\(\): no current session\. Call it inside a run"):
        dexpy.current_session()


def test_an_operation_has_no_session_outside_of_its_own_run(shop: Shop) -> None:
    operation = Add(name="ann")
    with pytest.raises(NotRunning, match=r"Add\.session: available only during a run of this operation"):
        Do(what=lambda _: operation.session).call()


def test_transaction_false_has_a_session_only_inside_its_blocks(shop: Shop) -> None:
    def work(op: Do) -> None:
        with pytest.raises(NotRunning) as caught:
            _ = op.session
        assert str(caught.value) == (
            "DoApart: self.session is not available here, because the class declares transaction = False. "
            "Write: `with self.transaction() as session:`."
        )
        with op.transaction() as session:
            assert session is op.session is dexpy.current_session()
            session.add(Customer(name="ann"))
        assert shop.names() == ["ann"]
        with pytest.raises(NotRunning):
            _ = op.session
        with op.transaction():
            op.session.add(Customer(name="bob"))

    DoApart(what=work).call()
    assert shop.names() == ["ann", "bob"]


def test_a_block_that_fails_is_rolled_back_and_the_next_one_starts_a_new_transaction(shop: Shop) -> None:
    shop.add(Customer(id=1, name="ann"))

    def work(op: Do) -> None:
        with pytest.raises(ZeroDivisionError), op.transaction() as session:
            session.add(Customer(name="crashed"))
            session.flush()
            raise ZeroDivisionError
        with pytest.raises(IntegrityError), op.transaction() as session:
            session.add(Customer(name="ann"))  # fails at the flush
        with pytest.raises(IntegrityError), op.transaction() as session:
            session.add(Deferred(customer_id=99))  # fails at the commit
        with op.transaction() as session:
            session.add(Customer(name="bob"))
        with pytest.raises(TransactionOwned), op.transaction() as session:
            session.add(Customer(name="cid"))
            session.commit()
        raise Error("after all")

    assert DoApart(what=work).safe.call() == Err("after all", "after all")
    assert shop.names() == ["ann", "bob"]


def test_a_block_inside_a_transaction_is_a_savepoint(shop: Shop) -> None:
    def work(op: Do) -> None:
        op.session.add(Customer(name="ann"))
        with pytest.raises(ZeroDivisionError), op.transaction() as session:
            assert session is op.session
            session.add(Customer(name="rolled back"))
            boom()
        with op.transaction():
            op.session.add(Customer(name="bob"))

    Do(what=work).call()
    assert shop.names() == ["ann", "bob"]

    def nested(op: Do) -> None:
        with op.transaction():
            op.session.add(Customer(name="cid"))
            with pytest.raises(ZeroDivisionError), op.transaction():
                op.session.add(Customer(name="rolled back"))
                boom()

    DoApart(what=nested).call()
    assert shop.names() == ["ann", "bob", "cid"]


def test_runs_inside_a_block_join_it_and_runs_outside_of_it_do_not(shop: Shop) -> None:
    def work(op: Do) -> None:
        with pytest.raises(ZeroDivisionError), op.transaction():
            Add(name="rolled back").call()
            boom()
        Add(name="kept").call()
        raise Error("no")

    assert isinstance(DoApart(what=work).safe.call(), Err)
    assert shop.names() == ["kept"]


# --------------------------------------------------------------------------------------------- nested runs


def test_a_nested_run_is_rolled_back_with_its_caller(shop: Shop) -> None:
    def work(op: Do) -> None:
        Add(name="ann").call()
        raise Error("no")

    assert isinstance(Do(what=work).safe.call(), Err)
    assert shop.names() == []


@pytest.mark.parametrize("end", ["error", "crash"])
def test_a_nested_failure_that_is_caught_keeps_the_effects_of_the_outer_run(shop: Shop, end: str) -> None:
    def work(op: Do) -> str:
        op.session.add(Customer(name="before"))
        try:
            Add(name="inner", end=end).call()
        except (Error, ZeroDivisionError):
            op.session.add(Customer(name="after"))
        return "went on"

    assert Do(what=work).call() == "went on"
    assert shop.names() == ["after", "before"]


def test_a_nested_run_sees_unflushed_changes_of_the_outer_run(shop: Shop) -> None:
    def count(op: Do) -> int:
        return op.session.scalar(sa.select(sa.func.count()).select_from(Customer))

    def work(op: Do) -> int:
        op.session.add(Customer(name="ann"))
        return Do(what=count).call()

    assert Do(what=work).call() == 1


def test_nested_runs_and_their_caller_share_one_session(shop: Shop) -> None:
    def work(op: Do) -> bool:
        return Do(what=lambda inner: inner.session is op.session).call()

    assert Do(what=work).call()


# ----------------------------------------------------------------------------------------------- after_commit


def hook(name: str) -> Callable[[], None]:
    return lambda: hooks.append(name)


def test_hooks_run_after_the_commit_in_order_of_registration(shop: Shop) -> None:
    def work(op: Do) -> None:
        op.after_commit(hook("before the session is used"))
        op.session.add(Customer(name="ann"))
        op.after_commit(lambda: hooks.append(f"after it {shop.names()}"))
        op.session.flush()
        op.after_commit(hook("last"))
        assert hooks == []

    Do(what=work).call()
    assert hooks == ["before the session is used", "after it ['ann']", "last"]


@pytest.mark.parametrize("touches", [True, False])
@pytest.mark.parametrize("end", ["error", "crash"])
def test_hooks_are_dropped_with_a_rollback(shop: Shop, touches: bool, end: str) -> None:
    def work(op: Do) -> None:
        op.after_commit(hook("a"))
        if touches:
            op.session.execute(sa.select(1))
            op.after_commit(hook("b"))
        if end == "crash":
            boom()
        raise Error("no")

    with pytest.raises((Error, ZeroDivisionError)):
        Do(what=work).call()
    assert hooks == []


def test_hooks_run_at_the_end_of_a_run_that_used_no_session(isolated_runtime: Isolated) -> None:
    def work(op: Do) -> None:
        op.after_commit(hook("a"))
        op.after_commit(hook("b"))
        assert hooks == []

    Do(what=work).call()
    assert hooks == ["a", "b"]
    hooks.clear()
    DoApart(what=work).call()
    assert hooks == ["a", "b"]


def test_a_hook_inside_a_savepoint_is_kept_or_dropped_with_it(shop: Shop) -> None:
    def work(op: Do) -> None:
        with op.session.begin_nested():
            op.after_commit(hook("kept"))
        savepoint = op.session.begin_nested()
        op.after_commit(hook("dropped"))
        savepoint.rollback()

    Do(what=work).call()
    assert hooks == ["kept"]


@pytest.mark.parametrize("touches", [True, False])
def test_a_hook_of_a_nested_run_waits_for_the_outermost_commit(shop: Shop, touches: bool) -> None:
    def inner(op: Do) -> None:
        if touches:
            op.session.execute(sa.select(1))
        op.after_commit(hook("inner"))

    def work(op: Do) -> None:
        op.session.add(Customer(name="ann"))
        Do(what=inner).call()
        assert hooks == []
        op.after_commit(hook("outer"))
        try:
            Do(what=lambda op: (inner(op), boom())).call()
        except ZeroDivisionError:
            return

    Do(what=work).call()
    assert hooks == ["inner", "outer"]
    hooks.clear()
    with pytest.raises(ZeroDivisionError):
        Do(what=lambda op: (Do(what=inner).call(), boom())).call()
    assert hooks == []


def test_a_hook_in_a_joined_session_runs_after_the_commit_of_the_caller(shop: Shop) -> None:
    def work(op: Do) -> None:
        op.session.add(Customer(name="ann"))
        op.after_commit(lambda: hooks.append(f"{shop.names()}"))

    with shop.session() as session:
        with dexpy.session(session):
            Do(what=work).call()
        assert hooks == []
        session.commit()
        assert hooks == ["['ann']"]
        hooks.clear()
        session.begin()
        with dexpy.session(session):
            Do(what=lambda op: op.after_commit(hook("no"))).call()
        session.rollback()
        assert hooks == []
        session.commit()
    assert hooks == []


def test_a_hook_that_raises_is_logged_and_the_next_one_runs(shop: Shop, caplog: pytest.LogCaptureFixture) -> None:
    def work(op: Do) -> str:
        op.session.add(Customer(name="ann"))
        op.after_commit(boom)
        op.after_commit(hook("next"))
        return "done"

    assert Do(what=work).call() == "done"
    assert hooks == ["next"]
    assert shop.names() == ["ann"]
    assert [text for text in caplog.messages if text.startswith("after_commit.failed hook=boom")]


def test_a_hook_may_register_another_hook(shop: Shop) -> None:
    def work(op: Do) -> None:
        op.session.add(Customer(name="ann"))
        op.after_commit(lambda: (hooks.append("first"), op.after_commit(hook("second"))))

    Do(what=work).call()
    assert hooks == ["first", "second"]


def test_a_hook_that_is_not_a_plain_function_is_refused(shop: Shop) -> None:
    async def later() -> None: ...

    for wrong in (None, later):
        with pytest.raises(OptionsError) as caught:
            Do(what=lambda op, wrong=wrong: op.after_commit(wrong)).call()
        assert str(caught.value) == (
            f"Do.after_commit({wrong!r}): expected a plain function without arguments. "
            "Write self.after_commit(lambda: ...)."
        )


@pytest.mark.parametrize("joined", [False, True])
def test_calls_and_enqueues_of_a_hook_are_separate_runs(shop: Shop, joined: bool) -> None:
    def work(op: Do) -> None:
        op.session.add(Customer(name="ann"))
        op.after_commit(lambda: hooks.append(Add(name="from the hook").call()))
        op.after_commit(lambda: hooks.append(Add(name="later").async_().call().status))

    with shop.session() as session:
        if joined:
            with dexpy.session(session):
                Do(what=work).call()
                session.commit()
        else:
            Do(what=work).call()
    assert hooks == ["from the hook", "pending"]
    assert shop.names() == ["ann", "from the hook"]
    shop.isolated_runtime.run_pending()
    assert shop.names() == ["ann", "from the hook", "later"]


def test_a_hook_cannot_use_the_session_of_the_run(shop: Shop) -> None:
    def work(op: Do) -> None:
        op.session.add(Customer(name="ann"))

        def late() -> None:
            with pytest.raises(NotRunning, match="the run has ended, and its session is closed"):
                _ = op.session
            hooks.append("refused")

        op.after_commit(late)

    Do(what=work).call()
    assert hooks == ["refused"]


def test_a_hook_in_a_transaction_block_runs_after_the_commit_of_the_block(shop: Shop) -> None:
    def work(op: Do) -> None:
        op.after_commit(hook("run"))
        with op.transaction():
            op.after_commit(hook("block"))
        assert hooks == ["block"]
        with pytest.raises(ZeroDivisionError), op.transaction():
            op.after_commit(hook("rolled back"))
            boom()
        assert hooks == ["block"]

    DoApart(what=work).call()
    assert hooks == ["block", "run"]


# ------------------------------------------------------------------------------------- sessions of the application


def test_with_session_joins_and_never_commits(shop: Shop) -> None:
    with shop.session() as session:
        with dexpy.session(session) as same:
            assert same is session is dexpy.current_session()
            assert Add(name="ann").call() == "ann"
            assert Add(name="bob", end="error").safe.call() == Err("no", "no")
            assert Do(what=lambda op: op.session is session).call()
        assert session.in_transaction()
        assert session.scalar(sa.select(sa.func.count()).select_from(Customer)) == 1
        assert shop.names() == []
        session.rollback()
        assert shop.names() == []
        with dexpy.session(session):
            Add(name="cid").call()
        session.commit()
    assert shop.names() == ["cid"]


def test_a_crash_in_a_joined_session_rolls_back_only_the_run(shop: Shop) -> None:
    with shop.session() as session, dexpy.session(session):
        session.add(Customer(name="mine"))
        with pytest.raises(ZeroDivisionError):
            Add(name="ann", end="crash").call()
        session.commit()
    assert shop.names() == ["mine"]


def test_a_scoped_session_is_resolved_to_its_session(shop: Shop) -> None:
    scoped = scoped_session(shop.sessions)
    with dexpy.session(scoped) as session:  # type: ignore[arg-type]
        Add(name="ann").call()
        assert session is scoped()
    scoped.commit()
    scoped.remove()
    assert shop.names() == ["ann"]


@pytest.mark.parametrize("wrong", [None, "session", sessionmaker])
def test_a_value_that_is_not_a_session_is_refused(wrong: Any) -> None:
    with pytest.raises(OptionsError) as caught, dexpy.session(wrong):
        pass
    assert str(caught.value) == (
        f"dexpy.session(...): expected a SQLAlchemy Session, got {type(wrong).__name__}. "
        "Pass the session itself, or the sync_session of an AsyncSession inside run_sync."
    )


def test_the_session_factory_of_the_application_is_used_where_configured(shop: Shop) -> None:
    collected: list[Session] = []

    class Own(Session):
        def __init__(self, *arguments: Any, **options: Any) -> None:
            super().__init__(*arguments, **options)
            collected.append(self)

    factory = sessionmaker(shop.engine, class_=Own)
    with isolated(database=str(shop.engine.url), session_factory=factory):
        assert Add(name="ann").call() == "ann"
        assert records.all().count() == 1
    assert len(collected) == 1
    assert shop.names() == ["ann"]


def test_the_database_of_the_application_may_differ_from_that_of_the_records(shop: Shop, tmp_path: Any) -> None:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/app.db")
    Base.metadata.create_all(engine)
    with isolated(session_factory=sessionmaker(engine)):
        assert Add(name="ann").call() == "ann"
        assert Add(name="bob", end="error").safe.call() == Err("no", "no")
        assert [record.status for record in records.all()] == ["done", "failed"]
    with engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(Customer)) == 1
    engine.dispose()
    assert shop.names() == []


def test_a_factory_without_a_visible_database_is_refused() -> None:
    with pytest.raises(dexpy.ConfigurationError, match=r"the database of the factory is unknown\. Set it: "):
        configure(session_factory=lambda: Session())


# ---------------------------------------------------------------------------------------------------- threads


def test_eight_threads_with_one_operation_object_run_eight_times(shop: Shop) -> None:
    class Count(Operation):
        numbers: list[int]

        def perform(self) -> int:
            self.numbers.append(1)
            self.session.add(Customer(name=self.run_id))
            barrier.wait(10)
            self.session.flush()
            return len(self.numbers)

    operation, barrier = Count(numbers=[]), threading.Barrier(8)
    results: list[int] = []
    threads = [threading.Thread(target=lambda: results.append(operation.call())) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert results == [1] * 8
    assert len(shop.names()) == len(set(shop.names())) == 8
    assert records.done().count() == 8


def test_two_calls_of_an_operation_are_two_runs(shop: Shop) -> None:
    operation = Do(what=lambda op: op.run_id)
    assert operation.call() != operation.call()
