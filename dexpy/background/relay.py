"""The relay: sees to it that every record comes to its end, whatever happens to messages and workers.

It runs in every worker, or alone as ``dexpy relay``; any number of them at once share the work row by row.
It sends what is due and has no message, sends again what was lost on the way, takes from dead workers what they held,
ends what came too late, and tidies up. The steps are data, so that one that fails does not keep the others from
their turn.
"""

from __future__ import annotations

import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.engine import Connection, Row

from dexpy.background.brokers.claimed import ClaimedMessage
from dexpy.background.dispatch import Dispatcher
from dexpy.background.heart import Heart
from dexpy.background.limits import Limits
from dexpy.background.repost import Repost
from dexpy.background.rescue import LOCK_WAIT_S, Rescue
from dexpy.background.resend import SENT, Resend
from dexpy.background.unwritable import change_each
from dexpy.foundation.checkpoint import checkpoint
from dexpy.foundation.log import line
from dexpy.foundation.pace import Pace
from dexpy.foundation.redaction import class_path
from dexpy.recording import expiry, lock_waits, retention, signals, slots
from dexpy.recording.metadata import as_of
from dexpy.recording.store import Store
from dexpy.recording.tables import records

EVERY_S = 0.5
"""How often a relay looks for what is due and unsent, in seconds."""
BATCH = 100
SET_ASIDE_S = 30.0
"""How long what the broker refuses is left alone, in seconds, while others are sent; less than a message's lease."""
TIDY_EVERY_S = 3600.0
DEEDS = ("sent", "sent again", "taken from dead workers", "expired")
"""What a relay does to records."""

_r = records.c
_OWED = (
    sa.select(_r.id)
    .where(_r.status == "pending", _r.enqueued_at.is_(None), _r.scheduled_at <= as_of(0))
    .order_by(_r.scheduled_at)
    .limit(BATCH)
    .with_for_update(skip_locked=True)
)
_THESE = _r.id.in_(sa.bindparam("p_ids", expanding=True))
_SENT = sa.update(records).where(_THESE).values(SENT)
_ROWS = sa.select(records).where(_THESE).order_by(_r.priority.desc(), _r.scheduled_at)


