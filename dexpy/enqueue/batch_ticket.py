"""`BatchTicket`: a handle on one stored batch."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any

import attrs
from sqlalchemy.engine import Connection, Row

from dexpy.enqueue.batch_target import BatchTarget
from dexpy.enqueue.current_dispatcher import current_dispatcher
from dexpy.enqueue.jobs import PreparedJob, note_position
from dexpy.foundation.errors import (
    DatabaseBusy,
    DexpyError,
    InvalidTransition,
    KeyTaken,
    NotCommitted,
    NotRecorded,
    OptionsError,
    RolledBack,
    listed,
)
from dexpy.policies.options import AsyncOptions
from dexpy.recording import batch_locks, batch_rows, run_signals
from dexpy.recording.batch_rows import ENDED, EVENTS, Event
from dexpy.recording.batches import update_each
from dexpy.recording.polling import Interval, PollIntervals
from dexpy.recording.progress import Progress
from dexpy.recording.queries import RecordQuery
from dexpy.recording.store import Store, row_dict
from dexpy.recording.ticket import Ticket
from dexpy.recording.transitions import is_applied
from dexpy.transactions.commit_hooks import CommitState
from dexpy.transactions.sessions import EnqueueTransaction

RETRYABLE = ("failed", "expired", "cancelled")
PAGE = 500
CANCELLED: dict[str, Any] = {
    "error": None,
    "failure": "cancelled",
    "error_message": "Cancelled with its batch.",
    "error_details": None,
}
"""The error columns of a pending run that is cancelled with its batch."""


class BatchTicket(BatchTarget):
    """A handle on one stored batch.

    Attributes are those of the last load; only `reload`, `wait` and the methods that change something query the
    database.

    Example:
        >>> import dexpy
        >>> from dexpy.testing import isolated
        >>> class Square(dexpy.Operation, name="docs.square"):
        ...     number: int
        ...     def perform(self) -> int:
        ...         return self.number**2
        >>> with isolated() as test:
        ...     with dexpy.batch(name="squares") as batch:
        ...         tickets = batch.add_all(Square(number=number) for number in range(3))
        ...     _ = test.run_pending()
        ...     batch.ticket.reload().status, batch.ticket.counts
        ('done', {'done': 3})
    """

    def __init__(
        self, id: str, store: Store, columns: Mapping[str, Any], commit_state: CommitState | None = None
    ) -> None:
        self._id = id
        self._store = store
        self._columns: dict[str, Any] = dict(columns)
        self._commit_state = commit_state or CommitState()

    def __repr__(self) -> str:
        return f"<BatchTicket {self.name or ''} {self.id} {self.status}>".replace("  ", " ")

    @property
    def id(self) -> str:
        """The id of the batch, ``bt_...``."""
        return self._id

    @property
    def name(self) -> str | None:
        """The name of the batch, or None."""
        return self._columns.get("name")

    @property
    def status(self) -> str:
        """open, running, done, failed or cancelled, as of the last load.

        ``done``: all runs succeeded. ``failed``: all have ended, at least one of them failed or expired.
        ``cancelled``: all have ended, at least one was cancelled and none failed.
        """
        status: str = self._columns["status"]
        return status

    @property
    def finished(self) -> bool:
        """Whether all runs have ended, and the batch accepts no further ones."""
        return self.status in ENDED

    @property
    def counts(self) -> dict[str, int]:
        """The number of runs by status, without those of inner batches."""
        return dict(self._columns.get("counts") or {})

    @property
    def progress(self) -> Progress:
        """The number of runs that have ended, of all."""
        counts = self.counts
        num_unfinished = counts.get("pending", 0) + counts.get("running", 0)
        total = sum(counts.values())
        return Progress(total - num_unfinished, total, None, self._columns["updated_at"])

    @property
    def batch_id(self) -> str | None:
        """The id of the batch around this one, or None."""
        return self._columns.get("batch_id")

    @property
    def created_at(self) -> datetime | None:
        """The time when it was stored."""
        return self._columns.get("created_at")

    @property
    def finished_at(self) -> datetime | None:
        """The time when its last run ended, or None."""
        return self._columns.get("finished_at")

    @property
    def runs(self) -> RecordQuery:
        """The query over the records of its runs, for example ``ticket.runs.failed()``."""
        return attrs.evolve(RecordQuery(), store=self._store).where(batch=self.id)

    def tickets(self) -> list[Ticket[Any]]:
        """Load the tickets of all runs, the oldest first; each has its outcome."""
        return [record.ticket for record in self.runs.oldest_first()]

    def callback(self, event: Event) -> Ticket[Any] | None:
        """Load the ticket of the run of a callback.

        Args:
            event: ``"finish"``, ``"success"`` or ``"failure"``.

        Returns:
            The ticket; None if the batch has no such callback, or has not enqueued it.

        Raises:
            OptionsError: The event is unknown.
        """
        if event not in EVENTS:
            raise OptionsError(f"callback({event!r}): expected one of {listed(EVENTS)}.")
        with self._store.begin() as connection:
            row = batch_rows.read_callback(connection, self.id, event)
        return None if row is None or row.enqueued_at is None else Ticket.get(row.run_id)

    def reload(self) -> BatchTicket:
        """Load the batch again, and return this ticket.

        Raises:
            BatchNotFound: The batch was pruned.
            NotCommitted: The transaction that stores it is still open.
            RolledBack: The transaction that stored it was rolled back.
        """
        with self._store.begin() as connection:
            self._load(connection)
        self._commit_state = CommitState()
        return self

    def _load(self, connection: Connection) -> None:
        row = batch_rows.read_batch(connection, self.id)
        if row is None:
            raise self._missing()
        counts = row.counts if row.status in ENDED else batch_rows.count_members(connection, self.id).runs
        self._columns = {**row_dict(row), "counts": counts}

    def _missing(self) -> DexpyError:
        if self._commit_state.rolled_back:
            return RolledBack(f"{self.id}: the transaction that stored the batch was rolled back. Open it again.")
        if self._commit_state.is_open:
            return NotCommitted(
                f"{self.id}: the transaction that stores the batch is still open. Commit before you wait."
            )
        return batch_rows.not_found(self.id)

    def wait(self, timeout: float, interval: Interval = 0.2) -> bool:
        """Wait until all runs have ended.

        Args:
            timeout: Seconds, more than 0.
            interval: Seconds between polls, or a function of the number of polls so far.

        Returns:
            Whether they have; False after the timeout.

        Raises:
            BatchNotFound: The batch was pruned.
            NotCommitted: The transaction that stores it is still open.
            RolledBack: The transaction that stored it was rolled back.
        """
        pauses = PollIntervals(timeout, interval)
        while not self.reload().finished:
            if (pause_s := pauses.next_s()) is None:
                return False
            time.sleep(pause_s)
        return True

    def enqueue(
        self, operations: Sequence[Any], options: AsyncOptions, token: str | None = None, session: Any = None
    ) -> list[Ticket[Any]]:
        """See `BatchTarget.enqueue`."""
        dispatcher = current_dispatcher.get()
        transaction, commit_state = dispatcher.transaction_of(session), CommitState()
        jobs = prepare_runs(self.id, operations, options, token, transaction, commit_state)
        check = partial(batch_rows.require_accepting, batch_id=self.id)
        if jobs:
            dispatcher.enqueue_in_batches({self.id: jobs}, check, transaction, commit_state, accepting=self.id)
        return [job.ticket for job in jobs]

    def close(self) -> BatchTicket:
        """Close an open batch: it ends with its last run, or now if that has ended already.

        A current session that has added runs to the batch closes it with its commit.
        """
        with self._store.change() as connection:
            batch_rows.close(connection, self.id)
            self._load(connection)
        is_committed = self._store.after_change(partial(current_dispatcher.get().check_batch, self.id, "done"))
        return self.reload() if is_committed else self

    def cancel(self) -> BatchTicket:
        """Cancel all runs that have not ended, also in inner batches; the batch accepts no further ones.

        Pending runs are cancelled at once, running ones get a request; see `Ticket.cancel`. The batch ends with its
        last run, and then enqueues `on_finish`.

        Raises:
            DatabaseBusy: The transaction of the current session has added runs to it; nothing was changed.
        """
        self._require_unlocked()
        with self._store.begin() as connection:
            batch_rows.cancel(connection, self.id)
            inner_ids = connection.execute(batch_rows.inner_batches(self.id)).scalars().all()
        requested: list[str] = []

        def find(connection: Connection, limit: int, without: Sequence[str]) -> Sequence[Row[Any]]:
            query = batch_rows.unfinished_members(self.id, [*without, *requested])
            return connection.execute(query.limit(limit).with_for_update()).all()

        def cancel(connection: Connection, row: Row[Any]) -> bool:
            if row.status == "pending":
                return is_applied(connection, "cancel", row.id, **CANCELLED)
            run_signals.request_cancel(connection, row.id)
            requested.append(row.id)
            return True

        update_each(self._store, "cancellation", find, cancel)
        # Last: the end of an inner batch enqueues its callback as a run of this batch.
        for inner_id in inner_ids:
            BatchTicket(inner_id, self._store, {}).cancel()
        current_dispatcher.get().check_batch(self.id, "cancelled")
        return self.reload()

    def _require_unlocked(self) -> None:
        """Refuse a change that would wait for the transaction of the current session."""
        locked = batch_locks.locked_batches()
        if not locked:
            return
        with self._store.autocommit() as connection:
            is_locked = not locked.isdisjoint(batch_rows.with_inner(connection, self.id))
        if is_locked:
            raise DatabaseBusy(
                f"{self.id}: cancel() would wait for the transaction around it, which has added runs to the batch. "
                "Nothing was changed. Commit first, or cancel after the commit; in an operation, by "
                "self.after_commit(...).",
                may_end=False,
            )

    def retry_failed(self) -> int:
        """Retry all failed, expired and cancelled runs; the batch runs again until they have ended.

        `on_finish` and `on_failure` are enqueued once in the life of a batch; `on_success` is, when the retried runs
        have succeeded too.

        Returns:
            The number of retried runs; a run is left out if another run has its key, or if its params are not stored.
        """
        num_retried = 0
        query = self.runs.where(status=RETRYABLE)
        page = query.page(PAGE)
        while True:
            for record in page.records:
                try:
                    record.ticket.retry()
                    num_retried += 1
                except (InvalidTransition, KeyTaken):
                    continue
            if page.next is None:
                break
            page = query.page(PAGE, after=page.next)
        self.reload()
        return num_retried

    def to_dict(self) -> dict[str, Any]:
        """Return the ticket as JSON for clients."""
        return {"id": self.id, "name": self.name, "status": self.status, "counts": self.counts}


def prepare_runs(
    batch_id: str,
    operations: Sequence[Any],
    options: AsyncOptions,
    token: str | None,
    transaction: EnqueueTransaction,
    commit_state: CommitState,
) -> list[PreparedJob]:
    """Prepare the runs of a batch.

    Raises:
        NotRecorded: A run of a class has no record, or none before its end.
    """
    dispatcher = current_dispatcher.get()
    jobs: list[PreparedJob] = []
    for number, operation in enumerate(operations):
        try:
            job = dispatcher.prepare(operation, options, transaction, commit_state, token)
            columns = require_record(job, operation, "a run of a batch")
            jobs.append(attrs.evolve(job, columns={**columns, "batch_id": batch_id}))
        except Exception as error:
            if len(operations) > 1:
                note_position(error, number, len(operations))
            raise
    return jobs


def require_record(job: PreparedJob, operation: Any, what: str) -> Mapping[str, Any]:
    """Return the columns of the record of a prepared job.

    Raises:
        NotRecorded: It has none before its end.
    """
    if job.columns is None:
        raise NotRecorded(
            f"{type(operation).__qualname__}: {what} requires a record, but this run has none before it ends. "
            "Turn recording on: record = True, dexpy.configure(database=...)."
        )
    return job.columns


def stored_ticket(store: Store, batch_id: str) -> BatchTicket:
    """Load the ticket of a batch.

    Raises:
        BatchNotFound: No batch has this id.
    """
    return BatchTicket(batch_id, store, {}).reload()
