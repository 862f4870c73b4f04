"""Identifiers that sort by their time of creation.

An id is a prefix and 26 characters of Crockford's base 32: 10 of milliseconds since 1970, 16 of randomness (80 bits).
Ids of one thread in the same millisecond are ordered as well: each adds a random number to the last one.
"""

from __future__ import annotations

import threading
from secrets import randbits

from dexpy.foundation.clock import clock

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [high + low for high in ALPHABET for low in ALPHABET]
_RANDOM_BITS = 80
_SHIFTS = range(120, -1, -10)
"""The shifts of the 13 pairs of characters with 10 bits each: 50 bits of milliseconds, then randomness."""

FIRST_BITS = 79
"""One bit less than available, so that additions do not overflow."""
ADDED_BITS = 48
"""The bits of each increment: forked processes continue from the same number, but must not collide."""


class _Last(threading.local):
    """The last id of this thread; thread-local, because a fork could copy a lock that is held."""

    millisecond = -1
    bits = 0


_last = _Last()


def new_id(prefix: str) -> str:
    """Return a new identifier.

    Args:
        prefix: The kind of object: ``op`` for a run, ``tr`` for a trace, ``bt`` for a batch.

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
