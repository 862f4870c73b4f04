"""Transaction segments: the transactions of a run with durable steps, one for each step or page."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from dexpy.execution.unit_of_work import UnitOfWork
    from dexpy.transactions.guarded_session import GuardedSession


class Segments:
    """The transactions of one run.

    Args:
        unit_of_work: The run's.
    """

    def __init__(self, unit_of_work: UnitOfWork) -> None:
        self._unit_of_work = unit_of_work

    @contextmanager
    def segment(self) -> Generator[None, None, None]:
        """Run a block in a new transaction, which `commit` ends.

        Rows that were read before are expired, so a segment sees current rows. An exception rolls the segment back; a
        loop that is left early leaves it open, and the end of the run commits it or rolls it back.
        """
        unit_of_work = self._unit_of_work
        was_open = unit_of_work.is_open
        unit_of_work.is_open = True
        if unit_of_work.guarded is not None:
            self._restart_transaction(unit_of_work.guarded, commits=False)
        was_left = False
        try:
            with unit_of_work.as_current():
                yield
        except GeneratorExit:
            was_left = True
            raise
        except BaseException:
            self._roll_back()
            raise
        finally:
            unit_of_work.is_open = was_open or was_left

    def commit(self, settle: Callable[[Connection | None], None]) -> None:
        """Commit this segment; the run continues.

        Args:
            settle: Writes its checkpoint, last before the commit; called without a connection, after the commit,
                if records and session do not share a database, and if there was no session.

        Raises:
            asyncio.CancelledError: The run was cancelled meanwhile.
            TransactionOwned: The transaction was ended inside the segment.
        """
        unit_of_work = self._unit_of_work
        unit_of_work.check_before_commit()
        guarded = unit_of_work.guarded
        shares = False
        if guarded is not None:
            guarded.flush()
            shares = unit_of_work.store.shares_database(guarded.session)
            if shares:
                with unit_of_work.store.database.with_own_schema(guarded.session.connection()) as connection:
                    settle(connection)
            if guarded.is_joined:
                guarded.commit()
                unit_of_work.guarded = None
            else:
                # As at the end of a run: a hook must not get a session that is not committed afterwards.
                unit_of_work.is_open = False
                try:
                    self._restart_transaction(guarded, commits=True)
                finally:
                    unit_of_work.is_open = True
        if not shares:
            settle(None)
        unit_of_work.run_hooks()

    def _roll_back(self) -> None:
        """Roll this segment back."""
        unit_of_work = self._unit_of_work
        unit_of_work.hooks.clear()
        if unit_of_work.guarded is None or unit_of_work.guarded.is_joined:
            unit_of_work.roll_back_session()
            return
        try:
            self._restart_transaction(unit_of_work.guarded, commits=False)
        except Exception as error:  # noqa: BLE001 - the original error is the one to raise
            log_event(LogEvent.ROLLBACK_FAILED, operation=unit_of_work.owner, error=class_path(error))
            unit_of_work.roll_back_session()

    def _restart_transaction(self, guarded: GuardedSession, *, commits: bool) -> None:
        """End a session's transaction and begin the next one, which reads the rows again."""
        guarded.end_segment(commits=commits)
        if self._unit_of_work.transactional:
            guarded.begin_segment()
        else:
            # As after a block: the rows stay readable, and the next transaction adds them to its session.
            guarded.session.close()
            self._unit_of_work.guarded = None

    @contextmanager
    def savepoint(self) -> Generator[None, None, None]:
        """Run a block in a savepoint, so that an exception rolls back only the block."""
        unit_of_work = self._unit_of_work
        if unit_of_work.guarded is not None:
            with unit_of_work.session().begin_nested():
                yield
            return
        pending_hooks = list(unit_of_work.hooks)
        try:
            yield
        except BaseException:
            # There was no session before, so everything in it belongs to this block.
            unit_of_work.roll_back_session()
            unit_of_work.hooks = pending_hooks
            raise
