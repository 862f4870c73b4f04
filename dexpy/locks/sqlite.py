"""Locks in a file beside a SQLite file, which the operating system releases when a process ends.

A file lock is acquired by polling, so the threads of one process first acquire a `threading.Lock`, which is enough
for a database in memory.
"""

from __future__ import annotations

import os
import threading
import time

import attrs

from dexpy.foundation.errors import ConfigurationError
from dexpy.locks import file_locks

POLL_S = 0.01
"""The pause between attempts to acquire a lock that another process holds, in seconds."""


@attrs.define(eq=False)
class _ProcessLock:
    """One lock within this process.

    Attributes:
        pid: The id of the process; a forked child has a copy of this object, but does not hold the lock.
        lock: The lock for the thread that holds or polls the file lock.
        users: The number of handles that hold it or wait for it.
        descriptor: The descriptor of the file, open while there are users; None for a database in memory.
    """

    pid: int
    descriptor: int | None
    lock: threading.Lock = attrs.field(factory=threading.Lock)
    users: int = 0


_mutex = threading.Lock()
_process_locks: dict[tuple[int, str, int], _ProcessLock] = {}
"""The locks by process id, path and number."""


def _reset_mutex() -> None:
    global _mutex
    _mutex = threading.Lock()


os.register_at_fork(after_in_child=_reset_mutex)


class FileLockBackend:
    """Stores locks in a file beside a SQLite file.

    Args:
        path: The path of the database; None for one in memory.
    """

    def __init__(self, path: str | None) -> None:
        if path is not None and not file_locks.IS_SUPPORTED:
            raise ConfigurationError(
                "Lock: this system has no POSIX file locks, which locks on SQLite require. Use a database server: "
                "dexpy.configure(database=...)."
            )
        self._path = None if path is None else f"{path}-locks"

    def lock(self, key: str) -> FileLockHandle:
        """See `LockBackend`."""
        return FileLockHandle(self._path, int(key[:15], 16))

    def is_locked(self, key: str) -> bool | None:
        """See `LockBackend`; only locks of this process are known."""
        process_lock = _process_locks.get((os.getpid(), self._path or "", int(key[:15], 16)))
        return True if process_lock is not None and process_lock.lock.locked() else None

    def close(self) -> None:
        """See `LockBackend`."""


class FileLockHandle:
    """A lock in a file beside a SQLite file.

    Args:
        path: The path of the lock file; None for a database in memory.
        number: The number of the byte.
    """

    def __init__(self, path: str | None, number: int) -> None:
        self._path = path
        self._number = number
        self._process_lock: _ProcessLock | None = None
        self._has_process_lock = False
        self._is_acquired = False

    def wait(self, seconds: float) -> bool:
        """See `LockHandle`."""
        deadline = time.monotonic() + seconds
        process_lock = self._process_lock = self._process_lock or self._enter()
        if not self._has_process_lock:
            self._has_process_lock = process_lock.lock.acquire(timeout=max(0.0, seconds))
        while self._has_process_lock and not self._is_acquired:
            if process_lock.descriptor is None or file_locks.try_acquire(process_lock.descriptor, self._number):
                self._is_acquired = True
            elif (remaining_s := deadline - time.monotonic()) <= 0:
                break
            else:
                time.sleep(min(POLL_S, remaining_s))
        return self._is_acquired

    def is_held(self) -> bool:
        """See `LockHandle`; only this process can release the lock."""
        return self._is_acquired

    def release(self) -> None:
        """See `LockHandle`."""
        process_lock, self._process_lock = self._process_lock, None
        if process_lock is None:
            return
        if self._is_acquired and process_lock.descriptor is not None and process_lock.pid == os.getpid():
            file_locks.release(process_lock.descriptor, self._number)
        self._is_acquired = False
        if self._has_process_lock:
            self._has_process_lock = False
            process_lock.lock.release()
        self._leave(process_lock)

    def _enter(self) -> _ProcessLock:
        with _mutex:
            lock_id = (os.getpid(), self._path or "", self._number)
            process_lock = _process_locks.get(lock_id)
            if process_lock is None:
                process_lock = _process_locks[lock_id] = _ProcessLock(
                    os.getpid(), None if self._path is None else _open_lock_file(self._path, lock_id[2])
                )
            process_lock.users += 1
            return process_lock

    def _leave(self, process_lock: _ProcessLock) -> None:
        with _mutex:
            process_lock.users -= 1
            if process_lock.users or process_lock.pid != os.getpid():
                return
            _process_locks.pop((process_lock.pid, self._path or "", self._number), None)
            if process_lock.descriptor is not None:
                file_locks.close_file(process_lock.descriptor)


def _open_lock_file(path: str, number: int) -> int:
    """Open the file of a lock: the shared file, or a separate one where only whole files can be locked."""
    return file_locks.open_file(path if file_locks.supports_byte_locks(path) else f"{path}-{number:x}")
