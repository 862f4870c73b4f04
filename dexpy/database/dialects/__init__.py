"""One object for each kind of database, which answers everything in which the kinds differ."""

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
"""Of the sessions of an application that keeps its own data elsewhere."""

DIALECTS: Final[dict[str, Dialect]] = {
    "sqlite": SQLITE,
    "postgresql": POSTGRESQL,
    "mysql": MARIADB,
    "mariadb": MARIADB,
}
"""By SQLAlchemy's name of each."""


def dialect_named(name: str) -> Dialect:
    """Return the dialect by SQLAlchemy's name of it."""
    return DIALECTS.get(name, UNKNOWN)


def dialect_of(bind: Connection | Engine) -> Dialect:
    """Return the dialect of a connection or an engine."""
    return DIALECTS.get(bind.dialect.name, UNKNOWN)
