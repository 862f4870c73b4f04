"""The heart of a worker process: its row, its lease, its signs of life.

It beats in a thread of its own, whatever the runs are doing.
A worker that cannot say that it lives soon counts as dead, and what it runs is given to others:
so it begins nothing new until it has said so again.
"""

from __future__ import annotations

import atexit
import contextlib
import logging
import os
import socket
import threading
import time
from collections.abc import Callable, Collection
from typing import Any

import dramatiq

from dexpy.background.sessions import Sessions
from dexpy.foundation.ids import new_id
from dexpy.foundation.log import line
from dexpy.foundation.pace import Pace
from dexpy.foundation.redaction import class_path
from dexpy.recording import liveness
from dexpy.recording.store import Store

UNSOUND_AFTER = 0.6
"""A worker whose last beat is older than this share of its lease begins nothing new."""
JUDGES_AFTER_BEATS = 2
"""A worker that was late itself waits so many beats before it takes others for dead."""
SQLITE_BEAT_EVERY_S = 10.0
"""A beat is for people to see there, and every write keeps others waiting."""


class Heart(dramatiq.Middleware):
    """The heart of this process, one for each process that it is carried into by a fork.

    Args:
        store: Where the workers' rows are.
        pace: How often it beats.
        keep_alive: Called with each beat: gives a sign of life to the broker.
    """

    def __init__(self, store: Store, pace: Pace, keep_alive: Callable[[], None] = lambda: None) -> None:
        self._store = store
        self._pace = pace
        self._keep_alive = keep_alive
        self._by_pid: dict[int, _Beating] = {}
        self._threads = 0
        # Nothing, before a worker says what it serves: a process that only makes calls has a heart too.
        self._queues: Collection[str] | None = ()

    @property
    def _beating(self) -> _Beating:
        # By process, without a lock of our own that a fork could copy while it is taken.
        pid = os.getpid()
        found = self._by_pid.get(pid)
        if found is None:
            made = _Beating(self._store, self._pace, self._keep_alive, self._threads, self._queues)
            found = self._by_pid.setdefault(pid, made)
        return found

    def serve(self, threads: int, queues: Collection[str] | None) -> None:
        """Say what the worker of this process will serve, before it begins.

        Args:
            threads: How many runs at once.
            queues: Names; None for all.
        """
        self._threads, self._queues = threads, queues
        # One that beats already, for what was called while the application was imported, says what was true then.
        self.end()

    def see_to(self, action: Callable[[], None]) -> None:
        """Do something with one of the next beats: with the first one that the database takes."""
        self._beating.see_to(action)

    def begin(self) -> None:
        """Begin to beat, in a process that is no worker of Dramatiq's."""
        self._beating.begin()

    def before_worker_boot(self, broker: Any, worker: Any) -> None:
        """Begin to beat, before anything else does: what this process holds must be known to be its own."""
        if not self._threads:
            # Plain dramatiq: its worker knows.
            self.serve(worker.worker_threads, worker.consumer_whitelist)
        self._beating.begin()

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        """Begin now, if the database was away before."""
        self._beating.begin()

    def after_worker_shutdown(self, broker: Any, worker: Any) -> None:
        """Say goodbye, after all that ran here has ended or was given back."""
        self.end()

    def end_at_exit(self) -> None:
        """Say goodbye when this process ends by itself; a worker does so when it is told to stop."""
        # Once, however often it is said. A fork takes this along, and has no heart to end unless it begins one.
        atexit.unregister(self.end)
        atexit.register(self.end)

    def end(self) -> None:
        """Stop beating, and take the worker's row away."""
        atexit.unregister(self.end)
        found = self._by_pid.pop(os.getpid(), None)
        if found is not None:
            found.end()

    @property
    def worker_id(self) -> str:
        """Names this process in records, never the same for two starts; begins to beat if it has not."""
        return self._beating.begin()

    @property
    def own_ids(self) -> tuple[str, ...]:
        """Every id that this process has had."""
        found = self._by_pid.get(os.getpid())
        return tuple(found.ids) if found is not None else ()

    @property
    def lifelines(self) -> liveness.Lifelines:
        """The locks of the workers, on SQLite."""
        return self._beating.lifelines

    @property
    def may_judge(self) -> bool:
        """Whether this worker may take others for dead: what has made it late has made them late too, perhaps.

        A database that stalls for longer than a lease and comes back would else have its workers kill each other.
        """
        return self._beating.may_judge

    def await_soundness(self) -> None:
        """Wait while this worker may count as dead: what it would begin now might be begun elsewhere too."""
        self._beating.await_soundness()


