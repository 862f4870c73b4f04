"""What `Unique` says of a call; the key itself is claimed when a run is sent to the background."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from dexpy.declaration.unique import unique_key
from dexpy.execution.call import Call
from dexpy.foundation.door import store_in_force


def explain(call: Call) -> Mapping[str, Any] | None:
    """The key that a background run of this call would have, and who has it now."""
    from dexpy.recording.keys import Claim

    unique = call.contract.unique
    if unique is None:
        return None
    key = unique_key(call.operation, call.contract)
    told: dict[str, Any] = {"active": True, "key": key[:12], "until": unique.until, "for": unique.for_s}
    told |= {"on_conflict": unique.on_conflict}
    holder = store_in_force().holder(Claim(call.contract.name, unique=key))
    if holder is None or holder.is_over:
        return told | {"status": "fresh"}
    return told | {"status": "held", "held_by": holder.row.id}
