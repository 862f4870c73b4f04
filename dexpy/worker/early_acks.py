"""Early acknowledgements: RabbitMQ gets its answer before its `consumer_timeout`, however long a run takes.

The server closes a consumer that keeps a message unacknowledged for longer, and delivers the message to another one.
The message of a recorded run is acknowledged at half of the timeout, because the record has the claim and its lease.
That of a direct run has all its data: a copy in the database replaces it until the run ends. If the process dies, the
relay publishes the copy.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from functools import partial
from logging import INFO
from typing import Any

import attrs

from dexpy.brokers.bulk_publish import is_rabbitmq
from dexpy.brokers.message_validation import DIRECT_JOB, RECORD_JOB
from dexpy.brokers.rabbitmq_deliveries import CONSUMER_TIMEOUT_S, Delivery
from dexpy.brokers.sql.copies import delete_copy, insert_copy, postpone_copies
from dexpy.database.engine import Database
from dexpy.database.errors import retry_while_away
from dexpy.declaration import registry
from dexpy.enqueue.jobs import is_direct
from dexpy.foundation.durations import format_duration
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.periodic import PeriodicTask
from dexpy.foundation.redaction import class_path
from dexpy.foundation.throttle import LogThrottle

ACKNOWLEDGED_AFTER = 0.5
"""The share of the timeout after which a message is acknowledged."""
LONGEST_PAUSE_S, SHORTEST_PAUSE_S = 1.0, 0.1
"""The limits of the pause between two checks, in seconds."""
COPY_DUE_S = 60.0
"""How long a copy whose process has died waits, in seconds."""


@attrs.define(eq=False)
class EarlyAcks:
    """Acknowledges the messages of long runs on RabbitMQ.

    Attributes:
        broker: The broker.
        database: The database of the copies; None without one: then the messages of direct runs stay unacknowledged.
    """

    broker: Any
    database: Database | None
    _copies: set[int] = attrs.field(factory=set[int])
    _failures: LogThrottle = attrs.field(factory=LogThrottle)

    @classmethod
    def task(cls, broker: Any, database: Database | None) -> PeriodicTask | None:
        """Return the periodic task; None for a broker that has no such timeout."""
        if not hasattr(broker, "deliveries"):
            return None
        early_acks = cls(broker, database)
        return PeriodicTask(
            "acks", SHORTEST_PAUSE_S, early_acks.run_once, pause_s=lambda: early_acks.pause_s, while_draining=True
        )

    @property
    def pause_s(self) -> float:
        """The pause between two checks, in seconds: a small part of the timeout."""
        timeout_s: float = self.broker.consumer_timeout_s
        return max(SHORTEST_PAUSE_S, min(timeout_s / 20, LONGEST_PAUSE_S))

    def run_once(self) -> bool:
        """Keep the copies from being due, and acknowledge the messages that have been running for long."""
        try:
            if self.database is not None and (ids := list(self._copies)):
                with self.database.begin() as connection:
                    postpone_copies(connection, ids, COPY_DUE_S)
        finally:
            # Also without the database: the messages of recorded runs need no copy.
            after_s = self.broker.consumer_timeout_s * ACKNOWLEDGED_AFTER
            for delivery in self.broker.deliveries.held():
                if delivery.is_started and not delivery.is_acknowledged and delivery.age_s >= after_s:
                    self._try_acknowledge(delivery)
        return True

    def _try_acknowledge(self, delivery: Delivery) -> None:
        """Acknowledge a message, or log the error; the others are acknowledged all the same."""
        try:
            self._acknowledge(delivery)
        except Exception as error:  # noqa: BLE001 - of the database or of the broker's client; tried again
            message_id = delivery.message.message_id
            facts = {"message_id": message_id, "error": class_path(error), "retry_in_s": self.pause_s}
            self._failures.log(LogEvent.TASK_FAILED, message_id, task="acks", **facts)

    def _acknowledge(self, delivery: Delivery) -> None:
        actor = delivery.message.actor_name
        if actor == RECORD_JOB:
            delivery.acknowledge_early(lambda: None)
        elif actor == DIRECT_JOB and self.database is not None:
            delivery.acknowledge_early(partial(self._store_copy, delivery.message, self.database))

    def _store_copy(self, message: Any, database: Database) -> Callable[[], None]:
        with database.begin() as connection:
            copy_id = insert_copy(connection, message.copy(), COPY_DUE_S)
        self._copies.add(copy_id)
        return partial(self._end_copy, database, copy_id)

    def _end_copy(self, database: Database, copy_id: int) -> None:
        def delete() -> None:
            with database.begin() as connection:
                delete_copy(connection, copy_id)

        retry_while_away("delete_copy", delete, message_id=copy_id)
        self._copies.discard(copy_id)


def warn_of_long_runs(broker: Any, names: Collection[str], *, has_records: bool, has_database: bool) -> None:
    """Log which operations may run longer than RabbitMQ's `consumer_timeout`, and what happens then.

    Args:
        broker: The broker.
        names: The names of the operations that the worker can run.
        has_records: Whether runs are recorded.
        has_database: Whether a database can store copies of messages.
    """
    if not is_rabbitmq(broker):
        return
    acknowledges = hasattr(broker, "deliveries")
    timeout_s: float = getattr(broker, "consumer_timeout_s", CONSUMER_TIMEOUT_S)
    safe: dict[str, float] = {}
    repeated: dict[str, float] = {}
    for name in sorted(names):
        contract = registry.find(name).contract
        if contract.timeout_s is None or contract.timeout_s <= timeout_s:
            continue
        is_recorded = has_records and not is_direct(contract)
        (safe if is_recorded or (acknowledges and has_database) else repeated)[name] = contract.timeout_s
    limit = format_duration(timeout_s)
    _log(repeated, timeout_s, LogEvent.CONSUMER_TIMEOUT_EXCEEDED.level, (
        f"RabbitMQ delivers a message again after {limit}, and another process would start the run a second time: "
        "configure a database, or raise consumer_timeout on the server and set ?consumer_timeout= in the URL of the "
        "broker"
    ))  # fmt: skip
    _log(safe, timeout_s, INFO, (
        f"these runs run once: their messages are acknowledged before {limit}; if the server has another "
        "consumer_timeout, set it in the URL of the broker: ?consumer_timeout=5m"
    ))  # fmt: skip


def _log(timeouts: dict[str, float], consumer_timeout_s: float, level: int, advice: str) -> None:
    if timeouts:
        log_event(
            LogEvent.CONSUMER_TIMEOUT_EXCEEDED,
            level,
            operations=",".join(timeouts),
            timeout_s=max(timeouts.values()),
            consumer_timeout_s=consumer_timeout_s,
            advice=advice,
        )
