"""`Ticket`: a handle on one background run."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from datetime import datetime
from typing import Any, Generic, TypeVar

from sqlalchemy.engine import Row

from dexpy.declaration.policies import AsyncOptions
from dexpy.foundation.door import dispatcher_in_force, store_in_force
from dexpy.foundation.errors import SENSITIVE, Error, NotCommitted, NotRecorded, OptionsError, RolledBack, WaitTimeout
from dexpy.foundation.outcome import Err, Ok
from dexpy.recording.ending import ending_of, outcome_of
from dexpy.recording.fate import Fate
from dexpy.recording.pauses import Interval, Pauses
from dexpy.recording.progress import Progress
from dexpy.recording.sealing import is_sealed
from dexpy.recording.store import Store, facts_of
from dexpy.recording.tables import FINAL

R = TypeVar("R")


class Ticket(Generic[R]):
    """A handle on one background run; `R` is what its `perform` returns.

    Attributes are of the last load; only `reload`, `wait`, `result` and `aresult` ask the database.

    Attributes:
        id: Of the run and its record.
        operation_name: The operation's stable name.
        recorded: Whether there is a record to ask.
        duplicate: Whether this is the ticket of an earlier run with the same key.
    """

    def __init__(
        self,
        id: str,
        operation_name: str,
        store: Store | None,
        facts: Mapping[str, Any] | None,
        fate: Fate | None = None,
        *,
        duplicate: bool = False,
    ) -> None:
        self.id = id
        self.operation_name = operation_name
        self.duplicate = duplicate
        self._store = store
        self._facts: dict[str, Any] = dict(facts or {})
        self._fate = fate or Fate()
        self._own: tuple[str, Store | None, dict[str, Any], Fate] | None = None

    @classmethod
    def get(cls, id: str) -> Ticket[Any]:
        """The ticket of a record.

        Raises:
            RecordNotFound: No record has this id.
        """
        store: Store = store_in_force()
        row = store.row_and_progress(id)
        return Ticket(row.id, row.name, store, facts_of(row))

    def __bool__(self) -> bool:
        return True

    def __repr__(self) -> str:
        return f"<Ticket {self.operation_name} {self.id} {self._facts.get('status') or 'not recorded'}>"

    @property
    def recorded(self) -> bool:
        """Whether there is a record to ask."""
        return self._store is not None

    def _asked(self) -> Store:
        if self._store is None and self.duplicate:
            raise NotRecorded(
                f"{self.operation_name} was not stored: another run has its unique key, and the class says "
                'on_conflict="skip". Leave that out to be given the ticket of the other one.'
            )
        if self._store is None:
            raise NotRecorded(
                f"{self.operation_name} {self.id} has no record, so there is nothing to ask. Turn recording on: "
                "dexpy.configure(database=...), and record = True on the class."
            )
        return self._store

    def _committed(self) -> Store:
        store = self._asked()
        if self._fate.rolled_back:
            raise RolledBack(
                f"{self.operation_name} {self.id} was stored in a transaction that was rolled back: "
                "there is no record, and nothing will run."
            )
        if self._fate.is_open:
            raise NotCommitted(
                f"{self.operation_name} {self.id} is stored in a transaction that is still open, so no worker can see "
                "it yet. Commit, and wait then."
            )
        return store

    @property
    def status(self) -> str:
        """pending, running, done, failed or expired, as of the last load."""
        self._asked()
        status: str = self._facts["status"]
        return status

    @property
    def pending(self) -> bool:
        """Whether it waits to be run, for the first time or again."""
        return self.status == "pending"

    @property
    def running(self) -> bool:
        """Whether a worker runs it."""
        return self.status == "running"

    @property
    def done(self) -> bool:
        """Whether it ended well."""
        return self.status == "done"

    @property
    def failed(self) -> bool:
        """Whether it ended in a business error, a refusal or a crash; `failure` says which."""
        return self.status == "failed"

    @property
    def expired(self) -> bool:
        """Whether it will never run: too late, or cancelled."""
        return self.status == "expired"

    @property
    def terminal(self) -> bool:
        """Whether it has ended."""
        return self.status in FINAL

    @property
    def failure(self) -> str | None:
        """Why it has not ended in `done`: business, rejected, crash, discarded, cancelled, expired and others."""
        self._asked()
        return self._facts.get("failure")

    @property
    def scheduled_at(self) -> datetime | None:
        """When it is due; None for at once."""
        self._asked()
        return self._facts.get("scheduled_at")

    @property
    def completed_at(self) -> datetime | None:
        """When it ended; None while it has not."""
        self._asked()
        return self._facts.get("completed_at")

    @property
    def num_attempts(self) -> int:
        """How often it was begun."""
        self._asked()
        return self._facts.get("num_attempts") or 0

    @property
    def progress(self) -> Progress | None:
        """How far the run said it is, with ``self.report_progress(...)``; None if it has not.

        The last word of a run that has ended stays.
        """
        self._asked()
        return Progress.from_json(self._facts.get("progress"))

    def reload(self) -> Ticket[R]:
        """Ask the database, and return this ticket."""
        self._load(self._committed().row_and_progress(self.id))
        return self

    def _load(self, row: Row[Any]) -> None:
        self._facts = {"progress": self._facts.get("progress"), **facts_of(row)}

    def stand_for(self, earlier: Row[Any], *, committed: bool = True) -> None:
        """Be the ticket of an earlier run with the same key: this one was not stored.

        Args:
            earlier: Its record.
            committed: Whether that is there whatever becomes of the caller's transaction.
        """
        self._own = self._own or (self.id, self._store, self._facts, self._fate)
        self.id, self.duplicate = earlier.id, True
        if committed:
            self._fate = Fate()
        self._load(earlier)

    def stand_for_nothing(self) -> None:
        """Be the ticket of no run: this one was not stored, and nobody wants to know of the earlier one."""
        self._own = self._own or (self.id, self._store, self._facts, self._fate)
        self.duplicate, self._store, self._facts, self._fate = True, None, {}, Fate()

    def stand_for_itself(self) -> None:
        """Be the ticket of its own run after all: the transaction that found an earlier one begins anew."""
        if self._own is not None:
            (self.id, self._store, self._facts, self._fate), self._own = self._own, None
            self.duplicate = False

    @property
    def outcome(self) -> Ok[R] | Err | None:
        """What the run came to, as of the last load: `Ok`, `Err`, or None while there is neither."""
        return outcome_of(self.operation_name, self._facts)

    def wait(self, timeout: float, interval: Interval = 0.2) -> Ok[R] | Err | None:
        """Wait until the run has ended.

        Args:
            timeout: Seconds, more than 0.
            interval: Seconds between looks at the record, or a function of the number of looks so far.

        Returns:
            `Ok` or `Err`; None if it has not ended in time.

        Raises:
            OperationFailed: It ended otherwise: crash, discarded, cancelled, expired and others.
            ResultNotStored: It is done, and its result was not kept.
            EncryptorMissing: It is done, and its result is encrypted by what this process has not got.
            DecryptionFailed: It is done, and its result does not decrypt.
            NotCommitted: The transaction that holds the record is still open.
            RolledBack: It was rolled back.
            NotRecorded: There is no record.
        """
        pauses = Pauses(timeout, interval)
        while True:
            self.reload()
            if self.terminal:
                return self._ended()
            if (pause_s := pauses.next_s()) is None:
                return None
            time.sleep(pause_s)

    def _ended(self) -> Ok[R] | Err:
        return ending_of(self.id, self.operation_name, self._facts)

    def result(self, timeout: float, interval: Interval = 0.2) -> R:
        """Wait for the run's result.

        Args:
            timeout: Seconds, more than 0.
            interval: Seconds between looks at the record, or a function of the number of looks so far.

        Raises:
            Error: The run ended in a business error, or was refused by a guard.
            OperationFailed: It ended otherwise.
            WaitTimeout: It has not ended in time, and goes on.
        """
        return self._value(self.wait(timeout, interval), timeout)

    async def aresult(self, timeout: float, interval: Interval = 0.2) -> R:
        """`result` for asyncio: the event loop goes on meanwhile."""
        pauses = Pauses(timeout, interval)
        while True:
            await asyncio.to_thread(self.reload)
            if self.terminal:
                return self._value(self._ended(), timeout)
            if (pause_s := pauses.next_s()) is None:
                return self._value(None, timeout)
            await asyncio.sleep(pause_s)

    def _value(self, outcome: Ok[R] | Err | None, timeout: float) -> R:
        if isinstance(outcome, Ok):
            return outcome.value
        if isinstance(outcome, Err):
            raise Error(outcome.code, outcome.message, details=outcome.details, operation=self.operation_name)
        raise WaitTimeout(self.id, self.operation_name, timeout, self.status)

    def expire(self) -> Ticket[R]:
        """Say that this should no longer be run; only while it is pending.

        Raises:
            InvalidTransition: It is not pending; nothing was changed.
        """
        return self._move("expire", "expired", "It was expired by hand.")

    def cancel(self) -> Ticket[R]:
        """Call the run off, unless it has ended.

        One that waits is ``expired`` at once. One that runs is asked to end, and does so at its next look:
        ``self.check_cancelled()``, the next use of its session, the next await, its commit. It may still come to its
        end before that; `wait` tells.

        Raises:
            InvalidTransition: It has ended; nothing was changed.
        """
        values = {"error": None, "failure": "cancelled", "error_message": "It was cancelled.", "error_details": None}
        self._load(self._committed().cancel(self.id, **values))
        return self

    def fail(self, reason: str) -> Ticket[R]:
        """Mark the run as failed for good; only while it is pending.

        Args:
            reason: For people.

        Raises:
            InvalidTransition: It is not pending; nothing was changed.
        """
        return self._move("discard", "discarded", reason)

    def _move(self, event: str, failure: str, message: str) -> Ticket[R]:
        store = self._committed()
        message = store.redactor(message)
        self._load(store.move(event, self.id, error=None, failure=failure, error_message=message, error_details=None))
        return self

    def perform(self) -> bool:
        """Run it now, in this process and thread, claimed as a worker would claim it; only while it is pending.

        Whatever ends the attempt is kept with the record, and judged by the rules of its class: nothing is raised here.

        Returns:
            Whether an attempt was made; False for one that is not due yet, or whose limit of concurrent runs is
            reached: of that nothing was changed.

        Raises:
            InvalidTransition: It is not pending; nothing was changed.
            UnknownOperation: Its class is not declared in this process; nothing was changed.
        """
        store = self._committed()
        performed: bool = dispatcher_in_force().perform(self.id)
        self._load(store.row(self.id))
        return performed

    def retry(self, *, from_start: bool = False) -> Ticket[R]:
        """Run a failed or expired one again; its attempts start anew, their history stays.

        Args:
            from_start: Begin with the first step again, although what finished steps did stays; else the run goes on
                after the last step that it has finished.

        Raises:
            InvalidTransition: It is neither failed nor expired; nothing was changed.
        """
        row = self._committed().move("revive", self.id, from_start=from_start)
        self._facts.pop("progress", None)
        self._load(row)
        return self

    def reschedule(self, *, at: datetime) -> Ticket[R]:
        """Move a pending run to another moment.

        Args:
            at: An aware datetime.

        Raises:
            OptionsError: The moment is naive.
            InvalidTransition: It is not pending; nothing was changed.
        """
        if at is None:  # pyright: ignore[reportUnnecessaryComparison]
            raise OptionsError("reschedule(at=None) wants an aware datetime.")
        AsyncOptions(at=at).check("reschedule()")
        self._load(self._committed().move("reschedule", self.id, scheduled_at=at))
        return self

    def to_dict(self) -> dict[str, Any]:
        """The ticket as JSON for the outside: nothing of a crash is in it but that it failed."""
        shown: dict[str, Any] = {"id": self.id, "name": self.operation_name, "status": self._facts.get("status")}
        envelope: dict[str, Any] = self._facts.get("result") or {}
        if self._facts.get("status") == "done" and is_sealed(envelope):
            shown["result"] = SENSITIVE
        elif self._facts.get("status") == "done" and envelope.get("value") is not None:
            shown["result"] = envelope["value"]
        if isinstance(outcome := self.outcome, Err):
            error = {"code": outcome.code, "message": outcome.message, "details": dict(outcome.details)}
            shown["error"] = {key: value for key, value in error.items() if value}
        return shown
