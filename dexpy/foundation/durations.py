"""Durations as text, a number with its unit: ``500ms``, ``30s``, ``1.5h``."""

from __future__ import annotations

import re

UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
"""The length of each unit, in seconds, in ascending order."""
_FORM = re.compile(r"(\d{1,9}(?:\.\d{1,6})?)(ms|s|m|h|d|w)", re.ASCII)


def parse_duration(text: str) -> float | None:
    """Return the seconds of a duration; None if the text is not a number with a unit.

    Example:
        >>> parse_duration("5m"), parse_duration("100ms"), parse_duration("30")
        (300.0, 0.1, None)
    """
    match = _FORM.fullmatch(text)
    return None if match is None else float(match[1]) * UNITS[match[2]]


def format_duration(seconds: float) -> str:
    """Return a duration in the largest unit in which it is a whole number.

    Example:
        >>> format_duration(90), format_duration(3600), format_duration(0.1)
        ('90s', '1h', '100ms')
    """
    milliseconds = round(seconds * 1000)
    for unit, length_s in reversed(UNITS.items()):
        length_ms = round(length_s * 1000)
        if milliseconds and milliseconds % length_ms == 0 and unit != "w":
            return f"{milliseconds // length_ms}{unit}"
    return "0s"
