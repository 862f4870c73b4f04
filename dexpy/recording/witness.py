"""Whether two connections lead to one database, whatever their URLs say.

A server is asked by a nonce: a lock with a random name is taken through the one connection and looked for through the
other. It is gone with the transaction or the answer, so nothing is written, and the other's transaction only reads.
A SQLite file is known by where it lies.
"""

from __future__ import annotations

import os
import secrets

import sqlalchemy as sa
from sqlalchemy.engine import Connection

MARIADB = ("mysql", "mariadb")

_TAKE = sa.text("SELECT pg_try_advisory_xact_lock(:p_first, :p_second), CAST(to_regclass('operation_records') AS oid)")
# Two keys of a lock have the mark 2. The schema counts too: the same words must find the same table.
_SEE = sa.text(
    "SELECT EXISTS (SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 2 AND granted"
    " AND classid = CAST(:p_first AS oid) AND objid = CAST(:p_second AS oid)"
    " AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))"
    " AND CAST(to_regclass('operation_records') AS oid) IS NOT DISTINCT FROM CAST(:p_table AS oid)"
)
# A name is of the whole server, so that of the database belongs to it.
_NAME = "CONCAT(:p_nonce, COALESCE(MD5(DATABASE()), ''))"
_TAKE_NAMED = sa.text(f"SELECT GET_LOCK({_NAME}, 0)")
_SEE_NAMED = sa.text(f"SELECT IS_USED_LOCK({_NAME}) IS NOT NULL")
_FREE_NAMED = sa.text(f"SELECT RELEASE_LOCK({_NAME})")


def are_kin(one: str, other: str) -> bool:
    """Whether two dialects speak to the same kind of server."""
    return one == other or (one in MARIADB and other in MARIADB)


def meet(own: Connection, other: Connection) -> bool:
    """Whether a lock that is taken through one connection is seen through the other.

    Args:
        own: In a transaction of its own.
        other: Of the same kind of server; whatever transaction it is in goes on.
    """
    if own.dialect.name == "postgresql":
        keys = {"p_first": secrets.randbelow(2**31), "p_second": secrets.randbelow(2**31)}
        table = own.execute(_TAKE, keys).one()[1]
        return bool(other.execute(_SEE, {**keys, "p_table": table}).scalar())
    nonce = {"p_nonce": f"dexpy-{secrets.token_hex(8)}-"}
    own.execute(_TAKE_NAMED, nonce)
    try:
        return bool(other.execute(_SEE_NAMED, nonce).scalar())
    finally:
        own.execute(_FREE_NAMED, nonce)


def opens(other: Connection, path: str) -> bool:
    """Whether a connection of SQLite has this very file open: one name in one folder, by whatever way it was found."""
    files = {row.name: row.file for row in other.exec_driver_sql("PRAGMA database_list")}
    if not files.get("main"):
        return False
    theirs, mine = os.path.realpath(files["main"]), os.path.realpath(path)
    # Not by the file alone: under a second name it has a second write-ahead log, and neither side sees the other's.
    return os.path.basename(theirs) == os.path.basename(mine) and _is_one_folder(theirs, mine)


def _is_one_folder(one: str, other: str) -> bool:
    folders = os.path.dirname(one), os.path.dirname(other)
    return folders[0] == folders[1] or (all(map(os.path.isdir, folders)) and os.path.samefile(*folders))
