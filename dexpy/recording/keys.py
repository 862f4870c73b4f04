"""Idempotency and unique keys: inserting a row with its keys, or finding the record that holds one of them.

The unique indexes decide, not a query before the insert, whose snapshot may be old in an earlier transaction.
An insert that conflicts with a row of an open transaction waits for its end, up to a timeout. A conflict with a
committed row does not abort the enclosing transaction, on any database.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import attrs
import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row
from sqlalchemy.exc import DBAPIError

from dexpy.database.column_types import FromNow, after, as_of
from dexpy.database.dialects import dialect_of
from dexpy.database.error_codes import DEADLOCK, code_of, is_locked
from dexpy.database.sqlite import is_busy
from dexpy.database.tables import FINAL, records
from dexpy.recording.transitions import is_applied

_r = records.c
_IS_FINAL = _r.status.in_(FINAL)
_IS_EXPIRED: Final = {
    "once": sa.and_(_IS_FINAL, _r.once_expires_at <= as_of(0)),
    "unique": _r.unique_expires_at <= as_of(0),
    "token": sa.false(),
}
"""The condition, by kind of key, for a key that has expired although its row still has it."""
_COLUMN: Final = {"once": _r.once_key, "unique": _r.unique_key}
_REPLACED: Final = {"error": None, "failure": "cancelled", "error_details": None}


class KeyLocked(Exception):
    """Another open transaction holds the key."""


class RetryTransaction(Exception):
    """The transaction must start again, to release the locks of a failed insert."""


@attrs.frozen
class KeyClaim:
    """The keys that one row claims.

    Attributes:
        name: The name of the operation.
        once: The digest of the idempotency key.
        once_for_s: How long the idempotency key is valid, in seconds; None without a limit.
        unique: The digest of the unique key.
        until: started or finished.
        unique_for_s: How long the key is unique, in seconds, instead of *until*.
        token: The caller's idempotence token.
        once_earlier: The digests of the idempotency key under earlier names.
        unique_earlier: The digests of the unique key under earlier names.
        names: All names of the operation, if it had others.
    """

    name: str
    once: str | None = None
    once_for_s: float | None = None
    unique: str | None = None
    until: str | None = None
    unique_for_s: float | None = None
    token: str | None = None
    once_earlier: tuple[str, ...] = ()
    unique_earlier: tuple[str, ...] = ()
    names: tuple[str, ...] = ()

    @property
    def has_earlier(self) -> bool:
        """Whether a record under an earlier name may hold a key, which no unique index compares."""
        return bool(self.once_earlier or self.unique_earlier or (self.token is not None and len(self.names) > 1))

    def columns(self) -> dict[str, Any]:
        """Return the key columns of the row."""
        columns: dict[str, Any] = {}
        if self.once is not None:
            columns |= {"once_key": self.once, "once_digest": self.once}
            columns["once_expires_at"] = None if self.once_for_s is None else FromNow(self.once_for_s)
        if self.unique is not None:
            columns |= {"unique_key": self.unique, "unique_digest": self.unique, "unique_until": self.until}
            columns["unique_expires_at"] = None if self.unique_for_s is None else FromNow(self.unique_for_s)
        if self.token is not None:
            columns["idempotence_token"] = self.token
        return columns

    def conditions(self) -> dict[str, sa.ColumnElement[bool]]:
        """Return the condition for a row that holds a key, by kind of key."""
        conditions: dict[str, sa.ColumnElement[bool]] = {}
        if self.token is not None:
            conditions["token"] = sa.and_(
                _is_any(_r.operation, self.name, self.names), _r.idempotence_token == self.token
            )
        if self.once is not None:
            conditions["once"] = _is_any(_r.once_key, self.once, self.once_earlier)
        if self.unique is not None:
            conditions["unique"] = _is_any(_r.unique_key, self.unique, self.unique_earlier)
        return conditions


def _is_any(column: sa.Column[Any], value: str, others: Sequence[str]) -> sa.ColumnElement[bool]:
    return column.in_(tuple(dict.fromkeys((value, *others)))) if others else column == value


@attrs.frozen
class KeyHolder:
    """The record that holds a key.

    Attributes:
        kind: The kind of the key: token, once or unique.
        row: The row of the record.
        is_expired: Whether the key has expired, so that another record may claim it.
        is_committed: Whether other transactions can see the record; False if this transaction has inserted it.
        is_visible: Whether this transaction can see it.
    """

    kind: str
    row: Row[Any]
    is_expired: bool
    is_committed: bool = True
    is_visible: bool = True


def insert(connection: Connection, values: Mapping[str, Any], wait_s: float, *, alone: bool) -> bool:
    """Insert a row unless another one has one of its keys.

    Args:
        connection: A connection in a transaction.
        values: The columns of the row, with its keys.
        wait_s: How long to wait for a transaction that holds a key, in seconds.
        alone: Whether the transaction has only this insert, so that it may be aborted.

    Returns:
        Whether the row was inserted; False if a committed row, or one of this transaction, has one of its keys.

    Raises:
        KeyLocked: The other transaction has not ended in time.
        RetryTransaction: A transaction with only this insert was in a deadlock.
    """
    row = {"created_at": FromNow(), "updated_at": FromNow(), **values}
    stamped = {name: after(value) if isinstance(value, FromNow) else value for name, value in row.items()}
    try:
        return dialect_of(connection).insert_new(connection, records, stamped, wait_s, alone=alone)
    except DBAPIError as error:
        if is_locked(error) or is_busy(error):
            raise KeyLocked from error
        if alone and code_of(error) in DEADLOCK:
            # On MariaDB two inserts that wait for a third one deadlock when the third one is rolled back.
            raise RetryTransaction from error
        raise


def find_holder(
    connection: Connection,
    claim: KeyClaim,
    committed: Callable[[sa.Select[Any]], Sequence[Row[Any]]] | None = None,
) -> KeyHolder | None:
    """Return the record that holds one of the keys; None if no record holds one any more.

    Args:
        connection: The connection of the insert that failed.
        claim: The keys.
        committed: Queries the rows that are committed now, which the connection's transaction may not see.
    """
    queries = {
        kind: sa.select(records, _IS_EXPIRED[kind].label("is_expired")).where(condition)
        for kind, condition in claim.conditions().items()
    }
    for kind, query in queries.items():
        visible = connection.execute(query).first()
        if committed is None:
            if visible is not None:
                return KeyHolder(kind, visible, bool(visible.is_expired))
            continue
        holder = next(iter(committed(query)), None)
        if visible is not None and (holder is None or holder.id != visible.id):
            if not committed(sa.select(_r.id).where(_r.id == visible.id)):
                # Stored by this transaction.
                return KeyHolder(kind, visible, bool(visible.is_expired), is_committed=False)
            # The key was released meanwhile, but this transaction still sees the old version of the row.
            visible = None
        if holder is not None:
            return KeyHolder(kind, holder, bool(holder.is_expired), is_visible=visible is not None)
    return None


def release_expired(connection: Connection, holder: KeyHolder) -> bool:
    """Release the expired key of a row; return False if the row has none, or it has not expired."""
    column = _COLUMN.get(holder.kind)
    if column is None:
        return False
    digest = getattr(holder.row, column.key)
    statement = sa.update(records).where(column == digest, _IS_EXPIRED[holder.kind]).values({column.key: None})
    return bool(connection.execute(statement).rowcount)


def replace(connection: Connection, row: Row[Any], by: str) -> bool:
    """Cancel a pending run to release its key; return False if it is no longer pending."""
    message = f"Replaced by {by}, which has the same unique key."
    return is_applied(connection, "cancel", row.id, **_REPLACED, error_message=message)


def release_once_key(connection: Connection, digest: str) -> bool:
    """Release the idempotency key of a run that has ended; return False if no such run has it."""
    statement = sa.update(records).where(_r.once_key == digest, _IS_FINAL).values(once_key=None)
    return bool(connection.execute(statement).rowcount)


def find_conflict(connection: Connection, row: Row[Any]) -> tuple[str, str] | None:
    """Return the kind of the first key of a row that another record holds, and that record's id."""
    for kind, digest in (("once", row.once_digest), ("unique", row.unique_digest)):
        if digest is None:
            continue
        query = sa.select(_r.id).where(_COLUMN[kind] == digest, _r.id != row.id)
        if (holder := connection.execute(query).scalar()) is not None:
            return kind, holder
    return None


def release_expired_for(connection: Connection, row: Row[Any]) -> None:
    """Release the keys that a row was created with from records in which they have expired."""
    for kind, digest in (("once", row.once_digest), ("unique", row.unique_digest)):
        if digest is not None:
            column = _COLUMN[kind]
            statement = sa.update(records).where(column == digest, _r.id != row.id, _IS_EXPIRED[kind])
            connection.execute(statement.values({column.key: None}))
