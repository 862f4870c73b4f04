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
import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session

from dexpy.foundation.ids import new_id
from dexpy.foundation.log import line
from dexpy.foundation.pace import Pace
from dexpy.foundation.redaction import class_path
from dexpy.recording import liveness
from dexpy.recording.store import Store
from dexpy.recording.tables import worker_sessions

UNSOUND_AFTER = 0.6
"""A worker whose last beat is older than this share of its lease begins nothing new."""
SQLITE_BEAT_EVERY_S = 10.0
"""A beat is for people to see there, and every write keeps others waiting."""
_SESSION_OF = "dexpy_heart"


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

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        """Begin to beat."""
        if not self._threads:
            # Plain dramatiq: its worker knows.
            self.serve(len(worker.workers), worker.consumer_whitelist)
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
        self._beat_at = 0.0

    def begin(self) -> str:
        """Enter the worker, once, and return its id."""
        if self._id is not None:
            return self._id
        with self._lock:
            if self._id is None:
                self._enter()
                self._thread = threading.Thread(target=self._run, name="dexpy-heart", daemon=True)
                self._thread.start()
                self._store.watcher = self._watch
                self._store.locks.watcher = self.note
            assert self._id is not None  # noqa: S101 - what _enter has just set
            return self._id

    def _watch(self, session: Session) -> None:
        session.info[_SESSION_OF] = self

    def _enter(self) -> None:
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
        self._id, self._beat_at = worker, began

    def _run(self) -> None:
        pause_s = self._every_s
        while not self._over.wait(pause_s):
            pause_s = self._every_s
            # What was true before the statement: a lease must never seem longer here than it is there.
            began = time.monotonic()
            try:
                if self._facts["threads"]:
                    self._keep_alive()
            except Exception as error:  # noqa: BLE001 - each broker has its own errors, and a beat must follow
                line(logging.DEBUG, "broker.unreachable", error=class_path(error))
            try:
                if self._beat():
                    self._beat_at = began
                self._settle()
            except Exception as error:  # noqa: BLE001 - whatever the database says, there has to be a next beat
                pause_s = self._every_s / 2
                line(logging.WARNING, "heartbeat.failed", error=class_path(error), again_in_seconds=pause_s)

    def see_to(self, action: Callable[[], None]) -> None:
        """See `Heart.see_to`."""
        self.begin()
        self._owed.append(action)

    def _settle(self) -> None:
        while self._owed:
            self._owed[0]()
            del self._owed[0]

    def _beat(self) -> bool:
        worker = self._id
        assert worker is not None  # noqa: S101 - it is entered before the thread begins
        with self._store.begin() as connection:
            alive = liveness.beat(connection, worker, self._lease_s)
        if alive:
            return True
        # Somebody has taken this worker for dead, and what it ran away from it: it goes on under a new name.
        line(
            logging.WARNING,
            "worker.taken_for_dead",
            worker=worker,
            advice="was it paused, or cut off from the database?",
        )
        with self._lock:
            self.lifelines.let_go(worker)
            self._enter()
        return False

    def await_soundness(self) -> None:
        """See `Heart.await_soundness`."""
        warned = False
        while self._is_unsound() and not self._over.is_set():
            if not warned:
                warned = True
                line(logging.WARNING, "worker.unsound", why="its heartbeat fails", advice="it begins nothing new")
            time.sleep(self._every_s / 4)

    def _is_unsound(self) -> bool:
        return not self.lifelines.decide and time.monotonic() - self._beat_at > self._lease_s * UNSOUND_AFTER

    def register(self, connection: Connection) -> None:
        """Keep the name that the server has for a database session, once for each."""
        if connection.info.get(_SESSION_OF) != self._id and self._store.is_ours(connection):
            self.note(connection)

    def note(self, connection: Connection) -> None:
        """The same, for a connection to the records' own server."""
        worker = self._id
        if worker is None or connection.info.get(_SESSION_OF) == worker:
            return
        query = _backend_of(connection)
        if query is not None:
            with self._store.begin() as own:
                values = query.add_columns(sa.literal(worker))
                own.execute(sa.insert(worker_sessions).from_select(["backend", "worker"], values))
        connection.info[_SESSION_OF] = worker

    def end(self) -> None:
        """See `Heart.end`."""
        self._over.set()
        if self._thread is not None:
            self._thread.join()
        self._store.watcher = None
        self._store.locks.watcher = None
        if self._id is None:
            return
        # A row that stays behind is taken away by the next relay.
        with contextlib.suppress(Exception), self._store.begin() as connection:
            liveness.leave(connection, self.ids)
        self.lifelines.let_go(self._id)


@event.listens_for(Session, "after_begin")
def _began(session: Session, _transaction: Any, connection: Connection) -> None:
    beating: _Beating | None = session.info.get(_SESSION_OF)
    if beating is not None:
        beating.register(connection)


def _backend_of(connection: Connection) -> sa.Select[Any] | None:
    """The name of a database session, as its server has it in its list; None where there is no such list.

    Its number alone may come back after a restart, so the moment or address of its birth belongs to it.
    """
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "postgresql":
        pid = driver.info.backend_pid if hasattr(driver, "info") else driver.get_backend_pid()
        activity = sa.table("pg_stat_activity", sa.column("pid"), sa.column("backend_start"))
        return sa.select(_postgresql_name(activity)).where(activity.c.pid == pid)
    if connection.dialect.name in ("mysql", "mariadb") and hasattr(driver, "thread_id"):
        listed = _processlist()
        return sa.select(_mariadb_name(listed)).where(listed.c.id == driver.thread_id())
    return None


def _postgresql_name(activity: sa.TableClause) -> sa.ColumnElement[str]:
    # In seconds since 1970: as text a moment looks different in each time zone.
    born = sa.cast(sa.extract("epoch", activity.c.backend_start), sa.Text)
    return sa.cast(activity.c.pid, sa.Text).op("||")("/").op("||")(born)


def _processlist() -> sa.TableClause:
    return sa.table("processlist", sa.column("id"), sa.column("host"), schema="information_schema")


def _mariadb_name(listed: sa.TableClause) -> sa.ColumnElement[str]:
    return sa.func.concat(listed.c.id, "/", listed.c.host)


def end_sessions(connection: Connection, worker: str) -> tuple[int, int]:
    """End the database sessions of a dead worker: one that is only frozen may hold locks that its successor needs.

    Args:
        connection: Of the records' database, in a transaction.
        worker: Its id.

    Returns:
        How many were there, and how many could not be ended for want of a privilege.
    """
    names = sa.select(worker_sessions.c.backend).where(worker_sessions.c.worker == worker)
    if connection.dialect.name == "postgresql":
        activity = sa.table("pg_stat_activity", sa.column("pid"), sa.column("backend_start"))
        query = sa.select(activity.c.pid).where(_postgresql_name(activity).in_(names))
        statement = "SELECT pg_terminate_backend({})"
    elif connection.dialect.name in ("mysql", "mariadb"):
        listed = _processlist()
        query = sa.select(listed.c.id).where(_mariadb_name(listed).in_(names))
        statement = "KILL CONNECTION {}"
    else:
        return 0, 0
    numbers = connection.execute(query).scalars().all()
    refused = 0
    for number in numbers:
        try:
            with connection.begin_nested():
                connection.exec_driver_sql(statement.format(int(number)))
        except DBAPIError as error:
            # It may have ended by itself meanwhile, or belong to a user that we may not touch.
            refused += 1
            line(logging.WARNING, "takeover.refused", worker=worker, error=class_path(error))
    return len(numbers), refused
