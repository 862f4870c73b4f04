"""The bounds of values in messages and rows; dexpy writes only values within them."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeGuard, cast

from dexpy.database.column_types import MAX_COUNT
from dexpy.foundation.clock import clock

MAX_ID_LENGTH = 40
"""The maximum length of a record's id, in characters."""
MAX_CLOCK_SKEW_S = 60.0
"""How far ahead the clock of another machine may be, in seconds."""


def is_count(value: object) -> TypeGuard[int]:
    """Return whether a value is valid for a counter."""
    return type(value) is int and 0 <= value <= MAX_COUNT


def is_number(value: object) -> TypeGuard[float]:
    """Return whether a value is a finite number."""
    return type(value) is int or (type(value) is float and math.isfinite(value))


def valid_counts(stored: object) -> dict[str, int]:
    """Return the counts of rules, by name, without invalid entries."""
    entries = cast("dict[object, object]", stored) if isinstance(stored, dict) else {}
    return {key: value for key, value in entries.items() if isinstance(key, str) and is_count(value)}


def valid_facts(stored: object) -> dict[str, Any]:
    """Return ``options["dexpy"]`` of a message, without invalid counters and timestamps."""
    facts = dict(cast("Mapping[str, Any]", stored)) if isinstance(stored, Mapping) else {}
    for name in ("attempt", "looks", "passes"):
        if name in facts and not is_count(facts[name]):
            del facts[name]
    if "priority" in facts and not (type(facts["priority"]) is int and abs(facts["priority"]) <= MAX_COUNT):
        del facts["priority"]
    if "counts" in facts:
        facts["counts"] = valid_counts(facts["counts"])
    if "unknown_since" in facts:
        since: object = facts["unknown_since"]
        if not (is_number(since) and 0 < since <= clock.now().timestamp() + MAX_CLOCK_SKEW_S):
            del facts["unknown_since"]
    return facts
