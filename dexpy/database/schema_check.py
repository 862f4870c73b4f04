"""Check the tables of a database once, and create them where dexpy may."""

from __future__ import annotations

import threading
from collections.abc import Callable

from sqlalchemy.engine import Connection, RootTransaction
from sqlalchemy.exc import DBAPIError

from dexpy.database import schema
from dexpy.database.engine import Database
from dexpy.database.server_info import NOT_PREPARED
from dexpy.database.sqlite import is_busy
from dexpy.database.tables import records
from dexpy.foundation.errors import DatabaseUnavailable, SchemaMissing


class SchemaCheck:
    """Knows whether the tables of a database exist.

    Args:
        database: The database of the tables.
        create_tables: Whether missing tables are created on a server too.
        init_command: Returns the command that creates them, for messages.
    """

    def __init__(self, database: Database, *, create_tables: bool, init_command: Callable[[], str]) -> None:
        self._init_command = init_command
        self._database = database
        self._create_tables = create_tables
        self.is_prepared = False
        """Whether the tables are known to exist."""
        self._created_in: RootTransaction | None = None
        self._lock = threading.Lock()

    def require(self, connection: Connection | None = None) -> None:
        """Require that the tables exist; missing ones are created on SQLite, and by ``dexpy db init`` on a server.

        Args:
            connection: In a transaction that may hold SQLite's write lock already, and so must create them itself.

        Raises:
            DatabaseUnavailable: The database cannot be opened.
            SchemaMissing: Tables are missing on a server, or outdated.
        """
        if self.is_prepared:
            return
        with self._lock:
            if connection is not None and self._database.dialect.creates_tables:
                with self._database.with_own_schema(connection):
                    self._require_in(connection)
                return
            if problems := self._problems():
                if not (self._database.dialect.creates_tables or self._create_tables):
                    raise SchemaMissing(self._database.display_url, problems, self._init_command())
                with self._database.begin() as own:
                    schema.create(own)
                if problems := self._problems():
                    raise SchemaMissing(self._database.display_url, problems, self._init_command())
            self.is_prepared = True

    def _require_in(self, connection: Connection) -> None:
        """Check by the connection itself: another one might wait for its transaction, in this thread."""
        if not schema.problems(connection):
            # Tables created in this transaction may be rolled back: check again until it ends.
            self.is_prepared = self._created_in is None or not self._created_in.is_active
            return
        schema.create(connection)
        self._created_in = connection.get_transaction()
        if problems := schema.problems(connection):
            raise SchemaMissing(self._database.display_url, problems, self._init_command())

    def is_empty_file(self) -> bool:
        """Whether this SQLite file has no tables yet; a read does not create them, as its thread may hold the lock."""
        if self.is_prepared or not self._database.dialect.creates_tables:
            return False
        return f"no table {records.name}" in self._problems()

    def _problems(self) -> list[str]:
        connection = self._database.connect()
        try:
            return schema.problems(connection)
        except DBAPIError as error:
            if is_busy(error):
                raise self._database.busy("read") from error
            raise DatabaseUnavailable(
                f"The database {self._database.display_url} cannot be read: {self._database.describe_error(error)}. "
                f"{self._advice(error)}"
            ) from error
        finally:
            connection.close()

    def _advice(self, error: DBAPIError) -> str:
        if type(error.orig).__name__ in NOT_PREPARED:
            return (
                "Is a transaction pooler between, like PgBouncer, that does not know prepared statements? Then end the "
                "URL in ?prepare_threshold=none."
            )
        return "May this user read it?" if self._database.dialect.has_server else "Is it a SQLite file?"
