"""The services of the runtime that a worker process uses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import attrs

from dexpy.foundation.services import Provider

if TYPE_CHECKING:
    from dexpy.enqueue.dispatcher import Dispatcher
    from dexpy.liveness.heartbeat import Heartbeat
    from dexpy.worker.watchdog import Watchdog


@attrs.frozen
class WorkerServices:
    """The services of one worker process.

    Attributes:
        dispatcher: Publishes messages.
        watchdog: Tracks the runs of this process.
        heartbeat: The heartbeat of this process; None when nothing is recorded.
    """

    dispatcher: Dispatcher
    watchdog: Watchdog
    heartbeat: Heartbeat | None

    def close(self) -> None:
        """Close the connections that this process holds."""
        if self.heartbeat is not None:
            self.heartbeat.stop()
        self.dispatcher.close()


current_worker: Provider[WorkerServices] = Provider("worker services")
"""The services of the current runtime."""
