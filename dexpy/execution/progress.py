"""How far a run says it is: `self.report_progress`, kept beside its record while it runs.

It is written on a connection of its own, so that others see it before the run commits. On SQLite that would wait for
the run's own transaction once this has written; there it goes with the next commit.
"""

from __future__ import annotations

import logging
import time
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from dexpy.execution.call import Call
from dexpy.foundation.clock import clock
from dexpy.foundation.errors import OptionsError
from dexpy.foundation.log import line
from dexpy.foundation.redaction import class_path
from dexpy.recording.progress import Progress

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from dexpy.execution.scope import Scope
    from dexpy.execution.stop import Stop
    from dexpy.recording.recorder import ClaimRecorder

EVERY_S = 1.0
"""So often a run's progress is written at most, in seconds; what is said in between waits."""
LONGEST_NOTE = 500


class Reporter:
    """Keeps what one run says.

    Args:
        claim: Of the run, for nobody else may say anything of it.
        scope: Its session and transaction.
        stop: How somebody else ends the run.
    """

    def __init__(self, claim: ClaimRecorder, scope: Scope, stop: Stop | None) -> None:
        self._claim = claim
        self._scope = scope
        self._stop = stop
        self._said: Progress | None = None
        self._written_at = -EVERY_S

    def say(self, progress: Progress) -> None:
        """Take in what the run says, and write it unless that was done a moment ago."""
        self._said = progress
        if time.monotonic() - self._written_at >= EVERY_S:
            self.write()

    def write(self) -> None:
        """Write what was said last, if nobody has to wait for that; it never fails the run."""
        if self._said is None:
            return
        # Or what ends the run from outside would come up in here, and be taken for a failure to write.
        with nullcontext() if self._stop is None else self._stop.outside():
            self._write()

    def _write(self) -> None:
        try:
            if not self._scope.holds_write_lock:
                self._written_at = time.monotonic()
                with self._claim.store.at_once() as connection:
                    self._keep(connection)
        except Exception as error:  # noqa: BLE001 - what is only told to people must not fail the work
            line(logging.WARNING, "progress.not_written", run=self._claim.row.id, error=class_path(error))

    def settle(self, connection: Connection) -> None:
        """Write what is left with the run's own commit, on SQLite: elsewhere it was written before."""
        if self._said is not None and connection.dialect.name == "sqlite":
            self._keep(connection)

    def _keep(self, connection: Connection) -> None:
        from dexpy.recording.signals import keep_progress

        row, said = self._claim.row, self._said
        assert said is not None  # noqa: S101 - both callers have looked
        keep_progress(connection, row.id, row.claim_token, said.to_json())
        self._said = None


def report(call: Call, done: float, total: float | None, note: str | None) -> None:
    """Have kept how far a run is; nothing is where it has no record to keep it beside yet.

    Raises:
        OptionsError: These are no numbers, or the note is no text.
    """
    where = f"{call.contract.cls.__qualname__}.report_progress"
    _check_number(where, "done", done)
    if total is not None:
        _check_number(where, "total", total)
    if note is not None and not isinstance(note, str):
        raise OptionsError(f"{where}(note={note!r}) wants text.")
    claim = claim_of(call)
    if claim is None:
        return
    scope = call.scope
    told = None if note is None else call.redactor(note)[:LONGEST_NOTE]
    progress = Progress(done, total, told, clock.now())

    def say() -> None:
        if scope.reporter is None:
            scope.reporter = Reporter(claim, scope, call.stop)
        scope.reporter.say(progress)

    if scope.is_own_thread:
        say()
    elif call.desk is not None:
        # From the event loop, where nothing may wait for a database.
        call.desk.post(say)


def _check_number(where: str, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < float("inf"):
        raise OptionsError(f"{where}({name}={value!r}) wants a number, 0 or more.")


def claim_of(call: Call) -> ClaimRecorder | None:
    """The claim that a run is under; None for one in place, and for one without a record."""
    if call.recorder is None:
        return None
    from dexpy.recording.recorder import ClaimRecorder

    return call.recorder if isinstance(call.recorder, ClaimRecorder) else None


def keep_last(scope: Scope) -> None:
    """Write what a run has said last, before its end is written."""
    if scope.reporter is not None:
        scope.reporter.write()


def settle(scope: Scope, connection: Connection) -> None:
    """See `Reporter.settle`."""
    if scope.reporter is not None:
        scope.reporter.settle(connection)
