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

# A name is of the whole server, so that of the database belongs to it, but for an engine whose own one is known.
_NONCE = "CONCAT(:p_nonce, IF(:p_any, '', COALESCE(MD5(DATABASE()), '')))"
_TAKE_NONCE = sa.text(f"SELECT GET_LOCK({_NONCE}, 0)")
_SEE_NONCE = sa.text(f"SELECT IS_USED_LOCK({_NONCE}) IS NOT NULL")
_FREE_NONCE = sa.text(f"SELECT RELEASE_LOCK({_NONCE})")
_LIMITS = sa.text("SELECT @@max_connections, @@max_user_connections")
_USER = sa.text("SELECT CURRENT_USER()")
_PROCESSES = sa.table("processlist", sa.column("id"), sa.column("host"), schema="information_schema")
_SESSION_NAME = sa.func.concat(_PROCESSES.c.id, "/", _PROCESSES.c.host)
_PRIVILEGES = ("ALL PRIVILEGES ON *.*", "CONNECTION ADMIN", "SUPER")
"""Each of them allows to end the sessions of other users."""


class MariadbDialect(Dialect):
    """See `Dialect`."""

    __slots__ = ()

    name = "mariadb"
    sync_driver = "pymysql"
    schema_query = "SELECT DATABASE()"
    # The default, REPEATABLE READ, locks gaps that concurrent claims run into.
    isolation_level = "READ COMMITTED"
    # The check of a JSON column ends there in MariaDB 10 and 11.
    json_levels = 31
    cuts_connections = True
    deletes_wait_for_others = True
    recursion_scans = True
    failed_inserts_lock = True

    def moment_type(self) -> TypeEngine[Any]:
        """See `Dialect`."""
        return DATETIME(fsp=6)

    def order_by_value(self, column: sa.ColumnElement[Any], kind: TypeEngine[Any]) -> Any:
        """See `Dialect`."""
        if isinstance(kind, sa.String):
            return sa.cast(column, sa.LargeBinary)
        return sa.cast(column, sa.CHAR(36)) if isinstance(kind, sa.Uuid) else column

    def _commits_by_itself(self, connection: Connection) -> bool:
        find: Callable[[], Any] | None = getattr(connection.connection.driver_connection, "get_autocommit", None)
        return find is not None and bool(find())

    @contextmanager
    def limit_lock_waits(self, connection: Connection, seconds: int) -> Generator[None]:
        """See `Dialect`."""
        before = connection.exec_driver_sql("SELECT @@innodb_lock_wait_timeout").scalar_one()
        connection.exec_driver_sql(f"SET innodb_lock_wait_timeout = {seconds:d}")
        try:
            yield
        finally:
            # One that is lost takes its settings along.
            if not connection.invalidated:
                with contextlib.suppress(SQLAlchemyError):
                    connection.exec_driver_sql(f"SET innodb_lock_wait_timeout = {int(before)}")

    @contextmanager
    def hold_lock(self, connection: Connection, number: int, wait_s: int) -> Generator[bool]:
        """See `Dialect`."""
        # Of the whole server, hence with the database in its name.
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
                # A duplicate undoes this statement alone here. IGNORE would swallow more than duplicates.
                connection.execute(sa.insert(table).values(values))
                return True
        except IntegrityError as error:
            if code_of(error) != DUPLICATE:
                raise
            return False

    def insert_or_ignore(self, table: sa.Table) -> Any:
        """See `Dialect`."""
        return insert(table).prefix_with("IGNORE")

    def share_database(self, own: Connection, other: Connection, *, any_schema: bool = False) -> bool:
        """See `Dialect`."""
        nonce = {"p_nonce": f"dexpy-{secrets.token_hex(8)}-", "p_any": any_schema}
        own.execute(_TAKE_NONCE, nonce)
        try:
            return bool(other.execute(_SEE_NONCE, nonce).scalar())
        finally:
            own.execute(_FREE_NONCE, nonce)

    def _connection_limits(self, connection: Connection) -> Sequence[ConnectionLimit]:
        most, of_user = connection.execute(_LIMITS).one()
        limits = [ConnectionLimit(most, f"max_connections = {most}")]
        # 0 is none.
        return [*limits, ConnectionLimit(of_user, f"max_user_connections = {of_user}")] if of_user else limits

    def session_name(self, connection: Connection) -> sa.Select[Any] | None:
        """See `Dialect`."""
        driver: Any = connection.connection.driver_connection
        if not hasattr(driver, "thread_id"):
            return None
        return sa.select(_SESSION_NAME).where(_PROCESSES.c.id == driver.thread_id())

    def sessions_named(self, names: sa.Select[Any]) -> sa.Select[Any] | None:
        """See `Dialect`."""
        return sa.select(_PROCESSES.c.id).where(_SESSION_NAME.in_(names))

    def end_session(self, number: int) -> str:
        """See `Dialect`."""
        return f"KILL CONNECTION {number:d}"

    def may_end_sessions(self, own: Connection, others: Connection) -> bool:
        """See `Dialect`."""
        if own.execute(_USER).scalar() == others.execute(_USER).scalar():
            return True
        granted = " ".join(str(row[0]) for row in own.execute(sa.text("SHOW GRANTS")))
        return any(privilege in granted for privilege in _PRIVILEGES)
