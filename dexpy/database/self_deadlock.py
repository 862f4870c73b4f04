"""Refuse writes to a SQLite file that would wait for their own transaction."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from sqlalchemy import exc
from sqlalchemy.engine import Connection

from dexpy.database import same_database, sqlite
from dexpy.database.current_transaction import current_transaction
from dexpy.database.dialects import dialect_of
from dexpy.foundation.errors import DatabaseBusy

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


def current_writer(is_same: Callable[[Connection], bool]) -> tuple[Session, Connection] | None:
    """Return the current session of this thread and its connection, if its transaction holds the write lock of a file.

    Args:
        is_same: Returns whether a connection leads to that file.
    """
    current = current_transaction()
    session = None if current is None else current.open_session()
    if session is None:
        return None
    try:
        connection = session.connection()
    except exc.SQLAlchemyError:
        # A session with a bind for each model, or an inactive transaction.
        return None
    is_writing = dialect_of(connection).holds_write_lock(connection)
    return (session, connection) if is_writing and is_same(connection) else None


def refuse_self_wait(display: str, is_same: Callable[[Connection], bool], is_mine: bool) -> None:
    """Refuse to wait for the write lock if this thread, the current session or the enclosing run holds it.

    Args:
        display: The URL of the database without secrets.
        is_same: Returns whether a connection leads to that database.
        is_mine: Whether this thread holds the lock by another of dexpy's own connections.

    Raises:
        DatabaseBusy: The wait could not end; nothing was written.
    """
    current = current_transaction()
    if not is_mine and (current is None or not (current.holds_write_lock or current_writer(is_same) is not None)):
        return
    raise DatabaseBusy(
        f"The database {display}: this write would wait for the transaction around it, which has written and "
        "holds SQLite's one write lock until it ends. Nothing was changed. Commit first, or do this after the commit: "
        "self.after_commit(...) in an operation.",
        may_end=False,
    )


def refuse_wait_for_own_thread(display: str, path: str | None) -> None:
    """Refuse to wait for the write lock if an application's session or connection holds it in this thread.

    Raises:
        DatabaseBusy: The wait could not end; nothing was written.
    """
    paths = sqlite.files_written_in_this_thread()
    if path is None or not any(same_database.is_same_file(path, other) for other in paths):
        return
    raise DatabaseBusy(
        f"The database {display}: this write would wait for a transaction of this very thread, in a session "
        "or connection of the application that has written and holds SQLite's one write lock. Nothing was changed. "
        "Commit that transaction first, or join it: with dexpy.session(session).",
        may_end=False,
    )
