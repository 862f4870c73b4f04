"""Copies of messages whose delivery by another broker was acknowledged before their end.

A copy is a message that is due in a while, and later again as long as its process lives; then the relay publishes it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import dramatiq
import sqlalchemy as sa
from sqlalchemy.engine import Connection

from dexpy.brokers.sql.inserts import MessageRow, message_values
from dexpy.database.column_types import after
from dexpy.database.tables import messages


def insert_copy(connection: Connection, message: dramatiq.Message[Any], wait_s: float) -> int:
    """Insert a copy of a message, and return its id.

    Args:
        connection: A connection to the database of the messages, in a transaction.
        message: The message.
        wait_s: Seconds until the copy is due.
    """
    values = message_values(MessageRow(message)) | {"due_at": after(wait_s), "dead": False, "created_at": after(0)}
    key = connection.execute(sa.insert(messages).values(values)).inserted_primary_key
    assert key is not None  # noqa: S101 - a single insert has one
    return int(key[0])


def postpone_copies(connection: Connection, ids: Collection[int], wait_s: float) -> None:
    """Make copies due again in this many seconds."""
    connection.execute(sa.update(messages).where(messages.c.id.in_(ids)).values(due_at=after(wait_s)))


def delete_copy(connection: Connection, id: int) -> None:
    """Delete the copy of a message that has ended."""
    connection.execute(sa.delete(messages).where(messages.c.id == id))
