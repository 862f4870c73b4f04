"""The heartbeat of a worker process, which renews its lease, and the records that the process holds.

The heartbeat has its own thread, so long runs do not delay it.
Other workers recover the runs of a worker whose lease has expired, so a worker that fails to renew its lease starts no
runs until it succeeds. The module is long because the records that a process holds depend on its lease.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any, TypeAlias

import dramatiq

from dexpy.database.errors import retry_while_away
from dexpy.declaration import registry
from dexpy.foundation.backoff import Backoff
from dexpy.foundation.ids import new_id
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.periodic import PeriodicTask, PeriodicThread, end_all
from dexpy.foundation.redaction import class_path
from dexpy.liveness import worker_registry
from dexpy.liveness.database_sessions import DatabaseSessions
from dexpy.liveness.intervals import RecoveryIntervals
from dexpy.recording.store import Store

LATE_AFTER = 0.6
"""A worker whose last heartbeat is older than this share of its lease starts no runs."""
REGISTER_EVERY_S = 1.0
"""How often a worker that could not register tries again, in seconds."""
LATE_BEATS = 2.5
"""A worker is not ready if its last heartbeat is older than this number of intervals."""
RECOVERS_AFTER_BEATS = 2
"""A worker whose own heartbeat was late recovers others only after this many heartbeats."""
RECONCILE_EVERY_S = 5.0
"""The longest interval between two reconciliations, in seconds."""
SQLITE_HEARTBEAT_INTERVAL_S = 10.0
"""The interval on SQLite, in seconds: heartbeats are only informative there, and every write blocks others."""


NamesRegistered: TypeAlias = Callable[[Collection[str], Collection[str] | None], object]


class HeldRecords:
    """The ids of the records that this process holds, counted: an id that is held twice must be released twice."""

    def __init__(self) -> None:
        self._held: Counter[str] = Counter()
        self._started: set[str] = set()
        self._lock = threading.Lock()

    def hold(self, record_id: str) -> None:
        """Add an id, before its record is claimed, so that a claimed record is always held."""
        with self._lock:
            self._held[record_id] += 1

    def release(self, record_ids: Collection[str]) -> None:
        """Remove ids that this process no longer works on."""
        with self._lock:
            for record_id in record_ids:
                self._held[record_id] -= 1
                if self._held[record_id] <= 0:
                    del self._held[record_id]

    def __contains__(self, record_id: str) -> bool:
        with self._lock:
            return record_id in self._held

    @property
    def is_empty(self) -> bool:
        """Whether this process holds no records."""
        with self._lock:
            return not self._held

    def is_shared(self, record_id: str) -> bool:
        """Return whether more than one thread holds an id."""
        with self._lock:
            return self._held[record_id] > 1

    def begin(self, record_id: str) -> None:
        """Register a run whose `perform` is about to be called here."""
        with self._lock:
            self._started.add(record_id)

    def end(self, record_id: str) -> None:
        """Unregister a run whose end is written, here or by another worker."""
        with self._lock:
            self._started.discard(record_id)

    def has_begun(self, record_id: str) -> bool:
        """Return whether a run was started here and its end may not be written."""
        with self._lock:
            return record_id in self._started


class Heartbeat(dramatiq.Middleware):
    """The heartbeat of this process; each forked process has its own.

    Attributes:
        held_records: The records that this process holds.
        called_records: Those of them that synchronous calls hold.

    Args:
        store: The store of the workers' rows.
        intervals: The intervals of the heartbeat.
        keep_alive: Called with each heartbeat, to renew the broker's leases of this process.
        reconcile: Called between heartbeats, to compare the claims of this process with its runs.
        names_registered: Called with the names of the operations and the queues of this worker process when the names
            are stored, and again with the next heartbeat, for workers that have read them just before.
    """

    def __init__(
        self,
        store: Store,
        intervals: RecoveryIntervals,
        keep_alive: Callable[[], None] = lambda: None,
        *,
        reconcile: Callable[[], object] = lambda: None,
        names_registered: NamesRegistered = lambda _names, _queues: None,
    ) -> None:
        self._store = store
        self._intervals = intervals
        self._keep_alive = keep_alive
        self.held_records = HeldRecords()
        self.called_records = HeldRecords()
        self.reconcile = reconcile
        self._names_registered = names_registered
        self._by_pid: dict[int, _ProcessHeartbeat] = {}
        self._threads = 0
        # Empty until `serve`: a process that only calls operations has a heartbeat too.
        self._queues: Collection[str] | None = ()

    @property
    def _current(self) -> _ProcessHeartbeat:
        # For each process id, without a lock: a fork could copy a lock that is held.
        pid = os.getpid()
        heartbeat = self._by_pid.get(pid)
        if heartbeat is None:
            new_heartbeat = _ProcessHeartbeat(
                self._store,
                self._intervals,
                self._keep_alive,
                self._threads,
                self._queues,
                self.reconcile,
                self._names_registered,
            )
            heartbeat = self._by_pid.setdefault(pid, new_heartbeat)
        return heartbeat

    def serve(self, threads: int, queues: Collection[str] | None) -> None:
        """Set what the worker of this process serves, before it starts.

        Args:
            threads: The number of concurrent runs; 0 for a process that only calls operations.
            queues: The names of its queues, or a tuple of patterns, the most urgent first; None for all.
        """
        self._threads, self._queues = threads, queues
        # A call of the application may have started a heartbeat with the old values.
        heartbeat = self._by_pid.get(os.getpid())
        if heartbeat is not None:
            heartbeat.serve(threads, queues)

    def start(self) -> str:
        """Start the heartbeat of this process if it is not running; return the worker's id, unique for each start."""
        heartbeat = self._by_pid.get(os.getpid())
        worker_id = None if heartbeat is None else heartbeat.worker_id
        return self._current.start() if worker_id is None else worker_id

    def before_worker_boot(self, broker: Any, worker: Any) -> None:
        """Start the heartbeat first, because the process needs a worker id before it claims records."""
        if not self._threads:
            # Plain `dramatiq` does not call `serve`.
            self.serve(worker.worker_threads, worker.consumer_whitelist)
        self._current.start()

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        """Start the heartbeat if the database was unreachable before; retry if it still is."""
        try:
            self._current.start()
        except Exception as error:  # noqa: BLE001 - of any driver
            log_event(LogEvent.DATABASE_UNREACHABLE, error=class_path(error), retry_in_s=REGISTER_EVERY_S)
            self._current.start_later()

    def after_worker_shutdown(self, broker: Any, worker: Any) -> None:
        """Stop the heartbeat after all runs have ended or were released, unless a synchronous call needs it."""
        if self.called_records.is_empty:
            self._threads, self._queues = 0, ()
            self.stop()
            return
        # The lease of synchronous calls in other threads must not end.
        with contextlib.suppress(Exception):
            self.serve(0, ())
        self.stop_at_exit()

    def stop_at_exit(self) -> None:
        """Stop the heartbeat when this process exits; a worker stops it on shutdown."""
        # Register once. A fork inherits the handler, which does nothing there without a heartbeat.
        atexit.unregister(self.stop)
        atexit.register(self.stop)

    def stop(self) -> None:
        """Stop the heartbeat and delete the worker's row."""
        atexit.unregister(self.stop)
        heartbeat = self._by_pid.pop(os.getpid(), None)
        if heartbeat is not None:
            heartbeat.stop()

    @property
    def registered_worker(self) -> str | None:
        """The worker id of this process if its operations are stored: it has threads that run them."""
        heartbeat = self._by_pid.get(os.getpid())
        return None if heartbeat is None or not heartbeat.has_names else heartbeat.worker_id

    def why_late(self) -> str | None:
        """Return why the heartbeat of this process is late; None if it is not."""
        heartbeat = self._by_pid.get(os.getpid())
        return "it has not started" if heartbeat is None else heartbeat.why_late()

    @property
    def worker_ids(self) -> tuple[str, ...]:
        """All worker ids that this process has had."""
        heartbeat = self._by_pid.get(os.getpid())
        return tuple(heartbeat.ids) if heartbeat is not None else ()

    @property
    def liveness_locks(self) -> worker_registry.SqliteLivenessLocks:
        """The file locks of the workers, on SQLite."""
        return self._current.liveness_locks

    @property
    def may_recover(self) -> bool:
        """Return whether this worker may recover others; False for a while after its own heartbeat was late.

        Otherwise workers would recover each other after the database has stalled for longer than a lease.
        """
        return self._current.may_recover

    def require_lease(self, **facts: Any) -> None:
        """Start the heartbeat if necessary, and wait while the lease may have expired.

        Another worker could start a run that is started without a lease.

        Args:
            facts: Fields for the log while the database is unreachable.
        """
        heartbeat = self._by_pid.get(os.getpid())
        if heartbeat is None or heartbeat.worker_id is None:
            retry_while_away("register", self.start, **facts)
            heartbeat = self._current
        if heartbeat.is_late():
            heartbeat.wait_for_lease()


