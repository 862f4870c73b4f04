"""The schema of dexpy's tables: its version, its creation and its upgrade."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateSchema

from dexpy.database.column_types import after, metadata
from dexpy.database.dialects import dialect_of
from dexpy.database.error_codes import is_locked
from dexpy.database.migrations import sqlite_rebuilds
from dexpy.database.migrations.history import NEWEST, UNNUMBERED, migrations_between
from dexpy.database.migrations.migration import Migration
from dexpy.database.own_columns import column_statements, index_statements, missing_own_columns, unindexed_columns
from dexpy.database.schema_names import inspector as inspector_of
from dexpy.database.table_layout import own_columns, table_prefix
from dexpy.database.tables import (
    attempts,
    batch_callbacks,
    batches,
    gates,
    hook_calls,
    messages,
    pauses,
    queues,
    rate_starts,
    rates,
    records,
    recurring,
    retention,
    signals,
    steps,
    versions,
    worker_names,
    worker_sessions,
    workers,
)
from dexpy.foundation.errors import DatabaseUnavailable, SchemaMissing
from dexpy.foundation.failpoints import failpoint

if TYPE_CHECKING:
    from dexpy.database.engine import Database

DATA_TABLES = (
    records,
    gates,
    rates,
    rate_starts,
    attempts,
    signals,
    steps,
    workers,
    worker_names,
    worker_sessions,
    recurring,
    retention,
    hook_calls,
    batches,
    batch_callbacks,
    queues,
    pauses,
    messages,
)
"""The tables with the application's runs and messages."""

TABLES = (versions, *DATA_TABLES)
"""All tables, in the order of their creation."""

LOCK_WAIT_S = 60
LOCK = 0x64657870
"""The advisory lock for the creation and upgrade of the tables on a server: "dexp"."""

FIRST_COLUMNS = ((UNNUMBERED + 1, "operation"), (UNNUMBERED + 2, "run_zone"), (UNNUMBERED + 3, "batch_id"))
"""Versions with a column of `operation_records` that earlier ones lack, ascending."""
_STORED_VERSION = sa.select(sa.func.max(versions.c.version))


@attrs.frozen
class SchemaState:
    """The state of dexpy's tables in a database.

    Attributes:
        version: The version of the schema; 0 without tables.
        is_stamped: Whether the version is stored in its table.
        missing_tables: The tables that the database lacks for the newest version.
        missing_columns: The columns that it lacks, by table.
        own_columns: Those of them that the application declares.
        unindexed_columns: The application's columns that lack only their index; processes run without it.
        own_column_statements: The SQL that adds these columns and indexes.
    """

    version: int
    is_stamped: bool
    missing_tables: tuple[str, ...]
    missing_columns: Mapping[str, tuple[str, ...]]
    own_columns: tuple[str, ...] = ()
    unindexed_columns: tuple[str, ...] = ()
    own_column_statements: tuple[str, ...] = ()

    @property
    def is_complete(self) -> bool:
        """Whether this release of dexpy can use the tables."""
        return self.version == NEWEST and not self.missing_tables and not self.missing_columns

    @property
    def lacks_only_tables(self) -> bool:
        """Whether `create` would make the schema complete."""
        return self.version in (0, NEWEST) and bool(self.missing_tables) and not self.missing_columns

    def problems(self) -> list[str]:
        """Describe what is missing; an empty list if the schema is complete."""
        if self.version > NEWEST:
            return [f"its schema has version {self.version}; this release of dexpy supports versions up to {NEWEST}"]
        if 0 < self.version < NEWEST:
            return [f"its schema has version {self.version}; this release of dexpy requires version {NEWEST}"]
        lacking = [f"table {table} lacks {', '.join(columns)}" for table, columns in self.missing_columns.items()]
        return [f"no table {name}" for name in self.missing_tables] + lacking

    def advice(self, command: Callable[[str], str]) -> str:
        """Return how to make the schema complete.

        Args:
            command: Returns the command of ``dexpy db`` for an action: init or upgrade.
        """
        if self.version > NEWEST:
            return "Install the release of dexpy that upgraded it in this environment too, and restart."
        if 0 < self.version < NEWEST:
            return f"Stop the processes that run an earlier release. Run: {command('upgrade')}"
        if not self.missing_columns:
            return f"Run: {command('init')}"
        if self.own_columns and self.missing_columns == {records.name: self.own_columns}:
            sql = " ".join(f"{statement};" for statement in self.own_column_statements)
            return f"Run: {command('upgrade')}. Or add it with: {sql}"
        advice = "Another program has dropped it; add it again with the SQL of `dexpy db sql --from 0`."
        return f"{advice} Then run: {command('init')}" if self.missing_tables else advice

    def error(self, display_url: str, command: Callable[[str], str]) -> SchemaMissing:
        """Return the error for a process that needs the tables.

        Args:
            display_url: The URL of the database, without secrets.
            command: See `advice`.
        """
        return SchemaMissing(display_url, self.problems(), self.advice(command))


