"""Pauses of queues and operations: their rows, and what each process knows of them.

A process reads the active pauses every second, and before a claim if it has not read them for longer, so that it starts
no run two seconds after a pause is committed. A claim itself executes no statement for pauses.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.database.column_types import after, as_of
from dexpy.database.dialects import dialect_of
from dexpy.database.tables import pauses
from dexpy.declaration import registry
from dexpy.declaration.contract import Contract

MAX_AGE_S = 1.5
"""How old the known pauses may be at a claim, in seconds."""
HELD = "paused:"
"""The beginning of `blocked_key` in the record of a run that is held because of a pause; other keys are digests."""

Kind: TypeAlias = Literal["queue", "operation"]

_p = pauses.c
_IS_ACTIVE = sa.or_(_p.paused_until.is_(None), _p.paused_until > as_of(0))
_ACTIVE = sa.select(_p.kind, _p.name).where(_IS_ACTIVE)


@attrs.frozen
class Pause:
    """A pause of a queue or of an operation.

    Attributes:
        queue: The name of the queue; None if an operation is paused.
        operation: The name of the operation; None if a queue is paused.
        since: When it began.
        by: Who has paused it; None if not given.
        reason: Why; None if not given.
        until: When it ends by itself; None if it does not.
    """

    queue: str | None
    operation: str | None
    since: datetime
    by: str | None
    reason: str | None
    until: datetime | None

    @property
    def name(self) -> str:
        """The name of the queue or of the operation."""
        return self.queue or self.operation or ""


def held_key(kind: Kind, name: str) -> str:
    """Return the `blocked_key` of the runs that a pause holds."""
    return HELD + hashlib.sha256(f"{kind} {name}".encode()).hexdigest()[:48]


def _exist(paused: Paused) -> bool:
    return bool(paused.queues or paused.operations)


@attrs.frozen
class Paused:
    """The names of what is paused.

    Attributes:
        queues: The names of the paused queues.
        operations: The names of the paused operations.
        exist: Whether anything is paused.
    """

    queues: frozenset[str] = frozenset()
    operations: frozenset[str] = frozenset()
    exist: bool = attrs.field(init=False, default=attrs.Factory(_exist, takes_self=True))

    def key_for(self, queue: str | None, operation: str) -> str | None:
        """Return the key that holds a run of an operation in a queue; None if it is not paused."""
        if queue in self.queues:
            return held_key("queue", str(queue))
        name = next((name for name in names_of(operation) if name in self.operations), None)
        return None if name is None else held_key("operation", name)

    @property
    def keys(self) -> frozenset[str]:
        """The keys of all runs that are held now."""
        return frozenset(held_key("queue", name) for name in self.queues) | {
            held_key("operation", name) for name in self.operations
        }

    @property
    def stored_operations(self) -> list[str]:
        """The names of paused operations in records, with the earlier names of their classes."""
        if not self.operations:
            return []
        return sorted({stored for name in self.operations for stored in names_of(name)})


def names_of(operation: str) -> tuple[str, ...]:
    """Return the names of an operation: the given one, and all of its class if this process declares it."""
    contract: Contract | None = registry.contract_of(operation)
    return (operation,) if contract is None else (operation, contract.name, *contract.aliases)


class KnownPauses:
    """What this process knows of the active pauses.

    Args:
        read: Returns the active pauses in the database.

    Attributes:
        latest: The active pauses when they were read last.
        fresh_until: The time of the monotonic clock until which they may be used for a claim.
    """

    def __init__(self, read: Callable[[], Paused]) -> None:
        self._read = read
        self._lock = threading.Lock()
        self.latest = Paused()
        self.fresh_until = float("-inf")
        self.on_read: Callable[[Paused], None] | None = None
        """In a worker: called with the pauses whenever they are read, also before a claim."""

    def refresh(self) -> Paused:
        """Read the active pauses."""
        read_at = time.monotonic()
        paused = self._read()
        self.latest, self.fresh_until = paused, read_at + MAX_AGE_S
        if self.on_read is not None:
            self.on_read(paused)
        return paused

    def current(self) -> Paused:
        """Return the active pauses; reads them if they were not read for `MAX_AGE_S`."""
        if time.monotonic() > self.fresh_until:
            with self._lock:
                if time.monotonic() > self.fresh_until:
                    return self.refresh()
        return self.latest


def read_active(connection: Connection) -> Paused:
    """Return the names of what is paused now."""
    rows = connection.execute(_ACTIVE).all()
    names: dict[str, set[str]] = {"queue": set(), "operation": set()}
    for row in rows:
        names.setdefault(row.kind, set()).add(row.name)
    return Paused(frozenset(names["queue"]), frozenset(names["operation"]))


def active_query() -> sa.Select[Any]:
    """Return the query for the active pauses."""
    return sa.select(pauses).where(_IS_ACTIVE).order_by(_p.kind.desc(), _p.name)


def pause_from(row: Row[Any]) -> Pause:
    """Return the pause of a row of `active_query`."""
    is_queue = row.kind == "queue"
    name = str(row.name)
    return Pause(
        name if is_queue else None,
        None if is_queue else name,
        row.paused_at,
        row.paused_by,
        row.reason,
        row.paused_until,
    )


def write_pause(connection: Connection, kind: Kind, name: str, **values: Any) -> Row[Any]:
    """Insert a pause, or change that of something which is paused already.

    Args:
        connection: A connection in a transaction.
        kind: What is paused.
        name: Its name.
        values: The columns paused_by, reason and paused_until.

    Returns:
        The row.
    """
    dialect_of(connection).acquire_write_lock(connection)
    is_named = (_p.kind == kind, _p.name == name)
    connection.execute(sa.delete(pauses).where(*is_named, sa.not_(_IS_ACTIVE)))
    insertion = dialect_of(connection).insert_or_ignore(pauses).values(kind=kind, name=name, paused_at=after(0))
    connection.execute(insertion)
    connection.execute(sa.update(pauses).where(*is_named).values(values))
    return connection.execute(sa.select(pauses).where(*is_named)).one()


def delete_pause(connection: Connection, kind: Kind, name: str) -> bool:
    """Delete a pause; return whether there was an active one."""
    dialect_of(connection).acquire_write_lock(connection)
    is_named = (_p.kind == kind, _p.name == name)
    was_active = connection.execute(_ACTIVE.where(*is_named)).first() is not None
    connection.execute(sa.delete(pauses).where(*is_named))
    return was_active


def delete_ended(connection: Connection) -> int:
    """Delete the pauses that are over."""
    return int(connection.execute(sa.delete(pauses).where(_p.paused_until <= as_of(0))).rowcount)


def pauses_from(rows: Sequence[Row[Any]]) -> list[Pause]:
    """Return the pauses of rows of `active_query`."""
    return [pause_from(row) for row in rows]
