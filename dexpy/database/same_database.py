"""Tests whether connections and paths are of the same SQLite file."""

from __future__ import annotations

import os

from sqlalchemy.engine import Connection


def has_open(other: Connection, path: str) -> bool:
    """Return whether a connection to SQLite has this file open, by any path."""
    files = {row.name: row.file for row in other.exec_driver_sql("PRAGMA database_list")}
    return bool(files.get("main")) and is_same_file(files["main"], path)


def is_same_file(first: str, second: str) -> bool:
    """Return whether two paths are of the same SQLite file, with the same file name."""
    first, second = os.path.realpath(first), os.path.realpath(second)
    # Under another name (a hard link) SQLite uses another write-ahead log, which the first one does not read.
    return os.path.basename(first) == os.path.basename(second) and _is_same_folder(first, second)


def _is_same_folder(first: str, second: str) -> bool:
    folders = os.path.dirname(first), os.path.dirname(second)
    return folders[0] == folders[1] or (all(map(os.path.isdir, folders)) and os.path.samefile(*folders))
