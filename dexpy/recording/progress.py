"""`Progress`: how far a run says it is, and how that is kept while it runs."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any, cast

import attrs


@attrs.frozen
class Progress:
    """How far a run says it is.

    Attributes:
        done: How much of it is done, in units of its own.
        total: Of how much; None where nobody knows.
        note: For people, redacted.
        at: When it said so, by the clock of its worker.

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
        """From 0.0 to 1.0; None without a total."""
        if self.total is None:
            return None
        return 1.0 if self.total <= 0 else min(1.0, self.done / self.total)

    def to_json(self) -> dict[str, Any]:
        """As it is kept."""
        return {"done": self.done, "total": self.total, "note": self.note, "at": self.at.isoformat()}

    @classmethod
    def from_json(cls, stored: Any) -> Progress | None:
        """What was kept; None for nothing, or for a form that nobody knows here."""
        if not isinstance(stored, Mapping):
            return None
        kept = cast("Mapping[str, Any]", stored)
        try:
            at = datetime.fromisoformat(kept["at"]).astimezone(timezone.utc)
            return cls(kept["done"], kept.get("total"), kept.get("note"), at)
        except (KeyError, TypeError, ValueError):
            return None
