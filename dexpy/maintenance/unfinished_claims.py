"""Reconciliation: records that this process has claimed but does not run are ended, or recovered.

It covers the runs whose end was not written after their attempt.
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.database import lock_timeouts
from dexpy.database.tables import records
from dexpy.enqueue.dispatcher import Dispatcher
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path
from dexpy.liveness.heartbeat import Heartbeat
from dexpy.maintenance.recovery import Recovery
from dexpy.recording.end_writer import EndWriter
from dexpy.recording.outcome_logging import log_end
from dexpy.recording.store import Store, row_dict
from dexpy.recording.transitions import apply

BATCH = 100
LOCK_WAIT_S = 1

UNKNOWN_END: dict[str, Any] = {
    "error": "dexpy.errors.WorkerLost",
    "failure": "crash",
    "error_message": "The attempt ended, but its outcome could not be written. See the log of the worker.",
    "error_details": None,
}
"""The error columns of a run that was started here and no longer runs."""

_r = records.c


class UnfinishedClaims:
    """Compares the claims of this process with its runs.

    Args:
        dispatcher: Wakes the workers for recovered runs.
        store: The store of records.
        heartbeat: The heartbeat of this process.
        end_writer: Has the ends that are not written yet.
    """

    def __init__(self, dispatcher: Dispatcher, store: Store, heartbeat: Heartbeat, end_writer: EndWriter) -> None:
        self._dispatcher = dispatcher
        self._end_writer = end_writer
        self._store = store
        self._heartbeat = heartbeat
        self._held_records = heartbeat.held_records
        self._recovery = Recovery(dispatcher, store, heartbeat)

    def run_once(self) -> int:
        """End or recover the unfinished records, and return how many."""
        worker_ids = self._heartbeat.worker_ids
        if not worker_ids:
            return 0
        claimed_here = sa.select(_r.id).where(_r.status == "running", _r.claimed_by.in_(worker_ids))
        # The database before the memory: an id is held here before its record is claimed.
        claimed = [row.id for row in self._store.rows(claimed_here)]
        unfinished = [
            run_id for run_id in claimed if run_id not in self._held_records and not self._end_writer.is_pending(run_id)
        ]
        return sum(self._is_ended(run_id, worker_ids) for run_id in unfinished)

    def _is_ended(self, record_id: str, worker_ids: tuple[str, ...]) -> bool:
        query = sa.select(records).where(_r.id == record_id, _r.status == "running", _r.claimed_by.in_(worker_ids))
        try:
            with lock_timeouts.limited(LOCK_WAIT_S), self._store.begin() as connection:
                row = connection.execute(query).first()
                is_ended = row is not None and self._end(connection, row)
        except Exception as error:  # noqa: BLE001 - retried later; it must not stop the others
            log_event(LogEvent.RECONCILIATION_FAILED, run_id=record_id, error=class_path(error))
            return False
        if is_ended:
            self._held_records.end(record_id)
            self._dispatcher.wake_workers()
        return is_ended

    def _end(self, connection: Connection, row: Row[Any]) -> bool:
        if not self._held_records.has_begun(row.id):
            why = f"The worker {row.claimed_by} claimed the run, but does not execute it"
            return self._recovery.end_attempt(connection, row, why)
        after = apply(connection, "crash", row.id, claim_token=row.claim_token, **UNKNOWN_END)
        if after is None:
            return False
        self._store.insert_attempt(connection, {**row_dict(after), "claimed_by": row.claimed_by}, None)
        log_end(after, error_message=UNKNOWN_END["error_message"])
        return True
