"""Leases: claims, renews, acknowledges and releases the messages that one process holds.

All writes to held messages are in this module, one transaction at a time: concurrent acknowledgements share a
transaction, which also claims the next messages. Claims and acknowledgements are in one file, because they have one
lock order.
"""

from __future__ import annotations

import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import dramatiq
import sqlalchemy as sa
from dramatiq.errors import ConnectionClosed
from dramatiq.middleware.threading import Interrupt
from sqlalchemy import exc
from sqlalchemy.engine import Connection, Row

from dexpy.brokers.message_validation import InvalidMessage, MessageValidator
from dexpy.brokers.queue_gate import QueueGate
from dexpy.brokers.sql import statements as sql
from dexpy.brokers.sql.inbox import Claim, Inbox
from dexpy.brokers.sql.listener import NotificationListener, has_notifications
from dexpy.brokers.sql.unknown_classes import SkippedClasses
from dexpy.database.dialects import dialect_of
from dexpy.database.engine import Database
from dexpy.foundation.backoff import Backoff
from dexpy.foundation.errors import DatabaseUnavailable
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.periodic import PeriodicTask, PeriodicThread
from dexpy.foundation.redaction import Redactor, class_path

RETRY_PAUSES_S = (0.05, 0.25, 1.0)
"""The pauses between the attempts to write an acknowledgement, in seconds."""
TRANSIENT_ERRORS = (exc.OperationalError, exc.InterfaceError, exc.TimeoutError, DatabaseUnavailable)
"""Errors of a database that is unreachable, restarting, locked or in a deadlock."""
DATABASE_ERRORS = (exc.SQLAlchemyError, DatabaseUnavailable)
"""All errors of a database."""


@contextmanager
def broker_errors() -> Generator[None, None, None]:
    """Raise transient database errors as `ConnectionClosed`, after which Dramatiq's worker reconnects."""
    try:
        yield
    except TRANSIENT_ERRORS as error:
        raise ConnectionClosed(error) from error  # type: ignore[no-untyped-call]


class ClaimedMessage(dramatiq.MessageProxy):
    """A message that this process holds, to be acknowledged or rejected."""

    def __init__(self, message: dramatiq.Message[Any], claim: Claim, leases: Leases) -> None:
        super().__init__(message)  # pyright: ignore[reportUnknownMemberType]
        self.claim = claim
        self.priority = claim.priority
        self.content = message
        self._leases = leases

    def ack(self) -> None:
        """Delete the message, which is done; do nothing if another process has its lease."""
        self._leases.ack(self.claim)

    def nack(self) -> None:
        """Mark the message dead; it stays in the table."""
        self._leases.nack(self.claim)

    def release(self) -> None:
        """Release the message, which was not run."""
        self._leases.release([self.claim])


