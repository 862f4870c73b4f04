"""The newest progress of a run, written beside its record while it runs.

It is written on a connection of its own, so that others see it before the run commits. On SQLite that would wait for
the run's own transaction once this has written; there it goes with the next commit.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from typing import TYPE_CHECKING

from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path
from dexpy.recording.progress import Progress

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from dexpy.execution.cancellation import CancelToken
    from dexpy.recording.recorder import ClaimRecorder

WRITE_EVERY_S = 1.0
"""The shortest time between two writes of a run's progress, in seconds."""


class ProgressWriter:
    """Writes the progress of one run.

    Args:
        claim: The run's claim, whose token fences each write.
        holds_write_lock: Whether the run's own transaction holds the write lock of SQLite.
        cancel_token: Cancels or times out the run.
    """

    def __init__(
        self, claim: ClaimRecorder, holds_write_lock: Callable[[], bool], cancel_token: CancelToken | None
    ) -> None:
        self._claim = claim
        self._holds_write_lock = holds_write_lock
        self._cancel_token = cancel_token
        self._unwritten: Progress | None = None
        self._written_at = -WRITE_EVERY_S

    def report(self, progress: Progress) -> None:
        """Set the newest progress, and write it if the last write was long enough ago."""
        self._unwritten = progress
        if time.monotonic() - self._written_at >= WRITE_EVERY_S:
            self.write()

    def write(self) -> None:
        """Write the newest progress, unless the write would wait for a lock; never raises."""
        if self._unwritten is None:
            return
        # Otherwise a timeout could be raised in here, and be handled as a failed write.
        with nullcontext() if self._cancel_token is None else self._cancel_token.shielded():
            self._write()

    def _write(self) -> None:
        try:
            if not self._holds_write_lock():
                self._written_at = time.monotonic()
                with self._claim.store.autocommit() as connection:
                    self._write_on(connection)
        except Exception as error:  # noqa: BLE001 - progress is informational and must not fail the run
            log_event(LogEvent.PROGRESS_NOT_WRITTEN, run_id=self._claim.row.id, error=class_path(error))

    def settle(self, connection: Connection) -> None:
        """Write unwritten progress in the run's own commit, on SQLite; elsewhere it was written before."""
        if self._unwritten is not None and self._claim.store.database.dialect.has_one_write_lock:
            self._write_on(connection)

    def _write_on(self, connection: Connection) -> None:
        assert self._unwritten is not None  # noqa: S101 - both callers have checked
        self._claim.write_progress(connection, self._unwritten)
        self._unwritten = None
