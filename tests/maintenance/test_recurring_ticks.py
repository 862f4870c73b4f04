"""The rounds that enqueue due ticks, on each database: what runs, what is missed, what is skipped, and what is broken.

The clock of the test stands in for that of the database.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Generator
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

from dexpy import Async, Concurrency, Cron, Every, Once, Operation, Retry, Unique, deferrable, prop, recurring
from dexpy.database.tables import records
from dexpy.database.tables import recurring as table
from dexpy.declaration import registry
from dexpy.errors import UnknownOperation
from dexpy.foundation import failpoints
from dexpy.foundation.clock import clock
from dexpy.foundation.throttle import LogThrottle
from dexpy.maintenance.recurring_ticks import FAILED_PAUSE_S, LOCKED_PAUSE_S, LONGEST_PAUSE_S, RecurringTicks
from dexpy.recording import recurring_tasks
from dexpy.recording.recurring_tasks import delay_of
from dexpy.testing import Isolated

HOUR, MINUTE = timedelta(hours=1), timedelta(minutes=1)
SERVERS = [pytest.param(kind, marks=pytest.mark.servers) for kind in ("postgresql", "mariadb")]
seen: list[tuple[Any, Any]] = []


class Sync(Operation, name="ticks.sync"):
    """Notes when it was scheduled."""

    shop: int = 1
    retry_on = (Retry(ConnectionError, attempts=2, wait=0),)

    def perform(self) -> int:
        seen.append((self.scheduled_for, self.previous_scheduled_for))
        if self.shop == 13 and len(seen) == 1:
            raise ConnectionError("the shop is away")
        return self.shop


class UniqueSync(Operation, name="ticks.unique_sync"):
    """At most one pending or running."""

    unique = Unique()

    def perform(self) -> None: ...


class RaisingSync(Operation, name="ticks.raising_sync"):
    """The same, with an error."""

    unique = Unique(on_conflict="raise")

    def perform(self) -> None: ...


class OnceSync(Operation, name="ticks.once_sync"):
    """Once for its props."""

    shop: int = 1
    once = Once("shop")

    def perform(self) -> None: ...


class PatientOnceSync(Operation, name="ticks.patient_once_sync"):
    """Once for its props, with a long wait for a transaction that holds the key."""

    shop: int = 1
    once = Once("shop", wait=8)

    def perform(self) -> None: ...


class LimitedSync(Operation, name="ticks.limited_sync"):
    """One at a time."""

    concurrency = Concurrency(1)

    def perform(self) -> None: ...


class SecretSync(Operation, name="ticks.secret_sync"):
    """Has an encrypted prop."""

    token: str = prop(encrypted=True)

    def perform(self) -> int:
        return len(self.token)


def queue_of(operation: Any) -> str:
    raise ValueError(f"no shop has the token {operation.token}")


class RoutedSync(Operation, name="ticks.routed_sync"):
    """Has a queue function that fails."""

    token: str = prop(sensitive=True)
    async_ = Async(queue=queue_of)

    def perform(self) -> None: ...


class PatientSync(Operation, name="ticks.patient_sync"):
    """Has another limit of lost workers."""

    max_lost = 7

    def perform(self) -> None: ...


@deferrable(name="ticks.clean_up")
def clean_up(days: int, table: str = "log") -> str:
    """A deferred function."""
    return f"{table} {days}"


@pytest.fixture(autouse=True)
def start(isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch) -> Generator[datetime]:
    """Move the clock to a minute after an hour: an hour later the next tick is within its grace."""
    # Each row is logged once in a process.
    monkeypatch.setattr(recurring_tasks, "_unreadable", LogThrottle(every_s=float("inf")))
    seen.clear()
    now = datetime.now(timezone.utc)
    hour = now.replace(minute=0, second=0, microsecond=0) + HOUR
    isolated_runtime.advance(hour + MINUTE - now)
    yield hour
    failpoints.reached = None


@pytest.fixture
def ticks(isolated_runtime: Isolated) -> RecurringTicks:
    return RecurringTicks(isolated_runtime.runtime.dispatcher, isolated_runtime.runtime.store)


@pytest.fixture
def unknown_sync(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], None]:
    """Make this process forget a class, as one that does not import it."""

    def forget(cls: Any) -> None:
        known = {name: other for name, other in registry._by_name.items() if other is not cls}
        monkeypatch.setattr(registry, "_by_name", known)

    return forget


def runs(engine: sa.Engine, key: str = "sync") -> list[Any]:
    with engine.connect() as connection:
        query = sa.select(records).where(records.c.recurring_key == key).order_by(records.c.id)
        return list(connection.execute(query).all())


def change(engine: sa.Engine, key: str = "sync", **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(table).where(table.c.key == key).values(**values))


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[Any]:
    return [record for record in caplog.records if getattr(record, "event", "") == name]


# ------------------------------------------------------------------------------------------------------ ticks that run


def test_each_tick_has_one_run_that_knows_its_tick_and_the_one_before(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, start: datetime
) -> None:
    recurring.add("sync", Sync(shop=7), Cron("0 * * * *", zone="Europe/Rome"), queue="slow", priority=3)
    for _ in range(3):
        assert ticks.run_once()
        isolated_runtime.advance(HOUR)
        ticks.run_once()
        ticks.run_once()
        isolated_runtime.run_pending()

    stored = runs(engine)
    assert [row.run_at for row in stored] == [start + n * HOUR for n in (1, 2, 3)]
    assert [(row.status, row.queue, row.priority) for row in stored] == [("done", "slow", 3)] * 3
    assert seen == [(start + HOUR, None), (start + 2 * HOUR, start + HOUR), (start + 3 * HOUR, start + 2 * HOUR)]
    assert {str(moment.tzinfo) for moment, _ in seen} == {"Europe/Rome"}
    task = recurring.get("sync")
    assert (task.last_at, task.next_at) == (start + 3 * HOUR, start + 4 * HOUR)
    assert (task.last_run_id, task.last_status) == (stored[-1].id, "done")
    assert (task.missed_count, task.skipped_count) == (0, 0)


def test_the_retry_of_a_run_keeps_its_tick(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, start: datetime
) -> None:
    recurring.add("sync", Sync(shop=13), Every("hour"))
    isolated_runtime.advance(HOUR)
    ticks.run_once()
    isolated_runtime.run_pending()
    assert [moment for moment, _ in seen] == [start + HOUR] * 2
    assert [row.status for row in runs(engine)] == ["done"]


def test_a_run_that_no_tick_has_enqueued_has_no_scheduled_time(isolated_runtime: Isolated) -> None:
    Sync().call()
    Sync().async_().call()
    isolated_runtime.run_pending()
    assert seen == [(None, None)] * 2


def test_a_deferred_function_recurs(isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine) -> None:
    recurring.add("sync", clean_up, Every("hour"), props={"days": 30})
    isolated_runtime.advance(HOUR)
    ticks.run_once()
    (ticket,) = isolated_runtime.run_pending()
    assert ticket.result(5) == "log 30"


def test_a_default_that_is_not_passed_is_computed_for_each_run(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    recurring.add("sync", Sync, Every("hour"))
    assert recurring.get("sync").params == {}
    isolated_runtime.advance(HOUR)
    ticks.run_once()
    assert [row.params for row in runs(engine)] == [{"shop": 1}]


def test_a_task_that_runs_at_its_start_has_a_run_at_once(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, start: datetime
) -> None:
    recurring.add("sync", Sync(), Every("hour"), run_at_start=True)
    ticks.run_once()
    (row,) = runs(engine)
    assert abs(row.run_at - clock.now()) < MINUTE
    assert recurring.get("sync").next_at == start + HOUR


def test_the_jitter_delays_the_run_and_keeps_the_tick(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, start: datetime
) -> None:
    # The delay depends on the key and the date: one that is longer than the test takes.
    key = next(key for key in "abcdefghijkl" if delay_of(key, start + HOUR, 7200) > HOUR)
    recurring.add(key, Sync(), Every("hour"), jitter=7200)
    isolated_runtime.advance(HOUR)
    ticks.run_once()
    (row,) = runs(engine, key)
    delay = delay_of(key, start + HOUR, 7200)
    assert HOUR < delay < 2 * HOUR
    assert delay == delay_of(key, start + HOUR, 7200) != delay_of(key, start + 2 * HOUR, 7200)
    assert (row.run_at, row.scheduled_at) == (start + HOUR, start + HOUR + delay)
    isolated_runtime.run_pending()
    assert seen == []
    isolated_runtime.advance(delay)
    isolated_runtime.run_pending()
    assert seen == [(start + HOUR, None)]


def test_a_task_ends_after_its_number_of_runs(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine
) -> None:
    recurring.add("sync", Sync(), Every("hour"), times=2)
    for _ in range(4):
        isolated_runtime.advance(HOUR)
        ticks.run_once()
        isolated_runtime.run_pending()
    task = recurring.get("sync")
    assert (len(runs(engine)), task.remaining, task.next_at, task.state) == (2, 0, None, "ended")


def test_a_task_ends_at_its_end(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, start: datetime
) -> None:
    recurring.add("sync", Sync(), Every("hour"), until=start + 2 * HOUR)
    for _ in range(4):
        isolated_runtime.advance(HOUR)
        ticks.run_once()
        isolated_runtime.run_pending()
    assert [row.run_at for row in runs(engine)] == [start + HOUR, start + 2 * HOUR]
    assert recurring.get("sync").state == "ended"


# ------------------------------------------------------------------------------------------------- missed and skipped


@pytest.mark.parametrize(("options", "count"), [({}, 1), ({"max_waiting": None}, 3)], ids=["default", "no_limit"])
def test_ticks_within_the_grace_run_in_order_or_are_skipped_while_the_first_one_is_pending(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, start: datetime, options: Any, count: int
) -> None:
    recurring.add("sync", Sync(), Every("minute"), grace=300, **options)
    isolated_runtime.advance(3 * MINUTE + timedelta(seconds=30))
    ticks.run_once()
    assert [row.run_at for row in runs(engine)] == [start + n * MINUTE for n in (2, 3, 4)][:count]
    task = recurring.get("sync")
    assert (task.skipped_count, task.missed_count, task.next_at) == (3 - count, 0, start + 5 * MINUTE)


def test_ticks_of_ten_days_are_missed_counted_and_logged_once(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, start: datetime, caplog: Any
) -> None:
    caplog.set_level(logging.WARNING, "dexpy")
    recurring.add("sync", Sync(), Every("hour"))
    isolated_runtime.advance(timedelta(days=10, minutes=30))
    for _ in range(3):
        ticks.run_once()
    task = recurring.get("sync")
    last = start + timedelta(days=10)
    assert (task.missed_count, task.first_missed_at, task.last_missed_at) == (240, start + HOUR, last)
    assert (runs(engine), task.next_at) == ([], last + HOUR)
    (line,) = events(caplog, "recurring.missed")
    assert (line.levelname, line.key, line.count) == ("WARNING", "sync", 240)

    isolated_runtime.advance(timedelta(days=1))
    ticks.run_once()
    assert (recurring.get("sync").missed_count, recurring.get("sync").first_missed_at) == (264, start + HOUR)


def test_the_newest_missed_tick_runs_if_the_task_says_so(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, start: datetime
) -> None:
    recurring.add("sync", Sync(), Every("hour"), missed="latest")
    isolated_runtime.advance(timedelta(days=10, minutes=30))
    ticks.run_once()
    ticks.run_once()
    assert [row.run_at for row in runs(engine)] == [start + timedelta(days=10)]
    assert recurring.get("sync").missed_count == 239


def test_a_clock_that_is_stepped_repeats_no_tick(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, start: datetime
) -> None:
    recurring.add("sync", Sync(), Every("hour"))
    for step in (HOUR, -2 * HOUR, HOUR, HOUR, 2 * HOUR):
        clock.advance(step, databases=True)
        ticks.run_once()
        ticks.run_once()
        isolated_runtime.run_pending()
    clock.advance(-3 * HOUR, databases=True)
    assert [row.run_at for row in runs(engine)] == [start + HOUR, start + 3 * HOUR]
    assert recurring.get("sync").missed_count == 1


def test_a_tick_is_skipped_while_a_run_is_pending(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, start: datetime, caplog: Any
) -> None:
    caplog.set_level(logging.INFO, "dexpy")
    recurring.add("sync", Sync(), Every("hour"), queue="unserved")
    for _ in range(3):
        isolated_runtime.advance(HOUR)
        ticks.run_once()
    task = recurring.get("sync")
    assert [row.run_at for row in runs(engine)] == [start + HOUR]
    assert (task.skipped_count, task.last_skipped_at, task.last_at) == (2, start + 3 * HOUR, start + HOUR)
    assert [line.reason for line in events(caplog, "recurring.skipped")] == ["an earlier run is pending"] * 2

    isolated_runtime.run_pending()
    isolated_runtime.advance(HOUR)
    ticks.run_once()
    isolated_runtime.run_pending()
    assert seen[-1] == (start + 4 * HOUR, start + HOUR)


@pytest.mark.parametrize(("overlap", "count"), [("allow", 2), ("skip", 1)])
def test_a_tick_may_be_skipped_while_a_run_is_running(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, overlap: Any, count: int
) -> None:
    recurring.add("sync", Sync(), Every("hour"), overlap=overlap)
    isolated_runtime.advance(HOUR)
    ticks.run_once()
    with engine.begin() as connection:
        connection.execute(sa.update(records).values(status="running"))
    isolated_runtime.advance(HOUR)
    ticks.run_once()
    assert len(runs(engine)) == count
    assert recurring.get("sync").skipped_count == 2 - count


def test_no_limit_lets_runs_wait(isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine) -> None:
    recurring.add("sync", Sync(), Every("hour"), max_waiting=None)
    for _ in range(3):
        isolated_runtime.advance(HOUR)
        ticks.run_once()
    assert len(runs(engine)) == 3


@pytest.mark.parametrize("cls", [UniqueSync, RaisingSync, OnceSync])
def test_the_keys_of_the_class_hold(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, cls: Any
) -> None:
    cls().async_().call()
    recurring.add("sync", cls(), Every("hour"), max_waiting=None)
    isolated_runtime.advance(HOUR)
    ticks.run_once()
    task = recurring.get("sync")
    assert (runs(engine), task.skipped_count, task.last_at) == ([], 1, None)
    assert task.next_at is not None
    assert task.next_at > clock.now(), "it goes on with the next tick"


def test_the_concurrency_limit_of_the_class_holds(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine
) -> None:
    recurring.add("sync", LimitedSync(), Every("hour"))
    isolated_runtime.advance(HOUR)
    ticks.run_once()
    (row,) = runs(engine)
    assert row.concurrency_key is not None


# ------------------------------------------------------------------------------------------------- several processes


def test_two_rounds_at_once_enqueue_a_tick_once(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine
) -> None:
    recurring.add("sync", Sync(), Every("hour"), max_waiting=None)
    isolated_runtime.advance(HOUR)
    runtime = isolated_runtime.runtime
    others = [RecurringTicks(runtime.dispatcher, runtime.store) for _ in range(3)]
    barrier = threading.Barrier(4)

    def run(one: RecurringTicks) -> None:
        barrier.wait()
        one.run_once()

    threads = [threading.Thread(target=run, args=(one,)) for one in (ticks, *others)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs(engine)) == 1


def test_a_round_that_another_one_overtakes_writes_nothing(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    recurring.add("sync", Sync(), Every("hour"), max_waiting=None)
    isolated_runtime.advance(HOUR)
    runtime = isolated_runtime.runtime
    other, prepare = RecurringTicks(runtime.dispatcher, runtime.store), RecurringTicks._prepare

    def overtaken(self: Any, *arguments: Any) -> Any:
        if self is ticks:
            # The first round has read the task and has not locked it.
            other.run_once()
        return prepare(self, *arguments)

    monkeypatch.setattr(RecurringTicks, "_prepare", overtaken)
    ticks.run_once()
    assert len(runs(engine)) == 1
    assert recurring.get("sync").skipped_count == 0


CHANGES: list[Callable[[], Any]] = [
    lambda: recurring.pause("sync"),
    lambda: recurring.edit("sync", schedule=Cron("30 * * * *")),
    lambda: recurring.remove("sync"),
]


@pytest.mark.parametrize("change_task", CHANGES, ids=["paused", "edited", "removed"])
def test_a_task_that_is_changed_while_its_tick_is_prepared_has_no_run_for_it(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, monkeypatch: Any, change_task: Any
) -> None:
    recurring.add("sync", Sync(), Every("hour"))
    isolated_runtime.advance(HOUR)
    prepare, changed = RecurringTicks._prepare, []

    def change_first(self: Any, *arguments: Any) -> Any:
        prepared = prepare(self, *arguments)
        if not changed:
            change_task()
            changed.extend(recurring.all())
        return prepared

    monkeypatch.setattr(RecurringTicks, "_prepare", change_first)
    ticks.run_once()
    assert (runs(engine), recurring.all()) == ([], changed)


def test_a_tick_that_has_a_record_is_not_repeated_after_its_task_was_moved_back(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, start: datetime
) -> None:
    for key, operation in (("sync", Sync()), ("unique", UniqueSync())):
        recurring.add(key, operation, Every("hour"), max_waiting=None)
    isolated_runtime.advance(HOUR)
    ticks.run_once()
    isolated_runtime.run_pending()
    for key in ("sync", "unique"):
        change(engine, key, next_at=start + HOUR, last_at=None)
    ticks.run_once()
    assert (len(runs(engine)), len(runs(engine, "unique"))) == (1, 1)
    assert recurring.get("sync").next_at == recurring.get("unique").next_at == start + 2 * HOUR


@pytest.mark.parametrize("database_url", SERVERS, indirect=True)
def test_a_task_that_another_transaction_has_locked_delays_no_other(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine
) -> None:
    for key in ("a", "sync", "z"):
        recurring.add(key, Sync(), Every("hour"), max_waiting=None)
    isolated_runtime.advance(HOUR)
    with engine.begin() as connection:
        connection.execute(sa.select(table.c.key).where(table.c.key == "sync").with_for_update())
        started = time.monotonic()
        ticks.run_once()
        assert time.monotonic() - started < 0.9, "it has not waited for the lock"
        assert (len(runs(engine, "a")), len(runs(engine)), len(runs(engine, "z"))) == (1, 0, 1)
        pause_s = ticks.periodic_task().pause_s
        assert pause_s is not None
        assert pause_s() <= LOCKED_PAUSE_S
    ticks.run_once()
    assert len(runs(engine)) == 1


@pytest.mark.parametrize("database_url", SERVERS, indirect=True)
@pytest.mark.parametrize("operation", [UniqueSync(), PatientOnceSync()], ids=lambda value: type(value).__name__)
def test_a_key_that_an_open_transaction_holds_delays_the_other_tasks_by_a_second_at_most(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, operation: Any
) -> None:
    for key, other in (("a", Sync()), ("sync", operation), ("z", Sync())):
        recurring.add(key, other, Every("hour"))
    isolated_runtime.advance(HOUR)
    with Session(engine) as session:
        operation.async_(session=session).call()
        started = time.monotonic()
        ticks.run_once()
        assert time.monotonic() - started < 2.5
        assert (len(runs(engine, "a")), len(runs(engine)), len(runs(engine, "z"))) == (1, 0, 1)
        session.rollback()
    ticks._set_aside.clear()
    ticks.run_once()
    assert len(runs(engine)) == 1


@pytest.mark.parametrize("database_url", SERVERS, indirect=True)
def test_run_now_in_an_open_transaction_delays_no_tick(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, start: datetime
) -> None:
    recurring.add("sync", Sync(), Every("hour"))
    isolated_runtime.advance(HOUR)
    with engine.begin() as connection:
        by_hand = recurring.run_now("sync", session=connection)
        ticks.run_once()
        assert [row.run_at for row in runs(engine)] == [start + HOUR]
    assert {row.id: row.run_at for row in runs(engine)}[by_hand.id] is None


@pytest.mark.parametrize(("code", "is_raised"), [(1213, False), (2013, True)], ids=["deadlock", "lost_connection"])
def test_a_database_error_with_one_task_delays_no_other(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, monkeypatch: Any, code: int, is_raised: bool
) -> None:
    for key in ("a", "sync", "z"):
        recurring.add(key, Sync(), Every("hour"))
    isolated_runtime.advance(HOUR)
    lock_task = recurring_tasks.lock_task

    def fail(connection: sa.Connection, key: str) -> Any:
        if key == "a":
            raise sa.exc.OperationalError("SELECT", {}, Exception(code, "the server's message"))
        return lock_task(connection, key)

    with monkeypatch.context() as patch:
        patch.setattr(recurring_tasks, "lock_task", fail)
        with pytest.raises(sa.exc.OperationalError) if is_raised else contextlib.nullcontext():
            ticks.run_once()
    assert (len(runs(engine, "a")), len(runs(engine)), len(runs(engine, "z"))) == (0, 1, 1)
    ticks._set_aside.clear()
    ticks.run_once()
    assert len(runs(engine, "a")) == 1


@pytest.mark.parametrize("database_url", SERVERS[:1], indirect=True)
def test_the_server_ends_the_transaction_of_a_process_that_freezes(
    isolated_runtime: Isolated,
) -> None:
    recurring.add("sync", Sync(), Every("hour"))
    with isolated_runtime.runtime.store.begin() as connection:
        assert recurring_tasks.lock_task(connection, "sync") is not None
        assert connection.execute(sa.text("SHOW idle_in_transaction_session_timeout")).scalar() == "10s"


def test_a_transaction_that_fails_leaves_the_tick_for_the_next_round(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, start: datetime, monkeypatch: Any
) -> None:
    recurring.add("sync", Sync(), Every("hour"))
    isolated_runtime.advance(HOUR)

    def fail(name: str) -> None:
        if name == "recurring_run_stored":
            raise RuntimeError("killed")

    failpoints.reached = fail
    ticks.run_once()
    failpoints.reached = None
    assert (runs(engine), recurring.get("sync").next_at) == ([], start + HOUR)
    ticks._set_aside.clear()
    ticks.run_once()
    assert len(runs(engine)) == 1


# ------------------------------------------------------------------------------------------------------- what is broken


BROKEN = [
    {"schedule": "every nonsense"},
    {"zone": "Mars/Olympus"},
    {"options": {"grace_s": "long"}},
    {"options": [1]},
    {"params": {"shop": "seven"}},
]


@pytest.mark.parametrize("values", BROKEN, ids=str)
def test_a_broken_row_costs_only_itself(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, values: Any, caplog: Any
) -> None:
    for key in ("a", "sync", "z"):
        recurring.add(key, Sync(), Every("hour"))
    change(engine, **values)
    isolated_runtime.advance(HOUR)
    for _ in range(3):
        ticks.run_once()
    assert (len(runs(engine, "a")), len(runs(engine)), len(runs(engine, "z"))) == (1, 0, 1)
    assert {line.key for line in events(caplog, "recurring.failed")} == {"sync"}
    assert [task.key for task in recurring.all()] == (["a", "sync", "z"] if "params" in values else ["a", "z"])


def test_the_message_of_an_error_of_the_application_is_not_logged(
    isolated_runtime: Isolated, ticks: RecurringTicks, caplog: Any
) -> None:
    recurring.add("sync", RoutedSync(token="hunter2"), Every("hour"))
    isolated_runtime.advance(HOUR)
    ticks.run_once()
    (line,) = events(caplog, "recurring.failed")
    assert line.error == "ValueError"
    assert "hunter2" not in str(vars(line))


def test_a_row_whose_time_cannot_be_read_costs_only_itself(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, caplog: Any
) -> None:
    for key in ("a", "sync", "z"):
        recurring.add(key, Sync(), Every("hour"))
    times = {"sqlite": "'1'", "postgresql": "'0044-01-01 BC'", "mysql": "'0000-00-00'"}
    with engine.begin() as connection:
        if engine.dialect.name == "mysql":
            connection.execute(sa.text("SET sql_mode = ''"))
        time = sa.text(times[engine.dialect.name])
        connection.execute(sa.update(table).where(table.c.key == "sync").values(next_at=time))
    isolated_runtime.advance(HOUR)
    ticks.run_once()
    ticks.run_once()
    assert (len(runs(engine, "a")), len(runs(engine)), len(runs(engine, "z"))) == (1, 0, 1)
    assert {line.key for line in events(caplog, "recurring.unreadable")} == {"sync"}


def test_a_time_that_was_written_by_hand_is_a_tick(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, start: datetime
) -> None:
    recurring.add("sync", Sync(), Every("hour"))
    with engine.begin() as connection:
        time = f"'{start:%Y-%m-%d %H}:00:30{'+00' if engine.dialect.name == 'postgresql' else ''}'"
        connection.execute(sa.text(f"UPDATE operation_recurring SET next_at = {time}"))
    ticks.run_once()
    assert [row.run_at for row in runs(engine)] == [start + timedelta(seconds=30)]


def test_params_that_no_longer_fit_are_missed_and_counted(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine
) -> None:
    recurring.add("sync", Sync(), Every("hour"))
    change(engine, params={"shop": "seven"})
    isolated_runtime.advance(HOUR)
    ticks.run_once()
    isolated_runtime.advance(10 * MINUTE)
    ticks._set_aside.clear()
    ticks.run_once()
    assert recurring.get("sync").missed_count == 1


# ------------------------------------------------------------------------------------------------------ unknown classes


def test_a_tick_of_an_unknown_class_is_left_to_others_and_enqueued_after_a_moment(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, start: datetime, unknown_sync: Any
) -> None:
    recurring.add("sync", PatientSync(), Every("hour"), queue="slow", priority=4)
    unknown_sync(PatientSync)
    isolated_runtime.advance(59 * MINUTE + timedelta(seconds=1))
    ticks.run_once()
    assert runs(engine) == []
    ticks._set_aside.clear()
    isolated_runtime.advance(5)
    ticks.run_once()
    (row,) = runs(engine)
    assert (row.operation, row.status, row.run_at) == ("ticks.patient_sync", "pending", start + HOUR)
    assert (row.queue, row.priority, row.params, row.loss_limit) == ("slow", 4, {}, 8)


def test_a_tick_of_an_unknown_class_is_enqueued_within_a_short_grace(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, unknown_sync: Any
) -> None:
    recurring.add("sync", Sync(), Every("3 seconds"))
    unknown_sync(Sync)
    task = recurring.get("sync")
    assert task.next_at is not None
    isolated_runtime.advance(task.next_at - clock.now() + timedelta(seconds=0.5))
    ticks.run_once()
    assert runs(engine) == []
    ticks._set_aside.clear()
    isolated_runtime.advance(1.5)
    ticks.run_once()
    assert [row.run_at for row in runs(engine)] == [task.next_at]
    assert recurring.get("sync").missed_count == 0


@pytest.mark.parametrize("operation", [UniqueSync(), OnceSync(), LimitedSync()], ids=lambda value: type(value).__name__)
def test_a_class_with_keys_is_enqueued_only_where_it_is_declared(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, operation: Any, unknown_sync: Any
) -> None:
    recurring.add("sync", operation, Every("hour"))
    unknown_sync(type(operation))
    isolated_runtime.advance(HOUR)
    ticks.run_once()
    assert runs(engine) == []
    with pytest.raises(UnknownOperation):
        recurring.run_now("sync")


# ------------------------------------------------------------------------------------------------------------- pauses


def test_the_pause_is_until_the_nearest_tick_within_bounds(
    isolated_runtime: Isolated, ticks: RecurringTicks, engine: sa.Engine, start: datetime
) -> None:
    pause_s = ticks.periodic_task().pause_s
    assert pause_s is not None
    ticks.run_once()
    assert 1 < pause_s() <= LONGEST_PAUSE_S
    recurring.add("sync", Sync(), Every("hour"))
    ticks.run_once()
    assert 1 < pause_s() <= LONGEST_PAUSE_S
    isolated_runtime.advance(start + HOUR - clock.now() - timedelta(seconds=1))
    ticks.run_once()
    assert 0 < pause_s() <= 1
    isolated_runtime.advance(HOUR)
    for values in ({"paused_at": start}, {"paused_at": None, "retired_at": start}):
        change(engine, **values)
        ticks.run_once()
        assert 1 < pause_s() <= LONGEST_PAUSE_S, "a task without ticks is not polled"
    ticks._leave("sync", LOCKED_PAUSE_S)
    ticks.run_once()
    assert pause_s() <= LOCKED_PAUSE_S < FAILED_PAUSE_S
