"""Transports: how and when a message is published.

In the records' database, record and message are stored in one transaction, so that no message is lost.
A separate broker gets the message after the commit; a message that is due later, or that the broker refused, waits in
the database until the relay publishes it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

import attrs
import dramatiq
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from dexpy.brokers.bulk_publish import enqueue_together
from dexpy.brokers.diagnostics import CLUSTER_REASON, describe_error, is_of_cluster, queue_refusal
from dexpy.brokers.sql.broker import SqlBroker
from dexpy.brokers.sql.inserts import MessageRow
from dexpy.brokers.urls import close_thread_connection, display_of, is_blocked, num_waiting, ping, queue_depth
from dexpy.database.column_types import after
from dexpy.database.tables import messages, queues
from dexpy.foundation.clock import clock
from dexpy.foundation.errors import BrokerUnavailable, OptionsError
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import Redactor, class_path
from dexpy.foundation.throttle import LogThrottle

SHORT_DELAY_S = 5.0
"""A direct run due within this many seconds is delayed by the broker itself."""
LONGEST_DELAY_S = 7 * 24 * 3600.0
"""The longest delay of a separate broker without a database, in seconds."""


class Transport(Protocol):
    """Carries messages to the workers."""

    @property
    def broker(self) -> dramatiq.Broker:
        """The Dramatiq broker underneath."""
        ...

    @property
    def sql_queue(self) -> SqlBroker | None:
        """Where messages wait in the database; None without one."""

    @property
    def transactional(self) -> bool:
        """Whether a message is part of the transaction that stores its record."""
        ...

    def publish(self, messages: Sequence[dramatiq.Message[Any]], delay_s: float = 0.0) -> bool:
        """Publish messages now; False, with a log line, if the broker refuses any of them."""
        ...

    def wake_workers(self) -> None:
        """Wake the workers of this process."""

    def is_idle(self, queues: Collection[str] | None) -> bool:
        """Whether nothing is due or running in these queues, or in any."""
        ...

    def count_due(self, queue: str) -> int | None:
        """The number of messages that are due in a queue and not leased; None if the broker cannot count them."""
        ...

    def is_reachable(self) -> bool:
        """Whether the broker is reachable."""
        ...

    def require_reachable(self) -> None:
        """Require that the broker accepts a message now.

        Raises:
            BrokerUnavailable: The broker is unreachable.
        """

    def keep_alive(self) -> None:
        """Send the broker a heartbeat of this process, independently of its consumers."""

    def register_queue(self, name: str) -> None:
        """Store the name of a queue with messages, so that workers discover it."""

    def known_queues(self) -> Iterator[str]:
        """The names of the queues that have messages."""
        ...


@attrs.frozen
class SqlTransport:
    """Messages are rows in the records' database.

    Attributes:
        broker: The broker over the records' database.
    """

    broker: SqlBroker
    transactional: bool = True

    @property
    def sql_queue(self) -> SqlBroker:
        """The broker itself."""
        return self.broker

    def publish(self, messages: Sequence[dramatiq.Message[Any]], delay_s: float = 0.0) -> bool:
        """See `Transport`."""
        with self.broker.database.begin() as connection:
            self.broker.insert_all(connection, [MessageRow(message, wait_s=delay_s) for message in messages])
        self.broker.wake_consumers()
        return True

    def wake_workers(self) -> None:
        """See `Transport`."""
        self.broker.wake_consumers()

    def is_idle(self, queues: Collection[str] | None) -> bool:
        """See `Transport`."""
        pending = self.broker.pending(queues, without=self.broker.skipped_classes)
        return pending.due == 0 and pending.leased == 0

    def count_due(self, queue: str) -> int:
        """See `Transport`."""
        return self.broker.pending([queue]).due

    def is_reachable(self) -> bool:
        """Return True: the broker is the records' database."""
        return True

    def require_reachable(self) -> None:
        """Do nothing: the broker is the records' database."""

    def keep_alive(self) -> None:
        """Do nothing: the broker renews its leases itself."""

    def register_queue(self, name: str) -> None:
        """Do nothing: the message row names its queue."""

    def known_queues(self) -> Iterator[str]:
        """See `Transport`: one probe of the index for each."""
        next_name = sa.select(sa.func.min(messages.c.queue))
        with self.broker.database.connect() as connection:
            name = connection.execute(next_name).scalar()
            visited: set[str] = set()
            # Bytes sort above every text on SQLite: without the check the loop would not end.
            while name is not None and name not in visited:
                visited.add(name)
                yield name
                name = connection.execute(next_name.where(messages.c.queue > name)).scalar()