def read_state(connection: Connection) -> SchemaState:
    """Read the state of dexpy's tables in a database."""
    inspector, table_schema = inspector_of(connection)
    is_found = _has_schema(connection, inspector, table_schema)
    present = set(inspector.get_table_names(schema=table_schema)) if is_found else set[str]()
    missing_columns: dict[str, tuple[str, ...]] = {}
    for table in TABLES:
        if table.name in present:
            columns = {column["name"] for column in inspector.get_columns(table.name, schema=table_schema)}
            if missing := tuple(column.name for column in table.columns if column.name not in columns):
                missing_columns[table.name] = missing
    stored = connection.execute(_STORED_VERSION).scalar() if versions.name in present else None
    if stored is not None:
        version = int(stored)
    elif records.name not in present:
        version = 0
    else:
        # A test suite may have emptied all tables: columns distinguish the versions.
        missing = missing_columns.get(records.name, ())
        version = max(number for number, column in ((UNNUMBERED, ""), *FIRST_COLUMNS) if column not in missing)
    missing_tables = tuple(table.name for table in TABLES if table.name not in present)
    own = missing_own_columns(missing_columns.get(records.name, ()))
    unindexed: tuple[sa.Column[Any], ...] = ()
    if records.name in present and any(column.info.get("has_index") for column in own_columns()):
        found: Any = inspector.get_indexes(records.name, schema=table_schema)
        unindexed = unindexed_columns(own, found)
    prefix = schema_prefix(connection, table_schema) if own or unindexed else ""
    return SchemaState(
        version,
        stored is not None,
        missing_tables,
        missing_columns,
        tuple(column.name for column in own),
        tuple(column.name for column in unindexed),
        (
            *column_statements(own, connection.dialect, prefix),
            *index_statements(unindexed, connection.dialect, prefix),
        ),
    )


def _has_schema(connection: Connection, inspector: sa.Inspector, table_schema: str | None) -> bool:
    return not table_schema or not dialect_of(connection).has_server or inspector.has_schema(table_schema)


def problems(connection: Connection) -> list[str]:
    """Describe what is missing; an empty list if the schema is complete."""
    return read_state(connection).problems()


def create(connection: Connection) -> list[str]:
    """Create the missing tables at the newest version, in the caller's transaction, one process at a time.

    A schema of another version is not changed.

    Returns:
        The names of the created tables.

    Raises:
        DatabaseUnavailable: Another process has held a lock for a minute.
    """
    with _lock(connection):
        return _create_missing(connection)


def _create_missing(connection: Connection) -> list[str]:
    state = read_state(connection)
    if state.version not in (0, NEWEST):
        return []
    missing = [table for table in TABLES if table.name in state.missing_tables]
    inspector, table_schema = inspector_of(connection)
    if not _has_schema(connection, inspector, table_schema):
        connection.execute(CreateSchema(str(table_schema), if_not_exists=True))
    if versions in missing:
        # Create this table with its row before the others: on MariaDB a creation may be interrupted.
        versions.create(connection, checkfirst=False)
    if not state.is_stamped:
        _stamp(connection, NEWEST)
    # Without `checkfirst`: SQLAlchemy would check the connection's own schema.
    metadata.create_all(connection, tables=[table for table in missing if table is not versions], checkfirst=False)
    return [table.name for table in missing]


def _complete_stamp(connection: Connection, state: SchemaState) -> None:
    """Store the version of a schema whose last migration was interrupted before it did, as is possible on MariaDB."""
    if state.version > UNNUMBERED and not state.is_stamped:
        _stamp(connection, state.version)


def _stamp(connection: Connection, version: int) -> None:
    dialect = dialect_of(connection)
    connection.execute(dialect.insert_or_ignore(versions).values(version=version, applied_at=after(0)))
    if dialect.commits_ddl:
        # Commit like the statements before: the lock may be released before the transaction ends.
        connection.exec_driver_sql("COMMIT")


