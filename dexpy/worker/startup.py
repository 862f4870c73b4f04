"""Checks of the database and the broker when a worker process starts.

A server that refuses the connection ends the start; one that is only unreachable is retried with backoff.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import dramatiq
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from dexpy.brokers.server_check import BrokerNotAnswering, check_queues, check_reachable
from dexpy.database import server_info
from dexpy.database.engine import Database, is_only_down
from dexpy.database.server_info import SKEW_S, clock_ahead_s
from dexpy.foundation.backoff import Backoff
from dexpy.foundation.errors import ConfigurationError, DatabaseUnavailable, DexpyError, first_line
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.recording.store import Store

OWN_CONNECTIONS = 9
"""The most database connections of a process besides one for each thread: heartbeat, relay, queues, recurring tasks."""
BACKOFF = Backoff(first_s=0.5, longest_s=10.0)
"""The pauses before the second attempt and later ones."""
STOP_POLL_S = 0.2
"""How often a pause checks whether the process should stop, in seconds."""


def wait_for_database(prepare: Callable[[], None], should_stop: Callable[[], bool]) -> bool:
    """Wait until the records' database is reachable.

    Args:
        prepare: Connects and checks the tables.
        should_stop: Whether the process should stop instead.

    Returns:
        Whether the database is reachable; False if the process should stop.

    Raises:
        DatabaseUnavailable: It refuses the connection or lacks the tables, so a retry would not help.
    """
    for pause_s in BACKOFF:
        if should_stop():
            break
        try:
            prepare()
            return True
        except DatabaseUnavailable as error:
            if not is_only_down(error):
                raise
            log_event(LogEvent.DATABASE_UNREACHABLE, error_message=str(error), retry_in_s=pause_s)
        retry_at = time.monotonic() + pause_s
        while time.monotonic() < retry_at and not should_stop():
            time.sleep(STOP_POLL_S)
    return False


def wait_for_broker(broker: dramatiq.Broker, queues: Collection[str] = ()) -> None:
    """Check the connection to the broker's server; if it is only unreachable, the consumers reconnect later.

    Args:
        broker: The broker.
        queues: The queues that the worker serves.

    Raises:
        ConfigurationError: The server refuses the connection, so a retry would not help.
    """
    try:
        require_broker(broker, queues)
    except BrokerNotAnswering as error:
        log_event(LogEvent.BROKER_UNREACHABLE, error_message=str(error), advice="the worker retries")


def require_broker(broker: dramatiq.Broker, queues: Collection[str]) -> None:
    """Check the connection to the broker's server.

    Args:
        broker: The broker.
        queues: The queues that the worker serves.

    Raises:
        ConfigurationError: The server does not answer, or refuses the connection or a queue.
    """
    check_reachable(broker)
    check_queues(broker, queues)


def is_away(error: Exception) -> bool:
    """Return whether an error means that the database or the broker does not answer now, so that waiting may help."""
    return isinstance(error, BrokerNotAnswering) or (isinstance(error, DexpyError) and is_only_down(error))


SEPARATE_DATABASES_ADVICE = (
    "effects through self.session happen at least once: make them idempotent by self.run_id, or use one database for "
    "session_factory and records"
)


def compare_databases(store: Store) -> None:
    """Log a warning if the sessions of runs use another database than the records: the guarantees are weaker then.

    Raises:
        ConfigurationError: The sessions of `session_factory` do not work, and a retry would not help.
    """
    try:
        is_same_database = store.shares_sessions()
    except DBAPIError as error:
        if error.connection_invalidated or server_info.is_only_down(error.orig):
            # Each run logs this itself.
            return
        raise ConfigurationError(f"session_factory: its database returned an error: {first_line(error)}.") from error
    except SQLAlchemyError as error:
        raise ConfigurationError(
            f"session_factory: its sessions do not work: {type(error).__name__}: {first_line(error)}."
        ) from error
    except DatabaseUnavailable:
        return
    if not is_same_database:
        log_event(LogEvent.SESSIONS_SEPARATED, database=store.database.display_url, advice=SEPARATE_DATABASES_ADVICE)


def compare_clocks(database: Database) -> None:
    """Log a warning if the clocks of this machine and the database differ."""
    try:
        with database.begin() as connection:
            ahead_s = clock_ahead_s(connection)
    except (DatabaseUnavailable, SQLAlchemyError):
        # Unreachable again; this comparison must not end the start.
        return
    if ahead_s is not None and abs(ahead_s) > SKEW_S:
        log_event(
            LogEvent.CLOCK_SKEWED,
            database=database.display_url,
            ahead_s=ahead_s,
            advice="synchronize both clocks by NTP; due times are compared with the clock of the database",
        )
