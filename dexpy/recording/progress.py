"""The progress that a run reports, and its stored form."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, cast

import attrs


@attrs.frozen
class Progress:
    """The progress that a run has reported.

    Attributes:
        done: The finished amount, in units of the operation.
        total: The total amount; None if unknown.
        note: A note, redacted.
        at: The time of the report, by the worker's clock.

    Example:
        >>> from datetime import datetime, timezone
        >>> Progress(done=3, total=4, note=None, at=datetime.now(timezone.utc)).fraction
        0.75
    """

    done: float
    total: float | None
    note: str | None
    at: datetime

    @property
    def fraction(self) -> float | None:
        """The finished share, from 0.0 to 1.0; None without a total."""
        if self.total is None:
            return None
        return 1.0 if self.total <= 0 else min(1.0, self.done / self.total)

    def to_json(self) -> dict[str, Any]:
        """Return the stored form."""
        return {"done": self.done, "total": self.total, "note": self.note, "at": self.at.isoformat()}

    @classmethod
    def from_json(cls, stored: Any) -> Progress | None:
        """Read the stored form; return None for anything else."""
        if not isinstance(stored, Mapping):
            return None
        values = cast("Mapping[str, Any]", stored)
        try:
            at = datetime.fromisoformat(values["at"]).astimezone(timezone.utc)
            return cls(values["done"], values.get("total"), values.get("note"), at)
        except (KeyError, TypeError, ValueError):
            return None
