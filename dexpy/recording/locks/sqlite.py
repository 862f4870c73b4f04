"""Locks beside a SQLite file: a byte of a file for each lock, which the operating system takes back from the dead.

A lock of the operating system belongs to a whole process, so the threads of one process take turns first.
A database in memory has one process alone, and turns are all there is.
"""

from __future__ import annotations

import os
import threading
import time

import attrs

from dexpy.foundation.errors import ConfigurationError

try:
    import fcntl
except ImportError:  # pragma: no cover - Windows
    fcntl = None  # type: ignore[assignment]

POLL_S = 0.01
"""How often a lock that another process holds is tried again, in seconds."""


@attrs.define(eq=False)
class _Turn:
    """One lock within this process.

    Attributes:
        lock: Held by the thread whose turn it is.
        users: So many hold it or wait for it.
    """

    lock: threading.Lock = attrs.field(factory=threading.Lock)
    users: int = 0


@attrs.define(eq=False)
class _File:
    """The file of one database, open while this process holds or waits for any of its locks.

    Closing it anywhere in the process would give all of them back.
    """

    path: str | None
    descriptor: int | None = None
    turns: dict[int, _Turn] = attrs.field(factory=dict[int, _Turn])


_mutex = threading.Lock()
_files: dict[tuple[int, str], _File] = {}
"""By process too: a fork copies the entries, and none of the locks."""


def _forget() -> None:
    global _mutex
    _mutex = threading.Lock()


os.register_at_fork(after_in_child=_forget)


class FileKeeper:
    """Keeps locks beside a SQLite file.

    Args:
        path: Of the database; None for one in memory.
    """

    def __init__(self, path: str | None) -> None:
        if path is not None and fcntl is None:
            raise ConfigurationError(
                "Locks beside a SQLite file need a system with POSIX file locks. Name a database server: "
                "dexpy.configure(database=...)."
            )
        self._path = None if path is None else f"{path}-locks"

    def hold(self, key: str) -> FileHold:
        """See `Keeper`."""
        return FileHold(self._path, int(key[:15], 16))

    def is_taken(self, key: str) -> bool | None:
        """See `Keeper`: known of this very process alone."""
        file = _files.get((os.getpid(), self._path or ""))
        turn = None if file is None else file.turns.get(int(key[:15], 16))
        return True if turn is not None and turn.lock.locked() else None

    def close(self) -> None:
        """See `Keeper`."""


class FileHold:
    """A lock beside a SQLite file.

    Args:
        path: Of the file of locks; None for none.
        number: Of the byte.
    """

    def __init__(self, path: str | None, number: int) -> None:
        self._path = path
        self._number = number
        self._file: _File | None = None
        self._has_turn = False
        self._got = False

    def wait(self, seconds: float) -> bool:
        """See `Hold`."""
        until = time.monotonic() + seconds
        file = self._file = self._file or self._enter()
        if not self._has_turn:
            self._has_turn = file.turns[self._number].lock.acquire(timeout=max(0.0, seconds))
        while self._has_turn and not self._got:
            if self._is_free(file):
                self._got = True
            elif (left := until - time.monotonic()) <= 0:
                break
            else:
                time.sleep(min(POLL_S, left))
        return self._got

    def _is_free(self, file: _File) -> bool:
        if file.descriptor is None or fcntl is None:
            return True
        try:
            fcntl.lockf(file.descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB, 1, self._number)
        except (BlockingIOError, PermissionError):
            return False
        return True

    def is_held(self) -> bool:
        """See `Hold`: nobody but its own process can take it away."""
        return self._got

    def release(self) -> None:
        """See `Hold`."""
        file, self._file = self._file, None
        if file is None:
            return
        if self._got and file.descriptor is not None and fcntl is not None:
            fcntl.lockf(file.descriptor, fcntl.LOCK_UN, 1, self._number)
        self._got = False
        if self._has_turn:
            self._has_turn = False
            file.turns[self._number].lock.release()
        self._leave(file)

    def _enter(self) -> _File:
        with _mutex:
            place = (os.getpid(), self._path or "")
            file = _files.get(place)
            if file is None:
                descriptor = None
                if self._path is not None:
                    descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                file = _files[place] = _File(self._path, descriptor)
            file.turns.setdefault(self._number, _Turn()).users += 1
            return file

    def _leave(self, file: _File) -> None:
        with _mutex:
            turn = file.turns[self._number]
            turn.users -= 1
            if not turn.users:
                del file.turns[self._number]
            if not file.turns:
                _files.pop((os.getpid(), self._path or ""), None)
                if file.descriptor is not None:
                    os.close(file.descriptor)
