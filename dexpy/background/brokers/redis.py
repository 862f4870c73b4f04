"""Dramatiq's broker over Redis, made to get back what a cut connection leaves behind, and to hold no more than it runs.

A fetch moves messages into the set of those that this process holds, and answers with them. When the connection is cut
before the answer is read, nobody has them: not this process, and no other one as long as this one gives signs of life.
So whenever a consumer begins anew, it puts back what is in the set and not in hand.
"""

# mypy: disable-error-code=no-untyped-call
# Dramatiq's broker for Redis has no types.

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any, cast
from uuid import uuid4

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer  # pyright: ignore[reportPrivateUsage]
from dramatiq.common import current_millis
from dramatiq.errors import ConnectionClosed
from redis.exceptions import OutOfMemoryError, ReadOnlyError

from dexpy.background.brokers.places import Places, ThreadCount

DELAY_SUFFIX = ".DQ"
"""Of a queue whose messages wait in the memory of a consumer."""

_ID = "redis_message_id"
MAY_PASS: tuple[type[Exception], ...] = (redis.TimeoutError, ReadOnlyError, OutOfMemoryError)
"""What a server says that is stuck, fails over or is full: Dramatiq would end no message of it after that."""


class LosslessRedisBroker(RedisBroker):
    """See the module.

    Attributes:
        in_hand: Ids of the messages that this process has been handed and has not ended, for each queue.
        places: For the messages of all queues but those that wait for their time.
        threads: Of the worker.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # pyright: ignore[reportUnknownMemberType]
        self.in_hand: dict[str, set[str]] = {}
        self.places = Places()
        self.threads = ThreadCount()
        self.add_middleware(self.threads)
        self._looks = threading.local()

    def do_fetch(self, queue: str, wanted: int) -> list[Any]:
        """Fetch messages of a queue, at most as many as there are places for."""
        broker: Any = self
        fetch: Any = broker._dispatch("fetch")
        if queue.endswith(DELAY_SUFFIX):
            return cast("list[Any]", fetch(queue, wanted))
        granted = self.places.reserve(queue, wanted)
        found: list[Any] = []
        try:
            if granted:
                found = fetch(queue, granted)
        finally:
            self.places.settle(queue, granted, len(found))
        return found

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
        self._is_delay = queue_name.endswith(DELAY_SUFFIX)
        places = prefetch if self._is_delay else broker.threads.places(prefetch)
        super().__init__(broker, queue_name, min(prefetch, places), timeout)
        self._freed = threading.Event()
        self._timeout_s = timeout / 1000
        self._queue = queue_name
        self._places = Places() if self._is_delay else broker.places
        self._seeker = self._places.enter(queue_name, places, self._freed.set)
        self._in_hand = broker.in_hand.setdefault(queue_name, set())
        if self._is_delay:
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
        if not (cached or self._is_delay):
            # Cleared before asking, so that what is freed meanwhile is not slept over.
            self._freed.clear()
            if not self._places.is_free(self._seeker):
                # Until a message ends there is no thread for another one; Dramatiq would sleep, and longer each time.
                self._freed.wait(self._timeout_s)
                self.misses = 0
        try:
            message: Any = super().__next__()
        except redis.TimeoutError as error:
            raise ConnectionClosed(error) from None
        if message is not None:
            self._in_hand.add(message.options[_ID])
            self._places.hand_on(self._seeker, message)
        return message

    def ack(self, message: Any) -> None:
        with self._ending(message):
            super().ack(message)

    def nack(self, message: Any) -> None:
        with self._ending(message):
            super().nack(message)

    @contextmanager
    def _ending(self, message: Any) -> Generator[None]:
        """The end of a message, after which it has no place; unless Dramatiq is to try once more."""
        try:
            yield
        except ConnectionClosed:
            raise
        except MAY_PASS as error:
            raise ConnectionClosed(error) from None
        except BaseException:
            self._let_go(message)
            raise
        self._let_go(message)

    def _let_go(self, message: Any) -> None:
        self._in_hand.discard(message.options[_ID])
        self._places.let_go(message)

    def requeue(self, messages: Iterable[Any]) -> None:
        given = list(messages)
        super().requeue(given)
        for message in given:
            self._let_go(message)
