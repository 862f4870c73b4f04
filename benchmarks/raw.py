"""The reference: a raw Dramatiq actor on Redis that does nothing."""

from __future__ import annotations

import os

import dramatiq
from dramatiq.brokers.redis import RedisBroker

from benchmarks.meter import Report, meter

broker = RedisBroker(url=os.environ["BENCH_REDIS"], namespace=os.environ["BENCH_NAMESPACE"])
broker.add_middleware(Report())
dramatiq.set_broker(broker)


@dramatiq.actor(queue_name="default")
def nothing(number: int) -> None:
    """Does nothing."""
    meter.tick()
