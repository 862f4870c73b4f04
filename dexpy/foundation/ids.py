"""Identifiers that sort by the time they were made.

An id is a prefix and 26 characters of Crockford's base 32: 10 of milliseconds since 1970, 16 of randomness (80 bits).
"""

from __future__ import annotations

import secrets
from collections.abc import Callable

from dexpy.foundation.clock import clock

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [high + low for high in ALPHABET for low in ALPHABET]


def _text(number: int, pairs: int) -> str:
    """The lowest 10 * *pairs* bits of a number, two characters for each 10."""
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(10 * (pairs - 1), -1, -10)])


def new_id(prefix: str, random_bits: Callable[[int], int] = secrets.randbits) -> str:
    """A new identifier.

    Args:
        prefix: What it names: ``op`` for a run, ``tr`` for a trace.
        random_bits: Gives that many random bits.

    Example:
        >>> new_id("op").startswith("op_"), len(new_id("op"))
        (True, 29)
    """
    return f"{prefix}_{_text(int(clock.timestamp() * 1000), 5)}{_text(random_bits(80), 8)}"
