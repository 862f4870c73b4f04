"""PostgreSQL."""

from __future__ import annotations

import secrets
from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.types import TypeEngine

from dexpy.database.dialects.base import ConnectionLimit, Dialect
from dexpy.database.error_codes import SERIALIZATION_FAILURE, code_of

_LOCK_NONCE = sa.text(
    "SELECT pg_try_advisory_xact_lock(:p_first, :p_second), CAST(to_regclass(CAST(:p_name AS text)) AS oid)"
)
# objsubid 2 marks locks with two keys. The table name must resolve to the same table, so the schema counts too.
_IS_NONCE_LOCKED = sa.text(
    "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted"
    " AND classid = CAST(:p_first AS oid) AND objid = CAST(:p_second AS oid)"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
    " AND (CAST(:p_name AS text) IS NULL"
    " OR CAST(to_regclass(CAST(:p_name AS text)) AS oid) IS NOT DISTINCT FROM CAST(:p_table AS oid))"
)
_LIMITS = sa.text(
    "SELECT current_setting('max_connections')::int AS server_limit,"
    " current_setting('superuser_reserved_connections')::int"
    " + coalesce(current_setting('reserved_connections', true)::int, 0) AS reserved,"
    " (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS role_limit,"
    " (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS database_limit"
)
_BITS = {sa.SmallInteger: 16, sa.BigInteger: 64, sa.Integer: 32}
"""The width of integer columns, a subclass before its base."""
_LOCK_TIMEOUT = sa.select(sa.func.current_setting("lock_timeout"))
_BACKEND = sa.text("SELECT pg_backend_pid()")
_USER = sa.text("SELECT current_user")
_CAN_END_SESSIONS = sa.text(
    "SELECT pg_has_role(CAST(:p_user AS name), 'MEMBER') OR pg_has_role('pg_signal_backend', 'MEMBER')"
)
_ACTIVITY = sa.table("pg_stat_activity", sa.column("pid"), sa.column("backend_start"))
# In seconds since 1970: the text of a timestamp depends on the time zone of the session.
_STARTED_AT = sa.cast(sa.extract("epoch", _ACTIVITY.c.backend_start), sa.Text)
_SESSION_NAME = sa.cast(_ACTIVITY.c.pid, sa.Text).op("||")("/").op("||")(_STARTED_AT)


