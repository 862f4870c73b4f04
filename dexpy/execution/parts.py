"""Parts: the transactions of a run that is a chain of them, one for each step."""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dexpy.foundation.log import line
from dexpy.foundation.redaction import class_path

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from dexpy.execution.owned import OwnedSession
    from dexpy.execution.scope import Scope


class Parts:
    """The transactions of one run.

    Args:
        scope: The run's.
    """

    def __init__(self, scope: Scope) -> None:
        self._scope = scope

    @contextmanager
    def part(self) -> Generator[None, None, None]:
        """One of them, to be ended by `commit`.

        What was only read before it is let go: a part sees the rows as they are when it begins. An exception undoes
        it; a loop that is left in the middle leaves it open, for the end of the run to decide.
        """
        scope = self._scope
        was_open = scope.is_open
        scope.is_open = True
        if scope.owned is not None:
            self._go_on(scope.owned, commits=False)
        left = False
        try:
            with scope.inside():
                yield
        except GeneratorExit:
            left = True
            raise
        except BaseException:
            self._undo()
            raise
        finally:
            scope.is_open = was_open or left

    def commit(self, settle: Callable[[Connection | None], None]) -> None:
        """Commit what this part of the run has done; the run goes on.

        Args:
            settle: Writes what is kept of it, last before the commit; called without a connection, after the commit,
                if records and session do not share a database, and if there was no session.

        Raises:
            asyncio.CancelledError: The run was cancelled meanwhile.
            TransactionOwned: The transaction was ended inside the part.
        """
        scope = self._scope
        scope.check_before_commit()
        owned = scope.owned
        shares = False
        if owned is not None:
            owned.flush()
            shares = scope.store.holds(owned.session)
            if shares:
                settle(owned.session.connection())
            if owned.is_joined:
                owned.commit()
                scope.owned = None
            else:
                # As at the end of a run: a hook that asks for the session must not get one that nobody commits.
                scope.is_open = False
                try:
                    self._go_on(owned, commits=True)
                finally:
                    scope.is_open = True
        if not shares:
            settle(None)
        scope.pass_on()

    def _undo(self) -> None:
        """Undo what this part of the run has done."""
        scope = self._scope
        scope.waiting.clear()
        if scope.owned is None or scope.owned.is_joined:
            scope.undo()
            return
        try:
            self._go_on(scope.owned, commits=False)
        except Exception as error:  # noqa: BLE001 - the failure that led here is the one to be told
            line(logging.WARNING, "rollback.failed", operation=scope.owner, error=class_path(error))
            scope.undo()

    def _go_on(self, owned: OwnedSession, *, commits: bool) -> None:
        """End a session's transaction, and have it ready for the next one, which sees the rows anew."""
        owned.end_part(commits=commits)
        if self._scope.transactional:
            owned.begin_part()
        else:
            # As after a block: the rows stay readable, and the next transaction takes them in.
            owned.session.close()
            self._scope.owned = None

    @contextmanager
    def savepoint(self) -> Generator[None, None, None]:
        """A part of a run that is one transaction: an exception undoes it alone."""
        scope = self._scope
        if scope.owned is not None:
            with scope.session().begin_nested():
                yield
            return
        waiting = list(scope.waiting)
        try:
            yield
        except BaseException:
            # Nothing had begun, so what there is now is of this part.
            scope.undo()
            scope.waiting = waiting
            raise
