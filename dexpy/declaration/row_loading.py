"""Load the rows of a mapped class by their primary keys, compared by the database.

It is imported at the first load, because it requires SQLAlchemy.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from decimal import Decimal
from typing import Any, cast

import attrs
import sqlalchemy as sa
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Dialect
from sqlalchemy.orm import Mapper, Session, selectinload
from sqlalchemy.sql.base import ExecutableOption

from dexpy.database.dialects import dialect_named, dialect_of
from dexpy.database.dialects.base import Dialect as DatabaseDialect
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path

MAX_PARAMETERS = 30_000
"""The maximum number of bound parameters in a statement, unless the limit of the database is lower."""
MAX_CHARACTERS = 1_000_000
"""The maximum length of the keys in a statement: MariaDB refuses statements beyond `max_allowed_packet`."""

_PREDICTABLE = (sa.Integer, sa.String, sa.Uuid, sa.Date, sa.DateTime)
"""Types of SQLAlchemy for which `_can_exist` detects all values that a driver or server would refuse."""
_REFUSALS = (exc.DataError, exc.StatementError, OverflowError, UnicodeError)
"""The exceptions of drivers and servers for a value that a column type cannot store."""
_BROKEN_VALUES = (TypeError, ValueError, ArithmeticError, AttributeError, LookupError)


@attrs.frozen
class RowLoader:
    """Loads rows of a model in a session.

    Attributes:
        model: The mapped class.
        columns: Its primary key, as mapped attributes.
        session: The run's session.
        lock: Whether the rows are locked FOR UPDATE, in the order of their keys.
        options: Execution options of the statements.
    """

    model: type[Any]
    columns: tuple[Any, ...]
    session: Session
    lock: bool
    options: Mapping[str, Any]

    def load(self, keys: Sequence[Any]) -> dict[Any, Any]:
        """Return the rows by their keys; the first key without a row ends the search.

        Args:
            keys: Values, or tuples for a composite key.
        """
        connection = self.session.connection(bind_arguments={"mapper": self._mapper})
        possible = [key for key in keys if self._can_exist(key, connection.dialect)]
        rows_by_key: dict[Any, Any] = {}
        if len(possible) > 1:
            for batch in self._batches(possible, connection):
                rows_by_key.update((self._key_of(row), row) for row in self._rows(batch, connection))
        for key in possible:
            # The database may equate keys that Python distinguishes, for example by case; each is a separate query.
            if key not in rows_by_key:
                rows = self._rows([key], connection)
                if not rows:
                    break
                rows_by_key[key] = rows[0]
        return rows_by_key

    @property
    def _mapper(self) -> Mapper[Any]:
        return cast("Mapper[Any]", sa.inspect(self.model))

    def _key_of(self, row: Any) -> Any:
        identity = sa.inspect(row).identity
        return identity[0] if len(identity) == 1 else tuple(identity)

    def _parts(self, key: Any) -> tuple[Any, ...]:
        return key if len(self.columns) > 1 else (key,)

    def _types(self, dialect: Dialect) -> list[Any]:
        return [column.type.dialect_impl(dialect) for column in self._mapper.primary_key]

    def _can_exist(self, key: Any, dialect: Dialect) -> bool:
        """Return whether the columns can store a key; a driver would raise for other keys."""
        return all(
            _can_hold(kind, value, dialect_named(dialect.name))
            for kind, value in zip(self._types(dialect), self._parts(key), strict=True)
        )

    def _batches(self, keys: list[Any], connection: Connection) -> Iterator[list[Any]]:
        """Split keys by the limits of a statement; the order of the locks is the same over all pieces."""
        if self.lock:
            try:
                keys = sorted(keys)
            except TypeError:
                keys = sorted(keys, key=repr)
        max_keys = min(MAX_PARAMETERS, dialect_of(connection).max_parameters(connection)) // len(self.columns)
        batch: list[Any] = []
        characters = 0
        for key in keys:
            size = len(str(key))
            if batch and (len(batch) >= max_keys or characters + size > MAX_CHARACTERS):
                yield batch
                batch, characters = [], 0
            batch.append(key)
            characters += size
        yield batch

    def _rows(self, keys: list[Any], connection: Connection) -> Sequence[Any]:
        """Return the rows of some keys; no rows if the type of a column refuses a key."""
        query = self._query(keys, connection.dialect)
        if all(map(_is_predictable, self._types(connection.dialect))):
            return self.session.scalars(query).unique().all()
        try:
            # On PostgreSQL, a value that the server refuses would abort the transaction.
            with connection.begin_nested():
                return self.session.scalars(query).unique().all()
        except _REFUSALS as error:
            if not _is_refusal(error):
                raise
            if len(keys) == 1:
                log_event(LogEvent.REF_KEY_REFUSED, model=self.model.__qualname__, error=class_path(error))
            return []

    def _query(self, keys: list[Any], dialect: Dialect) -> sa.Select[Any]:
        column = self.columns[0] if len(self.columns) == 1 else sa.tuple_(*self.columns)
        query = sa.select(self.model).where(column.in_(keys)).execution_options(**self.options)
        if not self.lock:
            return query
        order_of = dialect_named(dialect.name).order_by_value
        order = [order_of(column, column.type.dialect_impl(dialect)) for column in self._mapper.primary_key]
        query = query.order_by(*order).options(*self._without_joins())
        return query.with_for_update(of=self._tables() or None).execution_options(populate_existing=True)

    def _without_joins(self) -> Iterator[ExecutableOption]:
        """Load eager joins of the model by separate statements: a join would be locked with the row."""
        mappers = {self._mapper, *self._mapper.with_polymorphic_mappers}
        relations = {relation for mapper in mappers for relation in mapper.relationships}
        for relation in relations:
            if relation.lazy in ("joined", False):
                yield selectinload(relation.class_attribute)

    def _tables(self) -> list[Any]:
        """Return the tables of the row: several for joined inheritance."""
        mapper = self._mapper
        if mapper.inherits is None and isinstance(mapper.persist_selectable, sa.Join):
            return list({column.table for column in mapper.primary_key})
        return list(mapper.tables)


def _can_hold(kind: Any, value: Any, dialect: DatabaseDialect) -> bool:
    if isinstance(kind, sa.Integer) and isinstance(value, int):
        smallest, largest = dialect.integer_bounds(kind)
        return smallest <= value <= largest
    if isinstance(kind, sa.Numeric) and isinstance(value, (Decimal, float)):
        return math.isfinite(value)
    if isinstance(kind, sa.String) and isinstance(value, str):
        return not any("\ud800" <= letter <= "\udfff" for letter in value) and (dialect.stores_nul or "\0" not in value)
    return True


def _is_predictable(kind: Any) -> bool:
    is_builtin: bool = type(kind).__module__.startswith("sqlalchemy.")
    return is_builtin and isinstance(kind, _PREDICTABLE) and not isinstance(kind, sa.Enum)


def _is_refusal(error: Exception) -> bool:
    if isinstance(error, exc.DBAPIError):
        return isinstance(error, exc.DataError)
    # The processing of the type raises this, before the driver is called.
    return not isinstance(error, exc.StatementError) or isinstance(error.orig, _BROKEN_VALUES)
