"""Failpoints: named points between writes, at which tests kill or stop a process; without effect otherwise."""

from __future__ import annotations

from collections.abc import Callable

reached: Callable[[str], None] | None = None
"""A function that is called with the name of each failpoint; only the entry point of a test sets it."""

FAILPOINTS = {
    "after_insert": "An enqueue has inserted its record; not committed.",
    "after_commit": "The transaction of an enqueue is committed; its message is not published.",
    "before_publish": "A message is about to be published.",
    "after_publish": "A message is published; the record does not store that yet.",
    "enqueue_key_claimed": "An enqueue has claimed its keys with its record; not committed.",
    "after_claim": "A worker has claimed a record.",
    "before_commit": "A run is marked as done; not committed.",
    "before_ack": "A run is committed; its message is not acknowledged.",
    "before_step_commit": "The checkpoint of a durable step is written; not committed.",
    "after_step_commit": "The checkpoint of a durable step is committed.",
    "concurrency_key_locked": "A worker has locked a concurrency key to count its running runs.",
    "held_runs_marked": "A batch of held runs is marked as published after a pause, and not published yet.",
    "rate_key_locked": "A worker has locked a rate key to check whether a run may start.",
    "rate_start_stored": "A claimed run and its start are stored; not committed.",
    "starts_offered": "Starts are assigned to waiting runs; on a message broker nothing is published for them yet.",
    "run_blocked": "A run found no free slot and is stored as blocked.",
    "before_slot_release": "A run has ended; its slot is not offered to blocked runs yet.",
    "slots_filled": "Free slots are assigned to blocked runs; on a message broker nothing is published for them yet.",
    "lock_busy": "A run did not get its lock within one slice of its wait.",
    "lock_acquired": "A run has acquired its lock.",
    "before_lock_release": "A run is about to release its lock.",
    "once_key_claimed": "A call has committed its claim of an idempotency key.",
    "once_key_busy": "A call found its idempotency key claimed by a run that has not ended.",
    "before_key_release": "A call has failed; its idempotency key is not released yet.",
    "database_session_recorded": "The database session of a run is recorded; not committed.",
    "relay_rows_marked": "The relay has marked records as published; nothing is published yet.",
    "before_recovery_commit": "The relay has recovered runs of dead workers; not committed.",
    "before_expiry_commit": "The relay has expired overdue runs; not committed.",
    "before_publish_commit": "The relay has published due runs through the database; not committed.",
    "records_locked_for_deletion": "Old records are selected and locked; nothing is deleted yet.",
    "hook_claimed": "A process has claimed the call of a hook; it has not begun.",
    "recurring_declared": "A worker has stored which recurring tasks it declares; their rows are not compared yet.",
    "recurring_task_locked": "The row of a due recurring task is locked; nothing is written.",
    "recurring_run_stored": "The run of a tick is inserted and its task moved to the next tick; not committed.",
    "batch_run_ended": "A run of a batch has ended; whether it was the last one is not checked yet.",
    "before_batch_commit": "The end of a batch is written and its callbacks are inserted; not committed.",
    "after_batch_commit": "The end of a batch is committed; the messages of its callbacks are not published.",
    "before_migration_lock": "A process is about to acquire the lock of the schema; another one may hold it.",
    "before_migration_statement": "A migration is about to execute its next statement.",
    "before_migration_stamp": "A migration has executed its statements; its version is not stored yet.",
}
"""The failpoints of dexpy, with the state at each."""


def failpoint(name: str) -> None:
    """Call the function that a test has set, if any.

    Args:
        name: One of `FAILPOINTS`, or a failpoint of the application of a test.
    """
    if reached is not None:
        reached(name)
