"""The parts of the current runtime that records use."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from dexpy.foundation.services import Provider

if TYPE_CHECKING:
    from dexpy.recording.store import Store

current_store: Provider[Store] = Provider("store")
"""The store of records."""

prune_records: Provider[Callable[..., int]] = Provider("deletion of old records")
"""Deletes the records whose retention has passed, or counts them with ``dry_run=True``."""

run_record_now: Provider[Callable[[str], bool]] = Provider("record runner")
"""Runs a record by id in the calling thread like a worker; returns False if it is not due or has no slot."""
