"""The way to the background: a record, a message, a ticket."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import attrs
import dramatiq
from sqlalchemy.engine import Connection, Row

from dexpy.background.brokers.sql import SqlBroker
from dexpy.background.payload import DIRECT_JOB, RECORD_JOB, VERSION, DirectPayload, RecordPayload
from dexpy.declaration.contract import Contract
from dexpy.declaration.policies import AsyncOptions, check_queue, seconds_of
from dexpy.declaration.props import encoded
from dexpy.foundation.clock import clock
from dexpy.foundation.errors import DeclarationError, SensitiveInTransit, listed
from dexpy.foundation.ids import new_id
from dexpy.foundation.trace import Frame, current_frame
from dexpy.recording import outbox
from dexpy.recording.metadata import after
from dexpy.recording.recorder import identity
from dexpy.recording.sessions import Given, ambient
from dexpy.recording.store import Store
from dexpy.recording.ticket import Fate, Ticket

if TYPE_CHECKING:
    from sqlalchemy.orm import Session

DEFAULT_QUEUE = "default"


@attrs.frozen
class Plan:
    """Where and when one operation goes, with every option resolved.

    Attributes:
        queue: The queue's name.
        priority: Higher runs sooner.
        wait_s: Seconds from now on; None without a delay.
        at: The moment; None without one.
    """

    queue: str
    priority: int
    wait_s: float | None
    at: datetime | None

    @classmethod
    def of(cls, operation: Any, contract: Contract, given: AsyncOptions) -> Plan:
        """The options of a call over those of its class.

        Raises:
            OptionsError: The queue function gave no queue name.
        """
        options = given.over(contract.options)
        queue = options.queue if options.queue is not None else DEFAULT_QUEUE
        if callable(queue):
            queue = check_queue(queue(operation), f"{contract.cls.__qualname__}.async_ (its queue function)")
        wait_s = None if options.in_ is None else seconds_of(options.in_, "in_", contract.cls.__qualname__)
        return cls(queue, options.priority or 0, wait_s, options.at)

    @property
    def due_at(self) -> datetime | None:
        """The moment it is due by this process's clock, None for at once."""
        return self.at if self.wait_s is None else clock.now() + timedelta(seconds=self.wait_s)

    @property
    def scheduled_at(self) -> Any:
        """The moment it is due, for the row: a delay counts by the database's clock."""
        return self.at if self.wait_s is None else after(self.wait_s)


