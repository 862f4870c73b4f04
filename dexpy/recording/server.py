"""What a database server says of itself: whether it refuses or is only down, what time it has, how many it lets in."""

from __future__ import annotations

from typing import Any

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dexpy.foundation.clock import clock
from dexpy.recording.metadata import after

SKEW_S = 2.0
"""Clocks of two machines that differ by more, in seconds, are worth a warning."""

REFUSING_CODES = frozenset({1044, 1045, 1049, 1130, 1251, 1524, 1698, 1820, 1862, 2026, 2059, 4151})
"""Of MariaDB: this user, password, host, database or encryption will not do, now or later."""
REFUSALS = (
    "authentication failed", "no password supplied", "does not exist", "no such database", "no pg_hba.conf entry",
    "not permitted to log in", "permission denied", "not currently accepting connections", "does not support ssl",
    "certificate", "ssl error", "invalid",
)  # fmt: skip
"""The same in the words of PostgreSQL and its client, which give no code for a connection that was never made."""


_BACKEND = sa.text("SELECT pg_backend_pid()")
NOT_PREPARED = ("DuplicatePreparedStatement", "InvalidSqlStatementName")
"""What psycopg raises when a statement that it has prepared is not in the session that it gets next."""


def is_pooled(one: Connection, other: Connection) -> bool:
    """Whether connections get another session of the server for each transaction: a transaction pooler is between.

    Args:
        one: To PostgreSQL, in no transaction.
        other: Likewise.
    """
    if one.dialect.name != "postgresql":
        return False

    def backend() -> Any:
        with one.begin():
            return one.execute(_BACKEND).scalar()

    # In turn where sessions are handed out in turn; else another one takes what was just given back.
    seen = {backend(), backend(), backend()}
    with other.begin():
        other.execute(_BACKEND)
        return len(seen | {backend()}) > 1


def may_end(own: Connection, others: Connection) -> bool:
    """Whether the user of one connection may end sessions of another one's user.

    Args:
        own: Of the records' own user.
        others: To the same server, of the user of the sessions in which operations run.
    """
    if own.dialect.name == "postgresql":
        user = others.execute(sa.text("SELECT current_user")).scalar()
        asked = "SELECT pg_has_role(CAST(:p_user AS name), 'MEMBER') OR pg_has_role('pg_signal_backend', 'MEMBER')"
        return bool(own.execute(sa.text(asked), {"p_user": user}).scalar())
    if own.dialect.name in ("mysql", "mariadb"):
        asked = "SELECT CURRENT_USER()"
        if own.execute(sa.text(asked)).scalar() == others.execute(sa.text(asked)).scalar():
            return True
        granted = " ".join(str(row[0]) for row in own.execute(sa.text("SHOW GRANTS")))
        return any(privilege in granted for privilege in ("ALL PRIVILEGES ON *.*", "CONNECTION ADMIN", "SUPER"))
    return True


def is_only_down(said: BaseException | None) -> bool:
    """Whether a driver's error at connecting says that the server is away, so that waiting may help."""
    given: Any = said.args[0] if said is not None and said.args else None
    if isinstance(given, int):
        return given not in REFUSING_CODES and "[SSL" not in str(said)
    kinds = {kind.__name__ for kind in type(said).__mro__}
    if "OperationalError" not in kinds or type(said).__module__ == "sqlite3":
        return False
    return not any(words in str(said).lower() for words in REFUSALS)


def clock_ahead_s(connection: Connection) -> float | None:
    """How many seconds the database's clock is ahead of this process's; None for SQLite, which has no clock."""
    if connection.dialect.name == "sqlite":
        return None
    query = sa.select(after(0))
    # The first time the statement is compiled, and perhaps the connection woken up.
    connection.execute(query)
    before = clock.timestamp()
    there = connection.execute(query).scalar_one().timestamp()
    between = (before + clock.timestamp()) / 2
    return float(there - between)


@attrs.frozen
class Limit:
    """How many connections a server lets in.

    Attributes:
        connections: For this user, all its processes together.
        named: The setting that says so, with its value.
    """

    connections: int
    named: str


def connection_limit(connection: Connection) -> Limit | None:
    """The nearest of the limits on this user's connections; None for SQLite."""
    if connection.dialect.name == "postgresql":
        return min(_postgresql_limits(connection), key=lambda limit: limit.connections)
    if connection.dialect.name in ("mysql", "mariadb"):
        return min(_mariadb_limits(connection), key=lambda limit: limit.connections)
    return None


def _postgresql_limits(connection: Connection) -> list[Limit]:
    query = sa.text(
        "SELECT current_setting('max_connections')::int AS most,"
        " current_setting('superuser_reserved_connections')::int"
        " + coalesce(current_setting('reserved_connections', true)::int, 0) AS kept,"
        " (SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user) AS of_role,"
        " (SELECT datconnlimit FROM pg_database WHERE datname = current_database()) AS of_database"
    )
    most, kept, of_role, of_database = connection.execute(query).one()
    limits = [Limit(most - kept, f"max_connections = {most}, of which {kept} are reserved")]
    # -1 is none.
    if of_role >= 0:
        limits.append(Limit(of_role, f"CONNECTION LIMIT {of_role} of the role"))
    if of_database >= 0:
        limits.append(Limit(of_database, f"CONNECTION LIMIT {of_database} of the database"))
    return limits


def _mariadb_limits(connection: Connection) -> list[Limit]:
    most, of_user = connection.execute(sa.text("SELECT @@max_connections, @@max_user_connections")).one()
    limits = [Limit(most, f"max_connections = {most}")]
    # 0 is none.
    return [*limits, Limit(of_user, f"max_user_connections = {of_user}")] if of_user else limits
