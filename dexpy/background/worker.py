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

from dexpy.background.brokers.servers import NoAnswer, check_reachable
from dexpy.background.carriers import Carrier
from dexpy.background.dispatch import DEFAULT_QUEUE, Dispatcher
from dexpy.background.queues import declare_new_queues
from dexpy.declaration import registry
from dexpy.foundation.door import dispatcher_in_force
from dexpy.foundation.errors import ConfigurationError, DexpyError
from dexpy.foundation.log import line

LOOK_EVERY_S = 0.2
"""How often the main thread looks whether it is to stop, in seconds."""
POLL_MS = 100
"""The longest time that a Redis consumer sleeps between two looks at an empty queue, in milliseconds."""
SERVER_PREFETCH = 64
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
        tell: Told "ready", or "error" with a text, once.

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
        dispatcher.prepare()
        meet(dispatcher.broker)
        worker = make_worker(dispatcher.carrier, options)
        worker.start()
    except DexpyError as error:
        if options.log_level <= logging.DEBUG:
            traceback.print_exc()
        tell("error", str(error))
        return 2
    tell("ready", "")
    served = "all" if options.queues is None else ",".join(sorted(options.queues))
    line(logging.INFO, "worker.started", pid=os.getpid(), threads=options.threads, queues=served)
    idle_looks = 0
    while not stops:
        time.sleep(LOOK_EVERY_S)
        if os.getppid() != parent:
            line(logging.WARNING, "worker.orphaned", pid=os.getpid())
            break
        if options.burst and dispatcher.is_idle(options.queues) and not worker.work_queue.unfinished_tasks:
            # Twice, for what a consumer has taken from its server and not yet handed on.
            idle_looks += 1
            if dispatcher.transactional or idle_looks > 1:
                break
        else:
            idle_looks = 0
    worker.stop(timeout=int(options.shutdown_timeout_s * 1000))
    dispatcher.close()
    line(logging.INFO, "worker.stopped", pid=os.getpid())
    return 0


def meet(broker: dramatiq.Broker) -> None:
    """See whether the broker's server lets us in; one that is only away is waited for, by the consumers.

    Raises:
        ConfigurationError: It does not let us in, and waiting would not help.
    """
    try:
        check_reachable(broker)
    except NoAnswer as error:
        line(logging.WARNING, "broker.unreachable", message=str(error), advice="the worker goes on trying")


def make_worker(carrier: Carrier, options: WorkerOptions) -> dramatiq.Worker:
    """A Dramatiq worker for the queues that are known by now; others are found while it runs."""
    for name in class_queues() | (options.queues or frozenset()):
        carrier.broker.declare_queue(name)
    declare_new_queues(carrier)
    queues = None if options.queues is None else set(options.queues)
    worker = dramatiq.Worker(carrier.broker, queues=queues, worker_threads=options.threads, worker_timeout=POLL_MS)
    if not carrier.transactional:
        # Dramatiq's Redis consumer sleeps whenever its few prefetched messages are taken.
        worker.queue_prefetch = max(worker.queue_prefetch, SERVER_PREFETCH)
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
