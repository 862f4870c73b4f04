"""`dexpy.recurring`: tasks that are added, changed, paused and removed at run time."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import Session

import dexpy
from dexpy import (
    Async,
    Cron,
    Every,
    FernetEncryptor,
    Operation,
    PropsError,
    Recurring,
    deferrable,
    prop,
    records,
    recurring,
)
from dexpy.database.tables import recurring as table
from dexpy.declaration import registry
from dexpy.errors import ConfigurationError, DeclarationError, OptionsError, RecurringTaskNotFound
from dexpy.foundation.clock import clock
from dexpy.maintenance.recurring_ticks import RecurringTicks
from dexpy.recording import recurring_queries
from dexpy.testing import Isolated, isolated

HOUR = timedelta(hours=1)
seen: list[datetime | None] = []


class Sync(Operation, name="api.sync"):
    """Notes when it was scheduled."""

    shop: int
    zone: str = "EU"

    def perform(self) -> int:
        seen.append(self.scheduled_for)
        return self.shop


class SlowSync(Sync, name="api.slow_sync"):
    """A release with a queue and a priority."""

    async_ = Async(queue="slow", priority=3)


class Unrecorded(Operation, name="api.unrecorded"):
    """Has no record."""

    record = False

    def perform(self) -> None: ...


class Login(Operation, name="api.login"):
    """Has a secret in plain text, and one that is encrypted."""

    user: str = prop(sensitive=True)
    token: str = prop(encrypted=True)

    def perform(self) -> str:
        return f"{self.user}:{len(self.token)}"


class AddsATask(Operation, name="api.adds_a_task"):
    """Adds a task in its own transaction."""

    fails: bool

    def perform(self) -> None:
        recurring.add("of a run", Sync(shop=1), Every("hour"))
        recurring.run_now("of a run")
        if self.fails:
            raise ValueError("rolled back")


@deferrable(name="api.clean_up")
def clean_up(days: int, table: str = "log") -> str:
    """A deferred function."""
    return f"{table} {days}"


@pytest.fixture(autouse=True)
def start(isolated_runtime: Isolated) -> datetime:
    """A minute after an hour, in the future."""
    seen.clear()
    now = datetime.now(timezone.utc)
    hour = now.replace(minute=0, second=0, microsecond=0) + HOUR
    isolated_runtime.advance(hour + timedelta(minutes=1) - now)
    return hour


@pytest.fixture
def ticks(isolated_runtime: Isolated) -> RecurringTicks:
    return RecurringTicks(isolated_runtime.runtime.dispatcher, isolated_runtime.runtime.store)


def test_a_task_is_added_found_listed_and_removed(start: datetime) -> None:
    added = recurring.add("shop 7", Sync(shop=7), Every("hour", zone="Europe/Rome"), queue="slow", priority=2, grace=60)
    assert added == recurring.get("shop 7")
    assert [task.key for task in recurring.all()] == ["shop 7"]
    assert (added.operation, added.params, added.source) == ("api.sync", {"shop": 7, "zone": "EU"}, "api")
    assert (added.schedule, added.zone, added.queue, added.priority) == (
        Every("hour", zone="Europe/Rome"),
        "Europe/Rome",
        "slow",
        2,
    )
    assert (added.state, added.next_at, added.last_at, added.last_run_id) == ("active", start + HOUR, None, None)
    assert added.last_status is None
    assert (added.grace_s, added.missed, added.max_waiting, added.overlap, added.jitter_s) == (
        60,
        "skip",
        1,
        "allow",
        0,
    )
    recurring.remove("shop 7")
    assert recurring.all() == []


@pytest.mark.parametrize("call", ["get", "pause", "resume", "run_now", "remove", "next_ticks", "edit"])
def test_an_unknown_key_is_one_error_with_a_suggestion(call: str) -> None:
    recurring.add("nightly", Sync(shop=7), Every("hour"))
    with pytest.raises(RecurringTaskNotFound, match="no recurring task has the key 'nightyl'. Did you mean 'nightly'?"):
        getattr(recurring, call)("nightyl")
    for key in ("a\0b", "\ud800"):
        with pytest.raises(RecurringTaskNotFound):
            getattr(recurring, call)(key)


def test_a_task_is_locked_from_the_read_that_its_change_depends_on(isolated_runtime: Isolated) -> None:
    recurring.add("nightly", Sync(shop=7), Every("hour"))
    other = sa.create_engine(isolated_runtime.runtime.database_url, connect_args={"timeout": 0})
    with isolated_runtime.runtime.store.begin() as connection:
        recurring_queries.lock(connection, "nightly", "test")
        with pytest.raises(sa.exc.OperationalError, match="database is locked"), other.begin() as second:
            second.execute(sa.update(table).values(missed_count=1))
    other.dispose()
    assert recurring.get("nightly").missed_count == 0


def test_a_key_is_added_once_unless_it_is_replaced(start: datetime) -> None:
    recurring.add("nightly", Sync(shop=7), Every("hour"))
    with pytest.raises(OptionsError, match="a recurring task with this key exists; it runs api.sync every hour"):
        recurring.add("nightly", Sync(shop=8), Every("hour"))
    replaced = recurring.add("nightly", Sync(shop=8), Every("2 hours"), replace=True)
    assert (replaced.params["shop"], str(replaced.schedule)) == (8, "every 2 hours")
    again = recurring.add("nightly", Sync(shop=8), Every("2 hours"), replace=True)
    assert again.next_at == replaced.next_at


def test_props_of_a_class_and_arguments_of_a_function(start: datetime) -> None:
    assert recurring.add("class", Sync, Every("hour"), props={"shop": 3}).params == {"shop": 3}
    assert recurring.add("function", clean_up, Every("hour"), props={"days": 3}).params == {"days": 3}
    with pytest.raises(OptionsError, match="'shop' has no default. Pass it: props="):
        recurring.add("x", Sync, Every("hour"))
    with pytest.raises(PropsError, match="shpo: unknown prop"):
        recurring.add("x", Sync, Every("hour"), props={"shpo": 3})
    with pytest.raises(PropsError, match="days: expected int, got str"):
        recurring.add("x", clean_up, Every("hour"), props={"days": "many"})
    with pytest.raises(OptionsError, match="got both. Leave out props="):
        recurring.add("x", Sync(shop=1), Every("hour"), props={"shop": 3})


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"key": ""}, "key='': expected a str of 1 to 255 characters"),
    ({"target": 3}, "expected an operation, an operation class or a function registered with @deferrable, got 3"),
    ({"target": len}, "not registered"),
    ({"schedule": "every hour"}, "expected a schedule, got .every hour."),
    ({"queue": "a b"}, "invalid queue name"),
    ({"grace": 0}, "grace=0: expected at least 1 second"),
    ({"until": datetime(2030, 1, 1)}, "until=.*: expected an aware datetime"),
    ({"until": datetime(2001, 1, 1, tzinfo=timezone.utc)}, "has no tick before its end"),
    ({"times": 0}, "times=0: expected an int of at least 1"),
    ({"session": 3}, "session=: expected"),
]


@pytest.mark.parametrize(("arguments", "message"), REFUSED, ids=[message[:25] for _, message in REFUSED])
def test_an_invalid_argument_is_refused_and_nothing_is_stored(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionsError, match=message):
        recurring.add(**{"key": "x", "target": Sync(shop=1), "schedule": Every("hour"), **arguments})
    assert recurring.all(retired=True) == []


def test_a_class_that_cannot_recur_is_refused() -> None:
    with pytest.raises(DeclarationError, match="a recurring task requires a record"):
        recurring.add("x", Unrecorded(), Every("hour"))

    class Local(Operation):
        def perform(self) -> None: ...

    with pytest.raises(DeclarationError, match="workers cannot import the class"):
        recurring.add("x", Local(), Every("hour"))


def test_an_edit_keeps_what_is_not_passed_and_repeats_nothing(
    isolated_runtime: Isolated, ticks: RecurringTicks, start: datetime
) -> None:
    added = recurring.add("nightly", Sync, Every("hour"), props={"shop": 7}, queue="slow", grace=90, missed="latest")
    isolated_runtime.advance(HOUR)
    ticks.run_once()
    isolated_runtime.run_pending()
    isolated_runtime.advance(3 * HOUR)
    edited = recurring.edit("nightly", schedule=Cron("30 * * * *"), priority=5)
    assert (edited.next_at, edited.last_at) == (start + 4.5 * HOUR, start + HOUR)
    assert (edited.params, edited.queue, edited.grace_s, edited.missed) == ({"shop": 7}, "slow", 90, "latest")
    assert (edited.priority, edited.created_at) == (5, added.created_at)
    ticks.run_once()
    assert isolated_runtime.run_pending() == []
    assert recurring.get("nightly").missed_count == 0


def test_an_edit_without_another_schedule_keeps_the_next_tick(isolated_runtime: Isolated, start: datetime) -> None:
    recurring.add("nightly", Sync, Every("hour"), props={"shop": 7})
    isolated_runtime.advance(HOUR)
    edited = recurring.edit("nightly", props={"shop": 8}, queue="slow", times=3)
    assert (edited.next_at, edited.params, edited.remaining) == (start + HOUR, {"shop": 8}, 3)
    assert recurring.edit("nightly", queue=None, times=None).queue is None


def test_an_edit_of_a_task_that_times_has_ended_gives_it_no_run_without_another_times(
    isolated_runtime: Isolated, ticks: RecurringTicks, start: datetime
) -> None:
    recurring.add("nightly", Sync(shop=7), Every("hour"), times=1)
    isolated_runtime.advance(HOUR)
    ticks.run_once()
    for changes in ({"queue": "slow"}, {"schedule": Every("2 hours")}, {"until": start + 100 * HOUR}):
        edited = recurring.edit("nightly", **changes)
        assert (edited.state, edited.next_at, edited.remaining) == ("ended", None, 0), changes
    assert (edited.queue, str(edited.schedule), edited.until) == ("slow", "every 2 hours", start + 100 * HOUR)
    again = recurring.edit("nightly", times=2)
    assert (again.state, again.remaining) == ("active", 2)
    assert again.next_at is not None


def test_an_edit_of_a_task_that_until_has_ended_keeps_it_ended_without_another_end(
    isolated_runtime: Isolated, ticks: RecurringTicks, start: datetime
) -> None:
    recurring.add("nightly", Sync(shop=7), Every("hour"), until=start + HOUR)
    isolated_runtime.advance(HOUR)
    ticks.run_once()
    assert recurring.get("nightly").state == "ended"
    edited = recurring.edit("nightly", queue="slow")
    assert (edited.state, edited.queue) == ("ended", "slow")
    assert recurring.edit("nightly", until=None).next_at == start + 2 * HOUR


def test_an_invalid_edit_changes_nothing() -> None:
    added = recurring.add("nightly", Sync(shop=7), Every("hour"))
    for changes, error in (
        ({"schedule": 3}, OptionsError),
        ({"props": {"shop": "x"}}, PropsError),
        ({"props": {}}, OptionsError),
        ({"until": datetime(2001, 1, 1, tzinfo=timezone.utc)}, OptionsError),
        ({"overlap": "maybe"}, OptionsError),
    ):
        with pytest.raises(error):
            recurring.edit("nightly", **changes)
    assert recurring.get("nightly") == added


def test_the_default_grace_follows_an_edited_schedule() -> None:
    assert recurring.add("nightly", Sync(shop=7), Every("10 seconds")).grace_s == 10
    assert recurring.edit("nightly", schedule=Every("hour")).grace_s == 300


def test_a_paused_task_has_no_ticks_until_it_is_resumed(
    isolated_runtime: Isolated, ticks: RecurringTicks, start: datetime
) -> None:
    recurring.add("nightly", Sync(shop=7), Every("hour"))
    paused = recurring.pause("nightly", by="ada", reason="stock count")
    assert (paused.state, paused.paused_by, paused.pause_reason) == ("paused", "ada", "stock count")
    assert recurring.next_ticks("nightly") == []
    isolated_runtime.advance(timedelta(days=7))
    ticks.run_once()
    resumed = recurring.resume("nightly")
    assert (resumed.state, resumed.paused_at, resumed.paused_by) == ("active", None, None)
    ticks.run_once()
    assert isolated_runtime.run_pending() == []
    assert (resumed.next_at, resumed.missed_count) == (start + timedelta(days=7, hours=1), 0)
    assert recurring.resume("nightly").next_at == resumed.next_at, "there is nothing to resume"
    isolated_runtime.advance(HOUR)
    ticks.run_once()
    assert len(isolated_runtime.run_pending()) == 1


def test_a_pause_with_an_end_ends_by_itself_with_the_next_tick(
    isolated_runtime: Isolated, ticks: RecurringTicks, start: datetime
) -> None:
    recurring.add("nightly", Sync(shop=7), Every("hour"))
    end = start + timedelta(hours=5, minutes=30)
    assert recurring.pause("nightly", until=end).paused_until == end
    assert recurring.next_ticks("nightly", 2) == [start + 6 * HOUR, start + 7 * HOUR]
    for _ in range(7):
        isolated_runtime.advance(HOUR)
        ticks.run_once()
        isolated_runtime.run_pending()
    assert seen == [start + 6 * HOUR, start + 7 * HOUR]
    task = recurring.get("nightly")
    assert (task.state, task.paused_at, task.missed_count) == ("active", None, 0)


def test_run_now_enqueues_a_run_also_while_the_task_is_paused(
    isolated_runtime: Isolated, ticks: RecurringTicks, start: datetime
) -> None:
    recurring.add("nightly", Sync(shop=7), Every("hour"), queue="slow", priority=4)
    recurring.pause("nightly")
    ticket = recurring.run_now("nightly")
    assert recurring.get("nightly").last_run_id == ticket.id
    (run,) = isolated_runtime.run_pending()
    assert (run.id, run.result(5), seen) == (ticket.id, 7, [None])
    row = isolated_runtime.runtime.store.row(ticket.id)
    assert (row.recurring_key, row.run_at, row.queue, row.priority) == ("nightly", None, "slow", 4)
    task = recurring.get("nightly")
    assert (task.state, task.next_at, task.last_at, task.last_status) == ("paused", start + HOUR, None, "done")


def test_the_last_run_is_that_of_the_newest_tick_or_run_now(
    isolated_runtime: Isolated, ticks: RecurringTicks, start: datetime
) -> None:
    recurring.add("other", Sync(shop=7), Every("hour"))
    added = recurring.add("nightly", Sync(shop=7), Every("hour"), max_waiting=None)
    first = recurring.run_now("nightly")
    assert [ticket.id for ticket in isolated_runtime.run_pending()] == [first.id]
    task = recurring.get("nightly")
    assert (task.last_run_id, task.last_status, task.updated_at) == (first.id, "done", added.updated_at)

    isolated_runtime.advance(HOUR)
    ticks.run_once()
    task = recurring.get("nightly")
    assert (task.last_at, task.last_status) == (start + HOUR, "pending")
    assert task.last_run_id not in (None, first.id)

    isolated_runtime.advance(timedelta(seconds=1))
    second = recurring.run_now("nightly")
    second.cancel()
    assert (recurring.get("nightly").last_run_id, recurring.get("nightly").last_status) == (second.id, "cancelled")
    with isolated_runtime.runtime.store.begin() as connection:
        connection.execute(sa.text("DELETE FROM operation_records"))
    assert (recurring.get("nightly").last_run_id, recurring.get("nightly").last_status) == (task.last_run_id, None)


def test_a_removed_task_leaves_its_runs(isolated_runtime: Isolated) -> None:
    recurring.add("nightly", Sync(shop=7), Every("hour"))
    recurring.run_now("nightly")
    recurring.remove("nightly")
    assert len(isolated_runtime.run_pending()) == 1


def test_the_next_ticks_are_in_the_zone_and_end_with_the_task(start: datetime) -> None:
    nightly = Cron("0 3 * * *", zone="Europe/Rome")
    recurring.add("nightly", Sync(shop=7), nightly, times=2)
    ticks = recurring.next_ticks("nightly")
    assert [(tick.hour, str(tick.tzinfo)) for tick in ticks] == [(3, "Europe/Rome")] * 2
    summer = datetime(2027, 3, 27, 12, tzinfo=timezone.utc)
    recurring.edit("nightly", times=None, until=summer + timedelta(days=2))
    (before, after) = recurring.next_ticks("nightly", 5, after=summer)
    assert (before.utcoffset(), after.utcoffset(), before.hour, after.hour) == (2 * HOUR, 2 * HOUR, 3, 3)
    with pytest.raises(OptionsError, match="expected an int from 0 to"):
        recurring.next_ticks("nightly", -1)
    with pytest.raises(OptionsError, match="expected an aware datetime"):
        recurring.next_ticks("nightly", after=datetime(2027, 1, 1))


@pytest.mark.parametrize("fails", [False, True])
def test_a_task_belongs_to_the_transaction_of_the_run_that_adds_it(isolated_runtime: Isolated, fails: bool) -> None:
    operation = AddsATask(fails=fails)
    if fails:
        with pytest.raises(ValueError, match="rolled back"):
            operation.call()
    else:
        operation.call()
    assert [task.key for task in recurring.all()] == ([] if fails else ["of a run"])
    assert len(isolated_runtime.run_pending()) == (0 if fails else 1)


def test_a_task_belongs_to_the_transaction_of_a_session_or_connection(isolated_runtime: Isolated) -> None:
    engine = sa.create_engine(isolated_runtime.runtime.database_url, poolclass=sa.NullPool)
    with Session(engine) as session:
        recurring.add("a", Sync(shop=7), Every("hour"), session=session)
        recurring.pause("a", session=session)
        session.rollback()
        recurring.add("b", Sync(shop=7), Every("hour"), session=session)
        recurring.run_now("b", session=session)
        recurring.edit("b", queue="slow", session=session)
        session.commit()
    with engine.begin() as connection:
        recurring.add("c", Sync(shop=7), Every("hour"), session=connection)
        recurring.remove("b", session=connection)
    with dexpy.session(Session(engine)) as session, session.begin():
        recurring.add("d", Sync(shop=7), Every("hour"))
    assert [task.key for task in recurring.all()] == ["c", "d"]
    assert len(isolated_runtime.run_pending()) == 1
    engine.dispose()


def test_secrets_are_encrypted_or_redacted_and_reach_the_run(ticks: RecurringTicks) -> None:
    fernet = pytest.importorskip("cryptography.fernet")
    encryptor = FernetEncryptor(fernet.Fernet.generate_key().decode())
    with isolated(encryptors={"default": encryptor}) as test:
        own_ticks = RecurringTicks(test.runtime.dispatcher, test.runtime.store)
        task = recurring.add("login", Login(user="ada", token="hunter2"), Every("hour"))
        assert "ada" not in repr(task)
        assert "hunter2" not in repr(task)
        stored = test.runtime.store.rows(sa.text("SELECT params, definition FROM operation_recurring"))[0]
        assert "hunter2" not in stored.params
        test.advance(task.next_at - clock.now())  # type: ignore[operator]
        own_ticks.run_once()
        (run,) = test.run_pending()
        assert run.result(5) == "ada:7"
        edited = recurring.edit("login", queue="slow")
        assert edited.queue == "slow"
        assert recurring.run_now("login").pending
        assert [ticket.result(5) for ticket in test.run_pending()] == ["ada:7"]


def test_an_error_on_an_engine_of_the_application_shows_no_props(isolated_runtime: Isolated) -> None:
    engine = sa.create_engine(isolated_runtime.runtime.database_url, poolclass=sa.NullPool)
    recurring.add("old", Sync(shop=1, zone="before"), Every("hour"))
    with engine.begin() as connection:
        for event in ("INSERT", "UPDATE"):
            connection.exec_driver_sql(
                f"CREATE TRIGGER refuse_{event} BEFORE {event} ON operation_recurring "
                "BEGIN SELECT RAISE(ABORT, 'refused'); END"
            )
    calls: list[Any] = [
        lambda connection: recurring.add("new", Sync(shop=1, zone="hunter2"), Every("hour"), session=connection),
        lambda connection: recurring.edit("old", props={"shop": 1, "zone": "hunter2"}, session=connection),
    ]
    for call in calls:
        with engine.connect() as connection, pytest.raises(sa.exc.DBAPIError, match="refused") as refused:
            call(connection)
        assert "hunter2" not in str(refused.value)
    engine.dispose()


def test_a_process_without_records_has_no_tasks() -> None:
    runtime = dexpy.configure(broker="redis://127.0.0.1:1/0")
    try:
        with pytest.raises(dexpy.errors.NotRecorded, match="recurring tasks require a database"):
            recurring.all()
    finally:
        runtime.close()


def test_a_recurring_value_is_equal_to_another_with_the_same_options() -> None:
    assert Recurring(Every("hour"), key="a") == Recurring(Every("hour"), key="a")


def test_a_task_without_a_queue_follows_its_class(
    ticks: RecurringTicks, isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = recurring.add("sync", Sync(shop=1), Every("hour"))
    assert (task.queue, task.priority) == (None, None)
    monkeypatch.setitem(registry._by_name, "api.sync", SlowSync)
    isolated_runtime.advance(HOUR)
    ticks.run_once()
    (run,) = records.where(operation=SlowSync)
    assert (run.queue, run.priority) == ("slow", 3)


def test_a_process_without_the_class_uses_the_queue_that_it_had(
    ticks: RecurringTicks, isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = recurring.add("sync", SlowSync(shop=1), Every("hour"))
    assert (task.queue, task.priority) == ("slow", 3)
    monkeypatch.delitem(registry._by_name, "api.slow_sync")
    isolated_runtime.advance(HOUR + timedelta(seconds=6))
    ticks.run_once()
    (run,) = records.where(operation="api.slow_sync")
    assert (run.queue, run.priority) == ("slow", 3)


def test_a_schedule_without_a_zone_has_that_of_the_setting() -> None:
    configured = dexpy.configure(database="sqlite://", zone="Asia/Tokyo")
    try:
        daily = recurring.add("daily", Sync(shop=1), Every("day at 9am"))
        assert (daily.zone, daily.next_at and daily.next_at.hour) == ("Asia/Tokyo", 0)
        assert recurring.edit("daily", props={"shop": 2}).zone == "Asia/Tokyo"
        assert recurring.add("own", Sync(shop=1), Every("day at 9am", zone="UTC")).zone == "UTC"
    finally:
        configured.close()
    with pytest.raises(ConfigurationError, match=r"configure\(\): zone='Asia/Tokio'.*Did you mean 'Asia/Tokyo'"):
        dexpy.configure(zone="Asia/Tokio")
