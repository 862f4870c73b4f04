"""MariaDB and MySQL."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.mysql import DATETIME, insert
from sqlalchemy.engine import Connection
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.types import TypeEngine

from dexpy.database.dialects.base import ConnectionLimit, Dialect
from dexpy.database.error_codes import DUPLICATE, code_of

# Lock names are global on the server, so the name includes the database, unless the schema is ignored.
_NONCE = "CONCAT(:p_nonce, IF(:p_any, '', COALESCE(MD5(DATABASE()), '')))"
_LOCK_NONCE = sa.text(f"SELECT GET_LOCK({_NONCE}, 0)")
_IS_NONCE_LOCKED = sa.text(f"SELECT IS_USED_LOCK({_NONCE}) IS NOT NULL")
_RELEASE_NONCE = sa.text(f"SELECT RELEASE_LOCK({_NONCE})")
_LIMITS = sa.text("SELECT @@max_connections, @@max_user_connections")
_USER = sa.text("SELECT CURRENT_USER()")
_PROCESSES = sa.table("processlist", sa.column("id"), sa.column("host"), schema="information_schema")
_SESSION_NAME = sa.func.concat(_PROCESSES.c.id, "/", _PROCESSES.c.host)
_PRIVILEGES = ("ALL PRIVILEGES ON *.*", "CONNECTION ADMIN", "SUPER")
"""The privileges that allow ending sessions of other users."""


class MariadbDialect(Dialect):
    """See `Dialect`."""

    __slots__ = ()

    name = "mariadb"
    sync_driver = "pymysql"
    schema_query = "SELECT DATABASE()"
    # The default, REPEATABLE READ, locks gaps, and concurrent claims would wait for them.
    isolation_level = "READ COMMITTED"
    # The JSON check constraint of MariaDB 10 and 11 allows no deeper nesting.
    json_levels = 31
    closes_on_large_statement = True
    multi_key_delete_locks_gaps = True
    recursive_query_scans = True
    failed_insert_locks_row = True
    commits_ddl = True

    def datetime_type(self) -> TypeEngine[Any]:
        """See `Dialect`."""
        return DATETIME(fsp=6)

    def order_by_value(self, column: sa.ColumnElement[Any], kind: TypeEngine[Any]) -> Any:
        """See `Dialect`."""
        if isinstance(kind, sa.String):
            return sa.cast(column, sa.LargeBinary)
        return sa.cast(column, sa.CHAR(36)) if isinstance(kind, sa.Uuid) else column

    def _is_autocommit(self, connection: Connection) -> bool:
        get_autocommit: Callable[[], Any] | None = getattr(
            connection.connection.driver_connection, "get_autocommit", None
        )
        return get_autocommit is not None and bool(get_autocommit())

    @contextmanager
    def limit_lock_waits(self, connection: Connection, seconds: int) -> Generator[None]:
        """See `Dialect`."""
        with _setting(connection, "innodb_lock_wait_timeout", seconds):
            yield

    @contextmanager
    def limit_ddl_waits(self, connection: Connection, seconds: int) -> Generator[None]:
        """See `Dialect`."""
        with _setting(connection, "lock_wait_timeout", seconds):
            yield

    @contextmanager
    def advisory_lock(self, connection: Connection, number: int, wait_s: int) -> Generator[bool]:
        """See `Dialect`."""
        # The lock is global on the server, so its name includes the database.
        name = sa.func.concat(f"dexpy-{number}-", sa.func.md5(sa.func.database()))
        is_held = connection.execute(sa.select(sa.func.get_lock(name, wait_s))).scalar() == 1
        try:
            yield is_held
        finally:
            if is_held:
                connection.execute(sa.select(sa.func.release_lock(name)))

    def insert_new(
        self, connection: Connection, table: sa.Table, values: Mapping[str, Any], wait_s: float, *, alone: bool
    ) -> bool:
        """See `Dialect`."""
        try:
            with self.limit_lock_waits(connection, max(1, round(wait_s))):
                # A duplicate key rolls back only this statement. IGNORE would hide other errors too.
                connection.execute(sa.insert(table).values(values))
                return True
        except IntegrityError as error:
            if code_of(error) != DUPLICATE:
                raise
            return False

    def insert_or_ignore(self, table: sa.Table) -> Any:
        """See `Dialect`."""
        return insert(table).prefix_with("IGNORE")

    def is_same_database(self, records_connection: Connection, other: Connection, *, table: str | None = None) -> bool:
        """See `Dialect`."""
        nonce = {"p_nonce": f"dexpy-{secrets.token_hex(8)}-", "p_any": table is None}
        records_connection.execute(_LOCK_NONCE, nonce)
        try:
            return bool(other.execute(_IS_NONCE_LOCKED, nonce).scalar())
        finally:
            records_connection.execute(_RELEASE_NONCE, nonce)

    def _connection_limits(self, connection: Connection) -> Sequence[ConnectionLimit]:
        server_limit, user_limit = connection.execute(_LIMITS).one()
        limits = [ConnectionLimit(server_limit, f"max_connections = {server_limit}")]
        # 0 means no limit.
        if user_limit:
            limits.append(ConnectionLimit(user_limit, f"max_user_connections = {user_limit}"))
        return limits

    def session_name_query(self, connection: Connection) -> sa.Select[Any] | None:
        """See `Dialect`."""
        driver: Any = connection.connection.driver_connection
        if not hasattr(driver, "thread_id"):
            return None
        return sa.select(_SESSION_NAME).where(_PROCESSES.c.id == driver.thread_id())

    def session_numbers_query(self, names: sa.Select[Any]) -> sa.Select[Any] | None:
        """See `Dialect`."""
        return sa.select(_PROCESSES.c.id).where(_SESSION_NAME.in_(names))

    def end_session_statement(self, number: int) -> str:
        """See `Dialect`."""
        return f"KILL CONNECTION {number:d}"

    def can_end_sessions(self, records_connection: Connection, others: Connection) -> bool:
        """See `Dialect`."""
        if records_connection.execute(_USER).scalar() == others.execute(_USER).scalar():
            return True
        grants = " ".join(str(row[0]) for row in records_connection.execute(sa.text("SHOW GRANTS")))
        return any(privilege in grants for privilege in _PRIVILEGES)


@contextmanager
def _setting(connection: Connection, name: str, value: int) -> Generator[None]:
    before = connection.exec_driver_sql(f"SELECT @@{name}").scalar_one()
    connection.exec_driver_sql(f"SET {name} = {value:d}")
    try:
        yield
    finally:
        # A lost connection has no settings to restore.
        if not connection.invalidated:
            with contextlib.suppress(SQLAlchemyError):
                connection.exec_driver_sql(f"SET {name} = {int(before)}")
