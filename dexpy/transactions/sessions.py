"""The current session: operations join it, and records are written in its transaction."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import attrs

from dexpy.database.current_transaction import (
    CurrentTransaction,
    current_transaction,
    enter_transaction,
    leave_transaction,
)
from dexpy.foundation.errors import DexpyError, NotRunning, OptionsError
from dexpy.transactions import commit_hooks

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import Session

    from dexpy.database.dialects.base import Dialect


@attrs.frozen
class ExternalSession:
    """A session of the application.

    Attributes:
        sqlalchemy_session: The session.
        outer: The transaction of the enclosing run, which continues after this session's transaction has ended.
        lock: Serializes the use of the session by several threads.
    """

    sqlalchemy_session: Session
    outer: CurrentTransaction | None = None
    is_run: bool = False
    lock: threading.Lock = attrs.field(factory=threading.Lock, eq=False, repr=False)

    def session(self) -> Session:
        """The session itself.

        Raises:
            OptionsError: The transaction has not begun, and only the application may begin it.
        """
        check_begun(self.sqlalchemy_session, "dexpy.session(...)")
        return self.sqlalchemy_session

    def open_session(self) -> Session | None:
        """See `CurrentTransaction`."""
        return self.sqlalchemy_session if self.sqlalchemy_session.in_transaction() else None

    @property
    def holds_write_lock(self) -> bool:
        """See `CurrentTransaction`; always False here: the caller checks the database."""
        return False

    def after_commit(self, action: Callable[[], None]) -> None:
        """See `CurrentTransaction`."""
        if self._is_bracketed:
            commit_hooks.after_commit(self.sqlalchemy_session, action)
        else:
            commit_hooks.run_hook(action)

    def at_end(self, action: Callable[[], None]) -> None:
        """See `CurrentTransaction`."""

        def run_action() -> None:
            if self.outer is None:
                commit_hooks.run_hook(action)
            else:
                self.outer.at_end(action)

        if self._is_bracketed:
            commit_hooks.at_end(self.sqlalchemy_session, run_action)
        else:
            run_action()

    @property
    def _is_bracketed(self) -> bool:
        """Whether the session will commit or roll back, even if it has executed nothing yet."""
        return self.sqlalchemy_session.autobegin or self.sqlalchemy_session.in_transaction()


@attrs.frozen
class ExternalConnection:
    """A connection of the application, in whose transaction records are stored.

    A connection has no commit hooks, so the relay publishes the messages.
    """

    connection: Connection

    def session(self) -> Session:
        """Return a new session for a short read in the connection's transaction."""
        from sqlalchemy.orm import Session

        return Session(bind=self.connection, join_transaction_mode="create_savepoint")


EnqueueTransaction: TypeAlias = CurrentTransaction | ExternalConnection | None
"""The transaction that stores a job; None for a transaction of its own."""


def check_session_or_connection(session_or_connection: Any, where: str) -> Any:
    """Check that a value is a session or a connection, of asyncio or not, in which a record can be stored.

    Raises:
        OptionsError: The value is of another type.
    """
    from sqlalchemy.engine import Connection

    return (
        session_or_connection
        if isinstance(session_or_connection, Connection) or is_async(session_or_connection)
        else check_session(session_or_connection, where)
    )


def check_begun(session: Session, where: str, error: type[DexpyError] = OptionsError) -> None:
    """Refuse a session whose transaction has not begun, and does not begin with its first statement.

    Args:
        session: The session.
        where: The subject of the message.
        error: The exception class.

    Raises:
        OptionsError: The session has autobegin=False and is not in a transaction.
    """
    if not (session.autobegin or session.in_transaction()):
        raise error(
            f"{where}: expected a session in a transaction, got one with autobegin=False whose transaction has not "
            "begun. Call session.begin() first, or create the session with autobegin=True."
        )


def check_transactional(
    session_or_connection: Session | Connection, where: str, error: type[DexpyError] = OptionsError
) -> None:
    """Refuse a session or connection in autocommit mode, which has no transaction that a run could join.

    Args:
        session_or_connection: The session or connection, with or without a transaction.
        where: The subject of the message.
        error: The exception class.

    Raises:
        OptionsError: The isolation level is AUTOCOMMIT, or the transaction has not begun.
    """
    from sqlalchemy.engine import Connection
    from sqlalchemy.exc import UnboundExecutionError

    if not isinstance(session_or_connection, Connection):
        check_begun(session_or_connection, where, error)
    try:
        connection = (
            session_or_connection
            if isinstance(session_or_connection, Connection)
            else session_or_connection.connection()
        )
    except UnboundExecutionError:
        # The session has a bind for each model, and no single connection.
        return
    if dialects()(connection).is_autocommit(connection):
        raise error(
            f"{where}: expected a session with transactions, got one that commits every statement "
            "(isolation level AUTOCOMMIT). Use an engine or session without AUTOCOMMIT: "
            'engine.execution_options(isolation_level="READ COMMITTED") returns one with the same pool.'
        )


@cache
def dialects() -> Callable[[Connection], Dialect]:
    """Return `dexpy.database.dialects.dialect_of`, imported on first use because it imports SQLAlchemy."""
    from dexpy.database.dialects import dialect_of

    return dialect_of


def as_external(session_or_connection: Session | Connection) -> ExternalSession | ExternalConnection:
    """Wrap the session or connection in which a call stores its record."""
    from sqlalchemy.orm import Session

    return (
        ExternalSession(session_or_connection)
        if isinstance(session_or_connection, Session)
        else ExternalConnection(session_or_connection)
    )


def check_session(session: Any, where: str) -> Session:
    """Return the session that runs can join.

    Raises:
        OptionsError: The value is not a session.
    """
    from sqlalchemy.orm import Session, scoped_session

    if isinstance(session, scoped_session):
        return cast("scoped_session[Session]", session)()
    if isinstance(session, Session):
        return session
    raise OptionsError(
        f"{where}: expected a SQLAlchemy Session, got {type(session).__name__}. "
        "Pass the session itself, or the sync_session of an AsyncSession inside run_sync."
    )


def is_async(session: Any) -> bool:
    """Return whether a value is an AsyncSession or AsyncConnection, which can only be awaited."""
    # If the module is not imported, the value is not an instance.
    module = sys.modules.get("sqlalchemy.ext.asyncio")
    return isinstance(session, (getattr(module, "AsyncSession", ()), getattr(module, "AsyncConnection", ())))


@cache
def _listen() -> None:
    from dexpy.transactions.session_listeners import listen

    listen()


@contextmanager
def session(session: Session) -> Generator[Session, None, None]:
    """Make a SQLAlchemy session the current one.

    Operations that are called in the block join its transaction in their own savepoints. Their background runs are
    stored in this transaction, rolled back with it, and published after its commit.
    The caller commits and closes the session.

    Args:
        session: A `Session`, or a `scoped_session`.

    Raises:
        OptionsError: The value is neither.
    """
    checked = check_session(session, "dexpy.session(...)")
    _listen()
    token = enter_transaction(ExternalSession(checked, current_transaction()))
    try:
        yield checked
    finally:
        leave_transaction(token)


def current_session() -> Session:
    """Return the session of the run, or the current one of `session`.

    Raises:
        NotRunning: No session is current.
    """
    transaction = current_transaction()
    if transaction is None:
        raise NotRunning(
            "current_session(): no current session. Call it inside a run or inside `with dexpy.session(...)`."
        )
    return transaction.session()
