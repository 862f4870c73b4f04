"""Carriers: how a message leaves this process, and when.

On the records' own database row and message are one transaction, so there is nothing that could be lost in between.
A broker of its own gets the message after the commit; what is due later, or could not be sent, waits in the database
until the relay sends it.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime, timedelta
from typing import Any, Protocol

import attrs
import dramatiq
import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from dexpy.background.brokers.bulk import enqueue_together
from dexpy.background.brokers.postings import Posting
from dexpy.background.brokers.refusals import said
from dexpy.background.brokers.servers import ask, check_reachable, depth, display_of, let_go, waiting
from dexpy.background.brokers.sql import SqlBroker
from dexpy.foundation.clock import clock
from dexpy.foundation.errors import BrokerUnavailable, ConfigurationError, OptionsError
from dexpy.foundation.log import line
from dexpy.foundation.redaction import Redactor, class_path
from dexpy.recording.messages import messages
from dexpy.recording.metadata import after
from dexpy.recording.tables import queues

SHORT_DELAY_S = 5.0
"""A direct run due within this many seconds is left to the broker's own delay."""
LONGEST_DELAY_S = 7 * 24 * 3600.0
"""What a broker of its own can delay, in seconds, where there is no database to wait in."""


class Carrier(Protocol):
    """Takes messages to the workers."""

    @property
    def broker(self) -> dramatiq.Broker:
        """The Dramatiq broker underneath."""
        ...

    @property
    def mailbox(self) -> SqlBroker | None:
        """Where messages wait in the database; None without one."""

    @property
    def transactional(self) -> bool:
        """Whether a message is part of the transaction that stores its record."""
        ...

    def deliver(self, messages: Sequence[dramatiq.Message[Any]], delay_s: float = 0.0) -> bool:
        """Hand messages to the broker now; False, with a line in the log, if it does not take all of them."""
        ...

    def ring(self) -> None:
        """Wake the workers of this process."""

    def is_idle(self, queues: Collection[str] | None) -> bool:
        """Whether nothing is due or running in these queues, or in any."""
        ...

    def waiting(self, queue: str) -> int | None:
        """How many messages are due in a queue and held by no worker; None where that cannot be known."""
        ...

    def answers(self) -> bool:
        """Whether the broker is there."""
        ...

    def insist(self) -> None:
        """See to it that the broker would take a message now.

        Raises:
            BrokerUnavailable: It would not.
        """

    def keep_alive(self) -> None:
        """Give the broker a sign of life of this process, whatever its consumers are doing."""

    def note_queue(self, name: str) -> None:
        """Remember a queue that something was sent to, so that workers find it."""

    def known_queues(self) -> Iterator[str]:
        """The queues that something was sent to."""
        ...


@attrs.frozen
class SqlCarrier:
    """Messages are rows beside the records.

    Attributes:
        broker: Over the records' own database.
    """

    broker: SqlBroker
    transactional: bool = True

    @property
    def mailbox(self) -> SqlBroker:
        """The broker itself."""
        return self.broker

    def deliver(self, messages: Sequence[dramatiq.Message[Any]], delay_s: float = 0.0) -> bool:
        """See `Carrier`."""
        with self.broker.database.begin() as connection:
            self.broker.put_together(connection, [Posting(message, wait_s=delay_s) for message in messages])
        self.broker.ring()
        return True

    def ring(self) -> None:
        """See `Carrier`."""
        self.broker.ring()

    def is_idle(self, queues: Collection[str] | None) -> bool:
        """See `Carrier`."""
        pending = self.broker.pending(queues)
        return pending.due == 0 and pending.leased == 0

    def waiting(self, queue: str) -> int:
        """See `Carrier`."""
        return self.broker.pending([queue]).due

    def answers(self) -> bool:
        """It is where the records are."""
        return True

    def insist(self) -> None:
        """Nothing: it is where the records are."""

    def keep_alive(self) -> None:
        """Nothing: its leases are renewed by themselves."""

    def note_queue(self, name: str) -> None:
        """Nothing: the message itself names its queue in the table."""

    def known_queues(self) -> Iterator[str]:
        """See `Carrier`: one probe of the index for each."""
        next_name = sa.select(sa.func.min(messages.c.queue))
        with self.broker.database.connect() as connection:
            name = connection.execute(next_name).scalar()
            while name is not None:
                yield name
                name = connection.execute(next_name.where(messages.c.queue > name)).scalar()


