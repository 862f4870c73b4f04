"""Dramatiq's broker for Redis, changed to recover messages after a lost connection and to hold no more than it runs.

A fetch moves messages into the set of those that this process holds, and returns them. If the connection is lost before
the answer is read, no process runs the messages while this one sends heartbeats.
Therefore a consumer that starts requeues the messages of the set that are not in progress.

A message is identified by its id in the list; `validation` checks its content.
"""

# mypy: disable-error-code=no-untyped-call
# Dramatiq's broker for Redis has no types.

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Sequence
from contextlib import contextmanager, suppress
from typing import Any, cast
from uuid import uuid4

import dramatiq
import redis
from dramatiq.brokers.redis import RedisBroker, _RedisConsumer  # pyright: ignore[reportPrivateUsage]
from dramatiq.common import compute_backoff, current_millis
from dramatiq.errors import ConnectionClosed
from redis.sentinel import MasterNotFoundError, Sentinel

from dexpy.brokers.diagnostics import is_temporary
from dexpy.brokers.message_validation import DELAY_SUFFIX, InvalidMessage, MessageValidator
from dexpy.brokers.prefetch import Prefetch, ThreadCount
from dexpy.brokers.queue_gate import QueueGate
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.trace import MAX_NAME_LENGTH, is_name

_ID = "redis_message_id"
MAX_FETCHED = 1000
"""The number of messages in one answer."""
FETCH = """
redis.call("zadd", KEYS[1] .. ":__heartbeats__", ARGV[2], ARGV[3])
local queue = KEYS[1] .. ":" .. ARGV[1]
local acks = KEYS[1] .. ":__acks__." .. ARGV[3] .. "." .. ARGV[1]
local found = {}
for index = 5, #ARGV do
  if redis.call("llen", KEYS[1] .. ":" .. ARGV[index]) > 0 then return index end
end
for number = 1, tonumber(ARGV[4]) do
  local id = redis.call("lpop", queue)
  if not id then break end
  local body = redis.call("hget", queue .. ".msgs", id)
  if body then redis.call("sadd", acks, id) end
  found[number] = {id, body}
end
return found
"""
"""Dramatiq's fetch, changed to return each message's id too; a message without a body was deleted.

Further arguments are the queues that come before this one: if one of them has messages, its index is returned.
"""
FIRST_QUEUE_INDEX = 5


class NamedSentinel(Sentinel):
    """Sentinels whose error names the primary that they do not know; that of the client has its passwords too."""

    def discover_master(self, service_name: str) -> tuple[str, int]:
        """Return host and port of a primary."""
        with suppress(MasterNotFoundError):
            address: tuple[str, int] = cast("Any", super()).discover_master(service_name)
            return address
        raise MasterNotFoundError(f"no Sentinel knows an available primary {service_name!r}")


