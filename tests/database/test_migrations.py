"""A database of an earlier release is upgraded by the real command, and its runs go on.

The dumps in `schema_1`, of the release without schema versions, and of later versions in the other folders were written
by those releases: runs that are done, failed, refused, cancelled before and while they ran, expired, waiting, due
later, and one of a worker that was killed after its first durable step.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
import servers
import sqlalchemy as sa
from apps import invoices
from harness.pairs import Pair
from harness.reused_databases import create_tables
from harness.workers import HARNESS, eventually

import dexpy
from dexpy import Ticket, records
from dexpy.database import schema
from dexpy.database.engine import Database
from dexpy.database.migrations.history import MIGRATIONS, NEWEST, UNNUMBERED
from dexpy.database.schema_sql import schema_sql
from dexpy.foundation.errors import ConfigurationError, SchemaMissing

DUMPS = Path(__file__).parent
DATABASES = [
    pytest.param("sqlite"),
    pytest.param("postgresql", marks=pytest.mark.servers),
    pytest.param("mariadb", marks=pytest.mark.servers),
]
NUM_STATEMENTS = {
    kind: sum(len(migration.statements[kind]) + 1 for migration in MIGRATIONS) for kind in servers.DATABASES
}
"""The number of statements from version 1 to the newest, with those that store a version."""
STATEMENTS = [
    pytest.param(kind, number, marks=[] if kind == "sqlite" else pytest.mark.servers, id=f"{kind}-{number}")
    for kind in servers.DATABASES
    for number in range(NUM_STATEMENTS[kind])
    # SQLite rolls a whole migration back: a few statements stand for the others.
    if kind != "sqlite" or number in (0, 4, len(MIGRATIONS[0].statements[kind]), NUM_STATEMENTS[kind] - 1)
]
NUM_WAITING = {
    "postgresql": "SELECT count(*) FROM pg_locks JOIN pg_database ON pg_database.oid = pg_locks.database"
    " WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted",
    "mariadb": "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE() AND state = 'User lock'",
}
"""The number of connections to the database that wait for an advisory lock."""
OUTDATED = f"its schema has version 1; this release of dexpy requires version {NEWEST}"
ALL_VERSIONS = list(range(UNNUMBERED + 1, NEWEST + 1))
"""The versions that an upgrade from version 1 stores."""


def execute_script(url: str, text: str) -> None:
    """Execute SQL as a client of the database does."""
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="AUTOCOMMIT")
    connection = engine.raw_connection()
    try:
        driver: Any = connection.driver_connection
        if engine.dialect.name == "sqlite":
            driver.executescript(text)
        elif engine.dialect.name == "postgresql":
            driver.autocommit = True
            driver.execute(text)
        else:
            driver.autocommit(True)
            with driver.cursor() as cursor:
                for statement in text.split(";\n"):
                    if statement.strip():
                        cursor.execute(statement)
    finally:
        connection.close()
        engine.dispose()


def old_database(url: str, kind: str, version: int = UNNUMBERED) -> None:
    """Fill an empty database with the dump of an earlier release."""
    execute_script(url, (DUMPS / f"schema_{version}" / f"{kind}.sql").read_text())


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def pair(kind: str, tmp_path: Path) -> Generator[Pair]:
    """An empty database of a kind, which carries its queue."""
    with servers.database(kind, tmp_path) as url:
        empty_pair = Pair(tmp_path, url, None, invoices)
        try:
            yield empty_pair
        finally:
            empty_pair.close()


@pytest.fixture
def version(request: pytest.FixtureRequest) -> int:
    return int(getattr(request, "param", UNNUMBERED))


@pytest.fixture
def old_pair(pair: Pair, kind: str, version: int) -> Pair:
    """The database of an earlier release, by default of the one without versions."""
    old_database(pair.url, kind, version)
    return pair


on_each_database = pytest.mark.parametrize("kind", DATABASES, indirect=True)
from_each_version = pytest.mark.parametrize("version", range(UNNUMBERED, NEWEST), indirect=True)


CASTS = re.compile(r"::(?:character varying|text)(?:\[\])?|[()\s]")
"""Casts, parentheses and spaces in a condition: PostgreSQL rewrites those of a condition that it has printed itself."""


def structure(url: str) -> dict[str, Any]:
    """What SQLAlchemy finds of dexpy's tables, in a form that can be compared."""
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    inspector = sa.inspect(engine)
    structures: dict[str, Any] = {}
    for table in sorted(name for name in inspector.get_table_names() if name.startswith(("operation_", "dexpy_"))):
        structures[table] = {
            "columns": [
                (column["name"], str(column["type"]), column["nullable"], column["default"])
                for column in inspector.get_columns(table)
            ],
            "key": inspector.get_pk_constraint(table)["constrained_columns"],
            "unique": sorted(str(unique["column_names"]) for unique in inspector.get_unique_constraints(table)),
            "indexes": sorted(
                (str(index["name"]), str(index["column_names"]), options_of(index))
                for index in inspector.get_indexes(table)
            ),
            "checks": sorted(
                (str(check["name"]), CASTS.sub("", str(check["sqltext"])))
                for check in inspector.get_check_constraints(table)
            ),
        }
    engine.dispose()
    return structures


