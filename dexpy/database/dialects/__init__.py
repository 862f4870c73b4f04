"""One object for each kind of database; it holds everything in which they differ."""

from __future__ import annotations

from typing import Final

from sqlalchemy.engine import Connection, Engine

from dexpy.database.dialects.base import Dialect
from dexpy.database.dialects.mariadb import MariadbDialect
from dexpy.database.dialects.postgresql import PostgresqlDialect
from dexpy.database.dialects.sqlite import SqliteDialect

SQLITE: Final = SqliteDialect()
POSTGRESQL: Final = PostgresqlDialect()
MARIADB: Final = MariadbDialect()
UNKNOWN: Final = Dialect()
"""The dialect of an unknown kind of database, which an application may use for its own data."""

DIALECTS: Final[dict[str, Dialect]] = {
    "sqlite": SQLITE,
    "postgresql": POSTGRESQL,
    "mysql": MARIADB,
    "mariadb": MARIADB,
}
"""The dialects by their SQLAlchemy names."""


def dialect_named(name: str) -> Dialect:
    """Return the dialect with a SQLAlchemy name."""
    return DIALECTS.get(name, UNKNOWN)


def dialect_of(bind: Connection | Engine) -> Dialect:
    """Return the dialect of a connection or an engine."""
    return DIALECTS.get(bind.dialect.name, UNKNOWN)