class PostgresqlDialect(Dialect):
    """See `Dialect`."""

    __slots__ = ()

    name = "postgresql"
    sync_driver = "psycopg"
    schema_query = (
        "SELECT coalesce((SELECT nspname FROM pg_catalog.pg_namespace AS n"
        " JOIN pg_catalog.pg_class AS c ON c.relnamespace = n.oid"
        " WHERE c.oid = to_regclass('{table}')), current_schema())"
    )
    stores_time_zones = True
    stores_nul = False
    # One round trip instead of the three of a transaction.
    is_faster_with_autocommit = True
    ends_idle_transactions = True
    needs_order_for_index = True
    supports_notifications = True

    def datetime_type(self) -> TypeEngine[Any]:
        """See `Dialect`."""
        return sa.DateTime(timezone=True)

    def integer_bounds(self, kind: sa.Integer) -> tuple[int, int]:
        """See `Dialect`."""
        bound: int = 2 ** (next(bits for known, bits in _BITS.items() if isinstance(kind, known)) - 1)
        return -bound, bound - 1

    def order_by_value(self, column: sa.ColumnElement[Any], kind: TypeEngine[Any]) -> Any:
        """See `Dialect`."""
        if not isinstance(kind, sa.String):
            return column
        # An ENUM type of the server has no collation.
        return (sa.cast(column, sa.Text) if isinstance(kind, sa.Enum) else column).collate("C")

    def _is_autocommit(self, connection: Connection) -> bool:
        return getattr(connection.connection.dbapi_connection, "autocommit", False) is True

    @contextmanager
    def limit_lock_waits(self, connection: Connection, seconds: int) -> Generator[None]:
        """See `Dialect`; the limit lasts until the end of the transaction."""
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {seconds * 1000:d}")
        yield

    @contextmanager
    def limit_ddl_waits(self, connection: Connection, seconds: int) -> Generator[None]:
        """See `Dialect`."""
        before = connection.execute(_LOCK_TIMEOUT).scalar_one()
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {seconds * 1000:d}")
        yield
        # Not after an error, which ends the transaction, and the setting with it.
        connection.execute(sa.select(sa.func.set_config("lock_timeout", before, True)))

    @contextmanager
    def advisory_lock(self, connection: Connection, number: int, wait_s: int) -> Generator[bool]:
        """See `Dialect`; released at the end of the transaction, so that the next holder sees its writes."""
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(number)))
        yield True

    def insert_new(
        self, connection: Connection, table: sa.Table, values: Mapping[str, Any], wait_s: float, *, alone: bool
    ) -> bool:
        """See `Dialect`."""
        statement = insert(table).values(values).on_conflict_do_nothing().returning(*table.primary_key.columns)
        timeout = sa.func.set_config("lock_timeout", f"{max(1, round(wait_s * 1000))}ms", True)
        if alone:
            connection.execute(sa.select(timeout))
            return connection.execute(statement).first() is not None
        try:
            # A timeout is an error; without a savepoint it would fail the whole transaction.
            with connection.begin_nested():
                before = connection.execute(sa.select(sa.func.current_setting("lock_timeout"), timeout)).scalar_one()
                is_inserted = connection.execute(statement).first() is not None
                connection.execute(sa.select(sa.func.set_config("lock_timeout", before, True)))
                return is_inserted
        except DBAPIError as error:
            if code_of(error) == SERIALIZATION_FAILURE:
                # The row was committed after this transaction started, and its isolation level hides it.
                return False
            raise

    def insert_or_ignore(self, table: sa.Table) -> Any:
        """See `Dialect`."""
        return insert(table).on_conflict_do_nothing()

    def is_same_database(self, records_connection: Connection, other: Connection, *, table: str | None = None) -> bool:
        """See `Dialect`."""
        keys = {"p_first": secrets.randbelow(2**31), "p_second": secrets.randbelow(2**31), "p_name": table}
        table_oid = records_connection.execute(_LOCK_NONCE, keys).one()[1]
        return bool(other.execute(_IS_NONCE_LOCKED, {**keys, "p_table": table_oid}).scalar())

    def _connection_limits(self, connection: Connection) -> Sequence[ConnectionLimit]:
        server_limit, reserved, role_limit, database_limit = connection.execute(_LIMITS).one()
        setting = f"max_connections = {server_limit}, of which {reserved} are reserved"
        limits = [ConnectionLimit(server_limit - reserved, setting)]
        # -1 means no limit.
        if role_limit >= 0:
            limits.append(ConnectionLimit(role_limit, f"CONNECTION LIMIT {role_limit} of the role"))
        if database_limit >= 0:
            limits.append(ConnectionLimit(database_limit, f"CONNECTION LIMIT {database_limit} of the database"))
        return limits

    def can_listen(self, engine: Engine) -> bool:
        """See `Dialect`."""
        return engine.dialect.driver == "psycopg"

    def is_pooled(self, one: Connection, other: Connection) -> bool:
        """See `Dialect`."""

        def backend() -> Any:
            with one.begin():
                return one.execute(_BACKEND).scalar()

        # A pooler either rotates its sessions, or assigns the session that was just released to the other connection.
        backends = {backend(), backend(), backend()}
        with other.begin():
            other.execute(_BACKEND)
            return len(backends | {backend()}) > 1

    def session_name_query(self, connection: Connection) -> sa.Select[Any] | None:
        """See `Dialect`."""
        driver: Any = connection.connection.driver_connection
        pid = driver.info.backend_pid if hasattr(driver, "info") else driver.get_backend_pid()
        return sa.select(_SESSION_NAME).where(_ACTIVITY.c.pid == pid)

    def session_numbers_query(self, names: sa.Select[Any]) -> sa.Select[Any] | None:
        """See `Dialect`."""
        return sa.select(_ACTIVITY.c.pid).where(_SESSION_NAME.in_(names))

    def end_session_statement(self, number: int) -> str:
        """See `Dialect`."""
        return f"SELECT pg_terminate_backend({number:d})"

    def can_end_sessions(self, records_connection: Connection, others: Connection) -> bool:
        """See `Dialect`."""
        return bool(records_connection.execute(_CAN_END_SESSIONS, {"p_user": others.execute(_USER).scalar()}).scalar())
