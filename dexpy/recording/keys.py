"""Idempotency and unique keys: inserting a row with its keys, or finding the record that holds one of them.

The unique indexes decide, not a query before the insert: in a transaction that has begun earlier, its snapshot may be
old. An insert that conflicts with a row of an open transaction waits for its end, up to a time limit. A conflict with
a committed row does not abort the surrounding transaction, on any of the databases.
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
"""By kind of key: when it has expired, although its row still has it."""
_COLUMN: Final = {"once": _r.once_key, "unique": _r.unique_key}
_REPLACED: Final = {"error": None, "failure": "cancelled", "error_details": None}


class KeyLocked(Exception):
    """Another open transaction holds a key."""


class RetryTransaction(Exception):
    """The transaction must begin again, to release what a failed insert has locked."""


@attrs.frozen
class KeyClaim:
    """The keys that one row claims.

    Attributes:
        name: Of the operation.
        once: Digest of the idempotency key.
        once_for_s: How long it is valid, in seconds; None for ever.
        unique: Digest of the unique key.
        until: started or finished.
        unique_for_s: How long it is unique, in seconds, instead of *until*.
        token: The caller's idempotence token.
        once_earlier: Other digests of the idempotency key, of earlier names.
        unique_earlier: Other digests of the unique key.
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
        kind: Of the key: token, once or unique.
        row: The record.
        is_expired: Whether the key has expired, so that another record may claim it.
        is_committed: Whether other transactions can see the record; False for one of this transaction.
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
        connection: In a transaction.
        values: Of the row, with its keys.
        wait_s: How long to wait for a transaction that holds a key, in seconds.
        alone: Whether the transaction is for this insert only, so that it may be aborted.

    Returns:
        Whether it was inserted; False if a committed row, or one of this transaction, has one of its keys.

    Raises:
        KeyLocked: The other transaction has not ended in time.
        RetryTransaction: A transaction for this insert only was in a deadlock.
    """
    row = {"created_at": FromNow(), "updated_at": FromNow(), **values}
    stamped = {name: after(value) if isinstance(value, FromNow) else value for name, value in row.items()}
    try:
        return dialect_of(connection).insert_new(connection, records, stamped, wait_s, alone=alone)
    except DBAPIError as error:
        if is_locked(error) or is_busy(error):
            raise KeyLocked from error
        if alone and code_of(error) in DEADLOCK:
            # On MariaDB two inserts that wait for a third one deadlock when that is rolled back.
            raise RetryTransaction from error
        raise


def find_holder(
    connection: Connection,
    claim: KeyClaim,
    committed: Callable[[sa.Select[Any]], Sequence[Row[Any]]] | None = None,
) -> KeyHolder | None:
    """Find the record that holds one of the keys; None if there is none any more.

    Args:
        connection: Of the insert that failed.
        claim: The keys.
        committed: Queries what is committed now, if the connection's transaction may not see it.
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
            # It was released meanwhile, and this transaction still sees its old version.
            visible = None
        if holder is not None:
            return KeyHolder(kind, holder, bool(holder.is_expired), is_visible=visible is not None)
    return None


def release_expired(connection: Connection, holder: KeyHolder) -> bool:
    """Release an expired key of its row; False if the row has none, or it has not expired."""
    column = _COLUMN.get(holder.kind)
    if column is None:
        return False
    digest = getattr(holder.row, column.key)
    statement = sa.update(records).where(column == digest, _IS_EXPIRED[holder.kind]).values({column.key: None})
    return bool(connection.execute(statement).rowcount)


def replace(connection: Connection, row: Row[Any], by: str) -> bool:
    """Cancel a pending run to release its key; False if it is no longer pending."""
    message = f"It was replaced by {by}, which has the same unique key."
    return is_applied(connection, "cancel", row.id, **_REPLACED, error_message=message)


def release_once_key(connection: Connection, digest: str) -> bool:
    """Release the idempotency key of a run that has ended; False if no such run has it."""
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
