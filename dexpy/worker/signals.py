"""Signal handlers of a worker: they survive the application's imports, and child processes get the default ones."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from multiprocessing.process import BaseProcess
from typing import Any

import dramatiq

STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
"""The signals that stop a worker; the parent blocks them until a new process has its own handlers."""
CHILD_GRACE_S = 1.0
"""How long a child process of a run may take to end by itself, and then after a TERM, in seconds."""


class StopSignals:
    """Handlers for the stop signals; true once one was received.

    Args:
        interrupts: Whether SIGINT stops this process too; otherwise the parent gets the terminal's Ctrl-C and stops it.
    """

    def __init__(self, *, interrupts: bool = False) -> None:
        # A list, not an Event: its lock might be held by this very thread when the signal comes.
        self._received: list[int] = []
        self._interrupts = interrupts

    def __bool__(self) -> bool:
        return bool(self._received)

    def install(self) -> None:
        """Install the handlers, again if the application has replaced them; call it in the main thread."""
        signal.signal(signal.SIGTERM, self._on_signal)
        # A handler instead of SIG_IGN: every program that a run starts would inherit SIG_IGN.
        signal.signal(signal.SIGINT, self._on_signal if self._interrupts else _do_nothing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, STOP_SIGNALS)

    def _on_signal(self, number: int, _frame: object) -> None:
        self._received.append(number)


def _do_nothing(_number: int, _frame: object) -> None:
    return None


class _ForkHandlers:
    """Fork handlers that reset the signals in child processes."""

    def __init__(self, numbers: tuple[signal.Signals, ...]) -> None:
        self._numbers = numbers
        self._pid = os.getpid()
        self._masks = threading.local()

    def before(self) -> None:
        # Only in this process: a child registers handlers of its own if it needs them.
        if os.getpid() == self._pid:
            # A signal to a child that still has these handlers would be lost.
            self._masks.before = signal.pthread_sigmask(signal.SIG_BLOCK, self._numbers)

    def in_parent(self) -> None:
        before = self._masks.__dict__.pop("before", None)
        if before is not None:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def in_child(self) -> None:
        before = self._masks.__dict__.pop("before", None)
        if before is not None:
            for number in self._numbers:
                default_handler = signal.default_int_handler if number == signal.SIGINT else signal.SIG_DFL
                signal.signal(number, default_handler)
            signal.pthread_sigmask(signal.SIG_SETMASK, before.difference(self._numbers))


def reset_signals_in_children(numbers: tuple[signal.Signals, ...] = STOP_SIGNALS) -> None:
    """Reset the signals in every process that is forked from this one from now on."""
    forks = _ForkHandlers(numbers)
    os.register_at_fork(before=forks.before, after_in_parent=forks.in_parent, after_in_child=forks.in_child)


class DramatiqSignals(dramatiq.Middleware):
    """Restores the signal handlers of the command ``dramatiq`` after its imports, and resets those of its children."""

    def __init__(self) -> None:
        self._handlers: dict[signal.Signals, Any] = {}

    def after_process_boot(self, broker: Any) -> None:
        """Remember the handlers of the command, which imports its modules after this."""
        numbers = (signal.SIGTERM, signal.SIGHUP)
        self._handlers = {number: signal.getsignal(number) for number in numbers}
        reset_signals_in_children((*numbers, signal.SIGINT))

    def before_worker_boot(self, broker: Any, worker: Any) -> None:
        """Restore the handlers after the modules are imported."""
        if not self._handlers or threading.current_thread() is not threading.main_thread():
            return
        for number, handler in self._handlers.items():
            signal.signal(number, handler)
        # A handler instead of SIG_IGN, as in `StopSignals.install`.
        signal.signal(signal.SIGINT, _do_nothing)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, (*self._handlers, signal.SIGINT))


def terminate_children() -> None:
    """End the `multiprocessing` children that runs have left: the interpreter's exit would wait for each of them."""
    children = multiprocessing.active_children()
    _join_children([child for child in children if not child.daemon])
    for end in (BaseProcess.terminate, BaseProcess.kill):
        for child in children:
            if child.is_alive():
                end(child)
        _join_children(children)


def _join_children(children: list[BaseProcess]) -> None:
    deadline = time.monotonic() + CHILD_GRACE_S
    for child in children:
        child.join(max(0.0, deadline - time.monotonic()))
