"""The tick of a run of a recurring task, from the columns of its record."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any

from dexpy.execution.call import Call
from dexpy.foundation.errors import DexpyError
from dexpy.schedules.zones import check_zone, zone_of


def scheduled_for(call: Call) -> datetime | None:
    """Return the tick of a run in the zone of its task; None for any other run."""
    return _moment(call, "run_at")


def previous_scheduled_for(call: Call) -> datetime | None:
    """Return the tick before it that had a run, in the zone of the task; None for the first one, and any other run."""
    return _moment(call, "previous_run_at")


def _moment(call: Call, column: str) -> datetime | None:
    claim = None if call.recorder is None else call.recorder.worker_claim
    if claim is None or (stored := getattr(claim.row, column)) is None:
        return None
    moment = as_moment(stored)
    return None if moment is None else moment.astimezone(_zone(claim.row.run_zone))


def as_moment(stored: object) -> datetime | None:
    """Convert a datetime as the driver has read it, which may be text or naive; None if it is not readable."""
    try:
        moment = stored if isinstance(stored, datetime) else datetime.fromisoformat(str(stored))
    except ValueError:
        return None
    return moment.replace(tzinfo=timezone.utc) if moment.tzinfo is None else moment


def _zone(name: str | None) -> Any:
    try:
        return zone_of(None if name is None else check_zone(name, "run_zone"))
    except DexpyError:
        # The zone database of this machine may lack it: the moment is the same.
        return timezone.utc