class _ProcessHeartbeat:
    """The heartbeat of one process."""

    def __init__(
        self,
        store: Store,
        intervals: RecoveryIntervals,
        keep_alive: Callable[[], None],
        threads: int,
        queues: Collection[str] | None,
        reconcile: Callable[[], object],
        names_registered: NamesRegistered,
    ) -> None:
        self._reconcile = reconcile
        self._names_registered = names_registered
        self.liveness_locks = worker_registry.SqliteLivenessLocks(store.database)
        self.ids: list[str] = []
        self._store = store
        self._keep_alive = keep_alive
        self._every_s = (
            SQLITE_HEARTBEAT_INTERVAL_S if self.liveness_locks.is_authoritative else intervals.heartbeat_interval_s
        )
        self._lease_s = intervals.lease_s
        self._columns: dict[str, Any] = {
            "host": socket.gethostname()[:255],
            "pid": os.getpid(),
            "threads": threads,
            # Patterns have an order; plain `dramatiq` passes a set of names.
            "queues": None if queues is None else list(queues) if isinstance(queues, tuple) else sorted(queues),
        }
        self._reports_left = 0
        self._queues = queues
        self._registered_names: tuple[str, ...] = ()
        self._lock = threading.Lock()
        # Repeat a failed heartbeat sooner.
        soon = Backoff(self._every_s / 2, self._every_s / 2)
        reconcile_every_s = min(intervals.recovery_interval_s, RECONCILE_EVERY_S)
        self._tasks = (
            PeriodicTask("heartbeat", self._every_s, self._beat, retry=soon, waits_first=True),
            PeriodicTask("reconcile", reconcile_every_s, self._reconcile_claims, waits_first=True),
        )
        self._threads: list[PeriodicThread] = []
        self._is_stopped = False
        self._is_failing = False
        self.worker_id: str | None = None
        self._sessions = DatabaseSessions(store, self._current_worker_id)
        self._renewed_at = 0.0
        self._may_recover_at = 0.0

    def start(self) -> str:
        """Register the worker, once, and return its id."""
        if self.worker_id is not None:
            return self.worker_id
        with self._lock:
            if self.worker_id is None:
                self._renewed_at = self._register()
                self._report_names()
                self._threads = [task.start() for task in self._tasks]
                self._sessions.start()
            assert self.worker_id is not None  # noqa: S101 - set by _register
            return self.worker_id

    def start_later(self) -> None:
        """Start as soon as the database is reachable."""

        def start() -> bool:
            if not self._is_stopped:
                self.start()
            thread.stop()
            return True

        thread = PeriodicTask("register", REGISTER_EVERY_S, start, waits_first=True).start()

    def serve(self, threads: int, queues: Collection[str] | None) -> None:
        """See `Heartbeat.serve`; the worker id stays, because records may be claimed by it."""
        with self._lock:
            self._queues = queues
            self._columns |= {"threads": threads, "queues": None if queues is None else sorted(queues)}
            self._reports_left = 2 if threads else 0
            self._registered_names = self._names()
            if self.worker_id is None:
                return
            with self._store.begin() as connection:
                worker_registry.update_served(connection, self.worker_id, threads, self._columns["queues"])
                if self._registered_names:
                    worker_registry.update_names(connection, self.worker_id, self._registered_names)

    def _register(self) -> float:
        worker_id = f"{socket.gethostname()[:20]}:{os.getpid()}:{new_id('w')[-10:]}"
        # Acquire the lock before the row is inserted: other processes check the lock of every row.
        self.liveness_locks.acquire(worker_id)
        started_at = time.monotonic()
        self._registered_names = self._names()
        try:
            with self._store.begin() as connection:
                worker_registry.register(
                    connection, worker_id, self._lease_s, names=self._registered_names, **self._columns
                )
        except BaseException:
            self.liveness_locks.release(worker_id)
            raise
        self.ids.append(worker_id)
        self.worker_id = worker_id
        self._reports_left = 2 if self._registered_names else 0
        return started_at

    @property
    def has_names(self) -> bool:
        """Whether the names of the operations of this process are stored."""
        return bool(self._registered_names)

    def _names(self) -> tuple[str, ...]:
        """Return the names of the operations that this process can run; empty if it is not a worker."""
        return registry.names() if self._columns["threads"] else ()

    def _report_names(self) -> None:
        if not self._reports_left:
            return
        self._reports_left -= 1
        try:
            self._names_registered(self._registered_names, self._queues)
        except Exception as error:  # noqa: BLE001 - the waiting messages are polled anyway
            log_event(LogEvent.OPERATIONS_NOT_ANNOUNCED, error=class_path(error))

    def _beat(self) -> bool:
        try:
            if self._columns["threads"]:
                self._keep_alive()
        except Exception as error:  # noqa: BLE001 - each broker has its own errors, and the heartbeat must go on
            log_event(LogEvent.BROKER_UNREACHABLE, logging.DEBUG, error=class_path(error))
        self._is_failing = True
        self._renew()
        self._is_failing = False
        return True

    def why_late(self) -> str | None:
        """See `Heartbeat.why_late`."""
        age_s = time.monotonic() - self._renewed_at
        if self.worker_id is None:
            return "the process is not registered"
        if self._is_failing or age_s > max(LATE_AFTER * self._lease_s, LATE_BEATS * self._every_s):
            return f"it was last renewed {age_s:.0f} s ago"
        return None

    def _reconcile_claims(self) -> bool:
        """Reconcile the claims of this process."""
        try:
            if self._current_worker_id() is not None:
                self._reconcile()
        except Exception as error:  # noqa: BLE001 - the reconciliation is tried again, whatever the error is
            log_event(LogEvent.RECONCILIATION_FAILED, logging.DEBUG, error=class_path(error))
        return True

    def _current_worker_id(self) -> str | None:
        # A fork inherits the listeners, but has no worker id before its own heartbeat starts.
        return self.worker_id if self._columns["pid"] == os.getpid() else None

    def _renew(self) -> None:
        if self._store.database.follow_file():
            log_event(
                LogEvent.DATABASE_FILE_REPLACED,
                path=self._store.database.path,
                advice="the file was deleted or replaced while this process had it open: restore it and restart",
            )
        renewed_at = self._renew_lease()
        if self.is_late():
            self._may_recover_at = time.monotonic() + RECOVERS_AFTER_BEATS * self._every_s
        self._renewed_at = renewed_at

    def _renew_lease(self) -> float:
        """Renew the lease, and return a time that is not after its start."""
        worker_id = self.worker_id
        assert worker_id is not None  # noqa: S101 - registered before the thread starts
        # Read the clock before the statement: the lease must never seem longer here than in the database.
        started_at = time.monotonic()
        with self._store.begin() as connection:
            is_renewed = worker_registry.renew_lease(connection, worker_id, self._lease_s)
            if is_renewed and (names := self._names()) != self._registered_names:
                worker_registry.update_names(connection, worker_id, names)
                self._registered_names = names
                self._reports_left = 2
        if is_renewed:
            self._report_names()
            return started_at
        # The lease had expired and the runs were recovered: the process continues under a new id.
        log_event(
            LogEvent.WORKER_LEASE_EXPIRED,
            worker_id=worker_id,
            advice="check whether it was paused or disconnected from the database",
        )
        with self._lock:
            self.liveness_locks.release(worker_id)
            return self._register()

    def wait_for_lease(self) -> None:
        """Wait until a heartbeat has renewed the lease."""
        is_logged = False
        while self.is_late() and not self._is_stopped:
            if not is_logged:
                is_logged = True
                log_event(
                    LogEvent.WORKER_PAUSED,
                    reason="the heartbeat fails",
                    advice="no run is started until it succeeds",
                )
            time.sleep(self._every_s / 4)

    @property
    def may_recover(self) -> bool:
        """See `Heartbeat.may_recover`."""
        if self.liveness_locks.is_authoritative or self.worker_id is None:
            return True
        return not self.is_late() and time.monotonic() >= self._may_recover_at

    def is_late(self) -> bool:
        """Return whether the lease may have expired."""
        return (
            not self.liveness_locks.is_authoritative
            and time.monotonic() - self._renewed_at > self._lease_s * LATE_AFTER
        )

    def stop(self) -> None:
        """See `Heartbeat.stop`."""
        self._is_stopped = True
        end_all(self._threads)
        self._sessions.stop()
        if self.worker_id is None:
            return
        # If this fails, a relay deletes the row after its lease.
        with contextlib.suppress(Exception), self._store.begin() as connection:
            worker_registry.unregister(connection, self.ids)
        self.liveness_locks.release(self.worker_id)
