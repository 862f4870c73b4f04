"""Enqueues operations continuously, in transactions of the application; some of them are rolled back.

Usage: python -m chaos.producer --rate 10 --mix booking=40,delayed=8 [--die PLACE=PROBABILITY]...
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from uuid import uuid4

import attrs
import sqlalchemy as sa
from sqlalchemy.orm import Session

import dexpy
from chaos.application import (
    LOUD,
    Await,
    AwaitCancellation,
    Booking,
    Crash,
    FlakyBooking,
    KillWorker,
    Parent,
    Pay,
    Refuse,
    runtime,
)
from chaos.journal import COMMITTED, FOLDER, REPEATED, ROLLED_BACK, Journal
from chaos.kill_orders import DOOM, KILL_ORDERS, FailpointActions, chances, take
from chaos.tables import ACCOUNTS, Wish
from dexpy import Ticket
from dexpy.errors import DatabaseUnavailable, InvalidTransition
from dexpy.foundation import failpoints

AGAIN_AFTER_S = 0.5
"""The pause before a retry while the database is unavailable, in seconds."""
LONG_S = (1.5, 4.0)
"""The shortest and longest duration of a long operation, in seconds."""


@attrs.frozen
class Kind:
    """One kind of operation.

    Attributes:
        make: Builds the operation from its key and its duration in seconds.
        options: Returns the options of `async_`.
        expected: See `Wish`.
    """

    make: Callable[[str, float], Booking]
    options: Callable[[], dict[str, Any]] = dict
    expected: str = "effect"


KINDS = {
    "booking": Kind(lambda key, s: Booking(key=key, seconds=s)),
    "delayed": Kind(lambda key, s: Booking(key=key, seconds=s), lambda: {"in_": random.uniform(0.2, 3.0)}),
    "urgent": Kind(lambda key, s: Booking(key=key, seconds=s), lambda: {"priority": random.randint(1, 5)}),
    "loud": Kind(lambda key, s: Booking(key=key, seconds=s), lambda: {"queue": LOUD}),
    "parent": Kind(lambda key, s: Parent(key=key, seconds=s)),
    "await": Kind(lambda key, s: Await(key=key, seconds=s)),
    "pay": Kind(lambda key, s: Pay(key=key, seconds=min(s, 0.03), account=random.randint(1, ACCOUNTS))),
    "flaky": Kind(lambda key, s: FlakyBooking(key=key, seconds=s)),
    "refuse": Kind(lambda key, s: Refuse(key=key, seconds=s), expected="nothing"),
    "crash": Kind(lambda key, s: Crash(key=key, seconds=s), expected="nothing"),
    "cancelled": Kind(lambda key, s: AwaitCancellation(key=key, seconds=s + 0.3), expected="either"),
    "expiring": Kind(lambda key, s: Booking(key=key, seconds=s), lambda: {"expires_in": 2.0}, expected="either"),
    "worker_killer": Kind(lambda key, s: KillWorker(key=key, seconds=s), expected="nothing"),
}
"""The kinds of the mix; ``cancelled`` is cancelled at a random time."""


class Producer:
    """One producer.

    Args:
        folder: The folder of the run.
        mix: Kinds of operations, with weights.
        seconds: The average duration of an operation.
        long: The share of operations that take some seconds, so that there is always one to kill.
        rolled_back: The share of transactions that are rolled back.
        repeated: The share of operations whose message is sent a second time later.
    """

    def __init__(
        self, folder: Path, mix: dict[str, float], *, seconds: float, long: float, rolled_back: float, repeated: float
    ) -> None:
        self._folder = folder
        self._kinds, self._weights = list(mix), list(mix.values())
        self._seconds, self._long = seconds, long
        self._rollback_share, self._repeated = rolled_back, repeated
        self._committed, self._rolled_back, self._sent_again = map(Journal, (COMMITTED, ROLLED_BACK, REPEATED))
        self._later: list[tuple[float, Callable[[], None]]] = []
        url = sa.make_url(os.environ["DEXPY_DATABASE"])
        patience = {"timeout": 30} if url.get_backend_name() == "sqlite" else {}
        # An engine of the application: dexpy detects that it has the database of the records.
        self._engine = sa.create_engine(url, pool_pre_ping=True, connect_args=patience)

    def transact(self) -> int:
        """Enqueue a few operations in one transaction, and return how many were committed."""
        count = random.choice((1, 1, 1, 2, 3))
        with Session(self._engine) as session:
            enqueued = [self._enqueue(session, kind) for kind in self._choose(count)]
            keys = [key for key, _, _ in enqueued]
            if random.random() < self._rollback_share:
                session.rollback()
                self._rolled_back.write(*keys)
                return 0
            session.commit()
        self._committed.write(*keys, safely=True)
        for key, kind, ticket in enqueued:
            if kind == "cancelled":
                self._after(random.uniform(0.0, 1.0), lambda ticket=ticket: cancel(ticket))
            if random.random() < self._repeated:
                self._after(random.uniform(0.3, 1.5), lambda key=key, ticket=ticket: self._send_again(key, ticket))
        return count

    def _choose(self, count: int) -> list[str]:
        chosen = random.choices(self._kinds, self._weights, k=count)
        return ["worker_killer", *chosen[1:]] if take(str(self._folder / KILL_ORDERS), DOOM) else chosen

    def _enqueue(self, session: Session, kind: str) -> tuple[str, str, Ticket[Any]]:
        key = f"{kind}-{os.getpid()}-{uuid4().hex[:12]}"
        this = KINDS[kind]
        is_long = random.random() < self._long
        operation: Any = this.make(key, random.uniform(*LONG_S) if is_long else random.expovariate(1 / self._seconds))
        if random.random() < 0.5:
            ticket = operation.async_(session=session, **this.options()).call()
        else:
            with dexpy.session(session):
                ticket = operation.async_(**this.options()).call()
        session.add(Wish(key=key, kind=kind, expected=this.expected, run=ticket.id, made_by=os.getpid()))
        return key, kind, ticket

    def _send_again(self, key: str, ticket: Ticket[Any]) -> None:
        self._sent_again.write(key)
        runtime.dispatcher.publish_row(runtime.store.row(ticket.id))

    def _after(self, seconds: float, action: Callable[[], None]) -> None:
        self._later.append((time.monotonic() + seconds, action))

    def do_what_is_due(self) -> None:
        """Execute the actions that are due."""
        now = time.monotonic()
        due = [action for at, action in self._later if at <= now]
        self._later = [(at, action) for at, action in self._later if at > now]
        for action in due:
            action()


def cancel(ticket: Ticket[Any]) -> None:
    """Cancel a run, unless it has ended."""
    try:
        ticket.cancel()
    except InvalidTransition:
        return


def main() -> None:
    """Enqueue operations until the process is stopped."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--rate", type=float, required=True, help="operations a second")
    parser.add_argument("--mix", required=True)
    parser.add_argument("--takes", type=float, default=0.05, help="seconds, on average")
    parser.add_argument("--long", type=float, default=0.0)
    parser.add_argument("--rolled-back", type=float, default=0.0)
    parser.add_argument("--repeated", type=float, default=0.0)
    parser.add_argument("--die", action="append", default=[])
    options = parser.parse_args()
    folder = Path(os.environ[FOLDER])
    mix = chances(options.mix.split(","))
    shares = {"long": options.long, "rolled_back": options.rolled_back, "repeated": options.repeated}
    producer = Producer(folder, mix, seconds=options.takes, **shares)
    failpoints.reached = FailpointActions(folder, chances(options.die))
    stops: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, _frame: stops.append(number))
    next_at = time.monotonic()
    while not stops:
        try:
            num_enqueued = producer.transact()
            producer.do_what_is_due()
        except (sa.exc.DBAPIError, sa.exc.TimeoutError, DatabaseUnavailable) as error:
            print(f"{time.time():.3f} away: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            num_enqueued = 0
            time.sleep(AGAIN_AFTER_S)
        now = time.monotonic()
        # Operations missed during an outage are not enqueued all at once.
        next_at = max(next_at + num_enqueued / options.rate, now - 2.0)
        time.sleep(max(0.0, next_at - now))


if __name__ == "__main__":
    main()
