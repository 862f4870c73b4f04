"""What a database says that is away for a while, and what Dramatiq's worker is told of it."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager

from dramatiq.errors import ConnectionClosed
from sqlalchemy import exc

from dexpy.foundation.errors import DatabaseUnavailable

HICCUPS = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError, DatabaseUnavailable)
"""What a database says that is away, restarting, locked or in a deadlock: it will be back."""

DATABASE_ERRORS = (exc.SQLAlchemyError, DatabaseUnavailable)
"""Whatever a database says."""


@contextmanager
def as_broker_errors() -> Generator[None, None, None]:
    """What Dramatiq's worker knows how to survive, for what the database says when it is away."""
    try:
        yield
    except HICCUPS as error:
        raise ConnectionClosed(error) from error  # type: ignore[no-untyped-call]
