"""A database that is away for a while: what has to be written waits until it is back."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import exc

from dexpy.foundation.errors import DatabaseUnavailable, SchemaMissing
from dexpy.foundation.log import line
from dexpy.foundation.redaction import class_path
from dexpy.recording.codes import DEADLOCK, SERIALIZATION_FAILURE, code_of

FIRST_PAUSE_S = 0.1
"""Before the second try, in seconds; each pause is twice the one before."""
LONGEST_PAUSE_S = 5.0

AWAY_STATES = ("08", "57P0", "53300", "40001", "40P01")
"""How the SQLSTATE of PostgreSQL begins for: no connection, shutting down or starting, full, try again."""
AWAY_CODES = frozenset({1040, 1053, 1205, 1213, 2002, 2003, 2006, 2013, 2055})
"""The same for MariaDB."""

T = TypeVar("T")


def is_away(error: BaseException) -> bool:
    """Whether an error says that the database cannot be reached now, and not that what was asked of it is wrong."""
    if isinstance(error, DatabaseUnavailable):
        return not isinstance(error, SchemaMissing)
    if isinstance(error, exc.TimeoutError):
        return True
    if not isinstance(error, exc.DBAPIError):
        return False
    return error.connection_invalidated or _says_away(error.orig)


CONFLICTS = (SERIALIZATION_FAILURE, 1205, *DEADLOCK)


def is_conflict(error: BaseException) -> bool:
    """Whether a database has chosen this transaction to give way to another one: begun anew, it may well succeed."""
    return isinstance(error, exc.DBAPIError) and code_of(error) in CONFLICTS


def _says_away(said: BaseException | None) -> bool:
    code = code_of(said)
    if isinstance(code, int):
        return code in AWAY_CODES
    if isinstance(code, str):
        return code.startswith(AWAY_STATES)
    if hasattr(said, "sqlstate") or hasattr(said, "pgcode"):
        # Of PostgreSQL, and there was no server to give a code.
        return type(said).__name__ == "OperationalError"
    return "database is locked" in str(said)


def insist(what: str, action: Callable[[], T], **facts: Any) -> T:
    """Do something on the database, and do it again while the database is away.

    The action must be one that may be done twice: its answer can be lost after it was done.

    Args:
        what: Is done, for the log.
        action: Done in a transaction of its own.
        facts: For the log.
    """
    pause_s = FIRST_PAUSE_S
    while True:
        try:
            return action()
        except Exception as error:
            if not is_away(error):
                raise
            line(
                logging.WARNING, "database.away", waits=what, **facts, error=class_path(error), again_in_seconds=pause_s
            )
        time.sleep(pause_s)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
