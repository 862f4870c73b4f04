"""Retention by class, status and setting, on each database."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from click.testing import CliRunner

import dexpy
from dexpy import Error, Every, Operation, Recording, records, recurring
from dexpy.cli.main import main
from dexpy.database.column_types import FromNow, after
from dexpy.database.tables import FINAL, attempts, retention, signals, steps
from dexpy.database.tables import records as table
from dexpy.declaration import registry
from dexpy.errors import ConfigurationError, DeclarationError, OptionsError
from dexpy.maintenance.pruning import Pruning
from dexpy.policies.keep import STATUSES, keep_by_status
from dexpy.recording.retention import RECENT_TICKS
from dexpy.recording.store import insert_record
from dexpy.runtime import install
from dexpy.testing import Isolated, isolated

DAY = timedelta(days=1)
DAY_S = 86400.0


class Base(Operation, name="pruning.base"):
    how: str = "done"
    record = Recording(keep={"done": "2d", "failed": "20d"})

    def perform(self) -> None:
        if self.how == "failed":
            raise Error("refused")


class Inheriting(Base, name="pruning.inheriting"): ...


class Kept(Base, name="pruning.kept"):
    record = Recording(keep="forever")


class Ruleless(Base, name="pruning.ruleless"):
    record = True


class Tick(Operation, name="pruning.tick"):
    def perform(self) -> None: ...


@pytest.fixture
def defaults(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Set the retention of the settings by environment variables."""

    def set_defaults(**settings: str) -> None:
        for name, text in settings.items():
            monkeypatch.setenv(f"DEXPY_RETENTION_{name.upper()}", text)

    return set_defaults


def pruning_of(isolated_runtime: Isolated) -> Pruning:
    recorded = isolated_runtime.runtime.start().recorded
    assert recorded is not None
    return recorded.pruning


def remaining() -> Counter[tuple[str, str]]:
    return Counter((record.operation, record.status) for record in records.all())


def store_ended(isolated_runtime: Isolated, operation: str, days: float, number: int = 1, **columns: Any) -> None:
    """Store records that ended so many days ago, as another process has."""
    with isolated_runtime.runtime.store.begin() as connection:
        for index in range(number):
            ended = {"status": "done", "completed_at": FromNow(-days * DAY_S - index), **columns}
            insert_record(connection, {"id": f"op_{operation}_{days}_{index}", "operation": operation, **ended})


def test_each_class_and_status_has_its_own_retention_and_subclasses_inherit_it(
    database_url: str, defaults: Callable[..., None]
) -> None:
    defaults(done="5d")
    with isolated(database=database_url) as test:
        for operation in (Base, Inheriting, Kept, Ruleless):
            for how in ("done", "failed"):
                operation(how=how).async_().call()
        test.run_pending()
        assert records.prune() == 0

        test.advance(3 * DAY)
        assert records.prune(dry_run=True) == 2
        assert records.prune() == 2
        assert remaining().total() == 6
        test.advance(3 * DAY)
        assert records.prune() == 1
        test.advance(20 * DAY)
        assert records.prune() == 2

        kept = {("pruning.kept", "done"): 1, ("pruning.kept", "failed"): 1, ("pruning.ruleless", "failed"): 1}
        assert remaining() == kept
        assert {row.record_id for row in test.runtime.store.rows(sa.select(attempts))} == {
            record.id for record in records.failed()
        }


def test_nothing_is_deleted_unless_a_retention_is_set(isolated_runtime: Isolated) -> None:
    for status in FINAL:
        store_ended(isolated_runtime, f"gone.{status}", 5000, status=status)

    assert records.prune() == 0
    assert pruning_of(isolated_runtime).run_once()

    assert remaining().total() == len(FINAL)


def test_records_of_classes_that_no_longer_exist_follow_the_defaults_of_their_status(
    database_url: str, defaults: Callable[..., None]
) -> None:
    defaults(done="1d", failed="3d", expired="forever", cancelled="9d")
    with isolated(database=database_url) as test:
        for status in FINAL:
            store_ended(test, "gone.operation", 5, status=status, id=f"op_{status}")

        assert records.prune() == 2

        assert sorted(record.status for record in records.all()) == ["cancelled", "expired"]


