"""A synchronous run with an idempotency key: its row is there, and running, before it begins.

So others see that it runs, and wait for it; and when its process dies, the row says whose it was.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.declaration.lock import LOCK_TIMEOUT
from dexpy.foundation.checkpoint import checkpoint
from dexpy.foundation.errors import LostClaim
from dexpy.foundation.log import line
from dexpy.foundation.outcome import Err, Outcome
from dexpy.foundation.redaction import class_path
from dexpy.recording import keys, outbox
from dexpy.recording.ambient import Ambient
from dexpy.recording.keys import Again, Claim, Holder
from dexpy.recording.metadata import after, of_this_row
from dexpy.recording.recorder import AtEnd, SyncRecorder, crash_values, failure_values, identity, result_envelope
from dexpy.recording.sealing import opened
from dexpy.recording.tables import records
from dexpy.recording.transitions import is_applied

TOKEN = 1
"""Of the one claim that a synchronous run has."""


class Vigil(Protocol):
    """Says that this process lives, and looks for those that do not."""

    def begin(self) -> str:
        """Give signs of life from now on; returns the process's name."""
        ...

    def look(self) -> None:
        """Take from dead processes what they held."""

    def see_to(self, action: Callable[[], None]) -> None:
        """Do something that cannot be done now as soon as the database is back."""


