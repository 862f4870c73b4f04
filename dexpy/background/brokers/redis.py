"""Dramatiq's broker over Redis, made to get back what a cut connection leaves behind.

A fetch moves messages into the set of those that this process holds, and answers with them. When the connection is cut
before the answer is read, nobody has them: not this process, and no other one as long as this one gives signs of life.
So whenever a consumer begins anew, it puts back what is in the set and not in hand.
"""

# mypy: disable-error-code=no-untyped-call
# Dramatiq's broker for Redis has no types.

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from typing import Any, cast
from uuid import uuid4

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer  # pyright: ignore[reportPrivateUsage]
from dramatiq.common import current_millis
from dramatiq.errors import ConnectionClosed

DELAY_SUFFIX = ".DQ"
"""Of a queue whose messages wait in the memory of a consumer."""

_ID = "redis_message_id"


class LosslessRedisBroker(RedisBroker):
    """See the module.

    Attributes:
        in_hand: Ids of the messages that this process has been handed and has not ended, for each queue.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # pyright: ignore[reportUnknownMemberType]
        self.in_hand: dict[str, set[str]] = {}
        self._looks = threading.local()

    def enqueue_together(self, messages: Sequence[dramatiq.Message[Any]]) -> None:
        """Enqueue messages that are due now, in one round trip."""
        broker: Any = self
        pipeline: Any = broker.client.pipeline(transaction=False)
        copies = [cast("Any", message).copy(options={_ID: str(uuid4())}) for message in messages]
        for copy in copies:
            broker.emit_before("enqueue", copy, None)
            # What `do_enqueue` would call, with the pipeline in the client's place.
            arguments = ["enqueue", current_millis(), copy.queue_name, broker.broker_id, broker.heartbeat_timeout]
            arguments += [broker.dead_message_ttl, 0, broker._max_unpack_size(), copy.options[_ID], copy.encode()]
            broker.scripts["dispatch"](keys=[broker.namespace], args=arguments, client=pipeline)
        pipeline.execute()
        for copy in copies:
            broker.emit_after("enqueue", copy, None)

    def take_back(self, queue: str) -> None:
        """Put back into a queue, now and not by chance, what processes held that give no signs of life any more."""
        broker: Any = self
        self._looks.is_due = True
        try:
            broker.do_qsize(queue)
        finally:
            self._looks.is_due = False

    def _should_do_maintenance(self, command: str) -> int:
        is_due: bool = getattr(self._looks, "is_due", False)
        return 1 if is_due else super()._should_do_maintenance(command)

    @property
    def consumer_class(self) -> Any:
        """The consumer that begins with a look at what was left behind."""
        return _Consumer


class _Consumer(_RedisConsumer):
    def __init__(self, broker: LosslessRedisBroker, queue_name: str, prefetch: int, timeout: int) -> None:
        is_delay = queue_name.endswith(DELAY_SUFFIX)
        # Dramatiq asks for two messages a thread. One in reserve lies behind a running job while another process idles.
        super().__init__(broker, queue_name, prefetch if is_delay else max(1, prefetch // 2), timeout)
        self._freed = threading.Event()
        self._timeout_s = timeout / 1000
        self._queue = queue_name
        self._in_hand = broker.in_hand.setdefault(queue_name, set())
        if is_delay:
            # Dramatiq forgets the waiting messages of a consumer with the consumer.
            self._in_hand.clear()
        try:
            self._put_back()
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise ConnectionClosed(error) from None

    def _put_back(self) -> None:
        broker: Any = self.broker
        queue = self._queue
        held: Iterable[bytes] = broker.client.smembers(f"{broker.namespace}:__acks__.{broker.broker_id}.{queue}")
        if left := {found.decode() for found in held} - self._in_hand:
            broker.do_requeue(queue, *left)
            self.logger.warning("%d messages of queue %r were fetched and never came: put back.", len(left), queue)

    def __next__(self) -> Any:
        cached: Any = cast("Any", self).message_cache
        if not cached and self.outstanding_message_count >= self.prefetch:
            # Until a message ends there is no thread for another one; Dramatiq would sleep, and longer each time.
            self._freed.wait(self._timeout_s)
            self.misses = 0
        self._freed.clear()
        try:
            message: Any = super().__next__()
        except redis.TimeoutError as error:
            raise ConnectionClosed(error) from None
        if message is not None:
            self._in_hand.add(message.options[_ID])
        return message

    def ack(self, message: Any) -> None:
        super().ack(message)
        self._in_hand.discard(message.options[_ID])
        self._freed.set()

    def nack(self, message: Any) -> None:
        super().nack(message)
        self._in_hand.discard(message.options[_ID])
        self._freed.set()

    def requeue(self, messages: Iterable[Any]) -> None:
        given = list(messages)
        super().requeue(given)
        self._in_hand.difference_update(message.options[_ID] for message in given)