def test_a_process_without_the_class_keeps_what_another_process_declares(
    database_url: str, defaults: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    defaults(done="1d")
    with isolated(database=database_url) as test:
        store_ended(test, "pruning.kept", 500)
        store_ended(test, "pruning.base", 1.5)
        pruning_of(test).run_once()
        monkeypatch.setattr(registry, "_by_name", {"pruning.ruleless": Ruleless})

        assert records.prune() == 0

        test.advance(2 * DAY)
        assert records.prune() == 1
        # Seven days after the last process with the class, its records follow the defaults.
        test.advance(6 * DAY)
        assert records.prune() == 1


def test_in_a_rolling_deploy_the_longer_one_of_two_retentions_holds(isolated_runtime: Isolated) -> None:
    store_ended(isolated_runtime, "pruning.base", 5)
    with isolated_runtime.runtime.store.begin() as connection:
        other = {"operation": "pruning.base", "status": "done", "keep_s": 10 * 86400, "seen_at": after(0)}
        connection.execute(sa.insert(retention).values(other))

    assert records.prune() == 0

    isolated_runtime.advance(1.1 * DAY)
    assert records.prune() == 1


def test_runs_that_are_not_final_and_keys_in_use_are_kept(isolated_runtime: Isolated) -> None:
    for status in ("pending", "running"):
        store_ended(isolated_runtime, "pruning.base", 500, status=status, id=f"op_{status}")
    store_ended(isolated_runtime, "pruning.base", 500, once_key="k", once_digest="k", id="op_once")
    store_ended(isolated_runtime, "pruning.base", 500, id="op_parent")
    store_ended(isolated_runtime, "pruning.base", 0, status="pending", parent_id="op_parent", id="op_child")

    # A parent is deleted although its child is pending: a chain of runs may never end.
    assert records.prune() == 1

    assert {record.id for record in records.all()} == {"op_pending", "op_running", "op_once", "op_child"}


def test_the_newest_ticks_of_each_recurring_task_are_kept(database_url: str, defaults: Callable[..., None]) -> None:
    defaults(done="1d")
    with isolated(database=database_url) as test:
        recurring.add("often", Tick(), Every("minute"))
        for key, number in (("often", RECENT_TICKS + 5), ("seldom", 3)):
            with test.runtime.store.begin() as connection:
                for index in range(number):
                    moment = FromNow(-10 * DAY_S - index)
                    columns = {"status": "done", "completed_at": moment, "run_at": moment, "recurring_key": key}
                    insert_record(connection, {"id": f"op_{key}_{index:03}", "operation": "pruning.tick", **columns})
        # Started by hand: it has no tick.
        store_ended(test, "pruning.tick", 10, recurring_key="often", id="op_by_hand")

        assert records.prune() == 6
        assert records.prune(older_than=DAY) == 0

        left = Counter(record.recurring_key for record in records.all())
        assert left == {"often": RECENT_TICKS, "seldom": 3}
        assert records.get("op_often_000").status == "done"


def test_attempts_signals_and_steps_are_deleted_with_the_record(isolated_runtime: Isolated) -> None:
    store = isolated_runtime.runtime.store
    ticket = Base(how="failed").async_().call()
    isolated_runtime.run_pending()
    step = {"record_id": ticket.id, "position": 0, "name": "a", "finished": True, "claim_token": 1}
    with store.begin() as connection:
        connection.execute(sa.insert(signals).values(record_id=ticket.id, cancel_requested_at=after(0)))
        connection.execute(sa.insert(steps).values(**step, updated_at=after(0)))
    isolated_runtime.advance(30 * DAY)

    assert records.prune() == 1

    for side_table in (attempts, signals, steps):
        assert store.rows(sa.select(side_table)) == []


def test_a_round_deletes_batch_by_batch_and_logs_the_numbers(
    database_url: str, defaults: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    defaults(batch_size="2", interval="7s")
    with isolated(database=database_url) as test:
        store_ended(test, "pruning.base", 5, 5)
        pruning = pruning_of(test)
        task = pruning.periodic_task()
        assert task.pause_s is not None
        with caplog.at_level(logging.INFO, "dexpy"):
            numbers = []
            while not numbers or task.pause_s() < 7:
                pruning.run_once()
                numbers.append(records.all().count())

        assert [number for number in dict.fromkeys(numbers) if number < 5] == [3, 1, 0]
        (event,) = [each for each in caplog.records if "records.pruned" in each.getMessage()]
        assert (event.__dict__["operation"], event.__dict__["status"], event.__dict__["count"]) == (
            "pruning.base",
            "done",
            5,
        )


def test_a_record_that_the_database_refuses_to_delete_stops_no_other(
    isolated_runtime: Isolated, engine: sa.Engine
) -> None:
    store_ended(isolated_runtime, "pruning.base", 5, 4)
    metadata = sa.MetaData()
    (refused_id,) = [row.id for row in isolated_runtime.runtime.store.rows(sa.select(table.c.id).limit(1))]
    references = sa.Table(
        "invoice_runs",
        metadata,
        sa.Column("run", table.c.id.type, sa.ForeignKey(table.c.id), primary_key=True),
    )
    references.create(engine)
    try:
        with engine.begin() as connection:
            connection.execute(sa.insert(references).values(run=refused_id))

        assert records.prune() == 3
    finally:
        references.drop(engine)


def test_an_unreadable_row_stops_no_other(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    if engine.dialect.name != "sqlite":
        pytest.skip("only SQLite stores a value of another type")
    store_ended(isolated_runtime, "pruning.base", 5, 4)
    with engine.begin() as connection:
        connection.execute(sa.text("UPDATE operation_records SET completed_at = '1' WHERE id LIKE '%_0'"))

    records.prune()

    assert records.where(operation=Base).count() <= 1


def test_the_command_deletes_by_retention_and_prints_the_number_for_each_operation_and_status(
    isolated_runtime: Isolated,
) -> None:
    store_ended(isolated_runtime, "pruning.base", 5, 3)
    store_ended(isolated_runtime, "gone", 5, 2, status="failed")

    counted = CliRunner().invoke(main, ["prune", "--dry-run"])
    assert counted.output.splitlines()[-2:][0].split() == ["pruning.base", "done", "3"], counted.output
    assert "3 records would be deleted." in counted.output
    assert records.all().count() == 5

    ended = CliRunner().invoke(main, ["prune", "--status", "failed"])
    assert "0 records deleted." in ended.output, ended.output
    ended = CliRunner().invoke(main, ["prune"])
    assert "3 records deleted." in ended.output, ended.output
    assert remaining() == {("gone", "failed"): 2}


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        ({"faild": "7d"}, "unknown final status 'faild'; .* Did you mean 'failed'?"),
        ({"running": "7d"}, "unknown final status 'running'"),
        ({1: "7d"}, "unknown final status 1"),
        ("7 days", "expected a timedelta, a duration with its unit such as '30d'"),
        ("1s", "from 1m to 36500d"),
        (7, "got 7"),
        (True, "got True"),
        (timedelta(-1), "got datetime.timedelta"),
        ({"done": None}, "got None"),
        (timedelta.max, "expected a timedelta"),
    ],
)
def test_an_odd_retention_is_refused_at_the_class_and_at_configure(keep: Any, message: str) -> None:
    with pytest.raises(DeclarationError, match=rf"Odd\.record: keep.*{message}"):

        class Odd(Operation):
            record = Recording(keep=keep)

            def perform(self) -> None: ...

    with pytest.raises(ConfigurationError, match=rf"configure\(retention=\.\.\.\).*{message}"):
        dexpy.configure(database="sqlite://", retention=keep)


def test_the_statuses_of_retention_are_the_final_ones() -> None:
    assert set(STATUSES) == set(FINAL)
    assert keep_by_status("forever", "keep") == dict.fromkeys(FINAL)


def test_configure_takes_precedence_over_variables_by_status(defaults: Callable[..., None], tmp_path: Any) -> None:
    defaults(done="1d", failed="forever")
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path / 'a.db'}", retention={"done": timedelta(days=3)})
    try:
        recorded = runtime.start().recorded
        assert recorded is not None
        assert [(each.status, each.keep_s) for each in recorded.pruning.selections() if each.operations is None] == [
            ("done", 3 * DAY_S)
        ]
    finally:
        install(None)
        runtime.close()


def test_statuses_and_batch_require_an_age(isolated_runtime: Isolated) -> None:
    with pytest.raises(OptionsError, match="require older_than"):
        records.prune(statuses=["done"])
