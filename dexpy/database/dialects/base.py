"""Dialects: the differences between databases; the base class has the defaults for an unknown kind.

A dialect has no state: there is one object for each kind of database, and its methods take connections.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, ClassVar

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.types import TypeEngine


@attrs.frozen
class ConnectionLimit:
    """The number of connections that a server accepts.

    Attributes:
        connections: The number for this user, over all processes.
        setting: The setting that defines it, with its value.
    """

    connections: int
    setting: str


class Dialect:
    """One kind of database.

    Attributes:
        name: The name of the kind.
        sync_driver: The synchronous driver that dexpy recommends; None for SQLAlchemy's default.
        has_server: Whether a server process stores the data and has a clock, sessions and limits.
        has_one_write_lock: Whether one lock covers all writes.
        creates_tables: Whether dexpy creates missing tables at the first use, without a command.
        fixed_schema: The schema of dexpy's tables on every connection; None where a connection can change it.
        schema_query: Selects the schema in which a connection finds dexpy's tables, or would create them; ``{table}``
            is the name of one of them.
        isolation_level: The isolation level of dexpy's own transactions; None for the default.
        has_strict_types: Whether a column accepts only values of its type.
        stores_time_zones: Whether the driver accepts and returns aware datetimes.
        stores_nul: Whether text may contain the character 0.
        json_levels: The deepest nesting that a JSON column accepts.
        closes_on_large_statement: Whether the server closes the connection after a statement that is too large; dexpy
            checks the size before.
        is_faster_with_autocommit: Whether a single statement in AUTOCOMMIT takes fewer round trips.
        ends_idle_transactions: Whether a statement can set when the server ends its idle transaction.
        multi_key_delete_locks_gaps: Whether a DELETE with a list of keys may wait for locks on rows with other keys.
        recursive_query_scans: Whether a step of a recursive query reads all rows up to the next one.
        failed_insert_locks_row: Whether an insert that fails locks the conflicting row.
        needs_order_for_index: Whether a query with a limit may miss its index unless it has an order.
        supports_notifications: Whether a commit can wake listeners.
        commits_ddl: Whether a statement that changes the schema commits the transaction.
    """

    __slots__ = ()

    name: ClassVar[str] = "unknown"
    sync_driver: ClassVar[str | None] = None
    has_server: ClassVar[bool] = True
    has_one_write_lock: ClassVar[bool] = False
    creates_tables: ClassVar[bool] = False
    fixed_schema: ClassVar[str | None] = None
    schema_query: ClassVar[str | None] = None
    isolation_level: ClassVar[str | None] = None
    has_strict_types: ClassVar[bool] = True
    stores_time_zones: ClassVar[bool] = False
    stores_nul: ClassVar[bool] = True
    json_levels: ClassVar[int] = 200
    closes_on_large_statement: ClassVar[bool] = False
    is_faster_with_autocommit: ClassVar[bool] = False
    ends_idle_transactions: ClassVar[bool] = False
    multi_key_delete_locks_gaps: ClassVar[bool] = False
    recursive_query_scans: ClassVar[bool] = False
    failed_insert_locks_row: ClassVar[bool] = False
    needs_order_for_index: ClassVar[bool] = False
    supports_notifications: ClassVar[bool] = False
    commits_ddl: ClassVar[bool] = False

    def __repr__(self) -> str:
        return f"<dialect {self.name}>"

    # Types.

    def datetime_type(self) -> TypeEngine[Any]:
        """Return the column type of datetimes with microseconds."""
        return sa.DateTime()

    def integer_bounds(self, kind: sa.Integer) -> tuple[int, int]:
        """Return the smallest and largest integer that can be compared with a column of a type without an error."""
        return -(2**63), 2**64 - 1

    def order_by_value(self, column: sa.ColumnElement[Any], kind: TypeEngine[Any]) -> Any:
        """Return an ORDER BY expression that sorts the values of a column as Python does, whatever the collation.

        Args:
            column: The column.
            kind: Its type on this database.
        """
        return column

    def max_parameters(self, connection: Connection) -> int:
        """Return the maximum number of bound parameters of a statement."""
        return 65_535

    # Transactions and locks.

    def is_autocommit(self, connection: Connection) -> bool:
        """Return whether a connection commits every statement, without sending a statement.

        True for SQLAlchemy's isolation level AUTOCOMMIT, and for a driver that was set to autocommit in another way.

        Args:
            connection: A connection with or without a transaction of SQLAlchemy.
        """
        if connection.in_transaction():
            return self._is_autocommit(connection)
        with connection.begin():
            return self._is_autocommit(connection)

    def _is_autocommit(self, connection: Connection) -> bool:
        return False

    def acquire_write_lock(self, connection: Connection) -> None:
        """Where one lock covers all writes: acquire it now, before the reads that the writes depend on."""

    def holds_write_lock(self, connection: Connection) -> bool:
        """Whether the transaction of a connection holds the only write lock."""
        return False

    @contextmanager
    def limit_lock_waits(self, connection: Connection, seconds: int) -> Generator[None]:
        """Limit how long the transaction waits for each lock in this block.

        Args:
            connection: A connection in a transaction.
            seconds: The limit, at least 1.
        """
        yield

    @contextmanager
    def limit_ddl_waits(self, connection: Connection, seconds: int) -> Generator[None]:
        """Limit how long a change of the schema waits for transactions that use a table, inside the block.

        Args:
            connection: A connection in a transaction.
            seconds: The limit, at least 1.
        """
        yield

    @contextmanager
    def advisory_lock(self, connection: Connection, number: int, wait_s: int) -> Generator[bool]:
        """Hold an advisory lock on the database inside the block; yield whether it was acquired.

        Args:
            connection: A connection in a transaction.
            number: The number of the lock.
            wait_s: How long to wait for it, in seconds, where the database supports a limit.
        """
        yield True

    # Inserts.

    def insert_new(
        self, connection: Connection, table: sa.Table, values: Mapping[str, Any], wait_s: float, *, alone: bool
    ) -> bool:
        """Insert a row unless another row has one of its unique keys; return whether it was inserted.

        Args:
            connection: A connection in a transaction, which stays usable after a conflict.
            table: The table of the row.
            values: The values of its columns.
            wait_s: How long to wait for an open transaction that holds a key, in seconds.
            alone: Whether the transaction contains only this insert.
        """
        connection.execute(sa.insert(table).values(values))
        return True

    def insert_or_ignore(self, table: sa.Table) -> Any:
        """Return an INSERT that does nothing if a row with one of the keys exists."""
        return sa.insert(table)

    # The database and its server.

    def is_same_database(self, records_connection: Connection, other: Connection, *, table: str | None = None) -> bool:
        """Whether a lock of one connection is visible through the other.

        Args:
            records_connection: A connection of dexpy, in a transaction.
            other: A connection to the same kind of server; its transaction continues.
            table: A table that the other connection must find in the same schema, or database of MariaDB; None to
                ignore its schema.
        """
        return False

    def connection_limit(self, connection: Connection) -> ConnectionLimit | None:
        """Return the lowest limit on the connections of this user, or None."""
        return min(self._connection_limits(connection), key=lambda limit: limit.connections, default=None)

    def _connection_limits(self, connection: Connection) -> Sequence[ConnectionLimit]:
        return ()

    def can_listen(self, engine: Engine) -> bool:
        """Whether the driver of an engine receives notifications."""
        return False

    # Sessions of the server.

    def is_pooled(self, one: Connection, other: Connection) -> bool:
        """Whether each transaction may get another session of the server, as behind a transaction pooler.

        Args:
            one: A connection without a transaction.
            other: Another one.
        """
        return False

    def session_name_query(self, connection: Connection) -> sa.Select[Any] | None:
        """Return the query for the name of a connection's session in the server's list; None if the server has no list.

        A server reuses session numbers, so the name includes the start time or the client address.
        """
        return None

    def session_numbers_query(self, names: sa.Select[Any]) -> sa.Select[Any] | None:
        """Return the query for the numbers of the live sessions with these names; None if the server has no list."""
        return None

    def end_session_statement(self, number: int) -> str:
        """Return the statement that ends a session of the server."""
        raise NotImplementedError(self.name)

    def can_end_sessions(self, records_connection: Connection, others: Connection) -> bool:
        """Whether the user of one connection may end sessions of the user of another.

        Args:
            records_connection: A connection of the user of the records.
            others: A connection to the same server, of the user of the sessions in which operations run.
        """
        return True
