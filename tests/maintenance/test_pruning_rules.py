"""Which rules a process knows when it deletes records, and what it does when they change or a row is locked."""

from __future__ import annotations

import pytest
import sqlalchemy as sa

from dexpy import Operation, Recording, records
from dexpy.database.column_types import FromNow, after
from dexpy.database.tables import records as table
from dexpy.database.tables import retention
from dexpy.declaration import registry
from dexpy.maintenance import pruning as pruning_module
from dexpy.maintenance.pruning import Pruning
from dexpy.recording.store import insert_record
from dexpy.testing import Isolated, isolated

DAY_S = 86400.0


class Invoice(Operation, name="pruning_rules.invoice"):
    record = Recording(keep={"done": "2d"})

    def perform(self) -> None: ...


def pruning_of(test: Isolated) -> Pruning:
    recorded = test.runtime.start().recorded
    assert recorded is not None
    return recorded.pruning


def store_ended(test: Isolated, operation: str, number: int) -> None:
    """Store records that ended five days ago."""
    with test.runtime.store.begin() as connection:
        for index in range(number):
            ended = {"status": "done", "completed_at": FromNow(-5 * DAY_S - index)}
            insert_record(connection, {"id": f"op_{operation}_{index}", "operation": operation, **ended})


def run_until_pause(pruning: Pruning) -> None:
    """Run to the end of a round."""
    pause_s = pruning.periodic_task().pause_s
    assert pause_s is not None
    pruning.run_once()
    while pause_s() < 600:
        pruning.run_once()


def test_a_process_without_classes_deletes_nothing_by_the_defaults_before_a_worker_has_stored_its_rules(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DEXPY_RETENTION_DONE", "1d")
    with isolated(database=database_url) as test:
        store_ended(test, "pruning_rules.other", 2)
        monkeypatch.setattr(registry, "_by_name", {})

        assert records.prune() == 0
        run_until_pause(pruning_of(test))
        assert records.all().count() == 2

        assert pruning_of(test).rules_task(is_worker=True).run_once()
        assert records.prune() == 2


def test_a_round_follows_rules_that_change_meanwhile(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEXPY_RETENTION_BATCH_SIZE", "2")
    monkeypatch.setattr(pruning_module, "READ_RULES_EVERY_S", 0.0)
    with isolated(database=database_url) as test:
        store_ended(test, "pruning_rules.invoice", 6)
        store_ended(test, "pruning_rules.other", 2)
        pruning = pruning_of(test)
        while records.where(operation=Invoice).count() == 6:
            # The order of the rules in a round is not defined.
            pruning.run_once()
        assert records.where(operation=Invoice).count() == 4

        with test.runtime.store.begin() as connection:
            longer = {"operation": "pruning_rules.invoice", "status": "done", "keep_s": 10 * 86400}
            shorter = {"operation": "pruning_rules.other", "status": "done", "keep_s": 86400}
            connection.execute(
                sa.insert(retention).values([each | {"seen_at": after(0)} for each in (longer, shorter)])
            )
        run_until_pause(pruning)

        assert records.where(operation=Invoice).count() == 4
        assert records.all().count() == 4, "a rule that is new in the round takes effect"


def test_rows_that_a_lock_protects_are_deleted_by_the_next_round(isolated_runtime: Isolated, engine: sa.Engine) -> None:
    if engine.dialect.name == "sqlite":
        pytest.skip("SQLite locks no rows")
    store_ended(isolated_runtime, "pruning_rules.invoice", 4)
    pruning = pruning_of(isolated_runtime)
    locked = sa.update(table).where(table.c.id == "op_pruning_rules.invoice_2").values(updated_at=after(0))
    with engine.connect() as connection, connection.begin() as transaction:
        connection.execute(locked)
        run_until_pause(pruning)
        assert records.all().count() >= 1
        transaction.rollback()

    run_until_pause(pruning)

    assert records.all().count() == 0
