"""Leases: what one process holds of the SQL broker's messages, how it comes to them and how it lets them go.

All writing about held messages goes through here, one transaction at a time: acknowledgements that come together share
one, and bring the next messages along in it. Claims and acknowledgements are one mechanism with one lock order, which
is why they share a file.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import socket
import threading
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, cast

import dramatiq
import sqlalchemy as sa
from dramatiq.errors import DecodeError
from dramatiq.middleware.threading import Interrupt
from sqlalchemy.engine import Connection, Row

from dexpy.background.brokers.claimed import Claim, ClaimedMessage
from dexpy.background.brokers.doorbell import Doorbell, has_doorbell
from dexpy.background.brokers.hiccups import DATABASE_ERRORS
from dexpy.background.brokers.keeper import Keeper
from dexpy.recording import messages as sql
from dexpy.recording.sqlite import take_write_lock

if TYPE_CHECKING:
    from dexpy.background.brokers.consumer import Consumer
    from dexpy.background.brokers.sql import SqlBroker

PAUSES_S = (0.05, 0.25, 1.0)
"""How long an acknowledgement waits between its tries, in seconds."""


class Leases:
    """What one process holds of one broker's messages.

    The owner in the table is the process, not the consumer, for Dramatiq replaces a consumer after an error or a pause
    while messages of the old one are still being run. A message that is held here is never handed out here
    a second time, so the owner is fence enough against whoever comes late.
    """

    def __init__(self, broker: SqlBroker) -> None:
        self.declaring = threading.RLock()
        self.owner = f"{socket.gethostname()[:32]}:{os.getpid()}:{secrets.token_hex(6)}"
        self._logger = broker.logger
        self._database = broker.database
        self._lease_s = broker.lease_s
        # One transaction at a time claims or acknowledges; the acknowledgements that wait for it are written together.
        self._turn = threading.Lock()
        # For what follows; never held over a statement.
        self._guard = threading.Lock()
        self._held: dict[int, Claim] = {}
        self._consumers: list[Consumer] = []
        self._keeper: Keeper | None = None
        self._doorbell: Doorbell | None = None
        self._served: set[str] = set()
        self._unsure = False
        self._acks: deque[Claim] = deque()

    def enter(self, consumer: Consumer) -> None:
        """A consumer begins, or begins again after an error."""
        if consumer.queue in self._served:
            self._free_strays(consumer.queue)
        self._served.add(consumer.queue)
        with self._guard:
            self._consumers.append(consumer)
            if self._keeper is None:
                self._keeper = Keeper(self.renew, self._lease_s / 3)
                self._keeper.start()
            if self._doorbell is None and has_doorbell(self._database):
                self._doorbell = Doorbell(self._database, self.ring)
                self._doorbell.start()

    def _free_strays(self, queue: str) -> None:
        """Free what is ours in the table and not in hand: claimed when the answer was lost, or not given back then."""
        with self._turn, self._database.begin() as connection:
            self._free_strays_on(connection, queue)

    def _free_strays_on(self, connection: Connection, queue: str) -> None:
        held = {"p_owner": self.owner, "p_queue": queue, "p_ids": list(self._held)}
        if freed := connection.execute(sql.FREE_STRAYS, held).rowcount:
            self._logger.warning("%d messages of queue %r were held by nobody here: freed.", freed, queue)

    def leave(self, consumer: Consumer) -> None:
        """A consumer ends; once this returns nobody claims for it."""
        with self._turn, self._guard:
            if consumer in self._consumers:
                self._consumers.remove(consumer)
        self.close(only_if_idle=True)

    def ring(self, queues: Collection[str] | None = None) -> None:
        """Wake the consumers of these queues, or of all."""
        for consumer in list(self._consumers):
            if queues is None or consumer.queue in queues:
                consumer.touch()

    def close(self, *, only_if_idle: bool = False) -> None:
        """Stop renewing; if asked so, only when nothing is held and nobody is left to claim."""
        with self._guard:
            if only_if_idle and (self._consumers or self._held):
                return
            keeper, self._keeper = self._keeper, None
            doorbell, self._doorbell = self._doorbell, None
        if keeper is not None:
            keeper.end()
        if doorbell is not None:
            doorbell.end()

    def room(self, consumer: Consumer, done: Collection[int] = ()) -> int:
        """How many more messages a consumer may claim, not counting those that are done.

        All consumers of a process share its places, one for each thread: what has none lies behind a running job.
        """
        held = list(self._held.values())
        return consumer.capacity - sum(claim.consumer is not None and claim.id not in done for claim in held)

    def fetch(self, consumer: Consumer) -> bool:
        """Claim what a consumer has room for, and say whether there was anything."""
        # A plain read first: an idle poller must not take SQLite's write lock.
        with self._database.connect() as connection:
            consumer.more_expected = sql.most_urgent(connection, consumer.queue) is not None
        if not consumer.more_expected:
            return False
        with self._turn:
            room = self.room(consumer)
            if consumer not in self._consumers or room <= 0:
                return False
            with self._database.begin() as connection:
                claims = self._claim_for(consumer, connection, room)
            self._hold(claims)
            consumer.receive(claims)
        return bool(claims)

    def take(self, queues: Collection[str] | None) -> Claim | None:
        """Claim the one message that is next."""
        next_one = sql.next_of(queues)
        with self._database.connect() as connection:
            if connection.execute(next_one).first() is None:
                return None
        statement = next_one.with_for_update(skip_locked=True)
        with self._turn:
            with self._database.begin() as connection:
                claims = self._claim(connection, lambda: connection.execute(statement).all(), None)
            self._hold(claims)
        return claims[0] if claims else None

    def open(self, claim: Claim) -> ClaimedMessage | None:
        """The message of a claim; None for one that cannot be read, which is dead from now on."""
        try:
            message: dramatiq.Message[Any] = cast(Any, dramatiq.Message).decode(claim.payload.encode())
        except DecodeError:
            self._logger.exception("Message row %d of queue %r cannot be decoded and is dead.", claim.id, claim.queue)
            self.nack(claim)
            return None
        if message.queue_name != claim.queue:
            # The row was moved; Dramatiq's worker looks for the consumer by the message's own word.
            message = dataclasses.replace(message, queue_name=claim.queue)
        return ClaimedMessage(message, claim, self)

    def _claim_for(self, consumer: Consumer, connection: Connection, room: int) -> list[Claim]:
        """What there is room for, all of one priority: the next look brings the next one."""
        if room <= 0:
            return []
        claims = self._claim(connection, lambda: sql.claimable(connection, consumer.queue, room), consumer)
        consumer.more_expected = bool(claims)
        return claims

    def _claim(
        self, connection: Connection, find: Callable[[], Sequence[Row[Any]]], consumer: Consumer | None
    ) -> list[Claim]:
        take_write_lock(connection)
        rows = find()
        if not rows:
            return []
        self._execute(connection, sql.LEASE, [row.id for row in rows], p_lease_s=self._lease_s)
        # A message of our own whose lease had run out is still being run here: it is renewed, not run a second time.
        return [
            Claim(row.id, row.queue, row.priority, row.payload, consumer) for row in rows if row.id not in self._held
        ]

    def _hold(self, claims: list[Claim]) -> None:
        with self._guard:
            self._held.update({claim.id: claim for claim in claims})

    def _drop(self, claims: Iterable[Claim]) -> None:
        """Hold these no longer, and tell the consumers that there is room."""
        with self._guard:
            for claim in claims:
                if self._held.get(claim.id) is claim:
                    del self._held[claim.id]
                    if claim.consumer is not None:
                        claim.consumer.touch()
            waiting = [consumer for consumer in self._consumers if consumer.more_expected]
        for consumer in waiting:
            consumer.touch()
        self.close(only_if_idle=True)

    def ack(self, claim: Claim) -> None:
        """Delete a message that is done."""
        self._acks.append(claim)
        self._insist(lambda: self._write_acks(claim), claim)

    def nack(self, claim: Claim) -> None:
        """Make a message dead."""
        self._insist(lambda: self._end(sql.BURY, [claim]), claim)

    def give_back(self, claims: list[Claim]) -> None:
        """Free messages that were not run."""
        if not claims:
            return
        try:
            self._end(sql.GIVE_BACK, claims)
        finally:
            self._drop(claims)
        self.ring({claim.queue for claim in claims})

    def renew(self) -> bool:
        """Renew all leases in one statement, and say whether that went well."""
        with self._guard:
            ids = list(self._held)
        try:
            if ids:
                with self._database.begin() as connection:
                    self._execute(connection, sql.RENEW, ids, p_lease_s=self._lease_s)
        except DATABASE_ERRORS as error:
            self._logger.warning("The leases of %d messages could not be renewed: %s", len(ids), error)
            return False
        return True

    def _write_acks(self, mine: Claim) -> None:
        """Write this acknowledgement and all that have come meanwhile, and claim what the freed threads can run."""
        with self._turn:
            if mine.settled:
                return
            acks = {mine.id: mine}
            while self._acks:
                claim = self._acks.popleft()
                acks[claim.id] = claim
            with self._database.begin() as connection:
                if self._unsure:
                    # The try before may have been written, with claims that nobody here has heard of.
                    for queue in {consumer.queue for consumer in self._consumers}:
                        self._free_strays_on(connection, queue)
                self._warn_of_lost(list(acks), sql.delete(connection, list(acks), self.owner))
                brought = self._refill(connection, acks)
            self._unsure = False
            for claim in acks.values():
                claim.settled = True
            self._drop(acks.values())
            for consumer, claims in brought:
                self._hold(claims)
                consumer.receive(claims)

    def _refill(self, connection: Connection, done: Collection[int]) -> list[tuple[Consumer, list[Claim]]]:
        # In turn, so that a queue that is never empty does not take every place that comes free.
        hungry = sorted((one for one in self._consumers if one.more_expected), key=lambda one: one.served_at)
        brought: list[tuple[Consumer, list[Claim]]] = []
        for consumer in hungry:
            room = self.room(consumer, done) - sum(len(claims) for _, claims in brought)
            brought.append((consumer, self._claim_for(consumer, connection, room)))
        return brought

    def _end(self, statement: sa.Update, claims: list[Claim]) -> None:
        with self._turn:
            with self._database.begin() as connection:
                self._execute(connection, statement, [claim.id for claim in claims])
            self._drop(claims)

    def _insist(self, write: Callable[[], None], claim: Claim) -> None:
        """Write the end of a message, in several tries; after the last one it is left to run again."""
        failure: BaseException | None = None
        for pause_s in (0.0, *PAUSES_S):
            try:
                time.sleep(pause_s)
                return write()
            except Interrupt as late:
                # A time limit or shutdown meant for the job, which has ended: it must not end the worker's thread.
                failure = late
            except DATABASE_ERRORS as error:
                failure = error
                self._unsure = True
        self._logger.error(
            "The end of message row %d of queue %r could not be written; it runs again when its lease is over: %s",
            *(claim.id, claim.queue, failure),
        )
        self._drop([claim])

    def _execute(self, connection: Connection, statement: sa.Update, ids: list[int], **more: Any) -> None:
        changed = connection.execute(statement, {"p_ids": ids, "p_owner": self.owner, **more}).rowcount
        if statement is not sql.RENEW:
            self._warn_of_lost(ids, changed)

    def _warn_of_lost(self, ids: list[int], changed: int) -> None:
        if changed < len(ids):
            self._logger.warning(
                "%d of the message rows %s were not ours any more: a lease was lost, or the queue was flushed.",
                *(len(ids) - changed, ids),
            )
