"""What a limit says of a call; it acts on background runs, where they are claimed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dexpy.execution.call import Call


def explain(call: Call) -> Mapping[str, Any] | None:
    """The key, how many may run at once, and how many do and wait now."""
    concurrency = call.contract.concurrency
    if concurrency is None:
        return None
    from dexpy.recording import slots

    key = concurrency.key(call.operation, call.contract)
    found = call.scope.store.rows(slots.counts(key))
    return {
        "key": key,
        "limit": concurrency.limit,
        "on_conflict": concurrency.on_conflict,
        "running": found[0].running if found else 0,
        "blocked": found[0].blocked if found else 0,
    }
