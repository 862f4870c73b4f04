"""`Ticket`: a handle on one background run.

The module is long because the reference of each method is its docstring.
"""

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
        id: The id of the run and its record.
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
        """Return the ticket of a record.

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
                f"{self.operation}: not stored, because another run has its unique key and the class declares "
                'on_conflict="skip". Omit on_conflict to get the ticket of the other run.'
            )
        if self._store is None:
            raise NotRecorded(
                f"{self.operation} {self.id}: the run is not recorded. Set dexpy.configure(database=...), and "
                "record = True in the class."
            )
        return self._store

    def _require_committed(self) -> Store:
        store = self._require_store()
        if (self._commit_state.rolled_back or self._commit_state.is_open) and store.has_committed(self.id):
            # A COMMIT was sent as text, or a statement has committed, such as DDL on MariaDB.
            self._commit_state = CommitState()
        if self._commit_state.rolled_back:
            raise RolledBack(
                f"{self.operation} {self.id}: the transaction that stored it was rolled back, so it will not run. "
                "Enqueue it again."
            )
        if self._commit_state.is_open:
            raise NotCommitted(
                f"{self.operation} {self.id}: the transaction that stores it is still open, so no worker can see it. "
                "Commit before you wait."
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
        """Whether the run waits for its first or next attempt."""
        return self.status == "pending"

    @property
    def running(self) -> bool:
        """Whether a worker runs it now."""
        return self.status == "running"

    @property
    def done(self) -> bool:
        """Whether it succeeded."""
        return self.status == "done"

    @property
    def failed(self) -> bool:
        """Whether the run ended in a business error, a rejection or a crash; see `failure`."""
        return self.status == "failed"

    @property
    def expired(self) -> bool:
        """Whether the run was not started in time, or was expired by `expire`."""
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
        """The reason why it did not end in `done`: business, rejected, crash, discarded, cancelled, expired, others."""
        self._require_store()
        return self._columns.get("failure")

    @property
    def scheduled_at(self) -> datetime | None:
        """The time when it is due; None for immediately."""
        self._require_store()
        return self._columns.get("scheduled_at")

    @property
    def completed_at(self) -> datetime | None:
        """The time when it ended, or None."""
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

        The last report remains after the end of the run. It is queried once if the last load did not include it.
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
        """Make this the ticket of an earlier run with the same key, because this run was not stored.

        Args:
            earlier: The record of the earlier run.
            committed: Whether that record is committed, independent of the caller's transaction.
        """
        self._original = self._original or (self.id, self._store, self._columns, self._commit_state)
        self.id, self.duplicate = earlier.id, True
        if committed:
            self._commit_state = CommitState()
        self._load(earlier)

    def become_skipped(self) -> None:
        """Make this a ticket without a run, because ``on_conflict="skip"`` did not store it."""
        self._original = self._original or (self.id, self._store, self._columns, self._commit_state)
        self.duplicate, self._store, self._columns, self._commit_state = True, None, {}, CommitState()

    def become_rolled_back(self) -> None:
        """Make this the ticket of a run that is not stored, because an exception has ended the block of its batch."""
        self._commit_state = CommitState(rolled_back=True)

    def restore(self) -> None:
        """Make this the ticket of its own run again, because the transaction that found an earlier run is retried."""
        if self._original is not None:
            (self.id, self._store, self._columns, self._commit_state), self._original = self._original, None
            self.duplicate = False

    @property
    def outcome(self) -> Ok[R] | Err | None:
        """The outcome at the last load: `Ok`, `Err` or None."""
        return outcome_of(self.id, self.operation, self._columns)

    def wait(self, timeout: float, interval: Interval = 0.2) -> Ok[R] | Err | None:
        """Wait until the run has ended.

        Args:
            timeout: Seconds, more than 0.
            interval: Seconds between polls, or a function of the number of polls so far.

        Returns:
            `Ok` or `Err`; None after the timeout.

        Raises:
            OperationFailed: The run ended otherwise, for example in a crash, by its expiry or by a cancellation.
            ResultNotStored: The run is done, and its result was not stored.
            EncryptorMissing: The run is done, and this process does not have the encryptor of its result.
            DecryptionFailed: The run is done, and its result does not decrypt.
            NotCommitted: The transaction that stores the record is still open.
            RolledBack: The transaction that stored the record was rolled back.
            NotRecorded: The run is not recorded.
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
            Error: The run ended in a business error, or a guard rejected it.
            OperationFailed: The run ended otherwise.
            WaitTimeout: The run has not ended before the timeout, and continues.
        """
        return self._value(self.wait(timeout, interval), timeout)

    async def aresult(self, timeout: float, interval: Interval = 0.2) -> R:
        """Await the run's result, as `result` does, without blocking the event loop."""
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
        """Expire a pending run.

        Raises:
            InvalidTransition: The run is not pending; nothing was changed.
        """
        return self._move("expire", "expired", "Expired on request.")

    def cancel(self) -> Ticket[R]:
        """Cancel the run, unless it has ended.

        A pending run is ``cancelled`` at once. A running one gets a request, and ends at its next check:
        ``self.check_cancelled()``, the next use of its session, the next await, or its commit. It may succeed before
        that; see `wait`.

        Raises:
            InvalidTransition: The run has ended; nothing was changed.
        """
        message = "Cancelled on request."
        values = {"error": None, "failure": "cancelled", "error_message": message, "error_details": None}
        self._load(self._require_committed().cancel(self.id, **values))
        return self

    def fail(self, reason: str) -> Ticket[R]:
        """Fail a pending run permanently.

        Args:
            reason: The text for `error_message`, which is redacted.

        Raises:
            InvalidTransition: The run is not pending; nothing was changed.
        """
        return self._move("discard", "discarded", reason)

    def _redactor(self, store: Store) -> Redactor:
        """Return a redactor of the run's secrets, which the text of a reason may contain."""
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
        """Claim a pending run and perform it now, in this thread.

        The outcome is stored and the rules of the class decide about retries, as in a worker; no error of the run is
        raised here.

        Returns:
            Whether an attempt was made. If not, nothing was changed: the run is not due, or its concurrency limit is
            reached.

        Raises:
            InvalidTransition: The run is not pending; nothing was changed.
            UnknownOperation: The class is not declared in this process; nothing was changed.
        """
        store = self._require_committed()
        performed = run_record_now.get()(self.id)
        self._load(store.row_and_progress(self.id))
        return performed

    def retry(self, *, from_start: bool = False) -> Ticket[R]:
        """Retry a failed, expired or cancelled run, counting its attempts from 0; earlier attempts are kept.

        Args:
            from_start: Whether to start again with the first step, although the effects of finished steps remain;
                otherwise the run continues after its last finished step.

        Raises:
            InvalidTransition: The run is not failed, expired or cancelled; nothing was changed.
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
            InvalidTransition: The run is not pending; nothing was changed.
        """
        if at is None:  # pyright: ignore[reportUnnecessaryComparison]
            raise OptionsError("reschedule(): at=None: expected an aware datetime.")
        AsyncOptions(at=at).check("reschedule()")
        self._load(self._require_committed().apply_event("reschedule", self.id, scheduled_at=at))
        return self

    def to_dict(self) -> dict[str, Any]:
        """Return the ticket as JSON for clients, without details of a crash."""
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
