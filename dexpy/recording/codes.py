"""What a server's error says by its code: the SQLSTATE of PostgreSQL, the number of MariaDB and MySQL."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy.exc import DBAPIError

DUPLICATE: Final = 1062
"""Of MariaDB: a unique index has such a row already."""
LOCKED: Final = ("55P03", 1205, 3572)
"""Somebody else has had a lock for too long. The transaction goes on on MariaDB, where only the statement is undone."""
DEADLOCK: Final = ("40P01", 1213)
"""Two that wait for each other, of which this one was chosen to give way."""
SERIALIZATION_FAILURE: Final = "40001"
"""Of PostgreSQL: somebody else has committed what this transaction, by its level, must not see."""


def code_of(error: BaseException | None) -> str | int | None:
    """The code of an error, of a driver or of SQLAlchemy around it; None where it has none.

    Example:
        >>> import pymysql
        >>> code_of(pymysql.OperationalError(1205, "Lock wait timeout exceeded"))
        1205
    """
    said: Any = error.orig if isinstance(error, DBAPIError) else error
    first = said.args[0] if getattr(said, "args", ()) else None
    if isinstance(first, int):
        # Before the other one: PyMySQL gives a SQLSTATE too, which says less.
        return first
    # psycopg has the one, psycopg2 the other.
    state = getattr(said, "sqlstate", None) or getattr(said, "pgcode", None)
    return state if isinstance(state, str) else None


def is_locked(error: BaseException) -> bool:
    """Whether somebody else has had a lock for too long."""
    return code_of(error) in LOCKED
