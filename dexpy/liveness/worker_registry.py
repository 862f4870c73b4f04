"""The rows of worker processes with their leases, and on SQLite a file lock for each worker.

On a server a worker is alive until its lease expires, by the server's clock; every heartbeat renews it.
On SQLite one long transaction would block every heartbeat, so each worker holds a lock on a file beside the database,
which the operating system releases when the process ends.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.database.column_types import after, as_of, seconds_parameter
from dexpy.database.deletes import by_key, delete_unlocked
from dexpy.database.engine import Database
from dexpy.database.tables import records, worker_names, worker_sessions, workers
from dexpy.locks import file_locks
from dexpy.policies.queue_selection import is_any_match

_ID = workers.c.id == sa.bindparam("p_id")
_LEASED = {"beat_at": after(0), "leased_until": after(seconds_parameter("p_lease_s"))}
_RENEW = sa.update(workers).where(_ID).values(**_LEASED)
"""Renew the lease of ``p_id``, for ``p_lease_s`` seconds."""

LONGEST_LEASE_S = 1e7
"""The longest valid lease, in seconds; a worker writes no later end."""


def _is_leased() -> sa.ColumnElement[bool]:
    return sa.and_(workers.c.leased_until >= as_of(0), workers.c.leased_until <= as_of(LONGEST_LEASE_S))


_ALIVE = sa.exists().where(workers.c.id == records.c.claimed_by, _is_leased())
_RUNNING_OF = sa.exists().where(records.c.status == "running", records.c.claimed_by == workers.c.id)


def register(connection: Connection, id: str, lease_s: float, *, names: Sequence[str] = (), **columns: Any) -> None:
    """Insert the row of a new worker.

    Args:
        connection: A connection in a transaction.
        id: A new id.
        lease_s: The length of the lease, in seconds.
        names: The names of the operations that its process has declared.
        columns: The columns host, pid, threads and queues.
    """
    lease = {"beat_at": after(0), "leased_until": after(lease_s)}
    connection.execute(sa.insert(workers).values(id=id, started_at=after(0), **lease, **columns))
    if names:
        connection.execute(sa.insert(worker_names).values(worker=id, names=list(names)))


def update_served(connection: Connection, id: str, threads: int, queues: Sequence[str] | None) -> None:
    """Store what a registered worker serves."""
    connection.execute(sa.update(workers).where(workers.c.id == id).values(threads=threads, queues=queues))


def update_names(connection: Connection, id: str, names: Sequence[str]) -> None:
    """Replace the names of the operations that a worker's process has declared."""
    updated = sa.update(worker_names).where(worker_names.c.worker == id).values(names=list(names))
    if not connection.execute(updated).rowcount:
        connection.execute(sa.insert(worker_names).values(worker=id, names=list(names)))


def update_recurring(connection: Connection, id: str, declared: Mapping[str, Any]) -> bool:
    """Store the recurring tasks that a worker's process declares; return False if the worker has no row of names."""
    updated = sa.update(worker_names).where(worker_names.c.worker == id).values(recurring_keys=dict(declared))
    return bool(connection.execute(updated).rowcount)


def stored_names(connection: Connection, ids: Collection[str]) -> Sequence[Row[Any]]:
    """Return the rows of names of these workers."""
    return connection.execute(sa.select(worker_names).where(worker_names.c.worker.in_(ids))).all()


def renew_lease(connection: Connection, id: str, lease_s: float) -> bool:
    """Renew a lease; return False if it had expired and the worker's row was deleted."""
    return bool(connection.execute(_RENEW, {"p_id": id, "p_lease_s": lease_s}).rowcount)


def unregister(connection: Connection, ids: Collection[str]) -> None:
    """Delete the rows of workers that have ended."""
    # Skip locked rows: their worker may be frozen while it writes them.
    delete_unlocked(connection, worker_sessions, worker_sessions.c.worker.in_(ids))
    delete_unlocked(connection, worker_names, worker_names.c.worker.in_(ids))
    if ids:
        connection.execute(by_key(workers), [{"p_id": worker} for worker in ids])


