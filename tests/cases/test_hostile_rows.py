"""Rows with values that a database accepts and Python cannot read affect no other rows."""

from __future__ import annotations

import datetime as dt
import logging
import sqlite3
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import servers
import sqlalchemy as sa

import dexpy
from dexpy import Operation, Ticket, records
from dexpy.database import column_types
from dexpy.database.column_types import metadata
from dexpy.foundation.errors import DexpyError
from dexpy.liveness.worker_registry import SqliteLivenessLocks
from dexpy.maintenance.relay import Relay
from dexpy.recording import retention
from dexpy.runtime import Runtime, current_runtime, install

PAST = "2020-01-01 00:00:00.000000"
ON_SERVERS = [pytest.param(kind, marks=pytest.mark.servers) for kind in ("postgresql", "mariadb")]


class Small(Operation):
    n: int = 0

    def perform(self) -> int:
        return 1


@pytest.fixture(params=["sqlite", *ON_SERVERS])
def runtime(request: pytest.FixtureRequest, tmp_path: Path) -> Generator[Runtime]:
    with servers.database(request.param, tmp_path) as url:
        configured = dexpy.configure(database=url, create_tables=True, recover_within=5)
        yield configured
        configured.close()
        install(None)


@pytest.fixture
def kind(runtime: Runtime) -> str:
    return runtime.store.database.engine.dialect.name


def execute(statement: str, **values: Any) -> None:
    with current_runtime().store.database.engine.begin() as connection:
        connection.execute(sa.text(statement), values)


def late(count: int = 4) -> list[Ticket[Any]]:
    """Enqueue records that are due and have no message."""
    tickets = [Small(n=n).async_(in_=dt.timedelta(days=30)).call() for n in range(count)]
    execute("DELETE FROM dexpy_messages")
    execute(f"UPDATE operation_records SET scheduled_at = '{PAST}', enqueued_at = NULL")
    return tickets


def relay() -> Relay:
    current = current_runtime()
    heartbeat = current.services.heartbeat
    assert heartbeat is not None
    return Relay(current.dispatcher, heartbeat, current.intervals)


def performed(ticket: Ticket[Any]) -> str:
    """Perform a record in this thread, and return its status."""
    ticket.perform()
    return str(ticket.reload().status)


def published_ids() -> set[str]:
    """Return the ids of the records that have a message."""
    sql_queue: Any = current_runtime().dispatcher.transport.sql_queue
    return {message.kwargs["record_id"] for message in sql_queue.iter_messages("default")}


MOMENTS = {
    "postgresql": ["infinity", "-infinity", "294276-01-01", "4713-01-01 BC"],
    "mysql": ["0000-00-00 00:00:00"],
    "sqlite": ["garbage", b"\xff\xfe", 5, 1e300, "9999-99-99 99:99:99", ""],
}
TIMES = ("created_at", "updated_at", "started_at", "completed_at", "once_expires_at", "run_at")


def broken_moments(kind: str) -> list[Any]:
    return MOMENTS["mysql" if kind in ("mysql", "mariadb") else kind]


def break_row(ticket: Ticket[Any], column: str, value: Any) -> None:
    with current_runtime().store.database.engine.begin() as connection:
        if connection.dialect.name in ("mysql", "mariadb"):
            connection.exec_driver_sql("SET SESSION sql_mode = ''")
        connection.execute(
            sa.text(f"UPDATE operation_records SET {column} = :value WHERE id = :id"), {"value": value, "id": ticket.id}
        )
        if connection.dialect.name in ("mysql", "mariadb"):
            connection.exec_driver_sql("SET SESSION sql_mode = DEFAULT")


