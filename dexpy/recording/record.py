"""Records as returned by queries: one run, its attempts, and a page of runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, cast

import attrs
from sqlalchemy.engine import Row

from dexpy.foundation.errors import SENSITIVE
from dexpy.recording.encryption import is_encrypted, redact_params
from dexpy.recording.progress import Progress
from dexpy.recording.store import Store, row_dict
from dexpy.recording.ticket import Ticket


class Record:
    """One recorded run; its attributes are the columns of `operation_records` when it was read.

    `params` hides sensitive and encrypted props, `result` an encrypted result.

    Example:
        >>> from dexpy import records
        >>> [record.status for record in records.where(queue="unused")]
        []
    """

    id: str
    operation: str
    params: dict[str, Any] | None
    status: str
    error: str | None
    failure: str | None
    error_message: str | None
    error_details: Any
    queue: str
    priority: int
    scheduled_at: datetime | None
    enqueued_at: datetime | None
    started_at: datetime | None
    completed_at: datetime | None
    expires_at: datetime | None
    num_attempts: int
    num_lost: int
    loss_limit: int | None
    claim_token: int
    concurrency_key: str | None
    blocked_key: str | None
    claimed_by: str | None
    parent_id: str | None
    batch_id: str | None
    trace_id: str | None
    trace: Any
    actor_type: str | None
    actor_id: str | None
    created_at: datetime
    updated_at: datetime

    def __init__(self, row: Row[Any], store: Store) -> None:
        self._row = row
        self._store = store
        for name, value in row_dict(row).items():
            if name not in ("result", "progress"):
                setattr(self, name, value)
        self.params = redact_params(row.operation, row.params)

    def __repr__(self) -> str:
        return f"<Record {self.operation} {self.id} {self.status}>"

    @property
    def columns(self) -> Mapping[str, Any]:
        """The values of the application's columns (`RecordColumn`) by name; each is an attribute too."""
        return {column.name: getattr(self, column.name, None) for column in self._store.record_columns}

    @property
    def ticket(self) -> Ticket[Any]:
        """The ticket of this run."""
        return Ticket(self.id, self.operation, self._store, row_dict(self._row))

    @property
    def progress(self) -> Progress | None:
        """The progress of the run when the record was read; see `Ticket.progress`."""
        return self.ticket.progress

    @property
    def result(self) -> Any:
        """The result as JSON; None without a result, or if it was not stored."""
        return SENSITIVE if is_encrypted(self._row.result) else self._envelope.get("value")

    @property
    def result_error(self) -> str | None:
        """The reason why the result of a done run was not stored, or None."""
        return self._envelope.get("unstorable")

    @property
    def _envelope(self) -> dict[str, Any]:
        stored: object = self._row.result
        return cast("dict[str, Any]", stored) if isinstance(stored, dict) else {}

    @property
    def duration(self) -> timedelta | None:
        """The duration of the last attempt; None before its end."""
        if self.started_at is None or self.completed_at is None:
            return None
        return self.completed_at - self.started_at

    def retry(self, *, from_start: bool = False) -> Record:
        """See `Ticket.retry`."""
        return self._reload(self.ticket.retry(from_start=from_start))

    def cancel(self) -> Record:
        """See `Ticket.cancel`."""
        return self._reload(self.ticket.cancel())

    def expire(self) -> Record:
        """See `Ticket.expire`."""
        return self._reload(self.ticket.expire())

    def fail(self, reason: str) -> Record:
        """See `Ticket.fail`."""
        return self._reload(self.ticket.fail(reason))

    def perform(self) -> Record:
        """See `Ticket.perform`; returns the record afterwards."""
        ticket = self.ticket
        ticket.perform()
        return self._reload(ticket)

    def reschedule(self, *, at: datetime) -> Record:
        """See `Ticket.reschedule`."""
        return self._reload(self.ticket.reschedule(at=at))

    def _reload(self, ticket: Ticket[Any]) -> Record:
        return Record(self._store.row_and_progress(ticket.id), self._store)


@attrs.frozen
class Attempt:
    """One attempt of a recorded run.

    Attributes:
        number: The number of the attempt, from 1.
        worker: The id of the worker process.
        started_at: The time when it started.
        ended_at: The time when it ended; None while it runs.
        failure: The reason why it did not end in `done`; None if it did, or is running.
        error: The error code or exception class.
        error_message: The message, redacted.
        traceback: The file, line and function of each frame.
    """

    number: int
    worker: str | None
    started_at: datetime | None
    ended_at: datetime | None
    failure: str | None
    error: str | None
    error_message: str | None
    traceback: str | None


@attrs.frozen
class Page:
    """A page of records.

    Attributes:
        records: The records, in order.
        next: The *after* of the next page; None on the last page.
    """

    records: tuple[Record, ...]
    next: str | None
