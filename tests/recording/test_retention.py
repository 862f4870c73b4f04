"""`records.prune` and ``dexpy prune`` delete old ended records, and nothing else."""

from __future__ import annotations

import logging
import threading
from collections.abc import Generator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
import servers
import sqlalchemy as sa
from click.testing import CliRunner

import dexpy
from dexpy import Error, Operation, Retry, Unique, records
from dexpy.cli.main import main
from dexpy.database.column_types import after
from dexpy.database.tables import attempts
from dexpy.database.tables import records as table
from dexpy.database.tables import signals as signals_table
from dexpy.errors import OptionsError, RecordNotFound
from dexpy.maintenance.relay import warn_of_many
from dexpy.recording import run_signals
from dexpy.recording.retention import has_more_than
from dexpy.runtime import install
from dexpy.testing import Isolated, isolated

DAY = timedelta(days=1)


class Keep(Operation):
    """An operation that ends as its prop specifies."""

    how: str = "done"
    retry_on = (Retry(KeyError, attempts=2, wait=0),)

    def perform(self) -> None:
        if self.how == "failed":
            raise Error("refused")
        if self.how == "crashed":
            raise KeyError


class Seasonal(Operation):
    unique = Unique(for_=10 * DAY)

    def perform(self) -> None: ...


@pytest.fixture
def isolated_runtime() -> Generator[Isolated]:
    with isolated() as runtime:
        yield runtime


def count(isolated_runtime: Isolated, of: sa.Table = table) -> int:
    (row,) = isolated_runtime.runtime.store.rows(sa.select(sa.func.count()).select_from(of))
    return int(row[0])


def test_old_ended_records_are_deleted_with_their_attempts_and_open_ones_stay(isolated_runtime: Isolated) -> None:
    for how in ("done", "failed", "crashed"):
        Keep(how=how).async_().call()
    Keep().async_(in_=1000 * DAY).call()
    isolated_runtime.run_pending()
    isolated_runtime.advance(31 * DAY)
    young = Keep().async_().call()
    isolated_runtime.run_pending()
    assert count(isolated_runtime, attempts) == 3

    assert records.prune(older_than=30 * DAY, dry_run=True) == 3
    assert count(isolated_runtime) == 5
    assert records.prune(older_than=30 * DAY) == 3

    assert sorted(record.status for record in records.all()) == ["done", "pending"]
    assert young.reload().done
    assert count(isolated_runtime, attempts) == 0


def test_only_records_of_the_named_statuses_are_deleted(isolated_runtime: Isolated) -> None:
    remaining, pruned = Keep().async_().call(), Keep(how="failed").async_().call()
    isolated_runtime.run_pending()
    isolated_runtime.advance(DAY)

    assert records.prune(older_than=timedelta(hours=1), statuses=["failed"]) == 1

    assert remaining.reload().done
    assert records.where(operation=Keep).count() == 1
    assert pruned.id not in [record.id for record in records.all()]


def test_a_key_for_replay_is_kept_until_it_expires(isolated_runtime: Isolated) -> None:
    tickets = [Keep().async_().call() for _ in range(3)]
    isolated_runtime.run_pending()
    with isolated_runtime.runtime.store.begin() as connection:
        for ticket, expires in zip(tickets[:2], (None, after(10 * 24 * 3600.0)), strict=True):
            values = {"once_key": ticket.id, "once_expires_at": expires}
            connection.execute(sa.update(table).where(table.c.id == ticket.id).values(values))
    isolated_runtime.advance(5 * DAY)
    assert records.prune(older_than=DAY) == 1

    isolated_runtime.advance(6 * DAY)

    assert records.prune(older_than=DAY) == 1
    assert [record.id for record in records.all()] == [tickets[0].id]


def test_a_unique_key_with_a_period_is_kept_until_it_expires(isolated_runtime: Isolated) -> None:
    first = Seasonal().async_().call()
    isolated_runtime.run_pending()
    isolated_runtime.advance(5 * DAY)
    assert records.prune(older_than=DAY) == 0
    assert Seasonal().async_().call().id == first.id

    isolated_runtime.advance(6 * DAY)

    assert records.prune(older_than=DAY) == 1
    assert not Seasonal().async_().call().duplicate


