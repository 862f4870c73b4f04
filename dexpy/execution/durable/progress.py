"""`self.report_progress`: validates the progress of a run and passes it to the writer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from dexpy.execution.call import Call
from dexpy.execution.durable.progress_writer import ProgressWriter
from dexpy.foundation.clock import clock
from dexpy.foundation.errors import OptionsError
from dexpy.foundation.safe_text import class_name, storable
from dexpy.recording.progress import Progress

if TYPE_CHECKING:
    from dexpy.recording.recorder import ClaimRecorder

MAX_NOTE_LENGTH = 500
MAX_NUMBER = 1e300
"""The largest accepted number: every JSON parser reads it, and it can be divided."""


def report(call: Call, done: float, total: float | None, note: str | None) -> None:
    """Store the progress of a run; does nothing for a run without a claimed record.

    Raises:
        OptionsError: A number or the note is invalid.
    """
    where = f"{call.contract.cls.__qualname__}.report_progress"
    done = _number(where, "done", done)
    total = None if total is None else _number(where, "total", total)
    if note is not None and not isinstance(note, str):
        raise OptionsError(f"{where}: note: expected str, got {note!r}.")
    claim = claim_of(call)
    if claim is None:
        return
    unit_of_work = call.unit_of_work
    redacted_note = None if note is None else call.redactor(note)[:MAX_NOTE_LENGTH]
    progress = Progress(done, total, redacted_note, clock.now())

    def write() -> None:
        if unit_of_work.progress is None:
            unit_of_work.progress = ProgressWriter(claim, lambda: unit_of_work.holds_write_lock, call.cancel_token)
        unit_of_work.progress.report(progress)

    if unit_of_work.is_own_thread:
        write()
    elif call.bridge is not None:
        # From the event loop, where nothing may wait for a database.
        call.bridge.post(write)


def _number(where: str, name: str, value: Any) -> float:
    """Return a number as a plain type, checked to be within bounds."""
    kind = cast("type[object]", type(value))
    number: float = -1
    if issubclass(kind, int) and kind is not bool:
        number = int.__int__(value)
    elif issubclass(kind, float):
        number = float.__float__(value)
    if not 0 <= number <= MAX_NUMBER:
        expected = f"<= {MAX_NUMBER:g}" if number > MAX_NUMBER else ">= 0"
        raise OptionsError(f"{where}: {name}: expected a number {expected}, got {storable(_safe_repr(value), 100)}.")
    return number


def _safe_repr(value: Any) -> str:
    try:
        return repr(value)
    except Exception:  # noqa: BLE001 - for example an int with too many digits, or a class whose methods raise
        return f"<{class_name(value)}>"


def claim_of(call: Call) -> ClaimRecorder | None:
    """Return the claim of a run; None for a synchronous call or without a record."""
    return None if call.recorder is None else call.recorder.worker_claim
