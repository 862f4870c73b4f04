"""The mortals in processes that are at work before their start is over: some middleware of the application is slow."""

import time
from typing import Any

import dramatiq
from mortals import *  # noqa: F403 - all of it

import dexpy


class SlowStart(dramatiq.Middleware):
    """Takes longer than the first operations."""

    def after_worker_boot(self, broker: Any, worker: Any) -> None:
        time.sleep(0.5)


runtime = dexpy.configure()
runtime.broker.add_middleware(SlowStart())
