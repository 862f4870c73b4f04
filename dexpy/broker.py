"""The broker for the command ``dramatiq``: ``dramatiq dexpy.broker:from_settings myapp.operations``."""

from __future__ import annotations

import dramatiq

from dexpy.runtime import current_runtime


def from_settings() -> dramatiq.Broker:
    """Return the broker of the settings, and make it the global one of Dramatiq.

    Without it, or a module that calls `dexpy.configure`, the command ``dramatiq`` connects to a broker on localhost.
    """
    broker = current_runtime().start().dispatcher.broker
    dramatiq.set_broker(broker)
    return broker
