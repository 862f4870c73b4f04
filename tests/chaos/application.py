"""The application of the chaos tests: operations of every kind, whose effects are counted."""

from __future__ import annotations

import asyncio
import os
import random
import time
from typing import Any

import dramatiq
import sqlalchemy as sa
from sqlalchemy.orm import Session, sessionmaker

import dexpy
from chaos.journal import CALLS, DELIVERIES, FETCHED, HANDED, MARKED, Journal
from chaos.kill_orders import die
from chaos.tables import Account, Effect, Wish
from dexpy import Error, Operation, Ref, Retry, prop
from dexpy.enqueue.dispatcher import Dispatcher
from dexpy.foundation.failpoints import failpoint
from dexpy.maintenance.relay import Relay
from dexpy.maintenance.republish import BrokerRepublisher

LOUD = "loud"
"""A second queue that no class declares."""


calls = Journal(CALLS)


class Booking(Operation):
    """Calls an external service, sleeps, and writes an effect in the run's transaction."""

    key: str
    seconds: float = 0.0
    # The same run may lose many workers by chance.
    max_lost = 1000

    def call_out(self) -> None:
        """Record this run outside of the database, as an external call does."""
        calls.write(self.key, self.run_id, os.getpid())

    def leave_effect(self, session: Session) -> None:
        """Write the effect, and pass the failpoint in the middle of `perform`."""
        session.add(Effect(key=self.key, run=self.run_id, pid=os.getpid(), at=time.time()))
        session.flush()
        failpoint("in_perform")

    def perform(self) -> None:
        self.call_out()
        time.sleep(self.seconds)
        self.leave_effect(self.session)


class Parent(Booking):
    """Enqueues a child in its transaction."""

    def perform(self) -> None:
        super().perform()
        child = f"{self.key}-child"
        ticket = Booking(key=child, seconds=self.seconds / 2).async_().call()
        self.session.add(Wish(key=child, kind="child", expected="effect", run=ticket.id, made_by=os.getpid()))


class Flaky(Exception):
    """A temporary failure."""


class FlakyBooking(Booking):
    """Fails half of the time, after its write."""

    retry_on = (Retry(Flaky, attempts=None, wait=0.3),)

    def perform(self) -> None:
        super().perform()
        if random.random() < 0.5:
            raise Flaky("try again")


class Refuse(Booking):
    """Ends with a business error, after its write."""

    errors = {"refused"}

    def perform(self) -> None:
        super().perform()
        raise Error("refused", "As meant")


class Crash(Booking):
    """Raises an exception without a rule, after its write."""

    def perform(self) -> None:
        super().perform()
        raise ArithmeticError("as meant")


class Await(Booking):
    """Does the same in a coroutine."""

    async def perform(self) -> None:  # type: ignore[override]
        self.call_out()
        await asyncio.sleep(self.seconds)
        await self.in_session(self.leave_effect)


class Pay(Booking):
    """Locks a row for which other runs wait."""

    account: Ref[Account] = prop(lock=True)

    def perform(self) -> None:
        self.call_out()
        time.sleep(self.seconds)
        self.account.balance += 1
        self.leave_effect(self.session)


class AwaitCancellation(Booking):
    """Checks whether it was cancelled."""

    def perform(self) -> None:
        self.call_out()
        for _ in range(5):
            time.sleep(self.seconds / 5)
            self.check_cancelled()
        self.leave_effect(self.session)


class KillWorker(Booking):
    """Kills every worker that runs it."""

    max_lost = 1

    def perform(self) -> None:
        super().perform()
        die("in_perform_always")


class Deliveries(dramatiq.Middleware):
    """Records each delivery of a message."""

    def __init__(self) -> None:
        self._journal = Journal(DELIVERIES)

    def before_process_message(self, broker: Any, message: Any) -> None:
        self._journal.write(message.message_id)


class Noted:
    """A consumer that records which messages its process holds."""

    def __init__(self, consumer: Any) -> None:
        self._consumer = consumer
        self._journal = Journal(FETCHED)

    def __iter__(self) -> Any:
        return self

    def __next__(self) -> Any:
        message = next(self._consumer)
        if message is not None:
            self._journal.write(message.kwargs.get("record_id"), os.getpid())
        return message

    def __getattr__(self, name: str) -> Any:
        return getattr(self._consumer, name)


def note_what_relays_hold() -> None:
    """Record which rows a relay has marked as published, and which of them the broker has accepted."""
    marked, handed = Journal(MARKED), Journal(HANDED)
    deliver, take, deliver_row = Relay._publish, BrokerRepublisher._take, Dispatcher.publish_row

    def noted(rows: Any) -> Any:
        for row in rows:
            marked.write(row.id, os.getpid())
        return rows

    def deliver_noted(self: Dispatcher, row: Any) -> bool:
        is_taken = deliver_row(self, row)
        handed.write(row.id, os.getpid())
        return is_taken

    Relay._publish = lambda self, rows: deliver(self, noted(rows))  # type: ignore[method-assign]
    BrokerRepublisher._take = lambda self, queue: noted(take(self, queue))  # type: ignore[method-assign]
    Dispatcher.publish_row = deliver_noted  # type: ignore[method-assign]


def sessions() -> Any:
    """Return a session factory with the isolation level of the run; None for the default level."""
    isolation = os.environ.get("CHAOS_ISOLATION")
    if not isolation:
        return None
    return sessionmaker(sa.create_engine(os.environ["DEXPY_DATABASE"], isolation_level=isolation, pool_pre_ping=True))


note_what_relays_hold()
runtime = dexpy.configure(session_factory=sessions())
runtime.broker.add_middleware(Deliveries())
consume = runtime.broker.consume
runtime.broker.consume = lambda *args, **named: Noted(consume(*args, **named))  # type: ignore[method-assign]
