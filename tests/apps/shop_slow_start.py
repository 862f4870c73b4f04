"""The shop with a slow middleware: processes run operations before they report their start."""

import time
from typing import Any

import dramatiq

import dexpy
from apps.shop_failpoints import *  # noqa: F403 - all of it


class SlowStart(dramatiq.Middleware):
    """Delays the report of the start until the first operations have run."""

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        time.sleep(0.5)


runtime = dexpy.configure()
runtime.broker.add_middleware(SlowStart())
