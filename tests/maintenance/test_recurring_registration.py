"""Registration of recurring tasks by workers: rolling deploys, retirement, two applications on one database.

Each worker here is a heartbeat with its own declarations, as in a process of its own.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta, timezone
from typing import Any

import attrs
import pytest
import sqlalchemy as sa

from dexpy import Cron, Every, FernetEncryptor, Operation, Recurring, prop, recurring
from dexpy.database.tables import recurring as table
from dexpy.database.tables import worker_names
from dexpy.declaration import registry
from dexpy.errors import OptionsError
from dexpy.foundation.clock import clock
from dexpy.foundation.throttle import LogThrottle
from dexpy.liveness.heartbeat import Heartbeat
from dexpy.maintenance import recurring_registration
from dexpy.maintenance.recurring_registration import (
    Declarations,
    DeclaredTask,
    RecurringRegistration,
    declared_tasks,
)
from dexpy.maintenance.recurring_ticks import RecurringTicks
from dexpy.recording import recurring_tasks
from dexpy.recording.recurring_tasks import TaskDefinition
from dexpy.testing import Isolated

HOUR = timedelta(hours=1)


class Sync(Operation, name="registered.sync"):
    """Is declared by each test as it needs."""

    shop: int = 1

    def perform(self) -> int:
        return self.shop


class Hourly(Operation, name="registered.hourly", aliases=("registered.earlier",)):
    """Declares its schedule itself."""

    schedule = Every("hour")

    def perform(self) -> None: ...


class Secret(Operation, name="registered.secret"):
    """Has an encrypted prop."""

    token: str = prop(encrypted=True)

    def perform(self) -> int:
        return len(self.token)


@attrs.define
class Worker:
    """A worker process of a test.

    Attributes:
        heartbeat: Its heartbeat.
        registration: Its registration.
        tasks: What it declares; changed by a test that stands for another release.
        names: The names of the operations that it knows.
    """

    heartbeat: Heartbeat
    registration: RecurringRegistration
    tasks: list[tuple[Any, Recurring]]

    def register(self) -> None:
        """Compare its declarations with the rows now."""
        self.registration._checked_at = float("-inf")
        self.registration.run_if_due()

    def stop(self) -> None:
        self.heartbeat.stop()


@pytest.fixture(autouse=True)
def start(isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch) -> datetime:
    """Move the clock to a minute after an hour, in the future."""
    # Each problem is logged once in a process.
    monkeypatch.setattr(recurring_registration, "_refused", LogThrottle(every_s=float("inf")))
    now = datetime.now(timezone.utc)
    hour = now.replace(minute=0, second=0, microsecond=0) + HOUR
    isolated_runtime.advance(hour + timedelta(minutes=1) - now)
    return hour


@pytest.fixture
def start_worker(isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch) -> Generator[Callable[..., Worker]]:
    """Start a worker that declares tasks, and knows these operations."""
    store = isolated_runtime.runtime.store
    workers: list[Worker] = []

    def start(*tasks: tuple[Any, Recurring], names: tuple[str, ...] | None = None) -> Worker:
        # Each process is started later than the ones before.
        isolated_runtime.advance(0.01)
        declared = list(tasks)

        def find() -> Declarations:
            tasks = [
                DeclaredTask(cls.contract, TaskDefinition.of(cls.contract, task, "class")) for cls, task in declared
            ]
            return Declarations({task.definition.key: task for task in tasks}, ())

        heartbeat = Heartbeat(store, isolated_runtime.runtime.intervals)
        worker = Worker(heartbeat, RecurringRegistration(store, heartbeat, find), declared)
        heartbeat.serve(2, None)
        known = names if names is not None else tuple(cls.contract.name for cls, _ in declared)
        with monkeypatch.context() as patch:
            patch.setattr(registry, "names", lambda: known or ("other.operation",))
            heartbeat.start()
        workers.append(worker)
        worker.register()
        return worker

    yield start
    for worker in workers:
        worker.stop()


def sync(schedule: Any, **options: Any) -> tuple[Any, Recurring]:
    return Sync, Recurring(schedule, key="sync", **options)


def change(engine: sa.Engine, **values: Any) -> None:
    with engine.begin() as connection:
        connection.execute(sa.update(table).values(**values))


def events(caplog: pytest.LogCaptureFixture, name: str) -> list[Any]:
    return [record for record in caplog.records if getattr(record, "event", "") == name]


def test_a_worker_registers_its_tasks_once(start_worker: Any, start: datetime, caplog: Any) -> None:
    caplog.set_level(logging.INFO, "dexpy")
    worker = start_worker(sync(Every("hour", zone="Europe/Rome"), props={"shop": 7}, queue="slow", priority=2))
    first = recurring.get("sync")
    assert (first.operation, first.params, first.queue, first.priority) == ("registered.sync", {"shop": 7}, "slow", 2)
    assert (first.source, first.next_at, first.schedule) == ("class", start + HOUR, Every("hour", zone="Europe/Rome"))
    worker.register()
    start_worker(*worker.tasks)
    assert recurring.get("sync") == first
    assert [line.key for line in events(caplog, "recurring.registered")] == ["sync"]


def test_a_task_runs_at_its_first_registration_only(
    isolated_runtime: Isolated, start_worker: Any, start: datetime
) -> None:
    ticks = RecurringTicks(isolated_runtime.runtime.dispatcher, isolated_runtime.runtime.store)
    start_worker(sync(Every("hour"), run_at_start=True)).stop()
    ticks.run_once()
    assert len(isolated_runtime.run_pending()) == 1
    start_worker(sync(Every("hour"), run_at_start=True))
    ticks.run_once()
    assert isolated_runtime.run_pending() == []
    assert recurring.get("sync").next_at == start + HOUR


def test_a_new_release_replaces_the_definition_and_no_tick_is_repeated(
    isolated_runtime: Isolated, start_worker: Any, start: datetime, caplog: Any
) -> None:
    caplog.set_level(logging.INFO, "dexpy")
    old = start_worker(sync(Every("hour")))
    isolated_runtime.advance(5 * HOUR)
    start_worker(sync(Cron("30 * * * *"), props={"shop": 2}))
    task = recurring.get("sync")
    assert (str(task.schedule), task.params, task.next_at) == ("30 * * * *", {"shop": 2}, start + 5.5 * HOUR)
    for _ in range(3):
        old.register()
    assert recurring.get("sync") == task, "the worker of the earlier release does not replace it"
    assert len(events(caplog, "recurring.changed")) == 1


def test_the_last_started_worker_that_lives_decides(start_worker: Any) -> None:
    old = start_worker(sync(Every("hour")))
    new = start_worker(sync(Every("2 hours")))
    restarted = start_worker(sync(Every("hour")))
    assert str(recurring.get("sync").schedule) == "every hour"
    restarted.stop()
    old.stop()
    new.register()
    assert str(recurring.get("sync").schedule) == "every 2 hours", "a worker of the earlier release was restarted"


def test_a_worker_that_gets_a_new_id_does_not_become_younger(start_worker: Any, engine: sa.Engine) -> None:
    old = start_worker(sync(Every("hour")))
    start_worker(sync(Every("2 hours")))
    # As after a lease that has expired: the process goes on with another row.
    old.heartbeat.stop()
    old.heartbeat.serve(2, None)
    old.heartbeat.start()
    old.register()
    assert str(recurring.get("sync").schedule) == "every 2 hours"


def test_another_queue_in_a_new_release_keeps_the_next_tick(
    isolated_runtime: Isolated, start_worker: Any, start: datetime
) -> None:
    start_worker(sync(Every("hour"))).stop()
    isolated_runtime.advance(HOUR)
    start_worker(sync(Every("hour"), queue="slow"))
    task = recurring.get("sync")
    assert (task.queue, task.next_at) == ("slow", start + HOUR), "the tick during the restart is within its grace"


def test_a_removed_schedule_is_retired_and_comes_back_without_its_missed_ticks(
    isolated_runtime: Isolated, start_worker: Any, start: datetime, caplog: Any
) -> None:
    ticks = RecurringTicks(isolated_runtime.runtime.dispatcher, isolated_runtime.runtime.store)
    start_worker(sync(Every("hour"))).stop()
    assert recurring.get("sync").state == "active", "its workers are only stopped"
    other = start_worker(names=("registered.sync",))
    assert recurring.get("sync").state == "retired"
    assert (recurring.all(), [task.key for task in recurring.all(retired=True)]) == ([], ["sync"])
    assert [line.key for line in events(caplog, "recurring.retired")] == ["sync"]
    isolated_runtime.advance(5 * HOUR)
    ticks.run_once()
    other.stop()
    start_worker(sync(Every("hour")))
    ticks.run_once()
    task = recurring.get("sync")
    assert (task.state, task.next_at, task.missed_count) == ("active", start + 6 * HOUR, 0)
    assert isolated_runtime.run_pending() == []


def test_a_pause_outlives_a_release(start_worker: Any) -> None:
    start_worker(sync(Every("hour"))).stop()
    recurring.pause("sync", by="ada")
    start_worker(sync(Every("2 hours")))
    task = recurring.get("sync")
    assert (task.state, task.paused_by, str(task.schedule)) == ("paused", "ada", "every 2 hours")


def test_the_workers_of_another_application_do_not_retire_a_task(
    isolated_runtime: Isolated, start_worker: Any, engine: sa.Engine
) -> None:
    first = start_worker(sync(Every("hour")))
    other = start_worker((Hourly, Recurring(Every("hour"), key="other")))
    assert {task.key: task.state for task in recurring.all()} == {"sync": "active", "other": "active"}
    first.stop()
    for _ in range(3):
        isolated_runtime.advance(7 * HOUR)
        other.register()
    assert recurring.get("sync").state == "active", "a deploy stops all workers of one application"
    first = start_worker(sync(Every("hour")))
    first.stop()
    other.register()
    isolated_runtime.advance(23 * HOUR)
    other.register()
    assert recurring.get("sync").state == "active", "the time counts from the last worker that has declared it"
    isolated_runtime.advance(2 * HOUR)
    other.register()
    assert recurring.get("sync").state == "retired"


def test_a_worker_of_an_earlier_release_of_dexpy_retires_nothing(start_worker: Any, engine: sa.Engine) -> None:
    start_worker(sync(Every("hour"))).stop()
    earlier = start_worker(names=("other.operation",))
    with engine.begin() as connection:
        connection.execute(sa.update(worker_names).values(recurring_keys=None, names=["registered.sync"]))
    # The other one sees a worker that knows the operation, and does not store which tasks it declares.
    earlier.registration._stored = None
    knows = start_worker(names=("registered.sync",))
    assert recurring.get("sync").state == "active"
    earlier.stop()
    knows.register()
    assert recurring.get("sync").state == "retired"


def test_a_task_that_was_added_at_run_time_is_not_replaced(start_worker: Any, caplog: Any) -> None:
    added = recurring.add("sync", Sync(shop=9), Every("day"))
    worker = start_worker(sync(Every("hour")))
    worker.register()
    assert recurring.get("sync") == added
    (line,) = events(caplog, "recurring.not_registered")
    assert (line.levelname, line.key) == ("ERROR", "sync")
    worker.stop()
    start_worker(names=("registered.sync",))
    assert recurring.get("sync").state == "active"


def test_a_task_of_a_class_is_changed_in_the_class(start_worker: Any) -> None:
    worker = start_worker(sync(Every("hour")))
    for call in (lambda: recurring.edit("sync", queue="slow"), lambda: recurring.remove("sync")):
        with pytest.raises(OptionsError, match=r"defined by registered.sync \(class\). Change its schedule there"):
            call()
    worker.stop()
    start_worker(names=("registered.sync",))
    recurring.remove("sync")
    assert recurring.all(retired=True) == []


def test_a_next_tick_that_the_zone_database_has_moved_is_corrected(start_worker: Any, engine: sa.Engine) -> None:
    start_worker(sync(Cron("0 3 * * *", zone="Europe/Rome"))).stop()
    right = recurring.get("sync").next_at
    assert right is not None
    change(engine, next_at=right + HOUR)
    start_worker(sync(Cron("0 3 * * *", zone="Europe/Rome")))
    assert recurring.get("sync").next_at == right


def test_an_encrypted_prop_is_compared_and_replaced(isolated_runtime: Isolated, start_worker: Any) -> None:
    fernet = pytest.importorskip("cryptography.fernet")
    isolated_runtime.runtime.encryptors = type(isolated_runtime.runtime.encryptors)(
        {"default": FernetEncryptor(fernet.Fernet.generate_key())}
    )
    ticks = RecurringTicks(isolated_runtime.runtime.dispatcher, isolated_runtime.runtime.store)

    def declare(token: str) -> tuple[Any, Recurring]:
        return Secret, Recurring(Every("hour"), key="secret", props={"token": token})

    start_worker(declare("hunter2"))
    first = recurring.get("secret")
    start_worker(declare("hunter2"))
    assert recurring.get("secret") == first
    start_worker(declare("a longer one"))
    assert recurring.get("secret").updated_at > first.updated_at
    isolated_runtime.advance(HOUR)
    ticks.run_once()
    (run,) = isolated_runtime.run_pending()
    assert run.result(5) == len("a longer one")


def test_a_task_that_cannot_be_registered_stops_no_other_and_is_not_retired(
    start_worker: Any, isolated_runtime: Isolated, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(registry, "scheduled_classes", lambda: [Sync, Hourly])
    tasks = {Sync: (Recurring(Every("hour"), key="sync"),), Hourly: Hourly.contract.recurring}
    for cls, declared in tasks.items():
        object.__setattr__(cls.contract, "recurring", declared)
    original = TaskDefinition.of

    def refuse(contract: Any, task: Any, *rest: Any) -> Any:
        if contract is Sync.contract and is_refused:
            raise ValueError("a codec of the application")
        return original(contract, task, *rest)

    monkeypatch.setattr(TaskDefinition, "of", staticmethod(refuse))
    try:
        is_refused = False
        worker = start_worker(names=("registered.sync", "registered.hourly"))
        worker.registration._find_tasks = declared_tasks
        worker.register()
        assert [task.key for task in recurring.all()] == ["registered.earlier", "sync"]
        is_refused = True
        worker.register()
    finally:
        object.__setattr__(Sync.contract, "recurring", ())
    assert [task.state for task in recurring.all()] == ["active", "active"]
    assert [line.key for line in events(caplog, "recurring.not_registered")] == ["sync"]


@pytest.mark.parametrize(("code", "is_raised"), [(1213, False), (2013, True)], ids=["deadlock", "lost_connection"])
def test_a_database_error_with_one_task_stops_no_other(
    start_worker: Any, monkeypatch: pytest.MonkeyPatch, code: int, is_raised: bool
) -> None:
    worker = start_worker()
    worker.tasks += [(Sync, Recurring(Every("hour"), key=key)) for key in ("a", "b")]
    insert_task = recurring_tasks.insert_task

    def fail(connection: sa.Connection, key: str, values: Any) -> bool:
        if key == "a":
            raise sa.exc.OperationalError("INSERT", {}, Exception(code, "the server's message"))
        return insert_task(connection, key, values)

    with monkeypatch.context() as patch:
        patch.setattr(recurring_tasks, "insert_task", fail)
        with pytest.raises(sa.exc.OperationalError) if is_raised else contextlib.nullcontext():
            worker.register()
    assert [task.key for task in recurring.all()] == ["b"]
    worker.register()
    assert [task.key for task in recurring.all()] == ["a", "b"]


def test_the_default_key_is_the_earliest_name_of_the_class() -> None:
    assert [task.key for task in Hourly.contract.recurring] == ["registered.earlier"]


def test_another_module_that_a_worker_imports_later_leaves_its_declarations(
    start_worker: Any, engine: sa.Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = start_worker(sync(Every("hour")))
    monkeypatch.setattr(registry, "names", lambda: ("registered.sync", "imported.later"))
    worker.heartbeat._current._renew()
    with engine.connect() as connection:
        (row,) = connection.execute(sa.select(worker_names)).all()
    assert (row.names, row.recurring_keys["keys"].keys()) == (["registered.sync", "imported.later"], {"sync"})


def test_a_process_that_is_no_worker_registers_nothing(isolated_runtime: Isolated) -> None:
    heartbeat = Heartbeat(isolated_runtime.runtime.store, isolated_runtime.runtime.intervals)
    registration = RecurringRegistration(isolated_runtime.runtime.store, heartbeat, declared_tasks)
    registration.run_if_due()
    heartbeat.start()
    registration.run_if_due()
    heartbeat.stop()
    assert recurring.all(retired=True) == []


def test_the_rows_are_compared_every_few_seconds(start_worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    worker = start_worker(sync(Every("hour")))
    worker.tasks.clear()
    worker.registration.run_if_due()
    assert worker.registration._stored[1]["keys"].keys() == {"sync"}
    monkeypatch.setattr(recurring_registration, "CHECK_EVERY_S", 0.0)
    worker.registration.run_if_due()
    assert worker.registration._stored[1]["keys"] == {}
    assert clock.now() > datetime.now(timezone.utc)


def test_the_restart_of_the_only_worker_that_declares_a_task_loses_no_tick(
    isolated_runtime: Isolated, start_worker: Any, start: datetime
) -> None:
    ticks = RecurringTicks(isolated_runtime.runtime.dispatcher, isolated_runtime.runtime.store)
    declaring = start_worker(sync(Every("hour")))
    isolated_runtime.advance(HOUR - timedelta(seconds=90))
    declaring.stop()
    start_worker(names=("registered.sync",))
    assert recurring.get("sync").state == "retired"
    isolated_runtime.advance(60)
    ticks.run_once()
    assert isolated_runtime.run_pending() == []

    start_worker(sync(Every("hour")))
    ticks.run_once()

    (ticket,) = isolated_runtime.run_pending()
    task = recurring.get("sync")
    assert (task.state, task.last_run_id, task.missed_count) == ("active", ticket.id, 0)
    assert task.last_late_s is not None
    assert 30 <= task.last_late_s < 60


def test_the_next_tick_of_an_added_task_that_the_zone_database_has_moved_is_corrected(
    start_worker: Any, engine: sa.Engine
) -> None:
    earlier = start_worker(names=("registered.sync",))
    right = recurring.add("sync", Sync(shop=9), Cron("0 3 * * *", zone="Europe/Rome")).next_at
    assert right is not None
    start_worker(names=("registered.sync",))
    change(engine, next_at=right + HOUR)
    earlier.register()
    assert recurring.get("sync").next_at == right + HOUR, "only the worker that was started last corrects it"
    start_worker(names=("registered.sync",))
    assert recurring.get("sync").next_at == right


def test_calls_that_replace_a_task_at_the_same_time_all_succeed(isolated_runtime: Isolated) -> None:
    def replace(number: int) -> None:
        recurring.add("shared", Sync(shop=number), Every("hour"), replace=True)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(replace, range(24)))

    assert recurring.get("shared").operation == "registered.sync"
