"""The shop with a slow middleware, so that processes run operations before they report their start."""

import time
from typing import Any

import dramatiq

import dexpy
from apps.shop_failpoints import *  # noqa: F403 - all of it


class SlowStart(dramatiq.Middleware):
    """Takes longer than the first operations."""

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        time.sleep(0.5)


runtime = dexpy.configure()
runtime.broker.add_middleware(SlowStart())