def test_h7_h8_an_unreadable_datetime_affects_only_its_row(
    runtime: Runtime, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    # Each value is tested in one column, and each column with one value.
    values = broken_moments(kind)
    for number in range(max(len(TIMES), len(values))):
        column, value = TIMES[number % len(TIMES)], values[number % len(values)]
        caplog.clear()
        tickets = late()
        break_row(tickets[1], column, value)

        assert relay().run_once()

        others = {ticket.id for ticket in tickets if ticket is not tickets[1]}
        assert others <= published_ids(), (column, value)
        assert others <= {record.id for record in records.where(operation=Small)}
        for ticket in (tickets[0], tickets[2]):
            assert performed(ticket) == "done"
        assert tickets[1].id in caplog.text, (column, value)
        execute("DELETE FROM operation_records")
        execute("DELETE FROM dexpy_messages")


def test_h7_h8_runs_of_a_dead_worker_are_recovered_beside_one_that_cannot_be_read(runtime: Runtime, kind: str) -> None:
    tickets = late()
    execute("UPDATE operation_records SET status = 'running', claimed_by = 'dead:1:x', claim_token = 1")
    break_row(tickets[0], "created_at", broken_moments(kind)[0])
    break_row(tickets[1], "started_at", broken_moments(kind)[0])

    assert relay().run_once()

    assert [ticket.reload().status for ticket in tickets[2:]] == ["pending"] * 2


def test_h7_h8_a_pending_record_with_an_unreadable_due_time_is_logged_once(
    runtime: Runtime, kind: str, caplog: pytest.LogCaptureFixture
) -> None:
    if kind in ("mysql", "mariadb"):
        # MariaDB stores no unreadable time that is not past.
        return
    tickets = late(2)
    break_row(tickets[0], "scheduled_at", "infinity" if kind == "postgresql" else "garbage")

    for _ in range(2):
        assert relay().run_once()

    assert tickets[1].id in published_ids()
    assert caplog.text.count(f"record.unreadable run_id={tickets[0].id}") == 1


ODD = (b"\xff\xfe\0", "garbage", 1e308, "[1, 2]", "5")


@pytest.mark.parametrize("table", ["operation_records", "operation_signals", "operation_attempts", "operation_steps"])
def test_every_query_of_a_record_accepts_any_stored_value(tmp_path: Path, table: str) -> None:
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path / 'a.db'}")
    ticket = Small().async_().call()
    ticket.perform()
    execute("INSERT INTO operation_signals (record_id) VALUES (:id)", id=ticket.id)
    attempt = "(record_id, number, claim_token, ended_at, failure)"
    execute(f"INSERT INTO operation_attempts {attempt} VALUES (:id, 1, 0, '{PAST}', 'crash')", id=ticket.id)
    step = "(record_id, position, name, finished, claim_token, updated_at)"
    execute(f"INSERT INTO operation_steps {step} VALUES (:id, 0, 'a', 1, 1, '{PAST}')", id=ticket.id)
    columns = [column for column in metadata.tables[table].columns if column.name not in ("id", "record_id", "status")]
    for number, column in enumerate(columns):
        for value in ODD:
            status = ("done", "failed", "running")[(number + ODD.index(value)) % 3]
            with runtime.store.database.engine.connect() as connection:
                try:
                    connection.execute(sa.text(f"UPDATE {table} SET {column.name} = :value"), {"value": value})
                except sa.exc.DBAPIError:
                    continue
                connection.execute(sa.text("UPDATE operation_records SET status = :s"), {"s": status})
                connection.commit()
            try:
                read_everything(ticket)
            except DexpyError:
                pass
            except Exception as error:
                pytest.fail(f"{status} {column.name} = {value!r:.30}: {error!r}")
        execute(f"UPDATE {table} SET {column.name} = {'0' if not column.nullable else 'NULL'}")
    runtime.close()
    install(None)


def read_everything(ticket: Ticket[Any]) -> None:
    """Read a record by every function of the public interface."""
    for record in [records.get(ticket.id), *records.all()]:
        repr(record), record.params, record.result, record.result_error, record.duration, record.ticket.outcome
    records.attempts(ticket.id)
    records.steps(ticket.id)
    for trace in ("tr_none", records.get(ticket.id).trace_id or ""):
        str(records.tree(trace)), records.tree(trace).to_dict()
    ticket.reload()
    repr(ticket), ticket.status, ticket.progress
    ticket.wait(0)


DEEP = "[" * 100_000 + "]" * 100_000
LONG = "1" * 5000


@pytest.mark.parametrize("column", ["params", "result", "trace", "retry_counts", "error_details", "tags"])
@pytest.mark.parametrize("value", [pytest.param("[" * 3000 + "]" * 3000, id="deep"), pytest.param(LONG, id="long")])
def test_h9_undecodable_json_affects_only_its_row(
    runtime: Runtime, kind: str, column: str, value: str, caplog: pytest.LogCaptureFixture
) -> None:
    tickets = late(3)
    try:
        execute(f"UPDATE operation_records SET {column} = :value WHERE id = :id", value=value, id=tickets[0].id)
    except sa.exc.DBAPIError:
        # MariaDB refuses JSON that is nested deeper than 32 levels.
        assert kind in ("mysql", "mariadb")
        assert value.startswith("[")
        return

    assert relay().run_once()

    assert {ticket.id for ticket in tickets[1:]} <= published_ids()
    assert [performed(ticket) for ticket in tickets[1:]] == ["done"] * 2
    assert len(list(records.where(operation=Small))) >= 2
    assert tickets[0].id in caplog.text
    tickets[0].perform()
    assert tickets[0].reload().status == ("failed" if column == "params" else "done")