class Dispatcher:
    """Stores records and sends messages.

    Args:
        broker: Carries the messages; on the records' own database, row and message are one transaction.
        store: Where records go; None when nothing is recorded.
    """

    def __init__(self, broker: SqlBroker, store: Store | None) -> None:
        self.broker = broker
        self.store = store
        self._tables = store or Store(broker.database)
        if store is not None:
            store.sender = self

    def enqueue(self, operation: Any, options: AsyncOptions, session: Session | None) -> Ticket[Any]:
        """Send an operation to the background.

        Args:
            operation: As it was made.
            options: Of the call.
            session: Whose transaction the record belongs to; the current one when None.

        Returns:
            Its ticket.

        Raises:
            NotSerializable: A prop cannot travel; nothing was stored or sent.
            DeclarationError: No worker could find the class.
        """
        contract: Contract = operation.contract
        owner = contract.cls.__qualname__
        if contract.unreachable is not None:
            raise DeclarationError(f"{owner} cannot go to the background: {contract.unreachable}. call() works as it is.")
        params = encoded(owner, contract.props, vars(operation))
        plan = Plan.of(operation, contract, options)
        self.broker.declare_queue(plan.queue)
        run_id = new_id("op")
        frame = current_frame().child(run_id, contract.name)
        place = Given(session) if session is not None else ambient()
        if self.store is not None and contract.record is not None and contract.record.params:
            return self._enqueue_record(self.store, contract, params, plan, run_id, frame, place)
        if contract.sensitive_props:
            raise SensitiveInTransit(
                f"{owner} would go to the broker with {listed(contract.sensitive_props)} in the clear: it has no record "
                "that keeps its params. Turn recording on: record = True, and dexpy.configure(database=...)."
            )
        payload = DirectPayload(contract.name, params, frame.to_dict(), run_id)
        message = self._direct_message(payload, plan.queue)
        self._place(place, lambda connection: self.broker.put(
            connection, message, due_at=plan.due_at, priority=plan.priority
        ), Fate())  # fmt: skip
        return Ticket(run_id, contract.name, None, None)

    def _enqueue_record(
        self, store: Store, contract: Contract, params: Any, plan: Plan, run_id: str, frame: Frame, place: Any
    ) -> Ticket[Any]:
        values = {
            **identity(contract, run_id, frame),
            "params": params,
            "status": "pending",
            "queue": plan.queue,
            "priority": plan.priority,
            "scheduled_at": plan.scheduled_at,
            "enqueued_at": after(0),
            "send_count": 1,
        }
        message = self._record_message(RecordPayload(contract.name, run_id, frame.trace_id), plan.queue)

        def write(connection: Connection) -> None:
            store.insert(connection, values)
            self.broker.put(connection, message, due_at=plan.due_at, priority=plan.priority)

        fate = Fate()
        self._place(place, write, fate)
        facts = {"id": run_id, "name": contract.name, "status": "pending", "params": params, "scheduled_at": plan.due_at}
        return Ticket(run_id, contract.name, store, facts, fate)

    def _place(self, place: Any, write: Callable[[Connection], None], fate: Fate) -> None:
        """Write in the session's transaction if it is on the queue's database, after it if not, at once without one."""
        if place is None:
            self._write_now(write)
            return
        session: Session = place.session()
        fate.open = True
        if self._is_ours(session):
            connection = session.connection()
            self._tables.prepare(connection)
            write(connection)
            outbox.after_commit(session, self._settled(fate), fate.roll_back)
        else:

            def write_and_settle() -> None:
                self._write_now(write)
                fate.commit()

            outbox.after_commit(session, write_and_settle, fate.roll_back)

    def _settled(self, fate: Fate) -> Callable[[], None]:
        def committed() -> None:
            fate.commit()
            self.ring()

        return committed

    def _write_now(self, write: Callable[[Connection], None]) -> None:
        self.prepare()
        with self.broker.database.begin() as connection:
            write(connection)
        self.ring()

    def prepare(self) -> None:
        """Make SQLite's tables if they are not there.

        Raises:
            DatabaseUnavailable: The database cannot be opened.
        """
        self._tables.prepare()

    def close(self) -> None:
        """Close the connections that this process holds."""
        self.broker.close()
        self.broker.database.dispose()

    def _is_ours(self, session: Session) -> bool:
        return self.broker.database.same_as(session.connection().engine)

    def _record_message(self, payload: RecordPayload, queue: str) -> dramatiq.Message[Any]:
        return self._message(RECORD_JOB, payload.kwargs(), queue, {})

    def _direct_message(self, payload: DirectPayload, queue: str) -> dramatiq.Message[Any]:
        return self._message(DIRECT_JOB, payload.kwargs(), queue, payload.options())

    def _message(self, actor: str, kwargs: dict[str, Any], queue: str, extra: dict[str, Any]) -> dramatiq.Message[Any]:
        options = {"dexpy": {"v": VERSION, **extra}}
        return dramatiq.Message(queue_name=queue, actor_name=actor, args=(), kwargs=kwargs, options=options)

    def send(self, connection: Connection, row: Row[Any]) -> None:
        """Send the message of a pending row with the connection's commit."""
        payload = RecordPayload(row.name, row.id, row.trace_id or "")
        message = self._record_message(payload, row.queue)
        self.broker.put(connection, message, due_at=row.scheduled_at, priority=row.priority)

    def send_direct(self, payload: DirectPayload, queue: str, wait_s: float) -> None:
        """Send a direct run again, after a wait."""
        message = self._direct_message(payload, queue)
        due_at = clock.now() + timedelta(seconds=wait_s)
        self._write_now(lambda connection: self.broker.put(connection, message, due_at=due_at))

    def put_back(self, message: dramatiq.Message[Any], wait_s: float) -> None:
        """Send a message again that this process cannot serve, after a wait."""
        due_at = clock.now() + timedelta(seconds=wait_s)
        self._write_now(lambda connection: self.broker.put(connection, message, due_at=due_at))

    def ring(self) -> None:
        """Wake the workers of this process."""
        self.broker.ring()

