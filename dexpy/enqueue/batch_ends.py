"""The ends of batches: when the last run of a batch has ended, its callbacks are inserted.

After each end of a run of a batch, its worker checks in a statement of its own whether that was the last one. The
worker that commits last sees all other ends; if it dies before its check, a relay finds the batch. The end is one
transaction, under a lock on the row of the batch: its status, and the runs of the callbacks.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Protocol

import attrs
from sqlalchemy.engine import Connection, Row

from dexpy.database.errors import is_away
from dexpy.enqueue.jobs import EnqueueOptions, PreparedJob, record_message
from dexpy.foundation.errors import KeyBusy
from dexpy.foundation.failpoints import failpoint
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path
from dexpy.recording import batch_rows, keys
from dexpy.recording.batch_rows import FAILED, Event
from dexpy.recording.keys import KeyClaim, KeyLocked
from dexpy.recording.own_columns import as_json, from_json
from dexpy.recording.store import Sender, Store, insert_record
from dexpy.recording.ticket import Ticket

BATCH = 100
KEY_WAIT_S = 0.5
"""How long the end of a batch waits for an open transaction that holds a key of a callback, in seconds."""


class Publisher(Sender, Protocol):
    """The part of the dispatcher that publishes callbacks."""

    def publish_row(self, row: Row[Any]) -> bool:
        """Publish the message of a row now; False if the broker refuses it."""
        ...

    def mark_unpublished(self, rows: list[Row[Any]]) -> None:
        """Record that the messages of these rows were not published."""


@attrs.frozen
class _End:
    """What the end of a batch, or its first failure, has written.

    Attributes:
        callbacks: The rows of the enqueued callbacks.
        status: The status of the batch; None if it has not ended.
        outer_id: The id of the batch around it.
    """

    callbacks: list[Row[Any]]
    status: str | None
    outer_id: str | None


class BatchEnds:
    """Writes the ends of batches.

    Args:
        store: The store of records and batches.
        publisher: Publishes the callbacks.
    """

    def __init__(self, store: Store, publisher: Publisher) -> None:
        self._store = store
        self._publisher = publisher

    def check(self, batch_id: str, status: str = "done") -> None:
        """Write the end of a batch if its last run has ended; log an error, because the relay checks it again.

        Args:
            batch_id: The id of the batch.
            status: The status of the run or batch that has ended.
        """
        try:
            failpoint("batch_run_ended")
            with self._store.autocommit() as connection:
                is_due = batch_rows.is_complete(connection, batch_id) or (
                    status in FAILED and batch_rows.has_first_failure(connection, batch_id)
                )
            if is_due:
                self._write_end(batch_id)
        except Exception as error:  # noqa: BLE001 - the run has ended, whatever the error is
            _log_unchecked(batch_id, error)

    def run_once(self) -> int:
        """Write the ends of batches whose last worker died before its check.

        Returns:
            The number of batches that have ended.
        """
        num_ended = 0
        skipped: set[str] = set()
        while True:
            with self._store.autocommit() as connection:
                found = batch_rows.find_complete(connection, BATCH)
            for batch_id in found:
                if batch_id in skipped:
                    continue
                skipped.add(batch_id)
                try:
                    num_ended += self._write_end(batch_id)
                except Exception as error:
                    if is_away(error):
                        raise
                    _log_unchecked(batch_id, error)
            if len(skipped) < BATCH or set(found) <= skipped:
                return num_ended

    def _write_end(self, batch_id: str) -> bool:
        """Write the end of a batch, or of its first failure; return whether it has ended."""
        with self._store.begin() as connection:
            end = self._end(connection, batch_id)
            if end is None:
                return False
            if self._publisher.transactional:
                for row in end.callbacks:
                    self._publisher.publish_with(connection, row)
            failpoint("before_batch_commit")
        failpoint("after_batch_commit")
        self._publish(end.callbacks)
        if end.status is None:
            return False
        log_event(LogEvent.BATCH_FINISHED, batch_id=batch_id, status=end.status)
        if end.outer_id is not None:
            self.check(end.outer_id, end.status)
        return True

    def _end(self, connection: Connection, batch_id: str) -> _End | None:
        """Write the end on a connection; None if there is nothing to write, or another transaction is at it."""
        batch = batch_rows.lock_unfinished(connection, batch_id)
        if batch is None:
            return None
        events: list[Event] = ["failure"] if batch_rows.has_first_failure(connection, batch_id) else []
        status: str | None = None
        if batch_rows.is_complete(connection, batch_id):
            status = batch_rows.write_end(connection, batch_id, batch_rows.count_members(connection, batch_id))
            events.append("finish")
            if status == "done":
                events.append("success")
        rows = [row for event in events if (row := self._enqueue_callback(connection, batch, event)) is not None]
        return _End(rows, status, batch.batch_id)

    def _enqueue_callback(self, connection: Connection, batch: Row[Any], event: Event) -> Row[Any] | None:
        """Insert the run of a callback; None if there is none, or if another run holds its key."""
        callback = batch_rows.take_callback(connection, batch.id, event)
        if callback is None:
            return None
        values = {**row_of(callback.job, self._publisher.transactional), "batch_id": batch.batch_id}
        claim = callback.job.get("keys")
        if claim is None:
            insert_record(connection, values)
        else:
            holder_id = _insert_keyed(connection, values, KeyClaim(**claim))
            if holder_id is not None:
                batch_rows.write_callback_run(connection, batch.id, event, holder_id)
                return None
        return self._store.row_on(connection, values["id"])

    def _publish(self, rows: list[Row[Any]]) -> None:
        """Publish callbacks after the commit."""
        if not rows:
            return
        if self._publisher.transactional:
            self._publisher.wake_workers()
            return
        refused = [row for row in rows if row.enqueued_at is not None and not self._publisher.publish_row(row)]
        if refused:
            self._publisher.mark_unpublished(refused)


def job_of(prepared: PreparedJob) -> dict[str, Any]:
    """Return the stored form of a prepared job, from which `row_of` builds the row of its run."""
    options = prepared.options
    job: dict[str, Any] = {"columns": as_json(prepared.columns or {}), "expires_in_s": options.expires_in_s}
    job |= {"wait_s": options.wait_s, "at": None if options.at is None else options.at.isoformat()}
    if prepared.keyed is not None:
        job["keys"] = attrs.asdict(prepared.keyed.claim)
    return job


def row_of(job: Mapping[str, Any], transactional: bool) -> dict[str, Any]:
    """Return the row of a stored job; its times count from now on."""
    columns = from_json(job["columns"])
    at = None if job["at"] is None else datetime.fromisoformat(job["at"])
    options = EnqueueOptions(columns["queue"], columns["priority"], job["wait_s"], at, job["expires_in_s"])
    ticket = Ticket[Any](columns["id"], columns["operation"], None, None)
    message = record_message(columns["operation"], ticket.id, columns["trace_id"], options.queue, options.priority)
    return PreparedJob(ticket, options, message, options.delay_s == 0, transactional, columns).row()


def _insert_keyed(connection: Connection, values: dict[str, Any], claim: KeyClaim) -> str | None:
    """Insert a row with keys; return the id of the run that holds one of them instead, or None."""
    row = {**values, **claim.columns()}
    while True:
        try:
            if keys.insert(connection, row, KEY_WAIT_S, alone=False):
                return None
        except KeyLocked as busy:
            raise KeyBusy(claim.name, KEY_WAIT_S) from busy
        holder = keys.find_holder(connection, claim)
        if holder is not None and not holder.is_expired:
            holder_id: str = holder.row.id
            return holder_id
        if holder is None or not keys.release_expired(connection, holder):
            raise KeyBusy(claim.name, KEY_WAIT_S)


def _log_unchecked(batch_id: str, error: Exception) -> None:
    log_event(LogEvent.BATCH_NOT_CHECKED, batch_id=batch_id, error=class_path(error))
