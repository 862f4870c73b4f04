"""The way to the background: a record, a message, a ticket."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

import dramatiq
from sqlalchemy.engine import Connection, Row

from dexpy.background.brokers.bulk import enqueue_together
from dexpy.background.carriers import Carrier
from dexpy.background.keyed import until_it_stands
from dexpy.background.parcels import Packing, Parcel, Place, tell_which
from dexpy.background.payload import DirectPayload, RecordPayload, direct_message, record_message
from dexpy.background.shipment import Shipment
from dexpy.declaration.policies import AsyncOptions
from dexpy.foundation.checkpoint import checkpoint
from dexpy.foundation.errors import OptionsError
from dexpy.foundation.log import line
from dexpy.foundation.redaction import class_path
from dexpy.recording import liveness, outbox
from dexpy.recording.ambient import ambient
from dexpy.recording.awaited import off_the_loop
from dexpy.recording.fate import Fate
from dexpy.recording.sessions import GivenConnection, place_of
from dexpy.recording.store import Store
from dexpy.recording.ticket import Ticket
from dexpy.recording.transitions import is_applied

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from dexpy.background.heart import Heart
    from dexpy.background.watch import Watch


class Dispatcher:
    """Stores records and sends messages.

    Args:
        carrier: Takes the messages away.
        store: Where records go; None when nothing is recorded.
        insists: Whether an enqueue is refused while the broker does not answer.
    """

    def __init__(self, carrier: Carrier, store: Store | None, *, insists: bool = False) -> None:
        self.carrier = carrier
        self._insists = insists
        self.store = store
        self.heart: Heart | None = None
        self.watch: Watch | None = None
        self.perform: Callable[[str], bool] | None = None
        """Runs a record in this thread; see `Jobs.run_now`."""
        self._looked_at: set[str] = set()
        mailbox = carrier.mailbox
        self._tables = store or (Store(mailbox.database) if mailbox is not None else None)
        self._packing = Packing(store, self._joins)
        if store is not None:
            store.sender = self

    @property
    def broker(self) -> dramatiq.Broker:
        """The broker underneath."""
        return self.carrier.broker

    @property
    def transactional(self) -> bool:
        """Whether a message is part of the transaction that stores its record."""
        return self.carrier.transactional

    def enqueue(
        self,
        operation: Any,
        options: AsyncOptions,
        session: Session | Connection | None,
        token: str | None = None,
    ) -> Ticket[Any]:
        """Send an operation to the background.

        Args:
            operation: As it was made.
            options: Of the call.
            session: Or connection, whose transaction the record belongs to; the current session when None.
            token: The caller's own name for this call; a second one of the class with it is not stored.

        Returns:
            Its ticket, or that of the earlier call with the token.

        Raises:
            NotSerializable: A prop cannot travel; nothing was stored or sent.
            DeclarationError: No worker could find the class.
            BrokerUnavailable: The broker does not answer, and the settings insist on it.
            SensitiveInTransit: A sensitive prop would lie in the broker for anybody to read.
            OptionsError: An option that cannot be, or that needs a record where there is none.
        """
        place = place_of(session) if session is not None else ambient()
        fate = Fate()
        parcel = self._packing.pack(operation, options, place, token, fate)
        self._ship([parcel], place, fate)
        return parcel.ticket

    def enqueue_all(
        self, operations: Sequence[Any], options: AsyncOptions, session: Session | Connection | None
    ) -> list[Ticket[Any]]:
        """Send many operations, all or none; see `enqueue`.

        Returns:
            Their tickets, in order.
        """
        place = place_of(session) if session is not None else ambient()
        fate = Fate()
        parcels: list[Parcel] = []
        for number, operation in enumerate(operations):
            try:
                parcels.append(self._packing.pack(operation, options, place, None, fate))
            except Exception as error:
                tell_which(error, number, len(operations))
                raise
        if parcels:
            self._ship(parcels, place, fate)
        return [parcel.ticket for parcel in parcels]

    def _joins(self, place: Place) -> bool:
        """Whether a record is written in a transaction that somebody else commits."""
        if place is None or self._tables is None:
            return False
        return isinstance(place, GivenConnection) or self._tables.holds(place.session())

    def _ship(self, parcels: Sequence[Parcel], place: Place, fate: Fate) -> None:
        """Write in the session's transaction if it is on our database, after it if not, at once without one."""
        if self._insists:
            self.carrier.insist()
        for queue in {parcel.plan.queue for parcel in parcels}:
            self.broker.declare_queue(queue)
        shipment = Shipment(self.carrier, self.store, parcels, is_left_to_relay=isinstance(place, GivenConnection))

        def send() -> None:
            fate.commit()
            checkpoint("after_commit")
            for refused in shipment.send():
                self._keep(refused)
            for queue in shipment.queues:
                self._warn_if_unserved(queue)

        def ship_now() -> None:
            try:
                if shipment.writes:
                    self._write(shipment.write)
            except BaseException:
                fate.roll_back()
                raise
            send()

        if place is None:
            ship_now()
            return
        if isinstance(place, GivenConnection):
            self._ship_on(place.connection, shipment, fate)
            return
        session: Session = place.session()
        fate.open = True
        if not shipment.writes or self._tables is None or not self._tables.holds(session):
            outbox.after_commit(session, off_the_loop(ship_now), fate.roll_back)
            return
        connection = session.connection()
        self._tables.prepare(connection)
        shipment.write(connection)
        outbox.after_commit(session, off_the_loop(send), fate.roll_back)

    def _ship_on(self, connection: Connection, shipment: Shipment, fate: Fate) -> None:
        """Write in a connection's transaction, with its message where messages are rows; else the relay sends it."""
        if self._tables is None or not shipment.writes or not self._tables.is_ours(connection):
            raise OptionsError(
                "async_(session=...) got a Connection that does not lead to the database of the records, and it does "
                "not say when it commits. Give the Session, or leave it out and send after the commit."
            )
        self._tables.prepare(connection)
        shipment.write(connection)
        fate.transaction = connection.get_transaction()

    def _keep(self, parcel: Parcel) -> None:
        """The broker did not take a message: its row says so, or it waits in the database, and the relay sends it."""
        if parcel.facts is None:
            wait_s = parcel.plan.delay_s
            self._write(lambda connection: self._post(connection, parcel.message, wait_s=wait_s))
        elif self.store is not None:
            with self.store.begin() as connection:
                is_applied(connection, "owe", parcel.ticket.id)

    def _warn_if_unserved(self, queue: str) -> None:
        """Say once for each name that no live worker serves a queue: what is sent there waits for one that does."""
        if self.store is None or queue in self._looked_at:
            return
        self._looked_at.add(queue)
        lifelines = liveness.Lifelines(self.store.database)
        try:
            with self.store.begin() as connection:
                alive = liveness.live(connection, lifelines)
        except Exception as error:  # noqa: BLE001 - what was asked for has been done: this is advice
            line(logging.DEBUG, "queue.not_looked_at", queue=queue, error=class_path(error))
            return
        if alive and not any(liveness.admits(worker, queue) for worker in alive):
            line(
                logging.WARNING, "queue.unserved", queue=queue, advice=f"start a worker with -Q {queue}, or without -Q"
            )

    def _write(self, write: Callable[[Connection], None]) -> None:
        assert self._tables is not None  # noqa: S101 - only what has tables has anything to write
        tables = self._tables

        def write_once() -> None:
            with tables.begin() as connection:
                write(connection)

        until_it_stands(write_once)

    def _post(
        self,
        connection: Connection,
        message: dramatiq.Message[Any],
        due_at: datetime | None = None,
        wait_s: float = 0.0,
        priority: int = 0,
    ) -> None:
        mailbox = self.carrier.mailbox
        assert mailbox is not None  # noqa: S101 - callers have looked
        mailbox.put(connection, message, due_at=due_at, wait_s=wait_s, priority=priority)

    def prepare(self) -> None:
        """Make SQLite's tables if they are not there.

        Raises:
            DatabaseUnavailable: The database cannot be opened.
        """
        if self._tables is not None:
            self._tables.prepare()

    def is_idle(self, queues: Collection[str] | None) -> bool:
        """Whether nothing is due, owed or running in these queues, or in any."""
        return not (self.store is not None and self.store.owes(queues)) and self.carrier.is_idle(queues)

    def close(self) -> None:
        """Close the connections that this process holds."""
        if self.heart is not None:
            self.heart.end()
        self.broker.close()
        if self._tables is not None:
            self._tables.database.dispose()

    def message_of(self, row: Row[Any]) -> dramatiq.Message[Any]:
        """The message of a record."""
        return record_message(RecordPayload(row.name, row.id, row.trace_id or ""), row.queue, row.priority)

    def deliver_row(self, row: Row[Any]) -> bool:
        """Hand the message of a row to the broker now; False if it does not take it."""
        return self.carrier.deliver([self.message_of(row)])

    def owe(self, rows: Iterable[Row[Any]]) -> None:
        """Write down that these were not sent after all: the relay sends them."""
        assert self.store is not None  # noqa: S101 - rows are of a store
        with self.store.begin() as connection:
            for row in rows:
                is_applied(connection, "owe", row.id)

    def send(self, connection: Connection, row: Row[Any]) -> None:
        """Send a pending row: with the connection's commit where messages are rows; else the relay does."""
        if self.transactional:
            self._post(connection, self.message_of(row), row.scheduled_at, priority=row.priority)

    def send_direct(self, payload: DirectPayload, queue: str, wait_s: float) -> None:
        """Send a direct run again, after a wait."""
        self.put_back(direct_message(payload, queue), wait_s, payload.priority)

    def put_back(
        self, message: dramatiq.Message[Any], wait_s: float, priority: int = 0, record_id: str | None = None
    ) -> None:
        """Send a message once more, after a wait; that of a record, if one is named."""
        if self.carrier.mailbox is None:
            enqueue_together(self.broker, [message], wait_s)
            return

        def write(connection: Connection) -> None:
            self._post(connection, message, wait_s=wait_s, priority=priority)
            if record_id is not None:
                is_applied(connection, "put_off", record_id, wait_s=wait_s)

        self._write(write)
        self.ring()

    def ring(self) -> None:
        """Wake the workers of this process."""
        self.carrier.ring()