class _Beating:
    """The beating of one process."""

    def __init__(
        self,
        store: Store,
        pace: Pace,
        keep_alive: Callable[[], None],
        threads: int,
        queues: Collection[str] | None,
    ) -> None:
        self.lifelines = liveness.Lifelines(store.database)
        self.ids: list[str] = []
        self._store = store
        self._keep_alive = keep_alive
        self._every_s = SQLITE_BEAT_EVERY_S if self.lifelines.decide else pace.beat_every_s
        self._lease_s = pace.lease_s
        self._facts = {
            "host": socket.gethostname()[:255],
            "pid": os.getpid(),
            "threads": threads,
            "queues": None if queues is None else sorted(queues),
        }
        self._lock = threading.Lock()
        self._owed: list[Callable[[], None]] = []
        self._over = threading.Event()
        self._thread: threading.Thread | None = None
        self._id: str | None = None
        self._sessions = Sessions(store, self._own_name)
        self._beat_at = 0.0
        self._judges_from = 0.0

    def begin(self) -> str:
        """Enter the worker, once, and return its id."""
        if self._id is not None:
            return self._id
        with self._lock:
            if self._id is None:
                self._beat_at = self._enter()
                self._thread = threading.Thread(target=self._run, name="dexpy-heart", daemon=True)
                self._thread.start()
                self._sessions.begin()
            assert self._id is not None  # noqa: S101 - what _enter has just set
            return self._id

    def _enter(self) -> float:
        worker = f"{socket.gethostname()[:20]}:{os.getpid()}:{new_id('w')[-10:]}"
        # The lock first: whoever finds the row asks for it.
        self.lifelines.hold(worker)
        began = time.monotonic()
        try:
            with self._store.begin() as connection:
                liveness.enter(connection, worker, self._lease_s, **self._facts)
        except BaseException:
            self.lifelines.let_go(worker)
            raise
        self.ids.append(worker)
        self._id = worker
        return began

    def _run(self) -> None:
        pause_s = self._every_s
        while not self._over.wait(pause_s):
            pause_s = self._every_s
            try:
                if self._facts["threads"]:
                    self._keep_alive()
            except Exception as error:  # noqa: BLE001 - each broker has its own errors, and a beat must follow
                line(logging.DEBUG, "broker.unreachable", error=class_path(error))
            try:
                self._renew()
                self._settle()
            except Exception as error:  # noqa: BLE001 - whatever the database says, there has to be a next beat
                pause_s = self._every_s / 2
                line(logging.WARNING, "heartbeat.failed", error=class_path(error), again_in_seconds=pause_s)

    def _own_name(self) -> str | None:
        # A fork takes along who is told of its sessions, and is no worker before it begins to beat itself.
        return self._id if self._facts["pid"] == os.getpid() else None

    def _renew(self) -> None:
        leased_at = self._beat()
        if self._is_unsound():
            self._judges_from = time.monotonic() + JUDGES_AFTER_BEATS * self._every_s
        self._beat_at = leased_at

    def see_to(self, action: Callable[[], None]) -> None:
        """See `Heart.see_to`."""
        self.begin()
        self._owed.append(action)

    def _settle(self) -> None:
        while self._owed:
            self._owed[0]()
            del self._owed[0]

    def _beat(self) -> float:
        """Renew the lease; the moment from which it counts at the latest."""
        worker = self._id
        assert worker is not None  # noqa: S101 - it is entered before the thread begins
        # What was true before the statement: a lease must never seem longer here than it is there.
        began = time.monotonic()
        with self._store.begin() as connection:
            alive = liveness.beat(connection, worker, self._lease_s)
        if alive:
            return began
        # Somebody has taken this worker for dead, and what it ran away from it: it goes on under a new name.
        line(
            logging.WARNING,
            "worker.taken_for_dead",
            worker=worker,
            advice="was it paused, or cut off from the database?",
        )
        with self._lock:
            self.lifelines.let_go(worker)
            return self._enter()

    def await_soundness(self) -> None:
        """See `Heart.await_soundness`."""
        warned = False
        while self._is_unsound() and not self._over.is_set():
            if not warned:
                warned = True
                line(logging.WARNING, "worker.unsound", why="its heartbeat fails", advice="it begins nothing new")
            time.sleep(self._every_s / 4)

    @property
    def may_judge(self) -> bool:
        """See `Heart.may_judge`."""
        if self.lifelines.decide or self._id is None:
            return True
        return not self._is_unsound() and time.monotonic() >= self._judges_from

    def _is_unsound(self) -> bool:
        return not self.lifelines.decide and time.monotonic() - self._beat_at > self._lease_s * UNSOUND_AFTER

    def end(self) -> None:
        """See `Heart.end`."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self._sessions.end()
        if self._id is None:
            return
        # A row that stays behind is taken away by the next relay.
        with contextlib.suppress(Exception), self._store.begin() as connection:
            liveness.leave(connection, self.ids)
        self.lifelines.let_go(self._id)
