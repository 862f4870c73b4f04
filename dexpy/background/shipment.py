"""A shipment: parcels that are stored in one transaction, and whose messages go together after it."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext, suppress
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.engine import Connection
from sqlalchemy.exc import DBAPIError

from dexpy.background.brokers.bulk import enqueue_together
from dexpy.background.brokers.postings import Posting
from dexpy.background.carriers import SHORT_DELAY_S, Carrier, check_delay
from dexpy.background.keyed import KeyedInsert
from dexpy.background.parcels import Parcel, tell_which
from dexpy.foundation.checkpoint import checkpoint
from dexpy.recording.metadata import after, moment
from dexpy.recording.sqlite import take_write_lock
from dexpy.recording.store import Store


class Shipment:
    """What one enqueue does, in two parts.

    Args:
        carrier: Takes the messages away.
        store: Where records go; None when nothing is recorded.
        parcels: At least one.
        is_left_to_relay: Whether nobody will say when the transaction is committed.

    Raises:
        OptionsError: A delay that nobody could keep.
    """

    def __init__(
        self, carrier: Carrier, store: Store | None, parcels: Sequence[Parcel], *, is_left_to_relay: bool
    ) -> None:
        self._carrier = carrier
        self._store = store
        self._is_left_to_relay = is_left_to_relay
        self._parcels = parcels
        self._recorded = [parcel for parcel in parcels if parcel.facts is not None]
        self._direct = [parcel for parcel in parcels if parcel.facts is None]
        # Told once: a moment that was ahead when the row was written may have come when its message is sent.
        self._posted = dict.fromkeys(parcel for parcel in parcels if self._is_posted(parcel))
        self._at_once = dict.fromkeys(parcel for parcel in parcels if self._is_sent_at_once(parcel))
        self.queues = {parcel.plan.queue for parcel in parcels}
        for parcel in self._direct:
            if parcel not in self._posted:
                check_delay(parcel.plan.delay_s, "async_(...)")

    def _is_posted(self, parcel: Parcel) -> bool:
        """Whether its message is a row, written with the rest."""
        if self._carrier.transactional:
            return True
        waits = parcel.plan.delay_s > SHORT_DELAY_S or self._is_left_to_relay
        return parcel.facts is None and self._carrier.mailbox is not None and waits

    @property
    def writes(self) -> bool:
        """Whether anything is stored before it is sent."""
        return bool(self._recorded or self._posted)

    def write(self, connection: Connection) -> None:
        """Store everything, in a transaction that somebody commits; an exception leaves nothing of it there."""
        # What has no key was refused before, if at all; and a transaction of one's own is rolled back as it is.
        is_joined = any(parcel.keyed is not None and parcel.keyed.joined for parcel in self._recorded)
        with all_or_nothing(connection) if is_joined and len(self._parcels) > 1 else nullcontext():
            self._store_rows(connection)

    def _store_rows(self, connection: Connection) -> None:
        self._insert(connection)
        checkpoint("after_insert")
        postings = [
            Posting(parcel.message, parcel.plan.at, parcel.plan.wait_s or 0.0, parcel.plan.priority)
            for parcel in self._posted
            if not parcel.ticket.duplicate
        ]
        mailbox = self._carrier.mailbox
        if mailbox is not None and postings:
            mailbox.put_together(connection, postings)

    def _insert(self, connection: Connection) -> None:
        plain = [parcel for parcel in self._recorded if parcel.keyed is None]
        if len(plain) == 1:
            self._stored.insert(connection, self._row(plain[0]))
        elif plain:
            # Asked once, so that every value is a plain one, and the driver can send all rows together.
            now = moment(connection)
            self._stored.insert_all(connection, [self._row(parcel, now) for parcel in plain], now)
        # In one order everywhere, so that two such transactions never wait for each other.
        for parcel in sorted(self._recorded, key=lambda parcel: parcel.keyed.order if parcel.keyed else ()):
            if parcel.keyed is not None:
                self._insert_keyed(connection, parcel, parcel.keyed)

    def _insert_keyed(self, connection: Connection, parcel: Parcel, keyed: KeyedInsert) -> None:
        try:
            keyed.insert(connection, self._row(parcel))
        except Exception as error:
            if len(self._parcels) > 1:
                tell_which(error, self._parcels.index(parcel), len(self._parcels))
            raise

    @property
    def _stored(self) -> Store:
        assert self._store is not None  # noqa: S101 - what is recorded has a store
        return self._store

    def _row(self, parcel: Parcel, now: datetime | None = None) -> dict[str, Any]:
        def from_now(seconds: float) -> Any:
            return after(seconds) if now is None else now + timedelta(seconds=seconds)

        is_sent = self._carrier.transactional or parcel in self._at_once
        return parcel.row(from_now, is_sent=is_sent, is_searched=not is_sent)

    def _is_sent_at_once(self, parcel: Parcel) -> bool:
        return parcel.plan.delay_s == 0 and not self._is_left_to_relay

    def send(self) -> Iterable[Parcel]:
        """Send what is to be sent after the commit, and say what the broker did not take."""
        if self._posted:
            self._carrier.ring()
        if self._carrier.transactional:
            return ()
        for queue in self.queues:
            self._carrier.note_queue(queue)
        checkpoint("before_send")
        refused = list(self._send())
        checkpoint("after_send")
        return refused

    def _send(self) -> Iterator[Parcel]:
        left = [parcel for parcel in self._parcels if parcel not in self._posted and not parcel.ticket.duplicate]
        at_once = [parcel for parcel in left if parcel in self._at_once]
        # A record that is due later waits in its row; a direct run, so soon, with the broker.
        later = [parcel for parcel in left if parcel.facts is None and parcel not in self._at_once]
        for parcel in later:
            if not self._is_taken([parcel], parcel.plan.delay_s):
                yield parcel
        if at_once and not self._is_taken(at_once):
            yield from at_once

    def _is_taken(self, parcels: Sequence[Parcel], delay_s: float = 0.0) -> bool:
        messages = [parcel.message for parcel in parcels]
        if self._carrier.mailbox is None:
            # Nowhere to keep them: whoever sends them is told.
            enqueue_together(self._carrier.broker, messages, delay_s)
            return True
        return self._carrier.deliver(messages, delay_s)


@contextmanager
def all_or_nothing(connection: Connection) -> Generator[None]:
    """A part of somebody else's transaction, which goes on when an exception has undone this part."""
    # First, where it is SQLite: a savepoint that begins a transaction would commit with its release.
    take_write_lock(connection)
    savepoint = connection.begin_nested()
    try:
        yield
    except BaseException:
        # A deadlock on MariaDB takes the savepoint with it, and is the error to be told.
        with suppress(DBAPIError):
            savepoint.rollback()
        raise
    savepoint.commit()
