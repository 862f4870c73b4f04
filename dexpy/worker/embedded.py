"""A worker inside another process, for example a web server: `EmbeddedWorker`."""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from collections.abc import AsyncGenerator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import timedelta
from types import TracebackType
from typing import Any, Self

import attrs

from dexpy.configuration.kinds import Duration, InvalidSetting
from dexpy.configuration.loading import Configuration
from dexpy.configuration.table import SETTINGS
from dexpy.configuration.values import WorkerGroup
from dexpy.foundation.errors import ConfigurationError, listed
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.foundation.periodic import PeriodicTask
from dexpy.worker.health import Health, health_of
from dexpy.worker.host_process import RunningWorker, host_process
from dexpy.worker.process import WorkerOptions, build_worker, class_queues
from dexpy.worker.services import WorkerServices, current_worker
from dexpy.worker.startup import require_broker

CHECK_EVERY_S = 0.5
"""How often an embedded worker checks its threads and its database file, in seconds."""


class EmbeddedWorker:
    """A worker in threads of this process, which starts and stops with it: for small deployments.

    It has the guarantees of ``dexpy worker``: heartbeat, recovery, relay, recurring tasks, timeouts and cancellations.
    It installs no signal handlers and does not change `logging`. A process has one at most.

    It is a context manager, also for ``async with``; `lifespan` and `wsgi` start it with a web server.

    Args:
        threads: Operations that run at once, 1 to 1000.
        queues: The queues to serve, the most urgent first; ``["*"]`` for all.
        shutdown_timeout: Seconds or a timedelta that running operations may take to end when it stops.
        polling_interval: Seconds or a timedelta, the longest pause between two polls of an idle queue.
        group: The worker group of the configuration file that has the options that are left out. It is necessary if the
            file has several groups.

    Options that are left out come from the settings of worker groups, such as ``DEXPY_THREADS``.

    Raises:
        ConfigurationError: An option is invalid.

    Example:
        >>> import dexpy
        >>> _ = dexpy.configure(database="sqlite:///shop.db")
        >>> with dexpy.EmbeddedWorker(threads=2) as worker:
        ...     worker.is_running
        True
        >>> worker.is_running
        False
    """

    def __init__(
        self,
        *,
        threads: int | None = None,
        queues: Sequence[str] | None = None,
        shutdown_timeout: timedelta | float | None = None,
        polling_interval: timedelta | float | None = None,
        group: str | None = None,
    ) -> None:
        options = {
            "threads": _checked("threads", threads),
            "queues": _checked("queues", queues if queues is None or isinstance(queues, str) else list(queues)),
            "shutdown_timeout_s": _seconds("shutdown_timeout", shutdown_timeout),
            "polling_interval_s": _seconds("polling_interval", polling_interval),
        }
        self._given = {name: value for name, value in options.items() if value is not None}
        if queues is not None:
            # None is the setting for all queues.
            self._given["queues"] = options["queues"]
        self._group = group
        self._timeout_s = 0.0
        self._running: RunningWorker | None = None
        self._is_stopped = False
        self._first_request = threading.Lock()

    @property
    def is_running(self) -> bool:
        """Whether it serves its queues in this process; False in a forked child."""
        return self._running is not None and self._running.pid == os.getpid()

    def health(self) -> Health:
        """Return its health, for an endpoint of the application.

        Returns:
            An object with `is_live` and `is_ready`, and with the reasons `live` and `ready`, which are empty if all is
            well.
        """
        running = self._running
        if running is None or running.pid != os.getpid():
            return Health(ready=("the worker is not running",))
        services = running.services
        health = health_of(services, running.worker, polling_interval_s=running.worker.worker_timeout / 1000)
        if services.watchdog.stuck_threads < running.worker.worker_threads:
            return health
        return attrs.evolve(health, live=(*health.live, "every thread runs an operation that ignores its timeout"))

    def start(self) -> Self:
        """Start the worker, and return it; the operations of the application must be imported.

        Raises:
            ConfigurationError: Settings, tables or broker do not permit it, the process has a worker already or may
                fork.
            DatabaseUnavailable: The database is unreachable, or lacks the tables.
        """
        with host_process.lock:
            host_process.check()
            options = self._options()
            services = current_worker.get()
            services.dispatcher.require_tables()
            queues = options.queues.names if options.queues is not None else class_queues()
            require_broker(services.dispatcher.broker, queues)
            worker = build_worker(services, options)
            worker.start()
            monitor = PeriodicTask("embedded", CHECK_EVERY_S, _Monitor(services, options, self).run_once).start()
            self._running = host_process.running = RunningWorker(os.getpid(), services, worker, monitor)
            self._timeout_s, self._is_stopped = options.shutdown_timeout_s, False
        # An exit without `stop`, for example by an exception; with it, this does nothing.
        atexit.register(self.stop)
        served = "all" if options.queues is None else str(options.queues)
        log_event(LogEvent.WORKER_STARTED, pid=os.getpid(), threads=options.threads, queues=served, group=options.group)
        return self

    def stop(self, timeout: timedelta | float | None = None) -> None:
        """Start no more runs, and wait for those that run; release the others, without an attempt.

        Does nothing if the worker is not running, or in a forked child.

        Args:
            timeout: Seconds or a timedelta, instead of the shutdown timeout.
        """
        timeout_s = _seconds("shutdown_timeout", timeout)
        with host_process.lock:
            running, self._is_stopped = self._running, True
            if running is None or running.pid != os.getpid():
                return
            self._running = host_process.running = None
        timeout_s = self._timeout_s if timeout_s is None else timeout_s
        log_event(LogEvent.WORKER_DRAINING, pid=running.pid, reason="stop() was called", timeout_s=timeout_s)
        atexit.unregister(self.stop)
        running.monitor.stop()
        try:
            running.worker.stop(timeout=int(timeout_s * 1000))
        finally:
            running.remove_middleware()
        # They cannot commit: their records are released, and another worker may run them.
        for run in running.services.watchdog.runs:
            run.cancel_token.cancel()
        log_event(LogEvent.WORKER_STOPPED, pid=running.pid)

    def __enter__(self) -> Self:
        """Start the worker."""
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the worker."""
        self.stop()

    async def __aenter__(self) -> Self:
        """Start the worker without blocking the event loop."""
        return await asyncio.to_thread(self.start)

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop the worker without blocking the event loop."""
        await asyncio.to_thread(self.stop)

    @asynccontextmanager
    async def lifespan(self, app: object) -> AsyncGenerator[None]:
        """Run the worker from the start of an ASGI application to its end: ``FastAPI(lifespan=worker.lifespan)``.

        Args:
            app: The application.
        """
        async with self:
            yield

    def wsgi(self, app: Callable[..., Iterable[bytes]]) -> Callable[..., Iterable[bytes]]:
        """Return a WSGI application that starts the worker with the first request of its process.

        So a server that forks its processes, with or without a preloaded application, starts one worker in each of
        them. The worker stops when the process exits.

        Args:
            app: The application, for example ``flask_app.wsgi_app``.
        """

        def application(environ: Any, start_response: Any) -> Iterable[bytes]:
            if not self.is_running and not self._is_stopped:
                self._start_once()
            return app(environ, start_response)

        return application

    def _start_once(self) -> None:
        """Start the worker, unless another thread has started it meanwhile."""
        with self._first_request:
            if not self.is_running:
                self.start()

    def _options(self) -> WorkerOptions:
        group = self._worker_group()
        options = WorkerOptions(
            (),
            group.threads,
            group.queues,
            shutdown_timeout_s=group.shutdown_timeout_s,
            polling_interval_s=group.polling_interval_s,
            group=group.name or None,
        )
        return attrs.evolve(options, **self._given)

    def _worker_group(self) -> WorkerGroup:
        groups = Configuration.load().worker_groups(() if self._group is None else (self._group,))
        group, *others = groups
        if others:
            raise ConfigurationError(
                f"EmbeddedWorker(): the configuration file has {len(groups)} worker groups: "
                f"{listed([group.name for group in groups])}. Choose one of them, for example "
                f"EmbeddedWorker(group={group.name!r})."
            )
        return group