@pytest.mark.parametrize(
    "name", ["..", ".", "", "/", "a/../../b", "x" * 60, "nul\0", "~", "ünï", "-rf *", "host:1:x\n", b"\xff\xfe"]
)
def test_h10_runs_are_recovered_beside_a_worker_with_an_odd_name(tmp_path: Path, name: Any) -> None:
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path / 'a.db'}", recover_within=5)
    tickets = late(3)
    execute("UPDATE operation_records SET status = 'running', claimed_by = 'dead:1:x', claim_token = 1")
    execute("UPDATE operation_records SET claimed_by = :name WHERE id = :id", name=name, id=tickets[0].id)
    execute(
        "INSERT INTO operation_workers (id, host, pid, threads, queues, started_at, beat_at, leased_until) "
        f"VALUES (:name, 'h', 1, 1, NULL, '{PAST}', '{PAST}', '{PAST}')",
        name=name,
    )
    # The folder of lock files exists while a worker is alive; the odd name could be a path relative to it.
    liveness_locks = SqliteLivenessLocks(runtime.store.database)
    liveness_locks.acquire("live:1:x")

    assert relay().run_once()

    assert [ticket.reload().status for ticket in tickets] == ["pending"] * 3
    liveness_locks.release("live:1:x")
    runtime.close()
    install(None)


def test_h10_a_run_without_a_worker_is_recovered(runtime: Runtime) -> None:
    ticket = late(1)[0]
    execute("UPDATE operation_records SET status = 'running', claimed_by = NULL, claim_token = 1")

    assert relay().run_once()

    assert ticket.reload().status == "pending"


@pytest.mark.parametrize("column", ["started_at", "beat_at", "leased_until"])
def test_h10_runs_are_recovered_beside_a_worker_with_odd_times(runtime: Runtime, kind: str, column: str) -> None:
    tickets = late(2)
    execute("UPDATE operation_records SET status = 'running', claimed_by = 'dead:1:x', claim_token = 1")
    execute(
        "INSERT INTO operation_workers (id, host, pid, threads, queues, started_at, beat_at, leased_until) "
        f"VALUES ('dead:1:x', 'h', 1, 1, '7', '{PAST}', '{PAST}', '{PAST}')"
    )
    with runtime.store.database.engine.begin() as connection:
        if kind in ("mysql", "mariadb"):
            connection.exec_driver_sql("SET SESSION sql_mode = ''")
        odd = {"value": broken_moments(kind)[0]}
        connection.execute(sa.text(f"UPDATE operation_workers SET {column} = :value"), odd)

    assert relay().run_once()

    assert [ticket.reload().status for ticket in tickets] == ["pending"] * 2


@pytest.mark.parametrize("column", ["send_count", "num_attempts", "num_lost", "claim_token"])
def test_a_counter_at_the_limit_of_its_type_does_not_stop_a_batch(runtime: Runtime, column: str) -> None:
    tickets = late()
    execute(f"UPDATE operation_records SET {column} = 2147483647 WHERE id = :id", id=tickets[0].id)

    assert relay().run_once()

    assert published_ids() == {ticket.id for ticket in tickets}
    assert [performed(ticket) for ticket in tickets] == ["done"] * 4


def test_other_rows_are_pruned_although_one_cannot_be_deleted(tmp_path: Path) -> None:
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path / 'a.db'}")
    tickets = late()
    execute(f"UPDATE operation_records SET status = 'done', completed_at = '{PAST}'")
    execute(
        "CREATE TRIGGER stays BEFORE DELETE ON operation_records "
        f"WHEN OLD.id = '{tickets[1].id}' BEGIN SELECT RAISE(ABORT, 'stays'); END"
    )

    assert retention.prune(runtime.store, dt.timedelta(days=1), batch=2) == 3
    assert [record.id for record in records.all()] == [tickets[1].id]
    runtime.close()
    install(None)


def test_every_loop_ends_with_bytes_in_text_columns(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, "dexpy")
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path / 'a.db'}", recover_within=5)
    tickets = late()
    for index, column in enumerate(("operation", "queue", "id")):
        execute(f"UPDATE operation_records SET {column} = :value WHERE id = :id", value=b"\xff", id=tickets[index].id)

    for _ in range(2):
        assert relay().run_once()

    assert tickets[3].id in published_ids()
    assert len(list(records.all())) == 3, "all records but the one whose id no statement matches"
    assert caplog.text.count("record.unreadable") == 3, "each unreadable record is logged once"
    runtime.close()
    install(None)


