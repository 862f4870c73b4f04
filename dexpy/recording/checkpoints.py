"""The state of a durable step, as it is stored."""

from __future__ import annotations

from typing import Any

import attrs


@attrs.frozen
class Checkpoint:
    """The state of a durable step.

    Attributes:
        name: The name of the step.
        position: The position of the step in the run.
        is_new: Whether the step has no row yet.
        finished: Whether the step has ended.
        cursor: The envelope of the loop's cursor, or None.
        value: The envelope of the step's result, or None.
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
