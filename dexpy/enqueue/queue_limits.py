"""Limits of queues: an enqueue into a full queue is refused, or waits for room.

Pending runs are counted at most once a second for each queue and process while there is room: in between, a process
admits up to a tenth of the room that it found. Enqueues of several processes at the same moment may exceed a limit by
these shares; a full queue is counted at each enqueue.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping, Sequence

import attrs
import sqlalchemy as sa

from dexpy.brokers.urls import is_redis
from dexpy.database.tables import records
from dexpy.enqueue.jobs import PreparedJob
from dexpy.enqueue.transports import Transport
from dexpy.foundation.errors import ConfigurationError, QueueFull
from dexpy.policies.queue_limit import QueueLimit
from dexpy.recording.store import Store

RECOUNT_S = 1.0
"""How long a count is used, in seconds."""
SHARE = 10
"""The part of the room that a process may fill before it counts again: a tenth."""
POLL_EVERY_S = 0.05


@attrs.define
class _Room:
    """The room that a process may fill without counting again.

    Attributes:
        number: The number of runs.
        until: The time of the next count, by the monotonic clock.
    """

    number: int = 0
    until: float = 0.0


def check_countable(transport: Transport) -> None:
    """Require that the broker can count messages, where no run has a record.

    Raises:
        ConfigurationError: It cannot.
    """
    broker: object = transport.broker
    if transport.sql_queue is None and not is_redis(broker) and not hasattr(broker, "get_queue_message_counts"):
        raise ConfigurationError(
            f"queues: {type(broker).__name__} cannot count its messages, and nothing is recorded. Remove the limits, "
            "use Redis, RabbitMQ or a database, or configure a database for records."
        )


class QueueLimits:
    """Admits runs to the queues of a process.

    Args:
        limits: The limits by name of the queue.
        store: The store of records; None when nothing is recorded.
        transport: Counts the messages of runs without a record.
    """

    def __init__(self, limits: Mapping[str, QueueLimit], store: Store | None, transport: Transport) -> None:
        self._limits = limits
        self._store = store
        self._transport = transport
        self._rooms: dict[tuple[str, bool], _Room] = {}
        self._lock = threading.Lock()

    def admit(self, jobs: Sequence[PreparedJob], *, waits: bool) -> None:
        """Require room for jobs in their queues, all or none.

        Args:
            jobs: The jobs.
            waits: Whether to wait for room where the limit says so: not in a transaction of the application, whose
                locks could be those that the workers need.

        Raises:
            QueueFull: A queue is full.
            ConfigurationError: The broker cannot count the messages of runs without a record.
        """
        numbers = Counter((job.options.queue, job.columns is not None) for job in jobs)
        for (queue, is_recorded), number in numbers.items():
            if (limit := self._limits.get(queue)) is not None:
                self._admit(queue, limit, number, is_recorded, waits)

    def has_room(self, job: PreparedJob) -> bool:
        """Return whether there is room for a job now, and count it as admitted."""
        try:
            self.admit([job], waits=False)
        except QueueFull:
            return False
        return True

    def _admit(self, queue: str, limit: QueueLimit, number: int, is_recorded: bool, waits: bool) -> None:
        started = time.monotonic()
        timeout_s = limit.block_timeout_s if waits and number <= limit.max_pending else 0.0
        while True:
            with self._lock:
                room = self._rooms.setdefault((queue, is_recorded), _Room())
                if room.number >= number and time.monotonic() < room.until:
                    room.number -= number
                    return
            num_pending = self._count(queue, limit, is_recorded)
            free = limit.max_pending - num_pending
            if number <= free:
                with self._lock:
                    room.number, room.until = (free - number) // SHARE, time.monotonic() + RECOUNT_S
                return
            waited_s = time.monotonic() - started
            if waited_s >= timeout_s:
                raise QueueFull(queue, limit.max_pending, num_pending, number, waited_s if timeout_s else 0.0)
            time.sleep(min(POLL_EVERY_S, timeout_s - waited_s))

    def _count(self, queue: str, limit: QueueLimit, is_recorded: bool) -> int:
        """Return the number of pending runs of a queue, at most the limit."""
        if is_recorded and self._store is not None:
            pending = sa.select(records.c.id).where(records.c.status == "pending", records.c.queue == queue)
            counted = sa.select(sa.func.count()).select_from(pending.limit(limit.max_pending).subquery())
            return sum(row[0] for row in self._store.rows(counted))
        num_waiting = self._transport.count_due(queue)
        if num_waiting is None:
            raise ConfigurationError(
                f"queues.{queue}.max_pending: the broker cannot count its messages. Remove the limit, use Redis, "
                "RabbitMQ or a database, or record the runs."
            )
        return num_waiting
