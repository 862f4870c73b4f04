"""Recovery: the runs of dead workers are retried, or ended if too many workers were lost with them."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.database.tables import records
from dexpy.database.unreadable_rows import read_rows
from dexpy.declaration import registry
from dexpy.declaration.contract import Contract
from dexpy.declaration.contract_builder import ENDLESS
from dexpy.enqueue.dispatcher import Dispatcher
from dexpy.foundation.errors import WorkerLost
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path
from dexpy.liveness import worker_registry
from dexpy.liveness.database_sessions import end_sessions
from dexpy.liveness.heartbeat import Heartbeat
from dexpy.policies.options import DEFAULT_MAX_LOST
from dexpy.policies.retry import Retry
from dexpy.recording.batches import update_each, write_each
from dexpy.recording.outcome_logging import log_end, run_facts
from dexpy.recording.run_signals import is_cancel_requested
from dexpy.recording.store import Store, row_dict
from dexpy.recording.transitions import apply

LOSS_LIMIT = DEFAULT_MAX_LOST + 1
"""The number of lost workers that fails a run whose row has no limit."""

LOCK_WAIT_S = 1
"""The longest wait for a lock, in seconds: a dead worker may hold it."""

T = TypeVar("T")


_IS_RUNNING = records.c.status == "running"


def _select_running(run_id: str) -> sa.Select[Any]:
    return sa.select(records).where(records.c.id == run_id, _IS_RUNNING)


class Recovery:
    """Finds dead workers and recovers their runs.

    Args:
        dispatcher: Publishes the recovered runs.
        store: The store of records.
        heartbeat: The heartbeat of this process.
    """

    def __init__(self, dispatcher: Dispatcher, store: Store, heartbeat: Heartbeat) -> None:
        self._dispatcher = dispatcher
        self._store = store
        self._heartbeat = heartbeat
        self._running: Sequence[tuple[str, str | None]] = ()

    def run_once(self) -> int:
        """Recover the runs of dead workers, and delete the workers' rows.

        Returns:
            How many runs were recovered.
        """
        dead = self._find_dead()
        num_recovered = self._recover(dead)
        with self._store.begin() as connection:
            ended = worker_registry.removable_workers(dead, self._heartbeat.worker_ids, by_lease=self._by_lease)
            if removed := self._unless_late(connection.execute(ended).scalars()):
                worker_registry.unregister(connection, removed)
                for worker_id in removed:
                    log_event(LogEvent.WORKER_REMOVED, worker_id=worker_id)
            if self._by_lease:
                worker_registry.delete_orphaned_names(connection)
        return num_recovered

    @property
    def _by_lease(self) -> bool:
        return not self._heartbeat.liveness_locks.is_authoritative

    def _find_dead(self) -> Collection[str]:
        """Return the dead workers; on a server, end their database sessions.

        A worker that dies later keeps its row, and the names of its sessions, until the next check.
        """
        with self._store.begin() as connection:
            workers = worker_registry.worker_rows(connection)
            if not self._by_lease:
                self._running = [(row.id, row.claimed_by) for row in worker_registry.running_records(connection)]
                worker_ids = {row.id for row in workers} | {worker for _, worker in self._running if worker is not None}
                return self._heartbeat.liveness_locks.find_dead(worker_ids) or ()
            expired = self._unless_late(row.id for row in workers if not row.is_leased)
            dead = set(expired).difference(self._heartbeat.worker_ids)
            write_each(
                connection, "end_sessions", sorted(dead), lambda worker: end_sessions(connection, worker), "worker_id"
            )
        return dead

    def _unless_late(self, items: Iterable[T]) -> Sequence[T]:
        """Return the items, or none if this process is late with its own heartbeat, perhaps because of the query."""
        items_read = list(items)
        return items_read if self._heartbeat.may_recover else ()

    def _recover(self, dead: Collection[str]) -> int:
        """Recover the runs of dead workers, and return how many."""

        def find(connection: Connection, limit: int, without: Collection[str]) -> Sequence[Row[Any]]:
            if self._by_lease:
                lost = worker_registry.lost_runs(self._heartbeat.worker_ids, limit, without)
                return self._unless_late(read_rows(connection, lost, _select_running))
            # By id: a worker's name in a row may be one that no statement finds.
            ids = [run_id for run_id, worker in self._running if worker is None or worker in dead]
            ids, rest = ids[:limit], set(ids[limit:])
            self._running = [entry for entry in self._running if entry[0] in rest]
            rows = read_rows(connection, sa.select(records).where(_IS_RUNNING, records.c.id.in_(ids)), _select_running)
            # It may have ended, and started on another worker, since it was read.
            return [row for row in rows if row.claimed_by is None or row.claimed_by in dead]

        num_recovered = update_each(self._store, "recovery", find, self.end_attempt)
        if num_recovered:
            self._dispatcher.wake_workers()
        return num_recovered

    def end_attempt(self, connection: Connection, row: Row[Any], why: str | None = None) -> bool:
        """Recover a run, or end it if too many workers were lost with it.

        Args:
            connection: In a transaction.
            row: The running record.
            why: The reason, a sentence without its full stop. Default: the worker stopped sending heartbeats.

        Returns:
            Whether it was still running.
        """
        event, values = recovery_decision(row, is_cancel_requested(connection, row.id), why)
        if event == "recover":
            values |= {"wait_s": _wait_s(row), "sent": self._dispatcher.transactional}
        after = apply(connection, event, row.id, claim_token=row.claim_token, **values)
        if after is None:
            return False
        attempt = {**row_dict(after), "claimed_by": row.claimed_by, "failure": "lost", "error": class_path(WorkerLost)}
        self._store.insert_attempt(connection, attempt, None)
        if event == "recover":
            self._dispatcher.publish_with(connection, after)
        facts = {"worker_id": row.claimed_by, "num_lost": after.num_lost, "error_message": values["error_message"]}
        if event == "recover":
            log_event(LogEvent.RUN_RECOVERED, **facts, **run_facts(row))
        else:
            log_end(after, **facts)
        return True


def recovery_decision(row: Row[Any], is_cancelled: bool, why: str | None = None) -> tuple[str, dict[str, Any]]:
    """Decide what happens to a run whose worker is dead.

    Args:
        row: The record.
        is_cancelled: Whether the cancellation of the run is requested.
        why: See `Recovery.end_attempt`.

    Returns:
        The event of the state machine, and the error columns.
    """
    values: dict[str, Any] = {"error": class_path(WorkerLost), "failure": "lost", "error_details": None}
    if is_cancelled:
        message = "The run was cancelled while it ran, and its worker died."
        return "cancel_running", values | {"failure": "cancelled", "error_message": message}
    num_lost, limit = row.num_lost + 1, row.loss_limit if row.loss_limit is not None else LOSS_LIMIT
    why = why or f"The worker {row.claimed_by} stopped sending heartbeats during the run"
    text = f"{why} (attempt {row.num_attempts})."
    if num_lost < limit:
        allowed = "" if limit == ENDLESS else f" ({num_lost} of {limit - 1} allowed)"
        return "recover", values | {"error_message": f"{text} Worker lost{allowed}; the run will be retried."}
    if limit == 0:
        message = f"The process {row.claimed_by} ended or froze during this synchronous call."
        return "lose", values | {"error_message": message}
    text = f"{text} Worker lost ({limit - 1} allowed, {num_lost} lost)"
    if limit == 1:
        return "lose", values | {"error_message": f"{text}; the run is not retried. Call retry() to run it again."}
    return "lose", values | {
        "error_message": f"{text}: the operation probably ends its workers itself, for example by the memory it uses. "
        "Fix the cause, then call retry()."
    }


def _wait_s(row: Row[Any]) -> float:
    """Return the seconds until the next attempt, by the class's rule for `WorkerLost` if there is one."""
    contract: Contract | None = registry.contract_of(row.operation)
    if contract is None:
        return 0.0
    rule = contract.rule_for(WorkerLost())
    retry: Any = rule.answer if rule is not None and rule.cause is WorkerLost else None
    try:
        return retry.wait_s(row.num_lost + 1, error=WorkerLost()) if isinstance(retry, Retry) else 0.0
    except Exception as error:  # noqa: BLE001 - the rule's own function; the run must be recovered all the same
        log_event(LogEvent.RETRY_RULE_FAILED, operation=row.operation, run_id=row.id, error=class_path(error))
        return 0.0
