"""The engine for a URL: options, drivers, and a check of idle connections."""

from __future__ import annotations

import time
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event, exc
from sqlalchemy.engine import URL, Engine

from dexpy.database.column_types import accept_invalid_utf8, read_any_postgresql_datetime, read_json
from dexpy.database.dialects import dialect_named
from dexpy.database.dialects.base import Dialect
from dexpy.foundation.errors import ConfigurationError, MissingExtra
from dexpy.foundation.urls import displayed_url

CONNECT_TIMEOUT_S = 10
"""The timeout of a new connection, in seconds, unless the URL sets `connect_timeout`."""
PING_AFTER_S = 1.0
"""A connection that was idle for longer than this, in seconds, is pinged before its next use."""
POOL_SIZE = 20
"""The number of connections in the pool of a process; as many more may be open for a while."""

THRESHOLD = "prepare_threshold"
"""An option of psycopg in a URL: the number of uses before a statement is prepared; none for never."""
DRIVER_EXTRAS = {"psycopg": "postgres", "pymysql": "mysql", "psycopg2": "postgres"}
"""The extra of dexpy that installs each driver."""


def new_engine(url: URL, dialect: Dialect, path: str | None, display_url: str) -> Engine:
    """Create an engine, without a connection.

    Args:
        url: The URL of the database.
        dialect: The dialect of its kind.
        path: The path of the SQLite file; None for a server or for memory.
        display_url: The URL without secrets.

    Raises:
        MissingExtra: The driver is not installed, and an extra of dexpy installs it.
        ConfigurationError: The kind of database or its driver is unknown.
        ValueError: An option of the URL is invalid.
    """
    options: dict[str, Any] = {"pool_size": POOL_SIZE, "max_overflow": POOL_SIZE}
    engine_url, connect_args = _split_threshold(url)
    if dialect.has_server:
        if "connect_timeout" not in url.query and url.drivername.partition("+")[2] in DRIVER_EXTRAS:
            options["connect_args"] = {"connect_timeout": CONNECT_TIMEOUT_S}
        options["connect_args"] = {**options.get("connect_args", {}), **connect_args}
        if dialect.isolation_level is not None:
            options["isolation_level"] = dialect.isolation_level
    elif path is None:
        options = {"poolclass": sa.StaticPool, "connect_args": {"check_same_thread": False}}
    else:
        options["connect_args"] = {"check_same_thread": False}
    try:
        # Parameters contain props, so the driver's errors must not show them.
        engine = sa.create_engine(engine_url, hide_parameters=True, json_deserializer=read_json, **options)
    except ModuleNotFoundError as error:
        package = (error.name or "").split(".")[0]
        extra = DRIVER_EXTRAS.get(package.lower())
        if extra is None:
            raise ConfigurationError(
                f"database {display_url}: the package {package!r} is not installed. Run: pip install {package}"
            ) from None
        raise MissingExtra(f"database {display_url}", package, extra) from None
    except exc.NoSuchModuleError:
        raise ConfigurationError(
            f"database {display_url}: unknown kind; expected sqlite://, postgresql+psycopg:// or mysql+pymysql://."
        ) from None
    if dialect.has_server:
        _ping_idle_connections(engine)
    else:
        accept_invalid_utf8(engine)
    if engine.dialect.driver == "psycopg":
        read_any_postgresql_datetime(engine)
    return engine


def _split_threshold(url: URL) -> tuple[URL, dict[str, Any]]:
    """Split ``prepare_threshold`` off a URL, as psycopg's argument: a number, or None for never."""
    if THRESHOLD not in url.query or url.drivername.partition("+")[2] != "psycopg":
        return url, {}
    threshold = str(url.query[THRESHOLD])
    if threshold.lower() != "none" and not threshold.isdecimal():
        raise ConfigurationError(
            f"database {displayed_url(url.render_as_string(hide_password=False))}: {THRESHOLD}: expected a number of "
            f"uses before a statement is prepared, or none for never; got {threshold!r}."
        )
    return url.difference_update_query([THRESHOLD]), {
        THRESHOLD: None if threshold.lower() == "none" else int(threshold)
    }


_IDLE_SINCE = "dexpy_idle_since"


def _ping_idle_connections(engine: Engine) -> None:
    """Ping the server before a connection is used again, if it has been idle for a while.

    SQLAlchemy's ``pool_pre_ping`` pings at every use, which costs a busy worker one round trip in four.
    """

    @event.listens_for(engine, "checkin")
    def checked_in(_driver: Any, entry: Any) -> None:
        entry.info[_IDLE_SINCE] = time.monotonic()

    @event.listens_for(engine, "checkout")
    def checked_out(driver: Any, entry: Any, _proxy: Any) -> None:
        since = entry.info.get(_IDLE_SINCE)
        if since is None or time.monotonic() - since < PING_AFTER_S:
            return
        try:
            engine.dialect.do_ping(driver)
        except engine.dialect.loaded_dbapi.Error as error:
            # The pool replaces it with a new one.
            raise exc.DisconnectionError("the connection was lost while it was idle") from error


def synchronous(url: URL) -> str:
    """Return the URL of the same database with a synchronous driver, without secrets."""
    backend = url.get_backend_name()
    driver = dialect_named(backend).sync_driver
    changed = url.set(drivername=backend if driver is None else f"{backend}+{driver}")
    return displayed_url(changed.render_as_string(hide_password=False))
