"""The questions that each database answers in its own way; the answers here are for a kind that dexpy does not know.

A dialect has no state: it is one object for each kind of database, and works on the connections that it is given.
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
    """How many connections a server lets in.

    Attributes:
        connections: For this user, all its processes together.
        named: The setting that says so, with its value.
    """

    connections: int
    named: str


class Dialect:
    """One kind of database.

    Attributes:
        name: Of the kind.
        sync_driver: The synchronous driver that dexpy recommends; None where the kind's own default will do.
        has_server: Whether a server of its own has the data, with a clock, sessions and limits; else this process.
        has_one_write_lock: Whether one lock serves everything that is written.
        creates_tables: Whether missing tables are made with the first use, without a command.
        fixed_schema: The schema that has dexpy's tables on every connection; None where a connection may change it.
        schema_query: Asks for the schema in which a connection finds dexpy's tables, or would make them.
        isolation_level: Of dexpy's own transactions, where the default will not do.
        has_strict_types: Whether a column takes values of its own type only.
        stores_time_zones: Whether the driver takes and gives aware moments.
        stores_nul: Whether text may contain the character 0.
        json_levels: How deep a JSON column takes nested values.
        cuts_connections: Whether a statement that is too large costs the connection, and so is refused before.
        saves_by_autocommit: Whether a statement that is committed by itself takes fewer round trips.
        ends_idle_transactions: Whether a statement can set when the server ends its idle transaction.
        deletes_wait_for_others: Whether a DELETE with a list of keys may wait for rows that are not meant.
        recursion_scans: Whether a step of a recursive query reads all rows up to the next one.
        failed_inserts_lock: Whether an insert that fails locks the row in its way.
        reads_index_in_order: Whether a query with a limit may miss its index unless it has an order.
        notifies: Whether a commit can wake listeners.
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
    cuts_connections: ClassVar[bool] = False
    saves_by_autocommit: ClassVar[bool] = False
    ends_idle_transactions: ClassVar[bool] = False
    deletes_wait_for_others: ClassVar[bool] = False
    recursion_scans: ClassVar[bool] = False
    failed_inserts_lock: ClassVar[bool] = False
    reads_index_in_order: ClassVar[bool] = False
    notifies: ClassVar[bool] = False

    def __repr__(self) -> str:
        return f"<dialect {self.name}>"

    # Types.

    def moment_type(self) -> TypeEngine[Any]:
        """Return the column type of moments with microseconds."""
        return sa.DateTime()

    def integer_bounds(self, kind: sa.Integer) -> tuple[int, int]:
        """Return the least and the largest number that can be compared with a column of a type; others are an error."""
        return -(2**63), 2**64 - 1

    def order_by_value(self, column: sa.ColumnElement[Any], kind: TypeEngine[Any]) -> Any:
        """Return what to order by for the order in which Python sorts the values of a column, whatever the collation.

        Args:
            column: Of the order.
            kind: Its type on this database.
        """
        return column

    def max_parameters(self, connection: Connection) -> int:
        """Return how many bound parameters a statement takes."""
        return 65_535

    # Transactions and locks.

    def commits_by_itself(self, connection: Connection) -> bool:
        """Whether nothing that is written through a connection waits for a commit; no statement is sent to find out.

        SQLAlchemy's isolation level AUTOCOMMIT does that, and so does a driver that was set to it behind SQLAlchemy.

        Args:
            connection: In the transaction that SQLAlchemy has begun, or would begin.
        """
        if connection.in_transaction():
            return self._commits_by_itself(connection)
        with connection.begin():
            return self._commits_by_itself(connection)

    def _commits_by_itself(self, connection: Connection) -> bool:
        return False

    def take_write_lock(self, connection: Connection) -> None:
        """Begin the writing part of a transaction now, before what is read under it, where one lock serves all."""

    def holds_write_lock(self, connection: Connection) -> bool:
        """Whether the transaction of a connection holds the one write lock."""
        return False

    @contextmanager
    def limit_lock_waits(self, connection: Connection, seconds: int) -> Generator[None]:
        """Let the transaction wait no longer for each lock in this block.

        Args:
            connection: In a transaction.
            seconds: At least 1.
        """
        yield

    @contextmanager
    def hold_lock(self, connection: Connection, number: int, wait_s: int) -> Generator[bool]:
        """Exclude other processes that hold a lock of this number on the same database; gives whether it was held.

        Args:
            connection: In a transaction.
            number: Of the lock.
            wait_s: How long to wait for it, in seconds, where the dialect knows a limit.
        """
        yield True

    # Inserts.

    def insert_new(
        self, connection: Connection, table: sa.Table, values: Mapping[str, Any], wait_s: float, *, alone: bool
    ) -> bool:
        """Insert a row unless another one has one of its unique keys; return whether it was inserted.

        Args:
            connection: In a transaction, which such a row does not spoil.
            table: Of the row.
            values: Of its columns.
            wait_s: How long to wait for an open transaction that holds a key, in seconds.
            alone: Whether the transaction is for this insert.
        """
        connection.execute(sa.insert(table).values(values))
        return True

    def insert_or_ignore(self, table: sa.Table) -> Any:
        """Return an INSERT that does nothing where a row has one of the keys."""
        return sa.insert(table)

    # The database and its server.

    def share_database(self, own: Connection, other: Connection, *, any_schema: bool = False) -> bool:
        """Whether a lock that is taken through one connection is seen through the other.

        Args:
            own: In a transaction of its own.
            other: Of the same kind of server; whatever transaction it is in goes on.
            any_schema: Whether it does not matter which schema, or database of MariaDB, the other is in at the moment.
        """
        return False

    def connection_limit(self, connection: Connection) -> ConnectionLimit | None:
        """Return the nearest of the limits on this user's connections; None where there is none."""
        return min(self._connection_limits(connection), key=lambda limit: limit.connections, default=None)

    def _connection_limits(self, connection: Connection) -> Sequence[ConnectionLimit]:
        return ()

    def can_listen(self, engine: Engine) -> bool:
        """Whether the driver of an engine receives notifications."""
        return False

    # Sessions of the server.

    def is_pooled(self, one: Connection, other: Connection) -> bool:
        """Whether connections get another session of the server for each transaction, as behind a transaction pooler.

        Args:
            one: In no transaction.
            other: Likewise.
        """
        return False

    def session_name(self, connection: Connection) -> sa.Select[Any] | None:
        """Return a query for the name of a connection's session in the server's list; None where there is no list.

        Its number alone may come back after a restart, so the moment or address of its birth belongs to it.
        """
        return None

    def sessions_named(self, names: sa.Select[Any]) -> sa.Select[Any] | None:
        """Return a query for the numbers of the live sessions with these names; None where there is no list."""
        return None

    def end_session(self, number: int) -> str:
        """Return the statement that ends a session of the server."""
        raise NotImplementedError(self.name)

    def may_end_sessions(self, own: Connection, others: Connection) -> bool:
        """Whether the user of one connection may end sessions of another one's user.

        Args:
            own: Of the records' own user.
            others: To the same server, of the user of the sessions in which operations run.
        """
        return True