class Relay:
    """One relay.

    Args:
        dispatcher: Whose messages it sends.
        heart: Of this process.
        pace: How soon what is lost is taken up again.
    """

    def __init__(self, dispatcher: Dispatcher, heart: Heart, pace: Pace) -> None:
        store = dispatcher.store
        assert store is not None  # noqa: S101 - without records there is nothing to see to
        self._dispatcher = dispatcher
        self._store = store
        self._set_aside: dict[str, float] = {}
        self._refused: deque[tuple[float, ClaimedMessage]] = deque()
        self._tidied_at = time.monotonic()
        self.counts: Counter[str] = Counter()
        """Deed to the number of records that it was done to, so far."""
        self.steps: list[tuple[str, Callable[[], int]]] = [
            ("taken from dead workers", Rescue(dispatcher, store, heart).run_once),
            ("expired", self._expire),
            ("given a free slot", Limits(store, dispatcher).mend),
        ]
        mailbox = dispatcher.carrier.mailbox
        if dispatcher.transactional and mailbox is not None:
            self.steps.append(("sent", self._post_owed))
            self.steps.append(("sent again", Repost(dispatcher, mailbox, store, pace).run_once))
        else:
            self.steps.append(("sent again", Resend(dispatcher, store, pace).run_once))
        self.steps.append(("forgotten", self._tidy_sometimes))

    def look_after(self) -> bool:
        """Take up what was lost, and end what came too late.

        Returns:
            Whether every step went well.
        """
        went_well = True
        for deed, step in self.steps:
            try:
                with lock_waits.at_most(LOCK_WAIT_S):
                    self.counts[deed] += step()
            except Exception as error:  # noqa: BLE001 - whatever one step runs into, the others have their turn
                went_well = False
                line(logging.WARNING, "relay.failed", step=step.__qualname__, error=class_path(error))
        return went_well

    def send(self) -> bool:
        """Send everything that is owed now.

        Returns:
            Whether the broker took what it could.
        """
        if self._dispatcher.transactional:
            return True
        with lock_waits.at_most(LOCK_WAIT_S):
            while batch := self._claim():
                if not self._deliver(batch):
                    return False
            return self._deliver_waiting()

    def _post_owed(self) -> int:
        """Give their messages to rows from a process that named another broker, which did not take them."""
        posted = 0
        while True:
            with self._store.begin() as connection:
                ids = connection.execute(_OWED).scalars().all()
                if ids:
                    connection.execute(_SENT, {"p_ids": ids})
                    for row in connection.execute(_ROWS, {"p_ids": ids}).all():
                        self._dispatcher.send(connection, row)
            posted += len(ids)
            if len(ids) < BATCH:
                break
        if posted:
            self._dispatcher.ring()
        return posted

    def _claim(self) -> Sequence[Row[Any]]:
        now = time.monotonic()
        self._set_aside = {run: until for run, until in self._set_aside.items() if until > now}
        owed = _OWED.where(_r.id.not_in(list(self._set_aside))) if self._set_aside else _OWED
        with self._store.begin() as connection:
            ids = connection.execute(owed).scalars().all()
            if not ids:
                return ()
            connection.execute(_SENT, {"p_ids": ids})
            return connection.execute(_ROWS, {"p_ids": ids}).all()

    def _deliver(self, rows: Sequence[Row[Any]]) -> bool:
        checkpoint("relay_marked")
        refused: list[Row[Any]] = []
        for index, row in enumerate(rows):
            if self._dispatcher.deliver_row(row):
                self.counts["sent"] += 1
                continue
            if not self._dispatcher.carrier.answers():
                self._dispatcher.owe([*refused, *rows[index:]])
                return False
            refused.append(row)
        if refused:
            # The broker is there and does not want these: they must not keep the others waiting.
            until = time.monotonic() + SET_ASIDE_S
            self._set_aside |= {row.id: until for row in refused}
            self._dispatcher.owe(refused)
        return True

    def _deliver_waiting(self) -> bool:
        """Direct messages that waited in the database."""
        mailbox = self._dispatcher.carrier.mailbox
        if mailbox is None:
            return True
        self._give_back_refused()
        while (message := mailbox.take()) is not None:
            if self._dispatcher.carrier.deliver([message.content]):
                message.ack()
            elif self._dispatcher.carrier.answers():
                # It is the next one until somebody takes it: held meanwhile, so that those behind it have their turn.
                self._refused.append((time.monotonic() + SET_ASIDE_S, message))
            else:
                message.give_back()
                return False
        return True

    def _give_back_refused(self) -> None:
        now = time.monotonic()
        while self._refused and self._refused[0][0] <= now:
            _, message = self._refused.popleft()
            message.give_back()

    def _expire(self) -> int:
        def expire(connection: Connection, row: Row[Any]) -> bool:
            is_expired = expiry.expire(connection, row.id)
            if is_expired:
                line(logging.WARNING, "expired", operation=row.name, run=row.id)
            return is_expired

        return change_each(self._store, "expiry", expiry.late, expire)

    def _tidy_sometimes(self) -> int:
        if time.monotonic() - self._tidied_at < TIDY_EVERY_S:
            return 0
        self._tidied_at = time.monotonic()
        with self._store.begin() as connection:
            forgotten = signals.forget_ended(connection)
            forgotten += slots.forget(connection)
        warn_of_many(self._store)
        return forgotten


def warn_of_many(store: Store, many: int = retention.MANY) -> bool:
    """Say so in the log when more than so many records have ended that pruning them is worth a thought."""
    if not retention.are_many(store, many):
        return False
    line(logging.WARNING, "records.many", more_than=many, advice="dexpy prune --older-than 30d deletes old ones")
    return True
