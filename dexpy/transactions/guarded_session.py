"""The guarded session of a run: only dexpy begins and ends its transaction."""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NoReturn

from dexpy.foundation.errors import NotRunning, TransactionOwned
from dexpy.foundation.forks import leave_if_forked
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path
from dexpy.transactions import session_events

if TYPE_CHECKING:
    from sqlalchemy.orm import Session, SessionTransaction

    from dexpy.transactions.run_sessions import RunSessions, SharedSession

GUARDED_METHODS = ("begin", "commit", "rollback", "close", "reset", "invalidate")
"""Methods of a session that begin or end its transaction; they raise inside a run."""


_open: weakref.WeakSet[GuardedSession] = weakref.WeakSet()


class ForkedSession:
    """Replaces the parent's connection in a forked process; every use raises."""

    def __getattr__(self, name: str) -> NoReturn:
        raise NotRunning(
            "session: the session of a run was used in a fork of its process. "
            "Open a new session in the fork, or call an operation."
        )


def _detach_all_in_fork() -> None:
    for guarded in list(_open):
        guarded.detach_in_fork()


os.register_at_fork(after_in_child=_detach_all_in_fork)


class GuardedSession:
    """The session of a run.

    Args:
        owner: The operation's name, for messages.
        session: The run's own session, or the one that it joins.
        savepoint: The savepoint around the run in a session that it joins; None for its own session.
        sessions: Makes it the current session of the application's `scoped_session` while the run uses it.
    """

    def __init__(
        self,
        owner: str,
        session: Session,
        savepoint: SessionTransaction | None = None,
        sessions: RunSessions | None = None,
    ) -> None:
        self._sessions = sessions
        self._shared: SharedSession | None = None
        self.session = session
        self._owner = owner
        self._savepoint = savepoint
        self._root: SessionTransaction | None = None
        self._guarding = False
        self._pid = os.getpid()
        _open.add(self)

    def detach_in_fork(self) -> None:
        """In a fork, remove the session's connections, which the parent process uses."""
        transaction: Any = self.session.get_transaction()
        while transaction is not None:
            # SQLAlchemy has no public method that returns the connections of a session without opening one.
            for connection, *_ in list(getattr(transaction, "_connections", {}).values()):
                with contextlib.suppress(Exception):
                    connection.connection.dbapi_connection = ForkedSession()
            transaction = transaction.parent

    @property
    def is_joined(self) -> bool:
        """Whether the run is a savepoint in a session that it joins."""
        return self._savepoint is not None

    def guard(self) -> None:
        """Make the methods that begin or end the transaction raise; only the outermost run calls this."""
        self._root = self.session.get_transaction()
        if self._sessions is not None:
            self._shared = self._sessions.set_current(self.session)
        if "commit" not in vars(self.session):
            self._guarding = True
            for name in GUARDED_METHODS:
                setattr(self.session, name, self._refusal(name))

    def _refusal(self, method: str) -> Callable[..., Any]:
        session = self.session

        def refuse(nested: bool = False, *_: Any, **__: Any) -> Any:
            if method == "begin" and nested:
                return type(session).begin(session, nested=True)
            raise TransactionOwned(
                f"{self._owner}: session.{method}() was called inside a run; dexpy ends the transaction of a run. "
                "Raise an Error to roll back all of it; use `with self.session.begin_nested():` for a part."
            )

        return refuse

    def _release(self) -> None:
        if self._shared is not None:
            # Before the end of the transaction: its hooks must not use a session that will not commit again.
            self._shared.restore()
            self._shared = None
        if self._guarding:
            self._guarding = False
            for name in GUARDED_METHODS:
                vars(self.session).pop(name, None)

    def flush(self) -> None:
        """Flush the session before a commit.

        Raises:
            TransactionOwned: Code inside the run has ended the transaction.
        """
        leave_if_forked(self._pid)
        self.session.flush()
        if self.session.get_transaction() is not self._root:
            raise TransactionOwned(
                f"{self._owner}: the transaction of the run was ended inside it; only dexpy begins and ends this "
                "transaction. Use `with self.session.begin_nested():` for a part."
            )

    def commit(self) -> None:
        """Commit the savepoint of the run, or its transaction, and close its own session."""
        leave_if_forked(self._pid, sys.exc_info()[1])
        self._release()
        if self._savepoint is not None:
            self._savepoint.commit()
        else:
            self.session.commit()
            self.session.close()

    def rollback(self) -> None:
        """Roll back the savepoint or transaction of the run, and close its own session; log errors, and raise none."""
        leave_if_forked(self._pid, sys.exc_info()[1])
        self._release()
        try:
            if self._savepoint is not None:
                self._savepoint.rollback()
            else:
                self.session.rollback()
                self.session.close()
        except Exception as error:  # noqa: BLE001 - the error that caused the rollback is raised
            log_event(LogEvent.ROLLBACK_FAILED, operation=self._owner, error=class_path(error))

    def end_segment(self, *, commits: bool) -> None:
        """End the session's transaction and keep the session, for a run of several transactions."""
        leave_if_forked(self._pid, sys.exc_info()[1])
        self._release()
        if commits:
            self.session.commit()
        else:
            self.session.rollback()
        session_events.forget_writes(self.session)

    def begin_segment(self) -> None:
        """Begin the session's next transaction, which loads all rows again."""
        self.session.expire_all()
        self.session.begin()
        self.guard()
