"""The slots of a process are not offered to the consumers of paused queues."""

from __future__ import annotations

import threading

from dexpy.brokers.prefetch import Prefetch
from dexpy.brokers.queue_gate import QueueGate


def test_a_free_slot_wakes_no_consumer_of_a_paused_queue() -> None:
    gate = QueueGate()
    prefetch = Prefetch(gate)
    woken = {name: threading.Event() for name in ("paused", "active")}
    waiters = {name: prefetch.register(name, 1, event.set) for name, event in woken.items()}
    message = object()
    assert prefetch.try_take(waiters["active"], message)
    assert not any(prefetch.has_free_slot(waiter) for waiter in waiters.values())
    gate.paused = frozenset({"paused"})

    prefetch.release(message)

    assert {name: event.is_set() for name, event in woken.items()} == {"paused": False, "active": True}

    assert prefetch.try_take(waiters["active"], message)
    assert not any(prefetch.has_free_slot(waiter) for waiter in waiters.values())
    gate.paused = frozenset()
    prefetch.release(message)
    assert woken["paused"].is_set(), "it was polled least recently"