def options_of(index: Any) -> str:
    return str({name: str(value) for name, value in index.get("dialect_options", {}).items()})


def stored_versions(pair: Pair) -> list[int]:
    return [row[0] for row in pair.sql("SELECT version FROM operation_schema ORDER BY version")]


def by_number(pair: Pair) -> dict[tuple[str, int | None], str]:
    """Operation and number of each run to its id."""
    rows = pair.sql(sa.select(records.table.c.id, records.table.c.operation, records.table.c.params))
    return {(row.operation, row.params.get("number")): row.id for row in rows}


def invoices_sent(pair: Pair) -> list[int]:
    return [row[0] for row in pair.sql("SELECT number FROM sent_invoices ORDER BY number")]


# -------------------------------------------------------------------------------------------------------- the upgrade


@on_each_database
@from_each_version
def test_runs_of_an_earlier_release_go_on_after_the_upgrade(old_pair: Pair, version: int) -> None:
    upgraded = old_pair.dexpy("db", "upgrade")
    assert (upgraded.returncode, upgraded.stderr.count("Error")) == (0, 0), upgraded
    assert f"upgraded from schema version {version} to {NEWEST}" in upgraded.stdout
    runs = by_number(old_pair)
    old_pair.configure()
    cancelled = [runs["invoices.send", 4], runs["invoices.cancel_itself", None]]
    assert sorted(record.id for record in records.cancelled()) == sorted(cancelled)
    assert {Ticket.get(id).status for id in cancelled} == {"cancelled"}
    assert [record.id for record in records.expired()] == [runs["invoices.send", 5]]
    assert Ticket.get(runs["invoices.send", 1]).result(1) == 1

    old_pair.start()

    waiting, lost = Ticket.get(runs["invoices.send", 7]), Ticket.get(runs["invoices.collect", 6])
    assert waiting.result(30) == 7
    assert lost.result(60) == 106, "it continued after its stored step"
    assert lost.reload().num_attempts >= 2
    for id in (runs["invoices.send", 13], *cancelled[:1]):
        assert Ticket.get(id).retry().result(30)
    duplicate = invoices.SendOnce(number=2).async_().call()
    assert (duplicate.duplicate, duplicate.result(1)) == (True, 2)
    assert invoices.Send(number=99).async_().call().result(30) == 99
    assert Ticket.get(runs["invoices.send", 8]).pending
    assert invoices_sent(old_pair) == [1, 2, 4, 7, 13, 99, 106], "each once"


