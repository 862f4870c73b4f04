"""The names of dexpy's tables: a prefix and a schema are settings, and two installations share one database."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any

import dramatiq
import pytest
import servers
import sqlalchemy as sa
from click.testing import CliRunner
from sqlalchemy.orm import Session

import dexpy
from dexpy import ConfigurationError, Operation, records
from dexpy.cli.main import main
from dexpy.database import schema
from dexpy.database.migrations.history import MIGRATIONS, NEWEST, UNNUMBERED
from dexpy.database.schema_sql import DIALECTS, schema_sql
from dexpy.database.table_layout import set_layout
from dexpy.runtime import current_runtime, install

SERVERS = [pytest.param(kind, marks=pytest.mark.servers) for kind in ("postgresql", "mariadb")]
STANDARD = [table.name for table in schema.TABLES]


class Charge(Operation):
    amount: int = 1

    def perform(self) -> int:
        return self.amount


@pytest.fixture(params=["sqlite", *SERVERS])
def url(request: Any, tmp_path: Path) -> Generator[str]:
    with servers.database(request.param, tmp_path) as database_url:
        yield database_url
        close()


@pytest.fixture(params=SERVERS)
def server(request: Any, tmp_path: Path) -> Generator[str]:
    with servers.database(request.param, tmp_path) as database_url:
        yield database_url
        close()


def close() -> None:
    runtime = install(None)
    if runtime is not None:
        runtime.close()


def configure(url: str, prefix: str | None = None, **options: Any) -> None:
    close()
    dexpy.configure(database=url, table_prefix=prefix, create_tables=True, **options)


def run_all() -> None:
    """Run all pending records of the current installation."""
    worker = dramatiq.Worker(current_runtime().broker, worker_threads=1, worker_timeout=50)
    worker.start()
    until = time.monotonic() + 20
    try:
        while records.pending().count() or records.running().count():
            assert time.monotonic() < until
            time.sleep(0.02)
    finally:
        worker.stop()


def names_in(url: str, schema_name: str | None = None) -> set[str]:
    engine = sa.create_engine(url)
    inspector = sa.inspect(engine)
    names = set(inspector.get_table_names(schema=schema_name))
    for table in [*names]:
        names |= {str(index["name"]) for index in inspector.get_indexes(table, schema=schema_name)}
    engine.dispose()
    return {name for name in names if "operation" in name or "message" in name}


def test_every_table_and_index_has_the_prefix(url: str) -> None:
    configure(url, "billing_")

    Charge().async_().call()
    run_all()

    assert records.done().count() == 1
    assert [name for name in names_in(url) if not name.startswith("billing_") and not name.endswith("_key")] == []
    assert {f"billing_{name}" for name in STANDARD} <= names_in(url)


def test_two_installations_in_one_database_have_their_own_runs(url: str) -> None:
    engine = sa.create_engine(url)
    configure(url)
    Charge().async_().call()
    with Session(engine) as session, session.begin():
        Charge().async_(session=session).call()
    configure(url, "second_")
    Charge(amount=5).async_().call()
    # The application's engine has compiled statements for the other tables.
    with Session(engine) as session, session.begin():
        Charge(amount=5).async_(session=session).call()
    run_all()
    assert [record.params["amount"] for record in records.done() if record.params] == [5, 5]

    configure(url)

    assert [(record.status, record.params) for record in records.all()] == [("pending", {"amount": 1})] * 2
    assert len(current_runtime().store.rows(sa.select(schema.messages))) == 2
    run_all()
    assert records.done().count() == 2
    engine.dispose()


def test_a_lock_of_one_installation_is_free_in_another(url: str) -> None:
    configure(url, "first_")
    key = "ab" * 32
    handle = current_runtime().store.locks.handle(key)
    assert handle.wait(0)
    try:
        assert not current_runtime().store.locks.handle(key).wait(0)
        held_by_first = current_runtime()
        install(None)
        dexpy.configure(database=url, table_prefix="second_", create_tables=True)
        other = current_runtime().store.locks.handle(key)
        assert other.wait(0)
        other.release()
    finally:
        handle.release()
    held_by_first.close()


@pytest.mark.servers
def test_a_notification_reaches_only_workers_of_its_installation(tmp_path: Path) -> None:
    with servers.database("postgresql", tmp_path) as url:
        engine = sa.create_engine(url, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection
            driver.execute('LISTEN "second_dexpy_messages"')
            configure(url, "first_")
            Charge().async_(queue="of_first").call()
            configure(url, "second_")
            Charge().async_(queue="of_second").call()

            received = [notification.payload for notification in driver.notifies(timeout=10, stop_after=1)]

        assert received == ["of_second"]
        close()
        engine.dispose()


def test_tables_are_in_the_configured_schema_of_a_server(server: str) -> None:
    name = f"{sa.make_url(server).database}_jobs"
    configure(server, "app_", schema=name)
    engine = sa.create_engine(server)
    try:
        with Session(engine) as session, session.begin():
            Charge().async_(session=session).call()
        run_all()

        assert records.done().count() == 1
        assert {f"app_{table}" for table in STANDARD} <= names_in(server, name)
        assert names_in(server) == set()
    finally:
        close()
        with engine.begin() as connection:
            cascade = " CASCADE" if engine.dialect.name == "postgresql" else ""
            connection.execute(sa.text(f"DROP SCHEMA {name}{cascade}"))
        engine.dispose()


def test_a_schema_is_refused_on_sqlite() -> None:
    with pytest.raises(ConfigurationError, match=r"schema: sqlite:///app\.db has no schemas; got 'jobs'"):
        dexpy.configure(database="sqlite:///app.db", schema="jobs")


@pytest.mark.parametrize("prefix", ["", "Billing_", "1_", "a-", 'x"; DROP', "x" * 25, 5])
def test_an_invalid_prefix_is_refused(prefix: Any) -> None:
    with pytest.raises(ConfigurationError, match=r"configure\(table_prefix=...\): expected"):
        dexpy.configure(database="sqlite:///app.db", table_prefix=prefix)


def test_a_prefix_and_a_schema_are_settings_of_file_variable_and_flag(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "dexpy.toml").write_text('table_prefix = "file_"\n')
    invoke = CliRunner().invoke
    assert "created file_operation_schema" in invoke(main, ["db", "init"], catch_exceptions=False).output
    install(None)
    monkeypatch.setenv("DEXPY_TABLE_PREFIX", "variable_")
    assert "created variable_operation_schema" in invoke(main, ["db", "init"], catch_exceptions=False).output
    install(None)
    flags = ["--table-prefix", "flag_"]
    assert "created flag_operation_schema" in invoke(main, ["db", "init", *flags], catch_exceptions=False).output
    install(None)

    sql = invoke(main, ["db", "sql", "--from", "0", "--dialect", "postgresql", *flags, "--schema", "jobs"]).output

    assert "CREATE SCHEMA IF NOT EXISTS jobs;" in sql
    assert "CREATE TABLE jobs.flag_operation_records (" in sql
    assert "CREATE INDEX flag_ix_operation_due ON jobs.flag_operation_records" in sql
    assert "INSERT INTO jobs.flag_operation_schema (version" in sql
    assert (
        "no schemas; got 'jobs'" in invoke(main, ["db", "sql", "--from=0", "--dialect=sqlite", "--schema=jobs"]).output
    )


@pytest.mark.parametrize("dialect", DIALECTS)
def test_all_names_in_migrations_have_the_prefix(dialect: str) -> None:
    set_layout("p_")
    try:
        text = "".join(schema_sql(dialect, migration.version - 1, migration.version) for migration in MIGRATIONS)
        text += schema_sql(dialect, 0)
    finally:
        set_layout("")
    unprefixed = text
    for table in schema.TABLES:
        names = [table.name, *(index.name for index in table.indexes), *(item.name for item in table.constraints)]
        for name in filter(None, names):
            unprefixed = unprefixed.replace(f"p_{name}", "")
    assert "p_operation_records" in text
    assert [name for name in STANDARD if name in unprefixed.replace("p_operation_records_2", "")] == []
    assert "ix_operation" not in unprefixed
    assert "ck_operation" not in unprefixed


@pytest.mark.parametrize("dialect", [*DIALECTS, "mysql"])
def test_sql_is_printed_without_a_database_and_is_always_the_same(dialect: str) -> None:
    arguments = ["db", "sql", "--dialect", dialect, "--from", "0"]

    first, second = (CliRunner().invoke(main, arguments, catch_exceptions=False) for _ in range(2))

    assert first.stdout == second.stdout
    assert first.stderr == ""
    assert not Path("dexpy.db").exists()
    assert all(part.rstrip().endswith(";") for part in first.stdout.strip().split("\n\n"))


@pytest.mark.parametrize("version", range(UNNUMBERED, NEWEST))
def test_the_renamed_tables_of_an_earlier_version_are_upgraded(tmp_path: Path, version: int) -> None:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    dump = (Path(__file__).parent / f"schema_{version}" / "sqlite.sql").read_text("utf-8")
    with sqlite3.connect(tmp_path / "old.db") as connection:
        connection.executescript(re.sub(r"\b(?:operation_|dexpy_messages|(?:ix|uq|ck)_)", r"old_\g<0>", dump))
    connection.close()
    flags = ["--database", url, "--table-prefix", "old_"]

    result = CliRunner().invoke(main, ["db", "upgrade", *flags], catch_exceptions=False)

    assert f"upgraded from schema version {version} to {NEWEST}" in result.output
    assert [name for name in names_in(url) if not name.startswith("old_")] == []
    close()
    configure(url, "old_")
    assert current_runtime().store.rows(sa.select(schema.records))
