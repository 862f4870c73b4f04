"""The shop on a Dramatiq broker of the application, which has a middleware and an actor."""

import os
from typing import Any

import dramatiq
from dramatiq.brokers.rabbitmq import RabbitmqBroker
from dramatiq.brokers.redis import RedisBroker

import dexpy
from apps.shop import *  # noqa: F403 - all of it


class Stamp(dramatiq.Middleware):
    """A middleware of the application that appends the names of executed actors to a file."""

    def after_process_message(self, broker: Any, message: Any, *, result: Any = None, exception: Any = None) -> None:
        with open(os.path.join(os.environ["SHOP_FOLDER"], "stamps"), "a") as file:
            file.write(f"{message.actor_name}\n")


def make_broker(url: str) -> dramatiq.Broker:
    """A middleware of the application, independent of dexpy."""
    if url.startswith("amqp"):
        return RabbitmqBroker(url=url)
    address, _, namespace = url.partition("?namespace=")
    return RedisBroker(url=address, namespace=namespace)


broker = make_broker(os.environ["SHOP_BROKER"])
broker.add_middleware(Stamp())


@dramatiq.actor(broker=broker, queue_name="old_jobs", max_retries=3, min_backoff=50)
def old_job(word: str) -> None:
    """Fail once; Dramatiq retries this actor of the application."""
    path = os.path.join(os.environ["SHOP_FOLDER"], "old_job")
    with open(path, "a") as file:
        file.write(f"{word}\n")
    with open(path) as file:
        if len(file.readlines()) == 1:
            raise RuntimeError("once")


runtime = dexpy.configure(broker=broker)
