"""A door for plain ``dramatiq``: ``dramatiq dexpy.broker:from_settings myapp.operations``."""

from __future__ import annotations

import dramatiq

from dexpy.runtime import current_runtime


def from_settings() -> dramatiq.Broker:
    """The broker that the environment and pyproject.toml name, put in force for Dramatiq.

    Without it, or a module that calls `dexpy.configure`, plain ``dramatiq`` looks for a broker on this machine.
    """
    broker = current_runtime().start().dispatcher.broker
    dramatiq.set_broker(broker)
    return broker
