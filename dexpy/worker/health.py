"""The health of a worker process: whether it is live, and whether it is ready for runs."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import attrs
import dramatiq

from dexpy.worker.services import WorkerServices

FETCH_LATE_S = 10.0
"""A consumer that has not polled its queue for longer than this, in seconds, is not ready."""
WATCHDOG_LATE_S = 60.0
"""A watchdog whose last check is older than this, in seconds, is not live: a database may delay a check."""
REPORT_EVERY_S = 1.0
"""How often a process reports its health, in seconds."""
MAX_REASONS = 5
MAX_LENGTH = 100
"""The limits of a report, which must fit into one atomic write to a pipe."""


@attrs.frozen
class Health:
    """The health of one process.

    Attributes:
        live: Why the process should be restarted; empty if it is live.
        ready: Why it does not run operations now, besides the reasons of `live`; empty if it is ready.
        is_stopping: Whether it starts no more runs, and reports nothing more.
    """

    live: tuple[str, ...] = ()
    ready: tuple[str, ...] = ()
    is_stopping: bool = False

    @property
    def is_live(self) -> bool:
        """Whether it need not be restarted."""
        return not self.live

    @property
    def is_ready(self) -> bool:
        """Whether it runs operations now."""
        return not (self.live or self.ready or self.is_stopping)

    def encode(self) -> str:
        """Return it as JSON of bounded length."""
        reasons = {
            name: [text[:MAX_LENGTH] for text in getattr(self, name)[:MAX_REASONS]] for name in ("live", "ready")
        }
        return json.dumps({**reasons, "is_stopping": self.is_stopping}, ensure_ascii=False)

    @classmethod
    def decode(cls, text: str) -> Health:
        """Return what `encode` has encoded."""
        fields: dict[str, Any] = json.loads(text)
        return cls(tuple(fields["live"]), tuple(fields["ready"]), fields["is_stopping"])


class PollingWorker(dramatiq.Worker):
    """Dramatiq's worker, which remembers when each consumer has last polled its queue."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.polled_at: dict[str, float] = {}

    def _add_consumer(self, queue_name: str, *, delay: bool = False) -> None:
        known = self.consumers.get(queue_name)
        super()._add_consumer(queue_name, delay=delay)
        consumer = self.consumers.get(queue_name)
        if consumer is None or consumer is known:
            return
        # Called after each poll of the broker, with or without a message; not after an error.
        handle_delayed_messages = consumer.handle_delayed_messages

        def after_poll() -> None:
            self.polled_at[queue_name] = time.monotonic()
            handle_delayed_messages()

        self.polled_at[queue_name] = time.monotonic()
        consumer.handle_delayed_messages = after_poll  # type: ignore[method-assign]

    def late_queues(self, late_s: float) -> dict[str, float]:
        """Return the queues that were not polled for longer than this, with the seconds since the last poll."""
        now = time.monotonic()
        late = {name: now - polled_at for name, polled_at in list(self.polled_at.items()) if now - polled_at > late_s}
        return {name: age_s for name, age_s in sorted(late.items()) if not self._is_paused(name)}

    def _is_paused(self, queue_name: str) -> bool:
        consumer = self.consumers.get(queue_name)
        return consumer is None or consumer.paused


def health_of(services: WorkerServices, worker: dramatiq.Worker, *, polling_interval_s: float) -> Health:
    """Return the health of a running worker.

    Args:
        services: The services of the process.
        worker: Its worker.
        polling_interval_s: The longest pause between two polls of an idle queue, in seconds.
    """
    live: list[str] = []
    watchdog_age_s = services.watchdog.checked_s_ago
    if watchdog_age_s > WATCHDOG_LATE_S:
        live.append(f"watchdog: its last check was {watchdog_age_s:.0f} s ago")
    ready: list[str] = []
    if services.heartbeat is not None and (reason := services.heartbeat.why_late()) is not None:
        ready.append(f"heartbeat: {reason}")
    if isinstance(worker, PollingWorker):
        late = worker.late_queues(max(FETCH_LATE_S, 3 * polling_interval_s))
        ready += [f"broker: the queue {name!r} was last polled {age_s:.0f} s ago" for name, age_s in late.items()]
    return Health(tuple(live), tuple(ready))


class HealthReports:
    """Reports the health of this process to its parent, from the main thread.

    Args:
        services: The services of the process.
        worker: Its worker.
        polling_interval_s: The longest pause between two polls of an idle queue, in seconds.
        send: Sends a report; None to send nothing.
    """

    def __init__(
        self,
        services: WorkerServices,
        worker: dramatiq.Worker,
        polling_interval_s: float,
        send: Callable[[str, str], None] | None,
    ) -> None:
        self._services = services
        self._worker = worker
        self._polling_interval_s = polling_interval_s
        self._send = send
        self._next_at = 0.0

    def report_if_due(self) -> None:
        """Report every second."""
        if self._send is not None and time.monotonic() >= self._next_at:
            self._next_at = time.monotonic() + REPORT_EVERY_S
            health = health_of(self._services, self._worker, polling_interval_s=self._polling_interval_s)
            self._send("health", health.encode())

    def end(self) -> None:
        """Report that the process stops, and reports nothing more."""
        if self._send is not None:
            self._send("health", Health(is_stopping=True).encode())
            self._send = None
