"""The files that a worker process has loaded, which the supervisor of ``--reload`` watches."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import sys
import sysconfig
import traceback
from collections.abc import Callable, Collection


class LoadedFiles:
    """The files of the application that this process has loaded, for the supervisor.

    Args:
        report: Sends files to the supervisor.
    """

    def __init__(self, report: Callable[[str, str], None]) -> None:
        self._report = report
        self._num_modules = 0
        self._reported: set[str] = set()
        # Bytecode is compared by whole seconds and sizes, so it could hide a second change within a second.
        sys.dont_write_bytecode = True
        importlib.invalidate_caches()

    def report(self, error: BaseException | None = None) -> None:
        """Report the files that were loaded since the last call.

        Args:
            error: The exception that ended the start; its files are reported too.
        """
        if error is None and len(sys.modules) == self._num_modules:
            return
        self._num_modules = len(sys.modules)
        files = {*_files_of_modules(), *(() if error is None else _files_of(error))}
        if new := {file for file in files if not _is_installed(file)} - self._reported:
            self._reported |= new
            # The supervisor may have gone; the process notices that itself.
            with contextlib.suppress(OSError):
                self._report("files", json.dumps(sorted(new)))


def _files_of_modules() -> Collection[str]:
    files = (getattr(module, "__file__", None) for module in list(sys.modules.values()))
    return {file for file in files if isinstance(file, str) and file.endswith(".py")}


def _files_of(error: BaseException | None) -> Collection[str]:
    """Return the files of an exception and its causes: a module that could not be imported is in no list."""
    files: set[str] = set()
    for _ in range(20):
        if error is None:
            break
        files.update(frame.f_code.co_filename for frame, _ in traceback.walk_tb(error.__traceback__))
        if isinstance(error, SyntaxError) and error.filename:
            files.add(error.filename)
        error = error.__cause__ or error.__context__
    return {os.path.abspath(file) for file in files if file.endswith(".py")}


_STANDARD = tuple(os.path.join(sysconfig.get_path(name), "") for name in ("stdlib", "platstdlib"))
"""The folders of Python itself."""


def _is_installed(file: str) -> bool:
    """Return whether a file is part of Python or of an installed package."""
    return "site-packages" in file or "dist-packages" in file or file.startswith(_STANDARD)
