"""The recorder of a synchronous run with an idempotency key, which inserts a ``running`` row before the run starts.

Other calls with the key find this row and wait. The row has the id of the process, in case that dies.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.database.column_types import FromNow, hide_from_planner
from dexpy.database.current_transaction import CurrentTransaction
from dexpy.database.tables import records
from dexpy.foundation.errors import KeyBusy, LostClaim
from dexpy.foundation.failpoints import failpoint
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.outcome import Err, Outcome
from dexpy.foundation.redaction import class_path
from dexpy.policies.lock import LOCK_TIMEOUT
from dexpy.recording import keys
from dexpy.recording.encryption import decrypt
from dexpy.recording.keys import KeyClaim, KeyHolder, KeyLocked, RetryTransaction
from dexpy.recording.outcomes import require_outcome
from dexpy.recording.recorder import (
    AtEnd,
    SyncRecorder,
    crash_values,
    failure_values,
    shorter_values,
)
from dexpy.recording.store import row_dict
from dexpy.recording.transitions import is_applied
from dexpy.transactions import commit_hooks

TOKEN = 1
"""The claim token of a synchronous run, which is claimed only once."""


class ProcessLease(Protocol):
    """The lease of this process, renewed by its heartbeat."""

    def start(self) -> str:
        """Start the heartbeat and return the process's worker id."""
        ...

    def recover(self) -> None:
        """Recover the runs of dead processes."""

    def hold(self, id: str) -> None:
        """Register a run that this process is about to claim; only this process ends a registered run."""

    def release(self, id: str) -> None:
        """Unregister a run that this process no longer works on; reconciliation ends a run without an end."""

    def end(self, id: str, variants: Sequence[Callable[[], object]], operation: str) -> None:
        """Write the end of a run in the first variant that the database accepts, now or later."""


