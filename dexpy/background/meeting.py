"""The first meeting of a worker process with its servers: a refusal ends the start, who is only away is waited for."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import dramatiq
from sqlalchemy.exc import SQLAlchemyError

from dexpy.background.brokers.servers import NoAnswer, check_reachable
from dexpy.foundation.errors import DatabaseUnavailable, DexpyError
from dexpy.foundation.log import line
from dexpy.recording.database import Database, is_only_down
from dexpy.recording.server import SKEW_S, clock_ahead_s
from dexpy.recording.store import Store

OWN_CONNECTIONS = 8
"""What a process opens at most to the database beside one connection for each thread: heartbeat, relay, queues."""
FIRST_PAUSE_S = 0.5
"""Before the second try, in seconds; each pause is twice the one before."""
LONGEST_PAUSE_S = 10.0
LOOK_EVERY_S = 0.2
"""How often a pause looks whether the process is to end, in seconds."""


def meet_database(prepare: Callable[[], None], is_over: Callable[[], bool]) -> bool:
    """Wait until the records' database is there.

    Args:
        prepare: Looks for the tables.
        is_over: Whether nobody wants this process any more.

    Returns:
        Whether it is there; False when the process is to end.

    Raises:
        DatabaseUnavailable: It does not let us in, or lacks the tables, and waiting would not help.
    """
    pause_s = FIRST_PAUSE_S
    while not is_over():
        try:
            prepare()
            return True
        except DatabaseUnavailable as error:
            if not is_only_down(error):
                raise
            line(logging.WARNING, "database.unreachable", message=str(error), again_in_seconds=pause_s)
        again_at = time.monotonic() + pause_s
        while time.monotonic() < again_at and not is_over():
            time.sleep(LOOK_EVERY_S)
        pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
    return False


def meet_broker(broker: dramatiq.Broker) -> None:
    """See whether the broker's server lets us in; one that is only away is waited for, by the consumers.

    Raises:
        ConfigurationError: It does not let us in, and waiting would not help.
    """
    try:
        check_reachable(broker)
    except NoAnswer as error:
        line(logging.WARNING, "broker.unreachable", message=str(error), advice="the worker goes on trying")


ELSEWHERE = (
    "effects through self.session happen at least once, not exactly once: key them by self.run_id, or let "
    "session_factory and database name one database"
)


def compare_databases(store: Store) -> None:
    """Say so if the sessions of runs are not in the database of the records, where less is promised."""
    try:
        is_one = store.shares_sessions()
    except (DexpyError, SQLAlchemyError):
        # Each run will say so itself.
        return
    if not is_one:
        line(logging.WARNING, "sessions.elsewhere", records=store.database.display, advice=ELSEWHERE)


def compare_clocks(database: Database) -> None:
    """Say so if this machine and the database disagree on the time."""
    try:
        with database.begin() as connection:
            ahead_s = clock_ahead_s(connection)
    except (DatabaseUnavailable, SQLAlchemyError):
        # Gone again; no start ends by a comparison.
        return
    if ahead_s is not None and abs(ahead_s) > SKEW_S:
        line(
            logging.WARNING,
            "clock.skewed",
            database=database.display,
            database_ahead_seconds=ahead_s,
            advice="set the clocks of both machines by NTP; what is due counts by the database's",
        )