class Leases:
    """The leases of one process on one broker's messages.

    The owner in the table is the process, not the consumer, because Dramatiq replaces a consumer after an error or a
    pause while messages of the old one still run. A process never starts a message that it already holds, so the owner
    is enough to fence late writes.

    Args:
        database: The database of the table.
        validator: Validates messages that are read from the table.
        lease_s: The length of a lease without a renewal, in seconds.
        gate: The paused queues, and the order of the others.
    """

    def __init__(self, database: Database, validator: MessageValidator, lease_s: float, gate: QueueGate) -> None:
        self.declare_lock = threading.RLock()
        self.skipped_classes = SkippedClasses()
        self.owner = f"{socket.gethostname()[:32]}:{os.getpid()}:{secrets.token_hex(6)}"
        self._database = database
        self._validator = validator
        self._lease_s = lease_s
        self._gate = gate
        # One transaction at a time claims or acknowledges; acknowledgements that wait for it are written together.
        self._write_lock = threading.Lock()
        # This lock guards the attributes below; it is never held during a statement.
        self._state_lock = threading.Lock()
        self._held: dict[int, Claim] = {}
        self._inboxes: list[Inbox] = []
        self._renewer: PeriodicThread | None = None
        self._listener: NotificationListener | None = None
        self._consumed_queues: set[str] = set()
        self._is_last_write_unknown = False
        self._is_claiming = True
        self._pending_acks: deque[Claim] = deque()

    def add_inbox(self, inbox: Inbox) -> None:
        """Add the inbox of a consumer that starts, or restarts after an error."""
        if inbox.queue in self._consumed_queues:
            self._free_unheld(inbox.queue)
        self._consumed_queues.add(inbox.queue)
        with self._state_lock:
            self._inboxes.append(inbox)
            if self._renewer is None:
                every_s = self._lease_s / 3
                sooner = Backoff(first_s=every_s / 10, longest_s=every_s / 10)
                task = PeriodicTask("leases", every_s, self.renew, retry=sooner, waits_first=True)
                self._renewer = task.start()
            if self._listener is None and has_notifications(self._database):
                self._listener = NotificationListener(self._database, self.wake)
                self._listener.start()

    def _free_unheld(self, queue: str) -> None:
        """Free rows that this process owns and does not hold: the answer to a claim or a release was lost."""
        with self._write_lock, self._database.begin() as connection:
            self._free_unheld_on(connection, queue)

    def _free_unheld_on(self, connection: Connection, queue: str) -> None:
        held = {"p_owner": self.owner, "p_queue": queue, "p_ids": list(self._held)}
        if freed := connection.execute(sql.FREE_UNHELD, held).rowcount:
            log_event(LogEvent.MESSAGE_LEASE_RELEASED, queue=queue, count=freed)

    def remove_inbox(self, inbox: Inbox) -> None:
        """Remove the inbox of a consumer that stops; nothing is claimed for it any more."""
        with self._write_lock, self._state_lock:
            if inbox in self._inboxes:
                self._inboxes.remove(inbox)
        self.close(only_if_idle=True)

    def wake(self, queues: Collection[str] | None = None) -> None:
        """Wake the consumers of these queues, or of all."""
        for inbox in list(self._inboxes):
            if queues is None or inbox.queue in queues:
                inbox.wake_consumer()

    def close(self, *, only_if_idle: bool = False) -> None:
        """Stop renewing and listening; with *only_if_idle*, only if no message is held and no consumer is left."""
        with self._state_lock:
            if only_if_idle and (self._inboxes or self._held):
                return
            renewer, self._renewer = self._renewer, None
            listener, self._listener = self._listener, None
        if renewer is not None:
            # Wait for a renewal in progress, so that the database is closed after it.
            renewer.end()
        if listener is not None:
            listener.stop()

    def stop_claiming(self) -> None:
        """Claim no more messages for consumers."""
        self._is_claiming = False

    def free_capacity(self, inbox: Inbox, done: Collection[int] = ()) -> int:
        """Return how many more messages a consumer may claim; those that are done do not count.

        All consumers of a process share one capacity, one message for each thread.
        """
        if not self._is_claiming:
            return 0
        held = list(self._held.values())
        return inbox.capacity - sum(claim.inbox is not None and claim.id not in done for claim in held)

    def fetch(self, inbox: Inbox) -> bool:
        """Claim as many messages as the consumer has capacity for; return whether there were any."""
        if inbox.queue in self._gate.paused:
            inbox.may_have_more = False
            return False
        # Read without a lock first: polls of an empty queue must not take SQLite's write lock.
        with self._database.connect() as connection:
            skipped = self.skipped_classes.names()
            inbox.may_have_more = sql.most_urgent(connection, inbox.queue, skipped) is not None
        if not inbox.may_have_more:
            return False
        with self._write_lock:
            capacity = self.free_capacity(inbox)
            if inbox not in self._inboxes or capacity <= 0:
                return False
            with self._database.begin() as connection:
                refills = self._claim_in_order(connection, self._with_earlier([inbox]))
            for refilled, claims in refills:
                self._add_held(claims)
                refilled.add(claims)
        return any(refilled is inbox and claims for refilled, claims in refills)

    def _with_earlier(self, inboxes: Collection[Inbox]) -> list[Inbox]:
        """Return inboxes in order, after those of earlier queues: they may have a message since their last poll."""
        if inboxes and self._gate.is_ordered:
            last = max(self._gate.rank(inbox.queue) for inbox in inboxes)
            inboxes = {*inboxes, *(inbox for inbox in self._inboxes if self._gate.rank(inbox.queue) < last)}
        # Round robin in one place, so that a queue that is never empty does not use all capacity.
        return sorted(inboxes, key=lambda inbox: (self._gate.rank(inbox.queue), inbox.last_claimed_at))

    def _claim_in_order(
        self, connection: Connection, inboxes: Sequence[Inbox], done: Collection[int] = ()
    ) -> list[tuple[Inbox, list[Claim]]]:
        """Claim messages for inboxes, one after another, as long as there is capacity."""
        refills: list[tuple[Inbox, list[Claim]]] = []
        for inbox in inboxes:
            if inbox.queue in self._gate.paused or self._must_wait(connection, inbox):
                continue
            while True:
                capacity = self.free_capacity(inbox, done) - sum(len(claims) for _, claims in refills)
                claims = self._claim_for(inbox, connection, capacity)
                refills.append((inbox, claims))
                # In a strict order also the less urgent messages of this queue come before the next one.
                if not claims or not self._gate.is_ordered:
                    break
        return refills

    def _must_wait(self, connection: Connection, inbox: Inbox) -> bool:
        """Return whether an earlier queue, whose consumer has not started yet, has a message."""
        if not self._gate.is_ordered:
            return False
        skipped, consumed = self.skipped_classes.names(), {each.queue for each in self._inboxes}
        not_consumed = (queue for queue in self._gate.earlier_queues(inbox.queue) if queue not in consumed)
        return any(sql.most_urgent(connection, queue, skipped) is not None for queue in not_consumed)

    def claim(self, queues: Collection[str] | None) -> Claim | None:
        """Claim the next message."""
        statement_for_next = sql.next_of(queues)
        with self._database.connect() as connection:
            if connection.execute(statement_for_next).first() is None:
                return None
        statement = statement_for_next.with_for_update(skip_locked=True)
        with self._write_lock:
            with self._database.begin() as connection:
                claims = self._claim(connection, lambda: connection.execute(statement).all(), None)
            self._add_held(claims)
        return claims[0] if claims else None

    def open(self, claim: Claim) -> ClaimedMessage | None:
        """Return the message of a claim; mark an invalid one dead and return None."""
        try:
            # The row may have been moved to another queue; Dramatiq finds the consumer by the message's queue name.
            message = self._validator.read(claim.payload.encode("utf-8", "replace"), claim.queue, moves=True)
        except InvalidMessage as error:
            self._validator.refuse(error, claim.queue, claim.id)
            self.nack(claim)
            return None
        return ClaimedMessage(message, claim, self)

    def _claim_for(self, inbox: Inbox, connection: Connection, capacity: int) -> list[Claim]:
        """Claim messages of one priority, up to a capacity; the next poll claims those of the next priority."""
        if capacity <= 0:
            return []
        skipped = self.skipped_classes.names()
        claims = self._claim(connection, lambda: sql.claimable(connection, inbox.queue, capacity, skipped), inbox)
        inbox.may_have_more = bool(claims)
        return claims

    def _claim(
        self, connection: Connection, find: Callable[[], Sequence[Row[Any]]], inbox: Inbox | None
    ) -> list[Claim]:
        dialect_of(connection).acquire_write_lock(connection)
        rows = find()
        if not rows:
            return []
        self._execute(connection, sql.LEASE, [row.id for row in rows], p_lease_s=self._lease_s)
        # A message whose lease has expired while it runs here gets a new lease and is not started again.
        return [Claim(row.id, row.queue, row.priority, row.payload, inbox) for row in rows if row.id not in self._held]

    def _add_held(self, claims: list[Claim]) -> None:
        with self._state_lock:
            self._held.update({claim.id: claim for claim in claims})

    def _remove_held(self, claims: Iterable[Claim]) -> None:
        """Remove claims from the held ones, and wake the consumers that can claim more."""
        with self._state_lock:
            for claim in claims:
                if self._held.get(claim.id) is claim:
                    del self._held[claim.id]
                    if claim.inbox is not None:
                        claim.inbox.wake_consumer()
            waiting = [inbox for inbox in self._inboxes if inbox.may_have_more]
        for inbox in waiting:
            inbox.wake_consumer()
        self.close(only_if_idle=True)

    def ack(self, claim: Claim) -> None:
        """Delete a message that is done."""
        self._pending_acks.append(claim)
        self._write_with_retries(lambda: self._write_acks(claim), claim)

    def nack(self, claim: Claim) -> None:
        """Mark a message dead."""
        self._write_with_retries(lambda: self._end_claims(sql.MARK_DEAD, [claim]), claim)

    def release(self, claims: list[Claim]) -> None:
        """Release messages that were not run."""
        if not claims:
            return
        try:
            self._end_claims(sql.RELEASE, claims)
        finally:
            self._remove_held(claims)
        self.wake({claim.queue for claim in claims})

    def renew(self) -> bool:
        """Renew all leases in one statement; return whether it succeeded."""
        with self._state_lock:
            ids = list(self._held)
        try:
            if ids:
                with self._database.begin() as connection:
                    self._execute(connection, sql.RENEW, ids, p_lease_s=self._lease_s)
        except DATABASE_ERRORS as error:
            error_facts = {"error": class_path(error), "error_message": Redactor().of(error)}
            log_event(LogEvent.MESSAGE_LEASE_NOT_RENEWED, count=len(ids), **error_facts)
            return False
        return True

    def _write_acks(self, acknowledged: Claim) -> None:
        """Write all pending acknowledgements in one transaction, and claim the next messages in it."""
        with self._write_lock:
            if acknowledged.is_ended:
                return
            acks = {acknowledged.id: acknowledged}
            while self._pending_acks:
                claim = self._pending_acks.popleft()
                acks[claim.id] = claim
            with self._database.begin() as connection:
                if self._is_last_write_unknown:
                    # The previous attempt may have committed claims whose answer was lost.
                    for queue in {inbox.queue for inbox in self._inboxes}:
                        self._free_unheld_on(connection, queue)
                self._warn_of_lost(list(acks), sql.delete(connection, list(acks), self.owner))
                refills = self._claim_for_waiting(connection, acks)
            self._is_last_write_unknown = False
            for claim in acks.values():
                claim.is_ended = True
            self._remove_held(acks.values())
            for inbox, claims in refills:
                self._add_held(claims)
                inbox.add(claims)

    def _claim_for_waiting(self, connection: Connection, done: Collection[int]) -> list[tuple[Inbox, list[Claim]]]:
        waiting_inboxes = self._with_earlier([inbox for inbox in self._inboxes if inbox.may_have_more])
        return self._claim_in_order(connection, waiting_inboxes, done)

    def _end_claims(self, statement: sa.Update, claims: list[Claim]) -> None:
        with self._write_lock:
            with self._database.begin() as connection:
                self._execute(connection, statement, [claim.id for claim in claims])
            self._remove_held(claims)

    def _write_with_retries(self, write: Callable[[], None], claim: Claim) -> None:
        """Write the end of a message, with retries; if all fail, the message runs again after its lease."""
        failure: BaseException | None = None
        for pause_s in (0.0, *RETRY_PAUSES_S):
            try:
                time.sleep(pause_s)
                return write()
            except Interrupt as interrupt:
                # A time limit or shutdown for the job, which has ended: it must not end the thread.
                failure = interrupt
            except DATABASE_ERRORS as error:
                failure = error
                self._is_last_write_unknown = True
        error_facts = {} if failure is None else {"error": class_path(failure), "error_message": Redactor().of(failure)}
        advice = "the message is delivered again when its lease expires"
        log_event(
            LogEvent.MESSAGE_NOT_ACKNOWLEDGED, message_id=claim.id, queue=claim.queue, **error_facts, advice=advice
        )
        self._remove_held([claim])

    def _execute(self, connection: Connection, statement: sa.Update, ids: list[int], **more: Any) -> None:
        changed = connection.execute(statement, {"p_ids": ids, "p_owner": self.owner, **more}).rowcount
        if statement is not sql.RENEW:
            self._warn_of_lost(ids, changed)

    def _warn_of_lost(self, ids: list[int], changed: int) -> None:
        if changed < len(ids):
            message_ids = ",".join(map(str, ids))
            log_event(LogEvent.MESSAGE_LEASE_LOST, count=len(ids) - changed, message_ids=message_ids)
