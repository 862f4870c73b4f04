"""`PauseCheck`: reads the pauses every second in each worker, and ends them for its consumers and held runs."""

from __future__ import annotations

from collections.abc import Callable

from dexpy.brokers.queue_gate import QueueGate
from dexpy.enqueue.dispatcher import Dispatcher
from dexpy.enqueue.held_runs import HeldRuns
from dexpy.recording.pauses import Paused
from dexpy.recording.store import Store


class PauseCheck:
    """A periodic check of the pauses, before the discovery of queues.

    Args:
        store: The store of the pauses.
        dispatcher: Publishes held runs; its broker has the gate of the consumers.
        discover_queues: Discovers new queues; returns whether it succeeded.
    """

    def __init__(self, store: Store, dispatcher: Dispatcher, discover_queues: Callable[[], bool]) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._discover_queues = discover_queues
        self._held_runs = HeldRuns(store, dispatcher)
        self._known = Paused()

    def run_once(self) -> bool:
        """Read the pauses, publish the runs of those that are over, and discover queues.

        Returns:
            Whether it succeeded.
        """
        self._dispatcher.require_tables()
        self._store.pauses.on_read = self._set_gate
        paused = self._store.pauses.refresh()
        is_successful = self._discover_queues()
        if over := self._known.keys - paused.keys:
            # The relay releases them too, but later.
            self._held_runs.release_keys(over)
            self._held_runs.make_direct_due()
            self._dispatcher.wake_workers()
        self._known = paused
        return is_successful

    def _set_gate(self, paused: Paused) -> None:
        gate: QueueGate | None = getattr(self._dispatcher.broker, "gate", None)
        if gate is not None:
            gate.paused = paused.queues