@attrs.frozen
class ServerCarrier:
    """Messages go to a broker of their own: Redis, RabbitMQ, or whatever the application has.

    Attributes:
        broker: The broker.
        mailbox: Keeps in the database what is due later; None without a database.
    """

    broker: dramatiq.Broker
    mailbox: SqlBroker | None
    transactional: bool = False
    _noted: set[str] = attrs.field(factory=set[str])

    def deliver(self, messages: Sequence[dramatiq.Message[Any]], delay_s: float = 0.0) -> bool:
        """See `Carrier`; some may have been taken all the same."""
        queues = sorted({message.queue_name for message in messages})
        try:
            for queue in queues:
                self.broker.declare_queue(queue)
            enqueue_together(self.broker, messages, delay_s)
        except Exception as error:  # noqa: BLE001 - each broker has its own tree of connection errors
            line(
                logging.WARNING,
                "broker.unreachable",
                queue=",".join(queues),
                error=class_path(error),
                message=Redactor().of(error),
            )
            return False
        return True

    def ring(self) -> None:
        """Nothing: the broker wakes its workers."""

    def is_idle(self, queues: Collection[str] | None) -> bool:
        """See `Carrier`; a broker that cannot be counted counts as idle."""
        names = self.broker.get_declared_queues() if queues is None else queues
        return all(not depth(self.broker, name) for name in names)

    def waiting(self, queue: str) -> int | None:
        """See `Carrier`."""
        try:
            if (take_back := getattr(self.broker, "take_back", None)) is not None:
                # What dead workers held is as good as a message that is sent again.
                take_back(queue)
            return waiting(self.broker, queue)
        finally:
            let_go(self.broker)

    def answers(self) -> bool:
        """See `Carrier`."""
        try:
            check_reachable(self.broker)
        except ConfigurationError:
            return False
        return True

    def insist(self) -> None:
        """See `Carrier`."""
        try:
            ask(self.broker)
        except Exception as error:
            raise BrokerUnavailable(
                f"{display_of(self.broker)} does not answer: {said(error)} Nothing was stored or sent, as "
                'configure(on_broker_error="raise") has it. Try again later; or leave it out: then the record '
                "is stored, and its message sent when the broker is back."
            ) from error

    def keep_alive(self) -> None:
        """See `Carrier`: a Redis consumer whose prefetch is full says nothing, and would be taken for dead."""
        broker: Any = self.broker
        if hasattr(broker, "do_qsize"):
            broker.do_qsize("default")

    def note_queue(self, name: str) -> None:
        """See `Carrier`: once for each name and process."""
        if self.mailbox is None or name in self._noted:
            return
        statement = sa.insert(queues).values(name=name, created_at=after(0))
        # Another process may have noted it in the same moment.
        with contextlib.suppress(IntegrityError), self.mailbox.database.begin() as connection:
            if connection.execute(sa.select(queues.c.name).where(queues.c.name == name)).first() is None:
                connection.execute(statement)
        self._noted.add(name)

    def known_queues(self) -> Iterator[str]:
        """See `Carrier`."""
        if self.mailbox is not None:
            with self.mailbox.database.connect() as connection:
                yield from connection.execute(sa.select(queues.c.name)).scalars().all()


def check_delay(delay_s: float, where: str) -> None:
    """Refuse a delay that nobody could keep.

    Raises:
        OptionsError: Longer than a broker can delay, and there is no database.
    """
    if delay_s > LONGEST_DELAY_S:
        raise OptionsError(
            f"{where}: it is due in {timedelta(seconds=round(delay_s))}, and without a database a broker delays 7 days "
            "at most. Configure a database: dexpy.configure(database=..., broker=...)."
        )


def seconds_until(due_at: datetime | None) -> float:
    """Seconds from now to a moment, 0 for one that is past or None."""
    return 0.0 if due_at is None else max(0.0, (due_at - clock.now()).total_seconds())