class DexpyRedisBroker(RedisBroker):
    """A broker for Redis with recovery and a limit on its messages; see the module.

    Attributes:
        in_progress: The ids of the messages that this process has fetched and not ended, by queue.
        prefetch: The slots for the messages of all queues but those of delayed messages.
        threads: The number of the worker's threads.
        gate: The paused queues, and the order of the others.
    """

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)  # pyright: ignore[reportUnknownMemberType]
        self.validator = MessageValidator(self)
        self._fetch = cast("Any", self).client.register_script(FETCH)
        self.in_progress: dict[str, set[str]] = {}
        self.gate = QueueGate(self.get_declared_queues)
        self.prefetch = Prefetch(self.gate)
        self.threads = ThreadCount()
        self.add_middleware(self.threads)
        self._maintenance = threading.local()

    def stop_fetching(self) -> None:
        """Fetch no more messages in this process, except delayed ones; acknowledgements continue."""
        self.prefetch.close()

    def do_fetch(self, queue: str, count: int) -> list[Any]:
        """Fetch at most as many messages of a queue as there are free slots."""
        if queue.endswith(DELAY_SUFFIX):
            delayed: list[Any] = self._fetch_messages(queue, count)
            return delayed
        if queue in self.gate.paused:
            return []
        earlier_queues = self.gate.earlier_queues(queue)
        granted = self.prefetch.reserve(queue, count)
        fetched: list[Any] = []
        try:
            if granted:
                answer = self._fetch_messages(queue, granted, earlier_queues)
                if not isinstance(answer, int):
                    fetched = answer
                elif (waiter := self.prefetch.waiter_of(earlier_queues[answer - FIRST_QUEUE_INDEX])) is not None:
                    # Its consumer may be in the pause of an empty queue.
                    waiter.wake()
        finally:
            self.prefetch.finish_fetch(queue, granted, len(fetched))
        return fetched

    def _fetch_messages(self, queue: str, count: int, earlier_queues: Sequence[str] = ()) -> Any:
        broker: Any = self
        if broker._should_do_maintenance("fetch"):
            self.recover_messages(queue)
        arguments = [queue, current_millis(), broker.broker_id, min(count, MAX_FETCHED), *earlier_queues]
        return self._fetch(keys=[broker.namespace], args=arguments)

    def enqueue_together(self, messages: Sequence[dramatiq.Message[Any]]) -> None:
        """Enqueue messages that are due now, in one round trip."""
        broker: Any = self
        pipeline: Any = broker.client.pipeline(transaction=False)
        copies = [cast("Any", message).copy(options={_ID: str(uuid4())}) for message in messages]
        for copy in copies:
            broker.emit_before("enqueue", copy, None)
            # The call of `do_enqueue`, on the pipeline instead of the client.
            arguments = ["enqueue", current_millis(), copy.queue_name, broker.broker_id, broker.heartbeat_timeout]
            arguments += [broker.dead_message_ttl, 0, broker._max_unpack_size(), copy.options[_ID], copy.encode()]
            broker.scripts["dispatch"](keys=[broker.namespace], args=arguments, client=pipeline)
        pipeline.execute()
        for copy in copies:
            broker.emit_after("enqueue", copy, None)

    def recover_messages(self, queue: str) -> None:
        """Requeue the messages of processes without a heartbeat, which Dramatiq does at random fetches only."""
        broker: Any = self
        self._maintenance.is_due = True
        try:
            broker.do_qsize(queue)
        finally:
            self._maintenance.is_due = False

    def _should_do_maintenance(self, command: str) -> int:
        is_due: bool = getattr(self._maintenance, "is_due", False)
        return 1 if is_due else super()._should_do_maintenance(command)

    @property
    def consumer_class(self) -> Any:
        """The consumer that requeues lost messages when it starts."""
        return _Consumer


