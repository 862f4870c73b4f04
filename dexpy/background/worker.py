"""One worker process: imports the application, serves its queues with Dramatiq's worker, and stops when told."""

from __future__ import annotations

import importlib
import logging
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable
from typing import Any

import attrs
import dramatiq

from dexpy.background.brokers.bulk import is_rabbitmq
from dexpy.background.carriers import Carrier
from dexpy.background.dispatch import Dispatcher
from dexpy.background.meeting import compare_clocks, compare_databases, meet_broker, meet_database
from dexpy.background.plan import DEFAULT_QUEUE
from dexpy.background.queues import declare_new_queues
from dexpy.declaration import registry
from dexpy.foundation.door import dispatcher_in_force
from dexpy.foundation.errors import ConfigurationError, DexpyError
from dexpy.foundation.log import line
from dexpy.recording.database import is_only_down

LOOK_EVERY_S = 0.2
"""How often the main thread looks whether it is to stop, in seconds."""
POLL_MS = 100
"""The longest time that a Redis consumer sleeps between two looks at an empty queue, in milliseconds."""
SAID_AGAIN_S = 10.0
"""How often the log says that the broker is still away, in seconds."""
CONSUMER_LOST = "Consumer encountered a connection error"
"""How Dramatiq begins to say that."""
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""Held back by the parent while it makes a process, until that has handlers of its own."""


@attrs.frozen
class WorkerOptions:
    """What one worker process is to do.

    Attributes:
        modules: To import: they declare the operations, and may configure dexpy.
        threads: How many runs at once.
        queues: The only queues to serve; None for all.
        burst: Whether to end when nothing is due or running.
        shutdown_timeout_s: How long running operations may take to end after a signal.
        log_level: Of `logging`.
    """

    modules: tuple[str, ...]
    threads: int = 8
    queues: frozenset[str] | None = None
    burst: bool = False
    shutdown_timeout_s: float = 30.0
    log_level: int = logging.INFO


def import_modules(modules: tuple[str, ...]) -> None:
    """Import the application.

    Raises:
        ConfigurationError: A module cannot be imported; says which and why.
    """
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())
    for module in modules:
        try:
            importlib.import_module(module)
        except ModuleNotFoundError as error:
            if error.name is not None and (module == error.name or module.startswith(error.name + ".")):
                raise ConfigurationError(
                    f"The module {module!r} cannot be imported: there is no {error.name!r} in {os.getcwd()} or on the "
                    "Python path. Give the dotted name, as in `import`, and start in the folder that holds it."
                ) from error
            raise ConfigurationError(f"The module {module!r} cannot be imported: {error}.") from error
        except DexpyError:
            raise
        except Exception as error:
            raise ConfigurationError(
                f"The module {module!r} cannot be imported: {type(error).__name__}: {error}. "
                "Run with -v for the traceback."
            ) from error


def run_process(options: WorkerOptions, parent: int, tell: Callable[[str, str], None]) -> int:
    """Be a worker until told to stop.

    Args:
        options: What to do.
        parent: The process to stop with.
        tell: Told "ready", or with a text "error", or "away" for a server that may come back, once.

    Returns:
        The exit status.
    """
    set_up_logging(options.log_level)
    # A list, not an Event: its lock might be held by this very thread when the signal comes.
    stops: list[int] = []
    # The terminal's Ctrl-C goes to the whole group; the supervisor turns it into one TERM.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, _frame: stops.append(number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
    try:
        import_modules(options.modules)
        dispatcher: Dispatcher = dispatcher_in_force()
        if options.burst:
            dispatcher.prepare()
        elif not meet_database(dispatcher.prepare, lambda: bool(stops) or os.getppid() != parent):
            return 0
        meet_broker(dispatcher.broker)
        if dispatcher.store is not None:
            compare_clocks(dispatcher.store.database)
            compare_databases(dispatcher.store)
        if dispatcher.heart is not None:
            dispatcher.heart.serve(options.threads, options.queues)
        worker = make_worker(dispatcher.carrier, options)
    except DexpyError as error:
        if options.log_level <= logging.DEBUG:
            traceback.print_exc()
        tell("away" if is_only_down(error) else "error", str(error))
        return 2
    # Before it begins: an operation that kills it at once is no reason to say that workers cannot start.
    tell("ready", "")
    worker.start()
    served = "all" if options.queues is None else ",".join(sorted(options.queues))
    line(logging.INFO, "worker.started", pid=os.getpid(), threads=options.threads, queues=served)
    idle_looks = 0
    patience_s = options.shutdown_timeout_s
    while not stops:
        time.sleep(LOOK_EVERY_S)
        if os.getppid() != parent:
            line(logging.WARNING, "worker.orphaned", pid=os.getpid())
            break
        if dispatcher.watch is not None and dispatcher.watch.stuck >= options.threads:
            line(logging.ERROR, "worker.stuck", pid=os.getpid(), why="no thread is left that could run anything")
            # How these runs end has been written; none of them will hear that it is to stop.
            patience_s = 0.0
            break
        if options.burst and dispatcher.is_idle(options.queues) and not worker.work_queue.unfinished_tasks:
            # Twice, for what a consumer has taken from its server and not yet handed on.
            idle_looks += 1
            if dispatcher.transactional or idle_looks > 1:
                break
        else:
            idle_looks = 0
    worker.stop(timeout=int(patience_s * 1000))
    dispatcher.close()
    line(logging.INFO, "worker.stopped", pid=os.getpid())
    return 0


def make_worker(carrier: Carrier, options: WorkerOptions) -> dramatiq.Worker:
    """A Dramatiq worker for the queues that are known by now; others are found while it runs."""
    for name in class_queues() | (options.queues or frozenset()):
        carrier.broker.declare_queue(name)
    declare_new_queues(carrier)
    queues = None if options.queues is None else set(options.queues)
    worker = dramatiq.Worker(carrier.broker, queues=queues, worker_threads=options.threads, worker_timeout=POLL_MS)
    if is_rabbitmq(carrier.broker) and not hasattr(carrier.broker, "places"):
        # The application's own: at least no second message for each thread and queue.
        worker.queue_prefetch = options.threads
    return worker


def class_queues() -> frozenset[str]:
    """The queues that the declared operations name."""
    named: set[str] = {DEFAULT_QUEUE}
    for name in registry.names():
        queue: Any = registry.find(name).contract.options.queue
        if isinstance(queue, str):
            named.add(queue)
    return frozenset(named)


def set_up_logging(level: int) -> None:
    """Lines of dexpy to standard error; of Dramatiq only what matters, unless asked for more."""
    logging.basicConfig(
        level=level, format="%(asctime)s %(levelname)-7s [%(process)d] %(message)s", stream=sys.stderr, force=True
    )
    logging.getLogger("dramatiq").setLevel(logging.WARNING if level > logging.DEBUG else logging.INFO)
    if level > logging.DEBUG:
        # Pages of tracebacks for each try; the consumers say the same in a line.
        logging.getLogger("pika").setLevel(logging.CRITICAL + 1)
        # One for each connection that is lost while it is given back; the pool makes a new one.
        logging.getLogger("sqlalchemy.pool").setLevel(logging.CRITICAL + 1)
        for handler in logging.getLogger().handlers:
            handler.addFilter(OneForAll())


class OneForAll(logging.Filter):
    """Lets only one of a process's consumers say that the broker is away, and only every few seconds."""

    def __init__(self) -> None:
        super().__init__()
        self._said_at = -SAID_AGAIN_S

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether a line is shown; one about a lost broker is put into dexpy's words."""
        if not record.name.startswith("dramatiq.worker") or not str(record.msg).startswith(CONSUMER_LOST):
            return True
        now = time.monotonic()
        if now - self._said_at < SAID_AGAIN_S:
            return False
        self._said_at = now
        said = " ".join(record.getMessage().partition(":")[2].split())
        record.levelno, record.levelname = logging.WARNING, "WARNING"
        record.msg, record.args = "broker.unreachable message=%r advice='the worker goes on trying'", (said,)
        return True