@attrs.frozen
class ServerTransport:
    """Messages go to a separate broker: Redis, RabbitMQ, or the application's own.

    Attributes:
        broker: The broker.
        sql_queue: Stores messages that are due later; None without a database.
    """

    broker: dramatiq.Broker
    sql_queue: SqlBroker | None
    transactional: bool = False
    _registered_queues: set[str] = attrs.field(factory=set[str])
    _throttle: LogThrottle = attrs.field(factory=LogThrottle)

    def publish(self, messages: Sequence[dramatiq.Message[Any]], delay_s: float = 0.0) -> bool:
        """See `Transport`; on False the broker may have accepted some of them."""
        queues = sorted({message.queue_name for message in messages})
        try:
            for queue in queues:
                self.broker.declare_queue(queue)
            enqueue_together(self.broker, messages, delay_s)
        except Exception as error:  # noqa: BLE001 - each broker has its own connection errors
            queue_names = ",".join(queues)
            if (reason := queue_refusal(error)) is not None:
                self._throttle.log(LogEvent.QUEUE_REFUSED, queue_names, queue=queue_names, reason=reason)
                return False
            log_event(
                LogEvent.BROKER_UNREACHABLE,
                queue=queue_names,
                error=class_path(error),
                error_message=Redactor().of(error),
                advice=CLUSTER_REASON if is_of_cluster(error) else None,
            )
            return False
        return True

    def wake_workers(self) -> None:
        """Do nothing: the broker wakes its workers."""

    def is_idle(self, queues: Collection[str] | None) -> bool:
        """See `Transport`; a broker that cannot count its messages is treated as idle."""
        names = self.broker.get_declared_queues() if queues is None else queues
        return all(not queue_depth(self.broker, name) for name in names)

    def count_due(self, queue: str) -> int | None:
        """See `Transport`."""
        try:
            if (recover_messages := getattr(self.broker, "recover_messages", None)) is not None:
                # A message that a dead worker held counts as one that is due.
                recover_messages(queue)
            return num_waiting(self.broker, queue)
        finally:
            close_thread_connection(self.broker)

    def is_reachable(self) -> bool:
        """See `Transport`; a server that answers and refuses writes, for example full, is not reachable."""
        try:
            # On Redis the heartbeat is a write.
            self.keep_alive()
            queue_depth(self.broker, "default")
        except Exception:  # noqa: BLE001 - each broker has its own errors
            return False
        else:
            return not is_blocked(self.broker)
        finally:
            close_thread_connection(self.broker)

    def require_reachable(self) -> None:
        """See `Transport`."""
        try:
            ping(self.broker)
        except Exception as error:
            raise BrokerUnavailable(
                f"{display_of(self.broker)} does not answer: {describe_error(error)} Nothing was stored or sent, "
                'because of configure(on_broker_error="raise"). Retry later; or remove this setting: then the record '
                "is stored, and its message sent when the broker is back."
            ) from error

    def keep_alive(self) -> None:
        """See `Transport`: a Redis consumer whose prefetch is full sends no heartbeat, and would count as dead."""
        broker: Any = self.broker
        if hasattr(broker, "do_qsize"):
            broker.do_qsize("default")

    def register_queue(self, name: str) -> None:
        """See `Transport`: once for each name and process."""
        if self.sql_queue is None or name in self._registered_queues:
            return
        statement = sa.insert(queues).values(name=name, created_at=after(0))
        # Another process may insert it at the same time.
        with contextlib.suppress(IntegrityError), self.sql_queue.database.begin() as connection:
            if connection.execute(sa.select(queues.c.name).where(queues.c.name == name)).first() is None:
                connection.execute(statement)
        self._registered_queues.add(name)

    def known_queues(self) -> Iterator[str]:
        """See `Transport`."""
        if self.sql_queue is not None:
            with self.sql_queue.database.connect() as connection:
                yield from connection.execute(sa.select(queues.c.name)).scalars().all()


def check_delay(delay_s: float, where: str) -> None:
    """Refuse a delay that the broker does not support.

    Raises:
        OptionsError: The delay is longer than a broker supports, and there is no database.
    """
    if delay_s > LONGEST_DELAY_S:
        raise OptionsError(
            f"{where}: expected a delay of at most 7 days, because there is no database, got "
            f"{timedelta(seconds=round(delay_s))}. Configure a database: dexpy.configure(database=..., broker=...)."
        )


def seconds_until(due_at: datetime | None) -> float:
    """Return the seconds from now to a moment; 0 for a past one or None."""
    return 0.0 if due_at is None else max(0.0, (due_at - clock.now()).total_seconds())