class _Consumer(_RedisConsumer):
    def __init__(self, broker: DexpyRedisBroker, queue_name: str, prefetch: int, timeout: int) -> None:
        self._is_delay = queue_name.endswith(DELAY_SUFFIX)
        capacity = prefetch if self._is_delay else broker.threads.capacity(prefetch)
        super().__init__(broker, queue_name, min(prefetch, capacity), timeout)
        self._freed = threading.Event()
        self._timeout_s = timeout / 1000
        self._queue = queue_name
        self._prefetch = Prefetch() if self._is_delay else broker.prefetch
        self._waiter = self._prefetch.register(queue_name, capacity, self._freed.set)
        self._in_progress = broker.in_progress.setdefault(queue_name, set())
        if self._is_delay:
            # Dramatiq drops a consumer together with its delayed messages.
            self._in_progress.clear()
        try:
            self._requeue_lost()
        except redis.RedisError as error:
            raise ConnectionClosed(error) from None

    def _requeue_lost(self) -> None:
        broker: Any = self.broker
        queue = self._queue
        pending: Iterable[bytes] = broker.client.smembers(f"{broker.namespace}:__acks__.{broker.broker_id}.{queue}")
        # Compare bytes: an id in the list may be any bytes.
        if lost := set(pending) - {message_id.encode() for message_id in self._in_progress}:
            broker.do_requeue(queue, *lost)
            log_event(LogEvent.MESSAGE_REQUEUED, queue=queue, count=len(lost))

    def __next__(self) -> Any:
        cached: Any = cast("Any", self).message_cache
        if not (cached or self._is_delay):
            # Clear before the check, to notice a slot that is freed meanwhile.
            self._freed.clear()
            if not self._prefetch.has_free_slot(self._waiter):
                # No thread is free until a message ends; Dramatiq would sleep, longer each time.
                self._freed.wait(self._timeout_s)
                self.misses = 0
        try:
            return self._next_valid()
        except redis.RedisError as error:
            # This includes a key of another type, which Dramatiq would log with a traceback each time.
            raise ConnectionClosed(error) from None

    def _next_valid(self) -> Any:
        """Return the next valid message; None when a fetch returned none."""
        consumer, broker = cast("Any", self), cast("Any", self.broker)
        fetched: list[Any] = consumer.message_cache
        if not fetched:
            count = consumer.prefetch - len(consumer.queued_message_ids)
            if count > 0:
                consumer.message_cache = fetched = broker.do_fetch(self._queue, count)
            if not fetched:
                consumer.misses, backoff_ms = compute_backoff(consumer.misses, max_backoff=consumer.timeout)
                self._freed.wait(backoff_ms / 1000)
                return None
        consumer.misses = 0
        while fetched:
            message_id, body = fetched.pop(0)
            try:
                message = self._read(message_id, body)
            except InvalidMessage as error:
                broker.validator.refuse(error, self._queue, message_id, is_kept=body is not None)
                if body is not None:
                    broker.do_nack(self._queue, message_id)
                if not self._is_delay:
                    self._prefetch.discard(self._waiter)
                continue
            consumer.queued_message_ids.add(message.options[_ID])
            self._in_progress.add(message.options[_ID])
            self._prefetch.start(self._waiter, message)
            return message
        return None

    def _read(self, message_id: bytes, body: bytes | None) -> dramatiq.MessageProxy:
        if body is None:
            raise InvalidMessage("message: no message has the id in the list")
        broker: Any = self.broker
        message = broker.validator.read(body, self._queue)
        text_id = message_id.decode("utf-8", "replace")
        if not is_name(text_id, MAX_NAME_LENGTH) or text_id.encode() != message_id:
            raise InvalidMessage(f"id: expected text of 1 to {MAX_NAME_LENGTH} printable characters")
        message.options[_ID] = text_id
        return dramatiq.MessageProxy(message)

    def ack(self, message: Any) -> None:
        with self._released_after(message):
            cast("Any", self.broker).do_ack(self._queue, message.options[_ID])

    def nack(self, message: Any) -> None:
        with self._released_after(message):
            cast("Any", self.broker).do_nack(self._queue, message.options[_ID])

    @contextmanager
    def _released_after(self, message: Any) -> Generator[None]:
        """Free the slot of a message after the block, unless Dramatiq retries the block."""
        try:
            yield
        except redis.RedisError as error:
            # Dramatiq retries after a `ConnectionClosed`; after another error it would acknowledge nothing.
            if isinstance(error, (redis.ConnectionError, redis.TimeoutError)) or is_temporary(error):
                raise ConnectionClosed(error) from None
            self._release(message)
            raise
        except BaseException:
            self._release(message)
            raise
        self._release(message)

    def _release(self, message: Any) -> None:
        self._in_progress.discard(message.options[_ID])
        cast("Any", self).queued_message_ids.discard(message.options[_ID])
        self._prefetch.release(message)

    def requeue(self, messages: Iterable[Any]) -> None:
        requeued = list(messages)
        super().requeue(requeued)
        for message in requeued:
            self._release(message)
