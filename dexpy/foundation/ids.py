"""Identifiers that sort by the time they were made.

An id is a prefix and 26 characters of Crockford's base 32: 10 of milliseconds since 1970, 16 of randomness (80 bits).
Those that one thread makes in one millisecond sort as they were made, too: each adds something random to the last one.
"""

from __future__ import annotations

import threading
from secrets import randbits

from dexpy.foundation.clock import clock

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [high + low for high in ALPHABET for low in ALPHABET]
_RANDOM_BITS = 80
_SHIFTS = range(120, -1, -10)
"""Of the 13 pairs of characters, 10 bits each: 50 bits of milliseconds, then those of randomness."""

FIRST_BITS = 79
"""One less than there are, so that nothing overflows by what is added."""
ADDED_BITS = 48
"""Two processes that were one until a fork go on from the same number, and yet meet never again."""


class _Last(threading.local):
    """The last id of this thread: a lock could be copied by a fork while it is held."""

    millisecond = -1
    bits = 0


_last = _Last()


def new_id(prefix: str) -> str:
    """Return a new identifier.

    Args:
        prefix: What it names: ``op`` for a run, ``tr`` for a trace.

    Example:
        >>> new_id("op").startswith("op_"), len(new_id("op"))
        (True, 29)
    """
    now = int(clock.timestamp() * 1000)
    if now == _last.millisecond:
        _last.bits += 1 + randbits(ADDED_BITS)
    else:
        _last.millisecond, _last.bits = now, randbits(FIRST_BITS)
    number = now << _RANDOM_BITS | _last.bits & (1 << _RANDOM_BITS) - 1
    text = prefix + "_"
    for shift in _SHIFTS:
        text += _PAIRS[number >> shift & 1023]
    return text
