"""Replaces threads of Dramatiq's worker that have died, and discards the messages that they held."""

from __future__ import annotations

import threading
from typing import Any

import dramatiq

from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.redaction import class_path

CHECK_EVERY_S = 0.5
"""How often the threads are counted, in seconds."""


class ThreadReplacer(dramatiq.Middleware):
    """Replaces dead threads of the worker in this process; works under ``dexpy worker`` and plain ``dramatiq``."""

    def __init__(self) -> None:
        self._worker: Any = None
        self._messages: dict[int | None, Any] = {}
        self.deaths = 0
        """The number of dead threads found."""

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        """Remember the worker, whose threads run now."""
        self._worker = worker

    def before_worker_shutdown(self, broker: Any, worker: Any) -> None:
        """Forget the worker: its threads end normally from now on."""
        self._worker = None

    def before_process_message(self, broker: Any, message: Any) -> None:
        """Remember the message of this thread."""
        self._messages[threading.get_ident()] = message

    def after_ack(self, broker: Any, message: Any) -> None:
        """Forget the message of this thread."""
        self._messages.pop(threading.get_ident(), None)

    after_nack = after_ack

    def check(self) -> bool:
        """Replace the threads that have died.

        Returns:
            True, for `PeriodicTask`: the check succeeded.
        """
        worker = self._worker
        if worker is None:
            return True
        for thread in list(worker.workers):
            # `running` is a flag that the thread sets itself: False if it was stopped or has not started.
            if thread.running and not thread.is_alive():
                worker.workers.remove(thread)
                self._discard_message(worker, self._messages.pop(thread.ident, None))
                worker._add_worker()
                self._log_replacement("worker", thread)
        for queue, thread in list(worker.consumers.items()):
            if thread.running and not thread.is_alive():
                self._close(thread)
                del worker.consumers[queue]
                worker._add_consumer(queue, delay=queue in worker.broker.delay_queues)
                self._log_replacement(f"consumer of {queue}", thread)
        return True

    def _log_replacement(self, kind: str, thread: threading.Thread) -> None:
        self.deaths += 1
        log_event(LogEvent.WORKER_THREAD_DIED, thread_name=thread.name, kind=kind, advice="the thread was replaced")

    def _discard_message(self, worker: Any, message: Any) -> None:
        """Reject the message whose run ended a thread; delivered again, it would end the next one."""
        if message is None:
            return
        consumer = worker.consumers.get(message.queue_name)
        if consumer is None or consumer.consumer is None:
            return
        message.fail()
        consumer.post_process_message(message)
        worker.work_queue.task_done()

    def _close(self, thread: Any) -> None:
        try:
            thread.close()
        except Exception as error:  # noqa: BLE001 - from the broker's client; another consumer starts all the same
            log_event(LogEvent.CONSUMER_NOT_CLOSED, error=class_path(error))
