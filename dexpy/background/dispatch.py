"""The way to the background: a record, a message, a ticket."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any

import dramatiq
from sqlalchemy.engine import Connection, Row

from dexpy.background.carriers import SHORT_DELAY_S, Carrier, check_delay, enqueue_on
from dexpy.background.keyed import KeyedInsert, claim_for, rows_of, until_it_stands
from dexpy.background.payload import DIRECT_JOB, RECORD_JOB, VERSION, DirectPayload, RecordPayload
from dexpy.background.plan import Plan, Shipment
from dexpy.declaration.contract import Contract
from dexpy.declaration.policies import AsyncOptions
from dexpy.declaration.props import encoded
from dexpy.foundation.checkpoint import checkpoint
from dexpy.foundation.errors import (
    ConfigurationError,
    DeclarationError,
    NotRunning,
    OptionsError,
    SensitiveInTransit,
    listed,
)
from dexpy.foundation.ids import new_id
from dexpy.foundation.log import line
from dexpy.foundation.redaction import class_path
from dexpy.foundation.trace import Frame, current_frame
from dexpy.recording import liveness, outbox
from dexpy.recording.ambient import Ambient, ambient
from dexpy.recording.awaited import off_the_loop
from dexpy.recording.metadata import after
from dexpy.recording.recorder import identity
from dexpy.recording.sealing import sealed
from dexpy.recording.sessions import GivenConnection, place_of
from dexpy.recording.store import Store
from dexpy.recording.ticket import Fate, Ticket
from dexpy.recording.transitions import apply

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

    from dexpy.background.heart import Heart
    from dexpy.background.watch import Watch


Place = Ambient | GivenConnection | None
"""What an enqueue is part of; None for a transaction of its own."""


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
        self, operation: Any, options: AsyncOptions, session: Session | Connection | None, token: str | None = None
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
        contract: Contract = operation.contract
        owner = contract.cls.__qualname__
        if contract.unreachable is not None:
            raise DeclarationError(
                f"{owner} cannot go to the background: {contract.unreachable}. call() works as it is."
            )
        params = sealed(contract, encoded(owner, contract.props, operation.__dict__))
        place = place_of(session) if session is not None else ambient()
        plan = self._plan(operation, contract, options, place)
        run_id = new_id("op")
        frame = current_frame().child(run_id, contract.name)
        fate = Fate()
        if self.store is not None and contract.record is not None and contract.record.params:
            facts = {"id": run_id, "name": contract.name, "status": "pending", "params": params}
            ticket = Ticket[Any](run_id, contract.name, self.store, {**facts, "scheduled_at": plan.due_at}, fate)
            claim = claim_for(operation, contract, token, self.store, place)
            keyed = None
            if claim is not None:
                keyed = KeyedInsert(self.store, contract, claim, ticket, self._joins(place))
            slot = self._concurrency_key(operation, contract, place)
            shipment = self._record_shipment(self.store, contract, params, plan, ticket, frame, place, keyed, slot)
        else:
            if contract.once is not None or contract.unique is not None or contract.concurrency is not None:
                raise ConfigurationError(
                    f"{owner} has a key, which is kept in the record of a run, and nothing is recorded here. "
                    "Name a database: dexpy.configure(database=...)."
                )
            if readable := [name for name in contract.sensitive_props if name not in contract.sealed_props]:
                raise SensitiveInTransit(
                    f"{owner} would go to the broker with {listed(readable)} in the clear: it has no record that keeps "
                    "its params. Turn recording on, record = True and dexpy.configure(database=...), or encrypt it: "
                    "prop(encrypted=True)."
                )
            if token is not None:
                raise OptionsError(
                    f"{owner}: idempotence_token is kept in the record of a run, and this one would have none. "
                    "Leave it out, or turn recording on: record = True, dexpy.configure(database=...)."
                )
            if plan.expires_in_s is not None:
                raise OptionsError(
                    f"{owner}.async_: expires_in is kept in the record of a run, and this one would have none before "
                    "it ends. Leave expires_in out, or turn recording on: record = True, dexpy.configure(database=...)."
                )
            payload = DirectPayload(contract.name, params, frame.to_dict(), run_id)
            shipment = self._direct_shipment(self._direct_message(payload, plan.queue), plan, place)
            ticket = Ticket[Any](run_id, contract.name, None, None)
        if self._insists:
            self.carrier.insist()
        self.broker.declare_queue(plan.queue)
        self._ship(shipment, place, fate)
        return ticket

    def _plan(self, operation: Any, contract: Contract, options: AsyncOptions, place: Place) -> Plan:
        try:
            return Plan.of(operation, contract, options)
        except NotRunning:
            if not contract.references or self.store is None:
                raise
        # Its queue function reads a row that was given by its key: a short read, for that alone.
        return Plan.of(rows_of(operation, contract, self.store, place), contract, options)

    def _concurrency_key(self, operation: Any, contract: Contract, place: Place) -> str | None:
        """Whose slots a run takes; None where it is not limited."""
        if contract.concurrency is None:
            return None
        try:
            return contract.concurrency.key(operation, contract)
        except NotRunning:
            if not contract.references:
                raise
        assert self.store is not None  # noqa: S101 - such a class is recorded
        return contract.concurrency.key(rows_of(operation, contract, self.store, place), contract)

    def _joins(self, place: Place) -> bool:
        """Whether a record is written in a transaction that somebody else commits."""
        if place is None or self._tables is None:
            return False
        return isinstance(place, GivenConnection) or self._tables.holds(place.session())

    def _record_shipment(
        self,
        store: Store,
        contract: Contract,
        params: Any,
        plan: Plan,
        ticket: Ticket[Any],
        frame: Frame,
        place: Place,
        keyed: KeyedInsert | None,
        concurrency_key: str | None,
    ) -> Shipment:
        run_id = ticket.id
        left_to_relay = isinstance(place, GivenConnection) and not self.transactional
        now = plan.delay_s == 0 and not left_to_relay
        sent = self.transactional or now
        values = {
            **identity(contract, run_id, frame),
            "params": params,
            "status": "pending",
            "queue": plan.queue,
            "priority": plan.priority,
            # The relay looks for what is due since some moment.
            "scheduled_at": after(0) if left_to_relay and plan.scheduled_at is None else plan.scheduled_at,
            "expires_at": None if plan.expires_in_s is None else after(plan.expires_in_s),
            "max_lost": contract.loss_limit,
            "enqueued_at": after(0) if sent else None,
            "send_count": int(sent),
        }
        if concurrency_key is not None:
            values["concurrency_key"] = concurrency_key
        message = self._record_message(RecordPayload(contract.name, run_id, frame.trace_id), plan.queue, plan.priority)

        def write(connection: Connection) -> None:
            if keyed is None:
                store.insert(connection, values)
            elif not keyed.insert(connection, values):
                return
            checkpoint("after_insert")
            if self.transactional:
                self._post(connection, message, plan.at, plan.wait_s or 0.0, plan.priority)

        def send() -> None:
            if ticket.duplicate:
                return
            if self.transactional:
                self.ring()
                return
            self.carrier.note_queue(plan.queue)
            checkpoint("before_send")
            if now and not self.carrier.deliver(message):
                self._owe(store, run_id)
            checkpoint("after_send")

        return Shipment(write, send, plan.queue)

    def _direct_shipment(self, message: dramatiq.Message[Any], plan: Plan, place: Place) -> Shipment:
        waits = plan.delay_s > SHORT_DELAY_S or isinstance(place, GivenConnection)
        if self.transactional or (self.carrier.mailbox is not None and waits):
            return Shipment(
                lambda connection: self._post(connection, message, plan.at, plan.wait_s or 0.0, plan.priority),
                self.ring,
                plan.queue,
            )
        check_delay(plan.delay_s, "async_(...)")

        def send() -> None:
            self.carrier.note_queue(plan.queue)
            self._deliver_direct(message, plan.delay_s)

        return Shipment(None, send, plan.queue)

    def _deliver_direct(self, message: dramatiq.Message[Any], delay_s: float) -> None:
        """A direct message that the broker does not take waits in the database, or fails where there is none."""
        if self.carrier.mailbox is None:
            enqueue_on(self.broker, message, delay_s)
        elif not self.carrier.deliver(message, delay_s):
            self._write(lambda connection: self._post(connection, message, wait_s=delay_s))

    def _ship(self, shipment: Shipment, place: Place, fate: Fate) -> None:
        """Write in the session's transaction if it is on our database, after it if not, at once without one."""

        def ship_now() -> None:
            try:
                if shipment.write is not None:
                    self._write(shipment.write)
            except BaseException:
                fate.roll_back()
                raise
            fate.commit()
            checkpoint("after_commit")
            shipment.send()
            self._warn_if_unserved(shipment.queue)

        if place is None:
            ship_now()
            return
        if isinstance(place, GivenConnection):
            self._ship_on(place.connection, shipment, fate)
            return
        session: Session = place.session()
        fate.open = True
        if shipment.write is None or self._tables is None or not self._tables.holds(session):
            outbox.after_commit(session, off_the_loop(ship_now), fate.roll_back)
            return
        connection = session.connection()
        self._tables.prepare(connection)
        shipment.write(connection)

        def send() -> None:
            fate.commit()
            checkpoint("after_commit")
            shipment.send()
            self._warn_if_unserved(shipment.queue)

        outbox.after_commit(session, off_the_loop(send), fate.roll_back)

    def _ship_on(self, connection: Connection, shipment: Shipment, fate: Fate) -> None:
        """Write in a connection's transaction, with its message where messages are rows; else the relay sends it."""
        if self._tables is None or shipment.write is None or not self._tables.is_ours(connection):
            raise OptionsError(
                "async_(session=...) got a Connection that does not lead to the database of the records, and it does "
                "not say when it commits. Give the Session, or leave it out and send after the commit."
            )
        self._tables.prepare(connection)
        shipment.write(connection)
        fate.transaction = connection.get_transaction()

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

    def _owe(self, store: Store, run_id: str) -> None:
        """The broker did not take a message: the row says so, and the relay sends it."""
        with store.begin() as connection:
            apply(connection, "owe", run_id)

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

    def _record_message(self, payload: RecordPayload, queue: str, priority: int) -> dramatiq.Message[Any]:
        return self._message(RECORD_JOB, payload.kwargs(), queue, {"priority": priority} if priority else {})

    def _direct_message(self, payload: DirectPayload, queue: str) -> dramatiq.Message[Any]:
        return self._message(DIRECT_JOB, payload.kwargs(), queue, payload.options())

    def _message(self, actor: str, kwargs: dict[str, Any], queue: str, extra: dict[str, Any]) -> dramatiq.Message[Any]:
        options = {"dexpy": {"v": VERSION, **extra}}
        return dramatiq.Message(queue_name=queue, actor_name=actor, args=(), kwargs=kwargs, options=options)

    def message_of(self, row: Row[Any]) -> dramatiq.Message[Any]:
        """The message of a record."""
        return self._record_message(RecordPayload(row.name, row.id, row.trace_id or ""), row.queue, row.priority)

    def deliver_row(self, row: Row[Any]) -> bool:
        """Hand the message of a row to the broker now; False if it does not take it."""
        return self.carrier.deliver(self.message_of(row))

    def owe(self, rows: Iterable[Row[Any]]) -> None:
        """Write down that these were not sent after all: the relay sends them."""
        assert self.store is not None  # noqa: S101 - rows are of a store
        with self.store.begin() as connection:
            for row in rows:
                apply(connection, "owe", row.id)

    def send(self, connection: Connection, row: Row[Any]) -> None:
        """Send a pending row: with the connection's commit where messages are rows; else the relay does."""
        if self.transactional:
            self._post(connection, self.message_of(row), row.scheduled_at, priority=row.priority)

    def send_direct(self, payload: DirectPayload, queue: str, wait_s: float) -> None:
        """Send a direct run again, after a wait."""
        self.put_back(self._direct_message(payload, queue), wait_s, payload.priority)

    def put_back(self, message: dramatiq.Message[Any], wait_s: float, priority: int = 0) -> None:
        """Send a message once more, after a wait."""
        if self.carrier.mailbox is None:
            enqueue_on(self.broker, message, wait_s)
        else:
            self._write(lambda connection: self._post(connection, message, wait_s=wait_s, priority=priority))
            self.ring()

    def ring(self) -> None:
        """Wake the workers of this process."""
        self.carrier.ring()
