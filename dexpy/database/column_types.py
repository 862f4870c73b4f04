"""`MetaData`, column types and the database's clock in SQL, for all tables of dexpy.

Moments are aware UTC with microseconds on every database.
Servers compute them from their own clock; SQLite runs in this process, so its clock is bound.

A database can store values that Python cannot represent: any bytes in any column on SQLite, datetimes before the year
1 or after 9999 on PostgreSQL, the zero date on MariaDB. Such a value reads as None, as 0 or as text, and is logged.
If the driver raised an error instead, the other rows of the query would be lost too.
"""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Generator
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from functools import partial
from typing import Any, cast

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.engine import Connection, Engine
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeDecorator

from dexpy.database.dialects import DIALECTS, UNKNOWN, dialect_named, dialect_of
from dexpy.foundation.clock import clock
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.redaction import class_path
from dexpy.foundation.throttle import LogThrottle

metadata = sa.MetaData()
"""The tables of dexpy."""


DECODE_TEXT: Callable[[bytes], str] = partial(str, encoding="utf-8", errors="backslashreplace")
"""Decodes any bytes; invalid UTF-8 becomes escapes."""

_NUMBER = re.compile(r"\s*([+-]?)0*(\d{0,20})", re.ASCII)
_SMALLEST, _LARGEST = -(2**63), 2**63 - 1
_throttle = LogThrottle()


class _Collector(threading.local):
    kinds: list[str] | None = None


_collector = _Collector()


def report_unreadable_value(kind: str, error: BaseException | type[BaseException]) -> None:
    """Report an unreadable value: to `collecting_unreadable` inside its block, else to the log."""
    if _collector.kinds is not None:
        _collector.kinds.append(kind)
    else:
        _throttle.log(LogEvent.VALUE_UNREADABLE, kind, kind=kind, error=class_path(error))


@contextmanager
def collecting_unreadable() -> Generator[list[str]]:
    """Collect the kinds of unreadable values inside the block instead of logging them."""
    before, _collector.kinds = _collector.kinds, []
    try:
        yield _collector.kinds
    finally:
        _collector.kinds = before


