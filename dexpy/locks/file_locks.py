"""File locks of the operating system that belong to one open file, so that no other code of the process releases them.

A POSIX record lock belongs to the process, and is released when any code of it closes any descriptor of the file, for
example a backup of the folder. Linux has locks of an open file description, of one byte for each lock; other systems
lock whole files with ``flock``, one file for each lock. The system releases both when the process ends.
A forked child shares its parent's open files, and closes its copies: otherwise it would hold a dead parent's locks.
"""

from __future__ import annotations

import contextlib
import errno
import importlib
import os
import struct
import threading
from typing import Any

from dexpy.foundation.errors import ConfigurationError

fcntl: Any
try:
    fcntl = importlib.import_module("fcntl")
except ImportError:  # pragma: no cover - Windows
    fcntl = None

IS_SUPPORTED = fcntl is not None
"""Whether this system has file locks."""

_FLAGS = os.O_RDWR | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
_FLOCK = "@hhqqi4x"
"""``struct flock``: type, whence, start, length and pid."""
_PROBE_BYTE = 2**62
_LOCKED_ERRNOS = (errno.EAGAIN, errno.EACCES)

_UNKNOWN = (errno.EINVAL, errno.ENOSYS, errno.ENOTSUP)

_ofd: int | None = getattr(fcntl, "F_OFD_SETLK", None)
_is_probed = False
_open: set[int] = set()
_mutex = threading.Lock()


def supports_byte_locks(path: str) -> bool:
    """Return whether one file can have many locks, one for each byte; tested once, with this file."""
    global _is_probed
    if _ofd is not None and not _is_probed:
        descriptor = _descriptor(path, os.O_CREAT)
        try:
            # No lock uses this byte; closing the file releases it.
            try_acquire(descriptor, _PROBE_BYTE)
        finally:
            os.close(descriptor)
        _is_probed = True
    return _ofd is not None


def open_file(path: str, *, create: bool = True) -> int:
    """Open a file that forked children and started programs do not inherit; see `close_file`.

    Args:
        path: The path of the file.
        create: Whether to create it if it does not exist.

    Raises:
        ConfigurationError: The path is a symbolic link.
    """
    with _mutex:
        descriptor = _descriptor(path, os.O_CREAT if create else 0)
        _open.add(descriptor)
        return descriptor


def _descriptor(path: str, flags: int) -> int:
    try:
        return os.open(path, _FLAGS | flags, 0o600)
    except OSError as error:
        if error.errno == errno.ELOOP and flags & os.O_CREAT:
            raise symlink_error(path) from None
        raise


def symlink_error(path: str) -> ConfigurationError:
    """Return the error for a symbolic link beside a database, which an attacker may have created."""
    return ConfigurationError(f"{path}: expected a regular file or folder, got a symbolic link. Remove the link.")


def close_file(descriptor: int) -> None:
    """Close a descriptor, which releases its locks."""
    with _mutex:
        if descriptor in _open:
            _open.remove(descriptor)
            os.close(descriptor)


def try_acquire(descriptor: int, number: int = 0) -> bool:
    """Try to acquire a lock; return False if another open file, of this or another process, has it."""
    global _ofd
    if _ofd is not None:
        try:
            return _fcntl_lock(descriptor, _ofd, fcntl.F_WRLCK, number)
        except OSError as error:
            if error.errno not in _UNKNOWN:
                raise
            _ofd = None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _LOCKED_ERRNOS:
            return False
        raise
    return True


def release(descriptor: int, number: int = 0) -> None:
    """Release a lock."""
    if _ofd is not None:
        _fcntl_lock(descriptor, _ofd, fcntl.F_UNLCK, number)
    else:
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _fcntl_lock(descriptor: int, command: int, kind: int, number: int) -> bool:
    try:
        fcntl.fcntl(descriptor, command, struct.pack(_FLOCK, kind, os.SEEK_SET, number, 1, 0))
    except OSError as error:
        if error.errno in _LOCKED_ERRNOS:
            return False
        raise
    return True


def _close_in_child() -> None:
    global _mutex
    _mutex = threading.Lock()
    for descriptor in _open:
        with contextlib.suppress(OSError):
            os.close(descriptor)
    _open.clear()


if hasattr(os, "register_at_fork"):
    # Prevent a fork between opening a file and registering it: the child would keep an unregistered descriptor.
    os.register_at_fork(
        before=lambda: _mutex.acquire(), after_in_parent=lambda: _mutex.release(), after_in_child=_close_in_child
    )
