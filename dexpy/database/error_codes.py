"""Codes of server errors: the SQLSTATE of PostgreSQL, the number of MariaDB and MySQL."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy.exc import DBAPIError

DUPLICATE: Final = 1062
"""MariaDB: a unique index already has such a row."""
LOCKED: Final = ("55P03", 1205, 3572)
"""A lock timeout. On MariaDB only the statement is rolled back, and the transaction continues."""
DEADLOCK: Final = ("40P01", 1213)
"""A deadlock that the server has resolved by rolling back this transaction."""
SERIALIZATION_FAILURE: Final = "40001"
"""PostgreSQL: a concurrent commit conflicts with the isolation level of this transaction."""


def code_of(error: BaseException | None) -> str | int | None:
    """Return the code of a driver's error, or of SQLAlchemy's around it; None without a code.

    Example:
        >>> import pymysql
        >>> code_of(pymysql.OperationalError(1205, "Lock wait timeout exceeded"))
        1205
    """
    driver_error: Any = error.orig if isinstance(error, DBAPIError) else error
    first = driver_error.args[0] if getattr(driver_error, "args", ()) else None
    if isinstance(first, int):
        # Before the SQLSTATE, which PyMySQL has too and which is less specific.
        return first
    # psycopg has `sqlstate`, psycopg2 `pgcode`.
    state = getattr(driver_error, "sqlstate", None) or getattr(driver_error, "pgcode", None)
    return state if isinstance(state, str) else None


def is_locked(error: BaseException) -> bool:
    """Whether an error is a lock timeout."""
    return code_of(error) in LOCKED
