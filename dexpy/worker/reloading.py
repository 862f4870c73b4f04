"""`--reload`: restarts the worker processes when a file of the application or its configuration changes.

The supervisor polls the files. A native watcher has threads, with which the supervisor could not fork safely, and
misses changes on network and container volumes; polling a thousand files costs a few milliseconds a second.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeAlias

from dexpy.foundation.errors import DexpyError
from dexpy.foundation.log_catalog import LogEvent
from dexpy.foundation.log_events import log_event
from dexpy.worker.child import Child
from dexpy.worker.process import WorkerOptions
from dexpy.worker.supervisor import Supervisor

WATCH_EVERY_S = 0.4
"""How often the files are compared, in seconds."""
SETTLE_S = 0.2
"""How long no file may change before the processes restart, in seconds: editors and tools write several files."""
MAX_SHOWN = 3
"""The number of changed files that the log names."""

Load: TypeAlias = Callable[[], tuple[Sequence[WorkerOptions], Path | None]]
Stamp: TypeAlias = tuple[int, int, int]


class FileWatcher:
    """Notices changes of files."""

    def __init__(self) -> None:
        self._stamps: dict[str, Stamp | None] = {}

    def watch(self, files: Iterable[str]) -> None:
        """Watch these files too; one that does not exist changes when it is created."""
        for file in files:
            if file not in self._stamps:
                self._stamps[file] = _stamp(file)

    def changed(self) -> list[str]:
        """Return the files that have changed since the last call."""
        now = {file: _stamp(file) for file in self._stamps}
        found = [file for file, stamp in now.items() if stamp != self._stamps[file]]
        self._stamps = now
        return sorted(found)


def _stamp(file: str) -> Stamp | None:
    try:
        status = os.stat(file)
    except (OSError, ValueError):
        return None
    return status.st_mtime_ns, status.st_size, status.st_ino


class ReloadingSupervisor(Supervisor):
    """Keeps worker processes running, and restarts them when files change.

    Args:
        load: Returns the options of each process and the configuration file, as they are now.
        health: Host and port of the health endpoint; None without one.

    Raises:
        ConfigurationError: The configuration is invalid.
    """

    def __init__(self, load: Load, health: tuple[str, int] | None = None) -> None:
        self._load = load
        self._watcher = FileWatcher()
        self._checked_at = 0.0
        super().__init__(self._load_options(), health)

    def run(self) -> int:
        """Run until a stop signal.

        Returns:
            The exit status: 0.
        """
        self._install_handlers()
        self._open_health()
        while not self._signals:
            failure: Exception | None = None
            children: list[Child] = []
            try:
                self._processes = self._load_options()
                self._children = children = [self._start(options) for options in self._processes]
                self._await_ready(children)
                self._monitor(children)
            except DexpyError as error:
                failure = error
            finally:
                self._stop(children)
            if failure is not None and not self._signals:
                advice = "correct it; the worker starts again when a file changes"
                log_event(LogEvent.RELOAD_FAILED, error_message=str(failure), advice=advice)
                while not self._signals and not self._is_restart_due([]):
                    self._pause()
        self._close_health()
        return 0

    def _load_options(self) -> Sequence[WorkerOptions]:
        processes, file = self._load()
        self._watcher.watch([] if file is None else [str(file)])
        return processes

    def _is_restart_due(self, children: Sequence[Child]) -> bool:
        for child in children:
            self._receive(child)
        now = time.monotonic()
        if now - self._checked_at < WATCH_EVERY_S:
            return False
        self._checked_at = now
        if not (files := self._watcher.changed()):
            return False
        while more := self._wait_and_compare():
            files += [file for file in more if file not in files]
        shown = ", ".join(files[:MAX_SHOWN]) + (", ..." if len(files) > MAX_SHOWN else "")
        log_event(LogEvent.FILES_CHANGED, files=shown, count=len(files))
        return True

    def _wait_and_compare(self) -> list[str]:
        time.sleep(SETTLE_S)
        return [] if self._signals else self._watcher.changed()

    def _add_files(self, text: str) -> None:
        self._watcher.watch(json.loads(text))