@attrs.define
class IdempotentRecorder(SyncRecorder):
    """Writes the row of a synchronous run with a key: `claim` inserts it, and the claim token fences its end.

    The row is part of the caller's transaction if there is one; otherwise it is committed at once.

    Attributes:
        lease: The lease of this process.
        outer: The transaction that the run joins, or None.
        key_claim: The key of the run.
        lost: Whether the lease of its process expired while it ran.
        claimed: Whether this run holds the key.
    """

    lease: ProcessLease = attrs.field(kw_only=True)
    outer: CurrentTransaction | None = attrs.field(kw_only=True)
    key_claim: KeyClaim = attrs.field(kw_only=True)
    claims_key: ClassVar[bool] = True
    lost: bool = False
    claimed: bool = False
    _expired_holder: KeyHolder | None = None
    _joined: bool = False
    _is_held: bool = False
    _end_is_deferred: bool = False

    @property
    def joined(self) -> bool:
        """Whether the row is part of a transaction that the caller commits."""
        return self._joined

    def params_of_both(self, other: Row[Any]) -> tuple[Any, Any]:
        """Return the decrypted props of another run and of this one; None for props that are not stored."""
        stored = decrypt(other.operation, other.params, other.id, "params")
        return stored, decrypt(self.contract.name, self._params(), self.id, "params")

    def outcome_of(self, other: Row[Any]) -> Outcome:
        """Return the outcome of another run, to replay it.

        Raises:
            OperationFailed: The run failed.
            ResultNotStored: The result has no JSON form.
        """
        return require_outcome(other.id, self.contract.name, row_dict(other))

    def is_open(self, id: str) -> bool:
        """Return whether another run has not ended."""
        query = sa.select(records.c.id).where(records.c.id == id, hide_from_planner(records.c.completed_at.is_(None)))
        return bool(self.store.rows(query))

    @property
    def is_settled(self) -> bool:
        """Whether the end of the run is written, or passed to the end writer."""
        return self._is_written or self._is_failed

    def claim(self, wait_s: float) -> KeyHolder | None:
        """Insert the row with its key, or find the holder of the key.

        Args:
            wait_s: How long to wait for a transaction that holds the key, in seconds.

        Returns:
            The holder; None if this run has the key or must retry, see `claimed`.

        Raises:
            KeyBusy: The other transaction has not ended in time.
        """
        self._joined = self.outer is not None and self.store.shares_database(self.outer.session())
        if self._joined:
            connection = self._connection()
            self.store.prepare(connection)
            with self.store.database.with_own_schema(connection):
                return self._claim(connection, wait_s, self.store.rows)
        worker = self.lease.start()
        if not self._is_held:
            self._is_held = True
            self.lease.hold(self.id)
        try:
            with self.store.begin() as connection:
                holder = self._claim(connection, wait_s, None, claimed_by=worker)
        except RetryTransaction:
            return None
        if self.claimed:
            failpoint("once_key_claimed")
        return holder

    def _claim(
        self,
        connection: Connection,
        wait_s: float,
        committed: Callable[[sa.Select[Any]], Sequence[Row[Any]]] | None,
        **columns: Any,
    ) -> KeyHolder | None:
        if self._expired_holder is not None:
            keys.release_expired(connection, self._expired_holder)
        self._expired_holder = None
        if (
            self.key_claim.has_earlier
            and (holder := keys.find_holder(connection, self.key_claim, committed)) is not None
        ):
            # No unique index covers the digests of a key under earlier names.
            if not holder.is_expired:
                return holder
            keys.release_expired(connection, holder)
        values = {
            "id": self.id,
            "operation": self.contract.name,
            **self.frame.columns(),
            "params": self._params(),
            "status": "running",
            "num_attempts": self.attempt,
            "claim_token": TOKEN,
            "started_at": FromNow(),
            # A synchronous call is not retried after its process has died.
            "loss_limit": 0,
            **self.own_values,
            **self.key_claim.columns(),
            **columns,
        }
        try:
            self.claimed = keys.insert(connection, values, wait_s, alone=not self._joined)
        except KeyLocked as busy:
            assert self.contract.once is not None  # noqa: S101 - the class has a key
            raise KeyBusy(self.contract.name, self.contract.once.wait_s) from busy
        if self.claimed:
            return None
        holder = keys.find_holder(connection, self.key_claim, committed)
        if holder is not None and holder.is_expired:
            self._expired_holder = holder
            return None
        return holder

    def _connection(self) -> Connection:
        assert self.outer is not None  # noqa: S101 - callers have looked
        return self.outer.session().connection()

    def succeed(self, connection: Connection | None, value: Any) -> None:
        """See `Recorder`.

        Raises:
            LostClaim: The lease of the process has expired and the run was ended; the transaction must not commit.
        """
        envelope = self._result(value)
        if connection is None and self._joined:
            connection = self._connection()
        if connection is not None:
            with self.store.database.with_own_schema(connection):
                self._succeed(connection, envelope)
        else:
            with self.store.begin() as connection:
                self._succeed(connection, envelope)
        self._is_written = True

    def _succeed(self, connection: Connection, envelope: Any) -> None:
        is_done = is_applied(connection, "succeed", self.id, claim_token=TOKEN, result=envelope)
        failpoint("before_commit")
        if not is_done:
            self.lost = True
            raise LostClaim(
                f"{self.contract.name} {self.id}: the lease of this process expired; the run was ended and its key "
                "released."
            )

    def ended(self, at_end: AtEnd, outcome: Outcome) -> None:
        """See `Recorder`."""
        if isinstance(outcome, Err):
            # The next call must not replay a lock timeout.
            releases_key = outcome.rejected or outcome.code == LOCK_TIMEOUT
            self._fail(at_end, "reject" if releases_key else "refuse", failure_values(outcome, self.redactor))
        elif not self._is_written:
            self.succeed(None, outcome.value)

    def crashed(self, at_end: AtEnd, error: BaseException) -> None:
        """See `Recorder`."""
        cancelled = not isinstance(error, (Exception, LostClaim))
        event, failure = ("cancel_running", "cancelled") if cancelled else ("crash", "crash")
        self._fail(at_end, event, crash_values(error, failure, self.redactor))

    def release(self) -> None:
        """Unregister the run from the lease."""
        if self._is_held:
            self._is_held = False
            self.lease.release(self.id)

    def release_unless_ending(self) -> None:
        """Release the run after the call, unless its end is written after an outer transaction."""
        if not self._end_is_deferred:
            self.release()

    def effects_rolled_back(self) -> None:
        """See `Recorder`; a result without its effects must not be replayed."""
        if self._joined:
            super().effects_rolled_back()
        elif not self._is_failed and self.key_claim.once is not None:
            with self.store.begin() as connection:
                keys.release_once_key(connection, self.key_claim.once)
            log_event(LogEvent.ONCE_ROLLED_BACK, operation=self.contract.name, run_id=self.id)

    def _fail(self, at_end: AtEnd, event: str, values: Mapping[str, Any]) -> None:
        self._is_failed = True
        failpoint("before_key_release")
        if self._joined:
            self._fail_in_transaction(event, values)
            return

        def write(variant: Mapping[str, Any]) -> None:
            with self.store.begin() as connection:
                is_applied(connection, event, self.id, claim_token=TOKEN, **variant)

        variants = [partial(write, variant) for variant in (values, *shorter_values(values))]

        def end() -> None:
            try:
                self.lease.end(self.id, variants, self.contract.name)
            finally:
                self.release()

        self._end_is_deferred = True
        at_end(end)

    def _fail_in_transaction(self, event: str, values: Mapping[str, Any]) -> None:
        """Write the failure in the caller's transaction, and after its rollback in a row without the key."""
        assert self.outer is not None  # noqa: S101 - callers have looked
        status = "cancelled" if event == "cancel_running" else "failed"
        fallback = self.values(status, **values)
        session = self.outer.session()
        commit_hooks.after_commit(session, _do_nothing, lambda: self.write(fallback))
        try:
            with self.store.database.with_own_schema(session.connection()) as connection:
                is_applied(connection, event, self.id, claim_token=TOKEN, **values)
        except Exception as error:  # noqa: BLE001 - an aborted transaction does not commit either
            log_event(LogEvent.RECORD_NOT_WRITTEN, logging.DEBUG, run_id=self.id, error=class_path(error))


def _do_nothing() -> None:
    return None
