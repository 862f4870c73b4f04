"""The durable steps of a run, read from their rows."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Final

import attrs
import sqlalchemy as sa

from dexpy.database.tables import steps
from dexpy.foundation.errors import SENSITIVE
from dexpy.recording.checkpoints import is_envelope
from dexpy.recording.encryption import is_encrypted
from dexpy.recording.store import Store

UNREADABLE: Final = "<unreadable>"
"""Replaces a stored cursor or value that is not valid JSON."""


@attrs.frozen
class KeptStep:
    """A stored step of a run.

    Attributes:
        name: The method's name, or the name in ``self.each``.
        position: The position, from 0, in the order in which the run started its steps.
        finished: Whether it has ended; False for a loop in progress.
        cursor: The position of a loop, as JSON; None for a step, and for a loop without items.
        value: The result of the step, as JSON. Cursor and value are ``"<unreadable>"`` if the stored JSON is invalid.
        claim_token: The claim token of the attempt that wrote it.
        updated_at: The time of the last write.
    """

    name: str
    position: int
    finished: bool
    cursor: Any
    value: Any
    claim_token: int
    updated_at: datetime


def stored_steps(store: Store, record_id: str) -> list[KeptStep]:
    """Return the stored steps of a run, in order; cursors and values are in their envelopes."""
    # Invalid JSON and NULL both read as None; only the database distinguishes them.
    stored = (steps.c.cursor.is_not(None).label("has_cursor"), steps.c.value.is_not(None).label("has_value"))
    query = sa.select(steps, *stored).where(steps.c.record_id == record_id).order_by(steps.c.position)
    return [
        KeptStep(
            row.name,
            row.position,
            row.finished,
            UNREADABLE if row.cursor is None and row.has_cursor else row.cursor,
            UNREADABLE if row.value is None and row.has_value else row.value,
            row.claim_token,
            row.updated_at,
        )
        for row in store.rows(query)
    ]


def redacted_steps(store: Store, record_id: str) -> list[KeptStep]:
    """Return the stored steps of a run without encrypted values."""
    return [
        attrs.evolve(step, cursor=_redacted(step.cursor), value=_redacted(step.value))
        for step in stored_steps(store, record_id)
    ]


def _redacted(envelope: Any) -> Any:
    if is_encrypted(envelope):
        return SENSITIVE
    if envelope is None:
        return None
    return envelope["value"] if is_envelope(envelope) else UNREADABLE
