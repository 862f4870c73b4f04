"""Keys in the table: a row is inserted with the keys that it wants, or whoever has one of them is found.

The unique indexes decide, never a look beforehand: in a transaction that has begun before, a look may be old.
An insert that meets a row of an open transaction waits for its end, for a while, and in none of the databases does
one that meets a committed row spoil the transaction that it is part of.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Final

import attrs
import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import DBAPIError, IntegrityError

from dexpy.recording.codes import DEADLOCK, DUPLICATE, SERIALIZATION_FAILURE, code_of, is_locked
from dexpy.recording.lock_waits import innodb_wait
from dexpy.recording.metadata import after, as_of
from dexpy.recording.sqlite import BUSY_TIMEOUT_S, is_busy, take_write_lock
from dexpy.recording.tables import FINAL, records
from dexpy.recording.transitions import is_applied

_r = records.c
_IS_FINAL = _r.status.in_(FINAL)
_IS_OVER: Final = {
    "once": sa.and_(_IS_FINAL, _r.once_expires_at <= as_of(0)),
    "unique": _r.unique_expires_at <= as_of(0),
    "token": sa.false(),
}
"""When a key is no longer its holder's, although the row still has it: its time is over."""
_COLUMN: Final = {"once": _r.once_key, "unique": _r.unique_key}
_REPLACED: Final = {"error": None, "failure": "cancelled", "error_details": None}


class Busy(Exception):
    """An open transaction of somebody else holds a key."""


class Again(Exception):
    """The transaction is to begin anew, so that nobody waits for what a failed insert has locked."""


@attrs.frozen
class Claim:
    """The keys that one row wants.

    Attributes:
        name: Of the operation.
        once: Digest of the idempotency key.
        once_for_s: How long that is good for, in seconds; None for ever.
        unique: Digest of the unique key.
        until: started or finished.
        unique_for_s: How long it is unique for, in seconds, instead.
        token: The caller's own.
    """

    name: str
    once: str | None = None
    once_for_s: float | None = None
    unique: str | None = None
    until: str | None = None
    unique_for_s: float | None = None
    token: str | None = None

    def columns(self) -> dict[str, Any]:
        """What the row says of its keys."""
        columns: dict[str, Any] = {}
        if self.once is not None:
            columns |= {"once_key": self.once, "once_digest": self.once}
            columns["once_expires_at"] = None if self.once_for_s is None else after(self.once_for_s)
        if self.unique is not None:
            columns |= {"unique_key": self.unique, "unique_digest": self.unique, "unique_until": self.until}
            columns["unique_expires_at"] = None if self.unique_for_s is None else after(self.unique_for_s)
        if self.token is not None:
            columns["idempotence_token"] = self.token
        return columns

    def wanted(self) -> dict[str, sa.ColumnElement[bool]]:
        """Kind of key to what holds of the row that has it."""
        conditions: dict[str, sa.ColumnElement[bool]] = {}
        if self.token is not None:
            conditions["token"] = sa.and_(_r.name == self.name, _r.idempotence_token == self.token)
        if self.once is not None:
            conditions["once"] = _r.once_key == self.once
        if self.unique is not None:
            conditions["unique"] = _r.unique_key == self.unique
        return conditions


@attrs.frozen
class Holder:
    """Who has a key.

    Attributes:
        kind: Of the key: token, once or unique.
        row: Its record.
        is_over: Whether its time is over, so that the next one may take it.
        is_committed: Whether others can see it; False for one of this very transaction.
        is_seen: Whether this transaction sees it too.
    """

    kind: str
    row: Row[Any]
    is_over: bool
    is_committed: bool = True
    is_seen: bool = True


def insert(connection: Connection, values: Mapping[str, Any], wait_s: float, *, alone: bool) -> bool:
    """Insert a row unless another one has one of its keys.

    Args:
        connection: In a transaction.
        values: Of the row, with its keys.
        wait_s: How long to wait for a transaction that holds one, in seconds.
        alone: Whether the transaction is for this insert, and nobody minds when it is spoilt.

    Returns:
        Whether it was inserted; False when a committed row, or one of this transaction, has one of its keys.

    Raises:
        Busy: The other transaction has not ended in time.
        Again: A transaction that is for this insert had to give way to another one.
    """
    stamped = {"created_at": after(0), "updated_at": after(0), **values}
    try:
        if connection.dialect.name == "postgresql":
            return _insert_on_postgresql(connection, stamped, wait_s, alone=alone)
        with _patience(connection, wait_s, alone=alone):
            if connection.dialect.name == "sqlite":
                take_write_lock(connection)
                statement = sqlite.insert(records).values(stamped).on_conflict_do_nothing()
                return connection.execute(statement.returning(_r.id)).first() is not None
            # A duplicate undoes this statement alone here. IGNORE would swallow more than duplicates.
            connection.execute(sa.insert(records).values(stamped))
            return True
    except IntegrityError as error:
        if code_of(error) != DUPLICATE:
            raise
        return False
    except DBAPIError as error:
        if is_locked(error) or is_busy(error):
            raise Busy from error
        if alone and code_of(error) in DEADLOCK:
            # On MariaDB two that wait for a third, which is rolled back, are in each other's way.
            raise Again from error
        raise


