"""The unit of work: the session and transaction of one run, begun at the first use.

A run of its own has a session of its own. A run inside another one, or under ``with dexpy.session(...)``,
joins that session in a savepoint.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from dexpy.database.current_transaction import CurrentTransaction, shared_sessions, transaction_scope
from dexpy.foundation.errors import ConfigurationError, NotRunning, SessionOnLoop
from dexpy.foundation.forks import leave_if_forked
from dexpy.foundation.scoped_values import Entered
from dexpy.transactions import commit_hooks, session_events
from dexpy.transactions.guarded_session import GuardedSession
from dexpy.transactions.sessions import check_transactional

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import Session

    from dexpy.execution.cancellation import CancelToken
    from dexpy.execution.durable.progress_writer import ProgressWriter
    from dexpy.recording.store import Store
    from dexpy.transactions.run_sessions import RunSessions

T = TypeVar("T")


class UnitOfWork:
    """The session of a run.

    Args:
        owner: The operation's name, for messages.
        store: Returns the store when a session is needed.
        outer: The transaction that the run joins, if any.
        transactional: Whether the whole run is one transaction.
        on_rollback: Called when the transaction that the run joined is rolled back after the run's commit.
        cancel_token: Cancels, interrupts or times out the run.
    """

    is_run = True
    performing: bool
    """Whether `perform` is running."""
    progress: ProgressWriter | None
    """Writes the run's progress; None before it has reported any."""
    is_open: bool
    """Whether there is a transaction, or would be with the first use of the session."""
    guarded: GuardedSession | None
    """The run's session, once it has begun."""
    hooks: list[Callable[[], None]]
    """The after-commit hooks, while no session has begun."""

    def __init__(
        self,
        owner: str,
        store: Callable[[], Store],
        outer: CurrentTransaction | None,
        transactional: bool,
        on_rollback: Callable[[], None] | None = None,
        cancel_token: CancelToken | None = None,
    ) -> None:
        self.owner = owner
        self._store = store
        self._outer = outer
        self.transactional = transactional
        self._on_rollback = on_rollback
        self._cancel_token = cancel_token
        self.is_open = transactional
        self._thread = threading.get_ident()
        self._pid = os.getpid()
        self.guarded: GuardedSession | None = None
        self._entered = False
        self._cancelled = False
        self._rows: list[Any] = []
        self._checks: list[Callable[[], None]] = []
        self.hooks: list[Callable[[], None]] = []
        self._end_actions: list[Callable[[], None]] = []
        self.performing = False
        self.progress: ProgressWriter | None = None

    @property
    def joins_run(self) -> bool:
        """Whether this run is inside another one's transaction."""
        return self._outer is not None and self._outer.is_run

    @property
    def root(self) -> CurrentTransaction:
        """The outermost transaction of the run; itself if it joins none."""
        transaction: CurrentTransaction = self
        while isinstance(transaction, UnitOfWork) and transaction._outer is not None:
            transaction = transaction._outer
        return transaction

    @property
    def store(self) -> Store:
        """The store of records and locks."""
        return self._store()

    @property
    def is_cancelled(self) -> bool:
        """Whether this run must not commit any more."""
        return self._cancelled

    def before_commit(self, check: Callable[[], None]) -> None:
        """Add a check that runs before each commit of the run and prevents it by raising."""
        self._checks.append(check)

    def session(self) -> Session:
        """Return the run's session.

        Raises:
            SessionOnLoop: This is not the run's thread.
            NotRunning: The run has ended, has no transaction at this point, or is in another process.
        """
        if os.getpid() != self._pid:
            raise NotRunning(
                f"{self.owner}: self.session belongs to the parent process, which performs the run. Open another "
                "session in this process, or call an operation."
            )
        if threading.get_ident() != self._thread:
            raise SessionOnLoop(
                f"{self.owner}: self.session was used outside of the run's thread. An `async def perform` runs on the "
                "event loop, which the session would block. "
                "Write: value = await self.in_session(lambda session: ...)."
            )
        if not self.is_open:
            raise NotRunning(
                f"{self.owner}: self.session is not available here, because the class declares transaction = False. "
                "Write: `with self.transaction() as session:`."
                if not self.transactional
                else f"{self.owner}: the run has ended, and its session is closed."
            )
        if self._cancel_token is not None:
            self._cancel_token.check()
        guarded = self.guarded
        return guarded.session if guarded is not None else self._begin()

    @property
    def is_own_thread(self) -> bool:
        """Whether this is the run's thread; a coroutine's is another."""
        return threading.get_ident() == self._thread

    def open_session(self) -> Session | None:
        """See `CurrentTransaction`."""
        guarded = self.guarded
        if guarded is None or not self.is_own_thread or not guarded.session.in_transaction():
            return None
        return guarded.session

    @property
    def holds_write_lock(self) -> bool:
        """Whether the run's own transaction holds the records' write lock, on SQLite."""
        guarded = self.guarded
        if guarded is None or not guarded.session.in_transaction():
            return False
        session, dialect = guarded.session, self._store().database.dialect
        if not dialect.has_one_write_lock:
            return False
        if not self._store().shares_database(session):
            return False
        return dialect.holds_write_lock(session.connection())

    @property
    def is_nested(self) -> bool:
        """Whether the application has an open savepoint in the run's session."""
        guarded = self.guarded
        return guarded is not None and not guarded.is_joined and guarded.session.in_nested_transaction()

    def has_written(self) -> bool:
        """Whether a commit would write anything or run hooks."""
        if self.hooks:
            return True
        if self.guarded is None:
            return False
        session = self.guarded.session
        return commit_hooks.has_pending_hooks(session) or session_events.has_written(session)

    def _begin(self) -> Session:
        if self._outer is not None:
            session = self._outer.session()
            check_transactional(session, f"{self.owner}: the current session")
            # begin_nested() flushes, which may fail: before that this run must not end the session.
            self.guarded = guarded = GuardedSession(
                self.owner, session, session.begin_nested(), self._shared_sessions()
            )
        else:
            session = self._store().new_session()
            self.guarded = guarded = GuardedSession(self.owner, session, None, self._shared_sessions())
            if self._cancel_token is not None:
                session_events.check_on_each_use(session, self._cancel_token.check)
            session.begin()
            check_transactional(session, f"{self.owner}: session_factory=", ConfigurationError)
            session.add_all(self._rows)
        guarded.guard()
        if self.transactional and self.hooks:
            # From here on the session orders the hooks, and drops those of a savepoint that is rolled back.
            pending_hooks, self.hooks = self.hooks, []
            for action in pending_hooks:
                commit_hooks.after_commit(session, action)
        return session

    def _shared_sessions(self) -> RunSessions | None:
        """The application's `scoped_session`, if it has one."""
        return self._store().sessions if shared_sessions.exist else None

    def begin_if_scoped(self) -> None:
        """Begin the session now, if it replaces the current session of the application's `scoped_session`."""
        if not self.transactional or self.guarded is not None:
            return
        sessions = self._store().sessions
        if sessions is not None and sessions.has_scope:
            self._begin()

    def write_progress(self) -> None:
        """Write the newest progress, before the end of the run is written."""
        if self.progress is not None:
            self.progress.write()

    def settle_progress(self, connection: Connection) -> None:
        """See `ProgressWriter.settle`."""
        if self.progress is not None:
            self.progress.settle(connection)

    def cancel(self) -> None:
        """Prevent further commits of this run; may be called from another thread."""
        self._cancelled = True

    def commit(self, settle: Callable[[Connection], None] | None = None) -> None:
        """Commit the run's transaction.

        Args:
            settle: Writes the record, last before the commit; called if records and session share a database.

        Raises:
            asyncio.CancelledError: The run was cancelled meanwhile.
            TransactionOwned: The transaction was ended inside the run.
        """
        self._commit_session(settle)
        if self.hooks:
            self.run_hooks()
        self._finish()

    def check_before_commit(self) -> None:
        """Raise if anything prevents the run from committing.

        Raises:
            asyncio.CancelledError: The run was cancelled meanwhile.
        """
        if os.getpid() != self._pid:
            leave_if_forked(self._pid)
        if self._cancelled:
            raise asyncio.CancelledError("the run was cancelled")
        if self._cancel_token is not None:
            self._cancel_token.check()
        for check in self._checks:
            check()

    def _commit_session(self, settle: Callable[[Connection], None] | None = None) -> None:
        self.check_before_commit()
        guarded = self.guarded
        if guarded is None:
            return
        guarded.flush()
        session = guarded.session
        shares_database = settle is not None and self._store().shares_database(session)
        if settle is not None and shares_database:
            with self._store().database.with_own_schema(session.connection()) as connection:
                settle(connection)
        if guarded.is_joined:
            guarded.commit()
            # If the record is in the application's own transaction, it is rolled back with it.
            if self._on_rollback is not None and (self.joins_run or not shares_database):
                commit_hooks.after_commit(session, _nothing, self._on_rollback)
        else:
            # Closed before the hooks run: a hook must not get a session that is not committed afterwards.
            self.is_open = False
            guarded.commit()
        self.guarded = None

    def rollback(self) -> None:
        """Roll the run's transaction back."""
        self.hooks.clear()
        self.roll_back_session()
        self._finish()

    def roll_back_session(self) -> None:
        """Roll back and release the run's session; the run may begin another one."""
        guarded, self.guarded = self.guarded, None
        if guarded is not None:
            guarded.rollback()

    def _finish(self) -> None:
        self.is_open = False
        end_actions, self._end_actions = self._end_actions, []
        for action in end_actions:
            action()

    def add_rows(self, rows: Iterable[Any]) -> None:
        """Add rows to the session of each transaction of a run with ``transaction = False``."""
        if not self.transactional:
            self._rows.extend(rows)

    @contextmanager
    def block(self) -> Generator[Session, None, None]:
        """A transaction inside a run with ``transaction = False``: ``with self.transaction():``."""
        if self.is_open:
            # Inside another block: a savepoint of it.
            session = self.session()
            with session.begin_nested():
                yield session
            return
        self.is_open = True
        try:
            with self.as_current():
                yield self.session()
            self._commit_session()
        except BaseException:
            self.roll_back_session()
            raise
        finally:
            self.is_open = False

    def with_session(self, function: Callable[[Session], T]) -> T:
        """Call a function with the session; in a transaction of its own if the run has none."""
        if self.transactional or self.is_open:
            return function(self.session())
        with self.block() as session:
            return function(session)

    def run_hooks(self) -> None:
        """After a commit, pass the pending hooks to the outer transaction, or run them."""
        pending_hooks, self.hooks = self.hooks, []
        for action in pending_hooks:
            if self._outer is not None:
                self._outer.after_commit(action)
            else:
                commit_hooks.run_hook(action)

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run an action when the outermost transaction has committed; never if it is rolled back."""
        if self.guarded is not None and self.is_open:
            commit_hooks.after_commit(self.guarded.session, action)
        else:
            self.hooks.append(action)

    def at_end(self, action: Callable[[], None]) -> None:
        """Run an action when the outermost transaction has ended, by commit or rollback."""
        # A loop instead of recursion: runs may be nested as deep as Python's stack allows.
        transaction: CurrentTransaction | None = self
        while isinstance(transaction, UnitOfWork) and transaction.guarded is None and transaction._outer is not None:
            transaction = transaction._outer
        if not isinstance(transaction, UnitOfWork):
            assert transaction is not None  # noqa: S101 - the loop ends before it
            transaction.at_end(action)
        elif transaction.guarded is not None:
            commit_hooks.at_end(transaction.guarded.session, action)
        elif transaction._entered:
            transaction._end_actions.append(action)
        else:
            action()

    def enter(self) -> Entered[CurrentTransaction | None]:
        """Make this the transaction that nested runs join, if the run has one; pass the result to `leave`."""
        self._entered = self.transactional
        return transaction_scope.enter(self if self.transactional else self._outer)

    def leave(self, block: Entered[CurrentTransaction | None]) -> None:
        """Restore the transaction that was current before `enter`."""
        self._entered = False
        transaction_scope.leave(block)

    @contextmanager
    def entered(self) -> Generator[None, None, None]:
        """`enter` and `leave`, as a block."""
        block = self.enter()
        try:
            yield
        finally:
            self.leave(block)

    @contextmanager
    def as_current(self) -> Generator[None, None, None]:
        """Make this the transaction that nested runs join, for a transaction inside a run."""
        was_entered, self._entered = self._entered, True
        block = transaction_scope.enter(self)
        try:
            yield
        finally:
            self._entered = was_entered
            transaction_scope.leave(block)


def _nothing() -> None:
    return None