def delete_orphaned_names(connection: Connection) -> None:
    """Delete sessions and names of workers without a row: a frozen worker may write them after its row is deleted."""
    known = sa.exists().where(workers.c.id == worker_sessions.c.worker)
    delete_unlocked(connection, worker_sessions, ~known)
    delete_unlocked(connection, worker_names, ~sa.exists().where(workers.c.id == worker_names.c.worker))


def worker_rows(connection: Connection) -> Sequence[Row[Any]]:
    """Return the row of every worker, with ``is_leased``: whether its lease is in force."""
    leased = sa.func.coalesce(_is_leased(), sa.false()).label("is_leased")
    return connection.execute(sa.select(workers, leased).order_by(workers.c.started_at)).all()


def live_workers(connection: Connection, liveness_locks: SqliteLivenessLocks) -> list[Row[Any]]:
    """Return the workers that are alive."""
    all_workers = worker_rows(connection)
    dead = liveness_locks.find_dead([row.id for row in all_workers])
    return [row for row in all_workers if (row.is_leased if dead is None else row.id not in dead)]


def serves_queue(worker: Row[Any], queue: str) -> bool:
    """Return whether a worker serves a queue; a worker without a valid list serves all."""
    patterns: object = worker.queues
    return not isinstance(patterns, list) or is_any_match(cast("list[object]", patterns), queue)


@attrs.frozen
class KnownClasses:
    """The operations that the live workers of a queue can run.

    Attributes:
        names: The names of the operations that at least one of them has declared.
        is_complete: Whether all of them have stored their names, which earlier versions of dexpy do not.
    """

    names: frozenset[str]
    is_complete: bool


def known_classes(connection: Connection, liveness_locks: SqliteLivenessLocks, queue: str) -> KnownClasses:
    """Return the operations that the live workers of a queue can run."""
    serving = {row.id for row in live_workers(connection, liveness_locks) if row.threads and serves_queue(row, queue)}
    stored = stored_names(connection, serving)
    names = frozenset[str]().union(*(row.names or () for row in stored))
    return KnownClasses(names, serving <= {row.worker for row in stored})


def unserved_queues(connection: Connection, liveness_locks: SqliteLivenessLocks) -> list[str]:
    """Return the queues with pending records that no live worker serves."""
    alive = live_workers(connection, liveness_locks)
    waiting = records.c.status == "pending"
    unserved: list[str] = []
    # One index lookup for each name, however many records there are.
    name = connection.execute(sa.select(sa.func.min(records.c.queue)).where(waiting)).scalar()
    seen: set[str] = set()
    # Bytes sort after all text, and would be selected again in an endless loop.
    while name is not None and name not in seen:
        seen.add(name)
        if not any(serves_queue(worker, name) for worker in alive):
            unserved.append(name)
        name = connection.execute(
            sa.select(sa.func.min(records.c.queue)).where(waiting, records.c.queue > name)
        ).scalar()
    return unserved


def lost_runs(excluded: Collection[str], limit: int, without: Collection[str] = ()) -> sa.Select[Any]:
    """Return the query that locks the running records without a leased worker.

    Args:
        excluded: The worker ids of this process, which is alive.
        limit: The maximum number of rows.
        without: The ids of records to leave out.
    """
    is_claimed_elsewhere = sa.or_(records.c.claimed_by.is_(None), records.c.claimed_by.not_in(list(excluded)))
    return (
        sa.select(records)
        .where(records.c.status == "running", ~_ALIVE, is_claimed_elsewhere)
        .where(*([records.c.id.not_in(list(without))] if without else []))
        .limit(limit)
        .with_for_update(skip_locked=True)
    )


