"""The parent of worker processes: starts them, replaces those that die, and stops them together.

It never imports the application: only the children do, so that processes share no engine, connection or thread.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

import attrs

from dexpy.foundation.backoff import Backoff
from dexpy.foundation.errors import ConfigurationError
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.worker.child import Child, answer
from dexpy.worker.dumps import ANSWER_WITHIN_S, DUMP_SIGNALS, FALLBACK
from dexpy.worker.health_server import HealthServer, close_inherited
from dexpy.worker.importing import StartupError
from dexpy.worker.process import EXIT_REASON_LOGGED, WorkerOptions, run_process
from dexpy.worker.recycling import EXIT_RECYCLED
from dexpy.worker.signals import STOP_SIGNALS

POLL_S = 0.1
BACKOFF = Backoff(first_s=0.5, longest_s=30.0)
"""The pauses before a process that dies repeatedly is replaced."""
HEALTHY_AFTER_S = 60.0
"""A process that ran at least so long is replaced without a longer pause, in seconds."""
SHUTDOWN_GRACE_S = 5.0
"""How long after the shutdown timeout a process that has not ended is killed, in seconds."""


def _child(options: WorkerOptions, parent: int, pipe: Connection) -> None:
    close_inherited()
    lock = threading.Lock()

    def report(event: str, text: str) -> None:
        is_repeated = event == "health"
        # Dumps are reported from a thread of their own; the main thread does not wait for it.
        if not lock.acquire(blocking=not is_repeated):
            return
        try:
            # The pipe of a frozen parent may be full; then a later report replaces this one.
            os.set_blocking(pipe.fileno(), not is_repeated)
            with contextlib.suppress(*((OSError,) if is_repeated else ())):
                pipe.send((event, text))
        finally:
            lock.release()

    sys.exit(run_process(options, parent, report))


class Supervisor:
    """Keeps worker processes running.

    Args:
        processes: The options of each process; those of one worker group are equal.
        health: Host and port of the health endpoint; None without one.
    """

    def __init__(self, processes: Sequence[WorkerOptions], health: tuple[str, int] | None = None) -> None:
        self._processes = processes
        self._health_address = health
        self._health: HealthServer | None = None
        self._children: list[Child] = []
        self._is_stopping = False
        self._is_burst = all(options.burst for options in processes)
        # Forking is safe here: this process has one thread and has opened nothing.
        self._context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self._signals = 0
        self._kills_now = False
        self._dump_signal = DUMP_SIGNALS.get(processes[0].dump_signal) if processes else None
        self._is_dump_requested = False

    def run(self) -> int:
        """Run until a stop signal, or until a burst is over.

        Returns:
            The exit status: 0 if all processes ended normally.

        Raises:
            ConfigurationError: The processes cannot start; the message has the reason.
        """
        self._install_handlers()
        self._open_health()
        self._children = children = [self._start(options) for options in self._processes]
        try:
            self._await_ready(children)
            return self._monitor(children)
        finally:
            self._is_stopping = True
            self._stop(children)
            self._close_health()

    def _open_health(self) -> None:
        if self._health_address is not None:
            self._health = HealthServer(*self._health_address, self._answer)
            log_event(LogEvent.HEALTH_STARTED, host=self._health.host, port=self._health.port)

    def _close_health(self) -> None:
        if self._health is not None:
            self._health.close()

    def _answer(self, path: str) -> tuple[int, dict[str, Any]] | None:
        return answer(path, self._children, is_stopping=self._is_stopping)

    def _pause(self, child: Child | None = None) -> None:
        """Wait for a moment, at most until a process reports or ends, and answer requests meanwhile."""
        events = [] if child is None else child.events
        if self._health is not None:
            self._health.serve(POLL_S, events)
        elif events:
            wait(events, POLL_S)
        else:
            time.sleep(POLL_S)

    def _install_handlers(self) -> None:
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        if self._dump_signal is not None:
            signal.signal(self._dump_signal, self._on_dump_signal)

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signals += 1
        self._kills_now = self._kills_now or (self._signals > 1 and number == signal.SIGINT)

    def _on_dump_signal(self, _number: int, _frame: object) -> None:
        self._is_dump_requested = True

    def _forward_dumps(self, children: Sequence[Child]) -> None:
        """Forward the signal for a dump, and send the fallback signal to processes that do not answer it."""
        now = time.monotonic()
        if self._is_dump_requested and self._dump_signal is not None:
            self._is_dump_requested = False
            for child in children:
                if child.process.is_alive():
                    os.kill(child.process.pid, self._dump_signal)
                    child.answer_until = now + ANSWER_WITHIN_S
        for child in [child for child in children if child.answer_until is not None]:
            self._receive(child)
            if child.answer_until is not None and now > child.answer_until:
                child.answer_until = None
                if child.process.is_alive():
                    log_event(LogEvent.WORKER_UNRESPONSIVE, pid=child.process.pid)
                    os.kill(child.process.pid, FALLBACK)

    def _start(self, options: WorkerOptions, deaths: int = 0) -> Child:
        receiver, sender = self._context.Pipe(duplex=False)
        options = attrs.evolve(options, reports_health=self._health_address is not None)
        process = self._context.Process(target=_child, args=(options, os.getpid(), sender), name="dexpy-worker")
        # Blocked until the child has its own handlers: a signal before that would be lost.
        numbers = STOP_SIGNALS if self._dump_signal is None else (*STOP_SIGNALS, self._dump_signal, FALLBACK)
        signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, numbers)
        sender.close()
        return Child(options, process, receiver, time.monotonic(), deaths)

    def _await_ready(self, children: list[Child]) -> None:
        for child in children:
            self._receive(child)
            while not child.is_ready and not self._signals:
                is_alive = child.process.is_alive()
                self._receive(child)
                self._forward_dumps(children)
                if self._signals:
                    # The child got the signal too, and has ended because of it.
                    return
                if child.failure is not None:
                    kind, text = child.failure
                    raise (StartupError if kind == "error" else ConfigurationError)(text)
                if not is_alive and not child.is_ready:
                    raise ConfigurationError(
                        f"A worker process exited with status {child.process.exitcode} before it was ready. "
                        "See its output above."
                    )
                self._pause(child)

    def _receive(self, child: Child) -> None:
        """Read the reports of a process."""
        child.receive()
        while child.files:
            self._add_files(child.files.pop())

    def _monitor(self, children: list[Child]) -> int:
        while not self._signals and not self._is_restart_due(children):
            self._forward_dumps(children)
            for index, child in enumerate(children):
                if child.process.is_alive():
                    continue
                if child.process.exitcode == 0 and self._is_burst:
                    continue
                if child.process.exitcode == EXIT_RECYCLED:
                    children[index] = self._start(child.options)
                    continue
                children[index] = self._replace_when_due(child)
            if self._is_burst and all(child.process.exitcode == 0 for child in children):
                return 0
            for child in children:
                self._receive(child)
            self._pause()
        return 0

    def _is_restart_due(self, children: Sequence[Child]) -> bool:
        """Return whether all processes must be started again; never without ``--reload``."""
        return False

    def _add_files(self, text: str) -> None:
        """Handle the names of the files that a process has loaded, as JSON."""

    def _replace_when_due(self, dead: Child) -> Child:
        """Return the replacement of a dead process when its pause is over; until then, the dead one."""
        now = time.monotonic()
        if dead.restart_at is None:
            lived_s = now - dead.started_at
            if lived_s > HEALTHY_AFTER_S:
                dead.deaths = 0
            pause_s = BACKOFF.pause_s(dead.deaths)
            dead.restart_at = now + pause_s
            self._receive(dead)
            facts = {
                "pid": dead.process.pid,
                "exit_status": dead.process.exitcode,
                "group": dead.options.group,
                "reason": None if dead.failure is None else dead.failure[1],
            }
            # No second error for one event: a process that ended by itself has logged the reason.
            is_reason_logged = dead.process.exitcode == EXIT_REASON_LOGGED
            event = LogEvent.WORKER_EXITED if is_reason_logged else LogEvent.WORKER_DIED
            log_event(event, **facts, uptime_s=lived_s, restart_in_s=pause_s)
        return dead if now < dead.restart_at else self._start(dead.options, dead.deaths + 1)

    def _stop(self, children: list[Child]) -> None:
        """Send a TERM to each process; kill those that run after timeout and grace period, or at a second SIGINT."""
        for child in children:
            if child.process.is_alive():
                child.process.terminate()
        stopped_at, is_forced = time.monotonic(), False
        # The groups with the shortest timeout first, so that none waits for another one.
        for child in sorted(children, key=lambda child: child.options.shutdown_timeout_s):
            deadline = stopped_at + child.options.shutdown_timeout_s + SHUTDOWN_GRACE_S
            while child.process.is_alive() and time.monotonic() < deadline and not self._kills_now:
                self._pause(child)
                # An unread report would end each pause at once.
                self._receive(child)
                self._forward_dumps(children)
            if self._kills_now and not is_forced:
                is_forced = True
                log_event(LogEvent.WORKER_STOP_FORCED, reason="a second signal")
            if child.process.is_alive():
                log_event(LogEvent.WORKER_KILLED, pid=child.process.pid)
                child.process.kill()
                child.process.join()