def _insert_on_postgresql(connection: Connection, values: Mapping[str, Any], wait_s: float, *, alone: bool) -> bool:
    statement = postgresql.insert(records).values(values).on_conflict_do_nothing().returning(_r.id)
    patience = sa.func.set_config("lock_timeout", f"{max(1, round(wait_s * 1000))}ms", True)
    if alone:
        connection.execute(sa.select(patience))
        return connection.execute(statement).first() is not None
    try:
        # A savepoint, for the time-out is an error, and an error spoils all that is around it.
        with connection.begin_nested():
            before = connection.execute(sa.select(sa.func.current_setting("lock_timeout"), patience)).scalar_one()
            inserted = connection.execute(statement).first() is not None
            connection.execute(sa.select(sa.func.set_config("lock_timeout", before, True)))
            return inserted
    except DBAPIError as error:
        if code_of(error) == SERIALIZATION_FAILURE:
            # Committed after this transaction has begun, which at its level must not see it.
            return False
        raise


@contextmanager
def _patience(connection: Connection, wait_s: float, *, alone: bool) -> Generator[None, None, None]:
    """Wait so long for locks, and no longer, within the block."""
    if connection.dialect.name == "sqlite":
        if not alone:
            # Its owner has said how long it waits; and it may hold the one lock there is already.
            yield
            return
        # Any writer has the one lock, with this key or without: at least as long as a writer usually takes.
        connection.exec_driver_sql(f"PRAGMA busy_timeout = {round(max(wait_s, 1.0) * 1000)}")
        try:
            yield
        finally:
            connection.exec_driver_sql(f"PRAGMA busy_timeout = {BUSY_TIMEOUT_S * 1000}")
        return
    with innodb_wait(connection, max(1, round(wait_s))):
        yield


def find(
    connection: Connection,
    claim: Claim,
    committed: Callable[[sa.Select[Any]], Sequence[Row[Any]]] | None = None,
) -> Holder | None:
    """Who has one of the keys that a row could not be inserted for; None if it is gone meanwhile.

    Args:
        connection: That the insert was tried on.
        claim: The keys.
        committed: Asks for what is committed now, where the connection's transaction may not see it.
    """
    queries = {
        kind: sa.select(records, _IS_OVER[kind].label("is_over")).where(condition)
        for kind, condition in claim.wanted().items()
    }
    for kind, query in queries.items():
        seen = connection.execute(query).first()
        if committed is None:
            if seen is not None:
                return Holder(kind, seen, bool(seen.is_over))
            continue
        others = next(iter(committed(query)), None)
        if seen is not None and (others is None or others.id != seen.id):
            if not committed(sa.select(_r.id).where(_r.id == seen.id)):
                # Stored by this very transaction.
                return Holder(kind, seen, bool(seen.is_over), is_committed=False)
            # Else it has ended since, and this transaction still sees it as it was.
            seen = None
        if others is not None:
            return Holder(kind, others, bool(others.is_over), is_seen=seen is not None)
    return None


def free(connection: Connection, kind: str, digest: str) -> bool:
    """Take a key whose time is over from the row that has it; False if there is none, or its time is not over."""
    column = _COLUMN[kind]
    statement = sa.update(records).where(column == digest, _IS_OVER[kind]).values({column.key: None})
    return bool(connection.execute(statement).rowcount)


def replace(connection: Connection, row: Row[Any], by: str) -> bool:
    """Cancel a pending run, so that its key is free for another one; False if it is pending no more."""
    message = f"It was replaced by {by}, which has the same unique key."
    return is_applied(connection, "cancel", row.id, **_REPLACED, error_message=message)


def clear(connection: Connection, digest: str) -> bool:
    """Free an idempotency key of a run that has ended; False if no ended run has it."""
    statement = sa.update(records).where(_r.once_key == digest, _IS_FINAL).values(once_key=None)
    return bool(connection.execute(statement).rowcount)


def rival(connection: Connection, row: Row[Any]) -> tuple[str, str] | None:
    """Which key that a row was made with another one has, and whose that one is."""
    for kind, digest in (("once", row.once_digest), ("unique", row.unique_digest)):
        if digest is None:
            continue
        query = sa.select(_r.id).where(_COLUMN[kind] == digest, _r.id != row.id)
        if (holder := connection.execute(query).scalar()) is not None:
            return kind, holder
    return None


def free_for(connection: Connection, row: Row[Any]) -> None:
    """Take the keys that a row was made with from others whose time is over."""
    for kind, digest in (("once", row.once_digest), ("unique", row.unique_digest)):
        if digest is not None:
            column = _COLUMN[kind]
            statement = sa.update(records).where(column == digest, _r.id != row.id, _IS_OVER[kind])
            connection.execute(statement.values({column.key: None}))
