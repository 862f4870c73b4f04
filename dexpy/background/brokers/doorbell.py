"""The doorbell of the SQL broker on PostgreSQL: a worker hears of a message when its transaction commits.

It only saves the wait for the next poll. Consumers go on polling, so a bell that is broken, behind a transaction
pooler or between two connections costs some milliseconds and no message.
"""

from __future__ import annotations

import logging
import selectors
import socket
import threading
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from typing import Any

from dexpy.foundation.log import line
from dexpy.foundation.redaction import Redactor, class_path
from dexpy.recording.database import Database
from dexpy.recording.messages import DOORBELL

FIRST_PAUSE_S = 0.2
"""Before a lost connection is tried again, in seconds; each pause is twice the one before."""
LONGEST_PAUSE_S = 10.0


def has_doorbell(database: Database) -> bool:
    """Whether this database and its driver tell us of messages."""
    dialect = database.engine.dialect
    return dialect.name == "postgresql" and dialect.driver == "psycopg"


class Doorbell(threading.Thread):
    """Listens on a connection of its own, and wakes the consumers of this process.

    Args:
        database: Where the messages are.
        ring: Wakes the consumers of these queues; of all, for None.
    """

    def __init__(self, database: Database, ring: Callable[[Collection[str] | None], None]) -> None:
        super().__init__(name="dexpy-doorbell", daemon=True)
        self._database = database
        self._ring = ring
        self._over = threading.Event()
        self._ended, self._end = socket.socketpair()

    def run(self) -> None:
        """Listen until the end, over as many connections as it takes."""
        pause_s = FIRST_PAUSE_S
        while not self._over.is_set():
            try:
                with self._connected() as driver:
                    pause_s = FIRST_PAUSE_S
                    # What came while nobody listened.
                    self._ring(None)
                    self._listen(driver)
            except Exception as error:  # noqa: BLE001 - the driver's errors, SQLAlchemy's and the system's
                if self._over.is_set():
                    break
                line(
                    logging.WARNING,
                    "doorbell.lost",
                    error=class_path(error),
                    message=Redactor().of(error),
                    meanwhile="polling",
                    again_in_seconds=pause_s,
                )
                self._over.wait(pause_s)
                pause_s = min(pause_s * 2, LONGEST_PAUSE_S)
        self._ended.close()

    @contextmanager
    def _connected(self) -> Generator[Any, None, None]:
        connection = self._database.connect()
        driver: Any = connection.connection.driver_connection
        try:
            # Its own for good: in the pool somebody else would get it, still listening.
            connection.detach()
            driver.autocommit = True
            driver.execute(f"LISTEN {DOORBELL}")
            yield driver
        finally:
            driver.close()
            connection.invalidate()
            connection.close()

    def _listen(self, driver: Any) -> None:
        # By libpq's own calls, which every version of psycopg has, and which an end can interrupt.
        with selectors.DefaultSelector() as selector:
            selector.register(driver.pgconn.socket, selectors.EVENT_READ)
            selector.register(self._ended, selectors.EVENT_READ)
            while not self._over.is_set():
                selector.select()
                driver.pgconn.consume_input()
                if heard := set(_heard(driver.pgconn)):
                    self._ring(heard)

    def end(self) -> None:
        """Stop, and wait for it."""
        self._over.set()
        self._end.close()
        self.join()


def _heard(pgconn: Any) -> Generator[str, None, None]:
    while (notification := pgconn.notifies()) is not None:
        yield notification.extra.decode()
