"""`Ticket`: a handle on one background run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy.engine import Row

from dexpy.database.tables import FINAL
from dexpy.declaration import registry
from dexpy.declaration.contract import Contract
from dexpy.foundation.errors import (
    SENSITIVE,
    Error,
    NotCommitted,
    NotRecorded,
    OptionsError,
    RolledBack,
    WaitTimeout,
)
from dexpy.foundation.outcome import Err, Ok
from dexpy.foundation.redaction import Redactor
from dexpy.policies.options import AsyncOptions
from dexpy.recording.current_store import current_store, run_record_now
from dexpy.recording.encryption import is_encrypted, redactor_of
from dexpy.recording.outcomes import outcome_of, require_outcome
from dexpy.recording.polling import Interval, PollIntervals
from dexpy.recording.progress import Progress
from dexpy.recording.store import Store, row_dict
from dexpy.transactions.commit_hooks import CommitState

R = TypeVar("R")


class Ticket(Generic[R]):
    """A handle on one background run; `R` is what its `perform` returns.

    Attributes are those of the last load; only `reload`, `wait`, `result` and `aresult` query the database.

    Attributes:
        id: Of the run and its record.
        operation: The operation's stable name.
        recorded: Whether the run has a record.
        duplicate: Whether this is the ticket of an earlier run with the same key.
    """

    def __init__(
        self,
        id: str,
        operation: str,
        store: Store | None,
        columns: Mapping[str, Any] | None,
        commit_state: CommitState | None = None,
    ) -> None:
        self.id = id
        self.operation = operation
        self.duplicate = False
        # None is a fact about the run: it has no record.
        self._store = store
        self._columns: dict[str, Any] = dict(columns or {})
        self._commit_state = commit_state or CommitState()
        self._original: tuple[str, Store | None, dict[str, Any], CommitState] | None = None

    @classmethod
    def get(cls, id: str) -> Ticket[Any]:
        """The ticket of a record.

        Raises:
            RecordNotFound: No record has this id.
        """
        store = current_store.get()
        row = store.row_and_progress(id)
        return Ticket(row.id, row.operation, store, row_dict(row))

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<Ticket {self.operation} {self.id} {self._columns.get('status') or 'not recorded'}>"

    @property
    def recorded(self) -> bool:
        """Whether the run has a record."""
        return self._store is not None

    def _require_store(self) -> Store:
        if self._store is None and self.duplicate:
            raise NotRecorded(
                f"{self.operation} was not stored: another run has its unique key, and the class says "
                'on_conflict="skip". Leave that out to be given the ticket of the other one.'
            )
        if self._store is None:
            raise NotRecorded(
                f"{self.operation} {self.id} has no record, so there is nothing to ask. Turn recording on: "
                "dexpy.configure(database=...), and record = True on the class."
            )
        return self._store

    def _require_committed(self) -> Store:
        store = self._require_store()
        if (self._commit_state.rolled_back or self._commit_state.is_open) and store.has_committed(self.id):
            # By a COMMIT sent as text, or by a statement that commits, such as DDL on MariaDB.
            self._commit_state = CommitState()
        if self._commit_state.rolled_back:
            raise RolledBack(
                f"{self.operation} {self.id} was stored in a transaction that was rolled back: "
                "there is no record, and nothing will run."
            )
        if self._commit_state.is_open:
            raise NotCommitted(
                f"{self.operation} {self.id} is stored in a transaction that is still open, so no worker can see "
                "it yet. Commit, and wait then."
            )
        return store

    @property
    def status(self) -> str:
        """pending, running, done, failed, expired or cancelled, as of the last load."""
        self._require_store()
        status: str = self._columns["status"]
        return status

    @property
    def pending(self) -> bool:
        """Whether it waits for its first or next attempt."""
        return self.status == "pending"

    @property
    def running(self) -> bool:
        """Whether a worker runs it."""
        return self.status == "running"

    @property
    def done(self) -> bool:
        """Whether it succeeded."""
        return self.status == "done"

    @property
    def failed(self) -> bool:
        """Whether it ended in a business error, a rejection or a crash; see `failure`."""
        return self.status == "failed"

    @property
    def expired(self) -> bool:
        """Whether it was not started in time, or was expired by hand."""
        return self.status == "expired"

    @property
    def cancelled(self) -> bool:
        """Whether it was cancelled."""
        return self.status == "cancelled"

    @property
    def terminal(self) -> bool:
        """Whether it has ended."""
        return self.status in FINAL

    @property
    def failure(self) -> str | None:
        """Why it has not ended in `done`: business, rejected, crash, discarded, cancelled, expired and others."""
        self._require_store()
        return self._columns.get("failure")

    @property
    def scheduled_at(self) -> datetime | None:
        """When it is due; None for immediately."""
        self._require_store()
        return self._columns.get("scheduled_at")

    @property
    def completed_at(self) -> datetime | None:
        """When it ended; None while it has not."""
        self._require_store()
        return self._columns.get("completed_at")

    @property
    def num_attempts(self) -> int:
        """The number of attempts so far."""
        self._require_store()
        return self._columns.get("num_attempts") or 0

    @property
    def progress(self) -> Progress | None:
        """The progress that the run reported with ``self.report_progress(...)``, or None.

        The last report stays after the run has ended. If the last load did not include it, it is read once.
        """
        store = self._require_store()
        if "progress" not in self._columns:
            self._columns["progress"] = store.progress_of(self.id)
        return Progress.from_json(self._columns.get("progress"))

    def reload(self) -> Ticket[R]:
        """Load the record again, and return this ticket."""
        self._load(self._require_committed().row_and_progress(self.id))
        return self

    def _load(self, row: Row[Any]) -> None:
        self._columns = row_dict(row)

    def become_duplicate_of(self, earlier: Row[Any], *, committed: bool = True) -> None:
        """Make this the ticket of an earlier run with the same key: this run was not stored.

        Args:
            earlier: Its record.
            committed: Whether that is committed, and so does not depend on the caller's transaction.
        """
        self._original = self._original or (self.id, self._store, self._columns, self._commit_state)
        self.id, self.duplicate = earlier.id, True
        if committed:
            self._commit_state = CommitState()
        self._load(earlier)

    def become_skipped(self) -> None:
        """Make this the ticket of no run: this one was not stored, by ``on_conflict="skip"``."""
        self._original = self._original or (self.id, self._store, self._columns, self._commit_state)
        self.duplicate, self._store, self._columns, self._commit_state = True, None, {}, CommitState()

    def restore(self) -> None:
        """Make this the ticket of its own run again: the transaction that found an earlier run is retried."""
        if self._original is not None:
            (self.id, self._store, self._columns, self._commit_state), self._original = self._original, None
            self.duplicate = False

    @property
    def outcome(self) -> Ok[R] | Err | None:
        """The outcome at the last load: `Ok`, `Err`, or None while there is neither."""
        return outcome_of(self.id, self.operation, self._columns)

    def wait(self, timeout: float, interval: Interval = 0.2) -> Ok[R] | Err | None:
        """Wait until the run has ended.

        Args:
            timeout: Seconds, more than 0.
            interval: Seconds between polls, or a function of the number of polls so far.

        Returns:
            `Ok` or `Err`; None if it has not ended in time.

        Raises:
            OperationFailed: It ended otherwise: crash, discarded, cancelled, expired and others.
            ResultNotStored: It is done, and its result was not stored.
            EncryptorMissing: It is done, and this process does not have the encryptor of its result.
            DecryptionFailed: It is done, and its result cannot be decrypted.
            NotCommitted: The transaction that holds the record is still open.
            RolledBack: It was rolled back.
            NotRecorded: There is no record.
        """
        pauses = PollIntervals(timeout, interval)
        while True:
            self.reload()
            if self.terminal:
                return self._final_outcome()
            if (pause_s := pauses.next_s()) is None:
                return None
            time.sleep(pause_s)

    def _final_outcome(self) -> Ok[R] | Err:
        return require_outcome(self.id, self.operation, self._columns)

    def result(self, timeout: float, interval: Interval = 0.2) -> R:
        """Wait for the run's result.

        Args:
            timeout: Seconds, more than 0.
            interval: Seconds between polls, or a function of the number of polls so far.

        Raises:
            Error: The run ended in a business error, or was rejected by a guard.
            OperationFailed: It ended otherwise.
            WaitTimeout: It has not ended in time, and continues.
        """
        return self._value(self.wait(timeout, interval), timeout)

    async def aresult(self, timeout: float, interval: Interval = 0.2) -> R:
        """`result` for asyncio, without blocking the event loop."""
        pauses = PollIntervals(timeout, interval)
        while True:
            await asyncio.to_thread(self.reload)
            if self.terminal:
                return self._value(self._final_outcome(), timeout)
            if (pause_s := pauses.next_s()) is None:
                return self._value(None, timeout)
            await asyncio.sleep(pause_s)

    def _value(self, outcome: Ok[R] | Err | None, timeout: float) -> R:
        if isinstance(outcome, Ok):
            return outcome.value
        if isinstance(outcome, Err):
            raise Error(outcome.code, outcome.message, details=outcome.details, operation=self.operation)
        raise WaitTimeout(self.id, self.operation, timeout, self.status)

    def expire(self) -> Ticket[R]:
        """Expire the run; only while it is pending.

        Raises:
            InvalidTransition: It is not pending; nothing was changed.
        """
        return self._move("expire", "expired", "It was expired by hand.")

    def cancel(self) -> Ticket[R]:
        """Cancel the run, unless it has ended.

        A pending run is ``cancelled`` at once. A running one is requested to end, and ends at its next check:
        ``self.check_cancelled()``, the next use of its session, the next await, its commit. It may finish before that;
        see `wait`.

        Raises:
            InvalidTransition: It has ended; nothing was changed.
        """
        values = {"error": None, "failure": "cancelled", "error_message": "It was cancelled.", "error_details": None}
        self._load(self._require_committed().cancel(self.id, **values))
        return self

    def fail(self, reason: str) -> Ticket[R]:
        """Mark the run as failed for good; only while it is pending.

        Args:
            reason: For people.

        Raises:
            InvalidTransition: It is not pending; nothing was changed.
        """
        return self._move("discard", "discarded", reason)

    def _redactor(self, store: Store) -> Redactor:
        """Return a redactor of the run's secrets, which a person may quote in a reason."""
        row = store.row(self.id)
        contract: Contract | None = registry.contract_of(row.operation)
        if contract is None:
            return store.redactor
        return redactor_of(contract, row.params, row.id, store.redactor)

    def _move(self, event: str, failure: str, message: str) -> Ticket[R]:
        store = self._require_committed()
        message = self._redactor(store)(message)
        self._load(
            store.apply_event(event, self.id, error=None, failure=failure, error_message=message, error_details=None)
        )
        return self

    def perform(self) -> bool:
        """Run it now, in this process and thread, claimed as by a worker; only while it is pending.

        The outcome of the attempt is stored, and the rules of its class decide as in a worker: nothing is raised here.

        Returns:
            Whether an attempt was made; False if it is not due yet, or its concurrency limit is reached. Nothing was
            changed then.

        Raises:
            InvalidTransition: It is not pending; nothing was changed.
            UnknownOperation: Its class is not declared in this process; nothing was changed.
        """
        store = self._require_committed()
        performed = run_record_now.get()(self.id)
        self._load(store.row_and_progress(self.id))
        return performed

    def retry(self, *, from_start: bool = False) -> Ticket[R]:
        """Run a failed, expired or cancelled one again; its attempts are counted from 0, their history stays.

        Args:
            from_start: Start with the first step again, although the effects of finished steps stay; otherwise the run
                continues after its last finished step.

        Raises:
            InvalidTransition: It is not failed, expired or cancelled; nothing was changed.
        """
        row = self._require_committed().apply_event("revive", self.id, from_start=from_start)
        self._load(row)
        return self

    def reschedule(self, *, at: datetime) -> Ticket[R]:
        """Reschedule a pending run.

        Args:
            at: An aware datetime.

        Raises:
            OptionsError: The datetime is naive.
            InvalidTransition: It is not pending; nothing was changed.
        """
        if at is None:  # pyright: ignore[reportUnnecessaryComparison]
            raise OptionsError("reschedule(): at=None: expected an aware datetime.")
        AsyncOptions(at=at).check("reschedule()")
        self._load(self._require_committed().apply_event("reschedule", self.id, scheduled_at=at))
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the ticket as JSON for clients: of a crash only that the run failed."""
        data: dict[str, Any] = {"id": self.id, "operation": self.operation, "status": self._columns.get("status")}
        envelope: dict[str, Any] = self._columns.get("result") or {}
        if self._columns.get("status") == "done" and is_encrypted(envelope):
            data["result"] = SENSITIVE
        elif self._columns.get("status") == "done" and envelope.get("value") is not None:
            data["result"] = envelope["value"]
        if isinstance(outcome := self.outcome, Err):
            error = {"code": outcome.code, "message": outcome.message, "details": dict(outcome.details)}
            data["error"] = {key: value for key, value in error.items() if value}
        return data
