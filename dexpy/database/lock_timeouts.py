"""Limit how long a transaction waits for locked rows.

By default PostgreSQL waits without a limit, and MariaDB for 50 s. Recovery must not wait that long for a lock that a
dead worker still holds.
"""

from __future__ import annotations

import contextlib
from collections.abc import Generator
from contextlib import AbstractContextManager
from contextvars import ContextVar

from sqlalchemy.engine import Connection

from dexpy.database.dialects import dialect_of

_longest_s: ContextVar[int | None] = ContextVar("dexpy_longest_lock_wait_s", default=None)
_UNLIMITED = contextlib.nullcontext()


@contextlib.contextmanager
def limited(seconds: int) -> Generator[None]:
    """Limit the lock waits of dexpy's own transactions that begin in this block, in this thread.

    Args:
        seconds: The longest wait for one lock.
    """
    token = _longest_s.set(seconds)
    try:
        yield
    finally:
        _longest_s.reset(token)


def limit_waits(connection: Connection) -> AbstractContextManager[None]:
    """Return a context manager that applies the limit to a transaction.

    Args:
        connection: A connection whose transaction has just begun when the block is entered.
    """
    seconds = _longest_s.get()
    return _UNLIMITED if seconds is None else dialect_of(connection).limit_lock_waits(connection, seconds)