def test_a_record_with_an_invalid_queue_fails_with_the_reason(runtime: Runtime) -> None:
    tickets = late(2)
    execute("UPDATE operation_records SET queue = :name WHERE id = :id", name="../x y", id=tickets[0].id)

    assert relay().run_once()

    parked = tickets[0].reload()
    assert (parked.status, parked.failure) == ("failed", "undecodable")
    assert "../x y" in str(records.get(tickets[0].id).error_message)
    assert tickets[1].id in published_ids()


def test_a_run_ends_although_its_attempt_is_already_stored(runtime: Runtime) -> None:
    ticket = late(1)[0]
    execute(
        "INSERT INTO operation_attempts (record_id, number, claim_token, ended_at, failure) "
        f"VALUES (:id, 1, 1, '{PAST}', 'crash')",
        id=ticket.id,
    )
    execute(
        "UPDATE operation_records SET status = 'running', claimed_by = 'dead:1:x', claim_token = 1, num_attempts = 1"
    )

    assert relay().run_once()

    assert ticket.reload().status == "pending"


class Halves(Operation):
    """Fails inside a loop after a step; the next attempt continues from the stored state of both."""

    def total(self) -> Any:
        return 7

    def perform(self) -> list[Any]:
        items: list[Any] = [self.step(self.total)]
        for item in self.each("items", [1, 2, 3], batch=1):
            if item == 2 and not Path("whole").exists():
                raise ConnectionError("away")
            items.append(item)
        Path("seen").write_text(str(items))
        return items


@pytest.mark.parametrize("column", ["value", "cursor"])
@pytest.mark.parametrize("stored", ['{"value": 7', "", "[" * 3000 + "]" * 3000, "null", "7", '{"other": 7}'])
def test_a_step_with_unreadable_json_parks_its_run(
    runtime: Runtime, kind: str, column: str, stored: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    ticket = Halves().async_().call()
    assert performed(ticket) == "failed"
    try:
        execute(
            f"UPDATE operation_steps SET {column} = :stored WHERE record_id = :id AND {column} IS NOT NULL",
            stored=stored,
            id=ticket.id,
        )
    except sa.exc.DBAPIError:
        # Servers refuse invalid JSON, and MariaDB refuses JSON that is nested deeper than 32 levels.
        assert kind != "sqlite"
        return
    (tmp_path / "whole").touch()
    ticket.retry()

    ticket.perform()

    record = records.get(ticket.id)
    assert (record.status, record.failure) == ("failed", "undecodable")
    assert f"has an unreadable stored {column}" in str(record.error_message)
    assert not (tmp_path / "seen").exists()
    broken = next(step for step in records.steps(ticket.id) if step.name == ("total" if column == "value" else "items"))
    assert getattr(broken, column) == "<unreadable>"

    ticket.retry(from_start=True)
    ticket.perform()
    assert ticket.reload().result(1) == [7, 1, 2, 3]


ODD_NUMBERS = (
    1e308, -1e308, 2.0**62, 2.0**63, -(2.0**63), 9.3e18, 1.9, -1.9, float("inf"), "1e400", "  12x", "+5", "\t7", "-",
    "", "99999999999999999999", "-99999999999999999999", "0" * 30 + "7", "\u0663", "1_000", b"12", b"\xff1", "9" * 5000,
)  # fmt: skip


@pytest.mark.parametrize("value", ODD_NUMBERS, ids=lambda value: repr(value)[:30])
def test_h9_a_number_is_read_as_sqlite_compares_it(value: Any) -> None:
    with sqlite3.connect(":memory:") as connection:
        (compared,) = connection.execute("SELECT CAST(? AS INTEGER)", (value,)).fetchone()
    assert column_types.to_integer(value) == compared


@pytest.mark.parametrize("token", ODD_NUMBERS, ids=lambda value: repr(value)[:30])
def test_h9_a_dead_workers_run_with_an_odd_claim_token_is_recovered(token: Any, tmp_path: Path) -> None:
    runtime = dexpy.configure(database=f"sqlite:///{tmp_path / 'app.db'}", recover_within=5)
    try:
        ticket = Small().async_().call()
        execute(
            "UPDATE operation_records SET status = 'running', claimed_by = 'dead:1:x', num_attempts = 1, "
            "claim_token = :token",
            token=token,
        )
        assert relay().run_once()
        assert ticket.reload().status == "pending"
        assert performed(ticket) == "done"
    finally:
        runtime.close()
        install(None)
