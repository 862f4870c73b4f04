"""What all tables of dexpy share: their `MetaData`, the type of their moments, and the database's clock in SQL.

Moments are aware UTC with microseconds on every database.
Servers compute them from their own clock; SQLite runs in this very process, so there the process clock is bound.
"""

from __future__ import annotations

import logging
from datetime import datetime, timedelta, timezone
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from dexpy.foundation.clock import clock
from dexpy.foundation.log import line
from dexpy.foundation.redaction import class_path

metadata = sa.MetaData()
"""The tables of dexpy."""


class UtcDateTime(TypeDecorator[datetime]):
    """An aware moment, kept as UTC with microseconds."""

    impl = sa.DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        """The column type of a database."""
        if dialect.name in ("mysql", "mariadb"):
            from sqlalchemy.dialects.mysql import DATETIME

            return dialect.type_descriptor(DATETIME(fsp=6))
        return dialect.type_descriptor(sa.DateTime(timezone=dialect.name == "postgresql"))

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """An aware moment for the driver."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"a moment needs a time zone, got {value!r}")
        value = value.astimezone(timezone.utc)
        return value if dialect.name == "postgresql" else value.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """The driver's moment, aware."""
        if value is None:
            return None
        return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)


class Json(TypeDecorator[Any]):
    """JSON; NULL in Python is NULL in SQL, and so is text that is no JSON: it must not hide the rows around it."""

    # `json`, not `jsonb` on PostgreSQL, and text elsewhere: jsonb rewrites numbers.
    impl = sa.JSON
    cache_ok = True

    def __init__(self) -> None:
        super().__init__(none_as_null=True)

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        """As JSON has it."""
        return self.impl_instance.coerce_compared_value(op, value)

    def result_processor(self, dialect: sa.Dialect, coltype: Any) -> Any:
        """Reads a value, or says in the log that it cannot be read."""
        process: Any = super().result_processor(dialect, coltype)
        if process is None:
            return None

        def read(value: Any) -> Any:
            try:
                return process(value)
            except ValueError as error:
                line(logging.WARNING, "json.unreadable", error=class_path(error))
                return None

        return read


class _Seconds(TypeDecorator[float]):
    """Seconds from now: on SQLite bound as the moment itself, elsewhere as the number."""

    impl = sa.Float
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        if dialect.name == "sqlite":
            return dialect.type_descriptor(sa.DateTime())
        return dialect.type_descriptor(sa.Float(53))

    def process_bind_param(self, value: float | None, dialect: sa.Dialect) -> Any:
        if dialect.name != "sqlite" or value is None:
            return value
        return (clock.now() + timedelta(seconds=value)).replace(tzinfo=None)


class after(FunctionElement[datetime]):  # noqa: N801 - reads as a SQL function
    """The moment so many seconds from now, by the database's clock; ``after(0)`` is now.

    Args:
        seconds: A number, or a bind parameter that will be one.
    """

    inherit_cache = True
    type = UtcDateTime()
    name = "dexpy_after"

    def __init__(self, seconds: float | sa.BindParameter[Any] = 0.0) -> None:
        self.seconds = seconds
        bound = seconds if isinstance(seconds, sa.BindParameter) else sa.literal(float(seconds), _Seconds())
        super().__init__(bound)


class as_of(after):  # noqa: N801 - reads as a SQL function
    """The same moment, for comparisons: it stands still in a statement, so that an index can serve them."""

    inherit_cache = True
    name = "dexpy_as_of"


def of_this_row(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Conditions on rows that are found by their keys, which no planner can take for another way to them.

    With statistics that are missing or old, an index on the status looks to PostgreSQL as good as the key, and whatever
    is pending is read to find one row.
    """
    return sa.and_(*conditions).is_(sa.true())


def moment(connection: Connection) -> datetime:
    """Now, by the database's clock; on SQLite, which has none, by this process's."""
    if connection.dialect.name == "sqlite":
        return clock.now()
    now: datetime = connection.execute(_MOMENT).scalar_one()
    return now


def seconds_parameter(name: str) -> sa.BindParameter[Any]:
    """A bind parameter for `after`, filled with seconds at execution."""
    return sa.bindparam(name, type_=_Seconds())


_MOMENT = sa.select(after(0))


@compiles(after, "sqlite")
def _after_sqlite(element: after, compiler: Any, **options: Any) -> str:
    text: str = compiler.process(element.clauses, **options)
    return text


@compiles(after, "postgresql")
def _after_postgresql(element: after, compiler: Any, **options: Any) -> str:
    return f"(clock_timestamp() + make_interval(secs => {compiler.process(element.clauses, **options)}))"


@compiles(as_of, "postgresql")
def _as_of_postgresql(element: as_of, compiler: Any, **options: Any) -> str:
    return f"(statement_timestamp() + make_interval(secs => {compiler.process(element.clauses, **options)}))"


@compiles(after, "mysql")
@compiles(after, "mariadb")
def _after_mysql(element: after, compiler: Any, **options: Any) -> str:
    seconds = compiler.process(element.clauses, **options)
    return f"(UTC_TIMESTAMP(6) + INTERVAL CAST({seconds} * 1000000 AS SIGNED) MICROSECOND)"
