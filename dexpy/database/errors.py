"""Errors of an unreachable database, and retries with backoff until it is back."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

from sqlalchemy import exc

from dexpy.database.error_codes import DEADLOCK, SERIALIZATION_FAILURE, code_of
from dexpy.foundation.backoff import Backoff
from dexpy.foundation.errors import DatabaseBusy, DatabaseUnavailable, SchemaMissing
from dexpy.foundation.exception_groups import is_group, leaves_of
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path

BACKOFF = Backoff(first_s=0.1, longest_s=5.0)
"""The pauses before the second attempt and later ones."""

FULL_STATES = ("53100", "53200", "25006")
"""PostgreSQL's SQLSTATE: a full disk, no memory, and a server that is read-only, for example during a failover."""
FULL_CODES = frozenset({1021, 1026, 1037, 1038, 1041, 1114, 1290, 1836})
"""The same for MariaDB and MySQL."""
FULL_TEXTS = ("database or disk is full", "disk I/O error")
"""The same as parts of SQLite's messages."""
AWAY_STATES = ("08", "57P0", "53300", "40001", "40P01", *FULL_STATES)
"""Prefixes of PostgreSQL's SQLSTATE: no connection, starting or stopping, too many connections, conflict, and full."""
AWAY_CODES = frozenset({1040, 1053, 1203, 1205, 1213, 1927, 2002, 2003, 2006, 2013, 2055, 4031}) | FULL_CODES
"""The same for MariaDB and MySQL."""

T = TypeVar("T")


def is_away(error: BaseException) -> bool:
    """Return whether the database is unreachable or busy; False if the statement itself is wrong."""
    if is_group(error):
        return all(is_away(leaf) for leaf in leaves_of(error))
    if isinstance(error, DatabaseBusy):
        return error.may_end
    if isinstance(error, DatabaseUnavailable):
        return not isinstance(error, SchemaMissing)
    if isinstance(error, exc.TimeoutError):
        return True
    if not isinstance(error, exc.DBAPIError):
        return False
    return error.connection_invalidated or _is_away_code(error.orig)


CONFLICTS = (SERIALIZATION_FAILURE, 1205, *DEADLOCK)


def is_conflict(error: BaseException) -> bool:
    """Whether the database rolled back this transaction in favour of another one, so that a retry may succeed."""
    return all(isinstance(leaf, exc.DBAPIError) and code_of(leaf) in CONFLICTS for leaf in leaves_of(error))


def is_lock_timeout(error: BaseException) -> bool:
    """Return whether an error only means that locks or connections are in use, whatever the statement writes."""
    return is_conflict(error) or isinstance(error, (DatabaseBusy, exc.TimeoutError))


def _is_away_code(error: BaseException | None) -> bool:
    code = code_of(error)
    if isinstance(code, int):
        return code in AWAY_CODES
    if isinstance(code, str):
        return code.startswith(AWAY_STATES)
    if hasattr(error, "sqlstate") or hasattr(error, "pgcode"):
        # PostgreSQL's client raises this without an answer of the server.
        return type(error).__name__ == "OperationalError"
    return any(text in str(error) for text in ("database is locked", *FULL_TEXTS))


def is_full(error: BaseException) -> bool:
    """Return whether the database accepts no writes for now: its disk is full, or it is read-only."""
    if not isinstance(error, exc.DBAPIError):
        return False
    code = code_of(error)
    if code is None:
        return any(text in str(error.orig) for text in FULL_TEXTS)
    return code in FULL_STATES or code in FULL_CODES


MAX_RECURRENCES = 3
"""After this many failures while the database answers, the error is not an outage."""


def retry_while_away(
    what: str, action: Callable[[], T], answers: Callable[[], bool] | None = None, /, **facts: Any
) -> T:
    """Call an action, and retry it with backoff while the database is away.

    The action must be idempotent: the connection may be lost after its commit.

    Args:
        what: The name of the action, for the log.
        action: The action, which uses its own transaction.
        answers: Returns whether the database answers; if so while the action keeps failing, its error is raised.
        facts: Fields for the log.
    """
    failures = recurred = 0
    while True:
        try:
            return action()
        except Exception as error:
            if not is_away(error):
                raise
            if answers is not None and not is_lock_timeout(error):
                recurred = recurred + 1 if answers() else 0
                if recurred >= MAX_RECURRENCES:
                    raise
            pause_s = BACKOFF.pause_s(failures)
            failures += 1
            log_event(LogEvent.DATABASE_UNREACHABLE, action=what, **facts, error=class_path(error), retry_in_s=pause_s)
        time.sleep(pause_s)