def test_a_record_that_is_retried_meanwhile_is_kept_or_was_deleted_before(isolated_runtime: Isolated) -> None:
    ticket = Keep(how="failed").async_().call()
    isolated_runtime.run_pending()
    isolated_runtime.advance(2 * DAY)
    revived: list[bool] = []

    def revive() -> None:
        try:
            ticket.retry()
        except RecordNotFound:
            revived.append(False)
        else:
            revived.append(True)

    person = threading.Thread(target=revive)

    @sa.event.listens_for(isolated_runtime.runtime.store.database.engine, "after_cursor_execute")
    def intervene(_c: Any, _cursor: Any, statement: str, *_: Any) -> None:
        # Retry between the search for old rows and their deletion; the thread may be blocked until the deletion ends.
        if statement.startswith("SELECT") and "operation_records.id" in statement.split()[1] and not person.ident:
            person.start()
            person.join(1)

    records.prune(older_than=DAY)
    person.join()

    assert revived == [count(isolated_runtime) == 1]


def test_the_signals_of_a_run_are_deleted_with_its_record(isolated_runtime: Isolated) -> None:
    ticket = Keep().async_().call()
    isolated_runtime.run_pending()
    with isolated_runtime.runtime.store.begin() as connection:
        run_signals.request_cancel(connection, ticket.id)
    isolated_runtime.advance(2 * DAY)

    records.prune(older_than=DAY)

    assert count(isolated_runtime, signals_table) == 0


@pytest.mark.parametrize(
    "arguments",
    [{"statuses": ["running"]}, {"older_than": timedelta(-1)}, {"batch": 0}],
    ids=["status running", "negative age", "batch 0"],
)
def test_invalid_arguments_are_refused_and_nothing_is_deleted(
    isolated_runtime: Isolated, arguments: dict[str, Any]
) -> None:
    Keep().async_().call()
    isolated_runtime.run_pending()
    isolated_runtime.advance(DAY)

    with pytest.raises(OptionsError, match="prune"):
        records.prune(**{"older_than": timedelta(0), **arguments})
    assert count(isolated_runtime) == 1


def test_the_command_prints_the_number_of_deleted_records(isolated_runtime: Isolated) -> None:
    for _ in range(5):
        Keep().async_().call()
    isolated_runtime.run_pending()
    isolated_runtime.advance(2 * DAY)

    counted = CliRunner().invoke(main, ["prune", "--older-than", "1d", "--dry-run"])
    ended = CliRunner().invoke(main, ["prune", "--older-than", "24h", "--batch", "2", "--status", "done"])

    assert counted.output.endswith(": 5 records would be deleted.\n"), counted
    assert ended.output.endswith(": 5 records deleted.\n"), ended
    assert count(isolated_runtime) == 0


@pytest.mark.parametrize("wrong", ["30", "d", "-1d", "1y"])
def test_an_invalid_duration_is_refused(wrong: str) -> None:
    ended = CliRunner().invoke(main, ["prune", f"--older-than={wrong}"])

    assert ended.exit_code == 2
    assert "expected a number with the unit" in ended.output


def test_many_ended_records_are_reported_as_a_warning(
    isolated_runtime: Isolated, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(4):
        Keep().async_().call()
    isolated_runtime.run_pending()
    Keep().async_().call()
    store = isolated_runtime.runtime.store

    with caplog.at_level(logging.WARNING, "dexpy"):
        assert [has_more_than(store, many) for many in (3, 4)] == [True, False]
        assert not warn_of_many(store, 4)
        assert caplog.records == []
        assert warn_of_many(store, 3)
    assert "dexpy prune --older-than 30d" in caplog.text


@pytest.mark.servers
@pytest.mark.parametrize("kind", ["postgresql", "mariadb"])
def test_servers_are_pruned_in_batches(kind: str, tmp_path: Path) -> None:
    with servers.database(kind, tmp_path) as url:
        runtime = dexpy.configure(database=url, create_tables=True)
        try:
            for how in ("done", "failed") * 5:
                Keep(how=how).safe.call()
            assert records.all().count() == 10
            assert records.prune(older_than=timedelta(hours=1)) == 0
            assert records.prune(older_than=timedelta(0), batch=3) == 10
            assert records.all().count() == 0
        finally:
            install(None)
            runtime.close()
