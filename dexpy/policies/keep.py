"""How long records are kept after they have ended, as classes and settings state it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import TypeAlias, cast

from dexpy.foundation.durations import format_duration, parse_duration
from dexpy.foundation.errors import OptionsError, did_you_mean, listed
from dexpy.foundation.safe_text import shortened

STATUSES = ("done", "failed", "expired", "cancelled")
"""The final statuses, each with a retention of its own."""
FOREVER = "forever"
SHORTEST_KEEP_S = 60.0
"""The shortest retention, in seconds: a caller must be able to read the result of its run."""
LONGEST_KEEP_S = 36500 * 86400.0

KeepTime: TypeAlias = timedelta | str
"""A timedelta, a duration as text such as ``"30d"``, or ``"forever"``."""
Keep: TypeAlias = KeepTime | Mapping[str, KeepTime]
"""One time for all final statuses, or a time for each of some."""


def keep_by_status(keep: Keep | None, where: str) -> dict[str, float | None]:
    """Return how long records are kept after their end, in seconds, by final status; None is for ever.

    Args:
        keep: The declared value; None declares nothing.
        where: The argument, for the message.

    Raises:
        OptionsError: A status is unknown or not final, or a time is invalid.
    """
    if keep is None:
        return {}
    if not isinstance(keep, Mapping):
        return dict.fromkeys(STATUSES, _keep_s(keep, where))
    for status in cast("Mapping[object, object]", keep):
        if status not in STATUSES:
            hint = did_you_mean(status, STATUSES) if isinstance(status, str) else ""
            raise OptionsError(
                f"{where}: unknown final status {shortened(status)}; expected some of {listed(STATUSES)}.{hint}"
            )
    return {status: _keep_s(time, f"{where}[{status!r}]") for status, time in keep.items()}


def _keep_s(time: object, where: str) -> float | None:
    if time == FOREVER:
        return None
    seconds = time.total_seconds() if isinstance(time, timedelta) else None
    if isinstance(time, str):
        seconds = parse_duration(time)
    if seconds is None or not SHORTEST_KEEP_S <= seconds <= LONGEST_KEEP_S:
        limits = f"from {format_duration(SHORTEST_KEEP_S)} to {format_duration(LONGEST_KEEP_S)}"
        raise OptionsError(
            f"{where}: expected a timedelta, a duration with its unit such as '30d', {limits}, or {FOREVER!r}, "
            f"got {shortened(time)}."
        )
    return seconds
