"""The preparation of a database: its tables are looked at once, and made where dexpy may make them."""

from __future__ import annotations

import threading

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from dexpy.foundation.errors import DatabaseUnavailable, SchemaMissing
from dexpy.recording import schema
from dexpy.recording.database import Database
from dexpy.recording.server import NOT_PREPARED
from dexpy.recording.tables import records


class Preparation:
    """Whether the tables of a database are there, as far as this process knows.

    Args:
        database: Where they are, or ought to be.
        create_tables: Whether missing tables are made on a server too.
    """

    def __init__(self, database: Database, *, create_tables: bool) -> None:
        self._database = database
        self._create_tables = create_tables
        self._prepared = False
        self._lock = threading.Lock()

    def insist(self, connection: Connection | None = None) -> None:
        """See to it that the tables are there: SQLite's make themselves, a server's are made by ``dexpy db init``.

        Args:
            connection: A transaction that may hold SQLite's write lock already, and so has to make them itself.

        Raises:
            DatabaseUnavailable: The database cannot be opened.
            SchemaMissing: A server has no tables of dexpy, or old ones.
        """
        if self._prepared:
            return
        with self._lock:
            if problems := self._problems():
                if not (self._database.is_sqlite or self._create_tables):
                    raise SchemaMissing(self._database.display, problems)
                if connection is not None and self._database.is_sqlite:
                    # Perhaps never committed: looked for again next time.
                    schema.create(connection)
                    return
                with self._database.begin() as own:
                    schema.create(own)
                if problems := self._problems():
                    raise SchemaMissing(self._database.display, problems)
            self._prepared = True

    def was_never_used(self) -> bool:
        """Whether this SQLite file has no record: a read makes no tables there, for its thread may hold the lock."""
        if self._prepared or not self._database.is_sqlite:
            return False
        return f"no table {records.name}" in self._problems()

    def _problems(self) -> list[str]:
        connection = self._database.connect()
        try:
            return schema.problems(connection)
        except DBAPIError as error:
            raise DatabaseUnavailable(
                f"The database {self._database.display} cannot be read: {error.orig}. {self._advice(error)}"
            ) from error
        finally:
            connection.close()

    def _advice(self, error: DBAPIError) -> str:
        if type(error.orig).__name__ in NOT_PREPARED:
            return (
                "Is a transaction pooler between, like PgBouncer, that does not know prepared statements? Then end the "
                "URL in ?prepare_threshold=none."
            )
        return "Is it a SQLite file?" if self._database.is_sqlite else "May this user read it?"