@attrs.define
class OnceRecorder(SyncRecorder):
    """Writes the row of a synchronous run with a key: `claim` first, the end under its claim token.

    In a transaction of the caller's the row is part of that, and nobody sees it before; else it is committed at once.

    Attributes:
        vigil: Of this process.
        outer: What the run joins, if anything.
        wants: Its key.
        lost: Whether its process was taken for dead while it ran.
        claimed: Whether the key is this run's.
    """

    vigil: Vigil = attrs.field(kw_only=True)
    outer: Ambient | None = attrs.field(kw_only=True)
    wants: Claim = attrs.field(kw_only=True)
    lost: bool = False
    claimed: bool = False
    _over: Holder | None = None
    _joined: bool = False

    @property
    def joined(self) -> bool:
        """Whether the row is part of a transaction that somebody else commits."""
        return self._joined

    def both_params(self, other: Row[Any]) -> tuple[Any, Any]:
        """The stored props of another run and those of this one, in the clear; None for what is not kept."""
        return opened(self.contract.name, other.params), opened(self.contract.name, self._params())

    def is_open(self, id: str) -> bool:
        """Whether another run has not ended."""
        query = sa.select(records.c.id).where(records.c.id == id, of_this_row(records.c.completed_at.is_(None)))
        return bool(self.store.rows(query))

    @property
    def told(self) -> bool:
        """Whether the end of the run has been seen to."""
        return self._settled or self._failed

    def claim(self, wait_s: float) -> Holder | None:
        """Insert the row with its key, or find whose the key is.

        Args:
            wait_s: How long to wait for a transaction that holds it, in seconds.

        Returns:
            The holder. None if the key is this run's, or to be tried for once more; `claimed` says which.

        Raises:
            Busy: The other transaction has not ended in time.
        """
        self._joined = self.outer is not None and self.store.holds(self.outer.session())
        if self._joined:
            connection = self._connection()
            self.store.prepare(connection)
            return self._claim(connection, wait_s, self.store.rows)
        worker = self.vigil.begin()
        try:
            with self.store.begin() as connection:
                holder = self._claim(connection, wait_s, None, claimed_by=worker)
        except Again:
            return None
        if self.claimed:
            checkpoint("once_claimed")
        return holder

    def _claim(
        self,
        connection: Connection,
        wait_s: float,
        committed: Callable[[sa.Select[Any]], Sequence[Row[Any]]] | None,
        **rest: Any,
    ) -> Holder | None:
        if self._over is not None and self.wants.once is not None:
            keys.free(connection, "once", self.wants.once)
        self._over = None
        values = {
            **identity(self.contract, self.id, self.frame),
            "params": self._params(),
            "status": "running",
            "num_attempts": self.attempt,
            "claim_token": TOKEN,
            "started_at": after(0),
            # Nobody runs again what was called in place, when its process has died.
            "max_lost": 0,
            **self.wants.columns(),
            **rest,
        }
        self.claimed = keys.insert(connection, values, wait_s, alone=not self._joined)
        if self.claimed:
            return None
        holder = keys.find(connection, self.wants, committed)
        if holder is not None and holder.is_over:
            self._over = holder
            return None
        return holder

    def _connection(self) -> Connection:
        assert self.outer is not None  # noqa: S101 - callers have looked
        return self.outer.session().connection()

    def succeed(self, connection: Connection | None, value: Any) -> None:
        """See `Recorder`.

        Raises:
            LostClaim: The process was taken for dead, and the run with it; the transaction must not commit.
        """
        envelope = result_envelope(self.contract, value)
        if connection is None and self._joined:
            connection = self._connection()
        if connection is not None:
            self._succeed(connection, envelope)
        else:
            with self.store.begin() as own:
                self._succeed(own, envelope)
        self._settled = True

    def _succeed(self, connection: Connection, envelope: Any) -> None:
        is_done = is_applied(connection, "succeed", self.id, claim_token=TOKEN, result=envelope)
        checkpoint("before_commit")
        if not is_done:
            self.lost = True
            raise LostClaim(f"{self.contract.name} {self.id}: its process was taken for dead, and its key was freed.")

    def ended(self, at_end: AtEnd, outcome: Outcome) -> None:
        """See `Recorder`."""
        if isinstance(outcome, Err):
            # A lock that could not be had is no answer to the next call.
            frees = outcome.rejected or outcome.code == LOCK_TIMEOUT
            self._fail(at_end, "reject" if frees else "refuse", failure_values(outcome, self.redactor))
        elif not self._settled:
            self.succeed(None, outcome.value)

    def crashed(self, at_end: AtEnd, error: BaseException) -> None:
        """See `Recorder`."""
        cancelled = not isinstance(error, Exception)
        event, failure = ("abandon", "cancelled") if cancelled else ("crash", "crash")
        self._fail(at_end, event, crash_values(error, failure, self.redactor))

    def undone(self) -> None:
        """See `Recorder`: what is answered again must not be a result without its effects."""
        if self._joined:
            super().undone()
        elif not self._failed and self.wants.once is not None:
            with self.store.begin() as connection:
                keys.clear(connection, self.wants.once)
            line(logging.WARNING, "once.undone", operation=self.contract.name, run=self.id)

    def _fail(self, at_end: AtEnd, event: str, values: Mapping[str, Any]) -> None:
        self._failed = True
        checkpoint("before_release")
        if self._joined:
            self._fail_in_transaction(event, values)
            return

        def write() -> None:
            with self.store.begin() as connection:
                is_applied(connection, event, self.id, claim_token=TOKEN, **values)

        def write_or_owe() -> None:
            try:
                write()
            except Exception as error:  # noqa: BLE001 - whatever it is, the call has had its outcome
                line(
                    logging.WARNING,
                    "once.not_released",
                    operation=self.contract.name,
                    run=self.id,
                    error=class_path(error),
                    advice="it is tried again while this process lives",
                )
                self.vigil.see_to(write)

        at_end(write_or_owe)

    def _fail_in_transaction(self, event: str, values: Mapping[str, Any]) -> None:
        """In the transaction that the row is part of; if that is rolled back, a row without a key says what was."""
        assert self.outer is not None  # noqa: S101 - callers have looked
        status = "expired" if event == "abandon" else "failed"
        instead = self.values(status, **values)
        session = self.outer.session()
        outbox.after_commit(session, _nothing, lambda: self.write(instead))
        try:
            is_applied(session.connection(), event, self.id, claim_token=TOKEN, **values)
        except Exception as error:  # noqa: BLE001 - a transaction that takes no more cannot be committed either
            line(logging.DEBUG, "once.transaction_spoilt", run=self.id, error=class_path(error))


def _nothing() -> None:
    return None