def upgrade(database: Database) -> tuple[SchemaState, SchemaState]:
    """Apply the missing migrations, each in its own transaction if the database has transactional DDL.

    Idempotent, and safe with concurrent processes and after an interruption. Missing tables are created.

    Args:
        database: The database of the tables.

    Returns:
        The state before and after.

    Raises:
        DatabaseUnavailable: Another process or an open transaction has held a lock for a minute.
        ConfigurationError: A table has columns of the application that the migration would lose.
    """
    with database.connect() as connection:
        before = state = read_state(connection)
    while migrations_between(state.version or NEWEST, NEWEST):
        with database.begin() as connection:
            if state.version and migrations_between(state.version, NEWEST)[0].rebuilds:
                sqlite_rebuilds.stop_enforcing_references(connection)
            with _lock(connection):
                # Another process may have applied it.
                state = read_state(connection)
                if pending := migrations_between(state.version or NEWEST, NEWEST):
                    _complete_stamp(connection, state)
                    _apply(connection, pending[0])
                    state = read_state(connection)
    with database.begin() as connection, _lock(connection):
        _create_missing(connection)
        _add_own_columns(connection)
    with database.connect() as connection:
        return before, read_state(connection)


def upgrade_in(connection: Connection, end: int = NEWEST) -> list[int]:
    """Apply the missing migrations and create missing tables in the caller's transaction.

    Args:
        connection: A connection in a transaction.
        end: The last version to apply; an empty database gets the newest one.

    Returns:
        The versions that were applied.

    Raises:
        DatabaseUnavailable: Another process or an open transaction has held a lock for a minute.
        ConfigurationError: A table has columns of the application that the migration would lose, or SQLite would
            follow references to a table that it replaces.
    """
    with _lock(connection):
        state = read_state(connection)
        pending = migrations_between(state.version or NEWEST, end)
        if pending:
            _complete_stamp(connection, state)
        for migration in pending:
            sqlite_rebuilds.require_no_enforced_references(connection, migration)
            _apply(connection, migration)
        _create_missing(connection)
        if state.version == 0 or end == NEWEST:
            _add_own_columns(connection)
        return [migration.version for migration in pending]


def _add_own_columns(connection: Connection) -> None:
    """Add the columns of the application that the table of records lacks."""
    for statement in read_state(connection).own_column_statements:
        connection.exec_driver_sql(statement)


def _apply(connection: Connection, migration: Migration) -> None:
    inspector, table_schema = inspector_of(connection)
    prefix = schema_prefix(connection, table_schema)
    kept_objects: list[str] = []
    for statement in migration.statements[dialect_of(connection).name]:
        failpoint("before_migration_statement")
        inspector.clear_cache()
        if not statement.is_needed(inspector, table_schema):
            continue
        kept_objects += sqlite_rebuilds.objects_to_keep(connection, migration, statement)
        connection.exec_driver_sql(statement.text(prefix))
    for sql in kept_objects:
        connection.exec_driver_sql(sql)
    failpoint("before_migration_stamp")
    _stamp(connection, migration.version)


def schema_prefix(connection: Connection, table_schema: str | None) -> str:
    """Return the quoted schema of dexpy's tables with a dot, for the text of a statement."""
    if not dialect_of(connection).has_server or not table_schema:
        return ""
    return f"{connection.dialect.identifier_preparer.quote_identifier(table_schema)}."


@contextmanager
def _lock(connection: Connection) -> Generator[None, None, None]:
    dialect = dialect_of(connection)
    failpoint("before_migration_lock")
    dialect.acquire_write_lock(connection)
    try:
        with (
            dialect.limit_ddl_waits(connection, LOCK_WAIT_S),
            dialect.advisory_lock(connection, _lock_number(), LOCK_WAIT_S) as is_held,
        ):
            if not is_held:
                raise _blocked()
            yield
    except DBAPIError as error:
        if is_locked(error):
            raise _blocked() from error
        raise


def _lock_number() -> int:
    # Installations with other prefixes do not wait for each other.
    return LOCK + zlib.crc32(table_prefix().encode()) if table_prefix() else LOCK


def _blocked() -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"Cannot change dexpy's tables: another process or an open transaction has held a lock on them for "
        f"{LOCK_WAIT_S} s. Nothing was changed. Stop the workers, end long transactions and other dexpy db commands, "
        "and retry."
    )