class _Monitor:
    """Checks an embedded worker, which has no process of its own that could end and be replaced."""

    def __init__(self, services: WorkerServices, options: WorkerOptions, embedded: EmbeddedWorker) -> None:
        self._services = services
        self._options = options
        self._embedded = embedded
        self._is_stuck = False

    def run_once(self) -> bool:
        """Log a worker whose threads are all stuck, and stop one whose SQLite file was deleted or replaced."""
        is_stuck = self._services.watchdog.stuck_threads >= self._options.threads
        if is_stuck and not self._is_stuck:
            reason = "every thread runs an operation that ignores its timeout"
            log_event(LogEvent.WORKER_STUCK, pid=os.getpid(), reason=reason, advice="restart the process")
        self._is_stuck = is_stuck
        store = self._services.dispatcher.store
        if store is not None and store.database.is_file_replaced:
            log_event(
                LogEvent.DATABASE_FILE_REPLACED,
                path=store.database.path,
                advice="the file was deleted or replaced while the worker had it open; the embedded worker stops",
            )
            self._embedded.stop()
        return True


def _checked(name: str, value: object) -> Any:
    """Return the setting for an argument; None if it was left out."""
    if value is None:
        return None
    try:
        return SETTINGS[f"workers.{name}"].kind.from_file(value)
    except InvalidSetting as error:
        raise ConfigurationError(f"EmbeddedWorker({name}=...): {error.problem}") from None


def _seconds(name: str, value: timedelta | float | None) -> float | None:
    """Return an argument in seconds; None if it was left out."""
    if value is None:
        return None
    kind = SETTINGS[f"workers.{name}"].kind
    assert isinstance(kind, Duration)  # noqa: S101 - by the table of settings
    seconds: Any = value.total_seconds() if isinstance(value, timedelta) else value
    is_number = isinstance(seconds, (int, float)) and not isinstance(seconds, bool)
    if is_number and kind.at_least <= seconds <= kind.at_most:
        return float(seconds)
    raise ConfigurationError(
        f"EmbeddedWorker({name}=...): expected seconds or a timedelta, from {kind.at_least:g} to {kind.at_most:g} "
        f"seconds, got {value!r}."
    )
