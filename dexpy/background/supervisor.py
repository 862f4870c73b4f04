"""The parent of worker processes: starts them, replaces those that die, and stops them together.

It never imports the application: that happens in the children, after they have been started,
so that no engine, connection or thread of the application is ever shared between processes.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import time
from multiprocessing.connection import Connection
from typing import Any

import attrs

from dexpy.background.worker import STOP_SIGNALS, WorkerOptions, run_process
from dexpy.foundation.errors import ConfigurationError
from dexpy.foundation.log import line

LOOK_EVERY_S = 0.1
FIRST_PAUSE_S = 0.5
"""Before a dead process is replaced the first time; doubles up to `LONGEST_PAUSE_S`."""
LONGEST_PAUSE_S = 30.0
HEALTHY_AFTER_S = 60.0
"""A process that lived so long, in seconds, is replaced without a grudge."""
GRACE_S = 5.0
"""Beyond the shutdown timeout, before a process that does not end is killed."""


class CannotStart(ConfigurationError):
    """What a process found at its start, and would find at every other one."""

    exit_status = 2


def _child(options: WorkerOptions, parent: int, pipe: Connection) -> None:
    def tell(word: str, text: str) -> None:
        pipe.send((word, text))
        pipe.close()

    sys.exit(run_process(options, parent, tell))


@attrs.define(eq=False)
class Child:
    """One place for a worker process."""

    process: Any
    pipe: Connection
    started: float
    pause_s: float = FIRST_PAUSE_S
    ready: bool = False
    again_at: float | None = None
    """When a dead one is replaced."""


class Supervisor:
    """Keeps worker processes running.

    Args:
        options: What each of them does.
        processes: How many.
    """

    def __init__(self, options: WorkerOptions, processes: int) -> None:
        self._options = options
        self._count = processes
        # Forking is safe here: this process has one thread and has opened nothing.
        self._context: Any = multiprocessing.get_context("fork" if sys.platform == "linux" else "spawn")
        self._signals = 0
        self._hurries = False

    def run(self) -> int:
        """Run until told to stop, or until a burst is over.

        Returns:
            The exit status: 0 when all ended as they should.

        Raises:
            ConfigurationError: The processes cannot start; says why, once.
        """
        for number in STOP_SIGNALS:
            signal.signal(number, self._on_signal)
        children = [self._start() for _ in range(self._count)]
        try:
            self._await_ready(children)
            return self._watch(children)
        finally:
            self._stop(children)

    def _on_signal(self, number: int, _frame: object) -> None:
        self._signals += 1
        self._hurries = self._hurries or (self._signals > 1 and number == signal.SIGINT)

    def _start(self, pause_s: float = FIRST_PAUSE_S) -> Child:
        receiving, sending = self._context.Pipe(duplex=False)
        process = self._context.Process(target=_child, args=(self._options, os.getpid(), sending), name="dexpy-worker")
        # Held back until the child has handlers of its own: one that came in between would be lost on it.
        signal.pthread_sigmask(signal.SIG_BLOCK, STOP_SIGNALS)
        try:
            process.start()
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)
        sending.close()
        return Child(process, receiving, time.monotonic(), pause_s)

    def _await_ready(self, children: list[Child]) -> None:
        for child in children:
            while not child.ready and not self._signals:
                word, text = self._heard(child)
                if self._signals:
                    # It came while we listened, and to the child too: that one has ended because it was told to.
                    return
                if word == "error":
                    raise CannotStart(text)
                if word == "away":
                    raise ConfigurationError(text)
                if word is None and not child.process.is_alive():
                    raise ConfigurationError(
                        f"A worker process ended before it was ready, with status {child.process.exitcode}. "
                        "Its output is above."
                    )

    def _heard(self, child: Child) -> tuple[str | None, str]:
        try:
            if child.pipe.poll(LOOK_EVERY_S):
                word, text = child.pipe.recv()
                child.ready = word == "ready"
                return word, text
        except (EOFError, OSError):
            child.process.join(LOOK_EVERY_S)
        return None, ""

    def _watch(self, children: list[Child]) -> int:
        while not self._signals:
            for index, child in enumerate(children):
                if child.process.is_alive():
                    continue
                if child.process.exitcode == 0 and self._options.burst:
                    continue
                children[index] = self._replaced(child)
            if self._options.burst and all(child.process.exitcode == 0 for child in children):
                return 0
            time.sleep(LOOK_EVERY_S)
        return 0

    def _replaced(self, dead: Child) -> Child:
        """What takes the place of a dead process when its pause is over; until then, itself."""
        now = time.monotonic()
        if dead.again_at is None:
            lived_s = now - dead.started
            if lived_s > HEALTHY_AFTER_S:
                dead.pause_s = FIRST_PAUSE_S
            dead.again_at = now + dead.pause_s
            line(
                logging.ERROR,
                "worker.died",
                pid=dead.process.pid,
                status=dead.process.exitcode,
                why=self._heard(dead)[1] or None,
                lived_seconds=lived_s,
                replaced_in_seconds=dead.pause_s,
            )
        return dead if now < dead.again_at else self._start(min(dead.pause_s * 2, LONGEST_PAUSE_S))

    def _stop(self, children: list[Child]) -> None:
        """One TERM to each; whoever has not ended after the timeout and a grace, or a second SIGINT, is killed."""
        for child in children:
            if child.process.is_alive():
                child.process.terminate()
        until = time.monotonic() + self._options.shutdown_timeout_s + GRACE_S
        for child in children:
            while child.process.is_alive() and time.monotonic() < until and not self._hurries:
                child.process.join(LOOK_EVERY_S)
        if self._hurries:
            line(logging.WARNING, "worker.interrupted", why="a second signal")
        for child in children:
            if child.process.is_alive():
                line(logging.ERROR, "worker.killed", pid=child.process.pid)
                child.process.kill()
                child.process.join()
