"""Notifications of the SQL broker on PostgreSQL: a worker polls as soon as the transaction of a message commits.

A notification only shortens the wait for the next poll. Consumers continue to poll, so a notification that is lost, for
example behind a transaction pooler or between two connections, costs some milliseconds but no message.
"""

from __future__ import annotations

import selectors
import socket
import threading
from collections.abc import Callable, Collection, Generator
from contextlib import contextmanager
from typing import Any

from dexpy.brokers.sql.statements import notify_channel
from dexpy.database.engine import Database
from dexpy.foundation.backoff import Backoff
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import Redactor, class_path

BACKOFF = Backoff(first_s=0.2, longest_s=10.0)
"""The pauses before a reconnect."""


def has_notifications(database: Database) -> bool:
    """Whether this database and its driver support notifications."""
    return database.dialect.can_listen(database.engine)


class NotificationListener(threading.Thread):
    """Listens on its own connection, and wakes the consumers of this process.

    Args:
        database: The database of the messages.
        wake_consumers: Wakes the consumers of the queues that it is called with; None for all.
    """

    def __init__(self, database: Database, wake_consumers: Callable[[Collection[str] | None], None]) -> None:
        super().__init__(name="dexpy-listener", daemon=True)
        self._database = database
        self._wake_consumers = wake_consumers
        self._stopped = threading.Event()
        self._stop_receiver, self._stop_sender = socket.socketpair()

    def run(self) -> None:
        """Listen until `stop` is called, and reconnect after a lost connection."""
        pauses = iter(BACKOFF)
        while not self._stopped.is_set():
            try:
                with self._connected() as psycopg_connection:
                    pauses = iter(BACKOFF)
                    # Messages may have been inserted before the connection listened.
                    self._wake_consumers(None)
                    self._listen(psycopg_connection)
            except Exception as error:  # noqa: BLE001 - the driver's errors, SQLAlchemy's and the system's
                if self._stopped.is_set():
                    break
                pause_s = next(pauses)
                log_event(
                    LogEvent.LISTENER_DISCONNECTED,
                    error=class_path(error),
                    error_message=Redactor().of(error),
                    advice="consumers poll meanwhile",
                    retry_in_s=pause_s,
                )
                self._stopped.wait(pause_s)
        self._stop_receiver.close()

    @contextmanager
    def _connected(self) -> Generator[Any, None, None]:
        connection = self._database.connect()
        psycopg_connection: Any = connection.connection.driver_connection
        try:
            # Do not return it to the pool: its next user would get a connection that still listens.
            connection.detach()
            psycopg_connection.autocommit = True
            psycopg_connection.execute(f'LISTEN "{notify_channel(self._database.schema)}"')
            yield psycopg_connection
        finally:
            psycopg_connection.close()
            connection.invalidate()
            connection.close()

    def _listen(self, psycopg_connection: Any) -> None:
        # Use the calls of libpq: every version of psycopg has them, and `stop` can interrupt them.
        with selectors.DefaultSelector() as selector:
            selector.register(psycopg_connection.pgconn.socket, selectors.EVENT_READ)
            selector.register(self._stop_receiver, selectors.EVENT_READ)
            while not self._stopped.is_set():
                selector.select()
                psycopg_connection.pgconn.consume_input()
                if queues := set(_notified_queues(psycopg_connection.pgconn)):
                    self._wake_consumers(queues)

    def stop(self) -> None:
        """Stop listening, and wait for the thread to end."""
        self._stopped.set()
        self._stop_sender.close()
        self.join()


def _notified_queues(pgconn: Any) -> Generator[str, None, None]:
    while (notification := pgconn.notifies()) is not None:
        yield notification.extra.decode()
