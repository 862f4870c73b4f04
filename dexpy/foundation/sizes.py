"""Sizes of memory as text, a number with its unit: ``512MB``, ``2GiB``."""

from __future__ import annotations

import re

UNITS = {
    "KB": 1000,
    "KiB": 1024,
    "MB": 1000**2,
    "MiB": 1024**2,
    "GB": 1000**3,
    "GiB": 1024**3,
    "TB": 1000**4,
    "TiB": 1024**4,
}
"""The bytes of each unit, in ascending order."""
_FORM = re.compile(rf"(\d{{1,9}}(?:\.\d{{1,6}})?)({'|'.join(UNITS)})", re.ASCII)


def parse_size(text: str) -> int | None:
    """Return the bytes of a size; None if the text is not a number with a unit.

    Example:
        >>> parse_size("512MB"), parse_size("1.5GiB"), parse_size("512")
        (512000000, 1610612736, None)
    """
    match = _FORM.fullmatch(text)
    return None if match is None else round(float(match[1]) * UNITS[match[2]])


def format_size(size: int) -> str:
    """Return a size in the unit in which it is the smallest whole number.

    Args:
        size: The size in bytes.

    Example:
        >>> format_size(512_000_000), format_size(2 * 1024**3), format_size(10_500)
        ('512MB', '2GiB', '10.5KB')
    """
    whole = [(size // length, unit) for unit, length in UNITS.items() if size % length == 0]
    number, unit = min(whole, default=(size / UNITS["KB"], "KB"))
    return f"{number:g}{unit}" if isinstance(number, float) else f"{number}{unit}"