class UtcDateTime(TypeDecorator[datetime]):
    """An aware datetime, stored as UTC with microseconds."""

    impl = sa.DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        """The column type of a database."""
        return dialect.type_descriptor(dialect_named(dialect.name).datetime_type())

    def process_bind_param(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Convert an aware datetime for the driver."""
        if value is None:
            return None
        if value.tzinfo is None:
            raise ValueError(f"datetime: expected an aware datetime, got naive {value!r}. Give it a time zone.")
        value = value.astimezone(timezone.utc)
        return value if DIALECTS.get(dialect.name, UNKNOWN).stores_time_zones else value.replace(tzinfo=None)

    def process_result_value(self, value: datetime | None, dialect: sa.Dialect) -> datetime | None:
        """Return the driver's datetime, aware."""
        if value is None:
            return None
        return value.replace(tzinfo=timezone.utc) if value.tzinfo is None else value.astimezone(timezone.utc)

    def result_processor(self, dialect: sa.Dialect, coltype: Any) -> Any:
        """Return the function that reads a datetime; one that Python cannot represent reads as None and is logged."""
        process: Any = super().result_processor(dialect, coltype)

        def read(value: Any) -> datetime | None:
            try:
                moment: datetime | None = process(value)
            except (ValueError, TypeError, AttributeError, OverflowError) as error:
                report_unreadable_value("moment", error)
                return None
            return moment

        return read


class Json(TypeDecorator[Any]):
    """JSON; None is NULL in SQL. Invalid JSON reads as None, so that the other rows of the query stay readable."""

    # `json`, not `jsonb` on PostgreSQL, and text elsewhere: jsonb rewrites numbers.
    impl = sa.JSON
    cache_ok = True

    def __init__(self) -> None:
        super().__init__(none_as_null=True)

    def coerce_compared_value(self, op: Any, value: Any) -> Any:
        """Delegate to the JSON type."""
        return self.impl_instance.coerce_compared_value(op, value)

    def result_processor(self, dialect: sa.Dialect, coltype: Any) -> Any:
        """Return the function that reads a value; an unreadable one reads as None and is logged."""
        process: Any = super().result_processor(dialect, coltype)
        if process is None:
            return None

        def read(value: Any) -> Any:
            try:
                return process(value)
            except (ValueError, TypeError, RecursionError, MemoryError) as error:
                report_unreadable_value("json", error)
                return None

        return read


def _has_strict_types(dialect: sa.Dialect) -> bool:
    """Whether the database refuses values of another type."""
    return dialect_named(dialect.name).has_strict_types


class Integer(TypeDecorator[int]):
    """An integer; SQLite stores any value there, and a text without digits reads as 0."""

    impl = sa.Integer
    cache_ok = True

    def result_processor(self, dialect: sa.Dialect, coltype: Any) -> Any:
        """Convert a value if the database does not check its type."""
        return super().result_processor(dialect, coltype) if _has_strict_types(dialect) else to_integer


class String(sa.String):
    """Text of a limited length; SQLite may store bytes there, which are read as text."""

    def result_processor(self, dialect: sa.Dialect, coltype: Any) -> Any:
        """Convert a value if the database does not check its type."""
        return super().result_processor(dialect, coltype) if _has_strict_types(dialect) else to_text


class Text(sa.Text):
    """Text of any length, read like `String`."""

    def result_processor(self, dialect: sa.Dialect, coltype: Any) -> Any:
        """Convert a value if the database does not check its type."""
        return super().result_processor(dialect, coltype) if _has_strict_types(dialect) else to_text


MAX_COUNT = 2**31 - 1
"""The largest number in a counter's column on every database."""


def next_count(column: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    """Return a counter plus 1, at most its maximum, so that one row at the maximum fails no statement."""
    return sa.case((column < 0, 1), (column < MAX_COUNT, column + 1), else_=MAX_COUNT)


def next_token(column: sa.ColumnElement[int]) -> sa.ColumnElement[int]:
    """Return the next claim token; after the maximum, tokens start again at 1."""
    return sa.case((sa.and_(column >= 0, column < MAX_COUNT), column + 1), else_=1)


class _Seconds(TypeDecorator[float]):
    """Seconds from now: on SQLite bound as the moment itself, elsewhere as the number."""

    impl = sa.Float
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> Any:
        if dialect_named(dialect.name).has_server:
            return dialect.type_descriptor(sa.Float(53))
        return dialect.type_descriptor(sa.DateTime())

    def process_bind_param(self, value: float | None, dialect: sa.Dialect) -> Any:
        if value is None:
            return None
        if DIALECTS.get(dialect.name, UNKNOWN).has_server:
            # 0 except in a test that moves the clock.
            return value + clock.database_offset_s
        return (clock.now() + timedelta(seconds=value)).replace(tzinfo=None)


class after(FunctionElement[datetime]):  # noqa: N801 - reads as a SQL function
    """The time a number of seconds from now, by the database's clock; ``after(0)`` is now.

    Args:
        seconds: A number, or a bind parameter.
    """

    inherit_cache = True
    type = UtcDateTime()
    name = "dexpy_after"

    def __init__(self, seconds: float | sa.BindParameter[Any] = 0.0) -> None:
        self.seconds = seconds
        bound = seconds if isinstance(seconds, sa.BindParameter) else sa.literal(float(seconds), _Seconds())
        super().__init__(bound)


class as_of(after):  # noqa: N801 - reads as a SQL function
    """The same time for comparisons: constant within a statement, so that an index can be used."""

    inherit_cache = True
    name = "dexpy_as_of"


class FromNow(float):
    """A time in a new row, as seconds from now by the database's clock; `after` is its SQL."""


def hide_from_planner(*conditions: sa.ColumnElement[bool]) -> sa.ColumnElement[bool]:
    """Combine conditions on rows that are selected by key, hidden from the query planner.

    With missing or old statistics PostgreSQL estimates that an index on the status is as good as the primary key, and
    reads every pending row to find one.
    """
    return sa.and_(*conditions).is_(sa.true())


def database_time(connection: Connection) -> datetime:
    """Return the time of the database's clock; SQLite has none, so there it is the time of this process."""
    if not dialect_of(connection).has_server:
        return clock.now()
    now: datetime = connection.execute(_NOW).scalar_one()
    return now


def seconds_parameter(name: str) -> sa.BindParameter[Any]:
    """Return a bind parameter for `after`, whose value is in seconds."""
    return sa.bindparam(name, type_=_Seconds())


_NOW = sa.select(after(0))


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


def read_json(text: str | bytes) -> Any:
    """Decode JSON; None if it is invalid or nested too deep."""
    try:
        return json.loads(text)
    except (ValueError, TypeError, RecursionError, MemoryError) as error:
        report_unreadable_value("json", error)
        return None


def to_integer(value: Any) -> int | None:
    """Convert a value of an integer column exactly as SQLite's CAST does.

    Comparisons in the database and in Python must agree.
    """
    if value is None or type(value) is int:
        return value
    report_unreadable_value("number", TypeError)
    if isinstance(value, float):
        # SQLite clamps floats beyond 64 bits; 2.0**63 itself is already too large.
        return int(value) if -(2.0**63) <= value < 2.0**63 else _LARGEST if value > 0 else _SMALLEST
    sign, digits = cast("re.Match[str]", _NUMBER.match(sqlite_text(value))).groups()
    return max(_SMALLEST, min(int(f"{sign}{digits or 0}"), _LARGEST))


def to_text(value: Any) -> str | None:
    """Convert a value of a text column; bytes are decoded."""
    if value is None or type(value) is str:
        return value
    report_unreadable_value("text", TypeError)
    return sqlite_text(value)


def sqlite_text(value: Any) -> str:
    """Convert any value of SQLite to text."""
    return DECODE_TEXT(value) if isinstance(value, bytes) else str(value)


def accept_invalid_utf8(engine: Engine) -> None:
    """Make SQLite's driver accept invalid UTF-8."""

    @event.listens_for(engine, "connect")
    def connect(driver: Any, _record: Any) -> None:
        driver.text_factory = DECODE_TEXT


def read_any_postgresql_datetime(engine: Engine) -> None:
    """Make psycopg read datetimes that Python cannot represent as None."""
    from psycopg import Error
    from psycopg.adapt import Loader
    from psycopg.types.datetime import TimestamptzLoader

    class DatetimeLoader(Loader):
        def load(self, data: Any) -> datetime | None:
            value = DECODE_TEXT(data) if isinstance(data, bytes) else DECODE_TEXT(bytes(data))
            try:
                return datetime.fromisoformat(value)
            except ValueError:
                # The server may use another DateStyle.
                return self._by_psycopg(data)

        def _by_psycopg(self, data: Any) -> datetime | None:
            try:
                moment: datetime = TimestamptzLoader(self.oid, self.connection).load(data)
            except (Error, ValueError, OverflowError) as error:
                report_unreadable_value("moment", error)
                return None
            return moment

    @event.listens_for(engine, "connect")
    def connect(driver: Any, _record: Any) -> None:
        driver.adapters.register_loader("timestamptz", DatetimeLoader)
