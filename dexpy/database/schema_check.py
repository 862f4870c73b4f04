"""The check of a database's tables, once, with their creation where that is allowed."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sqlalchemy.engine import Connection, RootTransaction
from sqlalchemy.exc import DBAPIError

from dexpy.database import schema
from dexpy.database.engine import Database
from dexpy.database.schema import SchemaState
from dexpy.database.server_info import NOT_PREPARED
from dexpy.database.sqlite import is_busy
from dexpy.foundation.errors import DatabaseUnavailable


class SchemaCheck:
    """Checks once whether the tables of a database exist in the version that this release requires.

    Args:
        database: The database of the tables.
        create_tables: Whether to create missing tables on a server too.
        db_command: Returns the command of ``dexpy db`` for an action, for messages.
    """

    def __init__(self, database: Database, *, create_tables: bool, db_command: Callable[[str], str]) -> None:
        self._db_command = db_command
        self._database = database
        self._create_tables = create_tables
        self.is_prepared = False
        """Whether the tables are known to exist."""
        self._created_in: RootTransaction | None = None
        self._lock = threading.Lock()

    def require(self, connection: Connection | None = None) -> None:
        """Require the tables; missing ones are created here on SQLite, and by ``dexpy db init`` on a server.

        A schema of an earlier version is never upgraded here, because a process of that release may still use it.

        Args:
            connection: A connection whose transaction may hold SQLite's write lock, and so must create the tables.

        Raises:
            DatabaseUnavailable: The database does not open.
            SchemaMissing: Tables are missing on a server, or the schema has another version.
        """
        if self.is_prepared:
            return
        with self._lock:
            if connection is not None and self._database.dialect.creates_tables:
                with self._database.with_own_schema(connection):
                    self._require_in(connection)
                return
            state = self._read_state()
            may_create = self._database.dialect.creates_tables or self._create_tables
            if state.lacks_only_tables and may_create:
                with self._database.begin() as new_connection:
                    schema.create(new_connection)
                state = self._read_state()
            self._require_complete(state)
            self.is_prepared = True

    def _require_in(self, connection: Connection) -> None:
        """Check on this connection: another one could wait for its transaction, in the same thread."""
        state = schema.read_state(connection)
        if state.is_complete:
            # Tables created in this transaction may be rolled back: check again until it ends.
            self.is_prepared = self._created_in is None or not self._created_in.is_active
            return
        if state.lacks_only_tables:
            schema.create(connection)
            self._created_in = connection.get_transaction()
            state = schema.read_state(connection)
        self._require_complete(state)

    def _require_complete(self, state: SchemaState) -> None:
        if not state.is_complete:
            raise state.error(self._database.display_url, self._db_command)

    def is_empty_file(self) -> bool:
        """Return whether a SQLite file has no tables; a read creates none, because its thread may hold the lock."""
        if self.is_prepared or not self._database.dialect.creates_tables:
            return False
        return self._read_state().version == 0

    def _read_state(self) -> SchemaState:
        connection = self._database.connect()
        try:
            return schema.read_state(connection)
        except DBAPIError as error:
            if is_busy(error):
                raise self._database.busy("read") from error
            raise DatabaseUnavailable(
                f"Cannot read {self._database.display_url}: {self._database.describe_error(error)}. "
                f"{self._advice(error)}"
            ) from error
        finally:
            connection.close()

    def _advice(self, error: DBAPIError) -> str:
        if type(error.orig).__name__ in NOT_PREPARED:
            return (
                "If a transaction pooler such as PgBouncer does not support prepared statements, end the URL in "
                "?prepare_threshold=none."
            )
        if self._database.dialect.has_server:
            return "Check that this user may read the database."
        return "Check that it is a SQLite file."
