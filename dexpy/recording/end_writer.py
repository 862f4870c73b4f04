"""The writer of the ends of runs: it shortens texts that the database refuses, and retries while it is unreachable."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import attrs
import sqlalchemy as sa

from dexpy.database.errors import is_away, retry_while_away
from dexpy.foundation.backoff import Backoff
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import Redactor, class_path
from dexpy.recording.store import Store

BACKOFF = Backoff(first_s=0.5, longest_s=5.0)
"""The pauses before a retry of an end that the database has refused in every variant."""

Write = Callable[[], object]
"""Writes the end of a run in its own transaction; may be called again after any error."""


@attrs.frozen
class _UnwrittenEnd:
    """An end that is not written yet.

    Attributes:
        variants: The variants, from the longest to the shortest.
        facts: Fields for the log.
        on_written: Called after the end is written.
    """

    variants: Sequence[Write]
    facts: Mapping[str, Any]
    on_written: Callable[[], None]


class EndWriter:
    """Writes the ends of runs, and retries in its own thread until each is written.

    Args:
        store: The store of the records.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._unwritten: dict[str, _UnwrittenEnd] = {}
        self._lock = threading.Lock()
        self._is_closed = threading.Event()
        self._thread: threading.Thread | None = None

    def is_pending(self, record_id: str) -> bool:
        """Return whether the end of a run is not written yet."""
        return record_id in self._unwritten

    def write(
        self,
        record_id: str,
        variants: Sequence[Write],
        on_written: Callable[[], None] = lambda: None,
        *,
        waits: bool = True,
        **facts: Any,
    ) -> bool:
        """Write an end now, in the first variant that the database accepts, or later in the background.

        Args:
            record_id: The id of the record.
            variants: The variants, from the longest to the shortest, which has no text of the application.
            on_written: Called after the end is written.
            waits: Whether to wait here while the database is unreachable.
            facts: Fields for the log.

        Returns:
            Whether the end is written.
        """
        facts["run_id"] = record_id
        is_logged = False
        for write in variants:
            try:
                if waits:
                    retry_while_away("write_end", write, self._is_reachable, **facts)
                else:
                    write()
            except Exception as error:  # noqa: BLE001 - a full disk, a trigger, a short column: try the next variant
                _log(logging.DEBUG if is_logged else logging.ERROR, error, facts)
                is_logged = True
            else:
                on_written()
                return True
        self._write_later(record_id, _UnwrittenEnd(variants, facts, on_written))
        return False

    def _is_reachable(self) -> bool:
        """Return whether the database answers; if so, an error that looks like an outage is about one record."""
        try:
            with self._store.database.connect() as connection:
                connection.execute(sa.text("SELECT 1"))
        except Exception as error:  # noqa: BLE001 - any error means that there was no answer
            log_event(LogEvent.DATABASE_UNREACHABLE, logging.DEBUG, error=class_path(error))
            return False
        return True

    def _write_later(self, record_id: str, unwritten: _UnwrittenEnd) -> None:
        with self._lock:
            self._unwritten[record_id] = unwritten
            if self._thread is None and not self._is_closed.is_set():
                self._thread = threading.Thread(target=self._retry_unwritten, name="dexpy-end-writer", daemon=True)
                self._thread.start()

    def _retry_unwritten(self) -> None:
        for pause_s in BACKOFF:
            if self._is_closed.wait(pause_s):
                return
            for record_id, unwritten in list(self._unwritten.items()):
                if self._try_write(unwritten):
                    with self._lock:
                        del self._unwritten[record_id]
            with self._lock:
                if not self._unwritten:
                    self._thread = None
                    return

    def _try_write(self, unwritten: _UnwrittenEnd) -> bool:
        for write in unwritten.variants:
            try:
                write()
                unwritten.on_written()
            except Exception as error:  # noqa: BLE001 - there has to be a next try
                _log(logging.WARNING, error, unwritten.facts)
                if is_away(error):
                    return False
            else:
                log_event(LogEvent.RUN_END_WRITTEN, **unwritten.facts)
                return True
        return False

    def close(self) -> None:
        """Stop retrying, because this process ends or no longer uses the database."""
        self._is_closed.set()


def _log(level: int, error: Exception, facts: Mapping[str, Any]) -> None:
    advice = "it is retried with shorter texts, and until the database accepts it"
    error_facts = {"error": class_path(error), "error_message": Redactor().of(error), "advice": advice}
    log_event(LogEvent.RUN_END_NOT_WRITTEN, level, **facts, **error_facts)
