"""Refuse writes to a SQLite file that would deadlock with a transaction of their own thread."""

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
        is_same: Returns whether a connection is to that file.
    """
    current = current_transaction()
    session = None if current is None else current.open_session()
    if session is None:
        return None
    try:
        connection = session.connection()
    except exc.SQLAlchemyError:
        # The session has a bind for each model, or its transaction is inactive.
        return None
    is_writing = dialect_of(connection).holds_write_lock(connection)
    return (session, connection) if is_writing and is_same(connection) else None


def refuse_self_wait(display: str, is_same: Callable[[Connection], bool], is_mine: bool) -> None:
    """Refuse to wait for the write lock if this thread, the current session or the enclosing run holds it.

    Args:
        display: The URL of the database, without secrets.
        is_same: Returns whether a connection is to that database.
        is_mine: Whether this thread holds the lock through another connection of dexpy.

    Raises:
        DatabaseBusy: The wait would never end; nothing was written.
    """
    current = current_transaction()
    if not is_mine and (current is None or not (current.holds_write_lock or current_writer(is_same) is not None)):
        return
    raise DatabaseBusy(
        f"Cannot write to {display}: this write would wait for the transaction around it, which holds SQLite's only "
        "write lock until it ends. Nothing was changed. Commit first, or write after the commit; in an operation, by "
        "self.after_commit(...).",
        may_end=False,
    )


def refuse_wait_for_own_thread(display: str, path: str | None) -> None:
    """Refuse to wait for the write lock if an application's session or connection holds it in this thread.

    Raises:
        DatabaseBusy: The wait would never end; nothing was written.
    """
    paths = sqlite.files_written_in_this_thread()
    if path is None or not any(same_database.is_same_file(path, other) for other in paths):
        return
    raise DatabaseBusy(
        f"Cannot write to {display}: this write would wait for a transaction of the same thread, in a session or "
        "connection of the application that holds SQLite's only write lock. Nothing was changed. Commit that "
        "transaction first, or join it: `with dexpy.session(session):`.",
        may_end=False,
    )
