"""Stored batches: ``from dexpy import batches``.

Example:
    >>> from dexpy import batches
    >>> batches.find(status="running")
    []
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Row

from dexpy.database.tables import batches
from dexpy.enqueue.batch import Batch, batch
from dexpy.enqueue.batch_ticket import BatchTicket, stored_ticket
from dexpy.execution.call import current as current_call
from dexpy.foundation.errors import NotRunning, OptionsError
from dexpy.recording import batch_rows
from dexpy.recording.batch_rows import ENDED, UNFINISHED
from dexpy.recording.current_store import current_store
from dexpy.recording.filters import check_choices

__all__ = ["Batch", "BatchTicket", "batch", "current", "ended", "find", "get"]


def get(id: str) -> BatchTicket:
    """Return the ticket of a batch.

    Raises:
        BatchNotFound: No batch has this id.
    """
    return stored_ticket(current_store.get(), id)


def find(
    *, name: str | None = None, status: str | Collection[str] | None = None, limit: int = 100
) -> list[BatchTicket]:
    """Return the tickets of batches, the newest first.

    Args:
        name: Only batches with this name.
        status: Only batches with this status, or one of several.
        limit: The maximum number.

    Raises:
        OptionsError: A filter is invalid.
    """
    if type(limit) is not int or limit < 1:
        raise OptionsError(f"find(limit=): expected an int of at least 1, got {limit!r}.")
    columns = batches.c
    query = sa.select(columns.id).order_by(columns.id.desc()).limit(limit)
    if name is not None:
        query = query.where(columns.name == name)
    if status is not None:
        query = query.where(columns.status.in_(check_choices(status, (*UNFINISHED, *ENDED), "status")))
    store = current_store.get()
    return [stored_ticket(store, row.id) for row in store.rows(query)]


def _claimed_row(function: str) -> Row[Any]:
    """Return the row of the run under a worker's claim that encloses the caller."""
    call = current_call.get()
    while call is not None:
        if call.recorder is not None and (claim := call.recorder.worker_claim) is not None:
            return claim.row
        call = call.outer
    raise NotRunning(f"batches.{function}(): available only during a run in a worker. Call it in perform.")


def current() -> BatchTicket | None:
    """Return the batch that the current run belongs to, for example to add runs to it; None without one.

    Raises:
        NotRunning: No run of a worker is current.
    """
    batch_id = _claimed_row("current").batch_id
    return None if batch_id is None else get(batch_id)


def ended() -> BatchTicket | None:
    """Return the batch that has enqueued the current run as its callback; None if the run is no callback.

    Raises:
        NotRunning: No run of a worker is current.
    """
    row, store = _claimed_row("ended"), current_store.get()
    with store.begin() as connection:
        batch_id = batch_rows.batch_of_callback(connection, row.id)
    return None if batch_id is None else stored_ticket(store, batch_id)
