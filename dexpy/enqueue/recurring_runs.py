"""Prepare a run of a recurring task from the task's row."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import attrs
from sqlalchemy.engine import Row

from dexpy.declaration.contract import Contract
from dexpy.enqueue.dispatcher import Dispatcher
from dexpy.enqueue.jobs import DEFAULT_QUEUE, EnqueueOptions, PreparedJob
from dexpy.execution.pipeline import decode_operation
from dexpy.policies.options import AsyncOptions
from dexpy.recording import recurring_tasks
from dexpy.recording.recurring_tasks import TaskOptions
from dexpy.transactions.commit_hooks import CommitState
from dexpy.transactions.sessions import EnqueueTransaction


def prepare_run(
    dispatcher: Dispatcher,
    row: Row[Any],
    contract: Contract | None,
    options: TaskOptions,
    *,
    at: datetime | None = None,
    transaction: EnqueueTransaction = None,
    commit_state: CommitState | None = None,
) -> PreparedJob:
    """Prepare a run of a task.

    Args:
        dispatcher: Prepares the run.
        row: The row of the task.
        contract: The contract of its operation; None if this process does not declare it.
        options: The options in the row.
        at: When the run is due; None for now.
        transaction: The transaction of the application that stores it; None for one of dexpy's own.
        commit_state: The state of that transaction.

    Raises:
        DexpyError: The params do not match the props of the class, cannot be decrypted or cannot be enqueued.
    """
    if contract is None:
        queue = row.queue or options.class_queue or DEFAULT_QUEUE
        priority = options.class_priority if row.priority is None else row.priority
        resolved = EnqueueOptions(queue, priority or 0, None, at, None)
        job = dispatcher.prepare_stored(
            row.operation, row.params or {}, resolved, options.loss_limit, transaction, commit_state
        )
    else:
        operation = decode_operation(contract, row.params or {}, recurring_tasks.task_id(row.key))
        run_options = AsyncOptions(queue=row.queue, priority=row.priority, at=at)
        job = dispatcher.prepare(operation, run_options, transaction, commit_state)
    assert job.columns is not None  # noqa: S101 - a class without records cannot recur
    return attrs.evolve(job, columns={**job.columns, "recurring_key": row.key, "run_zone": row.zone})
