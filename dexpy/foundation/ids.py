"""Identifiers that sort by the time they were made.

An id is a prefix and 26 characters of Crockford's base 32: 10 of milliseconds since 1970, 16 of randomness (80 bits).
Those that one thread makes in one millisecond sort as they were made, too: each adds something random to the last one.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable

from dexpy.foundation.clock import clock

ALPHABET = "0123456789abcdefghjkmnpqrstvwxyz"
_PAIRS = [high + low for high in ALPHABET for low in ALPHABET]


def _text(number: int, pairs: int) -> str:
    """The lowest 10 * *pairs* bits of a number, two characters for each 10."""
    return "".join([_PAIRS[number >> shift & 1023] for shift in range(10 * (pairs - 1), -1, -10)])


FIRST_BITS = 79
"""One less than there are, so that nothing overflows by what is added."""
ADDED_BITS = 48
"""Two processes that were one until a fork go on from the same number, and yet meet never again."""


class _Last(threading.local):
    """What this thread made last: a lock would be copied by a fork, perhaps while it is taken."""

    millisecond = -1
    bits = 0


_last = _Last()


def new_id(prefix: str, random_bits: Callable[[int], int] = secrets.randbits) -> str:
    """A new identifier.

    Args:
        prefix: What it names: ``op`` for a run, ``tr`` for a trace.
        random_bits: Gives that many random bits.

    Example:
        >>> new_id("op").startswith("op_"), len(new_id("op"))
        (True, 29)
    """
    now = int(clock.timestamp() * 1000)
    if now == _last.millisecond:
        _last.bits += 1 + random_bits(ADDED_BITS)
    else:
        _last.millisecond, _last.bits = now, random_bits(FIRST_BITS)
    return f"{prefix}_{_text(now, 5)}{_text(_last.bits, 8)}"
