"""Durable steps: finished ones are kept, unfinished ones are rolled back, the next attempt continues after them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import date, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
import sqlalchemy as sa
from apps import shop_steps
from apps.shop_steps import Item, Line

import dexpy
from dexpy import Error, Operation, Recording, Ref, Retry, after, before, guard, prop, records
from dexpy.database.tables import records as records_table
from dexpy.database.tables import steps as steps_table
from dexpy.errors import StepError
from dexpy.execution.call import current
from dexpy.recording.durable_steps import holds_claim
from dexpy.recording.transitions import apply
from dexpy.testing import Isolated, isolated

AGAIN = (Retry(ConnectionError, attempts=5, wait=0),)

hooks: list[str] = []
"""The actions of hooks, in order."""
failures_left: list[str] = []
"""The points at which the operations fail, once each."""


def fall(where: str) -> None:
    """Fail at a point that the test has put into `failures_left`."""
    if where in failures_left:
        failures_left.remove(where)
        raise ConnectionError(where)


@pytest.fixture(autouse=True)
def tables(engine: sa.Engine) -> None:
    shop_steps.create_tables(engine)
    hooks.clear()
    failures_left.clear()


@pytest.fixture
def lines(engine: sa.Engine) -> Callable[[], list[str]]:
    """Return the committed effects, in order."""

    def observe() -> list[str]:
        with engine.connect() as connection:
            return list(connection.execute(sa.select(Line.what).order_by(Line.id)).scalars())

    return observe


class Stepwise(Operation):
    """The base of the operations with steps; writes effects."""

    def note(self, what: str) -> None:
        self.session.add(Line(what=what, attempt=""))


class Journey(Stepwise):
    retry_on = AGAIN

    def perform(self) -> str:
        ticket = self.step(self.buy)
        self.step(self.pack)
        return self.step(self.leave, ticket, to="Rome")

    def buy(self) -> UUID:
        self.note("buy")
        self.after_commit(lambda: hooks.append("bought"))
        return UUID(int=7)

    def pack(self) -> None:
        self.note("pack")
        self.after_commit(lambda: hooks.append("packed"))
        self.session.flush()
        fall("packing")

    def leave(self, ticket: UUID, to: str) -> str:
        self.note(f"leave {ticket.int} {to}")
        return to


def test_a_finished_step_is_skipped_in_the_next_attempt_and_returns_its_stored_value(
    isolated_runtime: Isolated, lines: Callable[[], list[str]]
) -> None:
    failures_left.append("packing")
    ticket = Journey().async_().call()
    isolated_runtime.run_pending()

    assert ticket.result(1) == "Rome"
    assert ticket.reload().num_attempts == 2
    assert lines() == ["buy", "pack", "leave 7 Rome"]
    steps = records.steps(ticket.id)
    assert [(step.name, step.position, step.finished, step.claim_token) for step in steps] == [
        ("buy", 0, True, 1),
        ("pack", 1, True, 2),
        ("leave", 2, True, 2),
    ]
    assert [step.value for step in steps] == [str(UUID(int=7)), None, "Rome"]


def test_hooks_of_a_step_run_after_its_commit_and_never_after_its_rollback(isolated_runtime: Isolated) -> None:
    failures_left.append("packing")
    Journey().async_().call()
    isolated_runtime.run_pending()

    assert hooks == ["bought", "packed"]


class Child(Stepwise):
    name: str

    def perform(self) -> None:
        self.note(f"child {self.name}")


class Parent(Stepwise):
    retry_on = (Retry(ConnectionError, attempts=2, wait=60),)

    def perform(self) -> None:
        self.step(self.send)
        self.step(self.send_and_fall)

    def send(self) -> str:
        return Child(name="kept").async_().call().id

    def send_and_fall(self) -> None:
        Child(name="rolled back").async_().call()
        fall("sending")


def test_an_enqueue_in_a_step_is_published_after_its_commit_although_a_later_step_fails(
    isolated_runtime: Isolated, lines: Callable[[], list[str]]
) -> None:
    failures_left.append("sending")
    parent = Parent().async_().call()
    isolated_runtime.run_pending()

    assert parent.reload().pending
    assert lines() == ["child kept"]
    (child,) = records.where(operation=Child)
    assert (child.parent_id, child.id) == (parent.id, records.steps(parent.id)[0].value)


class Refusing(Stepwise):
    def perform(self) -> None:
        self.step(self.first)
        self.step(self.second)

    def first(self) -> None:
        self.note("first")

    def second(self) -> None:
        self.note("second")
        self.session.flush()
        raise Error("no", "Not this one")


def test_a_business_error_rolls_back_its_own_step_and_keeps_finished_ones(
    isolated_runtime: Isolated, lines: Callable[[], list[str]]
) -> None:
    ticket = Refusing().async_().call()
    isolated_runtime.run_pending()

    assert (ticket.reload().failure, lines()) == ("business", ["first"])


class Afterwards(Stepwise):
    retry_on = AGAIN

    def perform(self) -> None:
        self.step(self.first)
        self.note("with done")
        fall("at the end")

    def first(self) -> None:
        self.note("first")

    @after
    def sign(self) -> None:
        self.note("after")


def test_writes_after_the_last_step_are_committed_with_the_end_of_the_run(
    isolated_runtime: Isolated, lines: Callable[[], list[str]]
) -> None:
    failures_left.append("at the end")
    ticket = Afterwards().async_().call()
    isolated_runtime.run_pending()

    assert (ticket.reload().status, lines()) == ("done", ["first", "with done", "after"])


# ------------------------------------------------------------------------------------------------------- loops


class Walk(Stepwise):
    source: str
    batch: int = 1
    retry_on = AGAIN

    def perform(self) -> int:
        count = 0
        for item in self.each("items", getattr(self, self.source)(), batch=self.batch):
            shown = item.id if isinstance(item, Item) else item
            self.note(f"item {shown}")
            self.session.flush()
            fall(f"on {shown}")
            count += 1
        return count

    def rows(self) -> sa.Select[Item]:
        return sa.select(Item).where(Item.id <= 35)

    def listed(self) -> list[int]:
        return [7, 14, 21, 28, 35]

    def generated(self) -> Callable[[Any], Iterator[tuple[Any, int]]]:
        return self.after

    def after(self, cursor: tuple[date, int] | None) -> Iterator[tuple[tuple[date, int], int]]:
        hooks.append(f"from {cursor}")
        day = date(2026, 3, 1)
        for number in range(7, 36, 7):
            if cursor is None or (day, number) > cursor:
                yield (day, number), number


@pytest.mark.parametrize("source", ["rows", "listed", "generated"])
def test_a_loop_continues_after_the_last_committed_item(
    isolated_runtime: Isolated, lines: Callable[[], list[str]], source: str
) -> None:
    for count, batch in enumerate([1, 2, 5, 100], 1):
        failures_left.append("on 21")
        ticket = Walk(source=source, batch=batch).async_().call()
        isolated_runtime.run_pending()

        assert lines() == [f"item {number}" for number in (7, 14, 21, 28, 35)] * count
        # At the failure of the third item two are committed in batches of one or two, and none in larger batches.
        assert ticket.result(1) == (3 if batch <= 2 else 5)
        (step,) = records.steps(ticket.id)
        assert step.finished
        assert step.cursor == {"rows": 35, "listed": 5, "generated": [{"$date": "2026-03-01"}, 35]}[source]


def test_a_function_receives_the_committed_cursor_unchanged(isolated_runtime: Isolated) -> None:
    failures_left.append("on 21")
    Walk(source="generated", batch=2).async_().call()
    isolated_runtime.run_pending()

    assert hooks == ["from None", f"from {(date(2026, 3, 1), 14)}"]


@pytest.mark.parametrize(
    "cursor",
    [1, "a", 2.5, UUID(int=3), date(2026, 1, 2), datetime(2026, 1, 2, 3, tzinfo=timezone.utc), (1, ("b", UUID(int=4)))],
    ids=repr,
)
def test_a_cursor_round_trips(cursor: object) -> None:
    import json

    from dexpy.execution.durable.item_sources import decode_cursor, encode_cursor

    back = decode_cursor(json.loads(json.dumps(encode_cursor(cursor))))

    assert (type(back), back) == (type(cursor), cursor)


class Pair(shop_steps.Base):
    """A row whose primary key has two columns."""

    __tablename__ = "step_pairs"
    a: sa.orm.Mapped[int] = sa.orm.mapped_column(primary_key=True, autoincrement=False)
    b: sa.orm.Mapped[str] = sa.orm.mapped_column(sa.String(20), primary_key=True)


class WalkPairs(Stepwise):
    batch: int
    retry_on = AGAIN

    def perform(self) -> None:
        for pair in self.each("pairs", sa.select(Pair), batch=self.batch):
            self.note(f"{pair.a}{pair.b}")
            self.session.flush()
            fall(f"{pair.a}{pair.b}")


def test_a_select_continues_by_a_key_of_two_columns(
    isolated_runtime: Isolated, engine: sa.Engine, lines: Callable[[], list[str]]
) -> None:
    keys = [(1, "x"), (1, "y"), (2, "a"), (2, "b"), (2, "c"), (3, "a")]
    with engine.begin() as connection:
        connection.execute(sa.insert(Pair), [{"a": a, "b": b} for a, b in keys])
    for batch in (1, 2, 3):
        failures_left.extend(["1y", "2b", "3a"])
        WalkPairs(batch=batch).async_().call()
        isolated_runtime.run_pending()

        assert lines() == [f"{a}{b}" for a, b in keys] * batch


class Remove(Stepwise):
    def perform(self) -> None:
        for item in self.each("items", sa.select(Item).with_for_update(), batch=5):
            self.session.delete(item)


def test_rows_may_be_deleted_during_their_loop(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    ticket = Remove().async_().call()
    isolated_runtime.run_pending()

    with engine.connect() as connection:
        assert connection.execute(sa.select(Item.id)).all() == []
    assert ticket.reload().done


class Joined(Stepwise):
    def perform(self) -> None:
        twice = sa.select(Item).join(Line, sa.or_(Line.what == "one", Line.what == "two"))
        for item in self.each("items", twice, batch=3):
            self.note(f"item {item.id}")


def test_rows_duplicated_by_a_join_are_visited_once_and_none_is_skipped(
    isolated_runtime: Isolated, engine: sa.Engine, lines: Callable[[], list[str]]
) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(Line), [{"what": "one", "attempt": ""}, {"what": "two", "attempt": ""}])
    Joined().async_().call()
    isolated_runtime.run_pending()

    assert lines() == ["one", "two", *(f"item {7 * number}" for number in range(1, shop_steps.ROWS + 1))]


class Found(Stepwise):
    wanted: int

    def perform(self) -> int | None:
        for number in self.each("numbers", range(10)):
            self.note(f"looked at {number}")
            if number == self.wanted:
                return number
        return None


def test_perform_may_return_inside_a_loop(isolated_runtime: Isolated, lines: Callable[[], list[str]]) -> None:
    ticket = Found(wanted=2).async_().call()
    isolated_runtime.run_pending()

    assert ticket.result(1) == 2
    assert lines() == ["looked at 0", "looked at 1", "looked at 2"]


class Empty(Stepwise):
    def perform(self) -> int:
        return len([*self.each("none", []), *self.each("no rows", sa.select(Item).where(Item.id < 0))])


def test_an_empty_loop_is_finished_at_once(isolated_runtime: Isolated) -> None:
    ticket = Empty().async_().call()
    isolated_runtime.run_pending()

    assert ticket.result(1) == 0
    assert [(step.name, step.finished, step.cursor) for step in records.steps(ticket.id)] == [
        ("none", True, 0),
        ("no rows", True, None),
    ]


TAKEN: dict[str, dict[str, Any]] = {
    "by another worker": {"claim_token": records_table.c.claim_token + 1, "claimed_by": "other:1:x"},
    "as lost": {"status": "failed", "claimed_by": None},
}


class Robbed(Stepwise):
    """Loses its claim while it is in a step."""

    how: str

    def perform(self) -> None:
        self.step(self.work)

    def work(self) -> None:
        update = sa.update(records_table).where(records_table.c.id == self.run_id).values(TAKEN[self.how])
        engine = sa.create_engine(dexpy.current_runtime().store.database.url, poolclass=sa.NullPool)
        with engine.begin() as connection:
            connection.execute(update)
        self.note("too late")


@pytest.mark.parametrize("how", TAKEN)
def test_a_step_of_a_run_that_was_recovered_meanwhile_commits_nothing(
    isolated_runtime: Isolated, lines: Callable[[], list[str]], how: str
) -> None:
    ticket = Robbed(how=how).async_().call()
    isolated_runtime.run_pending()

    assert lines() == []
    assert records.steps(ticket.id) == []
    assert ticket.reload().status == TAKEN[how].get("status", "running"), "the row stays as it was changed meanwhile"


def test_the_claim_of_a_step_is_locked_until_its_commit(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    ticket = Journey().async_().call()
    with isolated_runtime.runtime.store.begin() as connection:
        row = apply(connection, "claim", ticket.id, claimed_by="host:1:x")
    assert row is not None
    patience = {"sqlite": "PRAGMA busy_timeout = 0", "postgresql": "SET lock_timeout = 100"}

    with isolated_runtime.runtime.store.begin() as connection:
        assert holds_claim(connection, ticket.id, row.claim_token)
        with pytest.raises(sa.exc.OperationalError), engine.begin() as other:
            other.exec_driver_sql(patience.get(engine.dialect.name, "SET innodb_lock_wait_timeout = 1"))
            other.execute(sa.update(records_table).values(TAKEN["by another worker"]))

    assert isolated_runtime.runtime.store.row(ticket.id).claim_token == row.claim_token


class Fresh(Stepwise):
    item: Ref[Item] = prop(lock=True)

    def perform(self) -> list[int]:
        visits = [self.item.visits]
        self.step(self.change)
        self.elsewhere(7)
        return [*visits, self.step(self.observe)]

    def change(self) -> None:
        self.item.visits += 1

    def observe(self) -> int:
        with pytest.raises(sa.exc.OperationalError):
            self.elsewhere(9)
        return self.item.visits

    def elsewhere(self, visits: int) -> None:
        """Commit a change in another session, without waiting for a lock."""
        engine = sa.create_engine(dexpy.current_runtime().store.database.url, poolclass=sa.NullPool)
        patience = {"sqlite": "PRAGMA busy_timeout = 0", "postgresql": "SET lock_timeout = 100"}
        with engine.begin() as connection:
            connection.exec_driver_sql(patience.get(engine.dialect.name, "SET innodb_lock_wait_timeout = 1"))
            connection.execute(sa.update(Item).where(Item.id == 7).values(visits=visits))


def test_each_step_reloads_and_locks_the_rows_of_its_references(
    isolated_runtime: Isolated,
) -> None:
    ticket = Fresh(item=7).async_().call()
    isolated_runtime.run_pending()

    assert ticket.result(1) == [0, 7]


# ------------------------------------------------------------------------------------------- other kinds of runs


class Unwrapped(Stepwise):
    transaction = False
    retry_on = AGAIN

    def perform(self) -> int:
        self.step(self.first)
        count = 0
        for number in self.each("numbers", [1, 2, 3]):
            self.note(f"number {number}")
            self.session.flush()
            fall(f"number {number}")
            count += number
        with self.transaction():
            self.note("a block")
        return count

    def first(self) -> None:
        self.note("first")


def test_with_transaction_false_each_step_is_a_separate_transaction(
    isolated_runtime: Isolated, lines: Callable[[], list[str]]
) -> None:
    failures_left.append("number 2")
    ticket = Unwrapped().async_().call()
    isolated_runtime.run_pending()

    assert ticket.result(1) == 5
    assert lines() == ["first", "number 1", "number 2", "number 3", "a block"]


def test_a_call_in_place_is_one_transaction_and_stores_no_steps(
    isolated_runtime: Isolated, lines: Callable[[], list[str]], engine: sa.Engine
) -> None:
    assert Journey().call() == "Rome"
    with pytest.raises(Error, match="Not this one"):
        Refusing().call()
    failures_left.append("on 21")
    with pytest.raises(ConnectionError):
        Walk(source="rows").call()

    assert lines() == ["buy", "pack", "leave 7 Rome"]
    with engine.connect() as connection:
        assert connection.execute(sa.select(steps_table)).all() == []
    assert Walk(source="listed").call() == 5


class Forgiving(Stepwise):
    writes_first: bool

    def perform(self) -> str:
        if self.writes_first:
            self.note("before")
        try:
            self.step(self.fail)
        except ValueError:
            return "caught"
        return "not caught"

    def fail(self) -> None:
        self.note("rolled back")
        self.session.flush()
        raise ValueError


@pytest.mark.parametrize("writes_first", [True, False])
def test_only_the_failed_step_of_a_call_in_place_is_rolled_back(
    isolated_runtime: Isolated, lines: Callable[[], list[str]], writes_first: bool
) -> None:
    assert Forgiving(writes_first=writes_first).call() == "caught"
    assert lines() == (["before"] if writes_first else [])


class Nesting(Stepwise):
    retry_on = AGAIN

    def perform(self) -> str:
        answer = self.step(self.inner)
        fall("outside")
        return answer

    def inner(self) -> str:
        return Journey().call()


def test_steps_of_an_operation_called_in_a_step_join_the_transaction_of_that_step(
    isolated_runtime: Isolated, lines: Callable[[], list[str]]
) -> None:
    failures_left.extend(["packing", "outside"])
    ticket = Nesting().async_().call()
    isolated_runtime.run_pending()

    assert ticket.result(1) == "Rome"
    assert lines() == ["buy", "pack", "leave 7 Rome"]
    assert [step.name for step in records.steps(ticket.id)] == ["inner"]


class Coroutine(Stepwise):
    retry_on = AGAIN

    async def perform(self) -> str:
        bought = await self.in_session(lambda _: self.step(self.buy))
        await asyncio.sleep(0)
        await self.in_session(lambda _: self.walk())
        return bought

    def buy(self) -> str:
        self.note("buy")
        return "ticket"

    def walk(self) -> None:
        for number in self.each("numbers", [1, 2]):
            self.note(f"number {number}")
            self.session.flush()
            fall(f"number {number}")


def test_the_steps_of_a_coroutine_run_in_the_thread_of_its_run(
    isolated_runtime: Isolated, lines: Callable[[], list[str]]
) -> None:
    failures_left.append("number 2")
    ticket = Coroutine().async_().call()
    isolated_runtime.run_pending()

    assert ticket.result(1) == "ticket"
    assert lines() == ["buy", "number 1", "number 2"]


# ------------------------------------------------------------------------------------ retries and interruptions


class Doomed(Stepwise):
    def perform(self) -> int:
        self.step(self.first)
        return self.step(self.second)

    def first(self) -> None:
        self.note("first")

    def second(self) -> int:
        fall("second")
        return 2


def test_retry_continues_after_the_finished_steps_and_from_start_restarts_them(
    isolated_runtime: Isolated, lines: Callable[[], list[str]]
) -> None:
    failures_left.extend(["second", "second"])
    ticket = Doomed().async_().call()
    isolated_runtime.run_pending()
    assert ticket.reload().failed

    ticket.retry()
    isolated_runtime.run_pending()
    assert (ticket.reload().failed, lines()) == (True, ["first"])

    records.get(ticket.id).retry(from_start=True)
    assert records.steps(ticket.id) == []
    isolated_runtime.run_pending()
    assert (ticket.result(1), lines()) == (2, ["first", "first"])


def test_steps_are_deleted_with_their_record(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    Journey().async_().call()
    isolated_runtime.run_pending()

    assert records.prune(older_than=timedelta(0)) == 1
    with engine.connect() as connection:
        assert connection.execute(sa.select(steps_table)).all() == []


class Stopped(Stepwise):
    """Is cancelled or interrupted once, after the commit of its second item."""

    how: str

    def perform(self) -> int:
        self.step(self.first)
        for number in self.each("numbers", [1, 2, 3]):
            self.note(f"number {number}")
            if number == 2 and not hooks:
                self.after_commit(self.stop)
        return 3

    def first(self) -> None:
        self.note("first")

    def stop(self) -> None:
        hooks.append(self.how)
        call = current.get()
        assert call is not None
        assert call.cancel_token is not None
        getattr(call.cancel_token, self.how)()


def test_a_run_that_is_cancelled_ends_between_two_items(
    isolated_runtime: Isolated, lines: Callable[[], list[str]]
) -> None:
    ticket = Stopped(how="cancel").async_().call()
    isolated_runtime.run_pending()

    assert (ticket.reload().status, ticket.failure) == ("cancelled", "cancelled")
    assert lines() == ["first", "number 1", "number 2"]


def test_a_stopping_worker_releases_a_run_between_two_items_without_counting_the_attempt(
    isolated_runtime: Isolated, lines: Callable[[], list[str]]
) -> None:
    ticket = Stopped(how="interrupt").async_().call()
    ended = isolated_runtime.run_pending()

    assert [each.id for each in ended] == [ticket.id, ticket.id]
    assert (ticket.result(1), ticket.num_attempts) == (3, 1)
    assert lines() == ["first", "number 1", "number 2", "number 3"]
    assert [each.failure for each in records.attempts(ticket.id)] == [None]


def test_a_run_that_starts_in_a_stopping_worker_is_released_too(
    isolated_runtime: Isolated, lines: Callable[[], list[str]]
) -> None:
    ticket = Stopped(how="interrupt").async_().call()
    broker: Any = isolated_runtime.runtime.broker
    message = broker.claim()
    actor = broker.get_actor(message.actor_name)
    isolated_runtime.runtime.services.watchdog.interrupt()

    actor(*message.args, **message.kwargs)

    assert (ticket.reload().status, ticket.num_attempts) == ("pending", 0)
    assert (lines(), hooks) == ([], [])


# ------------------------------------------------------------------------------------------------ refusals


def failure_of(isolated_runtime: Isolated, operation: Operation) -> str:
    """Run an operation in the background, and return the message of its error."""
    ticket = operation.async_().call()
    isolated_runtime.run_pending()
    (attempt, *_) = records.attempts(ticket.id)
    assert attempt.error in ("dexpy.errors.StepError", "dexpy.errors.OptionsError", "dexpy.errors.ResultTypeError"), (
        attempt
    )
    return str(attempt.error_message)


class Wrong(Stepwise):
    how: str

    def perform(self) -> None:
        getattr(self, self.how)()

    def fine(self) -> None:
        self.note("fine")

    def twice(self) -> None:
        self.step(self.fine)
        self.step(self.fine)

    def inside(self) -> None:
        self.step(self.nested)

    def nested(self) -> None:
        self.step(self.fine)

    def in_a_loop(self) -> None:
        for _ in self.each("numbers", [1]):
            self.step(self.fine)

    def behind_a_failure(self) -> None:
        try:
            self.step(self.fails)
        except ValueError:
            self.step(self.fine)

    def fails(self) -> None:
        raise ValueError

    def behind_a_broken_loop(self) -> None:
        for _ in self.each("numbers", [1, 2]):
            break
        self.step(self.fine)

    def behind_a_write(self) -> None:
        self.note("outside")
        self.step(self.fine)

    def behind_a_flushed_write(self) -> None:
        self.note("outside")
        self.session.flush()
        self.step(self.fine)

    def behind_an_update(self) -> None:
        self.session.execute(sa.update(Item).values(visits=9))
        self.step(self.fine)

    def behind_plain_sql(self) -> None:
        self.session.execute(sa.text("UPDATE step_items SET visits = 9"))
        self.step(self.fine)

    def behind_a_hook(self) -> None:
        self.after_commit(lambda: None)
        self.step(self.fine)

    def behind_a_call(self) -> None:
        Child(name="outside").call()
        self.step(self.fine)

    def behind_a_message(self) -> None:
        Child(name="outside").async_().call()
        self.step(self.fine)

    def in_a_savepoint(self) -> None:
        with self.session.begin_nested():
            self.step(self.fine)

    def a_function(self) -> None:
        self.step(lambda: None)

    def a_coroutine(self) -> None:
        self.step(self.awaited)  # type: ignore[unused-coroutine]

    async def awaited(self) -> None: ...

    def no_json(self) -> None:
        self.step(self.gives_an_object)

    def gives_an_object(self):  # type: ignore[no-untyped-def]
        return object()

    def wrong_type(self) -> None:
        self.step(self.says_int)

    def says_int(self) -> int:
        return "text"  # type: ignore[return-value]

    def an_iterator(self) -> None:
        list(self.each("numbers", iter([1])))  # type: ignore[call-overload]

    def no_name(self) -> None:
        list(self.each("", [1]))

    def no_batch(self) -> None:
        list(self.each("numbers", [1], batch=0))

    def ordered(self) -> None:
        list(self.each("items", sa.select(Item).order_by(Item.visits).limit(3)))

    def skipping(self) -> None:
        list(self.each("items", sa.select(Item).with_for_update(skip_locked=True)))

    def of_columns(self) -> None:
        list(self.each("items", sa.select(Item.id)))

    def no_pairs(self) -> None:
        list(self.each("numbers", lambda _: [1]))  # type: ignore[list-item,return-value]

    def same_cursor(self) -> None:
        list(self.each("numbers", lambda _: [(1, "a"), (1, "b")]))

    def odd_cursor(self) -> None:
        list(self.each("numbers", lambda _: [(None, "a")]))


REFUSED = {
    "twice": "Wrong: the step 'fine' was started twice in one attempt. Give each step its own name.",
    "inside": "the step 'fine' is inside the step 'nested', whose transaction it would end",
    "in_a_loop": "the step 'fine' is inside the step 'numbers'",
    "behind_a_failure": "the step 'fine' follows 'fails', which did not finish in this attempt",
    "behind_a_broken_loop": "the step 'fine' follows 'numbers', which did not finish in this attempt",
    "behind_a_write": "the step 'fine' follows a write or an after-commit action outside of a step",
    "behind_a_flushed_write": "follows a write or an after-commit action outside of a step",
    "behind_an_update": "follows a write or an after-commit action outside of a step",
    "behind_plain_sql": "follows a write or an after-commit action outside of a step",
    "behind_a_hook": "outside of a step, which every attempt would repeat. Move it into a step.",
    "behind_a_call": "follows a write or an after-commit action outside of a step",
    "behind_a_message": "follows a write or an after-commit action outside of a step",
    "in_a_savepoint": "the step 'fine' is inside `with self.session.begin_nested():`",
    "a_function": "Wrong.step: expected a method of the operation, which has a name, got",
    "a_coroutine": "Wrong.step(self.awaited): expected a plain method, got an async def. Write `def awaited`.",
    "no_json": "the step 'gives_an_object' returned a value that cannot be stored for the next attempt",
    "wrong_type": "Wrong.says_int: expected to return int, got str (result: expected int)",
    "an_iterator": "expected a list, tuple or range; a select of one model; or a function of the cursor",
    "no_name": "Wrong.each: name: expected a str of 1 to 255 characters, got ''.",
    "no_batch": "Wrong.each('numbers', ...): batch: expected an int >= 1, got 0.",
    "ordered": "the step 'items' has a select with order_by, limit. Remove it: the loop orders the rows by primary key",
    "skipping": "has a select with with_for_update(skip_locked=True)",
    "of_columns": "the step 'items' expected a select of one model, for example select(Order).where(...).",
    "no_pairs": "the step 'numbers' expected (cursor, item) pairs from its function, got int.",
    "same_cursor": "got the cursor 1 twice in a row",
    "odd_cursor": "has a cursor that is of type NoneType; expected int, str, float, UUID",
}


def test_an_invalid_step_or_loop_is_refused_and_stores_nothing(
    isolated_runtime: Isolated, lines: Callable[[], list[str]]
) -> None:
    for how, message in REFUSED.items():
        assert message in failure_of(isolated_runtime, Wrong(how=how)), how
    assert "outside" not in lines()
    assert records.where(operation=Child, status=["pending", "done"]).count() == 0


versions: list[list[str]] = []
"""The names of the steps of each attempt, in order."""


class Deployed(Stepwise):
    retry_on = AGAIN

    def perform(self) -> None:
        for name in versions.pop(0):
            self.step(getattr(self, name))
            fall(f"after {name}")

    def first(self) -> int:
        self.note("first")
        return 1

    def second(self) -> None:
        self.note("second")

    def third(self) -> None:
        self.note("third")


DEPLOYS: list[tuple[list[str], list[str], str | None]] = [
    (["first"], ["first", "second", "third"], None),
    (["first", "second"], ["first"], None),
    (
        ["first", "second"],
        ["second", "first"],
        "the step 'second' is in the place of 'first', a step of an earlier attempt",
    ),
    (
        ["first", "third"],
        ["first", "second", "third"],
        "the step 'second' is in the place of 'third', a step of an earlier attempt",
    ),
    (["first", "third"], ["third"], "the step 'third' is in the place of 'first', a step of an earlier attempt"),
]
"""The steps of the first attempt, the steps of the next one, and the error; None if they are accepted."""


def test_a_deploy_may_append_steps_and_not_change_their_order(isolated_runtime: Isolated) -> None:
    for earlier, now, refused in DEPLOYS:
        versions[:] = [earlier, now]
        failures_left.append(f"after {earlier[-1]}")
        ticket = Deployed().async_().call()
        isolated_runtime.run_pending()

        attempt = records.attempts(ticket.id)[-1]
        if refused is None:
            assert ticket.reload().done
            continue
        assert refused in str(attempt.error_message)
        assert "ticket.retry(from_start=True)" in str(attempt.error_message)


class Unrecorded(Stepwise):
    record = False

    def perform(self) -> None:
        self.step(self.first)

    def first(self) -> None: ...


class WithoutParams(Unrecorded):
    record = Recording(params=False)


class InGuard(Stepwise):
    @guard("never")
    def refused(self) -> bool:
        self.step(self.first)
        return False

    def perform(self) -> None: ...

    def first(self) -> None: ...


class InBefore(Stepwise):
    @before
    def prepare(self) -> None:
        self.step(self.first)

    def perform(self) -> None: ...

    def first(self) -> None: ...


class InCoroutine(Stepwise):
    async def perform(self) -> None:
        self.step(self.first)

    def first(self) -> None: ...


class InBlock(Stepwise):
    transaction = False

    def perform(self) -> None:
        with self.transaction():
            self.step(self.first)

    def first(self) -> None: ...


def test_a_step_of_a_class_without_a_record_is_refused(isolated_runtime: Isolated) -> None:
    with pytest.raises(StepError, match="needs a record for its checkpoint, but the class declares record = False"):
        Unrecorded().call()
    with pytest.raises(StepError, match=r"the class declares record = Recording\(params=False\)\. Remove that\."):
        WithoutParams().call()


def test_steps_are_refused_outside_of_perform(isolated_runtime: Isolated) -> None:
    with pytest.raises(
        StepError,
        match="was started outside of perform. Move it into perform: guards and callbacks run in every attempt",
    ):
        InGuard().call()
    with pytest.raises(StepError, match="was started outside of perform"):
        InBefore().call()
    with pytest.raises(StepError, match=r"on the event loop.*Write: await self\.in_session\(lambda session: "):
        InCoroutine().call()
    with pytest.raises(dexpy.errors.NotRunning, match=r"Journey\.step\(\): available only during a run"):
        operation = Journey()
        operation.step(operation.buy)
    assert "is inside `with self.transaction():`" in failure_of(isolated_runtime, InBlock())


def test_a_step_error_has_the_names_of_operation_and_step_as_attributes(isolated_runtime: Isolated) -> None:
    with pytest.raises(StepError) as refused:
        Wrong(how="twice").call()

    assert (refused.value.operation, refused.value.step) == ("Wrong", "fine")


class Shrinking(Stepwise):
    retry_on = AGAIN

    def perform(self) -> None:
        for number in self.each("numbers", list(range(3 if "shrunk" not in hooks else 1))):
            if number == 2:
                hooks.append("shrunk")
                raise ConnectionError


def test_a_list_that_has_become_shorter_is_refused(isolated_runtime: Isolated) -> None:
    ticket = Shrinking().async_().call()
    isolated_runtime.run_pending()

    assert "has already processed 2 items, but the list now has 1" in str(records.attempts(ticket.id)[-1].error_message)


class Sealed(Stepwise):
    encrypt = True
    retry_on = AGAIN

    def perform(self) -> str:
        code = self.step(self.draw)
        for name in self.each("names", lambda cursor: [("anna's key", "anna")] if cursor is None else []):
            self.note(name)
        fall("sealed")
        return code

    def draw(self) -> str:
        return "the secret code"


def test_steps_of_an_encrypted_class_are_stored_encrypted(
    database_url: str, engine: sa.Engine, lines: Callable[[], list[str]]
) -> None:
    pytest.importorskip("cryptography")
    from cryptography.fernet import Fernet

    from dexpy.foundation.encryption import FernetEncryptor

    with isolated(
        database=database_url, encryptors={"default": FernetEncryptor(Fernet.generate_key().decode())}
    ) as isolated_runtime:
        failures_left.append("sealed")
        ticket = Sealed().async_().call()
        isolated_runtime.run_pending()

        assert ticket.result(1) == "the secret code"
        assert lines() == ["anna"]
        assert [(step.value, step.cursor) for step in records.steps(ticket.id)] == [
            ("<sensitive>", None),
            (None, "<sensitive>"),
        ]
    with engine.connect() as connection:
        stored = str(connection.execute(sa.text("SELECT * FROM operation_steps")).all())
    assert "secret" not in stored
    assert "anna's" not in stored