def running_records(connection: Connection) -> Sequence[Row[Any]]:
    """Return the ids of all running records, and of their workers."""
    query = sa.select(records.c.id, records.c.claimed_by).where(records.c.status == "running")
    running: Sequence[Row[Any]] = cast("Any", connection.execute(query.order_by(records.c.id))).all()
    return running


def removable_workers(dead: Collection[str], excluded: Collection[str], *, by_lease: bool) -> sa.Select[Any]:
    """Return the query for the ids of dead workers without running records.

    Args:
        dead: The ids of dead workers whose database sessions were ended.
        excluded: The worker ids of this process.
        by_lease: Whether leases decide; a lease may have been renewed since.
    """
    conditions = [workers.c.id.in_(list(dead)), workers.c.id.not_in(list(excluded)), ~_RUNNING_OF]
    if by_lease:
        conditions.append(~sa.func.coalesce(_is_leased(), sa.false()))
    return sa.select(workers.c.id).where(*conditions)


CREATE_ATTEMPTS = 20
"""How many attempts to create a file may fail because its folder is removed just before."""
_held_files: dict[tuple[int, Path], int] = {}
"""The open files of held locks, by process id; a forked child inherits the entries, but not the locks."""


class SqliteLivenessLocks:
    """The file locks of the workers of one SQLite file; does nothing on a server.

    Args:
        database: The database of the workers.
    """

    def __init__(self, database: Database) -> None:
        path = database.path
        # On a system without file locks, leases decide.
        self._folder = Path(f"{path}-workers") if path and file_locks.IS_SUPPORTED else None
        self.is_authoritative = self._folder is not None
        """Whether these locks decide which workers are alive, instead of the leases."""

    def acquire(self, id: str) -> None:
        """Acquire the lock of a new worker; it is held until `release` or the end of the process."""
        if self._folder is None:
            return
        path = self._folder / _file_name(id)
        file = _create(path)
        file_locks.try_acquire(file)
        _held_files[os.getpid(), path] = file

    def release(self, id: str) -> None:
        """Release a lock."""
        if self._folder is None:
            return
        path = self._folder / _file_name(id)
        file = _held_files.pop((os.getpid(), path), None)
        if file is not None:
            path.unlink(missing_ok=True)
            file_locks.close_file(file)
            with contextlib.suppress(OSError):
                self._folder.rmdir()

    def find_dead(self, ids: Collection[str]) -> set[str] | None:
        """Return the workers whose lock is not held; None where leases decide."""
        if self._folder is None:
            return None
        return {worker for worker in ids if not _is_held(self._folder / _file_name(worker))}


def _create(path: Path) -> int:
    """Create and open a file; the last worker that ends may remove its folder at the same time."""
    for _ in range(CREATE_ATTEMPTS):
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir(0o700)
        if path.parent.is_symlink():
            raise file_locks.symlink_error(str(path.parent))
        with contextlib.suppress(FileNotFoundError):
            return file_locks.open_file(str(path))
    return file_locks.open_file(str(path))


def _is_held(path: Path) -> bool:
    if (os.getpid(), path) in _held_files:
        return True
    if path.parent.is_symlink():
        raise file_locks.symlink_error(str(path.parent))
    try:
        file = file_locks.open_file(str(path), create=False)
    except PermissionError:
        # The file is of another user, whose process may be alive.
        return True
    except OSError:
        # The file is missing, or no worker has created it.
        return False
    try:
        if not file_locks.try_acquire(file):
            return True
    except OSError:
        return True
    else:
        path.unlink(missing_ok=True)
        return False
    finally:
        file_locks.close_file(file)


_PLAIN_ID = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.:/-]{0,99}")


def _file_name(id: str) -> str:
    if _PLAIN_ID.fullmatch(id):
        return id.replace("/", "_").replace(":", "_")
    # An id from a row or a host name may contain any characters; its file must be in this folder.
    return "odd-" + hashlib.sha256(id.encode("utf-8", "surrogatepass")).hexdigest()[:40]
