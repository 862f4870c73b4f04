"""The process that hosts an embedded worker: what prevents a start in it, and the worker that runs in it."""

from __future__ import annotations

import inspect
import os
import threading

import attrs
import dramatiq

from dexpy.configuration.settings import command_modules
from dexpy.foundation.errors import ConfigurationError
from dexpy.foundation.periodic import PeriodicThread
from dexpy.worker.services import WorkerServices

PREFORK_MODULE, FORK_FUNCTION = "gunicorn.arbiter", "spawn_worker"
"""The module of a process that forks web servers, and its function that calls all code of a forked one."""


@attrs.frozen
class RunningWorker:
    """A worker that serves its queues in this process.

    Attributes:
        pid: The process that started it; a forked child has only a copy of this object.
        services: The services of the runtime.
        worker: Dramatiq's worker.
        monitor: The thread that checks it.
    """

    pid: int
    services: WorkerServices
    worker: dramatiq.Worker
    monitor: PeriodicThread

    def remove_middleware(self) -> None:
        """Remove what Dramatiq's worker leaves on the broker: it would start consumers of the stopped worker."""
        middlewares = self.worker.broker.middleware
        middlewares[:] = [one for one in middlewares if getattr(one, "worker", None) is not self.worker]


class HostProcess:
    """The embedded worker of this process.

    Attributes:
        running: The worker; None without one.
        lock: Held while one starts.
    """

    def __init__(self) -> None:
        self.running: RunningWorker | None = None
        self.lock = threading.Lock()

    def check(self) -> None:
        """Check that a worker may start in this process.

        Raises:
            ConfigurationError: It may not; the message has the reason.
        """
        if self.running is not None and self.running.pid == os.getpid():
            raise ConfigurationError(
                "EmbeddedWorker: this process has an embedded worker already. Start one only, with more threads."
            )
        if self.running is not None:
            raise ConfigurationError(
                f"EmbeddedWorker: the process {self.running.pid} started a worker and then forked this one, which has "
                "copies of its locks. Start the worker after the fork."
            )
        if command_modules.get():
            raise ConfigurationError(
                "EmbeddedWorker: it was started while a command of dexpy loads the application. Start it with the web "
                "server, for example by `lifespan` or `wsgi`, and not when a module is imported."
            )
        if _is_before_fork():
            raise ConfigurationError(
                "EmbeddedWorker: it was started in the main process of gunicorn, which forks its workers. Start it "
                "after the fork: use `wsgi`, or call start() in `post_worker_init` of the configuration of gunicorn."
            )


def _is_before_fork() -> bool:
    """Return whether the calling code runs in the main process of a server that forks, for example preloaded."""
    frame = inspect.currentframe()
    while frame is not None:
        if frame.f_globals.get("__name__") == PREFORK_MODULE:
            return frame.f_code.co_name != FORK_FUNCTION
        frame = frame.f_back
    return False


host_process = HostProcess()
