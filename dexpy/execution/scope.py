"""The session and transaction of one run, begun at the first use.

A run of its own has a session of its own. A run inside another one, or under ``with dexpy.session(...)``,
joins that session in a savepoint.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

from dexpy.execution.owned import OwnedSession
from dexpy.foundation.errors import NotRunning, SessionOnLoop
from dexpy.recording.ambient import Ambient, enter_ambient, leave_ambient

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection
    from sqlalchemy.orm import Session

    from dexpy.execution.continuation import Chain
    from dexpy.execution.progress import Reporter
    from dexpy.execution.stop import Stop
    from dexpy.recording.store import Store

T = TypeVar("T")


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
    is_open: bool
    """Whether there is a transaction, or would be with the first use of the session."""
    owned: OwnedSession | None
    """The run's session, once it has begun."""
    waiting: list[Callable[[], None]]
    """What is left for after the commit, while no session has begun."""

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
        self.transactional = transactional
        self._undone = undone
        self._stop = stop
        self.is_open = transactional
        self._thread = threading.get_ident()
        self.owned: OwnedSession | None = None
        self._entered = False
        self._cancelled = False
        self._rows: list[Any] = []
        self._checks: list[Callable[[], None]] = []
        self.waiting: list[Callable[[], None]] = []
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
        if not self.is_open:
            raise NotRunning(
                f"{self.owner} says transaction = False, so there is a session only inside "
                "`with self.transaction() as session:`."
                if not self.transactional
                else f"{self.owner}: the run is over, and its session with it."
            )
        if self._stop is not None:
            self._stop.check()
        owned = self.owned
        return owned.session if owned is not None else self._begin()

    @property
    def is_own_thread(self) -> bool:
        """Whether this is the run's thread; a coroutine's is another."""
        return threading.get_ident() == self._thread

    @property
    def holds_write_lock(self) -> bool:
        """Whether the run's own transaction keeps everybody else from writing to the records: on SQLite."""
        owned = self.owned
        if owned is None or not owned.session.in_transaction() or not self._store().database.is_sqlite:
            return False
        session = owned.session
        if not self._store().holds(session):
            return False
        driver: Any = session.connection().connection.driver_connection
        return bool(driver.in_transaction)

    @property
    def is_nested(self) -> bool:
        """Whether a savepoint of the application's own is open in the run's session."""
        owned = self.owned
        return owned is not None and not owned.is_joined and owned.session.in_nested_transaction()

    def has_written(self) -> bool:
        """Whether a commit now would keep anything, or set anything off."""
        if self.waiting:
            return True
        if self.owned is None:
            return False
        from dexpy.recording import looks, outbox

        session = self.owned.session
        return outbox.holds_anything(session) or looks.has_written(session)

    def _begin(self) -> Session:
        if self._outer is not None:
            session = self._outer.session()
            # It flushes, which may fail: until then the session is not this run's to end.
            self.owned = owned = OwnedSession(self.owner, session, session.begin_nested())
        else:
            session = self._store().new_session()
            self.owned = owned = OwnedSession(self.owner, session)
            if self._stop is not None:
                from dexpy.recording.looks import before_each_use

                before_each_use(session, self._stop.check)
            session.begin()
            session.add_all(self._rows)
        owned.guard()
        if self.transactional and self.waiting:
            from dexpy.recording import outbox

            # From here on the session keeps the order, and drops what a savepoint takes back.
            waiting, self.waiting = self.waiting, []
            for action in waiting:
                outbox.after_commit(session, action)
        return session

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
        self.pass_on()
        self._finish()

    def check_before_commit(self) -> None:
        """Look whether anything keeps the run from committing.

        Raises:
            asyncio.CancelledError: The run was cancelled meanwhile.
        """
        if self._cancelled:
            raise asyncio.CancelledError("the run was cancelled")
        if self._stop is not None:
            self._stop.check()
        for check in self._checks:
            check()

    def _commit_session(self, settle: Callable[[Connection], None] | None = None) -> None:
        self.check_before_commit()
        owned = self.owned
        if owned is None:
            return
        owned.flush()
        session = owned.session
        settles = settle is not None and self._store().holds(session)
        if settle is not None and settles:
            settle(session.connection())
        if owned.is_joined:
            owned.commit()
            # In a session of the application's, a row of the same transaction is simply gone with it.
            if self._undone is not None and (self.joins_run or not settles):
                from dexpy.recording import outbox

                outbox.after_commit(session, _nothing, self._undone)
        else:
            # Over before the hooks run: one that asks for the session must not get one that nobody commits.
            self.is_open = False
            owned.commit()
        self.owned = None

    def rollback(self) -> None:
        """End the run's transaction by undoing it."""
        self.waiting.clear()
        self.undo()
        self._finish()

    def undo(self) -> None:
        """Undo what was done in the run's session, and let go of it; the run may begin another one."""
        owned, self.owned = self.owned, None
        if owned is not None:
            owned.rollback()

    def _finish(self) -> None:
        self.is_open = False
        afterwards, self._afterwards = self._afterwards, []
        for action in afterwards:
            action()

    def keep(self, rows: Iterable[Any]) -> None:
        """Rows that each transaction of a run without one of its own takes in."""
        if not self.transactional:
            self._rows.extend(rows)

    @contextmanager
    def block(self) -> Generator[Session, None, None]:
        """A transaction inside a run that says ``transaction = False``: ``with self.transaction():``."""
        if self.is_open:
            # Already inside one: a part of it.
            session = self.session()
            with session.begin_nested():
                yield session
            return
        self.is_open = True
        try:
            with self.inside():
                yield self.session()
            self._commit_session()
        except BaseException:
            self.undo()
            raise
        finally:
            self.is_open = False

    def with_session(self, function: Callable[[Session], T]) -> T:
        """Call a function with the session; in a transaction of its own where the run has none."""
        if self.transactional or self.is_open:
            return function(self.session())
        with self.block() as session:
            return function(session)

    def pass_on(self) -> None:
        """A transaction has committed: let what waited for that go on, to the outer one or to happen now."""
        waiting, self.waiting = self.waiting, []
        for action in waiting:
            if self._outer is not None:
                self._outer.after_commit(action)
            else:
                from dexpy.recording.outbox import attempt

                attempt(action)

    def after_commit(self, action: Callable[[], None]) -> None:
        """Run an action when the outermost transaction has committed; never if it is rolled back."""
        if self.owned is not None and self.is_open:
            from dexpy.recording import outbox

            outbox.after_commit(self.owned.session, action)
        else:
            self.waiting.append(action)

    def at_end(self, action: Callable[[], None]) -> None:
        """Run an action when no transaction is open any more, either way."""
        if self.owned is not None:
            from dexpy.recording import outbox

            outbox.at_end(self.owned.session, action)
        elif self._outer is not None:
            self._outer.at_end(action)
        elif self._entered:
            self._afterwards.append(action)
        else:
            action()

    @contextmanager
    def entered(self) -> Generator[None, None, None]:
        """Make this the session that runs inside join, if the run is a transaction."""
        with self._ambient(self if self.transactional else self._outer):
            yield

    def inside(self) -> AbstractContextManager[None]:
        """Make this the session that runs inside join, for a transaction of a run that is none as a whole."""
        return self._ambient(self)

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
