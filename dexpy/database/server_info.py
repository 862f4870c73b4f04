"""Facts about a database server: whether it is down or refuses the connection, and the time of its clock."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dexpy.database.column_types import after
from dexpy.database.dialects import dialect_of
from dexpy.foundation.clock import clock

SKEW_S = 2.0
"""The difference of two clocks, in seconds, above which dexpy warns."""

REFUSING_CODES = frozenset({1044, 1045, 1049, 1130, 1251, 1524, 1698, 1820, 1862, 2026, 2059, 4151})
"""MariaDB: the server permanently refuses this user, password, host, database or encryption."""
REFUSALS = (
    "authentication failed", "no password supplied", "does not exist", "no such database", "no pg_hba.conf entry",
    "not permitted to log in", "permission denied", "not currently accepting connections", "does not support ssl",
    "certificate", "ssl error", "invalid",
)  # fmt: skip
"""The same, as texts in messages of PostgreSQL and its client, which have no code for a failed connection."""


NOT_PREPARED = ("DuplicatePreparedStatement", "InvalidSqlStatementName")
"""Errors of psycopg for a prepared statement that does not exist in the server's session."""


def is_only_down(error: BaseException | None) -> bool:
    """Return whether a driver could not connect because the server is down, so that waiting may help."""
    code: Any = error.args[0] if error is not None and error.args else None
    if isinstance(code, int):
        return code not in REFUSING_CODES and "[SSL" not in str(error)
    kinds = {kind.__name__ for kind in type(error).__mro__}
    if "OperationalError" not in kinds or type(error).__module__ == "sqlite3":
        return False
    return not any(words in str(error).lower() for words in REFUSALS)


def clock_ahead_s(connection: Connection) -> float | None:
    """Return the seconds that the database's clock is ahead of this process's; None for SQLite, which has no clock."""
    if not dialect_of(connection).has_server:
        return None
    query = sa.select(after(0))
    # The first execution includes compilation and network delays.
    connection.execute(query)
    before = clock.timestamp()
    server_time = connection.execute(query).scalar_one().timestamp()
    local_time = (before + clock.timestamp()) / 2
    return float(server_time - local_time)
