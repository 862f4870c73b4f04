"""Who is alive: the rows of worker processes, and on SQLite a lock of the operating system for each.

On a server a worker lives as long as its lease, by the server's clock, and renews it with every beat.
On SQLite one long transaction would keep all others from writing a beat, so there each worker holds a lock on a file
beside the database, which the operating system takes from a process that has ended, and from no other.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.recording.database import Database
from dexpy.recording.deletion import by_key, delete_free
from dexpy.recording.metadata import after, as_of, seconds_parameter
from dexpy.recording.tables import records, worker_sessions, workers

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows, where leases have to do
    fcntl = None  # type: ignore[assignment]

_ID = workers.c.id == sa.bindparam("p_id")
_LEASED = {"beat_at": after(0), "leased_until": after(seconds_parameter("p_lease_s"))}
BEAT = sa.update(workers).where(_ID).values(**_LEASED)
"""Renew the lease of ``p_id`` for ``p_lease_s`` seconds."""

_ALIVE = sa.exists().where(workers.c.id == records.c.claimed_by, workers.c.leased_until >= as_of(0))
_RUNNING_OF = sa.exists().where(records.c.status == "running", records.c.claimed_by == workers.c.id)


def enter(connection: Connection, id: str, lease_s: float, **facts: Any) -> None:
    """Write the row of a new worker.

    Args:
        connection: In a transaction.
        id: Never used before.
        lease_s: Until the next beat at the latest, in seconds.
        facts: host, pid, threads and queues.
    """
    beat = {"beat_at": after(0), "leased_until": after(lease_s)}
    connection.execute(sa.insert(workers).values(id=id, started_at=after(0), **beat, **facts))


def beat(connection: Connection, id: str, lease_s: float) -> bool:
    """Renew a lease; False if the worker was taken for dead and its row is gone."""
    return bool(connection.execute(BEAT, {"p_id": id, "p_lease_s": lease_s}).rowcount)


def leave(connection: Connection, ids: Collection[str]) -> None:
    """Delete the rows of workers that have ended."""
    # One that is being noted stays until then: whoever notes it may be frozen.
    delete_free(connection, worker_sessions, worker_sessions.c.worker.in_(ids))
    if ids:
        connection.execute(by_key(workers), [{"p_id": worker} for worker in ids])


def forget_strays(connection: Connection) -> None:
    """Delete the sessions of workers that have no row: noted by one that was frozen, after it was taken for dead."""
    known = sa.exists().where(workers.c.id == worker_sessions.c.worker)
    delete_free(connection, worker_sessions, ~known)


def rows(connection: Connection) -> Sequence[Row[Any]]:
    """Every worker, with ``is_leased``: whether its lease still runs."""
    leased = (workers.c.leased_until >= as_of(0)).label("is_leased")
    return connection.execute(sa.select(workers, leased).order_by(workers.c.started_at)).all()


def live(connection: Connection, lifelines: Lifelines) -> list[Row[Any]]:
    """The workers that are alive."""
    known = rows(connection)
    dead = lifelines.dead([row.id for row in known])
    return [row for row in known if (row.is_leased if dead is None else row.id not in dead)]


def admits(worker: Row[Any], queue: str) -> bool:
    """Whether a worker serves a queue."""
    return worker.queues is None or queue in worker.queues


def unserved_queues(connection: Connection, lifelines: Lifelines) -> list[str]:
    """The queues in which something waits that no live worker serves."""
    alive = live(connection, lifelines)
    waiting = records.c.status == "pending"
    found: list[str] = []
    # One probe of the index for each name, however many records there are.
    name = connection.execute(sa.select(sa.func.min(records.c.queue)).where(waiting)).scalar()
    while name is not None:
        if not any(admits(worker, name) for worker in alive):
            found.append(name)
        name = connection.execute(
            sa.select(sa.func.min(records.c.queue)).where(waiting, records.c.queue > name)
        ).scalar()
    return found


def lost(
    dead: Collection[str] | None, own: Collection[str], limit: int, without: Collection[str] = ()
) -> sa.Select[Any]:
    """The rows that run on no live worker, locked.

    Args:
        dead: The dead workers, where something else than leases says so; None for the leases.
        own: The workers of this very process: they are alive, for who else asks.
        limit: How many rows at most.
        without: Ids of rows that are not meant.
    """
    condition = ~_ALIVE if dead is None else records.c.claimed_by.in_(list(dead))
    return (
        sa.select(records)
        .where(records.c.status == "running", condition, records.c.claimed_by.not_in(list(own)))
        .where(*([records.c.id.not_in(list(without))] if without else []))
        .limit(limit)
        .with_for_update(skip_locked=True)
    )


def ended(dead: Collection[str], own: Collection[str], *, by_lease: bool) -> sa.Select[Any]:
    """The ids of workers that are dead and hold nothing any more.

    Args:
        dead: Those that were found dead, and whose database sessions were ended.
        own: The workers of this very process.
        by_lease: Whether leases decide: one of them may have beaten since.
    """
    conditions = [workers.c.id.in_(list(dead)), workers.c.id.not_in(list(own)), ~_RUNNING_OF]
    if by_lease:
        conditions.append(workers.c.leased_until < as_of(0))
    return sa.select(workers.c.id).where(*conditions)


_NEW = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0)
OVERTAKEN = 20
"""So often a folder may be taken away just before a file is made in it."""
_held: dict[tuple[int, Path], int] = {}
"""The locks of this process, by its pid: a forked child has the entries of its parent, and none of the locks."""


def running_workers() -> sa.Select[Any]:
    """The ids of all workers that something runs on, known or not."""
    return sa.select(records.c.claimed_by).where(records.c.status == "running").distinct()


class Lifelines:
    """The locks of workers on one SQLite file; nothing on a server.

    Args:
        database: Whose workers they are.
    """

    def __init__(self, database: Database) -> None:
        path = database.path if database.is_sqlite else None
        self._folder = Path(f"{path}-workers") if path and fcntl is not None else None

    @property
    def decide(self) -> bool:
        """Whether the locks say who is alive, and not the leases."""
        return self._folder is not None

    def hold(self, id: str) -> None:
        """Take the lock of a new worker, for as long as this process lives."""
        if self._folder is None or fcntl is None:
            return
        path = self._folder / _file_name(id)
        # A record lock, which a forked child does not inherit: one that outlives its parent must not seem to be it.
        file = _made(path)
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        _held[os.getpid(), path] = file

    def let_go(self, id: str) -> None:
        """Give a lock back."""
        if self._folder is None:
            return
        path = self._folder / _file_name(id)
        file = _held.pop((os.getpid(), path), None)
        if file is not None:
            path.unlink(missing_ok=True)
            os.close(file)
            with contextlib.suppress(OSError):
                self._folder.rmdir()

    def dead(self, ids: Collection[str]) -> set[str] | None:
        """Those of these workers whose lock nobody holds; None where leases decide."""
        if self._folder is None:
            return None
        return {worker for worker in ids if not _is_held(self._folder / _file_name(worker))}


def _made(path: Path) -> int:
    """A new file, open, in a folder that the last worker to end takes away: perhaps in this very moment."""
    for _ in range(OVERTAKEN):
        with contextlib.suppress(FileExistsError):
            path.parent.mkdir()
        with contextlib.suppress(FileNotFoundError):
            return os.open(path, _NEW, 0o600)
    return os.open(path, _NEW, 0o600)


def _is_held(path: Path) -> bool:
    if fcntl is None:
        return False
    if (os.getpid(), path) in _held:
        # Asking the system would say no: a process is not in its own way. And asking would give the lock up.
        return True
    try:
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return True
    else:
        path.unlink(missing_ok=True)
        return False
    finally:
        os.close(file)


def _file_name(id: str) -> str:
    return id.replace("/", "_").replace(":", "_")
