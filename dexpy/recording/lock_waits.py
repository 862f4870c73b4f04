"""How long a transaction waits for rows that somebody else has locked.

For as long as the server lets it: for ever on PostgreSQL, 50 s on MariaDB. Who looks after the locks of dead workers
must not wait so long for a lock of one of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from contextvars import ContextVar

from sqlalchemy import exc
from sqlalchemy.engine import Connection

_longest_s: ContextVar[int | None] = ContextVar("dexpy_longest_lock_wait_s", default=None)


@contextlib.contextmanager
def at_most(seconds: int) -> Generator[None]:
    """No transaction of dexpy's own that begins in this block, in this thread, waits longer for one lock.

    Args:
        seconds: Whole ones.
    """
    token = _longest_s.set(seconds)
    try:
        yield
    finally:
        _longest_s.reset(token)


@contextlib.contextmanager
def bounded(connection: Connection) -> Generator[None]:
    """See to it that a transaction waits no longer than it may.

    Args:
        connection: In a transaction that has just begun.
    """
    seconds = _longest_s.get()
    if seconds is None or connection.dialect.name == "sqlite":
        yield
    elif connection.dialect.name == "postgresql":
        # For this transaction alone.
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {seconds * 1000:d}")
        yield
    else:
        with innodb_wait(connection, seconds):
            yield


@contextlib.contextmanager
def innodb_wait(connection: Connection, seconds: int) -> Generator[None]:
    """Wait so long for each lock in this block, and no longer: on MariaDB and MySQL.

    Args:
        connection: In a transaction, or not.
        seconds: At least 1.
    """
    before = connection.exec_driver_sql("SELECT @@innodb_lock_wait_timeout").scalar_one()
    connection.exec_driver_sql(f"SET innodb_lock_wait_timeout = {seconds:d}")
    try:
        yield
    finally:
        # One that is lost takes its settings along.
        if not connection.invalidated:
            with contextlib.suppress(exc.SQLAlchemyError):
                connection.exec_driver_sql(f"SET innodb_lock_wait_timeout = {int(before)}")
