"""Queues that are named only at run time: a worker begins to serve them soon after the first message for them.

An operation may go to a queue that no class names, with ``async_(queue="urgent")`` or by a queue function.
The consumers of a Dramatiq worker are made for the queues that its broker knows, so somebody has to look.
"""

from __future__ import annotations

from dexpy.background.carriers import Carrier

LOOK_EVERY_S = 1.0
"""How often a worker looks for new queues, in seconds."""


def declare_new_queues(carrier: Carrier) -> bool:
    """Declare the queues that something was sent to; a worker that runs here begins to consume them.

    Returns:
        True: the look went well.
    """
    for name in set(carrier.known_queues()) - carrier.broker.get_declared_queues():
        carrier.broker.declare_queue(name)
    return True
