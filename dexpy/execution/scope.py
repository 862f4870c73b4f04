"""The session and transaction of one run, begun at the first use.

A run of its own has a session of its own. A run inside another one, or under ``with dexpy.session(...)``,
joins that session in a savepoint.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from dexpy.foundation.errors import NotRunning, SessionOnLoop, TransactionOwned
from dexpy.foundation.log import line
from dexpy.foundation.redaction import class_path
from dexpy.recording.ambient import Ambient, enter_ambient, leave_ambient

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import Session

    from dexpy.execution.continuation import Chain
    from dexpy.execution.progress import Reporter
    from dexpy.execution.stop import Stop
    from dexpy.recording.store import Store

T = TypeVar("T")
OWNED = ("begin", "commit", "rollback", "close", "reset", "invalidate")
"""Methods of a session that begin or end its transaction: inside a run they refuse."""


class Scope:
    """The session of a run.

    Args:
        owner: The operation's name, for messages.
        store: Gives the store, once a session is needed.
        outer: What the run joins, if anything.
        transactional: Whether the whole run is one transaction.
        undone: Called when what the run did was rolled back after all, with the transaction that it joined.
        stop: How somebody else ends the run.
    """

    is_run = True
    performing: bool
    """Whether `perform` is under way."""
    chain: Chain | None
    """The run's steps, once it has asked for one."""
    reporter: Reporter | None
    """Keeps how far the run says it is, once it has said so."""

    def __init__(
        self,
        owner: str,
        store: Callable[[], Store],
        outer: Ambient | None,
        transactional: bool,
        undone: Callable[[], None] | None = None,
        stop: Stop | None = None,
    ) -> None:
        self.owner = owner
        self._store = store
        self._outer = outer
        self._transactional = transactional
        self._undone = undone
        self._stop = stop
        self._open = transactional
        self._thread = threading.get_ident()
        self._session: Session | None = None
        self._root: Any = None
        self._savepoint: Any = None
        self._guarding = False
        self._entered = False
        self._cancelled = False
        self._rows: list[Any] = []
        self._checks: list[Callable[[], None]] = []
        self._waiting: list[Callable[[], None]] = []
        self._afterwards: list[Callable[[], None]] = []
        self.performing = False
        self.chain: Chain | None = None
        self.reporter: Reporter | None = None

    @property
    def joins_run(self) -> bool:
        """Whether this run is inside another one's transaction."""
        return self._outer is not None and self._outer.is_run

    @property
    def root(self) -> Ambient:
        """Whose transaction the run is part of, in the end; itself where it joins nothing."""
        return self if self._outer is None else getattr(self._outer, "root", self._outer)

    @property
    def store(self) -> Store:
        """The store of records and locks."""
        return self._store()

    @property
    def is_cancelled(self) -> bool:
        """Whether nothing of this run may be committed any more."""
        return self._cancelled

    def before_commit(self, check: Callable[[], None]) -> None:
        """Have something looked at before each commit of the run; what it raises keeps it from happening."""
        self._checks.append(check)

    def session(self) -> Session:
        """The run's session.

        Raises:
            SessionOnLoop: This is not the run's thread.
            NotRunning: The run is over, or has no transaction at this point.
        """
        if threading.get_ident() != self._thread:
            raise SessionOnLoop(
                f"{self.owner}: self.session was used on another thread than the run's; in an `async def perform` "
                "that is the event loop, where blocking work must not run. "
                "Write: value = await self.in_session(lambda session: ...)."
            )
        if not self._open:
            raise NotRunning(
                f"{self.owner} says transaction = False, so there is a session only inside "
                "`with self.transaction() as session:`."
                if not self._transactional
                else f"{self.owner}: the run is over, and its session with it."
            )
        if self._stop is not None:
            self._stop.check()
        if self._session is None:
            self._begin()
        assert self._session is not None  # noqa: S101 - what _begin has just made
        return self._session

    @property
    def is_own_thread(self) -> bool:
        """Whether this is the run's thread; a coroutine's is another."""
        return threading.get_ident() == self._thread

    @property
    def holds_write_lock(self) -> bool:
        """Whether the run's own transaction keeps everybody else from writing to the records: on SQLite."""
        session = self._session
        if session is None or not session.in_transaction() or not self._store().database.is_sqlite:
            return False
        if not self._store().holds(session):
            return False
        driver: Any = session.connection().connection.driver_connection
        return bool(driver.in_transaction)

    @property
    def is_nested(self) -> bool:
        """Whether a savepoint of the application's own is open in the run's session."""
        return self._session is not None and self._savepoint is None and self._session.in_nested_transaction()

    @property
    def is_open(self) -> bool:
        """Whether there is a transaction, or would be with the first use of the session."""
        return self._open

    def has_written(self) -> bool:
        """Whether a commit now would keep anything, or set anything off."""
        if self._waiting:
            return True
        if self._session is None:
            return False
        from dexpy.recording import looks, outbox

        return outbox.holds_anything(self._session) or looks.has_written(self._session)

    def _begin(self) -> None:
        if self._outer is not None:
            session = self._outer.session()
            # It flushes, which may fail: until then the session is not this run's to end.
            self._savepoint = session.begin_nested()
            self._session = session
        else:
            self._session = self._store().new_session()
            if self._stop is not None:
                from dexpy.recording.looks import before_each_use

                before_each_use(self._session, self._stop.check)
            self._session.begin()
            self._session.add_all(self._rows)
        self._guard(self._session)
        if self._transactional and self._waiting:
            from dexpy.recording import outbox

            # From here on the session keeps the order, and drops what a savepoint takes back.
            waiting, self._waiting = self._waiting, []
            for action in waiting:
                outbox.after_commit(self._session, action)

    def _guard(self, session: Session) -> None:
        self._root = session.get_transaction()
        if "commit" not in vars(session):
            self._guarding = True
            for name in OWNED:
                setattr(session, name, self._refusal(session, name))

    def _refusal(self, session: Session, method: str) -> Callable[..., Any]:
        def refuse(nested: bool = False, *_: Any, **__: Any) -> Any:
            if method == "begin" and nested:
                return type(session).begin(session, nested=True)
            raise TransactionOwned(
                f"{self.owner}: session.{method}() was called inside a run, whose transaction commits and rolls back "
                "by itself. Raise an Error to undo everything; write `with self.session.begin_nested():` for a part."
            )

        return refuse

    def _release_guard(self) -> None:
        if self._guarding and self._session is not None:
            self._guarding = False
            for name in OWNED:
                vars(self._session).pop(name, None)

    def cancel(self) -> None:
        """From another thread: let nothing of this run be committed that has not been yet."""
        self._cancelled = True

    def commit(self, settle: Callable[[Connection], None] | None = None) -> None:
        """End the run's transaction well.

        Args:
            settle: Writes the record, last before the commit; called if records and session share a database.

        Raises:
            asyncio.CancelledError: The run was cancelled meanwhile.
            TransactionOwned: The transaction was ended inside the run.
        """
        self._commit_session(settle)
        waiting, self._waiting = self._waiting, []
        for action in waiting:
            self._pass_on(action)
        self._finish()

    def _check_before_commit(self) -> None:
        if self._cancelled:
            raise asyncio.CancelledError("the run was cancelled")
        if self._stop is not None:
            self._stop.check()
        for check in self._checks:
            check()

    def _flush(self, session: Session) -> None:
        session.flush()
        if session.get_transaction() is not self._root:
            raise TransactionOwned(
                f"{self.owner}: the transaction of the run was ended inside it. Leave begin, commit and rollback "
                "to the run; write `with self.session.begin_nested():` for a part."
            )

    def _commit_session(self, settle: Callable[[Connection], None] | None = None) -> None:
        self._check_before_commit()
        session = self._session
        if session is not None:
            self._flush(session)
            settles = settle is not None and self._store().holds(session)
            if settle is not None and settles:
                settle(session.connection())
            self._release_guard()
            if self._savepoint is not None:
                self._savepoint.commit()
                # In a session of the application's, a row of the same transaction is simply gone with it.
                if self._undone is not None and (self.joins_run or not settles):
                    from dexpy.recording import outbox

                    outbox.after_commit(session, _nothing, self._undone)
            else:
                # Over before the hooks run: one that asks for the session must not get one that nobody commits.
                self._open = False
                session.commit()
                session.close()
            self._session = self._savepoint = None

    # ------------------------------------------------------------ a run that is a chain of transactions

    @contextmanager
    def part(self) -> Generator[None, None, None]:
        """One of the transactions of a run that is a chain of them, to be ended by `commit_part`.

        What was only read before it is let go: a part sees the rows as they are when it begins. An exception undoes
        it; a loop that is left in the middle leaves it open, for the end of the run to decide.
        """
        was_open = self._open
        self._open = True
        if self._session is not None:
            self._go_on(self._session, commits=False)
        left = False
        try:
            with self._ambient(self):
                yield
        except GeneratorExit:
            left = True
            raise
        except BaseException:
            self.undo_part()
            raise
        finally:
            self._open = was_open or left

    def commit_part(self, settle: Callable[[Connection | None], None]) -> None:
        """Commit what this part of the run has done; the run goes on.

        Args:
            settle: Writes what is kept of it, last before the commit; called without a connection, after the commit,
                if records and session do not share a database, and if there was no session.

        Raises:
            asyncio.CancelledError: The run was cancelled meanwhile.
            TransactionOwned: The transaction was ended inside the part.
        """
        self._check_before_commit()
        session = self._session
        shares = False
        if session is not None:
            self._flush(session)
            shares = self._store().holds(session)
            if shares:
                settle(session.connection())
            if self._savepoint is not None:
                self._release_guard()
                self._savepoint.commit()
                self._session = self._savepoint = None
            else:
                # As at the end of a run: a hook that asks for the session must not get one that nobody commits.
                self._open = False
                try:
                    self._go_on(session, commits=True)
                finally:
                    self._open = True
        if not shares:
            settle(None)
        waiting, self._waiting = self._waiting, []
        for action in waiting:
            self._pass_on(action)

    def undo_part(self) -> None:
        """Undo what this part of the run has done."""
        self._waiting.clear()
        if self._session is None or self._savepoint is not None:
            self._rollback_session()
            return
        try:
            self._go_on(self._session, commits=False)
        except Exception as error:  # noqa: BLE001 - the failure that led here is the one to be told
            line(logging.WARNING, "rollback.failed", operation=self.owner, error=class_path(error))
            self._rollback_session()

    def _go_on(self, session: Session, *, commits: bool) -> None:
        """End a session's transaction, and have it ready for the next one, which sees the rows anew."""
        from dexpy.recording import looks

        self._release_guard()
        if commits:
            session.commit()
        else:
            session.rollback()
        looks.forget_writes(session)
        if not self._transactional:
            # As after a block: the rows stay readable, and the next transaction takes them in.
            session.close()
            self._session = None
            return
        session.expire_all()
        session.begin()
        self._guard(session)

    @contextmanager
    def savepoint(self) -> Generator[None, None, None]:
        """A part of a run that is one transaction: an exception undoes it alone."""
        if self._session is not None:
            with self.session().begin_nested():
                yield
            return
        waiting = list(self._waiting)
        try:
            yield
        except BaseException:
            # Nothing had begun, so what there is now is of this part.
            self._rollback_session()
            self._waiting = waiting
            raise

    def rollback(self) -> None:
        """End the run's transaction by undoing it."""
        self._waiting.clear()
        self._rollback_session()
        self._finish()

    def _rollback_session(self) -> None:
        if self._session is not None:
            self._release_guard()
            session, self._session = self._session, None
            ending = session if self._savepoint is None else self._savepoint
            try:
                ending.rollback()
                if ending is session:
                    session.close()
            except Exception as error:  # noqa: BLE001 - the failure that led here is the one to be told
                line(logging.WARNING, "rollback.failed", operation=self.owner, error=class_path(error))
            self._savepoint = None

    def _finish(self) -> None:
        self._open = False
        afterwards, self._afterwards = self._afterwards, []
        for action in afterwards:
            action()

    def keep(self, rows: Iterable[Any]) -> None:
        """Rows that each transaction of a run without one of its own takes in."""
        if not self._transactional:
            self._rows.extend(rows)

    @contextmanager
    def block(self) -> Generator[Session, None, None]:
        """A transaction inside a run that says ``transaction = False``: ``with self.transaction():``."""
        if self._open:
            # Already inside one: a part of it.
            session = self.session()
            with session.begin_nested():
                yield session
            return
        self._open = True
        try:
            with self._ambient(self):
                yield self.session()
            self._commit_session()
        except BaseException:
            self._rollback_session()
            raise
        finally:
            self._open = False

    def with_session(self, function: Callable[[Session], T]) -> T:
        """Call a function with the session; in a transaction of its own where the run has none."""
        if self._transactional or self._open:
            return function(self.session())
        with self.block() as session:
            return function(session)

    def _pass_on(self, action: Callable[[], None]) -> None:
        if self._outer is not None:
            self._outer.after_commit(action)
        else:
            from dexpy.recording.outbox import attempt

            attempt(action)

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run an action when the outermost transaction has committed; never if it is rolled back."""
        if self._session is not None and self._open:
            from dexpy.recording import outbox

            outbox.after_commit(self._session, action)
        else:
            self._waiting.append(action)

    def at_end(self, action: Callable[[], None]) -> None:
        """Run an action when no transaction is open any more, either way."""
        if self._session is not None:
            from dexpy.recording import outbox

            outbox.at_end(self._session, action)
        elif self._outer is not None:
            self._outer.at_end(action)
        elif self._entered:
            self._afterwards.append(action)
        else:
            action()

    @contextmanager
    def entered(self) -> Generator[None, None, None]:
        """Make this the session that runs inside join."""
        with self._ambient(self if self._transactional else self._outer):
            yield

    @contextmanager
    def _ambient(self, ambient: Ambient | None) -> Generator[None, None, None]:
        token = enter_ambient(ambient)
        before, self._entered = self._entered, ambient is self
        try:
            yield
        finally:
            self._entered = before
            leave_ambient(token)


def _nothing() -> None:
    return None