@on_each_database
def test_an_upgrade_may_run_twice(old_pair: Pair) -> None:
    assert old_pair.dexpy("db", "upgrade").returncode == 0
    before = structure(old_pair.url)

    again = old_pair.dexpy("db", "upgrade")

    assert (again.returncode, f"already at schema version {NEWEST}" in again.stdout) == (0, True)
    assert structure(old_pair.url) == before
    assert stored_versions(old_pair) == ALL_VERSIONS


def begin_upgrade(pair: Pair, action: str, number: int) -> subprocess.Popen[str]:
    script = str(HARNESS / "stop_in_migration.py")
    return subprocess.Popen(
        [sys.executable, script, str(pair.folder), action, str(number), "db", "upgrade"],
        cwd=pair.folder, env=pair.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip


def waits_for_lock(pair: Pair, kind: str) -> bool:
    """Return whether the second upgrade waits for the lock of the first one.

    SQLite has no list of waiting connections; there the request is enough, because the first one holds the lock.
    """
    is_requested = (pair.folder / "lock_requested").exists()
    return is_requested and (kind == "sqlite" or pair.sql(NUM_WAITING[kind])[0][0] == 1)


@on_each_database
def test_two_upgrades_at_once_apply_each_migration_once(old_pair: Pair, kind: str) -> None:
    first = begin_upgrade(old_pair, "wait", 1)
    eventually((old_pair.folder / "reached").exists, "the first one is in the migration", 30)
    second = begin_upgrade(old_pair, "report", 0)
    eventually(lambda: waits_for_lock(old_pair, kind), "the second one waits for the lock", 30)
    assert second.poll() is None

    (old_pair.folder / "go").touch()

    outputs = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert [process.returncode for process in (first, second)] == [0, 0], outputs
    assert stored_versions(old_pair) == ALL_VERSIONS
    assert old_pair.dexpy("db", "check").returncode == 0


@pytest.mark.parametrize(("kind", "number"), STATEMENTS, indirect=["kind"])
def test_an_upgrade_that_was_killed_is_finished_by_the_next_one(old_pair: Pair, number: int) -> None:
    killed = begin_upgrade(old_pair, "kill", number)
    output = killed.communicate(timeout=60)[0]
    assert (killed.returncode, (old_pair.folder / "reached").exists()) == (-9, True), output

    finished = old_pair.dexpy("db", "upgrade")

    assert finished.returncode == 0, finished
    assert stored_versions(old_pair) == ALL_VERSIONS
    statuses = old_pair.sql("SELECT DISTINCT status FROM operation_records WHERE failure = 'cancelled'")
    assert [row[0] for row in statuses] == ["cancelled"]
    assert len(by_number(old_pair)) == 10
    assert old_pair.dexpy("db", "check").returncode == 0


# -------------------------------------------------------------------------------------------------------- three ways


@on_each_database
def test_an_upgrade_a_creation_and_their_printed_sql_give_the_same_schema(
    old_pair: Pair, kind: str, tmp_path: Path
) -> None:
    printed_upgrade = old_pair.dexpy("db", "sql")
    assert printed_upgrade.stdout == old_pair.dexpy("db", "sql", "--from", "1", "--dialect", kind).stdout
    assert stored_tables(old_pair) >= {"operation_records"}, "it has run nothing"
    assert "operation_schema" not in stored_tables(old_pair)
    assert old_pair.dexpy("db", "upgrade").returncode == 0
    upgraded = structure(old_pair.url)
    assert old_pair.dexpy("db", "sql").stdout == ""
    printed_creation = old_pair.dexpy("db", "sql", "--from", "0").stdout
    schemas = {}
    for name in ("init", "sql of init", "sql of upgrade"):
        folder = tmp_path / name.replace(" ", "_")
        folder.mkdir()
        with servers.database(kind, folder) as url:
            other = Pair(folder, url, None, invoices)
            if name == "init":
                assert other.dexpy("db", "init").returncode == 0
            elif name == "sql of init":
                execute_script(url, printed_creation)
            else:
                old_database(url, kind)
                execute_script(url, printed_upgrade.stdout)
                assert len(other.sql("SELECT id FROM operation_records WHERE status = 'cancelled'")) == 2
            assert other.dexpy("db", "check").returncode == 0
            assert stored_versions(other) == (ALL_VERSIONS if name == "sql of upgrade" else [NEWEST])
            schemas[name] = structure(url)
            other.close()

    assert schemas["init"] == upgraded
    assert schemas["sql of init"] == upgraded
    assert schemas["sql of upgrade"] == upgraded


@on_each_database
@pytest.mark.parametrize("version", range(UNNUMBERED + 1, NEWEST), indirect=True)
def test_an_upgrade_of_a_later_version_gives_the_same_schema(
    old_pair: Pair, kind: str, version: int, tmp_path: Path
) -> None:
    for folder in ("created", "printed"):
        (tmp_path / folder).mkdir()
    with servers.database(kind, tmp_path / "created") as created, servers.database(kind, tmp_path / "printed") as url:
        create_tables(created)
        old_database(url, kind, version)
        execute_script(url, schema_sql(kind, version))
        upgrade(old_pair.engine)
        assert structure(url) == structure(created)
        assert structure(old_pair.url) == structure(created)


@on_each_database
@from_each_version
def test_a_database_of_each_version_is_recognised_after_a_test_suite_has_emptied_its_tables(
    old_pair: Pair, version: int
) -> None:
    if version > UNNUMBERED:
        old_pair.change("DELETE FROM operation_schema")
    database = Database(old_pair.url)
    before, after = schema.upgrade(database)
    database.dispose()
    assert (before.version, after.is_complete) == (version, True)
    assert stored_versions(old_pair) == list(range(max(version, UNNUMBERED + 1), NEWEST + 1))


def stored_tables(pair: Pair) -> set[str]:
    return set(sa.inspect(pair.engine).get_table_names())


@pytest.mark.parametrize("kind", servers.DATABASES)
def test_printed_sql_has_a_semicolon_after_each_statement_and_needs_no_database(kind: str) -> None:
    for start in range(NEWEST):
        text = schema_sql(kind, start)
        assert text == schema_sql(kind, start)
        assert all(part.rstrip().endswith(";") for part in text.split("\n\n"))
        assert "{schema}" not in text
    assert schema_sql(kind, NEWEST) == ""


def test_each_migration_is_one_version_and_has_statements_for_each_database() -> None:
    assert [migration.version for migration in MIGRATIONS] == list(range(UNNUMBERED + 1, NEWEST + 1))
    assert all(set(migration.statements) == set(servers.DATABASES) for migration in MIGRATIONS)


# ------------------------------------------------------------------------------------------- other versions, and advice


def advised(pair: Pair) -> str:
    """The command that `dexpy db check` advises."""
    checked = pair.dexpy("db", "check")
    assert checked.returncode == 1, checked
    return checked.stderr.rpartition("Run: ")[2].strip()


@on_each_database
def test_each_command_that_a_check_advises_helps(pair: Pair, kind: str) -> None:
    assert advised(pair) == "dexpy db init"
    assert pair.dexpy("db", "init").returncode == 0
    assert pair.dexpy("db", "check").returncode == 0

    pair.change("DROP TABLE operation_signals")
    assert advised(pair) == "dexpy db init"
    assert pair.dexpy("db", "init").returncode == 0
    assert pair.dexpy("db", "check").returncode == 0

    pair.change("ALTER TABLE operation_queues DROP COLUMN created_at")
    checked = pair.dexpy("db", "check")
    assert "add it again with the SQL of `dexpy db sql --from 0`" in checked.stderr
    created = pair.dexpy("db", "sql", "--from", "0").stdout.partition("CREATE TABLE operation_queues (")[2]
    (definition,) = [line.strip(" ,") for line in created.partition(";")[0].splitlines() if "created_at" in line]
    pair.change(f"ALTER TABLE operation_queues ADD COLUMN {definition}{' DEFAULT 0' if kind == 'sqlite' else ''}")
    assert pair.dexpy("db", "check").returncode == 0


@on_each_database
def test_an_earlier_schema_is_one_error_that_names_the_upgrade(old_pair: Pair) -> None:
    for command in (
        ["worker", "apps.invoices"],
        ["check"],
        ["db", "check"],
        ["db", "init"],
        ["prune", "--older-than", "1d"],
    ):
        ended = old_pair.dexpy(*command)
        assert ended.returncode == (2 if command[0] == "worker" else 1), ended
        assert OUTDATED in ended.stderr + ended.stdout
        assert "Run: dexpy db upgrade" in ended.stderr + ended.stdout
        assert "Traceback" not in ended.stderr
    old_pair.configure()
    for use in (invoices.Send(number=1).async_().call, records.all().count):
        with pytest.raises(SchemaMissing, match=OUTDATED):
            use()
    assert "operation_schema" not in stored_tables(old_pair), "nothing of it has changed the schema"

    assert advised(old_pair) == "dexpy db upgrade"
    assert old_pair.dexpy("db", "upgrade").returncode == 0
    assert invoices.Send(number=1).async_().call().pending


@on_each_database
def test_a_later_schema_is_one_error_that_names_the_release(pair: Pair) -> None:
    assert pair.dexpy("db", "init").returncode == 0
    pair.change("UPDATE operation_schema SET version = 99")

    for command in (["worker", "apps.invoices"], ["db", "check"], ["db", "init"], ["db", "upgrade"]):
        ended = pair.dexpy(*command)
        assert ended.returncode == (2 if command[0] == "worker" else 1), ended
        assert f"its schema has version 99; this release of dexpy supports versions up to {NEWEST}" in ended.stderr
        assert "Install the release of dexpy that upgraded it" in ended.stderr
        assert "Run: " not in ended.stderr


@on_each_database
def test_an_upgrade_creates_the_tables_of_an_empty_database(pair: Pair) -> None:
    upgraded = pair.dexpy("db", "upgrade")

    assert (upgraded.returncode, f"created the tables at schema version {NEWEST}" in upgraded.stdout) == (0, True)
    assert pair.dexpy("db", "check").returncode == 0


@on_each_database
def test_a_database_whose_tables_were_all_emptied_is_used_and_stamped_again(pair: Pair) -> None:
    assert pair.dexpy("db", "init").returncode == 0
    pair.change("DELETE FROM operation_schema")

    assert pair.dexpy("db", "check").returncode == 0
    assert pair.dexpy("db", "upgrade").returncode == 0
    assert stored_versions(pair) == [NEWEST]


# --------------------------------------------------------------------------------------------------- within a migration


@on_each_database
def test_a_migration_of_the_application_upgrades_the_tables(old_pair: Pair) -> None:
    with old_pair.engine.begin() as connection:
        assert records.create_tables(connection) == [], "another version stays as it is"
        assert records.upgrade_tables(connection) == ALL_VERSIONS
        assert records.upgrade_tables(connection) == []

    assert stored_versions(old_pair) == ALL_VERSIONS
    assert old_pair.dexpy("db", "check").returncode == 0


@on_each_database
def test_an_open_transaction_on_the_tables_ends_the_upgrade_with_an_error(
    old_pair: Pair, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "LOCK_WAIT_S", 1)
    monkeypatch.setattr("dexpy.database.sqlite.BUSY_TIMEOUT_S", 1)
    database = Database(old_pair.url)
    with old_pair.engine.begin() as other:
        other.exec_driver_sql("UPDATE operation_records SET queue = 'x'")
        with pytest.raises(dexpy.DexpyError, match="Cannot change dexpy's tables|SQLite's only write lock"):
            schema.upgrade(database)
    with database.connect() as connection:
        assert schema.read_state(connection).version == 1
    assert schema.upgrade(database)[1].is_complete
    database.dispose()


# ------------------------------------------------------------------------------------------------- a table of SQLite's


@pytest.fixture
def old_file(tmp_path: Path) -> Generator[sa.Engine]:
    url = f"sqlite:///{tmp_path / 'old.db'}"
    old_database(url, "sqlite")
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    yield engine
    engine.dispose()


def upgrade(engine: sa.Engine) -> None:
    database = Database(engine.url)
    assert schema.upgrade(database)[1].is_complete
    database.dispose()


def test_indexes_triggers_views_and_references_of_the_application_outlive_a_copied_table(old_file: sa.Engine) -> None:
    with old_file.begin() as connection:
        for statement in (
            "CREATE INDEX mine ON operation_records (name, queue)",
            "CREATE TABLE log (what TEXT)",
            "CREATE TRIGGER seen AFTER INSERT ON operation_records BEGIN INSERT INTO log VALUES (new.name); END",
            "CREATE VIEW waiting AS SELECT name FROM operation_records WHERE status = 'pending'",
            "CREATE TABLE orders (run VARCHAR(40) REFERENCES operation_records (id) ON DELETE CASCADE)",
            "INSERT INTO orders SELECT id FROM operation_records",
        ):
            connection.exec_driver_sql(statement)

    upgrade(old_file)

    with old_file.begin() as connection:
        indexes = {
            index["name"]: index["column_names"] for index in sa.inspect(connection).get_indexes("operation_records")
        }
        assert indexes["mine"] == ["operation", "queue"]
        assert connection.exec_driver_sql("SELECT count(*) FROM orders").scalar() == 10
        assert connection.exec_driver_sql("SELECT * FROM waiting").scalars().all() == ["invoices.send"] * 2
        connection.exec_driver_sql(
            "INSERT INTO operation_records (id, operation, status, created_at, updated_at)"
            " VALUES ('x', 'o', 'done', 0, 0)"
        )
        assert connection.exec_driver_sql("SELECT what FROM log").scalars().all() == ["o"]
        assert connection.exec_driver_sql("PRAGMA foreign_key_check").all() == []
        (reference,) = sa.inspect(connection).get_foreign_keys("orders")
        assert reference["referred_table"] == "operation_records"


def test_a_column_of_the_application_is_not_lost_with_a_copied_table(old_file: sa.Engine) -> None:
    with old_file.begin() as connection:
        connection.exec_driver_sql("ALTER TABLE operation_records ADD COLUMN mine TEXT")

    with pytest.raises(ConfigurationError, match="columns 'mine' do not belong to dexpy"):
        upgrade(old_file)

    with old_file.begin() as connection:
        assert "name" in {column["name"] for column in sa.inspect(connection).get_columns("operation_records")}
        connection.exec_driver_sql("ALTER TABLE operation_records DROP COLUMN mine")
    upgrade(old_file)


def test_references_are_enforced_again_after_the_upgrade(old_file: sa.Engine) -> None:
    database = Database(old_file.url)
    assert schema.upgrade(database)[1].is_complete

    with database.connect() as connection:
        assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
    database.dispose()


def test_a_migration_of_the_application_does_not_follow_references(old_file: sa.Engine) -> None:
    with old_file.begin() as connection:
        connection.exec_driver_sql("CREATE TABLE orders (run REFERENCES operation_records (id) ON DELETE CASCADE)")
        connection.exec_driver_sql("INSERT INTO orders SELECT id FROM operation_records")
    with old_file.connect() as connection:
        connection.exec_driver_sql("PRAGMA foreign_keys = ON")
        with pytest.raises(ConfigurationError, match="the references of 'orders'"):
            records.upgrade_tables(connection)
        connection.rollback()
        connection.exec_driver_sql("PRAGMA foreign_keys = OFF")
        assert records.upgrade_tables(connection) == ALL_VERSIONS
        connection.commit()
        assert connection.exec_driver_sql("SELECT count(*) FROM orders").scalar() == 10
