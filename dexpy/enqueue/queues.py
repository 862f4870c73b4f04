"""Discover queues that are named only at run time: a worker serves them soon after their first message.

An operation may be sent to a queue that no class names, by ``async_(queue="urgent")`` or by a queue function.
A Dramatiq worker consumes only queues that its broker has declared, so a periodic task declares new ones.
"""

from __future__ import annotations

from dexpy.enqueue.transports import Transport
from dexpy.foundation.backoff import Backoff
from dexpy.foundation.errors import OptionsError
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.throttle import LogThrottle
from dexpy.policies.options import check_queue

DISCOVERY_INTERVAL_S = 1.0
"""How often a worker checks for pauses and new queues, in seconds."""
DISCOVERY_RETRY = Backoff(first_s=DISCOVERY_INTERVAL_S, longest_s=DISCOVERY_INTERVAL_S)
"""The pauses after failed checks: a pause takes effect within two seconds also after an outage."""

_invalid_names = LogThrottle(every_s=float("inf"))


def is_queue_name(name: object) -> bool:
    """Whether this is a valid queue name: a stored name may be any value."""
    try:
        check_queue(name, "")
    except OptionsError:
        return False
    return True


def declare_new_queues(transport: Transport) -> bool:
    """Declare the queues that have messages, so that a worker of this process consumes them.

    Returns:
        True, as a periodic task must.
    """
    for name in set(transport.known_queues()) - transport.broker.get_declared_queues():
        if is_queue_name(name):
            transport.broker.declare_queue(name)
        else:
            advice = "delete its messages; no worker runs them"
            _invalid_names.log(LogEvent.QUEUE_IGNORED, name, queue=name, advice=advice)
    return True
