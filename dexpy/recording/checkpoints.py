"""The state of a durable step, which is written when it ends."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen
class Checkpoint:
    """The state of a durable step.

    Attributes:
        name: Of the step.
        position: Of the step.
        is_new: Whether the step has no row yet.
        finished: Whether the step has ended.
        cursor: The envelope of the loop's cursor; None without a cursor.
        value: The envelope of what the step returned; None for nothing.
    """

    name: str
    position: int
    is_new: bool
    finished: bool = True
    cursor: Any = None
    value: Any = None


def is_envelope(stored: object) -> bool:
    """Return whether decrypted JSON is the envelope of a cursor or value."""
    return isinstance(stored, dict) and "value" in stored
